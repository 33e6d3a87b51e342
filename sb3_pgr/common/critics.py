"""Action-value functions of which there are several."""

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import nn

from sb3_pgr.common.ensembles import Members


class EnsembleCritic(BaseModel):
    """
    N action-value functions as one module.

    ``forward`` keeps the contract of SB3's ``ContinuousCritic`` (a tuple of N tensors ``(batch, 1)``), so code
    written for SAC and TD3 can use it; ``q_values`` is the fast path.

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: maps observations to features
    :param ensemble: maps ``(batch, features + action)`` to ``(N, batch, 1)``
    :param normalize_images: divide image observations by 255
    """

    features_extractor: BaseFeaturesExtractor

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        ensemble: nn.Module,
        n_critics: int,
        normalize_images: bool = True,
    ):
        super().__init__(
            observation_space, action_space, features_extractor=features_extractor, normalize_images=normalize_images
        )
        self.ensemble = ensemble
        self.n_critics = n_critics

    def q_values(self, obs: PyTorchObs, actions: th.Tensor, members: Members = None) -> th.Tensor:
        """
        :param obs: observations ``(batch, ...)``
        :param actions: actions in [-1, 1], ``(batch, action_dim)``
        :param members: indices or a slice of the critics to evaluate, all by default
        :return: ``(N, batch)``, or ``(len(members), batch)``, in float32 or better
        """
        features = self.extract_features(obs, self.features_extractor)
        q_values = self.ensemble(th.cat([features, actions], dim=1), members).squeeze(-1)
        return q_values.float() if q_values.dtype == th.bfloat16 else q_values

    def forward(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, ...]:
        return tuple(self.q_values(obs, actions).unsqueeze(-1))

    def q1_forward(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """The first critic alone, ``(batch, 1)``."""
        return self.q_values(obs, actions, slice(1)).squeeze(0).unsqueeze(-1)
