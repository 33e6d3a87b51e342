"""Policies of PGRSAC: those of REDQ, with layer norm in the critics and normalised observations unless they are refused."""

from typing import Any

from gymnasium import spaces

from sb3_pgr.redq.policies import REDQMultiInputPolicy, REDQPolicy, SimbaPolicy


class PGRPolicy(REDQPolicy):
    """
    ``REDQPolicy`` whose ``layer_norm`` is on by default, and ``normalize_observations`` too where observations are flat and
    no features extractor is given.
    """

    def __init__(self, observation_space: spaces.Space, *args: Any, **kwargs: Any):
        flat = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1
        defaults = dict(layer_norm=True, normalize_observations=flat and "features_extractor_class" not in kwargs)
        super().__init__(observation_space, *args, **{**defaults, **kwargs})


class PGRMultiInputPolicy(REDQMultiInputPolicy):
    """``REDQMultiInputPolicy`` whose ``layer_norm`` is on by default."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"layer_norm": True, **kwargs})


MlpPolicy = PGRPolicy
MultiInputPolicy = PGRMultiInputPolicy

__all__ = ["MlpPolicy", "MultiInputPolicy", "PGRMultiInputPolicy", "PGRPolicy", "SimbaPolicy"]
