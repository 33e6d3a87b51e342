"""What a result says about where it comes from: machine and versions."""

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch as th

PACKAGES = ("sb3_pgr", "torch", "stable_baselines3", "sb3_contrib", "gymnasium", "mujoco", "dm_control", "numpy")


def machine() -> dict[str, Any]:
    """Processor, number of cores, and graphics card if there is one."""
    gpu = th.cuda.get_device_name() if th.cuda.is_available() else None
    return {"cpu": _cpu_name(), "cores": os.cpu_count(), "gpu": gpu}


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """Of python, and of those packages that are installed."""
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
