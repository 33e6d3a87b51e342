"""Evaluations of a run that is resumed."""

import shutil
import zipfile
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import EvalCallback

from sb3_pgr.zoo.errors import UsageError


def restore_evaluations(callback: EvalCallback, num_timesteps: int) -> None:
    """Take up ``evaluations.npz`` where the checkpoint left it."""
    assert callback.log_path is not None
    path = Path(callback.log_path).with_suffix(".npz")
    if not path.exists():
        return
    try:
        with np.load(path) as saved:
            episodes = saved["results"].shape[1]
            if episodes != callback.n_eval_episodes:
                raise UsageError(
                    f"The run's evaluations have {episodes} episodes each: resume it with --eval-episodes {episodes}."
                )
            keep = saved["timesteps"] <= num_timesteps
            callback.evaluations_timesteps = saved["timesteps"][keep].tolist()
            callback.evaluations_results = saved["results"][keep].tolist()
            callback.evaluations_length = saved["ep_lengths"][keep].tolist()
            if "successes" in saved and saved["successes"].shape == saved["results"].shape:
                callback.evaluations_successes = saved["successes"][keep].tolist()
    except UsageError:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        damaged = path.with_suffix(".damaged.npz")
        shutil.move(path, damaged)
        print(f"{path} was cut off and cannot be read; it is now {damaged}, and evaluations start afresh.")
        return
    if callback.evaluations_results:
        callback.best_mean_reward = float(np.max(np.mean(callback.evaluations_results, axis=1)))
