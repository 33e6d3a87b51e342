"""What the study of generative replay measures beside returns, and how it reports."""

import importlib.util
import json
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_pgr import PGRSAC, REDQ


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
    found = measure(model.policy, Counted(), gamma=0.5, entropy_weight=0.0, seed=0)
    earned = np.array([1.75, 1.5, 1.0])
    assert found["mc_return"] == pytest.approx(earned.mean(), rel=1e-3)
    assert found["q_bias"] == pytest.approx((2 - earned.mean()) / earned.mean(), rel=1e-2)
    assert found["q_bias_std"] == pytest.approx(earned.std() / earned.mean(), rel=1e-2)


def test_targets_of_generated_rows_and_of_the_simulator(monkeypatch):
    """A row's target is off by what its reward is off; an end that is drawn falsely takes away what follows."""
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.setattr(sys, "path", list(sys.path))  # to which the script adds its folder
    spec = importlib.util.spec_from_file_location("targets", benchmarks / "pgr_study" / "targets.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    simulator = script.Simulator("Hopper-v5")
    model = PGRSAC("MlpPolicy", "Hopper-v5", gamma=0.5, ent_coef="auto_0.000001", seed=0)
    with th.no_grad():
        for critic in (model.critic, model.critic_target):
            for parameter in critic.parameters():
                parameter.zero_()
            critic.ensemble.layers[-1].bias.fill_(4.0)
    played = simulator.play(model)
    assert played["dones"].sum() == script.EPISODES
    true = simulator.outcome(played)
    values, target = script.values_and_targets(model, true)
    np.testing.assert_allclose(values, 4.0)
    np.testing.assert_allclose(target, true["rewards"] + 2 * (1 - true["dones"]), atol=1e-3)
    np.testing.assert_allclose(target, script.values_and_targets(model, played)[1], atol=1e-3)
    _, wrong = script.values_and_targets(model, played | {"rewards": played["rewards"] + 1, "dones": 0 * played["dones"]})
    np.testing.assert_allclose(wrong - target, 1 + 2 * played["dones"], atol=2e-3)


def test_entropy_to_come_belongs_to_what_is_earned(measure):
    """A policy of the same wide noise everywhere: at most log 2 of entropy a step, that of the uniform distribution."""
    model = REDQ("MlpPolicy", Counted(), gamma=0.5, n_critics=2, ent_coef=10.0)
    with th.no_grad():
        model.actor.mu.weight.zero_(), model.actor.mu.bias.zero_()
        model.actor.log_std.weight.zero_(), model.actor.log_std.bias.fill_(np.log(0.9))
    # Entropies to come: halved per step, none of the last step's successor, none of the first action.
    entropy = 10.0 * np.array([0.5 + 0.25, 0.5, 0.0])
    expected = np.array([1.75, 1.5, 1.0]) + entropy * np.log(2)
    assert measure(model.policy, Counted(), gamma=0.5, entropy_weight=10.0, seed=0)["mc_return"] == pytest.approx(
        expected.mean(), rel=0.1
    )


def test_dormant_units(measure):
    model = REDQ("MlpPolicy", Counted(), n_critics=2, policy_kwargs={"net_arch": [8, 4]})
    with th.no_grad():
        for layer in (model.actor.latent_pi[0], model.actor.latent_pi[2]):
            layer.weight.zero_(), layer.bias.fill_(1.0)
        model.actor.latent_pi[0].bias[:3] = -1.0
        for layer, silent in zip(model.critic.ensemble.layers[::2], (2, 1, 0), strict=True):
            layer.weight.zero_(), layer.bias.fill_(1.0)
            layer.bias[0, :, :silent] = -1.0
    found = measure(model.policy, Counted(), gamma=0.5, entropy_weight=0.0, seed=0)
    assert found["dormant_actor"] == pytest.approx(3 / 12)
    assert found["dormant_critics"] == pytest.approx(3 / 24)


@pytest.fixture
def report(monkeypatch, tmp_path):
    benchmarks = Path(__file__).parents[1] / "benchmarks"
    monkeypatch.syspath_prepend(str(benchmarks))
    spec = importlib.util.spec_from_file_location("study_report", benchmarks / "pgr_study" / "report.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def test_report_of_what_there_is(report, tmp_path):
    """Unfinished runs are left out; an aggregate needs runs of all tasks, and extra seeds of one of them do not count."""
    study = {
        "name": "trial",
        "n_timesteps": 20,
        "tasks": ["a/b", "c"],
        "seeds": [0, 1, 2],
        "arms": {"one": {}, "two": {"gamma": 0.9}, "three": {}},
        "scales": {"a/b": 10.0, "c": 100.0},
    }
    last = {("a/b", "one"): [1, 3, 8], ("c", "one"): [20, 40], ("a/b", "two"): [5], ("c", "two"): []}
    for (task, arm), returns in last.items():
        for seed, value in enumerate(returns):
            rows = [{"timesteps": steps, "return_mean": value * steps / 20, "cpu_seconds": 60.0} for steps in (10, 20)]
            report.write(report.result_file(study, task, arm, seed), rows)
    report.write(report.result_file(study, "c", "two", 1), [{"timesteps": 10, "return_mean": 0.0, "cpu_seconds": 1.0}])
    report.report(study)
    assert (tmp_path / "pgr_study" / "trial" / "table.md").read_text().splitlines()[2:] == [
        "| one |  | 4 (1, 3, 8) | 3 | 30 (20, 40) | 22 | 1, 1 |",
        "| two | `{gamma: 0.9}` | 5 | 4 |  |  | 1 |",
    ]
    found = json.loads((tmp_path / "pgr_study" / "trial" / "report.json").read_text())["aggregate"]
    assert list(found) == ["one"] and found["one"]["seeds"] == 2
    assert found["one"]["iqm"] == pytest.approx(0.25)  # of 0.1, 0.3, 0.2, 0.4 the middle two


def test_how_far_the_first_arm_is_ahead(report):
    """Seeds that are all alike leave nothing to chance; of others, the interval is that of two independent means."""
    low, high = np.tile([0.1, 0.4, 0.2, 0.3], (3, 1)), np.tile([0.2, 0.5, 0.3, 0.4], (3, 1))
    assert report._ahead(high, low) == {"iqm": 0.1, "interval_95": [0.1, 0.1]}
    random = np.random.default_rng(0)
    first, second = random.normal(size=(2, 40, 1))
    found = report._ahead(first, second)
    low, high = found["interval_95"]
    assert low < found["iqm"] < high
    spread = 1.25 * np.sqrt(2 / 40)  # of a difference of interquartile means of normal numbers, whose efficiency is about 0.84
    assert (high - low) / (2 * 1.96) == pytest.approx(spread, rel=0.35)


def test_table_of_many_tasks(report, tmp_path):
    arms = {"one": {}, "none": {}, "two": {}}
    study = {"name": "tall", "n_timesteps": 20, "tasks": ["a/b", "c", "d"], "seeds": [0, 1], "arms": arms}
    for task, arm, seed, value in (("a/b", "one", 0, 3), ("a/b", "one", 1, 5), ("a/b", "two", 1, 2), ("d", "two", 0, 7)):
        rows = [{"timesteps": steps, "return_mean": value, "cpu_seconds": 3.0 * value * steps} for steps in (10, 20)]
        report.write(report.result_file(study, task, arm, seed), rows)
    report.report(study)
    assert (tmp_path / "pgr_study" / "tall" / "table.md").read_text().splitlines() == [
        "| task | one | two |",
        "|---|---|---|",
        "| `a/b` | 4 (3, 5) | 2 |",
        "| `d` |  | 7 |",
        "| minutes a run | 4 | 2 to 7 |",
    ]
