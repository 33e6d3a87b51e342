"""
Makes the datasets of the offline benchmarks: three MuJoCo tasks, each medium, medium-replay and medium-expert.

    python benchmarks/offline_datasets.py                          # all, two tasks at a time; goes on where it was stopped
    python benchmarks/offline_datasets.py --task HalfCheetah-v5

One agent a task, a soft actor-critic of this library with two critics: 200 000 steps with one update each, then 150 000 with
four, whose last policy is the *expert*. The *medium* policy is the first snapshot (there is one every 10 000 steps) that earns
half of what lies between random actions and the expert, or the last. Then:

- ``medium-replay``: everything that the agent saw in its first 200 000 steps;
- ``medium``: 200 000 rows of the medium policy, with its own noise;
- ``medium-expert``: 100 000 rows of the medium policy, 100 000 of the expert.

Files lie in ``build/offline_datasets`` (they are made, not committed). Their 0 and 100 are the mean returns of 100 episodes
of random actions and of the expert's best actions, stored in each file and in
``benchmarks/results/offline_datasets.json``, with returns, rows, fingerprints and what was run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from provenance import RESULTS, provenance

FOLDER = Path(__file__).parents[1] / "build" / "offline_datasets"
TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
ROWS, REFERENCE_EPISODES, N_ENVS = 200_000, 100, 4
MEDIUM_STEPS, EXPERT_STEPS, SNAPSHOT_FREQ = 200_000, 150_000, 10_000
SEED = 0


def agent(task: str, gradient_steps: int) -> Any:
    from sb3_pgr import REDQ

    common = dict(n_critics=2, policy_delay=1, learning_starts=10_000, buffer_size=ROWS * 2, seed=SEED, device="cpu")
    return REDQ("MlpPolicy", task, gradient_steps=gradient_steps, compile=True, precision="bf16", **common)


def train(task: str, phase: str, steps: int, gradient_steps: int, folder: Path) -> Any:
    """An agent after some steps, exactly resumable; ``<folder>/<phase>_<steps>.zip`` every 10 000 steps."""
    from stable_baselines3.common.callbacks import CheckpointCallback

    from sb3_pgr.common.callbacks import ResumableCheckpoint
    from sb3_pgr.common.checkpoint import latest_checkpoint

    model = agent(task, gradient_steps)
    if phase == "expert":
        medium = agent(task, 1)
        checkpoint = ResumableCheckpoint(
            folder / "medium", SNAPSHOT_FREQ, keep=1, resume_from=latest_checkpoint(folder / "medium")
        )
        checkpoint.restore(medium)
        model.set_parameters(medium.get_parameters())
        model.replay_buffer, model.num_timesteps = medium.replay_buffer, medium.num_timesteps
    last = latest_checkpoint(folder / phase)
    checkpoint = ResumableCheckpoint(folder / phase, SNAPSHOT_FREQ, keep=1, resume_from=last)
    if last is not None:
        checkpoint.restore(model)
    if model.num_timesteps < steps:
        snapshots = CheckpointCallback(SNAPSHOT_FREQ, str(folder), name_prefix=phase)
        first = last is None and phase == "medium"
        model.learn(steps - model.num_timesteps, [checkpoint, snapshots], log_interval=None, reset_num_timesteps=first)
        checkpoint.save()
    return model


def make(task: str) -> None:
    import gymnasium as gym
    import torch as th
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pgr import REDQ, load_dataset
    from sb3_pgr.common.evaluation import evaluate_episodes
    from sb3_pgr.offline.collection import collect
    from sb3_pgr.offline.dataset import concatenate
    from sb3_pgr.offline.readers import save_npz

    th.set_num_threads(1)
    started, folder = time.time(), FOLDER / task
    folder.mkdir(parents=True, exist_ok=True)
    name = task.split("-")[0].lower()
    env = make_vec_env(lambda: gym.make(task), N_ENVS)
    learner = train(task, "medium", MEDIUM_STEPS, 1, folder)
    replay = load_dataset(learner.replay_buffer)
    print(f"{task}: medium phase done", flush=True)
    expert = train(task, "expert", MEDIUM_STEPS + EXPERT_STEPS, 4, folder)
    print(f"{task}: expert phase done", flush=True)
    best = float(evaluate_episodes(expert, env, REFERENCE_EPISODES).returns.mean())
    random = collect(env, episodes=REFERENCE_EPISODES, seed=SEED)
    reference = {"name": f"offline_datasets.py {task}", "random": float(random.episode_returns.mean()), "expert": best}
    curve = {}
    for steps in range(SNAPSHOT_FREQ, MEDIUM_STEPS + 1, SNAPSHOT_FREQ):
        snapshot = REDQ.load(folder / f"medium_{steps}_steps.zip", buffer_size=1, device="cpu")
        curve[steps] = float(evaluate_episodes(snapshot, env, 10).returns.mean())
    halfway = (reference["random"] + best) / 2
    medium_steps = next((steps for steps, earned in curve.items() if earned >= halfway), MEDIUM_STEPS)
    medium = REDQ.load(folder / f"medium_{medium_steps}_steps.zip", buffer_size=1, device="cpu")

    def rows_of(model: Any, rows: int, behaviour: str) -> Any:
        return collect(env, model, rows=rows, deterministic=False, seed=SEED + rows, metadata={"behaviour": behaviour})

    datasets = {
        "medium-replay": replay,
        "medium": rows_of(medium, ROWS, f"snapshot at step {medium_steps}"),
        "medium-expert": concatenate(
            [rows_of(medium, ROWS // 2, f"snapshot at step {medium_steps}"), rows_of(expert, ROWS // 2, "last policy")], "both"
        ),
    }
    card: dict[str, Any] = {"reference": reference, "returns_of_snapshots": curve, "medium_steps": medium_steps}
    for kind, dataset in datasets.items():
        metadata = {**dataset.metadata, "reference": reference}
        path = FOLDER / f"{name}-{kind}.npz"
        save_npz(replace(dataset, env_id=task, metadata=metadata), path)
        returns = dataset.episode_returns
        card[kind] = {
            "file": path.name,
            "rows": len(dataset),
            "episodes": len(returns),
            "return_quantiles": np.percentile(returns, [0, 25, 50, 75, 100]).round(1).tolist(),
            "return_mean": round(float(returns.mean()), 1),
            "fingerprint": dataset.fingerprint,
        }
    card["minutes"] = round((time.time() - started) / 60, 1)
    (FOLDER / f"{task}.json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card, indent=1))


def report() -> None:
    cards = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*-v5.json"))}
    if cards:
        result = {"provenance": provenance([SEED]), "tasks": cards}
        (RESULTS / "offline_datasets.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--jobs", type=int, default=2, help="tasks at a time")
    args = parser.parse_args()
    if args.task:
        make(args.task)
    else:
        todo = [task for task in TASKS if not (FOLDER / f"{task}.json").exists()]
        running: list[subprocess.Popen[bytes]] = []
        failed = 0
        while todo or running:
            done = [process for process in running if process.poll() is not None]
            failed += sum(process.returncode != 0 for process in done)
            running = [process for process in running if process not in done]
            while todo and len(running) < args.jobs:
                command = [sys.executable, __file__, "--task", todo.pop(0)]
                running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
            time.sleep(2)
        report()
        sys.exit(1 if failed else 0)
