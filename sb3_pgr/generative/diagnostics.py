"""Pictures and tables of what a generator made: one set of files per refit, from which they can be drawn again."""

import csv
import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_pgr.envs.simulator import SimulatorProbe
from sb3_pgr.generative.imagination import RefitReport
from sb3_pgr.generative.metrics import correlations, marginal_distances, relative_dynamics_error

FOLDER = "diagnostics"
_REAL, _SYNTHETIC, _PROMPTED = "#34495e", "#c0392b", "#e6a817"


def add_dynamics_error(report: RefitReport, simulator: SimulatorProbe, n: int = 500) -> None:
    """
    Let the real simulator take the generated step from the generated state, and note how far the generated outcome is off.

    :param report: gets ``dynamics_error`` among its arrays, median and mean among its scalars, as a yardstick the median
        for real rows, and ``dynamics_known``, the share of generated rows whose observation determines the state: all
        numbers are of such rows only
    :param n: rows to try
    """
    for name in ("real", "synthetic"):
        rows = {part: report.arrays[name][:n, start:stop] for part, (start, stop) in report.parts.items()}
        known = simulator.known(rows["observations"])
        if name == "synthetic":
            report.scalars["dynamics_known"] = float(known.mean())
        if not known.any():
            continue
        rows = {part: values[known] for part, values in rows.items()}
        next_obs, _ = simulator.step(rows["observations"], rows["actions"])
        start, stop = report.parts["observations"]
        next_start, next_stop = report.parts["next_observations"]
        changes = report.arrays["real"][:, next_start:next_stop] - report.arrays["real"][:, start:stop]
        error = relative_dynamics_error(rows["next_observations"], next_obs, changes.std(0))
        if name == "real":
            report.scalars["dynamics_error_real"] = float(np.median(error))
        else:
            report.arrays["dynamics_error"] = error
            report.scalars["dynamics_error"] = float(np.median(error))
            report.scalars["dynamics_error_mean"] = float(error.mean())


def write_report(report: RefitReport, folder: Path) -> None:
    """Write ``refit_<step>.npz`` and a row of ``refits.csv`` into a folder, and the picture where matplotlib is installed."""
    folder.mkdir(parents=True, exist_ok=True)
    meta = json.dumps({"step": report.step, "scalars": report.scalars, "parts": report.parts, "problem": report.problem})
    temporary = folder / ".writing.npz"
    np.savez_compressed(temporary, meta=np.array(meta), **report.arrays)  # type: ignore[arg-type]
    os.replace(temporary, _file(folder, report.step, "npz"))
    _write_table(folder)
    try:
        draw(report, _file(folder, report.step, "png"))
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise


def read_report(path: Path, with_arrays: bool = True) -> RefitReport:
    """
    What ``write_report`` wrote.

    :param with_arrays: or the numbers alone
    :raises ValueError: if the file is damaged or another kind of file
    """
    try:
        with np.load(path) as file:
            meta = json.loads(str(file["meta"]))
            arrays = {name: file[name] for name in file.files if name != "meta"} if with_arrays else {}
        parts = {name: (start, stop) for name, (start, stop) in meta["parts"].items()}
        return RefitReport(meta["step"], meta["scalars"], arrays, parts, meta["problem"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is not the report of a refit, or is damaged: {error}.") from error


def reports(folder: Path) -> list[Path]:
    """Files of all refits, oldest first."""
    return sorted(folder.glob("refit_*.npz"))


def remove_reports(folder: Path, after: int) -> None:
    """Of refits after a step: of another run, or of what a resumed run does again."""
    for path in reports(folder):
        if int(path.stem.removeprefix("refit_")) > after:
            path.unlink()
            path.with_suffix(".png").unlink(missing_ok=True)


def _file(folder: Path, step: int, kind: str) -> Path:
    return folder / f"refit_{step:09d}.{kind}"


def _write_table(folder: Path) -> None:
    """From all reports, so that a resumed run repeats no row."""
    rows = []
    for path in reports(folder):
        try:
            report = read_report(path, with_arrays=False)
        except ValueError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        rows.append({"step": report.step, "problem": report.problem or ""} | report.scalars)
    names = list(dict.fromkeys(name for row in rows for name in row))
    with open(folder / "refits.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def draw(report: RefitReport, path: Path) -> None:
    """
    Marginals, correlations, relevance, faithfulness and novelty of one refit as a PNG.

    :param report: with or without arrays (a fit that diverged has none)
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 7.5), layout="constrained")
    title = f"Generator after {report.step:,} transitions"
    if report.problem:
        title += f"\nNot used: {report.problem}"
    figure.suptitle(title, fontsize=12, color=_SYNTHETIC if report.problem else "black")
    if not report.arrays:
        figure.text(0.5, 0.5, "nothing was drawn", ha="center")
        figure.savefig(path, dpi=110)
        return
    panels: Any = figure.subfigures(2, 1)
    top, bottom = panels
    _draw_marginals(report, top)
    axes = bottom.subplots(1, 5, width_ratios=[1, 1, 1.3, 1.3, 1.3])
    _draw_correlations(report, axes[:2], bottom)
    _draw_relevance(report, axes[2])
    _draw_dynamics(report, axes[3])
    _draw_nearest(report, axes[4])
    figure.savefig(path, dpi=110)


def _draw_marginals(report: RefitReport, figure: Any) -> None:
    """The distance of every dimension, and the four that fit worst."""
    real, relevant, synthetic = (report.arrays[name] for name in ("real", "relevant", "synthetic"))
    distances = marginal_distances(th.as_tensor(relevant), th.as_tensor(synthetic))
    axes = figure.subplots(1, 5, width_ratios=[2, 1, 1, 1, 1])
    colours = {"observations": "C0", "actions": "C1", "rewards": "C2", "next_observations": "C4", "dones": "C5"}
    for name, (start, stop) in report.parts.items():
        if stop > start:
            axes[0].bar(np.arange(start, stop), distances[start:stop], 0.9, color=colours[name], label=name.replace("_", " "))
    axes[0].set(
        title="Marginals: KS distance to relevant real rows",
        xlabel="dimension of a transition",
        ylim=(0, max(0.2, distances.max() * 1.3)),
    )
    axes[0].legend(frameon=False, fontsize=7, ncols=3, loc="upper left")
    for axis, column in zip(axes[1:], np.argsort(-distances)[:4], strict=False):
        name, (start, _) = next((name, part) for name, part in report.parts.items() if part[0] <= column < part[1])
        low, high = np.percentile(real[:, column], [0.5, 99.5])
        bins = np.linspace(low - 1e-6, high + 1e-6, 40)
        axis.hist(real[:, column], bins, density=True, color=_REAL, alpha=0.4, label="real, all")
        axis.hist(relevant[:, column], bins, density=True, color=_PROMPTED, histtype="step", lw=1.5, label="real, relevant")
        axis.hist(synthetic[:, column], bins, density=True, color=_SYNTHETIC, histtype="step", lw=1.5, label="synthetic")
        axis.set(title=f"{name.replace('_', ' ')}[{column - start}]", yticks=[])
        axis.locator_params(axis="x", nbins=4)  # labels of neighbours must not meet
    axes[1].legend(frameon=False, fontsize=7)
    axes[2].set_xlabel("the four dimensions that fit worst", fontsize=8)
    _tidy(axes)


def _draw_correlations(report: RefitReport, axes: Any, figure: Any) -> None:
    for axis, name in zip(axes, ("relevant", "synthetic"), strict=True):
        matrix = correlations(th.as_tensor(report.arrays[name])).numpy()
        image = axis.imshow(matrix, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
        axis.set(xticks=[], yticks=[])
        axis.set_title(f"Correlations, {name}", fontsize=9)
    axes[1].set_xlabel(f"mean difference {report.scalars['correlation_error']:.3f}", fontsize=8)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, orientation="horizontal", pad=0.02, ticks=[-1, -0.5, 0, 0.5, 1])
    bar.ax.tick_params(labelsize=7)


def _draw_relevance(report: RefitReport, axis: Any) -> None:
    axis.set(title="Relevance", xlabel="relevance", yticks=[])
    shown = {"real": _REAL, "prompted": _PROMPTED, "generated": _SYNTHETIC}
    given = {name: report.arrays[f"relevance_{name}"] for name in shown if f"relevance_{name}" in report.arrays}
    if len(given) < 2:
        _leave_empty(axis, "unconditional:\nnothing is asked for")
        return
    low, high = np.percentile(np.concatenate(list(given.values())), [0.5, 99])
    bins = np.linspace(low - 1e-6, high + 1e-6, 40)
    for name, values in given.items():
        style = {"alpha": 0.5} if name == "real" else {"histtype": "step", "lw": 1.5}
        axis.hist(np.clip(values, low, high), bins, density=True, color=shown[name], label=name, **style)
    axis.legend(frameon=False, fontsize=7)
    _tidy([axis])


def _draw_dynamics(report: RefitReport, axis: Any) -> None:
    axis.set(title="One-step dynamics error", yticks=[])
    error = report.arrays.get("dynamics_error")
    if error is None:
        _leave_empty(axis, "not measured: the simulator cannot\nbe set to a generated state")
        return
    axis.hist(np.log10(error.clip(1e-6)), 40, color=_SYNTHETIC, alpha=0.7)
    axis.axvline(np.log10(max(np.median(error), 1e-6)), color="black", lw=1, label=f"median {np.median(error):.3g}")
    axis.set_xlabel("log10 of error / variance of real changes")
    axis.legend(frameon=False, fontsize=7)
    _tidy([axis])


def _draw_nearest(report: RefitReport, axis: Any) -> None:
    real, synthetic = report.arrays["nearest_real"], report.arrays["nearest_synthetic"]
    bins = np.linspace(0, np.percentile(np.concatenate([real, synthetic]), 99), 40)
    axis.hist(real, bins, density=True, color=_REAL, alpha=0.6, label="real to real")
    axis.hist(synthetic, bins, density=True, color=_SYNTHETIC, histtype="step", lw=1.5, label="synthetic to real")
    axis.set(title="Distance to nearest real row", xlabel="standard deviations (near 0: memorised)", yticks=[])
    axis.legend(frameon=False, fontsize=7)
    _tidy([axis])


def _leave_empty(axis: Any, reason: str) -> None:
    axis.text(0.5, 0.5, reason, ha="center", transform=axis.transAxes, fontsize=8)
    axis.set(xticks=[], xlabel="")
    _tidy([axis])


def _tidy(axes: Any) -> None:
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=7)
        axis.title.set_fontsize(9)
        axis.xaxis.label.set_fontsize(8)
