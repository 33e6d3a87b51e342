"""The controller of the robots' arms against gym-hil's."""

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gym_hil.controllers.opspace import opspace
from sb3_pgr.envs.robots.arm import _HOME


@pytest.mark.parametrize("env_id", ["robots/pick_cube-v0", "robots/lift_tray-v0"])
@pytest.mark.parametrize("stretched", [False, True])
def test_torques(env_id, stretched):
    """Anywhere, and where the arm is stretched out and can no longer move in one direction."""
    env = gym.make(env_id).unwrapped
    env.reset(seed=0)
    random, determinants = np.random.default_rng(0), []
    for _ in range(50):
        for arm in env.arms:
            joints = random.uniform(-0.01, 0.01, 7) if stretched else _HOME + random.normal(0, 0.5, 7)
            env.data.qpos[arm._qpos] = joints
        env.data.qvel[:] = random.normal(0, 1, env.model.nv)
        mujoco.mj_forward(env.model, env.data)
        for arm in env.arms:
            target = arm.position + random.normal(0, 0.1, 3)
            quat = arm._control._back * (1, -1, -1, -1)
            dofs = np.arange(env.model.nv)[arm._control._dofs]
            theirs = opspace(env.model, env.data, arm._site, dofs, pos=target, ori=quat, joint=_HOME, gravity_comp=True)
            np.testing.assert_allclose(arm._control.torques(target), theirs, rtol=1e-6, atol=1e-6)
            jacobian = arm._control._jacobian[:, arm._control._dofs]
            mass = arm._control._mass[arm._control._dofs, arm._control._dofs]
            determinants.append(np.linalg.det(jacobian @ np.linalg.inv(mass) @ jacobian.T))
    assert not stretched or (np.abs(determinants) < 1e-2).any()
