"""Conservative Q-learning."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_pgr.common.checks import check_counts, find_target_entropy
from sb3_pgr.common.critics import EnsembleCritic
from sb3_pgr.common.distributions import squashed_gaussian_log_prob, squashed_gaussian_sample
from sb3_pgr.common.engine import Block
from sb3_pgr.common.optimizers import apply_gradients, gradients_of, optimizer_step
from sb3_pgr.cql.policies import CQLPolicy
from sb3_pgr.offline.algorithm import OfflineAlgorithm

_NOT_SAVED = ("_compute_actor_loss", "_compute_critic_loss", "_followed", "_targets")
Normal = tuple[th.Tensor, th.Tensor]  # mean and log deviation before tanh, (batch, action_dim) each
SelfCQL = TypeVar("SelfCQL", bound="CQL")


class CQL(OfflineAlgorithm):
    """
    Conservative Q-Learning (Kumar et al. 2020, https://arxiv.org/abs/2006.04779), the variant CQL(H): soft actor-critic whose
    critics are pushed down on actions that policy and chance propose, and up on those of the dataset.

    All losses of an update are those of the networks before it. Parameters not listed are those of ``OfflineAlgorithm``.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, or a class
    :param env: for spaces, and for going on online
    :param dataset: whatever ``load_dataset`` takes
    :param learning_rate: of the critics and the Lagrange multiplier
    :param actor_learning_rate: of actor and temperature, or a schedule
    :param conservative_weight: weight of the conservative term
    :param n_actions: proposed actions of each of the three kinds (random, of the policy here, of the policy in the next state)
    :param importance_sampling: correct for the density of the proposed actions
    :param lagrange_threshold: let a multiplier keep the conservative gap at this; None for a fixed weight
    :param max_q_backup: targets from the best of ``n_actions`` next actions
    :param backup_entropy: targets with the entropy of the next action
    :param temperature: of the soft maximum over proposed actions
    :param clip_gap: bounds of the conservative gap
    :param bc_steps: updates at the start in which the actor imitates
    :param target_entropy: of the policy; ``"auto"`` is minus the number of action dimensions, ``"auto_0.5"`` half of that
    :raises ValueError: if a number is out of range, or there is neither dataset nor environment
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": CQLPolicy, "MultiInputPolicy": CQLPolicy}
    policy: CQLPolicy

    def __init__(
        self,
        policy: str | type[CQLPolicy],
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        actor_learning_rate: float | Schedule = 3e-5,
        conservative_weight: float = 10.0,
        n_actions: int = 10,
        importance_sampling: bool = True,
        lagrange_threshold: float | None = None,
        max_q_backup: bool = False,
        backup_entropy: bool = False,
        temperature: float = 1.0,
        clip_gap: tuple[float, float] = (-math.inf, math.inf),
        bc_steps: int = 0,
        target_entropy: str | float = "auto",
        normalize_observations: bool = True,
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
        self.actor_learning_rate = actor_learning_rate
        self.conservative_weight = conservative_weight
        self.n_actions = n_actions
        self.importance_sampling = importance_sampling
        self.lagrange_threshold = lagrange_threshold
        self.max_q_backup = max_q_backup
        self.backup_entropy = backup_entropy
        self.temperature = temperature
        self.clip_gap = tuple(clip_gap)
        self.bc_steps = bc_steps
        self.target_entropy = target_entropy
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
        check_counts(n_actions=self.n_actions)
        if self.conservative_weight < 0 or self.temperature <= 0 or self.clip_gap[0] >= self.clip_gap[1]:
            raise ValueError(
                f"conservative_weight={self.conservative_weight} must not be negative, temperature={self.temperature} must be "
                f"above 0 and clip_gap={self.clip_gap} increasing."
            )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.actor_lr_schedule = FloatSchedule(self.actor_learning_rate)
        self._compute_critic_loss = self._engine.wrap(self._critic_loss)
        self._compute_actor_loss = self._engine.wrap(self._actor_loss)
        self._followed: list[th.Tensor] = list(self.policy.critic.parameters())
        self._targets: list[th.Tensor] = list(self.policy.critic_target.parameters())
        self.target_entropy = find_target_entropy(self.target_entropy, get_action_dim(self.action_space))
        # Logarithms: of the entropy's weight, and of the Lagrange multiplier.
        self.log_ent_coef = th.zeros(1, device=self.device, requires_grad=True)
        self.log_multiplier = th.zeros(1, device=self.device, requires_grad=True)
        self.ent_coef_optimizer = th.optim.Adam([self.log_ent_coef], self.actor_lr_schedule(1))
        self.multiplier_optimizer = th.optim.Adam([self.log_multiplier], self.lr_schedule(1))

    def _optimizers(self) -> Mapping[str, th.optim.Optimizer]:
        return {
            "actor": self.policy.actor.optimizer,
            "critic": self.policy.critic.optimizer,
            "ent_coef": self.ent_coef_optimizer,
            "multiplier": self.multiplier_optimizer,
        }

    def _learning_rate_of(self, name: str) -> float:
        if name in ("actor", "ent_coef"):
            return self.actor_lr_schedule(self._current_progress_remaining)
        return super()._learning_rate_of(name)

    def _flag(self, update: int) -> bool:
        return update <= self.bc_steps

    def _noise(self, gradient_steps: int, batch_size: int) -> Block:
        shape, dim = (gradient_steps, batch_size), get_action_dim(self.action_space)
        one, many = (*shape, dim), (*shape, self.n_actions, dim)
        return {
            "noise": th.randn(one, device=self.device),
            "target_noise": th.randn(many if self.max_q_backup else (*shape, 1, dim), device=self.device),
            "here_noise": th.randn(many, device=self.device),
            "next_noise": th.randn(many, device=self.device),
            "random_actions": 2 * th.rand(many, device=self.device) - 1,
        }

    def _update(self, batch: Block, flag: bool) -> dict[str, th.Tensor]:
        policy = self.policy
        bellman, gaps, q_mean, q_max = self._compute_critic_loss(batch)
        metrics = {"critic_loss": bellman.detach(), "conservative_gap": gaps.detach().mean(), "q_mean": q_mean, "q_max": q_max}
        weight: float | th.Tensor = self.conservative_weight
        if self.lagrange_threshold is not None:
            gaps = gaps - self.lagrange_threshold
            multiplier = self.log_multiplier.exp().clamp(0, 1e6)
            multiplier_loss = -0.5 * (multiplier * self.conservative_weight * gaps.detach()).sum()
            weight = multiplier.detach() * self.conservative_weight
            optimizer_step(self.multiplier_optimizer, multiplier_loss)
            metrics["multiplier"] = multiplier.detach().squeeze()
        gradients = gradients_of(policy.critic.optimizer, bellman + (weight * gaps).sum())
        # The critics' step waits for the actor's loss, which is of the same critics.
        actor_loss, log_prob = self._compute_actor_loss(batch, flag)
        assert isinstance(self.target_entropy, float)
        ent_coef_loss = -(self.log_ent_coef * (log_prob + self.target_entropy)).mean()
        optimizer_step(policy.actor.optimizer, actor_loss)
        optimizer_step(self.ent_coef_optimizer, ent_coef_loss)
        apply_gradients(policy.critic.optimizer, gradients)
        with th.no_grad():
            th._foreach_lerp_(self._targets, self._followed, self.tau)
        return metrics | {"actor_loss": actor_loss.detach(), "ent_coef": self.log_ent_coef.detach().exp().squeeze()}

    def _actor_loss(self, batch: Block, imitate: bool) -> tuple[th.Tensor, th.Tensor]:
        """SAC's, or while it imitates the likelihood of the dataset's actions in place of their value."""
        obs, ent_coef = batch["observations"], self.log_ent_coef.detach().exp()
        mean, log_std, _ = self.policy.actor.get_action_dist_params(obs)
        actions, log_prob = squashed_gaussian_sample(mean, log_std, batch["noise"])
        if imitate:
            gain = squashed_gaussian_log_prob(mean, log_std, batch["actions"])
        else:
            gain = self.policy.critic.q_values(obs, actions).amin(0)
        return (ent_coef * log_prob - gain).mean(), log_prob.detach()

    def _critic_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor, th.Tensor, th.Tensor]:
        """Sum over critics of the mean squared error to the target, and each critic's conservative gap ``(n_critics,)``."""
        policy, obs = self.policy, batch["observations"]
        with th.no_grad():
            here = policy.actor.get_action_dist_params(obs)[:2]
            following = policy.actor.get_action_dist_params(batch["next_observations"])[:2]
        q_values = policy.critic.q_values(obs, batch["actions"])
        errors = q_values - self._target(batch, following)
        gaps = (self._soft_maximum(batch, q_values, here, following) - q_values).clamp(*self.clip_gap).mean(1)
        return errors.pow(2).mean(1).sum(), gaps, q_values.detach().mean(), q_values.detach().abs().amax()

    @th.no_grad()
    def _target(self, batch: Block, following: Normal) -> th.Tensor:
        actions, log_prob = _sampled(following, batch["target_noise"])
        next_q = self._values(self.policy.critic_target, batch["next_observations"], actions).amin(0)
        if self.backup_entropy:
            next_q = next_q - self.log_ent_coef.exp() * log_prob
        return batch["rewards"].squeeze(-1) + self.gamma * (1 - batch["dones"].squeeze(-1)) * next_q.amax(1)

    def _soft_maximum(self, batch: Block, q_data: th.Tensor, here: Normal, following: Normal) -> th.Tensor:
        """Of the values of all proposed actions in the state itself ``(n_critics, batch)`` (equation 4)."""
        dim = batch["actions"].shape[1]
        with th.no_grad():
            actions, density = _sampled(here, batch["here_noise"])
            next_actions, next_density = _sampled(following, batch["next_noise"])
        proposed = th.cat([batch["random_actions"], next_actions, actions], 1)
        values = self._values(self.policy.critic, batch["observations"], proposed)
        if self.importance_sampling:
            random_density = th.full_like(density, -dim * math.log(2))
            values = values - th.cat([random_density, next_density, density], 1)
        else:
            values = th.cat([values, q_data[..., None]], 2)
        return self.temperature * th.logsumexp(values / self.temperature, 2)

    def _values(self, critic: EnsembleCritic, obs: Any, actions: th.Tensor) -> th.Tensor:
        """Of several actions in each state, ``(n_critics, batch, n)``."""
        features = critic.extract_features(obs, critic.features_extractor)
        joined = th.cat([features[:, None].expand(-1, actions.shape[1], -1), actions], 2).flatten(0, 1)
        return critic.ensemble(joined).float().view(-1, *actions.shape[:2])

    def learn(
        self: SelfCQL,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "CQL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfCQL:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_NOT_SAVED]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        optimizers = ["policy.actor.optimizer", "policy.critic.optimizer", "ent_coef_optimizer", "multiplier_optimizer"]
        return ["policy", *optimizers], ["log_ent_coef", "log_multiplier"]


def _sampled(distribution: Normal, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Actions ``(batch, n, action_dim)`` of the policy and their log densities ``(batch, n)``."""
    mean, log_std = (part[:, None].expand_as(noise).flatten(0, 1) for part in distribution)
    actions, log_prob = squashed_gaussian_sample(mean, log_std, noise.flatten(0, 1))
    return actions.view(noise.shape), log_prob.view(noise.shape[:2])
