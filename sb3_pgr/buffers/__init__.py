"""Replay buffers in torch, usable in any SB3 project through ``replay_buffer_class``."""

from sb3_pgr.buffers.tensor_replay import TensorReplayBuffer, sample_block

__all__ = ["TensorReplayBuffer", "sample_block"]
