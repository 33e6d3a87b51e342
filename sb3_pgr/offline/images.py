"""Images in recorded observations."""

from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgr.offline.dataset import OfflineDataset


def channels_first(dataset: OfflineDataset, space: spaces.Space) -> OfflineDataset:
    """
    The same rows, with images recorded as height, width, channels put as ``space`` has them: channels first.

    :param space: observations of a model, which SB3 gives images with their channels first
    """
    return replace(
        dataset,
        observations=_as(dataset.observations, space),
        next_observations=_as(dataset.next_observations, space),
    )


def _as(values: Any, space: spaces.Space | None) -> Any:
    if isinstance(values, dict):
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        return {key: _as(value, parts.get(key)) for key, value in values.items()}
    shape = values.shape[1:]
    if space is not None and len(shape) == 3 and shape != space.shape and (shape[2], *shape[:2]) == space.shape:
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return values
