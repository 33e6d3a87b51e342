"""
What known policies earn in the six worlds of GeMS, and how fast users are simulated.

    python benchmarks/gems_world.py

Returns: clicks in 100 slates, mean over 1 000 users and its standard error, all policies with the same users. Speed: 4 096
users on one thread, random slates, median of 5 rounds of 50 steps, in CPU time. Writes ``benchmarks/results/gems_world.json``.
"""

import json
import time
from typing import Any

import numpy as np
from provenance import RESULTS, provenance
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.policies import BudgetOracle, EpsilonGreedyOracle, RandomSlates, ShortTermOracle, SlatePolicy
from sb3_pgr.envs.gems.world import ITEM_SEEDS, WORLDS, make_engine

N_USERS, N_FAST, ROUNDS, STEPS = 1_000, 4_096, 5, 50
POLICIES: dict[str, type[Any]] = {
    "random": RandomSlates,
    "logging (epsilon 0.5)": EpsilonGreedyOracle,
    "short-term oracle": ShortTermOracle,
    "budget oracle": BudgetOracle,
}


def clicks(engine: GemsEngine, policy: SlatePolicy) -> np.ndarray:
    engine.reset(np.arange(N_USERS))
    return np.sum([engine.step(policy(engine)).clicks.sum(1) for _ in range(engine.config.horizon)], axis=0)


def user_steps_per_second(engine: GemsEngine) -> float:
    engine.reset(np.arange(N_FAST))
    slates = [RandomSlates(seed)(engine) for seed in range(STEPS)]
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for slate in slates:
            engine.step(slate)
        rates.append(N_FAST * STEPS / (time.process_time() - started))
    return float(np.median(rates))


if __name__ == "__main__":
    rows = []
    for items in ITEM_SEEDS:
        for world in WORLDS:
            engine = make_engine(items, world)
            row: dict[str, Any] = {"world": f"gems/{items}_{world}-v0"}
            for name, kind in POLICIES.items():
                earned = clicks(engine, kind())
                row[name] = [round(float(earned.mean()), 1), round(float(earned.std() / N_USERS**0.5), 1)]
            row["user_steps_per_second"] = round(user_steps_per_second(engine))
            rows.append(row)
            print(row, flush=True)
    (RESULTS / "gems_world.json").write_text(json.dumps({"provenance": provenance([0]), "rows": rows}, indent=2) + "\n")
