"""``demos``: record demonstrations of a robot task, by its scripted expert or by hand."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from tqdm import tqdm

from sb3_pgr.envs.robots.experts import STAY, expert_action
from sb3_pgr.envs.robots.interventions import BY_HAND, SOURCES, whole_action
from sb3_pgr.envs.robots.recording import Act, record_demonstrations
from sb3_pgr.envs.robots.task import RobotTask
from sb3_pgr.offline.checks import dataset_from_arrays
from sb3_pgr.offline.dataset import ENV_KWARGS
from sb3_pgr.offline.readers import save_npz
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.robots import add_env_kwargs, make_task
from sb3_pgr.zoo.run_folder import require_npz_target


def main() -> None:
    """Write an npz file under D4RL's names, with the gripper's penalties. Ctrl-C keeps the episodes that are finished."""
    parser = argparse.ArgumentParser(prog="sb3-pgr demos", description=__doc__)
    parser.add_argument("env_id", metavar="ENV", help="robots/..., see sb3-pgr list-envs")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the npz file")
    parser.add_argument("--episodes", type=int, default=20, help="how many are kept")
    parser.add_argument("--by", choices=sorted(SOURCES), default="scripted", help="who demonstrates")
    parser.add_argument("--noise", type=float, help="on the scripted expert's movements, which are in [-1, 1] (default: 0.3)")
    parser.add_argument("--keep-failures", action="store_true", help="keep episodes that did not succeed, too")
    parser.add_argument("--seed", type=int, default=0)
    add_env_kwargs(parser)
    args = parser.parse_args()
    if args.episodes < 1 or (args.noise or 0) < 0:
        raise UsageError("--episodes must be at least 1 and --noise not negative.")
    if args.noise is not None and args.by != "scripted":
        raise UsageError("--noise is for the scripted expert.")
    require_npz_target(args.output)
    noise = 0.3 if args.noise is None else args.noise
    shown: dict[str, Any] = {"render_mode": "human"} if args.by in BY_HAND else {}
    env_kwargs = dict(args.env_kwargs)
    env = make_task(args.env_id, **env_kwargs, **shown)
    if not isinstance(env.unwrapped, RobotTask):
        raise UsageError(f"{args.env_id} is no robot task; `sb3-pgr collect` records what trained agents do in it.")
    try:
        act = _act(args, noise, env.unwrapped)
        with tqdm(total=args.episodes, unit=" episodes", disable=None) as bar:

            def progress(kept: int, tried: int) -> None:
                bar.set_postfix_str(f"{tried} tried")
                bar.update(kept - bar.n)

            arrays = record_demonstrations(env, act, args.episodes, args.seed, args.keep_failures, progress)
    except (ModuleNotFoundError, RuntimeError, ValueError) as error:
        raise UsageError(str(error)) from None
    finally:
        env.close()
    if not arrays:
        raise UsageError("Interrupted before the first episode was kept; nothing is written.")
    known = {"behaviour": args.by, "seed": args.seed}
    known |= {"noise": noise} if args.by == "scripted" else {}
    known |= {ENV_KWARGS: env_kwargs} if env_kwargs else {}
    dataset = dataset_from_arrays(arrays, str(args.output), env.observation_space, env.action_space, args.env_id, known)
    save_npz(replace(dataset, env_id=args.env_id), args.output)
    print(f"{len(dataset):,} transitions of {len(dataset.episode_ends)} episodes: {args.output}")


def _act(args: argparse.Namespace, noise: float, task: RobotTask) -> Act:
    if args.by == "scripted":
        random = np.random.default_rng(args.seed)
        return lambda env: expert_action(env, noise, random)
    learned = task.gripper == "learned"
    source = SOURCES[args.by](n_arms=len(task.arms), learned=learned)
    rest = whole_action(np.zeros(3), STAY, 0, len(task.arms), learned)

    def by_hand(env: gym.Env) -> np.ndarray:
        action = source.action(env)
        return rest if action is None else action

    return by_hand
