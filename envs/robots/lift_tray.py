"""Two arms lift a tray together."""

from typing import ClassVar

import mujoco
import numpy as np
from sb3_pgr.envs.robots.scene import Mount, table_top
from sb3_pgr.envs.robots.task import RobotTask

KNOB_X, KNOB_HEIGHT = 0.12, 0.045  # m, of the knobs' middle from the tray's and above the floor
LIFT, LEVEL = 0.1, 0.17  # m; rad
_CENTRE, _SPREAD = np.array([0.5, 0.0]), np.array([0.04, 0.08])


class LiftTray(RobotTask):
    """
    Two Panda arms, face to face one metre apart, and a tray between them with a knob at each end (in the manner of robosuite's
    ``TwoArmLift``). It lies within 8 by 16 cm, turned by up to 10 degrees.

    Success is the tray 10 cm up and level to 10 degrees. The task's part of the state is the tray's position, its two
    horizontal axes, and what each knob is from its gripper, in metres. With fixed grippers the knobs are held from the start.
    Parameters are those of ``RobotTask``.
    """

    mounts: ClassVar[tuple[Mount, ...]] = (
        Mount("left_", (0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0)),
        Mount("right_", (1, 0, 0), (0, 0, 0, 1), (0, 0, 1, 0)),
    )
    bounds = (0.25, -0.3, 0.0), (0.75, 0.3, 0.5)
    cameras: ClassVar[dict[str, str]] = {
        "front": "front",
        "left_wrist": "left_handcam_rgb",
        "right_wrist": "right_handcam_rgb",
    }

    def _scene(self) -> mujoco.MjSpec:
        spec = table_top(self.mounts, 'pos="0.5 -1.3 0.8" xyaxes="1 0 0 0 0.45 0.89"')
        tray = spec.worldbody.add_body(name="tray", pos=(*_CENTRE, 0.01))
        tray.add_freejoint(name="tray")
        tray.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, size=(0.15, 0.06, 0.01), rgba=(0.7, 0.5, 0.3, 1), mass=0.2)
        for name, x in (("left", -KNOB_X), ("right", KNOB_X)):
            knob = dict(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(0.016, 0.025, 0), pos=(x, 0, KNOB_HEIGHT - 0.01))
            tray.add_geom(rgba=(0.8, 0.2, 0.2, 1), mass=0.05, friction=(1.5, 0.01, 0.001), **knob)
            tray.add_site(name=f"{name}_knob", pos=knob["pos"])
        return spec

    def _place(self) -> None:
        yaw = self.np_random.uniform(-0.17, 0.17)
        place = _CENTRE + self.np_random.uniform(-_SPREAD, _SPREAD)
        self.put("tray", (*place, 0.01), (np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)))

    def _grasp(self) -> None:
        """Bring both grippers to the knobs, and close them."""
        self._reach(0.1)
        self._reach(0.0)
        super()._grasp()

    def _reach(self, above: float) -> None:
        for i, arm in enumerate(self.arms):
            arm.target = np.clip(self.knob(i) + np.array([0, 0, above]), arm.low, arm.high)
        self._advance(0.6)

    def knob(self, i: int) -> np.ndarray:
        """Position of an arm's knob ``(3,)``, in metres."""
        return self.data.site(("left_knob", "right_knob")[i]).xpos

    def _axes(self) -> np.ndarray:
        return self.data.body("tray").xmat.reshape(3, 3)

    def _task_state(self) -> np.ndarray:
        ways = [self.knob(i) - arm.position for i, arm in enumerate(self.arms)]
        return np.concatenate([self.position_of("tray"), self._axes()[:, 0], self._axes()[:, 1], *ways])

    def tilt(self) -> float:
        """Angle between the tray's normal and the vertical, in rad."""
        return float(np.arccos(np.clip(self._axes()[2, 2], -1, 1)))

    def is_success(self) -> bool:
        return bool(self.position_of("tray")[2] > 0.01 + LIFT) and self.tilt() < LEVEL

    def is_failure(self) -> bool:
        """Turned over, or out of reach."""
        away = np.abs(self.position_of("tray")[:2] - _CENTRE)
        return bool((away > _SPREAD + 0.1).any()) or self.tilt() > 1.0

    def _dense_reward(self) -> float:
        near = np.mean([np.exp(-20 * np.linalg.norm(self.knob(i) - arm.position)) for i, arm in enumerate(self.arms)])
        height = np.clip((self.position_of("tray")[2] - 0.01) / LIFT, 0, 1)
        return float(0.3 * near + 0.7 * height * (self.tilt() < LEVEL))
