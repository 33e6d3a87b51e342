"""HybridSAC: layouts of actions, the encoder, demonstrations, interventions, saving."""

import json
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from commands import run
from gymnasium import spaces
from stable_baselines3 import SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import DemonstrationReplayBuffer, HybridSAC
from sb3_pgr.common.device import choose_device
from sb3_pgr.common.vision import shifted
from sb3_pgr.hybrid_sac.encoders import HybridExtractor
from sb3_pgr.hybrid_sac.episode_log import EpisodeLog
from sb3_pgr.hybrid_sac.grippers import gripper_indices, to_classes, to_values
from sb3_pgr.offline import DatasetError, load_dataset

SMALL = dict(learning_starts=10, batch_size=8, buffer_size=400, device="cpu", seed=0)


class Reach(gym.Env):
    """The first entry of the action moves a point to 0; camera pictures are of the place."""

    def __init__(self, action_dim=4, images=False, teacher_from=None, low=-1.0, high=1.0):
        self.action_space = spaces.Box(low, high, (action_dim,), np.float32)
        state = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        camera = spaces.Box(0, 255, (32, 32, 3), np.uint8)
        self.observation_space = spaces.Dict({"front": camera, "wrist": camera, "state": state}) if images else state
        self.images, self.teacher_from, self.taken = images, teacher_from, []

    def _obs(self):
        state = np.array([self.place, self.steps / 20, 1], np.float32)
        if not self.images:
            return state
        front = np.full((32, 32, 3), 100, np.uint8)
        front[:, int(np.clip(16 + 10 * self.place, 0, 31))] = 255
        return {"front": front, "wrist": 255 - front, "state": state}

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = float(self.np_random.uniform(-1, 1)), 0
        return self._obs(), {}

    def step(self, action):
        info = {"grasp_penalty": -0.02}
        if self.teacher_from is not None and self.steps >= self.teacher_from:
            action = np.full(self.action_space.shape, 0.5 * self.action_space.high[0], np.float32)
            info["intervene_action"] = action
        self.taken.append(np.array(action))
        self.place += 0.1 * float(action[0])
        self.steps += 1
        return self._obs(), -abs(self.place), False, self.steps >= 20, info


def demonstrations(n=40, action_dim=4, images=False, **more):
    random = np.random.default_rng(0)

    def obs():
        state = random.normal(size=(n, 3)).astype(np.float32)
        pictures = random.integers(0, 256, (2, n, 32, 32, 3), dtype=np.uint8)
        return {"front": pictures[0], "wrist": pictures[1], "state": state} if images else state

    timeouts = np.zeros(n, bool)
    timeouts[19::20] = True
    return {
        "observations": obs(),
        "actions": random.uniform(-1, 1, (n, action_dim)).astype(np.float32),
        "rewards": random.random(n),
        "next_observations": obs(),
        "terminals": np.zeros(n, bool),
        "timeouts": timeouts,
    } | more


@pytest.mark.parametrize(
    "mode, dim, indices",
    [
        ("single-arm-fixed-gripper", 6, ()),
        ("single-arm-learned-gripper", 7, (6,)),
        ("single-arm-learned-gripper", 4, (3,)),
        ("dual-arm-fixed-gripper", 12, ()),
        ("dual-arm-learned-gripper", 14, (6, 13)),
        ("dual-arm-learned-gripper", 8, (3, 7)),
    ],
)
def test_layouts(mode, dim, indices):
    assert gripper_indices(mode, dim) == indices
    model = HybridSAC("MlpPolicy", Reach(dim), setup_mode=mode, **SMALL)
    model.learn(15)
    action, _ = model.predict(np.zeros((5, 3), np.float32))
    assert action.shape == (5, dim)
    assert set(np.unique(action[:, list(indices)])) <= {-1, 0, 1}
    other = [i for i in range(dim) if i not in indices]
    assert model.actor.mu.out_features == len(other) and model.target_entropy == -dim / 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(setup_mode="three-arms"), "three-arms"),
        (dict(setup_mode="dual-arm-learned-gripper", action_dim=7), "2 arms, but actions have 7"),
        (dict(setup_mode="single-arm-learned-gripper", action_dim=1), "actions have 1"),
        (dict(setup_mode="single-arm-fixed-gripper", gripper_indices=(3,)), "not both"),
        (dict(gripper_indices=(4,)), "entries of actions of 4"),
        (dict(gripper_indices=(0, 1, 2, 3)), "no continuous entry"),
        (dict(actor_value="max"), "actor_value='max'"),
        (dict(cta_ratio=0), "cta_ratio=0"),
        (dict(value_range=(1, 0)), "the lesser first"),
        (dict(demo_share=1.5), "demo_share"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    env = Reach(arguments.pop("action_dim", 4))
    with pytest.raises(ValueError, match=message):
        HybridSAC("MlpPolicy", env, **SMALL | arguments)


def test_grippers_are_rounded_over_the_whole_range():
    values = th.linspace(-1, 1, 401)
    classes = to_classes(values.unsqueeze(1))
    assert (classes == th.where(values < -0.5, 0, th.where(values > 0.5, 2, 1))).all()
    assert to_classes(th.tensor([[0.95], [-0.95], [2.0]])).tolist() == [2, 0, 2]
    for n in (1, 2, 3):
        every = th.arange(3**n)
        assert th.equal(to_classes(to_values(every, n)), every)
    assert to_values(th.tensor([5]), 2).tolist() == [[0, 1]]


@pytest.mark.parametrize("encoder", ["small", "resnet10"])
def test_the_critics_alone_train_the_encoder(encoder):
    kwargs = dict(features_extractor_kwargs=dict(image_encoder=encoder, image_features=16))
    model = HybridSAC(
        "MultiInputPolicy",
        Reach(images=True),
        setup_mode="single-arm-learned-gripper",
        policy_kwargs=kwargs,
        demonstrations=demonstrations(images=True),
        **SMALL,
    )
    rows = model.replay_buffer.sample_block(1, 8)._asdict()
    block = {name: value for name, value in rows.items() if value is not None} | model._noise(1, 8)
    batch = {
        name: {key: part[0] for key, part in value.items()} if isinstance(value, dict) else value[0]
        for name, value in block.items()
    }
    losses, _ = model._losses(batch, True)
    encoder = list(model.critic.features_extractor.parameters())
    of_actor = th.autograd.grad(losses["actor"], encoder, allow_unused=True, retain_graph=True)
    assert all(gradient is None for gradient in of_actor)
    of_critic = th.autograd.grad(losses["critic"], encoder, retain_graph=True)
    assert all(gradient.abs().sum() > 0 for gradient in of_critic)
    grasp_alone = th.autograd.grad(losses["critic"], list(model.critic.grasp.parameters()))
    assert all(gradient.abs().sum() > 0 for gradient in grasp_alone)
    assert not {id(p) for p in encoder} & {id(p) for p in model.actor.optimizer.param_groups[0]["params"]}
    assert {id(p) for p in encoder} <= {id(p) for p in model.critic.optimizer.param_groups[0]["params"]}


def test_images_train_save_and_load(tmp_path):
    model = HybridSAC("MultiInputPolicy", Reach(images=True), setup_mode="single-arm-learned-gripper", **SMALL)
    assert model.observation_space["front"].shape == (3, 32, 32)
    model.learn(15)
    obs = model.env.reset()
    model.save(tmp_path / "model.zip")
    loaded = HybridSAC.load(tmp_path / "model.zip", device="cpu")
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0])
    assert loaded.setup_mode == "single-arm-learned-gripper" and loaded.policy.gripper_indices == (3,)
    loaded.set_env(model.get_env())
    loaded.learn(15)


def test_one_camera_alone():
    class One(Reach):
        def __init__(self):
            super().__init__(images=True)
            self.observation_space = self.observation_space["front"]

        def _obs(self):
            return super()._obs()["front"]

    model = HybridSAC("CnnPolicy", One(), setup_mode="single-arm-learned-gripper", **SMALL)
    model.learn(15)
    assert model.predict(model.env.reset())[0].shape == (1, 4)


def test_images_under_vec_normalize_are_not_scrambled():
    """SB3 transposes images outside of VecNormalize, whose original observations then have their channels last."""
    env = VecNormalize(make_vec_env(lambda: Reach(images=True)), norm_obs_keys=["state"])
    with pytest.raises(ValueError, match="order of their axes"):
        HybridSAC("MultiInputPolicy", env, **SMALL).learn(3)


def test_names_of_cameras_may_hold_dots():
    space = spaces.Dict({"images.front": spaces.Box(0, 255, (3, 32, 32), np.uint8)})
    assert HybridExtractor(space)({"images.front": th.zeros(2, 3, 32, 32)}).shape == (2, 256)


def test_a_target_entropy_that_is_given_is_kept():
    assert HybridSAC("MlpPolicy", Reach(), target_entropy=-4.0, **SMALL).target_entropy == -4


def test_cameras_of_different_sizes_are_refused():
    space = spaces.Dict({"a": spaces.Box(0, 255, (3, 32, 32), np.uint8), "b": spaces.Box(0, 255, (3, 64, 64), np.uint8)})
    with pytest.raises(ValueError, match="one size"):
        HybridExtractor(space)


def test_trunk_weights_are_loaded_and_frozen(tmp_path):
    space = spaces.Dict({"a": spaces.Box(0, 255, (3, 32, 32), np.uint8)})
    th.save(HybridExtractor(space, "resnet10").cameras.trunk.state_dict(), tmp_path / "trunk.pt")
    extractor = HybridExtractor(space, "resnet10", trunk_weights=tmp_path / "trunk.pt")
    assert not any(p.requires_grad for p in extractor.cameras.trunk.parameters())
    with pytest.raises(ValueError, match="no state_dict of SmallCNN"):
        HybridExtractor(space, "small", trunk_weights=tmp_path / "trunk.pt")


def test_shifts_move_and_repeat_the_border():
    images = th.arange(2 * 3 * 5 * 6, dtype=th.uint8).view(2, 3, 5, 6)
    moved = shifted(images, th.tensor([[0, 0], [1, -2]]))
    assert th.equal(moved[0], images[0])
    padded = th.nn.functional.pad(images[1:].float(), (4, 4, 4, 4), mode="replicate")[0]
    assert th.equal(moved[1].float(), padded[:, 5:10, 2:8])


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


def test_random_gripper_commands_are_equally_likely():
    settings = SMALL | dict(learning_starts=900, random_steps=1000, buffer_size=600)
    model = HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", **settings)
    model.learn(600)
    commands = model.replay_buffer.online.actions[:600, 0, 3]
    counts = [int((commands == value).sum()) for value in (-1, 0, 1)]
    assert sum(counts) == 600 and min(counts) > 150


def test_extras_travel_with_datasets():
    dataset = load_dataset(demonstrations(grasp_penalty=np.arange(40.0)))
    assert dataset.select_episodes(np.array([1])).extras["grasp_penalty"].tolist() == list(range(20, 40))


def test_by_command(tmp_path):
    output = run("demos", "robots/pick_cube-v0", "--episodes", 2, "-o", "demos.npz", cwd=tmp_path)
    assert "2 episodes: demos.npz" in output
    arguments = ["--algo", "hybrid_sac", "--env", "robots/pick_cube-v0", "-n", 130, "--eval-freq", -1, "-f", "logs"]
    small = ["-params", "compile:False", "batch_size:32"]
    run("train", *arguments, "--demonstrations", "demos.npz", "--checkpoint-freq", 100, *small, cwd=tmp_path)
    (folder,) = (tmp_path / "logs" / "hybrid_sac").iterdir()
    resumed = run("train", "--resume", folder, "-n", 150, cwd=tmp_path)
    assert "Traceback" not in resumed
    model = HybridSAC.load(next(folder.glob("robots-pick_cube-v0.zip")), device="cpu")
    assert model.num_timesteps == 150 and model.policy.gripper_indices == (3,)

    offline = ["--dataset", "demos.npz", "--eval-freq", -1, "--final-episodes", 1, "-f", "offline", "-n", 30]
    run("train", "--algo", "hybrid_sac", *offline, *small, cwd=tmp_path)
    (folder,) = (tmp_path / "offline" / "hybrid_sac").iterdir()
    run("train", "--resume", folder, "-n", 40, cwd=tmp_path)
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["updates"] == 40 and scores["last"]["episodes"] == 1 and scores["behaviour"]["return_mean"] == 1
    assert np.isfinite(scores["off_policy"]["td_error"])


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("train", "--algo", "redq", "--env", "Pendulum-v1", "--demonstrations", "x.npz"), "for hybrid_sac"),
        (("train", "--algo", "hybrid_sac", "--env", "robots/pick_cube-v0", "--demonstrations", "x.npz"), "no file x.npz"),
        (("demos", "Pendulum-v1", "-o", "x.npz"), "is no robot task"),
        (("demos", "robots/pick_cube-v0", "-o", "x.csv"), "must end in .npz"),
        (("demos", "robots/pick_cube-v0", "-o", "x.npz", "--by", "gamepad"), "gamepad"),
        (
            ("classifier", "train", "--success-dir", "a", "--failure-dir", "b", "--image-keys", "front", "-o", "c.pt"),
            "no .npz or",
        ),
    ],
    ids=["algorithm", "file", "task", "suffix", "device", "folder"],
)
def test_by_command_wrongly(arguments, message, tmp_path):
    output = run(*arguments, expect=2, cwd=tmp_path)
    assert message in output and "Traceback" not in output


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


def test_interventions_are_logged():
    model = HybridSAC("MlpPolicy", Reach(teacher_from=15), setup_mode="single-arm-learned-gripper", **SMALL)
    model.learn(80, log_interval=1)
    assert model._episode_log.summary() == {"intervention_rate": 0.25}


def test_a_dataset_in_place_of_demonstrations(tmp_path):
    model = HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", dataset=demonstrations(), **SMALL)
    model.learn(10).learn(5, reset_num_timesteps=False)
    assert model.num_timesteps == 15 == model._n_updates and model.replay_buffer.online.size() == 0
    assert model.dataset_fingerprint == model.dataset.fingerprint
    model.save(tmp_path / "model.zip")
    assert HybridSAC.load(tmp_path / "model.zip", device="cpu").dataset is None
    with pytest.raises(ValueError, match="not both"):
        HybridSAC("MlpPolicy", Reach(), demonstrations(), dataset=demonstrations(), **SMALL)


def test_critics_value_the_continuous_entries_of_whole_actions():
    model = HybridSAC("MlpPolicy", Reach(), gripper_indices=(1,), **SMALL)
    obs, actions = th.randn(5, 3), th.rand(5, 4)
    expected = model.critic.values(model.critic.encode(obs), actions[:, [0, 2, 3]])
    th.testing.assert_close(model.critic.q_values(obs, actions), expected)
    th.testing.assert_close(model.critic(obs, actions)[1].squeeze(1), expected[1])


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


def test_what_has_hardly_moved_does_not_explode():
    extractor = HybridExtractor(spaces.Box(-1, 1, (3,)))
    extractor.state_norm.update(th.tensor([0.02, 0.0, 0.0]) + 1e-4 * th.randn(100, 3))
    assert extractor(th.tensor([[0.12, 0.0, -0.1]])).tolist()[0][::2] == [10, -10]


def test_the_device_is_chosen(monkeypatch):
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    for there, device in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(th.backends.mps, "is_available", lambda there=there: there)
        assert choose_device("auto").type == device and choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["pick_cube", "pick_cube_images", "lift_tray", "offline"])
def test_specifications(name, tmp_path, monkeypatch):
    from sb3_pgr.zoo.registry import register
    from sb3_pgr.zoo.studies.spec import load_spec, runs_of

    register()
    monkeypatch.chdir(tmp_path)
    Path("build/robots").mkdir(parents=True)
    for file in ("pick_cube", "pick_cube_images", "lift_tray"):
        Path(f"build/robots/{file}.npz").touch()
    assert runs_of(load_spec(Path(__file__).parents[1] / f"benchmarks/robots/{name}.yml"))
