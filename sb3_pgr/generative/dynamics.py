"""A one-step model that gives generated states and actions the outcome that real ones suggest."""

from typing import Any

import torch as th
from torch import nn

from sb3_pgr.common.state import set_generator_state
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
        width_in = obs_dim + (n_actions or action_dim)
        with th.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            th.manual_seed(seed)
            self.network = nn.Sequential(
                nn.Linear(width_in, hidden_dim),
                nn.SiLU(),
                nn.Linear(hidden_dim, hidden_dim),
                nn.SiLU(),
                nn.Linear(hidden_dim, obs_dim + 1),
            ).to(self.device)
        self.inputs = self.outputs = (th.zeros(()), th.ones(()))

    def _joined(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        if self.n_actions:
            actions = nn.functional.one_hot(actions.long().flatten(), self.n_actions)
        return th.cat([obs, actions.float()], 1)

    def fit(self, transitions: Transitions) -> float:
        """Train on real rows, from where the last fit left it; returns the last tenth's mean squared error."""
        x = self._joined(transitions["observations"], transitions["actions"])
        change = transitions["next_observations"] - transitions["observations"]
        y = th.cat([transitions["rewards"], change], 1)
        self.inputs, self.outputs = _statistics(x), _statistics(y)
        x, y = _standardise(x, self.inputs), _standardise(y, self.outputs)
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
        return float(th.stack(losses).mean())

    @th.no_grad()
    def outcome(self, obs: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Next observations ``(n, obs_dim)`` and rewards ``(n, 1)``."""
        x = _standardise(self._joined(obs, actions), self.inputs)
        y = th.cat([self.network(part) for part in x.split(10_000)]) * self.outputs[1] + self.outputs[0]
        return obs + y[:, 1:], y[:, :1]

    def state_dict(self) -> dict[str, Any]:
        """Weights, statistics and random state."""
        return {
            "network": self.network.state_dict(),
            "inputs": self.inputs,
            "outputs": self.outputs,
            "random": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what ``state_dict`` returned."""
        self.network.load_state_dict(state["network"])
        for name in ("inputs", "outputs"):
            mean, scale = state[name]
            setattr(self, name, (mean.to(self.device), scale.to(self.device)))
        set_generator_state(self.generator, state["random"])


def _statistics(x: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    return x.mean(0), x.std(0) + 1e-6


def _standardise(x: th.Tensor, statistics: tuple[th.Tensor, th.Tensor]) -> th.Tensor:
    return (x - statistics[0]) / statistics[1]
