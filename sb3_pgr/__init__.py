"""
Stable-Baselines3 extensions for learning from more than live experience.

Importing the package registers its Gymnasium environments; algorithms are imported when they are first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_pgr.envs import choose_renderer, register_envs
from sb3_pgr.version import __version__

if TYPE_CHECKING:
    from sb3_pgr.buffers import (
        EpisodeStats,
        EpisodeStatsCallback,
        MixtureReplayBuffer,
        PrioritizedReplayBuffer,
        PrioritizedReplayCallback,
        SequenceReplayBuffer,
        TensorReplayBuffer,
        TensorRolloutBuffer,
    )
    from sb3_pgr.redq import REDQ


__all__ = [
    "REDQ",
    "EpisodeStats",
    "EpisodeStatsCallback",
    "MixtureReplayBuffer",
    "PrioritizedReplayBuffer",
    "PrioritizedReplayCallback",
    "SequenceReplayBuffer",
    "TensorReplayBuffer",
    "TensorRolloutBuffer",
    "__version__",
]

_WHERE = {name: "sb3_pgr.buffers" for name in __all__ if name not in ("REDQ", "__version__")} | {"REDQ": "sb3_pgr.redq"}

choose_renderer()
register_envs()


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'sb3_pgr' has no attribute '{name}'")
