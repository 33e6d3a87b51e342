import copy
import os
import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import DQN, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch.utils._pytree import tree_leaves, tree_map

from sb3_pgr.buffers import (
    PrioritizedReplayBuffer,
    SequenceReplayBuffer,
    TensorReplayBuffer,
    frames,
    sample_block,
    tensor_replay,
)
from sb3_pgr.buffers.frames import FrameRing
from sb3_pgr.buffers.storage import RecordStorage, reserve

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


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(buffer_size=0), "buffer_size=0"),
        (dict(n_envs=0), "n_envs=0"),
        (dict(n_steps=0), "n_steps=0"),
        (dict(storage="tape"), "storage='tape'"),
        (dict(storage="disk", optimize_memory_usage=True), "optimize_memory_usage=True"),
        (dict(storage="pinned"), "storage='pinned'"),
        (dict(optimize_memory_usage=True, frame_stack={None: 2}), "frame_stack=2 does not divide"),
        (dict(optimize_memory_usage=True, frame_stack=2), "frame_stack=2 needs an observation with three axes"),
        (dict(frame_stack=2), "frame_stack=2 is for optimize_memory_usage=True"),
        (dict(obs_dtype="bfloat16"), "'bfloat16' is not a numpy type"),
        (dict(obs_dtype=object), "numpy type"),
        (dict(buffer_size="5"), "buffer_size='5'"),
    ],
    ids=str,
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        TensorReplayBuffer(**{"buffer_size": 5, "observation_space": OBS, "action_space": ACT, "device": "cpu"} | kwargs)


def test_types_of_added_observations_may_change():
    space = spaces.Box(-10, 10, (3,), np.float64)
    buffer = TensorReplayBuffer(5, space, ACT, device="cpu", optimize_memory_usage=True)
    for i, dtype in enumerate((np.float32, np.float64, np.int64)):
        obs, next_obs = np.full((1, 3), i, dtype), np.full((1, 3), i + 1, dtype)
        buffer.add(obs, next_obs, np.zeros((1, 2)), np.zeros(1), np.zeros(1))
    assert buffer.rows(th.arange(3)).observations[:, 0].tolist() == [0, 1, 2]
    assert buffer._layout.rings["observations"].heads == 4


def test_forgetting():
    buffer = TensorReplayBuffer(10, OBS, ACT, device="cpu")
    fill([buffer], 7)
    buffer.reset()
    assert buffer.size() == 0 and len(pickle.dumps(buffer)) < 20_000
    fill([buffer], 3)
    assert buffer.size() == 3


@pytest.mark.parametrize("n_envs", [1, 2])
def test_infos_of_extend(n_envs):
    buffer = TensorReplayBuffer(10, OBS, ACT, device="cpu", n_envs=n_envs)
    shape = (3, n_envs)
    infos = [[{"TimeLimit.truncated": t == 1}] * n_envs for t in range(3)]
    infos = [step[0] for step in infos] if n_envs == 1 else infos  # the axis of one environment may be left out
    buffer.extend(np.zeros((*shape, 3)), np.zeros((*shape, 3)), np.zeros((*shape, 2)), np.zeros(shape), np.ones(shape), infos)
    assert buffer.timeouts[:3, 0].tolist() == [0, 1, 0]


def test_bad_calls():
    two = TensorReplayBuffer(5, OBS, ACT, device="cpu", n_envs=2)
    with pytest.raises(ValueError, match="2 environments need as many infos, got 1"):
        two.add(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2), np.zeros(2), [{}])
    with pytest.raises(ValueError, match=r"got shapes .*'obs': \(2, 4\)"):
        two.add(np.zeros((2, 4)), np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2), np.zeros(2))
    buffer = TensorReplayBuffer(5, OBS, ACT, device="cpu")
    for draw in (lambda: buffer.sample(2), lambda: buffer.sample_block(2, 2)):
        with pytest.raises(ValueError, match="empty"):
            draw()
    with pytest.raises(ValueError, match=r"one length.*'reward': 3"):
        buffer.extend(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(3), np.zeros(2))
    with pytest.raises(TypeError, match=r"expected \[\], got \['weight'\]"):
        buffer.extend(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2), np.zeros(2), extra={"weight": 1})
    other = TensorReplayBuffer(5, spaces.Box(-1, 1, (40,)), ACT, device="cpu")
    fill([buffer], 4)
    with pytest.raises(ValueError, match=r"float32\[3\].*this buffer.*float32\[40\]"):
        other.load_state_dict(buffer.state_dict())
    fill([buffer], 4)
    with pytest.raises(ValueError, match="5 rows and is full, this one has room for 9"):
        TensorReplayBuffer(9, OBS, ACT, device="cpu").load_state_dict(buffer.state_dict())


def test_more_memory_than_there_is():
    with pytest.raises(MemoryError, match=r"48000.0 GB.*smaller buffer_size"):
        TensorReplayBuffer(10**12, OBS, ACT, device="cpu")


def dict_transitions(n, n_envs):
    rng = np.random.default_rng(0)
    for _ in range(n):
        obs, next_obs = (
            {"image": rng.integers(0, 255, (n_envs, 3, 8, 8), np.uint8), "goal": rng.integers(0, 4, n_envs)} for _ in range(2)
        )
        done = rng.random(n_envs) < 0.3
        yield obs, next_obs, rng.uniform(-1, 1, (n_envs, 2)), rng.normal(size=n_envs), done, [{}] * n_envs


@pytest.mark.parametrize("n_envs", [1, 3])
def test_dict_observations_as_sb3(n_envs):
    space = spaces.Dict({"image": spaces.Box(0, 255, (3, 8, 8), np.uint8), "goal": spaces.Discrete(4)})
    buffers = [cls(20, space, ACT, device="cpu", n_envs=n_envs) for cls in (DictReplayBuffer, TensorReplayBuffer)]
    for step in dict_transitions(12, n_envs):
        for buffer in buffers:
            buffer.add(*copy.deepcopy(step))
    batches = []
    for buffer in buffers:
        np.random.seed(0)
        batches.append(buffer.sample(30))
    for theirs, ours in zip(*batches, strict=True):
        for key in theirs if isinstance(theirs, dict) else [None]:
            a, b = (theirs, ours) if key is None else (theirs[key], ours[key])
            assert (a is None and b is None) or th.equal(a, b)


@pytest.mark.parametrize("n_envs", [1, 2])
@pytest.mark.parametrize("n", [6, 30])
def test_n_steps_as_sb3(n, n_envs):
    kwargs = dict(device="cpu", n_envs=n_envs, n_steps=3, gamma=0.9)
    theirs, ours = NStepReplayBuffer(20, OBS, ACT, **kwargs), TensorReplayBuffer(20, OBS, ACT, **kwargs)
    fill([theirs, ours], n, n_envs)
    np.random.seed(0)
    expected = theirs.sample(64)
    np.random.seed(0)
    for a, b in zip(ours.sample(64), expected, strict=True):
        th.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_rewards_of_n_steps_are_normalised_as_sb3():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    env.reset()
    for _ in range(20):
        env.step(np.array([env.action_space.sample()]))
    kwargs = dict(device="cpu", n_steps=3, gamma=0.9)
    theirs, ours = (
        cls(20, env.observation_space, env.action_space, **kwargs) for cls in (NStepReplayBuffer, TensorReplayBuffer)
    )
    random = np.random.default_rng(0)
    for i in range(12):
        row = (*random.normal(size=(2, 1, 3)), random.uniform(-1, 1, (1, 1)), -50 * random.random(1), np.array([i % 5 == 4]))
        for buffer in (theirs, ours):
            buffer.add(*row, [{}])
    np.random.seed(0)
    expected = theirs.sample(32, env)
    np.random.seed(0)
    th.testing.assert_close(ours.sample(32, env).rewards, expected.rewards)
    assert expected.rewards.min() > -40  # raw ones of three steps go down to -100


@pytest.mark.parametrize("n_envs", [1, 3])
def test_storage_of_a_device(n_envs):
    """What happens on a GPU (rows collected on the host, growth by doubling), tried on the CPU."""
    fields = {"obs": ((3,), np.dtype(np.float32)), "image": ((2, 2), np.dtype(np.uint8)), "scalar": ((), np.dtype(np.float64))}
    plain = RecordStorage(fields, 3000, n_envs, th.device("cpu"))
    staged = copy.copy(plain)
    staged._on_host, staged._staged = False, []
    staged._allocate(64)
    rng = np.random.default_rng(0)
    for row in [*range(700), *range(10), *range(700, 3000)]:
        values = [rng.normal(size=(n_envs, 3)), rng.integers(0, 255, (n_envs, 2, 2)), rng.normal(size=n_envs)]
        for storage in (plain, staged):
            storage.write_row(row, values)
        if row == 5:
            assert th.equal(staged.field("obs")[:6], plain.field("obs")[:6])
    index = th.randint(3000 * n_envs, (500,))
    for name, expected in plain.gather(index).items():
        assert th.equal(staged.gather(index)[name], expected)
        assert expected.dtype == th.from_numpy(np.zeros(0, fields[name][1])).dtype


@pytest.mark.parametrize("storage", ["device", "disk", "memory"])
def test_kinds_of_storage(storage, tmp_path):
    folder = tmp_path / "buffers"
    folder.mkdir()
    buffer = TensorReplayBuffer(50, OBS, ACT, device="cpu", storage=storage, storage_dir=folder)
    fill([buffer], 70)
    pickled = pickle.dumps(buffer)
    folder.rmdir()  # nothing lies there, and another machine may not have it
    loaded = pickle.loads(pickled)
    assert th.equal(loaded.observations, buffer.observations)
    assert isinstance(buffer._storage._host, np.memmap) == isinstance(loaded._storage._host, np.memmap) == (storage == "disk")


def test_disk_storage_names_a_missing_folder():
    with pytest.raises(FileNotFoundError, match="storage_dir='/no/such/folder'"):
        TensorReplayBuffer(50, OBS, ACT, device="cpu", storage="disk", storage_dir="/no/such/folder")


def test_disk_storage_takes_its_room_at_once(tmp_path):
    with open(tmp_path / "file", "wb") as file:
        reserve(file, 1_000_000)
        assert os.fstat(file.fileno()).st_blocks * 512 >= 1_000_000
    with pytest.raises(MemoryError, match=r"GB of disk storage.*GB are free"):
        TensorReplayBuffer(10**12, OBS, ACT, device="cpu", storage="disk", storage_dir=tmp_path)


@pytest.mark.parametrize("storage", ["device", "memory"])
def test_a_full_buffer_is_loaded_without_a_second_copy(storage):
    rows, width = 20_000, 500  # 80 MB of observations
    buffer = TensorReplayBuffer.from_shapes(rows, (width,), (2,), device="cpu", storage=storage)
    obs = np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)
    buffer.extend(obs, obs, np.zeros((rows, 2)), np.arange(rows), np.zeros(rows, bool))
    pickled = pickle.dumps(buffer)
    loaded = pickle.loads(pickled)
    assert th.equal(loaded.observations, buffer.observations)
    loaded.add(obs[:1] + 1, obs[:1], np.zeros((1, 2)), np.zeros(1), np.zeros(1, bool), [{}])
    assert th.equal(loaded.observations[0, 0], th.from_numpy(obs[0] + 1)) and loaded.pos == 1
    assert th.equal(loaded.observations[1:], buffer.observations[1:])


def test_chosen_types():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Box(-1, 1, (2,))})
    buffer = TensorReplayBuffer(5, space, ACT, device="cpu", obs_dtype={"a": np.float16}, action_dtype=np.float64)
    row = {"a": np.ones((1, 3)), "b": np.ones((1, 2))}
    buffer.add(row, row, np.ones((1, 2)), np.ones(1), np.zeros(1))
    batch = buffer.sample(2)
    types = batch.observations["a"].dtype, batch.next_observations["b"].dtype, batch.actions.dtype
    assert types == (th.float16, th.float32, th.float64)


def test_from_shapes():
    buffer = TensorReplayBuffer.from_shapes(
        10, {"image": (3, 4, 4), "state": (2,)}, (1,), {"image": np.uint8, "state": np.float32}, np.int64, device="cpu"
    )
    row = {"image": th.full((1, 3, 4, 4), 7, dtype=th.uint8), "state": th.ones(1, 2)}
    buffer.add(row, row, th.tensor([[3]]), th.tensor([1.0]), th.tensor([True]), timeouts=th.tensor([True]))
    batch = buffer.sample(4)
    assert batch.observations["image"].dtype == th.uint8 and (batch.observations["image"] == 7).all()
    assert batch.actions.dtype == th.int64 and (batch.actions == 3).all()
    assert (batch.dones == 0).all() and (batch.rewards == 1).all()


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs Linux")
@pytest.mark.parametrize("shared", [False, True])
def test_an_empty_buffer_costs_nothing(shared):
    before = resident_bytes()
    space = spaces.Box(0, 255, (3, 64, 64), np.uint8)
    buffer = TensorReplayBuffer(100_000, space, ACT, device="cpu", optimize_memory_usage=shared)
    assert buffer.nbytes > 10**9
    assert resident_bytes() - before < 50e6


@pytest.mark.parametrize("stack", [1, 4])
def test_memory_of_shared_frames(stack):
    """At most 55 % of what SB3's DictReplayBuffer reserves for the same data."""
    space = spaces.Dict({"image": spaces.Box(0, 255, (3 * stack, 32, 32), np.uint8)})
    theirs = DictReplayBuffer(2000, space, ACT, device="cpu")
    ours = TensorReplayBuffer(2000, space, ACT, device="cpu", optimize_memory_usage=True, frame_stack=stack)
    rng = np.random.default_rng(0)
    for i in range(4000):
        done = i % 250 == 249
        if i % 250 == 0:
            obs = np.tile(rng.integers(0, 255, (1, 3, 32, 32), np.uint8), (1, stack, 1, 1))
        next_obs = np.concatenate([obs[:, 3:], rng.integers(0, 255, (1, 3, 32, 32), np.uint8)], 1)
        row = {"image": obs}, {"image": next_obs}, np.zeros((1, 2)), np.ones(1), np.array([done]), [{}]
        theirs.add(*row)
        ours.add(*row)
        obs = next_obs
    reserved = sum(array.nbytes for array in (theirs.observations["image"], theirs.next_observations["image"], theirs.actions))
    assert ours.nbytes < 0.55 * reserved / stack * (1 if stack == 1 else 1.1)
    np.random.seed(0)
    expected = theirs.sample(100)
    np.random.seed(0)
    sampled = ours.sample(100)
    assert th.equal(sampled.observations["image"], expected.observations["image"])
    assert th.equal(sampled.next_observations["image"], expected.next_observations["image"])


@pytest.mark.parametrize("length, grows", [(20, False), (10, True)])
def test_a_ring_of_frames_has_room_for_short_episodes(length, grows):
    space = spaces.Dict({"image": spaces.Box(0, 255, (3, 4, 4), np.uint8)})
    buffer = TensorReplayBuffer(1000, space, ACT, device="cpu", optimize_memory_usage=True)
    reserved, rng = buffer.nbytes, np.random.default_rng(0)
    for _ in range(3000 // length):
        frames = rng.integers(0, 256, (length + 1, 1, 3, 4, 4), np.uint8)
        for i in range(length):
            done = np.array([i == length - 1])
            buffer.add({"image": frames[i]}, {"image": frames[i + 1]}, np.zeros((1, 2)), np.ones(1), done, [{}])
    assert (buffer.nbytes > reserved) == grows and buffer.size() == 1000
    newest = buffer.rows(th.tensor([(buffer.pos - 1) % 1000])).next_observations["image"][0]
    assert np.array_equal(newest, frames[-1, 0])


@pytest.mark.parametrize("space", [OBS, spaces.Dict(a=OBS, b=spaces.Box(-1, 1, (2,)))], ids=["box", "dict"])
def test_tensors_beside_arrays(space, monkeypatch):
    """Observations on a GPU, actions of numpy: tried on the CPU, as if numpy could not read its tensors."""
    monkeypatch.setattr(tensor_replay, "lives_on_host", lambda device: False)
    rng, buffers = np.random.default_rng(0), [TensorReplayBuffer(20, space, ACT, device="cpu", n_envs=2) for _ in range(2)]
    for i in range(30):
        obs = [batch_space(space, 2).sample() for _ in range(2)]
        rest = rng.normal(size=(2, *ACT.shape)), rng.normal(size=2), np.array([i % 5 == 4, False]), [{}, {}]
        buffers[0].add(*obs, *rest)
        buffers[1].add(*tree_map(th.as_tensor, obs), *rest)
    rows = [buffer.rows(th.arange(20)) for buffer in buffers]
    columns = [[column for column in tree_leaves(tuple(part)) if column is not None] for part in rows]
    for ours, theirs in zip(*columns, strict=True):
        assert th.equal(ours, theirs)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("width", [3, 8])
@pytest.mark.parametrize("on_host", [True, False])
def test_a_growing_ring_of_frames(dtype, width, on_host, monkeypatch):
    """Any type of image, of any width, and the way of a GPU, tried on the CPU."""
    monkeypatch.setattr(frames, "lives_on_host", lambda device: on_host)
    monkeypatch.setattr(frames, "_FIRST_FRAMES", 8)
    ring = FrameRing((2, width), np.dtype(dtype), 60, 2, th.device("cpu"), frame_stack=2)
    rng, reserved = np.random.default_rng(0), ring.nbytes
    steps = [rng.integers(0, 60_000 if dtype != np.uint8 else 256, (2, 2, 2, width)).astype(dtype) for _ in range(60)]
    positions = []
    for obs, next_obs in steps:
        positions.append(th.from_numpy(ring.push(obs, next_obs, lambda: positions[0][:, 0].numpy() if positions else None)))
    assert ring.nbytes > reserved
    for (obs, next_obs), position in zip(steps, positions, strict=True):
        for expected, found in zip((obs, next_obs), ring.gather_pair(position, th.arange(2)), strict=True):
            assert found.dtype == th.from_numpy(obs).dtype and np.array_equal(found, expected)


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


@pytest.mark.gpu
def test_moves_between_devices():
    buffer = TensorReplayBuffer(10, OBS, ACT, device="cpu")
    fill([buffer], 5)
    buffer.device = "cuda"
    assert buffer.sample_block(2, 3).observations.device.type == "cuda"
    assert pickle.loads(pickle.dumps(buffer)).observations.device.type == "cuda"


def test_rows_that_fill_a_smaller_buffer():
    large, small = (TensorReplayBuffer(size, OBS, ACT, device="cpu") for size in (100, 10))
    zeros = (np.zeros((10, *shape)) for shape in (OBS.shape, OBS.shape, ACT.shape))
    rows = *zeros, np.arange(10.0), np.zeros(10)
    large.extend(*rows)
    small.load_state_dict(large.state_dict())
    assert small.full and small.pos == 0 and small.rewards[:, 0].tolist() == list(range(10))
    small.add(*(part[:1] for part in rows[:3]), np.full(1, 50.0), np.zeros(1), [{}])
    assert small.rewards[0, 0] == 50 and small.pos == 1


def test_types_of_buffers_from_shapes():
    for kind in (TensorReplayBuffer, PrioritizedReplayBuffer, SequenceReplayBuffer):
        buffer = kind.from_shapes(40, (3,), 2, obs_dtype=np.float16, action_dtype=np.int32)
        assert (buffer.observations.dtype, buffer.actions.dtype) == (th.float16, th.int32)


def test_cut_episodes_end_whatever_ends_by_time_mean():
    buffer = TensorReplayBuffer.from_shapes(10, (1,), 1, device="cpu", n_steps=3, handle_timeout_termination=False)
    for step in range(4):
        if step == 2:
            buffer.truncate_episodes()
        buffer.add(np.full((1, 1), step), np.full((1, 1), step + 1), np.zeros((1, 1)), np.ones(1), np.zeros(1), [{}])
    assert buffer.rows(th.tensor([0, 1])).next_observations.flatten().tolist() == [2, 2]


def test_frames_of_another_stack_are_refused():
    def buffer(frame_stack):
        space = spaces.Box(0, 255, (frame_stack, 8, 8), np.uint8)
        return TensorReplayBuffer(20, space, spaces.Discrete(2), optimize_memory_usage=True, frame_stack=frame_stack)

    with pytest.raises(ValueError, match="stacked to"):
        buffer(1).load_state_dict(buffer(4).state_dict())
