"""Sums over many numbers, for drawing an index in proportion to its number."""

import torch as th

WIDTH = 32
_TOP = 1024
# Uniform numbers are scaled by this, so that rounding never lifts a target to the total itself.
_BELOW_ONE = {th.float64: 1 - 2.0**-40, th.float32: 1 - 2.0**-20}


class SumTree:
    """
    A tree of sums with 32 children a node: a million leaves are three levels, and every operation is a handful of
    tensor operations on a whole batch, on any device.

    :param size: number of leaves, all zero at first
    :param device: where the tree lives
    """

    def __init__(self, size: int, device: th.device | str = "cpu"):
        self.size, self.device = size, th.device(device)
        self.dtype = th.float32 if self.device.type == "mps" else th.float64
        self._levels: list[th.Tensor] = []  # leaves first; each level is padded to whole nodes
        n = size
        while True:
            n_nodes = -(-n // WIDTH)
            self._levels.append(th.zeros(n_nodes * WIDTH, dtype=self.dtype, device=self.device))
            if len(self._levels[-1]) <= _TOP:
                break
            n = n_nodes

    @property
    def leaves(self) -> th.Tensor:
        """The numbers, ``(size,)``; to be changed with ``update`` and ``fill`` only."""
        return self._levels[0][: self.size]

    def total(self) -> th.Tensor:
        """Sum of all leaves, as a tensor without axes."""
        return self._levels[-1].sum()

    def update(self, index: th.Tensor, value: th.Tensor) -> None:
        """Set leaves ``index`` ``(n,)`` to ``value`` ``(n,)``, not negative; of an index given twice either value stays."""
        self._levels[0][index] = value.to(self.dtype)
        node = index
        for children, parents in zip(self._levels[:-1], self._levels[1:], strict=True):
            node = node // WIDTH
            # Recomputed from the children, not adjusted by the change: sums do not drift.
            parents[node] = children.view(-1, WIDTH).index_select(0, node).sum(1)

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
        uniform = th.rand((len(self._levels), count), generator=generator, dtype=self.dtype, device=self.device)
        uniform = uniform * _BELOW_ONE[self.dtype]
        strata = (uniform[0].view(batches, n) + th.arange(n, device=self.device)).flatten() / n
        sums = self._levels[-1].cumsum(0)
        index = th.searchsorted(sums, strata * sums[-1], right=True).clamp_(max=len(sums) - 1)
        # A new number for every level: one alone has not the digits for a fair choice among millions.
        for level, number in zip(self._levels[-2::-1], uniform[1:], strict=True):
            sums = level.view(-1, WIDTH).index_select(0, index).cumsum(1)
            child = th.searchsorted(sums, number.unsqueeze(1) * sums[:, -1:], right=True).squeeze(1)
            index = index * WIDTH + child.clamp_(max=WIDTH - 1)
        return index
