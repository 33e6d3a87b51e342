"""A one-step model that gives generated states and actions the outcome that real ones suggest."""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch as th
from torch import nn

from sb3_pgr.common.engine import CudaGraph, set_capturable
from sb3_pgr.common.networks import keep_answers
from sb3_pgr.common.optimizers import optimizer_step, set_learning_rate
from sb3_pgr.common.state import own_randomness, set_generator_state
from sb3_pgr.generative.generator import GeneratorDivergedError
from sb3_pgr.generative.normalizers import Normalizer, StandardNormalizer
from sb3_pgr.generative.relevance import Transitions


class Head:
    """
    A multi-layer perceptron with SiLU and two hidden layers that learns from real rows, each fit going on from the last.

    :param widths: of input, hidden layers and output
    :param n_actions: number of discrete actions; 0 for continuous ones
    :param train_steps: steps of a fit
    :param batch_size: rows of a step
    :param learning_rate: at the start of a fit; it falls to 0 along a cosine
    :param device: where it lives
    :param seed: of its random numbers; global generators are not touched
    :param cuda_graph: the steps of a fit are CUDA graphs
    """

    name: ClassVar[str]

    def __init__(
        self,
        widths: Sequence[int],
        n_actions: int,
        train_steps: int,
        batch_size: int,
        learning_rate: float,
        device: th.device | str,
        seed: int,
        cuda_graph: bool,
    ):
        self.n_actions, self.train_steps, self.batch_size = n_actions, train_steps, batch_size
        self.learning_rate, self.device, self.cuda_graph = learning_rate, th.device(device), cuda_graph
        self.generator = th.Generator(self.device).manual_seed(seed)
        self._widths = tuple(widths)
        self._new_network(seed)

    def _new_network(self, seed: int) -> None:
        with own_randomness(seed, self.device):
            layers: list[nn.Module] = []
            for n_in, n_out in itertools.pairwise(self._widths):
                layers += [nn.Linear(n_in, n_out), nn.SiLU()]
            self.network = nn.Sequential(*layers[:-1]).to(self.device)
        nothing = th.zeros(()), th.ones(()), th.zeros(()), th.zeros(())
        self.inputs: Normalizer = StandardNormalizer(*nothing)

    def _linear(self, i: int) -> nn.Linear:
        layer = self.network[i]
        assert isinstance(layer, nn.Linear)
        return layer

    @property
    def fitted(self) -> bool:
        """The network goes with normalisers of rows."""
        return self.inputs.shift.dim() > 0

    def _renormalize(self, x: th.Tensor) -> None:
        """Fit the normaliser of inputs ``(n, d)``, and let the network answer as before."""
        old, fitted = self.inputs, self.fitted
        self.inputs = StandardNormalizer.fit(x)
        if fitted:
            moved = (self.inputs.shift - old.shift) / self.inputs.scale
            keep_answers(self._linear(0), moved, _ratio(self.inputs, old))

    def _joined(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        if self.n_actions:
            actions = nn.functional.one_hot(actions.long().flatten(), self.n_actions)
        return th.cat([obs, actions.float()], 1)

    def _joined_places(self, obs: th.Tensor, actions: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        return th.cat([self._joined(obs, actions), next_obs], 1)

    def _rows_of(self, n: int, count: int) -> th.Tensor:
        return th.randint(n, (count,), generator=self.generator, device=self.device)

    def _descend(self, draw: Callable[[], tuple[th.Tensor, ...]], loss_of: Callable[..., th.Tensor]) -> float:
        """
        :param draw: draws rows
        :param loss_of: gives the loss of those
        :return: mean loss over the last tenth of the steps
        :raises GeneratorDivergedError: if that is not finite; the next fit starts anew
        """
        optimizer = th.optim.AdamW(self.network.parameters(), self.learning_rate, weight_decay=1e-4, fused=True)
        set_capturable([optimizer], self.cuda_graph)

        def descend(*rows: th.Tensor) -> th.Tensor:
            loss = loss_of(*rows)
            optimizer_step(optimizer, loss)
            return loss.detach()

        step_down = CudaGraph(descend) if self.cuda_graph else descend
        losses = []
        for step in range(self.train_steps):
            set_learning_rate(optimizer, self.learning_rate * (1 + math.cos(math.pi * step / self.train_steps)) / 2)
            loss = step_down(*draw())
            if step >= self.train_steps * 9 // 10:
                losses.append(loss.clone())
        last_loss = float(th.stack(losses).mean())
        if not math.isfinite(last_loss):
            self._new_network(int(th.randint(2**62, (1,), generator=self.generator, device=self.device)))
            raise GeneratorDivergedError(f"The {self.name}'s loss is {last_loss} after {self.train_steps} steps.")
        return last_loss

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and random state."""
        return {
            "network": self.network.state_dict(),
            "inputs": vars(self.inputs),
            "random": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` returned."""
        self.network.load_state_dict(state["network"])
        self.inputs = self._statistics(state["inputs"])
        set_generator_state(self.generator, state["random"])

    def _statistics(self, state: dict[str, th.Tensor]) -> Normalizer:
        return StandardNormalizer(**{part: value.to(self.device) for part, value in state.items()})


class DynamicsHead(Head):
    """
    Predicts reward and change of the observation from observation and action, all standardised.

    A generated transition is drawn as a whole, and guidance makes its outcome fit less well to its state and action; replacing
    it by what this model predicts mends that. It predicts a mean: where the environment itself is random, that randomness is
    lost.

    :param obs_dim: numbers of an observation
    :param action_dim: numbers of an action, or of its one-hot code
    :param n_actions: number of discrete actions; 0 for continuous ones
    :param hidden_dim: width of their two hidden layers
    :param train_steps: steps of a fit
    :param batch_size: rows of a step
    :param learning_rate: at the start of a fit; it falls to 0 along a cosine
    :param device: where it lives
    :param seed: of its random numbers
    :param cuda_graph: the steps of a fit are CUDA graphs
    """

    name = "dynamics head"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        n_actions: int = 0,
        hidden_dim: int = 256,
        train_steps: int = 3_000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        device: th.device | str = "cpu",
        seed: int = 0,
        cuda_graph: bool = False,
    ):
        widths = obs_dim + (n_actions or action_dim), hidden_dim, hidden_dim, obs_dim + 1
        super().__init__(widths, n_actions, train_steps, batch_size, learning_rate, device, seed, cuda_graph)
        self.outputs = self.inputs

    def fit(self, transitions: Transitions) -> float:
        """
        Train on real rows.

        :return: mean squared error over the last tenth of the steps, of standardised numbers
        :raises GeneratorDivergedError: if that is not finite; the next fit starts anew
        """
        x = self._joined(transitions["observations"], transitions["actions"])
        change = transitions["next_observations"] - transitions["observations"]
        y = th.cat([transitions["rewards"], change], 1)
        fitted = self.fitted
        self._renormalize(x)
        old, self.outputs = self.outputs, StandardNormalizer.fit(y)
        if fitted:
            _denormalize_anew(self._linear(-1), old, self.outputs)
        x, y = self.inputs.normalize(x), self.outputs.normalize(y)

        def draw() -> tuple[th.Tensor, ...]:
            rows = self._rows_of(len(x), self.batch_size)
            return x[rows], y[rows]

        return self._descend(draw, lambda inputs, outputs: nn.functional.mse_loss(self.network(inputs), outputs))

    @th.no_grad()
    def outcome(self, obs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Next observations ``(n, obs_dim)`` and rewards ``(n, 1)``."""
        x = self.inputs.normalize(self._joined(obs, actions))
        y = self.outputs.denormalize(th.cat([self.network(part) for part in x.split(10_000)]))
        return obs + y[:, 1:], y[:, :1]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"outputs": vars(self.outputs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.outputs = self._statistics(state["outputs"])


@th.no_grad()
def _denormalize_anew(layer: nn.Linear, old: Normalizer, new: Normalizer) -> None:
    """Let a last layer say in new units what it said in old ones."""
    scale = 1 / _ratio(new, old)
    layer.weight *= scale[:, None]
    layer.bias.copy_(layer.bias * scale + new.normalize(old.shift))


def _ratio(new: Normalizer, old: Normalizer) -> th.Tensor:
    """Of their scales; 1 for numbers that never changed before, whose scale meant nothing."""
    return th.where(old.low == old.high, 1.0, new.scale / old.scale)
