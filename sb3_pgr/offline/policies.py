"""What policies of offline learners have in common, and the Gaussian actor that some share."""

import math
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.td3.policies import Actor
from torch import nn

from sb3_pgr.common.checks import check_counts
from sb3_pgr.common.critics import EnsembleCritic
from sb3_pgr.common.ensembles import EnsembleLinear, EnsembleMLP
from sb3_pgr.offline.transforms import DatasetNormExtractor


class OfflinePolicy(BasePolicy):
    """
    Base: one features extractor that standardises observations by the dataset, and makers of the usual networks.

    :param observation_space: ``Box`` of numbers, or a ``Dict`` of such
    :param action_space: ``Box``
    :param lr_schedule: learning rate
    :param net_arch: hidden widths, or ``dict(pi=[...], qf=[...])``
    :param activation_fn: activation class
    :param n_critics: number of critics
    :param layer_norm: layer norm in the critics
    :param features_extractor_class: without weights; one with a ``fit`` may standardise observations by the dataset
    :param features_extractor_kwargs: for it
    :param optimizer_class: of all optimisers
    :param optimizer_kwargs: passed to them; fused updates are the default for Adam and AdamW
    :raises ValueError: if observations are something else, images among it, or the extractor has weights
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        n_critics: int = 2,
        layer_norm: bool = False,
        features_extractor_class: type[BaseFeaturesExtractor] = DatasetNormExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
    ):
        check_counts(n_critics=n_critics)
        if optimizer_kwargs is None:
            optimizer_kwargs = dict(fused=True) if optimizer_class in (th.optim.Adam, th.optim.AdamW) else {}
        super().__init__(
            observation_space,
            action_space,
            features_extractor_class,
            features_extractor_kwargs,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            squash_output=True,
        )
        self.net_arch = [256, 256] if net_arch is None else net_arch
        self.activation_fn, self.n_critics, self.layer_norm = activation_fn, n_critics, layer_norm
        _require_numbers(observation_space)
        self.features_extractor = self.make_features_extractor()  # one for all: it has statistics, no weights
        if any(True for _ in self.features_extractor.parameters()):
            raise ValueError(
                f"{features_extractor_class.__name__} has weights; networks and their targets share an extractor."
            )
        self._build(lr_schedule)

    def _build(self, lr_schedule: Schedule) -> None:
        """Make the networks and their optimisers."""
        raise NotImplementedError

    @property
    def _arch(self) -> tuple[list[int], list[int]]:
        """Hidden widths of actor and critics."""
        return get_actor_critic_arch(self.net_arch)

    def make_actor(self) -> Actor:
        """A deterministic actor."""
        assert isinstance(self.action_space, spaces.Box)
        extractor = self.features_extractor
        dim = extractor.features_dim
        return Actor(self.observation_space, self.action_space, self._arch[0], extractor, dim, self.activation_fn)

    def make_critic(self) -> EnsembleCritic:
        """``n_critics`` action-value functions."""
        assert isinstance(self.action_space, spaces.Box)
        in_features = self.features_extractor.features_dim + get_action_dim(self.action_space)
        ensemble = EnsembleMLP(self.n_critics, in_features, self._arch[1], self.activation_fn, self.layer_norm)
        return EnsembleCritic(self.observation_space, self.action_space, self.features_extractor, ensemble, self.n_critics)

    def make_optimizer(self, network: nn.Module, lr_schedule: Schedule) -> th.optim.Optimizer:
        return self.optimizer_class(network.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def forward(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        return self._predict(observation, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        del data["normalize_images"]
        return data | {
            "lr_schedule": self._dummy_schedule,
            "net_arch": self.net_arch,
            "activation_fn": self.activation_fn,
            "n_critics": self.n_critics,
            "layer_norm": self.layer_norm,
            "features_extractor_class": self.features_extractor_class,
            "features_extractor_kwargs": self.features_extractor_kwargs,
            "optimizer_class": self.optimizer_class,
            "optimizer_kwargs": self.optimizer_kwargs,
        }


def _require_numbers(space: spaces.Space) -> None:
    for name, part in space.items() if isinstance(space, spaces.Dict) else [("observations", space)]:
        if not isinstance(part, spaces.Box) or is_image_space(part):
            raise ValueError(f"Only a Box of numbers, or a Dict of such, can be learned from; {name} are {part}.")


def start_target(network: BaseModel, target: BaseModel) -> None:
    """Let a target be a copy of its network that is not trained."""
    target.load_state_dict(network.state_dict())
    target.requires_grad_(False)
    target.set_training_mode(False)


class GaussianActor(BaseModel):
    """
    A normal distribution over actions whose mean is squashed by tanh; its deviation does not depend on the state.

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: maps observations to features
    :param net_arch: hidden widths
    :param activation_fn: activation class
    :param dropout_rate: of the hidden layers
    """

    optimizer: th.optim.Optimizer
    log_std_bounds = (-5.0, 2.0)

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        dropout_rate: float = 0.0,
    ):
        super().__init__(observation_space, action_space, features_extractor=features_extractor)
        layers: list[nn.Module] = []
        for layer in create_mlp(features_extractor.features_dim, get_action_dim(action_space), net_arch, activation_fn):
            layers.append(layer)
            if isinstance(layer, activation_fn) and dropout_rate > 0:
                layers.append(nn.Dropout(dropout_rate))
        self.mu = nn.Sequential(*layers)
        self.log_std = nn.Parameter(th.zeros(get_action_dim(action_space)))

    def forward(self, obs: PyTorchObs) -> th.Tensor:
        """Means ``(batch, action_dim)``."""
        assert self.features_extractor is not None
        return self.mu(self.extract_features(obs, self.features_extractor)).tanh()

    def log_prob(self, obs: PyTorchObs, actions: th.Tensor) -> th.Tensor:
        """Log density of actions ``(batch,)``."""
        log_std = self.log_std.clamp(*self.log_std_bounds)
        z = (actions - self(obs)) / log_std.exp()
        return (-0.5 * z.pow(2) - log_std - 0.5 * math.log(2 * math.pi)).sum(1)

    def sample(self, obs: PyTorchObs) -> th.Tensor:
        """Actions within [-1, 1], drawn with torch's global generator."""
        mean = self(obs)
        return (mean + self.log_std.clamp(*self.log_std_bounds).exp() * th.randn_like(mean)).clamp(-1, 1)


def orthogonal_(module: nn.Module, gain: float = math.sqrt(2)) -> None:
    """Start all linear layers (of ensembles: each member's) orthogonal, with zero biases."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, gain)
            nn.init.zeros_(layer.bias)
        elif isinstance(layer, EnsembleLinear):
            for weight in layer.weight.data:
                nn.init.orthogonal_(weight, gain)
            nn.init.zeros_(layer.bias)
