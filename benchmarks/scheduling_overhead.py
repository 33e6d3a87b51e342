"""
What the engines of ``sb3-pgr benchmark`` cost beside a plain shell loop.

    python benchmarks/scheduling_overhead.py                # 24 runs of about a minute each way; 40 minutes on two cores
    python benchmarks/scheduling_overhead.py --rounds 1 --runs 2 --steps 500

The same runs with the same parallelism: by ``xargs -P``, by the local engine, and by the Ray engine on a cluster of this
machine, started beforehand. In rounds, in which the three take turns. Prints and writes
``benchmarks/results/scheduling_overhead.json``.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from provenance import RESULTS, provenance

WORK = Path(__file__).parents[1] / "build" / "scheduling_overhead"
PROGRAM = [sys.executable, "-m", "sb3_pgr"]


def specification(runs: int, steps: int) -> dict[str, Any]:
    settings = {"learning_starts": 100, "gradient_steps": 1, "n_critics": 2}
    return {
        "tasks": {"pendulum": "Pendulum-v1"}, "algorithms": {"redq": settings}, "seeds": list(range(runs)),
        "n_timesteps": steps, "eval_freq": steps, "eval_episodes": 1, "final_episodes": 1,
    }  # fmt: skip


def by_shell(spec: dict[str, Any], output: Path, jobs: int) -> None:
    from sb3_pgr.zoo.studies.spec import runs_of

    lines = [
        shlex.join([*PROGRAM, "train", "-f", str(output / run.path), "--seed", str(run.seed), *run.arguments])
        for run in runs_of(spec)
    ]
    loop = ["xargs", "-P", str(jobs), "-d", "\n", "-I", "{}", "sh", "-c", "{} >/dev/null 2>&1"]
    subprocess.run(loop, input="\n".join(lines), text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def by_engine(path: Path, output: Path, *options: str) -> None:
    subprocess.run([*PROGRAM, "benchmark", str(path), "-o", str(output), *options], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=8, help="in each round, each way")
    parser.add_argument("--steps", type=int, default=9_000, help="of a run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    os.environ["RAY_worker_niceness"] = "0"  # as the processes it is compared with
    from ray.cluster_utils import Cluster

    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    spec, path = specification(args.runs, args.steps), WORK / "spec.yml"
    path.write_text(yaml.safe_dump(spec))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": args.jobs, "include_dashboard": False})
    ways = {
        "shell": lambda output: by_shell(spec, output, args.jobs),
        "local": lambda output: by_engine(path, output, "--jobs", str(args.jobs)),
        "ray": lambda output: by_engine(path, output, "--engine", "ray", "--address", cluster.address),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(args.rounds):
        for way, work in ways.items():
            started = time.perf_counter()
            work(WORK / f"{way}_{number}")
            seconds[way].append(time.perf_counter() - started)
            print(f"round {number}: {way} {seconds[way][-1]:.1f} s", flush=True)
    cluster.shutdown()
    ratios = {way: np.array(seconds[way]) / np.array(seconds["shell"]) for way in ("local", "ray")}
    result = {
        "provenance": provenance(spec["seeds"]),
        "runs_each_way": args.rounds * args.runs,
        "at_a_time": args.jobs,
        "seconds_of_a_run": round(sum(seconds["shell"]) / args.rounds / args.runs * args.jobs, 1),
        "seconds": {way: np.round(values, 1).tolist() for way, values in seconds.items()},
        "relative_to_shell": {
            way: {"of_the_sums": round(sum(seconds[way]) / sum(seconds["shell"]), 4), "rounds": values.round(4).tolist()}
            for way, values in ratios.items()
        },
    }
    print(json.dumps(result["relative_to_shell"], indent=1))
    (RESULTS / "scheduling_overhead.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
