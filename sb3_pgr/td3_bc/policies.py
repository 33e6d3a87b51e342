"""Policies of TD3+BC: a deterministic actor and an ensemble of critics, each with a target."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor
from torch import nn

from sb3_pgr.common.critics import EnsembleCritic
from sb3_pgr.common.ensembles import EnsembleMLP
from sb3_pgr.offline.transforms import DatasetNormExtractor


class TD3BCPolicy(BasePolicy):
    """
    :param observation_space: ``Box`` of floats, or a ``Dict`` of such
    :param action_space: ``Box``
    :param lr_schedule: learning rate
    :param net_arch: hidden widths, or ``dict(pi=[...], qf=[...])``
    :param activation_fn: activation class
    :param n_critics: number of critics
    :param layer_norm: layer norm in the critics
    :param features_extractor_class: must standardise observations by the dataset
    :param features_extractor_kwargs: for it
    :param optimizer_class: of both optimisers
    :param optimizer_kwargs: passed to them; fused updates are the default for Adam and AdamW
    """

    actor: Actor
    critic: EnsembleCritic

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        n_critics: int = 2,
        layer_norm: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] = DatasetNormExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        if optimizer_kwargs is None:
            optimizer_kwargs = dict(fused=True) if optimizer_class in (th.optim.Adam, th.optim.AdamW) else {}
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        self.net_arch = [256, 256] if net_arch is None else net_arch
        self.activation_fn, self.n_critics, self.layer_norm = activation_fn, n_critics, layer_norm
        self.features_extractor = self.make_features_extractor()  # one for all: it has statistics, no weights
        self.actor, self.actor_target = self.make_actor(), self.make_actor()
        self.critic, self.critic_target = self.make_critic(), self.make_critic()
        for network, target in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
            target.load_state_dict(network.state_dict())
            target.requires_grad_(False)
            target.set_training_mode(False)
            network.optimizer = optimizer_class(  # type: ignore[call-arg]
                network.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs
            )

    def make_actor(self) -> Actor:
        assert isinstance(self.action_space, spaces.Box)
        net_arch, _ = get_actor_critic_arch(self.net_arch)
        return Actor(
            self.observation_space,
            self.action_space,
            net_arch,
            self.features_extractor,
            self.features_extractor.features_dim,
            self.activation_fn,
        )

    def make_critic(self) -> EnsembleCritic:
        assert isinstance(self.action_space, spaces.Box)
        _, net_arch = get_actor_critic_arch(self.net_arch)
        in_features = self.features_extractor.features_dim + get_action_dim(self.action_space)
        ensemble = EnsembleMLP(self.n_critics, in_features, net_arch, self.activation_fn, self.layer_norm)
        return EnsembleCritic(self.observation_space, self.action_space, self.features_extractor, ensemble, self.n_critics)

    def forward(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self._predict(observation, deterministic)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.actor(observation)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["normalize_images"]
        return data | {
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "n_critics": self.n_critics,
            "layer_norm": self.layer_norm,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


MlpPolicy = MultiInputPolicy = TD3BCPolicy
