"""TD3 with behaviour cloning."""

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_pgr.common.checks import check_counts
from sb3_pgr.common.engine import Block
from sb3_pgr.common.optimizers import optimizer_step
from sb3_pgr.offline.algorithm import OfflineAlgorithm
from sb3_pgr.td3_bc.policies import TD3BCPolicy

SelfTD3BC = TypeVar("SelfTD3BC", bound="TD3BC")


class TD3BC(OfflineAlgorithm):
    """
    TD3+BC (Fujimoto & Gu 2021, https://arxiv.org/abs/2106.06860): TD3 whose actor also imitates the actions of the dataset.

    Parameters not listed are those of ``OfflineAlgorithm``.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, or a class
    :param env: for spaces, and for going on online
    :param dataset: whatever ``load_dataset`` takes
    :param alpha: weight of the value against imitation (the paper's 2.5, for all its tasks)
    :param policy_delay: the actor and the targets are updated at every ``policy_delay``-th update
    :param target_policy_noise: standard deviation of the noise on target actions, for actions in [-1, 1]
    :param target_noise_clip: bound of that noise
    :raises ValueError: if a number is out of range, or there is neither dataset nor environment
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": TD3BCPolicy, "MultiInputPolicy": TD3BCPolicy}
    policy: TD3BCPolicy

    def __init__(
        self,
        policy: str | type[TD3BCPolicy],
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        alpha: float = 2.5,
        policy_delay: int = 2,
        target_policy_noise: float = 0.2,
        target_noise_clip: float = 0.5,
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
        self.alpha = alpha
        self.policy_delay = policy_delay
        self.target_policy_noise = target_policy_noise
        self.target_noise_clip = target_noise_clip
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
        check_counts(policy_delay=self.policy_delay)
        if self.alpha <= 0:
            raise ValueError(f"alpha={self.alpha} must be above 0.")
        for name in ("target_policy_noise", "target_noise_clip"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative.")

    def _setup_model(self) -> None:
        super()._setup_model()
        self._compute_critic_loss = self._engine.wrap(self._critic_loss)
        self._compute_actor_loss = self._engine.wrap(self._actor_loss)
        policy = self.policy
        self._followed: list[th.Tensor] = [*policy.actor.mu.parameters(), *policy.critic.parameters()]
        self._targets: list[th.Tensor] = [*policy.actor_target.mu.parameters(), *policy.critic_target.parameters()]

    def _optimizers(self) -> Mapping[str, th.optim.Optimizer]:
        return {"actor": self.policy.actor.optimizer, "critic": self.policy.critic.optimizer}

    def _noise(self, gradient_steps: int, batch_size: int) -> Block:
        return {"noise": th.randn((gradient_steps, batch_size, get_action_dim(self.action_space)), device=self.device)}

    def _flag(self, update: int) -> bool:
        return update % self.policy_delay == 0

    def _update(self, batch: Block, flag: bool) -> dict[str, th.Tensor]:
        policy = self.policy
        critic_loss, q_mean, q_max = self._compute_critic_loss(batch)
        optimizer_step(policy.critic.optimizer, critic_loss)
        metrics = {"critic_loss": critic_loss.detach(), "q_mean": q_mean, "q_max": q_max}
        if flag:
            actor_loss, bc_loss, weight = self._compute_actor_loss(batch)
            optimizer_step(policy.actor.optimizer, actor_loss)
            with th.no_grad():
                th._foreach_lerp_(self._targets, self._followed, self.tau)
            metrics |= {"actor_loss": actor_loss.detach(), "bc_loss": bc_loss, "q_weight": weight}
        return metrics

    def _critic_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Sum over critics of the mean squared error to the clipped double-Q target (TD3, equations 14 and 15)."""
        with th.no_grad():
            noise = (batch["noise"] * self.target_policy_noise).clamp(-self.target_noise_clip, self.target_noise_clip)
            next_actions = (self.policy.actor_target(batch["next_observations"]) + noise).clamp(-1, 1)
            next_q = self.policy.critic_target.q_values(batch["next_observations"], next_actions).amin(0)
            target = batch["rewards"].squeeze(-1) + self.gamma * (1 - batch["dones"].squeeze(-1)) * next_q
        q_values = self.policy.critic.q_values(batch["observations"], batch["actions"])
        return (q_values - target).pow(2).mean(1).sum(), q_values.detach().mean(), q_values.detach().abs().amax()

    def _actor_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """``-lambda Q1(s, pi(s)) + (pi(s) - a)^2`` with ``lambda = alpha / mean |Q1|``, which is a constant (equation 5)."""
        actions = self.policy.actor(batch["observations"])
        first = self.policy.critic.q_values(batch["observations"], actions, slice(1))[0]
        weight = self.alpha / first.detach().abs().mean()
        imitation = (actions - batch["actions"]).pow(2).mean()
        return imitation - weight * first.mean(), imitation.detach(), weight

    def learn(
        self: SelfTD3BC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "TD3BC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfTD3BC:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_compute_critic_loss", "_compute_actor_loss", "_followed", "_targets"]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.actor.optimizer", "policy.critic.optimizer"], []
