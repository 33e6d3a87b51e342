"""A buffer that takes another's state does what the other would have done next."""

import numpy as np
import torch as th
from gymnasium import spaces
from test_generative_replay import buffer as generative
from test_generative_replay import fill as walk

from sb3_pgr.buffers import MixtureReplayBuffer, PrioritizedReplayBuffer, SequenceReplayBuffer, TensorReplayBuffer

OBS, ACT = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


def extend(buffer, rewards):
    n = len(rewards)
    buffer.extend(np.zeros((n, 3)), np.zeros((n, 3)), np.zeros((n, 2)), rewards, np.zeros(n))


def test_importance_weights_are_as_far_along_their_schedule():
    first, other = (PrioritizedReplayBuffer(50, OBS, ACT, "cpu", beta=(0.4, 1.0, 100)) for _ in range(2))
    extend(first, np.zeros(30))
    first.update_priorities(th.arange(30), th.rand(30))
    other.load_state_dict(first.state_dict())
    weights = [buffer.sample_block(2, 16).weights for buffer in (first, other)]
    assert weights[0].min() < 1 and th.equal(*weights)


def test_mixtures_carry_on_with_what_is_left_of_a_row():
    def mixture():
        demonstrations = TensorReplayBuffer(20, OBS, ACT, "cpu")
        extend(demonstrations, np.ones(20))
        shares = {"online": 0.7, "demonstrations": 0.3}
        whole = MixtureReplayBuffer(20, OBS, ACT, "cpu", shares=shares, sources={"demonstrations": demonstrations})
        extend(whole, np.zeros(20))
        return whole

    first, other = mixture(), mixture()
    first.sample(9)
    other.load_state_dict(first.state_dict())
    counts = [[int(buffer.sample(9).rewards.sum()) for _ in range(10)] for buffer in (first, other)]
    assert counts[0] == counts[1] and len(set(counts[0])) > 1


def test_windows_of_an_episode_that_was_cut_short():
    first, other = (SequenceReplayBuffer(20, OBS, ACT, "cpu", sequence_length=5) for _ in range(2))
    extend(first, np.arange(3.0))
    first.truncate_episodes()
    other.load_state_dict(first.state_dict())
    assert other.sample(2).masks.tolist() == [[True] * 3 + [False] * 2] * 2


def test_shared_frames_are_not_overwritten_while_rows_need_them():
    """Two frames a row at first, then one long episode with one: at no time more than there is room for."""
    pictures, random = spaces.Box(0, 255, (1, 4, 4), np.uint8), np.random.default_rng(0)
    first, other = (TensorReplayBuffer(64, pictures, ACT, "cpu", optimize_memory_usage=True) for _ in range(2))
    added = []

    def add(buffer, obs):
        added.append((obs, random.integers(0, 256, (1, 1, 4, 4), dtype=np.uint8)))
        buffer.add(*added[-1], np.zeros((1, 2)), np.zeros(1), np.zeros(1), [{}])

    for _ in range(20):
        add(first, random.integers(0, 256, (1, 1, 4, 4), dtype=np.uint8))
    other.load_state_dict(first.state_dict())
    for _ in range(44):
        add(other, added[-1][1])
    rows = other.rows(th.arange(64))
    np.testing.assert_array_equal(rows.observations, np.concatenate([obs for obs, _ in added]))
    np.testing.assert_array_equal(rows.next_observations, np.concatenate([next_obs for _, next_obs in added]))


def test_relevance_is_due_when_it_was():
    relevance = dict(name="curiosity", update_every=10)
    first, other = generative(relevance=relevance), generative(relevance=relevance)
    walk(first, 57)
    first.sample(4)
    other.load_state_dict(first.state_dict())
    due = []
    for buffer in (first, other):
        calls, update = [], buffer.relevance.update
        buffer.relevance.update = lambda rows, calls=calls, update=update: (calls.append(len(rows["rewards"])), update(rows))[
            1
        ]
        for step in range(12):
            walk(buffer, 1, seed=step)
            np.random.seed(step)
            buffer.sample(4)
        due.append(calls)
    assert due[0] == due[1] != []
