import os
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from dm_control import suite
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env as check_env_gymnasium
from sb3_pgr.envs import list_env_ids, resolve_env_id
from sb3_pgr.envs.registration import DMC_TASKS
from stable_baselines3.common.env_checker import check_env as check_env_sb3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

import sb3_pgr  # noqa: F401

DMC_IDS = [f"dmc/{domain}-{task}-v0" for domain, task in suite.ALL_TASKS]


def test_every_task_of_the_suite_is_registered():
    assert {(domain, task) for domain, tasks in DMC_TASKS.items() for task in tasks} == set(suite.ALL_TASKS)
    assert set(DMC_IDS) <= set(list_env_ids())


@pytest.mark.parametrize("env_id", DMC_IDS)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_task_is_plain_gymnasium(env_id):
    env = gym.make(env_id)
    assert env.observation_space.dtype == env.action_space.dtype == np.float32
    assert len(env.observation_space.shape) == 1
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    obs, _ = env.reset(seed=3)
    assert env.observation_space.contains(obs)
    for _ in range(5):
        obs, reward, terminated, _, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(obs) and np.isfinite(reward) and not terminated and info == {}
    env.close()


@pytest.mark.parametrize("env_id", ["dmc/cheetah-run-v0", "quadruped-walk-v0", "reacher-hard-v0", "HalfCheetah-v5"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_checkers(env_id):
    env = gym.make(env_id, render_mode="rgb_array")
    check_env_sb3(env)
    # The render check opens a window for every mode that an environment offers.
    check_env_gymnasium(env, skip_render_check=True)


def test_bare_id_is_the_same_task():
    returns = []
    for env_id in ("dmc/cheetah-run-v0", "cheetah-run-v0"):
        env = gym.make(env_id)
        env.reset(seed=7)
        returns.append([env.step(np.full(6, 0.3, np.float32))[1] for _ in range(50)])
    assert returns[0] == returns[1]


def test_same_numbers_as_dm_control():
    task = suite.load("quadruped", "walk", task_kwargs=dict(random=np.random.RandomState(11)))
    env = gym.make("dmc/quadruped-walk-v0")
    obs, _ = env.reset(seed=11)
    step = task.reset()
    spec = task.action_spec()
    rng = np.random.default_rng(0)
    for _ in range(20):
        expected = np.concatenate([np.ravel(step.observation[key]) for key in sorted(step.observation)])
        np.testing.assert_allclose(obs, expected, rtol=1e-4, atol=1e-4)
        action = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        obs, reward, *_ = env.step(action)
        step = task.step(spec.minimum + (action + 1) / 2 * (spec.maximum - spec.minimum))
        assert reward == pytest.approx(step.reward, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("frame_skip, steps", [(1, 1000), (2, 500), (3, 334)])
def test_time_limit_truncates(frame_skip, steps):
    env = gym.make("dmc/cartpole-swingup-v0", frame_skip=frame_skip)
    env.reset(seed=0)
    ends = []
    for _ in range(steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        ends.append((terminated, truncated))
    assert ends == [(False, False)] * (steps - 1) + [(False, True)]


@pytest.mark.parametrize("task", ["lqr_2_1", "lqr_6_2"])
def test_lqr_is_always_the_same_and_ends(task):
    first, second = (gym.make(f"dmc/lqr-{task}-v0") for _ in range(2))
    np.testing.assert_array_equal(first.reset(seed=0)[0], second.reset(seed=0)[0])
    action, steps, over = np.full(first.action_space.shape, 0.5, np.float32), 0, False
    while not over:
        (obs, reward, terminated, over, _), (other, *_) = first.step(action), second.step(action)
        assert abs(reward) <= 1  # its forces have no limits in dm_control
        np.testing.assert_array_equal(obs, other)
        steps += 1
    assert steps == 1_000 and not terminated


@pytest.mark.parametrize("env_id", ["dmc/cartpole-swingup-v0", "gems/focused_topdown-v0"])
def test_specs_travel_as_text(env_id):
    """Minari, for one, keeps them so."""
    env = gym.make(env_id)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.action_space == env.action_space and again.observation_space == env.observation_space


def test_frame_skip_sums_rewards():
    plain, skipping = gym.make("cheetah-run-v0"), gym.make("cheetah-run-v0", frame_skip=4)
    for env in (plain, skipping):
        env.reset(seed=5)
    action = np.full(6, 0.5, np.float32)
    for _ in range(10):
        rewards = [plain.step(action)[1] for _ in range(4)]
        assert skipping.step(action)[1] == pytest.approx(sum(rewards))


def test_renders_without_a_screen():
    for width, height in ((64, 48), (800, 600)):  # its model says 640 x 480
        env = gym.make("dmc/walker-walk-v0", render_mode="rgb_array", width=width, height=height)
        env.reset(seed=0)
        frame = env.render()
        assert frame.shape == (height, width, 3) and frame.dtype == np.uint8 and frame.std() > 1
    assert env.metadata["render_fps"] == 40


def test_metadata_is_of_the_instance():
    first, second = gym.make("dmc/walker-walk-v0"), gym.make("dmc/cheetah-run-v0")
    assert (first.metadata["render_fps"], second.metadata["render_fps"]) == (40, 100)


def test_pixels():
    env = gym.make("dmc/cheetah-run-v0", pixels=True, pixel_size=32)
    obs, _ = env.reset(seed=0)
    assert obs.shape == (32, 32, 3) and obs.dtype == np.uint8
    assert env.observation_space.contains(env.step(env.action_space.sample())[0])
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.observation_space == env.observation_space and (again.reset(seed=0)[0] == obs).all()


def test_pixels_are_not_drawn_before_a_process_forks(monkeypatch):
    """An OpenGL context does not survive it: ``gym.make_vec`` in its asynchronous mode would hang."""
    monkeypatch.setattr(gym.Wrapper, "render", lambda env: pytest.fail("drawn"))
    gym.make("dmc/cheetah-run-v0", pixels=True, pixel_size=32)


def test_subprocesses():
    # The prefix makes the new process import the package, and so register its ids.
    env = make_vec_env("sb3_pgr:dmc/cheetah-run-v0", n_envs=2, vec_env_cls=SubprocVecEnv)
    obs = env.reset()
    obs, rewards, _, _ = env.step(np.zeros((2, 6), np.float32))
    assert obs.shape == (2, 17) and rewards.shape == (2,)
    env.close()


@pytest.mark.parametrize(
    "kwargs, message",
    [(dict(frame_skip=0), "frame_skip=0"), (dict(frame_skip=2.5), "whole number"), (dict(render_mode="human"), "rgb_array")],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        gym.make("dmc/cheetah-run-v0", **kwargs)


@pytest.mark.parametrize("env_id", ["HalfCheetah-v2", "Ant-v3", "HumanoidStandup-v2"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_retired_ids_name_their_successor(env_id):
    successor = f"{env_id[:-1]}5"
    with pytest.raises(gym.error.Error, match=successor):
        gym.make(env_id)
    with pytest.raises(gym.error.Error, match=successor):
        resolve_env_id(env_id)


def test_unknown_id_suggests_the_nearest():
    with pytest.raises(gym.error.NameNotFound, match="cheetah-run-v0"):
        resolve_env_id("chetah-run-v0")
    assert resolve_env_id("HalfCheetah-v5") == "HalfCheetah-v5"


def test_every_listed_mujoco_task_steps():
    for env_id in list_env_ids():
        if not env_id.startswith(("dmc/", "gems/")):
            env = gym.make(env_id)
            env.reset(seed=0)
            env.step(env.action_space.sample())
            env.close()


def test_import_is_light():
    """Importing the package loads neither torch nor simulators, and picks a headless renderer."""
    code = (
        "import sys, os, sb3_pgr; "
        "heavy = ('torch', 'mujoco', 'dm_control', 'rl_zoo3'); "
        "print([name for name in heavy if name in sys.modules], os.environ.get('MUJOCO_GL'))"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY")}
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
    assert output.strip() in ("[] egl", "[] osmesa")
