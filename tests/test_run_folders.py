"""Runs that end early, start from another model, replay in hindsight, or have names of their own."""

import json
import shutil
import sys

import gymnasium as gym
import pytest
from commands import run
from report_runs import make_run
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.envs import BitFlippingEnv

from sb3_pgr.report.folders import find_runs
from sb3_pgr.report.run import read_run
from sb3_pgr.zoo import enjoy, record_video, train
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.saved_model import SavedModel, chosen_model

FEW = ["-n", 300, "--seed", 1, "--num-threads", 1, "--eval-freq", -1]
SMALL = ["learning_starts:100", "policy_kwargs:dict(net_arch=[8])"]


def test_a_callback_may_end_a_run_without_checkpoints(tmp_path):
    config = tmp_path / "mine.yml"
    config.write_text(
        "default:\n  policy: MlpLstmPolicy\n  n_steps: 32\n  batch_size: 32\n  n_epochs: 1\n  n_timesteps: 2000\n  callback:\n"
        "    - stable_baselines3.common.callbacks.StopTrainingOnMaxEpisodes: {max_episodes: 2}\n"
    )
    flags = ["--algo", "ppo_lstm", "--env", "Pendulum-v1", "-conf", config, "-f", tmp_path, "--final-episodes", 1]
    run("train", *flags, "--eval-freq", -1, "--num-threads", 1)
    folder = tmp_path / "ppo_lstm/Pendulum-v1_1"
    assert json.loads((folder / "scores.json").read_text())["timesteps"] < 1000
    said = run("train", "--resume", folder, expect=2)
    assert "cannot be resumed" in said and f"-i {folder / 'Pendulum-v1.zip'}" in said


def test_a_run_that_began_with_a_model_goes_on_without_it(tmp_path):
    flags = ["--algo", "sac", "--env", "Pendulum-v1", *FEW]
    run("train", *flags, "-f", tmp_path / "first", "-params", *SMALL)
    start = tmp_path / "first/sac/Pendulum-v1_1/Pendulum-v1.zip"
    run("train", *flags, "-f", tmp_path / "second", "-i", start, "-params", "learning_starts:50")
    shutil.rmtree(tmp_path / "first")
    assert "at step 300" in run("train", "--resume", tmp_path / "second/sac/Pendulum-v1_1", "-n", 400)


@pytest.mark.parametrize(
    "said, message",
    [
        (["-conf", "mine.yml"], "-conf cannot change"),
        (["--conf-file=mine.yml"], "-conf cannot change"),
        (["--eval-env-kwargs", "g:9.0"], "--eval-env-kwargs cannot change"),
        (["-i", "model.zip"], "-i cannot change"),
    ],
)
def test_resuming_as_another_run_is_refused(said, message, tmp_path, monkeypatch):
    folder = make_run(tmp_path / "sac/Pendulum-v1_1", [1, 2])
    monkeypatch.setattr(sys, "argv", ["sb3-pgr train", "--resume", str(folder), *said])
    with pytest.raises(UsageError, match=message):
        train.main()


def test_tracking_needs_its_package(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sb3-pgr train", "--algo", "sac", "--env", "Pendulum-v1", "--track"])
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install wandb"):
        train.main()


def test_models_that_replayed_in_hindsight_are_loaded(tmp_path):
    env = BitFlippingEnv(n_bits=3, continuous=True)
    model = SAC("MultiInputPolicy", env, replay_buffer_class=HerReplayBuffer, device="cpu")
    model.save(tmp_path / "model.zip")
    obs = env.reset()[0]
    loaded = SavedModel(tmp_path / "model.zip", "sac").load()
    assert (loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]).all()


@pytest.fixture
def named(tmp_path):
    """A finished run with a name of its own, as -uuid makes it."""
    folder = make_run(tmp_path / "sac/Pendulum-v1_1_0b4a6e4e-1c1f-4d0b-9d0c-0d6f1d0b7a11", [1, 2], wanted=230)
    SAC("MlpPolicy", gym.make("Pendulum-v1"), device="cpu").save(folder / "Pendulum-v1.zip")
    return folder


def test_enjoy_says_that_it_does_not_find_names(named, monkeypatch):
    flags = ["--algo", "sac", "--env", "Pendulum-v1", "-f", str(named.parent.parent)]
    monkeypatch.setattr(sys, "argv", ["sb3-pgr enjoy", *flags])
    with pytest.raises(UsageError, match="record-video"):
        enjoy.main()


@pytest.mark.parametrize(
    "flags, loaded",
    [
        ([], 1),  # run 2 was killed
        (["--load-best"], 2),
        (["--exp-id", "2"], "Pendulum-v1_2 has no Pendulum-v1.zip; .* films those in checkpoints"),
        (["--exp-id", "1", "--load-best"], "Pendulum-v1_1 has no best_model.zip"),
        (["--load-last-checkpoint"], "has no rl_model_.*_steps.zip, which RL Zoo's --save-freq writes"),
        (["--exp-id", "-1"], "sac has no Pendulum-v1.zip"),
    ],
    ids=str,
)
def test_enjoy_takes_a_run_that_has_the_model(tmp_path, monkeypatch, capsys, flags, loaded):
    for number, name in ((1, "Pendulum-v1"), (2, "best_model")):
        folder = make_run(tmp_path / f"sac/Pendulum-v1_{number}", [1, 2], wanted=230)
        (folder / f"{name}.zip").touch()
    monkeypatch.setattr(sys, "argv", ["sb3-pgr enjoy", "--algo", "sac", "--env", "Pendulum-v1", "-f", str(tmp_path), *flags])
    monkeypatch.setattr("rl_zoo3.enjoy.enjoy", lambda: None)
    if isinstance(loaded, str):
        with pytest.raises(UsageError, match=loaded):
            enjoy.main()
        return
    enjoy.main()
    assert sys.argv[sys.argv.index("--exp-id") + 1] == str(loaded)
    assert ("Pendulum-v1_2 has no Pendulum-v1.zip; this is" in capsys.readouterr().out) == (loaded == 1)


@pytest.mark.parametrize("said, finished", [([], True), (["--final-episodes", "0"], True), (["--final-episodes=2"], False)])
def test_when_a_run_is_finished(named, said, finished):
    content = json.loads((named / "run.json").read_text())
    (named / "run.json").write_text(json.dumps({**content, "argv": said}))
    (place,) = find_runs([named.parent.parent])
    assert read_run(place).task == "Pendulum-v1" and read_run(place).finished == finished


def test_which_model_is_meant(tmp_path):
    for number in (1, 2):
        folder = tmp_path / f"logs/sac/Pendulum-v1_{number}"
        names = ["checkpoints/step_000000000100/model.zip", "rl_model_200_steps.zip", "best_model.zip", "Pendulum-v1.zip"]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
    parser = record_video._parser()

    def chosen(*flags):
        path = chosen_model(parser.parse_args(["--env", "Pendulum-v1", "-f", str(tmp_path / "logs"), *flags])).path
        return str(path.relative_to(tmp_path / "logs/sac"))

    assert chosen("--exp-id", "1", "--load-best") == "Pendulum-v1_1/best_model.zip"
    assert chosen("--exp-id", "2", "--load-checkpoint", "200") == "Pendulum-v1_2/rl_model_200_steps.zip"
    assert chosen("--exp-id", "2", "--load-checkpoint", "100").endswith("step_000000000100/model.zip")
    for missing in (["--exp-id", "3"], ["--load-checkpoint", "300"]):
        with pytest.raises(UsageError, match="list-models"):
            chosen(*missing)
