"""Transitions that were recorded: one form for every source, checked."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from gymnasium import spaces

Arrays = np.ndarray | dict[str, np.ndarray]

EPISODE_RETURN = "episode_return"  # a column of extras
PLAYED_RETURNS = "played_returns"  # an entry of metadata
ENV_KWARGS = "env_kwargs"  # entry of metadata: arguments of the environment
WRAPPING = ("env_wrapper", "vec_env_wrapper", "frame_stack")  # the same: what RL Zoo puts around it
ENVIRONMENT = (ENV_KWARGS, *WRAPPING)
GUESSED_RANGE = "no action space given"  # how such a correction begins
REFERENCES = ("reference", "ref_min_score", "ref_max_score")  # entries of metadata: what returns are compared with


class DatasetError(ValueError):
    """A dataset cannot be read or makes no sense; the message names the source, the array and what was expected."""


@dataclass(frozen=True)
class OfflineDataset:
    """
    ``n`` transitions, in the order of their collection.

    A time limit is not a termination: ``terminals`` are true ends, after which nothing can be earned; ``timeouts`` only
    end an episode. Next observations are real ones: where a source does not tell them, a terminal row has its own observation
    instead (nobody bootstraps from it), and any other row is not here.

    ``extras["episode_return"]`` is the return of the whole episode that a row belongs to, where rows of it are not here; NaN
    makes the row a single transition, part of no episode (a synthetic one). ``metadata["played_returns"]`` are then the
    returns in the dataset behind it.

    :param observations: ``(n, *obs_shape)`` float32 (images uint8), or a dict of such
    :param actions: ``(n, *action_shape)`` float32 in units of the environment; discrete ones ``(n,)`` int64
    :param rewards: ``(n,)`` float32
    :param next_observations: as observations
    :param terminals: ``(n,)`` bool
    :param timeouts: ``(n,)`` bool
    :param observation_space: of the environment, or what the data suggest
    :param action_space: of the environment, or what the data suggest
    :param source: where it comes from, for messages and reports
    :param corrections: what was changed on the way in, and how often
    :param env_id: environment, if known
    :param metadata: what else is known of the whole
    :param extras: further columns by name, one entry a row (slates and clicks, ``grasp_penalty``, ``episode_return``)
    """

    observations: Any
    actions: np.ndarray
    rewards: np.ndarray
    next_observations: Any
    terminals: np.ndarray
    timeouts: np.ndarray
    observation_space: spaces.Space
    action_space: spaces.Space
    source: str = "arrays"
    corrections: tuple[str, ...] = ()
    env_id: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extras: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rewards)

    def __repr__(self) -> str:
        of = f" of {self.env_id}" if self.env_id else ""
        return f"OfflineDataset({self.source!r}: {len(self)} rows{of}, {self.observation_space}, {self.action_space})"

    @cached_property
    def episode_ends(self) -> np.ndarray:
        """Last row of each episode; the last of all rows ends one."""
        ends = self.terminals | self.timeouts
        ends[-1:] = True
        return np.flatnonzero(ends)

    @cached_property
    def episode_starts(self) -> np.ndarray:
        """First row of each episode."""
        return np.concatenate([[0], self.episode_ends[:-1] + 1])

    @cached_property
    def episode_lengths(self) -> np.ndarray:
        """Rows of each episode."""
        return self.episode_ends - self.episode_starts + 1

    @cached_property
    def episode_returns(self) -> np.ndarray:
        """Undiscounted sum of rewards of each episode, rows that are not here included; NaN for a single transition."""
        if EPISODE_RETURN in self.extras:
            return self.extras[EPISODE_RETURN][self.episode_starts].astype(np.float64)
        return np.add.reduceat(self.rewards.astype(np.float64), self.episode_starts)

    @cached_property
    def played(self) -> np.ndarray:
        """Which episodes are some, and not single transitions ``(n_episodes,)``."""
        return ~np.isnan(self.episode_returns)

    @cached_property
    def played_returns(self) -> np.ndarray:
        """Returns of played episodes; of single transitions alone, those in the dataset behind them, or none."""
        returns = self.episode_returns[self.played]
        return returns if len(returns) else np.asarray(self.metadata.get(PLAYED_RETURNS, ()), np.float64)

    @cached_property
    def episodes(self) -> np.ndarray:
        """Number of the episode of each row ``(n,)``."""
        return np.repeat(np.arange(len(self.episode_ends)), self.episode_lengths)

    @cached_property
    def next_actions(self) -> tuple[np.ndarray, np.ndarray]:
        """The action taken in the next row, and whether there is one (not at the end of an episode)."""
        known = np.ones(len(self), bool)
        known[self.episode_ends] = False
        following = np.concatenate([self.actions[1:], self.actions[-1:]])
        return np.where(known.reshape(-1, *[1] * (self.actions.ndim - 1)), following, 0), known

    def returns_to_go(self, gamma: float = 1.0) -> np.ndarray:
        """Discounted sum of the rewards from each row to the end of its episode ``(n,)``, float64."""
        result = np.zeros(len(self))
        ends = np.zeros(len(self), bool)
        ends[self.episode_ends] = True
        running = 0.0
        for i in range(len(self) - 1, -1, -1):
            running = self.rewards[i] + (0.0 if ends[i] else gamma * running)
            result[i] = running
        return result

    def select(self, rows: np.ndarray) -> "OfflineDataset":
        """Some of the rows, in this order."""
        return replace(
            self,
            observations=take(self.observations, rows),
            actions=self.actions[rows],
            rewards=self.rewards[rows],
            next_observations=take(self.next_observations, rows),
            terminals=self.terminals[rows],
            timeouts=self.timeouts[rows],
            extras={name: column[rows] for name, column in self.extras.items()},
        )

    def select_episodes(self, episodes: np.ndarray) -> "OfflineDataset":
        """Whole episodes, in this order."""
        rows = [np.arange(self.episode_starts[i], self.episode_ends[i] + 1) for i in episodes]
        chosen = self.select(np.concatenate(rows) if rows else np.zeros(0, int))
        # An episode whose end is not marked (a cut recording) must not run into the next one.
        ends = np.cumsum([len(part) for part in rows]) - 1
        timeouts = chosen.timeouts.copy()
        timeouts[ends] |= ~chosen.terminals[ends]
        return replace(chosen, timeouts=timeouts)

    def split(self, fraction: float, seed: int = 0) -> tuple["OfflineDataset", "OfflineDataset"]:
        """
        Two parts of whole episodes, drawn at random.

        :param fraction: of the episodes, for the first part
        :raises DatasetError: if a part would be empty
        """
        n = len(self.episode_ends)
        count = round(fraction * n)
        if not 0 < count < n:
            raise DatasetError(f"{self.source}: a fraction of {fraction} of {n} episodes leaves one part empty.")
        order = np.random.default_rng(seed).permutation(n)
        return self.select_episodes(np.sort(order[:count])), self.select_episodes(np.sort(order[count:]))

    def sample_episodes(self, rows: int, seed: int = 0) -> "OfflineDataset":
        """Whole episodes, drawn at random, until there are at least ``rows`` rows; in the order of the dataset."""
        order = np.random.default_rng(seed).permutation(len(self.episode_ends))
        count = int(np.searchsorted(np.cumsum(self.episode_lengths[order]), rows)) + 1
        return self.select_episodes(np.sort(order[:count]))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all arrays: the same data give the same one, whatever file they were in."""
        digest = hashlib.sha256()
        for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts"):
            value = getattr(self, name)
            for key, part in sorted(value.items()) if isinstance(value, dict) else [("", value)]:
                digest.update(f"{name}/{key}:{part.dtype}:{part.shape}".encode())
                digest.update(np.ascontiguousarray(part).tobytes())
        return digest.hexdigest()


def take(values: Any, rows: np.ndarray) -> Any:
    """Rows of an array, or of each in a dict."""
    return {key: value[rows] for key, value in values.items()} if isinstance(values, dict) else values[rows]


def concatenate(datasets: Sequence[OfflineDataset], source: str) -> OfflineDataset:
    """
    One after the other; spaces and environment are those of the first, what is known of each goes into ``metadata["parts"]``.
    Episodes keep their returns, and single transitions stay some.

    :raises DatasetError: if shapes or environments differ
    """
    first = datasets[0]
    action_space = _range_of_all(datasets)
    for other in datasets[1:]:
        for what, one, two in (
            ("environment", other.env_id, first.env_id),
            *((f"{name} of the environment", other.metadata.get(name), first.metadata.get(name)) for name in ENVIRONMENT),
            ("shape of observations", _shapes(other.observations), _shapes(first.observations)),
            ("actions", other.action_space, first.action_space),
        ):
            if one != two and (what != "actions" or action_space is None):
                raise DatasetError(f"{other.source} cannot be joined to {first.source}: {what} {one} there, {two} here.")
    whole = [part.select_episodes(np.arange(len(part.episode_ends))) for part in datasets]  # marks a last episode's end
    arrays = {
        name: join([getattr(part, name) for part in whole])
        for name in ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    }
    shared = [name for name in first.extras if all(name in part.extras for part in whole)]
    extras = {name: np.concatenate([part.extras[name] for part in whole]) for name in shared}
    if any(EPISODE_RETURN in part.extras for part in whole):
        extras[EPISODE_RETURN] = np.concatenate([part.episode_returns[part.episodes] for part in whole])
    metadata = {key: value for key, value in first.metadata.items() if key in (*REFERENCES, *ENVIRONMENT)}
    metadata["parts"] = [{"source": part.source, "rows": len(part), **part.metadata} for part in datasets]
    behind = [value for part in datasets for value in part.metadata.get(PLAYED_RETURNS, ())]
    if behind:
        metadata[PLAYED_RETURNS] = behind
    return replace(
        first,
        **arrays,
        source=source,
        corrections=(),
        metadata=metadata,
        extras=extras,
        action_space=action_space or first.action_space,
    )


def _range_of_all(datasets: Sequence[OfflineDataset]) -> spaces.Box | None:
    """The range of all actions, if each dataset's is only what its own actions reach; else nothing."""
    boxes = [part.action_space for part in datasets if isinstance(part.action_space, spaces.Box)]
    guessed = all(any(note.startswith(GUESSED_RANGE) for note in part.corrections) for part in datasets)
    if not guessed or len(boxes) < len(datasets) or len({box.shape for box in boxes}) > 1:
        return None
    low, high = np.min([box.low for box in boxes], 0), np.max([box.high for box in boxes], 0)
    return spaces.Box(low, high, dtype=np.float32)


def _shapes(observations: Any) -> Any:
    if isinstance(observations, Mapping):
        return {key: part.shape[1:] for key, part in observations.items()}
    return observations.shape[1:]


def join(parts: Sequence[Any]) -> Any:
    """Arrays, or dicts of arrays, one after the other."""
    if isinstance(parts[0], Mapping):
        return {key: join([part[key] for part in parts]) for key in parts[0]}
    return np.concatenate(parts)


def plain_value(value: Any) -> Any:
    """For JSON, what metadata holds beside plain values."""
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise DatasetError(f"Metadata can hold numbers, texts, lists and dicts, not {type(value).__name__}: {value!r}.")
