"""
Makes the datasets of the offline benchmarks: three MuJoCo tasks, each medium, medium-replay and medium-expert.

    python benchmarks/offline_datasets.py                          # all, two tasks at a time; goes on where it was stopped
    python benchmarks/offline_datasets.py --task HalfCheetah-v5
    python benchmarks/offline_datasets.py --replay                 # medium-replay alone, from the recordings: a minute

One agent a task, a soft actor-critic of this library with two critics: 220 000 steps with one update each, then 150 000 with
four, whose last policy is the *expert*. The *medium* policy is the first snapshot (there is one every 10 000 steps) that earns
half of what lies between random actions and the expert, or the last. Then:

- ``medium-replay``: everything that the agent saw in the 220 000 steps, without the episodes begun while its actions were
  random, the first 10 000 steps (D4RL's agent had 1 000 such): HalfCheetah hardly leaves its start in them, and the average
  action there is to stand still;
- ``medium``: 200 000 rows of the medium policy, with its own noise;
- ``medium-expert``: 100 000 rows of the medium policy, 100 000 of the expert.

Files lie in ``build/offline_datasets`` (they are made, not committed). Training gives other numbers on another processor, so
what the simulator needs to repeat those steps of our run, states at resets and actions, is committed in
``benchmarks/data/offline`` (made in two sittings, of 200 000 and 20 000 steps); ``medium-replay`` is always played back from
there, and compared with its fingerprint. 0 and 100 are the mean returns of 100 episodes of random actions and of the expert's
best actions, stored in each file and in ``benchmarks/results/offline_datasets.json``, with returns, rows, fingerprints and
what was run.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from provenance import RESULTS, provenance

RECORDINGS = Path(__file__).parent / "data" / "offline"
FOLDER = Path(__file__).parents[1] / "build" / "offline_datasets"
TASKS = ("HalfCheetah-v5", "Hopper-v5", "Walker2d-v5")
ROWS, REFERENCE_EPISODES, N_ENVS = 200_000, 100, 4
RANDOM_STEPS, MEDIUM_STEPS, EXPERT_STEPS, SNAPSHOT_FREQ = 10_000, 220_000, 150_000, 10_000
SEED = 0


def agent(env: Any, gradient_steps: int) -> Any:
    from sb3_pgr import REDQ

    common = dict(n_critics=2, policy_delay=1, learning_starts=RANDOM_STEPS, buffer_size=ROWS * 2, seed=SEED, device="cpu")
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
    return RECORDINGS / f"{short(task)}-medium-replay.npz"


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


def medium_replay(task: str) -> Any:
    """
    :raises SystemExit: if the simulator does not repeat the recording
    """
    with np.load(recording(task)) as saved:
        dataset = played_back(task, saved)
        if dataset.fingerprint != str(saved["fingerprint"]):
            sys.exit(f"{task}: played back, the recording gives other rows: another version of MuJoCo or Gymnasium?")
    return dataset


def train_expert(task: str, folder: Path) -> Any:
    """The agent of the medium phase after more steps; exactly resumable."""
    from sb3_pgr.common.callbacks import ResumableCheckpoint
    from sb3_pgr.common.checkpoint import latest_checkpoint, load_checkpoint

    model, steps = agent(task, 4), MEDIUM_STEPS + EXPERT_STEPS
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


def make(task: str) -> None:
    import torch as th
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pgr import REDQ
    from sb3_pgr.common.checkpoint import latest_checkpoint
    from sb3_pgr.common.evaluation import evaluate_episodes
    from sb3_pgr.offline.collection import collect
    from sb3_pgr.offline.dataset import concatenate

    th.set_num_threads(1)
    started, folder = time.time(), FOLDER / task
    folder.mkdir(parents=True, exist_ok=True)
    env = make_vec_env(lambda: gym.make(task), N_ENVS)
    if latest_checkpoint(folder / "medium") is None:
        train_medium(task, folder)
        print(f"{task}: medium phase done after {(time.time() - started) / 60:.1f} minutes", flush=True)
    expert = train_expert(task, folder)
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
        "medium-replay": medium_replay(task),
        "medium": rows_of(medium, ROWS, f"snapshot at step {medium_steps}"),
        "medium-expert": concatenate(
            [rows_of(medium, ROWS // 2, f"snapshot at step {medium_steps}"), rows_of(expert, ROWS // 2, "last policy")], "both"
        ),
    }
    card: dict[str, Any] = {"reference": reference, "returns_of_snapshots": curve, "medium_steps": medium_steps}
    for kind, dataset in datasets.items():
        path = save(dataset, task, kind, reference)
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


def save(dataset: Any, task: str, kind: str, reference: dict[str, Any] | None) -> Path:
    from sb3_pgr.offline.readers import save_npz

    path = FOLDER / f"{short(task)}-{kind}.npz"
    metadata = dict(dataset.metadata) | ({"reference": reference} if reference else {})
    save_npz(replace(dataset, env_id=task, metadata=metadata), path)
    return path


def play_back_all() -> None:
    """Write medium-replay sets from their recordings, with the 0 and 100 of earlier runs where there are any."""
    results = RESULTS / "offline_datasets.json"
    cards = json.loads(results.read_text())["tasks"] if results.exists() else {}
    for task in TASKS:
        if recording(task).exists():
            path = save(medium_replay(task), task, "medium-replay", cards.get(task, {}).get("reference"))
            print(path)


def report() -> None:
    cards = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*-v5.json"))}
    if cards:
        result = {"provenance": provenance([SEED]), "tasks": cards}
        (RESULTS / "offline_datasets.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--jobs", type=int, default=2, help="tasks at a time")
    parser.add_argument("--replay", action="store_true", help="only play back the recordings")
    args = parser.parse_args()
    if args.replay:
        play_back_all()
    elif args.task:
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
