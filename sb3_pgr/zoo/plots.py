"""``plots``: learning curves from the evaluations of runs, one colour an algorithm, averaged over its runs."""

import argparse
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np

from sb3_pgr.common.run_files import read_evaluations
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.run_folder import find_runs


def main() -> None:
    """Draw one panel an environment; line: mean over runs; band: lowest to highest run."""
    register()
    args = _parser().parse_args()
    for algo in args.algos:
        resolve_algorithm(algo)
    figure, axes = plt.subplots(1, len(args.envs), figsize=(5.5 * len(args.envs), 4), squeeze=False)
    drawn = 0
    for axis, env_id in zip(axes[0], args.envs):
        for algo in args.algos:
            curves = [curve for run in find_runs(args.log_folder, env_id, algo) if (curve := read_curve(run)) is not None]
            if curves:
                _draw(axis, algo, curves)
                drawn += 1
        axis.set(title=env_id, xlabel="environment steps", ylabel="evaluation return")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.lines:
            axis.legend(frameon=False)
    if not drawn:
        raise UsageError(
            f"There are no evaluations of {', '.join(args.algos)} on {', '.join(args.envs)} in {args.log_folder}; "
            "runs write them every --eval-freq steps."
        )
    figure.tight_layout()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=130)
    print(f"Learning curves: {args.output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-pgr plots", description=__doc__)
    parser.add_argument("-a", "--algos", nargs="+", required=True)
    parser.add_argument("-e", "--envs", nargs="+", required=True)
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"), help="where runs lie")
    parser.add_argument("-o", "--output", type=Path, default=Path("learning_curves.png"), help="the png file")
    return parser


def read_curve(run: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Steps and mean returns of a run's evaluations, if it has a readable file of them."""
    try:
        evaluations = read_evaluations(run)
    except ValueError as error:
        print(f"Left out {run}: its {error}.")
        return None
    return None if evaluations is None else (evaluations[0], evaluations[1].mean(axis=1))


def _draw(axis: plt.Axes, algo: str, curves: list[tuple[np.ndarray, np.ndarray]]) -> None:
    # Runs may differ in length: compare them where all have been.
    length = min(len(steps) for steps, _ in curves)
    steps = curves[0][0][:length]
    returns = np.array([np.interp(steps, *curve) for curve in curves])
    label = f"{algo.upper()} ({len(curves)} run{'s' if len(curves) > 1 else ''})"
    (line,) = axis.plot(steps, returns.mean(0), marker="o", markersize=3, label=label)
    if len(curves) > 1:
        axis.fill_between(steps, returns.min(0), returns.max(0), color=line.get_color(), alpha=0.2, linewidth=0)
