"""What a policy's users see and do, episode by episode."""

from dataclasses import dataclass

import numpy as np
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.policies import SlatePolicy


@dataclass(frozen=True)
class Logs:
    """
    Episodes of ``horizon`` slates; row 0 is the first slate, which no policy chose.

    :param slates: ``(n_users, horizon + 1, slate_size)`` int16, or int32 of more than 32 767 items
    :param clicks: of the same shape, bool
    :param bored: topics that bore after the row ``(n_users, horizon + 1, n_topics)`` bool: privileged
    :param preferences: after the row ``(n_users, horizon + 1, n_topics * topic_size)`` float16: privileged
    """

    slates: np.ndarray
    clicks: np.ndarray
    bored: np.ndarray
    preferences: np.ndarray

    @property
    def returns(self) -> np.ndarray:
        """Clicks of each user ``(n_users,)``, without those on the first slate."""
        return self.clicks[:, 1:].sum((1, 2))

    def __getitem__(self, users: slice | np.ndarray) -> "Logs":
        return Logs(*(value[users] for value in vars(self).values()))

    def __add__(self, other: "Logs") -> "Logs":
        return Logs(*(np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values())))


def simulate(engine: GemsEngine, policy: SlatePolicy, keys: np.ndarray) -> Logs:
    """
    Whole episodes under a policy.

    :param keys: of the users' episodes ``(n_users,)``
    """
    slates, outcome = engine.reset(keys)
    rows = [_row(engine, slates, outcome.clicks)]
    for _ in range(engine.config.horizon):
        slates = policy(engine)
        rows.append(_row(engine, slates, engine.step(slates).clicks))
    return Logs(*(np.stack(column, 1) for column in zip(*rows)))


def _row(engine: GemsEngine, slates: np.ndarray, clicks: np.ndarray) -> tuple[np.ndarray, ...]:
    return slates.astype(engine.items.number_dtype), clicks.copy(), engine.bored.copy(), engine.preferences.astype(np.float16)
