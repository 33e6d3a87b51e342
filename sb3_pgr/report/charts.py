"""Numbers that the page's charts are drawn from."""

from typing import Any

import numpy as np

from sb3_pgr.report.comparison import Comparison
from sb3_pgr.report.curves import Band, Bands, thinned
from sb3_pgr.report.run import Run
from sb3_pgr.report.style import arm_styles, time_unit
from sb3_pgr.report.tasks import Group, Task


def chart_data(tasks: list[Task], steps: Bands, seconds: Bands, comparison: Comparison | str) -> dict[str, Any]:
    """What ``report.js`` reads; times are in the unit of ``time.name``."""
    arms = sorted({arm for task in tasks for arm in task.groups})
    styles = arm_styles(arms)
    times = [run.curve.seconds[-1] for task in tasks for run in task.runs if run.curve and run.curve.seconds is not None]
    unit, divisor = time_unit(max(times, default=0.0))
    return {
        "time": {"name": unit},
        "arms": [{"name": arm, "colour": styles[arm][0], "dash": styles[arm][1]} for arm in arms],
        "tasks": [
            {
                "name": task.name,
                "unit": task.unit,
                "behaviour": task.behaviour,
                "reference": None if task.reference is None else [task.reference.low, task.reference.high],
                "groups": [
                    _group(group, steps.get((task.name, arm)), seconds.get((task.name, arm)), divisor)
                    for arm, group in task.groups.items()
                ],
            }
            for task in tasks
        ],
        "profile": _profile(comparison) if isinstance(comparison, Comparison) else None,
    }


def _group(group: Group, steps: Band | None, seconds: Band | None, divisor: float) -> dict[str, Any]:
    return {
        "arm": group.arm,
        "unfinished": group.unfinished,
        "steps": None if steps is None else _band(steps, 1.0),
        "time": None if seconds is None else _band(seconds, divisor),
        "runs": [_run(run, run in group.counted, divisor) for run in group.runs if run.curve is not None],
    }


def _band(band: Band, divisor: float) -> dict[str, Any]:
    return {
        "x": _short(band.x / divisor),
        "iqm": _short(band.iqm),
        "mean": _short(band.mean),
        "iqm_interval": None if band.iqm_interval is None else [_short(end) for end in band.iqm_interval],
        "mean_interval": None if band.mean_interval is None else [_short(end) for end in band.mean_interval],
        "range": [_short(end) for end in band.extremes],
        "n_runs": band.n_runs,
    }


def _run(run: Run, counted: bool, divisor: float) -> dict[str, Any]:
    assert run.curve is not None
    shown = thinned(len(run.curve.steps))
    seconds = run.curve.seconds
    return {
        "seed": run.seed,
        "finished": run.finished,
        "counted": counted,
        "steps": _short(run.curve.steps[shown]),
        "time": None if seconds is None else _short(seconds[shown] / divisor),
        "returns": _short(run.curve.returns[shown]),
    }


def _profile(comparison: Comparison) -> dict[str, Any]:
    return {
        "scale": comparison.scale,
        "x": _short(comparison.thresholds),
        "arms": [
            {"arm": arm, "y": _short(profile), "interval": [_short(end) for end in comparison.intervals[arm]]}
            for arm, profile in comparison.profiles.items()
        ],
    }


def _short(values: np.ndarray) -> list[float]:
    """Seven digits: more than a picture shows, fewer than a file holds; whole timesteps stay whole."""
    if np.issubdtype(values.dtype, np.integer) or (values == np.round(values)).all():
        return [int(value) for value in values]
    return [float(f"{value:.7g}") for value in values]
