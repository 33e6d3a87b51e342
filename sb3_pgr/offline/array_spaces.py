"""Spaces that arrays of actions and observations fit into."""

import numpy as np
from gymnasium import spaces

from sb3_pgr.offline.dataset import GUESSED_RANGE, Arrays, DatasetError

_ROUNDING = 1e-5  # of actions that were clipped in other units


def space_of_actions(
    actions: Arrays, space: spaces.Space | None, source: str, notes: list[str]
) -> tuple[spaces.Space, np.ndarray]:
    """
    Actions in the space given, or in the smallest that makes sense.

    :param notes: gets what was corrected or guessed
    :raises DatasetError: if they do not fit
    """
    assert not isinstance(actions, dict)
    discrete = np.issubdtype(actions.dtype, np.integer) or actions.dtype == bool
    if discrete and not isinstance(space, spaces.Box):
        actions = actions.reshape(-1).astype(np.int64) if actions.size == len(actions) else actions
        if actions.ndim != 1 or actions.min() < 0:
            raise DatasetError(f"{source}: integer actions must be one index of at least 0 a row, not shape {actions.shape}.")
        space = space or spaces.Discrete(int(actions.max()) + 1)
        if not isinstance(space, spaces.Discrete) or actions.max() >= space.n:
            raise DatasetError(f"{source}: actions up to {int(actions.max())} do not fit {space}.")
        return space, actions
    actions = actions.astype(np.float32).reshape(len(actions), -1) if actions.ndim < 2 else actions.astype(np.float32)
    if space is None:
        low, high = actions.min(0), actions.max(0)
        over = np.abs(actions).max(tuple(range(1, actions.ndim))) > 1
        if np.abs(actions).max() <= 1 + _ROUNDING:
            low, high, actions = np.full_like(low, -1), np.full_like(high, 1), np.clip(actions, -1, 1)
            if over.any():
                notes.append(f"actions: {int(over.sum())} rows slightly outside of [-1, 1], clipped")
        else:
            notes.append(f"{GUESSED_RANGE}: taken as the range of the actions, {low.min():.3g} to {high.max():.3g}")
        return spaces.Box(low, np.where(high > low, high, low + 1).astype(np.float32), dtype=np.float32), actions
    if not isinstance(space, spaces.Box) or space.shape != actions.shape[1:]:
        raise DatasetError(f"{source}: actions of shape {actions.shape[1:]} do not fit {space}.")
    over = np.maximum(space.low - actions, actions - space.high)
    outside = over > 1e-6
    if (over > 1e-2 * (space.high - space.low)).any():
        row = int(np.flatnonzero(outside.reshape(len(actions), -1).any(1))[0])
        raise DatasetError(
            f"{source}: {int(outside.any(1).sum())} actions lie outside {space}, the first in row {row}: "
            f"{actions[row].tolist()}."
        )
    if outside.any():
        notes.append(f"actions: {int(outside.any(1).sum())} rows slightly outside the space, clipped")
    return space, np.clip(actions, space.low, space.high).astype(np.float32)


def space_of_observations(observations: Arrays, space: spaces.Space | None, source: str) -> spaces.Space:
    """
    The space given, or one of their shapes without bounds; bytes are 0 to 255.

    :raises DatasetError: if they do not fit
    """

    def wide(part: np.ndarray) -> spaces.Box:
        if part.dtype == np.uint8:
            return spaces.Box(0, 255, part.shape[1:], np.uint8)
        return spaces.Box(-np.inf, np.inf, part.shape[1:], np.float32)

    if space is None:
        if isinstance(observations, dict):
            return spaces.Dict({key: wide(part) for key, part in observations.items()})
        return wide(observations)
    given = (
        {key: part.shape[1:] for key, part in observations.items()}
        if isinstance(observations, dict)
        else observations.shape[1:]
    )
    wanted = {key: part.shape for key, part in space.items()} if isinstance(space, spaces.Dict) else space.shape
    if given != wanted:
        raise DatasetError(f"{source}: observations of shape {given} do not fit {space}.")
    return space
