"""N networks as one module: stacked weights ``[N, in, out]`` and batched matrix products."""

import math

import torch as th
from torch import nn

Members = th.Tensor | slice | None


class EnsembleLinear(nn.Module):
    """
    N linear layers at once, initialised as ``nn.Linear`` is.

    :param n_members: number of layers N
    :param in_features: input width
    :param out_features: output width
    """

    def __init__(self, n_members: int, in_features: int, out_features: int):
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(th.empty(n_members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(th.empty(n_members, 1, out_features).uniform_(-bound, bound))

    def forward(self, x: th.Tensor, members: Members = None) -> th.Tensor:
        """
        :param x: ``(batch, in)``, shared by all members, or ``(N, batch, in)``
        :param members: indices or a slice (which copies no weights) of the members to evaluate, all by default
        :return: ``(N, batch, out)``, or ``(len(members), batch, out)``
        """
        weight, bias = _select(self, members)
        if x.dim() == 2:
            x = x.expand(weight.shape[0], *x.shape)
        if weight.shape[-1] == 1:
            # A product with one column is a weighted sum, which fuses where a batched matmul would not.
            total = th.promote_types(x.dtype, th.float32)
            return (x * weight.to(x.dtype).transpose(1, 2)).sum(-1, keepdim=True, dtype=total) + bias
        return th.baddbmm(bias, x, weight)


class EnsembleLayerNorm(nn.Module):
    """N layer norms at once; see ``EnsembleLinear``."""

    def __init__(self, n_members: int, features: int):
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_members, 1, features))
        self.bias = nn.Parameter(th.zeros(n_members, 1, features))

    def forward(self, x: th.Tensor, members: Members = None) -> th.Tensor:
        weight, bias = _select(self, members)
        return nn.functional.layer_norm(x, x.shape[-1:]) * weight + bias


class EnsembleMLP(nn.Module):
    """
    N multi-layer perceptrons: ``linear [- dropout] [- layer norm] - activation`` per hidden layer, the order of DroQ
    (Hiraoka et al. 2022, section 3.1).

    :param n_members: number of networks N
    :param in_features: input width
    :param net_arch: widths of the hidden layers
    :param activation_fn: activation class
    :param layer_norm: normalise each hidden layer
    :param dropout_rate: probability of dropping a hidden unit during training
    :param out_features: outputs of each
    """

    def __init__(
        self,
        n_members: int,
        in_features: int,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        layer_norm: bool = False,
        dropout_rate: float = 0.0,
        out_features: int = 1,
    ):
        super().__init__()
        self.layers = nn.ModuleList()
        for width in net_arch:
            self.layers.append(EnsembleLinear(n_members, in_features, width))
            if dropout_rate > 0:
                self.layers.append(nn.Dropout(dropout_rate))
            if layer_norm:
                self.layers.append(EnsembleLayerNorm(n_members, width))
            self.layers.append(activation_fn())
            in_features = width
        self.layers.append(EnsembleLinear(n_members, in_features, out_features))

    def forward(self, x: th.Tensor, members: Members = None) -> th.Tensor:
        """Map ``(batch, in)`` to ``(N, batch, out)``, or to the rows of ``members`` alone."""
        for layer in self.layers:
            per_member = isinstance(layer, EnsembleLinear | EnsembleLayerNorm)
            x = layer(x, members) if per_member else layer(x)
        return x


class ResidualEnsemble(nn.Module):
    """
    N residual networks with one output each (SimBa, Lee et al. 2025, section 4): a linear embedding, pre-normalised
    residual blocks with a fourfold inner width, and a layer norm before the linear head.

    :param n_members: number of networks N
    :param in_features: input width
    :param hidden_dim: width of the residual stream
    :param n_blocks: number of residual blocks
    """

    def __init__(self, n_members: int, in_features: int, hidden_dim: int, n_blocks: int):
        super().__init__()
        self.embed = EnsembleLinear(n_members, in_features, hidden_dim)
        self.blocks = nn.ModuleList(_ResidualBlock(n_members, hidden_dim) for _ in range(n_blocks))
        self.norm = EnsembleLayerNorm(n_members, hidden_dim)
        self.head = EnsembleLinear(n_members, hidden_dim, 1)

    def forward(self, x: th.Tensor, members: Members = None) -> th.Tensor:
        """Map ``(batch, in)`` to ``(N, batch, 1)``, or to the rows of ``members`` alone."""
        x = self.embed(x, members)
        for block in self.blocks:
            x = block(x, members)
        return self.head(self.norm(x, members), members)


class _ResidualBlock(nn.Module):
    def __init__(self, n_members: int, hidden_dim: int):
        super().__init__()
        self.norm = EnsembleLayerNorm(n_members, hidden_dim)
        self.widen = EnsembleLinear(n_members, hidden_dim, 4 * hidden_dim)
        self.narrow = EnsembleLinear(n_members, 4 * hidden_dim, hidden_dim)

    def forward(self, x: th.Tensor, members: Members) -> th.Tensor:
        return x + self.narrow(th.relu(self.widen(self.norm(x, members), members)), members)


def _select(layer: EnsembleLinear | EnsembleLayerNorm, members: Members) -> tuple[th.Tensor, th.Tensor]:
    if members is None:
        return layer.weight, layer.bias
    return layer.weight[members], layer.bias[members]
