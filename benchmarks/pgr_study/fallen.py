"""
What a fall does to networks through the statistics of observations.

    python benchmarks/pgr_study/fallen.py    # ten minutes

Agents learn to run (dmc/cheetah-run-v0, 15 000 steps, no generator). Then the robot lies on its back and twitches. The policy
learns nothing from that, but its statistics take these in; its first layers make up for that (as in training), or do not:
the deterministic policy's returns on the same five episodes, and how much its actions (from -1 to 1) change in the last 2 000
states of training. A dynamics head, fitted on nine tenths of the steps before, is fitted once more with the fallen ones among
them: its median squared error on the last tenth, in variances of the changes.
Results are ``benchmarks/results/pgr_study/fallen.json``.
"""

import argparse
import copy
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

sys.path.insert(0, str(Path(__file__).parents[1]))
from provenance import RESULTS, provenance

from sb3_pgr import PGRSAC
from sb3_pgr.generative.dynamics import DynamicsHead
from sb3_pgr.generative.metrics import relative_dynamics_error

TASK, SEEDS, FALLEN_STEPS, EPISODES = "dmc/cheetah-run-v0", (0, 1), (0, 100, 300, 1_000, 3_000), 5
RECENT, PITCH = 2_000, 1


def fallen_steps(n: int) -> dict[str, th.Tensor]:
    """Of random actions from the back, anew every 100 steps."""
    env, rows = gym.make(TASK), []
    env.action_space.seed(0)
    physics = env.unwrapped._env.physics  # type: ignore[attr-defined]
    for step in range(n):
        if step % 100 == 0:
            obs, _ = env.reset(seed=step)
            with physics.reset_context():
                physics.named.data.qpos["rooty"] = np.pi
        action = env.action_space.sample()
        next_obs, reward, *_ = env.step(action)
        if step % 100:  # the first begins on the feet, as far as was observed
            rows.append((obs, action, [reward], next_obs))
        obs = next_obs
    names = "observations", "actions", "rewards", "next_observations"
    return {
        name: th.as_tensor(np.array(part), dtype=th.float32) for name, part in zip(names, zip(*rows, strict=True), strict=True)
    }


def returns(model: PGRSAC) -> float:
    env = Monitor(gym.make(TASK))
    env.reset(seed=10_000)
    return round(float(np.mean(evaluate_policy(model, env, EPISODES, return_episode_rewards=True)[0])), 1)


@th.no_grad()
def actions(model: PGRSAC, obs: th.Tensor) -> th.Tensor:
    """Of the deterministic policy ``(n, 6)``."""
    return model.actor(obs, deterministic=True)


def head_errors(model: PGRSAC, fallen: dict[str, th.Tensor], seed: int) -> dict[str, float]:
    """Of a dynamics head on rows it has not seen, before the fall and after, with answers kept or not."""
    real = {name: rows.float() for name, rows in model.replay_buffer.real_transitions().items()}
    held_out = th.rand(len(real["rewards"]), generator=th.Generator().manual_seed(seed)) < 0.1
    seen = {name: rows[~held_out] for name, rows in real.items()}
    scale = (real["next_observations"] - real["observations"]).std(0)

    def error(head: DynamicsHead) -> np.ndarray:
        predicted = head.outcome(real["observations"][held_out], real["actions"][held_out])[0]
        return relative_dynamics_error(predicted.numpy(), real["next_observations"][held_out].numpy(), scale.numpy())

    head = DynamicsHead(17, 6, train_steps=2_000, seed=seed)
    head.fit(seen)
    found = {"before": error(head)}
    for name in ("kept", "not kept"):
        other = copy.deepcopy(head)
        if name == "not kept":
            other.inputs = DynamicsHead(17, 6).inputs  # as if there had been no fit, but with the weights
        other.fit({part: th.cat([rows, fallen[part]]) for part, rows in seen.items() if part in fallen})
        found[name] = error(other)
    return {name: round(float(np.median(value)), 4) for name, value in found.items()}


def measure(seed: int, timesteps: int) -> dict[str, dict[str, float]]:
    """Return and deviation of the pitch after each number of fallen steps, with answers kept or not; errors of the head."""
    th.set_num_threads(1)
    fast = dict(compile=True, precision="bf16", policy_kwargs=dict(actor_average=None))  # what learns is what acts
    model = PGRSAC("MlpPolicy", TASK, synthetic_ratio=0, seed=seed, device="cpu", **fast).learn(timesteps, log_interval=None)
    recent = model.replay_buffer.real_transitions()["observations"][-RECENT:].float()
    before = actions(model, recent)
    learned, fallen = copy.deepcopy(model.policy.state_dict()), fallen_steps(FALLEN_STEPS[-1] + 100)
    found = {"dynamics head": head_errors(model, fallen, seed)}
    for n in FALLEN_STEPS:
        for kept in (True, False):
            model.policy.load_state_dict(learned)
            for row in fallen["next_observations"][:n]:
                model.policy.observe(row[None], learning=kept)
            norm = model.policy.observation_norm
            assert norm is not None
            found[f"{n} steps, answers {'kept' if kept else 'not kept'}"] = {
                "return": returns(model),
                "action_change": round(float((actions(model, recent) - before).abs().mean()), 3),
                "pitch_std": round(float(norm.std[PITCH]), 3),
            }
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timesteps", type=int, default=15_000, help="steps that the agents learn from")
    args = parser.parse_args()
    runs = {}
    for seed in SEEDS:
        runs[f"seed {seed}"] = measure(seed, args.timesteps)
        print(f"seed {seed}", *(f"{name}: {value}" for name, value in runs[f"seed {seed}"].items()), sep="\n  ", flush=True)
    path = RESULTS / "pgr_study" / "fallen.json"
    path.write_text(json.dumps({"provenance": provenance(SEEDS), "runs": runs}, indent=2) + "\n")
