"""Networks that are surprised by transitions: intrinsic curiosity, disagreement, and random network distillation."""

import torch as th
from torch import nn

from sb3_pgr.common.ensembles import EnsembleMLP


def _mlp(in_features: int, hidden_dim: int, n_hidden: int, out_features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(n_hidden):
        layers += [nn.Linear(in_features, hidden_dim), nn.SiLU()]
        in_features = hidden_dim
    return nn.Sequential(*layers, nn.Linear(in_features, out_features))


class CuriosityNetwork(nn.Module):
    """
    Intrinsic curiosity module (Pathak et al. 2017) as the official PGR code builds it: features learned by predicting the
    action between two observations; a residual forward model predicts the next features.

    :param obs_dim: numbers of an observation
    :param action_dim: numbers of an action
    :param hidden_dim: width of all layers and number of features
    :param n_blocks: residual blocks of the forward model
    :param shared_residual: all residual layers are one and the same (the official code does that, by multiplying a list)
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden_dim: int = 256, n_blocks: int = 4, shared_residual: bool = False):
        super().__init__()
        joint = hidden_dim + action_dim
        self.features = _mlp(obs_dim, hidden_dim, 2, hidden_dim)
        self.inverse = nn.Sequential(
            nn.Linear(2 * hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.BatchNorm1d(hidden_dim),
            nn.SiLU(),
            nn.Linear(hidden_dim, action_dim),
        )
        self.forward_in = _mlp(joint, hidden_dim, 4, hidden_dim)
        layers = [_mlp(joint, hidden_dim, 1, hidden_dim) for _ in range(1 if shared_residual else 2 * n_blocks)]
        self.residual = nn.ModuleList(layers)
        self.forward_out = _mlp(joint, hidden_dim, 4, hidden_dim)
        self.n_blocks = n_blocks

    def predict(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Features after the actions, ``(n, hidden_dim)``."""
        hidden = self.forward_in(th.cat([features, actions], 1))
        for block in range(self.n_blocks):
            first, second = (self.residual[(2 * block + half) % len(self.residual)] for half in (0, 1))
            inner = first(th.cat([hidden, actions], 1))
            hidden = hidden + second(th.cat([inner, actions], 1))
        return self.forward_out(th.cat([hidden, actions], 1))

    def surprise(self, obs: th.Tensor, actions: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        """Mean squared error of the predicted features of each row ``(n,)``."""
        return (self.features(next_obs) - self.predict(self.features(obs), actions)).pow(2).mean(1)

    def loss(self, obs: th.Tensor, actions: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        """Errors of the forward and the inverse model. Next features learn from the inverse model alone."""
        features, next_features = self.features(obs), self.features(next_obs)
        forward = nn.functional.mse_loss(self.predict(features, actions), next_features.detach())
        inverse = nn.functional.mse_loss(self.inverse(th.cat([features, next_features], 1)), actions)
        return forward + inverse


class DisagreementNetwork(nn.Module):
    """
    Forward models that predict the change of the observation; where they disagree, there is something to learn (Pathak et al.
    2019, https://arxiv.org/abs/1906.04161). Of what cannot be predicted, all learn the mean. They differ in their first
    weights and learn from the same rows, so that noise in these moves them alike.

    :param obs_dim: numbers of an observation
    :param action_dim: numbers of an action
    :param hidden_dim: width of the two hidden layers
    :param n_models: number of forward models
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden_dim: int = 128, n_models: int = 5):
        super().__init__()
        widths = [hidden_dim, hidden_dim]
        self.models = EnsembleMLP(n_models, obs_dim + action_dim, widths, nn.SiLU, out_features=obs_dim)

    def surprise(self, obs: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Variance of the predictions of each row ``(n,)``, mean over the numbers of an observation."""
        predicted: th.Tensor = self.models(th.cat([obs, actions], 1))
        return predicted.var(0).mean(1)

    def loss(self, obs: th.Tensor, actions: th.Tensor, next_obs: th.Tensor) -> th.Tensor:
        """Mean squared error of all models."""
        predicted: th.Tensor = self.models(th.cat([obs, actions], 1))
        return (predicted - (next_obs - obs)).pow(2).mean()


class DistillationNetwork(nn.Module):
    """
    Random network distillation (Burda et al. 2019): learn what a random network says of the next observation.

    :param obs_dim: numbers of an observation
    :param hidden_dim: width of the hidden layers
    :param out_features: numbers that the random network gives
    """

    def __init__(self, obs_dim: int, hidden_dim: int = 256, out_features: int = 64):
        super().__init__()
        self.target = _mlp(obs_dim, hidden_dim, 2, out_features).requires_grad_(False)
        self.predictor = _mlp(obs_dim, hidden_dim, 3, out_features)

    def surprise(self, next_obs: th.Tensor) -> th.Tensor:
        """Half the squared distance of prediction and target of each row ``(n,)``."""
        return (self.predictor(next_obs) - self.target(next_obs)).pow(2).sum(1) / 2
