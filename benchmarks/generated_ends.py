"""
How many ends of generated transitions are found: rows of random actions, the generator's default, and the tasks' own rules.

    python benchmarks/generated_ends.py     # three minutes on one core

The termination head as it is, and without knowing the range of places from which episodes went on. Results are
``benchmarks/results/generated_ends.json``.
"""

import json

import gymnasium as gym
import numpy as np
import torch as th
from provenance import RESULTS, provenance

from sb3_pgr import GenerativeReplayBuffer
from sb3_pgr.generative.termination import TerminationHead

ROWS, GENERATED, SEEDS = 20_000, 50_000, (0, 1, 2)


class WithoutRange(TerminationHead):
    """A smooth classifier alone."""

    def _inputs(self, *places: th.Tensor) -> th.Tensor:
        self.sure_below, self.sure_above = th.zeros_like(self.low), th.zeros_like(self.high)
        inputs = super()._inputs(*places)
        inputs[:, -2 * len(self.low) :] = 0
        return inputs


def still_up(task: str, obs: th.Tensor) -> th.Tensor:
    """As Gymnasium's documentation says."""
    height, angle = obs[:, 0], obs[:, 1]
    if task == "Walker2d-v5":
        return (height > 0.8) & (height < 2.0) & (angle.abs() < 1)
    return (height > 0.7) & (angle.abs() < 0.2) & (obs[:, 1:].abs() < 100).all(1)


def played(task: str, seed: int) -> GenerativeReplayBuffer:
    """A buffer of random actions."""
    th.manual_seed(seed)
    env = gym.make(task)
    space = env.action_space
    buffer = GenerativeReplayBuffer(ROWS, env.observation_space, space, "cpu", num_samples=GENERATED, max_outside=1.0)
    space.seed(seed)
    obs, _ = env.reset(seed=seed)
    for _ in range(ROWS):
        action = space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        stored = np.array([action / space.high])
        buffer.add(
            obs[None],
            next_obs[None],
            stored,
            np.array([reward]),
            np.array([terminated or truncated]),
            [{"TimeLimit.truncated": truncated}],
        )
        obs = env.reset()[0] if terminated or truncated else next_obs
    return buffer


def measure(task: str, seed: int) -> dict[str, dict[str, float]]:
    buffer = played(task, seed)
    buffer.refit()
    real = buffer.real_transitions()
    rows = buffer.sources["synthetic"].rows(th.arange(GENERATED))
    places = rows.observations, rows.actions, rows.next_observations
    over = ~still_up(task, rows.next_observations)
    found = {}
    for kind in (TerminationHead, WithoutRange):
        head = kind(places[0].shape[1], places[1].shape[1], seed=seed)
        head.fit(real)
        drawn = head.draw(*places).flatten() > 0
        found[kind.__name__] = {
            "ends": float(over.float().mean()),
            "missed_of_ends": float((over & ~drawn).sum() / over.sum()),
            "false_of_drawn": float((drawn & ~over).sum() / drawn.sum()),
        }
    return found


def main() -> None:
    th.set_num_threads(1)
    results = {task: [measure(task, seed) for seed in SEEDS] for task in ("Walker2d-v5", "Hopper-v5")}
    for task, of_task in results.items():
        for kind in of_task[0]:
            cells = [f"{100 * found[kind][name]:5.1f} %" for found in of_task for name in ("missed_of_ends", "false_of_drawn")]
            print(f"{task:12} {kind:16} missed of ends, false of drawn, by seed: {'  '.join(cells)}")
    content = {"provenance": provenance(SEEDS), "rows": ROWS, "generated": GENERATED, "results": results}
    (RESULTS / "generated_ends.json").write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
