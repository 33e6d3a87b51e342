"""What offline learners have in common: a dataset in place of an environment, and what comes after."""

import io
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise, VectorizedActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from sb3_pgr.buffers import MixtureReplayBuffer, TensorReplayBuffer, sample_block, seed_replay
from sb3_pgr.buffers.fields import scaled_actions
from sb3_pgr.common.checks import check_counts, check_shares, require_policy
from sb3_pgr.common.engine import Block, UpdateEngine, require_cuda
from sb3_pgr.common.gradient_loop import run_gradient_loop
from sb3_pgr.common.optimizers import set_learning_rate
from sb3_pgr.offline.dataset import OfflineDataset
from sb3_pgr.offline.readers import load_dataset
from sb3_pgr.offline.signals import require_finite, saturated_share, warn_of_divergence
from sb3_pgr.offline.spaces_only import SpacesOnly
from sb3_pgr.offline.transforms import reward_map

DATASET = "dataset"
SelfOffline = TypeVar("SelfOffline", bound="OfflineAlgorithm")


def _refuse_vec_normalize(env: Any) -> None:
    if isinstance(env, VecEnv) and unwrap_vec_normalize(env) is not None:
        raise ValueError(
            "Offline learners see raw observations and rewards, which they transform as the dataset's "
            "(normalize_observations, reward_transform); take VecNormalize away."
        )


def _fit(extractor: Any, dataset: OfflineDataset) -> None:
    if not hasattr(extractor, "fit"):
        raise ValueError(f"{type(extractor).__name__} cannot standardise observations; set normalize_observations=False.")
    extractor.fit(dataset)


def _shapes(space: spaces.Space) -> Any:
    return {key: _shapes(part) for key, part in space.items()} if isinstance(space, spaces.Dict) else space.shape


def _same_box(first: spaces.Space, other: spaces.Space) -> bool:
    """But for the type of numbers."""
    if not isinstance(first, spaces.Box) or not isinstance(other, spaces.Box):
        return first == other
    return first.shape == other.shape and all(
        np.array_equal(one.astype(np.float32), two.astype(np.float32))
        for one, two in ((first.low, other.low), (first.high, other.high))
    )


class OfflineAlgorithm(OffPolicyAlgorithm):
    """
    Base of the offline learners.

    With a dataset, ``learn`` trains on it alone and one timestep is one gradient step. After ``set_env`` (``online`` is True
    then) it collects experience, and every batch is a mixture of both. Statistics for observations live in the policy, the
    reward map in the model: live rewards go through it too.

    :param policy: name or class
    :param env: for spaces, and for going on online without a dataset
    :param dataset: whatever ``load_dataset`` takes; it is not saved with the model
    :param learning_rate: of all optimisers, or a schedule
    :param batch_size: rows of an update
    :param tau: of the target networks
    :param gamma: discount
    :param normalize_observations: standardise observations by the dataset's mean and standard deviation
    :param reward_transform: ``"none"``, ``"return_range"`` or ``(scale, shift)``, see ``reward_map``
    :param block_size: updates between two calls of the callbacks, which are then called as many times: at a step they may find
        a policy that is up to ``block_size - 1`` updates ahead
    :param online_share: share of live rows in a batch when learning goes on online
    :param buffer_size: capacity for live experience
    :param learning_starts: live steps with random actions, counted from the first one
    :param train_freq: live steps between updates
    :param gradient_steps: updates after that
    :param action_noise: exploration online
    :param compile: compile the whole update into one graph
    :param precision: ``"fp32"`` or ``"bf16"``
    :param cuda_graph: run each block of updates as one CUDA graph
    :raises ValueError: without dataset and environment, or if a number is out of range
    :raises DatasetError: if the dataset makes no sense or does not fit the environment
    """

    can_go_online: ClassVar[bool] = True
    dataset: OfflineDataset | None = None
    replay_buffer: MixtureReplayBuffer

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None,
        dataset: Any,
        learning_rate: float | Schedule = 3e-4,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
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
        supported_action_spaces: tuple[type[spaces.Space], ...] = (spaces.Box,),
        _init_setup_model: bool = True,
    ):
        self.batch_size, self.block_size, self.buffer_size = batch_size, block_size, buffer_size
        self.online_share, self.gamma, self.tau = online_share, gamma, tau
        self._check_arguments()  # before a dataset is read
        if env is None and dataset is None and _init_setup_model:
            raise ValueError(f"{type(self).__name__} needs a dataset, or an environment to learn in.")
        _refuse_vec_normalize(env)
        self.online = dataset is None
        loaded = None
        if dataset is not None:
            known = gym.make(env) if isinstance(env, str) else env
            loaded = load_dataset(dataset, *(() if known is None else (known.observation_space, known.action_space)))
            if env is None:
                stand_in = SpacesOnly(loaded.observation_space, loaded.action_space)
                env = DummyVecEnv([lambda: stand_in])
        self.normalize_observations = normalize_observations
        self.reward_transform = reward_transform
        self.learned_with = (reward_transform, normalize_observations)
        self.reward_scale, self.reward_shift = (1.0, 0.0) if loaded is not None else reward_map(reward_transform, None)
        self.first_live_step = 0  # timesteps may have been gradient steps before
        self.dataset_fingerprint: str | None = None
        self.largest_reward, self.warned_of_divergence = 0.0, False
        self.compile = compile
        self.precision = precision
        self.cuda_graph = cuda_graph
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]
            learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=action_noise,
            replay_buffer_class=MixtureReplayBuffer,
            policy_kwargs=policy_kwargs,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            seed=seed,
            device=device,
            support_multi_env=True,
            sde_support=False,
            supported_action_spaces=supported_action_spaces,
        )
        if _init_setup_model:
            require_cuda(cuda_graph, self.device)
            self._setup_model()
            if loaded is not None:
                self.set_dataset(loaded)

    def _prepared(self, dataset: OfflineDataset) -> OfflineDataset:
        """The part of a dataset that is learned from."""
        return dataset

    @property
    def _shares(self) -> dict[str, float]:
        live = self.online_share if self.online else 0.0
        return {"online": live, DATASET: 1 - live}

    def _check_arguments(self) -> None:
        """Those of the constructor, and those that ``load`` was given in place of the saved ones."""
        check_counts(batch_size=self.batch_size, block_size=self.block_size, buffer_size=self.buffer_size)
        check_shares(online_share=self.online_share, gamma=self.gamma, tau=self.tau)

    def _setup_model(self) -> None:
        require_policy(self, self.policy_aliases["MlpPolicy"])
        self._check_arguments()
        self.replay_buffer_kwargs = {"shares": self._shares, "fixed": (DATASET,), "gamma": self.gamma}
        super()._setup_model()
        self._engine = UpdateEngine(self.device, self.compile, self.precision, self.cuda_graph)

    @classmethod
    def load(
        cls: type[SelfOffline],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        dataset: Any = None,
        **kwargs: Any,
    ) -> SelfOffline:
        """
        As SB3's, but of the environment's observations only shapes matter. ``learn`` then does as after the constructor: with
        a dataset it trains on it, without one it goes on in the environment.

        :param dataset: whatever ``load_dataset`` takes; none is in the file
        """
        model = super().load(path, None, device, custom_objects, print_system_info, force_reset, **kwargs)
        if env is not None:
            model._attach(env, force_reset)
            model.set_random_seed(model.seed)  # as SB3's
        if dataset is not None:
            model.set_dataset(dataset)
        model.online = cls.can_go_online and env is not None and dataset is None
        return model

    @property
    def value_bound(self) -> float:
        """What no policy can exceed: ``max |r| / (1 - gamma)``, of the rewards through the map that were seen so far."""
        return self.largest_reward / (1 - self.gamma) if self.gamma < 1 and self.largest_reward > 0 else math.inf

    def set_dataset(self, dataset: Any) -> None:
        """
        Learn from this dataset next, alone or beside live experience, as before: its rows replace those of any other. Its
        statistics go into policy and reward map, unless the model has learned: what it has learned is in terms of those that
        it has.

        :raises DatasetError: if it does not fit the model's spaces
        """
        dataset = load_dataset(dataset, self.observation_space, self.action_space)
        self.dataset, self.dataset_fingerprint = dataset, dataset.fingerprint
        dataset = self._prepared(dataset)
        if self._n_updates == 0:
            self.reward_scale, self.reward_shift = reward_map(self.reward_transform, dataset)
            self.learned_with = (self.reward_transform, self.normalize_observations)
            if self.normalize_observations:
                _fit(self.policy.features_extractor, dataset)
        else:
            for name, learned_with in zip(("reward_transform", "normalize_observations"), self.learned_with, strict=True):
                wanted, had = (tuple(it) if isinstance(it, list) else it for it in (getattr(self, name), learned_with))
                if wanted != had:
                    warnings.warn(f"{name}={wanted} is without effect: the model has learned with {had}.", stacklevel=2)
        self.largest_reward = float(np.abs(self.reward_scale * dataset.rewards + self.reward_shift).max())
        rows = TensorReplayBuffer(len(dataset), self.observation_space, self.action_space, self.device)
        rows.extend(
            dataset.observations,
            dataset.next_observations,
            scaled_actions(dataset.actions, self.action_space),
            self.reward_scale * dataset.rewards + self.reward_shift,
            dataset.terminals | dataset.timeouts,
            timeouts=dataset.timeouts & ~dataset.terminals,
        )
        self.replay_buffer.set_source(DATASET, rows)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """
        Go on in this environment: ``learn`` then collects experience. A model from a file needs its dataset too
        (``set_dataset``, before or after this), or batches are live experience alone.

        :raises ValueError: if it has other spaces, or is wrapped in VecNormalize, which would standardise observations twice
        """
        if not self.can_go_online:
            raise ValueError(f"{type(self).__name__} learns from datasets alone; it cannot go on online.")
        self._attach(env, force_reset)
        self.online = True
        self.replay_buffer.shares.update(self._shares)

    def _attach(self, env: GymEnv, force_reset: bool) -> None:
        """As SB3's ``set_env``; types, and bounds of observations, do not matter."""
        env = maybe_make_env(env, self.verbose)
        _refuse_vec_normalize(env)
        if not _same_box(env.action_space, self.action_space):
            raise ValueError(
                f"Actions of the environment {env.action_space} are not those of the dataset {self.action_space}; give the "
                "environment when the model is built, so that its bounds are known."
            )
        if _shapes(env.observation_space) != _shapes(self.observation_space):
            raise ValueError(
                f"Observations of the environment {env.observation_space} are not those of the model {self.observation_space}."
            )
        self.observation_space, self.action_space = env.observation_space, env.action_space
        n_envs = env.num_envs if isinstance(env, VecEnv) else 1
        if n_envs != self.replay_buffer.n_envs and self.replay_buffer.online.size() == 0:
            self._new_replay_buffer(n_envs)
        self.n_envs = self.replay_buffer.n_envs  # offline, in a stand-in, it is one
        super().set_env(env, force_reset)
        if self.seed is not None:
            self.action_space.seed(self.seed)
        if isinstance(self.action_noise, VectorizedActionNoise) and self.action_noise.n_envs != self.n_envs:
            self.action_noise = self.action_noise.base_noise  # ``learn`` makes as many as there are environments now

    def _new_replay_buffer(self, n_envs: int) -> None:
        """Empty, for another number of environments; the dataset stays."""
        rows, self.n_envs = self.replay_buffer.sources.get(DATASET), n_envs
        spaces_ = self.observation_space, self.action_space
        self.replay_buffer = MixtureReplayBuffer(
            self.buffer_size, *spaces_, self.device, n_envs=n_envs, **self.replay_buffer_kwargs
        )
        if rows is not None:
            self.replay_buffer.set_source(DATASET, rows)

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        seed_replay(self.replay_buffer, seed)

    def save_replay_buffer(self, path: str | Path | io.BufferedIOBase) -> None:
        """Write live experience, its rewards as they are learned from; the dataset stays where it is."""
        save_to_pkl(path, self.replay_buffer.online, self.verbose)

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """
        Take live experience from a file that ``save_replay_buffer`` wrote; the dataset remains.

        :raises ValueError: if it holds a buffer of another kind, or of another number of environments
        """
        rows, own = load_from_pkl(path, self.verbose), self.replay_buffer.online
        if type(rows) is not type(own) or rows.n_envs != own.n_envs:
            kind, n_envs = type(rows).__name__, getattr(rows, "n_envs", 0)
            raise ValueError(f"{path} holds a {kind} of {n_envs} environments, not a {type(own).__name__} of {own.n_envs}.")
        self.replay_buffer.set_source("online", rows)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None and not self.online:  # loaded, and given a dataset
            stand_in = SpacesOnly(self.observation_space, self.action_space)
            self.env = DummyVecEnv([lambda: stand_in])
            self.n_envs = 1
        if self.online and (reset_num_timesteps or self._last_obs is None):  # the environments are reset
            self.replay_buffer.truncate_episodes()
        result = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        if self.online and (reset_num_timesteps or self.replay_buffer.online.size() == 0):
            self.first_live_step = self.num_timesteps
        return result

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        return super()._sample_action(self.first_live_step + learning_starts, action_noise, n_envs)

    def learn(
        self: SelfOffline,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "run",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOffline:
        """
        Train on the dataset, or online after ``set_env``.

        :param total_timesteps: gradient steps; online, environment steps
        :param log_interval: gradient steps between logs (1 000 by default); online, episodes (4 by default)
        :raises ValueError: if there is neither a dataset nor an environment to go on in
        """
        total_timesteps = int(total_timesteps)  # 1e6 is welcome
        self.replay_buffer.shares.update(self._shares)
        if self.online:
            if self.dataset is None and self.dataset_fingerprint is not None and self.online_share < 1:
                warnings.warn(
                    "The dataset is not saved with a model: batches are live experience alone until set_dataset gives it.",
                    stacklevel=3,
                )
            log_interval = 4 if log_interval is None else log_interval
            return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        if self.dataset is None:
            raise ValueError("There is nothing to learn from: call set_dataset, or set_env to go on online.")
        total, callback = self._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        log_interval = 1_000 if log_interval is None else log_interval
        run_gradient_loop(self, total, callback, self.block_size, log_interval, self._log_saturation)
        callback.on_training_end()
        return self

    def _log_saturation(self) -> None:
        assert self.dataset is not None
        self.logger.record("train/saturated_actions", saturated_share(self.policy, self.dataset))

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        self.policy.set_training_mode(True)
        optimizers = self._optimizers()
        for name, optimizer in optimizers.items():
            set_learning_rate(optimizer, self._learning_rate_of(name))
        self.logger.record("train/learning_rate", self.lr_schedule(self._current_progress_remaining))
        rows = sample_block(self.replay_buffer, gradient_steps, batch_size)
        block: Block = {name: value for name, value in rows._asdict().items() if value is not None}
        block |= self._noise(gradient_steps, batch_size)
        updates = range(self._n_updates + 1, self._n_updates + gradient_steps + 1)
        metrics = self._engine.run(self._update, block, [self._flag(i) for i in updates], list(optimizers.values()))
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for name, value in metrics.items():
            self.logger.record(f"train/{name}", value)
        self.policy.set_training_mode(False)
        self._watch(metrics)

    def _watch(self, metrics: dict[str, float]) -> None:
        """Stop when numbers are none; say once when values are beyond what any policy could earn."""
        require_finite(metrics, self._n_updates)
        if "q_max" in metrics:
            self.logger.record("train/q_of_bound", metrics["q_max"] / self.value_bound)
            if metrics["q_max"] > self.value_bound and not self.warned_of_divergence:
                self.warned_of_divergence = True
                warn_of_divergence(metrics["q_max"], self.value_bound, self._n_updates)

    # What an algorithm defines.

    def _optimizers(self) -> Mapping[str, th.optim.Optimizer]:
        """By name."""
        raise NotImplementedError

    def _learning_rate_of(self, name: str) -> float:
        """The present rate of an optimiser."""
        return self.lr_schedule(self._current_progress_remaining)

    def _noise(self, gradient_steps: int, batch_size: int) -> Block:
        """Random numbers of a block, ``(gradient_steps, batch_size, ...)``: an update is then a function of its batch."""
        return {}

    def _flag(self, update: int) -> bool:
        """What is handed to the ``update``-th update."""
        return True

    def _update(self, batch: Block, flag: bool) -> dict[str, th.Tensor]:
        """One update; returns scalars to log."""
        raise NotImplementedError

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        reward = self.reward_scale * reward + self.reward_shift
        self.largest_reward = max(self.largest_reward, float(np.abs(reward).max()))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "dataset", "_engine"]
