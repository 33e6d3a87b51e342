"""Policies of BCQ: a generative model of the dataset's actions, a perturbation of them, and critics that choose."""

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, create_mlp
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_pgr.common.checks import check_counts
from sb3_pgr.offline.policies import OfflinePolicy, start_target

LATENT_BOUND = 0.5  # of what actions are decoded from


class ActionVAE(BaseModel):
    """
    A conditional variational auto-encoder of actions given observations (Kingma & Welling 2014).

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: maps observations to features
    :param net_arch: hidden widths of encoder and decoder
    :param activation_fn: activation class
    """

    optimizer: th.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
    ):
        super().__init__(observation_space, action_space, features_extractor=features_extractor)
        dim, action_dim = features_extractor.features_dim, get_action_dim(action_space)
        self.latent_dim = 2 * action_dim
        self.encoder = nn.Sequential(*create_mlp(dim + action_dim, 2 * self.latent_dim, net_arch, activation_fn))
        self.decoder = nn.Sequential(*create_mlp(dim + self.latent_dim, action_dim, net_arch, activation_fn))

    def encode(self, features: th.Tensor, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Mean and log standard deviation of the latent ``(batch, latent_dim)`` each."""
        mean, log_std = self.encoder(th.cat([features, actions], -1)).chunk(2, -1)
        return mean, log_std.clamp(-4, 15)

    def decode(self, features: th.Tensor, latents: th.Tensor) -> th.Tensor:
        """Actions ``(..., action_dim)`` in [-1, 1]."""
        return self.decoder(th.cat([features, latents], -1)).tanh()


class Perturbation(BaseModel):
    """
    Moves actions by at most ``phi``, towards higher values.

    :param observation_space: observation space
    :param action_space: action space
    :param features_extractor: maps observations to features
    :param net_arch: hidden widths
    :param activation_fn: activation class
    :param phi: largest change, for actions in [-1, 1]
    """

    optimizer: th.optim.Optimizer

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Box,
        features_extractor: BaseFeaturesExtractor,
        net_arch: list[int],
        activation_fn: type[nn.Module] = nn.ReLU,
        phi: float = 0.05,
    ):
        super().__init__(observation_space, action_space, features_extractor=features_extractor)
        action_dim = get_action_dim(action_space)
        self.phi = phi
        self.layers = nn.Sequential(
            *create_mlp(features_extractor.features_dim + action_dim, action_dim, net_arch, activation_fn)
        )

    def forward(self, features: th.Tensor, actions: th.Tensor) -> th.Tensor:
        """Moved actions, of the shape of ``actions``, in [-1, 1]."""
        change = self.phi * self.layers(th.cat([features, actions], -1)).tanh()
        return (actions + change).clamp(-1, 1)


class BCQPolicy(OfflinePolicy):
    """
    ``predict`` decodes candidates, moves each, and takes the one that the first critic values most. Deterministic
    predictions always decode the same latents, which are saved with the policy; others draw new ones.

    Parameters not listed are those of ``OfflinePolicy``; the authors' hidden widths are the default.

    :param vae_arch: hidden widths of encoder and decoder
    :param phi: largest change of a decoded action, for actions in [-1, 1]
    :param n_eval_samples: candidates of a prediction
    """

    eval_latents: th.Tensor

    def __init__(
        self,
        *args: Any,
        vae_arch: list[int] | None = None,
        phi: float = 0.05,
        n_eval_samples: int = 100,
        **kwargs: Any,
    ):
        check_counts(n_eval_samples=n_eval_samples)
        self.vae_arch = [750, 750] if vae_arch is None else vae_arch
        self.phi, self.n_eval_samples = phi, n_eval_samples
        super().__init__(*args, **{"net_arch": [400, 300], **kwargs})

    def _build(self, lr_schedule: Schedule) -> None:
        assert isinstance(self.action_space, spaces.Box)
        given = self.observation_space, self.action_space, self.features_extractor
        self.vae = ActionVAE(*given, self.vae_arch, self.activation_fn)
        self.actor, self.actor_target = (Perturbation(*given, self._arch[0], self.activation_fn, self.phi) for _ in range(2))
        self.critic, self.critic_target = self.make_critic(), self.make_critic()
        for network in (self.vae, self.actor, self.critic):
            network.optimizer = self.make_optimizer(network, lr_schedule)
        start_target(self.actor, self.actor_target)
        start_target(self.critic, self.critic_target)
        self.register_buffer("eval_latents", self.draw_latents(self.n_eval_samples))

    def draw_latents(self, *shape: int) -> th.Tensor:
        """Standard normal numbers, cut off at 0.5, ``(*shape, latent_dim)``."""
        return th.randn(*shape, self.vae.latent_dim, device=self.device).clamp(-LATENT_BOUND, LATENT_BOUND)

    def features(self, obs: PyTorchObs) -> th.Tensor:
        """Standardised flat observations ``(batch, features)``."""
        return self.extract_features(obs, self.features_extractor)

    def _predict(self, observation: PyTorchObs, deterministic: bool = True) -> th.Tensor:
        features = self.features(observation)
        n, k = features.shape[0], self.n_eval_samples  # a tracer makes a constant of len()
        latents = self.eval_latents.expand(n, -1, -1) if deterministic else self.draw_latents(n, k)
        repeated = features[:, None].expand(-1, k, -1)
        actions = self.actor(repeated, self.vae.decode(repeated, latents))
        joined = th.cat([repeated, actions], -1).flatten(0, 1)
        values = self.critic.ensemble(joined, slice(1)).view(n, k)
        return actions[th.arange(n, device=features.device), values.argmax(1)]

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | {
            "vae_arch": self.vae_arch,
            "phi": self.phi,
            "n_eval_samples": self.n_eval_samples,
        }


MlpPolicy = MultiInputPolicy = BCQPolicy
