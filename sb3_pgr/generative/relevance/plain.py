"""Relevance of the rows themselves, of the agent's values, and among other rows."""

import torch as th

from sb3_pgr.common.device import widest_float
from sb3_pgr.generative.relevance.base import Relevance, Transitions


class Reward(Relevance):
    """The reward of the transition."""

    def values(self, transitions: Transitions) -> th.Tensor:
        return transitions["rewards"].flatten()


class ReturnToGo(Relevance):
    """Sum of the rewards from the transition to the end of its episode, or to the newest row of one still running."""

    of_real_rows_only = True

    def values(self, transitions: Transitions) -> th.Tensor:
        rewards, ends = transitions["rewards"].flatten(), transitions["episode_ends"].flatten()
        rewards = rewards.to(widest_float(rewards.device))
        total = rewards.cumsum(0)
        last = ends.clone()
        last[-1] = 1
        places = last.nonzero().flatten()
        end_of_row = places[th.searchsorted(places, th.arange(len(rewards), device=rewards.device))]
        return (total[end_of_row] - total + rewards).float()


class Value(Relevance):
    """Value ``Q(s, pi(s))`` of the state under the learning algorithm's critics (PGR, eq. 3)."""

    needs_model = True

    def values(self, transitions: Transitions) -> th.Tensor:
        assert self.model is not None
        return self.model.state_values(transitions["observations"])


class TDError(Relevance):
    """
    Temporal-difference error of the learning algorithm (PGR, eq. 4).

    :param signed: keep the sign, as the formula of the paper does, instead of the absolute value
    """

    needs_model = True

    def __init__(self, signed: bool = False):
        self.signed = signed

    def values(self, transitions: Transitions) -> th.Tensor:
        assert self.model is not None
        error = self.model.td_errors(transitions)
        return error if self.signed else error.abs()


class Novelty(Relevance):
    """
    Mean distance of the observation to its nearest neighbours among the real rows, in standard deviations.

    :param n_neighbors: number of neighbours
    :param n_reference: real rows that are looked at, evenly spread over time
    """

    def __init__(self, n_neighbors: int = 10, n_reference: int = 5_000):
        if n_neighbors < 1 or n_reference < n_neighbors:
            raise ValueError(f"n_neighbors={n_neighbors} must be between 1 and n_reference={n_reference}.")
        self.n_neighbors, self.n_reference = n_neighbors, n_reference
        self._reference: th.Tensor | None = None

    def observe(self, real: Transitions) -> None:
        obs = real["observations"]
        self._mean, self._scale = obs.mean(0), obs.std(0) + 1e-6
        chosen_rows = th.linspace(0, len(obs) - 1, min(self.n_reference, len(obs)), device=obs.device).long()
        self._reference = (obs[chosen_rows] - self._mean) / self._scale

    def values(self, transitions: Transitions) -> th.Tensor:
        if self._reference is None:
            raise RuntimeError("Novelty is of real rows: call observe(real) first.")
        rows = (transitions["observations"] - self._mean) / self._scale
        k = min(self.n_neighbors, len(self._reference) - 1)
        if k < 1:
            return rows.new_zeros(len(rows))
        nearest = th.cat([self._nearest(part, k + 1) for part in rows.split(1_000)])
        itself = nearest[:, :1] < 1e-6  # of a reference row, the nearest is the row itself: it does not count
        return th.where(itself, nearest[:, 1:], nearest[:, :-1]).mean(1)

    def _nearest(self, rows: th.Tensor, k: int) -> th.Tensor:
        assert self._reference is not None
        distances = th.cdist(rows, self._reference, compute_mode="donot_use_mm_for_euclid_dist")
        return distances.topk(k, largest=False, sorted=True).values


class Uniform(Relevance):
    """All transitions alike: the generator is unconditional, which is SynthER (Lu et al. 2023)."""

    unconditional = True

    def values(self, transitions: Transitions) -> th.Tensor:
        return th.zeros(len(transitions["rewards"]), device=transitions["rewards"].device)
