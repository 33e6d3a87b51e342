"""What a relevance function is."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th

from sb3_pgr.generative.critics import ModelValues

Transitions = Mapping[str, th.Tensor]


class Relevance:
    """
    Gives every transition a number; the generator is asked for transitions with high ones.

    To write your own, define ``values``. Transitions are a dict of tensors of ``n`` rows: ``observations (n, obs_dim)``
    and ``next_observations``, flat and as the environment gave them; ``actions (n, action_dim)`` in [-1, 1] (discrete ones
    as an index ``(n, 1)``); ``rewards (n, 1)``; ``dones (n, 1)``, true ends alone; ``episode_ends (n, 1)``, time limits
    too. Real rows come in the order of their collection, one environment after the other.
    """

    update_every: int = 0
    """Transitions per training step (``update``); 0 if there is nothing to train."""
    batch_size: int = 256
    """Rows of a training step."""
    cuda_graph: bool = False
    """Training steps may be run as CUDA graphs; set before ``setup``."""
    unconditional: ClassVar[bool] = False
    """All transitions are alike: the generator needs no condition."""
    of_real_rows_only: ClassVar[bool] = False
    """Needs the order of real rows, so that generated ones have no value."""
    needs_model: ClassVar[bool] = False
    """Needs ``self.model``, the values and actions of the learning algorithm."""

    model: ModelValues | None = None

    def setup(self, obs_dim: int, action_dim: int, n_actions: int, device: th.device) -> None:
        """Build what there is to build (global random numbers are kept aside); ``n_actions`` is 0 for continuous ones."""

    def update(self, transitions: Transitions) -> dict[str, float]:
        """One training step on ``batch_size`` real rows; returns what is worth logging."""
        return {}

    def observe(self, real: Transitions) -> None:
        """All real rows, before their values are asked for; for what compares with them."""

    def values(self, transitions: Transitions) -> th.Tensor:
        """Relevance of each row ``(n,)``, finite."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What training has changed."""
        return {}

    def load_state_dict(self, state: dict[str, Any], strict: bool = True) -> None:
        """Put back what ``state_dict`` returned."""


def checked_values(relevance: Relevance, transitions: Transitions) -> th.Tensor:
    """
    Relevance of each row ``(n,)`` in float32.

    :raises ValueError: if it is of another shape or not finite, naming the class
    """
    with th.no_grad():
        values = relevance.values(transitions)
    n, name = len(transitions["rewards"]), type(relevance).__name__
    if not isinstance(values, th.Tensor) or values.shape != (n,):
        shape = tuple(values.shape) if isinstance(values, th.Tensor) else type(values).__name__
        raise ValueError(f"Relevance {name} must return a tensor of shape ({n},), got {shape}.")
    bad = int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"Relevance {name} returned {bad} of {n} values that are not finite.")
    return values.detach().float()
