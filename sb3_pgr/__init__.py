"""
Stable-Baselines3 extensions for learning from more than live experience.

Importing the package registers its Gymnasium environments; algorithms are imported when they are first named.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sb3_pgr.envs import choose_renderer, register_envs
from sb3_pgr.version import __version__

if TYPE_CHECKING:
    from sb3_pgr.bc import BC
    from sb3_pgr.bcq import BCQ
    from sb3_pgr.buffers import (
        DemonstrationReplayBuffer,
        EpisodeStats,
        EpisodeStatsCallback,
        MixtureReplayBuffer,
        PrioritizedReplayBuffer,
        PrioritizedReplayCallback,
        SequenceReplayBuffer,
        TensorReplayBuffer,
        TensorRolloutBuffer,
    )
    from sb3_pgr.cql import CQL
    from sb3_pgr.generative import GenerativeReplayBuffer, GenerativeReplayCallback, Relevance, TransitionGenerator
    from sb3_pgr.hybrid_sac import HybridSAC
    from sb3_pgr.iql import IQL
    from sb3_pgr.offline import OfflineDataset, load_dataset
    from sb3_pgr.pgrsac import PGRSAC
    from sb3_pgr.redq import REDQ
    from sb3_pgr.td3_bc import TD3BC


__all__ = [
    "BC",
    "BCQ",
    "CQL",
    "IQL",
    "PGRSAC",
    "REDQ",
    "TD3BC",
    "DemonstrationReplayBuffer",
    "EpisodeStats",
    "EpisodeStatsCallback",
    "GenerativeReplayBuffer",
    "GenerativeReplayCallback",
    "HybridSAC",
    "MixtureReplayBuffer",
    "OfflineDataset",
    "PrioritizedReplayBuffer",
    "PrioritizedReplayCallback",
    "Relevance",
    "SequenceReplayBuffer",
    "TensorReplayBuffer",
    "TensorRolloutBuffer",
    "TransitionGenerator",
    "__version__",
    "load_dataset",
]

_WHERE = {
    "BC": "sb3_pgr.bc",
    "BCQ": "sb3_pgr.bcq",
    "CQL": "sb3_pgr.cql",
    "HybridSAC": "sb3_pgr.hybrid_sac",
    "IQL": "sb3_pgr.iql",
    "OfflineDataset": "sb3_pgr.offline",
    "load_dataset": "sb3_pgr.offline",
    "PGRSAC": "sb3_pgr.pgrsac",
    "REDQ": "sb3_pgr.redq",
    "TD3BC": "sb3_pgr.td3_bc",
    "GenerativeReplayBuffer": "sb3_pgr.generative",
    "GenerativeReplayCallback": "sb3_pgr.generative",
    "Relevance": "sb3_pgr.generative",
    "TransitionGenerator": "sb3_pgr.generative",
    **{
        name: "sb3_pgr.buffers"
        for name in (
            "DemonstrationReplayBuffer",
            "EpisodeStats",
            "EpisodeStatsCallback",
            "MixtureReplayBuffer",
            "PrioritizedReplayBuffer",
            "PrioritizedReplayCallback",
            "SequenceReplayBuffer",
            "TensorReplayBuffer",
            "TensorRolloutBuffer",
        )
    },
}

choose_renderer()
register_envs()


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        return getattr(importlib.import_module(_WHERE[name]), name)
    raise AttributeError(f"module 'sb3_pgr' has no attribute '{name}'")
