import contextlib
import copy
import pickle
from unittest import mock

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_pgr.buffers import SequenceReplayBuffer, storage

OBS, ACT = spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,))


def new_buffer(size, n_envs=1, **kwargs):
    return SequenceReplayBuffer(size * n_envs, OBS, ACT, device="cpu", n_envs=n_envs, **kwargs)


class Log:
    """Every row that was ever added: its time is its observation, its environment the action."""

    def __init__(self, n_envs, seed, p_end):
        self.n_envs, self.rng, self.p_end, self.done = n_envs, np.random.default_rng(seed), p_end, []

    def steps(self, n):
        done = self.rng.random((n, self.n_envs)) < self.p_end
        time = len(self.done) + np.arange(n)
        self.done += list(done)
        obs = np.broadcast_to(time[:, None, None], (n, self.n_envs, 1)).astype(np.float32)
        action = np.broadcast_to(np.arange(self.n_envs)[None, :, None], (n, self.n_envs, 1)).astype(np.float32)
        timeouts = done & (self.rng.random((n, self.n_envs)) < 0.5)
        return dict(obs=obs, next_obs=obs + 1, action=action, reward=obs[..., 0], done=done, timeouts=timeouts)

    def windows(self, size, length, cross):
        """(environment, times) of all windows that may be drawn from the newest ``size`` rows."""
        n, found = len(self.done), set()
        for env in range(self.n_envs):
            ends = [t for t in range(n) if self.done[t][env]]
            for start in range(max(n - size, 0), n):
                times = list(range(start, start + length))
                if cross:
                    if times[-1] < n:
                        found.add((env, *times))
                    continue
                end = next((t for t in ends if t >= start), None)  # of the episode that start belongs to
                first = next((t + 1 for t in reversed(ends) if t < start), 0)
                if times[-1] < n and (end is None or end >= times[-1]):
                    found.add((env, *times))
                elif end is not None and end < times[-1] and start == first:
                    found.add((env, *range(start, end + 1)))
        return found


OPERATIONS = st.lists(st.one_of(st.just("add"), st.integers(1, 25), st.sampled_from(["pickle", "state", "cut"])), max_size=20)


@settings(max_examples=80, deadline=None)
@given(
    size=st.integers(4, 15),
    n_envs=st.integers(1, 3),
    burn_in=st.integers(0, 2),
    length=st.integers(1, 2),
    cross=st.booleans(),
    p_end=st.sampled_from([0.0, 0.2, 0.6]),
    operations=OPERATIONS,
    seed=st.integers(0, 10_000),
)
@pytest.mark.parametrize("first_rows", [None, 2], ids=["host", "device"])
def test_windows_against_reference(first_rows, size, n_envs, burn_in, length, cross, p_end, operations, seed):
    with contextlib.ExitStack() as patches:
        if first_rows:  # as on a device of its own, whose storage grows
            patches.enter_context(mock.patch.object(storage, "lives_on_host", lambda device: False))
            patches.enter_context(mock.patch.object(storage, "_FIRST_ROWS", first_rows))
        check_windows(size, n_envs, burn_in, length, cross, p_end, operations, seed)


def check_windows(size, n_envs, burn_in, length, cross, p_end, operations, seed):
    kwargs = dict(sequence_length=length, burn_in=burn_in, cross_episodes=cross)
    buffer, log = new_buffer(size, n_envs, **kwargs), Log(n_envs, seed, p_end)
    for operation in operations:
        if operation == "add":
            step = log.steps(1)
            buffer.add(**{name: value[0] for name, value in step.items()})
        elif operation == "pickle":
            buffer = pickle.loads(pickle.dumps(buffer))
        elif operation == "state":
            saved, buffer = buffer.state_dict(), new_buffer(size, n_envs, **kwargs)
            buffer.load_state_dict(saved)
        elif operation == "cut":
            buffer.truncate_episodes()
            if log.done:
                log.done[-1] = np.ones(n_envs, bool)
        else:
            buffer.extend(**log.steps(operation))
    expected = log.windows(size, burn_in + length, cross)
    if not expected:
        with pytest.raises(ValueError, match=r"no window|empty"):
            buffer.sample(1)
        return
    batch = buffer.sample(60 * len(expected))
    drawn = set()
    for i in range(len(batch.masks)):
        mask = batch.masks[i]
        times, env = batch.observations[i, mask, 0].long().tolist(), int(batch.actions[i, 0, 0])
        drawn.add((env, *times))
        assert (batch.actions[i, mask] == env).all() and (batch.rewards[i, mask, 0] == batch.observations[i, mask, 0]).all()
        assert (batch.observations[i, ~mask] == 0).all() and not batch.episode_starts[i, ~mask].any()
        for k, t in enumerate(times):
            assert bool(batch.episode_starts[i, k]) == (t == 0 or bool(log.done[t - 1][env]))
    assert drawn == expected


def test_all_windows_are_equally_likely():
    buffer = new_buffer(40, sequence_length=4)
    done = np.zeros(30)
    done[[9, 11, 29]] = 1  # episodes of 10, 2 and 18 rows: 7 + 1 + 15 windows
    time = np.arange(30.0)
    buffer.extend(time[:, None], time[:, None], time[:, None], time, done)
    starts = buffer.sample(23_000).observations[:, 0, 0]
    values, counts = starts.unique(return_counts=True)
    assert values.tolist() == [*range(7), 10, *range(12, 27)]
    assert (counts - 1000).abs().max() < 5 * np.sqrt(1000)


def test_every_batch_of_a_block_is_from_everywhere():
    buffer = new_buffer(1000, sequence_length=2)
    time = np.arange(1000.0)
    buffer.extend(time[:, None], time[:, None], time[:, None], time, np.zeros(1000))
    starts = buffer.sample_block(5, 64).observations[:, :, 0, 0]
    assert (starts.amin(1) < 100).all() and (starts.amax(1) > 900).all()


def test_stored_states():
    buffer = new_buffer(20, 2, sequence_length=3, burn_in=1, state_shapes={"h": (1, 4), "c": (2,)})
    for t in range(12):
        h, c = np.full((2, 1, 4), t), np.full((2, 2), -t)
        obs = np.full((2, 1), t)
        buffer.add(obs, obs, obs, np.zeros(2), np.array([t == 6, False]), states={"h": h, "c": c})
    batch = buffer.sample_block(3, 5)
    assert batch.observations.shape == (3, 5, 4, 1) and batch.states["h"].shape == (3, 5, 1, 4)
    assert (batch.states["h"][..., 0, 0] == batch.observations[:, :, 0, 0]).all()
    assert (batch.states["c"][..., 0] == -batch.observations[:, :, 0, 0]).all()
    with pytest.raises(TypeError, match=r"expected .*states\.c.*got \['episode_starts'\]"):
        buffer.add(obs, obs, obs, np.zeros(2), np.zeros(2))


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(sequence_length=0), "sequence_length=0"),
        (dict(burn_in=-1), "burn_in=-1"),
        (dict(sequence_length=9, burn_in=2), "window of 11 rows"),
    ],
    ids=str,
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        new_buffer(10, **kwargs)


def test_images_and_copies():
    space = spaces.Dict({"image": spaces.Box(0, 255, (3, 8, 8), np.uint8), "x": OBS})
    buffer = SequenceReplayBuffer(20, space, ACT, device="cpu", sequence_length=3, optimize_memory_usage=True)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (12, 1, 3, 8, 8), np.uint8)
    for t in range(11):
        obs, next_obs = ({"image": images[i], "x": np.full((1, 1), i)} for i in (t, t + 1))
        buffer.add(obs, next_obs, np.zeros((1, 1)), np.zeros(1), np.array([t == 10]))
    other = copy.deepcopy(buffer)
    batch, again = buffer.sample(8), other.sample(8)
    assert th.equal(batch.observations["image"], again.observations["image"])
    times = batch.observations["x"][..., 0].long()
    assert (batch.observations["image"] == th.from_numpy(images[:, 0])[times]).all()
    assert (batch.next_observations["image"] == th.from_numpy(images[:, 0])[times + 1]).all()


def test_forgetting():
    buffer = new_buffer(10, sequence_length=2)
    buffer.extend(**Log(1, 0, 0.0).steps(6))
    buffer.reset()
    with pytest.raises(ValueError, match=r"no window|empty"):
        buffer.sample(1)
