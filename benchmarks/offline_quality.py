"""
Scores of the offline learners, ours and d3rlpy's, on the same files after the same number of updates.

    python benchmarks/offline_datasets.py                                     # first: makes the files
    python benchmarks/offline_quality.py --peer-python PATH [--jobs 2]        # what is missing, then the report
    python benchmarks/offline_quality.py --report

PATH is the python of an environment with d3rlpy 2.8.1 (see offline_speed.py). Both sides have the settings of ``zoo_configs``:
learning rates, batch sizes, networks, weights, standardised observations, scaled rewards, numbers of candidates. What differs
all the same is printed below the table (``DIFFERENCES``). ``bc_best`` imitates the best tenth of the episodes. d3rlpy's
policies (offline_quality_d3rlpy.py) are saved as TorchScript and evaluated here, in the same environments: 10 episodes at each
mark, 100 of the last policy.

Each run writes ``benchmarks/results/offline_quality/<dataset>/<side>_<algorithm>_seed<seed>.json`` with the fingerprint of its
dataset, and counts for that dataset and number of updates alone; the report is ``report.json``. Its verdicts compare intervals
over seeds: *better* and *worse* if they do not overlap, *not worse* if they do. Of three seeds an interval runs from the worst
to the best.
"""

import argparse
import functools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[1] / "build" / "offline_datasets"
WORK = Path(__file__).parents[1] / "build" / "offline_quality"
DATASETS = ("halfcheetah-medium-replay", "hopper-medium-replay", "walker2d-medium-replay")
UPDATES = {"bc": 50_000, "bc_best": 50_000, "td3_bc": 50_000, "iql": 50_000}
UPDATES |= {"bcq": 3_000, "cql": 3_000}  # d3rlpy's take 0.15 seconds each here
ALGOS = tuple(UPDATES)
OURS_ALONE: dict[str, dict[str, Any]] = {"bc_best": {"algo": "bc", "best_fraction": 0.1}}  # d3rlpy has no such
SIDES, SEEDS, MARKS = ("sb3_pgr", "d3rlpy"), (0, 1, 2), 5
EPISODES, FINAL_EPISODES, N_ENVS = 10, 100, 10
EXECUTION = {"compile": True, "precision": "bf16"}  # of ours
DIFFERENCES = {
    "all": "ours: compiled, bfloat16; d3rlpy: eager, float32, without the last row of episodes that a time limit ended",
    "iql": "ours starts orthogonal, and its critics learn from the value after its step, d3rlpy's from that before",
    "cql": "targets: value of an action drawn from the policy (ours), of its mean (d3rlpy); actor's loss: of the critics "
    "before their step (ours), after it (d3rlpy)",
    "bcq": "candidates of a prediction: the same for all observations (ours), drawn anew (d3rlpy)",
}
Run = tuple[list[np.ndarray], dict[str, Any]]  # returns at each mark; settings and versions


def result_file(dataset: str, side: str, algo: str, seed: int) -> Path:
    from provenance import RESULTS

    return RESULTS / "offline_quality" / dataset / f"{side}_{algo}_seed{seed}.json"


@functools.cache
def fingerprint_of(dataset: str) -> str:
    from sb3_pgr import load_dataset

    return load_dataset(DATA / f"{dataset}.npz").fingerprint


def finished(dataset: str, side: str, algo: str, seed: int) -> dict[str, Any] | None:
    """What a run wrote, if it learned as much from this very dataset."""
    path = result_file(dataset, side, algo, seed)
    if not path.exists():
        return None
    result = json.loads(path.read_text())
    return result if (result["fingerprint"], result["updates"]) == (fingerprint_of(dataset), UPDATES[algo]) else None


def ours(dataset: str, algo: str, seed: int) -> Run:
    from stable_baselines3.common.callbacks import BaseCallback

    from sb3_pgr import BC, BCQ, CQL, IQL, TD3BC, load_dataset
    from sb3_pgr.common.provenance import versions

    data = load_dataset(DATA / f"{dataset}.npz")
    changes = dict(OURS_ALONE.get(algo, {}))
    name = changes.pop("algo", algo)
    kind = {"bc": BC, "bcq": BCQ, "cql": CQL, "iql": IQL, "td3_bc": TD3BC}[name]
    settings = settings_of(name, data.env_id) | changes | EXECUTION
    model = kind(env=data.env_id, dataset=data, seed=seed, device="cpu", **settings)
    updates = UPDATES[algo]
    marks: list[np.ndarray] = []

    class AtMarks(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % (updates // MARKS) == 0:
                marks.append(evaluate(self.model, str(data.env_id), self.num_timesteps == updates))
            return True

    model.learn(updates, AtMarks(), log_interval=-1)
    return marks, {"settings": settings, "versions": versions()}


def settings_of(algo: str, env_id: str | None) -> dict[str, Any]:
    """Of ``zoo_configs``, for the constructor."""
    from importlib import resources

    import yaml

    settings = yaml.safe_load((resources.files("sb3_pgr.zoo_configs") / f"{algo}.yml").read_text())
    chosen = settings.get(str(env_id), settings["default"])
    return {name: value for name, value in chosen.items() if name != "n_timesteps"}


def evaluate(model: Any, env_id: str, final: bool) -> np.ndarray:
    """Returns of the deterministic policy."""
    import gymnasium as gym
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pgr.common.evaluation import evaluate_episodes

    env = make_vec_env(lambda: gym.make(env_id), N_ENVS)
    try:
        return evaluate_episodes(model, env, FINAL_EPISODES if final else EPISODES).returns
    finally:
        env.close()


class Exported:
    """A TorchScript policy with ``predict``."""

    def __init__(self, path: Path, space: Any):
        import torch as th

        self.module, self.space, self.th = th.jit.load(str(path)), space, th

    def predict(self, obs: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        with self.th.no_grad():
            actions = self.module(self.th.as_tensor(obs, dtype=self.th.float32)).numpy()
        return np.clip(actions, self.space.low, self.space.high), None


def theirs(dataset: str, algo: str, seed: int, peer_python: str) -> Run:
    import gymnasium as gym

    from sb3_pgr import load_dataset

    env_id = str(load_dataset(DATA / f"{dataset}.npz").env_id)
    folder = WORK / dataset / f"{algo}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [peer_python, str(Path(__file__).with_name("offline_quality_d3rlpy.py")), dataset, algo, str(seed), str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    space = gym.make(env_id).action_space
    policies = [Exported(folder / f"mark_{mark}.pt", space) for mark in range(1, MARKS + 1)]
    marks = [evaluate(policy, env_id, mark == MARKS) for mark, policy in enumerate(policies, 1)]
    return marks, json.loads((folder / "known.json").read_text())


def run(dataset: str, side: str, algo: str, seed: int, peer_python: str | None) -> None:
    import torch as th

    th.set_num_threads(1)
    started = time.time()
    if side == "d3rlpy":
        assert peer_python is not None
        marks, known = theirs(dataset, algo, seed, peer_python)
    else:
        marks, known = ours(dataset, algo, seed)
    curve = [
        {
            "updates": mark * (UPDATES[algo] // MARKS),
            "return_mean": round(float(returns.mean()), 2),
            "return_std": round(float(returns.std()), 2),
            "episodes": len(returns),
        }
        for mark, returns in enumerate(marks, 1)
    ]
    minutes = round((time.time() - started) / 60, 1)
    result = {"fingerprint": fingerprint_of(dataset), "updates": UPDATES[algo], "minutes": minutes, "curve": curve} | known
    path = result_file(dataset, side, algo, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, path)
    print(f"{dataset} {side} {algo} seed {seed}: {marks[-1].mean():.1f}", flush=True)


def run_missing(jobs: int, peer_python: str | None, algos: list[str]) -> int:
    """Seed by seed and algorithm by algorithm, so that a cut leaves whole comparisons behind; returns how many failed."""
    sides = SIDES if peer_python else SIDES[:1]
    datasets = [dataset for dataset in DATASETS if (DATA / f"{dataset}.npz").exists()]
    cells = [(dataset, side, algo, seed) for seed in SEEDS for algo in algos for dataset in datasets for side in sides]
    cells = [cell for cell in cells if cell[1] == "sb3_pgr" or cell[2] not in OURS_ALONE]
    python = ["--peer-python", peer_python] if peer_python else []
    return run_all([["--run", *map(str, cell), *python] for cell in cells if finished(*cell) is None], jobs)


def run_all(arguments: list[list[str]], jobs: int) -> int:
    """This script with each of these arguments, ``jobs`` at a time; returns how many failed."""
    todo, running, failed = list(arguments), list[subprocess.Popen[bytes]](), 0
    while todo or running:
        done = [process for process in running if process.poll() is not None]
        failed += sum(process.returncode != 0 for process in done)
        running = [process for process in running if process not in done]
        while todo and len(running) < jobs:
            command = [sys.executable, sys.argv[0], *todo.pop(0)]
            running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        time.sleep(2)
    return failed


def report() -> None:
    from provenance import RESULTS, provenance

    rows = [row for dataset in DATASETS if (DATA / f"{dataset}.npz").exists() for row in rows_of(dataset)]
    compare(rows)
    names = sorted({row["reference"] or "none: these are returns" for row in rows})
    result = {
        "provenance": provenance(SEEDS),
        "updates": UPDATES,
        "final_episodes": FINAL_EPISODES,
        "execution": {"sb3_pgr": EXECUTION, "d3rlpy": {"compile": False, "precision": "fp32"}},
        "differences": DIFFERENCES,
        "rows": rows,
    }
    (RESULTS / "offline_quality").mkdir(parents=True, exist_ok=True)
    (RESULTS / "offline_quality" / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"IQM [95 % interval] and each seed. 0 and 100: {'; '.join(names)}.\n")
    heads = [
        "dataset",
        "algorithm",
        "updates",
        "ours",
        "d3rlpy",
        "ours against d3rlpy",
        "against BC",
        "against the best tenth",
    ]
    print(f"| {' | '.join([*heads, 'behaviour'])} |\n|{'---|' * (len(heads) + 1)}")
    cells = {(row["dataset"], row["algorithm"], row["side"]): row for row in rows}
    for dataset, algo in dict.fromkeys((row["dataset"], row["algorithm"]) for row in rows):
        here = {side: cells.get((dataset, algo, side), {}) for side in SIDES}
        some, mine = next(row for row in here.values() if row), here["sb3_pgr"]
        verdicts = [mine.get(f"against_{other}", "") for other in ("d3rlpy", "bc", "bc_best")]
        texts = [dataset, algo, f"{UPDATES[algo]:,}", *map(_text, here.values()), *verdicts, str(some["behaviour"])]
        print(f"| {' | '.join(texts)} |")
    print("\nWhat differs:")
    for algo, difference in DIFFERENCES.items():
        print(f"- {algo}: {difference}.")


def rows_of(dataset: str) -> list[dict[str, Any]]:
    """One for each algorithm and side that has finished runs."""
    from sb3_pgr import load_dataset
    from sb3_pgr.common.evaluation import bootstrap_interval, interquartile_mean
    from sb3_pgr.offline.scores import reference_scores

    data = load_dataset(DATA / f"{dataset}.npz")
    references = reference_scores(data.env_id, data.metadata)

    def score(returns: float) -> float:
        return round(float(returns if references is None else references.normalize(returns)), 1)

    rows = []
    for algo in ALGOS:
        for side in SIDES:
            runs = {seed: found for seed in SEEDS if (found := finished(dataset, side, algo, seed)) is not None}
            if not runs:
                continue
            scores = [score(found["curve"][-1]["return_mean"]) for found in runs.values()]
            interval = bootstrap_interval(scores)
            known = next(iter(runs.values()))
            rows.append(
                {
                    "dataset": dataset, "fingerprint": data.fingerprint, "reference": references and references.name,
                    "behaviour": score(data.played_returns.mean()), "algorithm": algo, "side": side, "seeds": list(runs),
                    "scores": scores, "iqm": round(interquartile_mean(scores), 1),
                    "interval_95": interval and [round(end, 1) for end in interval],
                    "settings": known["settings"], "versions": known["versions"],
                }
            )  # fmt: skip
    return rows


def compare(rows: list[dict[str, Any]]) -> None:
    """
    Add verdicts: on our side against d3rlpy, on both against behaviour cloning (of the best tenth too) of the same side, after
    as many updates.
    """
    cells = {(row["dataset"], row["algorithm"], row["side"]): row for row in rows}
    for (dataset, algo, side), row in cells.items():
        if side == "sb3_pgr" and (dataset, algo, "d3rlpy") in cells:
            row["against_d3rlpy"] = verdict(row, cells[dataset, algo, "d3rlpy"])
        for baseline in ("bc", "bc_best"):
            if algo in ("bc", "bc_best") or (dataset, baseline, side) not in cells:
                continue
            if UPDATES[algo] != UPDATES[baseline]:
                row[f"against_{baseline}"] = f"after {UPDATES[algo]:,} updates, not {UPDATES[baseline]:,}"
            else:
                row[f"against_{baseline}"] = verdict(row, cells[dataset, baseline, side])


def verdict(row: dict[str, Any], other: dict[str, Any]) -> str:
    if row["interval_95"] is None or other["interval_95"] is None:
        return "one seed"
    (low, high), (other_low, other_high) = row["interval_95"], other["interval_95"]
    return "better" if low > other_high else "worse" if high < other_low else "not worse"


def _text(row: dict[str, Any]) -> str:
    return f"{row['iqm']} {row['interval_95'] or ''} {row['scores']}" if row else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with d3rlpy; without it only ours run")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--algos", nargs="+", default=list(ALGOS), choices=ALGOS)
    parser.add_argument("--run", nargs=4, metavar=("DATASET", "SIDE", "ALGO", "SEED"))
    parser.add_argument("--report", action="store_true", help="only the report, of what there is")
    args = parser.parse_args()
    if args.run:
        run(args.run[0], args.run[1], args.run[2], int(args.run[3]), args.peer_python)
    else:
        failed = 0 if args.report else run_missing(args.jobs, args.peer_python, args.algos)
        report()
        if failed:
            sys.exit(f"{failed} runs failed; their errors are above.")
