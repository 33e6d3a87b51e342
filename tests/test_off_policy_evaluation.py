"""What a policy is worth by a dataset: against closed forms, and against formulas written out in numpy."""

import random

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pgr import BC, BCQ, CQL, IQL, REDQ, TD3BC
from sb3_pgr.offline import DatasetError, load_dataset, off_policy_evaluation
from sb3_pgr.offline.off_policy_evaluation import (
    FQE,
    action_difference,
    average_value,
    initial_value,
    off_policy_scores,
    soft_opc,
    td_error,
)
from sb3_pgr.offline.spaces_only import SpacesOnly

SMALL = dict(batch_size=16, policy_kwargs=dict(net_arch=[16]), seed=0, device="cpu")
QUICK = dict(learning_rate=3e-3, batch_size=64, tau=0.05, net_arch=[32], device="cpu")
BOUNDS = spaces.Box(-2, 2, (1,), np.float32)  # not [-1, 1]: forgotten scaling shows
WITH_CRITICS = [TD3BC, IQL, CQL, BCQ]


@pytest.fixture(autouse=True)
def chunks(monkeypatch):
    monkeypatch.setattr(off_policy_evaluation, "CHUNK", 7)


@pytest.fixture
def global_state():
    """Fails if any global generator moves."""
    th.manual_seed(3), np.random.seed(3), random.seed(3)
    before = th.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    yield
    assert th.equal(before[0], th.get_rng_state()) and random.getstate() == before[2]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def chain(terminal, scale=1.0, n=400):
    """
    From state -1 to state 1, and there the end, or a time limit just after a step back to -1. An action earns itself in the
    first state and twice itself in the second; the data's actions are random.
    """
    obs = np.tile([-1.0, 1.0], n // 2)[:, None].astype(np.float32)
    actions = np.random.default_rng(0).uniform(-2, 2, (n, 1)).astype(np.float32)
    ends = np.tile([False, True], n // 2)
    rewards = scale * actions[:, 0] * np.where(ends, 2, 1)
    data = dict(observations=obs, next_observations=-obs, actions=actions, rewards=rewards)
    data |= dict(terminals=ends if terminal else np.zeros(n), timeouts=np.zeros(n) if terminal else ends)
    return load_dataset(data, spaces.Box(-np.inf, np.inf, (1,)), BOUNDS)


def constant_policy(dataset, action):
    """A model that does the same everywhere, in units of the environment."""
    model = BC("MlpPolicy", dataset=dataset, **SMALL)
    for parameter in model.policy.actor.mu.parameters():
        parameter.data.zero_()
    model.policy.actor.mu[2].bias.data.fill_(np.arctanh(action / 2))
    return model


def recording(n=45, seed=0):
    """Noise, in six episodes that end in both ways; the last is cut off."""
    rng = np.random.default_rng(seed)
    ends = np.isin(np.arange(n), [8, 15, 16, 30, 39])
    return {
        "observations": rng.normal(2, 3, (n, 3)).astype(np.float32),
        "next_observations": rng.normal(2, 3, (n, 3)).astype(np.float32),
        "actions": rng.uniform(-2, 2, (n, 1)).astype(np.float32),
        "rewards": rng.normal(size=n).astype(np.float32),
        "terminals": ends & (np.arange(n) % 2 == 0),
        "timeouts": ends & (np.arange(n) % 2 == 1),
    }


def halves(data):
    """The same observations as a dict, whose keys are not in the order of the space."""
    names = ("observations", "next_observations")
    return data | {name: {"speed": data[name][:, 2:], "angle": data[name][:, :2]} for name in names}


def trained(algorithm, data, policy="MlpPolicy", **kwargs):
    small = SMALL | (dict(policy_kwargs=dict(net_arch=[16], vae_arch=[16], n_eval_samples=20)) if algorithm is BCQ else {})
    dataset = load_dataset(data)
    env = SpacesOnly(dataset.observation_space, BOUNDS)
    if algorithm is not BC:
        kwargs = dict(reward_transform=(0.5, 1.0), gamma=0.9) | kwargs
    return algorithm(policy, env, dataset=data, normalize_observations=True, **small, **kwargs).learn(20)


def q_by_hand(model, data, obs, actions):
    """Mean of the critics, without torch, chunks or extractor."""
    seen = data["observations"].astype(np.float64)
    x = np.concatenate([(obs - seen.mean(0)) / (seen.std(0) + 1e-3), actions / 2], 1)
    members = []
    for i in range(2):
        h = x
        layers = [layer for layer in model.policy.critic.ensemble.layers if hasattr(layer, "weight")]
        for layer in layers:
            h = h @ layer.weight[i].detach().double().numpy() + layer.bias[i].detach().double().numpy()
            h = h if layer is layers[-1] else np.maximum(h, 0)
        members.append(h[:, 0])
    return np.mean(members, 0)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "timeout"])
@pytest.mark.parametrize("action", [1.0, -0.5])
def test_fqe_against_the_exact_value(terminal, action):
    """The data's policy earns nothing on average. A terminal ends the sum; after a time limit the chain goes on for ever."""
    dataset, gamma = chain(terminal), 0.5
    fqe = FQE(constant_policy(dataset, action), dataset, gamma, **QUICK)
    fqe.fit(500)
    assert fqe.fit(100) < 0.02  # the chain is deterministic: nothing is left to explain
    first = action * (1 + 2 * gamma) / (1 if terminal else 1 - gamma**2)
    second = 2 * action + (0 if terminal else gamma * first)
    assert fqe.initial_value() == pytest.approx(first, abs=0.08)
    # Another action here, the policy's afterwards.
    observations = np.repeat([[-1.0], [1.0]], 5, 0).astype(np.float32)
    actions = np.tile(np.linspace(-1.5, 1.5, 5), 2)[:, None]
    exact = np.where(observations < 0, actions + gamma * second, 2 * actions + (0 if terminal else gamma * first))
    np.testing.assert_allclose(fqe.value(observations, actions), exact[:, 0], atol=0.15)


def test_fqe_targets_follow_slowly():
    """Where they stand still, the values are one step away from the first ones."""
    dataset = chain(False)
    fqe = FQE(constant_policy(dataset, 1.0), dataset, 0.5, **QUICK | dict(tau=1e-9))
    first = fqe.value(np.ones((1, 1), np.float32), np.ones((1, 1)))
    fqe.fit(400)
    assert fqe.initial_value() == pytest.approx(1 + 0.5 * first[0], abs=0.08)
    assert abs(first[0]) < 1  # far from the true 2.67


def test_fqe_reports_means():
    """Of the critics, the value; of critics and rows, the squared error in units of the rewards."""
    dataset = chain(False, 10.0)
    fqe = FQE(constant_policy(dataset, 1.0), dataset, 0.0, **QUICK | dict(learning_rate=1e-12))
    members = fqe._q_values(fqe.critic, fqe._rows).detach().numpy()
    assert members.shape == (2, 400) and np.abs(members[0] - members[1]).mean() > 0.1
    np.testing.assert_allclose(fqe.value(dataset.observations, dataset.actions), members.mean(0), rtol=1e-4, atol=1e-4)
    assert fqe.fit(200) == pytest.approx(np.square(members - dataset.rewards).mean(), rel=0.05)


def test_fqe_takes_the_models_discount():
    dataset = chain(True)
    model = constant_policy(dataset, 1.0)
    model.gamma = 0.0
    fqe = FQE(model, dataset, **QUICK)
    fqe.fit(300)
    assert fqe.gamma == 0 and fqe.initial_value() == pytest.approx(1, abs=0.08)


def test_fqe_ignores_the_models_reward_map():
    """Its values are in the dataset's rewards."""
    dataset = chain(True)
    plain, mapped = (TD3BC("MlpPolicy", dataset=dataset, reward_transform=m, **SMALL) for m in ("none", (0.01, 5.0)))
    values = [FQE(model, dataset, **QUICK) for model in (plain, mapped)]
    assert values[0].fit(10) == values[1].fit(10) and values[0].initial_value() == values[1].initial_value()


def test_fqe_knows_no_unit_of_rewards():
    dataset, large = chain(False), chain(False, 1000.0)
    small, big = (FQE(constant_policy(data, 1.0), data, 0.5, **QUICK) for data in (dataset, large))
    assert big.fit(30) == pytest.approx(1e6 * small.fit(30), rel=1e-2)
    assert big.initial_value() == pytest.approx(1000 * small.initial_value(), rel=1e-3)


@pytest.mark.parametrize("reward", [0.0, 0.1])
def test_fqe_of_rewards_all_alike(reward):
    data = recording() | {"rewards": np.full(45, reward), "terminals": np.ones(45), "timeouts": np.zeros(45)}
    fqe = FQE(trained(BC, data), data, **QUICK)
    fqe.fit(300)
    assert fqe.initial_value() == pytest.approx(reward, abs=0.02)


def test_fqe_of_returns_that_hardly_differ():
    """Episodes of one row, cut by a time limit: the value is twice what their returns suggest."""
    data = recording() | {"rewards": 1 + 1e-6 * np.arange(45), "terminals": np.zeros(45), "timeouts": np.ones(45)}
    fqe = FQE(trained(BC, data), data, 0.5, **QUICK)
    fqe.fit(400)
    assert fqe.initial_value() == pytest.approx(2, abs=0.05)


def test_fqe_past_a_terminal_sees_nothing():
    """Not even numbers that would overflow."""
    dataset = chain(True)
    model = constant_policy(dataset, 1.0)
    other = {name: getattr(dataset, name) for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    other["next_observations"] = np.where(dataset.terminals[:, None], np.float32(3e38), dataset.next_observations)
    first, second = FQE(model, dataset, **QUICK), FQE(model, other, **QUICK)
    assert first.fit(20) == second.fit(20) and first.initial_value() == second.initial_value()


def test_fqe_is_a_function_of_its_seed(global_state):
    dataset = chain(False)
    with th.random.fork_rng():
        numpy_state, python_state = np.random.get_state(), random.getstate()
        model = constant_policy(dataset, 1.0)
        np.random.set_state(numpy_state), random.setstate(python_state)
    in_one, in_two, other = (FQE(model, dataset, seed=seed, **QUICK) for seed in (1, 1, 2))
    assert in_one.initial_value() != other.initial_value()  # weights
    in_one.fit(20), other.fit(20)
    in_two.fit(12)
    with th.random.fork_rng():
        th.manual_seed(4)
        in_two.fit(8)
    assert in_one.initial_value() == in_two.initial_value() != other.initial_value()


def test_fqe_evaluates_the_policy_at_construction():
    dataset = chain(True)
    model = constant_policy(dataset, 1.0)
    kept, changed = FQE(model, dataset, **QUICK), FQE(model, dataset, **QUICK)
    model.policy.actor.mu[2].bias.data.fill_(-1)
    kept.fit(10), changed.fit(10)
    assert kept.initial_value() == changed.initial_value() != FQE(model, dataset, **QUICK).initial_value()


def test_fqe_of_dict_observations():
    data = recording()
    flat = FQE(trained(BC, data), data, **QUICK)
    split = FQE(trained(BC, halves(data), "MultiInputPolicy"), halves(data), **QUICK)
    split._next_rows[:, -1:], split._starts[:, -1:] = flat._next_rows[:, -1:], flat._starts[:, -1:]  # one policy for both
    seen = data["observations"].astype(np.float64)
    by_hand = np.concatenate([(seen - seen.mean(0)) / (seen.std(0) + 1e-3), data["actions"] / 2], 1)
    # The space sorts its keys, here into the order of the columns.
    np.testing.assert_allclose(split._rows, by_hand, atol=1e-5)
    np.testing.assert_allclose(flat._rows, by_hand, atol=1e-5)
    assert flat.fit(10) == pytest.approx(split.fit(10), rel=1e-4)
    args = data["observations"], data["actions"]
    np.testing.assert_allclose(split.value(halves(data)["observations"], args[1]), flat.value(*args), rtol=1e-4, atol=1e-5)


def test_fqe_shows_progress(capsys):
    pytest.importorskip("tqdm")
    data = recording()
    FQE(trained(BC, data), data, **QUICK).fit(3, progress_bar=True)
    assert "FQE: 100%" in capsys.readouterr().err


@pytest.mark.parametrize("algorithm", WITH_CRITICS, ids=lambda algorithm: algorithm.__name__)
def test_scores_against_numpy(algorithm):
    data = recording()
    model = trained(algorithm, data)
    obs, next_obs, actions = data["observations"], data["next_observations"], data["actions"]
    q_data = q_by_hand(model, data, obs, actions)
    policy_actions = model.predict(obs, deterministic=True)[0]
    q_policy = q_by_hand(model, data, obs, policy_actions)
    q_next = q_by_hand(model, data, next_obs, model.predict(next_obs, deterministic=True)[0])
    errors = q_data - (0.5 * data["rewards"] + 1 + 0.9 * (1 - data["terminals"]) * q_next)
    starts = [0, 9, 16, 17, 31, 40]
    returns = np.array([part.sum() for part in np.split(data["rewards"], starts[1:])])
    success = np.repeat(returns >= returns[2], np.diff([*starts, 45]))
    assert 0 < success.sum() < 45
    expected = {
        "td_error": np.mean(errors**2),
        "initial_value": q_policy[starts].mean(),
        "average_value": q_policy.mean(),
        "soft_opc": q_data[success].mean() - q_data.mean(),
        "action_difference": np.mean(((policy_actions - actions) / 2) ** 2),
    }
    scores = off_policy_scores(model, data, return_threshold=float(returns[2]) - 1e-6)
    assert scores == pytest.approx(expected, rel=1e-3, abs=1e-5) and list(scores) == list(expected)
    alone = [f(model, load_dataset(data)) for f in (td_error, initial_value, average_value, action_difference)]
    assert alone == pytest.approx([scores[name] for name in scores if name != "soft_opc"], rel=1e-5)


def test_action_difference_sums_over_dimensions():
    data = recording() | {"actions": np.full((45, 2), 0.5)}
    model = trained(BC, recording())  # bounds of one dimension
    with pytest.raises(DatasetError, match="do not fit"):
        action_difference(model, data)
    wide = BC("MlpPolicy", SpacesOnly(load_dataset(data).observation_space, spaces.Box(-2, 2, (2,))), data, **SMALL)
    for parameter in wide.policy.actor.parameters():
        parameter.data.zero_()
    assert action_difference(wide, data) == pytest.approx(2 * 0.25**2)


def test_soft_opc_by_quantile():
    data = recording()
    model, returns = trained(TD3BC, data), load_dataset(data).episode_returns
    for quantile, threshold in ((1.0, returns.max()), (0.9, returns.max()), (0.8, np.sort(returns)[-2])):
        assert soft_opc(model, data, quantile=quantile) == soft_opc(model, data, return_threshold=threshold)
    assert soft_opc(model, data, quantile=0.0) == soft_opc(model, data, -1e9) == 0
    assert soft_opc(model, data) == off_policy_scores(model, data)["soft_opc"] != 0
    with pytest.raises(DatasetError, match=r"the best of 6 episodes returns .*, not 1000\.0"):
        off_policy_scores(model, data, return_threshold=1000.0)
    with pytest.raises(ValueError, match=r"quantile=1\.5 must be between"):
        soft_opc(model, data, quantile=1.5)


def test_scores_without_critics():
    data = recording()
    model = trained(BC, data)
    assert off_policy_scores(model, data) == {"action_difference": action_difference(model, data)}
    for score in (td_error, initial_value, average_value, soft_opc):
        with pytest.raises(ValueError, match="BC has no critic"):
            score(model, data)


def test_scores_of_dict_observations():
    data = recording()
    flat, split = trained(TD3BC, data), trained(TD3BC, halves(data), "MultiInputPolicy")
    split.policy.load_state_dict(flat.policy.state_dict())
    assert off_policy_scores(split, halves(data)) == pytest.approx(off_policy_scores(flat, data), rel=1e-4)


def test_scores_leave_no_trace(global_state):
    """Evaluation mode while they are computed, no gradients, and everything as before."""
    data = recording()
    with th.random.fork_rng():
        numpy_state, python_state = np.random.get_state(), random.getstate()
        model = trained(CQL, data)
        np.random.set_state(numpy_state), random.setstate(python_state)
    model.policy.set_training_mode(True)
    model.policy.critic_target.set_training_mode(False)
    modes, seen = [module.training for module in model.policy.modules()], []
    weights = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.policy.critic.ensemble.register_forward_hook(lambda module, _, q: seen.append(module.training or q.requires_grad))
    off_policy_scores(model, data)
    assert seen and not any(seen) and modes == [module.training for module in model.policy.modules()]
    assert all(th.equal(value, weights[name]) for name, value in model.policy.state_dict().items())


def test_evaluates_models_of_sb3():
    """Any deterministic policy over a Box; these critics have no ``q_values``."""
    data = recording()
    model = SAC("MlpPolicy", SpacesOnly(load_dataset(data).observation_space, BOUNDS), buffer_size=10, device="cpu")
    fqe = FQE(model, data, **QUICK)
    np.testing.assert_allclose(
        fqe._next_rows[:, -1:], model.predict(data["next_observations"], deterministic=True)[0] / 2, atol=1e-5
    )
    assert set(off_policy_scores(model, data)) == {"action_difference"}


def test_what_vec_normalize_shows_is_what_policies_see():
    """A model in VecNormalize, and the same without on data that are normalised already."""
    data = recording()
    env = DummyVecEnv([lambda: SpacesOnly(spaces.Box(-np.inf, np.inf, (3,)), BOUNDS)])
    normalize = VecNormalize(env, training=False, gamma=0.9)
    normalize.obs_rms.mean, normalize.obs_rms.var = np.array([1.0, 2, 3]), np.array([4.0, 5, 6])
    normalize.ret_rms.var = np.array(7.0)
    plain = REDQ("MlpPolicy", env, gamma=0.9, n_critics=2, policy_kwargs=dict(net_arch=[16]), seed=0, device="cpu")
    model = REDQ("MlpPolicy", normalize, gamma=0.9, n_critics=2, policy_kwargs=dict(net_arch=[16]), seed=0, device="cpu")
    model.policy.load_state_dict(plain.policy.state_dict())
    seen = {name: normalize.normalize_obs(data[name]) for name in ("observations", "next_observations")}
    seen["rewards"] = normalize.normalize_reward(data["rewards"])
    assert td_error(model, data) == pytest.approx(td_error(plain, data | seen), rel=1e-5)
    assert action_difference(model, data) == pytest.approx(action_difference(plain, data | seen), rel=1e-5)
    assert action_difference(model, data) != pytest.approx(action_difference(plain, data), rel=1e-3)


def test_refusals():
    data = recording()
    model = trained(TD3BC, data)
    four = data | {name: np.zeros((45, 4)) for name in ("observations", "next_observations")}
    for evaluate in (FQE, off_policy_scores, td_error, initial_value, average_value, soft_opc, action_difference):
        with pytest.raises(DatasetError, match="do not fit"):
            evaluate(model, load_dataset(four))
        with pytest.raises(DatasetError, match="do not fit"):
            evaluate(model, load_dataset(halves(data)))
        with pytest.raises(DatasetError, match="actions lie outside"):  # the dataset's own space is wide enough
            evaluate(model, load_dataset(data | {"actions": 3 * data["actions"]}))
        with pytest.raises(ValueError, match="DQN must have observations and actions in a Box"):
            evaluate(DQN("MlpPolicy", "CartPole-v1", buffer_size=10, device="cpu"), data)
    for kwargs in (dict(gamma=1.1), dict(tau=0), dict(batch_size=0), dict(n_critics=0), dict(learning_rate=0)):
        with pytest.raises(ValueError, match=f"{next(iter(kwargs))}="):
            FQE(model, data, **kwargs)
    with pytest.raises(ValueError, match="n_updates=0"):
        FQE(model, data, **QUICK).fit(0)
