"""Sums over many numbers, for drawing an index in proportion to its number."""

import numpy as np
import torch as th

from sb3_pgr.common.device import widest_float

_SHIFT = 6
WIDTH = 2**_SHIFT
_TOP = 2**14  # searched as a whole
# Uniform numbers are scaled by this, so that rounding never lifts a target to the total itself.
_BELOW_ONE = 1 - 2.0**-20
_IN_TURN = 32_768  # so many values are copied one after the other; more by several threads, in any order


class SumTree:
    """
    A tree of sums with 64 children a node and a wide top: a million leaves are two levels, and every operation is a
    handful of tensor operations on a whole batch, on any device. Numbers are float32, the running sum over the top is
    wider.

    :param size: number of leaves, all zero at first
    :param device: where the tree lives
    """

    def __init__(self, size: int, device: th.device | str = "cpu"):
        self.size, self.device = size, th.device(device)
        self._wide = widest_float(self.device)
        self._strata = th.empty(0)
        self._levels: list[th.Tensor] = []  # leaves first; each level is padded to whole nodes
        n = size
        while True:
            n_nodes = -(-n // WIDTH)
            self._levels.append(_zeros(n_nodes * WIDTH, self.device))
            if len(self._levels[-1]) <= _TOP:
                break
            n = n_nodes

    @property
    def leaves(self) -> th.Tensor:
        """The numbers, ``(size,)``; to be changed with ``update`` and ``fill`` only."""
        return self._levels[0][: self.size]

    def total(self) -> th.Tensor:
        """Sum of all leaves, as a tensor without axes."""
        return self._levels[-1].sum(dtype=self._wide)

    def update(self, index: th.Tensor, value: th.Tensor) -> None:
        """Set leaves ``index`` ``(n,)`` to ``value`` ``(n,)``, not negative; of an index given twice the last value stays."""
        if self.device.type != "cpu" or len(index) > _IN_TURN:
            order = index.argsort(stable=True)
            index = index[order]
            last = th.searchsorted(index, index, right=True) - 1
            value = value[order[last]]  # the same for all of an index, so that it does not matter who writes last
        self._levels[0].index_copy_(0, index, value.float())
        node = index
        for children, parents in zip(self._levels[:-1], self._levels[1:], strict=True):
            node = node >> _SHIFT
            # Recomputed from the children, not adjusted by the change: sums do not drift.
            parents.index_copy_(0, node, children.view(-1, WIDTH).index_select(0, node).sum(1))

    def fill(self, start: int, stop: int, value: th.Tensor | float) -> None:
        """Set the leaves from ``start`` to ``stop`` to ``value``, a number or ``(stop - start,)``."""
        if stop <= start:
            return
        self._levels[0][start:stop] = value
        for children, parents in zip(self._levels[:-1], self._levels[1:], strict=True):
            start, stop = start // WIDTH, -(-stop // WIDTH)
            parents[start:stop] = children.view(-1, WIDTH)[start:stop].sum(1)

    def sample(self, n: int, generator: th.Generator, batches: int = 1) -> th.Tensor:
        """
        Draw indices, each with a probability in proportion to its leaf; leaves of zero are never drawn.

        The draws of a batch are stratified: its ``k``-th comes from the ``k``-th of ``n`` equal parts of the total
        (Schaul et al. 2016, appendix B.2.1).

        :param n: draws in a batch
        :param generator: source of the random numbers, on the tree's device
        :param batches: number of batches
        :return: ``(batches * n,)``, batch after batch. If all leaves are zero, anything
        """
        count = batches * n
        if len(self._strata) != n:
            self._strata = th.arange(n, dtype=self._wide, device=self.device) / n
        uniform = th.rand((len(self._levels), count, 1), generator=generator, device=self.device).mul_(_BELOW_ONE)
        sums = self._levels[-1].cumsum(0, dtype=self._wide)
        target = self._strata.add(uniform[0].view(batches, n), alpha=1 / n).mul_(sums[-1]).flatten()
        index = th.searchsorted(sums, target, right=True).clamp_(max=len(sums) - 1)
        # A new number for every level: one alone has not the digits for a fair choice among millions.
        for level, number in zip(self._levels[-2::-1], uniform[1:], strict=True):
            sums = level.view(-1, WIDTH).index_select(0, index).cumsum(1)
            child = th.searchsorted(sums, number * sums[:, -1:], right=True).squeeze(1)
            index = child.clamp_(max=WIDTH - 1).add_(index, alpha=WIDTH)
        return index


def _zeros(n: int, device: th.device) -> th.Tensor:
    if device.type == "cpu":  # numpy asks for large pages, which random access gains from
        return th.from_numpy(np.zeros(n, np.float32))
    return th.zeros(n, device=device)
