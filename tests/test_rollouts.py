import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgr.buffers import TensorRolloutBuffer, generalized_advantages

VECTOR = spaces.Box(-1, 1, (3,))
DICT = spaces.Dict({"image": spaces.Box(0, 255, (3, 4, 4), np.uint8), "state": VECTOR, "goal": spaces.Discrete(3)})
ACTIONS = {"box": spaces.Box(-1, 1, (2,)), "discrete": spaces.Discrete(4), "multi": spaces.MultiDiscrete([3, 2])}


def fill(buffer, space, action_space, seed=0):
    """A rollout of random numbers, and its advantages."""
    space.seed(seed)
    action_space.seed(seed)
    rng, n = np.random.default_rng(seed), buffer.n_envs
    buffer.reset()
    for _ in range(buffer.buffer_size):
        obs = [space.sample() for _ in range(n)]
        stacked = {key: np.stack([each[key] for each in obs]) for key in obs[0]} if isinstance(obs[0], dict) else np.stack(obs)
        value, log_prob = th.from_numpy(rng.normal(size=(n, 1))).float(), th.from_numpy(rng.normal(size=n)).float()
        actions = np.stack([action_space.sample() for _ in range(n)])
        buffer.add(stacked, actions, rng.normal(size=n), rng.random(n) < 0.1, value, log_prob)
    last_values, dones = th.from_numpy(rng.normal(size=(n, 1))).float(), rng.random(n) < 0.5
    buffer.compute_returns_and_advantage(last_values, dones)


@pytest.mark.parametrize("batch_size", [None, 7, 16, 1000])
@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("actions", ACTIONS)
@pytest.mark.parametrize("space", [VECTOR, DICT], ids=["vector", "dict"])
def test_minibatches_as_sb3(space, actions, n_envs, batch_size):
    """The same minibatches in the same order; advantages up to rounding, everything else exactly."""
    theirs_class = DictRolloutBuffer if space is DICT else RolloutBuffer
    collected = []
    for cls in (theirs_class, TensorRolloutBuffer):
        buffer = cls(16, space, ACTIONS[actions], device="cpu", gae_lambda=0.9, gamma=0.95, n_envs=n_envs)
        fill(buffer, space, ACTIONS[actions])
        np.random.seed(0)
        epochs = [batch for _ in range(2) for batch in buffer.get(batch_size)]
        collected.append((epochs, buffer.values, buffer.returns))
    assert len(collected[0][0]) == len(collected[1][0])
    for expected, batch in zip(collected[0][0], collected[1][0], strict=True):
        assert type(batch) is type(expected)
        for name, a in expected._asdict().items():
            b = getattr(batch, name)
            for x, y in ((a[key], b[key]) for key in a) if isinstance(a, dict) else ((a, b),):
                if name in ("advantages", "returns"):
                    th.testing.assert_close(y, x, rtol=1e-5, atol=1e-6)
                else:
                    assert th.equal(y, x) and y.dtype == x.dtype
    # What PPO's log reads: the order differs (SB3's lies environment by environment after get), the content does not.
    for theirs, ours in zip(collected[0][1:], collected[1][1:], strict=True):
        np.testing.assert_allclose(np.sort(ours.flatten()), np.sort(theirs.flatten()), rtol=1e-5, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    steps=st.integers(1, 70),
    n_envs=st.integers(1, 3),
    gamma=st.sampled_from([0.0, 0.9, 0.99, 1.0]),
    gae_lambda=st.sampled_from([0.0, 0.95, 1.0]),
    seed=st.integers(0, 1000),
)
def test_advantages(steps, n_envs, gamma, gae_lambda, seed):
    """Equation 16 as a sum over the rest of the episode, in float64."""
    rng = np.random.default_rng(seed)
    rewards, values, next_values = rng.normal(size=(3, steps, n_envs))
    alive = (rng.random((steps, n_envs)) > 0.2).astype(float)
    expected = np.zeros((steps, n_envs))
    for env in range(n_envs):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                delta = rewards[k, env] + gamma * alive[k, env] * next_values[k, env] - values[k, env]
                expected[t, env] += weight * delta
                weight *= gamma * gae_lambda * alive[k, env]
    arguments = [th.from_numpy(array) for array in (rewards, values, next_values, alive)]
    np.testing.assert_allclose(generalized_advantages(*arguments, gamma, gae_lambda), expected, rtol=1e-12, atol=1e-12)


def test_advantages_of_a_long_rollout_as_sb3():
    buffers = [cls(2048, VECTOR, ACTIONS["box"], "cpu", 0.95, 0.99, 4) for cls in (RolloutBuffer, TensorRolloutBuffer)]
    for buffer in buffers:
        fill(buffer, VECTOR, ACTIONS["box"])
    for name in ("advantages", "returns"):
        expected, ours = (getattr(buffer, name) for buffer in buffers)
        assert np.abs(ours - expected).max() < 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize("copier", [lambda b: pickle.loads(pickle.dumps(b)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_are_whole(copier):
    buffer = TensorRolloutBuffer(4, VECTOR, ACTIONS["box"], device="cpu")
    fill(buffer, VECTOR, ACTIONS["box"])
    other = copier(buffer)
    for name in ("observations", "actions", "rewards", "advantages"):
        np.testing.assert_array_equal(getattr(other, name), getattr(buffer, name))
    fill(other, VECTOR, ACTIONS["box"], seed=1)
    batch = next(other.get())
    assert sorted(batch.observations[:, 0].tolist()) == sorted(other.observations[:, 0, 0].tolist())
    assert not np.array_equal(other.observations, buffer.observations)


def test_arrays_can_be_assigned():
    buffer = TensorRolloutBuffer(8, VECTOR, spaces.Box(-1, 1, (2,)), "cpu", n_envs=2)
    fill(buffer, VECTOR, spaces.Box(-1, 1, (2,)))
    for name in ("rewards", "values", "log_probs", "advantages", "returns"):
        before = getattr(buffer, name).copy()
        setattr(buffer, name, getattr(buffer, name) + 1)
        np.testing.assert_allclose(getattr(buffer, name), before + 1)
    buffer.rewards += 1
    assert (buffer.rewards == buffer._storage.field("rewards").numpy()).all()


def test_misuse():
    with pytest.raises(ValueError, match="buffer_size=0"):
        TensorRolloutBuffer(0, VECTOR, ACTIONS["box"])
    buffer = TensorRolloutBuffer(2, VECTOR, ACTIONS["box"], device="cpu")
    row = np.zeros((1, 3)), np.zeros((1, 2)), np.zeros(1), np.zeros(1), th.zeros(1), th.zeros(1)
    buffer.add(*row)
    for act in (lambda: next(buffer.get(1)), lambda: buffer.compute_returns_and_advantage(th.zeros(1), np.zeros(1))):
        with pytest.raises(ValueError, match="1 of 2 steps"):
            act()
    buffer.add(*row)
    with pytest.raises(ValueError, match=r"call reset\(\)"):
        buffer.add(*row)


def test_without_sb3():
    buffer = TensorRolloutBuffer.from_shapes(4, (3,), (2,), device="cpu", n_envs=2, gamma=0.9, gae_lambda=0.8)
    for _ in range(4):
        buffer.add(th.zeros(2, 3), th.zeros(2, 2), th.ones(2), th.zeros(2), th.zeros(2), th.zeros(2))
    buffer.compute_returns_and_advantage(th.zeros(2), th.ones(2))
    assert sorted(len(batch.actions) for batch in buffer.get(3)) == [2, 3, 3]
    assert buffer.advantages[:, 0] == pytest.approx([1 + 0.72 * (1 + 0.72 * 1.72), 1 + 0.72 * 1.72, 1.72, 1.0])


def as_dict(env):
    space = spaces.Dict({"all": env.observation_space, "sign": spaces.MultiBinary(4)})
    return gym.wrappers.TransformObservation(env, lambda obs: {"all": obs, "sign": (obs > 0).astype(np.int8)}, space)


@pytest.mark.parametrize("algo", [PPO, A2C, TRPO])
@pytest.mark.parametrize("kind", ["box", "discrete", "dict"])
def test_with_on_policy_algorithms(algo, kind):
    """The first updates are those of SB3's buffer up to rounding."""
    policy = "MultiInputPolicy" if kind == "dict" else "MlpPolicy"
    weights = []
    for buffer_class in (None, TensorRolloutBuffer):
        env = make_vec_env(
            "Pendulum-v1" if kind == "box" else "CartPole-v1", 2, wrapper_class=as_dict if kind == "dict" else None
        )
        kwargs = {} if algo is A2C else dict(batch_size=16)
        model = algo(policy, env, n_steps=16, seed=3, rollout_buffer_class=buffer_class, **kwargs)
        model.learn(32)
        assert isinstance(model.rollout_buffer, TensorRolloutBuffer) == (buffer_class is not None)
        weights.append(list(model.policy.parameters()))
    for a, b in zip(*weights, strict=True):
        th.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
