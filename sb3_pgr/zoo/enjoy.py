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
from sb3_pgr.zoo.run_folder import BEST, CHECKPOINTS, find_runs, number_of
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
        wanted = _model_file(argv, runs[0])
        chosen = option(argv, "--exp-id")
        if chosen is None:
            run = next((run for run in runs if any(run.glob(wanted))), runs[0])
            if run != runs[0]:
                print(f"{runs[0]} has no {wanted}; this is {run}.")
            if run.name != f"{env_name_of(run)}_{number_of(run)}":
                raise UsageError(f"RL Zoo's enjoy does not find runs of -uuid: `sb3-pgr record-video` films {run}.")
            argv += ["--exp-id", number_of(run)]
        else:
            run = next((run for run in runs if number_of(run) == chosen), runs[0])
            if chosen.isdigit() and int(chosen) > 0 and number_of(run) != chosen:
                there = ", ".join(sorted(map(number_of, runs), key=int))
                raise UsageError(f"There is no run {chosen} of {algo} on {env_id} in {folder}; there are {there}.")
        place = run if chosen is None or chosen.isdigit() else run.parent  # -1: models lie in the folder itself
        if not any(place.glob(wanted)):
            saved_by = ", which RL Zoo's --save-freq writes" if wanted.startswith("rl_model") else ""
            raise UsageError(f"{place} has no {wanted}{saved_by}; `sb3-pgr record-video` films those in {CHECKPOINTS}/ too.")
        if not _can_show(env_id) and "--no-render" not in argv:
            argv.append("--no-render")
            print("Nothing is shown here; `sb3-pgr record-video` films the agent.")
    sys.argv = [sys.argv[0], *argv]
    rl_zoo3.enjoy.create_test_env = make_evaluation_env  # type: ignore[assignment]
    rl_zoo3.enjoy.enjoy()


def _model_file(argv: list[str], run: Path) -> str:
    """Name, or pattern, of the file that RL Zoo's command would load."""
    if "--load-best" in argv:
        return BEST
    step = option(argv, "--load-checkpoint") or ("*" if "--load-last-checkpoint" in argv else None)
    return f"{env_name_of(run)}.zip" if step is None else f"rl_model_{step}_steps.zip"


def _can_show(env_id: str) -> bool:
    """Whether there is a screen, and the environment draws on it."""
    has_screen = sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(has_screen) and gym.registry[env_id].entry_point != "sb3_pgr.envs.dmc:make_dmc"
