"""Buffers in torch, usable in any SB3 project and without SB3."""

from sb3_pgr.buffers.demonstrations import DemonstrationReplayBuffer, GraspReplayBuffer
from sb3_pgr.buffers.episode_stats import EpisodeStats, EpisodeStatsCallback
from sb3_pgr.buffers.gae import generalized_advantages
from sb3_pgr.buffers.mixture import MixtureReplayBuffer
from sb3_pgr.buffers.prioritized import PrioritizedReplayBuffer
from sb3_pgr.buffers.prioritized_callback import PrioritizedReplayCallback
from sb3_pgr.buffers.rollout import TensorRolloutBuffer
from sb3_pgr.buffers.samples import SequenceSamples, WeightedSamples, sample_block, seed_replay
from sb3_pgr.buffers.sequence import SequenceReplayBuffer
from sb3_pgr.buffers.tensor_replay import TensorReplayBuffer

__all__ = [
    "DemonstrationReplayBuffer",
    "EpisodeStats",
    "EpisodeStatsCallback",
    "GraspReplayBuffer",
    "MixtureReplayBuffer",
    "PrioritizedReplayBuffer",
    "PrioritizedReplayCallback",
    "SequenceReplayBuffer",
    "SequenceSamples",
    "TensorReplayBuffer",
    "TensorRolloutBuffer",
    "WeightedSamples",
    "generalized_advantages",
    "sample_block",
    "seed_replay",
]
