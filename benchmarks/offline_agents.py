"""
Trains the agents behind the offline benchmarks' datasets, and records them for ``offline_datasets.py``.

    python benchmarks/offline_agents.py                            # three tasks, two at a time; goes on where it was stopped
    python benchmarks/offline_agents.py --task HalfCheetah-v5

One agent a task, a soft actor-critic of this library with two critics: 220 000 steps with one update each, then 100 000
(Walker2d 70 000, for want of time) with four, whose last policy is the *expert*. The *medium* policy is the first snapshot
(there is one every 10 000 steps) that earns half of what lies between random actions and the expert, or the last. An hour of a
core for each task.

Training gives other numbers on another processor, so what came of our run is committed in ``benchmarks/data/offline``, and
never written over: the weights of both policies with the returns of 100 episodes each, and what the simulator needs to repeat
the first 220 000 steps, states at resets and actions. In these the episodes begun while actions were random, the first 10 000
steps, are left out (D4RL's agent had 1 000 such): HalfCheetah hardly leaves its start in them, and the average action there is
to stand still. The recordings are of an earlier run than the policies (two sittings, of 200 000 and 20 000 steps).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from provenance import provenance

DATA = Path(__file__).parent / "data" / "offline"
FOLDER = Path(__file__).parents[1] / "build" / "offline_agents"
TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
BUFFER_SIZE, REFERENCE_EPISODES, N_ENVS = 400_000, 100, 4
RANDOM_STEPS, MEDIUM_STEPS, SNAPSHOT_FREQ = 10_000, 220_000, 10_000
EXPERT_STEPS = {"HalfCheetah-v5": 100_000, "Hopper-v5": 100_000, "Walker2d-v5": 70_000}
SEED = 0


def agent(env: Any, gradient_steps: int) -> Any:
    from sb3_pgr import REDQ

    common = dict(n_critics=2, policy_delay=1, learning_starts=RANDOM_STEPS, buffer_size=BUFFER_SIZE, seed=SEED, device="cpu")
    return REDQ("MlpPolicy", env, gradient_steps=gradient_steps, compile=True, precision="bf16", **common)


class Recorded(gym.Wrapper):
    """Keeps what is needed to play everything back: states at resets, and actions."""

    def __init__(self, env: gym.Env):
        super().__init__(env)
        self.states: list[tuple[np.ndarray, np.ndarray]] = []
        self.starts: list[int] = []
        self.actions: list[np.ndarray] = []

    def reset(self, **kwargs: Any) -> Any:
        result = super().reset(**kwargs)
        data: Any = self.unwrapped.data  # type: ignore[attr-defined]
        if self.starts and self.starts[-1] == len(self.actions):  # the episode before had no step
            self.starts.pop(), self.states.pop()
        self.starts.append(len(self.actions))
        self.states.append((data.qpos.copy(), data.qvel.copy()))
        return result

    def step(self, action: np.ndarray) -> Any:
        self.actions.append(np.array(action, np.float32))
        return super().step(action)

    def arrays(self, skip: int = 0) -> dict[str, np.ndarray]:
        """Of the episodes that began after ``skip`` steps or more."""
        chosen = [i for i, start in enumerate(self.starts) if skip <= start < len(self.actions)]
        first = self.starts[chosen[0]]
        return {
            "actions": np.stack(self.actions[first:]),
            "starts": np.array([self.starts[i] - first for i in chosen]),
            "qpos": np.stack([self.states[i][0] for i in chosen]),
            "qvel": np.stack([self.states[i][1] for i in chosen]),
        }


def recording(task: str) -> Path:
    return DATA / f"{short(task)}-medium-replay.npz"


def short(task: str) -> str:
    return task.split("-")[0].lower()


def train_medium(task: str, folder: Path) -> None:
    """Record the first steps of an agent, with snapshots ``<folder>/medium_<steps>_steps.zip`` and its last state."""
    from stable_baselines3.common.callbacks import CheckpointCallback

    from sb3_pgr.common.checkpoint import save_checkpoint

    env = Recorded(gym.make(task))
    model = agent(env, 1)
    model.learn(MEDIUM_STEPS, CheckpointCallback(SNAPSHOT_FREQ, str(folder), name_prefix="medium"), log_interval=None)
    save_checkpoint(model, folder / "medium", keep=1)
    path = recording(task)
    if path.exists():
        print(f"{task}: there is a recording already, {path.name}; it stays.", flush=True)
        return
    arrays = env.arrays(RANDOM_STEPS)
    path.parent.mkdir(parents=True, exist_ok=True)
    fingerprint = played_back(task, arrays).fingerprint
    np.savez_compressed(path, fingerprint=np.array(fingerprint), **arrays)  # type: ignore[arg-type]


def played_back(task: str, arrays: Mapping[str, np.ndarray]) -> Any:
    """The dataset of a recording: the same states and actions in the same simulator."""
    from sb3_pgr import load_dataset

    env = gym.make(task)
    world: Any = env.unwrapped
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    rows: dict[str, list[Any]] = {name: [] for name in names}
    ends = [*arrays["starts"][1:], len(arrays["actions"])]
    for start, end, qpos, qvel in zip(arrays["starts"], ends, arrays["qpos"], arrays["qvel"], strict=True):
        env.reset()
        world.set_state(qpos, qvel)
        obs = world._get_obs()
        for action in arrays["actions"][start:end]:
            following, reward, terminated, truncated, _ = env.step(action)
            for name, value in zip(names, (obs, action, reward, following, terminated, truncated)):
                rows[name].append(value)
            obs = following
        rows["timeouts"][-1] |= not rows["terminals"][-1]  # where the recording ends
    columns = {name: np.array(values) for name, values in rows.items()}
    for name in ("observations", "rewards", "next_observations"):
        columns[name] = columns[name].astype(np.float32)
    return load_dataset(columns, action_space=env.action_space)


def train_expert(task: str, folder: Path) -> Any:
    """The agent of the medium phase after more steps; exactly resumable."""
    from sb3_pgr.common.callbacks import ResumableCheckpoint
    from sb3_pgr.common.checkpoint import latest_checkpoint, load_checkpoint

    model, steps = agent(task, 4), MEDIUM_STEPS + EXPERT_STEPS[task]
    last = latest_checkpoint(folder / "expert")
    checkpoint = ResumableCheckpoint(folder / "expert", SNAPSHOT_FREQ, keep=1, resume_from=last)
    if last is None:
        medium = latest_checkpoint(folder / "medium")
        assert medium is not None
        load_checkpoint(model, medium)
    else:
        checkpoint.restore(model)
    if model.num_timesteps < steps:
        model.learn(steps - model.num_timesteps, checkpoint, log_interval=None, reset_num_timesteps=False)
        checkpoint.save()
    return model


def policies(task: str) -> Path:
    return DATA / f"{short(task)}-policies.npz"


def actors(task: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Our run's policies of a task.

    :return: ``REDQ`` models of its *medium* and *expert* policies, and what is known of them: ``reference`` (mean return of
        random actions and of the expert's best ones), ``returns_of_snapshots``, ``medium_steps``, ``provenance``
    """
    import torch as th

    from sb3_pgr import REDQ

    models = {}
    with np.load(policies(task)) as saved:
        for name in ("medium", "expert"):
            models[name] = REDQ("MlpPolicy", gym.make(task), buffer_size=1, seed=SEED, device="cpu")
            weights = {key.split("/")[1]: th.as_tensor(saved[key]) for key in saved if key.startswith(name)}
            models[name].policy.actor.load_state_dict(weights)
        return models, json.loads(str(saved["card"]))


def train(task: str) -> None:
    import torch as th
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pgr import REDQ
    from sb3_pgr.common.checkpoint import latest_checkpoint
    from sb3_pgr.common.evaluation import evaluate_episodes
    from sb3_pgr.offline.collection import collect

    if policies(task).exists():
        print(f"{task}: there are policies already, {policies(task).name}; they stay.")
        return
    th.set_num_threads(1)
    folder = FOLDER / task
    folder.mkdir(parents=True, exist_ok=True)
    env = make_vec_env(lambda: gym.make(task), N_ENVS)
    if latest_checkpoint(folder / "medium") is None:
        train_medium(task, folder)
        print(f"{task}: medium phase done", flush=True)
    expert = train_expert(task, folder)
    print(f"{task}: expert phase done", flush=True)
    best = float(evaluate_episodes(expert, env, REFERENCE_EPISODES).returns.mean())
    random = float(collect(env, episodes=REFERENCE_EPISODES, seed=SEED).episode_returns.mean())
    snapshots = {
        steps: REDQ.load(folder / f"medium_{steps}_steps.zip", buffer_size=1, device="cpu")
        for steps in range(SNAPSHOT_FREQ, MEDIUM_STEPS + 1, SNAPSHOT_FREQ)
    }
    curve = {steps: float(evaluate_episodes(model, env, 10).returns.mean()) for steps, model in snapshots.items()}
    medium_steps = next((steps for steps, earned in curve.items() if earned >= (random + best) / 2), MEDIUM_STEPS)
    card = {
        "reference": {"name": f"offline_agents.py {task}", "random": random, "expert": best},
        "returns_of_snapshots": curve,
        "medium_steps": medium_steps,
        "provenance": provenance([SEED]),
    }
    arrays = {
        f"{name}/{key}": weight.numpy()
        for name, model in (("medium", snapshots[medium_steps]), ("expert", expert))
        for key, weight in model.policy.actor.state_dict().items()
    }
    np.savez_compressed(policies(task), card=np.array(json.dumps(card)), **arrays)
    print(json.dumps(card, indent=1))


def train_all(jobs: int) -> int:
    """
    :return: number of tasks that failed
    """
    todo = [task for task in TASKS if not policies(task).exists()]
    running: list[subprocess.Popen[bytes]] = []
    failed = 0
    while todo or running:
        failed += sum(bool(process.poll()) for process in running)
        running = [process for process in running if process.poll() is None]
        while todo and len(running) < jobs:
            command = [sys.executable, __file__, "--task", todo.pop(0)]
            running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        time.sleep(2)
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--jobs", type=int, default=2, help="tasks at a time")
    args = parser.parse_args()
    if args.task:
        train(args.task)
    else:
        sys.exit(1 if train_all(args.jobs) else 0)
