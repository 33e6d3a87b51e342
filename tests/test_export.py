"""Exported policies act as ``predict`` does, and the check of that catches those that do not."""

import sys

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pgr import BC, BCQ, CQL, IQL, PGRSAC, REDQ, TD3BC, HybridSAC
from sb3_pgr.common import export
from sb3_pgr.common.export import ExportError, export_policy
from sb3_pgr.common.state import get_vec_normalize, rng_state
from sb3_pgr.offline.spaces_only import SpacesOnly
from sb3_pgr.zoo.errors import entry_point

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
OFFLINE = [TD3BC, CQL, IQL, BCQ, BC]
LOW, HIGH = np.array([-2, -7], np.float32), np.array([3, 0.5], np.float32)
BOX = spaces.Box(np.array([-np.inf, -1, 0], np.float32), np.array([np.inf, 1, np.inf], np.float32))
LONE = spaces.Dict(observation=BOX)
DICT = spaces.Dict(b=BOX, a=spaces.Box(-5, 5, (2, 2)))  # in this order: only keys given as a dict are sorted

every = pytest.mark.parametrize(
    "algorithm", [REDQ, PGRSAC, HybridSAC, SAC, TD3, PPO, *OFFLINE], ids=lambda algorithm: algorithm.__name__
)
both = pytest.mark.parametrize("suffix", [".pt", ".onnx"])


def drawn(space, n, seed=0):
    random = np.random.default_rng(seed)
    if isinstance(space, spaces.Dict):
        return {key: drawn(part, n, seed + i) for i, (key, part) in enumerate(space.items())}
    return random.normal(size=(n, *space.shape)).clip(space.low, space.high).astype(space.dtype)


def make(algorithm, space=BOX, action_space=None, **policy_kwargs):
    """A model with larger weights than it starts with, so that its actions differ."""
    action_space = action_space or spaces.Box(LOW, HIGH)
    kwargs = dict(seed=0, device="cpu", policy_kwargs=dict(net_arch=[16]) | policy_kwargs)
    if algorithm is BCQ:
        kwargs["policy_kwargs"] |= dict(vae_arch=[16], phi=0.5)
    if algorithm in OFFLINE:
        rewards, actions = np.zeros(40), np.random.default_rng(1).uniform(LOW, HIGH, (40, 2))
        names = ("observations", "actions", "rewards", "next_observations", "terminals")
        columns = (drawn(space, 40), actions, rewards, drawn(space, 40), rewards + 1)
        kwargs["dataset"] = dict(zip(names, columns, strict=True))
    elif algorithm is not PPO:
        kwargs["buffer_size"] = 100
    if algorithm is HybridSAC:
        kwargs["gripper_indices"] = (1,)
    name = "MultiInputPolicy" if isinstance(space, spaces.Dict) else "MlpPolicy"
    model = algorithm(name, SpacesOnly(space, action_space), **kwargs)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.mul_(1.5 if algorithm is BCQ else 3)
    return model


def run(path, batch):
    """What a file gives, by means that are not those of the check."""
    parts = batch if isinstance(batch, dict) else {"observation": batch}
    parts = {key: values.astype(np.float32) for key, values in parts.items()}
    if path.suffix == ".onnx":
        runtime = pytest.importorskip("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        session = runtime.InferenceSession(str(path), options)
        assert [part.name for part in session.get_inputs()] == list(parts)
        assert all(part.type == "tensor(float)" for part in session.get_inputs())
        return session.run(["action"], parts)[0]
    tensors = tuple(map(th.as_tensor, parts.values()))
    return th.jit.load(path)(tensors if isinstance(batch, dict) else tensors[0]).numpy()


@pytest.fixture(autouse=True)
def skip_without_onnx(request):
    if getattr(request.node, "callspec", None) and request.node.callspec.params.get("suffix") == ".onnx":
        pytest.importorskip("onnx")
        pytest.importorskip("onnxruntime")


@both
@every
@pytest.mark.parametrize("space", [BOX, DICT, LONE], ids=["box", "dict", "dict of one"])
def test_acts_as_predict(algorithm, suffix, space, tmp_path):
    model = make(algorithm, space)
    result = export_policy(model, tmp_path / f"policy{suffix}")
    assert list(result.inputs) == (["observation"] if space is BOX else list(space)) and result.output == (2,)
    assert 0 <= result.difference <= 1e-5 and list(tmp_path.iterdir()) == [result.path]
    for n in (1, 50):
        batch = drawn(space, n, seed=7)
        actions, _ = model.predict(batch, deterministic=True)
        np.testing.assert_allclose(run(result.path, batch), actions, atol=1e-5 * (HIGH - LOW).min())
        assert np.all(actions >= LOW) and np.all(actions <= HIGH)
    assert (actions.std(0) > 0.01).all(), "a policy that is constant would show nothing"


@both
def test_statistics_are_part_of_it(suffix, tmp_path):
    """Those of a dataset, and those of VecNormalize, which is outside of the model; far from zero, where digits are lost."""
    random = np.random.default_rng(0)
    shifted = random.normal(1000, 0.1, (40, 3)).astype(np.float32)
    model = BC("MlpPolicy", dataset=dict(zip(
        ("observations", "actions", "rewards", "next_observations", "terminals"),
        (shifted, random.uniform(-2, 3, (40, 2)), np.zeros(40), shifted, np.ones(40)), strict=True,
    )), policy_kwargs=dict(net_arch=[16]), device="cpu")  # fmt: skip
    path = export_policy(model, tmp_path / f"bc{suffix}").path
    np.testing.assert_allclose(run(path, shifted), model.predict(shifted, deterministic=True)[0], atol=1e-5)

    for space in (BOX, DICT):
        env = VecNormalize(DummyVecEnv([lambda space=space: SpacesOnly(space, spaces.Box(LOW, HIGH))]), clip_obs=2)
        for stats in env.obs_rms.values() if isinstance(env.obs_rms, dict) else [env.obs_rms]:
            stats.mean, stats.var = stats.mean + 1000.1, stats.var * 0.01
        model = make(SAC, space)
        policy = "MultiInputPolicy" if space is DICT else "MlpPolicy"
        normalizing = SAC(policy, env, buffer_size=100, policy_kwargs=dict(net_arch=[16]), device="cpu")
        normalizing.policy.load_state_dict(model.policy.state_dict())
        batch = drawn(spaces.Box(-2, 2, (3,)), 9) * 0.1 + 1000
        batch = {"b": batch, "a": np.repeat(batch[:, :2, None], 2, 2)} if space is DICT else batch
        expected = model.predict(env.normalize_obs(batch), deterministic=True)[0]
        for exported in (
            export_policy(normalizing, tmp_path / f"own{suffix}"),
            export_policy(model, tmp_path / f"given{suffix}", vec_normalize=env),
        ):
            np.testing.assert_allclose(run(exported.path, batch), expected, atol=5e-5)
        plain = export_policy(model, tmp_path / f"plain{suffix}").path
        assert np.abs(run(plain, batch) - expected).max() > 0.01


@both
def test_other_policies(suffix, tmp_path):
    """Dropout, gSDE, discrete actions, residual networks, an averaged actor; spaces of float64, integers and huge bounds."""
    discrete = DQN("MlpPolicy", SpacesOnly(spaces.Box(-3e38, 3e38, (4,)), spaces.Discrete(3)), buffer_size=100, device="cpu")
    small = dict(actor_hidden_dim=16, critic_hidden_dim=16, actor_average=0.1)
    simba = REDQ("SimbaPolicy", SpacesOnly(BOX, spaces.Box(LOW, HIGH)), buffer_size=100, policy_kwargs=small, device="cpu")
    simba.policy.observation_norm.update(th.randn(50, 3) * 3 + 1)
    with th.no_grad():
        simba.policy.actor.mu.weight.mul_(5)  # its average acts
    gsde = PPO("MlpPolicy", SpacesOnly(BOX, spaces.Box(LOW, HIGH)), use_sde=True, device="cpu")
    dropout = make(IQL, dropout_rate=0.5)
    wide = make(SAC, spaces.Box(-1, 1, (3,), np.float64))
    integers = make(SAC, spaces.Box(0, 9, (3,), np.int64))
    for model in (discrete, simba, gsde, wide, integers, make(TD3, BOX, spaces.Box(-1, 2, (2, 2))), dropout):
        result = export_policy(model, tmp_path / f"policy{suffix}")
        batch = drawn(model.observation_space, 30)
        expected = model.predict(batch, deterministic=True)[0]
        np.testing.assert_allclose(run(result.path, batch), expected, atol=1e-5)
        assert result.output == model.action_space.shape and run(result.path, batch).dtype == expected.dtype


@both
def test_nothing_is_changed(suffix, tmp_path):
    model = make(BCQ)
    model.policy.set_training_mode(True)
    model.policy.critic.eval()
    random, weights = rng_state(), {key: value.clone() for key, value in model.policy.state_dict().items()}
    modes = [module.training for module in model.policy.modules()]
    gradients = [parameter.requires_grad for parameter in model.policy.parameters()]
    export_policy(model, tmp_path / f"policy{suffix}")
    assert rng_state() == random and [module.training for module in model.policy.modules()] == modes
    assert [parameter.requires_grad for parameter in model.policy.parameters()] == gradients
    assert all(th.equal(value, weights[key]) for key, value in model.policy.state_dict().items())


def test_after_training(tmp_path):
    """Distributions keep tensors with a graph then."""
    model = SAC("MlpPolicy", "Pendulum-v1", use_sde=True, learning_starts=10, policy_kwargs=dict(net_arch=[16]), device="cpu")
    model.learn(30)
    assert model._n_updates > 0
    export_policy(model, tmp_path / "policy.pt")


@both
@pytest.mark.parametrize("algorithm", [REDQ, BCQ, PPO], ids=lambda algorithm: algorithm.__name__)
def test_tampered_policies_are_caught(algorithm, suffix, tmp_path, monkeypatch):
    """One weight of the copy that is written is off; what was there before stays."""
    model, path = make(algorithm), tmp_path / f"policy{suffix}"
    path.write_bytes(b"older")
    copy = export._copy

    def tampered(policy):
        result = copy(policy)
        layers = {REDQ: "actor.mu.bias", BCQ: "vae.decoder.2.bias", PPO: "action_net.bias"}
        result.state_dict()[layers[algorithm]][0] += 1e-3
        return result

    monkeypatch.setattr(export, "_copy", tampered)
    with pytest.raises(ExportError, match=r"differs from predict by .* Nothing was written"):
        export_policy(model, path)
    assert path.read_bytes() == b"older" and list(tmp_path.iterdir()) == [path]
    assert export_policy(model, path, check=False).difference is None and path.read_bytes() != b"older"


@both
def test_a_fixed_batch_size_is_caught(suffix, tmp_path, monkeypatch):
    """What `len` of a tensor comes to in a trace."""
    fixed = lambda policy, obs, deterministic: policy.actor(obs) + th.zeros(len(obs), 1)  # noqa: E731
    monkeypatch.setattr(TD3BC.policy_aliases["MlpPolicy"], "_predict", fixed)
    with pytest.raises(ExportError, match=r"on a batch of 1|gives actions"):
        export_policy(make(TD3BC), tmp_path / f"policy{suffix}")


def test_refusals(tmp_path, monkeypatch):
    model = make(TD3)
    with pytest.raises(ValueError, match=r"policy\.h5: the file has to end in \.onnx .* \.pt or \.ts"):
        export_policy(model, tmp_path / "policy.h5")
    image, actions = spaces.Box(0, 255, (3, 36, 36), np.uint8), spaces.Box(LOW, HIGH)
    for space, message in (
        (image, "images are not exported"),
        (spaces.Dict({"camera": image}), "'camera' is Box"),
        (spaces.Dict({"action": BOX}), "rename that key"),
        (spaces.Dict({"goal": spaces.Discrete(3)}), "'goal' is Discrete"),
        (spaces.Discrete(3), "Only observations that are a Box"),
    ):
        model.observation_space = space
        with pytest.raises(ValueError, match=message):
            export_policy(model, tmp_path / "policy.pt")
    other = VecNormalize(DummyVecEnv([lambda: SpacesOnly(spaces.Box(-1, 1, (6,)), actions)]))
    with pytest.raises(ValueError, match=r"statistics of shape \(6,\)"):
        export_policy(make(TD3), tmp_path / "policy.pt", vec_normalize=other)
    recurrent = pytest.importorskip("sb3_contrib").RecurrentPPO("MlpLstmPolicy", SpacesOnly(BOX, actions), device="cpu")
    with pytest.raises(ValueError, match="Recurrent"):
        export_policy(recurrent, tmp_path / "policy.pt")
    for package in ("onnx", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(ImportError, match=r"needs the package onnx.* pip install 'sb3_pgr\[export\]'"):
            export_policy(make(TD3), tmp_path / "policy.onnx")
    assert not list(tmp_path.iterdir())


class TestCommand:
    @pytest.fixture
    def command(self, monkeypatch, capsys):
        main = pytest.importorskip("sb3_pgr.zoo.export").main

        def call(*arguments):
            monkeypatch.setattr(sys, "argv", ["sb3-pgr export", *map(str, arguments)])
            main()
            return capsys.readouterr().out

        return call

    @pytest.fixture
    def saved(self, tmp_path):
        folder = tmp_path / "logs" / "redq" / "Pendulum-v1_1"
        folder.mkdir(parents=True)
        model = make(REDQ)
        model.save(folder / "Pendulum-v1.zip")
        return model, folder

    def test_run_folder_and_model(self, command, saved, tmp_path):
        model, folder = saved
        batch = drawn(BOX, 5)
        expected = model.predict(batch, deterministic=True)[0]
        output = command(folder, "-o", tmp_path / "new" / "policy.pt")
        assert "Input:  observation (batch, 3)" in output and "Output: action (batch, 2)" in output
        assert "Largest difference from predict: 0 of" in output
        np.testing.assert_allclose(run(tmp_path / "new" / "policy.pt", batch), expected, atol=1e-5)
        make(TD3BC).save(tmp_path / "alone.zip")
        assert "Policy:" in command(tmp_path / "alone.zip", "-o", tmp_path / "alone.ts", "--algo", "td3_bc")

    def test_statistics_of_a_run(self, command, saved, tmp_path):
        """In RL Zoo's file for the last model, and in each checkpoint of ours."""
        model, folder = saved
        env = VecNormalize(DummyVecEnv([lambda: SpacesOnly(BOX, spaces.Box(LOW, HIGH))]), clip_obs=1)
        (folder / "Pendulum-v1").mkdir()
        (folder / "Pendulum-v1" / "config.yml").write_text("normalize: {clip_obs: 1.0, norm_reward: false}\n")
        with pytest.raises(ValueError, match=r"there is no .*vecnormalize\.pkl"):
            command(folder, "-o", tmp_path / "policy.pt")
        checkpoint = folder / "checkpoints" / "step_000000000100" / "model.zip"
        checkpoint.parent.mkdir(parents=True)
        model.save(checkpoint)
        batch = drawn(BOX, 20)
        for source, mean in ((folder, 0.5), (checkpoint, -0.5)):
            env.obs_rms.mean = np.full(3, mean)
            if source is folder:
                env.save(str(folder / "Pendulum-v1" / "vecnormalize.pkl"))
            else:
                th.save(get_vec_normalize(env), checkpoint.with_name("vecnormalize.pt"))
            command(source, "-o", tmp_path / "policy.pt")
            expected = model.predict(env.normalize_obs(batch), deterministic=True)[0]
            np.testing.assert_allclose(run(tmp_path / "policy.pt", batch), expected, atol=5e-5)

    def test_errors(self, command, saved, tmp_path):
        _, folder = saved
        model = folder / "Pendulum-v1.zip"
        (tmp_path / "broken.zip").write_bytes(b"no zip")
        (tmp_path / "alone.zip").write_bytes(model.read_bytes())
        for arguments, message in (
            ((tmp_path / "none.zip", "-o", "x.pt"), "There is no model"),
            ((tmp_path, "-o", "x.pt"), "There is no saved model in"),
            ((tmp_path / "alone.zip", "-o", "x.pt"), "with --algo"),
            ((model, "-o", "x.pt", "--algo", "radq"), "Did you mean redq"),
            ((tmp_path / "broken.zip", "-o", "x.pt", "--algo", "redq"), "cannot be loaded"),
            ((model, "-o", tmp_path / "policy.txt"), "has to end in"),
        ):
            with pytest.raises(Exception, match=message) as raised:
                command(*arguments)
            assert type(raised.value).__name__ == "UsageError"

    def test_exit_code(self, command, saved, tmp_path, capsys):
        with pytest.raises(SystemExit) as raised:
            entry_point(lambda: command(saved[1], "-o", tmp_path / "policy.txt"))
        assert raised.value.code == 2 and capsys.readouterr().err.startswith("sb3-pgr: policy.txt: the file has to end in")
