"""``benchmark``: datasets or environments, times algorithms, times seeds: as many runs at once as the machine bears."""

import argparse
import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sb3_pgr.common.checkpoint import latest_checkpoint
from sb3_pgr.envs import resolve_env_id
from sb3_pgr.offline.algorithm import OfflineAlgorithm
from sb3_pgr.zoo.benchmark_report import read_run, write_report
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.hyperparams import check_hyperparams
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.run_folder import CHECKPOINTS
from sb3_pgr.zoo.scores import SCORES

KEYS = {"tasks", "algorithms", "seeds", "n_timesteps", "eval_freq", "eval_episodes", "final_episodes"}
ARGUMENTS, GRACE_SECONDS = "arguments.json", 120
DEFAULTS = {"eval_freq": 10_000, "eval_episodes": 10, "final_episodes": 100}


@dataclass(frozen=True)
class Run:
    """
    One training.

    :param task: its name in the specification
    :param arm: name of the algorithm with its settings
    :param arguments: of ``train``, without folder and seed
    :param folder: where it writes
    """

    task: str
    arm: str
    seed: int
    arguments: tuple[str, ...]
    folder: Path

    @property
    def run_folder(self) -> Path | None:
        """What ``train`` made, if it began."""
        return next(iter(sorted(path.parent for path in self.folder.glob("*/*/run.json"))), None)

    @property
    def other_arguments(self) -> bool:
        """Whether there is a run of other settings in its place."""
        path = self.folder / ARGUMENTS
        return path.is_file() and json.loads(path.read_text()) != list(self.arguments)

    @property
    def finished(self) -> bool:
        return self.run_folder is not None and (self.run_folder / SCORES).is_file()

    def command(self) -> list[str]:
        """That starts it, or goes on from its last checkpoint."""
        program = [sys.executable, "-m", "sb3_pgr", "train"]
        if self.run_folder is not None and latest_checkpoint(self.run_folder / CHECKPOINTS) is not None:
            return [*program, "--resume", str(self.run_folder)]
        shutil.rmtree(self.folder, ignore_errors=True)
        return [*program, "-f", str(self.folder), "--seed", str(self.seed), *self.arguments]


def main() -> None:
    """Run what is missing, then write ``table.md``, ``runs.csv`` and ``curves.png``."""
    register()
    parser = argparse.ArgumentParser(prog="sb3-pgr benchmark", description=__doc__)
    parser.add_argument("spec", type=Path, help="YAML: tasks, algorithms, seeds, n_timesteps (docs/offline.md)")
    parser.add_argument("-o", "--output", type=Path, help="folder of the runs and the report (default: logs/<name of spec>)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time, each on one core")
    parser.add_argument("--report", action="store_true", help="only table and picture, of the runs there are")
    args = parser.parse_args()
    if args.jobs < 1:
        raise UsageError("--jobs must be at least 1.")
    output = args.output or Path("logs") / args.spec.stem
    runs = read_spec(args.spec, output)
    others = [f"{run.task} {run.arm} seed {run.seed}" for run in runs if run.other_arguments]
    if others:
        raise UsageError(f"In {output} are runs of other settings: {', '.join(others)}. Remove them, or choose another -o.")
    failed = []
    if not args.report:
        with _alone(output) as lock:
            failed = run_missing(runs, args.jobs, lock)
    finished = [read_run(run.task, run.arm, run.seed, run.run_folder) for run in runs if run.finished and run.run_folder]
    if not finished:
        raise UsageError(f"None of the {len(runs)} runs has finished.")
    write_report(finished, output)
    print(f"{len(finished)} of {len(runs)} runs: {output / 'table.md'}, {output / 'curves.png'}, {output / 'runs.csv'}")
    for run in failed:
        print(f"Failed: {run.task} {run.arm} seed {run.seed}, see {_log(run)}", file=sys.stderr)
    if failed:
        sys.exit(1)


@contextmanager
def _alone(output: Path) -> Iterator[int]:
    """
    The descriptor of a lock; runs inherit it, so that it holds on as long as any of them.

    :raises UsageError: if another command, or a run that one left behind, works in this folder
    """
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"A benchmark, or a run of one that was killed, still works in {output}.") from None
        yield lock.fileno()


def read_spec(path: Path, output: Path) -> list[Run]:
    """
    All runs of a specification, seed by seed, so that a cut leaves whole comparisons behind.

    :raises UsageError: listing everything that is wrong with it
    """
    try:
        spec = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise UsageError(f"There is no file {path}.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {error}") from None
    problems = _problems(spec)
    if problems:
        raise UsageError("\n".join([f"{path}: {len(problems)} problem(s)", *(f"  - {problem}" for problem in problems)]))
    spec = DEFAULTS | spec
    common = ["-n", str(spec["n_timesteps"]), "--eval-freq", str(spec["eval_freq"]), "--num-threads", "1", "--verbose", "0"]
    common += ["--eval-episodes", str(spec["eval_episodes"]), "--final-episodes", str(spec["final_episodes"])]
    runs = []
    for seed in spec["seeds"]:
        for arm, settings in spec["algorithms"].items():
            settings = dict(settings or {})
            algo = settings.pop("algo", arm)
            params = [f"{name}:{value!r}" for name, value in settings.items()]
            for task, where in spec["tasks"].items():
                arguments = ["--algo", algo, *_flags(where), *common, *(["-params", *params] if params else [])]
                folder = output / task.replace("/", "-") / arm / f"seed_{seed}"
                runs.append(Run(task, arm, seed, tuple(arguments), folder))
    return runs


def _problems(spec: Any) -> list[str]:
    if not isinstance(spec, dict):
        return ["it must be a mapping"]
    found = [f"unknown key '{key}'; there are {', '.join(sorted(KEYS))}" for key in spec.keys() - KEYS]
    found += [f"{key} is missing" for key in ("tasks", "algorithms", "seeds", "n_timesteps") if not spec.get(key)]
    seeds = spec.get("seeds") or []
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds) or len(set(seeds)) < len(seeds):
        found.append(f"seeds must be a list of different whole numbers, not {seeds!r}")
    for key in ("n_timesteps", "eval_freq", "eval_episodes", "final_episodes"):
        if key in spec and (type(spec[key]) is not int or spec[key] < 1):
            found.append(f"{key} must be a whole number of at least 1, not {spec[key]!r}")
    tasks, arms = spec.get("tasks") or {}, spec.get("algorithms") or {}
    for name, value in (("tasks", tasks), ("algorithms", arms)):
        if not isinstance(value, dict):
            return [*found, f"{name} must be a mapping, not {value!r}"]
    offline: set[bool] = set()
    for arm, settings in arms.items():
        try:
            algorithm = resolve_algorithm(dict(settings or {}).get("algo", arm))
            offline.add(issubclass(algorithm, OfflineAlgorithm))
            chosen = {name: value for name, value in (settings or {}).items() if name != "algo"}
            check_hyperparams(algorithm, chosen, (), f"algorithms: {arm}")
            found += [
                f"algorithms: {arm}: {name} must be finite numbers, not {value!r}"
                for name, value in chosen.items()
                if _not_finite(value)
            ]
        except (UsageError, TypeError, ValueError) as error:
            found.append(f"algorithms: {arm}: {error}")
    for task, where in tasks.items():
        found += [f"tasks: {task}: {problem}" for problem in _task_problems(where, offline)]
    return found


def _not_finite(value: Any) -> bool:
    """Whether there is a NaN or an infinity in it, which a command line cannot hand on."""
    if isinstance(value, dict | list):
        return any(_not_finite(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and not math.isfinite(value)


def _task_problems(where: Any, offline: set[bool]) -> list[str]:
    where = {"env": where} if isinstance(where, str) else where
    if not isinstance(where, dict) or not where or where.keys() - {"dataset", "env"}:
        return [f"must be an environment id, or a mapping of dataset and env, not {where!r}"]
    found = []
    if "env" in where:
        try:
            resolve_env_id(where["env"])
        except Exception as error:
            found.append(str(error))
    if "dataset" in where and "npz" in str(where["dataset"]) and not Path(where["dataset"]).is_file():
        found.append(f"there is no file {where['dataset']}")
    if "dataset" in where and False in offline:
        found.append("it is a dataset, but not all algorithms learn from one")
    if "dataset" not in where and True in offline:
        found.append("it has no dataset, but some algorithms learn from one")
    return found


def _flags(where: Any) -> list[str]:
    where = {"env": where} if isinstance(where, str) else where
    return [part for name, value in where.items() for part in (f"--{name}", str(value))]


def _log(run: Run) -> Path:
    return run.folder.with_suffix(".log")


def run_missing(runs: list[Run], jobs: int, lock: int) -> list[Run]:
    """
    Run what has not finished; at Ctrl-C or SIGTERM the running ones save a checkpoint.

    :param lock: descriptor that runs inherit

    :return: runs that failed
    """
    todo = [run for run in runs if not run.finished]
    print(f"{len(runs)} runs, {len(runs) - len(todo)} finished before; {min(jobs, len(todo))} at a time.")
    running: dict[Run, subprocess.Popen[bytes]] = {}
    failed: list[Run] = []
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while todo or running:
            while todo and len(running) < jobs:
                run = todo.pop(0)
                running[run] = _start(run, lock)
            for run, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[run]
                ok = process.returncode == 0 and run.finished
                failed += [] if ok else [run]
                left = len(todo) + len(running)
                print(f"{'finished' if ok else 'FAILED'}: {run.task} {run.arm} seed {run.seed}; {left} left", flush=True)
            time.sleep(0.5)
    finally:
        for process in running.values():
            process.send_signal(signal.SIGINT)
        for process in running.values():
            try:
                process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
        signal.signal(signal.SIGTERM, previous)
    return failed


def _start(run: Run, lock: int) -> subprocess.Popen[bytes]:
    command = run.command()
    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / ARGUMENTS).write_text(json.dumps(run.arguments))
    with open(_log(run), "ab") as log:
        # A group of its own: Ctrl-C reaches this command alone, which then hands it on once.
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[lock],
            start_new_session=True,
            preexec_fn=_hear_interrupts,
        )


def _hear_interrupts() -> None:
    """A command that was started in the background ignores Ctrl-C, and so would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
