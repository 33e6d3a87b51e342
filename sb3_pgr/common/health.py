"""Stops training at the first bad number."""

from typing import Any

import numpy as np


class NonFiniteTransitionError(ValueError):
    """An environment returned NaN or infinity."""


def check_finite_transition(obs: Any, reward: np.ndarray, timestep: int) -> None:
    """
    :param obs: observations ``(n_envs, ...)``, or a dict of such
    :param reward: rewards ``(n_envs,)``
    :param timestep: named in the message
    :raises NonFiniteTransitionError: naming the step, the environment and the field
    """
    fields = {f"observation '{key}'": value for key, value in obs.items()} if isinstance(obs, dict) else {"observation": obs}
    for field, value in {**fields, "reward": reward}.items():
        finite = np.isfinite(value)
        if not finite.all():
            env, *where = np.argwhere(~finite)[0].tolist()
            index = f" at index {tuple(where)}" if where else ""
            raise NonFiniteTransitionError(
                f"Step {timestep}: environment {env} returned {value[(env, *where)]} in its {field}{index}. "
                "Training stopped; nothing of this step was stored."
            )
