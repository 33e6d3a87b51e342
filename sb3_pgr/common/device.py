"""Where to compute."""

import torch as th
from stable_baselines3.common.utils import get_device


def choose_device(device: th.device | str = "auto") -> th.device:
    """The device itself; for ``"auto"`` CUDA, or else MPS, or else the CPU, whichever is there first (SB3 leaves MPS out)."""
    if device == "auto" and not th.cuda.is_available() and th.backends.mps.is_available():
        return th.device("mps")
    return get_device(device)
