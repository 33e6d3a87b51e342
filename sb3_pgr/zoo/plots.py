"""``plots``: learning curves of runs, one colour an algorithm, averaged over its runs."""

import argparse
import csv
import itertools
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from sb3_pgr.common.progress_csv import TIMESTEPS, number_of
from sb3_pgr.common.run_files import PROGRESS, read_evaluations
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.run_folder import find_runs, read_run_file

EVALUATION = "evaluation return"


def main() -> None:
    """Draw a column an environment and a row a value; line: mean over runs; band: lowest to highest run."""
    register()
    args = _parser().parse_args()
    for algo in args.algos:
        resolve_algorithm(algo)
    shape = len(args.columns), len(args.envs)
    figure, axes = plt.subplots(*shape, figsize=(5.5 * shape[1], 3.2 * shape[0] + 0.8), squeeze=False)
    drawn, missing = 0, list[str]()
    for (row, column), axis in np.ndenumerate(axes):
        env_id, name = args.envs[column], args.columns[row]
        for algo in args.algos:
            for dataset, runs in _by_dataset(find_runs(args.log_folder, env_id, algo)).items():
                found = [read_curve(run, name) for run in runs]
                curves = [curve for curve in found if curve is not None]
                if curves:
                    _draw(axis, algo.upper() + dataset, curves, marker="o" if name == EVALUATION else "")
                    drawn += 1
        axis.set(title=env_id if row == 0 else "", xlabel="steps" if row == shape[0] - 1 else "", ylabel=name)
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(frameon=False)
        else:
            axis.text(0.5, 0.5, "no run has it", ha="center", transform=axis.transAxes)
            axis.set(xticks=[], yticks=[])
            missing.append(f"{name} on {env_id}")
    if not drawn:
        raise UsageError(
            f"There is no {' or '.join(args.columns)} of {', '.join(args.algos)} on {', '.join(args.envs)} in "
            f"{args.log_folder}; runs evaluate every --eval-freq steps, the names of all else are in their {PROGRESS}."
        )
    if missing:
        print(f"No run of {', '.join(args.algos)} has {', '.join(missing)}; names are those of {PROGRESS}.")
    figure.tight_layout()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(args.output, dpi=130)
    except ValueError as error:  # an ending that is no picture's
        raise UsageError(f"{args.output}: {error}") from None
    print(f"Learning curves: {args.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-pgr plots", description=__doc__)
    parser.add_argument("-a", "--algos", nargs="+", required=True)
    parser.add_argument("-e", "--envs", nargs="+", required=True)
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"), help="where runs lie")
    parser.add_argument("-o", "--output", type=Path, default=Path("learning_curves.png"), help="the png file")
    parser.add_argument(
        "--columns", nargs="+", default=[EVALUATION], help=f"of {PROGRESS}, say rollout/success_rate; by default evaluations"
    )
    return parser


def _by_dataset(runs: list[Path]) -> dict[str, list[Path]]:
    """What one algorithm learned from different datasets is not one curve; with what a legend says of them."""
    groups: dict[tuple[str, str], list[Path]] = {}
    for run in runs:
        try:
            content = read_run_file(run)
        except UsageError:
            content = {"argv": []}
        argv = [str(part) for part in content["argv"]]
        name = next((f", {Path(value).stem}" for option, value in itertools.pairwise(argv) if option == "--dataset"), "")
        groups.setdefault((name, content.get("dataset_fingerprint") or ""), []).append(run)
    twice = {name for name, _ in groups if sum(other == name for other, _ in groups) > 1}
    return {f"{name} {fingerprint[:6]}" if name in twice else name: runs for (name, fingerprint), runs in groups.items()}


def read_curve(run: Path, name: str = EVALUATION) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and values of a run: mean returns of its evaluations, or a column of its log; None if it has none to read."""
    if name != EVALUATION:
        return _read_column(run, name)
    try:
        evaluations = read_evaluations(run)
    except ValueError as error:
        print(f"Left out {run}: its {error}.")
        return None
    return None if evaluations is None else (evaluations[0], evaluations[1].mean(axis=1))


def _read_column(run: Path, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    if not (run / PROGRESS).is_file():
        return None
    with open(run / PROGRESS, newline="", errors="replace") as file:
        rows = [(number_of(row.get(TIMESTEPS)), number_of(row.get(name))) for row in csv.DictReader(file)]
    known = np.array([(steps, value) for steps, value in rows if steps is not None and value is not None])
    return (known[:, 0], known[:, 1]) if len(known) else None


def together(curves: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``(n,)`` that all curves span, and returns at them ``(len(curves), n)``, between evaluations linear."""
    first, last = max(steps[0] for steps, _ in curves), min(steps[-1] for steps, _ in curves)
    steps = max((steps[(steps >= first) & (steps <= last)] for steps, _ in curves), key=len)
    return steps, np.array([np.interp(steps, *curve) for curve in curves])


def _draw(axis: plt.Axes, name: str, curves: list[tuple[np.ndarray, np.ndarray]], marker: str) -> None:
    steps, returns = together(curves)
    label = f"{name} ({len(curves)} run{'s' if len(curves) > 1 else ''})"
    (line,) = axis.plot(steps, returns.mean(0), marker=marker, markersize=3, label=label)
    if len(curves) > 1:
        axis.fill_between(steps, returns.min(0), returns.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
