"""What a result file says about where it comes from."""

import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "sb3_pgr",
    "torch",
    "stable_baselines3",
    "gymnasium",
    "mujoco",
    "dm_control",
    "numpy",
    "sbx-rl",
    "jax",
    "torchrl",
    "cpprb",
)


def provenance(seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Command, seeds, machine and versions."""
    import torch as th

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "command": " ".join(["python", "benchmarks/" + Path(sys.argv[0]).name, *map(_anywhere, sys.argv[1:])]),
        "seeds": list(seeds),
        "machine": {"cpu": cpu_name(), "cores": os.cpu_count(), "gpu": gpu_name(th)},
        "versions": {"python": platform.python_version(), **versions},
    }


def _anywhere(argument: str) -> str:
    """An absolute path without its folders, which mean nothing on another machine."""
    return Path(argument).name if Path(argument).is_absolute() else argument


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def gpu_name(th: Any) -> str | None:
    return th.cuda.get_device_name() if th.cuda.is_available() else None
