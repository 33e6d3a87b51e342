"""What a policy earns, on episodes that no training has seen, and what can be said about it from several seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

LAST_EVALUATIONS = 10  # of a training, whose mean is reported beside the last policy
HELD_OUT_SEED = 1_000_000  # of the first environment of an evaluation; others take the next numbers


@dataclass(frozen=True)
class Episodes:
    """
    Finished episodes.

    :param returns: undiscounted sums of rewards ``(n,)``
    :param lengths: steps ``(n,)``
    """

    returns: np.ndarray
    lengths: np.ndarray


def evaluate_episodes(model: Any, env: VecEnv, episodes: int, seed: int = HELD_OUT_SEED) -> Episodes:
    """
    Run the deterministic policy.

    :param model: has ``predict``
    :param env: wrapped as in training; with several environments, the episodes are shared out among them
    :param episodes: number of episodes
    :param seed: of the first environment; the others take the next numbers
    """
    env.seed(seed)
    returns, lengths = evaluate_policy(model, env, episodes, return_episode_rewards=True, warn=False)
    return Episodes(np.asarray(returns, np.float64), np.asarray(lengths))


def interquartile_mean(values: Sequence[float] | np.ndarray) -> float:
    """Mean of the middle half (Agarwal et al. 2021); of fewer than four values, of all. NaN if one of them is."""
    return float(interquartile_means(np.asarray(values, np.float64).ravel(), 0))


def interquartile_means(values: np.ndarray, axis: int) -> np.ndarray:
    """``interquartile_mean`` along one axis."""
    n = values.shape[axis]
    means = np.sort(values, axis).take(range(n // 4, n - n // 4), axis).mean(axis)
    return np.where(np.isnan(values).any(axis), np.nan, means)  # which sorting would take for the largest


def bootstrap_interval(values: Sequence[float] | np.ndarray, level: float = 0.95) -> tuple[float, float] | None:
    """
    Percentile bootstrap of the interquartile mean.

    :param values: one for each seed ``(n_seeds,)``; of several tasks ``(n_seeds, n_tasks)``, seeds drawn within tasks
    :param level: of confidence
    :return: lower and upper end; nothing if there is only one seed
    """
    scores = np.asarray(values, np.float64)
    scores = scores[:, None] if scores.ndim == 1 else scores
    n_seeds, n_tasks = scores.shape
    if n_seeds < 2:
        return None
    generator = np.random.default_rng(0)
    rows = generator.integers(n_seeds, size=(10_000, n_seeds, n_tasks))
    resampled = np.take_along_axis(scores[None], rows, 1).reshape(len(rows), -1)
    low, high = np.percentile(interquartile_means(resampled, 1), [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)
