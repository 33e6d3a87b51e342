"""Averaged weights of a network that goes on learning for as long as it likes."""

import numpy as np
import torch as th
from torch import nn

_WIDEST = 12**-0.5  # of all updates, each weighing the same


class PowerAverage(nn.Module):
    """
    The average of the weights that a network has had, update ``t`` weighing ``t ** gamma`` (power-function average, Karras et
    al. 2024, https://arxiv.org/abs/2312.02696, section 3.1): it reaches back over the same share of all updates however
    long a run gets, and forgets where it began. Of buffers it has the latest values.

    :param network: a network like the one in training, where it begins; becomes the average. Parts that both have stay
    :param width: standard deviation of the averaged updates' numbers, as a share of all so far; 0.05 is about the last tenth
    :raises ValueError: if the width is not above 0 and below 0.289, that of a plain mean
    """

    n_updates: th.Tensor

    def __init__(self, network: nn.Module, width: float):
        super().__init__()
        self.network = network
        self.eval()
        self.gamma = power_of_width(width)
        self.register_buffer("n_updates", th.zeros((), dtype=th.int64))

    def train(self, mode: bool = True) -> "PowerAverage":
        """Nothing is learned from an average: it stays in evaluation mode."""
        return super().train(False)

    def restart(self) -> None:
        """Forget all weights at the next update."""
        self.n_updates.zero_()

    @th.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights of the network in training."""
        self.n_updates += 1
        weight = -th.expm1((self.gamma + 1) * th.log1p(-1 / self.n_updates))
        for mean, parameter in zip(self.network.parameters(), network.parameters(), strict=True):
            if mean is not parameter:
                mean.lerp_(parameter, weight.to(mean.dtype))
        for own, latest in zip(self.network.buffers(), network.buffers(), strict=True):
            if own is not latest:
                own.copy_(latest)


def power_of_width(width: float) -> float:
    """The exponent whose average has this relative standard deviation (Karras et al. 2024, appendix C)."""
    if not 0 < width < _WIDEST:
        ends = f"above 0 and below {_WIDEST:.3f}, that of a plain mean"
        raise ValueError(f"The width of an average, {width}, must be {ends}; None is no average.")
    # width**2 = (gamma + 1) / ((gamma + 2)**2 * (gamma + 3))
    return float(np.roots([1, 7, 16 - width**-2, 12 - width**-2]).real.max())
