"""Policies of TD3+BC."""

import torch as th
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor

from sb3_pgr.common.critics import EnsembleCritic
from sb3_pgr.offline.policies import OfflinePolicy, start_target


class TD3BCPolicy(OfflinePolicy):
    """A deterministic actor and an ensemble of critics, each with a target; parameters are those of ``OfflinePolicy``."""

    actor: Actor
    critic: EnsembleCritic

    def _build(self, lr_schedule: Schedule) -> None:
        self.actor, self.actor_target = self.make_actor(), self.make_actor()
        self.critic, self.critic_target = self.make_critic(), self.make_critic()
        for network, target in ((self.actor, self.actor_target), (self.critic, self.critic_target)):
            start_target(network, target)
            network.optimizer = self.make_optimizer(network, lr_schedule)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self.actor(observation)


MlpPolicy = MultiInputPolicy = TD3BCPolicy
