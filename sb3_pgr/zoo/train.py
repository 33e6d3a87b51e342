"""``train``: RL Zoo's command with resumable checkpoints and videos."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import rl_zoo3.train
import rl_zoo3.utils
import torch as th

from sb3_pgr.common.run_files import env_name_of
from sb3_pgr.envs import resolve_env_id
from sb3_pgr.zoo.arguments import import_gym_packages, option, values, with_packages
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.manager import Extras, Manager
from sb3_pgr.zoo.offline import environment_of, open_dataset, open_demonstrations
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.rendering import chosen_size
from sb3_pgr.zoo.run_folder import read_run_file, resume_point


def main() -> None:
    """
    Train, or resume a run. Options that this command does not know itself are RL Zoo's.

    :raises UsageError: on anything that cannot work, before training starts
    """
    register()
    argv = given = with_packages(sys.argv[1:])
    if {"-h", "--help"} & set(argv):
        _parser().print_help()
        print("\nAll other options are those of RL Baselines3 Zoo:\n")
        _run_rl_zoo(["--help"])
    extras, argv = _extras(argv)
    if extras.resume is not None:
        begun = extras.resume
        stored = read_run_file(begun)
        _require_same_run(given, begun, stored)
        # Of an option said twice the last one counts: what is said now stands after what was said then.
        said = [*stored["argv"], "--seed", str(stored["seed"]), *given]
        extras, argv = _extras(said)
        extras.hyperparams, extras.argv = stored["hyperparams"], said
        if option(argv, "-i", "--trained-agent") is not None:  # all of that model is in the checkpoint, and it may be gone
            argv += ["-i", str(resume_point(begun) / "model.zip")]
    else:
        extras.argv = given
    if "--track" in argv and find_spec("wandb") is None:
        raise UsageError("--track needs Weights & Biases: pip install wandb")
    if option(argv, "--algo") is None:
        raise UsageError("Say which algorithm to train: --algo redq.")
    algorithm = resolve_algorithm(option(argv, "--algo") or "")
    import_gym_packages(values(argv, "--gym-packages"))
    for name, flags in (("-n", ("-n", "--n-timesteps")), ("--eval-episodes", ("--eval-episodes", "--n-eval-episodes"))):
        number = option(argv, *flags)
        if number is not None and number.removeprefix("-").isdigit() and int(number) < 1:
            raise UsageError(f"{name} must be at least 1.")
    device = option(argv, "--device") or "auto"
    if device.startswith("cuda") and not th.cuda.is_available():
        raise UsageError(f"--device {device}: PyTorch finds no CUDA device here.")
    trained = option(argv, "-i", "--trained-agent")
    if trained is not None and not (trained.endswith(".zip") and Path(trained).is_file()):
        raise UsageError(f"-i {trained}: there is no such zip file of a model.")
    if extras.dataset is not None and {"-optimize", "--optimize-hyperparameters"} & set(argv):
        raise UsageError("Hyper-parameters are optimised online only: there is no score to optimise without an environment.")
    if extras.resume is None:
        extras.demonstrated = open_demonstrations(algorithm, extras.demonstrations)
    extras.loaded = open_dataset(algorithm, extras.dataset)
    if extras.loaded is not None and option(argv, "--env") is None:
        argv += environment_of(extras.loaded, evaluated=not (option(argv, "--eval-freq") or "").startswith("-"))
    _check(argv)
    Manager.extras = extras
    rl_zoo3.train.ExperimentManager = Manager  # type: ignore[misc]
    # A progress bar, unless the output goes to a file.
    if sys.stdout.isatty() and not {"-P", "--progress"} & set(argv):
        argv.append("-P")
    _run_rl_zoo(argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-pgr train", allow_abbrev=False, add_help=False)
    parser.add_argument("--resume", type=Path, metavar="RUN", help="run folder to continue, exactly where its checkpoint is")
    parser.add_argument(
        "--dataset", metavar="FILE", help="learn from it alone, without an environment: npz, HDF5, Minari id or folder"
    )
    parser.add_argument("--demonstrations", metavar="FILE", help="for hybrid_sac: half of every batch comes from them")
    parser.add_argument("--final-episodes", type=int, help="episodes of an evaluation at the end (with --dataset: 100)")
    parser.add_argument("--checkpoint-freq", type=int, default=10_000, help="steps between resumable checkpoints; 0 for none")
    parser.add_argument("--keep-checkpoints", type=int, default=3, help="number of checkpoints kept")
    parser.add_argument("--video-freq", type=int, default=0, help="steps between videos; 0 for none")
    parser.add_argument("--video-episodes", type=int, default=1, help="episodes in a video")
    parser.add_argument("--video-width", type=int, help="pixels, with --video-height; the environment's own by default")
    parser.add_argument("--video-height", type=int, help="pixels")
    parser.add_argument("--video-fps", type=int, default=None, help="frames per second; the environment's own by default")
    return parser


def _extras(argv: list[str]) -> tuple[Extras, list[str]]:
    known, rest = _parser().parse_known_args(argv)
    for name in ("checkpoint_freq", "video_freq", "final_episodes"):
        if (getattr(known, name) or 0) < 0:
            raise UsageError(f"--{name.replace('_', '-')} must be 0 or more.")
    chosen_size(known.video_width, known.video_height)
    for name in ("keep_checkpoints", "video_episodes"):
        if getattr(known, name) < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1.")
    return Extras(**vars(known)), rest


def _require_same_run(argv: list[str], run: Path, stored: dict[str, Any]) -> None:
    """
    :raises UsageError: if what is said beside ``--resume`` would make it another run
    """
    for flags in (("-params", "--hyperparams"), ("-conf", "--conf-file"), ("--trial-id",)):
        if option(argv, *flags) is not None:
            raise UsageError(f"--resume continues with the hyper-parameters of the run; {flags[0]} cannot change them.")
    env_id, seed, algo, demonstrations = (option(argv, flag) for flag in ("--env", "--seed", "--algo", "--demonstrations"))
    other = {
        "--env": env_id is not None and env_id.replace("/", "-") != env_name_of(run),
        "--env-kwargs": option(argv, "--env-kwargs") is not None,
        "--eval-env-kwargs": option(argv, "--eval-env-kwargs") is not None,
        "-i": option(argv, "-i", "--trained-agent") is not None,
        "--seed": seed is not None and seed != str(stored["seed"]),
        "--demonstrations": demonstrations not in (None, option(stored["argv"], "--demonstrations")),
        "--dataset": option(argv, "--dataset") is not None and option(stored["argv"], "--dataset") is None,
        "--algo": algo is not None and algo != option(stored["argv"], "--algo"),
    }
    for flag in (flag for flag, differs in other.items() if differs):
        raise UsageError(f"--resume continues the run as it was begun; {flag} cannot change it.")


def _check(argv: list[str]) -> None:
    """Say what is wrong with the names before RL Zoo's parser does."""
    env_id = option(argv, "--env")
    if env_id is None:
        raise UsageError("Say which environment to train on: --env dmc/cheetah-run-v0. `sb3-pgr list-envs` prints them.")
    resolve_env_id(env_id)
    for argument in values(argv, "-params", "--hyperparams"):
        _check_param(argument)


def _check_param(argument: str) -> None:
    """RL Zoo evaluates the values of ``-params`` as python."""
    name, _, value = argument.partition(":")
    if not name.isidentifier() or not value:
        raise UsageError(f"-params: {argument!r} is not of the form name:value.")
    try:
        eval(value, vars(rl_zoo3.utils))
    except Exception as error:
        advice = f"Text needs quotes of its own: {name}:\"'{value}'\"."
        raise UsageError(f"-params: the value of {name} cannot be read as python ({error}). {advice}") from None


def _run_rl_zoo(argv: list[str]) -> None:
    sys.argv = [sys.argv[0], *argv]
    rl_zoo3.train.train()
