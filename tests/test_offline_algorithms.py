"""What every offline learner has to do; their equations are in tests of their own."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pgr import BC, BCQ, CQL, IQL, TD3BC
from sb3_pgr.common.callbacks import ResumableCheckpoint
from sb3_pgr.common.checkpoint import latest_checkpoint
from sb3_pgr.common.health import DivergedError
from sb3_pgr.offline import DatasetError, load_dataset
from sb3_pgr.offline.off_policy_evaluation import off_policy_scores
from sb3_pgr.offline.signals import saturated_share
from sb3_pgr.offline.spaces_only import SpacesOnly

VALUE_BASED = [TD3BC, IQL, BCQ, CQL]
SMALL = dict(batch_size=32, policy_kwargs=dict(net_arch=[16]), seed=0, device="cpu")
TINY_VAE = dict(net_arch=[16], vae_arch=[16], n_eval_samples=20)


@pytest.fixture
def small(algorithm):
    return SMALL | (dict(policy_kwargs=TINY_VAE) if algorithm is BCQ else {})


every = pytest.mark.parametrize("algorithm", [*VALUE_BASED, BC], ids=lambda algorithm: algorithm.__name__)
value_based = pytest.mark.parametrize("algorithm", VALUE_BASED, ids=lambda algorithm: algorithm.__name__)


def pendulum(n=600, seed=0):
    """Random actions in Pendulum-v1, in units of the environment."""
    env = gym.make("Pendulum-v1")
    env.action_space.seed(seed)
    rows, (obs, _) = [], env.reset(seed=seed)
    for _ in range(n):
        action = env.action_space.sample()
        next_obs, reward, terminated, truncated, _ = env.step(action)
        rows.append((obs, action, reward, next_obs, terminated, truncated))
        obs = env.reset()[0] if truncated else next_obs
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    return {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


@pytest.fixture(scope="module")
def data():
    return pendulum()


def weights(model):
    return th.cat([value.flatten().double() for value in model.policy.state_dict().values()])


@every
def test_learns_without_an_environment(algorithm, data, tmp_path, small):
    model = algorithm("MlpPolicy", dataset=data, **small)
    before = weights(model)
    model.learn(105, CheckpointCallback(50, str(tmp_path)))
    assert (model.num_timesteps, model._n_updates) == (105, 105)  # one timestep is one gradient step
    assert weights(model).isfinite().all() and not th.equal(before, weights(model))
    assert {path.name for path in tmp_path.iterdir()} == {"rl_model_50_steps.zip", "rl_model_100_steps.zip"}
    model.learn(20, reset_num_timesteps=False)
    assert model.num_timesteps == 125


@every
def test_predict_takes_raw_observations(algorithm, data, small):
    """Statistics are the policy's; actions are in units of the environment's space."""
    model = algorithm("MlpPolicy", "Pendulum-v1", dataset=data, normalize_observations=True, **small).learn(40)
    extractor = model.policy.features_extractor
    np.testing.assert_allclose(extractor.mean, data["observations"].mean(0), atol=1e-4)
    np.testing.assert_allclose(extractor.scale, data["observations"].std(0) + 1e-3, rtol=1e-4)
    raw = data["observations"][:7]
    actions, _ = model.predict(raw, deterministic=True)
    by_hand = th.as_tensor((raw - data["observations"].mean(0)) / (data["observations"].std(0) + 1e-3), dtype=th.float32)
    plain = copy.deepcopy(model)
    plain.policy.features_extractor.mean.zero_()
    plain.policy.features_extractor.scale.fill_(1)
    np.testing.assert_allclose(actions, plain.predict(by_hand.numpy(), deterministic=True)[0], atol=1e-4)
    assert np.abs(actions).max() <= 2


@every
def test_a_progress_bar_counts_updates(algorithm, data, small, capsys):
    model = algorithm("MlpPolicy", dataset=data, **small).learn(60, progress_bar=True)
    model.learn(30, progress_bar=True, reset_num_timesteps=False)
    assert model.num_timesteps == 90 and "60/60" in capsys.readouterr().out


@every
def test_save_and_load(algorithm, data, tmp_path, small):
    """The dataset is not in the file; what it said of observations and rewards is."""
    rewards = {} if algorithm is BC else dict(reward_transform="return_range")
    model = algorithm("MlpPolicy", dataset=data, **rewards, **small).learn(60)
    model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").stat().st_size < 300_000
    loaded = algorithm.load(tmp_path / "model.zip")
    assert th.equal(weights(model), weights(loaded)) and loaded.dataset is None
    assert loaded.reward_scale == model.reward_scale and loaded.dataset_fingerprint == model.dataset_fingerprint
    assert (model.reward_scale == 1) == (algorithm is BC)
    np.testing.assert_array_equal(*(m.predict(data["observations"][:5], deterministic=True)[0] for m in (model, loaded)))
    loaded.set_dataset(data)
    loaded.learn(20)


@every
def test_the_file_of_another_algorithm_is_refused(algorithm, data, tmp_path, small):
    (BC if algorithm is TD3BC else TD3BC)("MlpPolicy", dataset=data, **SMALL).save(tmp_path / "other.zip")
    SAC("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "sac.zip")
    for name in ("other", "sac"):
        with pytest.raises(ValueError, match=f"{algorithm.__name__} works with a .*Policy, not with a .*Policy"):
            algorithm.load(tmp_path / f"{name}.zip")


@every
@pytest.mark.parametrize("normalize", [True, False])
def test_resume_is_exact(algorithm, data, tmp_path, normalize, small):
    settings = small | dict(normalize_observations=normalize, block_size=10)

    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps < 95

    whole = algorithm("MlpPolicy", dataset=data, **settings)
    whole.learn(200, ResumableCheckpoint(tmp_path / "whole", 50))
    cut = algorithm("MlpPolicy", dataset=data, **settings)
    cut.learn(200, [ResumableCheckpoint(tmp_path / "cut", 50), Stop()])
    last = latest_checkpoint(tmp_path / "cut")
    assert last.name.endswith("50") and sum(f.stat().st_size for f in last.iterdir()) < 400_000  # without the dataset
    resumed = algorithm("MlpPolicy", dataset=data, **settings)
    checkpoint = ResumableCheckpoint(tmp_path / "cut", 50, resume_from=last)
    checkpoint.restore(resumed)
    resumed.learn(200 - resumed.num_timesteps, checkpoint, reset_num_timesteps=False)
    assert th.equal(weights(whole), weights(resumed)) and not th.equal(weights(whole), weights(cut))


@every
def test_no_episode_ends(algorithm, data, small):
    model = algorithm("MlpPolicy", dataset=data, **small).learn(60, StopTrainingOnMaxEpisodes(1))
    assert model.num_timesteps == 60


@every
def test_stopping_within_a_block(algorithm, data, small):
    """All that was learned is counted, and learning goes on from there."""

    class Stop(BaseCallback):
        def _on_step(self):
            return self.num_timesteps != 7

    model = algorithm("MlpPolicy", dataset=data, block_size=10, **small).learn(40, Stop())
    assert (model.num_timesteps, model._n_updates) == (10, 10)
    model.learn(20, reset_num_timesteps=False)
    assert (model.num_timesteps, model._n_updates) == (30, 30)


class Double(gym.ObservationWrapper):
    """Observations in float64, as MuJoCo's are."""

    observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float64)

    def observation(self, observation):
        return observation.astype(np.float64)


@pytest.fixture
def saved(algorithm, data, small, tmp_path):
    """How a model is loaded from its file, its dataset, and an environment whose observations are of another type."""
    env = Double(gym.make("Pendulum-v1"))
    dataset = load_dataset(data, action_space=env.action_space)
    algorithm("MlpPolicy", dataset=dataset, **small).learn(20).save(tmp_path / "model")
    return lambda **kwargs: algorithm.load(tmp_path / "model", **kwargs), dataset, env


@value_based
@pytest.mark.parametrize("order", ["env, dataset", "dataset, env", "dataset"])
def test_goes_on_online_after_loading(saved, order):
    load, dataset, env = saved
    model = load() if "env" in order else load(env=env)
    for given in order.split(", "):
        model.set_env(env) if given == "env" else model.set_dataset(dataset)
    model.learn(40)
    assert model.replay_buffer.online.size() == 40
    assert {name: part["share"] for name, part in model.replay_buffer.statistics().items()} == {"online": 0.5, "dataset": 0.5}


@value_based
def test_a_missing_dataset_is_said(saved):
    load, _, env = saved
    with pytest.warns(UserWarning, match="not saved with a model"):
        load(env=env).learn(30)
    with pytest.raises(ValueError, match="nothing to learn from"):
        load().learn(10)


@every
def test_loading_with_a_dataset(saved):
    load, dataset, env = saved
    model = load(env=env, dataset=dataset).learn(20)
    assert model.num_timesteps == 20 and model.replay_buffer.online.size() == 0 and model.get_env().num_envs == 1
    other = DummyVecEnv([lambda: SpacesOnly(spaces.Box(-1, 1, (2,)), env.action_space)])
    with pytest.raises(ValueError, match="are not those of the model"):
        load(env=other)


@every
@pytest.mark.parametrize(
    "shapes",
    [dict(speed=(1,), other=(2,)), dict(speed=(2,), angle=(2,)), dict(speed=(1,))],
    ids=["key", "shape", "fewer"],
)
def test_other_observations_are_refused(algorithm, data, small, shapes):
    split = dict(data)
    for name in ("observations", "next_observations"):
        split[name] = {"speed": data[name][:, 2:], "angle": data[name][:, :2]}
    model = algorithm("MultiInputPolicy", dataset=split, **small)
    other = spaces.Dict({key: spaces.Box(-9, 9, shape) for key, shape in shapes.items()})
    with pytest.raises(ValueError, match=r"are not those of the model|datasets alone"):
        model.set_env(DummyVecEnv([lambda: SpacesOnly(other, model.action_space)]))


@value_based
def test_goes_on_online(algorithm, data, small):
    """Half of a batch is live experience, whose rewards go through the dataset's map."""
    model = algorithm("MlpPolicy", "Pendulum-v1", dataset=data, reward_transform=(0.5, 1.0), **small).learn(40)
    model.action_noise = NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))
    env = make_vec_env("Pendulum-v1", 2, seed=0)
    env.action_space = spaces.Box(-2, 2, (1,), np.float64)  # what matters are its bounds
    model.set_env(env)
    model.learn(60, reset_num_timesteps=True)
    replay = model.replay_buffer
    assert replay.online.size() == 30 and model._n_updates > 40
    counts = replay.statistics()
    assert counts["online"]["share"] == counts["dataset"]["share"] == 0.5
    live = replay.online.rewards[:30].flatten()
    assert live.max() <= 1 and live.min() >= 0.5 * -16.3 + 1
    assert model.largest_reward >= float(live.abs().max())  # by which values are judged
    stored = replay.sources["dataset"].rewards[: len(data["rewards"]), 0]
    np.testing.assert_allclose(stored, 0.5 * data["rewards"] + 1, rtol=1e-5, atol=1e-5)


@value_based
def test_online_from_scratch(algorithm, small):
    model = algorithm("MlpPolicy", "Pendulum-v1", learning_starts=40, reward_transform=(0.1, 1.0), **small).learn(80)
    assert model.replay_buffer.online.rewards[:80].max() <= 1 and model.replay_buffer.online.rewards[:80].min() > -0.7


@pytest.mark.parametrize("reset", [True, False])
def test_random_actions_are_the_first_live_ones(data, reset, monkeypatch):
    random = []
    monkeypatch.setattr(spaces.Box, "sample", lambda space: random.append(1) or np.zeros(space.shape, space.dtype))
    model = TD3BC("MlpPolicy", "Pendulum-v1", dataset=data, learning_starts=30, **SMALL).learn(60)
    assert not random
    model.set_env(make_vec_env("Pendulum-v1", 1))
    model.learn(25, reset_num_timesteps=reset)
    model.learn(25, reset_num_timesteps=False)
    assert len(random) == 30


def test_live_rows_alone(data):
    """``online_share=1`` is about what is learned online; before, there is the dataset alone."""
    model = TD3BC("MlpPolicy", "Pendulum-v1", dataset=data, online_share=1.0, learning_starts=20, **SMALL).learn(20)
    model.set_env("Pendulum-v1")
    model.learn(40, reset_num_timesteps=False)
    assert model.replay_buffer.present_shares() == {"online": 1, "dataset": 0}


@value_based
def test_share_of_live_rows_can_be_changed(saved):
    load, dataset, env = saved
    model = load(online_share=0.25)
    model.set_dataset(dataset)
    model.set_env(env)
    model.learn(20)
    assert model.replay_buffer.statistics()["online"]["share"] == 0.25
    model.online_share = 0.75
    model.set_env(env)
    assert model.replay_buffer.statistics()["online"]["share"] == 0.75


@every
def test_what_was_learned_keeps_its_statistics(algorithm, data, small):
    transform = {} if algorithm is BC else dict(reward_transform="return_range")
    model = algorithm("MlpPolicy", dataset=data, **transform, **small).learn(20)
    raw = data["observations"][:5]
    before, scale = model.predict(raw, deterministic=True)[0], model.reward_scale
    other = {name: 0.1 * data[name] + 1 for name in ("observations", "next_observations")}
    model.set_dataset(data | other | {"rewards": 3 * data["rewards"]})
    np.testing.assert_array_equal(model.predict(raw, deterministic=True)[0], before)
    assert model.reward_scale == scale and model.dataset_fingerprint != load_dataset(data).fingerprint


def test_a_reward_map_that_comes_too_late_is_said(data, tmp_path, recwarn):
    TD3BC("MlpPolicy", dataset=data, reward_transform=(2.0, 0.0), **SMALL).learn(20).save(tmp_path / "model.zip")
    TD3BC.load(tmp_path / "model.zip", dataset=data, device="cpu", reward_transform=(2.0, 0.0))
    assert not [w for w in recwarn if "without effect" in str(w.message)]
    with pytest.warns(UserWarning, match=r"return_range is without effect: the model has learned with \(2.0, 0.0\)"):
        model = TD3BC.load(tmp_path / "model.zip", dataset=data, device="cpu", reward_transform="return_range")
    assert model.reward_scale == 2


def test_statistics_that_come_too_late_are_said(data, tmp_path):
    IQL("MlpPolicy", dataset=data, **SMALL).learn(20).save(tmp_path / "model.zip")
    with pytest.warns(UserWarning, match="normalize_observations=True is without effect: the model has learned with False"):
        IQL.load(tmp_path / "model.zip", dataset=data, device="cpu", normalize_observations=True)


@value_based
def test_live_experience_is_saved_without_the_dataset(algorithm, data, small, tmp_path):
    model = algorithm("MlpPolicy", "Pendulum-v1", dataset=data, **small).learn(20)
    model.set_env(make_vec_env("Pendulum-v1", 1, seed=0))
    model.learn(30)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "live")
    loaded = algorithm.load(tmp_path / "model", env=gym.make("Pendulum-v1"))
    loaded.set_dataset(data | {"rewards": data["rewards"] + 100})
    loaded.load_replay_buffer(tmp_path / "live")
    sizes = {name: part["size"] for name, part in loaded.replay_buffer.statistics().items()}
    assert sizes == {"online": 30, "dataset": 600} and loaded.replay_buffer.sources["dataset"].rewards.mean() > 50
    assert th.equal(loaded.replay_buffer.online.observations[:30], model.replay_buffer.online.observations[:30])
    loaded.learn(10)
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=50).save_replay_buffer(tmp_path / "other")
    with pytest.raises(ValueError, match="holds a ReplayBuffer of 1 environments, not a TensorReplayBuffer of 1"):
        loaded.load_replay_buffer(tmp_path / "other")


@value_based
def test_phases_online(algorithm, data, small):
    """Each begins with a reset: what ran before is cut off. There may be fewer environments than the model was built with."""
    model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 4), dataset=data, **small).learn(20)
    model.set_env(make_vec_env("Pendulum-v1", 1))
    online = model.learn(30).replay_buffer.online
    assert online.n_envs == 1 and online.size() == 30 and online.timeouts[29] == 0
    model.learn(30)
    assert online.dones[29] == online.timeouts[29] == 1 and online.dones[:29].sum() == 0


@value_based
def test_loaded_for_fewer_environments(algorithm, data, small, tmp_path):
    algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 4), dataset=data, **small).learn(20).save(tmp_path / "model")
    model = algorithm.load(tmp_path / "model", dataset=data).learn(20)
    model.set_env(gym.make("Pendulum-v1"))
    assert model.learn(10).replay_buffer.online.size() == 10


@value_based
def test_loaded_for_as_many_environments_as_before(algorithm, data, small, tmp_path):
    """Learning offline in between, which takes place in one stand-in; noise is of as many as there are."""
    noise = NormalActionNoise(np.zeros(1), np.ones(1))
    model = algorithm("MlpPolicy", make_vec_env("Pendulum-v1", 3), dataset=data, action_noise=noise, **small).learn(20)
    model.set_env(make_vec_env("Pendulum-v1", 3))
    model.learn(30).save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", dataset=data, device="cpu").learn(20)
    again.set_env(make_vec_env("Pendulum-v1", 3))
    assert again.learn(30).replay_buffer.online.size() == 10
    fewer = algorithm.load(tmp_path / "model", env=make_vec_env("Pendulum-v1", 2), device="cpu")
    assert fewer.learn(30).replay_buffer.online.size() == 15 and fewer.action_noise.n_envs == 2


@value_based
def test_loaded_models_seed_their_environment(algorithm, data, small, tmp_path):
    algorithm("MlpPolicy", "Pendulum-v1", dataset=data, **small).learn(20).save(tmp_path / "model")
    live = []
    for seed in (0, 0, 1):
        model = algorithm.load(tmp_path / "model", env=gym.make("Pendulum-v1"), device="cpu", seed=seed, learning_starts=10)
        online = model.learn(20).replay_buffer.online
        live.append(online.rows(th.arange(20)))
    assert th.equal(live[0].observations, live[1].observations) and th.equal(live[0].actions, live[1].actions)
    assert not th.equal(live[0].observations[0], live[2].observations[0])
    assert not th.equal(live[0].actions[0], live[2].actions[0])


def test_actions_of_whole_numbers():
    """Stored in [-1, 1] as others are."""
    space = spaces.Box(-3, 3, (2,), np.int32)
    env = SpacesOnly(spaces.Box(-1, 1, (3,)), space)
    rows = {name: np.zeros((40, 3), np.float32) for name in ("observations", "next_observations")}
    rows |= {"actions": np.full((40, 2), 2), "rewards": np.zeros(40), "terminals": np.arange(40) == 39}
    stored = BC("MlpPolicy", env, dataset=rows, device="cpu").replay_buffer.sources["dataset"].actions
    np.testing.assert_allclose(stored[:40], 2 / 3, rtol=1e-6)


@every
def test_timesteps_may_be_a_float(algorithm, data, small):
    assert algorithm("MlpPolicy", dataset=data, block_size=30, **small).learn(1e2)._n_updates == 100


@every
def test_wide_observations_need_no_room_for_live_experience(algorithm, data, small):
    wide = {name: np.zeros((600, 50_000), np.float32) for name in ("observations", "next_observations")}
    room = {} if algorithm is BC else dict(buffer_size=1)
    assert algorithm("MlpPolicy", dataset=data | wide, **room, **small).replay_buffer.online.buffer_size == 1


@every
def test_one_number_each(algorithm, data, small):
    narrow = {name: data[name][:, 0] for name in ("observations", "next_observations")}
    model = algorithm("MlpPolicy", dataset=data | narrow | {"actions": data["actions"][:, 0]}, **small).learn(20)
    assert model.observation_space.shape == model.action_space.shape == (1,)


@every
def test_bounds_of_actions_may_be_float64(algorithm, data, small):
    space = spaces.Box(-2.0, 2.0, (1,), np.float64)
    dataset = load_dataset(data, action_space=space)
    assert dataset.actions.dtype == np.float32
    assert dataset.fingerprint == load_dataset(data, action_space=spaces.Box(-2.0, 2.0, (1,))).fingerprint
    assert np.isfinite(
        list(off_policy_scores(algorithm("MlpPolicy", dataset=dataset, **small).learn(20), dataset).values())
    ).all()


@every
def test_dict_observations(algorithm, data, small):
    split = dict(data)
    for name in ("observations", "next_observations"):
        split[name] = {"speed": data[name][:, 2:], "angle": data[name][:, :2]}  # not in the order of the space
    model = algorithm("MultiInputPolicy", dataset=split, **small).learn(20)
    one = algorithm("MlpPolicy", dataset=data, **small).learn(20)
    batch = {"angle": data["observations"][:4, :2], "speed": data["observations"][:4, 2:]}
    np.testing.assert_allclose(
        model.predict(batch, deterministic=True)[0], one.predict(data["observations"][:4], deterministic=True)[0], atol=1e-5
    )


@every
def test_evaluation_in_an_environment(algorithm, data, tmp_path, small):
    evaluate = EvalCallback(make_vec_env("Pendulum-v1", 1), n_eval_episodes=1, eval_freq=40, log_path=str(tmp_path), verbose=0)
    algorithm("MlpPolicy", "Pendulum-v1", dataset=data, **small).learn(80, evaluate)
    assert np.load(tmp_path / "evaluations.npz")["timesteps"].tolist() == [40, 80]


@every
def test_time_limits_are_no_terminations(algorithm, data, small):
    model = algorithm("MlpPolicy", dataset=data, **small)
    rows = model.replay_buffer.sources["dataset"].rows(th.arange(len(data["rewards"])))
    assert data["timeouts"].sum() == 3 and rows.dones.sum() == 0


class Learned(FlattenExtractor):
    def __init__(self, space):
        super().__init__(space)
        self.weight = th.nn.Parameter(th.ones(1))


FLAT = dict(features_extractor_class=FlattenExtractor)
IMAGES = {name: np.zeros((600, 3, 36, 36), np.uint8) for name in ("observations", "next_observations")}


@every
def test_refusals(algorithm, data, small):
    for kwargs, error, message in (
        (dict(), ValueError, "needs a dataset"),
        (dict(dataset=data, env="CartPole-v1"), DatasetError, "do not fit"),
        (dict(dataset=data, batch_size=0), ValueError, "batch_size=0"),
        (dict(dataset=data | IMAGES), ValueError, "observations are Box.*uint8"),
        (dict(dataset=data, policy_kwargs=dict(features_extractor_class=Learned)), ValueError, "Learned has weights"),
        (dict(dataset=data, normalize_observations=True, policy_kwargs=FLAT), ValueError, "cannot standardise"),
        (dict(dataset=data, env=VecNormalize(make_vec_env("Pendulum-v1", 1))), ValueError, "take VecNormalize away"),
    ):
        with pytest.raises(error, match=message):
            algorithm("MlpPolicy", **(small | kwargs))
    for kwargs in (dict(batch_size=1.5), dict(block_size=0), dict(policy_kwargs=small["policy_kwargs"] | dict(n_critics=0))):
        with pytest.raises(ValueError, match="must be a whole number of at least 1"):
            algorithm("MlpPolicy", dataset=data, **(small | kwargs))
    model = algorithm("MlpPolicy", dataset=data, **small)
    wide = ReplayBuffer(600, spaces.Box(-9, 9, (3,)), spaces.Box(-30, 30, (1,)), handle_timeout_termination=False)
    for sign in (-1, 1):
        wide.add(np.zeros((1, 3)), np.zeros((1, 3)), np.full((1, 1), sign), np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(DatasetError, match="actions lie outside"):
        model.set_dataset(wide)
    with pytest.raises(DatasetError, match="do not fit"):
        model.set_dataset(data | {name: np.zeros((600, 4)) for name in ("observations", "next_observations")})
    with pytest.raises(ValueError, match=r"give the environment when the model is built|datasets alone"):
        model.set_env(make_vec_env("MountainCarContinuous-v0", 1))


@value_based
def test_refusals_of_value_based_ones(algorithm, data, small):
    for kwargs, error, message in (
        (dict(dataset=data, online_share=1.5), ValueError, "online_share=1.5"),
        (dict(dataset=data, gamma=1.5), ValueError, "gamma=1.5"),
        (dict(dataset=data, tau=3), ValueError, "tau=3"),
        (dict(env="Pendulum-v1", reward_transform="return_range"), ValueError, "without a dataset give"),
        (dict(env="Pendulum-v1", reward_transform="return_rnage"), ValueError, "must be 'none'"),
        (dict(dataset=data, reward_transform="big"), ValueError, "reward_transform='big'"),
        (dict(dataset=data | {"rewards": np.zeros(600)}, reward_transform="return_range"), DatasetError, "the same return"),
    ):
        with pytest.raises(error, match=message):
            algorithm("MlpPolicy", **(small | kwargs))


@pytest.mark.parametrize("gaussian", [False, True])
def test_bc_imitates(gaussian):
    """Actions that are a function of the observation are learned."""
    random = np.random.default_rng(0)
    obs = random.normal(size=(500, 2))
    data = {
        "observations": obs,
        "next_observations": obs,
        "actions": np.tanh(obs[:, :1]),
        "rewards": np.zeros(500),
        "terminals": np.ones(500),
    }
    kwargs = dict(net_arch=[32], gaussian=gaussian)
    model = BC("MlpPolicy", dataset=data, learning_rate=3e-3, policy_kwargs=kwargs, seed=0).learn(800)
    assert np.abs(model.predict(obs.astype(np.float32), deterministic=True)[0] - np.tanh(obs[:, :1])).mean() < 0.1
    drawn = model.predict(obs[:50].astype(np.float32), deterministic=False)[0]
    again = model.predict(obs[:50].astype(np.float32), deterministic=False)[0]
    assert np.array_equal(drawn, again) != gaussian


def test_bc_of_the_best_episodes(data):
    model = BC("MlpPolicy", dataset=data, best_fraction=0.34, **SMALL)
    whole = load_dataset(data)
    best = int(whole.episode_returns.argmax())
    kept = model.replay_buffer.sources["dataset"]
    assert kept.size() == whole.episode_lengths[best]
    np.testing.assert_allclose(kept.rewards[: kept.size(), 0].sum(), whole.episode_returns[best], rtol=1e-4)
    assert len(model.dataset) == len(whole) and model.dataset_fingerprint == whole.fingerprint  # what it is judged by
    with pytest.raises(ValueError, match="best_fraction=0 must be above 0"):
        BC("MlpPolicy", dataset=data, best_fraction=0, **SMALL)


@every
def test_the_same_dataset_in_any_form(algorithm, data, small):
    first = algorithm("MlpPolicy", dataset=data, **small).learn(30)
    second = algorithm("MlpPolicy", dataset=load_dataset(data), **small).learn(30)
    assert th.equal(weights(first), weights(second)) and first.dataset_fingerprint == second.dataset_fingerprint


def test_divergence_is_said_once_and_nan_stops(data, recwarn):
    model = TD3BC("MlpPolicy", "Pendulum-v1", dataset=data, policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu")
    model.learn(40)
    assert not [w for w in recwarn if "values diverge" in str(w.message)]
    assert model.value_bound == pytest.approx(np.abs(data["rewards"]).max() / (1 - model.gamma), rel=1e-5)
    model.largest_reward = 1e-5
    with pytest.warns(UserWarning, match=r"no policy can earn more than 0\.001") as seen:
        model.learn(80)
    assert len(seen) == 1
    model.replay_buffer.sources["dataset"].rewards[:] = float("nan")
    online = copy.deepcopy(model)
    online.set_env(make_vec_env("Pendulum-v1", 1))
    for learner in (model, online):
        with pytest.raises(DivergedError, match="critic_loss"):
            learner.learn(20)


def test_saturated_actions_are_logged(data, tmp_path):
    model = BC("MlpPolicy", dataset=data, policy_kwargs=dict(net_arch=[8]), seed=0, device="cpu")
    assert saturated_share(model.policy, model.dataset) == 0
    with th.no_grad():
        list(model.policy.actor.mu.parameters())[-1].fill_(50.0)
    assert saturated_share(model.policy, model.dataset) == 1
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(20, log_interval=10)
    assert "train/saturated_actions" in (tmp_path / "progress.csv").read_text()


@pytest.mark.parametrize(
    ("algorithm", "kwargs"),
    [
        (TD3BC, dict(gamma=2.0)),
        (TD3BC, dict(tau=5.0)),
        (TD3BC, dict(online_share=-1)),
        (TD3BC, dict(alpha=-1.0)),
        (TD3BC, dict(policy_delay=0)),
        (TD3BC, dict(policy_delay=1.5)),
        (TD3BC, dict(target_policy_noise=-1)),
        (IQL, dict(expectile=2.0)),
        (CQL, dict(n_actions=2.5)),
        (BCQ, dict(lmbda=3)),
        (BCQ, dict(n_target_samples=0)),
        (BC, dict(best_fraction=0)),
    ],
    ids=str,
)
def test_arguments_are_checked_when_built_and_when_loaded(algorithm, kwargs, data, tmp_path):
    small = SMALL | (dict(policy_kwargs=TINY_VAE) if algorithm is BCQ else {})
    (name, value), *_ = kwargs.items()
    with pytest.raises(ValueError, match=f"{name}={value}"):
        algorithm("MlpPolicy", dataset=data, **small, **kwargs)
    algorithm("MlpPolicy", dataset=data, **small).save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"{name}={value}"):
        algorithm.load(tmp_path / "model", **kwargs)


def test_bound_of_values_is_of_mapped_rewards():
    data = pendulum()
    model = IQL("MlpPolicy", dataset=data, reward_transform=(10.0, 1.0), **SMALL)
    largest = np.abs(10 * np.asarray(data["rewards"]) + 1).max()
    assert model.value_bound == pytest.approx(largest / (1 - model.gamma), rel=1e-5)
    model.learn(20)
    assert not model.policy.training
