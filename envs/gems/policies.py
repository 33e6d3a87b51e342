"""Policies that need no learning: chance, the logging policy, oracles that see what users like, one slate for all."""

from typing import Protocol

import numpy as np
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.random import episode_keys


class SlatePolicy(Protocol):
    """Chooses slates ``(n_users, slate_size)`` for the users of an engine."""

    def __call__(self, engine: GemsEngine) -> np.ndarray: ...


class RandomSlates:
    """
    Items drawn uniformly, with replacement.

    :param seed: of its random numbers
    """

    def __init__(self, seed: int = 0):
        self.generator = np.random.default_rng(seed)

    def __call__(self, engine: GemsEngine) -> np.ndarray:
        return self.generator.integers(len(engine.items.topics), size=(engine.n_users, engine.config.slate_size))


class ConstantSlate:
    """
    The same items for everybody, always.

    :param slate: item numbers ``(slate_size,)``
    """

    def __init__(self, slate: np.ndarray):
        self.slate = np.asarray(slate)

    def __call__(self, engine: GemsEngine) -> np.ndarray:
        return np.tile(self.slate, (engine.n_users, 1))


class ShortTermOracle:
    """What each user likes best now; privileged, and blind to boredom to come."""

    def __call__(self, engine: GemsEngine) -> np.ndarray:
        return best_items(engine.scores(), engine.config.slate_size)


class TopK:
    """What each user likes best, whatever bores: what predicting ratings alone comes to; privileged."""

    def __call__(self, engine: GemsEngine) -> np.ndarray:
        return best_items(engine.preferences @ engine.items.embeddings.T, engine.config.slate_size)


class EpsilonGreedyOracle:
    """
    The short-term oracle, but each rank shows a random item with some chance: what the published models learned from.

    :param epsilon: that chance
    :param seed: of its random numbers
    """

    def __init__(self, epsilon: float = 0.5, seed: int = 0):
        if not 0 <= epsilon <= 1:
            raise ValueError(f"epsilon={epsilon} must be between 0 and 1.")
        self.epsilon, self.generator = epsilon, np.random.default_rng(seed)

    def __call__(self, engine: GemsEngine) -> np.ndarray:
        best = best_items(engine.scores(), engine.config.slate_size)
        random = self.generator.integers(len(engine.items.topics), size=best.shape)
        return np.where(self.generator.random(best.shape) < self.epsilon, random, best)


class BudgetOracle:
    """
    Looks after tomorrow: of each topic it shows at most so many items that, were all clicked, the topic would not bore within
    the next steps. Privileged.

    :param budget: items of a topic among the last clicks that it allows
    """

    def __init__(self, budget: int = 3):
        self.budget = budget

    def __call__(self, engine: GemsEngine) -> np.ndarray:
        scores, n, k = engine.scores(), engine.n_users, engine.config.slate_size
        allowed = np.maximum(self.budget - engine.recent_clicks(5), 0)
        rows, slates = np.arange(n), np.zeros((n, k), np.int64)
        # An item's place among those of its topic, best first: it may be shown if there is room for as many.
        order = best_items(scores, min(20 * k, scores.shape[1]))
        topics = engine.items.topics[order]
        filled = np.zeros(n, np.int64)
        left = allowed.copy()
        for column in range(order.shape[1]):
            topic = topics[:, column]
            take = (left[rows, topic] > 0) & (filled < k)
            slates[rows[take], filled[take]] = order[take, column]
            left[rows[take], topic[take]] -= 1
            filled += take
        for user in np.flatnonzero(filled < k):  # budgets leave too few: the best of the others
            others = [item for item in order[user] if item not in slates[user, : filled[user]]]
            slates[user, filled[user] :] = others[: k - filled[user]]
        return slates[:, np.argsort(np.argsort(-engine.propensities, kind="stable"), kind="stable")]


def hill_climbed_slate(
    engine: GemsEngine, n_users: int = 100, tries: int = 1_000, at_once: int = 20, seed: int = 0
) -> np.ndarray:
    """
    The best constant slate that is found by changing one item at a time; what needs no personalisation at all.

    :param n_users: on whom slates are tried, all on the same
    :param tries: number of slates tried
    :param at_once: changes tried side by side, of which the best is kept if it is better
    :return: item numbers ``(slate_size,)``
    """
    generator, keys = np.random.default_rng(seed), episode_keys(np.arange(n_users) + 10**8, 0)

    def clicks(slates: np.ndarray) -> np.ndarray:
        engine.reset(np.tile(keys, len(slates)))
        shown = np.repeat(slates, n_users, 0)
        earned = sum(engine.step(shown).clicks.sum(1) for _ in range(engine.config.horizon))
        return np.asarray(earned).reshape(len(slates), n_users).mean(1)

    n_items, k = len(engine.items.topics), engine.config.slate_size
    slate = generator.choice(n_items, k, replace=False)
    best = clicks(slate[None])[0]
    for _ in range(tries // at_once):
        changed = np.tile(slate, (at_once, 1))
        changed[np.arange(at_once), generator.integers(k, size=at_once)] = generator.integers(n_items, size=at_once)
        earned = clicks(changed)
        if earned.max() > best:
            slate, best = changed[earned.argmax()], earned.max()
    return slate


def best_items(scores: np.ndarray, k: int) -> np.ndarray:
    """The ``k`` highest of each row, best first."""
    top = np.argpartition(-scores, k - 1, axis=1)[:, :k] if k < scores.shape[1] else np.tile(np.arange(k), (len(scores), 1))
    order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
    return np.take_along_axis(top, order, 1)
