"""
Networks that predict a transition from its noised version. A noise level that all rows share is given once, ``(1,)``, and
what follows from it alone is computed once.
"""

import math

import torch as th
from torch import nn


class FourierFeatures(nn.Module):
    """``[t, sin(2 pi w t), cos(2 pi w t)]`` with fixed random frequencies ``w``."""

    frequencies: th.Tensor

    def __init__(self, n_frequencies: int):
        super().__init__()
        self.register_buffer("frequencies", th.randn(n_frequencies))

    def forward(self, t: th.Tensor) -> th.Tensor:
        angles = 2 * math.pi * t[:, None] * self.frequencies
        return th.cat([t[:, None], angles.sin(), angles.cos()], 1)


def _keep_given(embedding: th.Tensor, condition: th.Tensor) -> th.Tensor:
    """Zero where there is no condition (NaN)."""
    return th.where(condition.isnan(), th.zeros_like(embedding), embedding)


class ResidualDenoiser(nn.Module):
    """
    A residual MLP whose every block is scaled and shifted by noise level and condition (adaptive layer norm).

    :param dim: of a transition
    :param width: of the residual stream
    :param n_blocks: number of blocks
    :param expansion: hidden width of a block, in widths
    :param n_frequencies: Fourier features of noise level and condition
    """

    def __init__(self, dim: int, width: int = 256, n_blocks: int = 4, expansion: int = 2, n_frequencies: int = 16):
        super().__init__()
        self.noise = nn.Sequential(FourierFeatures(n_frequencies), nn.Linear(2 * n_frequencies + 1, width))
        self.condition = nn.Sequential(FourierFeatures(n_frequencies), nn.Linear(2 * n_frequencies + 1, width))
        self.embedding = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.input = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(_Block(width, expansion) for _ in range(n_blocks))
        self.last_norm, self.output = nn.LayerNorm(width), nn.Linear(width, dim)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, x: th.Tensor, noise: th.Tensor, condition: th.Tensor | None) -> th.Tensor:
        embedding = self.noise(noise)
        if condition is not None:
            embedding = embedding + _keep_given(self.condition(condition.nan_to_num().squeeze(1)), condition)
        embedding = self.embedding(embedding)
        hidden = self.input(x)
        for block in self.blocks:
            hidden = block(hidden, embedding)
        return self.output(self.last_norm(hidden))


class _Block(nn.Module):
    def __init__(self, width: int, expansion: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, expansion * width), nn.SiLU(), nn.Linear(expansion * width, width))

    def forward(self, x: th.Tensor, embedding: th.Tensor) -> th.Tensor:
        scale, shift = self.modulation(embedding).chunk(2, 1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


class PaperDenoiser(nn.Module):
    """
    The network of the official PGR code: noise level and condition are embedded and appended to the input once; then
    residual blocks of one layer each. 26 million parameters at its own sizes.

    :param dim: of a transition
    :param width: half of the width of the residual stream
    :param n_blocks: number of blocks
    :param dim_embedding: of the embeddings of noise level and condition
    :param n_frequencies: Fourier features of the noise level
    """

    def __init__(self, dim: int, width: int = 1024, n_blocks: int = 6, dim_embedding: int = 256, n_frequencies: int = 8):
        super().__init__()
        self.noise = nn.Sequential(
            FourierFeatures(n_frequencies),
            nn.Linear(2 * n_frequencies + 1, 4 * dim_embedding),
            nn.Mish(),
            nn.Linear(4 * dim_embedding, dim_embedding),
        )
        self.condition = nn.Sequential(nn.Linear(1, 2 * dim_embedding), nn.Mish(), nn.Linear(2 * dim_embedding, dim_embedding))
        self.input = nn.Linear(dim, width)
        self.embedding = nn.Linear(2 * dim_embedding, width)
        self.blocks = nn.ModuleList(nn.Linear(2 * width, 2 * width) for _ in range(n_blocks))
        self.output = nn.Linear(2 * width, dim)

    def forward(self, x: th.Tensor, noise: th.Tensor, condition: th.Tensor | None) -> th.Tensor:
        noise_embedding = self.noise(noise)
        if condition is None:
            given = th.zeros_like(noise_embedding)
        else:
            given = _keep_given(self.condition(condition.nan_to_num()), condition)
            noise_embedding = noise_embedding.expand_as(given)
        embedding = self.embedding(th.cat([given, noise_embedding], 1))
        hidden = th.cat([self.input(x), embedding.expand(len(x), -1)], 1)
        for block in self.blocks:
            hidden = hidden + block(nn.functional.mish(hidden))
        return self.output(nn.functional.mish(hidden))
