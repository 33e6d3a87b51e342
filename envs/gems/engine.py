"""
The simulator of GeMS (Deffayet et al. 2023, https://arxiv.org/abs/2301.08632, section 5), for any number of users at once.

Written from the published equations. Where paper and published code differ, the code's numbers are taken, since the published
results are of the code; docs/gems.md lists the differences.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from sb3_pgr.envs.gems.items import Items
from sb3_pgr.envs.gems.random import normal, uniform
from scipy.special import expit

CLICK_MODELS = ("topdown", "mixed")
_WHOLE = {  # limits of whole numbers: counts are added in four bits a topic, steps kept in 16 bits, timeouts in 8
    "slate_size": (1, 15),
    "n_topics": (1, 16),
    "topic_size": (1, 10_000),
    "horizon": (1, 30_000),
    "boredom_threshold": (1, 8),
    "boredom_window": (0, 30_000),
    "boredom_memory": (1, 15),
    "boredom_timeout": (1, 127),
    "diversity_threshold": (1, 8),
}


@dataclass(frozen=True)
class GemsConfig:
    """
    The numbers of the simulated world.

    :param slate_size: items shown at a time, at most 15
    :param n_topics: at most 16
    :param topic_size: numbers of a topic in an embedding
    :param horizon: slates of an episode
    :param click_model: how likely a rank is looked at: falling from the top, or mixed, from both ends
    :param attention: factor from rank to rank
    :param offset: score at which an item is clicked half of the times that it is looked at
    :param slope: of the sigmoid there
    :param influence: what is left of a user's preferences after a click
    :param boredom_threshold: recent clicks on a topic from which it bores
    :param boredom_window: steps after which clicks are forgotten
    :param boredom_memory: clicks that are remembered
    :param boredom_timeout: steps that boredom lasts
    :param diversity_threshold: items of one main topic from which a slate is penalised
    :param diversity_penalty: by which the attraction of a penalised slate is divided
    :raises ValueError: if a number makes no sense
    """

    slate_size: int = 10
    n_topics: int = 10
    topic_size: int = 2
    horizon: int = 100
    click_model: str = "topdown"
    attention: float = 0.85
    offset: float = 0.28
    slope: float = 100.0
    influence: float = 0.9
    boredom_threshold: int = 5
    boredom_window: int = 5
    boredom_memory: int = 10
    boredom_timeout: int = 5
    diversity_threshold: int = 4
    diversity_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.click_model not in CLICK_MODELS:
            raise ValueError(f"click_model={self.click_model!r} must be one of {', '.join(CLICK_MODELS)}.")
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or not low <= value <= high:
                raise ValueError(f"{name}={value!r} must be a whole number from {low} to {high:,}.")
        for name in ("attention", "offset", "slope", "influence", "diversity_penalty"):
            value = getattr(self, name)
            if not isinstance(value, int | float | np.number) or not np.isfinite(value):
                raise ValueError(f"{name}={value!r} must be a finite number.")
        if not (0 < self.attention <= 1 and 0 < self.influence <= 1 and self.diversity_penalty >= 1):
            raise ValueError("attention and influence must be in (0, 1], diversity_penalty at least 1.")
        counted = {"boredom_threshold": "boredom_memory"}
        if self.diversity_penalty > 1:  # otherwise nobody counts
            counted["diversity_threshold"] = "slate_size"
        for threshold, size in counted.items():
            if getattr(self, size) + 8 - getattr(self, threshold) > 15:
                raise ValueError(
                    f"{threshold}={getattr(self, threshold)} with {size}={getattr(self, size)} must be at least "
                    f"{getattr(self, size) - 7}."
                )

    @property
    def propensities(self) -> np.ndarray:
        """Chance that each rank is looked at ``(slate_size,)``."""
        falling = self.attention ** np.arange(self.slate_size)
        return (falling if self.click_model == "topdown" else (falling + falling[::-1]) / 2).astype(np.float32)


@dataclass
class Outcome:
    """
    What users did with their slates, ``(n_users, slate_size)`` each.

    :param clicks: bool
    :param probabilities: of a click
    """

    clicks: np.ndarray
    probabilities: np.ndarray


class GemsEngine:
    """
    Users who browse slates, get bored of topics, and drift towards what they click on.

    A user's episode is a function of its key and of the slates that it is shown: not of the users beside it.

    :param items: the catalogue
    :param config: numbers of the world
    :raises ValueError: if the catalogue is not one of such a world
    """

    STATE = ("keys", "step_number", "preferences", "bored", "timeouts", "memory_topics", "memory_steps")

    def __init__(self, items: Items, config: GemsConfig | None = None):
        self.items, self.config = items, config or GemsConfig()
        dim = self.config.n_topics * self.config.topic_size
        if items.embeddings.shape[1] != dim:
            raise ValueError(f"Items have {items.embeddings.shape[1]} numbers; n_topics x topic_size is {dim}.")
        if items.topics.max() >= self.config.n_topics:
            raise ValueError(f"Items of topic {items.topics.max()} are none of a world of {self.config.n_topics} topics.")
        self.propensities = self.config.propensities
        self._codes = np.uint64(1) << (np.uint64(4) * items.topics.astype(np.uint64))  # four bits count a topic
        shifts = np.uint64(4) * np.arange(self.config.n_topics, dtype=np.uint64)
        self._ones, self._top_bits = (np.uint64(1) << shifts).sum(dtype=np.uint64), np.uint64(8) << shifts
        self.first_slate = self._first_slate()

    def _first_slate(self) -> np.ndarray:
        """For every user the same: topic by topic, the items that are most of it."""
        norms = np.linalg.norm(self._blocks(self.items.embeddings), axis=2)
        each = -(-self.config.slate_size // self.config.n_topics)
        best = np.argsort(-norms, axis=0, kind="stable")[:each].T.ravel()
        return best[: self.config.slate_size].astype(np.int64)

    def _blocks(self, vectors: np.ndarray) -> np.ndarray:
        return vectors.reshape(len(vectors), self.config.n_topics, self.config.topic_size)

    @property
    def n_users(self) -> int:
        if not hasattr(self, "keys"):
            raise ResetNeeded("There are no users before reset.")
        return len(self.keys)

    def reset(self, keys: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """
        New users, who are shown the first slate. Its clicks are remembered but move no preferences.

        :param keys: of the episodes ``(n_users,)``, integers
        :return: slates ``(n_users, slate_size)`` and what users did
        """
        config, n = self.config, len(keys)
        self.keys = np.asarray(keys).astype(np.uint64)
        self.step_number = 0
        directions = np.abs(np.clip(0.4 * normal(self.keys, config.n_topics * config.topic_size), -1, 1))
        weights = uniform(self.keys, config.n_topics, offset=config.n_topics * config.topic_size) ** 3
        weights /= weights.sum(1, keepdims=True)
        self.preferences = self._scaled((weights[:, :, None] * self._blocks(directions)).reshape(n, -1))
        self.bored = np.zeros((n, config.n_topics), bool)
        self.timeouts = np.full((n, config.n_topics), config.boredom_timeout, np.int8)
        self.memory_topics = np.zeros((n, config.boredom_memory), np.uint64)
        self.memory_steps = np.full((n, config.boredom_memory), -1000, np.int16)
        slates = np.tile(self.first_slate, (n, 1))
        outcome = self._browse(slates)
        self._remember(slates, outcome.clicks, influence=False)
        self._update_boredom()
        return slates, outcome

    def step(self, slates: np.ndarray) -> Outcome:
        """
        Show a slate to each user. ``bored`` then is what bores them in the next step.

        :param slates: item numbers ``(n_users, slate_size)``; they may repeat
        :raises ValueError: if the shape, the type or a number is wrong
        """
        slates = self._checked(slates)
        self.step_number += 1
        outcome = self._browse(slates)
        self._remember(slates, outcome.clicks, influence=True)
        self._update_boredom()
        return outcome

    def scores(self) -> np.ndarray:
        """How much each user would like each item now ``(n_users, n_items)``: privileged."""
        return self._attentive_preferences() @ self.items.embeddings.T

    def recent_clicks(self, n: int) -> np.ndarray:
        """Clicks on each topic among the last ``n`` that are remembered ``(n_users, n_topics)``."""
        recent = self.memory_topics[:, -n:].sum(1, dtype=np.uint64)[:, None]
        shifts = np.uint64(4) * np.arange(self.config.n_topics, dtype=np.uint64)
        return ((recent >> shifts) & np.uint64(15)).astype(np.int64)

    def get_state(self) -> dict[str, Any]:
        """Copies of everything that changes, for ``set_state``."""
        assert self.n_users
        return {name: value.copy() if isinstance(value := getattr(self, name), np.ndarray) else value for name in self.STATE}

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Go on from what ``get_state`` returned.

        :raises ValueError: if it is something else
        """
        missing = [name for name in self.STATE if name not in state]
        if missing:
            raise ValueError(f"A state of this engine has {', '.join(missing)}, too.")
        for name in self.STATE:
            value = state[name]
            setattr(self, name, value.copy() if isinstance(value, np.ndarray) else value)

    def _checked(self, slates: np.ndarray) -> np.ndarray:
        slates, shape = np.asarray(slates), (self.n_users, self.config.slate_size)
        if slates.shape != shape:
            raise ValueError(f"Slates must have shape {shape}, not {slates.shape}.")
        if not np.issubdtype(slates.dtype, np.integer):
            raise ValueError(f"Slates must be item numbers, not {slates.dtype}.")
        n_items = len(self.items.topics)
        if slates.min() < 0 or slates.max() >= n_items:
            user, rank = np.argwhere((slates < 0) | (slates >= n_items))[0]
            raise ValueError(
                f"Slate of user {user}, rank {rank}: there is no item {slates[user, rank]}; they are 0 to {n_items - 1}."
            )
        return slates

    def _attentive_preferences(self) -> np.ndarray:
        """Without the topics that bore, ``(n_users, n_topics * topic_size)``."""
        return self.preferences * np.repeat(~self.bored, self.config.topic_size, axis=1)

    def _browse(self, slates: np.ndarray) -> Outcome:
        """Relevance (a sigmoid of the score), penalty of a monotonous slate, and clicks."""
        config = self.config
        # einsum without BLAS: a user's sum is the same in any batch.
        scores = np.einsum("nkd,nd->nk", self.items.embeddings[slates], self._attentive_preferences())
        attraction = expit(np.float32(config.slope) * (scores - np.float32(config.offset)))
        if config.diversity_penalty > 1:
            monotonous = self._any_at_least(self._codes[slates].sum(1, dtype=np.uint64), config.diversity_threshold)
            attraction[monotonous] /= np.float32(config.diversity_penalty)
        probabilities = attraction * self.propensities
        k, drawn = config.slate_size, (config.topic_size + 1) * config.n_topics
        chances = uniform(self.keys, k, offset=drawn + self.step_number * k)
        return Outcome(chances < probabilities, probabilities)

    def _remember(self, slates: np.ndarray, clicks: np.ndarray, influence: bool) -> None:
        """Click by click, in the order of ranks: remember its topic, drift towards its item. Then forget what is old."""
        config, step = self.config, np.int16(self.step_number)
        for rank in np.flatnonzero(clicks.any(0)):
            users = np.flatnonzero(clicks[:, rank])
            items = slates[users, rank]
            for memory, new in ((self.memory_topics, self._codes[items]), (self.memory_steps, step)):
                rows = memory[users]
                rows[:, :-1] = rows[:, 1:]
                rows[:, -1] = new
                memory[users] = rows
            if influence:
                old = np.float32(config.influence)
                moved = old * self.preferences[users] + (1 - old) * self.items.embeddings[items]
                self.preferences[users] = self._scaled(moved)
        self.memory_topics[self.memory_steps < step - config.boredom_window] = 0

    def _scaled(self, preferences: np.ndarray) -> np.ndarray:
        """To lengths of topics that sum to 1."""
        return preferences / np.linalg.norm(self._blocks(preferences), axis=2).sum(1, keepdims=True)

    def _update_boredom(self) -> None:
        """For the next step: boredom that lasted its time ends, topics with many recent clicks bore."""
        self.timeouts -= self.bored
        self.bored &= self.timeouts > 0
        self.timeouts[~self.bored] = self.config.boredom_timeout
        recent = self.memory_topics.sum(1, dtype=np.uint64)[:, None]
        self.bored |= ((recent + self._room(self.config.boredom_threshold)) & self._top_bits) != 0

    def _any_at_least(self, counts: np.ndarray, threshold: int) -> np.ndarray:
        """Whether any topic's count in the packed ``counts`` reaches the threshold."""
        return ((counts + self._room(threshold)) & self._top_bits.sum(dtype=np.uint64)) != 0

    def _room(self, threshold: int) -> np.uint64:
        """What makes counts from ``threshold`` on set the highest of their four bits."""
        return self._ones * np.uint64(8 - threshold)
