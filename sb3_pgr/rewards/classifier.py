"""Tells from camera images whether a task is done (HIL-SERL, Luo et al. 2024, section 3.5)."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_pgr.common.vision import CameraEncoder

_FORMAT = "sb3_pgr reward classifier"


class ClassifierError(ValueError):
    """A classifier, or what it is to learn from, is missing or does not fit; the message says what was expected."""


class RewardClassifier(nn.Module):
    """
    Camera features, a hidden layer, and the logit of success.

    :param image_shapes: of each camera, height, width, channels
    :param image_encoder: ``"small"`` or ``"resnet10"``
    :param image_features: features of each camera
    :param threshold: probability from which on it is success
    :raises ValueError: if the cameras' images differ in size
    """

    def __init__(
        self,
        image_shapes: Mapping[str, Sequence[int]],
        image_encoder: str = "small",
        image_features: int = 256,
        threshold: float = 0.5,
    ):
        super().__init__()
        self.image_shapes = {key: tuple(int(size) for size in shape) for key, shape in image_shapes.items()}
        self.image_encoder, self.image_features, self.threshold = image_encoder, image_features, threshold
        first = {key: spaces.Box(0, 255, (c, h, w), np.uint8) for key, (h, w, c) in self.image_shapes.items()}
        self.cameras = CameraEncoder(first, image_encoder, image_features)
        self.head = nn.Sequential(
            nn.Linear(self.cameras.features_dim, 256), nn.Dropout(0.1), nn.LayerNorm(256), nn.ReLU(), nn.Linear(256, 1)
        )
        self.eval()

    @property
    def image_keys(self) -> list[str]:
        """Names of the cameras."""
        return list(self.image_shapes)

    def forward(self, images: Mapping[str, th.Tensor]) -> th.Tensor:
        """Logits ``(batch,)`` of images ``(batch, channels, height, width)``, uint8."""
        return self.head(self.cameras({key: images[key].float() / 255 for key in self.image_keys})).squeeze(1)

    @th.no_grad()
    def probability(self, images: Mapping[str, np.ndarray]) -> np.ndarray:
        """
        Of success ``(batch,)``.

        :param images: uint8, height, width, channels; ``(batch, ...)``
        :raises ClassifierError: if a camera is missing, or its images are of another size or type
        """
        device = next(self.parameters()).device
        tensors = {key: self._tensor(key, images, device) for key in self.image_keys}
        return th.sigmoid(self(tensors)).cpu().numpy()

    def _tensor(self, key: str, images: Mapping[str, np.ndarray], device: th.device) -> th.Tensor:
        if key not in images:
            raise ClassifierError(f"The classifier looks at {self.image_keys}; there is no {key!r} among {sorted(images)}.")
        value = np.asarray(images[key])
        if value.shape[1:] != self.image_shapes[key] or value.dtype != np.uint8:
            raise ClassifierError(
                f"The classifier learned from {key!r} images of shape {self.image_shapes[key]}, uint8; these are "
                f"{value.shape[1:]}, {value.dtype}."
            )
        return th.as_tensor(value, device=device).permute(0, 3, 1, 2)

    def predict_success(self, obs: Mapping[str, np.ndarray]) -> tuple[float, bool]:
        """
        Of one observation: the probability of success, and whether it reaches the threshold.

        :raises ClassifierError: see ``probability``
        """
        probability = float(self.probability({key: np.asarray(value)[None] for key, value in obs.items()})[0])
        return probability, probability >= self.threshold

    def save(self, path: str | Path) -> None:
        """Write weights and settings, under a temporary name first."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        settings = {
            "image_shapes": {key: list(shape) for key, shape in self.image_shapes.items()},
            "image_encoder": self.image_encoder,
            "image_features": self.image_features,
            "threshold": float(self.threshold),
        }
        temporary = path.with_name(f".writing-{path.name}")
        th.save({"format": _FORMAT, "settings": settings, "state_dict": self.state_dict()}, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path, device: th.device | str = "cpu") -> "RewardClassifier":
        """
        :raises ClassifierError: if there is no such file, or it is none of a classifier
        """
        path = Path(path)
        if not path.is_file():
            raise ClassifierError(f"There is no classifier {path}; make one with: sb3-pgr classifier train")
        try:
            saved: dict[str, Any] = th.load(path, map_location=device, weights_only=True)
            if saved["format"] != _FORMAT:
                raise KeyError("format")
            classifier = cls(**saved["settings"])
            classifier.load_state_dict(saved["state_dict"])
        except Exception as error:  # torch raises many kinds on files that are something else
            raise ClassifierError(f"{path} is no classifier of this library: {error}") from None
        return classifier.to(device).eval()
