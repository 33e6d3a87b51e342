"""Batches that buffers return beyond SB3's own, and the spaces of buffers that are built from shapes."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch as th
from gymnasium import spaces

Shape = tuple[int, ...]


class WeightedSamples(NamedTuple):
    """
    SB3's ``ReplayBufferSamples`` and what prioritized replay adds to it.

    ``weights`` are the importance weights ``(batch, 1)``; ``indices`` ``(batch,)`` say to ``update_priorities`` which
    rows these are.
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None = None
    weights: th.Tensor | None = None
    indices: th.Tensor | None = None


def space_from_shape(shape: Shape | Mapping[str, Shape], dtype: Any = np.float32) -> spaces.Space:
    """
    A space for arrays of a shape, or for a dict of them; unbounded in a floating type.

    :param shape: without the batch axis, or a mapping of such
    :param dtype: numpy type, or a mapping of such
    """
    if isinstance(shape, Mapping):
        types = dtype if isinstance(dtype, Mapping) else dict.fromkeys(shape, dtype)
        return spaces.Dict({key: space_from_shape(item, types[key]) for key, item in shape.items()})
    if np.issubdtype(dtype, np.floating):
        return spaces.Box(-np.inf, np.inf, tuple(shape), dtype)
    limits = np.iinfo(dtype)
    return spaces.Box(limits.min, limits.max, tuple(shape), dtype)


class FromShapes:
    """Lets a buffer be built without spaces."""

    @classmethod
    def from_shapes(
        cls,
        buffer_size: int,
        obs_shape: Shape | Mapping[str, Shape],
        action_shape: Shape,
        obs_dtype: Any = np.float32,
        action_dtype: Any = np.float32,
        **kwargs: Any,
    ) -> Self:
        """
        Build the buffer from shapes and numpy types instead of spaces.

        :param obs_shape: of one observation, or a mapping of such for Dict observations
        :param action_shape: of one action
        :param kwargs: further arguments of the constructor
        """
        action_space = space_from_shape(action_shape, action_dtype)
        return cls(buffer_size, space_from_shape(obs_shape, obs_dtype), action_space, **kwargs)  # type: ignore[call-arg]
