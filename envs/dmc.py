"""DeepMind Control tasks as plain Gymnasium environments, through Shimmy."""

from typing import Any

import gymnasium as gym
import numpy as np
from dm_control import suite
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation, RescaleAction
from shimmy.dm_control_compatibility import DmControlCompatibilityV0

_UNLIMITED = 1e9
_LQR_SECONDS = 30.0  # 1000 control steps, as the other tasks have them


def make_dmc(
    domain: str,
    task: str,
    frame_skip: int = 1,
    render_mode: str | None = None,
    width: int = 480,
    height: int = 480,
    camera_id: int = 0,
    pixels: bool = False,
    pixel_size: int = 84,
    task_kwargs: dict[str, Any] | None = None,
) -> gym.Env:
    """
    A task of the dm_control suite: flat float32 observations (keys in alphabetical order), actions in [-1, 1],
    reward in [0, 1] a control step, and the time limit (1000 control steps in most tasks) as ``truncated``.

    :param domain: e.g. ``"cheetah"``
    :param task: e.g. ``"run"``
    :param frame_skip: control steps per action; rewards are summed
    :param render_mode: ``"rgb_array"`` or None
    :param width: width of rendered frames, in pixels; with ``pixels`` these are what is observed, of ``pixel_size``
    :param height: height of rendered frames, in pixels
    :param camera_id: camera of rendered frames
    :param pixels: observe images ``(pixel_size, pixel_size, 3)`` uint8 in place of the state
    :param pixel_size: side of the observed images
    :param task_kwargs: passed to the suite, e.g. ``dict(time_limit=5)``
    :raises ValueError: on an unknown render mode or a frame skip below 1
    """
    if render_mode not in (None, "rgb_array"):
        raise ValueError(f"render_mode={render_mode!r} is not supported by DeepMind Control tasks; use 'rgb_array' or None.")
    if frame_skip < 1 or int(frame_skip) != frame_skip:
        raise ValueError(f"frame_skip={frame_skip} must be a whole number of at least 1.")
    if pixels:
        render_mode, width, height = "rgb_array", pixel_size, pixel_size
    if domain == "lqr":  # the suite draws its stiffness when it is built, and gives it no end
        task_kwargs = {"random": 0, "time_limit": _LQR_SECONDS} | (task_kwargs or {})
    control_env = suite.load(domain, task, task_kwargs=task_kwargs)
    screen = control_env.physics.model.vis.global_
    screen.offwidth, screen.offheight = max(screen.offwidth, width), max(screen.offheight, height)
    base = DmControlCompatibilityV0(
        control_env, render_mode=render_mode, render_kwargs=dict(width=width, height=height, camera_id=camera_id)
    )
    env: gym.Env = FlattenObservation(base)
    env = ControlStep(env, int(frame_skip))
    # Shimmy writes a wrong rate on its class; a wrapper carries the true one of this instance.
    env.metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / (control_env.control_timestep() * frame_skip))}
    env = RescaleAction(env, -1, 1)  # type: ignore[arg-type]  # numbers of numpy cannot be written as JSON
    return PixelObservation(env, pixel_size) if pixels else env


class ControlStep(gym.Wrapper, gym.utils.RecordConstructorArgs):
    """
    float32 on both sides, action repeat, and an info that can be sent between processes.

    :param env: a flattened Shimmy environment (float64)
    :param frame_skip: control steps per action; rewards are summed
    """

    def __init__(self, env: gym.Env, frame_skip: int = 1):
        gym.utils.RecordConstructorArgs.__init__(self, frame_skip=frame_skip)
        gym.Wrapper.__init__(self, env)
        assert isinstance(env.observation_space, spaces.Box) and isinstance(env.action_space, spaces.Box)
        self.frame_skip = frame_skip
        self.observation_space = spaces.Box(-np.inf, np.inf, env.observation_space.shape, np.float32)
        # dm_control writes ±1e10 where an actuator has no limits (lqr's forces): there an action is a force of that size.
        unlimited = env.action_space.high - env.action_space.low > _UNLIMITED
        low, high = np.where(unlimited, -1.0, env.action_space.low), np.where(unlimited, 1.0, env.action_space.high)
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        self._low, self._high = low, high

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        obs, _ = self.env.reset(seed=seed, options=options)
        return obs.astype(np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        # Rescaled float32 bounds may exceed the float64 ones by a rounding error.
        action = np.clip(action.astype(np.float64), self._low, self._high)
        total = 0.0
        for _ in range(self.frame_skip):
            obs, reward, terminated, truncated, _ = self.env.step(action)
            total += float(reward)
            if terminated or truncated:
                break
        return obs.astype(np.float32), total, terminated, truncated, {}


class PixelObservation(gym.ObservationWrapper, gym.utils.RecordConstructorArgs):
    """
    What is rendered in place of what is observed, ``(size, size, 3)`` uint8. Nothing is drawn before the first reset, so that
    a process may still fork.

    :param env: an environment that renders frames of this size
    :param size: side of the frames, in pixels
    """

    def __init__(self, env: gym.Env, size: int):
        gym.utils.RecordConstructorArgs.__init__(self, size=size)
        gym.ObservationWrapper.__init__(self, env)
        self.observation_space = spaces.Box(0, 255, (size, size, 3), np.uint8)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        return self.render()  # type: ignore[return-value]
