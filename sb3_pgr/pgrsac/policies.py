"""Policies of PGRSAC: those of REDQ, with layer norm in the critics unless it is refused."""

from typing import Any

from sb3_pgr.redq.policies import REDQMultiInputPolicy, REDQPolicy, SimbaPolicy


class PGRPolicy(REDQPolicy):
    """``REDQPolicy`` whose ``layer_norm`` is on by default."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"layer_norm": True, **kwargs})


class PGRMultiInputPolicy(REDQMultiInputPolicy):
    """``REDQMultiInputPolicy`` whose ``layer_norm`` is on by default."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"layer_norm": True, **kwargs})


MlpPolicy = PGRPolicy
MultiInputPolicy = PGRMultiInputPolicy

__all__ = ["MlpPolicy", "MultiInputPolicy", "PGRMultiInputPolicy", "PGRPolicy", "SimbaPolicy"]
