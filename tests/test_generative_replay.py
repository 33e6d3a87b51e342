import copy
import gc
import pickle
import warnings
import weakref
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DDPG, DQN, SAC, TD3
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.her import HerReplayBuffer

from sb3_pgr import (
    GenerativeReplayBuffer,
    GenerativeReplayCallback,
    MixtureReplayBuffer,
    PrioritizedReplayBuffer,
    SequenceReplayBuffer,
)
from sb3_pgr.generative.config import GeneratorConfig
from sb3_pgr.generative.diagnostics import read_report, reports
from sb3_pgr.generative.relevance import Relevance

OBS, ACT = spaces.Box(-5, 5, (3,)), spaces.Box(-1, 1, (2,))
TINY = dict(
    denoiser_kwargs=dict(width=16, n_blocks=1), train_steps=30, batch_size=64, dynamics_steps=30, sampler=dict(n_steps=3)
)
REPLAY = dict(generator=TINY, retrain_every=100, num_samples=300, warmup=50, max_outside=1.0)
CONTINUOUS = {"SAC": SAC, "TD3": TD3, "DDPG": DDPG, "TQC": TQC, "CrossQ": CrossQ}
DISCRETE = {"DQN": DQN, "QRDQN": QRDQN}
EVERY = [*CONTINUOUS.values(), *DISCRETE.values()]


def buffer(observation_space=OBS, action_space=ACT, **kwargs):
    return GenerativeReplayBuffer(kwargs.pop("size", 1000), observation_space, action_space, "cpu", **(REPLAY | kwargs))


def fill(buffer, n, seed=0):
    """A random walk whose episodes end now and then; returns the observations that were added."""
    random = np.random.default_rng(seed)
    obs = random.normal(size=(buffer.n_envs, 3)).astype(np.float32)
    seen = []
    for _ in range(n):
        action = random.uniform(-1, 1, (buffer.n_envs, 2)).astype(np.float32)
        next_obs = (0.9 * obs + 0.3 * random.normal(size=obs.shape)).astype(np.float32)
        done = random.random(buffer.n_envs) < 0.05
        timeout = done & (random.random(buffer.n_envs) < 0.5)
        buffer.add(obs, next_obs, action, obs[:, 0], done, [{"TimeLimit.truncated": bool(t)} for t in timeout])
        seen.append(obs)
        obs = np.where(done[:, None], random.normal(size=obs.shape), next_obs).astype(np.float32)
    return np.array(seen)


def model(kind, replay_buffer_class=GenerativeReplayBuffer, replay_buffer_kwargs=REPLAY, env=None, **kwargs):
    env = env or ("Pendulum-v1" if kind in CONTINUOUS.values() else "CartPole-v1")
    settings = dict(learning_starts=60, seed=0, policy_kwargs=dict(net_arch=[16]), train_freq=1, device="cpu", batch_size=64)
    return kind(
        "MlpPolicy",
        env,
        replay_buffer_class=replay_buffer_class,
        replay_buffer_kwargs=dict(replay_buffer_kwargs),
        **(settings | kwargs),
    )


def weights(model):
    return th.cat([value.flatten().double() for value in model.policy.state_dict().values()])


@pytest.mark.parametrize("kind", EVERY, ids=[*CONTINUOUS, *DISCRETE])
def test_neutral_at_zero(kind):
    """With a ratio of 0, the same training bit by bit as with SB3's own buffer."""
    own = model(kind, ReplayBuffer, {}).learn(150, log_interval=None)
    ours = model(kind, replay_buffer_kwargs=REPLAY | dict(synthetic_ratio=0)).learn(150, log_interval=None)
    assert ours.replay_buffer.generator.n_fits == 0
    assert th.equal(weights(own), weights(ours))


@pytest.mark.parametrize("kind", EVERY, ids=[*CONTINUOUS, *DISCRETE])
def test_unmodified_algorithms_learn_from_it(kind):
    trained = model(kind).learn(150, log_interval=None)
    replay = trained.replay_buffer
    assert replay.generator.n_fits == 1 and replay.last_report.problem is None
    assert replay.statistics()["synthetic"]["drawn"] > 0.1
    own = model(kind, ReplayBuffer, {}).learn(150, log_interval=None)
    assert weights(trained).isfinite().all() and not th.equal(weights(own), weights(trained))


def test_several_environments_normalised():
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    trained = model(SAC, env=env, gradient_steps=-1).learn(300, log_interval=None)
    replay = trained.replay_buffer
    assert replay.generator.n_fits == 3  # at 100, 200 and 300 transitions
    raw = replay.real_transitions()["observations"]
    synthetic = replay.sources["synthetic"].observations[: replay.sources["synthetic"].size(), 0]
    assert raw[:, 2].std() > 1 and 0.3 < synthetic[:, 2].std() / raw[:, 2].std() < 3  # raw, not normalised
    batch = replay.sample(64, env)
    assert batch.observations.abs().max() <= env.clip_obs and batch.observations.dtype == th.float32


def test_half_of_a_batch_is_synthetic():
    replay = buffer()
    fill(replay, 100)
    replay.sources["synthetic"].reset()
    batch = replay.sample(256)
    marked = replay.sources["synthetic"]
    marked.rewards[:] = 1e6
    assert int((replay.sample(256).rewards == 1e6).sum()) == 128
    assert int((replay.sample_block(5, 256).rewards == 1e6).sum()) == 5 * 128
    assert batch.observations.shape == (256, 3) and batch.rewards.shape == batch.dones.shape == (256, 1)


def test_reset_forgets_everything():
    replay = buffer()
    fill(replay, 150)
    replay.sample(4)
    assert replay.generator.n_fits == 1
    replay.reset()
    with pytest.raises(ValueError, match="empty"):
        replay.sample(4)
    fill(replay, 90)
    assert replay.present_shares() == {"online": 1, "synthetic": 0}
    replay.sample(4)
    assert replay.generator.n_fits == 1
    fill(replay, 10)
    replay.sample(4)
    assert replay.generator.n_fits == 2


def test_settings_of_a_generator_stay_what_they_are():
    config = GeneratorConfig(denoiser_kwargs=dict(width=64), train_steps=7)
    assert buffer(generator=config).generator.config == config
    assert buffer(generator=config, cfg_scale=1.25).generator.config == replace(config, cfg_scale=1.25)


def test_diagnostics_are_of_one_run(tmp_path):
    def steps():
        return [int(path.stem.removeprefix("refit_")) for path in reports(tmp_path / "diagnostics")]

    callback = dict(callback=GenerativeReplayCallback(tmp_path), log_interval=None)
    model(SAC).learn(320, **callback)
    assert steps() == [100, 200, 300]
    again = model(SAC).learn(220, **dict(callback, callback=GenerativeReplayCallback(tmp_path)))
    assert steps() == [100, 200]
    again.learn(100, reset_num_timesteps=False, **dict(callback, callback=GenerativeReplayCallback(tmp_path)))
    assert steps() == [100, 200, 300]


def test_refits_fall_due_by_transitions():
    replay, fits = buffer(), []
    for _ in range(25):
        fill(replay, 20)
        replay.sample(4)
        fits.append(replay.generator.n_fits)
    assert fits == [added // 100 for added in range(20, 520, 20)]


@pytest.mark.parametrize(("retrain_every", "steps"), [(100, 10), (150, 15), (1000, 1)])
def test_relevance_is_trained_before_the_first_fit(retrain_every, steps):
    """If that is due when learning begins: on what came before, as far as one interval."""
    replay = buffer(relevance=dict(name="curiosity", update_every=10), retrain_every=retrain_every)
    fill(replay, 160)
    updates, update = [], replay.relevance.update
    replay.relevance.update = lambda rows: updates.append(1) or update(rows)
    replay.sample(8)
    assert len(updates) == steps
    fill(replay, 20)
    replay.sample(8)
    assert len(updates) == steps + 2


def test_too_few_rows_wait_and_say_so_once():
    replay = buffer(retrain_every=20, warmup=70)
    with pytest.warns(UserWarning, match="20 real transitions, the first fit needs warmup=70") as said:
        for _ in range(3):
            fill(replay, 20)
            replay.sample(8)
    assert len(said) == 1 and replay.generator.n_fits == 0
    fill(replay, 20)
    replay.sample(8)
    assert replay.generator.n_fits == 1


def test_ratio_by_schedule():
    replay = buffer(synthetic_ratio=(0.0, 1.0, 400), retrain_every=100)
    for _ in range(3):
        fill(replay, 100)
        replay.sample(8)
    assert replay.present_shares()["synthetic"] == pytest.approx(0.75)
    fill(replay, 200)
    assert replay.present_shares() == {"online": 0.0, "synthetic": 1.0}
    replay.sources["synthetic"].reset()  # nothing to draw from: all real, whatever the ratio
    assert replay.present_shares() == {"online": 1.0, "synthetic": 0.0}


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("optimize_memory_usage", [False, True])
def test_real_rows_in_order(n_envs, optimize_memory_usage):
    """Environment by environment, oldest first, also after the buffer has wrapped (B6); n steps do not matter."""
    replay = buffer(size=50 * n_envs, n_envs=n_envs, n_steps=3, optimize_memory_usage=optimize_memory_usage)
    seen = fill(replay, 80)
    real = replay.real_transitions()
    wanted = np.concatenate([seen[-50:, env] for env in range(n_envs)])
    np.testing.assert_array_equal(real["observations"], wanted)
    np.testing.assert_array_equal(real["rewards"].flatten(), wanted[:, 0])
    going_on = real["episode_ends"].flatten()[:-1] == 0
    going_on[49::50] = False
    assert th.equal(real["next_observations"][:-1][going_on], real["observations"][1:][going_on])
    assert ((real["dones"] == 1) <= (real["episode_ends"] == 1)).all() and real["dones"].sum() < real["episode_ends"].sum()


def test_episodes_of_environments_do_not_run_into_each_other():
    replay = buffer(n_envs=2, relevance="return_to_go")
    for _ in range(4):
        obs = np.zeros((2, 3), np.float32)
        replay.add(obs, obs, np.zeros((2, 2)), np.array([1.0, 100.0]), np.zeros(2), [{}, {}])
    values = replay.relevance.values(replay.real_transitions())
    assert values.tolist() == [4, 3, 2, 1, 400, 300, 200, 100]


@pytest.mark.parametrize("reward_values", [16, 0])
def test_generated_rewards_of_sparse_tasks_are_real_ones(reward_values):
    replay, random = buffer(generator=TINY | dict(reward_values=reward_values)), np.random.default_rng(0)
    for _ in range(200):
        obs = random.normal(size=(1, 3)).astype(np.float32)
        replay.add(obs, obs + 0.1, random.uniform(-1, 1, (1, 2)), (obs[:, 0] > 1) * 5.0 - 1, np.zeros(1), [{}])
    report = replay.refit()
    generated = replay.sources["synthetic"]
    drawn = generated.rows(th.arange(generated.size())).rewards
    assert set(drawn.unique().tolist()) == {-1.0, 4.0} if reward_values else len(drawn.unique()) > 16
    assert ("reward_loss" in report.scalars) == bool(reward_values)
    earlier = replay.imagination.state_dict()
    del earlier["rewards"]
    other = buffer(generator=TINY | dict(reward_values=reward_values)).imagination
    other.load_state_dict(earlier)
    assert len(other.draw(replay.real_transitions(), 10)["rewards"]) == 10


def test_rewards_of_many_values_are_predicted_as_ever():
    drawn = []
    for reward_values in (16, 0):
        replay = buffer(generator=TINY | dict(reward_values=reward_values))
        fill(replay, 200)
        replay.refit()
        generated = replay.sources["synthetic"]
        drawn.append(generated.rows(th.arange(generated.size())))
    for classified, predicted in zip(*drawn, strict=True):
        assert classified is predicted is None or th.equal(classified, predicted)


def test_large_constants_do_no_harm():
    """A number that never changes is normalised to 0, not to the rounding error of its mean."""
    replay = buffer(generator=TINY | dict(train_steps=100, dynamics_steps=300))
    random = np.random.default_rng(0)
    for _ in range(200):
        obs = np.array([[3000.1, *random.normal(size=2)]], np.float32)
        replay.add(obs, np.add(obs, [[0, 0.1, 0]]), random.uniform(-1, 1, (1, 2)), obs[:, 1], np.zeros(1), [{}])
    report = replay.refit()
    assert report.scalars["dynamics_loss"] < 0.1 and report.scalars["generator_loss"] < 2


def test_moving_keeps_model_and_generator():
    trained = model(SAC, replay_buffer_kwargs=REPLAY | dict(relevance="td_error"))
    trained.learn(150, GenerativeReplayCallback(), log_interval=None)
    replay = trained.replay_buffer
    before = replay.generator.state_dict()["average"]
    replay.device = "cpu:0"
    assert replay.relevance.model is not None and replay.generator.n_fits == 1
    assert all(th.equal(value, before[name]) for name, value in replay.generator.state_dict()["average"].items())


def test_nothing_keeps_a_model_alive():
    trained = model(SAC)
    trained.learn(150, GenerativeReplayCallback(), log_interval=None)
    alive = weakref.ref(trained)
    del trained
    gc.collect()
    assert alive() is None


def test_simulator_that_cannot_be_built_is_no_reason_to_stop(monkeypatch):
    """A diagnostic warns."""
    trained = model(SAC, env="InvertedPendulum-v5")
    monkeypatch.setattr(gym, "make", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("port 5005 is in use")))
    with pytest.warns(UserWarning, match="Dynamics errors are not measured: port 5005 is in use"):
        trained.learn(150, GenerativeReplayCallback(), log_interval=None)
    assert "dynamics_error" not in trained.replay_buffer.last_report.scalars


def test_damaged_report_is_skipped(tmp_path):
    trained = model(SAC).learn(150, GenerativeReplayCallback(tmp_path), log_interval=None)
    (tmp_path / "diagnostics" / "refit_000000100.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.warns(UserWarning, match="refit_000000100.npz is not the report of a refit, or is damaged"):
        trained.learn(100, GenerativeReplayCallback(tmp_path), log_interval=None, reset_num_timesteps=False)
    assert [path.name for path in reports(tmp_path / "diagnostics")] == ["refit_000000100.npz", "refit_000000200.npz"]
    assert len((tmp_path / "diagnostics" / "refits.csv").read_text().splitlines()) == 2


def test_more_can_be_drawn_later():
    first = buffer()
    fill(first, 100)
    first.sample(8)
    second = pickle.loads(pickle.dumps(first))
    drawn = [replay.imagination.draw(replay.real_transitions(), 50) for replay in (first, second)]
    assert all(th.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])


def test_sources_do_not_draw_alike():
    replay = buffer()
    states = [source.generator.initial_seed() for source in replay.sources.values()]
    assert len({*states, replay.imagination.random.initial_seed(), replay.generator.generator.initial_seed()}) == 4


def test_models_without_a_seed_do_not_draw_alike():
    """Torch's own seed is one for the whole process; reading it must not advance what SB3's algorithms draw from."""

    def streams():
        model = SAC("MlpPolicy", "Pendulum-v1", replay_buffer_class=GenerativeReplayBuffer, device="cpu", buffer_size=100)
        replay = model.replay_buffer
        generators = [source.generator for source in replay.sources.values()]
        return [part.initial_seed() for part in (*generators, replay.imagination.random, replay.generator.generator)]

    th.manual_seed(1)
    first, second = streams(), streams()
    assert len({*first, *second}) == 8
    th.manual_seed(1)
    assert [streams(), streams()] == [first, second]
    state = th.get_rng_state()
    buffer()
    assert th.equal(th.get_rng_state(), state)


def test_rollouts_are_not_disturbed_by_a_refit():
    """B1 of the official code: after a refit the next real transition began in a synthetic state."""
    trained = model(SAC).learn(250, log_interval=None)
    real = trained.replay_buffer.real_transitions()
    going_on = real["episode_ends"].flatten()[:-1] == 0
    assert trained.replay_buffer.generator.n_fits == 2
    assert th.equal(real["next_observations"][:-1][going_on], real["observations"][1:][going_on])


def test_synthetic_rows_stay_near_the_real_ones():
    replay = buffer(max_outside=1.0)
    fill(replay, 200)
    replay.sample(8)
    synthetic, real = replay.sources["synthetic"], replay.real_transitions()
    assert 0 < synthetic.size() <= 300
    rows = synthetic.rows(th.arange(synthetic.size()))
    assert rows.actions.abs().max() <= 1
    assert rows.rewards.min() >= real["rewards"].min() and rows.rewards.max() <= real["rewards"].max()
    for name in ("observations", "next_observations"):
        drawn = getattr(rows, name)
        assert (drawn <= real[name].amax(0) + 1e-4).all() and (drawn >= real[name].amin(0) - 1e-4).all()


def test_global_random_numbers_are_left_alone():
    before = th.get_rng_state(), np.random.get_state()[1].copy()
    replay = buffer()
    fill(replay, 100)
    replay.refit()
    assert th.equal(before[0], th.get_rng_state()) and (before[1] == np.random.get_state()[1]).all()


def test_dict_observations():
    space = spaces.Dict({"b": spaces.Box(-9, 9, (2, 2)), "a": spaces.Box(-9, 9, (3,))})
    replay = buffer(space, spaces.Discrete(4))
    random = np.random.default_rng(0)
    for _ in range(100):
        obs, next_obs = ({"a": random.normal(size=(1, 3)), "b": 7 + random.normal(size=(1, 2, 2))} for _ in range(2))
        replay.add(obs, next_obs, random.integers(4, size=(1, 1)), random.normal(size=1), np.zeros(1), [{}])
    batch = replay.sample(64)
    assert replay.generator.n_fits == 1 and replay.sources["synthetic"].size() > 0
    assert batch.observations["b"].shape == (64, 2, 2) and batch.observations["a"].shape == (64, 3)
    synthetic = replay.sources["synthetic"].sample(100)
    assert synthetic.observations["b"].mean() > 5 and synthetic.observations["a"].mean() < 3
    assert set(synthetic.actions.flatten().tolist()) <= {0, 1, 2, 3}


class Goal(gym.Env):
    observation_space = spaces.Dict({"x": spaces.Box(-9, 9, (2,)), "goal": spaces.Box(-9, 9, (1,))})
    action_space = spaces.Box(-2, 2, (1,))

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        self.steps += 1
        return self.observation_space.sample(), float(action[0]), False, self.steps == 30, {}


def test_dict_observations_are_neutral_at_zero():
    trained = []
    for kwargs in (
        dict(replay_buffer_class=GenerativeReplayBuffer, replay_buffer_kwargs=REPLAY | dict(synthetic_ratio=0)),
        dict(replay_buffer_class=DictReplayBuffer),
    ):
        env = Goal()
        env.observation_space.seed(0)
        settings = dict(learning_starts=30, seed=0, policy_kwargs=dict(net_arch=[16]), device="cpu")
        trained.append(SAC("MultiInputPolicy", env, **settings, **kwargs).learn(80, log_interval=None))
    assert th.equal(weights(trained[0]), weights(trained[1]))


def test_n_steps_mix_with_single_ones():
    replay = buffer(n_steps=3, gamma=0.9)
    fill(replay, 100)
    batch = replay.sample(64)
    assert batch.discounts.shape == (64, 1)
    assert {round(discount, 4) for discount in batch.discounts[:32].flatten().tolist()} <= {0.9, 0.81, 0.729}
    assert (batch.discounts[32:] == th.tensor(0.9)).all()


def test_real_rows_may_be_prioritized():
    replay = buffer(online_class=PrioritizedReplayBuffer)
    fill(replay, 100)
    batch = replay.sample(64)
    assert batch.weights.shape == (64, 1)
    replay.update_priorities(batch.indices, th.ones(64))


@pytest.mark.parametrize("how", ["pickle", "copy", "state_dict"])
def test_goes_on_from_a_copy(how):
    """The same batches, refits included, as the original."""
    first = buffer(relevance={"name": "curiosity", "hidden_dim": 8, "update_every": 2})
    fill(first, 120)
    first.sample(8)
    if how == "state_dict":
        second = buffer(relevance={"name": "curiosity", "hidden_dim": 8, "update_every": 2})
        second.load_state_dict(copy.deepcopy(first.state_dict()))
    else:
        second = pickle.loads(pickle.dumps(first)) if how == "pickle" else copy.deepcopy(first)
    drawn = []
    for replay in (first, second):
        fill(replay, 100, seed=1)
        drawn.append(replay.sample_block(2, 32))
    assert first.generator.n_fits == second.generator.n_fits == 2
    assert all(th.equal(ours, theirs) for ours, theirs in zip(*drawn, strict=True) if ours is not None)


def test_saved_buffer_goes_on_in_another_model(tmp_path):
    trained = model(SAC, replay_buffer_kwargs=REPLAY | dict(relevance="td_error"))
    trained.learn(150, GenerativeReplayCallback(), log_interval=None)
    trained.save_replay_buffer(tmp_path / "replay.pkl")
    trained.save(tmp_path / "model.zip")
    loaded = SAC.load(tmp_path / "model.zip", env=trained.get_env())
    loaded.load_replay_buffer(tmp_path / "replay.pkl")
    assert loaded.replay_buffer.relevance.model is None
    with pytest.raises(RuntimeError, match=r"Relevance TDError .* Use PGRSAC, pass GenerativeReplayCallback"):
        loaded.learn(100, log_interval=None, reset_num_timesteps=False)
    loaded.learn(100, GenerativeReplayCallback(), log_interval=None, reset_num_timesteps=False)
    assert loaded.replay_buffer.generator.n_fits == 2


@pytest.mark.parametrize("relevance", ["return", "td_error"])
def test_relevance_of_the_critic(relevance, tmp_path):
    env = VecNormalize(make_vec_env("Pendulum-v1", 1, seed=0))
    trained = model(TQC, env=env, replay_buffer_kwargs=REPLAY | dict(relevance=relevance))
    trained.learn(150, GenerativeReplayCallback(tmp_path), log_interval=None)
    report = trained.replay_buffer.last_report
    assert report.scalars["relevance_prompted"] > report.scalars["relevance_real"]
    written = read_report(reports(tmp_path / "diagnostics")[0])
    assert written.scalars.keys() == report.scalars.keys() and written.step == 100


def test_the_most_relevant_are_asked_for():
    """A share of the real rows, ties broken by chance."""
    imagination = buffer(cond_top_frac=0.25).imagination
    chosen = imagination._choose(th.arange(1_000.0), 20_000).unique()
    assert chosen.tolist() == list(range(750, 1_000))
    alike = imagination._choose(th.ones(1_000), 20_000).unique()
    assert len(alike) == 250 and all(40 < ((alike >= i) & (alike < i + 250)).sum() < 85 for i in range(0, 1_000, 250))


def test_novelty_is_measured_among_real_rows():
    replay = buffer(relevance="novelty")
    fill(replay, 400)
    report = replay.refit()
    assert len(replay.relevance._reference) == 400
    synthetic = replay.sources["synthetic"].rows(th.arange(300))
    mean = float(replay.relevance.values({"observations": synthetic.observations}).mean())
    assert report.scalars["relevance_generated"] == pytest.approx(mean, rel=1e-4)


def test_terminals_fit_where_they_lead():
    """Real rows end exactly where their next observation is beyond a line."""
    replay = buffer(
        size=4_000, num_samples=4_000, relevance="uniform", generator=TINY | dict(dynamics_steps=500, train_steps=500)
    )
    random = np.random.default_rng(0)
    for _ in range(3_000):
        obs, action = random.normal(size=(1, 3)), random.uniform(-1, 1, (1, 2))
        next_obs = obs + 0.1 * action.sum()
        replay.add(obs, next_obs, action, np.zeros(1), next_obs[:, 0] > 1.2, [{}])
    report = replay.refit()
    rows = replay.sources["synthetic"].rows(th.arange(4_000))
    beyond, ends = rows.next_observations[:, 0] > 1.2, rows.dones[:, 0] > 0
    assert ends[beyond].float().mean() > 0.9 and beyond[ends].float().mean() > 0.9
    assert report.scalars["terminals_synthetic"] == pytest.approx(float(ends.float().mean()))


def test_a_warmup_that_the_buffer_cannot_hold():
    replay = buffer(size=40, warmup=50)
    fill(replay, 120)
    with pytest.raises(ValueError, match="warmup=50 is never reached: the buffer holds 40"):
        replay.sample(8)


def test_observations_of_no_dimension():
    replay = buffer(spaces.Dict(a=spaces.Box(-1, 1, ()), b=OBS))
    for i in range(100):
        obs = {"a": np.full(1, i / 100), "b": np.ones((1, 3))}
        replay.add(obs, obs, np.zeros((1, 2)), np.ones(1), np.zeros(1), [{}])
    assert len(replay.sample(8).observations["a"]) == 8


def test_actions_of_the_policy():
    replay = REPLAY | dict(policy_actions=True, relevance="uniform")
    trained = model(TD3, replay_buffer_kwargs=replay)
    trained.learn(101, GenerativeReplayCallback(), log_interval=None)
    synthetic = trained.replay_buffer.sources["synthetic"]
    trained.replay_buffer.refit()  # of the present policy
    rows = synthetic.rows(th.arange(synthetic.size()))
    with th.no_grad():
        th.testing.assert_close(rows.actions, trained.actor(rows.observations))
    with pytest.raises(ValueError, match="policy_actions=True needs the dynamics head"):
        buffer(policy_actions=True, generator=TINY | dict(dynamics_head=False))


def test_actions_of_a_stochastic_policy_are_drawn():
    policy_actions = REPLAY | dict(policy_actions=True, relevance="uniform")
    trained = model(SAC, replay_buffer_kwargs=policy_actions).learn(101, GenerativeReplayCallback(), log_interval=None)
    trained.replay_buffer.refit()
    source = trained.replay_buffer.sources["synthetic"]
    rows = source.rows(th.arange(source.size()))
    with th.no_grad():
        assert (rows.actions - trained.actor(rows.observations, deterministic=True)).abs().mean() > 0.05


@pytest.mark.parametrize("kind", [SAC, TD3])
def test_actions_of_the_policy_leave_global_random_numbers_alone(kind):
    trained = model(kind, replay_buffer_kwargs=REPLAY | dict(policy_actions=True))
    trained.learn(90, GenerativeReplayCallback(), log_interval=None)
    before = th.get_rng_state()
    trained.replay_buffer.refit()
    assert th.equal(before, th.get_rng_state())


def test_a_diverged_generator_is_not_used():
    """Reported once a refit; training goes on with real rows; the next good fit is used again."""
    replay = buffer()
    fill(replay, 100)
    replay.sample(8)
    replay.sources["synthetic"].rewards[:] = 1e6
    healthy = replay.generator.config
    replay.generator.config = type(healthy)(**(vars(healthy) | dict(learning_rate=float("inf"))))
    fill(replay, 100)
    with pytest.warns(UserWarning, match="loss is nan .* Training goes on with real rows alone"):
        batch = replay.sample(64)
    assert replay.last_report.problem is not None and (batch.rewards != 1e6).all()
    assert replay.present_shares()["synthetic"] == 0
    replay.generator.config = healthy
    fill(replay, 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replay.sample(64)
    assert replay.last_report.problem is None and replay.present_shares()["synthetic"] == 0.5


@pytest.mark.parametrize("number", [30.0, float("nan")])
def test_rows_of_a_network_gone_astray_are_not_used(number):
    """Clamping would hide it."""
    replay = buffer(max_outside=0.05)
    fill(replay, 100)
    fit = replay.generator.fit

    def spoilt(*args):
        report = fit(*args)
        replay.generator.ema.network.output.bias.data[:2] = number  # of ten
        return report

    replay.generator.fit = spoilt
    with pytest.warns(UserWarning, match=r"\d+\.\d% of the generated numbers lie outside .*max_outside=5\.0%"):
        replay.sample(64)
    assert replay.sources["synthetic"].size() == 0 and replay.last_report.scalars["outside"] > 0.1


def test_some_rows_that_are_not_finite_are_dropped():
    replay = buffer()
    fill(replay, 100)
    sample = replay.generator.sample

    def sometimes(*args):
        drawn = sample(*args)
        drawn["observations"][::100] = float("nan")
        return drawn

    replay.generator.sample = sometimes
    replay.sample(64)
    assert replay.sources["synthetic"].size() == 297


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(observation_space=spaces.Box(0, 255, (84, 84, 4), np.uint8)), "Observations are images .* makes vectors"),
        (dict(observation_space=spaces.Dict({"cam": spaces.Box(0, 255, (3, 64, 64), np.uint8)})), "'cam' are images"),
        (dict(observation_space=spaces.Discrete(5)), r"must be a Box of floating point numbers, not Discrete\(5\)"),
        (dict(action_space=spaces.MultiDiscrete([2, 3])), "Actions must be a Box .* or Discrete, not MultiDiscrete"),
        (dict(action_space=spaces.Box(0, 3, (1,), np.int64)), "Actions must be a Box of floating point numbers"),
        (dict(online_class=HerReplayBuffer), "relabels goals"),
        (dict(online_class=MixtureReplayBuffer), "that draws single rows, not MixtureReplayBuffer"),
        (dict(online_class=SequenceReplayBuffer), "that draws single rows, not SequenceReplayBuffer"),
        (dict(warmup=1), "warmup=1 must be at least 2"),
        (dict(synthetic_ratio=1.5), r"synthetic_ratio=1\.5 must be between 0 and 1"),
        (dict(synthetic_ratio=(0.0, 2.0, 100)), r"synthetic_ratio=2\.0 must be between 0 and 1"),
        (dict(synthetic_ratio="half"), "synthetic_ratio='half' must be a number"),
        (dict(retrain_every=0), "retrain_every=0 must be a whole number"),
        (dict(num_samples=0), "num_samples=0 must be a whole number"),
        (dict(cond_top_frac=0.0), r"cond_top_frac=0\.0 must be above 0"),
        (dict(max_outside=2.0), r"max_outside=2\.0 must be"),
        (dict(generator="huge"), "generator='huge' is not known"),
        (dict(cfg_dropout=1.2), r"cfg_dropout=1\.2 must be"),
        (dict(relevance="fun"), "relevance='fun' is not known"),
    ],
    ids=str,
)
def test_refusals(kwargs, message):
    with pytest.raises(ValueError, match=message):
        buffer(**kwargs)


def test_refits_that_cannot_be():
    with pytest.raises(ValueError, match="cannot be fitted on 0 transitions"):
        buffer().refit()
    unbound = buffer(relevance="td_error")
    fill(unbound, 20)
    with pytest.raises(RuntimeError, match=r"Relevance TDError .* unbound"):
        unbound.refit()
    unconditional = buffer(relevance="uniform")
    with pytest.raises(ValueError, match="has not been fitted"):
        unconditional.generator.sample(3)
    fill(unconditional, 60)
    unconditional.refit()
    with pytest.raises(ValueError, match="fitted without relevance"):
        unconditional.generator.sample(3, th.ones(3))


def test_returns_of_several_steps_have_the_models_discount():
    replay = buffer(n_steps=3, gamma=0.9)
    replay.bind_model(model(SAC, gamma=0.9))
    with pytest.raises(ValueError, match=r"discounted by 0\.9, the model has gamma=0\.99"):
        replay.bind_model(model(SAC))


def test_more_rows_than_memory_are_refused():
    with pytest.raises(MemoryError, match=r"num_samples=10,000,000,000,000 .* about [\d,]+ GB; cpu has \d+ GB"):
        buffer(num_samples=10**13)


def test_broken_relevance_is_named_while_learning():
    class Broken(Relevance):
        def values(self, transitions):
            return transitions["rewards"].flatten() * float("nan")

    replay = buffer(relevance=Broken())
    fill(replay, 100)
    with pytest.raises(ValueError, match="Relevance Broken returned 100 of 100 values that are not finite"):
        replay.sample(8)


def test_a_relevance_may_use_every_documented_field():
    class Ends(Relevance):
        def values(self, transitions):
            names = ("observations", "next_observations", "actions", "rewards", "dones", "episode_ends")
            return sum(transitions[name].sum(1) for name in names)

    replay = buffer(relevance=Ends())
    fill(replay, 100)
    assert np.isfinite(replay.refit().scalars["relevance_generated"])


def test_copied_rows_show_as_memorised():
    """Whichever of many real rows they are copies of."""
    replay = buffer(size=20_000, num_samples=1_000)
    fill(replay, 6_000)
    real = replay.real_transitions()
    copies = {name: rows[::6].clone() for name, rows in real.items() if name != "episode_ends"}
    replay.imagination._drawn = lambda *_: (copies, th.arange(1_000), 0.0)
    assert replay.refit().scalars["nearest_ratio"] < 0.01


def test_callback_needs_the_buffer():
    with pytest.raises(TypeError, match="needs a GenerativeReplayBuffer, not ReplayBuffer"):
        model(SAC, ReplayBuffer, {}).learn(10, GenerativeReplayCallback())
