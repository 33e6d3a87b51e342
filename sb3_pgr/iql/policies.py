"""Policies of IQL."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_pgr.common.networks import FullPrecisionLinear
from sb3_pgr.offline.policies import GaussianActor, OfflinePolicy, orthogonal_, start_target


class ValueNetwork(BaseModel):
    """
    A state-value function.

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: maps observations to features
    :param net_arch: hidden widths
    :param activation_fn: activation class
    """

    optimizer: th.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
    ):
        super().__init__(observation_space, action_space, features_extractor=features_extractor)
        hidden = create_mlp(features_extractor.features_dim, -1, net_arch, activation_fn)
        width = net_arch[-1] if net_arch else features_extractor.features_dim
        self.layers = nn.Sequential(*hidden, FullPrecisionLinear(width, 1))

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """Values ``(batch,)``, in float32 or better."""
        assert self.features_extractor is not None
        return self.layers(self.extract_features(obs, self.features_extractor)).squeeze(-1)


class IQLPolicy(OfflinePolicy):
    """
    A Gaussian actor, an ensemble of critics with a target, and a state-value function, all started orthogonal as in the
    authors' code. Parameters not listed are those of ``OfflinePolicy``.

    :param dropout_rate: of the actor's hidden layers
    """

    def __init__(self, *args: Any, dropout_rate: float = 0.0, **kwargs: Any):
        self.dropout_rate = dropout_rate
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.Box)
        given = self.observation_space, self.action_space, self.features_extractor
        self.actor = GaussianActor(*given, self._arch[0], self.activation_fn, self.dropout_rate)
        self.critic, self.critic_target = self.make_critic(), self.make_critic()
        self.value = ValueNetwork(*given, self._arch[1], self.activation_fn)
        for network in (self.actor, self.critic, self.value):
            orthogonal_(network)
            network.optimizer = self.make_optimizer(network, lr_schedule)
        start_target(self.critic, self.critic_target)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.actor(observation) if deterministic else self.actor.sample(observation)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"dropout_rate": self.dropout_rate}


MlpPolicy = MultiInputPolicy = IQLPolicy
