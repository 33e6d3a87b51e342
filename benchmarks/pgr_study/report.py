"""Tables and pictures of a study, from the results that there are."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from provenance import RESULTS, provenance

from sb3_pgr.common.evaluation import bootstrap_interval, interquartile_mean, interquartile_means

Rows = list[dict[str, float]]
MEASURES = {
    "bias": "values above what is earned",
    "dormant_critics": "dormant units, critics",
    "dormant_actor": "dormant units, actor",
    "pgr/relevance_generated": "relevance, generated rows",
    "pgr/dynamics_error": "dynamics error, generated rows",
}
MOST_CURVES = 8
MOST_WIDE = 2  # tasks side by side in a table
PANELS_PER_LINE = 3


def result_file(study: dict[str, Any], task: str, arm: str, seed: int) -> Path:
    return RESULTS / "pgr_study" / study["name"] / task.replace("/", "-") / f"{arm}_seed{seed}.csv"


def read(path: Path) -> Rows:
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def write(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(path.with_suffix(".tmp"), "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=names, restval="nan")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(path.with_suffix(".tmp"), path)


def finished(study: dict[str, Any], task: str, arm: str, seed: int) -> bool:
    path = result_file(study, task, arm, seed)
    return path.exists() and read(path)[-1]["timesteps"] >= study["n_timesteps"]


def report(study: dict[str, Any]) -> None:
    """Write ``report.json`` and pictures beside the results; print the table."""
    import matplotlib

    matplotlib.use("Agg")

    found: dict[str, dict[str, list[Rows]]] = {}
    for task in study["tasks"]:
        for arm in study["arms"]:
            curves = [read(result_file(study, task, arm, seed)) for seed in study["seeds"] if finished(study, task, arm, seed)]
            if curves:
                found.setdefault(task, {})[arm] = curves
    table = {task: {arm: _summary(curves) for arm, curves in arms.items()} for task, arms in found.items()}
    folder = RESULTS / "pgr_study" / study["name"]
    folder.mkdir(parents=True, exist_ok=True)
    shown = {task: {arm: arms[arm] for arm in study.get("curves", arms) if arm in arms} for task, arms in found.items()}
    if len(study.get("curves", study["arms"])) <= MOST_CURVES:
        _draw_curves(shown, {"return_mean": "evaluation return"}, folder / "curves.png")
        learned = {task: {arm: _measured(curves) for arm, curves in arms.items()} for task, arms in shown.items()}
        measured = {name for arms in learned.values() for curves in arms.values() for curve in curves for name in curve[-1]}
        measures = {name: label for name, label in MEASURES.items() if name in measured}
        if measures:
            _draw_curves(learned, measures, folder / "why.png")
    if len(study["arms"]) > MOST_CURVES:
        _draw_arms(table, next(iter(study["arms"])), folder / "arms.png")
    result = {"provenance": provenance(study["seeds"]), "study": study, "results": table}
    if "scales" in study:
        result["aggregate"] = _aggregate(table, study["scales"])
    (folder / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    text = _by_task(table) if len(study["tasks"]) > MOST_WIDE else _markdown(table, study["arms"])
    (folder / "table.md").write_text(text)
    print(text)
    for arm, row in result.get("aggregate", {}).items():
        print(f"{arm:26} {row['iqm']:8.3f}  {row['interval_95']}  over {len(table)} tasks, {row['seeds']} seeds")
        if "first_ahead" in row:
            print(f"{'':26} the first is ahead by {row['first_ahead']['iqm']:.3f}  {row['first_ahead']['interval_95']}")


def _markdown(table: dict[str, dict[str, Any]], arms: dict[str, dict[str, Any]]) -> str:
    """A row for each arm: what it changes; mean of the last returns and each; mean of the curve; minutes of one core."""
    tasks = "".join(f" `{task}` | its curve |" for task in table)
    lines = [f"| arm | changes |{tasks} minutes |", "|---" * (2 * len(table) + 3) + "|"]
    for arm, changes in arms.items():
        rows = [of_task.get(arm) for of_task in table.values()]
        if not any(rows):
            continue
        cells = [arm, f"`{yaml.safe_dump(changes, default_flow_style=True, width=1_000).strip()}`" if changes else ""]
        for row in rows:
            cells += [_returns(row), f"{row['area_under_curve']:.0f}"] if row else ["", ""]
        cells.append(", ".join(f"{row['cpu_minutes']:.0f}" for row in rows if row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _by_task(table: dict[str, dict[str, Any]]) -> str:
    """A row for each task, and in it of each arm with runs: mean of the last returns and each; last, minutes of one core."""
    arms = list(dict.fromkeys(arm for of_task in table.values() for arm in of_task))
    lines = ["| task |" + "".join(f" {arm} |" for arm in arms), "|---" * (len(arms) + 1) + "|"]
    for task, of_task in table.items():
        cells = [_returns(of_task[arm]) if arm in of_task else "" for arm in arms]
        lines.append("| " + " | ".join([f"`{task}`", *cells]) + " |")
    minutes = [[of_task[arm]["cpu_minutes"] for of_task in table.values() if arm in of_task] for arm in arms]
    cells = [" to ".join(dict.fromkeys(f"{end:.0f}" for end in (min(of_arm), max(of_arm)))) for of_arm in minutes]
    lines.append("| " + " | ".join(["minutes a run", *cells]) + " |")
    return "\n".join(lines) + "\n"


def _returns(row: dict[str, Any]) -> str:
    seeds = [f"{value:.0f}" for value in row["final_return_per_seed"]]
    return f"{row['mean']:.0f}" + (f" ({', '.join(seeds)})" if len(seeds) > 1 else "")


def _aggregate(table: dict[str, dict[str, Any]], scales: dict[str, float]) -> dict[str, Any]:
    """
    Interquartile mean over tasks and seeds of the last return over its task's scale, of arms that have runs of all tasks.

    Of an arm with more seeds on one task than on another the first ones count. ``first_ahead`` is how much higher the first
    arm's is, with the bootstrap interval of the difference.
    """
    found: dict[str, Any] = {}
    of_first = None
    for arm in next(iter(table.values()), {}):
        if not all(arm in table.get(task, {}) for task in scales):
            continue
        returns = [table[task][arm]["final_return_per_seed"] for task in scales]
        seeds = min(map(len, returns))
        scores = np.array([row[:seeds] for row in returns]).T / np.array(list(scales.values()))
        interval = bootstrap_interval(scores)
        found[arm] = {
            "iqm": round(interquartile_mean(scores), 4),
            "interval_95": interval and [round(end, 4) for end in interval],
            "seeds": seeds,
        }
        if of_first is None:
            of_first = scores
        else:
            found[arm]["first_ahead"] = _ahead(of_first, scores)
    return found


def _ahead(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Difference of interquartile means of ``(n_seeds, n_tasks)``; seeds are drawn within tasks, for each by itself."""
    random, means = np.random.default_rng(0), []
    for scores in (first, second):
        rows = random.integers(len(scores), size=(10_000, *scores.shape))
        means.append(interquartile_means(np.take_along_axis(scores[None], rows, 1).reshape(len(rows), -1), 1))
    return {
        "iqm": round(interquartile_mean(first) - interquartile_mean(second), 4),
        "interval_95": np.percentile(means[0] - means[1], [2.5, 97.5]).round(4).tolist(),
    }


def _summary(curves: list[Rows]) -> dict[str, Any]:
    returns = np.array([[row["return_mean"] for row in curve] for curve in curves])
    last = returns[:, -1]
    resampled = np.random.default_rng(0).choice(last, (10_000, len(last))).mean(1)
    return {
        "final_return_per_seed": last.round(2).tolist(),
        "mean": round(float(last.mean()), 1),
        "interval_95": np.percentile(resampled, [2.5, 97.5]).round(1).tolist(),
        "area_under_curve": round(float(returns.mean()), 1),
        "cpu_minutes": round(float(np.mean([curve[-1]["cpu_seconds"] for curve in curves])) / 60, 1),
    }


def _measured(curves: list[Rows]) -> list[Rows]:
    """From the second evaluation on (before the first nothing is learned), with ``bias`` as a difference."""
    return [
        [row | {"bias": row["q_bias"] * row["mc_return"]} if "q_bias" in row else row for row in curve[1:]] for curve in curves
    ]


def _draw_curves(found: dict[str, dict[str, list[Rows]]], columns: dict[str, str], path: Path) -> None:
    """A panel for each task, a curve for each arm; a row of panels for each column of the results, several if it is one."""
    import matplotlib.pyplot as plt

    colors = {arm: f"C{number}" for number, arm in enumerate(dict.fromkeys(arm for arms in found.values() for arm in arms))}
    per_line = min(len(found), PANELS_PER_LINE) if len(columns) == 1 else len(found)
    panels = [(column, task) for column in columns for task in found]
    lines = -(-len(panels) // per_line)
    width = 5.5 if per_line <= PANELS_PER_LINE else 3.6
    size = (width * per_line, 4 * lines if len(columns) == 1 else 2.6 * lines)
    figure, axes = plt.subplots(lines, per_line, figsize=size, squeeze=False, sharex="col" if len(columns) > 1 else False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for number, (axis, (column, task)) in enumerate(zip(axes.flat, panels, strict=False)):
        for arm, curves in found[task].items():
            values = np.array([[row.get(column, np.nan) for row in curve] for curve in curves])
            known = ~np.isnan(values).any(0)
            if not known.any():
                continue
            steps = np.array([row["timesteps"] for row in curves[0]])[known]
            axis.plot(steps, values[:, known].mean(0), color=colors[arm])
            axis.fill_between(
                steps, values[:, known].min(0), values[:, known].max(0), color=colors[arm], alpha=0.15, linewidth=0
            )
        axis.set_ylabel(columns[column])
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if not axis.lines:
            axis.set_yticks([])
            axis.text(0.5, 0.5, "not measured here", transform=axis.transAxes, ha="center", color="#777777")
        if len(columns) == 1 or number < per_line:
            axis.set_title(task)
        if len(columns) == 1 or number >= len(panels) - per_line:
            axis.set_xlabel("environment steps")
    handles = [plt.Line2D([], [], color=color, label=f"{arm} ({_seeds(found, arm)})") for arm, color in colors.items()]
    figure.legend(handles=handles, frameon=False, loc="upper center", ncols=4, fontsize=8)
    figure.tight_layout(rect=(0, 0.12 / size[1], 1, 1 - 0.2 * -(-len(handles) // 4) / size[1]))
    figure.text(0.01, 0.04 / size[1], "mean over seeds (their number in brackets); band: lowest to highest", fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _seeds(found: dict[str, dict[str, list[Rows]]], arm: str) -> str:
    """``3``, or ``1 to 3`` if tasks differ."""
    numbers = sorted({len(arms[arm]) for arms in found.values() if arm in arms})
    return f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else str(numbers[0])


def _draw_arms(table: dict[str, dict[str, Any]], default: str, path: Path) -> None:
    """The last return of every seed of every arm, in the order of their means; the line is the default's."""
    import matplotlib.pyplot as plt

    most = max(len(arms) for arms in table.values())
    figure, axes = plt.subplots(1, len(table), figsize=(5.5 * len(table), 1 + 0.25 * most), squeeze=False)
    for axis, (task, arms) in zip(axes[0], table.items(), strict=True):
        names = sorted(arms, key=lambda arm: arms[arm]["mean"])
        for height, arm in enumerate(names):
            seeds = arms[arm]["final_return_per_seed"]
            axis.plot(seeds, [height] * len(seeds), "o", color="C0", markersize=4, alpha=0.6)
            axis.plot(arms[arm]["mean"], height, "|", color="C0", markersize=12, markeredgewidth=2)
        if default in arms:
            axis.axvline(arms[default]["mean"], color="#999999", linewidth=0.8, zorder=0)
        axis.set(title=task, xlabel="return of the last policy", yticks=range(len(names)), yticklabels=names)
        axis.grid(alpha=0.3, axis="x")
        axis.spines[["top", "right"]].set_visible(False)
    figure.text(0.01, 0.005, f"dots: seeds; bars: their mean; line: {default}", fontsize=7)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
