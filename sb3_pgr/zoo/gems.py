"""``gems``: build the models of a GeMS world; record datasets of latent actions in it."""

import argparse
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from rl_zoo3.utils import get_saved_hyperparams
from stable_baselines3.common.utils import set_random_seed
from tqdm import tqdm

from sb3_pgr.envs import resolve_env_id
from sb3_pgr.envs.gems import GemsConfig
from sb3_pgr.envs.gems.build import PRESETS, build_models
from sb3_pgr.envs.gems.datasets import Act, record, through_decoder
from sb3_pgr.envs.gems.model_files import models_folder
from sb3_pgr.envs.gems.policies import BudgetOracle, EpsilonGreedyOracle, RandomSlates, SlatePolicy
from sb3_pgr.envs.gems.users import Users, make_users
from sb3_pgr.envs.gems.world import make_engine
from sb3_pgr.envs.registration import GEMS
from sb3_pgr.offline.checks import dataset_from_arrays
from sb3_pgr.offline.dataset import ENV_KWARGS, DatasetError, OfflineDataset
from sb3_pgr.offline.readers import save_npz
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register
from sb3_pgr.zoo.run_folder import require_npz_target, require_writable
from sb3_pgr.zoo.saved_model import SavedModel, run_env_kwargs, saved_model

FIRST_USER, OF_A_SEED = 3 * 10**12, 10**7  # no evaluation and no model has seen these users
BEHAVIOURS = ("random", "random-slates", "logging", "medium", "expert")
JUDGED_USERS = 300


def main() -> None:
    """Run one of the verbs."""
    register()
    parser = argparse.ArgumentParser(prog="sb3-pgr gems", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    build = verbs.add_parser("build", help="train the model of slates and the belief encoder")
    build.add_argument("--preset", choices=sorted(PRESETS), default="fast", help="how much is logged and learned")
    build.add_argument("--device", default="cpu", help="cpu or cuda")
    build.add_argument("--no-compile", action="store_true", help="without torch.compile, which needs a C++ compiler")
    collect = verbs.add_parser("collect", help="record a dataset")
    collect.add_argument(
        "--behaviour", nargs="+", choices=BEHAVIOURS, required=True, help="several: equal shares of users, a mixed dataset"
    )
    collect.add_argument("--run", type=Path, help="run folder of the agent, for medium and expert")
    collect.add_argument("--users", type=int, default=1_000, help="a hundred transitions each")
    collect.add_argument(
        "--through-decoder", action="store_true", help="show what the latent actions of random-slates and logging decode to"
    )
    collect.add_argument(
        "--observations", choices=("belief", "privileged"), default="belief", help="what a learner is to see of the users"
    )
    collect.add_argument("-o", "--output", type=Path, required=True, help="the npz file")
    for verb in (build, collect):
        verb.add_argument("--env", required=True, help="e.g. gems/focused_topdown-v0")
        verb.add_argument("--models", type=Path, help="folder of the models (default: one of the world, in the user's cache)")
        verb.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.seed < 0:
        raise UsageError(f"--seed {args.seed} must be 0 or more.")
    items, world = _world(args.env)
    args.env_id = f"gems/{items}_{world}_latent-v0"
    try:
        (_build if args.verb == "build" else _collect)(args, items, world)
    except (ValueError, DatasetError) as error:
        raise UsageError(str(error)) from None


def _world(env_id: str) -> tuple[str, str]:
    """Items and world of an id, with or without ``_latent``."""
    resolve_env_id(env_id)
    if gym.spec(env_id).entry_point != GEMS:
        raise UsageError(f"{env_id} is no world of GeMS; they are gems/{{focused,diffuse}}_{{topdown,mix,divpen}}-v0.")
    kwargs = gym.spec(env_id).kwargs
    return kwargs["items"], kwargs["world"]


def _build(args: argparse.Namespace, items: str, world: str) -> None:
    folder = args.models or models_folder(items, world)
    require_writable(folder)
    try:
        th.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {args.device}: {str(error).splitlines()[0]}") from None
    bars: dict[str, Any] = {}

    def progress(what: str, step: int, steps: int, loss: float) -> None:
        if what not in bars:
            bars[what] = tqdm(total=steps, desc=what, unit=" steps", disable=None)
        bar = bars[what]
        bar.set_postfix_str(f"loss {loss:.3f}")
        bar.update(step - bar.n)

    preset = PRESETS[args.preset]
    print(f"{preset.users:,} users of the logging policy are simulated first.")
    engine = make_engine(items, world)
    summary = build_models(engine, folder, preset, args.seed, args.device, not args.no_compile, progress)
    for bar in bars.values():
        bar.close()
    print(f"{folder}: {summary['seconds']:.0f} seconds")
    for name in ("slate_vae", "belief_explained_variance"):
        print(f"  {name}: " + ", ".join(f"{key} {value:.3f}" for key, value in summary[name].items()))


def _collect(args: argparse.Namespace, items: str, world: str) -> None:
    if len(set(args.behaviour)) < len(args.behaviour):
        raise UsageError("--behaviour: each only once; shares are equal.")
    if args.users < len(args.behaviour):
        raise UsageError(f"--users must be at least {len(args.behaviour)}, one for each behaviour.")
    agents = sorted({"medium", "expert"} & set(args.behaviour))
    if agents and args.run is None:
        raise UsageError(
            f"Whose behaviour is {' and '.join(agents)}? --run RUN_FOLDER, of an agent trained on gems/..._latent."
        )
    if agents and args.observations != "belief":
        raise UsageError(f"--observations {args.observations}: agents act on beliefs; leave out {' and '.join(agents)}.")
    if args.run is not None and not (args.run / args.env_id.replace("/", "-")).is_dir():
        raise UsageError(f"{args.run} is no run on {args.env_id}.")
    if args.through_decoder and not {"random-slates", "logging"} & set(args.behaviour):
        raise UsageError("--through-decoder is for random-slates and logging; other behaviours show what is decoded anyway.")
    require_npz_target(args.output)
    own = {} if args.run is None else run_env_kwargs(args.run, args.env_id)
    changes = {name: value for name, value in own.items() if name in {field.name for field in fields(GemsConfig)}}
    models = args.models or own.get("models")
    users = make_users(items, world, "latent", args.observations, models, fingerprints=own.get("fingerprints"), **changes)
    if args.observations != "belief":
        changes["observations"] = args.observations
    if models is not None:
        changes["models"] = str(models)
    acting = _agents(agents, users, args)
    columns: list[dict[str, np.ndarray]] = []
    shares = {name: len(part) for name, part in zip(args.behaviour, np.array_split(range(args.users), len(args.behaviour)))}
    with tqdm(total=args.users, unit=" users", disable=None) as bar:
        done = 0
        for name, share in shares.items():
            act, show = (acting[name][1], None) if name in acting else _behaviour(name, users, args)
            set_random_seed(args.seed + done)  # loading an agent sets that of its run
            first = FIRST_USER + args.seed * OF_A_SEED + done
            columns.append(record(users, act, show, first, share, bar.update))
            done += share
    arrays = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
    known = {"behaviour": shares, **({"agents": {name: saved for name, (saved, _) in acting.items()}} if acting else {})}
    dataset = _dataset(arrays, users, args, known, changes)
    save_npz(dataset, args.output)
    returns = dataset.episode_returns
    print(f"{len(dataset):,} transitions of {len(returns):,} users, mean return {returns.mean():.1f}: {args.output}")


def _behaviour(name: str, users: Users, args: argparse.Namespace) -> tuple[Act | None, SlatePolicy | None]:
    if name in ("random-slates", "logging"):
        policy: SlatePolicy = RandomSlates(args.seed) if name == "random-slates" else EpsilonGreedyOracle(0.5, args.seed)
        return (through_decoder(users, policy), None) if args.through_decoder else (None, policy)
    generator, size = np.random.default_rng(args.seed), users.actions.space.shape or ()
    return lambda obs: generator.uniform(-1, 1, (users.engine.n_users, *size)), None


def _agents(names: list[str], users: Users, args: argparse.Namespace) -> dict[str, tuple[dict[str, Any], Act]]:
    """
    Agents of the run by the name of their behaviour, each with what a dataset is to say of it.

    :raises UsageError: if the run is unfinished, or acts on something else than raw beliefs
    """
    if not names:
        return {}
    expert = saved_model(args.run, None)
    if expert.path != expert.run / f"{args.env_id.replace('/', '-')}.zip":
        raise UsageError(f"{args.run} has no final model: it is not finished. Go on with: sb3-pgr train --resume {args.run}")
    hyperparams = get_saved_hyperparams(str(expert.run / args.env_id.replace("/", "-")))[0]
    for wrapped in ("normalize", "frame_stack", "env_wrapper"):
        if hyperparams.get(wrapped):
            raise UsageError(f"{args.run} was trained with {wrapped}: its agent does not act on beliefs as they are.")
    found = {}
    for name in names:
        saved = expert if name == "expert" else _medium(expert, users)
        act, timesteps = _acting(saved, users)
        found[name] = {"run": str(args.run), "model": saved.path.name, "timesteps": timesteps}, act
    return found


def _acting(saved: SavedModel, users: Users) -> tuple[Act, int]:
    """The agent with the exploration that it has learned, and the steps that it learned for."""
    model = saved.load()
    for known, own in ((model.observation_space, users.observations.space), (model.action_space, users.actions.space)):
        if known.shape != own.shape:
            raise UsageError(f"{saved.path} was trained on {known}; latent slates and beliefs are {own}.")
    return lambda obs: model.predict(obs, deterministic=False)[0], model.num_timesteps


def _medium(expert: SavedModel, users: Users) -> SavedModel:
    """The saved model of the run whose return is nearest to the middle between chance and the last one."""
    candidates = [SavedModel(path, expert.algo) for path in expert.run.glob("rl_model_*_steps.zip")]
    if not candidates:
        raise UsageError(f"{expert.run} has no models saved along the way; train with --save-freq, for instance 10000.")
    returns = [_earned(_acting(saved, users)[0], users) for saved in candidates]
    chance = record(users, None, RandomSlates(), FIRST_USER, JUDGED_USERS)["rewards"].sum() / JUDGED_USERS
    middle = (chance + _earned(_acting(expert, users)[0], users)) / 2
    best = int(np.argmin(np.abs(np.array(returns) - middle)))
    print(f"Medium: {candidates[best].path.name}, {returns[best]:.0f} clicks; halfway to the expert is {middle:.0f}.")
    return candidates[best]


def _earned(act: Act, users: Users) -> float:
    return float(record(users, act, None, FIRST_USER, JUDGED_USERS)["rewards"].sum() / JUDGED_USERS)


def _dataset(
    arrays: dict[str, np.ndarray], users: Users, args: argparse.Namespace, known: dict[str, Any], changes: dict[str, Any]
) -> OfflineDataset:
    model = users.actions.model  # type: ignore[attr-defined]
    engine = users.engine
    references = {
        name: record(users, None, policy, FIRST_USER, JUDGED_USERS)["rewards"].sum() / JUDGED_USERS
        for name, policy in (("random", RandomSlates()), ("expert", BudgetOracle()))
    }
    metadata = {
        **known,
        "through_decoder": args.through_decoder,
        "seed": args.seed,
        "items": engine.items.fingerprint,
        "world": asdict(engine.config),
        "latent_bounds": [model.low.tolist(), model.high.tolist()],
        "models": users.fingerprints,
        **({ENV_KWARGS: changes} if changes else {}),
        "reference": {"name": "random slates and budget oracle", **{key: float(value) for key, value in references.items()}},
    }
    space = users.observations.space
    return dataset_from_arrays(arrays, str(args.output), space, users.actions.space, args.env_id, metadata)
