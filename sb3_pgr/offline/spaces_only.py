"""An environment for where there is none."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class SpacesOnly(gym.Env):
    """Stands in for an environment where there is none: it has spaces and does nothing."""

    def __init__(self, observation_space: spaces.Space, action_space: spaces.Space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return _zeros(self.observation_space), {}

    def step(self, action: Any) -> Any:
        raise RuntimeError("There is no environment here, only a dataset; call set_env() to go on online.")


def _zeros(space: spaces.Space) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _zeros(part) for key, part in space.items()}
    return np.zeros(space.shape, space.dtype)
