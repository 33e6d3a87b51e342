"""Rewards of generated transitions where a task has few different ones, told from where transitions lead."""

from typing import Any

import torch as th
from torch import nn

from sb3_pgr.generative.dynamics import Head
from sb3_pgr.generative.relevance import Transitions

ROWS_OF_A_VALUE = 10


class RewardHead(Head):
    """
    Draws rewards from observation, action and next observation, all standardised: a classifier of the values that real rows
    have, which learns from as many rows of each and is corrected for how frequent they are.

    Sparse tasks give a reward of 1 within a small goal and 0 elsewhere. Regression smears that over all that is near, and a
    little over everything (``benchmarks/generated_rewards.py``).

    :param obs_dim: numbers of an observation
    :param action_dim: numbers of an action, or of its one-hot code
    :param n_actions: number of discrete actions; 0 for continuous ones
    :param max_values: with more different rewards than this, or fewer than ten rows for each, nothing is learned or drawn
    :param hidden_dim: width of the two hidden layers
    :param train_steps: steps of a fit
    :param batch_size: rows of a step
    :param learning_rate: at the start of a fit; it falls to 0 along a cosine
    :param device: where it lives
    :param seed: of its random numbers
    :param cuda_graph: the steps of a fit are CUDA graphs
    """

    name = "reward head"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        n_actions: int = 0,
        max_values: int = 16,
        hidden_dim: int = 128,
        train_steps: int = 3_000,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        device: th.device | str = "cpu",
        seed: int = 0,
        cuda_graph: bool = False,
    ):
        widths = 2 * obs_dim + (n_actions or action_dim), hidden_dim, hidden_dim, 1
        super().__init__(widths, n_actions, train_steps, batch_size, learning_rate, device, seed, cuda_graph)
        self.max_values, self.seed = max_values, seed
        self.values = th.zeros(0, device=self.device)  # of rewards, in order; none if there are too many
        self.rates = self.values  # how frequent each is

    def fit(self, transitions: Transitions) -> float | None:
        """
        Train on real rows.

        :return: cross entropy over the last tenth of the steps; None if there is one value only, or there are too many
        :raises GeneratorDivergedError: if that is not finite; the next fit starts anew
        """
        values, labels, counts = transitions["rewards"].flatten().unique(return_inverse=True, return_counts=True)
        if len(values) > min(self.max_values, len(labels) // ROWS_OF_A_VALUE):
            self.values = self.rates = values[:0]
            return None
        self.values, self.rates = values, counts / counts.sum()
        if len(values) == 1:
            return None
        self._distinguish(len(values))
        x = self._joined_places(transitions["observations"], transitions["actions"], transitions["next_observations"])
        self._renormalize(x)
        x, of_each = self.inputs.normalize(x), [(labels == i).nonzero().flatten() for i in range(len(values))]
        share = max(self.batch_size // len(values), 1)
        targets = th.arange(len(values), device=self.device).repeat_interleave(share)

        def draw() -> tuple[th.Tensor]:
            return (x[th.cat([some[self._rows_of(len(some), share)] for some in of_each])],)

        return self._descend(draw, lambda inputs: nn.functional.cross_entropy(self.network(inputs), targets))

    def _distinguish(self, n_values: int) -> None:
        """A new network if it has answers for another number of values."""
        if self._widths[-1] != n_values:
            self._widths = *self._widths[:-1], n_values
            self._new_network(self.seed)

    @th.no_grad()
    def draw(self, obs: th.Tensor, actions: th.Tensor, next_obs: th.Tensor) -> th.Tensor | None:
        """Rewards ``(n, 1)``; None if they have too many values, or nothing has been learned yet."""
        if len(self.values) < 2:
            return obs.new_full((len(obs), 1), self.values.item()) if len(self.values) else None
        x = self.inputs.normalize(self._joined_places(obs, actions, next_obs))
        logits = th.cat([self.network(part) for part in x.split(10_000)]) + self.rates.log()
        drawn = th.rand((len(x), 1), generator=self.generator, device=self.device)
        chosen = (logits.softmax(1).cumsum(1) < drawn).sum(1).clamp(max=len(self.values) - 1)
        return self.values[chosen].unsqueeze(1)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"values": self.values, "rates": self.rates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._distinguish(len(state["network"][f"{len(self.network) - 1}.bias"]))
        super().load_state_dict(state)
        self.values, self.rates = state["values"].to(self.device), state["rates"].to(self.device)
