"""Operational-space control (Khatib 1987, https://doi.org/10.1109/JRA.1987.1087068), with the gains of gym-hil."""

import math

import mujoco
import numpy as np

_STIFFNESS, _JOINT_STIFFNESS = 200.0, 0.5
_DAMPING, _JOINT_DAMPING = 2 * math.sqrt(_STIFFNESS), 2 * math.sqrt(_JOINT_STIFFNESS)  # critical
_SINGULAR = 1e-2  # determinant, and relative singular value, below which a direction is given up


class OperationalSpaceControl:
    """
    Torques that move a site to a place and an orientation, while the joints keep near a posture as far as that leaves
    them free. Arrays are made once: this runs at every step of the physics.

    :param model: compiled
    :param data: its state
    :param site: that is moved
    :param qpos: places of the joints in ``data.qpos``, one after another
    :param dofs: likewise in ``data.qvel``
    :param quat: orientation of the site ``(w, x, y, z)``
    :param posture: of the joints, in rad
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        data: mujoco.MjData,
        site: int,
        qpos: slice,
        dofs: slice,
        quat: np.ndarray,
        posture: np.ndarray,
    ):
        self.model, self.data, self.posture = model, data, posture
        self._qpos, self._dofs, self._site = qpos, dofs, site
        self._jacobian, self._mass = np.zeros((6, model.nv)), np.zeros((model.nv, model.nv))
        self._back, self._quat, self._turn = np.zeros(4), np.zeros(4), np.zeros(4)
        mujoco.mju_negQuat(self._back, quat)
        self._acceleration = np.zeros(6)

    def torques(self, target: np.ndarray) -> np.ndarray:
        """
        For the present state, those of gravity and velocities included.

        :param target: where the site shall be ``(3,)``, in metres
        :return: one for each joint, in Nm
        """
        data, wanted = self.data, self._acceleration
        mujoco.mj_jacSite(self.model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        mujoco.mj_fullM(self.model, self._mass, data.qM)
        jacobian, mass = self._jacobian[:, self._dofs], self._mass[self._dofs, self._dofs]
        velocity = data.qvel[self._dofs]
        wanted[:3] = data.site_xpos[self._site] - target
        mujoco.mju_mat2Quat(self._quat, data.site_xmat[self._site])
        mujoco.mju_mulQuat(self._turn, self._quat, self._back)
        mujoco.mju_quat2Vel(wanted[3:], self._turn, 1.0)  # the shorter way round
        wanted *= -_STIFFNESS
        wanted -= _DAMPING * (jacobian @ velocity)
        of_joints = _JOINT_STIFFNESS * (self.posture - data.qpos[self._qpos]) - _JOINT_DAMPING * velocity
        moved = np.linalg.solve(mass, jacobian.T)  # accelerations of the joints by forces at the site
        mobility = jacobian @ moved
        # The posture's torques are taken off where they would move the site.
        wanted = wanted - moved.T @ of_joints
        if abs(np.linalg.det(mobility)) >= _SINGULAR:
            force = np.linalg.solve(mobility, wanted)
        else:
            force = np.linalg.pinv(mobility, rcond=_SINGULAR) @ wanted
        return jacobian.T @ force + of_joints + data.qfrc_bias[self._dofs]
