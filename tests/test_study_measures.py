"""What the study of generative replay measures beside returns."""

import importlib.util
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_pgr import REDQ


class Counted(gym.Env):
    """One reward a step; ends after three."""

    observation_space = spaces.Box(-1, 1, (2,))
    action_space = spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(2, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.ones(2, np.float32), 1.0, self.steps == 3, False, {}


@pytest.fixture(scope="module")
def measure():
    path = Path(__file__).parents[1] / "benchmarks" / "pgr_study" / "measures.py"
    spec = importlib.util.spec_from_file_location("measures", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.values_and_networks


def test_bias_of_values(measure):
    model = REDQ("MlpPolicy", Counted(), gamma=0.5, n_critics=2, ent_coef=0.0)
    with th.no_grad():
        for parameter in model.critic.parameters():
            parameter.zero_()
        model.critic.ensemble.layers[-1].bias.copy_(th.tensor([1.5, 2.5]).reshape(2, 1, 1))
    found = measure(model, Counted(), seed=0)
    earned = np.array([1.75, 1.5, 1.0])
    assert found["mc_return"] == pytest.approx(earned.mean(), rel=1e-3)
    assert found["q_bias"] == pytest.approx((2 - earned.mean()) / earned.mean(), rel=1e-2)
    assert found["q_bias_std"] == pytest.approx(earned.std() / earned.mean(), rel=1e-2)


def test_entropy_to_come_belongs_to_what_is_earned(measure):
    """A policy of the same wide noise everywhere: at most log 2 of entropy a step, that of the uniform distribution."""
    model = REDQ("MlpPolicy", Counted(), gamma=0.5, n_critics=2, ent_coef=10.0)
    with th.no_grad():
        model.actor.mu.weight.zero_(), model.actor.mu.bias.zero_()
        model.actor.log_std.weight.zero_(), model.actor.log_std.bias.fill_(np.log(0.9))
    # Entropies to come: halved per step, none of the last step's successor, none of the first action.
    entropy = 10.0 * np.array([0.5 + 0.25, 0.5, 0.0])
    expected = np.array([1.75, 1.5, 1.0]) + entropy * np.log(2)
    assert measure(model, Counted(), seed=0)["mc_return"] == pytest.approx(expected.mean(), rel=0.1)


def test_dormant_units(measure):
    model = REDQ("MlpPolicy", Counted(), n_critics=2, policy_kwargs={"net_arch": [8, 4]})
    with th.no_grad():
        for layer in (model.actor.latent_pi[0], model.actor.latent_pi[2]):
            layer.weight.zero_(), layer.bias.fill_(1.0)
        model.actor.latent_pi[0].bias[:3] = -1.0
        for layer, silent in zip(model.critic.ensemble.layers[::2], (2, 1, 0), strict=True):
            layer.weight.zero_(), layer.bias.fill_(1.0)
            layer.bias[0, :, :silent] = -1.0
    found = measure(model, Counted(), seed=0)
    assert found["dormant_actor"] == pytest.approx(3 / 12)
    assert found["dormant_critics"] == pytest.approx(3 / 24)
