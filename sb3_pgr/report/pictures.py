"""The charts of the page as PNG and SVG files."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sb3_pgr.report.comparison import Comparison
from sb3_pgr.report.curves import Bands
from sb3_pgr.report.style import DASHES, arm_styles, time_unit
from sb3_pgr.report.summary import Row
from sb3_pgr.report.tasks import Task

_COLUMNS, FEW_POINTS = 3, 25  # as many as the page marks too


def write_pictures(
    tasks: list[Task],
    rows: list[Row],
    steps: Bands,
    seconds: Bands,
    comparison: Comparison | str,
    folder: Path,
) -> list[str]:
    """
    Write them all.

    :return: names without their endings
    """
    styles = arm_styles(sorted({row.group.arm for row in rows}))
    figures = {}
    if steps:
        figures["learning_curves_steps"] = _curves(tasks, steps, styles, None)
    if seconds:
        figures["learning_curves_wall_clock"] = _curves(tasks, seconds, styles, _unit(seconds))
    if any(row.last is not None for row in rows):
        figures["last_policies"] = _last_policies(tasks, rows, styles)
    if isinstance(comparison, Comparison):
        figures["performance_profile"] = _profile(comparison, styles)
        figures["probability_of_improvement"] = _improvement(comparison)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=130)
        figure.savefig(folder / f"{name}.svg")
    return list(figures)


def _unit(bands: Bands) -> tuple[str, float]:
    return time_unit(max(float(band.x[-1]) for band in bands.values()))


def _panels(tasks: list[Task], draw: Callable[[Task, Axes], None], height: float) -> Figure:
    columns = min(len(tasks), _COLUMNS)
    lines = -(-len(tasks) // columns)
    figure = Figure(figsize=(4.6 * columns, height * lines), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for task, axis in zip(tasks, axes):
        draw(task, axis)
        axis.set_title(_plain(task.name), fontsize=10)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    return figure


def _curves(tasks: list[Task], bands: Bands, styles: dict[str, tuple[str, str]], unit: tuple[str, float] | None) -> Figure:
    def draw(task: Task, axis: Axes) -> None:
        for arm, group in task.groups.items():
            band = bands.get((task.name, arm))
            if band is None:
                continue
            colour, dash = styles[arm]
            x = band.x / (unit[1] if unit else 1.0)
            label = f"{_plain(arm)} ({band.n_runs}{', unfinished' if group.unfinished else ''})"
            marker = "o" if len(x) < FEW_POINTS else ""
            axis.plot(x, band.iqm, color=colour, linestyle=DASHES[dash], lw=1.6, marker=marker, ms=3, label=label)
            if band.iqm_interval is not None:
                axis.fill_between(x, *band.iqm_interval, color=colour, alpha=0.18, linewidth=0)
        if task.behaviour is not None:
            axis.axhline(task.behaviour, color="0.45", linestyle="--", linewidth=1, label="behaviour")
        axis.set_xlabel(task.unit if unit is None else f"{unit[0]} of training", fontsize=8)
        axis.set_ylabel("evaluation return (IQM, 95 %)", fontsize=8)
        if axis.has_data():
            axis.legend(edgecolor="none", framealpha=0.7, fontsize=7)

    return _panels(tasks, draw, 3.4)


def _last_policies(tasks: list[Task], rows: list[Row], styles: dict[str, tuple[str, str]]) -> Figure:
    def draw(task: Task, axis: Axes) -> None:
        shown = [row for row in rows if row.task is task and row.last is not None][::-1]
        for place, row in enumerate(shown):
            assert row.last is not None
            colour = styles[row.group.arm][0]
            axis.plot(row.last.values, [place] * len(row.last.values), "o", ms=5, color=colour, mec="white", mew=0.6)
            axis.plot(row.last.iqm, place, "|", ms=14, mew=2.2, color=colour)
            if row.last.interval is not None:
                axis.plot(row.last.interval, [place, place], lw=3, color=colour, alpha=0.4, zorder=1)
        if task.behaviour is not None:
            axis.axvline(task.behaviour, color="0.45", linestyle="--", linewidth=1)
        axis.set_yticks(range(len(shown)), [_plain(row.group.arm) for row in shown])
        axis.set_ylim(-0.7, len(shown) - 0.3)
        axis.set_xlabel("return: seeds, IQM, 95 %", fontsize=8)

    most = max(len(task.groups) for task in tasks)
    return _panels(tasks, draw, 1.1 + 0.3 * most)


def _profile(comparison: Comparison, styles: dict[str, tuple[str, str]]) -> Figure:
    figure = Figure(figsize=(6.2, 4), layout="constrained")
    axis = figure.subplots()
    for arm, profile in comparison.profiles.items():
        colour, dash = styles[arm]
        axis.plot(comparison.thresholds, profile, color=colour, linestyle=DASHES[dash], label=_plain(arm))
        axis.fill_between(comparison.thresholds, *comparison.intervals[arm], color=colour, alpha=0.18, linewidth=0)
    axis.set(xlabel=f"normalised score ({comparison.scale})", ylabel="share of runs that score more", ylim=(-0.02, 1.02))
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _improvement(comparison: Comparison) -> Figure:
    pairs = comparison.improvements[::-1]
    figure = Figure(figsize=(6.2, 1.2 + 0.32 * len(pairs)), layout="constrained")
    axis = figure.subplots()
    places = np.arange(len(pairs))
    ends = np.array([(pair.low, pair.high) for pair in pairs])
    axis.hlines(places, ends[:, 0], ends[:, 1], color="#2f7fd1", lw=2.2)
    axis.plot([pair.probability for pair in pairs], places, "o", ms=6, color="#2f7fd1")
    axis.axvline(0.5, color="0.45", linestyle="--", linewidth=1)
    axis.set_yticks(places, [_plain(f"{pair.better} over {pair.worse}") for pair in pairs])
    axis.set(xlim=(0, 1.02), ylim=(-0.7, len(pairs) - 0.3), xlabel="probability of improvement, 95 %")
    axis.grid(alpha=0.3, axis="x")
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def _plain(text: str) -> str:
    """Names are no formulas."""
    return text.replace("$", r"\$")
