"""``collect``: a dataset of what a trained agent, chance, or both do; or of what a run has seen while it learned."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from rl_zoo3.utils import get_saved_hyperparams
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecEnv
from tqdm import tqdm

from sb3_pgr.common.checkpoint import latest_checkpoint
from sb3_pgr.common.state import set_arrays
from sb3_pgr.envs import resolve_env_id
from sb3_pgr.offline.collection import collect
from sb3_pgr.offline.dataset import ENV_KWARGS, WRAPPING, DatasetError, OfflineDataset
from sb3_pgr.offline.readers import load_dataset, save_npz
from sb3_pgr.zoo.arguments import import_gym_packages, with_packages
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.interrupts import termination_interrupts
from sb3_pgr.zoo.registry import register, resolve_algorithm
from sb3_pgr.zoo.run_folder import CHECKPOINTS, TRAINING_ONLY, require_npz_target
from sb3_pgr.zoo.saved_model import SavedModel, add_model_options, chosen_model, run_env_kwargs


def main() -> None:
    """Write an npz file under D4RL's names. Ctrl-C keeps the episodes that are finished."""
    register()
    args = _parser().parse_args(with_packages(sys.argv[1:]))
    import_gym_packages(args.gym_packages)
    resolve_env_id(args.env)
    if (args.replay or args.random) and (args.noise or args.random_actions or args.stochastic):
        raise UsageError(
            "--noise, --random-actions and --stochastic change what a trained agent does; not --random or --replay."
        )
    for option, ignored in _ignored(args).items():
        if ignored:
            raise UsageError(f"--{option} means nothing here: {ignored}.")
    if min(number for number in (args.episodes, args.rows, 1) if number is not None) < 1:
        raise UsageError("--episodes and --rows must be at least 1.")
    require_npz_target(args.output)
    try:
        dataset = _replay(chosen_model(args), args) if args.replay else _rollouts(args)
    except (ValueError, DatasetError) as error:
        raise UsageError(str(error)) from None
    save_npz(dataset, args.output)
    returns = dataset.episode_returns
    print(f"{len(dataset):,} transitions, {len(returns):,} episodes, mean return {returns.mean():.1f}: {args.output}")
    if dataset.metadata.get("stopped_by", "interrupted") != "interrupted":
        raise SystemExit(1)


def _ignored(args: argparse.Namespace) -> dict[str, str]:
    """Options that were given, and why they would do nothing."""
    without = "without --noise" if args.noise_std is not None and not args.noise else ""
    replay = "--replay takes what is there" if args.replay else ""
    random = "--random is no model" if args.random else ""
    return {
        "noise-std": without,
        "seed": replay if args.seed is not None else "",
        "n-envs": replay if args.n_envs is not None else "",
        "algo": random if args.algo is not None else "",
        "exp-id": random if args.exp_id is not None else "",
        "model-path": random if args.model_path is not None else "",
        "load-best": random or replay if args.load_best else "",
        "load-checkpoint": random or replay if args.load_checkpoint is not None else "",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="sb3-pgr collect", description=__doc__)
    parser.add_argument("--env", required=True, help="environment id")
    add_model_options(parser)
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--random", action="store_true", help="uniformly random actions instead of a trained agent's")
    who.add_argument("--replay", action="store_true", help="what the run has in the replay buffer of its last checkpoint")
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--episodes", type=int, help="episodes to collect; with --replay: the first ones")
    much.add_argument("--rows", type=int, help="transitions to collect, in whole episodes; with --replay: the first ones")
    parser.add_argument("--noise", choices=["gaussian", "ou"], help="on actions: Gaussian, or Ornstein-Uhlenbeck")
    parser.add_argument("--noise-std", type=float, help="its deviation, for actions in [-1, 1] (default: 0.1)")
    parser.add_argument("--random-actions", type=float, default=0.0, metavar="P", help="chance of a random action at a step")
    parser.add_argument("--stochastic", action="store_true", help="draw from the policy instead of taking its best action")
    parser.add_argument("--n-envs", type=int, help="environments side by side (default: 4)")
    parser.add_argument("--seed", type=int, help="default: 0")
    parser.add_argument("--gym-packages", nargs="+", default=[], help="packages that register environments")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the npz file")
    return parser


@termination_interrupts()
def _rollouts(args: argparse.Namespace) -> OfflineDataset:
    if args.episodes is None and args.rows is None:
        raise UsageError("Say how much to collect: --episodes N or --rows N.")
    args.n_envs = 4 if args.n_envs is None else args.n_envs
    args.seed = 0 if args.seed is None else args.seed
    args.noise_std = 0.1 if args.noise_std is None else args.noise_std
    if args.n_envs < 1 or args.noise_std < 0:
        raise UsageError("--n-envs must be at least 1 and --noise-std not negative.")
    n_envs = args.n_envs if args.episodes is None else min(args.n_envs, max(args.episodes, 1))
    model, env, behaviour, env_kwargs = _behaviour(args, n_envs)
    set_random_seed(args.seed)  # loading a model sets that of its run
    metadata = {
        "behaviour": behaviour,
        **env_kwargs,
        "noise": args.noise and {"kind": args.noise, "std": args.noise_std},
        "random_action_probability": args.random_actions,
        **({} if args.random else {"deterministic": not args.stochastic}),
        "seed": args.seed,
    }
    with tqdm(total=args.episodes or args.rows, unit=" episodes" if args.episodes else " rows", disable=None) as bar:

        def on_episode(episodes: int, rows: int, last_return: float) -> None:
            bar.set_postfix_str(f"return {last_return:.1f}")
            bar.update((episodes if args.episodes else min(rows, args.rows)) - bar.n)

        try:
            return collect(
                env,
                model,
                args.episodes,
                args.rows,
                not args.stochastic,
                _noise(args, env),
                args.random_actions,
                args.seed,
                str(args.output),
                args.env,
                metadata,
                on_episode,
            )
        finally:
            env.close()


def _behaviour(args: argparse.Namespace, n_envs: int) -> tuple[Any, VecEnv, str, dict[str, Any]]:
    """Model, environments, what both are called, and what is to be remembered of the environments' arguments."""
    if args.random:
        return None, make_vec_env(lambda: gym.make(args.env), n_envs, args.seed), "random", {}
    saved = chosen_model(args)
    model, env = saved.load_with_env(args.env, args.seed, n_envs)
    print(f"Behaviour: {saved.path}")
    behaviour = f"{saved.algo} after {model.num_timesteps} steps"
    return model, env, behaviour, _of_environment(saved, args.env)


def _of_environment(saved: SavedModel, env_id: str) -> dict[str, Any]:
    """For a dataset's metadata."""
    own, hyperparams = run_env_kwargs(saved.run, env_id), get_saved_hyperparams(str(saved.run / env_id.replace("/", "-")))[0]
    kept = {name: value for name, value in own.items() if name not in (*TRAINING_ONLY, "fingerprints", "models")}
    models = {"models": own["fingerprints"]} if "fingerprints" in own else {}
    wrapping = {name: hyperparams[name] for name in WRAPPING if hyperparams.get(name)}
    return models | wrapping | ({ENV_KWARGS: kept} if kept else {})


def _noise(args: argparse.Namespace, env: VecEnv) -> ActionNoise | None:
    if args.noise is None:
        return None
    mean = np.zeros(env.action_space.shape or ())
    kind = NormalActionNoise if args.noise == "gaussian" else OrnsteinUhlenbeckActionNoise
    return kind(mean, args.noise_std * np.ones_like(mean))


def _whole_episodes(dataset: OfflineDataset, buffer: Any, time_limit: int) -> OfflineDataset:
    """
    Without the running episode of each environment, which the checkpoint cut, and those whose beginning was overwritten.

    :param time_limit: steps of an episode that nothing else ends; 0 if unknown: then the longest one counts as whole
    """
    ends = dataset.episode_ends
    starts = np.concatenate([[0], ends[:-1] + 1])
    newest = (ends + 1) % buffer.size() == 0
    lengths = ends - starts + 1
    is_piece = newest & ~dataset.terminals[ends] & (lengths < max(time_limit, lengths.max()))
    if buffer.full:
        is_piece |= starts % buffer.size() == 0
    if is_piece.all():
        print("No episode is whole yet: returns and lengths are those of what there is.")
        return dataset
    if not is_piece.any():
        return dataset
    print(f"Left out: {is_piece.sum()} episodes of which the buffer has only a part.")
    return dataset.select_episodes(np.flatnonzero(~is_piece))


def _replay(saved: SavedModel, args: argparse.Namespace) -> OfflineDataset:
    checkpoint = latest_checkpoint(saved.run / CHECKPOINTS)
    if checkpoint is None or not (checkpoint / "replay_buffer.pt").is_file():
        raise UsageError(f"{saved.run} has no checkpoint with a replay buffer; train with --checkpoint-freq.")
    state = th.load(checkpoint / "replay_buffer.pt", weights_only=True, mmap=True)
    model: Any = resolve_algorithm(saved.algo).load(checkpoint / "model.zip", device="cpu")
    set_arrays(model.replay_buffer, state)
    buffer = getattr(model.replay_buffer, "online", model.replay_buffer)
    if buffer.size() == 0:
        raise UsageError(f"{checkpoint} has an empty replay buffer: that run learned from a dataset.")
    time_limit = run_env_kwargs(saved.run, args.env).get("max_episode_steps", gym.spec(args.env).max_episode_steps)
    dataset = _whole_episodes(load_dataset(buffer), buffer, time_limit or 0)
    n = args.episodes
    if args.rows is not None:
        n = int(np.searchsorted(dataset.episode_ends, args.rows - 1)) + 1
    if n is not None:
        dataset = dataset.select_episodes(np.arange(min(n, len(dataset.episode_ends))))
    behaviour = f"replay of {saved.algo} at step {int(checkpoint.name.split('_')[1])}"
    metadata = {"behaviour": behaviour, **_of_environment(saved, args.env)}
    return replace(dataset, source=str(args.output), env_id=args.env, metadata=metadata)
