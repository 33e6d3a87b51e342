"""The tables of the page as CSV files, and those that go into a paper as LaTeX."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sb3_pgr.report.comparison import Comparison
from sb3_pgr.report.curves import Bands
from sb3_pgr.report.run import Run
from sb3_pgr.report.summary import Estimate, Row

CURVE_COLUMNS = ["task", "algorithm", "against", "x", "iqm", "iqm_low", "iqm_high"]
CURVE_COLUMNS += ["mean", "mean_low", "mean_high", "lowest", "highest", "runs"]


def write_tables(
    rows: list[Row], runs: list[Run], steps: Bands, seconds: Bands, comparison: Comparison | str, folder: Path
) -> list[str]:
    """
    Write them all.

    :return: names of the files
    """
    tables = {"results": _results(rows), "runs": _runs(runs), "incomplete": _incomplete(runs)}
    latex = {"results": _results_in_words(rows)}
    if steps or seconds:
        points = _curves(steps, "timesteps") + _curves(seconds, "seconds")
        tables["learning_curves"] = pd.DataFrame(points, columns=CURVE_COLUMNS)
    if isinstance(comparison, Comparison):
        latex["probability_of_improvement"] = tables["probability_of_improvement"] = _improvements(comparison)
        tables["performance_profile"] = _profile(comparison)
    for name, frame in tables.items():
        frame.to_csv(folder / f"{name}.csv", index=False)
    for name, frame in latex.items():
        frame.to_latex(folder / f"{name}.tex", index=False, escape=True, float_format="%.2f")
    return [*(f"{name}.csv" for name in tables), *(f"{name}.tex" for name in latex)]


def _results(rows: list[Row]) -> pd.DataFrame:
    records = []
    for row in rows:
        record: dict[str, Any] = {"task": row.task.name, "algorithm": row.group.arm}
        record |= {"runs": len(row.group.runs), "counted": len(row.group.counted), "unfinished": row.group.unfinished}
        record["last_policy_from"] = "held-out episodes" if row.task.held_out else "last evaluation during training"
        for name, estimate in (("last", row.last), ("mean_of_last_evaluations", row.late), ("best_of_evaluations", row.best)):
            record |= _columns(name, estimate)
            if row.task.reference is not None and estimate is not None:
                record |= _columns(f"{name}_normalised", estimate.mapped(row.task.reference.normalize))
        record["last_seeds"] = "" if row.last is None else " ".join(map(str, row.last.seeds))
        record["last_values"] = "" if row.last is None else " ".join(f"{value:.6g}" for value in row.last.values)
        record["behaviour"] = row.task.behaviour
        record["reference"] = None if row.task.reference is None else row.task.reference.name
        records.append(record)
    return pd.DataFrame(records)


def _columns(name: str, estimate: Estimate | None) -> dict[str, Any]:
    interval = None if estimate is None else estimate.interval
    return {
        f"{name}_iqm": None if estimate is None else estimate.iqm,
        f"{name}_low": None if interval is None else interval[0],
        f"{name}_high": None if interval is None else interval[1],
    }


def _results_in_words(rows: list[Row]) -> pd.DataFrame:
    """In normalised scores where there are references."""
    records = []
    for row in rows:
        record = {"Task": row.task.name, "Algorithm": row.group.arm}
        names = {"Last policy": row.last, "Mean of last evaluations": row.late, "Best of evaluations": row.best}
        for name, estimate in names.items():
            decimals = row.task.decimals
            if estimate is not None and row.task.reference is not None:
                estimate, decimals = estimate.mapped(row.task.reference.normalize), 1
            record[f"{name}: IQM [95 %]"] = _in_words(estimate, decimals)
        record["Unit"] = "return" if row.task.reference is None else "normalised score"
        record["Runs"] = str(len(row.group.counted))
        records.append(record)
    return pd.DataFrame(records)


def _in_words(estimate: Estimate | None, decimals: int) -> str:
    if estimate is None:
        return "-"
    ends = "" if estimate.interval is None else " [{:,.{d}f}, {:,.{d}f}]".format(*estimate.interval, d=decimals)
    return f"{estimate.iqm:,.{decimals}f}{ends}"


def _runs(runs: list[Run]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "task": run.task,
            "algorithm": run.arm,
            "seed": run.seed,
            "folder": run.folder,
            "finished": run.finished,
            "reached": run.reached,
            "wanted": run.wanted,
            "last_policy": run.scores.last,
            "last_evaluation": None if run.curve is None else run.curve.returns[-1],
            "best_of_evaluations": None if run.curve is None else run.curve.returns.max(),
            "seconds": None if run.curve is None or run.curve.seconds is None else run.curve.seconds[-1],
        }
        for run in runs
    )


def _incomplete(runs: list[Run]) -> pd.DataFrame:
    records = [(run.task, run.arm, run.seed, run.folder, problem) for run in runs for problem in run.problems + run.remarks]
    return pd.DataFrame(records, columns=["task", "algorithm", "seed", "folder", "problem"])


def _curves(bands: Bands, unit: str) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = []
    for (task, arm), band in bands.items():
        nothing = np.full((2, len(band.x)), np.nan)
        iqm, mean = (nothing if ends is None else ends for ends in (band.iqm_interval, band.mean_interval))
        columns = (band.x, band.iqm, *iqm, band.mean, *mean, *band.extremes)
        rows += [(task, arm, unit, *numbers, band.n_runs) for numbers in zip(*columns)]
    return rows


def _improvements(comparison: Comparison) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "better": pair.better,
            "worse": pair.worse,
            "probability": pair.probability,
            "low": pair.low,
            "high": pair.high,
        }
        for pair in comparison.improvements
    )


def _profile(comparison: Comparison) -> pd.DataFrame:
    frames = [
        pd.DataFrame(
            {
                "algorithm": arm,
                "score": comparison.thresholds,
                "share_above": profile,
                "low": comparison.intervals[arm][0],
                "high": comparison.intervals[arm][1],
            }
        )
        for arm, profile in comparison.profiles.items()
    ]
    return pd.concat(frames)
