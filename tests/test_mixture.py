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

from sb3_pgr import REDQ
from sb3_pgr.buffers import MixtureReplayBuffer, PrioritizedReplayBuffer, SequenceReplayBuffer, TensorReplayBuffer
from sb3_pgr.common.state import get_arrays, set_arrays, truncate_episodes

OBS, ACT = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))


def filled(number, n=10, cls=TensorReplayBuffer, **kwargs):
    """A source whose rewards tell its number."""
    buffer = cls(50, OBS, ACT, device="cpu", **kwargs)
    add(buffer, number, n)
    return buffer


def add(buffer, number, n=1):
    for _ in range(n):
        row = np.zeros((1, 2), np.float32)
        buffer.add(row, row, np.zeros((1, 1)), np.full(1, number), np.zeros(1), [{}])


def mixture(shares, sources=None, **kwargs):
    return MixtureReplayBuffer(50, OBS, ACT, device="cpu", shares=shares, sources=sources, **kwargs)


def counts(batch, n_sources):
    return np.bincount(batch.rewards.flatten().long().numpy(), minlength=n_sources).tolist()


@settings(max_examples=60, deadline=None)
@given(
    shares=st.lists(st.floats(0.01, 5), min_size=1, max_size=4),
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    steps=st.integers(0, 5),
)
def test_shares_are_kept(shares, sizes, steps):
    """Exactly batch_size rows come out, and in the long run no source is off by a row."""
    names = ["online", *map(str, range(1, len(shares)))]
    buffer = mixture(dict(zip(names, shares, strict=True)), {name: filled(int(name)) for name in names[1:]})
    add(buffer, 0)
    total = np.zeros(len(shares))
    for size in sizes:
        batch = buffer.sample_block(steps, size) if steps else buffer.sample(size)
        assert batch.rewards.shape == ((steps, size, 1) if steps else (size, 1))
        total += counts(batch, len(shares))
    expected = np.array(shares) / sum(shares) * sum(sizes) * max(steps, 1)
    # A block's batches are alike, so its rounding counts as many times.
    assert np.abs(total - expected).max() <= max(steps, 1) + 1e-6
    statistics = buffer.statistics()
    np.testing.assert_allclose([statistics[name]["drawn"] for name in names], total / total.sum())


def test_an_empty_source_gives_its_share_back():
    buffer = mixture({"online": 1, "demos": 1, "dataset": 2})
    with pytest.raises(ValueError, match="All sources with a share are empty"):
        buffer.sample(8)
    add(buffer, 0)
    assert counts(buffer.sample(8), 3) == [8, 0, 0]
    buffer.set_source("dataset", filled(2))
    buffer.set_source("demos", TensorReplayBuffer(5, OBS, ACT, device="cpu"))
    assert counts(buffer.sample(9), 3) == [3, 0, 6]
    add(buffer.sources["demos"], 1)
    assert counts(buffer.sample(8), 3) == [2, 2, 4]
    assert counts(buffer.sample_block(5, 8), 3) == [10, 10, 20]
    assert buffer.statistics()["demos"] == {"size": 1, "share": 0.25, "drawn": 12 / 65}


def test_scheduled_shares():
    buffer = mixture({"online": (0.0, 1.0, 20), "demos": lambda n_added: 1.0}, {"demos": filled(1)})
    add(buffer, 0)
    for n_added, expected in ((0, [0, 12]), (10, [4, 8]), (20, [6, 6]), (500, [6, 6])):
        buffer.n_added = n_added
        assert counts(buffer.sample(12), 2) == expected


@pytest.mark.parametrize("algo, env_id", [(SAC, "Pendulum-v1"), (TD3, "Pendulum-v1"), (DQN, "CartPole-v1")])
def test_online_alone_is_bit_neutral(algo, env_id):
    weights = []
    for kwargs in ({}, dict(replay_buffer_class=MixtureReplayBuffer, replay_buffer_kwargs=dict(shares={"online": 1, "x": 1}))):
        model = algo("MlpPolicy", make_vec_env(env_id), seed=5, learning_starts=50, buffer_size=100, **kwargs)
        model.learn(120)
        weights.append(list(model.policy.parameters()))
    assert all(th.equal(a, b) for a, b in zip(*weights, strict=True))


@pytest.mark.parametrize("algo", [SAC, REDQ])
def test_learning_from_demonstrations(algo, tmp_path):
    env = make_vec_env("Pendulum-v1")
    teacher = SAC("MlpPolicy", env, learning_starts=100, replay_buffer_class=TensorReplayBuffer, buffer_size=200)
    demos = teacher.learn(60).replay_buffer
    kwargs = dict(replay_buffer_class=MixtureReplayBuffer, replay_buffer_kwargs=dict(shares={"online": 0.5, "demos": 0.5}))
    model = algo("MlpPolicy", env, learning_starts=20, buffer_size=500, batch_size=16, gradient_steps=2, **kwargs)
    model.replay_buffer.set_source("demos", demos)
    model.learn(40)
    assert model.replay_buffer.statistics()["demos"] == {"size": 60, "share": 0.5, "drawn": 0.5}
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    loaded = algo.load(tmp_path / "model", env=env)
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.size() == 40 and loaded.replay_buffer.sources["demos"].size() == 60
    loaded.learn(10, reset_num_timesteps=False)


@pytest.mark.parametrize("how", ["pickle", "deepcopy", "checkpoint"])
def test_copies_continue_alike(how, tmp_path):
    shares = {"online": 0.7, "demos": (0.3, 0.6, 30), "sb3": 0.1}
    sources = lambda n: {"demos": filled(1, n), "sb3": filled(2, n, ReplayBuffer)}  # noqa: E731
    buffer = mixture(shares, sources(10))
    add(buffer, 0, 7)
    buffer.sample(13)
    if how == "pickle":
        other = pickle.loads(pickle.dumps(buffer))
    elif how == "deepcopy":
        other = copy.deepcopy(buffer)
    else:
        th.save(get_arrays(buffer), tmp_path / "state.pt")
        other = mixture(shares, sources(1))
        set_arrays(other, th.load(tmp_path / "state.pt", weights_only=True))
    for each in (buffer, other):
        add(each, 0, 3)
    assert (other.pos, other.size(), other.n_added) == (10, 10, 10)
    for _ in range(5):
        np.random.seed(0)
        first = buffer.sample(9)
        np.random.seed(0)
        second = other.sample(9)
        for a, b in zip(first[:5], second[:5], strict=True):
            assert th.equal(a, b)


def test_n_steps_beside_single_steps():
    buffer = mixture({"online": 1, "demos": 1}, {"demos": filled(1)}, online_kwargs=dict(n_steps=3, gamma=0.9), gamma=0.9)
    add(buffer, 0, 5)
    batch = buffer.sample(8)
    assert batch.discounts.shape == (8, 1) and (batch.discounts[4:] == th.tensor(0.9)).all()


@pytest.mark.parametrize("block", [False, True])
def test_a_prioritized_source(block):
    buffer = mixture({"demos": 1, "online": 1}, {"demos": filled(1)}, online_class=PrioritizedReplayBuffer)
    add(buffer, 0, 6)
    batch = buffer.sample_block(2, 8) if block else buffer.sample(8)
    assert batch.weights.shape == batch.rewards.shape
    online = batch.rewards.squeeze(-1) == 0
    for rows in zip(batch.weights.squeeze(-1), online, strict=True) if block else [(batch.weights.squeeze(-1), online)]:
        assert rows[0].max() == 1
        assert rows[0][rows[1]].mean().item() == pytest.approx(rows[0][~rows[1]].mean().item())
    buffer.update_priorities(batch.indices, th.full(batch.indices.shape, 9.0))
    touched = set((batch.indices[online] & 0xFFFF).tolist())
    priorities = buffer.online.priorities().flatten()
    assert {i for i in range(6) if priorities[i] > 2} == touched


def test_a_prioritized_source_without_rows():
    demos = PrioritizedReplayBuffer(20, OBS, ACT, device="cpu")
    add(demos, 1, 4)
    buffer = mixture({"demos": 1, "online": 1}, {"demos": demos}, online_class=PrioritizedReplayBuffer)
    batch = buffer.sample(4)
    buffer.update_priorities(batch.indices, th.full((4,), 5.0))
    assert demos.priorities().max() > 2


@pytest.mark.parametrize("share", [0.0, 0.05])
def test_batches_beside_a_prioritized_source_are_always_weighted(share):
    """Also those that draw none of its rows, and whatever is written back."""
    demos = PrioritizedReplayBuffer(20, OBS, ACT, device="cpu")
    buffer = mixture({"demos": share, "online": 1 - share}, {"demos": demos})
    add(buffer, 0, 4)
    for i in range(12):
        batch = buffer.sample(8)
        assert batch.weights.shape == (8, 1)
        buffer.update_priorities(batch.indices, th.full((8,), 5.0))
        if i == 3:
            add(demos, 1, 4)
    assert (demos.priorities().max() > 2) == (share > 0)


def test_types_of_a_mixture_from_shapes():
    buffer = MixtureReplayBuffer.from_shapes(10, (3,), (2,), obs_dtype=np.float64, action_dtype=np.float16, device="cpu")
    assert (buffer.online.observations.dtype, buffer.online.actions.dtype) == (th.float64, th.float16)


@pytest.mark.parametrize("online_class", [TensorReplayBuffer, ReplayBuffer])
def test_ends_of_episodes_reach_the_online_source(online_class):
    buffer = mixture({"online": 1}, online_class=online_class)
    add(buffer, 0, 3)
    buffer.truncate_episodes()
    assert float(buffer.dones[2, 0]) == float(buffer.timeouts[2, 0]) == 1 and float(buffer.dones[1, 0]) == 0
    buffer.reset()
    assert buffer.size() == 0


@pytest.mark.parametrize(
    "shares, sources, message",
    [
        ({"online": -1}, {}, "not be negative"),
        ({"online": 0}, {}, "not all zero"),
        ({"online": float("nan")}, {}, "not be negative"),
        ({"online": (1, 2)}, {}, r"shares\['online'\]"),
        ({"online": 1}, {"demos": filled(1)}, "no share for source 'demos'"),
        ({"online": 1, "demos": 1}, {"demos": TensorReplayBuffer(5, spaces.Box(-1, 1, (7,)), ACT)}, "'demos' has obs.*7"),
        ({"online": 1, "demos": 1}, {"demos": "demos.pkl"}, "must be a replay buffer, not str"),
        ([0.5, 0.5], {}, "must be a mapping"),
    ],
    ids=lambda value: None,
)
def test_refusals(shares, sources, message):
    with pytest.raises(ValueError, match=message):
        mixture(shares, sources)


@pytest.mark.parametrize("sizes", [(50, 50), (50, 25)])
def test_sources_of_one_seed_draw_otherwise(sizes):
    th.manual_seed(0)
    parts = [TensorReplayBuffer(size, OBS, ACT, device="cpu") for size in sizes]
    buffer = mixture({"online": 1, "first": 1, "second": 1}, dict(zip(("first", "second"), parts, strict=True)))
    for part in (buffer, *parts):  # rewards are numbers of rows
        zeros = np.zeros((part.buffer_size, 1))
        part.extend(
            np.zeros((part.buffer_size, 2)), np.zeros((part.buffer_size, 2)), zeros, np.arange(part.buffer_size), zeros
        )
    rows = buffer.sample_block(20, 96).rewards.view(20, 3, 32) % min(sizes)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert (rows[:, one] == rows[:, other]).float().mean() < 0.15


def test_the_seed_decides_what_sources_draw():
    drawn = []
    for before, seed in ((1, 0), (2, 0), (1, 1)):
        th.manual_seed(before)  # the source is there before the model is seeded
        part = TensorReplayBuffer(50, OBS, ACT, device="cpu")
        part.extend(np.zeros((50, 2)), np.zeros((50, 2)), np.zeros((50, 1)), np.arange(50), np.zeros(50))
        th.manual_seed(seed)
        drawn.append(mixture({"online": 1, "demos": 1}, {"demos": part}).sample_block(1, 20).rewards)
    assert th.equal(drawn[0], drawn[1]) and not th.equal(drawn[0], drawn[2])


def test_windows_are_not_joined():
    windows = SequenceReplayBuffer(50, OBS, ACT, device="cpu", sequence_length=4)
    with pytest.raises(ValueError, match="draws windows"):
        mixture({"online": 1, "demos": 1}, {"demos": windows})
    with pytest.raises(ValueError, match="draws windows"):
        mixture(
            {"online": 1, "demos": 1},
            {"demos": filled(1)},
            online_class=SequenceReplayBuffer,
            online_kwargs=dict(sequence_length=4),
        )


def test_a_checkpoint_with_a_source_that_is_missing():
    saved = mixture({"online": 1, "demos": 1}, {"demos": filled(1)}).state_dict()
    with pytest.raises(ValueError, match=r"demos.*set_source"):
        mixture({"online": 1, "demos": 1}).load_state_dict(saved)


@pytest.mark.parametrize("done, timeout", [(0, 1), (1, 0)])
def test_cutting_an_episode_leaves_a_true_end(done, timeout):
    buffer = ReplayBuffer(5, OBS, ACT, device="cpu")
    buffer.add(np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((1, 1)), np.zeros(1), np.array([done]), [{}])
    truncate_episodes(buffer)
    assert (buffer.dones[0, 0], buffer.timeouts[0, 0]) == (1, timeout)
