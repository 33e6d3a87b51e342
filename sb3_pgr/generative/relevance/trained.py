"""Relevance by what a network that learns beside the agent does not know yet."""

import copy
from collections.abc import Callable
from typing import Any

import torch as th
from torch import nn

from sb3_pgr.common.engine import CudaGraph, set_capturable
from sb3_pgr.common.optimizers import optimizer_step
from sb3_pgr.generative.curiosity import CuriosityNetwork, DisagreementNetwork, DistillationNetwork
from sb3_pgr.generative.relevance.base import Relevance, Transitions


class _Trained(Relevance):
    """With a network that learns from real rows as they come."""

    network: nn.Module
    _action_classes = 0

    def __init__(self, update_every: int, batch_size: int, learning_rate: float, normalize: bool):
        if update_every < 1 or batch_size < 2:
            raise ValueError(f"update_every={update_every} must be at least 1 and batch_size={batch_size} at least 2.")
        self.update_every, self.batch_size, self.learning_rate, self.normalize = (
            update_every,
            batch_size,
            learning_rate,
            normalize,
        )

    def _train(self, network: nn.Module, obs_dim: int, device: th.device) -> None:
        self.network = network.to(device)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = th.optim.Adam(parameters, self.learning_rate)
        self._mean, self._scale = th.zeros(obs_dim, device=device), th.ones(obs_dim, device=device)
        self._n_updates = 0
        self._make_step()

    def _make_step(self) -> None:
        set_capturable([self.optimizer], self.cuda_graph)
        self._step: Callable[[Transitions], th.Tensor] = CudaGraph(self._descend) if self.cuda_graph else self._descend

    def _descend(self, transitions: Transitions) -> th.Tensor:
        loss = self._loss(transitions)
        optimizer_step(self.optimizer, loss)
        return loss.detach()

    def update(self, transitions: Transitions) -> dict[str, float]:
        if self.normalize:
            self._follow(transitions["observations"])
        self.network.train()
        return {"relevance_loss": self._step(transitions).item()}

    def _follow(self, obs: th.Tensor) -> None:
        """Move mean and scale of observations towards those of the batch: an average at first, then slowly."""
        self._n_updates += 1
        weight = max(1 / self._n_updates, 0.001)
        self._mean.lerp_(obs.mean(0), weight)
        self._scale.lerp_(obs.std(0) + 1e-3, weight)

    def _scaled(self, obs: th.Tensor) -> th.Tensor:
        return ((obs - self._mean) / self._scale).clamp(-10, 10) if self.normalize else obs

    def _inputs(self, transitions: Transitions) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Observations, actions (discrete ones one-hot) and next observations."""
        actions = transitions["actions"]
        if self._action_classes:
            actions = nn.functional.one_hot(actions.long().flatten(), self._action_classes)
        obs, next_obs = transitions["observations"], transitions["next_observations"]
        return self._scaled(obs), actions.float(), self._scaled(next_obs)

    def _loss(self, transitions: Transitions) -> th.Tensor:
        raise NotImplementedError

    def _surprise(self, transitions: Transitions) -> th.Tensor:
        raise NotImplementedError

    @th.no_grad()
    def values(self, transitions: Transitions) -> th.Tensor:
        self.network.eval()
        n = len(transitions["rewards"])
        parts = [{name: rows[i : i + 10_000] for name, rows in transitions.items()} for i in range(0, n, 10_000)]
        return th.cat([self._surprise(part) for part in parts])

    def state_dict(self) -> dict[str, Any]:
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaling": {"mean": self._mean.clone(), "scale": self._scale.clone(), "n_updates": self._n_updates},
        }

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))  # it would share the moments otherwise
        scaling = state["scaling"]
        self._mean.copy_(scaling["mean"]), self._scale.copy_(scaling["scale"])
        self._n_updates = scaling["n_updates"]
        self._make_step()  # moments of the optimiser lie elsewhere now


class Curiosity(_Trained):
    """
    Error of a learned forward model in a feature space (``CuriosityNetwork``), the relevance of the PGR paper (eq. 5).

    Its own sizes are ``Curiosity(hidden_dim=256, shared_residual=True, update_every=1, normalize=False)``.

    :param hidden_dim: width of all layers
    :param shared_residual: all residual layers share their weights, as in the official code
    :param update_every: transitions per training step
    :param batch_size: rows of a training step
    :param learning_rate: of Adam
    :param normalize: standardise observations, so that each counts alike
    """

    network: CuriosityNetwork

    def __init__(
        self,
        hidden_dim: int = 128,
        shared_residual: bool = False,
        update_every: int = 10,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        normalize: bool = True,
    ):
        super().__init__(update_every, batch_size, learning_rate, normalize)
        self.hidden_dim, self.shared_residual = hidden_dim, shared_residual

    def setup(self, obs_dim: int, action_dim: int, n_actions: int, device: th.device) -> None:
        network = CuriosityNetwork(obs_dim, n_actions or action_dim, self.hidden_dim, shared_residual=self.shared_residual)
        self._action_classes = n_actions
        self._train(network, obs_dim, device)

    def _loss(self, transitions: Transitions) -> th.Tensor:
        return self.network.loss(*self._inputs(transitions))

    def _surprise(self, transitions: Transitions) -> th.Tensor:
        return self.network.surprise(*self._inputs(transitions))


class Disagreement(_Trained):
    """
    Variance among the predictions of several forward models (``DisagreementNetwork``): unlike curiosity, it loses interest
    in what nobody can predict.

    :param hidden_dim: width of the hidden layers
    :param n_models: number of forward models
    :param update_every: transitions per training step
    :param batch_size: rows of a training step
    :param learning_rate: of Adam
    :param normalize: standardise observations, so that each counts alike
    """

    network: DisagreementNetwork

    def __init__(
        self,
        hidden_dim: int = 128,
        n_models: int = 5,
        update_every: int = 10,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        normalize: bool = True,
    ):
        super().__init__(update_every, batch_size, learning_rate, normalize)
        if n_models < 2:
            raise ValueError(f"n_models={n_models} must be at least 2, to disagree.")
        self.hidden_dim, self.n_models = hidden_dim, n_models

    def setup(self, obs_dim: int, action_dim: int, n_actions: int, device: th.device) -> None:
        network = DisagreementNetwork(obs_dim, n_actions or action_dim, self.hidden_dim, self.n_models)
        self._action_classes = n_actions
        self._train(network, obs_dim, device)

    def _loss(self, transitions: Transitions) -> th.Tensor:
        return self.network.loss(*self._inputs(transitions))

    def _surprise(self, transitions: Transitions) -> th.Tensor:
        obs, actions, _ = self._inputs(transitions)
        return self.network.surprise(obs, actions)


class RND(_Trained):
    """
    Error in predicting what a random network says of the next observation (``DistillationNetwork``).

    :param hidden_dim: width of the hidden layers
    :param out_features: numbers that the random network gives
    :param update_every: transitions per training step
    :param batch_size: rows of a training step
    :param learning_rate: of Adam
    :param normalize: standardise observations, without which a random network hardly sees the small ones
    """

    network: DistillationNetwork

    def __init__(
        self,
        hidden_dim: int = 128,
        out_features: int = 64,
        update_every: int = 10,
        batch_size: int = 256,
        learning_rate: float = 3e-4,
        normalize: bool = True,
    ):
        super().__init__(update_every, batch_size, learning_rate, normalize)
        self.hidden_dim, self.out_features = hidden_dim, out_features

    def setup(self, obs_dim: int, action_dim: int, n_actions: int, device: th.device) -> None:
        self._train(DistillationNetwork(obs_dim, self.hidden_dim, self.out_features), obs_dim, device)

    def _loss(self, transitions: Transitions) -> th.Tensor:
        return self._surprise(transitions).mean()

    def _surprise(self, transitions: Transitions) -> th.Tensor:
        return self.network.surprise(self._scaled(transitions["next_observations"]))
