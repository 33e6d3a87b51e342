"""Numbers of each algorithm on each task."""

from collections.abc import Callable
from dataclasses import dataclass

from sb3_pgr.common.evaluation import LAST_EVALUATIONS, bootstrap_interval, interquartile_mean
from sb3_pgr.report.run import Run
from sb3_pgr.report.tasks import Group, Task


@dataclass(frozen=True)
class Estimate:
    """
    What several seeds say.

    :param seeds: in the order of the values
    :param values: one return a run
    :param iqm: interquartile mean of the values
    :param interval: 95 % bootstrap interval of it; none of a single run
    :param episodes: that each value is a mean of; none if they differ
    """

    seeds: tuple[int | None, ...]
    values: tuple[float, ...]
    iqm: float
    interval: tuple[float, float] | None
    episodes: int | None

    def mapped(self, change: Callable[[float], float]) -> "Estimate":
        """In other units; the map must be linear and rise."""
        interval = None if self.interval is None else (change(self.interval[0]), change(self.interval[1]))
        return Estimate(self.seeds, tuple(map(change, self.values)), change(self.iqm), interval, self.episodes)


@dataclass(frozen=True)
class Row:
    """
    :param last: of the last policies
    :param late: of the mean of the last ``LAST_EVALUATIONS`` evaluations
    :param best: of the best evaluation of each run, chosen after the fact
    """

    task: Task
    group: Group
    last: Estimate | None
    late: Estimate | None
    best: Estimate | None


def summarise(task: Task) -> list[Row]:
    """One row an algorithm, highest interquartile mean of the last policies first."""
    rows = [
        Row(task, group, last_policies(task, group), _estimate(group.counted, _late), _estimate(group.counted, _best))
        for group in task.groups.values()
    ]
    return sorted(rows, key=lambda row: -float("inf") if row.last is None else row.last.iqm, reverse=True)


def last_policies(task: Task, group: Group) -> Estimate | None:
    """On held-out episodes if all runs of the task have such scores, otherwise at the last evaluation during training."""
    return _estimate(group.counted, _held_out if task.held_out else _last_evaluation)


def _estimate(runs: list[Run], measure: Callable[[Run], tuple[float, int] | None]) -> Estimate | None:
    measured = [(run.seed, *found) for run in runs if (found := measure(run)) is not None]
    if not measured:
        return None
    seeds, values, episodes = zip(*measured)
    one = episodes[0] if len(set(episodes)) == 1 else None
    return Estimate(seeds, values, interquartile_mean(values), bootstrap_interval(values), one)


def _held_out(run: Run) -> tuple[float, int] | None:
    return None if run.scores.last is None else (run.scores.last, run.scores.last_episodes or 0)


def _last_evaluation(run: Run) -> tuple[float, int] | None:
    return None if run.curve is None else (float(run.curve.returns[-1]), run.curve.episodes)


def _late(run: Run) -> tuple[float, int] | None:
    if run.curve is None:
        return None
    late = run.curve.returns[-LAST_EVALUATIONS:]
    return float(late.mean()), len(late) * run.curve.episodes


def _best(run: Run) -> tuple[float, int] | None:
    return None if run.curve is None else (float(run.curve.returns.max()), run.curve.episodes)
