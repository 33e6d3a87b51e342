"""Learning curves over seeds, against timesteps and against wall-clock time."""

from dataclasses import dataclass

import numpy as np

from sb3_pgr.common.evaluation import interquartile_means
from sb3_pgr.report.run import Curve
from sb3_pgr.report.tasks import Group

MOST_POINTS = 200  # of a line; longer ones are thinned for the page
RESAMPLES = 1_000  # of the bootstrap at each point


@dataclass(frozen=True)
class Band:
    """
    What several seeds say at each of ``n`` points; intervals are bootstrap intervals of 95 %.

    :param x: timesteps or seconds ``(n,)``
    :param iqm: interquartile mean ``(n,)``
    :param iqm_interval: lower and upper ends ``(2, n)``; none of a single run
    :param mean: ``(n,)``
    :param mean_interval: as ``iqm_interval``
    :param extremes: lowest and highest run ``(2, n)``
    :param n_runs: runs it is made of
    """

    x: np.ndarray
    iqm: np.ndarray
    iqm_interval: np.ndarray | None
    mean: np.ndarray
    mean_interval: np.ndarray | None
    extremes: np.ndarray
    n_runs: int


Bands = dict[tuple[str, str], Band]  # by task and arm


def over_steps(group: Group) -> Band | None:
    """From where all counted runs have begun to where the first of them ends; none if no run has evaluations."""
    return _band([(curve.steps, curve.returns) for curve in _curves(group)])


def over_seconds(group: Group) -> Band | None:
    """As ``over_steps``, of the runs whose wall-clock time is known: returns after as many seconds of training."""
    return _band([(curve.seconds, curve.returns) for curve in _curves(group) if curve.seconds is not None])


def thinned(n: int) -> np.ndarray:
    """Which of ``n`` points the page shows; the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).round().astype(int))


def _curves(group: Group) -> list[Curve]:
    return [run.curve for run in group.counted if run.curve is not None]


def _band(curves: list[tuple[np.ndarray, np.ndarray]]) -> Band | None:
    if not curves:
        return None
    grid = _common_points([x for x, _ in curves])
    if not len(grid):
        return None
    values = np.array([np.interp(grid, x, y) for x, y in curves])
    n_runs = len(values)
    iqm_interval = mean_interval = None
    if n_runs > 1:
        rows = np.random.default_rng(0).integers(n_runs, size=(RESAMPLES, n_runs))
        resampled = values[rows]
        iqm_interval = np.percentile(interquartile_means(resampled, 1), [2.5, 97.5], axis=0)
        mean_interval = np.percentile(resampled.mean(1), [2.5, 97.5], axis=0)
    extremes = np.array([values.min(0), values.max(0)])
    return Band(grid, interquartile_means(values, 0), iqm_interval, values.mean(0), mean_interval, extremes, n_runs)


def _common_points(xs: list[np.ndarray]) -> np.ndarray:
    """Where the runs were evaluated if they agree, otherwise as many points evenly over what they share."""
    first, last = max(x[0] for x in xs), min(x[-1] for x in xs)
    shared = xs[0][(xs[0] >= first) & (xs[0] <= last)]
    length = len(shared)
    if length and all(np.array_equal(shared, x[:length]) for x in xs):
        return shared[thinned(length)]
    if last <= first:
        return np.array([first] if last == first else [])
    return np.linspace(first, last, min(max(max(map(len, xs)), 2), MOST_POINTS))
