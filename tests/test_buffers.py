import copy
import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pgr.buffers import TensorReplayBuffer, sample_block

OBS, ACT = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


def fill(buffers, n, n_envs=1, seed=0, truncate=0.2):
    """Add the same random transitions to several buffers; every row can be told from the others."""
    rng = np.random.default_rng(seed)
    for _ in range(n):
        done = rng.random(n_envs) < 0.4
        infos = [{"TimeLimit.truncated": bool(end and rng.random() < truncate)} for end in done]
        obs, next_obs = rng.normal(size=(2, n_envs, 3)).astype(np.float32)
        action, reward = rng.uniform(-1, 1, (n_envs, 2)).astype(np.float32), rng.normal(size=n_envs)
        for buffer in buffers:
            buffer.add(obs, next_obs, action, reward, done, infos)


@settings(max_examples=50, deadline=None)
@given(
    capacity=st.integers(1, 40),
    n=st.integers(1, 100),
    n_envs=st.integers(1, 4),
    timeouts=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_same_rows_as_sb3(capacity, n, n_envs, timeouts, seed):
    """Same content, same order of overwriting, and with the same global seed the same sample, bit for bit."""
    kwargs = dict(device="cpu", n_envs=n_envs, handle_timeout_termination=timeouts)
    theirs, ours = ReplayBuffer(capacity, OBS, ACT, **kwargs), TensorReplayBuffer(capacity, OBS, ACT, **kwargs)
    fill([theirs, ours], n, n_envs, seed)
    assert (ours.size(), ours.pos, ours.full) == (theirs.size(), theirs.pos, theirs.full)
    np.random.seed(seed)
    expected = theirs.sample(32)
    np.random.seed(seed)
    sampled = ours.sample(32)
    for a, b in zip(sampled[:5], expected[:5], strict=True):
        assert a.dtype == b.dtype == th.float32
        assert th.equal(a, b)
    assert sampled.discounts is None


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 60), n_envs=st.integers(1, 3), steps=st.integers(1, 5), batch=st.integers(1, 16))
def test_block_rows_are_whole_transitions(n, n_envs, steps, batch):
    buffer = TensorReplayBuffer(50, OBS, ACT, device="cpu", n_envs=n_envs)
    fill([buffer], n, n_envs)
    block = buffer.sample_block(steps, batch)
    assert block.observations.shape == (steps, batch, 3)
    assert block.rewards.shape == block.dones.shape == (steps, batch, 1)
    size = buffer.size()
    stored = {
        tuple(row.tolist())
        for row in th.cat([buffer.observations, buffer.actions, buffer.next_observations, buffer.rewards[..., None]], -1)[
            :size
        ].flatten(0, 1)
    }
    drawn = th.cat([block.observations, block.actions, block.next_observations, block.rewards], -1).flatten(0, 1)
    assert {tuple(row.tolist()) for row in drawn} <= stored


def test_block_is_uniform():
    buffer = TensorReplayBuffer(10, OBS, ACT, device="cpu", n_envs=2)
    fill([buffer], 4, 2)
    drawn = buffer.sample_block(100, 100).rewards.flatten()
    values, counts = drawn.unique(return_counts=True)
    assert len(values) == 8
    assert (counts - 1250).abs().max() < 5 * np.sqrt(1250)


def test_block_does_not_touch_global_generators():
    buffer = TensorReplayBuffer(10, OBS, ACT, device="cpu")
    fill([buffer], 5)
    before = th.get_rng_state(), np.random.get_state()[1].copy()
    first = buffer.sample_block(2, 8).rewards
    second = buffer.sample_block(2, 8).rewards
    assert th.equal(before[0], th.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()
    assert not th.equal(first, second)


def test_stacked_block_of_any_buffer():
    buffer = ReplayBuffer(10, OBS, ACT, device="cpu")
    fill([buffer], 5)
    block = sample_block(buffer, 3, 4)
    assert block.observations.shape == (3, 4, 3) and block.rewards.shape == (3, 4, 1) and block.discounts is None


@pytest.mark.parametrize("copier", [lambda b: pickle.loads(pickle.dumps(b)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_continue_alike(copier):
    buffer = TensorReplayBuffer(20, OBS, ACT, device="cpu", n_envs=2)
    fill([buffer], 7, 2)
    other = copier(buffer)
    fill([buffer, other], 9, 2, seed=1)
    for a, b in zip(buffer.sample_block(2, 16)[:5], other.sample_block(2, 16)[:5], strict=True):
        assert th.equal(a, b)


def test_file_follows_content_not_capacity():
    buffer = TensorReplayBuffer(1_000_000, OBS, ACT, device="cpu")
    fill([buffer], 10)
    assert len(pickle.dumps(buffer)) < 20_000


@pytest.mark.parametrize("norm_obs, norm_reward", [(True, True), (True, False), (False, True)])
def test_vec_normalize(norm_obs, norm_reward):
    env = VecNormalize(make_vec_env("Pendulum-v1"), norm_obs=norm_obs, norm_reward=norm_reward)
    env.reset()
    for _ in range(20):
        env.step(np.array([env.action_space.sample()]))
    theirs = ReplayBuffer(50, OBS, ACT, device="cpu")
    ours = TensorReplayBuffer(50, OBS, ACT, device="cpu")
    fill([theirs, ours], 30)
    np.random.seed(0)
    expected = theirs.sample(16, env)
    np.random.seed(0)
    sampled = ours.sample(16, env)
    for a, b in zip(sampled[:5], expected[:5], strict=True):
        assert th.equal(a, b)


@pytest.mark.parametrize(
    "obs_space, action_space, dtypes",
    [
        (spaces.Box(0, 255, (4, 4, 1), np.uint8), ACT, (th.uint8, th.float32)),
        (spaces.Box(-1, 1, (3,), np.float64), ACT, (th.float32, th.float32)),
        (spaces.Discrete(5), spaces.Discrete(3), (th.int64, th.int64)),
        (OBS, spaces.MultiDiscrete([3, 2]), (th.float32, th.int64)),
        (spaces.MultiBinary(4), spaces.MultiBinary(2), (th.int8, th.int64)),
    ],
    ids=str,
)
def test_spaces_and_types(obs_space, action_space, dtypes):
    buffer = TensorReplayBuffer(5, obs_space, action_space, device="cpu")
    theirs = ReplayBuffer(5, obs_space, action_space, device="cpu")
    obs, action = obs_space.sample(), action_space.sample()
    for each in (buffer, theirs):
        each.add(np.array([obs]), np.array([obs]), np.array([action]), np.ones(1), np.zeros(1), [{}])
    ours, expected = buffer.sample(3), theirs.sample(3)
    assert (ours.observations.dtype, ours.actions.dtype) == dtypes
    assert ours.observations.shape == expected.observations.shape and ours.actions.shape == expected.actions.shape
    th.testing.assert_close(ours.observations, expected.observations, check_dtype=False)
    th.testing.assert_close(ours.actions, expected.actions, check_dtype=False)


def test_refusals():
    with pytest.raises(ValueError, match="DictReplayBuffer"):
        TensorReplayBuffer(5, spaces.Dict({"a": OBS}), ACT)
    with pytest.raises(ValueError, match="optimize_memory_usage"):
        TensorReplayBuffer(5, OBS, ACT, optimize_memory_usage=True)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("algo, env_id", [(SAC, "Pendulum-v1"), (TD3, "Pendulum-v1"), (DQN, "CartPole-v1")])
def test_swap_is_bit_neutral(algo, env_id, normalize):
    """A seeded run of plain SB3 does not change when only the buffer class does."""
    weights = []
    for buffer_class in (ReplayBuffer, TensorReplayBuffer):
        env = make_vec_env(env_id)
        env = VecNormalize(env) if normalize else env
        model = algo("MlpPolicy", env, seed=5, learning_starts=50, buffer_size=100, replay_buffer_class=buffer_class)
        model.learn(150)
        weights.append(list(model.policy.parameters()))
    assert all(th.equal(a, b) for a, b in zip(*weights, strict=True))


def test_save_replay_buffer(tmp_path):
    env = DummyVecEnv([lambda: __import__("gymnasium").make("Pendulum-v1")] * 2)
    model = SAC("MlpPolicy", env, learning_starts=10, buffer_size=100, replay_buffer_class=TensorReplayBuffer)
    model.learn(60)
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    before = model.replay_buffer.observations.clone()
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    assert isinstance(model.replay_buffer, TensorReplayBuffer)
    assert th.equal(model.replay_buffer.observations, before)
    model.learn(20, reset_num_timesteps=False)


@pytest.mark.skipif(not th.cuda.is_available(), reason="needs a CUDA device")
def test_moves_between_devices():
    buffer = TensorReplayBuffer(10, OBS, ACT, device="cpu")
    fill([buffer], 5)
    buffer.device = "cuda"
    assert buffer.sample_block(2, 3).observations.device.type == "cuda"
    assert pickle.loads(pickle.dumps(buffer)).observations.device.type == "cuda"
