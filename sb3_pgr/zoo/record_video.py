"""``record-video``: film a saved agent; by default the last model of the newest run."""

import argparse
import zipfile
from pathlib import Path

import yaml
from rl_zoo3 import ALGOS
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.vec_env import VecEnv

from sb3_pgr.common.state import load_vec_normalize
from sb3_pgr.common.video import record_episodes
from sb3_pgr.envs import resolve_env_id
from sb3_pgr.envs.rendering import require_renderer
from sb3_pgr.zoo.arguments import import_gym_packages
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.rendering import render_kwargs
from sb3_pgr.zoo.run_folder import CHECKPOINTS, VIDEOS, find_models, find_runs


def main() -> None:
    """Write ``<run>/videos/<env>_<timesteps>.mp4``."""
    register()
    args = _parser().parse_args()
    import_gym_packages(args.gym_packages)
    resolve_env_id(args.env)
    if args.algo is not None:
        resolve_algorithm(args.algo)
    runs = find_runs(args.log_folder, args.env, args.algo)
    if args.list_models:
        for run in runs:
            print("\n".join(map(str, find_models(run))))
        return
    model_path = args.model_path or _newest_model(runs, args)
    if not model_path.is_file():
        raise UsageError(f"There is no model {model_path}.")
    try:
        require_renderer()
    except RuntimeError as error:
        raise UsageError(str(error)) from None
    run = _run_of(model_path)
    if args.algo is None and run.parent.name not in ALGOS:
        raise UsageError(f"{model_path} does not lie in a run folder: say which algorithm it is of with --algo.")
    try:
        model = resolve_algorithm(args.algo or run.parent.name).load(model_path, buffer_size=1, device="cpu")
    except (ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UsageError(f"{model_path} cannot be loaded as a model: {error}.") from None
    env = _environment(args.env, run, model_path, (args.width, args.height), args.seed)
    name = args.env.replace("/", "-")
    path = args.output or run / VIDEOS / f"{name}_{model.num_timesteps}.mp4"
    print(f"Filming {model_path}")
    try:
        returns = record_episodes(model, env, path, args.episodes, (args.width, args.height), args.fps)
    finally:
        env.close()
    print(f"Returns: {', '.join(f'{value:.1f}' for value in returns)}")
    print(f"Video: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-pgr record-video", description=__doc__)
    parser.add_argument("--env", required=True, help="environment id")
    parser.add_argument("--algo", help="algorithm; by default that of the run")
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"), help="where runs lie")
    parser.add_argument("--model-path", type=Path, help="a model's zip; by default the last one of the newest run")
    parser.add_argument("--list-models", action="store_true", help="print the models there are, newest run first")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--width", type=int, default=480, help="pixels")
    parser.add_argument("--height", type=int, default=480, help="pixels")
    parser.add_argument("--fps", type=int, help="frames per second; the environment's own by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages that register environments")
    parser.add_argument("-o", "--output", type=Path, help="the mp4 file")
    return parser


def _newest_model(runs: list[Path], args: argparse.Namespace) -> Path:
    for run in runs:
        models = find_models(run)
        if models:
            return models[0]
    wanted = f"{args.algo or 'any algorithm'} on {args.env}"
    raise UsageError(f"There is no saved model of {wanted} in {args.log_folder}; train one first, or give --model-path.")


def _run_of(model_path: Path) -> Path:
    """The run folder that a model lies in."""
    in_checkpoint = model_path.parent.parent.name == CHECKPOINTS
    return model_path.parent.parent.parent if in_checkpoint else model_path.parent


def _environment(env_id: str, run: Path, model_path: Path, size: tuple[int, int], seed: int) -> VecEnv:
    """The run's environment, with the normalisation statistics that belong to the model."""
    folder = run / env_id.replace("/", "-")
    hyperparams, stats_path = get_saved_hyperparams(str(folder), test_mode=True)
    env_kwargs = hyperparams.pop("env_kwargs", None) or {}
    if (folder / "args.yml").is_file():
        # written by RL Zoo, which reads it back in the same way
        env_kwargs = yaml.load((folder / "args.yml").read_text(), Loader=yaml.UnsafeLoader)["env_kwargs"] or env_kwargs
    in_checkpoint = model_path.with_name("vecnormalize.pt")
    if in_checkpoint.is_file():
        hyperparams["normalize"] = False
    try:
        env = create_test_env(
            env_id,
            stats_path=stats_path,
            seed=seed,
            should_render=False,
            hyperparams=hyperparams,
            env_kwargs=render_kwargs(env_id, env_kwargs, size),
        )
    except ValueError as error:
        raise UsageError(f"{error}. A model in {run / CHECKPOINTS} has its own statistics.") from None
    return load_vec_normalize(env, in_checkpoint) if in_checkpoint.is_file() else env
