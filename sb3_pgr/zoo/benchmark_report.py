"""Table, picture and CSV of many runs."""

import csv
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from sb3_pgr.common.evaluation import bootstrap_interval, interquartile_mean
from sb3_pgr.common.run_files import SCORES
from sb3_pgr.zoo.plots import read_curve, together


@dataclass
class Result:
    """
    What a finished run has written.

    :param scores: of ``scores.json``
    :param curve: steps and mean returns of its evaluations
    """

    task: str
    arm: str
    seed: int
    scores: dict[str, Any]
    curve: tuple[np.ndarray, np.ndarray] | None


def read_run(task: str, arm: str, seed: int, folder: Path) -> Result:
    """Of its run folder."""
    return Result(task, arm, seed, json.loads((folder / SCORES).read_text()), read_curve(folder))


def write_report(results: list[Result], output: Path) -> None:
    """``table.md`` (printed too), ``runs.csv`` and ``curves.png``."""
    output.mkdir(parents=True, exist_ok=True)
    table = "\n".join(_table(results)) + "\n"
    (output / "table.md").write_text(table)
    print(table)
    _write_csv(results, output / "runs.csv")
    _draw(results, output / "curves.png")


def _groups(results: list[Result]) -> dict[str, dict[str, list[Result]]]:
    groups: dict[str, dict[str, list[Result]]] = {}
    for result in results:
        groups.setdefault(result.task, {}).setdefault(result.arm, []).append(result)
    return groups


def _unit(results: list[Result]) -> str:
    """Of a task's numbers: normalised scores, if all runs have them."""
    evaluated = [result.scores["last"] for result in results if "last" in result.scores]
    return "normalized" if evaluated and all("normalized" in last for last in evaluated) else "return_mean"


def _decimals(results: list[Result], unit: str) -> int:
    """As many as the size of the returns asks for: there are tasks whose returns are rates."""
    shown = [result.scores[name][unit] for result in results for name in ("last", "behaviour") if name in result.scores]
    largest = max((abs(value) for value in shown if math.isfinite(value)), default=0.0)
    return 1 if largest >= 10 else 2 if largest > 1 else 3


def _finite(values: list[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]


def _table(results: list[Result]) -> list[str]:
    """Last policy: interquartile mean over seeds, 95 % bootstrap interval, each seed; beside it what it is compared to."""
    lines = ["| task | algorithm | last policy: IQM [95 %] | seeds | mean of last evaluations | best of evaluations |"]
    lines.append("|---|---|---|---|---|---|")
    names: set[str] = set()
    for task, arms in _groups(results).items():
        everything = [run for runs in arms.values() for run in runs]
        unit = _unit(everything)
        decimals = _decimals(everything, unit)
        behaviour = next((run.scores["behaviour"] for run in everything if "behaviour" in run.scores), None)
        if behaviour is not None:
            lines.append(f"| {task} | *behaviour (mean of the dataset)* | {behaviour[unit]:.{decimals}f} | | | |")
        for arm, runs in arms.items():
            last = [run.scores["last"][unit] for run in runs if "last" in run.scores]
            if not last:
                lines.append(f"| {task} | {arm} | no environment to evaluate in | | | |")
                continue
            text = "not finite"
            if finite := _finite(last):
                interval = bootstrap_interval(finite)
                text = f"{interquartile_mean(finite):.{decimals}f}"
                text += f" [{interval[0]:.{decimals}f}, {interval[1]:.{decimals}f}]" if interval else ""
            if not any(run.scores["updates"] for run in runs):
                names.add(f"{task}, {arm}: nothing was learned, no update was made (learning_starts?)")
            if len(finite) < len(last):
                names.add(f"{task}, {arm}: {len(last) - len(finite)} of {len(last)} returns are not finite and not counted")
            seeds = ", ".join(f"{value:.{decimals}f}" for value in last)
            extra = [
                f"{np.mean([run.scores[name][unit] for run in runs]):.{decimals}f}"
                if all(name in run.scores for run in runs)
                else ""
                for name in ("mean_of_last_evaluations", "best_of_evaluations")
            ]
            lines.append(f"| {task} | {arm} | {text} | {seeds} | {extra[0]} | {extra[1]} |")
            reference = runs[0].scores.get("reference")
            if reference and unit == "normalized":
                names.add(f"{task}: 0 is {reference['low']:g}, 100 is {reference['high']:g} ({reference['name']})")
        datasets = {run.scores["dataset"]["fingerprint"] for run in everything if "dataset" in run.scores}
        if len(datasets) > 1:
            names.add(f"{task}: its runs learned from {len(datasets)} different datasets; the behaviour is that of one")
        if behaviour is not None and not any(run.scores["algo"] == "bc" for runs in arms.values() for run in runs):
            names.add(f"{task}: behaviour cloning is not among the algorithms, so nothing tells learning from imitation")
    episodes = sorted({result.scores["last"]["episodes"] for result in results if "last" in result.scores})
    notes = [
        f"Last policies on {', '.join(map(str, episodes))} held-out episodes; best of evaluations is chosen after the fact."
    ]
    notes += sorted(names)
    return [*lines, "", *(f"- {note}" for note in notes)]


def _write_csv(results: list[Result], path: Path) -> None:
    columns = ["task", "algorithm", "seed", "updates", "return_mean", "return_std", "episodes", "normalized", "reference"]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for result in results:
            scores = result.scores
            last, reference = scores.get("last", {}), scores.get("reference") or {}
            numbers = [last.get(name, "") for name in ("return_mean", "return_std", "episodes", "normalized")]
            writer.writerow([result.task, result.arm, result.seed, scores["updates"], *numbers, reference.get("name", "")])


def _draw(results: list[Result], path: Path) -> None:
    """One panel a task; line: mean over seeds; band: lowest to highest."""
    groups = _groups(results)
    columns = min(len(groups), 3)
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(5 * columns, 3.6 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    colors = {arm: f"C{number}" for number, arm in enumerate(dict.fromkeys(result.arm for result in results))}
    for axis, (task, arms) in zip(axes, groups.items()):
        for arm, runs in arms.items():
            curves = [run.curve for run in runs if run.curve is not None]
            if not curves:
                continue
            steps, returns = together(curves)
            axis.plot(steps, returns.mean(0), color=colors[arm], label=f"{arm} ({len(curves)})")
            axis.fill_between(steps, returns.min(0), returns.max(0), color=colors[arm], alpha=0.15, linewidth=0)
        behaviour = next(
            (run.scores["behaviour"] for runs in arms.values() for run in runs if "behaviour" in run.scores), None
        )
        if behaviour is not None:
            axis.axhline(behaviour["return_mean"], color="0.4", linestyle="--", label="behaviour")
        offline = any("dataset" in run.scores for runs in arms.values() for run in runs)
        axis.set(title=task, xlabel="gradient steps" if offline else "environment steps", ylabel="evaluation return")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(edgecolor="none", framealpha=0.7, fontsize=8)
    for axis in axes[len(groups) :]:
        axis.set_visible(False)
    figure.savefig(path, dpi=130)
