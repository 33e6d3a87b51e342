"""A one-step model that gives generated states and actions the outcome that real ones suggest."""

import itertools
import math
from typing import Any

import torch as th
from torch import nn

from sb3_pgr.common.state import set_generator_state
from sb3_pgr.generative.generator import GeneratorDivergedError
from sb3_pgr.generative.normalizers import Normalizer, StandardNormalizer
from sb3_pgr.generative.relevance import Transitions


class DynamicsHead:
    """
    Predicts reward and change of the observation from observation and action, all standardised.

    A generated transition is drawn as a whole, and guidance makes its outcome fit less well to
    its state and action; replacing it by what this model predicts mends that.

    :param obs_dim: numbers of an observation
    :param action_dim: numbers of an action, or of its one-hot code
    :param n_actions: number of discrete actions; 0 for continuous ones
    :param hidden_dim: width of their two hidden layers
    :param train_steps: steps of a fit
    :param batch_size: rows of a step
    :param learning_rate: at the start of a fit; it falls to 0 along a cosine
    :param device: where it lives
    :param seed: of its random numbers
    """

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
    ):
        self.n_actions, self.train_steps, self.batch_size, self.learning_rate = (
            n_actions,
            train_steps,
            batch_size,
            learning_rate,
        )
        self.device = th.device(device)
        self.generator = th.Generator(self.device).manual_seed(seed)
        self._widths = (obs_dim + (n_actions or action_dim), hidden_dim, hidden_dim, obs_dim + 1)
        self._new_network(seed)
        nothing = th.zeros(()), th.ones(()), th.zeros(()), th.zeros(())
        self.inputs: Normalizer = StandardNormalizer(*nothing)
        self.outputs: Normalizer = StandardNormalizer(*nothing)

    def _new_network(self, seed: int) -> None:
        with th.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            th.manual_seed(seed)
            layers: list[nn.Module] = []
            for n_in, n_out in itertools.pairwise(self._widths):
                layers += [nn.Linear(n_in, n_out), nn.SiLU()]
            self.network = nn.Sequential(*layers[:-1]).to(self.device)

    def _joined(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        if self.n_actions:
            actions = nn.functional.one_hot(actions.long().flatten(), self.n_actions)
        return th.cat([obs, actions.float()], 1)

    def fit(self, transitions: Transitions) -> float:
        """
        Train on real rows, from where the last fit left it.

        :return: mean squared error over the last tenth of the steps, of standardised numbers
        :raises GeneratorDivergedError: if that is not finite; the next fit starts anew
        """
        x = self._joined(transitions["observations"], transitions["actions"])
        change = transitions["next_observations"] - transitions["observations"]
        y = th.cat([transitions["rewards"], change], 1)
        self.inputs, self.outputs = StandardNormalizer.fit(x), StandardNormalizer.fit(y)
        x, y = self.inputs.normalize(x), self.outputs.normalize(y)
        optimizer = th.optim.AdamW(self.network.parameters(), self.learning_rate, weight_decay=1e-4, fused=True)
        schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.train_steps)
        losses = []
        for step in range(self.train_steps):
            rows = th.randint(len(x), (self.batch_size,), generator=self.generator, device=self.device)
            loss = nn.functional.mse_loss(self.network(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if step >= self.train_steps * 9 // 10:
                losses.append(loss.detach())
        last_loss = float(th.stack(losses).mean())
        if not math.isfinite(last_loss):
            self._new_network(int(th.randint(2**62, (1,), generator=self.generator, device=self.device)))
            raise GeneratorDivergedError(f"The dynamics head's loss is {last_loss} after {self.train_steps} steps.")
        return last_loss

    @th.no_grad()
    def outcome(self, obs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Next observations ``(n, obs_dim)`` and rewards ``(n, 1)``."""
        x = self.inputs.normalize(self._joined(obs, actions))
        y = self.outputs.denormalize(th.cat([self.network(part) for part in x.split(10_000)]))
        return obs + y[:, 1:], y[:, :1]

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and random state."""
        return {
            "network": self.network.state_dict(),
            "inputs": vars(self.inputs),
            "outputs": vars(self.outputs),
            "random": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` returned."""
        self.network.load_state_dict(state["network"])
        for name in ("inputs", "outputs"):
            statistics = {part: value.to(self.device) for part, value in state[name].items()}
            setattr(self, name, StandardNormalizer(**statistics))
        set_generator_state(self.generator, state["random"])
