"""Pick up a cube; with a fixed gripper, carry it to a mark."""

from collections.abc import Mapping
from typing import Any, ClassVar

import mujoco
import numpy as np
from sb3_pgr.envs.robots.arm import GRASPING
from sb3_pgr.envs.robots.scene import FACING_X, Mount, add_box, table_top
from sb3_pgr.envs.robots.task import RobotTask

HALF = 0.02  # m
LIFT = 0.1  # m
_LOW, _HIGH = np.array([0.3, -0.15]), np.array([0.5, 0.15])  # where the cube starts
_MARGIN = 0.05
_EMPTY = 0.25  # opening below which there is nothing between the fingers: round the cube it is 0.42
_NEAR = 0.02  # m from the mark


class PickCube(RobotTask):
    """
    One Panda arm and a cube of 4 cm, somewhere on 20 by 30 cm (after gym-hil's ``PandaPickCube`` with a random block).

    Success is the cube 10 cm above where it lay; the episode fails where the cube is pushed away. The task's part of the
    state is the cube's position and what it is from the gripper, in metres. With a fixed gripper the cube is held from the
    start, and success is to have it within 2 cm of a mark in the air, whose position from the cube is observed too.
    Parameters are those of ``RobotTask``.
    """

    mounts: ClassVar[tuple[Mount, ...]] = (FACING_X,)
    bounds = (0.2, -0.3, 0.0), (0.6, 0.3, 0.5)
    cameras: ClassVar[dict[str, str]] = {"front": "front", "wrist": "handcam_rgb"}

    def _scene(self) -> mujoco.MjSpec:
        spec = table_top(self.mounts, 'pos="1.3 0 0.7" quat="0.5963678 0.3799282 0.3799282 0.5963678"')
        add_box(spec, "cube", (0.5, 0, HALF), (HALF,) * 3, (0.6, 0.3, 0.6, 1))
        if self.gripper == "fixed":
            add_box(spec, "mark", (0.5, 0, 0.3), (0.012,) * 3, (0.1, 0.9, 0.2, 0.6), mass=None)
        return spec

    def _place(self) -> None:
        if self.gripper == "learned":
            self.put("cube", (*self.np_random.uniform(_LOW, _HIGH), HALF))
            return
        self.put("cube", self.arms[0].position)
        self.put("mark", self.np_random.uniform((*_LOW, 0.1), (*_HIGH, 0.4)))

    def _grasp(self) -> None:
        """Keep the cube from falling until the fingers have closed."""
        self.arms[0].grip(-1)
        for _ in range(40):
            self.put("cube", self.arms[0].position)
            self._advance(0.01)

    def _task_state(self) -> np.ndarray:
        cube = self.position_of("cube")
        parts = [cube, cube - self.arms[0].position]
        if self.gripper == "fixed":
            parts.append(self.position_of("mark") - cube)
        return np.concatenate(parts)

    def is_success(self) -> bool:
        cube = self.position_of("cube")
        if self.gripper == "fixed":
            return bool(np.linalg.norm(self.position_of("mark") - cube) < _NEAR)
        return bool(cube[2] > HALF + LIFT)

    def is_failure(self) -> bool:
        place, margin = self.position_of("cube"), _MARGIN if self.gripper == "learned" else 0.15
        return bool((place[:2] < _LOW - margin).any() or (place[:2] > _HIGH + margin).any())

    def _dense_reward(self) -> float:
        """0.3 for nearness, 0.7 for what is achieved, as gym-hil has it."""
        cube = self.position_of("cube")
        if self.gripper == "fixed":
            return float(np.exp(-5 * np.linalg.norm(self.position_of("mark") - cube)))
        near = np.exp(-20 * np.linalg.norm(cube - self.arms[0].position))
        return float(0.3 * near + 0.7 * np.clip((cube[2] - HALF) / LIFT, 0, 1))


def holds_up(obs: Mapping[str, Any]) -> bool:
    """
    Whether the gripper is closed round something and up, as far as it knows itself: what ``ClassifierReward`` may demand
    beside its images. Fingers that close on nothing look the same for one step, so demand two (``consecutive=2``).

    :param obs: with the arm's ``"state"``, see ``Arm.state``, from the robot's base: ``RelativeFrame`` goes around
        ``ClassifierReward``, not into it
    """
    height, opening, command = obs["state"][2], obs["state"][6], obs["state"][7]
    return bool(height > LIFT and command < 0 and _EMPTY < opening < GRASPING)
