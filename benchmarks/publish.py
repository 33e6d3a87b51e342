"""
What a study of ``sb3-pgr benchmark`` found, for this repository.

    python benchmarks/publish.py build/robots/pick_cube robots_pick_cube

Copies ``table.md``, ``runs.csv`` and ``curves.png`` of the study to ``benchmarks/results/<name>`` and writes ``runs.json``:
specification and options, machine and versions; of each finished run its evaluations, scores and minutes with evaluations.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from provenance import RESULTS

from sb3_pgr.common.run_files import RUN_FILE
from sb3_pgr.report.clock import Clock
from sb3_pgr.zoo.benchmark_report import read_run
from sb3_pgr.zoo.studies.run import is_finished, run_folder
from sb3_pgr.zoo.studies.spec import runs_of
from sb3_pgr.zoo.studies.state import STUDY


def of_study(study: Path) -> dict[str, Any]:
    written = json.loads((study / STUDY).read_text())
    options = written["options"]
    begun = {run: run_folder(study / run.path) for run in runs_of(written["spec"], options["cpus"])}
    finished = {run: folder for run, folder in begun.items() if folder is not None and is_finished(study / run.path)}
    said = [json.loads((folder / RUN_FILE).read_text()) for folder in finished.values()]
    return {
        "options": options,
        "spec": written["spec"],
        "machine": _one(said, "machine"),
        "versions": _one(said, "versions"),
        "not finished": [str(run) for run in begun if run not in finished],
        "runs": [_of_run(run, folder) for run, folder in finished.items()],
    }


def _one(said: list[dict[str, Any]], name: str) -> Any:
    """What all runs say, or all that is said."""
    different = list({json.dumps(run[name]): run[name] for run in said}.values())
    return different[0] if len(different) == 1 else different


def _of_run(run: Any, folder: Path) -> dict[str, Any]:
    result = read_run(run.task, run.arm, run.seed, folder)
    steps, returns = result.curve if result.curve is not None else (np.array([]), np.array([]))
    row: dict[str, Any] = {"task": run.task, "arm": run.arm, "seed": run.seed}
    try:
        row["minutes"] = round(float(Clock(folder).seconds(np.array([result.scores["timesteps"]]))[0]) / 60, 1)
    except ValueError:
        row["minutes"] = None
    row |= {"steps": steps.tolist(), "return_means": np.round(returns, 3).tolist()}
    return row | {name: value for name, value in result.scores.items() if name in ("last", "behaviour")}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="folder of the study")
    parser.add_argument("name", help="folder below benchmarks/results")
    args = parser.parse_args()
    target = RESULTS / args.name
    target.mkdir(parents=True, exist_ok=True)
    for name in ("table.md", "runs.csv", "curves.png"):
        shutil.copyfile(args.study / name, target / name)
    result = of_study(args.study)
    (target / "runs.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in result["runs"]:
        print(row["task"], row["arm"], row["seed"], row.get("last"), row["minutes"], "minutes")
    print(f"{len(result['runs'])} runs, {len(result['not finished'])} not finished: {target / 'runs.json'}")
