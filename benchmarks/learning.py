"""
Learning curves of REDQ and SB3's SAC at the same number of environment steps.

    python benchmarks/learning.py            # the whole grid, two runs at a time; finished runs are kept
    python benchmarks/learning.py --env HalfCheetah-v5 --algo redq --seed 0
    python benchmarks/learning.py --report   # table and curves from what has finished

Every 2 000 steps the deterministic policy is evaluated on 5 episodes (10 after the last step). Each run writes
``benchmarks/results/learning/<env>/<algo>_seed<seed>.csv`` (its ``training_seconds`` are wall-clock of a shared machine);
``--report`` writes ``learning.json`` and ``learning.png``.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from provenance import RESULTS, provenance

ENVS = ("HalfCheetah-v5", "dmc/cheetah-run-v0")
ALGOS = ("redq", "sac")
SEEDS = (0, 1, 2)
N_TIMESTEPS = 20_000
EVAL_FREQ, EVAL_EPISODES, FINAL_EPISODES = 2_000, 5, 10
LEARNING_STARTS = 5_000


def result_file(env_id: str, algo: str, seed: int) -> Path:
    return RESULTS / "learning" / env_id.replace("/", "-") / f"{algo}_seed{seed}.csv"


def train(env_id: str, algo: str, seed: int) -> None:
    import gymnasium as gym
    import torch as th
    from stable_baselines3 import SAC
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    import sb3_pgr  # noqa: F401  (registers the environments)
    from sb3_pgr.redq import REDQ

    th.set_num_threads(1)
    if algo == "redq":
        model = REDQ("MlpPolicy", env_id, learning_starts=LEARNING_STARTS, precision="bf16", compile=True, seed=seed)
    else:
        model = SAC("MlpPolicy", env_id, learning_starts=LEARNING_STARTS, seed=seed)
    eval_env = Monitor(gym.make(env_id))
    eval_env.reset(seed=10_000 + seed)
    rows: list[dict[str, float]] = []
    started, training_seconds = time.time(), 0.0
    for timestep in range(EVAL_FREQ, N_TIMESTEPS + 1, EVAL_FREQ):
        since = time.time()
        model.learn(EVAL_FREQ, log_interval=None, reset_num_timesteps=False)
        training_seconds += time.time() - since
        episodes = FINAL_EPISODES if timestep == N_TIMESTEPS else EVAL_EPISODES
        returns, _ = evaluate_policy(model, eval_env, n_eval_episodes=episodes, return_episode_rewards=True)
        rows.append(
            {
                "timesteps": model.num_timesteps,
                "return_mean": float(np.mean(returns)),
                "return_std": float(np.std(returns)),
                "episodes": episodes,
                "training_seconds": round(training_seconds, 1),
            }
        )
        print(f"{env_id} {algo} seed {seed}: {rows[-1]} ({time.time() - started:.0f} s)", flush=True)
        write(result_file(env_id, algo, seed), rows)


def write(path: Path, rows: list[dict[str, float]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.with_suffix(".tmp"), "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    os.replace(path.with_suffix(".tmp"), path)


def read(path: Path) -> list[dict[str, float]]:
    with open(path, newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def finished(env_id: str, algo: str, seed: int) -> bool:
    path = result_file(env_id, algo, seed)
    return path.exists() and read(path)[-1]["timesteps"] >= N_TIMESTEPS


def run_grid(jobs: int) -> None:
    # REDQ is the long one: start it first, seed by seed, so that a cut leaves whole comparisons behind.
    todo = [(env, algo, seed) for env in ENVS for seed in SEEDS for algo in ALGOS if not finished(env, algo, seed)]
    running: list[subprocess.Popen[bytes]] = []
    while todo or running:
        running = [process for process in running if process.poll() is None]
        while todo and len(running) < jobs:
            env, algo, seed = todo.pop(0)
            command = [sys.executable, __file__, "--env", env, "--algo", algo, "--seed", str(seed)]
            running.append(subprocess.Popen(command))
        time.sleep(2)


def report() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    table: dict[str, dict[str, object]] = {}
    envs = [env for env in ENVS if all(any(finished(env, algo, seed) for seed in SEEDS) for algo in ALGOS)]
    figure, axes = plt.subplots(1, len(envs), figsize=(5.5 * len(envs), 4), squeeze=False)
    for axis, env_id in zip(axes[0], envs, strict=True):
        table[env_id] = {}
        for algo, colour in zip(ALGOS, ("#c0392b", "#34495e"), strict=True):
            curves = [read(result_file(env_id, algo, seed)) for seed in SEEDS if finished(env_id, algo, seed)]
            steps = [row["timesteps"] for row in curves[0]]
            returns = np.array([[row["return_mean"] for row in curve] for curve in curves])
            axis.plot(steps, returns.mean(0), color=colour, label=f"{algo.upper()} ({len(curves)} seeds)")
            axis.fill_between(steps, returns.min(0), returns.max(0), color=colour, alpha=0.2, linewidth=0)
            last = returns[:, -1]
            resampled = np.random.default_rng(0).choice(last, (10_000, len(last))).mean(1)
            table[env_id][algo] = {
                "final_return_per_seed": last.round(1).tolist(),
                # Of three seeds the interquartile mean is the mean.
                "mean": round(float(last.mean()), 1),
                "interval_95": np.percentile(resampled, [2.5, 97.5]).round(1).tolist(),
            }
        axis.set(title=env_id, xlabel="environment steps", ylabel="evaluation return")
        axis.legend(frameon=False, loc="upper left")
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
    figure.text(0.99, 0.01, "mean over seeds; band: lowest to highest seed", ha="right", fontsize=7, color="gray")
    figure.tight_layout()
    figure.savefig(RESULTS / "learning" / "learning.png", dpi=130)
    result = {"provenance": provenance(SEEDS), "n_timesteps": N_TIMESTEPS, "results": table}
    (RESULTS / "learning" / "learning.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", choices=ENVS)
    parser.add_argument("--algo", choices=ALGOS)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.report:
        report()
    elif args.env:
        train(args.env, args.algo, args.seed)
    else:
        run_grid(args.jobs)
        report()
