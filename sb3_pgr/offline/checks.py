"""From arrays of any origin to an ``OfflineDataset``: what does not fit is refused, what can be mended is counted."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_pgr.offline.array_spaces import space_of_actions, space_of_observations
from sb3_pgr.offline.dataset import EPISODE_RETURN, Arrays, DatasetError, OfflineDataset, take

NAMES = {
    "observations": ("observations", "obs", "states"),
    "actions": ("actions",),
    "rewards": ("rewards",),
    "next_observations": ("next_observations", "next_obs", "next_states"),
    "terminals": ("terminals", "terminations", "dones"),
    "timeouts": ("timeouts", "truncations"),
}


def dataset_from_arrays(
    data: Mapping[str, Any],
    source: str = "arrays",
    observation_space: spaces.Space | None = None,
    action_space: spaces.Space | None = None,
    env_id: str | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> OfflineDataset:
    """
    Arrays under D4RL's names, checked.

    Without ``next_observations`` they are the observations of the next rows; rows at a time limit, and the last row, then have
    none and are left out, though their rewards count in returns (``extras["episode_return"]``); terminal rows get their own
    observation. Without ``timeouts``, episodes end where an observation does not follow from the row before.

    :param data: ``observations`` (an array, a dict of arrays, or ``observations/<key>`` each), ``actions``, ``rewards``,
        ``terminals``, and at least one of ``next_observations`` and ``timeouts``; other columns of numbers, with one entry a
        row, are kept as ``extras``
    :param source: what to call it in messages
    :param observation_space: of the environment; by default as wide as the data need
    :param action_space: of the environment; by default ``[-1, 1]`` if all actions are within, otherwise their range
    :raises DatasetError: if it cannot be used, naming array, row and what was expected
    """
    arrays, notes = _named(data, source), list[str]()
    n = _length(arrays, source)
    extras = _others(data, n, source)
    for name, value in arrays.items():
        arrays[name] = _numbers(value, name, source, notes)
    for name in ("rewards", "terminals", "timeouts"):
        if name in arrays:
            arrays[name] = _column(arrays[name], name, source)
    terminals = _terminals(data, arrays, notes)
    if observation_space is None or observation_space.shape == (1,):
        for name in ("observations", "next_observations"):
            if getattr(arrays.get(name), "ndim", 0) == 1:
                arrays[name] = arrays[name][:, None]  # one number each
    observations, actions = arrays["observations"], arrays["actions"]
    known = np.ones(n, bool)
    if "next_observations" in arrays:
        next_observations = arrays["next_observations"]
        _same_shape(observations, next_observations, source)
        if "timeouts" in arrays:
            timeouts = arrays["timeouts"].astype(bool) & ~terminals
        else:
            timeouts = jumps(observations, next_observations) & ~terminals
            notes.append(f"no timeouts: {int(timeouts.sum())} ends of episodes found where the next row does not follow")
    else:
        timeouts = arrays["timeouts"].astype(bool) & ~terminals
        rows = np.arange(n)
        next_observations = take(observations, np.where(terminals, rows, np.minimum(rows + 1, n - 1)))
        known = ~timeouts
        known[-1] = bool(terminals[-1])
        notes.append(
            f"no next_observations: taken from the next rows; {int((~known).sum())} rows without one left out, "
            f"{int(terminals.sum())} terminal rows given their own observation"
        )
    action_space, actions = space_of_actions(actions, action_space, source, notes)
    dataset = OfflineDataset(
        observations,
        actions,
        arrays["rewards"].astype(np.float32),
        next_observations,
        terminals,
        timeouts,
        space_of_observations(observations, observation_space, source),
        action_space,
        source,
        tuple(notes),
        env_id,
        dict(metadata or {}),
        extras,
    )
    if not known.all():
        whole = {EPISODE_RETURN: dataset.episode_returns[dataset.episodes]}
        dataset = replace(dataset, timeouts=_moved_ends(timeouts, terminals, known), extras=whole | extras)
        dataset = dataset.select(np.flatnonzero(known))
    if len(dataset) < 2:
        raise DatasetError(f"{source} has {len(dataset)} usable transition(s) of {n}; at least 2 are needed.")
    return dataset


def with_spaces(
    dataset: OfflineDataset, observation_space: spaces.Space | None, action_space: spaces.Space | None
) -> OfflineDataset:
    """
    The same rows, checked against the spaces of an environment (its own, if one is not given).

    :raises DatasetError: if they do not fit
    """
    observation_space = dataset.observation_space if observation_space is None else observation_space
    action_space = dataset.action_space if action_space is None else action_space
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    arrays = {name: getattr(dataset, name) for name in names} | dict(dataset.extras)
    known = dataset.source, observation_space, action_space, dataset.env_id, dataset.metadata
    fitted = dataset_from_arrays(arrays, *known)
    return replace(fitted, corrections=(*dataset.corrections, *fitted.corrections))


def _named(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Under our names; ``observations/<key>`` gathered into a dict."""
    nested: dict[str, Any] = {}
    for key, value in data.items():
        name, _, inner = str(key).partition("/")
        if inner and name in (*NAMES["observations"], *NAMES["next_observations"]):
            nested.setdefault(name, {})[inner] = value
        else:
            nested[str(key)] = value
    found: dict[str, Any] = {}
    for name, spellings in NAMES.items():
        given = [spelling for spelling in spellings if nested.get(spelling) is not None]
        if given:
            found[name] = nested[given[0]]
    for name in found.keys() - {"observations", "next_observations"}:
        if isinstance(found[name], Mapping):
            raise DatasetError(f"{source}: {name} must be one array, not a dict.")
    missing = [name for name in ("observations", "actions", "rewards", "terminals") if name not in found]
    if missing:
        raise DatasetError(f"{source} lacks {', '.join(missing)}; it holds {', '.join(sorted(map(str, data))) or 'nothing'}.")
    if "next_observations" not in found and "timeouts" not in found:
        raise DatasetError(
            f"{source} has neither next_observations nor timeouts, so nobody knows where its episodes were cut off. Add one: "
            "timeouts is True in the last row of an episode that ended by a time limit."
        )
    return found


def _terminals(data: Mapping[str, Any], arrays: Mapping[str, Any], notes: list[str]) -> np.ndarray:
    """Ends that are no time limits. What gym once called ``dones`` is true at both."""
    terminals: np.ndarray = arrays["terminals"].astype(bool)
    both = terminals & (arrays["timeouts"].astype(bool) if "timeouts" in arrays else False)
    if both.any():
        if data.get("terminals") is None and data.get("terminations") is None:
            notes.append(f"dones: {int(both.sum())} that are time limits too are no terminations")
            return terminals & ~both
        notes.append(f"{int(both.sum())} rows are both terminations and time limits: taken as terminations")
    return terminals


def _array(value: Any, name: str, source: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # numpy does not say of what
        raise DatasetError(f"{source}: {name} must be numbers of one shape, but its rows differ in length.") from None


def _others(data: Mapping[str, Any], n: int, source: str) -> dict[str, np.ndarray]:
    """Columns under no name of ours."""
    ours = {spelling for spellings in NAMES.values() for spelling in spellings}
    names = [name for name in data if str(name).partition("/")[0] not in ours]
    others = {str(name): _array(data[name], str(name), source) for name in names}
    return {name: value for name, value in others.items() if value.shape[:1] == (n,) and value.dtype.kind in "biuf"}


def _length(arrays: dict[str, Any], source: str) -> int:
    lengths: dict[str, int] = {}
    for name, value in arrays.items():
        for key, part in value.items() if isinstance(value, Mapping) else [("", value)]:
            label = f"{name}/{key}" if key else name
            if isinstance(part, Mapping):
                raise DatasetError(f"{source}: {label} is a dict within a dict; give its parts as keys of {name}.")
            part = _array(part, label, source)
            lengths[label] = len(part) if part.ndim else 0
    if len(set(lengths.values())) > 1:
        raise DatasetError(f"{source}: arrays must have one length, got {lengths}.")
    n = lengths["rewards"]
    if n < 2:
        raise DatasetError(f"{source} holds {n} transition(s); at least 2 are needed.")
    return n


def _numbers(value: Any, name: str, source: str, notes: list[str]) -> Arrays:
    if isinstance(value, Mapping):
        return {key: _numbers(part, f"{name}/{key}", source, notes) for key, part in value.items()}  # type: ignore[misc]
    value = _array(value, name, source)
    if value.dtype == object or not (np.issubdtype(value.dtype, np.number) or value.dtype == bool):
        raise DatasetError(f"{source}: {name} must be numbers of one shape, not {value.dtype}.")
    if np.issubdtype(value.dtype, np.complexfloating):
        raise DatasetError(f"{source}: {name} must be real numbers, not {value.dtype}.")
    if np.issubdtype(value.dtype, np.floating):
        bad = ~np.isfinite(value)
        if bad.any():
            row = int(np.flatnonzero(bad.reshape(len(value), -1).any(1))[0])
            raise DatasetError(f"{source}: {name} holds {int(bad.sum())} numbers that are not finite, the first in row {row}.")
        if value.dtype != np.float32:
            notes.append(f"{name}: {value.dtype} made float32")
            value = value.astype(np.float32)
            if not np.isfinite(value).all():
                raise DatasetError(f"{source}: {name} holds numbers too large for float32.")
    elif value.dtype != np.uint8 and name.partition("/")[0] in ("observations", "next_observations"):
        notes.append(f"{name}: {value.dtype} made float32")
        value = value.astype(np.float32)
    return value


def _column(value: Arrays, name: str, source: str) -> np.ndarray:
    assert isinstance(value, np.ndarray)
    if value.size != len(value):
        raise DatasetError(f"{source}: {name} must hold one number a row, not shape {value.shape}.")
    value = value.reshape(-1)
    if name != "rewards" and not np.isin(value, (0, 1)).all():
        raise DatasetError(f"{source}: {name} must be 0 or 1, not {np.unique(value)[:5].tolist()}...")
    return value


def _same_shape(observations: Arrays, next_observations: Arrays, source: str) -> None:
    def shapes(value: Arrays) -> Any:
        return {key: part.shape for key, part in value.items()} if isinstance(value, dict) else value.shape

    if shapes(observations) != shapes(next_observations):
        raise DatasetError(
            f"{source}: observations {shapes(observations)} and next_observations {shapes(next_observations)} differ in shape."
        )


def jumps(observations: Arrays, next_observations: Arrays) -> np.ndarray:
    """Rows whose next observation is not the observation of the next row; the last row among them."""
    if isinstance(observations, dict):
        assert isinstance(next_observations, dict)
        pairs = [(observations[key], next_observations[key]) for key in observations]
    else:
        assert isinstance(next_observations, np.ndarray)
        pairs = [(observations, next_observations)]
    n = len(pairs[0][0])
    jumps = np.zeros(n, bool)
    for obs, next_obs in pairs:
        gap = np.abs(obs[1:].reshape(n - 1, -1).astype(np.float64) - next_obs[:-1].reshape(n - 1, -1)).max(1)
        jumps[:-1] |= gap > 1e-6 * (1 + np.abs(next_obs[:-1].reshape(n - 1, -1)).max(1))
    jumps[-1] = True
    return jumps


def unmarked_ends(dataset: OfflineDataset) -> np.ndarray:
    """Rows that neither the next one follows nor an end of the episode explains ``(n,)``."""
    found = jumps(dataset.observations, dataset.next_observations) & ~(dataset.terminals | dataset.timeouts)
    found[-1] = False
    return found


def _moved_ends(timeouts: np.ndarray, terminals: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where the last row of an episode is left out, the one before it (if kept) ends the episode by the time limit."""
    moved = timeouts & known
    for row in np.flatnonzero(~known):
        if row > 0 and known[row - 1] and not terminals[row - 1]:
            moved[row - 1] = True
    return moved
