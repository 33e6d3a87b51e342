"""
Scores of the offline learners, ours and d3rlpy's, on the same files after the same number of updates.

    python benchmarks/offline_datasets.py                                     # first: makes the files
    python benchmarks/offline_quality.py --peer-python PATH [--jobs 2]        # what is missing, then the report
    python benchmarks/offline_quality.py --report

PATH is the python of an environment with d3rlpy 2.8.1 (see offline_speed.py). Ours run with the settings of ``zoo_configs``,
in bfloat16 and compiled, d3rlpy's with those of its own reproduction scripts. Its policies are saved as TorchScript and
evaluated here, in the same environments: 10 episodes at each mark, 100 of the last policy. Each run writes
``benchmarks/results/offline_quality/<dataset>/<side>_<algorithm>_seed<seed>.csv``, the report ``report.json``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parents[1] / "build" / "offline_datasets"
WORK = Path(__file__).parents[1] / "build" / "offline_quality"
DATASETS = ("halfcheetah-medium-replay", "hopper-medium-replay", "walker2d-medium-replay")
UPDATES = {"bc": 50_000, "td3_bc": 50_000, "iql": 50_000, "bcq": 20_000, "cql": 20_000}
SIDES, SEEDS, MARKS = ("sb3_pgr", "d3rlpy"), (0, 1, 2), 5
EPISODES, FINAL_EPISODES, N_ENVS = 10, 100, 10


def result_file(dataset: str, side: str, algo: str, seed: int) -> Path:
    from provenance import RESULTS

    return RESULTS / "offline_quality" / dataset / f"{side}_{algo}_seed{seed}.csv"


def ours(dataset: str, algo: str, seed: int) -> list[np.ndarray]:
    """Returns at each mark."""
    from stable_baselines3.common.callbacks import BaseCallback

    from sb3_pgr import BC, BCQ, CQL, IQL, TD3BC, load_dataset

    data = load_dataset(DATA / f"{dataset}.npz")
    kind = {"bc": BC, "bcq": BCQ, "cql": CQL, "iql": IQL, "td3_bc": TD3BC}[algo]
    model = kind(
        env=data.env_id,
        dataset=data,
        seed=seed,
        device="cpu",
        compile=True,
        precision="bf16",
        **settings_of(algo, data.env_id),
    )

    marks: list[np.ndarray] = []

    class AtMarks(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % (UPDATES[algo] // MARKS) == 0:
                marks.append(evaluate(self.model, str(data.env_id), self.num_timesteps == UPDATES[algo]))
            return True

    model.learn(UPDATES[algo], AtMarks(), log_interval=-1)
    return marks


def settings_of(algo: str, env_id: str | None) -> dict[str, Any]:
    """Of ``zoo_configs``, for the constructor."""
    from importlib import resources

    import yaml

    settings = yaml.safe_load((resources.files("sb3_pgr.zoo_configs") / f"{algo}.yml").read_text())
    chosen = settings.get(str(env_id), settings["default"])
    return {name: value for name, value in chosen.items() if name != "n_timesteps"}


def evaluate(model: Any, env_id: str, final: bool) -> np.ndarray:
    """Returns of the deterministic policy."""
    import gymnasium as gym
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_pgr.common.evaluation import evaluate_episodes

    env = make_vec_env(lambda: gym.make(env_id), N_ENVS)
    try:
        return evaluate_episodes(model, env, FINAL_EPISODES if final else EPISODES).returns
    finally:
        env.close()


class Exported:
    """A TorchScript policy with ``predict``."""

    def __init__(self, path: Path, space: Any):
        import torch as th

        self.module, self.space, self.th = th.jit.load(str(path)), space, th

    def predict(self, obs: np.ndarray, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        with self.th.no_grad():
            actions = self.module(self.th.as_tensor(obs, dtype=self.th.float32)).numpy()
        return np.clip(actions, self.space.low, self.space.high), None


def theirs(dataset: str, algo: str, seed: int, peer_python: str) -> list[np.ndarray]:
    import gymnasium as gym

    from sb3_pgr import load_dataset

    env_id = str(load_dataset(DATA / f"{dataset}.npz").env_id)
    folder = WORK / dataset / f"{algo}_{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [peer_python, __file__, "--peer", dataset, algo, str(seed), str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    space = gym.make(env_id).action_space
    policies = [Exported(folder / f"mark_{mark}.pt", space) for mark in range(1, MARKS + 1)]
    return [evaluate(policy, env_id, mark == MARKS) for mark, policy in enumerate(policies, 1)]


def peer(dataset: str, algo: str, seed: int, folder: Path) -> None:
    """Inside d3rlpy's environment: train, and save the policy at each mark."""
    import d3rlpy
    import torch as th
    from d3rlpy.models.encoders import VectorEncoderFactory

    th.set_num_threads(1)
    d3rlpy.seed(seed)
    with np.load(DATA / f"{dataset}.npz") as file:
        arrays = {name: file[name] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    timeouts = arrays.pop("timeouts") & ~arrays["terminals"]
    timeouts[-1] |= not arrays["terminals"][-1]
    data = d3rlpy.dataset.MDPDataset(**arrays, timeouts=timeouts)
    standard = d3rlpy.preprocessing.StandardObservationScaler()
    wide = VectorEncoderFactory([256, 256, 256])
    updates, algos = UPDATES[algo], d3rlpy.algos
    cosine = d3rlpy.optimizers.AdamFactory(lr_scheduler_factory=d3rlpy.optimizers.CosineAnnealingLRFactory(T_max=updates))
    config = {
        "bc": lambda: algos.BCConfig(batch_size=256, learning_rate=3e-4, observation_scaler=standard),
        "td3_bc": lambda: algos.TD3PlusBCConfig(observation_scaler=standard),
        "iql": lambda: algos.IQLConfig(
            actor_optim_factory=cosine,
            weight_temp=3.0,
            max_weight=100.0,
            expectile=0.7,
            reward_scaler=d3rlpy.preprocessing.ReturnBasedRewardScaler(multiplier=1000.0),
        ),
        "cql": lambda: algos.CQLConfig(
            actor_encoder_factory=wide, critic_encoder_factory=wide, alpha_learning_rate=0.0, conservative_weight=5.0
        ),
        "bcq": lambda: algos.BCQConfig(
            actor_encoder_factory=VectorEncoderFactory([400, 300]),
            critic_encoder_factory=VectorEncoderFactory([400, 300]),
            imitator_encoder_factory=VectorEncoderFactory([750, 750]),
        ),
    }[algo]()
    model = config.create(device="cpu:0")
    for scaler in (config.observation_scaler, config.reward_scaler):
        if scaler is not None:  # ``fit`` would do this
            slicer = d3rlpy.dataset.BasicTrajectorySlicer()
            if isinstance(scaler, d3rlpy.preprocessing.RewardScaler):
                scaler.fit_with_trajectory_slicer(data.episodes, slicer)
            else:
                scaler.fit_with_transition_picker(data.episodes, data.transition_picker)
    model.build_with_dataset(data)
    for mark in range(1, MARKS + 1):
        for _ in range(updates // MARKS):
            model.update(data.sample_transition_batch(model.batch_size))
        model.save_policy(str(folder / f"mark_{mark}.pt"))


def run(dataset: str, side: str, algo: str, seed: int, peer_python: str | None) -> None:
    import torch as th

    th.set_num_threads(1)
    started = time.time()
    if side == "d3rlpy":
        assert peer_python is not None
        returns = theirs(dataset, algo, seed, peer_python)
    else:
        returns = ours(dataset, algo, seed)
    path = result_file(dataset, side, algo, seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    step = UPDATES[algo] // MARKS
    lines = ["updates,return_mean,return_std,episodes,minutes"]
    minutes = (time.time() - started) / 60
    for mark, values in enumerate(returns, 1):
        lines.append(f"{mark * step},{values.mean():.2f},{values.std():.2f},{len(values)},{minutes:.1f}")
    path.write_text("\n".join(lines) + "\n")
    print(f"{dataset} {side} {algo} seed {seed}: {returns[-1].mean():.1f}", flush=True)


def run_missing(jobs: int, peer_python: str | None, algos: list[str]) -> None:
    """Seed by seed and algorithm by algorithm, so that a cut leaves whole comparisons behind."""
    sides = SIDES if peer_python else SIDES[:1]
    cells = [(dataset, side, algo, seed) for seed in SEEDS for algo in algos for dataset in DATASETS for side in sides]
    todo = [cell for cell in cells if not result_file(*cell).exists() and (DATA / f"{cell[0]}.npz").exists()]
    running: list[subprocess.Popen[bytes]] = []
    while todo or running:
        running = [process for process in running if process.poll() is None]
        while todo and len(running) < jobs:
            command = [sys.executable, __file__, "--run", *map(str, todo.pop(0))]
            command += ["--peer-python", peer_python] if peer_python else []
            running.append(subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}))
        time.sleep(2)


def report() -> None:
    from provenance import RESULTS, provenance

    from sb3_pgr import load_dataset
    from sb3_pgr.common.evaluation import bootstrap_interval, interquartile_mean
    from sb3_pgr.offline.scores import reference_scores

    rows: list[dict[str, Any]] = []
    for dataset in DATASETS:
        if not (DATA / f"{dataset}.npz").exists():
            continue
        data = load_dataset(DATA / f"{dataset}.npz")
        references = reference_scores(data.env_id, data.metadata)
        assert references is not None
        behaviour = round(float(references.normalize(data.episode_returns.mean())), 1)
        for algo in UPDATES:
            for side in SIDES:
                paths = [result_file(dataset, side, algo, seed) for seed in SEEDS]
                last = [float(path.read_text().split()[-1].split(",")[1]) for path in paths if path.exists()]
                if last:
                    scores = [float(references.normalize(value)) for value in last]
                    rows.append(
                        {
                            "dataset": dataset, "behaviour": behaviour, "algorithm": algo, "side": side,
                            "updates": UPDATES[algo], "scores": np.round(scores, 1).tolist(),
                            "iqm": round(interquartile_mean(scores), 1), "interval_95": bootstrap_interval(scores),
                        }
                    )  # fmt: skip
    result = {"provenance": provenance(list(SEEDS)), "final_episodes": FINAL_EPISODES, "rows": rows}
    (RESULTS / "offline_quality").mkdir(parents=True, exist_ok=True)
    (RESULTS / "offline_quality" / "report.json").write_text(json.dumps(result, indent=2) + "\n")
    print("| dataset | algorithm | updates | ours | d3rlpy | behaviour |\n|---|---|---|---|---|---|")
    cells = {(row["dataset"], row["algorithm"], row["side"]): row for row in rows}
    for dataset, algo in dict.fromkeys((row["dataset"], row["algorithm"]) for row in rows):
        texts = [
            f"{cells[cell]['iqm']} {cells[cell]['scores']}" if (cell := (dataset, algo, side)) in cells else ""
            for side in SIDES
        ]
        some = next(row for row in rows if (row["dataset"], row["algorithm"]) == (dataset, algo))
        print(f"| {dataset} | {algo} | {some['updates']:,} | {' | '.join(texts)} | {some['behaviour']} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with d3rlpy; without it only ours run")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--algos", nargs="+", default=list(UPDATES), choices=list(UPDATES))
    parser.add_argument("--run", nargs=4, metavar=("DATASET", "SIDE", "ALGO", "SEED"))
    parser.add_argument("--peer", nargs=4, metavar=("DATASET", "ALGO", "SEED", "FOLDER"))
    parser.add_argument("--report", action="store_true")
    args = parser.parse_args()
    if args.peer:
        peer(args.peer[0], args.peer[1], int(args.peer[2]), Path(args.peer[3]))
    elif args.run:
        run(args.run[0], args.run[1], args.run[2], int(args.run[3]), args.peer_python)
    else:
        if not args.report:
            run_missing(args.jobs, args.peer_python, args.algos)
        report()
