"""
How often empty hands pass for success: what a reward classifier, with and without more conditions, makes of a gripper that
goes up and opens and closes on nothing. A policy finds such ways within some thousand steps.

    sb3-pgr classifier record robots/pick_cube_images-v0 --episodes 60 -o build/robots/frames
    sb3-pgr classifier train --success-dir build/robots/frames/success --failure-dir build/robots/frames/failure \
      --image-keys front wrist -o build/robots/classifier.pt
    python benchmarks/robots/fooled.py build/robots/classifier.pt

Writes ``benchmarks/results/robots_fooled.json``.
"""

import argparse
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np

from sb3_pgr.rewards import ClassifierReward

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import RESULTS, provenance

HOLDS_UP = "sb3_pgr.envs.robots.pick_cube:holds_up"
STEPS = 25  # of an episode


def fooled(classifier: Path, condition: str | None, consecutive: int, episodes: int) -> int:
    """Number of episodes in which it sees success at some step."""
    random, count = np.random.default_rng(5), 0
    task = gym.make("robots/pick_cube_images-v0").unwrapped
    env = ClassifierReward(task, classifier, condition=condition, consecutive=consecutive)
    for episode in range(episodes):
        env.reset(seed=5000 + episode)
        drift, period = random.uniform((-1, -1, 0), (1, 1, 0.8)), int(random.integers(1, 5))
        for step in range(STEPS):
            command = -1.0 if step // period % 2 else 1.0
            action = np.append(drift + random.normal(0, 0.3, 3), command).clip(-1, 1).astype(np.float32)
            _, reward, terminated, _, info = env.step(action)
            assert not info["true_success"]
            if reward or terminated:
                count += bool(reward)
                break
    env.close()
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", type=Path)
    parser.add_argument("--episodes", type=int, default=60)
    args = parser.parse_args()
    rows = []
    for condition in (None, HOLDS_UP):
        for consecutive in (1, 2):
            count = fooled(args.classifier, condition, consecutive, args.episodes)
            rows.append({"condition": condition, "consecutive": consecutive, "fooled": count, "episodes": args.episodes})
            print(rows[-1], flush=True)
    (RESULTS / "robots_fooled.json").write_text(json.dumps({"provenance": provenance((5,)), "rows": rows}, indent=2) + "\n")
