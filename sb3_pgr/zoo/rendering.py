"""Environments to film, built as the run's own."""

from typing import Any

import gymnasium as gym
from rl_zoo3.exp_manager import ExperimentManager
from stable_baselines3.common.vec_env import VecEnv


def make_render_env(manager: ExperimentManager, size: tuple[int, int]) -> VecEnv:
    """
    One evaluation environment of a run (its wrappers and normalisation included) that renders ``rgb_array``.

    :param manager: a manager that has read its hyper-parameters
    :param size: (width, height); environments that cannot choose their size keep their own
    """
    own_kwargs, vec_env_class = manager.eval_env_kwargs, manager.vec_env_class
    kwargs: dict[str, Any] = {**(own_kwargs or {}), "render_mode": "rgb_array"}
    if _takes_size(manager.env_name.gym_id, kwargs, size):
        kwargs |= {"width": size[0], "height": size[1]}
    try:
        manager.eval_env_kwargs = kwargs
        return manager.create_envs(1, eval_env=True, no_log=True)
    finally:
        manager.eval_env_kwargs, manager.vec_env_class = own_kwargs, vec_env_class


def _takes_size(env_id: str, kwargs: dict[str, Any], size: tuple[int, int]) -> bool:
    try:
        gym.make(env_id, **{**kwargs, "width": size[0], "height": size[1]}).close()
    except TypeError:
        return False
    return True
