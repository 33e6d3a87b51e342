"""Policies of behaviour cloning."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor

from sb3_pgr.offline.policies import GaussianActor, OfflinePolicy


class BCPolicy(OfflinePolicy):
    """
    An actor alone. Parameters not listed are those of ``OfflinePolicy``.

    :param gaussian: a normal distribution whose mean is squashed, instead of a deterministic actor
    """

    actor: Actor | GaussianActor

    def __init__(self, *args: Any, gaussian: bool = False, **kwargs: Any):
        self.gaussian = gaussian
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.Box)
        if self.gaussian:
            given = self.observation_space, self.action_space, self.features_extractor
            self.actor = GaussianActor(*given, self._arch[0], self.activation_fn)
        else:
            self.actor = self.make_actor()
        self.actor.optimizer = self.make_optimizer(self.actor, lr_schedule)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        if isinstance(self.actor, GaussianActor) and not deterministic:
            return self.actor.sample(observation)
        return self.actor(observation)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {"gaussian": self.gaussian}


MlpPolicy = MultiInputPolicy = BCPolicy
