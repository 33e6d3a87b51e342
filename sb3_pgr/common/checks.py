"""Arguments that several classes check alike."""

import math
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy


def check_counts(**counts: Any) -> None:
    """
    :raises ValueError: naming an argument that is not a whole number of at least 1
    """
    for name, value in counts.items():
        if not isinstance(value, int | np.integer) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number of at least 1.")


def check_shares(**shares: Any) -> None:
    """
    :raises ValueError: naming an argument that is not between 0 and 1
    """
    for name, value in shares.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}={value} must be between 0 and 1.")


def find_target_entropy(target_entropy: str | float, action_dim: int) -> float:
    """
    :param target_entropy: a number, ``"auto"`` for minus the number of action dimensions, or a share of that (``"auto_0.5"``)
    :raises ValueError: if it is something else
    """
    if target_entropy == "auto":
        return float(-action_dim)
    text = str(target_entropy)
    try:
        number = float(text.removeprefix("auto_"))
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"target_entropy={target_entropy!r} must be a number, 'auto', or a share of it like 'auto_0.5'.")
    return -action_dim * number if text.startswith("auto_") else number


def check_discount(replay_buffer: Any, gamma: float) -> None:
    """
    :param replay_buffer: any, or a mixture of several
    :param gamma: of the model
    :raises ValueError: if its n-step returns are discounted by another
    """
    sources = getattr(replay_buffer, "sources", {}).values()
    n_step = [buffer for buffer in (replay_buffer, *sources) if getattr(buffer, "n_steps", 1) > 1]
    if n_step and sources:
        n_step.append(replay_buffer)  # a mixture discounts its one-step rows itself
    for buffer in n_step:
        if buffer.gamma != gamma:
            raise ValueError(f"n-step returns are discounted by {buffer.gamma}, the model has gamma={gamma}.")


def require_policy(model: BaseAlgorithm, base: type[BasePolicy]) -> None:
    """
    :param model: with its ``policy_class``: given, or read from a file
    :param base: what the algorithm's policies derive from
    :raises ValueError: if it is another, as in the file of another algorithm
    """
    if not issubclass(model.policy_class, base):
        raise ValueError(
            f"{type(model).__name__} works with a {base.__name__}, not with a {model.policy_class.__name__}. A saved model is "
            "loaded by the algorithm that it was saved by."
        )
