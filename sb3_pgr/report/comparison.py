"""Algorithms compared over all tasks at once, with rliable (Agarwal et al. 2021)."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from rliable import library, metrics

from sb3_pgr.report.summary import Row

RESAMPLES, THRESHOLDS = 2_000, 101
MANY = 500  # sets of tasks, beyond which no smaller ones are tried
MIN_MAX = "min-max"


@dataclass(frozen=True)
class Improvement:
    """How likely a run of ``better`` scores higher than one of ``worse``, over tasks on average, with a 95 % interval."""

    better: str
    worse: str
    probability: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """
    Over the same tasks and seeds.

    :param arms: algorithms compared
    :param tasks: each with what 0 and 100 are
    :param seeds: that every arm has on every task
    :param thresholds: scores ``(n,)``
    :param profiles: share of runs above each threshold, by arm ``(n,)``
    :param intervals: of the profiles, by arm ``(2, n)``
    :param improvements: of every pair of arms
    :param scale: ``"reference"``, ``"min-max"`` or ``"mixed"``
    :param left_out: arms, tasks and seeds that not all have
    """

    arms: tuple[str, ...]
    tasks: dict[str, str]
    seeds: tuple[int, ...]
    thresholds: np.ndarray
    profiles: dict[str, np.ndarray]
    intervals: dict[str, np.ndarray]
    improvements: list[Improvement]
    scale: str
    left_out: list[str]


def compare(rows: list[Row]) -> Comparison | str:
    """Of the last policies; in words why not, where nothing can be compared."""
    table = _table(rows)
    arms, tasks = _largest_block(table)
    if len(arms) < 2:
        return (
            "Nothing is compared over tasks: that takes at least two algorithms on the same task, "
            "each with finished runs of the same seeds, at least two."
        )
    seeds = sorted(_shared_seeds(table, arms, tasks))
    scores, scales = _normalised(table, arms, tasks, seeds, rows)
    known = [not scale.startswith(MIN_MAX) for scale in scales.values()]
    thresholds = np.linspace(
        min(0.0, *(values.min() for values in scores.values())),
        max(100.0, *(values.max() for values in scores.values())),
        THRESHOLDS,
    )
    profiles, intervals = _profiles(scores, thresholds)
    return Comparison(
        arms=tuple(arms),
        tasks=scales,
        seeds=tuple(seeds),
        thresholds=thresholds,
        profiles=profiles,
        intervals=intervals,
        improvements=_improvements(scores),
        scale="reference" if all(known) else "mixed" if any(known) else MIN_MAX,
        left_out=_left_out(rows, table, arms, tasks, seeds),
    )


Table = dict[str, dict[str, dict[int, float]]]  # arm, task, seed


def _table(rows: list[Row]) -> Table:
    """Last policies of runs that finished and whose seed is known, where there are at least two."""
    table: Table = {}
    for row in rows:
        if row.last is None or row.group.unfinished:
            continue
        values = {seed: value for seed, value in zip(row.last.seeds, row.last.values) if seed is not None}
        if len(values) > 1:
            table.setdefault(row.group.arm, {})[row.task.name] = values
    return {arm: table[arm] for arm in sorted(table)}


def _largest_block(table: Table) -> tuple[list[str], list[str]]:
    """The arms and tasks with most cells, of which every arm has every task with the same seeds, at least two."""
    arms: list[str] = []
    tasks: list[str] = []
    shared = {frozenset(table[one].keys() & table[other].keys()) for one, other in combinations(table, 2)}
    while len(shared) < MANY and (wider := {one & other for one, other in combinations(shared, 2)} - shared):
        shared |= wider
    for candidate in sorted(map(sorted, shared)):
        having = [arm for arm in table if set(candidate) <= table[arm].keys()]
        while candidate and len(having) > 1 and len(_shared_seeds(table, having, candidate)) < 2:
            smaller = ([other for other in having if other != arm] for arm in reversed(having))
            having = max(smaller, key=lambda arms: len(_shared_seeds(table, arms, candidate)))
        if candidate and len(having) > 1 and len(having) * len(candidate) > len(arms) * len(tasks):
            arms, tasks = having, candidate
    return arms, tasks


def _shared_seeds(table: Table, arms: list[str], tasks: list[str]) -> set[int]:
    return set.intersection(*(set(table[arm][task]) for arm in arms for task in tasks))


def _normalised(
    table: Table, arms: list[str], tasks: list[str], seeds: list[int], rows: list[Row]
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """
    By the references of a task, or else by its lowest and highest run.

    :return: scores by arm ``(n_seeds, n_tasks)``, and by task what 0 and 100 are
    """
    scores = {arm: np.array([[table[arm][task][seed] for task in tasks] for seed in seeds], np.float64) for arm in arms}
    references = {row.task.name: row.task.reference for row in rows}
    scales = {}
    for number, task in enumerate(tasks):
        reference = references[task]
        if reference is not None:
            low, high = reference.low, reference.high
            scales[task] = f"0 is {low:g}, 100 is {high:g}: {reference.name}"
        else:
            everything = np.concatenate([values[:, number] for values in scores.values()])
            low, high = float(everything.min()), float(everything.max())
            scales[task] = f"{MIN_MAX}: 0 is {low:.6g} and 100 is {high:.6g}, the lowest and the highest of these runs"
        for values in scores.values():
            values[:, number] = 100 * (values[:, number] - low) / ((high - low) or 1.0)
    return scores, scales


def _left_out(rows: list[Row], table: Table, arms: list[str], tasks: list[str], seeds: list[int]) -> list[str]:
    others = {row.group.arm for row in rows} - set(arms)
    result = [f"{arm}: no two finished runs of these seeds on each of these tasks" for arm in sorted(others)]
    others = {row.task.name for row in rows} - set(tasks)
    result += [f"{task}: no two finished runs of each of these algorithms" for task in sorted(others)]
    further = {seed for arm in arms for task in tasks for seed in table[arm][task]} - set(seeds)
    result += [f"seed {seed}: not of all algorithms on all tasks" for seed in sorted(further)]
    repeated = []
    for row in (row for row in rows if row.group.arm in arms and row.task.name in tasks):
        for seed, times in Counter(row.last.seeds if row.last is not None else ()).items():
            if seed is None:
                repeated.append(f"{row.group.arm} on {row.task.name}: {times} runs of unknown seed")
            elif times > 1 and seed in seeds:
                repeated.append(f"{row.group.arm} on {row.task.name}: all but the last of {times} runs of seed {seed}")
    return result + sorted(repeated)


def _profiles(scores: dict[str, np.ndarray], thresholds: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    with _own_randomness():
        return library.create_performance_profile(scores, thresholds, custom_profile_func=_share_above, reps=RESAMPLES)


def _share_above(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """rliable's ``score_distributions``, without its loop over thresholds."""
    ordered = np.sort(scores, axis=None)
    return 1 - np.searchsorted(ordered, thresholds, side="right") / len(ordered)


def _improvements(scores: dict[str, np.ndarray]) -> list[Improvement]:
    ranked = sorted(scores, key=lambda arm: float(scores[arm].mean()), reverse=True)
    pairs = {(better, worse): (scores[better], scores[worse]) for better, worse in combinations(ranked, 2)}
    with _own_randomness():
        _, intervals = library.get_interval_estimates(
            {pair: list(values) for pair, values in pairs.items()},
            lambda x, y: np.array([_probability(x, y)]),
            reps=RESAMPLES,
        )
    result = []
    for (better, worse), values in pairs.items():
        low, high = (float(end) for end in intervals[better, worse].ravel())
        probability = float(metrics.probability_of_improvement(*values))
        if probability < 0.5:
            better, worse, probability, low, high = worse, better, 1 - probability, 1 - high, 1 - low
        result.append(Improvement(better, worse, probability, low, high))
    return result


def _probability(x: np.ndarray, y: np.ndarray) -> float:
    """``metrics.probability_of_improvement`` without its hypothesis tests, which cost a hundred times as much."""
    higher = x[:, None] > y[None]
    return float(higher.mean() + 0.5 * (x[:, None] == y[None]).mean())


@contextmanager
def _own_randomness() -> Iterator[None]:
    """rliable draws from numpy's global generator: the same intervals each time, and nobody else's numbers changed."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)
