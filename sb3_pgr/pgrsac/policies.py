"""Policies of PGRSAC: REDQ's, with layer norm in the critics, normalised observations and an averaged actor unless refused."""

from typing import Any

from gymnasium import spaces

from sb3_pgr.redq.policies import REDQMultiInputPolicy, REDQPolicy
from sb3_pgr.redq.policies import SimbaPolicy as REDQSimbaPolicy

_ACTOR_AVERAGE = 0.05
_DEFAULTS = dict(layer_norm=True, actor_average=_ACTOR_AVERAGE)


class PGRPolicy(REDQPolicy):
    """
    ``REDQPolicy`` whose ``layer_norm`` is on by default, ``actor_average`` is 0.05, and ``normalize_observations`` is on where
    observations are flat and no features extractor is given.
    """

    def __init__(self, observation_space: spaces.Space, *args: Any, **kwargs: Any):
        flat = isinstance(observation_space, spaces.Box) and len(observation_space.shape) == 1
        normalize = flat and "features_extractor_class" not in kwargs
        super().__init__(observation_space, *args, **{**_DEFAULTS, "normalize_observations": normalize, **kwargs})


class PGRMultiInputPolicy(REDQMultiInputPolicy):
    """``REDQMultiInputPolicy`` whose ``layer_norm`` is on by default, and ``actor_average`` is 0.05."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{**_DEFAULTS, **kwargs})


class PGRSimbaPolicy(REDQSimbaPolicy):
    """REDQ's ``SimbaPolicy`` whose ``actor_average`` is 0.05 by default."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"actor_average": _ACTOR_AVERAGE, **kwargs})


MlpPolicy = PGRPolicy
MultiInputPolicy = PGRMultiInputPolicy
SimbaPolicy = PGRSimbaPolicy

__all__ = ["MlpPolicy", "MultiInputPolicy", "PGRMultiInputPolicy", "PGRPolicy", "PGRSimbaPolicy", "SimbaPolicy"]
