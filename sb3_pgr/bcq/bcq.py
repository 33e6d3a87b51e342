"""Batch-constrained deep Q-learning."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_pgr.bcq.policies import BCQPolicy
from sb3_pgr.common.checks import check_counts, check_shares
from sb3_pgr.common.engine import Block
from sb3_pgr.common.optimizers import optimizer_step
from sb3_pgr.offline.algorithm import OfflineAlgorithm

_NOT_SAVED = ("_compute_vae_loss", "_compute_actor_loss", "_compute_critic_loss", "_followed", "_targets")
SelfBCQ = TypeVar("SelfBCQ", bound="BCQ")


class BCQ(OfflineAlgorithm):
    """
    Batch-Constrained deep Q-learning (Fujimoto et al. 2019, https://arxiv.org/abs/1812.02900): actions are those that a
    generative model of the dataset proposes, moved a little; the critics choose among them.

    Parameters not listed are those of ``OfflineAlgorithm``. ``policy_kwargs``: ``phi``, ``vae_arch``, ``n_eval_samples`` and
    others, see ``BCQPolicy``.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, or a class
    :param env: for spaces, and for going on online
    :param dataset: whatever ``load_dataset`` takes
    :param lmbda: weight of the smallest value in a target; the largest has the rest
    :param n_target_samples: candidates of a target
    :param kl_weight: weight of the divergence in the loss of the generative model
    :raises ValueError: if a number is out of range, or there is neither dataset nor environment
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": BCQPolicy, "MultiInputPolicy": BCQPolicy}
    policy: BCQPolicy

    def __init__(
        self,
        policy: str | type[BCQPolicy],
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 100,
        tau: float = 0.005,
        gamma: float = 0.99,
        lmbda: float = 0.75,
        n_target_samples: int = 10,
        kl_weight: float = 0.5,
        normalize_observations: bool = False,
        reward_transform: str | tuple[float, float] = "none",
        block_size: int = 20,
        online_share: float = 0.5,
        buffer_size: int = 1_000_000,
        learning_starts: int = 0,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: ActionNoise | None = None,
        compile: bool = False,
        precision: str = "fp32",
        cuda_graph: bool = False,
        policy_kwargs: dict[str, Any] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        self.lmbda = lmbda
        self.n_target_samples = n_target_samples
        self.kl_weight = kl_weight
        super().__init__(
            policy,
            env,
            dataset,
            learning_rate,
            batch_size,
            tau,
            gamma,
            normalize_observations,
            reward_transform,
            block_size,
            online_share,
            buffer_size,
            learning_starts,
            train_freq,
            gradient_steps,
            action_noise,
            compile,
            precision,
            cuda_graph,
            policy_kwargs,
            stats_window_size,
            tensorboard_log,
            verbose,
            seed,
            device,
            (spaces.Box,),
            _init_setup_model,
        )

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_counts(n_target_samples=self.n_target_samples)
        check_shares(lmbda=self.lmbda)
        if self.kl_weight < 0:
            raise ValueError(f"kl_weight={self.kl_weight} must not be negative.")

    def _setup_model(self) -> None:
        super()._setup_model()
        self._compute_vae_loss = self._engine.wrap(self._vae_loss)
        self._compute_critic_loss = self._engine.wrap(self._critic_loss)
        self._compute_actor_loss = self._engine.wrap(self._actor_loss)
        policy = self.policy
        self._followed: list[th.Tensor] = [*policy.critic.parameters(), *policy.actor.parameters()]
        self._targets: list[th.Tensor] = [*policy.critic_target.parameters(), *policy.actor_target.parameters()]

    def _optimizers(self) -> Mapping[str, th.optim.Optimizer]:
        return {name: getattr(self.policy, name).optimizer for name in ("vae", "critic", "actor")}

    def _noise(self, gradient_steps: int, batch_size: int) -> Block:
        shape, draw = (gradient_steps, batch_size), self.policy.draw_latents
        return {
            "noise": th.randn((*shape, self.policy.vae.latent_dim), device=self.device),
            "latents": draw(*shape),
            "next_latents": draw(*shape, self.n_target_samples),
        }

    def _update(self, batch: Block, flag: bool) -> dict[str, th.Tensor]:
        policy = self.policy
        vae_loss, reconstruction = self._compute_vae_loss(batch)
        optimizer_step(policy.vae.optimizer, vae_loss)
        critic_loss, q_mean, q_max = self._compute_critic_loss(batch)
        optimizer_step(policy.critic.optimizer, critic_loss)
        actor_loss = self._compute_actor_loss(batch)
        optimizer_step(policy.actor.optimizer, actor_loss)
        with th.no_grad():
            th._foreach_lerp_(self._targets, self._followed, self.tau)
        return {
            "vae_loss": vae_loss.detach(),
            "reconstruction": reconstruction,
            "critic_loss": critic_loss.detach(),
            "actor_loss": actor_loss.detach(),
            "q_mean": q_mean,
            "q_max": q_max,
        }

    def _vae_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor]:
        """Squared error of the decoded action, and divergence from the standard normal; both are means, as the authors'."""
        vae, features = self.policy.vae, self.policy.features(batch["observations"])
        mean, log_std = vae.encode(features, batch["actions"])
        decoded = vae.decode(features, mean + log_std.exp() * batch["noise"])
        reconstruction = (decoded - batch["actions"]).pow(2).mean()
        divergence = -0.5 * (1 + 2 * log_std - mean.pow(2) - (2 * log_std).exp()).mean()
        return reconstruction + self.kl_weight * divergence, reconstruction.detach()

    def _critic_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Sum over critics of the mean squared error to the best candidate's value (algorithm 1, equation 13)."""
        policy = self.policy
        with th.no_grad():
            features = policy.features(batch["next_observations"])
            repeated = features[:, None].expand(-1, self.n_target_samples, -1)
            actions = policy.actor_target(repeated, policy.vae.decode(repeated, batch["next_latents"]))
            joined = th.cat([repeated, actions], -1).flatten(0, 1)
            next_q = policy.critic_target.ensemble(joined).float().view(policy.n_critics, -1, self.n_target_samples)
            soft = self.lmbda * next_q.amin(0) + (1 - self.lmbda) * next_q.amax(0)
            not_done = 1 - batch["dones"].squeeze(-1)
            target = batch["rewards"].squeeze(-1) + self.gamma * not_done * soft.amax(1)
        q_values = policy.critic.q_values(batch["observations"], batch["actions"])
        return (q_values - target).pow(2).mean(1).sum(), q_values.detach().mean(), q_values.detach().abs().amax()

    def _actor_loss(self, batch: Block) -> th.Tensor:
        """The first critic's value of a decoded and moved action; only the perturbation learns from it."""
        policy = self.policy
        with th.no_grad():
            features = policy.features(batch["observations"])
            decoded = policy.vae.decode(features, batch["latents"])
        actions = policy.actor(features, decoded)
        return -policy.critic.q_values(batch["observations"], actions, slice(1)).mean()

    def learn(
        self: SelfBCQ,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "BCQ",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfBCQ:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_NOT_SAVED]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"policy.{name}.optimizer" for name in self._optimizers())], []
