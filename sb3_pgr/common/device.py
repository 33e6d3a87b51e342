"""Where to compute, and in what."""

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.utils import get_device


def choose_device(device: th.device | str = "auto", space: spaces.Space | None = None) -> th.device:
    """
    The device itself; for ``"auto"`` CUDA, or else MPS, or else the CPU, whichever is there first (SB3 leaves MPS out).

    :param space: of observations; with float64 in it MPS, which has none, is left out too
    """
    if device == "auto" and not th.cuda.is_available() and th.backends.mps.is_available() and not _has_float64(space):
        return th.device("mps")
    return get_device(device)


def _has_float64(space: Any) -> bool:
    return (
        any(map(_has_float64, space.values())) if isinstance(space, spaces.Dict) else getattr(space, "dtype", 0) == np.float64
    )


def widest_float(device: th.device) -> th.dtype:
    """float64 wherever there is such a thing."""
    return th.float32 if device.type == "mps" else th.float64
