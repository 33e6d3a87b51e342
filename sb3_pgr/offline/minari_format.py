"""Minari's datasets, read and written."""

import copy
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_pgr.offline.checks import dataset_from_arrays, unmarked_ends
from sb3_pgr.offline.dataset import ENV_KWARGS, ENVIRONMENT, PLAYED_RETURNS, DatasetError, OfflineDataset, join, plain_value

SCORES = ("ref_min_score", "ref_max_score")  # what Minari calls returns of 0 and 100
# Entries of metadata that Minari has no place for.
PROVENANCE = ("behaviour", "reference", PLAYED_RETURNS, *ENVIRONMENT, "models", "parts")
OURS = "sb3_pgr"  # where they are written
MINARI = "minari:"  # before the id, in the source of a dataset


def open_minari(source: str | Path) -> Any:
    try:
        import minari
    except ModuleNotFoundError:
        raise DatasetError(f"Reading {source} needs Minari: pip install 'sb3_pgr[offline]'") from None
    try:
        if isinstance(source, Path):
            return minari.MinariDataset(source / "data" if (source / "data").is_dir() else source)
        return minari.load_dataset(source)
    except Exception as error:  # Minari raises plain exceptions of many kinds
        raise DatasetError(f"{source} is neither a file nor a Minari dataset on this machine: {error}") from None


def from_minari(dataset: Any, observation_space: spaces.Space | None, action_space: spaces.Space | None) -> OfflineDataset:
    columns: dict[str, list[Any]] = {name: [] for name in ("observations", "next_observations")}
    plain: dict[str, list[np.ndarray]] = {name: [] for name in ("actions", "rewards", "terminals", "timeouts")}
    infos: list[dict[str, np.ndarray]] = []
    for episode in dataset.iterate_episodes():
        infos.append(_numbers_of_steps(episode.infos, len(episode.rewards)))
        columns["observations"].append(_cut(episode.observations, slice(None, -1)))
        columns["next_observations"].append(_cut(episode.observations, slice(1, None)))
        plain["actions"].append(np.asarray(episode.actions))
        plain["rewards"].append(np.asarray(episode.rewards))
        plain["terminals"].append(np.asarray(episode.terminations))
        truncations = np.array(episode.truncations)
        truncations[-1] |= not episode.terminations[-1]
        plain["timeouts"].append(truncations)
    if not plain["rewards"]:
        raise DatasetError(f"Minari dataset {dataset.id} has no episodes.")
    arrays = {name: join(parts) for name, parts in columns.items()}
    arrays |= {name: np.concatenate(parts) for name, parts in plain.items()}
    for name, first in infos[0].items():
        if name not in arrays and all(name in info and info[name].shape[1:] == first.shape[1:] for info in infos):
            arrays[name] = np.concatenate([info[name] for info in infos])
    env_id = None if dataset.env_spec is None else dataset.env_spec.id
    stored = dataset.storage.metadata
    metadata = {name: stored.get(name) for name in SCORES}
    if OURS in stored:
        metadata |= stored[OURS]
    elif dataset.env_spec is not None and dataset.env_spec.kwargs:
        metadata[ENV_KWARGS] = dict(dataset.env_spec.kwargs)
    observation_space = dataset.observation_space if observation_space is None else observation_space
    action_space = dataset.action_space if action_space is None else action_space
    return dataset_from_arrays(arrays, f"{MINARI}{dataset.id}", observation_space, action_space, env_id, metadata)


def save_minari(dataset: OfflineDataset, dataset_id: str, **kwargs: Any) -> Any:
    """
    Create a local Minari dataset; extras become infos, in which there is a row for the reset too (of zeros). Its
    environment has the arguments that the dataset was recorded with.

    :param dataset_id: e.g. ``"halfcheetah/medium-v0"``
    :param kwargs: for ``minari.create_dataset_from_buffers``
    :raises DatasetError: if its environment is not registered, or rows do not follow each other (Minari keeps whole episodes)
    """
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.storage.datasets_root_dir import get_dataset_path

    if dataset.env_id is not None and dataset.env_id not in gym.registry:  # Minari would fail halfway
        raise DatasetError(f"{dataset.source} is from {dataset.env_id}, which is not registered here.")
    if unmarked := int(unmarked_ends(dataset).sum()):
        raise DatasetError(
            f"{dataset.source}: {unmarked:,} rows are not followed by their next observation, and are not marked as timeouts. "
            "Minari keeps episodes, not single transitions: they would get another next observation."
        )
    episodes = []
    for start, end in zip(dataset.episode_starts, dataset.episode_ends, strict=True):
        observations = _with_last(dataset.observations, dataset.next_observations, start, end)
        truncations = dataset.timeouts[start : end + 1].copy()
        truncations[-1] |= not dataset.terminals[end]
        episodes.append(
            EpisodeBuffer(
                observations=observations,
                actions=dataset.actions[start : end + 1],
                rewards=dataset.rewards[start : end + 1].tolist(),
                terminations=dataset.terminals[start : end + 1].tolist(),
                truncations=truncations.tolist(),
                infos={name: _after_reset(column[start : end + 1]) for name, column in dataset.extras.items()},
            )
        )
    reference = dataset.metadata.get("reference")
    known_scores = {name: dataset.metadata[name] for name in SCORES if dataset.metadata.get(name) is not None}
    if reference is not None:
        known_scores = {"ref_min_score": reference["random"], "ref_max_score": reference["expert"]}
    spec = None if dataset.env_id is None else copy.deepcopy(gym.spec(dataset.env_id))
    if spec is not None:
        spec.kwargs.update(dataset.metadata.get(ENV_KWARGS) or {})
    given = {"reference"} if kwargs.keys() & set(SCORES) else set()  # other scores, which stand
    ours = {name: dataset.metadata[name] for name in PROVENANCE if name in dataset.metadata and name not in given}
    kwargs = {"env": spec, **known_scores, **kwargs}
    folder = Path(get_dataset_path(dataset_id))
    known = folder.exists()
    try:
        made = minari.create_dataset_from_buffers(
            dataset_id,
            episodes,
            observation_space=dataset.observation_space,
            action_space=dataset.action_space,
            **kwargs,
        )
        made.storage.update_metadata({OURS: json.loads(json.dumps(ours, default=plain_value))})
        return made
    except Exception:
        if not known:  # or what was begun would keep the name
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _after_reset(column: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros_like(column[:1]), column])


def _with_last(observations: Any, next_observations: Any, start: int, end: int) -> Any:
    if isinstance(observations, dict):
        return {key: _with_last(observations[key], next_observations[key], start, end) for key in observations}
    return np.concatenate([observations[start : end + 1], next_observations[end : end + 1]])


def _numbers_of_steps(infos: Mapping[str, Any] | None, steps: int) -> dict[str, np.ndarray]:
    """Of what an episode tells beside its transitions, what has a number, or an array of such, for each step."""
    found = {name: np.asarray(values) for name, values in (infos or {}).items() if not isinstance(values, Mapping)}
    return {
        name: values[-steps:]  # the first of one more is of the reset
        for name, values in found.items()
        if values.dtype.kind in "bifu" and values.ndim and len(values) in (steps, steps + 1)
    }


def _cut(observations: Any, rows: slice) -> Any:
    if isinstance(observations, Mapping):
        return {key: _cut(value, rows) for key, value in observations.items()}
    if isinstance(observations, tuple):
        raise DatasetError("Tuple observations are not supported.")
    return np.asarray(observations)[rows]
