"""HybridSAC: what happens to demonstrations, statistics and arguments when learning begins again or a model is loaded."""

import numpy as np
import pytest
import torch as th
from reach import SMALL, Reach, demonstrations
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import HybridSAC

LEARNED = "single-arm-learned-gripper"


@pytest.fixture
def saved(tmp_path):
    model = HybridSAC("MlpPolicy", Reach(), demonstrations(), LEARNED, **SMALL).learn(30)
    model.save(tmp_path / "model.zip")
    return model, tmp_path / "model.zip"


@pytest.mark.parametrize("images", [False, True])
def test_another_learn_does_not_end_an_episode_for_good(images):
    model = HybridSAC("MultiInputPolicy" if images else "MlpPolicy", Reach(images=images), setup_mode=LEARNED, **SMALL)
    model.learn(25)
    model.learn(1)
    online = model.replay_buffer.online
    assert online.timeouts[24] == 1 and online.rows(th.tensor([24])).dones == 0
    assert model.optimize_memory_usage == images


@pytest.mark.parametrize("log_interval", [5, None])
def test_offline_without_an_environment(saved, log_interval):
    model = HybridSAC.load(saved[1], dataset=demonstrations(), device="cpu")
    model.learn_offline(20.0, log_interval=log_interval)
    assert model.num_timesteps == 20 and model.env is None
    model.set_env(Reach())
    assert model.learn(15).num_timesteps == 15


def test_demonstrations_are_taken_when_loading(saved):
    _, path = saved
    with pytest.raises(ValueError, match="not both"):
        HybridSAC.load(path, demonstrations=demonstrations(), dataset=demonstrations())
    loaded = HybridSAC.load(path, env=Reach(), device="cpu", demonstrations=demonstrations())
    assert loaded.replay_buffer.demonstrations.size() == 40 and loaded.dataset is None
    loaded.learn(15)
    assert loaded.replay_buffer.online.size() == 15

    offline = HybridSAC.load(path, env=Reach(), device="cpu", dataset=demonstrations()).learn(5)
    assert offline.num_timesteps == 5 and offline.replay_buffer.online.size() == 0
    assert offline.dataset_fingerprint == offline.dataset.fingerprint


def test_a_model_with_a_dataset_goes_on_online(saved):
    """After ``set_env``, as all learners from datasets do; the dataset's rows stay demonstrations."""
    model = HybridSAC.load(saved[1], dataset=demonstrations(), device="cpu").learn(5)
    model.set_env(Reach())
    model.learn(15)
    assert model.replay_buffer.online.size() == 15 and model.replay_buffer.demonstrations.size() == 40
    with pytest.raises(ValueError, match="needs an environment, for its spaces"):
        HybridSAC("MlpPolicy", None, dataset=demonstrations(), setup_mode=LEARNED)


def test_demonstrations_that_are_missing_after_loading_are_missed(saved):
    loaded = HybridSAC.load(saved[1], env=Reach(), device="cpu")
    with pytest.warns(UserWarning, match="has learned from demonstrations.*goes on without"):
        loaded.learn(5)


def test_demonstrations_that_a_model_knows_do_not_change_its_policy(saved):
    model, path = saved
    obs = np.array([0.3, 0.2, 1.0], np.float32)
    loaded = HybridSAC.load(path, env=Reach(), device="cpu")
    loaded.add_demonstrations(demonstrations())
    np.testing.assert_array_equal(*(m.predict(obs, deterministic=True)[0] for m in (model, loaded)))
    other = demonstrations()
    other["observations"] = other["observations"] + 5
    loaded.add_demonstrations(other)  # which it has not seen
    assert (model.predict(obs, deterministic=True)[0] != loaded.predict(obs, deterministic=True)[0]).any()


def test_arguments_are_the_callers(tmp_path):
    mine = dict(net_arch=[8], features_extractor_kwargs={})
    for _ in range(2):
        HybridSAC("MlpPolicy", Reach(), setup_mode=LEARNED, policy_kwargs=mine, **SMALL)
    assert mine == dict(net_arch=[8], features_extractor_kwargs={})
    for name, value in (("n_critics", 3), ("gripper_indices", (3,))):
        with pytest.raises(ValueError, match=f"{name} is an argument of HybridSAC itself"):
            HybridSAC("MlpPolicy", Reach(), policy_kwargs={name: value}, **SMALL)


def test_another_number_of_critics_is_refused(saved):
    with pytest.raises(ValueError, match="n_critics=3: the saved model has 2"):
        HybridSAC.load(saved[1], n_critics=3, device="cpu")


def test_networks_without_hidden_layers():
    model = HybridSAC("MlpPolicy", Reach(), setup_mode=LEARNED, policy_kwargs=dict(net_arch=[]), **SMALL).learn(15)
    assert model.predict(np.zeros(3, np.float32))[0].shape == (4,)


def test_demonstrations_of_a_share_of_1():
    model = HybridSAC("MlpPolicy", Reach(), setup_mode=LEARNED, demo_share=1.0, **SMALL).learn(15)  # all rows are live
    model.add_demonstrations(demonstrations(grasp_penalty=np.zeros(40)))
    assert (model.replay_buffer.sample(20).rewards >= 0).all()  # live ones are negative


def test_returns_of_demonstrations_are_normalised_as_live_ones(recwarn):
    env = VecNormalize(make_vec_env(Reach, n_envs=1), gamma=0.97)
    env.ret_rms.var = np.array(1e8)
    model = HybridSAC("MlpPolicy", env, setup_mode=LEARNED, value_range=(-1, 1), **SMALL)
    model.add_demonstrations(demonstrations(rewards=np.full(40, 100.0), grasp_penalty=np.zeros(40)))
    assert not [warning for warning in recwarn if "value_range" in str(warning.message)]


def test_infos_of_other_environments():
    online = HybridSAC("MlpPolicy", Reach(), setup_mode=LEARNED, **SMALL).replay_buffer.online
    row = np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 4)), np.zeros(1), np.zeros(1)
    with pytest.raises(ValueError, match="1 environments need as many infos, got 2"):
        online.add(*row, [{}, {}])
    online.extend(*row, infos=[[{"grasp_penalty": -0.5}]])
    online.extend(*row)
    assert online.rows(th.arange(2)).grasp_penalties.flatten().tolist() == [-0.5, 0.0]
