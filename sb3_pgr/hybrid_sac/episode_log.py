"""How training on a robot goes, as its operator sees it."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


class EpisodeLog:
    """
    Over the last finished episodes: how much somebody helped, and how long success took. (SB3 logs the rate of successes.)

    :param n_envs: number of environments
    :param window: number of episodes, over all environments
    """

    def __init__(self, n_envs: int, window: int):
        self._steps, self._taken = np.zeros(n_envs, int), np.zeros(n_envs, int)
        self._episodes: deque[tuple[int, int, bool]] = deque(maxlen=window)

    def step(self, dones: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> None:
        """Count one step of each environment."""
        self._steps += 1
        self._taken += [info.get("intervene_action") is not None for info in infos]
        for i in map(int, np.flatnonzero(dones)):
            success = bool(infos[i].get("is_success", False))
            self._episodes.append((int(self._steps[i]), int(self._taken[i]), success))
            self._steps[i] = self._taken[i] = 0

    def summary(self) -> dict[str, float]:
        """``intervention_rate``, the share of steps that were taken over; ``cycle_steps``, mean length of successes."""
        if not self._episodes:
            return {}
        steps, taken, success = map(np.array, zip(*self._episodes))
        found = {"intervention_rate": float(taken.sum() / steps.sum())}
        return found | ({"cycle_steps": float(steps[success].mean())} if success.any() else {})
