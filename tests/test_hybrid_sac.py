"""HybridSAC: layouts of actions, the encoder, saving, commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch as th
from commands import run
from gymnasium import spaces
from reach import SMALL, Reach, demonstrations
from sb3_pgr.envs.robots.wrappers import Intervention
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import HybridSAC, PrioritizedReplayBuffer
from sb3_pgr.common.device import choose_device
from sb3_pgr.common.vision import shifted
from sb3_pgr.hybrid_sac.encoders import HybridExtractor
from sb3_pgr.hybrid_sac.grippers import gripper_indices, to_classes, to_values
from sb3_pgr.offline import load_dataset
from sb3_pgr.zoo.saved_model import make_evaluation_env, run_env_kwargs


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
        (dict(replay_buffer_kwargs=dict(online_class=PrioritizedReplayBuffer)), "PrioritizedReplayBuffer"),
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
    assert (classes == th.where(values <= -0.5, 0, th.where(values >= 0.5, 2, 1))).all()
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


def test_who_loads_a_frozen_trunk_needs_no_file_of_weights(tmp_path):
    space = spaces.Dict({"a": spaces.Box(0, 255, (3, 32, 32), np.uint8)})
    th.save(HybridExtractor(space, "resnet10").cameras.trunk.state_dict(), tmp_path / "trunk.pt")
    of_images = dict(image_encoder="resnet10", trunk_weights=str(tmp_path / "trunk.pt"))
    kwargs = dict(features_extractor_kwargs=of_images)
    model = HybridSAC("MultiInputPolicy", Reach(images=True), policy_kwargs=kwargs, **SMALL)
    model.save(tmp_path / "model")
    (tmp_path / "trunk.pt").unlink()
    loaded = HybridSAC.load(tmp_path / "model")
    obs = Reach(images=True).reset(seed=0)[0]
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0])
    assert not any(p.requires_grad for p in loaded.critic.features_extractor.cameras.trunk.parameters())


def test_arguments_given_to_load_hold(tmp_path):
    HybridSAC("MlpPolicy", Reach(), value_range=(0, 1), **SMALL).save(tmp_path / "model")
    model = HybridSAC.load(tmp_path / "model", env=Reach(), demo_share=0.1, gamma=0.5, value_range=None)
    assert model.replay_buffer.shares == {"online": 0.9, "demonstrations": 0.1} and model.replay_buffer.gamma == 0.5
    model.learn(15)
    with pytest.raises(ValueError, match="actor_value"):
        HybridSAC.load(tmp_path / "model", actor_value="most")


def test_observations_that_are_no_boxes_are_refused():
    space = spaces.Dict({"state": spaces.Box(-1, 1, (3,)), "mode": spaces.Discrete(3)})
    with pytest.raises(ValueError, match="mode is none"):
        HybridExtractor(space)


def test_shifts_move_and_repeat_the_border():
    images = th.arange(2 * 3 * 5 * 6, dtype=th.uint8).view(2, 3, 5, 6)
    moved = shifted(images, th.tensor([[0, 0], [1, -2]]))
    assert th.equal(moved[0], images[0])
    padded = th.nn.functional.pad(images[1:].float(), (4, 4, 4, 4), mode="replicate")[0]
    assert th.equal(moved[1].float(), padded[:, 5:10, 2:8])


def test_random_gripper_commands_are_equally_likely():
    settings = SMALL | dict(learning_starts=900, random_steps=1000, buffer_size=600)
    model = HybridSAC("MlpPolicy", Reach(), setup_mode="single-arm-learned-gripper", **settings)
    model.learn(600)
    commands = model.replay_buffer.online.actions[:600, 0, 3]
    counts = [int((commands == value).sum()) for value in (-1, 0, 1)]
    assert sum(counts) == 600 and min(counts) > 150


def test_by_command(tmp_path):
    changed = ["--env-kwargs", "gripper_penalty:-0.5", "reward:'dense'"]
    output = run("demos", "robots/pick_cube-v0", "--episodes", 2, "-o", "demos.npz", *changed, cwd=tmp_path)
    assert "2 episodes: demos.npz" in output
    arguments = ["--algo", "hybrid_sac", "--env", "robots/pick_cube-v0", "-n", 130, "--eval-freq", -1, "-f", "logs"]
    small = ["-params", "compile:False", "batch_size:32"]
    arguments += ["--demonstrations", "demos.npz", "--checkpoint-freq", 100]
    chosen = ["--env-kwargs", "reward:'sparse'", "interventions:'scripted'", "intervention_kwargs:dict(patience=0)"]
    output = run("train", *arguments, *chosen, *small, cwd=tmp_path)
    assert "recorded with reward='dense'; here it is 'sparse'" in output
    (folder,) = (tmp_path / "logs" / "hybrid_sac").iterdir()
    env_kwargs = run_env_kwargs(folder, "robots/pick_cube-v0")
    assert (env_kwargs["gripper_penalty"], env_kwargs["reward"]) == (-0.5, "sparse")
    env = make_evaluation_env("robots/pick_cube-v0", 1, hyperparams={}, env_kwargs=env_kwargs, should_render=False)
    assert env.env_is_wrapped(Intervention) == [False]
    for option in ("--demonstrations", "--dataset"):
        assert f"{option} cannot change it" in run("train", "--resume", folder, option, "other.npz", expect=2, cwd=tmp_path)
    resumed = run("train", "--resume", folder, "-n", 150, "--demonstrations", "demos.npz", cwd=tmp_path)
    assert "Traceback" not in resumed
    model = HybridSAC.load(next(folder.glob("robots-pick_cube-v0.zip")), device="cpu")
    assert model.num_timesteps == 150 and model.policy.gripper_indices == (3,)

    offline = ["--dataset", "demos.npz", "--eval-freq", -1, "--final-episodes", 1, "-f", "offline", "-n", 30]
    run("train", "--algo", "hybrid_sac", *offline, *small, cwd=tmp_path)
    (folder,) = (tmp_path / "offline" / "hybrid_sac").iterdir()
    run("train", "--resume", folder, "-n", 40, cwd=tmp_path)
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["updates"] == 40 and scores["last"]["episodes"] == 1
    returns = load_dataset(tmp_path / "demos.npz").episode_returns
    assert scores["behaviour"]["return_mean"] == pytest.approx(returns.mean(), rel=1e-4)
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


def test_critics_value_the_continuous_entries_of_whole_actions():
    model = HybridSAC("MlpPolicy", Reach(), gripper_indices=(1,), **SMALL)
    obs, actions = th.randn(5, 3), th.rand(5, 4)
    expected = model.critic.values(model.critic.encode(obs), actions[:, [0, 2, 3]])
    th.testing.assert_close(model.critic.q_values(obs, actions), expected)
    th.testing.assert_close(model.critic(obs, actions)[1].squeeze(1), expected[1])


def test_what_has_hardly_moved_does_not_explode():
    extractor = HybridExtractor(spaces.Box(-1, 1, (3,)))
    extractor.state_norm.update(th.tensor([0.02, 0.0, 0.0]) + 1e-4 * th.randn(100, 3))
    assert extractor(th.tensor([[0.12, 0.0, -0.1]])).tolist()[0][::2] == [10, -10]


def test_the_device_is_chosen(monkeypatch):
    monkeypatch.setattr(th.cuda, "is_available", lambda: False)
    for there, device in ((True, "mps"), (False, "cpu")):
        monkeypatch.setattr(th.backends.mps, "is_available", lambda there=there: there)
        assert choose_device("auto").type == device and choose_device("cpu").type == "cpu"


@pytest.mark.parametrize("name", ["pick_cube", "pick_cube_images", "pick_cube_images_gpu", "lift_tray", "offline"])
def test_specifications(name, tmp_path, monkeypatch):
    from sb3_pgr.zoo.registry import register
    from sb3_pgr.zoo.studies.spec import load_spec, runs_of

    register()
    monkeypatch.chdir(tmp_path)
    Path("build/robots").mkdir(parents=True)
    for file in ("pick_cube", "pick_cube_images", "lift_tray"):
        Path(f"build/robots/{file}.npz").touch()
    assert runs_of(load_spec(Path(__file__).parents[1] / f"benchmarks/robots/{name}.yml"))
