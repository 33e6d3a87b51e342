"""Images in recorded observations."""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgr.offline.dataset import DatasetError, OfflineDataset


def channels_first(dataset: OfflineDataset, space: spaces.Space) -> OfflineDataset:
    """
    The same rows, with images recorded as height, width, channels put as ``space`` has them: channels first.

    :param space: observations of a model, which SB3 gives images with their channels first
    :raises DatasetError: if images are not uint8
    """
    return replace(
        dataset,
        observations=_as(dataset.observations, space, dataset.source),
        next_observations=_as(dataset.next_observations, space, dataset.source),
    )


def _as(values: Any, space: spaces.Space | None, source: str) -> Any:
    if isinstance(values, dict):
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        return {key: _as(value, parts.get(key), source) for key, value in values.items()}
    if space is not None and space.dtype == np.uint8 and values.dtype != np.uint8:
        raise DatasetError(f"{source}: images must be uint8 of 0 to 255, not {values.dtype}.")
    shape = values.shape[1:]
    if space is not None and len(shape) == 3 and shape != space.shape and (shape[2], *shape[:2]) == space.shape:
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return values
