"""
How often the scripted experts succeed: 100 episodes of each task, with seeds 0 to 99 and the noise of ``sb3-pgr demos``.

    python benchmarks/robots/experts.py

Writes ``benchmarks/results/robots_experts.json``: success rate with its 95 % interval (Clopper-Pearson), and the steps that
successes took.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import sb3_pgr.envs  # noqa: F401  (registers the tasks)
from sb3_pgr.envs.robots.experts import expert_action
from scipy.stats import binomtest
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import RESULTS, provenance

EPISODES, NOISE = 100, 0.3
TASKS = ("pick_cube", "pick_cube_fixed", "arrange_boxes", "lift_tray", "lift_tray_fixed")


def success_rate(env_id: str) -> dict[str, Any]:
    env = gym.make(env_id)
    lengths = []
    for seed in tqdm(range(EPISODES), env_id, disable=None):
        random = np.random.default_rng(seed)
        env.reset(seed=seed)
        steps, over = 0, False
        while not over:
            _, _, terminated, truncated, info = env.step(expert_action(env, NOISE, random))
            steps, over = steps + 1, terminated or truncated
        lengths += [steps] if info["is_success"] else []
    interval = binomtest(len(lengths), EPISODES).proportion_ci()
    return {
        "success_rate": len(lengths) / EPISODES,
        "interval": [round(interval.low, 3), round(interval.high, 3)],
        "median_steps": float(np.median(lengths)),
        "most_steps": max(lengths),
    }


if __name__ == "__main__":
    rates = {task: success_rate(f"robots/{task}-v0") for task in TASKS}
    print(json.dumps(rates, indent=1))
    found = {"provenance": provenance(range(EPISODES)), "noise": NOISE, "episodes": EPISODES, "tasks": rates}
    (RESULTS / "robots_experts.json").write_text(json.dumps(found, indent=1) + "\n")
