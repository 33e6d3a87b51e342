"""The commands, as a user types them."""

import csv
import json
import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile

import gymnasium as gym
import numpy as np
import optuna
import pytest
import rl_zoo3.train
from commands import command, run
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pgr import __main__
from sb3_pgr.common.progress_csv import ResumableCSV
from sb3_pgr.common.video import record_episodes
from sb3_pgr.zoo import train as verb
from sb3_pgr.zoo.evaluations import restore_evaluations
from sb3_pgr.zoo.manager import Extras, Manager
from sb3_pgr.zoo.run_folder import find_models
from sb3_pgr.zoo.saved_model import SavedModel

SMALL = ["-params", "learning_starts:100", "gradient_steps:1", "n_critics:2", "policy_kwargs:dict(net_arch=[8])"]


def train(folder, *arguments, steps=300, env="Pendulum-v1", algo="redq", expect=0, params=SMALL):
    flags = ["--algo", algo, "--env", env, "-n", steps, "-f", folder, "--seed", 1, "--num-threads", 1]
    return run("train", *flags, *arguments, *params, expect=expect)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    video = ["--video-freq", 200, "--video-width", 64, "--video-height", 48, "--video-fps", 10]
    train(
        folder, "--eval-freq", 100, "--eval-episodes", 1, "--checkpoint-freq", 200, *video, env="dmc/cartpole-swingup-v0",
        params=[*SMALL, "env_kwargs:dict(frame_skip=20)"],
    )  # fmt: skip
    return folder


def test_run_folder(trained):
    root = trained / "redq" / "dmc-cartpole-swingup-v0_1"
    for name in (
        "0.monitor.csv", "best_model.zip", "evaluations.npz", "progress.csv", "run.json", "dmc-cartpole-swingup-v0.zip",
        "dmc-cartpole-swingup-v0/config.yml", "dmc-cartpole-swingup-v0/args.yml", "dmc-cartpole-swingup-v0/command.txt",
        "videos/dmc-cartpole-swingup-v0_200.mp4", "checkpoints/step_000000000200/manifest.json",
    ):  # fmt: skip
        assert (root / name).is_file(), name
    assert np.load(root / "evaluations.npz")["timesteps"].tolist() == [100, 200, 300]


def test_video_is_of_the_asked_size(trained):
    from moviepy import VideoFileClip

    with VideoFileClip(str(next(trained.glob("redq/*/videos/*.mp4")))) as clip:
        assert (tuple(clip.size), clip.fps) == ((64, 48), 10)
        assert clip.n_frames == pytest.approx(50, abs=1)  # 1 000 control steps, 20 at a time
        assert clip.get_frame(0).std() > 1


def test_record_video_takes_the_newest_run(trained):
    flags = ["--env", "dmc/cartpole-swingup-v0", "-f", trained, "--width", 64, "--height", 64]
    output = run(*flags, "--episodes", 2, module="sb3_pgr.record_video")
    assert (trained / "redq/dmc-cartpole-swingup-v0_1/videos/dmc-cartpole-swingup-v0_300.mp4").is_file()
    assert len(re.search(r"Returns: (.*)", output)[1].split(",")) == 2
    models = run("record-video", *flags, "--list-models").splitlines()
    assert len(models) == 4 and all(line.endswith(".zip") for line in models)
    run("record-video", *flags, "--model-path", models[-1], "-o", trained / "other.mp4")
    assert (trained / "other.mp4").is_file()
    assert "There is no saved model" in run("record-video", "--env", "Pendulum-v1", "-f", trained, expect=2)
    assert "at least 2 pixels" in run("record-video", *flags[:-1], 1, expect=2)


class Wide(gym.Env):
    """Three steps long, and brighter with each."""

    observation_space = action_space = gym.spaces.Box(-1, 1, (1,))
    metadata, render_mode = {"render_modes": ["rgb_array"], "render_fps": 10}, "rgb_array"

    def reset(self, seed=None, options=None):
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, np.float32), 1.0, self.steps == 3, False, {}

    def render(self):
        return np.full((65, 128, 3), 60 * self.steps, np.uint8)


@pytest.mark.parametrize("size, shown", [(None, (128, 64)), ((64, 64), (64, 64))], ids=["own", "fitted"])
def test_videos_show_the_end_and_keep_proportions(size, shown, tmp_path):
    from moviepy import VideoFileClip

    class Still:
        predict = staticmethod(lambda obs, **_: (np.zeros((1, 1), np.float32), None))

    env = DummyVecEnv([Wide])
    assert record_episodes(Still(), env, tmp_path / "video.mp4", episodes=2, size=size) == [3, 3]
    with VideoFileClip(str(tmp_path / "video.mp4")) as clip:
        assert tuple(clip.size) == shown and clip.n_frames == 8
        pictures = [clip.get_frame((i + 0.5) / 10) for i in range(8)]
    middle, corner = (np.array([picture[row, 32].mean() for picture in pictures]) for row in (32, 2))
    np.testing.assert_allclose(middle, [0, 60, 120, 180] * 2, atol=10)
    assert (corner.max() < 20) == (size is not None)  # bars above and below
    assert isinstance(env.envs[0], Wide)


def test_recurrent_policies_remember_while_they_are_filmed(tmp_path):
    seen = []

    class Remembering:
        @staticmethod
        def predict(obs, state, episode_start, deterministic):
            seen.append((state, bool(episode_start[0])))
            return np.zeros((1, 1), np.float32), len(seen)

    record_episodes(Remembering(), DummyVecEnv([Wide]), tmp_path / "video.mp4", episodes=2)
    assert seen == [(None, True), (1, False), (2, False), (3, True), (4, False), (5, False)]


def test_enjoy_and_plots(trained):
    flags = ["--algo", "redq", "--env", "dmc/cartpole-swingup-v0", "-f", trained]
    assert "Mean reward" in run("enjoy", *flags, "-n", 110)
    assert "no rl_model_123_steps.zip" in run("enjoy", *flags, "--load-checkpoint", 123, expect=2)
    output = trained / "curve.png"
    run("-a", "redq", "-e", "dmc/cartpole-swingup-v0", "-f", trained, "-o", output, module="sb3_pgr.plots")
    assert output.stat().st_size > 5_000
    columns = ["--columns", "evaluation return", "train/critic_loss"]
    run("plots", "-a", "redq", "-e", "dmc/cartpole-swingup-v0", "-f", trained, "-o", trained / "both.png", *columns)
    assert (trained / "both.png").stat().st_size > output.stat().st_size
    output = run(
        "plots",
        "-a",
        "redq",
        "-e",
        "dmc/cartpole-swingup-v0",
        "-f",
        trained,
        "-o",
        trained / "both.png",
        *columns,
        "train/los",
    )
    assert "No run of redq has train/los on dmc/cartpole-swingup-v0" in output
    assert "no evaluation return" in run("plots", "-a", "sac", "-e", "Pendulum-v1", "-f", trained, expect=2)
    nothing = run("plots", "-a", "redq", "-e", "dmc/cartpole-swingup-v0", "-f", trained, "--columns", "train/los", expect=2)
    assert "no train/los" in nothing and "progress.csv" in nothing


def test_buffer_by_dotted_name(tmp_path):
    config = tmp_path / "config.yml"
    config.write_text(
        "default:\n  n_timesteps: 100\n  policy: MlpPolicy\n  learning_starts: 50\n"
        "  replay_buffer_class: sb3_pgr.buffers.TensorReplayBuffer\n"
    )
    flags = ["-conf", config, "--eval-freq", -1, "--save-replay-buffer"]
    train(tmp_path, *flags, algo="sac", steps=100, params=[])
    with open(tmp_path / "sac/Pendulum-v1_1/replay_buffer.pkl", "rb") as file:
        assert type(pickle.load(file)).__name__ == "TensorReplayBuffer"


def test_algorithm_without_exact_resume_still_runs(tmp_path):
    output = train(tmp_path, "--eval-freq", -1, algo="ars", env="CartPole-v1", steps=200, params=["-params", "n_delta:2"])
    assert "No resumable checkpoints" in output


def test_normalised_and_stacked(tmp_path):
    params = ["n_steps:64", "batch_size:32", "policy_kwargs:dict(net_arch=[8])"]
    flags = ["--eval-freq", -1, "--checkpoint-freq", 64, "--final-episodes", 1]
    stacked = ["-params", *params, "normalize:dict(clip_obs=0.5)", "frame_stack:2"]
    train(tmp_path, *flags, algo="ppo", steps=128, params=stacked)
    run_folder = tmp_path / "ppo/Pendulum-v1_1"
    assert (run_folder / "scores.json").is_file() and (run_folder / "Pendulum-v1.zip").is_file()
    checkpoint = next(run_folder.glob("checkpoints/step_*/model.zip"))
    obs = SavedModel(checkpoint, "ppo").make_env("Pendulum-v1", 0).reset()
    assert obs.shape == (1, 6) and abs(obs).max() <= 0.5
    rewards = ["-params", *params, "normalize:dict(norm_obs=False,norm_reward=True)"]
    train(tmp_path, *flags, algo="ppo", steps=128, params=rewards)
    assert list((tmp_path / "ppo/Pendulum-v1_2").glob("checkpoints/step_*/vecnormalize.pt"))


def final_weights(run_folder):
    import torch as th
    from stable_baselines3.common.save_util import load_from_zip_file

    _, params, _ = load_from_zip_file(next(run_folder.glob("Pendulum-v1.zip")), load_data=False)
    return th.cat([value.flatten() for value in params["policy"].values()])


def test_resume_after_sigkill(tmp_path):
    """Same weights, evaluations and log lines at the same steps as the run that was not killed."""
    import torch as th

    flags = ["--checkpoint-freq", 200, "--eval-freq", 100, "--eval-episodes", 1, "-params", "normalize:True", *SMALL[1:]]
    train(tmp_path / "whole", *flags, steps=700, params=[])
    options = ["--algo", "redq", "--env", "Pendulum-v1", "-n", 700, "-f", tmp_path / "killed", "--seed", 1, "--num-threads", 1]
    process = subprocess.Popen(command("train", *options, *flags), stdout=subprocess.DEVNULL)
    folder = tmp_path / "killed/redq/Pendulum-v1_1"
    while process.poll() is None and not list(folder.glob("checkpoints/step_*400")):
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    output = run("train", "--resume", folder)
    assert "Resuming from" in output and "at step 400" in output
    whole = tmp_path / "whole/redq/Pendulum-v1_1"
    assert th.equal(final_weights(folder), final_weights(whole))
    evaluations = [np.load(path / "evaluations.npz")["timesteps"].tolist() for path in (whole, folder)]
    assert evaluations[0] == evaluations[1]
    logs = [list(csv.DictReader(open(path / "progress.csv"))) for path in (whole, folder)]
    assert [row["time/total_timesteps"] for row in logs[0]] == [row["time/total_timesteps"] for row in logs[1]]
    assert "already reached step" in run("train", "--resume", folder, "-n", 300, expect=2)
    assert "-params cannot change" in run("train", "--resume", folder, "-params", "gamma:0.5", expect=2)
    run("train", "--resume", folder, "-n", 800, "--checkpoint-freq", 50)
    assert "already reached step 800 of 800" in run("train", "--resume", folder, expect=2)  # what was added is remembered


def test_the_log_keeps_what_it_held(tmp_path):
    path = tmp_path / "progress.csv"
    path.write_text("time/total_timesteps,note,loss\n100,warm,0.5\n200,hot,\n300,cut")
    log = ResumableCSV(path, 200)
    log.write({"time/total_timesteps": 250, "loss": 0.1}, {"time/total_timesteps": (), "loss": ()})
    log.close()
    rows = list(csv.DictReader(open(path)))
    assert [row["time/total_timesteps"] for row in rows] == ["100", "200", "250"]
    assert [row["note"] for row in rows] == ["warm", "hot", ""] and [path.name for path in tmp_path.iterdir()] == [path.name]


def test_the_last_model_is_the_newest_and_never_the_best(tmp_path):
    run = tmp_path / "Pendulum-v1_1"
    for step in (400, 600):
        (run / f"checkpoints/step_{step:012}").mkdir(parents=True)
        (run / f"checkpoints/step_{step:012}/model.zip").touch()
    (run / "rl_model_500_steps.zip").touch()
    (run / "best_model.zip").touch()
    assert [path.parent.name[-3:] if path.stem == "model" else path.stem for path in find_models(run)] == [
        "600", "rl_model_500_steps", "400", "best_model"
    ]  # fmt: skip
    for steps, place in ((550, 1), (600, 0)):
        with zipfile.ZipFile(run / "Pendulum-v1.zip", "w") as file:
            file.writestr("data", json.dumps({"num_timesteps": steps}))
        assert find_models(run)[place] == run / "Pendulum-v1.zip"


def test_evaluations_go_on_with_their_successes(tmp_path):
    callback = EvalCallback(gym.make("Pendulum-v1"), n_eval_episodes=2, log_path=str(tmp_path))
    old = dict(timesteps=[10, 20], results=[[1, 2], [3, 4]], ep_lengths=[[5, 5], [5, 5]], successes=[[0, 1], [1, 1]])
    np.savez(tmp_path / "evaluations.npz", **old)
    restore_evaluations(callback, 10)
    assert callback.evaluations_successes == [[0, 1]] and callback.evaluations_timesteps == [10]


@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_ctrl_c_saves_and_exits_with_130(tmp_path, vec_env):
    flags = ["train", "--algo", "redq", "--env", "Pendulum-v1", "-n", 100_000, "-f", tmp_path, "--num-threads", 1, *SMALL]
    flags += ["n_envs:2", "--vec-env", vec_env]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(command(*flags), start_new_session=True, **pipes)
    folder = tmp_path / "redq/Pendulum-v1_1"
    deadline = time.monotonic() + 120
    monitor = folder / "0.monitor.csv"
    while time.monotonic() < deadline and not (monitor.exists() and len(monitor.read_text().splitlines()) > 2):
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume" in output and "Traceback" not in output
    assert (folder / "Pendulum-v1.zip").is_file() and list(folder.glob("checkpoints/step_*/manifest.json"))


BAD = {
    "unknown verb": (["trian"], 1, "Did you mean train"),
    "no algorithm": (["train", "--env", "Pendulum-v1"], 2, "--algo"),
    "no environment": (["train", "--algo", "redq"], 2, "--env"),
    "algorithm": (["train", "--algo", "reqd", "--env", "Pendulum-v1"], 2, "Did you mean redq"),
    "environment": (["train", "--algo", "redq", "--env", "dmc/chetah-run-v0"], 2, "dmc/cheetah-run-v0"),
    "retired": (["train", "--algo", "redq", "--env", "Hopper-v3"], 2, "use Hopper-v5"),
    "name": (["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "gama:0.9"], 2, "Did you mean 'gamma'"),
    "type": (["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "tau:'x'"], 2, "tau must be float, not 'x'"),
    "whole number": (
        ["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "learning_starts:1e3"], 2, "(float). Write 1000."
    ),
    "no number": (
        ["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "compile:1"], 2, "compile must be bool, not 1 (int).\n"
    ),
    "value": (["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "tau:x"], 2, "cannot be read as python"),
    "form": (["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "tau"], 2, "name:value"),
    "policy_kwargs": (
        ["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "policy_kwargs:dict(layer_nrom=True)"], 2, "layer_norm"
    ),
    "conflict": (["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "n_target_critics:20"], 2, "between 1 and"),
    "discrete actions": (["train", "--algo", "redq", "--env", "CartPole-v1"], 2, "action spaces"),
    "foreign model": (
        ["record-video", "--env", "Pendulum-v1", "--algo", "redq", "--model-path", __file__], 2, "cannot be loaded as a model"
    ),
    "stray model": (["record-video", "--env", "Pendulum-v1", "--model-path", __file__], 2, "--algo"),
    "video size": (["train", "--algo", "redq", "--env", "Pendulum-v1", "--video-width", "0"], 2, "both sides"),
    "stacks": (
        ["train", "--algo", "sac", "--env", "Pendulum-v1", "-params", "normalize:True", "frame_stack:3"], 2, "stacks belong"
    ),
    "layer": (
        ["train", "--algo", "redq", "--env", "Pendulum-v1", "-params", "policy_kwargs:dict(net_arch=[-4])"], 2, "negative"
    ),
    "resume nothing": (["train", "--resume", "nowhere"], 2, "run.json"),
    "no folder": (["diagnose", "nowhere"], 2, "no folder nowhere"),
    "no run": (["enjoy", "--algo", "redq", "--env", "Pendulum-v1"], 2, "no run of redq"),
}  # fmt: skip


@pytest.mark.parametrize("arguments, code, message", BAD.values(), ids=BAD)
def test_bad_input_is_named_without_a_traceback(tmp_path, arguments, code, message):
    output = run(*arguments, expect=code, cwd=tmp_path)
    assert message in output and "Traceback" not in output


@pytest.mark.parametrize(
    "text, message",
    [
        ("default:\n  n_timesteps: 100\n  policy: MlpPolicy\n  batch_sise: 3\n", "Did you mean 'batch_size'"),
        ("default:\n  n_timesteps: 100\n  policy: MlpPolicy\n  learning_rate: 3e-4\n", "3.0e-4"),
        ("default:\n  n_timesteps: 1e5\n  policy: MlpPolicy\n", "n_timesteps must be a number"),
        ("default: [\n", "not valid YAML"),
        ("other-v0:\n  n_timesteps: 100\n", "neither settings for Pendulum-v1 nor a `default`"),
    ],
    ids=["name", "float", "steps", "syntax", "missing"],
)
def test_bad_yaml_is_named(tmp_path, text, message):
    config = tmp_path / "mine.yml"
    config.write_text(text)
    output = run("train", "--algo", "redq", "--env", "Pendulum-v1", "-conf", config, "-f", tmp_path, expect=2)
    assert message in output and "mine.yml" in output and "Traceback" not in output


def test_unwritable_folder_is_said_before_training(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    output = train(blocked, expect=2)
    assert f"Cannot write to {blocked}" in output and "Traceback" not in output


def test_damaged_checkpoint_is_said(trained, tmp_path):
    import shutil

    folder = tmp_path / "redq" / "dmc-cartpole-swingup-v0_1"
    shutil.copytree(trained / "redq/dmc-cartpole-swingup-v0_1", folder)
    model = max(folder.glob("checkpoints/step_*/model.zip"))
    model.write_bytes(model.read_bytes()[:1000])
    output = run("train", "--resume", folder, "-n", 400, expect=1)
    assert "model.zip has 1000 bytes" in output and "Traceback" not in output


def test_nan_stops_with_a_checkpoint(tmp_path):
    (tmp_path / "bad_env.py").write_text(
        "import gymnasium as gym\n"
        "from gymnasium.envs.classic_control import PendulumEnv\n"
        "class Bad(PendulumEnv):\n"
        "    steps = 0\n"
        "    def step(self, action):\n"
        "        obs, reward, *rest = super().step(action)\n"
        "        Bad.steps += 1\n"
        "        return (obs, float('nan') if Bad.steps == 150 else reward, *rest)\n"
        "gym.register('Bad-v0', entry_point=Bad, max_episode_steps=200)\n"
    )
    flags = ["train", "--algo", "redq", "--env", "Bad-v0", "--gym-packages", "bad_env", "-f", "logs", "-n", 300]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    flags += ["--eval-freq", -1, "-params", "normalize:True", *SMALL[1:]]
    output = run(*flags, expect=1, cwd=tmp_path, env=environment)
    assert "Step 150: environment 0 returned nan in its reward" in output and "Traceback" not in output
    assert list((tmp_path / "logs/redq/Bad-v0_1/checkpoints").glob("step_*"))


def test_optimize(tmp_path):
    """Twice, as two machines would: they share trials through Optuna's storage."""
    flags = (
        "-optimize --n-trials 1 --n-evaluations 1 --eval-episodes 1 --sampler random --pruner none --no-optim-plots".split()
    )
    flags += ["--no-optim-plots", "--study-name", "shared", "--storage", f"sqlite:///{tmp_path}/study.db"]
    for _ in range(2):
        train(tmp_path, *flags, steps=200, params=["-params", "learning_starts:190"])
    assert list(tmp_path.glob("redq/report_*.csv"))
    study = optuna.load_study(study_name="shared", storage=f"sqlite:///{tmp_path}/study.db")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("missing", [ModuleNotFoundError("rl_zoo3", name="rl_zoo3"), KeyboardInterrupt()])
def test_starting_without_rl_zoo_and_ctrl_c_meanwhile(monkeypatch, missing):
    def fail(name):
        raise missing

    monkeypatch.setattr("importlib.import_module", fail)
    with pytest.raises(SystemExit) as stopped:
        __main__.run("train")
    assert stopped.value.code == 130 or "pip install 'sb3_pgr[zoo]'" in stopped.value.code


def test_a_closed_pipe_is_no_error():
    shell = " ".join(map(shlex.quote, command("list-envs"))) + " | true; echo ${PIPESTATUS[0]}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout == "0\n" and "BrokenPipe" not in done.stderr


def test_list_envs():
    assert run("list-envs", "cheetah").split() == ["dmc/cheetah-run-v0", "HalfCheetah-v4", "HalfCheetah-v5"]


def test_runs_that_learn_nothing_are_told(tmp_path):
    said = "Nothing is learned in 150 steps: learning_starts=5000."
    assert said in train(tmp_path, "--eval-freq", -1, "--checkpoint-freq", 0, steps=150, params=[])
    assert "Nothing is learned" not in train(tmp_path, "--eval-freq", -1, "--checkpoint-freq", 0, steps=150)
    said = train(tmp_path, "--eval-freq", -1, "--checkpoint-freq", 0, steps=150, algo="pgrsac")
    assert "Nothing is generated in 150 steps: retrain_every=5000." in said


@pytest.mark.parametrize(
    "steps, given, expected", [(20_000, (), 2_000), (3_000, (), 1_000), (1_000_000, (), 25_000), (20_000, ("7000",), 7_000)]
)
def test_short_runs_are_evaluated_too(steps, given, expected, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(Manager, "learn", lambda manager, model: seen.append(manager.eval_freq))
    monkeypatch.setattr(Manager, "extras", Extras())
    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", Manager)
    arguments = ["--algo", "redq", "--env", "Pendulum-v1", "-n", str(steps), "-f", str(tmp_path), "-params", "buffer_size:100"]
    monkeypatch.setattr(sys, "argv", ["train", *arguments, *(("--eval-freq", *given) if given else ())])
    verb.main()
    assert seen == [expected]
