"""Averaged weights of a network in training."""

from collections.abc import Sequence

import torch as th
from torch import nn
from torch.optim.swa_utils import AveragedModel

_REACH = 10  # the average reaches back a tenth of a fit


class WarmupEMA:
    """
    Exponential moving average of a network over one fit, whose decay grows with its age: ``1 - (1 + n) ** (-2/3)`` after
    ``n`` counted steps, up to ``decay``, and never so far that the average reaches back more than a tenth of the fit (in short
    ones it would draw from weights long left behind). A copy until step ``copy_until``.

    :param network: the network in training
    :param decay: largest decay
    :param update_every: training steps between updates of the average
    :param copy_until: training steps during which the average is the network itself
    """

    def __init__(self, network: nn.Module, decay: float = 0.995, update_every: int = 10, copy_until: int = 100):
        self.decay, self.update_every, self.copy_until = decay, update_every, copy_until
        self.step, self._largest = -1, decay
        self._average = AveragedModel(network, multi_avg_fn=self._average_lists, use_buffers=False)
        self._average.module.requires_grad_(False).eval()
        self._average.update_parameters(network)

    def restart(self, n_steps: int) -> None:
        """A fit of so many steps begins."""
        updates = max(n_steps / (_REACH * self.update_every), 1.0)
        self.step, self._largest = -1, min(self.decay, 1 - 1 / updates)

    @property
    def network(self) -> nn.Module:
        """The averaged network."""
        return self._average.module

    def current_decay(self) -> float:
        """The decay of an update now; 0 copies."""
        n = self.step - self.copy_until - 1
        return min(max(1 - (1 + n) ** (-2 / 3), 0.0), self._largest) if n > 0 else 0.0

    def update(self, network: nn.Module) -> None:
        """Count a training step of the network; at every ``update_every``-th move the average."""
        self.step += 1
        if self.step % self.update_every == 0:
            self._average.update_parameters(network)

    def _average_lists(self, average: Sequence[th.Tensor], current: Sequence[th.Tensor], _: th.Tensor | int) -> None:
        th._foreach_lerp_(list(average), list(current), 1 - self.current_decay())
