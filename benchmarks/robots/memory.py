"""
How much memory HybridSAC's replay takes: 200 000 transitions with two cameras of 64 by 64 pixels, no frame like another.

    python benchmarks/robots/memory.py

For episodes of 20 and of 100 steps, with 2 000 interventions (which are kept twice) and with as many as there is room for:
250 000 steps pass through, so that the oldest are overwritten, and one update is made. Resident memory of a process that does
this alone: by how much the replay made its peak grow, and the peak of all, with libraries, networks and the update. Writes
``benchmarks/results/robots_memory.json``.
"""

import json
import multiprocessing
import resource
import sys
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.logger import configure

from sb3_pgr import HybridSAC
from sb3_pgr.offline.spaces_only import SpacesOnly

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import RESULTS, provenance

TRANSITIONS, STEPS, SIZE = 200_000, 250_000, 64
CAMERA = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
OBSERVATIONS = spaces.Dict({"front": CAMERA, "wrist": CAMERA, "state": spaces.Box(-np.inf, np.inf, (8,), np.float32)})


def peak() -> float:
    """Resident memory of this process so far, in units of 10^9 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def fill(case: tuple[int, int]) -> dict[str, Any]:
    """What there is, and what it takes in units of 10^9 bytes."""
    length, interventions = case
    env = SpacesOnly(OBSERVATIONS, spaces.Box(-1, 1, (4,), np.float32))
    options = dict(setup_mode="single-arm-learned-gripper", buffer_size=TRANSITIONS, device="cpu", seed=0)
    model = HybridSAC("MultiInputPolicy", env, **options)
    random = np.random.default_rng(0)

    def observation() -> dict[str, np.ndarray]:
        images = random.integers(0, 256, (2, 1, 3, SIZE, SIZE), np.uint8)
        return {"front": images[0], "wrist": images[1], "state": np.zeros((1, 8), np.float32)}

    action, before = np.zeros((1, 4), np.float32), peak()
    for step in range(1, STEPS + 1):
        if step % length == 1:
            obs = observation()
        next_obs, done = observation(), step % length == 0
        info = {"intervene_action": action[0]} if step <= interventions else {}
        model.replay_buffer.add(obs, next_obs, action, np.zeros(1), np.array([done]), [info])
        obs = next_obs
    replay = peak() - before
    model.set_logger(configure(None, []))
    model.train(1, model.batch_size)
    return {
        "steps_of_an_episode": length,
        "live_transitions": model.replay_buffer.online.size(),
        "demonstrations": model.replay_buffer.demonstrations.size(),
        "replay_gb": round(replay, 2),
        "peak_gb": round(peak(), 2),
    }


if __name__ == "__main__":
    cases = [(length, interventions) for length in (20, 100) for interventions in (2_000, TRANSITIONS // 10)]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        results = pool.map(fill, cases, chunksize=1)
    print(json.dumps(results, indent=1))
    (RESULTS / "robots_memory.json").write_text(json.dumps({"provenance": provenance([0]), "cases": results}, indent=1) + "\n")
