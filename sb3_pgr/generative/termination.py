"""Whether generated transitions end an episode, told from where they lead."""

import math
from typing import Any

import torch as th
from torch import nn

from sb3_pgr.generative.dynamics import Head
from sb3_pgr.generative.relevance import Transitions

_RANGE = ("low", "high", "sure_below", "sure_above")


class TerminationHead(Head):
    """
    Draws terminals from observation, action and next observation, all standardised: a classifier that learns from as many
    ends as other rows, corrected for how rare ends are.

    The dynamics head replaces the next observation of what is drawn, so that a terminal drawn with it does not fit.

    Most tasks end where a number leaves a range (a body falls below a height, a pole leans too far), and their ends lie close
    behind it, where a smooth classifier of a few hundred ends is unsure (``benchmarks/generated_ends.py``). So it is told
    which numbers lie beyond all places from which episodes went on; and if ``k`` ends and nothing else lay there, it draws
    an end with a probability of at least ``(k + rate) / (k + 1)``, the mean under a prior of one row at the rate of ends.

    :param obs_dim: numbers of an observation
    :param action_dim: numbers of an action, or of its one-hot code
    :param n_actions: number of discrete actions; 0 for continuous ones
    :param hidden_dim: width of the two hidden layers
    :param train_steps: steps of a fit
    :param batch_size: rows of a step
    :param learning_rate: at the start of a fit; it falls to 0 along a cosine
    :param device: where it lives
    :param seed: of its random numbers
    :param cuda_graph: the steps of a fit are CUDA graphs
    """

    name = "termination head"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        n_actions: int = 0,
        hidden_dim: int = 128,
        train_steps: int = 1_000,
        batch_size: int = 256,
        learning_rate: float = 3e-3,
        device: th.device | str = "cpu",
        seed: int = 0,
        cuda_graph: bool = False,
    ):
        widths = 4 * obs_dim + (n_actions or action_dim), hidden_dim, hidden_dim, 1
        super().__init__(widths, n_actions, train_steps, batch_size, learning_rate, device, seed, cuda_graph)
        self.rate = 0.0  # share of ends among real rows
        self._forget_range(obs_dim)

    def _forget_range(self, obs_dim: int) -> None:
        """Of the places from which episodes went on, infinite where no end lies beyond it; and how sure an end is there."""
        self.low, self.high = (th.full((obs_dim,), bound, device=self.device) for bound in (-math.inf, math.inf))
        self.sure_below, self.sure_above = (th.zeros(obs_dim, device=self.device) for _ in range(2))

    def fit(self, transitions: Transitions) -> float | None:
        """
        Train on real rows.

        :return: cross entropy over the last tenth of the steps; None if all rows end, or none does
        :raises GeneratorDivergedError: if that is not finite; the next fit starts anew
        """
        dones = transitions["dones"].flatten() > 0.5
        self.rate = float(dones.float().mean())
        if self.rate in (0.0, 1.0):
            return None
        places = transitions["observations"], transitions["actions"], transitions["next_observations"]
        went_on, ends = th.cat([places[0], places[2][~dones]]), places[2][dones]
        low, high = went_on.amin(0), went_on.amax(0)
        below, above = (ends < low).sum(0), (ends > high).sum(0)
        self.low, self.high = th.where(below > 0, low, -math.inf), th.where(above > 0, high, math.inf)
        self.sure_below, self.sure_above = ((count + self.rate) / (count + 1) for count in (below, above))
        self._renormalize(self._joined_places(*places))
        x, half = self._inputs(*places), self.batch_size // 2
        of_each = [dones.nonzero().flatten(), (~dones).nonzero().flatten()]
        labels = th.cat([th.ones(half, device=self.device), th.zeros(half, device=self.device)])

        def draw() -> tuple[th.Tensor]:
            return (x[th.cat([some[self._rows_of(len(some), half)] for some in of_each])],)

        def loss(inputs: th.Tensor) -> th.Tensor:
            return nn.functional.binary_cross_entropy_with_logits(self.network(inputs).flatten(), labels)

        return self._descend(draw, loss)

    @th.no_grad()
    def draw(self, obs: th.Tensor, actions: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        """Terminals ``(n, 1)``, 0 or 1."""
        if self.rate in (0.0, 1.0):
            return obs.new_full((len(obs), 1), self.rate)
        x = self._inputs(obs, actions, next_obs)
        logits = th.cat([self.network(part) for part in x.split(10_000)]) + math.log(self.rate / (1 - self.rate))
        sure = th.maximum((next_obs < self.low) * self.sure_below, (next_obs > self.high) * self.sure_above)
        drawn = th.rand(logits.shape, generator=self.generator, device=self.device)
        return (drawn < th.maximum(logits.sigmoid(), sure.amax(1, keepdim=True))).float()

    def _inputs(self, obs: th.Tensor, actions: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        beyond = (next_obs < self.low).float(), (next_obs > self.high).float()
        return th.cat([self.inputs.normalize(self._joined_places(obs, actions, next_obs)), *beyond], 1)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"rate": self.rate} | {name: getattr(self, name) for name in _RANGE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        network, added = dict(state["network"]), 2 * len(self.low)
        if "low" not in state and network["0.weight"].shape[1] == self._widths[0] - added:  # of a version that knew no range
            network["0.weight"] = nn.functional.pad(network["0.weight"], (0, added))
        super().load_state_dict(state | {"network": network})
        self.rate = state["rate"]
        self._forget_range(len(self.low))
        for name in (name for name in _RANGE if name in state):
            setattr(self, name, state[name].to(self.device))
