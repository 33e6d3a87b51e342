"""
How fast GeMS is simulated, decoded and logged.

    python benchmarks/gems_speed.py [--models FOLDER]

- users: 4 096 on one thread, random slates, by CPU time; median of 5 rounds of 50 steps, slowest and fastest of six worlds;
- decoding: 60 000 latent actions, with all threads that torch takes, by the clock; median of 5 rounds;
- logs: 1 000 000 rows of the logging policy (with the oracle behind it), by the clock;
- dataset: 100 000 rows of beliefs, latent actions, slates and clicks under the logging policy, by the clock.

With ``--models``, a folder made by ``sb3-pgr gems build``, models are those; speed does not depend on what they learned.
Writes ``benchmarks/results/gems_speed.json``.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from provenance import RESULTS, provenance
from sb3_pgr.envs.gems.actions import LatentActions
from sb3_pgr.envs.gems.belief import BeliefEncoder
from sb3_pgr.envs.gems.build import logged
from sb3_pgr.envs.gems.datasets import record
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.observations import Belief
from sb3_pgr.envs.gems.policies import EpsilonGreedyOracle, RandomSlates
from sb3_pgr.envs.gems.slate_vae import SlateVAE
from sb3_pgr.envs.gems.users import Users, make_users
from sb3_pgr.envs.gems.world import ITEM_SEEDS, WORLDS, make_engine

N_USERS, ROUNDS, STEPS, SLATES, LOGGED, RECORDED = 4_096, 5, 50, 60_000, 10_000, 1_000


def user_steps_per_second(engine: GemsEngine) -> float:
    engine.reset(np.arange(N_USERS))
    slates = [RandomSlates(seed)(engine) for seed in range(STEPS)]

    def steps() -> None:
        for slate in slates:
            engine.step(slate)

    return N_USERS * STEPS / median_seconds(steps, time.process_time)


def median_seconds(work: Callable[[], Any], clock: Callable[[], float]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        started = clock()
        work()
        seconds.append(clock() - started)
    return float(np.median(seconds))


def seconds(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=Path)
    args = parser.parse_args()
    engine = make_engine("focused", "topdown")
    if args.models is None:
        users = Users(engine, LatentActions(SlateVAE().eval()), Belief(BeliefEncoder().eval()))
    else:
        users = make_users("focused", "topdown", "latent", "belief", args.models)
    model = users.actions.model  # type: ignore[attr-defined]
    speeds = {f"{items}_{world}": user_steps_per_second(make_engine(items, world)) for items in ITEM_SEEDS for world in WORLDS}
    latents = model.to_latents(np.random.default_rng(0).uniform(-1, 1, (SLATES, model.latent_dim)))
    result = {
        "user_steps_per_second": {name: round(speed) for name, speed in speeds.items()},
        "decoded_slates_per_second": round(SLATES / median_seconds(lambda: model.decode(latents), time.perf_counter)),
        "torch_threads": th.get_num_threads(),
        "seconds_for_1_000_000_logged_rows": round(seconds(lambda: logged(engine, EpsilonGreedyOracle(0.5), 0, LOGGED)), 1),
        "seconds_for_a_dataset_of_100_000_rows": round(
            seconds(lambda: record(users, None, EpsilonGreedyOracle(0.5), 0, RECORDED)), 1
        ),
    }
    print(json.dumps(result, indent=1))
    (RESULTS / "gems_speed.json").write_text(json.dumps({"provenance": provenance([0]), **result}, indent=1) + "\n")
