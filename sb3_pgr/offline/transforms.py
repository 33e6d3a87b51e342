"""Statistics of a dataset that learner, policy and live experience have to share."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_pgr.offline.dataset import DatasetError, OfflineDataset

RETURN_RANGE = 1000.0  # what the range of returns is scaled to (Kostrikov et al. 2021)


class DatasetNormExtractor(BaseFeaturesExtractor):
    """
    Flattens observations (the keys of a ``Dict`` side by side) and standardises them by the dataset's statistics, which are
    saved with the policy: ``predict`` takes raw observations. Until ``fit`` it only flattens.

    :param observation_space: ``Box`` of floats, or a ``Dict`` of such
    """

    mean: th.Tensor
    scale: th.Tensor

    def __init__(self, observation_space: gym.Space):
        super().__init__(observation_space, spaces.flatdim(observation_space))
        self.register_buffer("mean", th.zeros(self.features_dim))
        self.register_buffer("scale", th.ones(self.features_dim))

    def fit(self, dataset: OfflineDataset, epsilon: float = 1e-3) -> None:
        """Mean and standard deviation (plus ``epsilon``) of the dataset's observations, computed in float64."""
        parts = dataset.observations
        if isinstance(parts, dict):  # in the order that forward has, whatever that of the data is
            parts = [parts[key] for key in self._observation_space]  # type: ignore[attr-defined]
        else:
            parts = [parts]
        flat = np.concatenate([part.reshape(len(part), -1).astype(np.float64) for part in parts], 1)
        self.mean.copy_(th.as_tensor(flat.mean(0)))
        self.scale.copy_(th.as_tensor(flat.std(0) + epsilon))

    def forward(self, observations: Any) -> th.Tensor:
        if isinstance(observations, dict):
            observations = th.cat([observations[key].flatten(1) for key in self._observation_space], 1)  # type: ignore[attr-defined]
        return (observations.flatten(1).float() - self.mean) / self.scale


def reward_map(transform: str | tuple[float, float], dataset: OfflineDataset | None) -> tuple[float, float]:
    """
    Scale and shift of rewards: ``scale * r + shift``.

    :param transform: ``"none"``; ``"return_range"``: the range of the episodes' returns becomes 1000; or the two numbers
    :param dataset: of which the range is
    :raises DatasetError: if all returns are alike, or not known
    :raises ValueError: if it is none of these, or the range of no dataset
    """
    if transform == "none":
        return 1.0, 0.0
    if transform == "return_range" and dataset is None:
        raise ValueError("reward_transform='return_range' is of a dataset's returns; without a dataset give (scale, shift).")
    if transform == "return_range" and dataset is not None:
        returns = dataset.played_returns
        if not len(returns):
            raise DatasetError(f"{dataset.source} is of single transitions: nobody knows the range of its returns.")
        spread = float(returns.max() - returns.min())
        if spread == 0:
            raise DatasetError(f"{dataset.source}: all {len(returns)} episodes have the same return, so there is no range.")
        return RETURN_RANGE / spread, 0.0
    if isinstance(transform, list | tuple) and len(transform) == 2:
        return float(transform[0]), float(transform[1])
    raise ValueError(f"reward_transform={transform!r} must be 'none', 'return_range' or (scale, shift).")
