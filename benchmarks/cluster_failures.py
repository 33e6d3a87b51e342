"""
Machines of a Ray cluster die while a study runs: does everything finish, nothing twice, with the same weights?

    python benchmarks/cluster_failures.py
    python benchmarks/cluster_failures.py --runs 6 --kills 1 --steps 1000

A cluster of three nodes (raylets of their own, on this machine) does short runs; two nodes, workers included, are killed by
SIGKILL on the way. The same study is done before by the local engine, undisturbed. Prints and writes
``benchmarks/results/cluster_failures.json``: attempts of each run, and whether its final weights are those of the undisturbed
one, bit for bit. Exits with 1 if anything is not as it should be.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from provenance import RESULTS, provenance

WORK = Path(__file__).parents[1] / "build" / "cluster_failures"
NODES = 3


def specification(runs: int, steps: int) -> dict[str, Any]:
    small = {"learning_starts": 100, "gradient_steps": 1, "n_critics": 2, "policy_kwargs": {"net_arch": [32, 32]}}
    return {
        "tasks": {"pendulum": "Pendulum-v1"}, "algorithms": {"redq": small}, "seeds": list(range(runs)),
        "n_timesteps": steps, "checkpoint_freq": 200, "eval_freq": steps, "eval_episodes": 1, "final_episodes": 1,
    }  # fmt: skip


def benchmark(spec: Path, output: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "sb3_pgr", "benchmark", str(spec), "-o", str(output), *options])


def disturbed(spec: Path, output: Path, kills: int, runs: int) -> int:
    """Exit code of the study on a cluster of which some nodes die."""
    os.environ["RAY_worker_niceness"] = "0"  # as the processes it is compared with
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        doomed = [cluster.add_node(num_cpus=1) for _ in range(NODES - 1)][:kills]
        process = benchmark(spec, output, "--engine", "ray", "--address", cluster.address)
        for number, node in enumerate(doomed, 1):
            while process.poll() is None and not ready(output, (number - 1) * runs // 4, NODES - number + 1):
                time.sleep(0.2)
            print(f"killed node {number}: {kill(node)} processes", flush=True)
        return process.wait()
    finally:
        cluster.shutdown()


def kill(node: Any) -> int:
    """As when a machine loses power: all that runs on it ends at once. Returns how many processes that were."""
    raylets = [psutil.Process(info.process.pid) for infos in node.all_processes.values() for info in infos]
    everything = [*raylets, *(child for raylet in raylets for child in raylet.children(recursive=True))]
    for process in everything:
        process.kill()
    for infos in node.all_processes.values():
        for info in infos:
            info.process.wait()  # a zombie would pass for alive
    return len(everything)


def ready(output: Path, finished: int, alive: int) -> bool:
    """Whether so many have finished, and every node that is alive is at a run that has a checkpoint to go on from."""
    states = [json.loads(path.read_text()) for path in output.glob("*/*/*.state.json")]
    under_way = [state for state in states if state["state"] == "running" and state.get("timesteps")]
    return sum(state["state"] == "finished" for state in states) >= finished and len(under_way) >= alive


def weights(output: Path, seed: int) -> dict[str, Any]:
    from stable_baselines3.common.save_util import load_from_zip_file

    (path,) = output.glob(f"pendulum/redq/seed_{seed}/redq/*/Pendulum-v1.zip")
    return load_from_zip_file(path, device="cpu")[1]


def same(first: Any, second: Any) -> bool:
    import torch as th

    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return th.equal(first, second) if isinstance(first, th.Tensor) else first == second


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--kills", type=int, default=2, choices=range(NODES))
    parser.add_argument("--steps", type=int, default=3_000)
    parser.add_argument("--work", type=Path, default=WORK, help="folder for the runs")
    parser.add_argument("--output", type=Path, default=RESULTS / "cluster_failures.json")
    args = parser.parse_args()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    spec = args.work / "spec.yml"
    spec.write_text(yaml.safe_dump(specification(args.runs, args.steps)))
    assert benchmark(spec, args.work / "undisturbed").wait() == 0
    code = disturbed(spec, args.work / "disturbed", args.kills, args.runs)
    rows = []
    for seed in range(args.runs):
        state = json.loads((args.work / f"disturbed/pendulum/redq/seed_{seed}.state.json").read_text())
        equal = same(weights(args.work / "undisturbed", seed), weights(args.work / "disturbed", seed))
        rows.append({"seed": seed, "attempts": [it["outcome"] for it in state["attempts"]], "same_weights": equal})
    again = sum(len(row["attempts"]) > 1 for row in rows)
    good = code == 0 and all(row["attempts"].count("finished") == 1 and row["same_weights"] for row in rows)
    result = {
        "provenance": provenance(list(range(args.runs))), "nodes": NODES, "killed": args.kills, "steps": args.steps,
        "exit_code": code, "runs_that_lost_their_node": again, "all_finished_once_with_the_same_weights": good, "runs": rows,
    }  # fmt: skip
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{len(rows)} runs, {args.kills} of {NODES} nodes killed, {again} runs went on elsewhere; ", end="")
    print("each finished once, with the same weights." if good else f"NOT as it should be: {rows}")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
