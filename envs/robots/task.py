"""What all robot tasks have in common."""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces
from sb3_pgr.envs.rendering import require_renderer
from sb3_pgr.envs.robots.arm import STATE_DIM, Arm
from sb3_pgr.envs.robots.scene import PHYSICS_DT, Mount

CONTROL_DT = 0.1  # s
GRIPPERS, OBSERVATIONS, REWARDS = ("learned", "fixed"), ("state", "images"), ("sparse", "dense")
_VIDEO = 256  # pixels


class RobotTask(gym.Env):
    """
    Base of the tasks: actions move the grippers' targets, ten times a second.

    Actions are in [-1, 1], for each arm three numbers along x, y and z (1 is 2.5 cm) and, if the gripper is learned, a fourth:
    1 opens, -1 closes, nearer to 0 than a half leaves it as it is. Observations are the state ``(n,)`` float32 (of each arm 8
    numbers, see ``Arm.state``, then the task's); or a Dict of camera images ``(image_size, image_size, 3)`` uint8 and
    ``"state"``, which is then of the arms alone. ``info["is_success"]`` says whether the task is done, which ends the episode
    unless ``reward`` or ``terminate_on_success`` say otherwise.

    :param gripper: ``"learned"``; or ``"fixed"``: closed, and no part of actions
    :param observations: ``"state"`` or ``"images"``
    :param image_size: side of the images, in pixels
    :param reward: ``"sparse"`` (1 on success) or ``"dense"``
    :param terminate_on_success: whether a sparse reward ends the episode; not where a learned reward is to end it, which the
        task would else tell when (``sb3_pgr.rewards.ClassifierReward``)
    :param render_mode: ``"rgb_array"`` or None
    :param render_camera: what ``render`` shows: a camera (a name of its image in observations), or ``"all"`` side by side
    :raises ValueError: on an unknown choice
    :raises ModuleNotFoundError: without gym-hil
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_DT)}  # type: ignore[misc]
    mounts: ClassVar[tuple[Mount, ...]]
    bounds: ClassVar[tuple[tuple[float, float, float], tuple[float, float, float]]]
    cameras: ClassVar[dict[str, str]]

    def __init__(
        self,
        gripper: str = "learned",
        observations: str = "state",
        image_size: int = 64,
        reward: str = "sparse",
        terminate_on_success: bool = True,
        render_mode: str | None = None,
        render_camera: str = "front",
    ):
        for name, value, known in (
            ("gripper", gripper, GRIPPERS),
            ("observations", observations, OBSERVATIONS),
            ("reward", reward, REWARDS),
            ("render_mode", render_mode, (None, "rgb_array")),
            ("render_camera", render_camera, (*self.cameras, "all")),
        ):
            if value not in known:
                raise ValueError(f"{name}={value!r} is not known; choose one of {', '.join(map(str, known))}.")
        if not 16 <= image_size <= 480:
            raise ValueError(f"image_size={image_size} must be between 16 and 480 pixels.")
        if observations == "images" or render_mode is not None:
            require_renderer()
        self.gripper, self.reward, self.render_mode, self.image_size = gripper, reward, render_mode, image_size
        self._terminate_on_success = terminate_on_success and reward == "sparse"  # of a dense one more is to be had by staying
        self._shown = list(self.cameras.values()) if render_camera == "all" else [self.cameras[render_camera]]
        self.model = self._scene().compile()
        self.data = mujoco.MjData(self.model)
        low, high = map(np.array, self.bounds)
        self.arms = [Arm(self.model, self.data, mount, low, high) for mount in self.mounts]
        self._renderers: dict[int, mujoco.Renderer] = {}
        per_arm = 4 if gripper == "learned" else 3
        self.action_space = spaces.Box(-1, 1, (per_arm * len(self.arms),), np.float32)
        self._images = observations == "images"
        self._clear()
        n_state = STATE_DIM * len(self.arms)
        if self._images:
            camera = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
            state = spaces.Box(-np.inf, np.inf, (n_state,), np.float32)
            self.observation_space = spaces.Dict({**dict.fromkeys(self.cameras, camera), "state": state})
        else:
            n_state += len(self._task_state())
            self.observation_space = spaces.Box(-np.inf, np.inf, (n_state,), np.float32)

    # What a task defines.

    def _scene(self) -> mujoco.MjSpec:
        raise NotImplementedError

    def _place(self) -> None:
        """Put things where an episode starts; draws come from ``self.np_random``."""
        raise NotImplementedError

    def _task_state(self) -> np.ndarray:
        raise NotImplementedError

    def is_success(self) -> bool:
        """Whether the task is done."""
        raise NotImplementedError

    def is_failure(self) -> bool:
        """Whether it can no longer be done."""
        return False

    def _dense_reward(self) -> float:
        raise NotImplementedError

    # What the world does.

    def position_of(self, name: str) -> np.ndarray:
        """Of a body ``(3,)``, in metres."""
        return self.data.body(name).xpos

    def put(self, name: str, position: Sequence[float] | np.ndarray, quat: Sequence[float] = (1, 0, 0, 0)) -> None:
        """Place a movable body, or a mark."""
        body = self.model.body(name)
        if body.mocapid[0] >= 0:
            self.data.mocap_pos[body.mocapid[0]] = position
            return
        self.data.joint(name).qpos[:] = (*position, *quat)
        self.data.joint(name).qvel[:] = 0

    def _clear(self) -> None:
        mujoco.mj_resetData(self.model, self.data)
        for arm in self.arms:
            arm.reset()
        mujoco.mj_forward(self.model, self.data)
        for arm in self.arms:
            arm.hold()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._clear()
        self._place()
        mujoco.mj_forward(self.model, self.data)
        if self.gripper == "fixed":
            self._grasp()
        return self._observation(), {"is_success": False}

    def _grasp(self) -> None:
        """Close the grippers round what ``_place`` put between the fingers."""
        for arm in self.arms:
            arm.grip(-1)
        self._advance(0.5)

    def _advance(self, seconds: float) -> None:
        for _ in range(round(seconds / PHYSICS_DT)):
            for arm in self.arms:
                arm.control()
            mujoco.mj_step(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        action = np.asarray(action, float)
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ValueError(f"Actions are finite numbers of shape {self.action_space.shape}, not {action}.")
        for arm, part in zip(self.arms, np.split(np.clip(action, -1, 1), len(self.arms)), strict=True):
            arm.move(part[:3])
            if self.gripper == "learned":
                arm.grip(part[3])
        self._advance(CONTROL_DT)
        success = self.is_success()
        reward = float(success) if self.reward == "sparse" else self._dense_reward()
        terminated = (success and self._terminate_on_success) or self.is_failure()
        return self._observation(), reward, terminated, False, {"is_success": success}

    def _observation(self) -> Any:
        state = np.concatenate([arm.state for arm in self.arms])
        if not self._images:
            return np.concatenate([state, self._task_state()]).astype(np.float32)
        images = {key: self._picture(camera, self.image_size) for key, camera in self.cameras.items()}
        return {**images, "state": state.astype(np.float32)}

    def _picture(self, camera: str, size: int) -> np.ndarray:
        if size not in self._renderers:
            renderer = mujoco.Renderer(self.model, size, size)
            for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_SKYBOX):
                renderer.scene.flags[flag] = 0
            self._renderers[size] = renderer
        self._renderers[size].update_scene(self.data, camera)
        return self._renderers[size].render().copy()

    def render(self) -> np.ndarray | None:
        """The views of ``render_camera``, side by side ``(256, 256 n, 3)``."""
        return None if self.render_mode is None else np.hstack([self._picture(camera, _VIDEO) for camera in self._shown])

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
