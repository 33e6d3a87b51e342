"""Saved models and the environments that belong to them."""

import argparse
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from gymnasium import spaces
from rl_zoo3 import ALGOS
from rl_zoo3.utils import create_test_env, get_saved_hyperparams
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecFrameStack

from sb3_pgr.common.state import load_vec_normalize
from sb3_pgr.envs import sb3_vec_env
from sb3_pgr.envs.errors import ModelError
from sb3_pgr.rewards import let_task_judge
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import resolve_algorithm
from sb3_pgr.zoo.run_folder import BEST, CHECKPOINTS, TRAINING_ONLY, find_models, find_runs, number_of, step_of


@dataclass
class SavedModel:
    """
    A model's zip in the run folder that it lies in.

    :param path: the zip
    :param algo: its algorithm's name
    """

    path: Path
    algo: str

    @property
    def run(self) -> Path:
        """The run folder."""
        in_checkpoint = self.path.parent.parent.name == CHECKPOINTS
        return self.path.parent.parent.parent if in_checkpoint else self.path.parent

    def load(self) -> BaseAlgorithm:
        """
        The model on the CPU, for predictions.

        :raises UsageError: if the file is not a model of this algorithm
        """
        algorithm = resolve_algorithm(self.algo)
        try:
            try:
                return algorithm.load(self.path, buffer_size=1, device="cpu")
            except AssertionError as error:  # hindsight replay asks for an environment; predictions do not ask for replay
                if "HerReplayBuffer" not in str(error):
                    raise
                no_replay: dict[str, Any] = {"replay_buffer_class": None, "replay_buffer_kwargs": {}}
                return algorithm.load(self.path, buffer_size=1, device="cpu", **no_replay)
        except (ValueError, KeyError, AssertionError, zipfile.BadZipFile) as error:
            raise UsageError(f"{self.path} cannot be loaded as a model: {error}.") from None

    def make_env(self, env_id: str, seed: int, n_envs: int = 1, **env_kwargs: Any) -> VecEnv:
        """
        The run's environment, with the normalisation statistics that belong to the model.

        :param env_kwargs: beside those of the run
        """
        folder = self.run / env_id.replace("/", "-")
        hyperparams, stats_path = get_saved_hyperparams(str(folder), test_mode=True)
        hyperparams.pop("env_kwargs", None)
        in_checkpoint = self.path.with_name("vecnormalize.pt")
        n_stack = 0
        if in_checkpoint.is_file():
            hyperparams["normalize"] = False
            n_stack = hyperparams.pop("frame_stack", 0)  # what is normalised is not stacked yet
        own_kwargs = run_env_kwargs(self.run, env_id)
        env_kwargs = {**own_kwargs, **env_kwargs}
        together = None if "env_wrapper" in hyperparams else sb3_vec_env(env_id, env_kwargs)
        try:
            env = make_evaluation_env(
                env_id,
                n_envs,
                stats_path=stats_path,
                seed=seed,
                should_render=False,
                hyperparams=hyperparams,
                env_kwargs=env_kwargs,
                vec_env_cls=together or DummyVecEnv,
            )
        except ModelError:
            raise
        except ValueError as error:
            raise UsageError(f"{error}. A model in {self.run / CHECKPOINTS} has its own statistics.") from None
        if in_checkpoint.is_file():
            env = load_vec_normalize(env, in_checkpoint, **(hyperparams.get("normalize_kwargs") or {}))
        return VecFrameStack(env, n_stack) if n_stack else env

    def load_with_env(self, env_id: str, seed: int, n_envs: int = 1, **env_kwargs: Any) -> tuple[BaseAlgorithm, VecEnv]:
        """
        The model, and the environment that it acts in; see ``make_env``.

        :raises UsageError: if one is not for the other
        """
        model, env = self.load(), self.make_env(env_id, seed, n_envs, **env_kwargs)
        for name in ("observation_space", "action_space"):
            known, found = getattr(model, name), getattr(env, name)
            if _sizes(known) != _sizes(found):
                env.close()
                raise UsageError(f"{self.path} is of another environment: its {name} is {known}, that of {env_id} is {found}.")
        return model, env


def make_evaluation_env(env_id: str, n_envs: int = 1, env_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> VecEnv:
    """RL Zoo's ``create_test_env``, where nobody helps the policy and a learned reward does not judge it."""
    env_kwargs = {name: value for name, value in (env_kwargs or {}).items() if name not in TRAINING_ONLY}
    env = create_test_env(env_id, n_envs, env_kwargs=env_kwargs, **kwargs)
    let_task_judge(env)
    return env


def _sizes(space: spaces.Space) -> Any:
    """Without the order of an image's axes, which SB3 changes."""
    if isinstance(space, spaces.Dict):
        return {key: _sizes(part) for key, part in space.items()}
    return type(space), sorted(space.shape or ()), getattr(space, "n", None)


def run_env_kwargs(run: Path, env_id: str) -> dict[str, Any]:
    """Arguments of a run's environment."""
    folder = run / env_id.replace("/", "-")
    own = get_saved_hyperparams(str(folder))[0].get("env_kwargs") or {}
    if (folder / "args.yml").is_file():
        # written by RL Zoo, which reads it back in the same way
        own = yaml.load((folder / "args.yml").read_text(), Loader=yaml.UnsafeLoader)["env_kwargs"] or own
    return dict(own)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """How a user says which model is meant."""
    parser.add_argument("--algo", help="algorithm; by default that of the run")
    parser.add_argument("-f", "--log-folder", type=Path, default=Path("logs"), help="where runs lie")
    parser.add_argument("--exp-id", type=int, help="number of the run; by default the newest")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model of the run's evaluations")
    which.add_argument("--load-checkpoint", type=int, metavar="STEP", help="the model of a checkpoint")
    which.add_argument("--model-path", type=Path, help="a model's zip; by default the last one of the run")


def chosen_model(args: argparse.Namespace) -> SavedModel:
    """
    The model that ``add_model_options`` describes, for ``args.env``.

    :raises UsageError: if there is none, or nobody knows its algorithm
    """
    return saved_model(args.model_path or _newest_model(args), args.algo)


def saved_model(source: Path, algo: str | None) -> SavedModel:
    """
    :param source: a model's zip, or a run folder: its last model
    :param algo: its algorithm, if it does not lie in a run folder
    :raises UsageError: if there is none, or nobody knows its algorithm
    """
    models = find_models(source.resolve()) if source.is_dir() else [source]
    if not models or not models[0].is_file():
        raise UsageError(f"There is no saved model in {source}." if source.is_dir() else f"There is no model {source}.")
    name = algo or SavedModel(models[0].resolve(), "").run.parent.name
    if algo is None and name not in ALGOS:
        raise UsageError(f"{source} does not lie in a run folder: say which algorithm it is of with --algo.")
    resolve_algorithm(name)
    return SavedModel(models[0], name)


def _newest_model(args: argparse.Namespace) -> Path:
    for run in find_runs(args.log_folder, args.env, args.algo):
        models = find_models(run) if args.exp_id in (None, int(number_of(run))) else []
        if args.load_best:
            models = [path for path in models if path.name == BEST]
        elif args.load_checkpoint is not None:
            models = [path for path in models if step_of(path) == args.load_checkpoint]
        if models:
            return models[0]
    wanted = f"{args.algo or 'any algorithm'} on {args.env}"
    if args.exp_id is not None or args.load_best or args.load_checkpoint is not None:
        raise UsageError(f"There is no such model of {wanted} in {args.log_folder}: `record-video --list-models` shows them.")
    raise UsageError(f"There is no saved model of {wanted} in {args.log_folder}; train one first, or give --model-path.")
