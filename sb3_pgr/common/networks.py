"""Network parts that SB3 does not have."""

from collections.abc import Callable, Iterable

import gymnasium as gym
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_pgr.common.device import widest_float
from sb3_pgr.common.ensembles import EnsembleLinear


class FullPrecisionLinear(nn.Linear):
    """
    A linear layer that keeps the precision of its weights under autocast. For the last layer of value functions: of large
    values bfloat16 would round away the small differences that decisions are made on.
    """

    def forward(self, input: th.Tensor) -> th.Tensor:
        with th.autocast(input.device.type, enabled=False):
            return super().forward(input.to(self.weight.dtype))


class ResidualMLP(nn.Module):
    """
    Residual network of SimBa (Lee et al. 2025, section 4) without a head: linear embedding, pre-normalised residual
    blocks with a fourfold inner width, final layer norm.

    :param in_features: input width
    :param hidden_dim: width of the residual stream, and of the output
    :param n_blocks: number of residual blocks
    """

    def __init__(self, in_features: int, hidden_dim: int, n_blocks: int):
        super().__init__()
        self.embed = nn.Linear(in_features, hidden_dim)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden_dim),
                nn.Linear(hidden_dim, 4 * hidden_dim),
                nn.ReLU(),
                nn.Linear(4 * hidden_dim, hidden_dim),
            )
            for _ in range(n_blocks)
        )
        self.norm = nn.LayerNorm(hidden_dim)

    def forward(self, x: th.Tensor) -> th.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block(x)
        return self.norm(x)


class RunningNorm(nn.Module):
    """
    Standardise inputs by the mean and variance of everything given to ``update`` (Welford, as merged by
    Chan et al. 1979), and clip to 10 deviations: what has hardly moved so far has next to none. Until the first update it is
    the identity, but for the clipping; a little of that stays, so that one observation alone has a deviation too. All as
    SB3's ``VecNormalize`` does it: in float64 (where there is such a thing), since a step alone hardly moves a mean of many.

    :param features: input width
    """

    clip = 10.0
    epsilon = 1e-8

    mean: th.Tensor
    var: th.Tensor
    count: th.Tensor

    def __init__(self, features: int):
        super().__init__()
        self.register_buffer("mean", th.zeros(features, dtype=th.float64))
        self.register_buffer("var", th.ones(features, dtype=th.float64))
        self.register_buffer("count", th.full((), 1e-4, dtype=th.float64))

    def _apply(self, fn: Callable[[th.Tensor], th.Tensor], recurse: bool = True) -> "RunningNorm":
        """Moves the module to a device."""
        if widest_float(fn(self.mean.float()).device) != self.mean.dtype:
            for name, value in self.named_buffers():
                setattr(self, name, value.float())
        return super()._apply(fn, recurse)

    @th.no_grad()
    def update(self, x: th.Tensor) -> None:
        """Take in a batch ``(n, features)``."""
        x = x.to(self.mean)
        n = x.shape[0]
        total = self.count + n
        delta = x.mean(0) - self.mean
        m2 = self.var * self.count + x.var(0, correction=0) * n + delta**2 * (self.count * n / total)
        self.mean += delta * (n / total)
        self.var.copy_(m2 / total)
        self.count.copy_(total)

    @property
    def std(self) -> th.Tensor:
        """Standard deviations ``(features,)``."""
        return (self.var + self.epsilon).sqrt()

    def forward(self, x: th.Tensor) -> th.Tensor:
        mean, std = self.mean.to(x.dtype), self.std.to(x.dtype)
        return ((x - mean) / std).clamp(-self.clip, self.clip)

    @th.no_grad()
    def update_under(self, x: th.Tensor, layers: Iterable[nn.Linear | EnsembleLinear]) -> None:
        """
        ``update``, while the layers that read what this gives keep their answers (but for inputs that are clipped): a jump of
        the statistics would undo what was learned.
        """
        mean, std = self.mean.clone(), self.std
        self.update(x)
        new_std = self.std
        moved, growth = (self.mean - mean) / new_std, new_std / std
        for layer in layers:
            keep_answers(layer, moved, growth)


MOST_WEIGHT = 20.0


@th.no_grad()
def keep_answers(layer: nn.Linear | EnsembleLinear, moved: th.Tensor, growth: th.Tensor) -> None:
    """
    Change a layer so that it answers inputs standardised anew as it did until now, as PopArt does for targets (van Hasselt et
    al. 2016, https://arxiv.org/abs/1602.07714). Weights of an input grow to no more than ``MOST_WEIGHT`` times those of the
    others, or what has never moved before would drown these once it does; answers at the old mean are kept all the same.

    :param layer: the standardised inputs are its first ones
    :param moved: by how much their means have moved, in new deviations ``(features,)``
    :param growth: of their deviations ``(features,)``
    """
    weight = layer.weight.mT if isinstance(layer, nn.Linear) else layer.weight  # (in, out), or (N, in, out)
    standardised, growth = weight[..., : len(growth), :], growth.to(weight)
    n_others = weight.shape[-2] - 1
    if n_others:
        sizes = th.linalg.vector_norm(weight, dim=-1).clamp(min=1e-12)
        others = (sizes.sum(-1, keepdim=True) - sizes) / n_others
        growth = th.minimum(growth, (MOST_WEIGHT * others / sizes)[..., : len(growth)].clamp(min=1))
    standardised *= growth[..., None]
    layer.bias.add_((moved.to(weight)[None] @ standardised).view_as(layer.bias))


class RunningNormExtractor(FlattenExtractor):
    """
    SB3 features extractor that flattens, then standardises by running statistics.

    :param observation_space: observation space
    :param observation_norm: the statistics, shared by all networks of a policy
    """

    def __init__(self, observation_space: gym.Space, observation_norm: RunningNorm):
        super().__init__(observation_space)
        # SB3 copies whatever is called running_* from critics to targets; these statistics are shared already.
        self.observation_norm = observation_norm

    def forward(self, observations: th.Tensor) -> th.Tensor:
        return self.observation_norm(super().forward(observations))
