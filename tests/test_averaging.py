"""Averages of an actor's weights: which ones, and what acts by them."""

import copy

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from sb3_pgr import PGRSAC, REDQ
from sb3_pgr.common.averaging import PowerAverage

KWARGS = dict(learning_starts=50, gradient_steps=4, policy_delay=2, n_critics=2, seed=0, device="cpu")


@pytest.mark.parametrize("width", [0.05, 0.1, 0.25])
def test_weight_of_each_update(width):
    """
    Each update's weight is its step of the power function ``(t / n) ** (gamma + 1)``; their numbers deviate by the width, as a
    share of all. No weight is left of where the network began.
    """
    n = 3_000
    network = nn.Linear(n + 1, 1, bias=False, dtype=th.float64)
    average = PowerAverage(copy.deepcopy(network), width)
    for step in range(1, n + 1):
        with th.no_grad():
            network.weight.zero_()[0, step] = 1.0
        average.update(network)
    found = average.network.weight[0].detach().numpy()
    steps = np.arange(n + 1) / n
    weights = np.diff(steps ** (average.gamma + 1), prepend=0)
    np.testing.assert_allclose(found, weights, rtol=0, atol=1e-6)
    assert found[0] == 0 and found.sum() == pytest.approx(1, abs=1e-6)
    mean = (found * steps).sum()
    assert np.sqrt((found * (steps - mean) ** 2).sum()) == pytest.approx(width, rel=1e-2)


def test_of_buffers_the_latest():
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = PowerAverage(copy.deepcopy(network), 0.1)
    network(th.randn(8, 2))
    average.update(network)
    assert th.equal(average.network[1].running_mean, network[1].running_mean) and network[1].running_mean.any()


@pytest.mark.parametrize("width", [0.0, -0.1, 0.3, float("nan")])
def test_no_width(width):
    with pytest.raises(ValueError, match=r"above 0 and below 0\.289"):
        REDQ("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(actor_average=width), **KWARGS)


def latest_of(model):
    return [parameter.detach().clone() for parameter in model.policy.actor.parameters()]


@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_learning_is_that_of_the_latest_weights(normalize, compile):
    """Bit by bit as without an average; only deterministic actions are its own."""
    models = [
        REDQ("MlpPolicy", "Pendulum-v1", compile=compile, policy_kwargs=kwargs, **KWARGS).learn(100)
        for kwargs in (dict(normalize_observations=normalize, actor_average=width) for width in (None, 0.1))
    ]
    without, model = models
    close = th.allclose if compile else th.equal  # another graph may add in another order
    assert all(close(ours, theirs) for ours, theirs in zip(latest_of(model), latest_of(without), strict=True))
    assert model.policy.averaged_actor.n_updates == 2 * 50

    obs = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    acted, latest = model.predict(obs, deterministic=True)[0], without.predict(obs, deterministic=True)[0]
    assert np.abs(acted - latest).max() > 1e-3
    stochastic = []
    for each in models:
        th.manual_seed(0)
        stochastic.append(each.predict(obs)[0])
    np.testing.assert_allclose(*stochastic, atol=1e-4 if compile else 0)

    by_hand = copy.deepcopy(model.policy)
    by_hand.actor.load_state_dict(by_hand.averaged_actor.network.state_dict())
    by_hand.averaged_actor = None
    np.testing.assert_array_equal(by_hand.predict(obs, deterministic=True)[0], acted)


def test_begins_anew_with_learn():
    model = REDQ("MlpPolicy", "Pendulum-v1", policy_kwargs=dict(actor_average=0.1), **KWARGS).learn(60)
    assert model.policy.averaged_actor.n_updates == 2 * 10
    model.learn(10, reset_num_timesteps=False)
    assert model.policy.averaged_actor.n_updates == 2 * 20
    model.gradient_steps, model.learning_starts = 2, 0
    model.learn(1)
    pairs = zip(model.policy.averaged_actor.network.parameters(), latest_of(model), strict=True)
    assert all(th.equal(average, latest) for average, latest in pairs)


class Shared(FlattenExtractor):
    def __init__(self, space, encoder):
        super().__init__(space)
        self.encoder = encoder

    def forward(self, observations):
        return self.encoder(super().forward(observations))


def test_parts_that_both_have():
    """An encoder that all networks share learns on, and is no average."""
    encoder = nn.Linear(3, 3)
    before = encoder.weight.detach().clone()
    kwargs = dict(actor_average=0.1, features_extractor_class=Shared, features_extractor_kwargs=dict(encoder=encoder))
    model = REDQ("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, **KWARGS).learn(60)
    policy = model.policy
    assert policy.averaged_actor.network.features_extractor.encoder is policy.actor.features_extractor.encoder
    assert not th.equal(policy.actor.features_extractor.encoder.weight, before)


@pytest.mark.parametrize("policy", ["MlpPolicy", "SimbaPolicy"])
def test_stays_in_evaluation_mode(policy):
    policy = PGRSAC(policy, "Pendulum-v1", device="cpu").policy
    policy.train()
    own = set(policy.averaged_actor.modules()) - {policy.observation_norm}
    assert policy.training and not any(module.training for module in own)


def test_statistics_are_shared():
    policy = PGRSAC("MlpPolicy", "Pendulum-v1", device="cpu").policy
    assert policy.actor_average == 0.05
    assert policy.averaged_actor.network.features_extractor.observation_norm is policy.observation_norm
    parts = copy.deepcopy(policy)
    assert parts.averaged_actor.network.features_extractor.observation_norm is parts.observation_norm
    assert len(policy.input_layers()) == 4
