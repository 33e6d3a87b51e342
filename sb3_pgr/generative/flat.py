"""Transitions of SB3's spaces as flat vectors of numbers, and back."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space


class FlatObservations:
    """
    Observations of ``Box`` spaces of floats, or of a ``Dict`` of such, as vectors.

    :param space: observation space
    :raises ValueError: if it holds something that is not a vector of real numbers, saying what
    """

    def __init__(self, space: spaces.Space):
        self.space = space
        self._boxes: dict[Any, spaces.Space] = dict(space.spaces) if isinstance(space, spaces.Dict) else {None: space}
        for key, box in self._boxes.items():
            name = "Observations" if key is None else f"Observation {key!r}"
            if is_image_space(box) or (isinstance(box, spaces.Box) and box.dtype == np.uint8):
                raise ValueError(
                    f"{name} are images ({box}); the generator makes vectors. Train on features or states, or use "
                    "TensorReplayBuffer."
                )
            if not isinstance(box, spaces.Box) or not np.issubdtype(box.dtype, np.floating):
                raise ValueError(
                    f"{name} must be a Box of floating point numbers, not {box}: the generator makes real numbers."
                )
        self.sizes = {key: int(np.prod(box.shape)) for key, box in self._boxes.items()}  # type: ignore[arg-type]

    @property
    def dim(self) -> int:
        """Numbers of a flat observation."""
        return sum(self.sizes.values())

    def flatten(self, obs: Any) -> th.Tensor:
        """``(n, dim)`` from tensors ``(n, ...)`` as the space has them."""
        if isinstance(obs, Mapping):
            return th.cat([_rows(obs[key]) for key in self.sizes], 1)
        return _rows(obs)

    def unflatten(self, flat: th.Tensor) -> Any:
        """The inverse of ``flatten``."""
        parts = {
            key: part.reshape(len(part), *(box.shape or ()))
            for (key, box), part in zip(self._boxes.items(), flat.split(list(self.sizes.values()), 1), strict=True)
        }
        return parts[None] if None in parts else parts


def _rows(obs: th.Tensor) -> th.Tensor:
    return obs.reshape(len(obs), -1).float()


def action_sizes(space: spaces.Space) -> tuple[int, int]:
    """
    Numbers of a continuous action (1 for a discrete one) and number of discrete actions (0 for continuous ones).

    :raises ValueError: if actions are neither
    """
    if isinstance(space, spaces.Discrete):
        return 1, int(space.n)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
        return int(np.prod(space.shape)), 0
    raise ValueError(f"Actions must be a Box of floating point numbers, or Discrete, not {space}.")
