"""Agents and datasets of latent slates mean nothing with other models than those that they were made with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_pgr.envs.registration import GEMS
from sb3_pgr.offline.dataset import OfflineDataset
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.saved_model import run_env_kwargs


def with_fingerprints(
    env_id: str, env_kwargs: dict[str, Any], dataset: OfflineDataset | None, run: Path | None
) -> dict[str, Any]:
    """
    Arguments of an environment that let it take no other models than those of the dataset, or of the run that goes on; without
    either, than those that there are now. Of worlds other than GeMS they stay as they are.

    :raises UsageError: if the dataset was mixed of several that were made with different models
    :raises ModelError: if there are no models
    """
    if gym.spec(env_id).entry_point != GEMS:
        return env_kwargs
    known = None
    if dataset is not None:
        known = _of_dataset(dataset)
    elif run is not None:
        known = run_env_kwargs(run, env_id).get("fingerprints")
    if known is None:
        known = gym.make(env_id, **env_kwargs).unwrapped.users.fingerprints  # type: ignore[attr-defined]
    return {**env_kwargs, "fingerprints": known} if known else env_kwargs


def _of_dataset(dataset: OfflineDataset) -> dict[str, str] | None:
    recorded = _of_parts(dataset.metadata)
    if any(other != recorded[0] for other in recorded):
        raise UsageError(
            f"{dataset.source} is mixed of datasets that were recorded with different models of slates or beliefs."
        )
    return recorded[0] if recorded else None


def _of_parts(metadata: Mapping[str, Any]) -> list[dict[str, str]]:
    own = [metadata["models"]] if "models" in metadata else []
    return own + [found for part in metadata.get("parts", ()) for found in _of_parts(part)]
