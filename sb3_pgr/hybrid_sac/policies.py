"""Policy of HybridSAC: one encoder for actor, critics and grasp critic, trained by the critics alone."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, get_actor_critic_arch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.sac.policies import Actor, SACPolicy
from torch import nn

from sb3_pgr.common.critics import EnsembleCritic
from sb3_pgr.common.distributions import squashed_gaussian_sample
from sb3_pgr.common.ensembles import EnsembleLinear, EnsembleMLP, Members
from sb3_pgr.common.networks import FullPrecisionLinear
from sb3_pgr.hybrid_sac.encoders import HybridExtractor, image_keys
from sb3_pgr.hybrid_sac.grippers import to_values

_LOG_STD_MIN, _LOG_STD_MAX = math.log(1e-5), math.log(5.0)


def _layers(in_features: int, net_arch: list[int], activation_fn: type[nn.Module]) -> nn.Sequential:
    """Hidden layers in HIL-SERL's order: linear, layer norm, activation."""
    layers: list[nn.Module] = []
    for width in net_arch:
        layers += [nn.Linear(in_features, width), nn.LayerNorm(width), activation_fn()]
        in_features = width
    return nn.Sequential(*layers)


def _xavier(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, EnsembleLinear):
        bound = math.sqrt(6 / sum(module.weight.shape[1:]))
        nn.init.uniform_(module.weight, -bound, bound)
        nn.init.zeros_(module.bias)


class HybridActor(Actor):
    """Tanh-squashed Gaussian over the continuous entries of an action, on features that it does not train."""

    mu: nn.Module
    log_std: nn.Module  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.latent_pi = _layers(self.features_dim, self.net_arch, self.activation_fn)
        for part in (self.latent_pi, self.mu, self.log_std):
            part.apply(_xavier)

    def distribution(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Means and logarithms of standard deviations before squashing, each ``(batch, n_continuous)``."""
        latent = self.latent_pi(features)
        return self.mu(latent), self.log_std(latent).clamp(_LOG_STD_MIN, _LOG_STD_MAX)

    def get_action_dist_params(self, obs: PyTorchObs) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        return *self.distribution(self.extract_features(obs, self.features_extractor).detach()), {}

    def own_parameters(self) -> list[nn.Parameter]:
        """All but the encoder's."""
        return [p for part in (self.latent_pi, self.mu, self.log_std) for p in part.parameters()]


class HybridCritic(EnsembleCritic):
    """
    The encoder, an ensemble of action values over the continuous entries, and one value for each gripper command.

    :param continuous_indices: entries of an action that it values
    :param n_commands: joint gripper commands, 3 for each gripper; 0 without grippers
    """

    def __init__(
        self,
        *args: Any,
        continuous_indices: Sequence[int],
        n_commands: int,
        net_arch: list[int],
        activation_fn: type[nn.Module],
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.continuous_indices = list(continuous_indices)
        self.ensemble.apply(_xavier)
        self.grasp: nn.Module | None = None
        space = self.observation_space
        parts = list(space.values()) if isinstance(space, spaces.Dict) else [space]
        self._all_boxes = all(isinstance(part, spaces.Box) for part in parts)
        self._scaled = image_keys(self.observation_space) if self.normalize_images else []
        if n_commands:
            features_dim = self.features_extractor.features_dim
            head = FullPrecisionLinear(net_arch[-1] if net_arch else features_dim, n_commands)
            self.grasp = nn.Sequential(_layers(features_dim, net_arch, activation_fn), head)
            self.grasp.apply(_xavier)

    def encode(self, obs: PyTorchObs) -> th.Tensor:
        """Features ``(batch, features_dim)``."""
        if not self._all_boxes:
            return self.extract_features(obs, self.features_extractor)
        # As SB3 does it, which looks at every call for images among the entries: that cannot be compiled.
        if isinstance(obs, dict):
            return self.features_extractor({key: self._as_float(key, part) for key, part in obs.items()})
        return self.features_extractor(self._as_float("", obs))

    def _as_float(self, key: str, part: th.Tensor) -> th.Tensor:
        return part.float() / 255 if key in self._scaled else part.float()

    def values(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Of continuous actions, ``(n_critics, batch)``."""
        return self.ensemble(th.cat([features, actions], 1)).squeeze(-1)

    def q_values(self, obs: PyTorchObs, actions: th.Tensor, members: Members = None) -> th.Tensor:
        return super().q_values(obs, actions[:, self.continuous_indices], members)

    def grasp_values(self, features: th.Tensor) -> th.Tensor:
        """Of each joint gripper command, ``(batch, n_commands)``, in float32 or better."""
        assert self.grasp is not None
        return self.grasp(features)


class HybridPolicy(SACPolicy):
    """
    Actions are one flat ``Box``: some entries are continuous, others grippers whose commands are -1 (close), 0 (stay) and 1
    (open). Parameters not listed are those of SB3's ``SACPolicy``.

    :param net_arch: hidden widths, or ``dict(pi=[...], qf=[...])``; layer norm in every hidden layer
    :param features_extractor_class: one for all networks; its targets follow the critics'
    :param gripper_indices: entries of an action that are grippers
    :raises ValueError: if an index is not an entry, or nothing is left to be continuous
    """

    actor: HybridActor
    critic: HybridCritic  # type: ignore[assignment]
    critic_target: HybridCritic  # type: ignore[assignment]

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        lr_schedule: Schedule,
        net_arch: list[int] | dict[str, list[int]] | None = None,
        activation_fn: type[nn.Module] = nn.Tanh,
        features_extractor_class: type[BaseFeaturesExtractor] = HybridExtractor,
        features_extractor_kwargs: dict[str, Any] | None = None,
        normalize_images: bool = True,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        n_critics: int = 2,
        gripper_indices: Sequence[int] = (),
    ):
        action_dim = get_action_dim(action_space)
        self.gripper_indices = tuple(int(index) for index in gripper_indices)
        if len(set(self.gripper_indices)) < len(self.gripper_indices) or not all(
            0 <= index < action_dim for index in self.gripper_indices
        ):
            raise ValueError(f"gripper_indices={self.gripper_indices} must be different entries of actions of {action_dim}.")
        self.continuous_indices = tuple(i for i in range(action_dim) if i not in self.gripper_indices)
        if not self.continuous_indices:
            raise ValueError(f"gripper_indices={self.gripper_indices} leave no continuous entry of actions of {action_dim}.")
        self.n_critics = n_critics
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=[256, 256] if net_arch is None else net_arch,
            activation_fn=activation_fn,
            features_extractor_class=features_extractor_class,
            features_extractor_kwargs=features_extractor_kwargs,
            normalize_images=normalize_images,
            optimizer_class=optimizer_class,
            optimizer_kwargs=optimizer_kwargs,
            n_critics=n_critics,
            share_features_extractor=True,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        extractor, target_extractor = self.make_features_extractor(), self.make_features_extractor()
        if isinstance(extractor, HybridExtractor) and isinstance(target_extractor, HybridExtractor):
            target_extractor.state_norm = extractor.state_norm  # statistics are not learned: one set for all
        self.critic = self._make_hybrid_critic(extractor)
        self.critic_target = self._make_hybrid_critic(target_extractor)
        self.critic_target.load_state_dict(self.critic.state_dict())
        self.critic_target.set_training_mode(False)
        self.critic_target.requires_grad_(False)
        kwargs = self._update_features_extractor(self.actor_kwargs, extractor)
        n_continuous = len(self.continuous_indices)
        kwargs |= {"action_space": spaces.Box(-1, 1, (n_continuous,), np.float32), "use_sde": False}
        self.actor = HybridActor(**kwargs).to(self.device)
        trained = [parameter for parameter in self.critic.parameters() if parameter.requires_grad]
        kwargs = {"lr": lr_schedule(1)} | self.optimizer_kwargs
        self.critic.optimizer = self.optimizer_class(trained, **kwargs)
        self.actor.optimizer = self.optimizer_class(self.actor.own_parameters(), **kwargs)

    def _make_hybrid_critic(self, extractor: BaseFeaturesExtractor) -> HybridCritic:
        _, net_arch = get_actor_critic_arch(self.net_arch)
        in_features = extractor.features_dim + len(self.continuous_indices)
        return HybridCritic(
            self.observation_space,
            self.action_space,
            extractor,
            EnsembleMLP(self.n_critics, in_features, net_arch, self.activation_fn, layer_norm=True),
            self.n_critics,
            self.normalize_images,
            continuous_indices=self.continuous_indices,
            n_commands=3 ** len(self.gripper_indices) if self.gripper_indices else 0,
            net_arch=net_arch,
            activation_fn=self.activation_fn,
        ).to(self.device)

    def sample_continuous(self, features: th.Tensor, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Continuous entries ``(batch, n_continuous)`` and their log densities ``(batch,)``."""
        return squashed_gaussian_sample(*self.actor.distribution(features), noise)

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> th.Tensor:
        features = self.critic.encode(observation)
        mean, log_std = self.actor.distribution(features)
        if not deterministic:
            mean = mean + log_std.exp() * th.randn_like(mean)
        return self.assemble(mean.tanh(), features)

    def assemble(self, continuous: th.Tensor, features: th.Tensor) -> th.Tensor:
        """Whole actions ``(batch, action_dim)``: the grippers' entries are the commands of highest value."""
        if not self.gripper_indices:
            return continuous
        commands = to_values(self.critic.grasp_values(features).argmax(1), len(self.gripper_indices))
        places = [*self.continuous_indices, *self.gripper_indices]
        order = sorted(range(len(places)), key=places.__getitem__)
        return th.cat([continuous, commands.to(continuous)], 1)[:, order]

    def observe(self, observations: Any) -> None:
        """Take observations ``(n, ...)``, as tensors, into the running statistics of the state."""
        extractor = self.critic.features_extractor
        if isinstance(extractor, HybridExtractor) and extractor.state_norm is not None:
            state = extractor.state_of(observations)
            assert state is not None
            extractor.state_norm.update(state)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        for name in ("use_sde", "log_std_init", "use_expln", "clip_mean", "share_features_extractor"):
            data.pop(name, None)
        return {**data, "gripper_indices": self.gripper_indices}


MlpPolicy = CnnPolicy = MultiInputPolicy = HybridPolicy
