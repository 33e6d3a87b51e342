"""How training on a robot goes, as its operator sees it."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np


class _Episode(NamedTuple):
    steps: int
    taken: int
    success: bool
    true_success: bool | None


class EpisodeLog:
    """
    Over the last finished episodes: how much somebody helped, how long success took, and what the task itself says of success
    where a learned reward judges it. (SB3 logs the rate of successes.)

    :param n_envs: number of environments
    :param window: number of episodes, over all environments
    :param gamma: discount
    """

    def __init__(self, n_envs: int, window: int, gamma: float = 1.0):
        self._steps, self._taken, self._returns = np.zeros(n_envs, int), np.zeros(n_envs, int), np.zeros(n_envs)
        self._episodes: deque[_Episode] = deque(maxlen=window)
        self.gamma = gamma

    def begin(self) -> None:
        """All environments start an episode, whatever became of the one before."""
        for counter in (self._steps, self._taken, self._returns):
            counter[:] = 0

    def step(self, rewards: np.ndarray, dones: np.ndarray, infos: Sequence[Mapping[str, Any]]) -> np.ndarray:
        """
        Count one step of each environment.

        :return: discounted returns of the episodes that end with it
        """
        self._returns += self.gamma**self._steps * rewards
        self._steps += 1
        self._taken += [info.get("intervene_action") is not None for info in infos]
        for i in map(int, np.flatnonzero(dones)):
            success = bool(infos[i].get("is_success", False))
            true = infos[i].get("true_success")
            true = None if true is None else bool(true)
            self._episodes.append(_Episode(int(self._steps[i]), int(self._taken[i]), success, true))
        returns = self._returns[dones]
        for counter in (self._steps, self._taken, self._returns):
            counter[dones] = 0
        return returns

    def summary(self) -> dict[str, float]:
        """
        ``intervention_rate``, the share of steps that were taken over; ``cycle_steps``, mean length of successes;
        ``true_success_rate`` by ``info["true_success"]``, if it is told.
        """
        if not self._episodes:
            return {}
        cycles = [episode.steps for episode in self._episodes if episode.success]
        true = [episode.true_success for episode in self._episodes if episode.true_success is not None]
        found = {"intervention_rate": sum(e.taken for e in self._episodes) / sum(e.steps for e in self._episodes)}
        found |= {"cycle_steps": float(np.mean(cycles))} if cycles else {}
        return found | ({"true_success_rate": float(np.mean(true))} if true else {})

    def state(self) -> list[list[Any]]:
        """The finished episodes, as plain values."""
        return [list(episode) for episode in self._episodes]

    def restore(self, state: Sequence[Sequence[Any]]) -> None:
        """Put back what ``state`` returned."""
        self._episodes.clear()
        self._episodes.extend(_Episode(*episode) for episode in state)
