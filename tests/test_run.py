"""Every algorithm runs, saves, loads and repeats itself."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import CombinedExtractor
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import REDQ, MixtureReplayBuffer, TensorReplayBuffer
from sb3_pgr.common.ensembles import EnsembleLinear
from sb3_pgr.common.health import NonFiniteTransitionError
from sb3_pgr.common.networks import RunningNorm
from sb3_pgr.offline.spaces_only import SpacesOnly

SMALL = dict(net_arch=[16, 16])
CONFIGURATIONS = {
    "redq": dict(policy_kwargs=SMALL),
    "droq": dict(n_critics=2, policy_kwargs=SMALL | dict(layer_norm=True, dropout_rate=0.01)),
    "mean": dict(target_mode="mean", policy_kwargs=SMALL),
    "simba": dict(
        policy="SimbaPolicy", policy_kwargs=dict(actor_hidden_dim=16, critic_hidden_dim=16, actor_average=0.1), n_critics=2
    ),
    "normalized": dict(policy_kwargs=SMALL | dict(layer_norm=True, normalize_observations=True)),
    "averaged": dict(policy_kwargs=SMALL | dict(normalize_observations=True, actor_average=0.1)),
    "bf16": dict(precision="bf16", policy_kwargs=SMALL),
    "fixed_entropy": dict(ent_coef=0.1, policy_kwargs=SMALL),
    "tanh": dict(policy_kwargs=dict(net_arch=dict(pi=[8], qf=[16, 8]), activation_fn=th.nn.Tanh)),
}


def build(name, env="Pendulum-v1", **kwargs):
    options = {"policy": "MlpPolicy", "n_critics": 4} | CONFIGURATIONS[name] | kwargs
    return REDQ(env=env, learning_starts=50, gradient_steps=2, policy_delay=2, buffer_size=1_000, **options)


def parameters(model):
    return {name: value.clone() for name, value in model.policy.state_dict().items()}


@pytest.fixture(params=CONFIGURATIONS)
def name(request):
    return request.param


def test_learns_saves_and_loads(name, tmp_path):
    model = build(name, seed=0).learn(120)
    assert model._n_updates == 140
    model.save(tmp_path / "model.zip")
    loaded = REDQ.load(tmp_path / "model.zip", env=model.get_env())
    obs = model.observation_space.sample()
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    before, after = parameters(model), parameters(loaded)
    assert before.keys() == after.keys() and all(th.equal(before[key], after[key]) for key in before)
    loaded.learn(20, reset_num_timesteps=False)


def test_same_seed_same_result(name):
    runs = [parameters(build(name, seed=seed).learn(100)) for seed in (1, 1, 2)]
    assert all(th.equal(runs[0][key], runs[1][key]) for key in runs[0])
    assert not all(th.equal(runs[0][key], runs[2][key]) for key in runs[0])


def test_several_environments_and_normalisation(name):
    env = VecNormalize(make_vec_env("Pendulum-v1", n_envs=3))
    model = build(name, env, train_freq=2)
    model.gradient_steps = -1
    model.learn(120)
    assert model._n_updates == 120 - 48  # as many updates as transitions, from the rollout that exceeds 50 on


@pytest.mark.parametrize("buffer_class", [ReplayBuffer, TensorReplayBuffer])
def test_any_replay_buffer(buffer_class):
    build("redq", replay_buffer_class=buffer_class).learn(80)


def test_dict_observations():
    class DictEnv(gym.Env):
        observation_space = gym.spaces.Dict({"a": gym.spaces.Box(-1, 1, (3,)), "b": gym.spaces.Box(-1, 1, (2,))})
        action_space = gym.spaces.Box(-2, 2, (1,))

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    model = build("redq", DictEnv(), policy="MultiInputPolicy").learn(80)
    assert isinstance(model.replay_buffer, TensorReplayBuffer)


def test_images():
    env = FakeImageEnv(screen_height=36, screen_width=36, n_channels=1, discrete=False)
    model = build("redq", env, policy="CnnPolicy", batch_size=4)
    model.learn(55)
    assert model.replay_buffer.observations.dtype == th.uint8


def test_user_dictionaries_are_left_alone():
    policy_kwargs, buffer_kwargs = dict(net_arch=[8]), {}
    REDQ("MlpPolicy", "Pendulum-v1", policy_kwargs=policy_kwargs, replay_buffer_kwargs=buffer_kwargs, buffer_size=10)
    assert policy_kwargs == dict(net_arch=[8])


@pytest.mark.parametrize(
    "kwargs, message",
    [
        (dict(n_target_critics=11), "n_target_critics=11 must be between 1 and n_critics=10"),
        (dict(n_target_critics=0), "n_target_critics=0"),
        (dict(n_critics=2, n_target_critics=1.5), r"n_target_critics=1\.5 must be a whole number"),
        (dict(target_mode="median"), "target_mode='median' is not known; choose one of min, mean"),
        (dict(precision="fp16"), "precision='fp16' is not known; choose one of fp32, bf16"),
        (dict(policy_kwargs=dict(n_critics=2)), "n_critics is an argument of REDQ itself"),
        (dict(batch_size=-5), "batch_size=-5 must be a whole number"),
        (dict(policy_delay=0), "policy_delay=0 must be a whole number"),
        (dict(cuda_graph=True, device="cpu"), "cuda_graph=True needs a CUDA device"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        REDQ("MlpPolicy", "Pendulum-v1", buffer_size=10, **kwargs)


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(n_critics=2), "n_critics=2: the saved model has 4 critics"),
        (dict(n_critics=8), "n_critics=8: the saved model has 4 critics"),
        (dict(n_target_critics=20), "n_target_critics=20 must be between 1 and n_critics=4"),
        (dict(target_mode="median"), "target_mode='median' is not known"),
        (dict(policy_delay=0), "policy_delay=0 must be a whole number"),
    ],
)
def test_bad_arguments_of_load(changed, message, tmp_path):
    build("redq").save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match=message):
        REDQ.load(tmp_path / "model.zip", env=make_vec_env("Pendulum-v1"), **changed)


def test_a_replay_buffer_of_another_discount(tmp_path):
    build("redq", replay_buffer_kwargs=dict(n_steps=3)).save_replay_buffer(tmp_path / "buffer.pkl")
    build("redq", replay_buffer_kwargs=dict(n_steps=3)).load_replay_buffer(tmp_path / "buffer.pkl")
    with pytest.raises(ValueError, match=r"discounted by 0\.99, the model has gamma=0\.5"):
        build("redq", gamma=0.5).load_replay_buffer(tmp_path / "buffer.pkl")


def test_long_blocks_are_drawn_in_parts(monkeypatch):
    """Whole episodes of images would not fit into memory; the number of updates stays."""
    drawn, sample_block = [], TensorReplayBuffer.sample_block

    def spy(buffer, gradient_steps, *args):
        drawn.append(gradient_steps)
        return sample_block(buffer, gradient_steps, *args)

    monkeypatch.setattr(TensorReplayBuffer, "sample_block", spy)
    model = REDQ(
        "MlpPolicy", "Pendulum-v1", learning_starts=0, train_freq=(1, "episode"), gradient_steps=-1, policy_kwargs=SMALL
    )
    model.learn(200)
    assert drawn == [100, 100] and model._n_updates == 200


class Poisoned(gym.Wrapper):
    """Pendulum that returns a bad number at one step."""

    def __init__(self, env, field, value):
        super().__init__(env)
        self.field, self.value, self.steps = field, value, 0

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.steps == 60:
            if self.field == "reward":
                reward = self.value
            else:
                obs = obs.copy()
                obs[1] = self.value
        return obs, reward, terminated, truncated, info


@pytest.mark.parametrize("field", ["observation", "reward"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_number_stops_training(field, value):
    model = build("redq", Poisoned(gym.make("Pendulum-v1"), field, value))
    with pytest.raises(NonFiniteTransitionError, match=rf"Step 60: environment 0 returned {value} in its {field}"):
        model.learn(200)
    assert model.replay_buffer.size() == 59
    assert all(value.isfinite().all() for value in parameters(model).values())


def test_bad_last_observation_stops_training():
    """When an episode ends, the observation that SB3 hands on is already that of the next one."""

    class Falls(gym.Wrapper):
        steps = 0

        def step(self, action):
            obs, reward, _, truncated, info = self.env.step(action)
            self.steps += 1
            return (obs * np.nan if self.steps == 60 else obs), reward, self.steps == 60, truncated, info

    with pytest.raises(NonFiniteTransitionError, match="Step 60: environment 0 returned nan in the last observation"):
        build("redq", Falls(gym.make("Pendulum-v1"))).learn(200)


def test_running_norm_equals_batch_statistics():
    data = th.randn(1000, 4) * th.tensor([1.0, 5.0, 0.1, 100.0]) + th.tensor([0.0, 3.0, -7.0, 1000.0])
    norm = RunningNorm(4)
    for chunk in data.split(7):
        norm.update(chunk)
    th.testing.assert_close(norm.mean, data.double().mean(0), rtol=1e-4, atol=1e-4)
    th.testing.assert_close(norm.var, data.double().var(0, correction=0), rtol=1e-3, atol=1e-4)
    assert norm.count == pytest.approx(1000, abs=1e-3)


def test_running_norm_of_many_rows_still_moves():
    """A step changes this mean by a millionth, which float32 does not show next to 1 000."""
    old, new = 1_000 + th.randn(1_000_000, 1), th.full((1_000, 1), 1_001.0)
    norm = RunningNorm(1)
    norm.update(old)
    for row in new.split(1):
        norm.update(row)
    data = th.cat([old, new]).double()
    th.testing.assert_close(norm.mean, data.mean(0), rtol=1e-9, atol=0)
    th.testing.assert_close(norm.var, data.var(0, correction=0), rtol=1e-3, atol=0)
    assert norm(new).dtype == th.float32


def test_running_norm_where_there_is_no_float64(monkeypatch):
    norm = RunningNorm(3)
    norm.update(th.randn(10, 3))
    mean = norm.mean
    monkeypatch.setattr("sb3_pgr.common.networks.widest_float", lambda device: th.float32)
    norm.to("cpu")
    assert {value.dtype for value in norm.buffers()} == {th.float32} and th.equal(norm.mean, mean.float())
    norm.update(th.randn(10, 3))
    assert norm.count == pytest.approx(20, abs=1e-3)


def test_running_norm_of_what_has_hardly_moved():
    """One observation alone has a deviation, and a flag that was 0 for long is seen as 10 when it rises."""
    norm = RunningNorm(2)
    norm.update(th.tensor([[0.0, 5.0]]))
    assert norm(th.tensor([[0.0, 5.0]])).abs().max() < 0.1
    norm.update(th.zeros(100_000, 2))
    norm.update(th.tensor([[1.0, 0.0]]))
    th.testing.assert_close(norm(th.tensor([[1.0, 0.0]])), th.tensor([[10.0, 0.0]]), atol=0.01, rtol=0)


@pytest.mark.parametrize("name", ["simba", "normalized"])
def test_networks_share_one_set_of_statistics(name):
    model = build(name).learn(80)
    norms = [
        model.policy.observation_norm,
        *(network.features_extractor.observation_norm for network in (model.actor, model.critic, model.critic_target)),
    ]
    assert all(norm is norms[0] for norm in norms)
    assert norms[0].count == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize("name", ["simba", "normalized", "averaged"])
def test_new_statistics_do_not_undo_what_was_learned(name):
    """A robot falls and a number leaves its range: networks answer as before, once they have learned."""
    model = build(name).learn(80)
    policy, width = model.policy, model.observation_space.shape[0]
    policy.set_training_mode(False)
    policy.observe(th.randn(5_000, width), learning=False)
    obs, actions = th.randn(50, width), 2 * th.rand(50, *model.action_space.shape) - 1

    def answers():
        critics = (critic.q_values(obs, actions) for critic in (policy.critic, policy.critic_target))
        with th.no_grad():
            return [policy.actor(obs, deterministic=True), policy._predict(obs, deterministic=True), *critics]

    fallen, std = th.tensor([[40.0] + [0.0] * (width - 1)]), policy.observation_norm.std[0]
    before = answers()
    for _ in range(100):
        policy.observe(fallen, learning=True)
    assert policy.observation_norm.std[0] > 5 * std
    for ours, theirs in zip(answers(), before, strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    policy.observe(50 * fallen.expand(100, -1), learning=False)
    assert all((ours - theirs).abs().max() > 1e-2 for ours, theirs in zip(answers(), before, strict=True))


@pytest.mark.parametrize("n, height", [(1_000, 1.0), (5_000, 100.0), (100_000, 1.0)])
def test_a_flag_that_rises_after_long_does_not_drown_the_others(n, height):
    norm, layer = RunningNorm(2), EnsembleLinear(3, 2, 4)
    usual = th.cat([th.zeros(50, 1), th.randn(50, 1)], 1)
    norm.update(th.cat([th.zeros(n, 1), th.randn(n, 1)], 1))
    before, size = layer(norm(usual)), layer.weight[:, 1].norm(dim=1).max()
    risen = th.tensor([[height, 0.0]])
    norm.update_under(risen, [layer])
    th.testing.assert_close(layer(norm(usual)), before, rtol=1e-3, atol=1e-3)
    for _ in range(1_000):
        norm.update_under(risen, [layer])
    assert layer.weight[:, 0].norm(dim=1).max() < 25 * size
    assert norm(risen)[0, 0] < 10.001 and layer(norm(risen)).abs().max() < 25 * 10 * 2 * size


def test_policies_without_hidden_layers_read_observations_too():
    networks = dict(net_arch=dict(pi=[], qf=[]), normalize_observations=True)
    policy = REDQ("MlpPolicy", "Pendulum-v1", policy_kwargs=networks, device="cpu").policy
    layers = policy.input_layers()
    assert layers[:2] == [policy.actor.mu, policy.actor.log_std] and [layer.weight.shape[-2] for layer in layers[2:]] == [4, 4]


def test_statistics_move_alone_until_learning_begins(monkeypatch):
    moved = []
    monkeypatch.setattr(RunningNorm, "update_under", lambda norm, obs, layers: moved.append(len(layers)) or norm.update(obs))
    model = build("normalized").learn(80)
    assert moved == [3] * (80 - model.learning_starts - 1)
    assert model.policy.observation_norm.count == pytest.approx(80, abs=1e-3)


@pytest.mark.parametrize("policy, space, kwargs, message", [
    ("MlpPolicy", spaces.Box(-1, 1, (2, 2)), {}, "flat Box"),
    ("MlpPolicy", spaces.Discrete(3), {}, "flat Box"),
    ("MultiInputPolicy", spaces.Dict(a=spaces.Box(-1, 1, (2,))), {}, "flat Box"),
    ("MlpPolicy", spaces.Box(-1, 1, (2,)), dict(features_extractor_class=CombinedExtractor), "features extractor"),
])  # fmt: skip
def test_observations_that_are_not_normalised(policy, space, kwargs, message):
    with pytest.raises(ValueError, match=message):
        REDQ(policy, SpacesOnly(space, spaces.Box(-1, 1, (1,))), policy_kwargs=dict(normalize_observations=True, **kwargs))


def test_learns_a_real_task():
    """REDQ stands the pendulum up within 2 500 steps; a random policy has about -1 200, SAC needs twice as long."""
    model = REDQ(
        "MlpPolicy", "Pendulum-v1", learning_starts=200, gradient_steps=4, policy_delay=4, learning_rate=3e-3, n_critics=4,
        policy_kwargs=dict(net_arch=[64, 64]), seed=0, buffer_size=5_000,
    )  # fmt: skip
    model.learn(2_500)
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gym.make("Pendulum-v1"))
    env.reset(seed=100)
    mean_return, _ = evaluate_policy(model, env, n_eval_episodes=10)
    assert mean_return > -300


def test_is_a_sac():
    """Code written for SAC keeps working."""
    model = build("redq")
    assert isinstance(model, SAC)
    q_values = model.critic(th.zeros(1, 3), th.zeros(1, 1))
    assert len(q_values) == 4 and q_values[0].shape == (1, 1)


def test_n_step_returns_follow_the_models_discount_and_its_episodes():
    n_steps = dict(n_steps=3)
    model = REDQ("MlpPolicy", "Pendulum-v1", gamma=0.8, replay_buffer_kwargs=n_steps, learning_starts=1_000, device="cpu")
    model.learn(10)
    model.learn(10)  # the environment was reset, ten steps into its episode
    rows = model.replay_buffer.rows(th.tensor([0, 9]))
    assert rows.discounts.flatten().tolist() == pytest.approx([0.8**3, 0.8])
    assert model.replay_buffer.timeouts[9] == 1
    with pytest.raises(ValueError, match=r"gamma=0\.8"):
        REDQ("MlpPolicy", "Pendulum-v1", gamma=0.8, replay_buffer_kwargs=n_steps | dict(gamma=0.9), device="cpu")
    mixture = dict(replay_buffer_class=MixtureReplayBuffer, device="cpu", gamma=0.8)
    kwargs = dict(shares={"online": 1, "demos": 1}, online_kwargs=n_steps | dict(gamma=0.8))
    with pytest.raises(ValueError, match=r"discounted by 0\.99, the model has gamma=0\.8"):  # the demonstrations' rows
        REDQ("MlpPolicy", "Pendulum-v1", replay_buffer_kwargs=kwargs, **mixture)
    REDQ("MlpPolicy", "Pendulum-v1", replay_buffer_kwargs=kwargs | dict(gamma=0.8), **mixture)


def test_a_refused_replay_buffer_leaves_the_own_one(tmp_path):
    build("redq", replay_buffer_kwargs=dict(n_steps=3)).save_replay_buffer(tmp_path / "replay.pkl")
    model = build("redq", gamma=0.5)
    own = model.replay_buffer
    with pytest.raises(ValueError, match="discounted"):
        model.load_replay_buffer(tmp_path / "replay.pkl")
    assert model.replay_buffer is own
