"""
Checkpoints from which a run continues exactly.

A checkpoint is a folder ``step_<timesteps>`` holding model, optimisers, replay buffer, VecNormalize statistics,
counters and the state of every random generator. Nothing in it is unpickled freely: weights and arrays are read
with ``weights_only=True``, the rest is JSON. It is written under a temporary name, checksummed and renamed, so that
a folder with the final name is always whole.

What cannot be saved is the inside of an environment. So every checkpoint ends the running episodes and starts a new
segment: the environments are seeded from (seed, timesteps) and reset, in the run that goes on as in one that resumes.
"""

import hashlib
import inspect
import json
import os
import shutil
import zipfile
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.her import HerReplayBuffer

from sb3_pgr.common.run_files import MANIFEST, latest_checkpoint, list_checkpoints
from sb3_pgr.common.state import (
    get_arrays,
    get_vec_normalize,
    restore_rng,
    rng_state,
    set_arrays,
    set_vec_normalize,
    truncate_episodes,
)

FORMAT = "sb3_pgr.checkpoint"
VERSION = 1
_REPLACED = ".writing-replaced-"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or is not one of ours, or is damaged."""


def save_checkpoint(model: BaseAlgorithm, folder: str | Path, keep: int = 3) -> Path:
    """
    Write ``folder/step_<timesteps>`` and remove all but the newest ``keep`` checkpoints.

    :param model: an algorithm between two rollouts
    :param folder: where the checkpoints of a run lie
    :param keep: number of checkpoints that stay
    :return: the new checkpoint
    :raises CheckpointError: if it cannot be written; older checkpoints are untouched
    """
    folder = Path(folder)
    final = folder / f"step_{model.num_timesteps:012d}"
    temporary, replaced = (folder / f"{kind}{final.name}-{os.getpid()}" for kind in (".writing-", _REPLACED))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write(model, temporary)
        if final.exists():
            os.replace(final, replaced)
        os.replace(temporary, final)
        shutil.rmtree(replaced, ignore_errors=True)
    # zip and torch report a full disk as errors of their own
    except (OSError, RuntimeError, zipfile.BadZipFile) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        remove_unfinished(folder)
        last = latest_checkpoint(folder)
        kept = f"The last good checkpoint is {last}." if last else "There is no earlier checkpoint."
        raise CheckpointError(f"Could not write checkpoint {final}: {error}. {kept}") from error
    for old in list_checkpoints(folder)[: -max(keep, 1)]:
        _remove(old)
    return final


def _remove(checkpoint: Path) -> None:
    """Take the final name away first, so that whatever bears it is whole even if we are killed here."""
    if checkpoint.exists():
        doomed = checkpoint.with_name(f".writing-removed-{checkpoint.name}-{os.getpid()}")
        os.replace(checkpoint, doomed)
        shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(folder: str | Path) -> None:
    """Remove what killed processes left half-written, and put back what they could not replace any more."""
    for path in Path(folder).glob(f"{_REPLACED}*"):
        final = path.with_name(path.name.removeprefix(_REPLACED).rpartition("-")[0])
        if not final.exists():
            os.replace(path, final)
    for path in Path(folder).glob(".writing-*"):
        shutil.rmtree(path, ignore_errors=True)


@dataclass
class Restart:
    """
    What has to be restored after ``learn`` has reset the environments: the generators that a reset may draw from,
    and the statistics of VecNormalize, which count a reset.
    """

    rng: dict[str, Any]
    vec_normalize: dict[str, Any] | None

    def apply(self, model: BaseAlgorithm) -> None:
        """Continue where the checkpoint left off; call it when training starts."""
        vec_normalize = model.get_vec_normalize_env()
        if vec_normalize is not None and self.vec_normalize is not None:
            set_vec_normalize(vec_normalize, self.vec_normalize)
        restore_rng(self.rng)
        start_segment(model)


def load_checkpoint(model: BaseAlgorithm, path: str | Path) -> Restart:
    """
    Restore a checkpoint into a freshly built model of the same kind, with the same environments.

    :param model: built with the hyper-parameters of the saved run
    :param path: a folder made by ``save_checkpoint``
    :return: what to apply when training starts
    :raises CheckpointError: naming the path and what is wrong with it
    """
    path = Path(path)
    _verify(path)
    state = json.loads((path / "state.json").read_text())
    if state["algorithm"] != type(model).__name__:
        raise CheckpointError(f"{path} was written by {state['algorithm']}, not by {type(model).__name__}.")
    try:
        _restore_parameters(model, path / "model.zip")
        if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
            set_arrays(model.replay_buffer, th.load(path / "replay_buffer.pt", weights_only=True, mmap=True))
        vec_normalize, wrapper = None, model.get_vec_normalize_env()
        if wrapper is not None:
            vec_normalize = th.load(path / "vecnormalize.pt", weights_only=True)
            set_vec_normalize(wrapper, vec_normalize)  # of a run that has only its scores left to do, nothing starts again
    except (KeyError, ValueError, RuntimeError, FileNotFoundError) as error:
        raise CheckpointError(f"{path} does not fit this model: {error}") from error
    for name in _counters(model).keys() & state["counters"].keys():
        setattr(model, name, state["counters"][name])
    model.ep_info_buffer = deque(state["episodes"], maxlen=model._stats_window_size)
    model.ep_success_buffer = deque(state["successes"], maxlen=model._stats_window_size)
    if hasattr(model, "episode_log"):  # of models that watch more than returns and successes
        model.episode_log.restore(state.get("episode_log", []))
    return Restart(state["rng"], vec_normalize)


def why_not_resumable(model: BaseAlgorithm) -> str | None:
    """Why checkpoints of this model could not be resumed exactly, or None if they can."""
    buffer = getattr(model, "replay_buffer", None)
    buffer = getattr(buffer, "online", buffer)  # of a mixture, what is filled
    if isinstance(buffer, HerReplayBuffer):
        return "hindsight replay keeps whole episodes, which a checkpoint would cut"
    if getattr(buffer, "optimize_memory_usage", False) and not hasattr(buffer, "truncate_episodes"):
        return "optimize_memory_usage takes the next observation from the next row, which a checkpoint would change"
    if not isinstance(model, OffPolicyAlgorithm | OnPolicyAlgorithm) or hasattr(model, "_last_lstm_states"):
        return f"{type(model).__name__} keeps state that a checkpoint does not hold"
    return None


def start_segment(model: BaseAlgorithm) -> None:
    """Seed the environments from (seed, timesteps), reset them, and let the model start new episodes there."""
    assert model.env is not None
    entropy = [0 if model.seed is None else model.seed, model.num_timesteps]
    seed = int(np.random.SeedSequence(entropy).generate_state(1)[0] % 2**31)
    model.env.seed(seed)
    model.action_space.seed(seed)
    model._last_obs = model.env.reset()  # type: ignore[assignment]
    model._last_episode_starts = np.ones(model.env.num_envs, dtype=bool)
    if model._vec_normalize_env is not None:
        model._last_original_obs = model._vec_normalize_env.get_original_obs()
    if isinstance(model, OffPolicyAlgorithm) and model.action_noise is not None:
        model.action_noise.reset()
    if getattr(model, "use_sde", False):
        model.policy.reset_noise(model.env.num_envs)  # type: ignore[operator]
    if hasattr(model, "begin_episodes"):  # of models that count steps of episodes
        model.begin_episodes()


def end_episodes(model: BaseAlgorithm) -> None:
    """Mark the newest row of the replay buffer as cut off by a time limit, since its episode ends here."""
    truncate_episodes(getattr(model, "replay_buffer", None))


def _write(model: BaseAlgorithm, folder: Path) -> None:
    model.save(folder / "model.zip")
    if isinstance(model, OffPolicyAlgorithm) and model.replay_buffer is not None:
        th.save(get_arrays(model.replay_buffer), folder / "replay_buffer.pt")
    vec_normalize = model.get_vec_normalize_env()
    if vec_normalize is not None:
        th.save(get_vec_normalize(vec_normalize), folder / "vecnormalize.pt")
    state = {
        "algorithm": type(model).__name__,
        "counters": _counters(model),
        "episodes": [_plain(info) for info in model.ep_info_buffer or []],
        "successes": [float(success) for success in model.ep_success_buffer or []],
        "rng": rng_state(),
    }
    if hasattr(model, "episode_log"):
        state["episode_log"] = model.episode_log.state()
    (folder / "state.json").write_text(json.dumps(state))
    files = sorted(path for path in folder.iterdir() if path.is_file())
    manifest = {"format": FORMAT, "version": VERSION, "files": {path.name: _fingerprint(path) for path in files}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1))


def _counters(model: BaseAlgorithm) -> dict[str, Any]:
    """
    Timesteps, updates, exploration rates, ...: the plain numbers an algorithm keeps, less its hyper-parameters and what SB3
    never saves (whether somebody has given it a logger).
    """
    arguments = {name for base in type(model).__mro__ for name in inspect.signature(base).parameters if base is not object}
    numbers = {name: value for name, value in vars(model).items() if type(value) in (bool, int, float)}
    kept = numbers.keys() - model._excluded_save_params()
    return {name: numbers[name] for name in numbers if name in kept and name.removeprefix("_") not in arguments}


def _fingerprint(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        os.fsync(file.fileno())
    return {"bytes": path.stat().st_size, "sha256": digest}


def _verify(path: Path) -> None:
    if not path.is_dir():
        raise CheckpointError(f"{path} is not a checkpoint: there is no such folder.")
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not a checkpoint: it has no {MANIFEST}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise CheckpointError(f"{path} is damaged: {MANIFEST} cannot be read.") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not a checkpoint of sb3_pgr: {MANIFEST} is of another kind.")
    if manifest.get("version") != VERSION:
        raise CheckpointError(f"{path} has format version {manifest.get('version')}; this library reads version {VERSION}.")
    for name, expected in manifest["files"].items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{path} is damaged: {name} is missing.")
        size = file.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(f"{path} is damaged: {name} has {size} bytes, {expected['bytes']} were written.")
        if _fingerprint(file)["sha256"] != expected["sha256"]:
            raise CheckpointError(f"{path} is damaged: the content of {name} has changed since it was written.")


def _restore_parameters(model: BaseAlgorithm, path: Path) -> None:
    """As ``BaseAlgorithm.load`` does, without its pickled part."""
    _, params, variables = load_from_zip_file(path, device=model.device, load_data=False)
    model.set_parameters(params, exact_match=True, device=model.device)
    for name, value in (variables or {}).items():
        target = model
        *parents, attribute = name.split(".")
        for parent in parents:
            target = getattr(target, parent)
        getattr(target, attribute).data.copy_(value.data)


def _plain(info: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in info.items() if isinstance(value, int | float | np.number)}
