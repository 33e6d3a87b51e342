"""Images in recorded observations."""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgr.common.vision import images_as_in
from sb3_pgr.offline.dataset import DatasetError, OfflineDataset


def channels_first(dataset: OfflineDataset, space: spaces.Space) -> OfflineDataset:
    """
    The same rows, with images recorded as height, width, channels put as ``space`` has them: channels first.

    :param space: observations of a model, which SB3 gives images with their channels first
    :raises DatasetError: if images are not uint8
    """
    for values in (dataset.observations, dataset.next_observations):
        _check_types(values, space, dataset.source)
    return replace(
        dataset,
        observations=images_as_in(dataset.observations, space),
        next_observations=images_as_in(dataset.next_observations, space),
    )


def _check_types(values: Any, space: spaces.Space | None, source: str) -> None:
    if isinstance(values, dict):
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        for key, value in values.items():
            _check_types(value, parts.get(key), source)
    elif space is not None and space.dtype == np.uint8 and values.dtype != np.uint8:
        raise DatasetError(f"{source}: images must be uint8 of 0 to 255, not {values.dtype}.")
