"""``enjoy``: RL Zoo's command, for our algorithms and environments."""

import os
import sys
from pathlib import Path

import gymnasium as gym
import rl_zoo3.enjoy

from sb3_pgr.common.run_files import env_name_of
from sb3_pgr.envs import resolve_env_id
from sb3_pgr.zoo.arguments import import_gym_packages, option, values, with_packages
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.run_folder import CHECKPOINTS, find_runs, number_of
from sb3_pgr.zoo.saved_model import make_evaluation_env


def main() -> None:
    """
    Run a trained agent. Runs are looked for in ``logs`` by default, and nothing is shown where there is no screen.

    :raises UsageError: on names that do not exist, or if there is no such run
    """
    register()
    argv = with_packages(sys.argv[1:])
    if not {"-h", "--help"} & set(argv):
        folder = option(argv, "-f", "--folder")
        if folder is None:
            folder = "logs"
            argv += ["-f", folder]
        algo, env_id = option(argv, "--algo"), option(argv, "--env")
        if algo is None or env_id is None:
            raise UsageError("Say what to watch: --algo redq --env dmc/cheetah-run-v0.")
        resolve_algorithm(algo)
        import_gym_packages(values(argv, "--gym-packages"))
        resolve_env_id(env_id)
        runs = find_runs(folder, env_id, algo)
        if not runs:
            raise UsageError(f"There is no run of {algo} on {env_id} in {folder}.")
        chosen = option(argv, "--exp-id")
        if chosen is None:
            run = _newest_with_a_model(runs)
            if run.name != f"{env_name_of(run)}_{number_of(run)}":
                raise UsageError(f"RL Zoo's enjoy does not find runs of -uuid: `sb3-pgr record-video` films {run}.")
            argv += ["--exp-id", number_of(run)]
        else:
            run = next((run for run in runs if number_of(run) == chosen), runs[0])
            if chosen.isdigit() and int(chosen) > 0 and number_of(run) != chosen:
                there = ", ".join(sorted(map(number_of, runs), key=int))
                raise UsageError(f"There is no run {chosen} of {algo} on {env_id} in {folder}; there are {there}.")
        step = "*" if "--load-last-checkpoint" in argv else option(argv, "--load-checkpoint")
        in_run = chosen is None or chosen.isdigit()  # -1: models lie in the folder itself
        if step is not None and in_run and not any(run.glob(f"rl_model_{step}_steps.zip")):
            raise UsageError(
                f"{run} has no rl_model_{step}_steps.zip, which RL Zoo's --save-freq writes; `sb3-pgr record-video` films the "
                f"models in {CHECKPOINTS}/."
            )
        if not _can_show(env_id) and "--no-render" not in argv:
            argv.append("--no-render")
            print("Nothing is shown here; `sb3-pgr record-video` films the agent.")
    sys.argv = [sys.argv[0], *argv]
    rl_zoo3.enjoy.create_test_env = make_evaluation_env  # type: ignore[assignment]
    rl_zoo3.enjoy.enjoy()


def _newest_with_a_model(runs: list[Path]) -> Path:
    """
    :param runs: newest first
    :raises UsageError: if none ended with a model
    """
    ended = [run for run in runs if any(run.glob("*.zip"))]
    if not ended:
        raise UsageError(f"{runs[0]} did not end with a model; `sb3-pgr record-video` takes its checkpoints.")
    if ended[0] != runs[0]:
        print(f"{runs[0]} did not end with a model; this is {ended[0]}.")
    return ended[0]


def _can_show(env_id: str) -> bool:
    """Whether there is a screen, and the environment draws on it."""
    has_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(has_screen) and gym.registry[env_id].entry_point != "sb3_pgr.envs.dmc:make_dmc"
