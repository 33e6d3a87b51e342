"""From dataset to score, as a user types it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from commands import in_terminal, run
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env

from sb3_pgr import BC, IQL
from sb3_pgr.buffers import TensorReplayBuffer
from sb3_pgr.offline import load_dataset
from sb3_pgr.offline.readers import save_npz
from sb3_pgr.zoo.collect import _whole_episodes
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import OFFLINE, register
from sb3_pgr.zoo.saved_model import run_env_kwargs, saved_model
from sb3_pgr.zoo.scores import report_scores

ENV = "Pendulum-v1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("offline")
    run("collect", "--env", ENV, "--random", "--episodes", 5, "--n-envs", 2, "-o", root / "data.npz")
    return root


def train(folder, *arguments, algo="td3_bc", steps=40, params=(), **kwargs):
    small = ["-params", "policy_kwargs:dict(net_arch=[8])", *params]
    flags = ["--algo", algo, "-n", steps, "-f", folder / "logs", "--seed", 1, "--num-threads", 1, "--final-episodes", 3]
    return run("train", *flags, *arguments, *small, **kwargs)


def test_collected_dataset(folder):
    data = load_dataset(folder / "data.npz")
    assert (len(data), len(data.episode_ends), data.env_id) == (1000, 5, ENV)
    assert data.metadata["behaviour"] == "random" and data.action_space.high[0] == 2


def test_train_evaluate_resume(folder):
    output = train(folder, "--dataset", folder / "data.npz", "--eval-freq", 20, "--eval-episodes", 2)
    assert "behaviour (mean of the dataset)" in output and "No run of bc" in output
    root = folder / "logs" / "td3_bc" / f"{ENV}_1"
    scores = json.loads((root / "scores.json").read_text())
    data = load_dataset(folder / "data.npz")
    assert scores["behaviour"]["return_mean"] == pytest.approx(data.episode_returns.mean())
    assert scores["dataset"] == {"source": str(folder / "data.npz"), "fingerprint": data.fingerprint, "rows": 1000}
    assert scores["last"]["episodes"] == 3 and scores["updates"] == 40 and scores["best_of_evaluations"]["chosen_from"] == 2
    assert set(scores["off_policy"]) == {
        "td_error", "initial_value", "average_value", "soft_opc", "action_difference", "rows"
    }  # fmt: skip
    episodes = np.loadtxt(root / "final_episodes.csv", delimiter=",", skiprows=1)
    assert episodes[:, 1].mean() == pytest.approx(scores["last"]["return_mean"])
    assert (root / "learning_curve.png").stat().st_size > 5_000
    config = yaml.safe_load((root / ENV / "config.yml").read_text().split("\n", 1)[1])
    assert ["dataset", str(folder / "data.npz")] in config or "data.npz" in str(config)

    (root / "scores.json").unlink()  # as if it had been killed after its last update
    assert "behaviour" in run("train", "--resume", root)
    assert json.loads((root / "scores.json").read_text())["updates"] == 40

    longer = run("train", "--resume", root, "-n", 60, "--final-episodes", 2)
    assert "at step 40" in longer
    assert json.loads((root / "scores.json").read_text())["updates"] == 60

    train(folder, "--dataset", folder / "data.npz", algo="bc")
    train(folder, "--dataset", folder / "data.npz", params=["best_fraction:0.5"], algo="bc")
    beside = train(folder, "--dataset", folder / "data.npz", "--eval-freq", -1, algo="iql")
    assert "bc, run 1 " in beside and "bc, run 2, of the best 0.5 " in beside and "No run of bc" not in beside


def test_other_runs_beside_do_no_harm(tmp_path, folder):
    """What cannot be compared is left out, what cannot be read is named, and the model is saved."""
    data = load_dataset(folder / "data.npz")
    save_npz(
        replace(data, metadata={"reference": {"name": "ours", "random": -1500.0, "expert": -150.0}}), tmp_path / "data.npz"
    )
    root = tmp_path / "logs" / "bc"
    train(tmp_path, "--dataset", folder / "data.npz", algo="bc")
    other = json.loads((root / f"{ENV}_1" / "scores.json").read_text())
    for number, text in ((2, "{"), (3, "[]"), (4, json.dumps(other | {"env_id": "Other-v0"}))):
        (root / f"{ENV}_{number}").mkdir()
        (root / f"{ENV}_{number}" / "scores.json").write_text(text)
    output = train(tmp_path, "--dataset", tmp_path / "data.npz", algo="td3_bc")
    assert "No run of bc" in output and output.count("is passed over") == 2 and "normalised" in output
    assert (tmp_path / "logs" / "td3_bc" / f"{ENV}_1" / f"{ENV}.zip").is_file()
    assert "bc, run 1 " in train(tmp_path, "--dataset", folder / "data.npz", algo="iql")


def test_in_a_terminal(folder, tmp_path):
    """With a progress bar, which nobody asks for there; interrupted, and continued."""
    small = ["-params", "policy_kwargs:dict(net_arch=[8])"]
    arguments = ["--algo", "bc", "--dataset", folder / "data.npz", "--eval-freq", -1, "--final-episodes", 2, "-f", tmp_path]
    status, said = in_terminal("train", *arguments, "-n", 60, *small)
    assert status == 0 and "60/60" in said and "bc, last policy, 2 episodes" in said and "Traceback" not in said

    status, said = in_terminal("train", *arguments, "-n", 10**7, *small, interrupt_at=r"[1-9][\d,]*/10,000,000")
    assert status == 130 and "Continue with" in said and "Traceback" not in said


def test_without_any_environment(folder):
    data = load_dataset(folder / "data.npz")
    names = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
    np.savez(folder / "plain.npz", **{name: getattr(data, name) for name in names})
    output = train(folder, "--dataset", folder / "plain.npz", algo="cql", steps=20)
    assert "there are no evaluations" in output
    root = folder / "logs" / "cql" / "dataset-plain-v0_1"
    scores = json.loads((root / "scores.json").read_text())
    assert "last" not in scores and np.isfinite(scores["off_policy"]["initial_value"])
    run("train", "--resume", root, "-n", 30)


@pytest.mark.parametrize("played", [True, False])
def test_scores_are_of_the_environment_they_come_from(tmp_path, played):
    """And behaviour is that of episodes: synthetic rows are none."""
    random = np.random.default_rng(0)
    data = {
        "observations": random.normal(size=(60, 11)), "actions": random.uniform(-1, 1, (60, 3)), "rewards": np.ones(60),
        "next_observations": random.normal(size=(60, 11)), "terminals": np.zeros(60), "timeouts": np.arange(60) % 20 == 19,
    }  # fmt: skip
    if not played:
        data["episode_return"] = np.full(60, np.nan)
    dataset = replace(load_dataset(data), env_id="Hopper-v4", metadata={"played_returns": [20.0, 22.0]})
    model = IQL("MlpPolicy", dataset=dataset, policy_kwargs=dict(net_arch=[8]), device="cpu")
    report_scores(model, "iql", make_vec_env("Hopper-v5", 1), tmp_path, 1)
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["reference"]["name"] == "D4RL-v2 reference on Hopper-v5"
    assert (scores["behaviour"]["return_mean"], scores["behaviour"]["episodes"]) == ((20, 3) if played else (21, 2))
    assert ("initial_value" in scores["off_policy"]) == played


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--algo", "iql"], "learns from a dataset: --dataset FILE"),
        (["--algo", "redq", "--env", ENV, "--dataset", "x.npz"], "--dataset is for"),
        (["--algo", "iql", "--dataset", "nowhere.npz"], "There is no file nowhere.npz"),
        (["--algo", "td3bc", "--dataset", "nowhere.npz"], "Did you mean td3_bc"),
        (["--algo", "iql", "--dataset", "{data}", "--env", "CartPole-v1"], "do not fit Discrete"),
        (["--algo", "iql", "--dataset", "{data}", "--env", "MountainCarContinuous-v0"], "lie outside"),
        (["--algo", "iql", "--dataset", "{data}", "-params", "expectil:0.7"], "Did you mean 'expectile'"),
        (["--algo", "iql", "--dataset", "{data}", "-params", "n_envs:4"], "n_envs must be 1"),
    ],
)  # fmt: skip
def test_refusals(folder, tmp_path, arguments, message):
    given = [argument.format(data=folder / "data.npz") for argument in arguments]
    output = run("train", *given, "-n", 20, "-f", tmp_path, expect=2, cwd=tmp_path)
    assert message in output and "Traceback" not in output


def test_arguments_that_a_dataset_was_recorded_without_are_told(folder, tmp_path):
    output = train(folder, "--dataset", folder / "data.npz", "--eval-freq", -1, "--env-kwargs", "g:9.0", algo="bc", steps=10)
    assert "was recorded without g, which here is 9.0" in output


@pytest.mark.parametrize("steps, lengths, said", [(350, [200], "Left out: 1"), (150, [150], "No episode is whole yet"),
                                                  (400, [200, 200], "")])  # fmt: skip
def test_pieces_of_episodes(steps, lengths, said, capsys):
    """As long as each other or not: what ended before the time limit, without a terminal state, is one."""
    buffer = TensorReplayBuffer(600, spaces.Box(-1, 1, (2,)), spaces.Box(-1, 1, (1,)), device="cpu")
    for step in range(steps):
        timeout = step % 200 == 199
        row = np.zeros((1, 2))
        buffer.add(row, row, np.zeros((1, 1)), np.ones(1), np.array([timeout]), [{"TimeLimit.truncated": timeout}])
    assert list(_whole_episodes(load_dataset(buffer), buffer, 200).episode_lengths) == lengths
    assert said in capsys.readouterr().out


def test_collect_from_runs(folder):
    wrapper = {"gymnasium.wrappers.RescaleAction": {"min_action": -1.0, "max_action": 1.0}}
    params = [
        "-params",
        "learning_starts:50",
        "gradient_steps:1",
        "policy_kwargs:dict(net_arch=[8])",
        f"env_wrapper:[{wrapper}]",
    ]
    flags = ["--algo", "ddpg", "--env", ENV, "-n", 410, "-f", folder / "logs", "--eval-freq", -1, "--num-threads", 1]
    run("train", *flags, "--conf-file", "ddpg_behaviour.yml", "--seed", 1, "--env-kwargs", "g:9.0", *params)
    where = ["--algo", "ddpg", "--env", ENV, "-f", folder / "logs"]
    noise = ["--noise", "ou", "--noise-std", 0.3, "--random-actions", 0.3]
    run("collect", *where, "--rows", 300, *noise, "-o", folder / "noisy.npz")
    data = load_dataset(folder / "noisy.npz")
    assert len(data) >= 300 and data.metadata["behaviour"] == "ddpg after 410 steps" and data.metadata["noise"]["kind"] == "ou"
    assert data.metadata["env_kwargs"] == {"g": 9.0}
    noises = []  # what is added to the policy's own actions: of --seed, whatever seed the run had
    for seed in (0, 1):
        alone = ["--rows", 200, "--noise", "gaussian", "--noise-std", 0.05, "--n-envs", 1, "--seed", seed]
        output = run("collect", *where, *alone, "-o", folder / "noise.npz")
        rows = load_dataset(folder / "noise.npz")
        model = saved_model(Path(re.search(r"Behaviour: (.*)", output)[1]), "ddpg").load()
        noises.append(rows.actions - model.predict(rows.observations, deterministic=True)[0])
    inside = (abs(noises[0]) > 1e-4) & (abs(noises[1]) > 1e-4)  # not clipped away
    assert inside.any() and not np.isclose(noises[0], noises[1], atol=1e-4)[inside].any()
    small = ["-n", 20, "--final-episodes", 1, "-params", "policy_kwargs:dict(net_arch=[8])"]
    again = ["train", "--algo", "bc", "--dataset", folder / "noisy.npz", "-f", folder / "g", "--eval-freq", -1, *small]
    assert "Choose it: -params env_wrapper:" in run(*again, expect=2)  # code that a file names is not run
    run(*again, params[-1])
    assert run_env_kwargs(folder / "g/bc/Pendulum-v1_1", ENV) == {"g": 9.0}
    assert BC.load(folder / "g/bc/Pendulum-v1_1/Pendulum-v1.zip", device="cpu").action_space.high == [1]  # as recorded
    assert "Left out: 1 episodes" in run("collect", *where, "--replay", "-o", folder / "replay.npz")
    replay = load_dataset(folder / "replay.npz")
    assert (
        len(replay) == 400 and list(replay.episode_lengths) == [200, 200] and replay.metadata["behaviour"].startswith("replay")
    )
    run("collect", *where, "--replay", "--episodes", 1, "-o", folder / "first.npz")
    np.testing.assert_array_equal(load_dataset(folder / "first.npz").rewards, replay.rewards[:200])
    run("dataset", "mix", folder / "mix.npz", folder / "replay.npz", f"{folder / 'noisy.npz'}:400")
    assert len(load_dataset(folder / "mix.npz")) == 800
    mixed = folder / "wrong.npz"  # of gravities of 9 and 10
    assert "cannot be joined" in run("dataset", "mix", mixed, folder / "replay.npz", folder / "data.npz", expect=2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--random"], "Say how much"),
        (["--random", "--episodes", "0"], "at least 1"),
        (["--replay", "--rows", "0"], "at least 1"),
        (["--random", "--rows", "10", "--random-actions", "2"], "not --random or --replay"),
        (["--rows", "10", "-f", "empty"], "no saved model"),
        (["--replay", "-f", "empty"], "no saved model"),
        (["--random", "--rows", "10", "-o", "data.csv"], r"must end in .npz"),
        (["--random", "--rows", "10", "-o", "file/data.npz"], "Cannot write to file"),
        (["--random", "--rows", "10", "-o", "folder.npz"], "is a folder"),
        (["--random", "--rows", "10", "--noise", "ou"], "not --random or --replay"),
    ],
)
def test_collect_refusals(tmp_path, arguments, message):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.npz").mkdir()
    output = run("collect", "--env", ENV, "-o", "out.npz", *arguments, expect=2, cwd=tmp_path)
    assert message in output and "Traceback" not in output and not (tmp_path / "out.npz").exists()


def test_a_film_of_nothing_is_refused_before_training(tmp_path):
    rows = {name: np.zeros((40, 2), np.float32) for name in ("observations", "next_observations", "actions")}
    save_npz(load_dataset(rows | {"rewards": np.zeros(40), "terminals": np.arange(40) == 39}), tmp_path / "plain.npz")
    flags = ["--algo", "bc", "--dataset", "plain.npz", "-n", 60, "--video-freq", 20]
    output = run("train", *flags, expect=2, cwd=tmp_path)
    assert "dataset/plain-v0 cannot be filmed" in output and "Traceback" not in output
    assert not list(tmp_path.glob("logs/bc/*"))


@pytest.mark.parametrize("algo", OFFLINE)
def test_configurations_are_accepted(algo):
    from importlib import resources

    from rl_zoo3 import ALGOS

    from sb3_pgr.zoo.hyperparams import check_hyperparams

    register()
    text = (resources.files("sb3_pgr.zoo_configs") / f"{algo}.yml").read_text()
    for given in yaml.safe_load(text).values():
        check_hyperparams(ALGOS[algo], dict(given), (), f"{algo}.yml")
        settings = {name: value for name, value in given.items() if name not in ("n_timesteps", "policy", "policy_kwargs")}
        data = {
            "observations": np.random.default_rng(0).normal(size=(30, 3)), "actions": np.zeros((30, 2)),
            "rewards": np.arange(30.0), "next_observations": np.ones((30, 3)), "terminals": np.zeros(30, bool),
            "timeouts": np.arange(30) % 10 == 9,
        }  # fmt: skip
        ALGOS[algo]("MlpPolicy", dataset=data, policy_kwargs=dict(net_arch=[4]), device="cpu", **settings)
    with pytest.raises(UsageError):
        check_hyperparams(ALGOS[algo], {"learning_rat": 1}, (), "x")
