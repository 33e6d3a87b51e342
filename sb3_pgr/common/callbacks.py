"""Callbacks: resumable checkpoints, and videos during training."""

import itertools
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_pgr.common.checkpoint import (
    CheckpointError,
    Restart,
    end_episodes,
    latest_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_unfinished,
    save_checkpoint,
    start_segment,
    why_not_resumable,
)
from sb3_pgr.common.video import record_episodes


class ResumableCheckpoint(BaseCallback):
    """
    Saves checkpoints from which training continues exactly (see ``sb3_pgr.common.checkpoint``).

    A checkpoint falls due every ``save_freq`` steps and is taken at the next moment when all environments have just
    been reset, so that no episode is cut; after ``patience`` more steps of each it is taken anyway. Ctrl-C is held until the
    end of the update, saves a checkpoint and then interrupts training; a second Ctrl-C interrupts at once. Processes of a
    ``SubprocVecEnv`` receive it too and die of it, unless they were started while it was ignored.

    :param folder: where checkpoints are written
    :param save_freq: steps (over all environments) between checkpoints; 0 for none but the one at Ctrl-C
    :param keep: number of checkpoints kept
    :param patience: steps of each environment to wait for the end of the running episodes
    :param resume_from: checkpoint to continue from; call ``restore`` before ``learn``
    :raises CheckpointError: when training starts afresh in a folder that holds checkpoints
    """

    def __init__(
        self, folder: str | Path, save_freq: int, keep: int = 3, patience: int = 1_000, resume_from: str | Path | None = None
    ):
        super().__init__()
        self.folder = Path(folder)
        self.save_freq = save_freq
        self.keep = keep
        self.patience = patience
        self.resume_from = resume_from
        self._restart: Restart | None = None
        self._last_save = 0
        self._episodes_over = False
        self._interrupted = False
        self._previous_handler: Any = None

    def restore(self, model: Any) -> None:
        """Load ``resume_from`` into the model; then ``learn(..., reset_num_timesteps=False)``."""
        assert self.resume_from is not None
        self._restart = load_checkpoint(model, self.resume_from)
        for other in list_checkpoints(self.folder):
            if other.name > Path(self.resume_from).name:  # of a future that will now be another
                _abandon(other)

    def save(self) -> Path:
        """Write a checkpoint now; ``start_segment`` has to follow if training goes on."""
        end_episodes(self.model)
        path = save_checkpoint(self.model, self.folder, self.keep)
        self._last_save = self.model.num_timesteps
        return path

    def _on_training_start(self) -> None:
        remove_unfinished(self.folder)
        last = latest_checkpoint(self.folder)
        if self.model.num_timesteps == 0 and last is not None:
            raise CheckpointError(
                f"{self.folder} holds checkpoints of another run ({last.name}); resume it or name another folder."
            )
        self._last_save = self.model.num_timesteps
        reason = why_not_resumable(self.model)
        if reason is not None:
            raise CheckpointError(f"Training with checkpoints is not possible: {reason}.")
        self._interrupted = False
        if threading.current_thread() is threading.main_thread():
            previous = signal.signal(signal.SIGINT, self._hold)
            owner = getattr(previous, "__self__", None)
            while isinstance(owner, ResumableCheckpoint):  # whose training failed, so that it was never released
                previous = owner._previous_handler
                owner = getattr(previous, "__self__", None)
            self._previous_handler = previous

    def _hold(self, number: int, frame: FrameType | None) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        print("\nCtrl-C: finishing this update, then saving a checkpoint. Ctrl-C again stops at once.", flush=True)

    def _on_step(self) -> bool:
        self._episodes_over = bool(np.all(self.locals["dones"])) or self.locals.get("no_episodes", False)
        return True

    def _on_rollout_start(self) -> None:
        if self._restart is not None:
            # Not earlier: SB3 draws exploration noise between the start of training and the first rollout.
            self._restart.apply(self.model)
            self._restart = None
        if self._interrupted:
            self.save()
            self.release()
            raise KeyboardInterrupt
        waited = self.model.num_timesteps - self._last_save - self.save_freq
        if self.save_freq > 0 and waited >= 0 and (self._episodes_over or waited >= self.patience * self.model.n_envs):
            self.save()
            start_segment(self.model)

    def release(self) -> None:
        """Give Ctrl-C back its old meaning; call it when training has ended in any way."""
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None

    def _on_training_end(self) -> None:
        self.release()
        if self._interrupted:  # during the last update: no rollout follows it
            self._interrupted = False
            self.save()
            raise KeyboardInterrupt


def _abandon(checkpoint: Path) -> None:
    names = (f"abandoned-{checkpoint.name}" + (f"-{number}" if number else "") for number in itertools.count())
    os.replace(checkpoint, next(path for name in names if not (path := checkpoint.with_name(name)).exists()))


class VideoCallback(BaseCallback):
    """
    Writes ``<folder>/<name>_<timesteps>.mp4`` of the deterministic policy during training.

    :param make_env: builds a single vectorised environment that renders ``rgb_array``
    :param folder: where videos are written
    :param name: first part of the file names
    :param video_freq: steps (over all environments) between videos
    :param episodes: episodes in a video
    :param size: (width, height) of the video in pixels, see ``record_episodes``
    :param fps: frames per second; the environment's own rate by default
    """

    def __init__(
        self,
        make_env: Callable[[], VecEnv],
        folder: str | Path,
        name: str,
        video_freq: int,
        episodes: int = 1,
        size: tuple[int, int] | None = None,
        fps: int | None = None,
    ):
        super().__init__()
        self.make_env = make_env
        self.folder = Path(folder)
        self.name = name
        self.video_freq = video_freq
        self.episodes = episodes
        self.size = size
        self.fps = fps
        self._videos_done = 0

    def _on_training_start(self) -> None:
        self._videos_done = self.model.num_timesteps // self.video_freq

    def _on_step(self) -> bool:
        due = self.model.num_timesteps // self.video_freq
        if due > self._videos_done:
            self._videos_done = due
            env = self.make_env()
            try:
                sync_envs_normalization(self.training_env, env)
                path = self.folder / f"{self.name}_{self.model.num_timesteps}.mp4"
                record_episodes(self.model, env, path, self.episodes, self.size, self.fps)
            finally:
                env.close()
        return True
