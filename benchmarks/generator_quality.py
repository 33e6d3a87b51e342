"""
The lean generator against the paper's: how like real transitions what they draw is, at the same wall-clock.

    python benchmarks/generator_quality.py
    python benchmarks/generator_quality.py --task HalfCheetah-v5
    python benchmarks/generator_quality.py --device cuda --full     # the paper's preset at its own length too

10 000 real transitions come from SB3's SAC in training. Relevance is curiosity. Each preset is asked for the relevance of the
most relevant quarter of them; what it draws is compared with those rows (marginals, correlations), and its outcomes with what
the simulator does (HalfCheetah-v5) or, where that cannot be set to an observation (quadruped-walk), with a model trained on
50 000 real transitions that the generators have not seen.

``lean`` does one refit as in training, from scratch, with 100 000 samples. ``paper`` trains for as long as that whole refit
took; its 500 samples are drawn outside of that time, in its favour. ``paper_full`` trains its own 100 000 steps. Then lean
with one setting changed. Threads are those of ``OMP_NUM_THREADS``. Writes
``benchmarks/results/generator_quality_<device>.json``.
"""

import argparse
import itertools
import json
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from provenance import RESULTS, provenance
from sb3_pgr.envs.simulator import SimulatorProbe
from torch import nn

import sb3_pgr  # noqa: F401  (registers the environments)
from sb3_pgr.generative import Imagination
from sb3_pgr.generative.metrics import correlation_error, marginal_distances, relative_dynamics_error

VARIANTS: dict[str, dict[str, Any]] = {  # of lean, one setting at a time, first seed only
    "lean, no dynamics head": {"dynamics_head": False},
    "lean, from pure noise": {"sigma_start": None, "sampler": {"n_steps": 10}},
    "lean, from pure noise, no head": {"sigma_start": None, "sampler": {"n_steps": 10}, "dynamics_head": False},
    "lean, sigma 0.5": {"sigma_start": 0.5},
    "lean, changes of observations": {"delta": True},
}
TASKS = ("HalfCheetah-v5", "dmc/quadruped-walk-v0")
SEEDS = (0, 1)
N_REAL, N_UNSEEN, N_SAMPLES, N_PAPER = 10_000, 50_000, 100_000, 500
CACHE = Path(__file__).parents[1] / "build" / "generator_quality"


def collect(task: str) -> dict[str, dict[str, np.ndarray]]:
    """``real``: what SAC saw in its first 10 000 steps; ``unseen``: what its policy does afterwards, with random actions."""
    from stable_baselines3 import SAC

    path = CACHE / f"{task.replace('/', '-')}.npz"
    if not path.exists():
        model = SAC("MlpPolicy", task, learning_starts=2_000, train_freq=4, gradient_steps=4, seed=0).learn(N_REAL)
        replay = model.replay_buffer
        assert replay is not None
        names = ("observations", "actions", "rewards", "next_observations", "dones")
        real = {f"real/{name}": getattr(replay, name)[:N_REAL, 0].astype(np.float32) for name in names}
        real["real/dones"] *= 1 - replay.timeouts[:N_REAL, 0]
        env, random, noise, unseen = gym.make(task), np.random.default_rng(0), 0.2, []
        obs, _ = env.reset(seed=100)
        env.action_space.seed(100)
        for _ in range(N_UNSEEN):
            action = env.action_space.sample() if random.random() < noise else model.predict(obs)[0]
            next_obs, _, terminated, truncated, _ = env.step(action)
            unseen.append((obs, model.policy.scale_action(action), next_obs))
            obs = next_obs
            if terminated or truncated:
                obs, noise = env.reset()[0], random.random()
        columns = zip(("observations", "actions", "next_observations"), zip(*unseen, strict=True), strict=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **real, **{f"unseen/{name}": np.array(column, np.float32) for name, column in columns})
    with np.load(path) as file:
        parts: dict[str, dict[str, np.ndarray]] = {"real": {}, "unseen": {}}
        for key in file.files:
            part, name = key.split("/")
            parts[part][name] = file[key]
    return parts


class Reference:
    """Where a step leads: the simulator if it can be set, otherwise a model of 50 000 real steps (with its own error)."""

    def __init__(self, task: str, unseen: dict[str, np.ndarray], change: np.ndarray):
        self.kind = "simulator"
        try:
            self.step = SimulatorProbe(gym.make(task)).step
            return
        except ValueError:
            self.kind = "model"
        x = np.concatenate([unseen["observations"], unseen["actions"]], 1)
        self.mean, self.scale, self.change = x.mean(0), x.std(0) + 1e-6, change + 1e-6
        y = (unseen["next_observations"] - unseen["observations"]) / self.change
        th.manual_seed(0)
        widths = [x.shape[1], 256, 256, 256]
        layers = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.SiLU())]
        self.network = nn.Sequential(*layers, nn.Linear(256, y.shape[1]))
        inputs, outputs = th.as_tensor((x - self.mean) / self.scale), th.as_tensor(y)
        optimizer = th.optim.Adam(self.network.parameters(), 1e-3)
        schedule = th.optim.lr_scheduler.CosineAnnealingLR(optimizer, 8_000)
        for _ in range(8_000):
            rows = th.randint(len(x) - 2_000, (512,))
            loss = (self.network(inputs[rows]) - outputs[rows]).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with th.no_grad():
            self.own_error = (self.network(inputs[-2_000:]) - outputs[-2_000:]).pow(2).mean().item()
        self.step = self._predict

    def _predict(self, obs: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        x = (np.concatenate([obs, actions], 1) - self.mean) / self.scale
        with th.no_grad():
            return obs + self.network(th.as_tensor(x, dtype=th.float32)).numpy() * self.change, np.zeros(len(obs))


def measure(
    real: dict[str, th.Tensor], wanted: dict[str, th.Tensor], drawn: dict[str, th.Tensor], reference: Reference
) -> dict[str, float]:
    names = ("observations", "actions", "rewards", "next_observations")
    ours, theirs = (th.cat([part[name].cpu() for name in names], 1) for part in (wanted, drawn))
    change = (real["next_observations"] - real["observations"]).std(0).cpu().numpy()
    few = {name: drawn[name][:1_000].cpu().numpy() for name in names}
    error = relative_dynamics_error(few["next_observations"], reference.step(few["observations"], few["actions"])[0], change)
    return {
        "marginal_distance": float(marginal_distances(ours, theirs).mean()),
        "correlation_error": correlation_error(ours, theirs),
        "dynamics_error_median": float(np.median(error)),
        "dynamics_error_mean": float(error.mean()),
    }


def run(task: str, device: str, full: bool) -> dict[str, Any]:
    parts = collect(task)
    real = {name: th.as_tensor(values, device=device) for name, values in parts["real"].items()}
    for name in ("rewards", "dones"):
        real[name] = real[name].reshape(-1, 1)
    real["episode_ends"] = th.zeros_like(real["dones"])
    change = (parts["real"]["next_observations"] - parts["real"]["observations"]).std(0)
    reference = Reference(task, parts["unseen"], change)
    result: dict[str, Any] = {"reference": reference.kind, "runs": []}
    if reference.kind == "model":
        result["reference_own_error"] = round(reference.own_error, 4)
    dims = real["observations"].shape[1], real["actions"].shape[1]
    for seed in SEEDS:
        budget = None
        for arm in ("lean", "paper", *(["paper_full"] if full else []), *(VARIANTS if seed == SEEDS[0] else [])):
            generator = VARIANTS.get(arm, {"preset": arm.split("_")[0]})
            imagination = Imagination(*dims, generator=generator, max_outside=1.0, device=device, seed=seed)
            relevance = imagination.relevance
            for _ in range(1_000):
                rows = th.randint(N_REAL, (256,), generator=imagination.random, device=device)
                relevance.update({name: part[rows] for name, part in real.items()})
            if arm == "paper":
                assert budget is not None
                imagination = with_steps(imagination, dims, real, budget, device, seed)
            imagination.relevance = relevance
            started = time.perf_counter()
            n_samples = N_PAPER if arm.startswith("paper") else N_SAMPLES
            drawn, report = imagination.imagine(real, n_samples)
            seconds = time.perf_counter() - started
            budget = budget or seconds
            assert drawn is not None
            values = relevance.values(real)
            wanted = {name: rows[values.topk(N_REAL // 4).indices] for name, rows in real.items()}
            reached = relevance.values({name: rows[:1_000] for name, rows in drawn.items()})
            rank = (values[None] < reached[:, None]).float().mean()
            row = {
                "arm": arm,
                "seed": seed,
                "parameters": imagination.generator.n_parameters,
                "evaluations": imagination.generator.n_evaluations,
                "train_steps": imagination.generator.config.train_steps,
                "samples": n_samples,
                "seconds": round(seconds, 1),
                **{name: round(value, 4) for name, value in measure(real, wanted, drawn, reference).items()},
                "relevance_rank": round(float(rank), 3),
                "nearest_ratio": round(report.scalars["nearest_ratio"], 3),
                "outside": round(report.scalars["outside"], 4),
            }
            print(task, row, flush=True)
            result["runs"].append(row)
    return result


def with_steps(
    imagination: Imagination, dims: tuple[int, int], real: dict[str, th.Tensor], budget: float, device: str, seed: int
) -> Imagination:
    """The paper's preset with as many training steps as fit into the budget."""
    trial = Imagination(*dims, generator={"preset": "paper", "train_steps": 10}, max_outside=1.0, device=device, seed=seed)
    trial.generator.fit(real, th.zeros(N_REAL, device=device))
    seconds = trial.generator.fit(real, th.zeros(N_REAL, device=device))["seconds"] / 10
    steps = {"preset": "paper", "train_steps": max(int(budget / seconds), 10)}
    return Imagination(*dims, generator=steps, max_outside=1.0, device=device, seed=seed)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--full", action="store_true", help="the paper's preset at its own length too (a GPU)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    path = RESULTS / f"generator_quality_{args.device}.json"
    tasks = {task: run(task, args.device, args.full) for task in ([args.task] if args.task else TASKS)}
    earlier = json.loads(path.read_text())["tasks"] if path.exists() else {}
    path.write_text(json.dumps({"provenance": provenance(SEEDS), "tasks": earlier | tasks}, indent=2) + "\n")
