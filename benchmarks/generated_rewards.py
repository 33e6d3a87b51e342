"""
How right the rewards of generated transitions are where a task has only 0 and 1: rows of random actions, the generator's
default, and the tasks' own rules.

    python benchmarks/generated_rewards.py     # three minutes on one core

The reward head, and the prediction of the dynamics head that it replaces. Results are
``benchmarks/results/generated_rewards.json``.
"""

import json

import torch as th
from generated_ends import GENERATED, SEEDS, played
from provenance import RESULTS, provenance

GOALS = {"dmc/reacher-hard-v0": "finger within 0.025 of the target", "dmc/finger-turn_hard-v0": "tip within the target"}


def within(task: str, obs: th.Tensor) -> th.Tensor:
    """The goal: Reacher's observation has the way to the target, Finger's first number is how far it is."""
    return obs[:, 2:4].norm(dim=1) <= 0.025 if task == "dmc/reacher-hard-v0" else obs[:, 0] <= 0


def measure(task: str, seed: int) -> dict[str, dict[str, float]]:
    buffer = played(task, seed)
    buffer.refit()
    real = buffer.real_transitions()
    assert (within(task, real["next_observations"]) == (real["rewards"].flatten() > 0)).all()
    rows = buffer.sources["synthetic"].rows(th.arange(GENERATED))
    goal = within(task, rows.next_observations)
    assert buffer.imagination.dynamics is not None
    predicted = buffer.imagination.dynamics.outcome(rows.observations, rows.actions)[1].clamp(0, 1)
    found = {}
    for name, rewards in (("classified", rows.rewards.flatten()), ("predicted", predicted.flatten())):
        found[name] = {
            "real_mean": float(real["rewards"].mean()),
            "within_goal": float(goal.float().mean()),
            "missed_within_goal": float(1 - rewards[goal].mean()),
            "share_given_elsewhere": float(rewards[~goal].sum() / rewards.sum()),
        }
    return found


if __name__ == "__main__":
    th.set_num_threads(1)
    results: dict[str, list[dict[str, dict[str, float]]]] = {}
    for task in GOALS:
        for seed in SEEDS:
            results.setdefault(task, []).append(measure(task, seed))
            print(task, seed, results[task][-1], flush=True)
    result = {"provenance": provenance(list(SEEDS)), "goals": GOALS, "results": results}
    (RESULTS / "generated_rewards.json").write_text(json.dumps(result, indent=2) + "\n")
