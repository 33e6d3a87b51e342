"""Batches that buffers return beyond SB3's own."""

from typing import Any, NamedTuple

import torch as th


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
