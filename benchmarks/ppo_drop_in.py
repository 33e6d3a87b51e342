"""
PPO of plain SB3 with its own rollout buffer and with TensorRolloutBuffer: the same learning curve?

    python benchmarks/ppo_drop_in.py

CartPole-v1, 5 seeds, SB3's defaults, 40 000 steps; the deterministic policy is evaluated on 10 episodes every 4 000
steps. Both see the same minibatches; advantages differ in the last digits, so the runs drift apart.
Writes ``benchmarks/results/ppo_drop_in.json``.
"""

import json

import numpy as np
import torch as th
from provenance import RESULTS, provenance
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_pgr.buffers import TensorRolloutBuffer

SEEDS = range(5)
N_TIMESTEPS, EVAL_FREQ = 40_960, 4_096


def curve(buffer_class: type | None, seed: int) -> list[float]:
    model = PPO("MlpPolicy", make_vec_env("CartPole-v1", 2), n_steps=1024, seed=seed, rollout_buffer_class=buffer_class)
    evaluation = make_vec_env("CartPole-v1", seed=1000 + seed)
    returns = []
    for _ in range(N_TIMESTEPS // EVAL_FREQ):
        model.learn(EVAL_FREQ, reset_num_timesteps=False)
        returns.append(float(evaluate_policy(model, evaluation, n_eval_episodes=10)[0]))
    return returns


def main() -> None:
    th.set_num_threads(1)
    curves: dict[str, list[list[float]]] = {"SB3 RolloutBuffer": [], "TensorRolloutBuffer": []}
    for seed in SEEDS:
        for name, buffer_class in zip(curves, (None, TensorRolloutBuffer), strict=True):
            curves[name].append(curve(buffer_class, seed))
            print(f"seed {seed}, {name}: {curves[name][-1]}", flush=True)
    timesteps = list(range(EVAL_FREQ, N_TIMESTEPS + 1, EVAL_FREQ))
    summary = {name: np.array(values).mean(0).round(1).tolist() for name, values in curves.items()}
    result = {"provenance": provenance(SEEDS), "timesteps": timesteps, "mean_return": summary, "returns": curves}
    (RESULTS / "ppo_drop_in.json").write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
