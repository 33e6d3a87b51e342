"""Implicit Q-learning."""

import math
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

import torch as th
from gymnasium import spaces
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_pgr.common.engine import Block
from sb3_pgr.common.optimizers import optimizer_step
from sb3_pgr.iql.policies import IQLPolicy
from sb3_pgr.offline.algorithm import OfflineAlgorithm

_NOT_SAVED = ("_compute_value_loss", "_compute_losses", "_followed", "_targets")
SelfIQL = TypeVar("SelfIQL", bound="IQL")


class IQL(OfflineAlgorithm):
    """
    Implicit Q-Learning (Kostrikov et al. 2021, https://arxiv.org/abs/2110.06169): a state value that is an expectile of the
    values of the dataset's actions, and a policy that imitates those actions by their advantage. No action outside of
    the dataset is ever evaluated.

    The order of an update is that of the authors' code: value, actor, critics, target. Parameters not listed are those of
    ``OfflineAlgorithm``.

    :param policy: ``"MlpPolicy"``, ``"MultiInputPolicy"``, or a class
    :param env: for spaces, and for going on online
    :param dataset: whatever ``load_dataset`` takes
    :param expectile: of the value function, in (0, 1); 0.5 is the mean
    :param beta: inverse temperature of the advantages
    :param max_weight: largest weight of an imitated action
    :param actor_decay: let the actor's learning rate fall to 0 along a cosine over ``total_timesteps``; offline only
    :param normalize_observations: standardise observations by the dataset (the authors do not)
    :param reward_transform: ``"return_range"`` is the authors' for locomotion
    :raises ValueError: if a number is out of range, or there is neither dataset nor environment
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": IQLPolicy, "MultiInputPolicy": IQLPolicy}
    policy: IQLPolicy

    def __init__(
        self,
        policy: str | type[IQLPolicy],
        env: GymEnv | str | None = None,
        dataset: Any = None,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        expectile: float = 0.7,
        beta: float = 3.0,
        max_weight: float = 100.0,
        actor_decay: bool = True,
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
        self.expectile = expectile
        self.beta = beta
        self.max_weight = max_weight
        self.actor_decay = actor_decay
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
        if not 0 < self.expectile < 1 or self.beta < 0 or self.max_weight <= 0:
            raise ValueError(
                f"expectile={self.expectile} must be between 0 and 1, beta={self.beta} at least 0 and "
                f"max_weight={self.max_weight} above 0."
            )

    def _setup_model(self) -> None:
        super()._setup_model()
        self._compute_value_loss = self._engine.wrap(self._value_loss)
        self._compute_losses = self._engine.wrap(self._losses)
        self._followed: list[th.Tensor] = list(self.policy.critic.parameters())
        self._targets: list[th.Tensor] = list(self.policy.critic_target.parameters())

    def _optimizers(self) -> Mapping[str, th.optim.Optimizer]:
        return {name: getattr(self.policy, name).optimizer for name in ("value", "actor", "critic")}

    def _learning_rate_of(self, name: str) -> float:
        rate = super()._learning_rate_of(name)
        if name != "actor" or not self.actor_decay or self.online:
            return rate
        return rate * (1 + math.cos(math.pi * (1 - self._current_progress_remaining))) / 2

    def _update(self, batch: Block, flag: bool) -> dict[str, th.Tensor]:
        policy = self.policy
        value_loss, batch["q_data"] = self._compute_value_loss(batch)
        optimizer_step(policy.value.optimizer, value_loss)
        actor_loss, critic_loss, metrics = self._compute_losses(batch)
        optimizer_step(policy.actor.optimizer, actor_loss)
        optimizer_step(policy.critic.optimizer, critic_loss)
        with th.no_grad():
            th._foreach_lerp_(self._targets, self._followed, self.tau)
        losses = {"value_loss": value_loss, "actor_loss": actor_loss, "critic_loss": critic_loss}
        return {name: loss.detach() for name, loss in losses.items()} | metrics

    def _value_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor]:
        """Expectile regression of the smallest target value of the dataset's action (equation 5), and that value."""
        with th.no_grad():
            q_data = self.policy.critic_target.q_values(batch["observations"], batch["actions"]).amin(0)
        gap = q_data - self.policy.value(batch["observations"])
        weight = th.where(gap > 0, self.expectile, 1 - self.expectile)
        return (weight * gap.pow(2)).mean(), q_data

    def _losses(self, batch: Block) -> tuple[th.Tensor, th.Tensor, dict[str, th.Tensor]]:
        """
        Of the actor, imitation weighted by ``exp(beta A)``, at most ``max_weight`` (equation 7); of the critics, the sum of
        mean squared errors to the value of the next state (equation 6).
        """
        policy, obs = self.policy, batch["observations"]
        with th.no_grad():
            value, next_value = policy.value(obs), policy.value(batch["next_observations"])
            weight = (self.beta * (batch["q_data"] - value)).exp()
            clipped = (weight > self.max_weight).float().mean()
            weight = weight.clamp(max=self.max_weight)
            target = batch["rewards"].squeeze(-1) + self.gamma * (1 - batch["dones"].squeeze(-1)) * next_value
        log_prob = policy.actor.log_prob(obs, batch["actions"])
        q_values = policy.critic.q_values(obs, batch["actions"])
        metrics = {
            "value": value.mean(),
            "q_mean": q_values.detach().mean(),
            "q_max": q_values.detach().abs().amax(),
            "weight": weight.mean(),
            "clipped_weights": clipped,
            "effective_weights": weight.mean().pow(2) / weight.pow(2).mean(),
        }
        return -(weight * log_prob).mean(), (q_values - target).pow(2).mean(1).sum(), metrics

    def learn(
        self: SelfIQL,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "IQL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfIQL:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), *_NOT_SAVED]

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", *(f"policy.{name}.optimizer" for name in self._optimizers())], []
