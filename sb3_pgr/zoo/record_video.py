"""``record-video``: film a saved agent; by default the last model of the newest run."""

import argparse
import sys
from pathlib import Path

from rl_zoo3.utils import StoreDict

from sb3_pgr.common.run_files import VIDEOS
from sb3_pgr.common.video import record_episodes
from sb3_pgr.envs import resolve_env_id
from sb3_pgr.envs.rendering import require_renderer
from sb3_pgr.zoo.arguments import import_gym_packages, with_packages
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.rendering import chosen_size, render_kwargs
from sb3_pgr.zoo.run_folder import find_models, find_runs
from sb3_pgr.zoo.saved_model import add_model_options, chosen_model


def main() -> None:
    """Write ``<run>/videos/<env>_<timesteps>.mp4``."""
    register()
    args = _parser().parse_args(with_packages(sys.argv[1:]))
    import_gym_packages(args.gym_packages)
    if not args.list_models:
        resolve_env_id(args.env)
    if args.episodes < 1:
        raise UsageError("--episodes must be at least 1.")
    if args.algo is not None:
        resolve_algorithm(args.algo)
    if args.list_models:
        for run in find_runs(args.log_folder, args.env, args.algo):
            print("\n".join(map(str, find_models(run))))
        return
    saved, size = chosen_model(args), chosen_size(args.width, args.height)
    try:
        require_renderer()
    except RuntimeError as error:
        raise UsageError(str(error)) from None
    model, env = saved.load_with_env(args.env, args.seed, **render_kwargs(args.env, args.env_kwargs, size))
    path = args.output or saved.run / VIDEOS / f"{args.env.replace('/', '-')}_{model.num_timesteps}.mp4"
    print(f"Filming {saved.path}")
    try:
        returns = record_episodes(model, env, path, args.episodes, size, args.fps, not args.stochastic)
    finally:
        env.close()
    print(f"Returns: {', '.join(f'{value:.1f}' for value in returns)}")
    print(f"Video: {path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-pgr record-video", description=__doc__)
    parser.add_argument("--env", required=True, help="environment id")
    add_model_options(parser)
    parser.add_argument("--list-models", action="store_true", help="print the models there are, newest run first")
    parser.add_argument("--episodes", type=int, default=1)
    parser.add_argument("--width", type=int, help="pixels, with --height; the environment's own by default")
    parser.add_argument("--height", type=int, help="pixels")
    parser.add_argument("--fps", type=int, help="frames per second; the environment's own by default")
    parser.add_argument("--stochastic", action="store_true", help="draw from the policy; by default its mode is taken")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--env-kwargs", nargs="+", action=StoreDict, default={}, help="of the environment: name:value ...")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages that register environments")
    parser.add_argument("-o", "--output", type=Path, help="the mp4 file")
    return parser
