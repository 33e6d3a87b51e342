"""
Makes the datasets of the offline benchmarks: three MuJoCo tasks, each medium, medium-replay and medium-expert.

    python benchmarks/offline_datasets.py                          # nine files, in minutes
    python benchmarks/offline_datasets.py --replay                 # medium-replay alone: a minute

Of the agents of ``offline_agents.py``, whose policies and recordings are in this repository:

- ``medium-replay``: everything that the agent saw in its first 220 000 steps, without what it did at random; played back, and
  compared with its fingerprint;
- ``medium``: 200 000 rows of the medium policy, with its own noise;
- ``medium-expert``: 100 000 rows of the medium policy, 100 000 of the expert.

Files lie in ``build/offline_datasets`` (they are made, not committed). 0 and 100 are the mean returns of 100 episodes of
random actions and of the expert's best ones, stored in each file. What was run, returns, rows and fingerprints are in
``benchmarks/results/offline_datasets.json``. Collected on another processor, medium and medium-expert sets have other rows:
policies round differently.
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from offline_agents import N_ENVS, SEED, TASKS, actors, played_back, policies, recording, short
from provenance import RESULTS, provenance

FOLDER = Path(__file__).parents[1] / "build" / "offline_datasets"
ROWS = 200_000


def medium_replay(task: str) -> Any:
    """
    :raises SystemExit: if the simulator does not repeat the recording
    """
    with np.load(recording(task)) as saved:
        dataset = played_back(task, saved)
        if dataset.fingerprint != str(saved["fingerprint"]):
            sys.exit(f"{task}: played back, the recording gives other rows: another version of MuJoCo or Gymnasium?")
    return dataset


def collected(task: str) -> dict[str, Any]:
    """Medium and medium-expert sets of a task."""
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pgr.offline.collection import collect
    from sb3_pgr.offline.dataset import concatenate

    models, card = actors(task)
    env = make_vec_env(lambda: gym.make(task), N_ENVS)
    names = {"medium": f"snapshot at step {card['medium_steps']}", "expert": "last policy"}

    def rows_of(name: str, rows: int) -> Any:
        metadata = {"behaviour": names[name]}
        return collect(env, models[name], rows=rows, deterministic=False, seed=SEED + rows, metadata=metadata)

    half = ROWS // 2
    both = concatenate([rows_of("medium", half), rows_of("expert", half)], "both")
    return {"medium": rows_of("medium", ROWS), "medium-expert": both}


def make(task: str, replay_only: bool) -> dict[str, Any]:
    """
    Write the datasets of a task.

    :return: of each, what is in it
    """
    reference = actors(task)[1]["reference"] if policies(task).exists() else None
    made = {}
    for kind, dataset in ({"medium-replay": medium_replay(task)} | ({} if replay_only else collected(task))).items():
        path = save(dataset, task, kind, reference)
        returns = dataset.episode_returns
        made[kind] = {
            "rows": len(dataset),
            "episodes": len(returns),
            "return_quantiles": np.percentile(returns, [0, 25, 50, 75, 100]).round(1).tolist(),
            "return_mean": round(float(returns.mean()), 1),
            "fingerprint": dataset.fingerprint,
        }
        print(f"{path}: {len(dataset)} rows, {len(returns)} episodes, mean return {made[kind]['return_mean']}", flush=True)
    return {"reference": reference, **made}


def save(dataset: Any, task: str, kind: str, reference: dict[str, Any] | None) -> Path:
    from sb3_pgr.offline.readers import save_npz

    path = FOLDER / f"{short(task)}-{kind}.npz"
    metadata = dict(dataset.metadata) | ({"reference": reference} if reference else {})
    save_npz(replace(dataset, env_id=task, metadata=metadata), path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replay", action="store_true", help="only play back the recordings")
    parser.add_argument("--task", choices=TASKS, help="only this one; nothing is written to the results")
    args = parser.parse_args()
    tasks = {task: make(task, args.replay) for task in ([args.task] if args.task else TASKS)}
    if not args.replay and not args.task:
        result = {"provenance": provenance([SEED]), "tasks": tasks}
        (RESULTS / "offline_datasets.json").write_text(json.dumps(result, indent=2) + "\n")
