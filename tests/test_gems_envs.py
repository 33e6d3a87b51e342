"""GeMS as Gymnasium and SB3 environments."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check
from sb3_pgr.envs import list_env_ids, sb3_vec_env
from sb3_pgr.envs.gems.env import GemsEnv
from sb3_pgr.envs.gems.vector import GemsVecEnv
from stable_baselines3.common.env_checker import check_env as sb3_check
from stable_baselines3.common.monitor import Monitor

IDS = [env_id for env_id in list_env_ids() if env_id.startswith("gems/") and "_latent" not in env_id]


def test_six_worlds():
    assert len(IDS) == 6 and all(env_id.replace("-v0", "_latent-v0") in list_env_ids() for env_id in IDS)
    prints = {env_id: gym.make(env_id).unwrapped.engine.items.fingerprint for env_id in IDS}
    assert len(set(prints.values())) == 2  # focused and diffuse
    assert gym.make("gems/focused_divpen-v0").unwrapped.engine.config.diversity_penalty == 3


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.filterwarnings("ignore:.*")
def test_checkers(env_id):
    gymnasium_check(gym.make(env_id).unwrapped, skip_render_check=True)
    sb3_check(gym.make(env_id).unwrapped)


def episode(env, seed, n=100):
    obs, _ = env.reset(seed=seed)
    actions = np.random.default_rng(1).integers(1000, size=(n, 10))
    rows = [obs]
    rewards = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        rows.append(obs)
        rewards.append(reward)
    return rows, rewards, terminated, truncated, actions


def test_episodes_end_by_time_and_repeat():
    env = gym.make("gems/focused_mix-v0")
    rows, rewards, terminated, truncated, actions = episode(env, 3)
    assert truncated and not terminated and sum(rewards) > 5
    np.testing.assert_array_equal(rows[5]["slate"], actions[4])
    assert rewards[4] == rows[5]["clicks"].sum()
    assert episode(env, 3)[1] == rewards != episode(env, 4)[1]
    env.reset()  # the next episode of seed 4 is another one
    assert [env.step(action)[1] for action in actions] != episode(env, 4)[1]


def test_vector_environment_equals_single_ones():
    vector = gym.make_vec("gems/diffuse_divpen-v0", num_envs=3, vectorization_mode="vector_entry_point")
    singles = [gym.make("gems/diffuse_divpen-v0") for _ in range(3)]
    obs, _ = vector.reset(seed=11)
    alone = [env.reset(seed=11 + i)[0] for i, env in enumerate(singles)]
    actions = np.random.default_rng(0).integers(1000, size=(130, 3, 10))
    for step, action in enumerate(actions):
        for i in range(3):
            np.testing.assert_array_equal(obs["slate"][i], alone[i]["slate"])
            np.testing.assert_array_equal(obs["clicks"][i], alone[i]["clicks"])
        obs, rewards, terminated, truncated, info = vector.step(action)
        assert not terminated.any() and truncated.all() == (step == 99)
        for i, env in enumerate(singles):
            alone[i], reward, _, over, _ = env.step(action[i])
            assert reward == rewards[i]
            if over:
                np.testing.assert_array_equal(info["final_obs"][i]["clicks"], alone[i]["clicks"])
                alone[i], _ = env.reset()


def test_seeds_of_vector_environments():
    vector = gym.make_vec("gems/focused_topdown-v0", num_envs=3, vectorization_mode="vector_entry_point")
    slates = np.tile(np.arange(10), (3, 1))

    def clicks(seed):
        vector.reset(seed=seed)
        return np.sum([vector.step(slates)[1] for _ in range(30)], 0)

    alone = clicks(7)
    np.testing.assert_array_equal(clicks([7, 8, 9]), alone)
    np.testing.assert_array_equal(clicks(np.int64(7)), alone)
    assert clicks([9, None, 7])[0] == alone[2]
    with pytest.raises(ValueError, match="2 seeds for 3"):
        vector.reset(seed=[1, 2])
    for seed in (2**63 - 2, [-1, 0, 1], [0, 1, 2**64 + 5]):
        with pytest.raises(ValueError, match="Seeds must lie"):
            vector.reset(seed=seed)
    with pytest.raises(ValueError, match="reset_mask"):
        vector.reset(options={"reset_mask": np.array([True, False, False])})
    vector.reset(options={"reset_mask": np.ones(3, bool)})
    with pytest.raises(ValueError, match="not drawn"):
        gym.make_vec("gems/focused_topdown-v0", num_envs=3, vectorization_mode="vector_entry_point", render_mode="ansi")


def test_users_are_simulated_together_unless_drawn():
    together = sb3_vec_env("gems/focused_topdown-v0", {"horizon": 5})([None] * 3)
    assert together.num_envs == 3 and together.users.engine.config.horizon == 5
    assert together.get_attr("spec")[0].id == "gems/focused_topdown-v0" and together.env_is_wrapped(Monitor) == [True] * 3
    assert sb3_vec_env("gems/focused_topdown-v0", {"render_mode": "rgb_array"}) is None
    assert sb3_vec_env("CartPole-v1") is None


def test_sb3_vector_environment():
    env = GemsVecEnv(4, "focused", "topdown", horizon=6)
    single = GemsEnv("focused", "topdown", horizon=6)
    env.seed(5)
    obs = env.reset()
    first, _ = single.reset(seed=6)
    np.testing.assert_array_equal(obs["clicks"][1], first["clicks"])
    actions = np.random.default_rng(0).integers(1000, size=(12, 4, 10))
    total = 0.0
    for step, action in enumerate(actions):
        obs, rewards, dones, infos = env.step(action)
        seen, reward, _, over, _ = single.step(action[1])
        total += reward
        assert reward == rewards[1] and dones.all() == over == (step % 6 == 5)
        if over:
            assert infos[1]["episode"]["r"] == total and infos[1]["episode"]["l"] == 6 and infos[1]["TimeLimit.truncated"]
            np.testing.assert_array_equal(infos[1]["terminal_observation"]["clicks"], seen["clicks"])
            seen, total = single.reset()[0], 0.0
        np.testing.assert_array_equal(obs["slate"][1], seen["slate"])


def test_ppo_learns_on_it():
    from stable_baselines3 import PPO

    env = GemsVecEnv(2, "focused", "topdown", horizon=8)
    PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=dict(net_arch=[4]), device="cpu").learn(32)


def test_rendering():
    env = gym.make("gems/focused_topdown-v0", render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (400, 640, 3) and first.dtype == np.uint8
    env.step(np.zeros(10, int))
    assert (env.render() != first).any()
    text = gym.make("gems/focused_topdown-v0", render_mode="ansi")
    text.reset(seed=0)
    text.step(np.arange(10))
    assert "step 1" in text.render() and "likes" in text.render()


def test_pickles_and_refuses():
    env = GemsEnv()
    env.reset(seed=1)
    copy = pickle.loads(pickle.dumps(env))
    action = np.arange(10)
    assert copy.step(action)[1] == env.step(action)[1]
    with pytest.raises(ValueError, match="no item 1000"):
        env.step(np.full(10, 1000))
    with pytest.raises(ValueError, match="world='x'"):
        GemsEnv(world="x")
    with pytest.raises(ValueError, match="items='x'"):
        GemsEnv(items="x")
    with pytest.raises(ValueError, match="render_mode"):
        GemsEnv(render_mode="human")
