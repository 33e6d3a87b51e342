"""
What known policies earn in the six worlds of GeMS, and how much that depends on the catalogue.

    python benchmarks/gems_world.py

Clicks in 100 slates, mean over 1 000 users and its standard error, all policies with the same users. The constant slate is
found by hill climbing on other users. Then means of ten other catalogues of the same law. Writes
``benchmarks/results/gems_world.json``.
"""

import json
from typing import Any

import numpy as np
from provenance import RESULTS, provenance
from sb3_pgr.envs.gems import draw_items
from sb3_pgr.envs.gems.engine import GemsEngine
from sb3_pgr.envs.gems.policies import (
    BudgetOracle,
    ConstantSlate,
    EpsilonGreedyOracle,
    RandomSlates,
    ShortTermOracle,
    SlatePolicy,
    TopK,
    hill_climbed_slate,
)
from sb3_pgr.envs.gems.world import ITEM_SEEDS, WORLDS, make_engine

N_USERS, CATALOGUES = 1_000, range(100, 110)
POLICIES: dict[str, type[Any]] = {
    "random": RandomSlates,
    "logging (epsilon 0.5)": EpsilonGreedyOracle,
    "top-k": TopK,
    "short-term oracle": ShortTermOracle,
    "budget oracle": BudgetOracle,
}


def clicks(engine: GemsEngine, policy: SlatePolicy) -> np.ndarray:
    engine.reset(np.arange(N_USERS))
    return np.sum([engine.step(policy(engine)).clicks.sum(1) for _ in range(engine.config.horizon)], axis=0)


def over_catalogues(world: str) -> dict[str, Any]:
    """Mean, lowest and highest."""
    result: dict[str, Any] = {"world": world}
    engines = [make_engine(draw_items(seed=seed), world) for seed in CATALOGUES]
    for name, kind in POLICIES.items():
        means = [clicks(engine, kind()).mean() for engine in engines]
        result[name] = [round(float(value), 1) for value in (np.mean(means), min(means), max(means))]
    return result


if __name__ == "__main__":
    rows = []
    for items in ITEM_SEEDS:
        for world in WORLDS:
            engine = make_engine(items, world)
            row: dict[str, Any] = {"world": f"gems/{items}_{world}-v0"}
            for name, kind in POLICIES.items():
                earned = clicks(engine, kind())
                row[name] = [round(float(earned.mean()), 1), round(float(earned.std() / N_USERS**0.5), 1)]
            slate = hill_climbed_slate(engine)
            earned = clicks(engine, ConstantSlate(slate))
            row["constant slate"] = [round(float(earned.mean()), 1), round(float(earned.std() / N_USERS**0.5), 1)]
            row["that slate"] = slate.tolist()
            rows.append(row)
            print(row, flush=True)
    others = []
    for world in WORLDS:
        others.append(over_catalogues(world))
        print(others[-1], flush=True)
    result = {"provenance": provenance([0]), "rows": rows, "other_catalogues": others}
    (RESULTS / "gems_world.json").write_text(json.dumps(result, indent=2) + "\n")
