"""Replay buffers against a slow, obvious reference, for random sequences of operations."""

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

from sb3_pgr.buffers import TensorReplayBuffer, frames, storage

STACK = 3
# "add" one step, extend by a number of steps, or replace the buffer by a copy of itself.
COPIES = st.sampled_from(["pickle", "deepcopy", "state"])
OPERATIONS = st.lists(st.one_of(st.just("add"), st.integers(1, 30), COPIES), min_size=1, max_size=25)
SPACES = {
    "vector": spaces.Box(-1, 1, (3,)),
    "image": spaces.Box(0, 255, (STACK, 4, 4), np.uint8),
    "channels-last": spaces.Box(0, 255, (5, 4, STACK), np.uint8),
    "dict": spaces.Dict({"camera": spaces.Box(0, 255, (STACK, 4, 4), np.uint8), "state": spaces.Box(-1, 1, (2,))}),
}


class Simulation:
    """Environments whose observations are stacks of random frames, with resets, time limits and sudden jumps."""

    def __init__(self, name, n_envs, seed):
        self.space, self.rng = SPACES[name], np.random.default_rng(seed)
        self.axis = {"image": 0, "channels-last": 2, "camera": 0}
        self.name, self.n_envs = name, n_envs
        self.obs = [self.reset() for _ in range(n_envs)]

    def parts(self):
        return dict(self.space.items()) if isinstance(self.space, spaces.Dict) else {self.name: self.space}

    def frame(self, space):
        # Few values, so that different frames are sometimes equal.
        values = self.rng.integers(0, 3, space.shape) if space.dtype == np.uint8 else self.rng.normal(size=space.shape)
        return values.astype(space.dtype)

    def reset(self):
        obs = {key: self.frame(space) for key, space in self.parts().items()}
        for key in obs.keys() & self.axis.keys():  # as VecFrameStack: zeros before the first frame
            obs[key] = np.moveaxis(obs[key], self.axis[key], 0).copy()
            obs[key][:-1] = 0
            obs[key] = np.moveaxis(obs[key], 0, self.axis[key])
        return obs

    def step(self):
        """One transition of each environment, as the arguments of ``add``."""
        rows = []
        for env, obs in enumerate(self.obs):
            next_obs = {key: self.frame(space) for key, space in self.parts().items()}
            for key in next_obs.keys() & self.axis.keys():
                old, new = (np.moveaxis(each[key], self.axis[key], 0) for each in (obs, next_obs))
                next_obs[key] = np.moveaxis(np.concatenate([old[1:], new[-1:]]), 0, self.axis[key])
            done, jump = self.rng.random() < 0.2, self.rng.random() < 0.1
            if jump:  # what no environment does, but a buffer must survive
                next_obs = {key: self.frame(space) for key, space in self.parts().items()}
            timeout = bool(done and self.rng.random() < 0.5)
            rows.append((obs, next_obs, self.rng.uniform(-1, 1, 2).astype(np.float32), self.rng.normal(), done, timeout))
            self.obs[env] = self.reset() if done or self.rng.random() < 0.05 else next_obs
        obs, next_obs, action, reward, done, timeout = zip(*rows, strict=True)
        stacked = [{key: np.stack([each[key] for each in part]) for key in part[0]} for part in (obs, next_obs)]
        if not isinstance(self.space, spaces.Dict):
            stacked = [part[self.name] for part in stacked]
        return *stacked, np.stack(action), np.array(reward), np.array(done), np.array(timeout)


class Reference:
    """All transitions ever added; row ``p`` of a buffer of ``C`` rows holds the newest ``t`` with ``t % C == p``."""

    def __init__(self, capacity, n_steps, gamma):
        self.capacity, self.n_steps, self.gamma, self.steps = capacity, n_steps, gamma, []

    def row(self, p, env):
        t = max(t for t in range(len(self.steps)) if t % self.capacity == p)
        total, discount = 0.0, 1.0
        for k in range(t, min(t + self.n_steps, len(self.steps))):
            _, _, _, reward, done, timeout = self.steps[k]
            total += discount * reward[env]
            discount *= self.gamma
            if done[env] or timeout[env]:
                break
        obs, _, action = self.steps[t][:3]
        next_obs, terminal = self.steps[k][1], float(done[env] and not timeout[env])
        return item(obs, env), action[env], item(next_obs, env), terminal, total, discount


def item(obs, env):
    return {key: value[env] for key, value in obs.items()} if isinstance(obs, dict) else obs[env]


def stack_steps(steps):
    columns = list(zip(*steps, strict=True))
    return [
        {key: np.stack([each[key] for each in column]) for key in column[0]}
        if isinstance(column[0], dict)
        else np.stack(column)
        for column in columns
    ]


def assert_same_rows(buffer, reference, n_envs):
    assert buffer.size() == min(len(reference.steps), reference.capacity)
    index = th.arange(buffer.size() * n_envs)
    batch = buffer.rows(index.reshape(1, -1))  # any shape of index
    for i in index.tolist():
        obs, action, next_obs, terminal, reward, discount = reference.row(i // n_envs, i % n_envs)
        for ours, expected in ((batch.observations, obs), (batch.next_observations, next_obs)):
            for key in expected if isinstance(expected, dict) else [None]:
                value, target = (ours, expected) if key is None else (ours[key], expected[key])
                assert value.dtype == th.as_tensor(target).dtype
                np.testing.assert_array_equal(value[0, i].numpy(), target)
        np.testing.assert_array_equal(batch.actions[0, i].numpy(), action)
        assert batch.dones[0, i].item() == terminal
        assert batch.rewards[0, i].item() == pytest.approx(reward, rel=1e-6, abs=1e-6)
        if reference.n_steps > 1:
            assert batch.discounts[0, i].item() == pytest.approx(discount, rel=1e-6)
        else:
            assert batch.discounts is None


def nullcontext_or_device(like_a_device):
    """Make the CPU behave like a device of its own: rows are staged on the host, storage grows by doubling from 2 rows."""
    patches = contextlib.ExitStack()
    if like_a_device:
        for module in (storage, frames):
            patches.enter_context(mock.patch.object(module, "lives_on_host", lambda device: False))
        patches.enter_context(mock.patch.object(storage, "_FIRST_ROWS", 2))
    return patches


@pytest.mark.parametrize("like_a_device", [False, True], ids=["host", "device"])
@pytest.mark.parametrize("shared", [False, True], ids=["plain", "shared-frames"])
@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=25, deadline=None)
@given(
    capacity=st.integers(3, 12),
    n_envs=st.integers(1, 3),
    n_steps=st.integers(1, 3),
    operations=OPERATIONS,
    seed=st.integers(0, 2**31),
)
def test_against_reference(name, shared, like_a_device, capacity, n_envs, n_steps, operations, seed):
    with nullcontext_or_device(like_a_device):
        check_against_reference(name, shared, capacity, n_envs, n_steps, operations, seed)


def check_against_reference(name, shared, capacity, n_envs, n_steps, operations, seed):
    simulation = Simulation(name, n_envs, seed)
    kwargs = dict(device="cpu", n_envs=n_envs, n_steps=n_steps, gamma=0.9)
    if shared:
        kwargs |= dict(optimize_memory_usage=True, frame_stack=1 if name == "vector" else STACK)
    new_buffer = lambda: TensorReplayBuffer(capacity * n_envs, simulation.space, spaces.Box(-1, 1, (2,)), **kwargs)  # noqa: E731
    buffer, reference = new_buffer(), Reference(capacity, n_steps, 0.9)
    for operation in operations:
        if operation == "pickle":
            buffer = pickle.loads(pickle.dumps(buffer))
        elif operation == "deepcopy":
            buffer = copy.deepcopy(buffer)
        elif operation == "state":
            saved, buffer = buffer.state_dict(), new_buffer()
            buffer.load_state_dict(saved)
        elif operation == "add":
            step = simulation.step()
            reference.steps.append(step)
            infos = [{"TimeLimit.truncated": bool(timeout)} for timeout in step[-1]]
            buffer.add(*step[:-1], infos)
        else:
            steps = [simulation.step() for _ in range(operation)]
            reference.steps += steps
            *arrays, timeouts = stack_steps(steps)
            buffer.extend(*arrays, timeouts=timeouts)
    assert_same_rows(buffer, reference, n_envs)
