"""Policies of CQL."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor

from sb3_pgr.offline.policies import OfflinePolicy, start_target


class CQLPolicy(OfflinePolicy):
    """
    SAC's actor, and an ensemble of critics with a target. Three hidden layers of 256 by default; parameters are those of
    ``OfflinePolicy``.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"net_arch": [256, 256, 256], **kwargs})

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.Box)
        extractor = self.features_extractor
        self.actor = Actor(
            self.observation_space,
            self.action_space,
            self._arch[0],
            extractor,
            extractor.features_dim,
            activation_fn=self.activation_fn,
        )
        self.critic, self.critic_target = self.make_critic(), self.make_critic()
        for network in (self.actor, self.critic):
            network.optimizer = self.make_optimizer(network, lr_schedule)
        start_target(self.critic, self.critic_target)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.actor(observation, deterministic)


MlpPolicy = MultiInputPolicy = CQLPolicy
