"""HybridSAC: demonstrations, interventions, what is stored, drawn and logged."""

import warnings

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from reach import SMALL, Reach, demonstrations
from stable_baselines3 import SAC
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecTransposeImage

from sb3_pgr import DemonstrationReplayBuffer, HybridSAC
from sb3_pgr.buffers import GraspReplayBuffer, TensorReplayBuffer
from sb3_pgr.common.checkpoint import load_checkpoint, save_checkpoint
from sb3_pgr.common.vision import shifted
from sb3_pgr.hybrid_sac.episode_log import EpisodeLog
from sb3_pgr.offline import DatasetError, load_dataset

OBS, ACT = spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,))


def test_interventions_replace_actions_and_join_demonstrations():
    env = Reach(teacher_from=15, low=-2.0, high=2.0)
    model = HybridSAC("MlpPolicy", env, setup_mode="single-arm-learned-gripper", **SMALL)
    model.learn(40)
    buffer = model.replay_buffer
    assert buffer.demonstrations.size() == 10 == buffer.n_interventions and buffer.online.size() == 40
    np.testing.assert_allclose(buffer.demonstrations.actions[:10, 0], 0.5)  # 1 of [-2, 2]
    np.testing.assert_allclose(buffer.online.actions[:40, 0] * 2, np.array(env.taken), atol=1e-6)
    assert buffer.demonstrations._storage.field("grasp_penalties")[:10].eq(-0.02).all()
    # the ends of both episodes are time limits, from which both parts bootstrap
    assert buffer.demonstrations.timeouts[:10].sum() == 2 == buffer.online.timeouts[:40].sum()


def test_interventions_in_plain_sac():
    model = SAC(
        "MlpPolicy", Reach(teacher_from=10), replay_buffer_class=DemonstrationReplayBuffer, learning_starts=5, device="cpu"
    )
    model.learn(40)
    assert model.replay_buffer.demonstrations.size() == 20


def test_demonstrated_images_in_spaces_of_sb3():
    """SB3 puts channels first, datasets have them last."""
    data = demonstrations(images=True, grasp_penalty=np.zeros(40))
    env = VecTransposeImage(DummyVecEnv([lambda: Reach(images=True)]))
    buffer = DemonstrationReplayBuffer(100, env.observation_space, env.action_space, "cpu")
    buffer.add_demonstrations(load_dataset(data))
    stored = buffer.demonstrations.rows(th.tensor([3])).observations["front"][0]
    np.testing.assert_array_equal(stored, data["observations"]["front"][3].transpose(2, 0, 1))


def test_intervention_of_wrong_shape():
    model = HybridSAC("MlpPolicy", Reach(), **SMALL)
    infos = [{"intervene_action": np.zeros(3)}]
    with pytest.raises(ValueError, match=r"intervene_action.*shape \(3,\)"):
        model.replay_buffer.add(np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 4)), np.zeros(1), np.zeros(1), infos)


@pytest.mark.parametrize("images", [False, True])
def test_half_of_a_batch_is_demonstrated(images):
    data = demonstrations(images=images, grasp_penalty=np.linspace(-1, 0, 40))
    policy = "MultiInputPolicy" if images else "MlpPolicy"
    model = HybridSAC(policy, Reach(images=images), data, "single-arm-learned-gripper", **SMALL)
    assert model.replay_buffer.demonstrations.size() == 40
    batch = model.replay_buffer.sample_block(3, 8)
    assert batch.rewards.shape == (3, 8, 1)
    model.learn(15)
    batch = model.replay_buffer.sample_block(50, 8)
    demonstrated = batch.rewards >= 0  # live rewards are negative, live penalties -0.02
    assert demonstrated[:, :4].float().mean() + demonstrated[:, 4:].float().mean() == pytest.approx(1, abs=0.01)
    assert len(batch.grasp_penalties.unique()) > 20
    if images:
        th.testing.assert_close(
            model.replay_buffer.demonstrations.rows(th.tensor([3])).observations["front"][0],
            th.as_tensor(data["observations"]["front"][3].transpose(2, 0, 1).copy()),
        )


@pytest.mark.parametrize("penalty", [np.full(40, np.nan), np.full(40, 0.1), np.zeros((40, 2))], ids=["nan", "positive", "two"])
def test_penalties_that_make_no_sense(penalty):
    with pytest.raises(ValueError, match="grasp_penalty must be one finite number a row"):
        HybridSAC("MlpPolicy", Reach(), demonstrations(grasp_penalty=penalty), "single-arm-learned-gripper", **SMALL)


def test_the_buffer_takes_no_files():
    with pytest.raises(TypeError, match="load_dataset"):
        HybridSAC("MlpPolicy", Reach(), **SMALL).replay_buffer.add_demonstrations("demos.npz")


@pytest.mark.parametrize(
    "info, message",
    [
        ({"grasp_penalty": np.nan}, "not above 0"),
        ({"grasp_penalty": 3.0}, "not above 0"),
        ({"intervene_action": np.full(4, np.nan)}, "must be finite"),
        ({"is_intervention": True, "teleop_action": np.zeros(4)}, "HilInfo"),
    ],
    ids=str,
)
def test_live_steps_that_make_no_sense(info, message):
    buffer = HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", **SMALL).replay_buffer
    step = np.zeros((1, 3)), np.zeros((1, 3)), np.zeros((1, 4)), np.zeros(1), np.zeros(1)
    with pytest.raises(ValueError, match=message):
        buffer.add(*step, [info])
    with pytest.raises(NotImplementedError, match="one by one"):
        buffer.extend(*(part[None] for part in step))


@pytest.mark.parametrize("images", [False, True])
def test_what_a_run_stored_can_be_taken_out(images):
    model = HybridSAC(
        "MultiInputPolicy" if images else "MlpPolicy", Reach(images=images, teacher_from=15), demonstrations(images=images),
        "single-arm-learned-gripper", **SMALL | dict(learning_starts=100),
    )  # fmt: skip
    model.learn(40)
    online, demos = (load_dataset(model.replay_buffer.sources[name]) for name in ("online", "demonstrations"))
    assert len(online) == 40 and len(demos) == 50
    np.testing.assert_allclose(online.extras["grasp_penalty"].ravel(), -0.02)
    np.testing.assert_allclose(demos.actions[40:], 0.5)  # of the teacher
    states = online.next_observations["state"] if images else online.next_observations
    now = online.observations["state"] if images else online.observations
    np.testing.assert_array_equal(states[:19], now[1:20])
    if images:
        np.testing.assert_array_equal(online.next_observations["front"][:19], online.observations["front"][1:20])


def test_pictures_are_moved_all_cameras_alike_and_the_next_ones_otherwise():
    model = HybridSAC("MultiInputPolicy", Reach(images=True), demonstrations(images=True), **SMALL)
    seen = []
    encode = model.critic.encode
    model.critic.encode = lambda obs: seen.append(obs) or encode(obs)
    batch = {name: value for name, value in model.replay_buffer.sample(8)._asdict().items() if value is not None}
    batch |= {name: value[0] for name, value in model._noise(1, 8).items()}
    model._losses(batch, True)
    pictures = {name: batch[name] for name in ("observations", "next_observations")}
    moved = {id(value): offsets for value, offsets in zip(pictures.values(), (batch["shift"], batch["next_shift"]))}
    for obs in pictures.values():
        wanted = {key: shifted(obs[key], moved[id(obs)]) for key in ("front", "wrist")}
        assert any(all(th.equal(got[key], value) for key, value in wanted.items()) for got in seen)
    assert not th.equal(batch["shift"], batch["next_shift"])


def test_one_of_cta_ratio_updates_is_of_everything():
    model = HybridSAC("MlpPolicy", Reach(), demonstrations(), cta_ratio=3, **SMALL)
    flags, update = [], model._update
    model._update = lambda batch, full: flags.append(full) or update(batch, full)
    model.learn_offline(4, block_size=2)
    assert flags == [False, False, True] * 4


def test_more_demonstrations_than_there_is_room_for():
    with pytest.raises(ValueError, match="room for 30"):
        HybridSAC("MlpPolicy", Reach(), demonstrations(), replay_buffer_kwargs=dict(demo_size=30), **SMALL)


def test_images_of_floats():
    data = demonstrations(images=True)
    for name in ("observations", "next_observations"):
        data[name]["front"] = (data[name]["front"] / 255).astype(np.float32)
    with pytest.raises(DatasetError, match="uint8"):
        HybridSAC("MultiInputPolicy", Reach(images=True), data, **SMALL)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(actions=np.zeros((40, 4), np.float32)), "all actions are 0"),
        (dict(actions=np.zeros((40, 5), np.float32)), "actions of shape"),
        (dict(actions=np.full((40, 4), 1.5, np.float32)), "outside"),
        (dict(observations=np.zeros((40, 2), np.float32), next_observations=np.zeros((40, 2), np.float32)), "do not fit"),
    ],
    ids=["nothing", "dimension", "range", "observations"],
)
def test_demonstrations_that_do_not_fit(change, message):
    with pytest.raises(DatasetError, match=message):
        HybridSAC("MlpPolicy", Reach(), demonstrations(**change), "single-arm-learned-gripper", **SMALL)


def test_wrong_camera_keys():
    data = demonstrations(images=True)
    for name in ("observations", "next_observations"):
        data[name]["side"] = data[name].pop("wrist")
    with pytest.raises(DatasetError, match="side"):
        HybridSAC("MultiInputPolicy", Reach(images=True), data, **SMALL)


def test_learning_from_demonstrations_alone():
    model = HybridSAC("MlpPolicy", Reach(), demonstrations(), "single-arm-learned-gripper", **SMALL)
    before = [p.clone() for p in model.actor.parameters()]
    model.learn_offline(30)
    assert model.num_timesteps == 30 and model._n_updates == 30 and model.replay_buffer.online.size() == 0
    assert any(not th.equal(a, b) for a, b in zip(before, model.actor.parameters(), strict=True))
    model.learn(20)  # and on, in the environment
    assert model.replay_buffer.online.size() == 20

    drawn, update = [], model._update
    model._update = lambda batch, full: drawn.append(batch["rewards"]) or update(batch, full)
    model.learn_offline(10)
    assert min(rewards.min() for rewards in drawn) >= 0  # live ones are negative
    model.learn(15)
    assert min(rewards.min() for rewards in drawn) < 0
    with pytest.raises(ValueError, match="no demonstrations"):
        HybridSAC("MlpPolicy", Reach(), **SMALL).learn_offline(10)


def test_extras_travel_with_datasets():
    dataset = load_dataset(demonstrations(grasp_penalty=np.arange(40.0)))
    assert dataset.select_episodes(np.array([1])).extras["grasp_penalty"].tolist() == list(range(20, 40))


def test_what_the_operator_sees():
    log = EpisodeLog(2, window=3, gamma=0.5)
    assert log.summary() == {}
    helped, alone, earned = {"intervene_action": np.zeros(3)}, {}, np.array([1.0, 2.0])
    for _ in range(3):
        assert len(log.step(earned, np.array([False, False]), [helped, alone])) == 0
    assert log.step(earned, np.array([True, False]), [alone | {"is_success": True}, alone]) == [1.875]  # 3 of 4 steps
    assert log.summary() == {"intervention_rate": 0.75, "cycle_steps": 4.0}
    log.step(earned, np.array([False, True]), [alone, alone | {"true_success": True}])  # 5 steps without success
    assert log.summary() == {"intervention_rate": 3 / 9, "cycle_steps": 4.0, "true_success_rate": 1.0}
    for _ in range(3):
        log.step(earned, np.array([True, False]), [alone | {"true_success": False}, alone])
    assert log.summary() == {"intervention_rate": 0.0, "true_success_rate": 0.0}


def test_interventions_are_logged(tmp_path):
    model = HybridSAC("MlpPolicy", Reach(teacher_from=15), setup_mode="single-arm-learned-gripper", **SMALL)
    model.learn(80, log_interval=1)
    assert model.episode_log.summary() == {"intervention_rate": 0.25}
    resumed = HybridSAC("MlpPolicy", Reach(teacher_from=15), setup_mode="single-arm-learned-gripper", **SMALL)
    load_checkpoint(resumed, save_checkpoint(model, tmp_path))
    assert resumed.episode_log.state() == model.episode_log.state() != []


def test_a_dataset_in_place_of_demonstrations(tmp_path):
    model = HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", dataset=demonstrations(), **SMALL)
    model.learn(10).learn(5, reset_num_timesteps=False)
    assert model.num_timesteps == 15 == model._n_updates and model.replay_buffer.online.size() == 0
    assert model.dataset_fingerprint == model.dataset.fingerprint
    model.save(tmp_path / "model.zip")
    assert HybridSAC.load(tmp_path / "model.zip", device="cpu").dataset is None
    with pytest.raises(ValueError, match="not both"):
        HybridSAC("MlpPolicy", Reach(), demonstrations(), dataset=demonstrations(), **SMALL)


def test_returns_outside_of_the_value_range_are_said_once():
    options = SMALL | dict(setup_mode="single-arm-fixed-gripper", value_range=(0, 1))
    model = HybridSAC("MlpPolicy", Reach(), **options)
    with pytest.warns(UserWarning, match=r"outside of value_range=\(0.0, 1.0\)") as caught:
        model.learn(60)
    assert len([warning for warning in caught if "value_range" in str(warning.message)]) == 1
    with pytest.warns(UserWarning, match="value_range"):
        HybridSAC("MlpPolicy", Reach(), demonstrations(), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HybridSAC("MlpPolicy", Reach(), demonstrations(rewards=np.arange(40) % 20 == 19), **options)


def test_missing_grasp_penalties_are_said_where_they_matter():
    with pytest.warns(UserWarning, match="no grasp_penalty"):
        HybridSAC("MlpPolicy", Reach(), demonstrations(), "single-arm-learned-gripper", **SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HybridSAC("MlpPolicy", Reach(), demonstrations(), "single-arm-fixed-gripper", **SMALL)
        HybridSAC("MlpPolicy", Reach(), demonstrations(grasp_penalty=np.zeros(40)), "single-arm-learned-gripper", **SMALL)


def test_the_oldest_demonstrations_go_with_a_warning():
    model = HybridSAC("MlpPolicy", Reach(teacher_from=0), replay_buffer_kwargs=dict(demo_size=50), **SMALL)
    model.add_demonstrations(demonstrations())
    with pytest.warns(UserWarning, match="room for 50") as caught:
        model.learn(30)
    assert len([warning for warning in caught if "room for 50" in str(warning.message)]) == 1


def test_a_dataset_may_be_longer_than_the_replay(tmp_path):
    data = demonstrations(480, grasp_penalty=np.zeros(480))
    model = HybridSAC("MlpPolicy", Reach(), dataset=data, setup_mode="single-arm-learned-gripper", **SMALL)
    assert model.replay_buffer.demonstrations.size() == 480 > model.buffer_size
    model.save(tmp_path / "model")
    assert HybridSAC.load(tmp_path / "model").replay_buffer.demonstrations.buffer_size == 480


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(replay_buffer_class=TensorReplayBuffer), "others know nothing of interventions"),
        (dict(replay_buffer_kwargs=dict(online_class=TensorReplayBuffer)), "must be a GraspReplayBuffer"),
        (dict(replay_buffer_kwargs=dict(online_class=ReplayBuffer)), "must be a TensorReplayBuffer"),
        (dict(replay_buffer_kwargs=dict(online_kwargs=dict(n_steps=3))), "n_steps must be 1"),
    ],
)
def test_replay_that_would_lose_something_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", **SMALL, **options)


def test_noise_moves_arms_and_leaves_grippers_alone():
    noise = NormalActionNoise(np.zeros(4), np.full(4, 0.3))
    env = Reach()
    model = HybridSAC("MlpPolicy", env, setup_mode="single-arm-learned-gripper", action_noise=noise, **SMALL)
    model.learn(40)
    assert set(np.unique(np.array(env.taken)[:, 3])) <= {-1.0, 0.0, 1.0}
    plain = HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", **SMALL)
    plain.learn(1)
    assert not np.allclose(env.taken[0][:3], plain.replay_buffer.online.actions[0, 0, :3])


def test_episodes_that_were_cut_are_not_counted_on():
    model = HybridSAC("MlpPolicy", Reach(teacher_from=15), **SMALL)
    model.learn(28)
    model.learn(12)  # the environment is reset, 8 steps into an episode of 20
    model.learn(20)
    assert [episode.steps for episode in model.episode_log._episodes] == [20, 20]


def test_grasp_penalties_of_several_environments():
    buffer, shape = GraspReplayBuffer(20, OBS, ACT, "cpu", n_envs=2), (3, 2)
    infos = [[{"grasp_penalty": -float(10 * step + env)} for env in range(2)] for step in range(3)]
    buffer.extend(np.zeros((*shape, 3)), np.zeros((*shape, 3)), np.zeros((*shape, 2)), np.zeros(shape), np.zeros(shape), infos)
    assert buffer.rows(th.arange(6)).grasp_penalties.flatten().tolist() == [0, -1, -10, -11, -20, -21]


@pytest.mark.parametrize("infos", [[{"grasp_penalty": -0.5}, {}], [[{"grasp_penalty": -0.5}], [{}]]])
def test_grasp_penalties_of_one_environment(infos):
    buffer = GraspReplayBuffer(20, OBS, ACT, "cpu")
    buffer.extend(np.zeros((2, 3)), np.zeros((2, 3)), np.zeros((2, 2)), np.zeros(2), np.zeros(2), infos)
    assert buffer.rows(th.arange(2)).grasp_penalties.flatten().tolist() == [-0.5, 0]


def test_demonstrations_cut_by_a_time_limit_go_on_in_their_values():
    model = HybridSAC("MlpPolicy", Reach(), demonstrations(), "single-arm-learned-gripper", **SMALL)
    stored = model.replay_buffer.demonstrations
    assert stored.dones[:40].sum() == 2 == stored.timeouts[:40].sum()
    assert stored.rows(th.arange(40)).dones.sum() == 0


def test_random_grasps_are_stored_as_they_were_taken():
    env = Reach(low=-2.0, high=2.0)
    model = HybridSAC("MlpPolicy", env, setup_mode="single-arm-learned-gripper", grasp_epsilon=1.0, **SMALL)
    model.learn(60)
    np.testing.assert_allclose(model.replay_buffer.online.actions[:60, 0] * 2, np.array(env.taken), atol=1e-6)


def test_interventions_are_counted_on():
    first, other = (DemonstrationReplayBuffer(20, OBS, ACT, "cpu") for _ in range(2))
    infos = [{"intervene_action": np.zeros(2, np.float32), "grasp_penalty": 0.0}]
    first.add(np.zeros((1, 3)), np.zeros((1, 3)), np.ones((1, 2)), np.zeros(1), np.zeros(1), infos)
    other.load_state_dict(first.state_dict())
    assert other.n_interventions == 1
