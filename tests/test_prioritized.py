import copy
import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from stable_baselines3 import DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import REDQ, GenerativeReplayBuffer
from sb3_pgr.buffers import MixtureReplayBuffer, PrioritizedReplayBuffer, PrioritizedReplayCallback, TensorReplayBuffer
from sb3_pgr.buffers.prioritized_callback import td_error_function
from sb3_pgr.buffers.sum_tree import WIDTH, SumTree

OBS, ACT = spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,))


def new_buffer(size=20, n_envs=1, **kwargs):
    return PrioritizedReplayBuffer(size, OBS, ACT, device="cpu", n_envs=n_envs, **kwargs)


def fill(buffer, n, start=0):
    """Rows whose reward tells their number."""
    for i in range(start, start + n):
        e = buffer.n_envs
        obs = np.full((e, 2), i)
        buffer.add(obs, obs + 1, np.zeros((e, 1)), i * e + np.arange(e), np.zeros(e), [{}] * e)


@settings(max_examples=40, deadline=None)
@given(size=st.sampled_from([1, 5, 63, 65, 16_385, 100_000]), seed=st.integers(0, 1000))
def test_sums(size, seed):
    rng = np.random.default_rng(seed)
    tree, leaves = SumTree(size), np.zeros(size, np.float32)
    for _ in range(5):
        index = rng.integers(0, size, 20)
        values = rng.random(size, np.float32)[index]  # equal for equal indices
        tree.update(th.as_tensor(index), th.as_tensor(values))
        leaves[index] = values
        start, stop = sorted(rng.integers(0, size + 1, 2))
        tree.fill(start, stop, 0.25)
        leaves[start:stop] = 0.25
    np.testing.assert_array_equal(tree.leaves.numpy(), leaves)
    assert tree.total().item() == pytest.approx(leaves.sum(dtype=np.float64), rel=1e-6)
    for children, parents in zip(tree._levels[:-1], tree._levels[1:], strict=True):
        sums = children.view(-1, WIDTH).sum(1)
        np.testing.assert_allclose(parents[: len(sums)].numpy(), sums.numpy(), rtol=1e-6)


@pytest.mark.parametrize("size", [10, 3000, 60_000])
def test_draws_follow_the_leaves(size):
    rng = np.random.default_rng(0)
    leaves = rng.random(size) ** 3 * (rng.random(size) < 0.7)
    tree = SumTree(size)
    tree.fill(0, size, th.as_tensor(leaves))
    generator = th.Generator().manual_seed(0)
    n = 200 * size if size < 10_000 else 2_000_000
    # Batches of one: drawn independently, as the test supposes.
    counts = np.bincount(th.cat([tree.sample(1, generator, n // 10) for _ in range(10)]).numpy(), minlength=size)
    assert (counts[leaves == 0] == 0).all()
    likely = leaves * n / leaves.sum() > 5
    expected = np.append(leaves[likely], leaves[~likely].sum() + 1e-12) * n / leaves.sum()
    observed = np.append(counts[likely], counts[~likely].sum())
    keep = expected > 5
    assert chisquare(observed[keep], expected[keep] * observed[keep].sum() / expected[keep].sum()).pvalue > 1e-3


def test_draws_are_stratified():
    tree = SumTree(1000)
    tree.fill(0, 1000, 1.0)
    drawn = tree.sample(1000, th.Generator().manual_seed(0)).sort().values
    assert (drawn == th.arange(1000)).float().mean() > 0.99  # of each thousandth one, but for rounding


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_sampling_and_weights(alpha, block):
    buffer = new_buffer(10, n_envs=2, alpha=alpha, beta=0.7, epsilon=1e-3)
    fill(buffer, 4)
    priorities = th.tensor([0.0, 1, 2, 3, 4, 5, 6, 7])
    buffer.update_priorities(th.arange(8), priorities)
    probability = (priorities + 1e-3) ** alpha
    probability /= probability.sum()
    np.testing.assert_allclose(buffer.priorities().flatten() / buffer.priorities().sum(), probability, rtol=1e-6)
    n = 40_000
    batch = buffer.sample_block(20, n // 20) if block else buffer.sample(n)
    assert (batch.rewards.flatten() == batch.indices.flatten()).all()  # row i of environment e has reward 2 i + e
    counts = np.bincount(batch.indices.flatten().numpy(), minlength=8)
    keep = probability.numpy() * n > 5
    expected = probability.numpy()[keep] * counts[keep].sum() / probability.numpy()[keep].sum()
    assert chisquare(counts[keep], expected).pvalue > 1e-3
    weights = (8 * probability[batch.indices]) ** -0.7
    weights = weights / weights.amax(-1, keepdim=True)
    np.testing.assert_allclose(batch.weights.squeeze(-1), weights, rtol=1e-5)


def test_new_rows_get_the_largest_priority():
    buffer = new_buffer(8, alpha=1.0, epsilon=1e-9)
    fill(buffer, 4)
    np.testing.assert_allclose(buffer.priorities().flatten(), [1, 1, 1, 1])
    buffer.update_priorities(th.tensor([1, 2]), th.tensor([5.0, 0.5]))
    fill(buffer, 2)
    np.testing.assert_allclose(buffer.priorities().flatten(), [1, 5, 0.5, 1, 5, 5], rtol=1e-6)
    fill(buffer, 3)  # wraps: rows 6, 7 and 0
    np.testing.assert_allclose(buffer.priorities().flatten(), [5, 5, 0.5, 1, 5, 5, 5, 5], rtol=1e-6)
    fill(buffer, 20)
    np.testing.assert_allclose(buffer.priorities().flatten(), 5, rtol=1e-6)


@pytest.mark.parametrize("n", [100, 100_000])
def test_the_last_of_several_values_stays_however_many_there_are(n):
    generator, tree = th.Generator().manual_seed(0), SumTree(5_000)
    index, value = th.randint(5_000, (n,), generator=generator), th.rand(n, generator=generator)
    expected = np.zeros(5_000, np.float32)
    for i, v in zip(index.tolist(), value.tolist()):
        expected[i] = v
    tree.update(index, value)
    np.testing.assert_array_equal(tree.leaves.numpy(), expected)
    assert float(tree.total()) == pytest.approx(expected.sum(dtype=np.float64), rel=1e-5)


def test_forgetting():
    buffer = new_buffer(10)
    fill(buffer, 10)
    buffer.update_priorities(th.arange(10), th.full((10,), 9.0))
    buffer.reset()
    fill(buffer, 2, start=70)
    assert set(buffer.sample(100).rewards.flatten().tolist()) == {70, 71}


def test_extreme_priorities():
    buffer = new_buffer(10, alpha=8.0)
    fill(buffer, 3)
    buffer.update_priorities(th.tensor([], dtype=th.int64), th.tensor([]))
    buffer.update_priorities(th.tensor([0, 1, 2]), th.tensor([1e30, 0.0, 0.0]))
    assert (buffer.sample(50).indices == 0).all()
    buffer.update_priorities(th.tensor([0]), th.tensor([0.0]))
    assert buffer.sample(50).weights.isfinite().all()
    with pytest.raises(ValueError, match="Row 5 has no priority: there are 3 rows"):
        buffer.update_priorities(th.tensor([5]), th.tensor([1.0]))
    with pytest.raises(ValueError, match="2 indices need as many priorities, got 1"):
        buffer.update_priorities(th.tensor([0, 1]), th.tensor([1.0]))


@pytest.mark.parametrize("beta, expected", [(0.4, [0.4, 0.4]), ((0.4, 1.0, 20), [0.4, 0.7]), (lambda n: n / 10, [0.0, 1.0])])
def test_beta(beta, expected):
    buffer = new_buffer(20, alpha=1.0, beta=beta, epsilon=1e-9)
    buffer.extend(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 1)), np.zeros(2), np.zeros(2))
    for n_added, value in zip((0, 10), expected, strict=True):
        buffer.n_added = n_added
        buffer.update_priorities(th.tensor([0, 1]), th.tensor([1.0, 3.0]))
        batch = buffer.sample(64)
        assert batch.weights[batch.indices == 1][0].item() == pytest.approx(3**-value, rel=1e-5)


@pytest.mark.parametrize("value", [float("nan"), -0.5, float("inf")])
def test_bad_priorities_are_named(value):
    buffer = new_buffer(20, n_envs=2)
    fill(buffer, 5)
    with pytest.raises(ValueError, match=r"\(2, 1\).*priorities \["):
        buffer.update_priorities(th.tensor([3, 5]), th.tensor([1.0, value]))
    assert buffer.priorities().isfinite().all()


@pytest.mark.parametrize("row", [20, -1])
@pytest.mark.parametrize("rows", [5, 30], ids=["filling", "full"])
def test_priorities_of_rows_that_are_not_there(row, rows):
    buffer = new_buffer(20, n_envs=1)
    fill(buffer, rows)
    with pytest.raises(ValueError, match=f"Row {row} has no priority"):
        buffer.update_priorities(th.tensor([1, row]), th.ones(2))


@pytest.mark.parametrize(
    "kwargs, message", [(dict(alpha=-1), "alpha"), (dict(epsilon=0), "epsilon"), (dict(beta=(0, 1)), "beta=")], ids=str
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        new_buffer(**kwargs)


@pytest.mark.parametrize("copier", [lambda b: pickle.loads(pickle.dumps(b)), copy.deepcopy], ids=["pickle", "deepcopy"])
def test_copies_continue_alike(copier):
    buffer = new_buffer(12, n_envs=2)
    fill(buffer, 9)
    buffer.update_priorities(th.arange(6), th.rand(6))
    fill(buffer, 1)
    other = copier(buffer)
    for each in (buffer, other):
        fill(each, 2, start=50)
    first, second = buffer.sample_block(3, 8), other.sample_block(3, 8)
    for name in ("rewards", "weights", "indices"):
        assert th.equal(getattr(first, name), getattr(second, name))


def test_a_buffer_from_a_file_collects_no_draws():
    buffer = new_buffer()
    fill(buffer, 9)
    buffer.remember_draws()
    buffer.sample(4)
    other = pickle.loads(pickle.dumps(buffer))
    assert len(buffer.drawn) == 1 and other.drawn is None  # whoever wants them, asks again
    other.update_priorities(np.arange(3, dtype=np.int32), np.ones(3))


def test_n_steps_and_normalisation():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    env.reset()
    for _ in range(5):
        env.step(np.array([env.action_space.sample()]))
    kwargs = dict(n_steps=3, gamma=0.9, device="cpu")
    space, action = env.observation_space, env.action_space
    plain, ours = TensorReplayBuffer(10, space, action, **kwargs), PrioritizedReplayBuffer(10, space, action, **kwargs)
    rng = np.random.default_rng(0)
    for _ in range(8):
        for buffer in (plain, ours):
            buffer.add(rng.normal(size=(1, 3)), rng.normal(size=(1, 3)), np.zeros((1, 1)), np.ones(1), np.zeros(1), [{}])
    batch = ours.sample(6, env)
    expected = ours.rows(batch.indices, env)
    for a, b in zip(batch[:6], expected, strict=True):
        assert th.equal(a, b)
    assert batch.discounts is not None


# With algorithms


@pytest.mark.parametrize(
    "algo, env_id", [(DQN, "CartPole-v1"), (SAC, "Pendulum-v1"), (TD3, "Pendulum-v1"), (DDPG, "Pendulum-v1")]
)
def test_with_unmodified_sb3(algo, env_id):
    """After training, the priorities of the rows that were drawn last are their TD errors, computed here anew."""
    model = algo(
        "MlpPolicy",
        make_vec_env(env_id, n_envs=2),
        learning_starts=40,
        batch_size=16,
        train_freq=8,
        gradient_steps=3,
        replay_buffer_class=PrioritizedReplayBuffer,
        replay_buffer_kwargs=dict(alpha=1.0, epsilon=1e-8),
        buffer_size=500,
        seed=1,
    )
    drawn = []
    sample = model.replay_buffer.sample
    model.replay_buffer.sample = lambda *args, **kwargs: drawn.append(sample(*args, **kwargs)) or drawn[-1]
    if isinstance(model, TD3):
        model.target_policy_noise = 0.0  # so that the target can be computed again
    model.learn(160, callback=PrioritizedReplayCallback())
    assert len(drawn) == model._n_updates and model.replay_buffer.drawn is None
    assert len(model.replay_buffer.priorities().unique()) > 10
    batch = drawn[-1]
    with th.no_grad():
        if isinstance(model, DQN):
            next_q = model.q_net_target(batch.next_observations).max(1).values
            q = model.q_net(batch.observations)[th.arange(16), batch.actions.long().squeeze(1)][None]
        elif isinstance(model, TD3):
            next_actions = model.actor_target(batch.next_observations)
            next_q = th.stack(model.critic_target(batch.next_observations, next_actions)).squeeze(-1).min(0).values
            q = th.stack(model.critic(batch.observations, batch.actions)).squeeze(-1)
        else:
            th.manual_seed(0)
            next_actions, log_prob = model.actor.action_log_prob(batch.next_observations)
            next_q = th.stack(model.critic_target(batch.next_observations, next_actions)).squeeze(-1).min(0).values
            next_q -= model.log_ent_coef.exp() * log_prob
            q = th.stack(model.critic(batch.observations, batch.actions)).squeeze(-1)
        errors = (q - (batch.rewards + (1 - batch.dones) * model.gamma * next_q[:, None]).squeeze(1)).abs().mean(0)
        th.manual_seed(0)  # SAC's target holds random actions
        np.testing.assert_allclose(td_error_function(model)(model, batch), errors, rtol=1e-4, atol=1e-6)
    if not isinstance(model, SAC):
        priorities = model.replay_buffer.priorities().flatten()[batch.indices]
        np.testing.assert_allclose(priorities, errors, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("buffer_class", [MixtureReplayBuffer, GenerativeReplayBuffer])
def test_a_mixture_with_unmodified_sb3(buffer_class):
    """Its prioritized source learns priorities too; rows of other sources have none."""
    model = TD3(
        "MlpPolicy",
        "Pendulum-v1",
        learning_starts=20,
        batch_size=16,
        replay_buffer_class=buffer_class,
        replay_buffer_kwargs=dict(online_class=PrioritizedReplayBuffer),
        buffer_size=500,
        device="cpu",
    )
    model.learn(60, callback=PrioritizedReplayCallback())
    assert len(model.replay_buffer.online.priorities().unique()) > 10 and model.replay_buffer.online.drawn is None


def test_callback_refusals():
    with pytest.raises(TypeError, match="needs replay_buffer_class=PrioritizedReplayBuffer, found ReplayBuffer"):
        SAC("MlpPolicy", "Pendulum-v1").learn(10, callback=PrioritizedReplayCallback())
    with pytest.raises(TypeError, match="found NoneType"):
        PPO("MlpPolicy", "Pendulum-v1").learn(10, callback=PrioritizedReplayCallback())
    with pytest.raises(TypeError, match="not of REDQ"):
        REDQ("MlpPolicy", "Pendulum-v1", replay_buffer_class=PrioritizedReplayBuffer).learn(10, PrioritizedReplayCallback())


def redq(**kwargs):
    return REDQ(
        "MlpPolicy",
        "Pendulum-v1",
        learning_starts=30,
        batch_size=8,
        gradient_steps=2,
        policy_delay=2,
        n_critics=3,
        policy_kwargs=dict(net_arch=[16]),
        seed=0,
        **kwargs,
    )


def test_redq_updates_priorities_and_weights_its_loss():
    model = redq(replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(alpha=1.0, beta=1.0))
    model.learn(40)
    priorities = model.replay_buffer.priorities().flatten()
    assert len(priorities.unique()) > 10 and model.replay_buffer._max_priority > 1
    rows = model.replay_buffer.sample(8)
    batch = {name: value for name, value in rows._asdict().items() if value is not None}
    batch |= dict(next_noise=th.randn(8, 1), noise=th.randn(8, 1), subset=th.tensor([0, 2]))
    loss, _, errors = model._critic_loss(batch)
    unweighted = {name: value for name, value in batch.items() if name != "weights"}
    one_by_one = []
    for i in range(8):
        single = {name: value if name == "subset" else value[i : i + 1] for name, value in unweighted.items()}
        one, _, error = model._critic_loss(single)
        one_by_one.append(one.item())
        assert error.item() == pytest.approx(errors[i].item(), rel=1e-5)
    assert loss.item() == pytest.approx(float(np.mean(rows.weights.squeeze(1).numpy() * one_by_one)), rel=1e-5)


def test_redq_with_equal_priorities_learns_from_all():
    """alpha=0: the weights are all 1, so the loss is the plain one."""
    model = redq(replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(alpha=0.0, beta=1.0))
    model.learn(40)
    assert (model.replay_buffer.sample(8).weights == 1).all()


@pytest.mark.gpu
def test_on_a_gpu():
    buffer = PrioritizedReplayBuffer(20, OBS, ACT, device="cuda")
    fill(buffer, 10)
    batch = buffer.sample(8)
    assert batch.weights.device.type == "cuda"
    buffer.update_priorities(batch.indices, th.rand(8, device="cuda"))
    buffer.update_priorities(batch.indices[:1], th.tensor([float("nan")], device="cuda"))
    with pytest.raises(ValueError, match="first"):  # told at the next call
        buffer.update_priorities(batch.indices, th.rand(8, device="cuda"))
    assert pickle.loads(pickle.dumps(buffer)).priorities().device.type == "cuda"


def test_td_errors_of_n_step_returns():
    replay = dict(replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(n_steps=3, gamma=0.9))
    small = dict(gamma=0.9, learning_starts=20, batch_size=16, buffer_size=200, seed=0, device="cpu")
    model = SAC("MlpPolicy", "Pendulum-v1", **small, **replay).learn(40, PrioritizedReplayCallback())
    batch = model.replay_buffer.rows(th.arange(16))
    assert batch.discounts.min() < 0.8
    with th.no_grad():
        th.manual_seed(0)
        actions, log_prob = model.actor.action_log_prob(batch.next_observations)
        values = th.cat(model.critic_target(batch.next_observations, actions), 1).amin(1, keepdim=True)
        values -= model.log_ent_coef.exp() * log_prob[:, None]
        targets = batch.rewards + (1 - batch.dones) * batch.discounts * values
        expected = (th.cat(model.critic(batch.observations, batch.actions), 1) - targets).abs().mean(1)
        th.manual_seed(0)
        th.testing.assert_close(td_error_function(model)(model, batch), expected)


def test_priorities_are_of_normalised_rows():
    env = VecNormalize(make_vec_env("CartPole-v1"))
    small = dict(learning_starts=20, batch_size=16, train_freq=20, gradient_steps=1, buffer_size=200, seed=0, device="cpu")
    replay = dict(replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(alpha=1.0))
    model = DQN("MlpPolicy", env, **small, **replay)
    drawn, sample = [], model.replay_buffer.sample
    model.replay_buffer.sample = lambda *args, **kwargs: drawn.append(sample(*args, **kwargs)) or drawn[-1]
    model.learn(40, PrioritizedReplayCallback())
    index = drawn[-1].indices
    with th.no_grad():
        errors = td_error_function(model)(model, model.replay_buffer.rows(index, env))
    th.testing.assert_close(model.replay_buffer.priorities().flatten()[index], errors + 1e-6)
