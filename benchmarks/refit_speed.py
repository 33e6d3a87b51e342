"""
What a refit of the lean generator costs: fit, dynamics head, and drawing 100 000 transitions.

    python benchmarks/refit_speed.py

On 10 000 real transitions of random actions, the first fit (from scratch) and the next (which goes on from it), as it comes
and compiled (whose first fit includes compiling), on all cores. Prints and writes ``benchmarks/results/refit_speed.json``.
"""

import json
import os
import time
from typing import Any

import gymnasium as gym
import torch as th
from provenance import RESULTS, provenance

TASKS, ROWS, SAMPLES = ("HalfCheetah-v5", "dmc/quadruped-walk-v0"), 10_000, 100_000


def seconds_of(task: str, compile: bool) -> list[dict[str, Any]]:
    from sb3_pgr import PGRSAC

    settings = dict(learning_starts=ROWS, retrain_every=10 * ROWS, num_samples=SAMPLES, seed=0, device="cpu")
    model = PGRSAC("MlpPolicy", gym.make(task), compile=compile, **settings).learn(ROWS, log_interval=None)
    rows = []
    for fit in ("first", "next"):
        started = time.perf_counter()
        scalars = model.replay_buffer.refit().scalars
        row = {"task": task, "compiled": compile, "fit": fit, "seconds": round(time.perf_counter() - started, 1)}
        parts = {name: round(scalars[name], 1) for name in ("fit_seconds", "dynamics_seconds", "sample_seconds")}
        rows.append(row | parts)
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    import sb3_pgr  # noqa: F401  (registers environments)

    th.set_num_threads(os.cpu_count() or 1)
    rows = [row for task in TASKS for compile in (False, True) for row in seconds_of(task, compile)]
    result = {"provenance": provenance([0]), "threads": th.get_num_threads(), "num_samples": SAMPLES, "rows": rows}
    (RESULTS / "refit_speed.json").write_text(json.dumps(result, indent=1) + "\n")
