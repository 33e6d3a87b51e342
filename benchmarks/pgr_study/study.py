"""
Runs a study (tasks x arms x seeds), each run on one core (or as many as the study says), and draws what there is.

    python benchmarks/pgr_study/study.py levers             # what is missing, two runs at a time; then the report
    python benchmarks/pgr_study/study.py levers --report    # table and pictures from what there is
    python benchmarks/pgr_study/study.py levers --run dmc/cheetah-run-v0 default 0     # one run
    python benchmarks/pgr_study/study.py levers --again     # the last evaluations of finished runs once more, from final.zip

A study is a YAML file beside this one: what all arms have in common and what each changes are arguments of the algorithm.
Runs of arms ``of_earlier_code`` are shown, but not made anew. With ``latest_weights`` returns are those of the actor's latest
weights, not of their average; ``latest_return_mean`` always is.
It may be stopped at any time: a run goes on exactly from its last checkpoint (under ``build/``). Results are
``benchmarks/results/pgr_study/<study>/<task>/<arm>_seed<seed>.csv``.
"""

import argparse
import copy
import importlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]
from measures import values_and_networks  # noqa: E402
from report import finished, read, report, result_file, write  # noqa: E402

EVAL_EPISODES, FINAL_EPISODES, FINAL_ENVS = 5, 100, 20
CHECKPOINT_FREQ = 5_000


def load(name: str) -> dict[str, Any]:
    study = yaml.safe_load((HERE / f"{name}.yml").read_text())
    study["name"] = name
    return study


def new_model(study: dict[str, Any], task: str, arm: str, seed: int, device: str) -> Any:
    """The learning algorithm of a run, before its first step."""
    import sb3_pgr

    settings = study["common"] | study["arms"][arm]
    name = settings.pop("algo")
    module = "sb3_pgr" if hasattr(sb3_pgr, name) else "stable_baselines3"
    return getattr(importlib.import_module(module), name)(env=task, seed=seed, device=device, **settings)


def checkpoints(study: dict[str, Any], task: str, arm: str, seed: int) -> Path:
    """Folder of a run's checkpoints."""
    return HERE.parents[1] / "build" / "pgr_study" / study["name"] / task.replace("/", "-") / f"{arm}_seed{seed}"


def returns_of(policy: Any, task: str, seed: int, final: bool) -> Any:
    """Of the deterministic policy in episodes that are the same every time; the last ones are the same for all runs."""
    import gymnasium as gym
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    from sb3_pgr.common.evaluation import evaluate_episodes

    if final:
        envs = make_vec_env(lambda: gym.make(task), FINAL_ENVS)
        try:
            return evaluate_episodes(policy, envs, FINAL_EPISODES).returns
        finally:
            envs.close()
    env = Monitor(gym.make(task))
    env.reset(seed=10_000 + seed)
    return evaluate_policy(policy, env, EVAL_EPISODES, return_episode_rewards=True, warn=False)[0]


def evaluation(study: dict[str, Any], policy: Any, task: str, seed: int, final: bool) -> dict[str, float]:
    """Of the actor and of its latest weights, which are all that ``policy`` has afterwards."""
    averaged = getattr(policy, "averaged_actor", None) is not None and not study.get("latest_weights", False)
    of_average = returns_of(policy, task, seed, final) if averaged else None
    policy.averaged_actor = None
    latest = returns_of(policy, task, seed, final)
    returns = latest if of_average is None else of_average
    return {
        "return_mean": round(float(np.mean(returns)), 2),
        "return_std": round(float(np.std(returns)), 2),
        "episodes": len(returns),
        "latest_return_mean": round(float(np.mean(latest)), 2),
    }


def train(study: dict[str, Any], task: str, arm: str, seed: int, device: str) -> None:
    import gymnasium as gym
    import torch as th
    from stable_baselines3.common.callbacks import BaseCallback

    from sb3_pgr.common.callbacks import ResumableCheckpoint
    from sb3_pgr.common.checkpoint import latest_checkpoint

    class Evaluate(BaseCallback):
        """Evaluates the deterministic policy on the same held-out episodes every time; by the actor's latest weights, too."""

        def __init__(self) -> None:
            super().__init__()
            self.path = result_file(study, task, arm, seed)
            self.rows: list[dict[str, float]] = []

        def _on_training_start(self) -> None:
            earlier = read(self.path) if self.path.exists() else []
            self.rows = [row for row in earlier if row["timesteps"] <= self.model.num_timesteps]
            self.seconds = self.rows[-1]["training_seconds"] if self.rows else 0.0
            self.cpu_seconds = self.rows[-1]["cpu_seconds"] if self.rows else 0.0
            self.since, self.cpu_since = time.time(), time.process_time()

        def _on_step(self) -> bool:
            # Evaluate before the step that passes the mark has been learned from.
            if self.num_timesteps % study["eval_freq"] == 0 and self.num_timesteps < study["n_timesteps"]:
                self.evaluate(final=False)
            return True

        def evaluate(self, final: bool) -> None:
            self.seconds += time.time() - self.since
            self.cpu_seconds += time.process_time() - self.cpu_since
            state = np.random.get_state()
            with th.random.fork_rng():
                policy = copy.deepcopy(self.model.policy).to("cpu")  # single observations are not a GPU's work
                temperature = self.model.ent_coef_tensor if self.model.log_ent_coef is None else self.model.log_ent_coef.exp()
                evaluated = evaluation(study, policy, task, seed, final)
                why = values_and_networks(policy, gym.make(task), self.model.gamma, float(temperature), seed=20_000 + seed)
            np.random.set_state(state)
            why |= {name: value for name, value in self.model.logger.name_to_value.items() if name.startswith("pgr/")}
            times = {"training_seconds": round(self.seconds, 1), "cpu_seconds": round(self.cpu_seconds, 1)}
            row = {"timesteps": self.num_timesteps} | evaluated | times
            self.rows.append(row | {name: round(float(value), 5) for name, value in why.items()})
            write(self.path, self.rows)
            print(f"{task} {arm} seed {seed}: {self.rows[-1]}", flush=True)
            self.since, self.cpu_since = time.time(), time.process_time()

    if device == "cpu":
        th.set_num_threads(study.get("threads", 1))
    model, folder = new_model(study, task, arm, seed, device), checkpoints(study, task, arm, seed)
    last = latest_checkpoint(folder)
    checkpoint = ResumableCheckpoint(folder, CHECKPOINT_FREQ, keep=1, resume_from=last)
    if last is not None:
        checkpoint.restore(model)
    evaluate = Evaluate()
    model.learn(
        study["n_timesteps"] - model.num_timesteps,
        [checkpoint, evaluate],
        log_interval=None,
        reset_num_timesteps=last is None,
    )
    model.save(folder / "final.zip")
    evaluate.evaluate(final=True)


def evaluate_again(study: dict[str, Any], task: str, arm: str, seed: int) -> None:
    """The last evaluation of a finished run once more, if its model is still there."""
    path, saved = result_file(study, task, arm, seed), checkpoints(study, task, arm, seed) / "final.zip"
    if finished(study, task, arm, seed) and saved.exists():
        model = type(new_model(study, task, arm, seed, "cpu")).load(saved, device="cpu")
        rows = read(path)
        rows[-1] |= evaluation(study, model.policy, task, seed, final=True)
        write(path, rows)
        print(f"{task} {arm} seed {seed}: {rows[-1]['return_mean']}, latest {rows[-1]['latest_return_mean']}", flush=True)


def runs_of(study: dict[str, Any]) -> list[tuple[str, str, int]]:
    """Seed by seed and arm by arm, so that a cut leaves whole comparisons behind."""
    arms = [arm for arm in study["arms"] if arm not in study.get("of_earlier_code", ())]
    return [(task, arm, seed) for seed in study["seeds"] for arm in arms for task in study["tasks"]]


def run_missing(study: dict[str, Any], jobs: int, device: str) -> int:
    """:return: number of runs that failed"""
    failed = 0
    todo = [run for run in runs_of(study) if not finished(study, *run)]
    running: list[subprocess.Popen[bytes]] = []
    environment = {**os.environ, "OMP_NUM_THREADS": str(study.get("threads", 1))} if device == "cpu" else None
    try:
        while todo or running:
            failed += sum(bool(process.poll()) for process in running)
            running = [process for process in running if process.poll() is None]
            while todo and len(running) < jobs:
                task, arm, seed = todo.pop(0)
                run = ["--run", task, arm, str(seed), "--device", device]
                running.append(subprocess.Popen([sys.executable, __file__, study["name"], *run], env=environment))
            time.sleep(2)
    finally:
        for process in running:
            process.terminate()
    return failed


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", choices=sorted(path.stem for path in HERE.glob("*.yml")))
    parser.add_argument("--run", nargs=3, metavar=("TASK", "ARM", "SEED"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--report", action="store_true", help="only draw what there is")
    parser.add_argument("--again", action="store_true", help="the last evaluations of finished runs once more")
    args = parser.parse_args()
    study = load(args.study)
    if args.run and args.run[1] in study.get("of_earlier_code", ()):
        sys.exit(f"Runs of {args.run[1]} are of earlier code: {study['name']}.yml says which.")
    if args.run:
        for name, known, chosen in (("task", study["tasks"], args.run[0]), ("arm", list(study["arms"]), args.run[1])):
            if chosen not in known:
                sys.exit(f"{study['name']}.yml has no {name} {chosen}; there are {', '.join(known)}.")
        train(study, args.run[0], args.run[1], int(args.run[2]), args.device)
    elif args.again:
        for run in runs_of(study):
            evaluate_again(study, *run)
    else:
        failed = 0 if args.report else run_missing(study, args.jobs, args.device)
        report(study)
        if failed:
            sys.exit(f"{failed} runs failed; the report is without them.")
