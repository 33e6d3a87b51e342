"""Policies of REDQ: SAC's actor with a vectorised ensemble of critics."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import (
    BaseFeaturesExtractor,
    CombinedExtractor,
    FlattenExtractor,
    NatureCNN,
    get_actor_critic_arch,
)
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_pgr.common.averaging import PowerAverage
from sb3_pgr.common.critics import EnsembleCritic
from sb3_pgr.common.ensembles import EnsembleLinear, EnsembleMLP, ResidualEnsemble
from sb3_pgr.common.networks import ResidualMLP, RunningNorm, RunningNormExtractor
from sb3_pgr.common.state import own_randomness


class REDQPolicy(SACPolicy):
    """
    SAC's policy with an ensemble of critics. Parameters not listed are those of SB3's ``SACPolicy``.

    :param net_arch: hidden widths, or ``dict(pi=[...], qf=[...])``
    :param optimizer_kwargs: passed to the optimiser; fused updates are the default for Adam and AdamW
    :param n_critics: number of critics N
    :param layer_norm: layer norm in the critics
    :param dropout_rate: dropout in the critics; with ``layer_norm=True`` and two critics this is DroQ
        (Hiraoka et al. 2022), whose target critics drop units too
    :param normalize_observations: standardise flat observations by the mean and variance of all those of steps taken so far;
        actor, critics and targets share the statistics, which are saved with the policy
    :param actor_average: if given, ``predict(..., deterministic=True)`` acts by an average of the weights that the actor has
        had since ``learn`` began (or went on, with ``reset_num_timesteps=False``); its width, see ``PowerAverage``. Learning,
        and stochastic actions, are those of the latest weights
    :raises ValueError: if observations to be normalised are not a flat Box, or have a features extractor of their own; if the
        width is not one
    """

    actor: Actor
    critic: EnsembleCritic  # type: ignore[assignment]
    critic_target: EnsembleCritic  # type: ignore[assignment]
    averaged_actor: PowerAverage | None

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.ReLU,
        features_extractor_class: type[BaseFeaturesExtractor] = FlattenExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 10,
        layer_norm: bool = False,
        dropout_rate: float = 0.0,
        normalize_observations: bool = False,
        actor_average: float | None = None,
    ):
        norm = None
        if normalize_observations:
            if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
                raise ValueError(f"{type(self).__name__} normalises flat Box observations, not {observation_space}.")
            if features_extractor_class is not FlattenExtractor:
                raise ValueError("normalize_observations stands in place of a features extractor.")
            norm = RunningNorm(spaces.flatdim(observation_space))
            features_extractor_class, features_extractor_kwargs = RunningNormExtractor, dict(observation_norm=norm)
        self.n_critics = n_critics
        self.layer_norm = layer_norm
        self.dropout_rate = dropout_rate
        self.actor_average = actor_average
        if optimizer_kwargs is None:
            optimizer_kwargs = dict(fused=True) if optimizer_class in (th.optim.Adam, th.optim.AdamW) else {}
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            n_critics=n_critics,
            share_features_extractor=False,
        )
        self.observation_norm = norm

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.averaged_actor = None
        if self.actor_average is not None:
            with own_randomness(0, self.device):
                copy = self.make_actor()  # which shares the statistics of observations
            copy.load_state_dict(self.actor.state_dict())
            self.averaged_actor = PowerAverage(copy, self.actor_average)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        if deterministic and self.averaged_actor is not None:
            return self.averaged_actor.network(observation, deterministic)
        return super()._predict(observation, deterministic)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> EnsembleCritic:  # type: ignore[override]
        features_extractor = features_extractor or self.make_features_extractor()
        in_features = features_extractor.features_dim + get_action_dim(self.action_space)
        return EnsembleCritic(
            self.observation_space,
            self.action_space,  # type: ignore[arg-type]
            features_extractor,
            self.make_ensemble(in_features),
            self.n_critics,
            self.normalize_images,
        ).to(self.device)

    def make_ensemble(self, in_features: int) -> nn.Module:
        """The N networks behind ``EnsembleCritic``."""
        _, net_arch = get_actor_critic_arch(self.net_arch)
        return EnsembleMLP(self.n_critics, in_features, net_arch, self.activation_fn, self.layer_norm, self.dropout_rate)

    def observe(self, obs: th.Tensor, learning: bool) -> None:
        """
        Take observations ``(n, ...)`` of steps into the statistics.

        :param learning: networks have been trained, so that their answers are to stay
        """
        assert self.observation_norm is not None
        if learning:
            self.observation_norm.update_under(obs.flatten(1), self.input_layers())
        else:
            self.observation_norm.update(obs.flatten(1))

    def input_layers(self) -> list[nn.Linear | EnsembleLinear]:
        """
        The layers that read normalised observations, as their first inputs: of actor (its average, too), critics and target
        critics. Override it where these are not the first linear layers.
        """
        actors: list[Any] = [self.actor] if self.averaged_actor is None else [self.actor, self.averaged_actor.network]
        found = []
        for actor in actors:
            # Where there are no hidden layers, the outputs read observations.
            found += _linear_layers(actor.latent_pi)[:1] or [actor.mu, actor.log_std]
        return found + [_linear_layers(critic.ensemble)[0] for critic in (self.critic, self.critic_target)]

    def set_training_mode(self, mode: bool) -> None:
        super().set_training_mode(mode)
        if self.dropout_rate > 0:
            self.critic_target.set_training_mode(mode)  # DroQ, algorithm 1: the target's dropout is active

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for name in ("use_sde", "log_std_init", "use_expln", "clip_mean"):
            del data[name]
        if self.observation_norm is not None:
            data |= dict(
                features_extractor_class=FlattenExtractor, features_extractor_kwargs=None, normalize_observations=True
            )
        own = dict(layer_norm=self.layer_norm, dropout_rate=self.dropout_rate, actor_average=self.actor_average)
        return data | own


def _linear_layers(network: nn.Module) -> list[nn.Linear | EnsembleLinear]:
    return [layer for layer in network.modules() if isinstance(layer, nn.Linear | EnsembleLinear)]


class REDQCnnPolicy(REDQPolicy):
    """``REDQPolicy`` for images: features from SB3's ``NatureCNN``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": NatureCNN, **kwargs})


class REDQMultiInputPolicy(REDQPolicy):
    """``REDQPolicy`` for Dict observations: features from SB3's ``CombinedExtractor``."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"features_extractor_class": CombinedExtractor, **kwargs})


class SimbaActor(Actor):
    """SB3's SAC actor over a residual network."""

    def __init__(self, hidden_dim: int, n_blocks: int, **kwargs: Any):
        super().__init__(net_arch=[hidden_dim], **kwargs)
        self.latent_pi = ResidualMLP(self.features_dim, hidden_dim, n_blocks)  # type: ignore[assignment]


class SimbaPolicy(REDQPolicy):
    """
    Residual, normalised networks over running-normalised observations (SimBa, Lee et al. 2025, table 4 for the
    defaults). The statistics of the observations are those of all steps taken so far; actor, critics and target
    share them, and they are saved with the policy.

    :param actor_hidden_dim: width of the actor's residual stream
    :param actor_blocks: residual blocks of the actor
    :param critic_hidden_dim: width of each critic's residual stream
    :param critic_blocks: residual blocks of each critic
    :param actor_average: see ``REDQPolicy``
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        actor_hidden_dim: int = 128,
        actor_blocks: int = 1,
        critic_hidden_dim: int = 512,
        critic_blocks: int = 2,
        optimizer_class: type[th.optim.Optimizer] = th.optim.AdamW,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 10,
        actor_average: float | None = None,
    ):
        self.simba_kwargs = dict(
            actor_hidden_dim=actor_hidden_dim,
            actor_blocks=actor_blocks,
            critic_hidden_dim=critic_hidden_dim,
            critic_blocks=critic_blocks,
        )
        if optimizer_kwargs is None:
            optimizer_kwargs = dict(weight_decay=1e-2, fused=True)
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            n_critics=n_critics,
            normalize_observations=True,
            actor_average=actor_average,
        )

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        del kwargs["net_arch"]
        hidden_dim, n_blocks = self.simba_kwargs["actor_hidden_dim"], self.simba_kwargs["actor_blocks"]
        return SimbaActor(hidden_dim, n_blocks, **kwargs).to(self.device)

    def make_ensemble(self, in_features: int) -> nn.Module:
        return ResidualEnsemble(
            self.n_critics, in_features, self.simba_kwargs["critic_hidden_dim"], self.simba_kwargs["critic_blocks"]
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        spaces_and_rate = ("observation_space", "action_space", "lr_schedule")
        keep = (*spaces_and_rate, "optimizer_class", "optimizer_kwargs", "n_critics", "actor_average")
        return {**{name: data[name] for name in keep}, **self.simba_kwargs}


MlpPolicy = REDQPolicy
CnnPolicy = REDQCnnPolicy
MultiInputPolicy = REDQMultiInputPolicy
