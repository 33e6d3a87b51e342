"""Environments to film, built as the run's own."""

from typing import Any

import gymnasium as gym
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from sb3_pgr.zoo.errors import UsageError


def chosen_size(width: int | None, height: int | None) -> tuple[int, int] | None:
    """
    Of videos, if one was chosen.

    :raises UsageError: if only one side was, or one is below 2 pixels
    """
    if width is None and height is None:
        return None
    if width is None or height is None or min(width, height) < 2:
        raise UsageError("Videos need both sides of their size, width and height, of at least 2 pixels; or neither.")
    return width, height


def make_render_env(manager: ExperimentManager, size: tuple[int, int] | None) -> VecEnv:
    """
    One evaluation environment of a run (its wrappers and normalisation included) that renders ``rgb_array``.

    :param manager: a manager that has read its hyper-parameters
    :param size: (width, height), if one is wanted; environments that cannot choose their size keep their own
    """
    own = manager.eval_env_kwargs, manager.vec_env_class
    try:
        manager.eval_env_kwargs = render_kwargs(manager.env_name.gym_id, manager.eval_env_kwargs, size)
        manager.vec_env_class = DummyVecEnv
        return manager.create_envs(1, eval_env=True, no_log=True)
    finally:
        manager.eval_env_kwargs, manager.vec_env_class = own


def require_picture(manager: ExperimentManager, size: tuple[int, int] | None) -> None:
    """
    Draw what videos would show, before training starts.

    :param manager: a manager that has read its hyper-parameters
    :param size: as in ``make_render_env``
    :raises UsageError: if nothing can be drawn
    """
    try:
        env = make_render_env(manager, size)
        try:
            env.reset()
            picture = env.render()
        finally:
            env.close()
    except Exception as error:  # of environments of any kind
        raise UsageError(f"{manager.env_name.gym_id} cannot be filmed: {error or type(error).__name__}.") from error
    if picture is None:
        raise UsageError(f"{manager.env_name.gym_id} cannot be filmed: it draws nothing in render_mode='rgb_array'.")


def render_kwargs(env_id: str, env_kwargs: dict[str, Any] | None, size: tuple[int, int] | None) -> dict[str, Any]:
    """Keyword arguments that make an environment render ``rgb_array``, in this (width, height) if it can."""
    plain = {**(env_kwargs or {}), "render_mode": "rgb_array"}
    if size is None:
        return plain
    sized = {**plain, "width": size[0], "height": size[1]}
    try:
        gym.make(env_id, **sized).close()
    except (TypeError, ValueError):  # it has no such arguments
        return plain
    return sized
