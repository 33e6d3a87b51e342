"""What an agent sees: the last slate, a belief, the last few slates, or (privileged) the user's state."""

from typing import Protocol

import numpy as np
from gymnasium import spaces
from sb3_pgr.envs.gems.belief import BeliefEncoder
from sb3_pgr.envs.gems.engine import GemsEngine

Observed = np.ndarray | dict[str, np.ndarray]


class Observations(Protocol):
    @property
    def space(self) -> spaces.Space:
        """Of one user's observation."""
        ...

    def observe(self, slates: np.ndarray, clicks: np.ndarray, first: bool) -> Observed:
        """
        What all users' agents see after a step.

        :param slates: that were shown ``(n_users, slate_size)``
        :param clicks: on them, of the same shape
        :param first: whether episodes have just begun
        """
        ...


class LastSlate:
    """The last slate and its clicks; slates are a ``Box``, for SB3 makes 10 000 numbers of a ``MultiDiscrete``."""

    def __init__(self, engine: GemsEngine):
        k, n_items = engine.config.slate_size, len(engine.items.topics)
        self.space = spaces.Dict({"slate": spaces.Box(0, n_items - 1, (k,), np.int32), "clicks": spaces.MultiBinary(k)})

    def observe(self, slates: np.ndarray, clicks: np.ndarray, first: bool) -> Observed:
        return {"slate": slates.astype(np.int32), "clicks": clicks.astype(np.int8)}


class Belief:
    """
    What a trained encoder makes of all slates and clicks so far.

    :param encoder: of the same items
    """

    def __init__(self, encoder: BeliefEncoder):
        self.encoder = encoder
        self.space = spaces.Box(-1, 1, (encoder.belief_dim,), np.float32)
        self._belief = np.zeros((0, encoder.belief_dim), np.float32)

    def observe(self, slates: np.ndarray, clicks: np.ndarray, first: bool) -> Observed:
        if first:
            self._belief = np.zeros((len(slates), self.encoder.belief_dim), np.float32)
        self._belief = np.clip(self.encoder.step(self._belief, slates, clicks), -1, 1)
        return self._belief.copy()


class History:
    """
    The last slates and their clicks, the newest last; before the first there is nothing but zeros.

    :param length: how many slates
    """

    def __init__(self, engine: GemsEngine, length: int):
        if length < 1:
            raise ValueError(f"history={length} must be at least 1.")
        k, n_items = engine.config.slate_size, len(engine.items.topics)
        self.length = length
        self.space = spaces.Dict(
            {
                "slates": spaces.Box(0, n_items - 1, (length * k,), np.int32),
                "clicks": spaces.MultiBinary(length * k),
                "seen": spaces.MultiBinary(length),
            }
        )
        self._slates = self._clicks = self._seen = np.zeros((0, 0))

    def observe(self, slates: np.ndarray, clicks: np.ndarray, first: bool) -> Observed:
        n, k = slates.shape
        if first:
            self._slates = np.zeros((n, self.length * k), np.int32)
            self._clicks = np.zeros((n, self.length * k), np.int8)
            self._seen = np.zeros((n, self.length), np.int8)
        self._slates = np.concatenate([self._slates[:, k:], slates.astype(np.int32)], 1)
        self._clicks = np.concatenate([self._clicks[:, k:], clicks.astype(np.int8)], 1)
        self._seen = np.concatenate([self._seen[:, 1:], np.ones((n, 1), np.int8)], 1)
        seen = {"slates": self._slates, "clicks": self._clicks, "seen": self._seen}
        return {name: value.copy() for name, value in seen.items()}


class Privileged:
    """
    The user's state: preferences, topics that bore, how long they still do, recent clicks on each (without their ages), and
    the time; all in [0, 1]. What no recommender knows: nearly an upper bound for what can be learned.
    """

    def __init__(self, engine: GemsEngine):
        self.engine = engine
        size = engine.config.n_topics * (engine.config.topic_size + 3) + 1
        self.space = spaces.Box(0, 1, (size,), np.float32)

    def observe(self, slates: np.ndarray, clicks: np.ndarray, first: bool) -> Observed:
        engine, config = self.engine, self.engine.config
        columns = (
            engine.preferences,
            engine.bored,
            engine.bored * engine.timeouts / config.boredom_timeout,
            engine.recent_clicks(config.boredom_memory) / config.boredom_memory,
            np.full((engine.n_users, 1), engine.step_number / config.horizon),
        )
        return np.clip(np.concatenate(columns, 1), 0, 1).astype(np.float32)
