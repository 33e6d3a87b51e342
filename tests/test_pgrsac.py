"""PGRSAC: what it adds to REDQ and to the generative buffer."""

import csv
from importlib import resources

import gymnasium as gym
import numpy as np
import pytest
import torch as th
import yaml
from gymnasium import spaces
from sb3_pgr.envs import list_env_ids
from sb3_pgr.envs.simulator import SimulatorProbe
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import CombinedExtractor

from sb3_pgr import PGRSAC, REDQ
from sb3_pgr.generative.imagination import GeneratorMismatchError
from sb3_pgr.generative.relevance import Curiosity
from sb3_pgr.pgrsac.policies import PGRPolicy

TINY = dict(denoiser_kwargs=dict(width=16, n_blocks=1), train_steps=30, batch_size=64, dynamics_steps=30)
SMALL = dict(
    learning_starts=60,
    gradient_steps=2,
    batch_size=64,
    retrain_every=100,
    num_samples=300,
    generator=TINY,
    policy_kwargs=dict(net_arch=[16]),
    replay_buffer_kwargs=dict(warmup=50, max_outside=1.0),
    seed=0,
)


def small(env="Pendulum-v1", **kwargs):
    return PGRSAC("MlpPolicy", env, **(SMALL | kwargs))


def weights(model):
    return th.cat([value.flatten().double() for value in model.policy.state_dict().values()])


def test_off_it_is_redq():
    """Without synthetic rows, the same training bit by bit as REDQ with the same settings."""
    ours = small(synthetic_ratio=0).learn(150, log_interval=None)
    settings = {name: SMALL[name] for name in ("learning_starts", "gradient_steps", "batch_size", "seed")}
    networks = dict(net_arch=[16], layer_norm=True, normalize_observations=True, actor_average=0.05)
    settings |= dict(n_critics=2, policy_delay=2, ent_coef="auto_0.1", policy_kwargs=networks)
    theirs = REDQ("MlpPolicy", "Pendulum-v1", **settings)
    assert th.equal(weights(ours), weights(theirs.learn(150, log_interval=None)))


@pytest.mark.parametrize(
    ("space", "kwargs", "expected"),
    [
        (spaces.Box(-1, 1, (2,)), {}, True),
        (spaces.Box(-1, 1, (2,)), dict(normalize_observations=False), False),
        (spaces.Box(-1, 1, (2,)), dict(features_extractor_class=CombinedExtractor), False),
        (spaces.Box(-1, 1, (2, 2)), {}, False),
    ],
)
def test_flat_observations_are_normalised(space, kwargs, expected):
    if "features_extractor_class" in kwargs:
        space = spaces.Dict(a=space)
    policy = PGRPolicy(space, spaces.Box(-1, 1, (1,)), lambda _: 1e-3, **kwargs)
    assert (policy.observation_norm is not None) == expected


@pytest.mark.parametrize("relevance", ["curiosity", "return", "td_error", "uniform"])
def test_learns_logs_and_draws(relevance, tmp_path):
    model = small("InvertedPendulum-v5", relevance=relevance)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(230, log_interval=1)
    rows = list(csv.DictReader((tmp_path / "diagnostics" / "refits.csv").open()))
    assert [row["step"] for row in rows] == ["100", "200"]
    assert float(rows[0]["dynamics_error_real"]) < 1e-3 < float(rows[0]["dynamics_error"])
    names = {path.name for path in (tmp_path / "diagnostics").iterdir()}
    assert {"refit_000000100.png", "refit_000000100.npz", "refit_000000200.png", "refit_000000200.npz"} <= names
    logged = next(csv.reader((tmp_path / "progress.csv").open()))
    assert "pgr/synthetic_share" in logged
    if relevance != "uniform":
        assert float(rows[0]["relevance_prompted"]) > float(rows[0]["relevance_real"])


def test_generator_travels_in_the_zip(tmp_path):
    """Generator, relevance and dynamics head are restored; the replay memory is not part of a model."""
    model = small().learn(150, log_interval=None)
    model.save(tmp_path / "model.zip")
    loaded = PGRSAC.load(tmp_path / "model.zip", env=gym.make("Pendulum-v1"))
    assert th.equal(weights(model), weights(loaded))
    assert loaded.replay_buffer.generator.n_fits == 1 and loaded.replay_buffer.size() == 0
    real = model.replay_buffer.real_transitions()
    values = [m.replay_buffer.relevance.values(real) for m in (model, loaded)]
    assert th.equal(*values)
    start = {name: rows[:20] for name, rows in real.items()}
    drawn = [m.replay_buffer.generator.sample(20, values[0][:20], start)["observations"] for m in (model, loaded)]
    assert th.equal(*drawn)
    loaded.learn(200, log_interval=None)
    assert loaded.replay_buffer.generator.n_fits == 3  # it went on from there


def test_settings_of_the_replay_may_change_at_load(tmp_path):
    small(replay_buffer_kwargs=dict(cond_top_frac=0.1)).save(tmp_path / "model.zip")
    loaded = PGRSAC.load(tmp_path / "model.zip", synthetic_ratio=0.25, retrain_every=70)
    replay = loaded.replay_buffer
    assert (replay.synthetic_ratio, replay.retrain_every, replay.imagination.cond_top_frac) == (0.25, 70, 0.1)
    given = dict(retrain_every=80, synthetic_ratio=0.1, warmup=60)
    replay = PGRSAC.load(tmp_path / "model.zip", replay_buffer_kwargs=given).replay_buffer
    assert (replay.synthetic_ratio, replay.retrain_every, replay.warmup) == (0.1, 80, 60)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(relevance="reward"), "Saved with relevance Curiosity; this one has Reward"),
        (dict(generator=TINY | dict(dynamics_head=False)), "differ in dynamics_head or terminals"),
    ],
    ids=["relevance", "head"],
)
def test_what_cannot_change_at_load_is_named(tmp_path, changes, message):
    small().save(tmp_path / "model.zip")
    with pytest.raises(GeneratorMismatchError, match=message):
        PGRSAC.load(tmp_path / "model.zip", **changes)


def test_discount_of_n_step_rows_is_the_one_at_load(tmp_path):
    small(replay_buffer_kwargs=dict(n_steps=3), gamma=0.9).save(tmp_path / "model.zip")
    assert PGRSAC.load(tmp_path / "model.zip", gamma=0.5).replay_buffer.online.gamma == 0.5


def test_n_step_models_are_shown_with_a_buffer_of_one_row(tmp_path):
    """As the commands that show and film a model load it."""
    small(replay_buffer_kwargs=dict(n_steps=3)).save(tmp_path / "model.zip")
    assert PGRSAC.load(tmp_path / "model.zip", buffer_size=1).predict(np.zeros(3))[0].shape == (1,)


@pytest.mark.gpu
def test_saved_and_loaded_on_a_gpu(tmp_path):
    model = small(device="cuda").learn(150, log_interval=None)
    model.save(tmp_path / "model.zip")
    loaded = PGRSAC.load(tmp_path / "model.zip", env=gym.make("Pendulum-v1"), device="cuda")
    loaded.learn(150, log_interval=None)
    assert loaded.replay_buffer.generator.n_fits == 2


def test_a_loaded_buffer_has_the_settings_of_its_model(tmp_path):
    """Those that ``load`` was given; others than its generator has are refused, and the model keeps what it had."""
    model = small().learn(120, log_interval=None)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "replay")
    loaded = PGRSAC.load(tmp_path / "model", env=gym.make("Pendulum-v1"), synthetic_ratio=0.25, retrain_every=70)
    loaded.load_replay_buffer(tmp_path / "replay")
    replay = loaded.replay_buffer
    assert (replay.synthetic_ratio, replay.retrain_every, replay.n_added) == (0.25, 70, 120)
    assert replay.present_shares() == {"online": 0.75, "synthetic": 0.25}
    loaded.learn(25, reset_num_timesteps=False, log_interval=None)
    assert replay.generator.n_fits == 2  # at 140
    other = PGRSAC.load(
        tmp_path / "model", env=gym.make("Pendulum-v1"), num_samples=200, generator=TINY | dict(train_steps=20)
    )
    own = other.replay_buffer
    with pytest.raises(ValueError, match=r"num_samples=300, not 200; generator=GeneratorConfig\(.*not GeneratorConfig"):
        other.load_replay_buffer(tmp_path / "replay")
    REDQ("MlpPolicy", "Pendulum-v1").save_replay_buffer(tmp_path / "plain")
    with pytest.raises(ValueError, match="not TensorReplayBuffer; or use REDQ"):
        other.load_replay_buffer(tmp_path / "plain")
    assert other.replay_buffer is own


def test_buffers_of_other_numbers_of_environments_are_refused(tmp_path):
    REDQ("MlpPolicy", "Pendulum-v1").save_replay_buffer(tmp_path / "one")
    model = REDQ("MlpPolicy", make_vec_env("Pendulum-v1", 3))
    with pytest.raises(ValueError, match="is of 1 environments, not of 3"):
        model.load_replay_buffer(tmp_path / "one")
    assert model.replay_buffer.n_envs == 3


def test_other_buffers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="PGRSAC needs a GenerativeReplayBuffer, not ReplayBuffer; or use REDQ"):
        small(replay_buffer_class=ReplayBuffer)
    REDQ("MlpPolicy", "Pendulum-v1").save(tmp_path / "redq")
    with pytest.raises(ValueError, match="PGRSAC needs a GenerativeReplayBuffer, not TensorReplayBuffer; or use REDQ"):
        PGRSAC.load(tmp_path / "redq")


def config(name):
    return yaml.safe_load((resources.files("sb3_pgr.zoo_configs") / name).read_text())


def settings(entry):
    return {name: value for name, value in entry.items() if name not in ("n_timesteps", "policy")}


def test_paper_config_is_the_official_one():
    """Every value of the official configuration for DeepMind Control (128 + 128 rows, one actor step in 20, ...)."""
    given = settings(config("pgrsac_paper.yml")["default"]) | dict(num_samples=300)
    model = PGRSAC("MlpPolicy", "dmc/cheetah-run-v0", **given)
    replay = model.replay_buffer
    assert replay.generator.n_parameters == 26_243_625 and replay.generator.n_evaluations == 383
    assert sum(p.numel() for p in replay.relevance.network.parameters()) == 1_129_990
    assert isinstance(replay.relevance, Curiosity) and replay.relevance.update_every == 1 and not replay.relevance.normalize
    assert (model.gradient_steps, model.policy_delay, model.n_critics, model.n_target_critics) == (20, 20, 2, 2)
    row = np.zeros((1, 17), np.float32)
    for name, counts in (("online", {"online": 256}), ("synthetic", {"online": 128, "synthetic": 128})):
        replay.sources[name].add(row, row, np.zeros((1, 6)), np.zeros(1), np.zeros(1), [{}])
        assert replay._counts(256) == counts
    assert config("pgrsac_paper.yml")["default"]["num_samples"] == 1_000_000
    assert config("pgrsac_paper.yml")["dmc/quadruped-walk-v0"]["cond_top_frac"] == 0.1
    norms = [module for module in model.critic.modules() if "Norm" in type(module).__name__]
    assert not norms and model.ent_coef == "auto"


def test_one_actor_step_in_twenty_critic_steps():
    model = small(gradient_steps=20, policy_delay=20, synthetic_ratio=0)
    model.learn(70, log_interval=None)
    steps = {name: next(iter(getattr(model, name).optimizer.state.values()))["step"] for name in ("actor", "critic")}
    assert steps["critic"] == 200 and steps["actor"] == 10


def test_lean_config_is_the_default_of_the_class():
    """The YAML says in full what PGRSAC("MlpPolicy", env) does."""
    given = PGRSAC("MlpPolicy", "Pendulum-v1", **settings(config("pgrsac.yml")["default"]))
    plain = PGRSAC("MlpPolicy", "Pendulum-v1")
    names = ("gradient_steps", "policy_delay", "n_critics", "n_target_critics", "learning_starts", "ent_coef")
    for name in (*names, "replay_buffer_kwargs"):
        assert getattr(given, name) == getattr(plain, name), name
    assert th.equal(
        th.tensor([p.numel() for p in given.policy.parameters()]), th.tensor([p.numel() for p in plain.policy.parameters()])
    )


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Swimmer-v5", "dmc/cheetah-run-v0"])
def test_the_simulator_takes_the_observed_step(env_id):
    """Set to what was observed, it goes where it went."""
    env = gym.make(env_id)
    probe = SimulatorProbe(gym.make(env_id))
    obs, _ = env.reset(seed=3)
    env.action_space.seed(3)
    for _ in range(20):
        action = env.action_space.sample() * 0.3
        next_obs, reward, terminated, *_ = env.step(action)
        if terminated:
            break
        low, high = env.action_space.low, env.action_space.high
        scaled = 2 * (action - low) / (high - low) - 1
        reached, rewards = probe.step(obs[None], scaled[None])
        np.testing.assert_allclose(reached[0], next_obs, rtol=1e-2, atol=1e-2)
        assert rewards[0] == pytest.approx(reward, abs=1e-2)
        obs = next_obs


def test_the_simulator_knows_which_observations_were_cut():
    """Gymnasium cuts Walker2d's velocities at 10: where none is cut a step leads where it led, ends included."""
    env, probe = gym.make("Walker2d-v5"), SimulatorProbe(gym.make("Walker2d-v5"))
    rows, (obs, _) = [], env.reset(seed=0)
    env.action_space.seed(0)
    for _ in range(500):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, next_obs, reward))
        obs = env.reset()[0] if terminated or truncated else next_obs
    obs, actions, next_obs, rewards = (np.array(column) for column in zip(*rows, strict=True))
    known = probe.known(obs)
    np.testing.assert_array_equal(known, ~(np.abs(obs[:, 8:]) == 10).any(1))
    assert 0.1 < known.mean() < 0.9
    reached, earned = probe.step(obs[known], actions[known], scaled=False)
    np.testing.assert_allclose(reached, next_obs[known], atol=1e-6)
    np.testing.assert_allclose(earned, rewards[known], atol=1e-6)
    assert np.abs(probe.step(obs[~known], actions[~known], scaled=False)[0] - next_obs[~known]).max() > 1e-2


def test_the_simulator_steps_beyond_time_limits():
    """After its last step, DeepMind Control's next one would be a reset."""
    probe = SimulatorProbe(gym.make("dmc/cheetah-run-v0", task_kwargs={"time_limit": 0.1}))
    obs = np.repeat(probe.env.reset(seed=0)[0][None], 25, 0)
    reached, rewards = probe.step(obs, np.full((25, 6), 0.5))
    np.testing.assert_array_equal(reached, np.repeat(reached[:1], 25, 0))
    np.testing.assert_array_equal(rewards, np.repeat(rewards[:1], 25))


@pytest.mark.parametrize("env_id", ["dmc/quadruped-walk-v0", "Pendulum-v1", "Ant-v5"])
def test_states_that_cannot_be_set_are_refused(env_id):
    assert "dmc/quadruped-walk-v0" in list_env_ids()
    with pytest.raises(ValueError, match=f"observation of {env_id} does not determine the state"):
        SimulatorProbe(gym.make(env_id))
