"""``diagnose``: what the generator of a run did at each refit, drawn again, and how it changed over the run."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from sb3_pgr.generative.diagnostics import FOLDER, draw, read_report, reports
from sb3_pgr.generative.imagination import RefitReport
from sb3_pgr.zoo.errors import UsageError

_PANELS = {
    "marginal_distance": "marginals: mean KS distance to relevant real rows",
    "correlation_error": "correlations: mean difference",
    "dynamics_error": "one-step dynamics error (median)",
    "nearest_ratio": "distance to nearest real row, real = 1",
    "outside": "share of numbers outside the real box",
    "fit_seconds": "seconds of the fit",
}


def main() -> None:
    """Write ``refit_<step>.png`` for every refit and ``refits.png`` over all of them."""
    parser = argparse.ArgumentParser(prog="sb3-pgr diagnose", description=__doc__)
    parser.add_argument("run", type=Path, help=f"folder of a run, which holds {FOLDER}/")
    folder = parser.parse_args().run
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}.")
    folder = folder if folder.name == FOLDER else folder / FOLDER
    files = reports(folder)
    if not files:
        raise UsageError(f"{folder} holds no refits: the run had no generative replay, or was stopped before the first refit.")
    read = []
    for path in files:
        try:
            read.append(read_report(path))
        except ValueError as error:
            raise UsageError(str(error)) from None
        draw(read[-1], path.with_suffix(".png"))
    _draw_course(read, folder / "refits.png")
    for report in read:
        state = "not used" if report.problem else f"{report.scalars['n_synthetic']:,.0f} rows"
        numbers = ", ".join(f"{name} {report.scalars[name]:.3g}" for name in _PANELS if name in report.scalars)
        print(f"{report.step:>10,}  {state}: {numbers}{report.problem or ''}")
    print(f"Pictures: {folder}")


def _draw_course(read: list[RefitReport], path: Path) -> None:
    figure = Figure(figsize=(11, 6), layout="constrained")
    for axis, (name, title) in zip(figure.subplots(2, 3).flat, _PANELS.items(), strict=True):
        points = [(report.step, report.scalars[name]) for report in read if name in report.scalars]
        if points:
            axis.plot(*zip(*points), marker="o", ms=3, color="#c0392b")
            axis.set_ylim(0, 1.1 * max(value for _, value in points) or 1)
        else:
            axis.text(0.5, 0.5, "not measured", ha="center", transform=axis.transAxes, fontsize=8)
            axis.set(xticks=[], yticks=[])
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("transitions", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
