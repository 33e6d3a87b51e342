"""Normalised scores: 0 is a random policy, 100 an expert, and the name says whose."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Returns of D4RL's random and expert policies (Fu et al. 2020; d4rl/infos.py), taken with the -v2 tasks of Gym; PointMaze has
# those of maze2d-*-v1. Not here: tasks whose later versions have other ranges of returns (the pen's episodes are longer, the
# kitchen has more tasks).
D4RL = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "adroithandhammer": (-274.856578, 12794.134825157),
    "adroithandrelocate": (-6.425911, 4233.8777977289),
    "adroithanddoor": (-56.512833, 2880.5693087299),
    **dict.fromkeys(("antmaze_umaze", "antmaze_medium", "antmaze_large"), (0.0, 1.0)),
    **dict.fromkeys(("antmaze_medium_diverse_gr", "antmaze_large_diverse_gr"), (0.0, 1.0)),
    "pointmaze_umaze": (23.85, 161.86),
    "pointmaze_medium": (13.13, 277.39),
    "pointmaze_large": (6.7, 273.99),
    "pointmaze_umazedense": (68.537689, 193.66285642),
    "pointmaze_mediumdense": (44.264742, 297.45525478),
    "pointmaze_largedense": (30.569041, 303.48573827),
}


@dataclass(frozen=True)
class ReferenceScores:
    """
    What 0 and 100 are.

    :param name: whose numbers these are
    :param low: return that scores 0
    :param high: return that scores 100
    """

    name: str
    low: float
    high: float

    def normalize(self, returns: float | np.ndarray) -> Any:
        """``100 (return - low) / (high - low)``, of undiscounted returns."""
        return 100 * (returns - self.low) / (self.high - self.low)


def reference_scores(env_id: str | None, metadata: Mapping[str, Any] | None = None) -> ReferenceScores | None:
    """
    The dataset's own references if it has some, D4RL's otherwise.

    :param env_id: environment of the returns, e.g. ``"HalfCheetah-v5"``
    :param metadata: of the dataset; ``{"reference": {"name", "random", "expert"}}``, or Minari's ``ref_min_score`` and
        ``ref_max_score``
    :return: nothing if none are known
    """
    metadata = metadata or {}
    if "reference" in metadata:
        own = metadata["reference"]
        return ReferenceScores(str(own["name"]), float(own["random"]), float(own["expert"]))
    if metadata.get("ref_min_score") is not None and metadata.get("ref_max_score") is not None:
        return ReferenceScores("Minari metadata", float(metadata["ref_min_score"]), float(metadata["ref_max_score"]))
    match = re.fullmatch(r"(\w+)-v\d+", (env_id or "").lower())  # dmc/hopper-hop-v0 is another hopper
    if match is None or match[1] not in D4RL:
        return None
    version = "v1" if match[1].startswith(("pointmaze", "adroit")) else "v2"
    return ReferenceScores(f"D4RL-{version} reference on {env_id}", *D4RL[match[1]])
