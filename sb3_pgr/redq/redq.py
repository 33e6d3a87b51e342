"""Randomized Ensembled Double Q-Learning."""

import io
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.sac import SAC

from sb3_pgr.buffers import SequenceReplayBuffer, TensorReplayBuffer, sample_block, seed_replay
from sb3_pgr.common.checks import check_counts, check_discount, check_shares, find_target_entropy, require_policy
from sb3_pgr.common.critics import EnsembleCritic
from sb3_pgr.common.distributions import squashed_gaussian_sample
from sb3_pgr.common.engine import Block, UpdateEngine, require_cuda
from sb3_pgr.common.health import check_finite_transition
from sb3_pgr.common.optimizers import optimizer_step, set_learning_rate
from sb3_pgr.common.state import truncate_episodes
from sb3_pgr.redq.policies import CnnPolicy, MlpPolicy, MultiInputPolicy, REDQPolicy, SimbaPolicy

TARGET_MODES = ("min", "mean")
SelfREDQ = TypeVar("SelfREDQ", bound="REDQ")


class REDQ(SAC):
    """
    Randomized Ensembled Double Q-Learning (REDQ, Chen et al. 2021, https://arxiv.org/abs/2101.05982).

    SAC with an ensemble of N critics, many updates per environment step, targets from the minimum over a random
    subset of M target critics, and an actor trained on the mean over all critics.

    Parameters not listed are those of SB3's ``SAC``. Not taken over from it: gSDE (``use_sde``),
    ``target_update_interval`` (targets follow after every update, as in the paper), ``optimize_memory_usage``, and ``n_steps``
    (an argument of the buffer: ``replay_buffer_kwargs=dict(n_steps=3, gamma=0.99)``).

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, ``"SimbaPolicy"``, or a class
    :param env: environment, or its registered id
    :param learning_starts: number of steps with random actions before the first update
    :param gradient_steps: updates after each rollout, the paper's update-to-data ratio G (with ``train_freq=1`` and
        one environment); -1 does as many as there were transitions
    :param target_entropy: entropy that the temperature holds the policy to: a number, ``"auto"`` for minus the number of
        action dimensions, or ``"auto_0.5"`` for half of that (as in SimbaV2)
    :param n_critics: number of critics N
    :param n_target_critics: size M of the random subset of target critics, drawn anew for every update
    :param policy_delay: the actor and the temperature are updated at every ``policy_delay``-th update
    :param target_mode: ``"min"`` over the subset, or ``"mean"`` over all target critics
    :param replay_buffer_class: ``TensorReplayBuffer`` by default. With ``PrioritizedReplayBuffer`` the critics' losses
        are weighted and the priorities follow the TD errors
    :param compile: compile the whole update into one graph with ``torch.compile`` (needs a C++ compiler on CPU)
    :param precision: ``"fp32"`` or ``"bf16"`` (bfloat16 autocast)
    :param cuda_graph: run each block of updates as one CUDA graph; needs ``gradient_steps`` to be a multiple of
        ``policy_delay``
    :param policy_kwargs: see ``REDQPolicy`` and ``SimbaPolicy``
    :raises ValueError: if a size is below 1, ``n_target_critics`` is not in 1..N, or a mode or precision is unknown
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": MlpPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
        "SimbaPolicy": SimbaPolicy,
    }
    policy: REDQPolicy
    critic: EnsembleCritic  # type: ignore[assignment]
    critic_target: EnsembleCritic  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[REDQPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 5_000,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 20,
        action_noise: ActionNoise | None = None,
        replay_buffer_class: type[ReplayBuffer] | None = None,
        replay_buffer_kwargs: dict[str, Any] | None = None,
        ent_coef: str | float = "auto",
        target_entropy: str | float = "auto",
        n_critics: int = 10,
        n_target_critics: int = 2,
        policy_delay: int = 20,
        target_mode: str = "min",
        compile: bool = False,
        precision: str = "fp32",
        cuda_graph: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        if "n_critics" in (policy_kwargs or {}):
            raise ValueError("n_critics is an argument of REDQ itself: REDQ(..., n_critics=2), not policy_kwargs.")
        self.n_critics = n_critics
        self.n_target_critics = n_target_critics
        self.policy_delay = policy_delay
        self.target_mode = target_mode
        self.compile = compile
        self.precision = precision
        self.cuda_graph = cuda_graph
        super().__init__(
            policy,
            env,
            learning_rate,
            buffer_size,
            learning_starts,
            batch_size,
            tau,
            gamma,
            train_freq,
            gradient_steps,
            action_noise,
            replay_buffer_class=replay_buffer_class,
            replay_buffer_kwargs=replay_buffer_kwargs,
            ent_coef=ent_coef,
            target_entropy=target_entropy,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs={**(policy_kwargs or {}), "n_critics": n_critics},
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=False,
        )
        # SAC adds this to policy_kwargs, but there is no gSDE here.
        self.policy_kwargs.pop("use_sde", None)
        if _init_setup_model:
            require_cuda(cuda_graph, self.device)
            self._setup_model()

    def _check_arguments(self) -> None:
        """Those of the constructor, and those that ``load`` was given in place of the saved ones."""
        names = ("batch_size", "buffer_size", "policy_delay", "n_critics", "n_target_critics")
        check_counts(**{name: getattr(self, name) for name in names})
        check_shares(gamma=self.gamma, tau=self.tau)
        if not 1 <= self.n_target_critics <= self.n_critics:
            raise ValueError(f"n_target_critics={self.n_target_critics} must be between 1 and n_critics={self.n_critics}.")
        if self.target_mode not in TARGET_MODES:
            raise ValueError(f"target_mode={self.target_mode!r} is not known; choose one of {', '.join(TARGET_MODES)}.")
        if self.policy_kwargs["n_critics"] != self.n_critics:
            raise ValueError(f"n_critics={self.n_critics}: the saved model has {self.policy_kwargs['n_critics']} critics.")

    def _setup_model(self) -> None:
        require_policy(self, REDQPolicy)
        self._check_arguments()
        self.target_entropy = find_target_entropy(self.target_entropy, get_action_dim(self.action_space))
        if self.cuda_graph and (self.gradient_steps < 1 or self.gradient_steps % self.policy_delay):
            raise ValueError(
                f"cuda_graph=True captures one block of updates; gradient_steps={self.gradient_steps} must be a multiple of "
                f"policy_delay={self.policy_delay}."
            )
        if self.replay_buffer_class is None:
            self.replay_buffer_class = TensorReplayBuffer
        if issubclass(self.replay_buffer_class, SequenceReplayBuffer):
            raise ValueError(f"{type(self).__name__} learns from single transitions; SequenceReplayBuffer draws windows.")
        given = self.replay_buffer_kwargs
        if given.get("n_steps", 1) > 1:
            self.replay_buffer_kwargs = {"gamma": self.gamma} | given
        super()._setup_model()
        self.replay_buffer_kwargs = given
        check_discount(self.replay_buffer, self.gamma)
        self._engine = UpdateEngine(self.device, self.compile, self.precision, self.cuda_graph)
        self._compute_critic_loss = self._engine.wrap(self._critic_loss)
        self._compute_actor_loss = self._engine.wrap(self._actor_loss)
        self._critic_parameters: list[th.Tensor] = list(self.critic.parameters())
        self._target_parameters: list[th.Tensor] = list(self.critic_target.parameters())

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        seed_replay(self.replay_buffer, seed)

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        As SB3's.

        :raises ValueError: if it does not go with the model, which then keeps its own
        """
        own = self.replay_buffer
        super().load_replay_buffer(path, truncate_last_traj)
        try:
            self._accept_replay_buffer(own)
        except ValueError:
            self.replay_buffer = own
            raise

    def _accept_replay_buffer(self, replaced: ReplayBuffer | None) -> None:
        """Check what was loaded in place of ``replaced``."""
        assert self.replay_buffer is not None
        if replaced is not None and self.replay_buffer.n_envs != replaced.n_envs:
            raise ValueError(f"The replay buffer is of {self.replay_buffer.n_envs} environments, not of {replaced.n_envs}.")
        check_discount(self.replay_buffer, self.gamma)

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        for updates in self._engine.blocks(gradient_steps):
            self._train_block(updates, batch_size)

    def _train_block(self, gradient_steps: int, batch_size: int) -> None:
        self.policy.set_training_mode(True)
        optimizers = [self.actor.optimizer, self.critic.optimizer]
        if self.ent_coef_optimizer is not None:
            optimizers.append(self.ent_coef_optimizer)
        self._update_learning_rate(optimizers)

        assert self.replay_buffer is not None
        rows = sample_block(self.replay_buffer, gradient_steps, batch_size, self._vec_normalize_env)
        shape = (gradient_steps, batch_size, get_action_dim(self.action_space))
        block: Block = {name: value for name, value in rows._asdict().items() if value is not None}
        indices = block.pop("indices", None)
        if indices is not None:
            block["td_errors"] = th.empty(indices.shape, device=self.device)
        # All randomness of the block is drawn here, so that the update itself is a pure function of its batch.
        block["next_noise"] = th.randn(shape, device=self.device)
        block["noise"] = th.randn(shape, device=self.device)
        order = th.rand(gradient_steps, self.n_critics, device=self.device).argsort(dim=1)
        block["subset"] = order[:, : self.n_target_critics]  # without replacement, one subset per update

        updates = range(self._n_updates + 1, self._n_updates + gradient_steps + 1)
        flags = [i % self.policy_delay == 0 for i in updates]
        metrics = self._engine.run(self._update, block, flags, optimizers, results=("td_errors",))
        if indices is not None:
            self.replay_buffer.update_priorities(indices, block["td_errors"])  # type: ignore[attr-defined]

        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)

    def _update(self, batch: Block, update_policy: bool) -> dict[str, th.Tensor]:
        """One update (algorithm 1 of the paper, lines 6 to 11), on tensors of shape ``(batch_size, ...)``."""
        critic_loss, q_mean, td_errors = self._compute_critic_loss(batch)
        if "td_errors" in batch:
            batch["td_errors"].copy_(td_errors)
        optimizer_step(self.critic.optimizer, critic_loss)
        with th.no_grad():
            th._foreach_lerp_(self._target_parameters, self._critic_parameters, self.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)  # SB3 issue 996
        metrics = {"critic_loss": critic_loss.detach(), "q_mean": q_mean}
        if update_policy:
            metrics |= self._update_policy(batch)
        return metrics

    def _update_policy(self, batch: Block) -> dict[str, th.Tensor]:
        actor_loss, log_prob = self._compute_actor_loss(batch)
        optimizer_step(self.actor.optimizer, actor_loss)
        if self.policy.averaged_actor is not None:
            self.policy.averaged_actor.update(self.actor)
        metrics = {"actor_loss": actor_loss.detach(), "ent_coef": self._ent_coef().detach().squeeze()}
        if self.ent_coef_optimizer is not None:
            assert self.log_ent_coef is not None and isinstance(self.target_entropy, float)
            # The logarithm is what is optimised, as in SB3 (softlearning issue 37).
            ent_coef_loss = -(self.log_ent_coef * (log_prob + self.target_entropy)).mean()
            optimizer_step(self.ent_coef_optimizer, ent_coef_loss)
            metrics["ent_coef_loss"] = ent_coef_loss.detach()
        return metrics

    def _critic_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """
        Sum over critics of the mean squared error to the common target (equation 1 and line 9), of each row by its
        importance weight if the replay is prioritized; and each row's absolute TD error, averaged over critics.
        """
        with th.no_grad():
            next_obs = batch["next_observations"]
            next_actions, next_log_prob = self._sample_actions(next_obs, batch["next_noise"])
            if self.target_mode == "min":
                next_q = self.critic_target.q_values(next_obs, next_actions, batch["subset"]).amin(0)
            else:
                next_q = self.critic_target.q_values(next_obs, next_actions).mean(0)
            discounts = batch["discounts"].squeeze(-1) if "discounts" in batch else self.gamma
            not_done = 1 - batch["dones"].squeeze(-1)
            target = batch["rewards"].squeeze(-1) + not_done * discounts * (next_q - self._ent_coef() * next_log_prob)
        q_values = self.critic.q_values(batch["observations"], batch["actions"])
        errors = q_values - target
        squares = errors.pow(2) * batch["weights"].squeeze(-1) if "weights" in batch else errors.pow(2)
        return squares.mean(1).sum(), q_values.detach().mean(), errors.detach().abs().mean(0)

    def _actor_loss(self, batch: Block) -> tuple[th.Tensor, th.Tensor]:
        """Entropy-regularised value under the mean of all critics (line 11)."""
        obs = batch["observations"]
        actions, log_prob = self._sample_actions(obs, batch["noise"])
        q_mean = self.critic.q_values(obs, actions).mean(0)
        return (self._ent_coef() * log_prob - q_mean).mean(), log_prob.detach()

    def _sample_actions(self, obs: Any, noise: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        mean, log_std, _ = self.actor.get_action_dist_params(obs)
        return squashed_gaussian_sample(mean, log_std, noise)

    def _ent_coef(self) -> th.Tensor:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        check_finite_transition(new_obs, reward, f"Step {self.num_timesteps}", infos)
        if self.policy.observation_norm is not None:
            self.policy.observe(th.as_tensor(new_obs, device=self.device), learning=self._n_updates > 0)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        learning_rate = self.lr_schedule(self._current_progress_remaining)
        self.logger.record("train/learning_rate", learning_rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            set_learning_rate(optimizer, learning_rate)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:  # the environments are reset
            truncate_episodes(self.replay_buffer)
        if reset_num_timesteps and self.policy.averaged_actor is not None:
            self.policy.averaged_actor.restart()
        return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)

    def learn(
        self: SelfREDQ,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 4,
        tb_log_name: str = "REDQ",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfREDQ:
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _excluded_save_params(self) -> list[str]:
        engine = ["_engine", "_compute_critic_loss", "_compute_actor_loss", "_critic_parameters", "_target_parameters"]
        return super()._excluded_save_params() + engine
