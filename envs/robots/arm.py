"""A Panda arm whose gripper is moved by operational-space control."""

import mujoco
import numpy as np
from sb3_pgr.envs.robots.operational_space import OperationalSpaceControl
from sb3_pgr.envs.robots.scene import Mount

STEP = 0.025  # m that a full action moves the gripper's target, as gym-hil's wrappers have it
STATE_DIM = 8
_HOME = np.array((0, 0.195, 0, -2.43, 0, 2.62, 0.785))  # gym-hil's pose for picking
_CLOSED = 255.0  # command of the fingers' actuator; 0 opens
_FINGER_RANGE = 0.8  # rad from open to closed
GRASPING = 0.75  # opening below which the fingers have closed round a thing


class Arm:
    """
    One arm in a model.

    :param model: compiled
    :param data: its state
    :param mount: where the arm stands
    :param low: lowest position of the gripper's target ``(3,)``, in metres
    :param high: highest
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, mount: Mount, low: np.ndarray, high: np.ndarray):
        self.model, self.data, self.low, self.high = model, data, low, high
        prefix = mount.prefix
        joints = [model.joint(f"{prefix}joint{i}") for i in range(1, 8)]
        self._qpos = _run_of([joint.qposadr[0] for joint in joints])
        dofs = _run_of([joint.dofadr[0] for joint in joints])
        self._motors = np.array([model.actuator(f"{prefix}actuator{i}").id for i in range(1, 8)])
        self._fingers = model.actuator(f"{prefix}fingers_actuator").id
        self._finger_qpos = model.joint(f"{prefix}right_driver_joint").qposadr[0]
        self._site = model.site(f"{prefix}pinch").id
        self._velocity = model.sensor(f"{prefix}2f85/pinch_vel").adr[0]
        quat = np.array(mount.gripper_quat, float)
        self._control = OperationalSpaceControl(model, data, self._site, self._qpos, dofs, quat, _HOME)
        self.target = np.zeros(3)

    def reset(self) -> None:
        """Home, gripper open; to be followed by ``mj_forward`` and ``hold``."""
        self.data.qpos[self._qpos] = _HOME
        self.data.ctrl[self._motors] = 0
        self.data.ctrl[self._fingers] = 0

    def hold(self) -> None:
        """Take the present place as the target."""
        self.target = self.position.copy()

    @property
    def position(self) -> np.ndarray:
        """Of the point between the fingers ``(3,)``, in metres."""
        return self.data.site_xpos[self._site]

    @property
    def opening(self) -> float:
        """Of the fingers, 0 closed to 1 open."""
        return float(1 - self.data.qpos[self._finger_qpos] / _FINGER_RANGE)

    @property
    def is_commanded_open(self) -> bool:
        """What the gripper was last told."""
        return bool(self.data.ctrl[self._fingers] < _CLOSED / 2)

    @property
    def state(self) -> np.ndarray:
        """Position (m), velocity (m/s), opening of the fingers, and their command (1 open, -1 closed): ``(8,)``."""
        velocity = self.data.sensordata[self._velocity : self._velocity + 3]
        command = 1.0 if self.is_commanded_open else -1.0
        return np.concatenate([self.position, velocity, [self.opening, command]])

    def move(self, direction: np.ndarray) -> None:
        """Move the target by up to ``STEP`` along each axis; ``(3,)`` in [-1, 1]."""
        self.target = np.clip(self.target + STEP * direction, self.low, self.high)

    def grip(self, command: float) -> None:
        """1 opens, -1 closes, and what lies nearer to 0 changes nothing."""
        if abs(command) >= 0.5:
            self.data.ctrl[self._fingers] = 0.0 if command > 0 else _CLOSED

    def control(self) -> None:
        """Set the motors' torques for the next step of the physics."""
        self.data.ctrl[self._motors] = self._control.torques(self.target)


def _run_of(addresses: list[int]) -> slice:
    """Addresses that follow one another, as those of a chain of joints do."""
    assert addresses == list(range(addresses[0], addresses[0] + len(addresses)))
    return slice(addresses[0], addresses[-1] + 1)
