"""Batches that buffers return beyond SB3's own."""

from typing import Any, NamedTuple

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize


class WeightedSamples(NamedTuple):
    """
    SB3's ``ReplayBufferSamples`` and what prioritized replay adds to it.

    ``weights`` are the importance weights ``(batch, 1)``; ``indices`` ``(batch,)`` say to ``update_priorities`` which
    rows these are.
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None = None
    weights: th.Tensor | None = None
    indices: th.Tensor | None = None


class SequenceSamples(NamedTuple):
    """
    Windows of consecutive rows: tensors ``(batch, window, ...)``.

    ``masks`` ``(batch, window)`` is False where an episode was shorter than the window; what lies there is zero.
    ``episode_starts`` ``(batch, window)`` says at which rows a recurrent state has to be reset, ``states`` holds the
    stored recurrent states before the window's first row, ``(batch, ...)`` each.
    """

    observations: Any
    actions: th.Tensor
    next_observations: Any
    dones: th.Tensor
    rewards: th.Tensor
    discounts: th.Tensor | None
    masks: th.Tensor
    episode_starts: th.Tensor
    states: dict[str, th.Tensor]


def seed_replay(buffer: ReplayBuffer | None, seed: int | None) -> None:
    """Of a model that is given a seed; SB3's buffers draw from numpy's global generator."""
    if seed is not None and buffer is not None and hasattr(buffer, "manual_seed"):
        buffer.manual_seed(seed)


def sample_block(buffer: ReplayBuffer, gradient_steps: int, batch_size: int, env: VecNormalize | None = None) -> Any:
    """
    A block ``(gradient_steps, batch_size, ...)`` from any SB3 replay buffer: in one gather where the buffer can,
    otherwise by stacking ``gradient_steps`` calls of its ``sample``.
    """
    if hasattr(buffer, "sample_block"):
        return buffer.sample_block(gradient_steps, batch_size, env)
    batches = [buffer.sample(batch_size, env=env) for _ in range(gradient_steps)]

    def stack(values: tuple[Any, ...]) -> Any:
        if values[0] is None:
            return None
        if isinstance(values[0], dict):
            return {key: th.stack([value[key] for value in values]) for key in values[0]}
        return th.stack(values)

    return type(batches[0])(*(stack(field) for field in zip(*batches, strict=True)))
