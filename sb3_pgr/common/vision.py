"""From camera images to features (HIL-SERL, Luo et al. 2024, https://arxiv.org/abs/2410.21845)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
import torch.nn.functional as F
from gymnasium import spaces
from torch import nn

IMAGE_ENCODERS = ("small", "resnet10")
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class SmallCNN(nn.Sequential):
    """
    Four convolutions of stride 2, each followed by group norm; a sixteenth of the image's height and width remains.

    :param channels: of the images
    :param width: channels inside and of the output
    """

    def __init__(self, channels: int, width: int = 32):
        layers: list[nn.Module] = []
        for i in range(4):
            layers += [
                nn.Conv2d(channels if i == 0 else width, width, 3, stride=2, padding=1),
                nn.GroupNorm(4, width),
                nn.ReLU(),
            ]
        super().__init__(*layers)


class ResNet10(nn.Module):
    """
    ResNet with one basic block per stage and group norm in place of batch norm, so that training, acting and target
    networks compute the same: 64, 128, 256, 512 channels; a thirty-second of height and width remains.

    :param channels: of the images
    """

    def __init__(self, channels: int):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False),
            nn.GroupNorm(4, 64),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = (64, 64, 128, 256, 512)
        self.stages = nn.ModuleList(_BasicBlock(widths[i], widths[i + 1], stride=1 if i == 0 else 2) for i in range(4))

    def forward(self, images: th.Tensor) -> th.Tensor:
        x = self.stem(images)
        for stage in self.stages:
            x = stage(x)
        return x


class _BasicBlock(nn.Module):
    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(4, width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(4, width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != width:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, width, 1, stride=stride, bias=False), nn.GroupNorm(4, width))

    def forward(self, x: th.Tensor) -> th.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class SpatialEmbeddings(nn.Module):
    """
    Learned weights over the places of a feature map, ``n`` sets of them per channel: where something is stays known, which
    pooling would lose.

    :param shape: of the feature map ``(channels, height, width)``
    :param n: sets of weights
    """

    def __init__(self, shape: tuple[int, int, int], n: int = 8):
        super().__init__()
        self.kernel = nn.Parameter(th.empty(*shape, n))
        nn.init.normal_(self.kernel, std=(shape[1] * shape[2]) ** -0.5)

    def forward(self, x: th.Tensor) -> th.Tensor:
        """Map ``(batch, C, H, W)`` to ``(batch, C * n)``."""
        return th.einsum("bchw,chwn->bcn", x, self.kernel).flatten(1)


class CameraEncoder(nn.Module):
    """
    Images of several cameras to features: one convolutional trunk for all, and for each camera spatial embeddings, a linear
    layer, layer norm and tanh.

    :param image_spaces: of each camera, channels first
    :param image_encoder: ``"small"`` or ``"resnet10"``
    :param image_features: features of each camera
    :param trunk_weights: file with a ``state_dict`` of the trunk, which is then frozen
    :param freeze_trunk: whether the trunk stays as it is; always with ``trunk_weights``
    :raises ValueError: if the cameras' images are of different sizes, or the file does not fit
    """

    mean: th.Tensor
    std: th.Tensor

    def __init__(
        self,
        image_spaces: Mapping[str, spaces.Space],
        image_encoder: str = "small",
        image_features: int = 256,
        trunk_weights: str | Path | None = None,
        freeze_trunk: bool = False,
    ):
        super().__init__()
        if image_encoder not in IMAGE_ENCODERS:
            raise ValueError(f"image_encoder={image_encoder!r} is not known; choose one of {', '.join(IMAGE_ENCODERS)}.")
        shapes = {key: tuple(space.shape or ()) for key, space in image_spaces.items()}
        if len(set(shapes.values())) > 1:
            raise ValueError(f"All cameras must have images of one size, to share an encoder; got {shapes}.")
        self.keys = list(image_spaces)
        channels, *size = next(iter(shapes.values()))
        self.trunk: nn.Module = SmallCNN(channels) if image_encoder == "small" else ResNet10(channels)
        if trunk_weights is not None:
            self._load_trunk(trunk_weights)
        if trunk_weights is not None or freeze_trunk:
            self.trunk.requires_grad_(False)
        with th.no_grad():
            shape = self.trunk(th.zeros(1, channels, *size)).shape[1:]
        self.heads = nn.ModuleList()
        for _ in self.keys:
            embeddings = SpatialEmbeddings(tuple(shape))
            bottleneck = nn.Linear(shape[0] * 8, image_features)
            self.heads.append(nn.Sequential(embeddings, bottleneck, nn.LayerNorm(image_features), nn.Tanh()))
        self.features_dim = image_features * len(self.keys)
        mean, std = (_IMAGENET_MEAN, _IMAGENET_STD) if channels == 3 else ((0.5,) * channels, (0.25,) * channels)
        self.register_buffer("mean", th.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", th.tensor(std).view(-1, 1, 1))

    def _load_trunk(self, path: str | Path) -> None:
        try:
            self.trunk.load_state_dict(th.load(path, map_location="cpu", weights_only=True))
        except Exception as error:
            raise ValueError(
                f"trunk_weights={str(path)!r} is no state_dict of {type(self.trunk).__name__}: {error}"
            ) from error

    def forward(self, images: dict[str, th.Tensor]) -> th.Tensor:
        """Map images in [0, 1], ``(batch, C, H, W)`` per camera, to ``(batch, features_dim)``."""
        stacked = th.cat([images[key] for key in self.keys])
        maps = self.trunk((stacked - self.mean) / self.std).chunk(len(self.keys))
        return th.cat([head(of_camera) for head, of_camera in zip(self.heads, maps, strict=True)], 1)


def shifted(images: th.Tensor, offsets: th.Tensor) -> th.Tensor:
    """
    Images moved by whole pixels, their borders repeated (DrQ, Kostrikov et al. 2021: pad by 4 and crop anywhere).

    :param images: ``(batch, C, H, W)``
    :param offsets: rows and columns, ``(batch, 2)``; positive ones show what lies further down and right
    """
    height, width = images.shape[-2:]
    rows = (th.arange(height, device=images.device) + offsets[:, :1]).clamp(0, height - 1)
    columns = (th.arange(width, device=images.device) + offsets[:, 1:]).clamp(0, width - 1)
    moved = images.gather(2, rows[:, None, :, None].expand(-1, images.shape[1], -1, width))
    return moved.gather(3, columns[:, None, None, :].expand(-1, images.shape[1], height, -1))


def images_as_in(values: Any, space: spaces.Space | None) -> Any:
    """
    Recorded observations as a model's space has them, to which SB3 gives images with their channels first.

    :param values: ``(n, ...)``, or a mapping of such; images of height, width and channels are transposed, all else stays
    """
    if isinstance(values, Mapping):
        parts = space.spaces if isinstance(space, spaces.Dict) else {}
        return {key: images_as_in(value, parts.get(key)) for key, value in values.items()}
    shape = values.shape[1:]
    if space is not None and len(shape) == 3 and shape != space.shape and (shape[2], *shape[:2]) == space.shape:
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return values
