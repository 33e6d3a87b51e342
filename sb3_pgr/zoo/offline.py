"""Training from a dataset by command; the environment may be missing."""

import re
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_pgr.hybrid_sac import HybridSAC
from sb3_pgr.offline.algorithm import OfflineAlgorithm
from sb3_pgr.offline.dataset import ENV_KWARGS, WRAPPING, DatasetError, OfflineDataset
from sb3_pgr.offline.readers import load_dataset
from sb3_pgr.offline.spaces_only import SpacesOnly
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.run_folder import TRAINING_ONLY

# Arguments of environments that change nothing in what is recorded.
_NOT_THE_TASK = ("render_mode", "render_camera", "width", "height", "camera_id", "models", "fingerprints")

STAND_IN = "dataset/"  # namespace of environments that are none


def is_stand_in(env_id: str) -> bool:
    """Whether nothing can be evaluated there."""
    return env_id.startswith(STAND_IN)


def open_dataset(algorithm: type, dataset: str | None) -> OfflineDataset | None:
    """
    :param algorithm: class of ``--algo``
    :param dataset: value of ``--dataset``
    :raises UsageError: if the two do not go together, or the dataset cannot be read
    """
    offline = issubclass(algorithm, OfflineAlgorithm)
    if dataset is None and offline:
        raise UsageError(f"{algorithm.__name__} learns from a dataset: --dataset FILE.")
    if dataset is None:
        return None
    if not offline and not issubclass(algorithm, HybridSAC):
        raise UsageError(
            f"{algorithm.__name__} learns in an environment; --dataset is for bc, bcq, cql, hybrid_sac, iql and td3_bc."
        )
    try:
        return load_dataset(dataset)
    except DatasetError as error:
        raise UsageError(str(error)) from None


def open_demonstrations(algorithm: type, demonstrations: str | None) -> OfflineDataset | None:
    """
    :param algorithm: class of ``--algo``
    :param demonstrations: value of ``--demonstrations``
    :raises UsageError: if the two do not go together, or they cannot be read
    """
    if demonstrations is None:
        return None
    if not issubclass(algorithm, HybridSAC):
        raise UsageError(f"{algorithm.__name__} takes no demonstrations; --demonstrations is for hybrid_sac.")
    try:
        return load_dataset(demonstrations)
    except DatasetError as error:
        raise UsageError(str(error)) from None


def recorded_with(
    env_id: str, env_kwargs: dict[str, Any], hyperparams: dict[str, Any], *sources: OfflineDataset | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """
    Arguments of the environment that datasets or demonstrations were recorded with, and what was around it, as far as they are
    from this one.

    :param env_kwargs: arguments that were chosen, and stand; where they differ, that is said
    :param hyperparams: the same of what is around it
    :raises UsageError: if there were wrappers, and nothing is chosen: a file of data must not say which code is run
    """
    recorded: dict[str, Any] = {}
    wrapping: dict[str, Any] = {}
    for dataset in (source for source in sources if source is not None and source.env_id is not None):
        if dataset.env_id != env_id:
            print(f"{dataset.source} was recorded in {dataset.env_id}, not in {env_id}.")
            continue
        around = {name: dataset.metadata[name] for name in WRAPPING if name in dataset.metadata}
        arguments = dataset.metadata.get(ENV_KWARGS) or {}
        for known, chosen in ((arguments, env_kwargs), (around, hyperparams)):
            for name in sorted(name for name in known if chosen.get(name, known[name]) != known[name]):
                print(f"{dataset.source} was recorded with {name}={known[name]!r}; here it is {chosen[name]!r}.")
        for name in sorted(env_kwargs.keys() - arguments.keys() - {*TRAINING_ONLY, *_NOT_THE_TASK}):
            print(f"{dataset.source} was recorded without {name}, which here is {env_kwargs[name]!r}.")
        for name in (name for name in around if name != "frame_stack" and name not in hyperparams):
            raise UsageError(
                f"{dataset.source} was recorded inside of a wrapper, which is not taken from the file. "
                f'Choose it: -params {name}:"{around[name]!r}"; or none: {name}:None.'
            )
        recorded |= arguments
        wrapping |= {name: value for name, value in around.items() if name not in hyperparams}
    return recorded, wrapping


def environment_of(dataset: OfflineDataset, evaluated: bool = True) -> list[str]:
    """
    Arguments that name the dataset's environment, or a stand-in that has just its spaces.

    :param evaluated: whether evaluations are wanted, for which a named environment must be there
    """
    if dataset.env_id in gym.registry:
        return ["--env", str(dataset.env_id)]
    if dataset.env_id is not None and evaluated:
        raise UsageError(
            f"{dataset.source} is from {dataset.env_id}, which is not registered here; --gym-packages NAME imports what "
            "registers it, --env ID names another, --eval-freq -1 trains without evaluations."
        )
    env_id = f"{STAND_IN}{re.sub(r'[^A-Za-z0-9_-]', '-', Path(dataset.source).stem)}-v0"

    def stand_in(**_: Any) -> gym.Env:
        return SpacesOnly(dataset.observation_space, dataset.action_space)

    gym.register(env_id, stand_in)
    if dataset.env_id is None:
        print("Nothing says which environment the dataset is from, so there are no evaluations; --env ID names it.")
    return ["--env", env_id, "--eval-freq", "-1"]
