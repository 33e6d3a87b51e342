import numpy as np
import pytest
import torch as th
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import REDQ
from sb3_pgr.generative.critics import ModelValues
from sb3_pgr.generative.curiosity import CuriosityNetwork, DisagreementNetwork, DistillationNetwork
from sb3_pgr.generative.relevance import RELEVANCE, Relevance, ReturnToGo, checked_values, make_relevance


def transitions(n=200, obs_dim=3, action_dim=2, n_actions=0, seed=0):
    random = th.Generator().manual_seed(seed)

    def normal(width):
        return th.randn((n, width), generator=random)

    actions = th.randint(n_actions, (n, 1), generator=random) if n_actions else normal(action_dim).clamp(-1, 1)
    return {
        "observations": normal(obs_dim),
        "actions": actions,
        "rewards": normal(1),
        "next_observations": normal(obs_dim),
        "dones": (th.rand((n, 1), generator=random) < 0.1).float(),
        "episode_ends": (th.rand((n, 1), generator=random) < 0.2).float(),
    }


def test_curiosity_is_of_the_official_size():
    assert sum(p.numel() for p in CuriosityNetwork(17, 6, 256, shared_residual=True).parameters()) == 1_129_990
    blocks = CuriosityNetwork(17, 6, 256)
    assert len({id(layer) for layer in blocks.residual}) == 8  # B2 of the official code mended by default


@pytest.mark.parametrize("shared", [True, False])
def test_curiosity_against_numpy(shared):
    """The forward model and its error, written out in float64 from the description of the official network."""
    th.manual_seed(0)
    network = CuriosityNetwork(3, 2, 8, shared_residual=shared).double().eval()
    data = {name: part.double() for name, part in transitions(20).items()}
    obs, actions, next_obs = data["observations"], data["actions"], data["next_observations"]

    def mlp(layers, x):
        linear = [layer for layer in layers if isinstance(layer, th.nn.Linear)]
        for i, layer in enumerate(linear):
            x = x @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()
            x = x / (1 + np.exp(-x)) if i < len(linear) - 1 else x
        return x

    def joined(x):
        return np.concatenate([x, actions.numpy()], 1)

    hidden = mlp(network.forward_in, joined(mlp(network.features, obs.numpy())))
    for block in range(4):
        pair = (0, 0) if shared else (2 * block, 2 * block + 1)
        inner = mlp(network.residual[pair[0]], joined(hidden))
        hidden = hidden + mlp(network.residual[pair[1]], joined(inner))
    predicted = mlp(network.forward_out, joined(hidden))
    wanted = ((mlp(network.features, next_obs.numpy()) - predicted) ** 2).mean(1)
    np.testing.assert_allclose(network.surprise(obs, actions, next_obs).detach().numpy(), wanted, rtol=1e-10)


def test_next_features_do_not_learn_from_the_forward_model():
    network = CuriosityNetwork(3, 2, 8)
    next_obs = transitions(20)["next_observations"].requires_grad_()
    data = transitions(20)
    for parameter in network.inverse.parameters():  # then the inverse loss does not depend on next_obs
        parameter.data.zero_()
    network.loss(data["observations"], data["actions"], next_obs).backward()
    assert next_obs.grad is not None and next_obs.grad.abs().max() == 0


def test_distillation_target_is_fixed():
    network = DistillationNetwork(3, 8, 4)
    network.surprise(transitions()["next_observations"]).mean().backward()
    assert all(p.grad is None for p in network.target.parameters())
    assert all(p.grad is not None for p in network.predictor.parameters())


@pytest.mark.parametrize("n_actions", [0, 4])
@pytest.mark.parametrize("name", [name for name, kind in RELEVANCE.items() if not kind.needs_model])
def test_each_by_name(name, n_actions):
    relevance, data = make_relevance(name), transitions(n_actions=n_actions)
    relevance.setup(3, 1 if n_actions else 2, n_actions, th.device("cpu"))
    relevance.observe(data)
    before = checked_values(relevance, data)
    assert before.shape == (200,)
    if relevance.update_every:
        for _ in range(200):
            log = relevance.update(data)
        assert log["relevance_loss"] < 10
        after = checked_values(relevance, data)
        fresh = make_relevance(name)
        fresh.setup(3, 1 if n_actions else 2, n_actions, th.device("cpu"))
        fresh.load_state_dict(relevance.state_dict())
        assert th.equal(checked_values(fresh, data), after) and not th.equal(before, after)


@pytest.mark.parametrize("name", ["curiosity", "rnd"])
def test_the_unfamiliar_surprises_more(name):
    relevance, data = make_relevance({"name": name, "hidden_dim": 32}), transitions(500)
    relevance.setup(3, 2, 0, th.device("cpu"))
    data["next_observations"] = data["observations"] + 0.1 * data["actions"].sum(1, keepdim=True)
    for _ in range(300):
        relevance.update(data)
    strange = {part: rows.clone() for part, rows in data.items()}
    strange["next_observations"] = strange["next_observations"].roll(1, 0) * 3
    assert relevance.values(strange).mean() > 2 * relevance.values(data).mean()


def test_disagreement_against_numpy():
    th.manual_seed(0)
    network = DisagreementNetwork(3, 2, 8, n_models=4).double()
    data = {name: part.double() for name, part in transitions(20).items()}
    obs, actions, next_obs = data["observations"], data["actions"], data["next_observations"]
    linear = [layer for layer in network.models.layers if hasattr(layer, "weight")]
    predictions = []
    for k in range(4):
        x = np.concatenate([obs.numpy(), actions.numpy()], 1)
        for i, layer in enumerate(linear):
            x = x @ layer.weight[k].detach().numpy() + layer.bias[k].detach().numpy()
            x = x / (1 + np.exp(-x)) if i < 2 else x
        predictions.append(x)
    spread = np.var(predictions, axis=0, ddof=1).mean(1)
    error = np.mean([(p - (next_obs - obs).numpy()) ** 2 for p in predictions])
    np.testing.assert_allclose(network.surprise(obs, actions).detach().numpy(), spread, rtol=1e-10)
    assert network.loss(obs, actions, next_obs).item() == pytest.approx(error, rel=1e-10)


def test_models_disagree_about_what_they_have_not_seen():
    relevance, data = make_relevance({"name": "disagreement", "hidden_dim": 32}), transitions(500)
    relevance.setup(3, 2, 0, th.device("cpu"))
    data["next_observations"] = data["observations"] + 0.1 * data["actions"].sum(1, keepdim=True)
    for _ in range(300):
        relevance.update(data)
    strange = data | {"observations": 3 * data["observations"]}
    assert relevance.values(strange).mean() > 2 * relevance.values(data).mean()


def half_noisy(seed):
    """Rows of which the half with a positive first number move at random; and which these are."""
    data = transitions(256, seed=seed)
    noisy = data["observations"][:, 0] > 0
    data["next_observations"] = data["observations"] + 0.3 * data["actions"].sum(1, keepdim=True)
    noise = th.randn((256, 3), generator=th.Generator().manual_seed(10_000 + seed))
    data["next_observations"] += noise * noisy[:, None]
    return data, noisy


@pytest.mark.parametrize("name, least, most", [("curiosity", 0.9, 1.0), ("disagreement", 0.2, 0.65)])
def test_only_curiosity_asks_for_noise(name, least, most):
    """The noisy half's share of the most relevant quarter."""
    th.manual_seed(0)
    relevance = make_relevance({"name": name, "learning_rate": 1e-3})
    relevance.setup(3, 2, 0, th.device("cpu"))
    for seed in range(300):
        relevance.update(half_noisy(seed)[0])
    shares = []
    for seed in range(300, 310):
        data, noisy = half_noisy(seed)
        shares.append(noisy[relevance.values(data).topk(64).indices].float().mean().item())
    assert least < np.mean(shares) <= most


def test_return_to_go_against_a_loop():
    data = transitions(300)
    wanted, total = [0.0] * 300, 0.0
    for i in reversed(range(300)):
        total = float(data["rewards"][i]) + (0.0 if data["episode_ends"][i] else total)
        wanted[i] = total
    np.testing.assert_allclose(ReturnToGo().values(data), wanted, atol=1e-4)


def test_novelty_finds_the_outlier():
    data = transitions(300)
    data["observations"][17] = 20.0
    relevance = make_relevance("novelty")
    relevance.observe(data)
    assert int(relevance.values(data).argmax()) == 17
    generated = {name: rows[:3].clone() for name, rows in data.items() if name != "episode_ends"}
    generated["observations"][1] = -30.0
    assert int(relevance.values(generated).argmax()) == 1


def test_novelty_treats_reference_rows_like_others():
    """Only of a reference row is the nearest the row itself."""
    random = np.random.default_rng(0)
    obs = th.as_tensor(random.normal(size=(4_000, 3)), dtype=th.float32)
    relevance = make_relevance({"name": "novelty", "n_neighbors": 1, "n_reference": 1_000})
    relevance.observe({"observations": obs})
    values = relevance.values({"observations": obs})
    reference = th.zeros(4_000, dtype=th.bool)
    reference[th.linspace(0, 3_999, 1_000).long()] = True
    assert values[reference].mean() == pytest.approx(values[~reference].mean().item(), rel=0.05)
    scaled = (obs - obs.mean(0)) / obs.std(0)
    gaps = th.cdist(scaled[:50], scaled[reference], compute_mode="donot_use_mm_for_euclid_dist")
    wanted = th.where(gaps < 1e-6, th.inf, gaps).amin(1)
    th.testing.assert_close(values[:50], wanted, rtol=1e-4, atol=1e-5)


def test_a_relevance_of_ones_own():
    class Speed(Relevance):
        def values(self, transitions):
            return (transitions["next_observations"] - transitions["observations"]).norm(dim=1)

    mine = Speed()
    copied = make_relevance(mine)
    assert isinstance(copied, Speed) and copied is not mine
    assert checked_values(copied, transitions()).shape == (200,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda data: data["rewards"], r"Relevance Broken must return a tensor of shape \(200,\), got \(200, 1\)"),
        (lambda data: data["rewards"].flatten() / 0, "Relevance Broken returned 200 of 200 values that are not finite"),
        (lambda data: [1.0] * 200, "got list"),
    ],
)
def test_broken_values_are_named(values, message):
    class Broken(Relevance):
        def values(self, transitions):
            return values(transitions)

    with pytest.raises(ValueError, match=message):
        checked_values(Broken(), transitions())


@pytest.mark.parametrize(
    ("relevance", "message"),
    [
        ("curiousity", "relevance='curiousity' is not known; choose one of curiosity, disagreement, rnd"),
        ({"name": "rnd", "hiden_dim": 3}, "relevance 'rnd': .*hiden_dim"),
        ({"name": "curiosity", "update_every": 0}, "update_every=0 must be at least 1"),
        ({"name": "disagreement", "n_models": 1}, "n_models=1 must be at least 2"),
        ({"name": "novelty", "n_neighbors": 0}, "n_neighbors=0"),
    ],
)
def test_refusals(relevance, message):
    with pytest.raises(ValueError, match=message):
        make_relevance(relevance)


CONTINUOUS = {"SAC": SAC, "TD3": TD3, "DDPG": DDPG, "TQC": TQC, "CrossQ": CrossQ, "REDQ": REDQ}
DISCRETE = {"DQN": DQN, "QRDQN": QRDQN}


def trained(kind):
    env = "Pendulum-v1" if kind in CONTINUOUS.values() else "CartPole-v1"
    model = kind("MlpPolicy", env, learning_starts=50, seed=0, policy_kwargs=dict(net_arch=[16]))
    model.learn(120, log_interval=None)
    return model


@pytest.mark.parametrize("kind", [*CONTINUOUS.values(), *DISCRETE.values()], ids=[*CONTINUOUS, *DISCRETE])
def test_values_of_every_algorithm(kind):
    """Against the algorithm's own networks, in evaluation mode; batch norm and training mode stay as they were."""
    model = trained(kind)
    continuous = kind in CONTINUOUS.values()
    data = transitions(50, 3 if continuous else 4, 1, 0 if continuous else 2)
    model.policy.set_training_mode(True)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    values = ModelValues(model, lambda obs: obs)
    found, errors = values.state_values(data["observations"]), values.td_errors(data)
    assert model.policy.training
    assert all(th.equal(value, before[name]) for name, value in model.policy.state_dict().items())
    model.policy.set_training_mode(False)
    obs, next_obs, actions = data["observations"], data["next_observations"], data["actions"]
    with th.no_grad():
        if continuous:

            def mean(critic, obs, actions):
                out = critic(obs, actions)
                return out.mean((1, 2)) if kind is TQC else sum(out).flatten() / len(out)

            def act(obs):
                return model.actor(obs) if kind in (TD3, DDPG) else model.actor(obs, deterministic=True)

            target = getattr(model, "critic_target", model.critic)
            value = mean(model.critic, obs, act(obs))
            next_value, q = mean(target, next_obs, act(next_obs)), mean(model.critic, obs, actions)
        else:
            net, target = (model.q_net, model.q_net_target) if kind is DQN else (model.quantile_net, model.quantile_net_target)
            per_action = [n(o) if kind is DQN else n(o).mean(1) for n, o in ((net, obs), (target, next_obs))]
            value, best = per_action[0].max(1).values, (net(next_obs) if kind is DQN else net(next_obs).mean(1)).argmax(1)
            next_value = per_action[1][th.arange(50), best]
            q = per_action[0][th.arange(50), actions.flatten()]
        wanted = data["rewards"].flatten() + 0.99 * (1 - data["dones"].flatten()) * next_value - q
    np.testing.assert_allclose(found, value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(errors, wanted, rtol=1e-4, atol=1e-4)
    chosen = values.actions(obs, deterministic=False)
    assert chosen.shape == (50, 1)
    assert set(chosen.flatten().tolist()) <= {0, 1} if not continuous else chosen.abs().max() <= 1


def test_models_without_critics_are_refused():
    with pytest.raises(ValueError, match="has no critic"):
        ModelValues(object(), lambda obs: obs)


class Valueless(Relevance):
    pass


@pytest.mark.parametrize(
    "given, message",
    [
        (lambda transitions: transitions["rewards"], "must be a name"),
        (Valueless, "must be a name.*an instance"),
        (Valueless(), r"Valueless must define values\(transitions\)"),
    ],
)
def test_what_is_no_relevance(given, message):
    with pytest.raises(ValueError, match=message):
        make_relevance(given)


def test_td_errors_are_of_normalised_rewards():
    env = VecNormalize(make_vec_env("Pendulum-v1"))
    env.reset()
    for _ in range(20):
        env.step(np.array([env.action_space.sample()]))
    model = SAC("MlpPolicy", env, policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu")
    rows = transitions(6, action_dim=1) | {"dones": th.ones(6, 1)}  # nothing follows: targets are rewards
    with th.no_grad():
        values = th.cat(model.critic(rows["observations"], rows["actions"]), 1).mean(1)
    rewards = th.as_tensor(env.normalize_reward(rows["rewards"].numpy()), dtype=th.float32).flatten()
    assert (rewards - rows["rewards"].flatten()).abs().max() > 0.1
    th.testing.assert_close(ModelValues(model, lambda obs: obs).td_errors(rows), rewards - values)
