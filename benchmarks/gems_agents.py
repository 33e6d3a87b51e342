"""
What trained agents earn in GeMS, and how: on 500 users that no training has seen.

    sb3-pgr gems build --env gems/focused_topdown-v0
    sb3-pgr train --algo redq --env gems/focused_topdown_latent-v0 --seed 0   # other seeds, other worlds
    python benchmarks/gems_agents.py logs/redq/gems-*                    # run folders

The last model of each run, deterministic; beside the clicks, how many of a slate's ten items differ, how many topics bore a
user at a time, how many items of the catalogue are shown at all, and minutes of training. Of the seeds of a world, mean and
95 % t interval. Writes ``benchmarks/results/gems_agents.json``.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from provenance import RESULTS, provenance
from scipy import stats

from sb3_pgr.report.clock import Clock
from sb3_pgr.zoo.registry import register
from sb3_pgr.zoo.run_folder import read_run_file
from sb3_pgr.zoo.saved_model import saved_model

N_USERS, FIRST_SEED = 500, 5 * 10**6


def judged(run: Path) -> dict[str, Any]:
    said = read_run_file(run)
    env_id = said["argv"][said["argv"].index("--env") + 1]
    saved = saved_model(run, None)
    model, env = saved.load(), saved.make_env(env_id, FIRST_SEED, N_USERS)
    env.seed(FIRST_SEED)
    obs, users = env.reset(), env.get_attr("users")[0]
    returns, bored, slates = np.zeros(N_USERS), [], []
    for _ in range(users.engine.config.horizon - 1):  # the last step begins the next episodes
        obs, clicks, _, _ = env.step(model.predict(obs, deterministic=True)[0])
        returns += clicks
        bored.append(users.engine.bored.sum(1).mean())
        slates.append(users.slates)
    returns += env.step(model.predict(obs, deterministic=True)[0])[1]
    distinct = np.mean([[len(set(slate)) for slate in of_step] for of_step in slates[::10]])
    return {
        "env": env_id,
        "seed": said["seed"],
        "timesteps": model.num_timesteps,
        "minutes": minutes(run, model.num_timesteps),
        "clicks": round(float(returns.mean()), 1),
        "standard_error": round(float(returns.std() / N_USERS**0.5), 1),
        "distinct_items_of_a_slate": round(float(distinct), 1),
        "topics_that_bore": round(float(np.mean(bored)), 2),
        "items_shown": len(np.unique(slates)),
    }


def minutes(run: Path, timesteps: int) -> float | None:
    """Of training, evaluations included; none if the run does not tell."""
    try:
        return round(float(Clock(run).seconds(np.array([timesteps]))[0]) / 60, 1)
    except ValueError:
        return None


def over_seeds(env_id: str, clicks: list[float]) -> dict[str, Any]:
    """Mean and 95 % t interval (none of one seed)."""
    result: dict[str, Any] = {"env": env_id, "seeds": len(clicks), "mean": round(float(np.mean(clicks)), 1)}
    if len(clicks) > 1:
        half = stats.t.ppf(0.975, len(clicks) - 1) * stats.sem(clicks)
        result["interval"] = [round(float(np.mean(clicks) + sign * half), 1) for sign in (-1, 1)]
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    register()
    rows = []
    for run in parser.parse_args().runs:
        rows.append(judged(run))
        print(rows[-1], flush=True)
    worlds = {row["env"]: [other["clicks"] for other in rows if other["env"] == row["env"]] for row in rows}
    summary = [over_seeds(env_id, clicks) for env_id, clicks in worlds.items()]
    print(*summary, sep="\n")
    result = {"provenance": provenance(sorted({row["seed"] for row in rows})), "rows": rows, "worlds": summary}
    (RESULTS / "gems_agents.json").write_text(json.dumps(result, indent=1) + "\n")
