"""What SAC needs to learn from demonstrations and interventions beside live experience."""

import io
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.sac import SAC
from torch.utils._pytree import tree_map

from sb3_pgr.buffers import DemonstrationReplayBuffer, seed_replay
from sb3_pgr.common.gradient_loop import run_gradient_loop
from sb3_pgr.common.health import check_finite_transition
from sb3_pgr.common.state import truncate_episodes
from sb3_pgr.hybrid_sac.episode_log import EpisodeLog
from sb3_pgr.hybrid_sac.policies import HybridPolicy
from sb3_pgr.offline import OfflineDataset, load_dataset
from sb3_pgr.offline.checks import with_spaces
from sb3_pgr.offline.images import channels_first
from sb3_pgr.offline.spaces_only import SpacesOnly

_ROUNDING = 1e-3  # of returns
SelfDemonstrationSAC = TypeVar("SelfDemonstrationSAC", bound="DemonstrationSAC")


class DemonstrationSAC(SAC):
    """
    Base of ``HybridSAC``: demonstrations that are checked and kept, live steps that are watched, learning from demonstrations
    alone. Losses and networks are its subclass's.
    """

    policy: HybridPolicy
    replay_buffer: DemonstrationReplayBuffer
    dataset: OfflineDataset | None = None
    dataset_fingerprint: str | None
    value_range: Any
    episode_log: EpisodeLog
    _pictures: list[str]
    _offline: bool
    demo_share: float
    _warned_of_returns: bool
    _observed: list[str]  # fingerprints of demonstrations that are in the statistics of the state

    @classmethod
    def load(
        cls: type[SelfDemonstrationSAC],
        path: str | Path | io.BufferedIOBase,
        env: GymEnv | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        demonstrations: Any = None,
        dataset: Any = None,
        **kwargs: Any,
    ) -> SelfDemonstrationSAC:
        """
        As SB3's. Neither demonstrations nor a dataset are in the file.

        :param demonstrations: to add; ``learn`` goes on in the environment
        :param dataset: in place of demonstrations: ``learn`` is then ``learn_offline``
        """
        if demonstrations is not None and dataset is not None:
            raise ValueError("Give demonstrations or dataset, not both.")
        model = super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)
        if dataset is not None:
            model.dataset = demonstrations = model._fitted(dataset)
            model.dataset_fingerprint = model.dataset.fingerprint
        if demonstrations is not None:
            model.add_demonstrations(demonstrations)
        return model

    def set_random_seed(self, seed: int | None = None) -> None:
        super().set_random_seed(seed)
        seed_replay(self.replay_buffer, seed)

    def add_demonstrations(self, demonstrations: Any) -> int:
        """
        Take transitions into the demonstrations, beside those that are there. Observations enter the statistics of the state
        once: a loaded model knows them already.

        :param demonstrations: whatever ``load_dataset`` takes; what gripper commands cost is in ``grasp_penalty``, or 0
        :return: number of transitions
        :raises DatasetError: if they make no sense or do not fit the spaces
        """
        known = demonstrations is not None and demonstrations is self.dataset
        dataset = demonstrations if known else self._fitted(demonstrations)
        self._check_demonstrations(dataset)
        observations, rewards, normalize = dataset.observations, dataset.rewards, self._vec_normalize_env
        if normalize is not None:  # as batches are
            observations, rewards = normalize.normalize_obs(observations), normalize.normalize_reward(rewards)
        self._check_returns(replace(dataset, rewards=rewards).returns_to_go(self.gamma))
        self.replay_buffer.add_demonstrations(dataset)
        if dataset.fingerprint not in self._observed:
            self._observed.append(dataset.fingerprint)
            self._observe(observations)
        return len(dataset)

    def _fitted(self, demonstrations: Any) -> OfflineDataset:
        """Loaded, with this model's spaces."""
        dataset = channels_first(load_dataset(demonstrations), self.observation_space)
        return with_spaces(dataset, self.observation_space, self.action_space)

    def _check_returns(self, returns: np.ndarray) -> None:
        """Say once that discounted returns lie outside of ``value_range``, to which targets are clipped."""
        low, high = self.value_range
        outside = returns[(returns < low - _ROUNDING) | (returns > high + _ROUNDING)]
        if len(outside) and not self._warned_of_returns:
            self._warned_of_returns = True
            warnings.warn(
                f"There are discounted returns of {outside[np.abs(outside).argmax()]:.4g}, outside of value_range={low, high} "
                "to which values are clipped: give the range that the rewards allow, or None.",
                stacklevel=2,
            )

    def _observe(self, observations: Any) -> None:
        """Running statistics of the state; pictures have none."""
        if isinstance(observations, dict):
            observations = {key: value for key, value in observations.items() if key not in self._pictures}
        if self._pictures != [""]:
            self.policy.observe(tree_map(lambda value: th.as_tensor(value, device=self.device), observations))

    def _check_demonstrations(self, dataset: OfflineDataset) -> None:
        """Refuse, or warn of, demonstrations that fit the spaces but not the learner."""

    def learn_offline(
        self: SelfDemonstrationSAC,
        gradient_steps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1_000,
        tb_log_name: str = "HybridSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        block_size: int = 20,
    ) -> SelfDemonstrationSAC:
        """
        Train on the demonstrations alone: no step is taken in the environment, and no live row is drawn. One timestep is one
        full update.

        Nothing here holds the policy to actions that were demonstrated, and values of others are guesses: on few successful
        demonstrations it may fail where ``IQL`` or ``BC`` do not.

        :param gradient_steps: full updates
        :param block_size: updates between two calls of the callbacks, which are then called as many times
        :raises ValueError: without demonstrations
        """
        if self.replay_buffer.demonstrations.size() == 0:
            raise ValueError("There are no demonstrations to learn from; see add_demonstrations.")
        is_alone = self.env is None  # loaded from a file
        if is_alone:
            stand_ins = [partial(SpacesOnly, self.observation_space, self.action_space)] * self.n_envs
            self.env = DummyVecEnv(stand_ins)  # type: ignore[arg-type]
        steps = int(gradient_steps)
        total, callbacks = self._setup_learn(steps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._offline = True
        try:
            run_gradient_loop(self, total, callbacks, block_size, log_interval or 0, lambda: None)
        finally:
            self._offline = False
            if is_alone:
                self.env = self._last_obs = None
        callbacks.on_training_end()
        return self

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
        self._observe(new_obs)
        self._check_returns(self.episode_log.step(reward, dones, infos))
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """As SB3's. A model that was given a ``dataset`` goes on online: its rows are demonstrations from here on."""
        super().set_env(env, force_reset)
        self.dataset = None

    def begin_episodes(self) -> None:
        """Forget the beginnings of the running episodes: all environments were reset."""
        self.episode_log.begin()

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or self._last_obs is None:  # the environments are reset
            self.begin_episodes()
            truncate_episodes(self.replay_buffer)
        frames_are_shared, self.optimize_memory_usage = self.optimize_memory_usage, False
        try:  # where they are shared, SB3 would have the newest row end its episode for good
            return super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        finally:
            self.optimize_memory_usage = frames_are_shared

    def dump_logs(self) -> None:
        for name, value in self.episode_log.summary().items():
            self.logger.record(f"rollout/{name}", value)
        super().dump_logs()

    def learn(
        self: SelfDemonstrationSAC,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = None,
        tb_log_name: str = "HybridSAC",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfDemonstrationSAC:
        """
        Train in the environment; offline, if there is a ``dataset``.

        :param total_timesteps: environment steps; offline, full updates
        :param log_interval: episodes between logs (4 by default); offline, full updates (1 000 by default)
        """
        if self.dataset is not None:
            log_interval = 1_000 if log_interval is None else log_interval
            return self.learn_offline(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        self._offline = False  # a checkpoint that was taken offline says otherwise
        if self._observed and self.demo_share > 0 and self.replay_buffer.demonstrations.size() == 0:
            warnings.warn(
                "This model has learned from demonstrations, which are not saved with it, and goes on without: give them "
                "again (load(path, demonstrations=...) or add_demonstrations).",
                stacklevel=2,
            )
        log_interval = 4 if log_interval is None else log_interval
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
