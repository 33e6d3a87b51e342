"""Maps between transitions and the numbers a diffusion model likes, fitted on the real ones."""

from typing import Any

import torch as th

from sb3_pgr.common.device import widest_float


class Normalizer:
    """
    An affine map per dimension.

    :param shift: what becomes 0 ``(d,)``
    :param scale: what becomes 1, counted from there ``(d,)``
    :param low: smallest normalised number of the data it was fitted on ``(d,)``
    :param high: largest one ``(d,)``
    """

    def __init__(self, shift: th.Tensor, scale: th.Tensor, low: th.Tensor, high: th.Tensor):
        self.shift, self.scale, self.low, self.high = shift, scale, low, high

    @classmethod
    def fit(cls, data: th.Tensor) -> "Normalizer":
        """Fit on rows ``(n, d)``."""
        raise NotImplementedError

    def normalize(self, x: th.Tensor) -> th.Tensor:
        return (x - self.shift) / self.scale

    def denormalize(self, x: th.Tensor) -> th.Tensor:
        return x * self.scale + self.shift

    def clamp(self, x: th.Tensor) -> th.Tensor:
        """Normalised numbers within the box of the data."""
        return x.clamp(self.low, self.high)

    def outside(self, x: th.Tensor) -> float:
        """Share of normalised numbers outside that box, widened by a tenth on each side; NaN lies outside."""
        margin = 0.1 * (self.high - self.low).clamp(min=1)
        return 1 - float(((x >= self.low - margin) & (x <= self.high + margin)).float().mean())


class MinMaxNormalizer(Normalizer):
    """The smallest value to -1, the largest to 1."""

    @classmethod
    def fit(cls, data: th.Tensor) -> "MinMaxNormalizer":
        low, high = _wide(data.amin(0)), _wide(data.amax(0)) + 1e-5
        return cls(*_fitted(data, (high + low) / 2, (high - low) / 2))


class StandardNormalizer(Normalizer):
    """Mean to 0, standard deviation to 1."""

    @classmethod
    def fit(cls, data: th.Tensor) -> "StandardNormalizer":
        return cls(*_fitted(data, _wide(data).mean(0), _wide(data).std(0, correction=0) + 1e-5))


def _wide(values: th.Tensor) -> th.Tensor:
    return values.to(widest_float(values.device))


def _fitted(data: th.Tensor, shift: th.Tensor, scale: th.Tensor) -> tuple[th.Tensor, ...]:
    """In float32, but numbers that never change become exactly 0: a rounding error must not be blown up."""
    low, high = data.amin(0), data.amax(0)
    shift = th.where(low == high, data[0], shift.float())
    scale = th.where(low == high, th.ones_like(low), scale.float())
    return shift, scale, (low - shift) / scale, (high - shift) / scale


NORMALIZERS: dict[str, type[Normalizer]] = {"minmax": MinMaxNormalizer, "standard": StandardNormalizer}


class RankCondition:
    """
    A relevance value by its rank among the real rows, in [-1, 1]: heavy tails and scale do not matter.

    :param values: relevance of the real rows ``(n,)``
    """

    def __init__(self, values: th.Tensor):
        self.sorted = values.float().sort().values

    def normalize(self, values: th.Tensor) -> th.Tensor:
        below = th.searchsorted(self.sorted, values.float().contiguous())
        not_above = th.searchsorted(self.sorted, values.float().contiguous(), right=True)
        return (below + not_above).float() / len(self.sorted) - 1  # equal values share their middle rank


class MinMaxCondition:
    """A relevance value between the smallest (-1) and the largest (1) of the real rows."""

    def __init__(self, values: th.Tensor):
        self.low, self.high = _wide(values).min(), _wide(values).max() + 1e-5

    def normalize(self, values: th.Tensor) -> th.Tensor:
        return (2 * (_wide(values) - self.low) / (self.high - self.low) - 1).float()


CONDITIONS: dict[str, Any] = {"rank": RankCondition, "minmax": MinMaxCondition}


def chosen(options: dict[str, Any], name: str, argument: str) -> Any:
    """
    An entry by name.

    :raises ValueError: naming the argument and what there is
    """
    if name not in options:
        raise ValueError(f"{argument}={name!r} is not known; choose one of {', '.join(options)}.")
    return options[name]
