"""Reads and writes datasets: npz, HDF5, Minari, pickled transitions, SB3 replay buffers, dicts of arrays."""

import json
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer

from sb3_pgr.buffers import MixtureReplayBuffer, TensorReplayBuffer
from sb3_pgr.buffers.fields import as_array
from sb3_pgr.offline.checks import dataset_from_arrays, with_spaces
from sb3_pgr.offline.dataset import DatasetError, OfflineDataset, plain_value
from sb3_pgr.offline.minari_format import from_minari, open_minari
from sb3_pgr.offline.pickles import read_pickle, transitions_of

_META = "sb3_pgr/metadata"


def load_dataset(
    source: Any,
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
    whole_episodes: bool = False,
) -> OfflineDataset:
    """
    A dataset from whatever it is in.

    :param source: path of an ``.npz`` or HDF5 file with D4RL's names, or of HIL-SERL's pickled transitions (see
        ``read_pickle``); a Minari dataset, its id or the path of its folder, a replay buffer of SB3 or ours (of a mixture, one
        of its sources), a mapping of arrays, or an ``OfflineDataset``
    :param observation_space: of the environment; by default what the source says or the data need
    :param action_space: of the environment; by default what the source says or the data need
    :param whole_episodes: of a replay buffer: leave out the running episodes, and those whose beginning may have been
        overwritten; by default they are there and counted in ``corrections``, since their returns are not those of episodes.
        What a resumed run or a second ``learn`` has cut off is marked like a time limit, and counts as an episode
    :raises DatasetError: if it cannot be read or makes no sense
    """
    if whole_episodes and not isinstance(source, BaseBuffer):
        raise DatasetError(f"whole_episodes=True is of replay buffers, not of {type(source).__name__}.")
    given = observation_space, action_space
    if isinstance(source, OfflineDataset):  # it has spaces of its own, which may be guesses
        return source if given == (None, None) else with_spaces(source, *given)
    if isinstance(source, BaseBuffer):
        return _from_buffer(source, *given, whole_episodes)
    if isinstance(source, Mapping):
        return dataset_from_arrays(source, "arrays", *given)
    if hasattr(source, "iterate_episodes"):
        return from_minari(source, *given)
    if not isinstance(source, str | os.PathLike):
        raise DatasetError(
            f"A dataset is a path, a Minari id, a replay buffer or a mapping of arrays, not {type(source).__name__}."
        )
    path = Path(source).expanduser()
    if path.is_dir():
        return from_minari(open_minari(path), *given)
    if path.is_file() and path.suffix in (".pkl", ".pickle"):
        return dataset_from_arrays(transitions_of(read_pickle(path), str(path)), str(path), *given)
    if path.is_file():
        arrays, metadata = _read_npz(path) if path.suffix == ".npz" else _read_hdf5(path)
        if action_space is None and metadata.get("action_bounds") is not None:
            action_space = spaces.Box(*np.asarray(metadata["action_bounds"], np.float32))
        if action_space is None and metadata.get("n_actions") is not None:
            action_space = spaces.Discrete(metadata["n_actions"])
        if observation_space is None and metadata.get("observation_bounds") is not None:
            observation_space = spaces.Box(*np.asarray(metadata["observation_bounds"], np.float32))
        return dataset_from_arrays(
            arrays, str(path), observation_space, action_space, metadata.get("env_id"), metadata.get("metadata")
        )
    if path.suffix in (".npz", ".hdf5", ".h5", ".pkl", ".pickle") or len(path.parts) > 4:
        raise DatasetError(f"There is no file {path}.")
    return from_minari(open_minari(str(source)), *given)


def env_id_of(path: str | Path) -> str | None:
    """Environment that an npz file of ours is from, read without its rows; none if nobody knows."""
    if not zipfile.is_zipfile(path):
        return None
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file[_META])).get("env_id") if _META in file.files else None


def save_npz(dataset: OfflineDataset, path: str | Path) -> None:
    """
    Write D4RL's names and the dataset's extras, under a temporary name first.

    :raises DatasetError: if its metadata hold what JSON cannot
    """
    path = Path(path).expanduser()
    arrays: dict[str, np.ndarray] = dict(dataset.extras)
    for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
        value = getattr(dataset, name)
        arrays |= {f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value}
    space, seen = dataset.action_space, dataset.observation_space
    known = {
        "env_id": dataset.env_id,
        "metadata": dict(dataset.metadata),
        "action_bounds": [space.low.tolist(), space.high.tolist()] if isinstance(space, spaces.Box) else None,
        "n_actions": int(space.n) if isinstance(space, spaces.Discrete) else None,
        "observation_bounds": _bounds_of_vector(seen),
    }
    meta = json.dumps(known | {"fingerprint": dataset.fingerprint}, default=plain_value)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".writing-{path.name}")
    with open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays, **{_META: np.array(meta)})  # type: ignore[arg-type]
    os.replace(temporary, path)


def _bounds_of_vector(space: spaces.Space) -> list[list[float]] | None:
    """Of a vector of floats; images have bounds of their own."""
    if isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype == np.float32:
        return [space.low.tolist(), space.high.tolist()]
    return None


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        if not zipfile.is_zipfile(path):
            raise zipfile.BadZipFile("it is no such file, or was cut off")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, TypeError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path} cannot be read as an npz file of arrays (pickled objects are refused): {error}") from None
    meta = arrays.pop(_META, None)
    return arrays, {} if meta is None else json.loads(str(meta))


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        import h5py
    except ModuleNotFoundError:
        raise DatasetError(f"Reading {path} needs h5py: pip install 'sb3_pgr[offline]'") from None
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(("infos", "metadata")):
            arrays[name] = item[()]

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except (OSError, RuntimeError, KeyError) as error:
        kinds = "" if path.suffix in (".h5", ".hdf5") else "; it ends in neither .npz nor .pkl, so HDF5 was expected"
        raise DatasetError(f"{path} cannot be read as an HDF5 file: {error}{kinds}") from None
    return arrays, {}


def _arrays(value: Any) -> Any:
    return {key: as_array(part) for key, part in value.items()} if isinstance(value, Mapping) else as_array(value)


def _in_whole_episodes(buffer: Any) -> np.ndarray:
    """
    Which rows are part of an episode that a replay buffer has all of ``(n_envs * size,)``, environment by environment, oldest
    first. Of a full buffer the first episode does not count, since nobody knows what was overwritten.
    """
    ends = _by_environment(buffer, buffer.dones).astype(bool) | _by_environment(buffer, buffer.timeouts).astype(bool)
    earlier = np.cumsum(ends, 1) - ends  # ends before a row
    whole = earlier < ends.sum(1, keepdims=True)
    return (whole & (earlier > 0) if buffer.full else whole).ravel()


def _by_environment(buffer: Any, values: Any) -> np.ndarray:
    """``(size, n_envs, ...)`` as it is stored, to ``(n_envs, size, ...)``, oldest first."""
    return np.asarray(values.cpu() if hasattr(values, "cpu") else values)[_order(buffer)].swapaxes(0, 1)


def _order(buffer: Any) -> np.ndarray:
    """Steps of a replay buffer, oldest first."""
    return (np.arange(buffer.size()) + (buffer.pos if buffer.full else 0)) % buffer.buffer_size


def _from_buffer(
    buffer: Any, observation_space: spaces.Space | None, action_space: spaces.Space | None, whole_episodes: bool
) -> OfflineDataset:
    """The filled rows of a replay buffer, environment by environment, oldest first; actions in the space's own units."""
    name = type(buffer).__name__
    if not isinstance(buffer, ReplayBuffer):
        raise DatasetError(f"A {name} does not hold next observations; it cannot be a dataset.")
    if isinstance(buffer, MixtureReplayBuffer):
        raise DatasetError(f"A {name} has several sources; load one of them: buffer.sources[...] of {list(buffer.sources)}.")
    if getattr(buffer, "optimize_memory_usage", False) and not isinstance(buffer, TensorReplayBuffer):
        raise DatasetError("A buffer with optimize_memory_usage=True does not hold next observations; it cannot be a dataset.")

    def rows(values: Any) -> Any:
        if isinstance(values, Mapping):
            return {key: rows(value) for key, value in values.items()}
        values = _by_environment(buffer, values)
        return values.reshape(-1, *values.shape[2:])

    penalties = None
    if isinstance(buffer, TensorReplayBuffer):  # whose rows know what comes next even where each frame is stored once
        index = _order(buffer)[None] * buffer.n_envs + np.arange(buffer.n_envs)[:, None]
        samples = buffer.rows(th.as_tensor(index.ravel(), device=buffer.dones.device), single_steps=True)
        penalties = getattr(samples, "grasp_penalties", None)
        observations, next_observations = (_arrays(part) for part in (samples.observations, samples.next_observations))
    else:
        observations, next_observations = rows(buffer.observations), rows(buffer.next_observations)
    dones, timeouts = rows(buffer.dones).astype(bool), rows(buffer.timeouts).astype(bool)
    cut = timeouts.reshape(buffer.n_envs, -1)
    ends = dones.reshape(buffer.n_envs, -1)
    cut[:, -1] |= ~ends[:, -1]  # the running episodes are cut here
    actions, space = rows(buffer.actions), buffer.action_space
    if isinstance(space, spaces.Box):
        actions = space.low + (actions.reshape(-1, *space.shape) + 1) / 2 * (space.high - space.low)
    arrays = {
        "observations": observations,
        "actions": actions,
        "rewards": rows(buffer.rewards),
        "next_observations": next_observations,
        "terminals": dones & ~rows(buffer.timeouts).astype(bool),
        "timeouts": cut.reshape(-1),
    }
    if penalties is not None:
        arrays["grasp_penalty"] = as_array(penalties).ravel()
    observation_space = buffer.observation_space if observation_space is None else observation_space
    action_space = space if action_space is None else action_space
    dataset = dataset_from_arrays(arrays, f"{name} of {buffer.size() * buffer.n_envs} rows", observation_space, action_space)
    whole = _in_whole_episodes(buffer)
    if whole.all():
        return dataset
    pieces = f"{len(set(dataset.episodes[~whole]))} episodes of which the buffer has only a part"
    if not whole_episodes:
        counted = f"{pieces} counted as episodes: whole_episodes=True leaves them out"
        return replace(dataset, corrections=(*dataset.corrections, counted))
    if not whole.any():
        raise DatasetError(f"{dataset.source} has no whole episode.")
    return replace(dataset.select(np.flatnonzero(whole)), corrections=(*dataset.corrections, f"{pieces} left out"))
