"""From a robot's observations to features (HIL-SERL, Luo et al. 2024, https://arxiv.org/abs/2410.21845)."""

from pathlib import Path
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from sb3_pgr.common.networks import RunningNorm
from sb3_pgr.common.vision import CameraEncoder


def image_keys(space: spaces.Space) -> list[str]:
    """Entries of a Dict that are images; ``[""]`` for an image alone."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {"": space}
    return [key for key, part in parts.items() if is_image_space(part)]


class HybridExtractor(BaseFeaturesExtractor):
    """
    Features of robot observations: ``CameraEncoder`` for images; all other entries, standardised by their running
    statistics and clipped to 10, through a linear layer, layer norm and tanh. Without images the standardised state itself.

    :param observation_space: a flat ``Box``, an image, or a ``Dict`` of such
    :param image_encoder: see ``CameraEncoder``
    :param image_features: see ``CameraEncoder``
    :param trunk_weights: see ``CameraEncoder``
    :param freeze_trunk: see ``CameraEncoder``
    :param state_features: features of the state, beside images
    :param normalize_state: standardise the state
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        image_encoder: str = "small",
        image_features: int = 256,
        trunk_weights: str | Path | None = None,
        freeze_trunk: bool = False,
        state_features: int = 64,
        normalize_state: bool = True,
    ):
        parts = dict(observation_space.spaces) if isinstance(observation_space, spaces.Dict) else {"": observation_space}
        others = [key for key, space in parts.items() if not isinstance(space, spaces.Box)]
        if others:
            raise ValueError(f"Observations must be Boxes, and {', '.join(others)} is none: wrap the environment.")
        images = {key: parts[key] for key in image_keys(observation_space)}
        states = {key: space for key, space in parts.items() if key not in images}
        unclear = [key or "the observation" for key, space in states.items() if len(space.shape or ()) > 2]
        if unclear:
            raise ValueError(f"{', '.join(unclear)}: images are uint8 from 0 to 255, with 1, 3 or 4 channels; or flatten it.")
        state_dim = sum(spaces.flatdim(space) for space in states.values())
        cameras = CameraEncoder(images, image_encoder, image_features, trunk_weights, freeze_trunk) if images else None
        of_cameras = cameras.features_dim if cameras else 0
        of_state = state_features if cameras and states else state_dim
        super().__init__(observation_space, of_cameras + of_state)
        self.image_keys, self.state_keys = list(images), list(states)
        self.cameras = cameras
        self.state_norm = RunningNorm(state_dim) if states and normalize_state else None
        self.state_layer: nn.Module = nn.Identity()
        if cameras and states:
            self.state_layer = nn.Sequential(nn.Linear(state_dim, state_features), nn.LayerNorm(state_features), nn.Tanh())

    def state_of(self, observations: Any) -> th.Tensor | None:
        """Everything but images, as one ``(batch, state_dim)``."""
        if not self.state_keys:
            return None
        parts = observations if isinstance(observations, dict) else {"": observations}
        return th.cat([parts[key].flatten(1).float() for key in self.state_keys], 1)

    def forward(self, observations: Any) -> th.Tensor:
        features, state = [], self.state_of(observations)
        if self.cameras is not None:
            features.append(self.cameras(observations if isinstance(observations, dict) else {"": observations}))
        if state is not None:
            features.append(self.state_layer(state if self.state_norm is None else self.state_norm(state)))
        return th.cat(features, 1)
