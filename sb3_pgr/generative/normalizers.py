"""Maps between transitions and the numbers a diffusion model likes, fitted on the real ones."""

from typing import Any, ClassVar

import torch as th


class Normalizer:
    """
    An affine map per dimension.

    ``bound`` is what normalised numbers stay within (None: unbounded).
    """

    bound: ClassVar[float | None] = None

    def __init__(self, shift: th.Tensor, scale: th.Tensor):
        self.shift, self.scale = shift, scale

    @classmethod
    def fit(cls, data: th.Tensor) -> "Normalizer":
        """Fit on rows ``(n, d)``."""
        raise NotImplementedError

    def normalize(self, x: th.Tensor) -> th.Tensor:
        return (x - self.shift) / self.scale

    def denormalize(self, x: th.Tensor) -> th.Tensor:
        return x * self.scale + self.shift


class MinMaxNormalizer(Normalizer):
    """The smallest value to -1, the largest to 1: samples never leave the box of the data."""

    bound = 1.0

    @classmethod
    def fit(cls, data: th.Tensor) -> "MinMaxNormalizer":
        low, high = data.amin(0).double(), data.amax(0).double() + 1e-5
        return cls(*_with_constants(data, (high + low) / 2, (high - low) / 2))


class StandardNormalizer(Normalizer):
    """Mean to 0, standard deviation to 1."""

    @classmethod
    def fit(cls, data: th.Tensor) -> "StandardNormalizer":
        return cls(*_with_constants(data, data.double().mean(0), data.double().std(0, correction=0) + 1e-5))


def _with_constants(data: th.Tensor, shift: th.Tensor, scale: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """In float32, but numbers that never change become exactly 0: a rounding error must not be blown up."""
    constant = data.amin(0) == data.amax(0)
    return th.where(constant, data[0], shift.float()), th.where(constant, th.ones_like(data[0]), scale.float())


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
        self.low, self.high = values.double().min(), values.double().max() + 1e-5

    def normalize(self, values: th.Tensor) -> th.Tensor:
        return (2 * (values.double() - self.low) / (self.high - self.low) - 1).float()


CONDITIONS: dict[str, Any] = {"rank": RankCondition, "minmax": MinMaxCondition}


def chosen(options: dict[str, Any], name: str, argument: str) -> Any:
    """
    An entry by name.

    :raises ValueError: naming the argument and what there is
    """
    if name not in options:
        raise ValueError(f"{argument}={name!r} is not known; choose one of {', '.join(options)}.")
    return options[name]
