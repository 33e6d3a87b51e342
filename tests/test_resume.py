"""A run that is killed and resumed ends where the uninterrupted one does, bit for bit."""

import multiprocessing
import os
import shutil
import signal
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pgr import (
    PGRSAC,
    REDQ,
    GenerativeReplayBuffer,
    HybridSAC,
    MixtureReplayBuffer,
    PrioritizedReplayBuffer,
    PrioritizedReplayCallback,
    TensorReplayBuffer,
)
from sb3_pgr.common.callbacks import ResumableCheckpoint
from sb3_pgr.common.checkpoint import (
    CheckpointError,
    _verify,
    latest_checkpoint,
    load_checkpoint,
    remove_unfinished,
    save_checkpoint,
)

STEPS, SAVE_FREQ = 600, 40
REPLAY = dict(
    retrain_every=110,
    num_samples=200,
    generator=dict(denoiser_kwargs=dict(width=16, n_blocks=1), train_steps=20, dynamics_steps=20),
    relevance=dict(name="curiosity", hidden_dim=8, update_every=3),
)
SAC_BUFFERS = {
    "sac": (None, {}),
    "sac-prioritized": (PrioritizedReplayBuffer, {}),
    "sac-mixture": (MixtureReplayBuffer, dict(shares={"online": 1, "demos": 1})),
    "sac-shared": (TensorReplayBuffer, {}),
    "sac-generative": (GenerativeReplayBuffer, REPLAY | dict(warmup=50, max_outside=1.0)),
}
SMALL = dict(net_arch=[16, 16])
DEMONSTRATIONS = {
    "observations": np.zeros((20, 3), np.float32),
    "actions": np.linspace(-2, 2, 20, dtype=np.float32)[:, None],
    "rewards": np.ones(20),
    "next_observations": np.ones((20, 3), np.float32),
    "terminals": np.arange(20) == 19,
    "timeouts": np.zeros(20, bool),
}


class HelpAbove(gym.Wrapper):
    """Somebody takes over while the pendulum is in its upper half."""

    def step(self, action):
        helps = self.unwrapped.state[0] % (2 * np.pi) < np.pi / 2
        action = np.array([0.5], np.float32) if helps else action
        obs, reward, terminated, truncated, info = self.env.step(action)
        return obs, reward, terminated, truncated, info | ({"intervene_action": action} if helps else {})


def build(algo: str = "redq", n_envs: int = 1, normalize: bool = False, seed: int = 3):
    env = make_vec_env("CartPole-v1" if algo in ("dqn", "ppo") else "Pendulum-v1", n_envs=n_envs)
    if normalize:
        env = VecNormalize(env)
    if algo == "redq":
        return REDQ(
            "MlpPolicy", env, learning_starts=100, gradient_steps=4, policy_delay=2, n_critics=4, buffer_size=500,
            batch_size=32, learning_rate=lambda progress: 1e-3 * progress, policy_kwargs=dict(SMALL), seed=seed,
        )  # fmt: skip
    if algo == "droq":
        kwargs = SMALL | dict(layer_norm=True, dropout_rate=0.1, normalize_observations=True)
        return REDQ("MlpPolicy", env, learning_starts=100, gradient_steps=2, n_critics=2, policy_kwargs=kwargs, seed=seed)
    if algo == "simba":
        kwargs = dict(actor_hidden_dim=16, critic_hidden_dim=16, critic_blocks=1)
        return REDQ("SimbaPolicy", env, learning_starts=100, gradient_steps=2, n_critics=2, policy_kwargs=kwargs, seed=seed)
    if algo == "hybrid":
        env = make_vec_env("Pendulum-v1", n_envs=n_envs, wrapper_class=HelpAbove)
        return HybridSAC(
            "MlpPolicy", env, DEMONSTRATIONS, gradient_steps=2, buffer_size=300, policy_kwargs=dict(SMALL), seed=seed
        )
    if algo == "pgrsac":
        kwargs = REPLAY | dict(replay_buffer_kwargs=dict(warmup=50, max_outside=1.0))
        return PGRSAC("MlpPolicy", env, learning_starts=100, gradient_steps=2, policy_kwargs=dict(SMALL), seed=seed, **kwargs)
    if algo == "redq-prioritized":
        kwargs = dict(replay_buffer_class=PrioritizedReplayBuffer, replay_buffer_kwargs=dict(n_steps=2))
        return REDQ("MlpPolicy", env, learning_starts=100, gradient_steps=2, policy_kwargs=dict(SMALL), seed=seed, **kwargs)
    if algo in SAC_BUFFERS:
        kwargs = dict(replay_buffer_class=SAC_BUFFERS[algo][0], replay_buffer_kwargs=SAC_BUFFERS[algo][1])
        kwargs["optimize_memory_usage"] = algo == "sac-shared"
        model = SAC("MlpPolicy", env, learning_starts=100, buffer_size=300, policy_kwargs=dict(SMALL), seed=seed, **kwargs)
        if algo == "sac-mixture":
            model.replay_buffer.set_source("demos", filled(model))
        return model
    if algo == "sde":
        return SAC("MlpPolicy", env, learning_starts=100, buffer_size=500, use_sde=True, policy_kwargs=dict(SMALL), seed=seed)
    if algo == "dqn":
        return DQN("MlpPolicy", env, learning_starts=100, buffer_size=500, policy_kwargs=dict(SMALL), seed=seed)
    return PPO("MlpPolicy", env, n_steps=32, batch_size=32, seed=seed)


def filled(model: SAC) -> TensorReplayBuffer:
    rows = TensorReplayBuffer(20, model.observation_space, model.action_space, model.device)
    actions = DEMONSTRATIONS["actions"] / 2
    rows.extend(*(DEMONSTRATIONS[name] for name in ("observations", "next_observations")), actions, np.ones(20), np.zeros(20))
    rows.generator.manual_seed(7)
    return rows


def train(folder: Path, kwargs: dict, stop_at: int | None = None) -> None:
    """Train to the end, from the newest checkpoint if there is one; leave the final weights."""
    model = build(**kwargs)
    resume_from = latest_checkpoint(folder)
    callback = ResumableCheckpoint(folder, SAVE_FREQ, keep=2, patience=0, resume_from=resume_from)
    if resume_from is not None:
        callback.restore(model)
    callbacks = [callback, PrioritizedReplayCallback()] if kwargs.get("algo") == "sac-prioritized" else [callback]
    model.learn(STEPS - model.num_timesteps, callback=callbacks, reset_num_timesteps=resume_from is None)
    if isinstance(getattr(model, "replay_buffer", None), GenerativeReplayBuffer):
        assert model.replay_buffer.generator.n_fits > 3 and model.replay_buffer.statistics()["synthetic"]["drawn"] > 0.3
    if kwargs.get("algo") == "sac-mixture":
        assert model.replay_buffer.statistics()["demos"]["drawn"] == pytest.approx(0.5, abs=0.01)
    state = {name: value for name, value in model.policy.state_dict().items()}
    state["optimizers"] = [
        tensor
        for optimizer in (getattr(getattr(model, name, None), "optimizer", None) for name in ("actor", "critic", "policy"))
        if optimizer is not None
        for entry in optimizer.state.values()
        for tensor in entry.values()
    ]
    th.save(state, folder / "final.tmp")
    os.replace(folder / "final.tmp", folder / "final.pt")


def run(folder: Path, kwargs: dict) -> multiprocessing.Process:
    # A forked child starts at once, with everything imported, and dies like any other process.
    process = multiprocessing.get_context("fork").Process(target=train, args=(folder, kwargs), daemon=True)
    process.start()
    return process


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(
        all(th.equal(a, b) for a, b in zip(first[key], second[key], strict=True))
        if isinstance(first[key], list)
        else th.equal(first[key], second[key])
        for key in first
    )


def finish(folder: Path, kwargs: dict) -> dict:
    process = run(folder, kwargs)
    process.join()
    assert process.exitcode == 0
    return th.load(folder / "final.pt")


def test_killed_at_twenty_random_moments(tmp_path):
    """Ten kills at random times, ten as soon as a checkpoint is being written."""
    kwargs = dict(algo="redq")
    started = time.monotonic()
    (tmp_path / "whole").mkdir()
    expected = finish(tmp_path / "whole", kwargs)
    duration = time.monotonic() - started
    rng = np.random.default_rng(0)
    folder = tmp_path / "killed"
    folder.mkdir()
    kills = in_write = 0
    while kills < 20:
        process = run(folder, kwargs)
        if kills % 2:
            deadline = time.monotonic() + 60
            while process.is_alive() and time.monotonic() < deadline and not list(folder.glob(".writing-*")):
                pass
        else:
            process.join(rng.uniform(0.05, 0.3) * duration)
        if not process.is_alive():
            # It came to its end before the kill: start anew, and count only real kills.
            assert same(th.load(folder / "final.pt"), expected)
            shutil.rmtree(folder)
            folder.mkdir()
            continue
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1
        in_write += bool(list(folder.glob(".writing-*")))
        for checkpoint in folder.glob("step_*"):
            _verify(checkpoint)  # whatever has its final name is whole
    assert in_write >= 3, "the kills never hit a write; the test is not testing that"
    assert same(finish(folder, kwargs), expected)
    assert not list(folder.glob(".writing-*"))


@pytest.mark.parametrize(
    "kwargs",
    [
        dict(algo="redq", n_envs=3),
        dict(algo="redq", normalize=True),
        dict(algo="droq"),
        dict(algo="simba"),
        dict(algo="hybrid", n_envs=2),
        dict(algo="redq-prioritized"),
        dict(algo="pgrsac", n_envs=2, normalize=True),
        *(dict(algo=algo) for algo in SAC_BUFFERS),
        dict(algo="sde"),
        dict(algo="dqn"),
        dict(algo="ppo", n_envs=2),
    ],
    ids=lambda kwargs: "-".join(map(str, kwargs.values())),
)
def test_resume_is_exact(tmp_path, kwargs):
    folders = [tmp_path / "whole", tmp_path / "killed"]
    for folder in folders:
        folder.mkdir()
    expected = finish(folders[0], kwargs)
    process = run(folders[1], kwargs)
    while process.is_alive() and len(list(folders[1].glob("step_*"))) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not (folders[1] / "final.pt").exists()
    assert same(finish(folders[1], kwargs), expected)


def test_other_seed_ends_elsewhere(tmp_path):
    """The comparison above can fail."""
    for seed in (3, 4):
        (tmp_path / str(seed)).mkdir()
    assert not same(finish(tmp_path / "3", dict(seed=3)), finish(tmp_path / "4", dict(seed=4)))


@pytest.fixture
def checkpoint(tmp_path):
    model = build()
    model.learn(120)
    return save_checkpoint(model, tmp_path / "checkpoints")


def test_keeps_the_newest(tmp_path):
    model = build()
    for timesteps in (10, 20, 30, 40):
        model.num_timesteps = timesteps
        save_checkpoint(model, tmp_path, keep=2)
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["step_000000000030", "step_000000000040"]


def test_hyper_parameters_are_those_of_the_new_model(checkpoint):
    model = build()
    model.gradient_steps, model.batch_size = 1, 8
    load_checkpoint(model, checkpoint)
    assert (model.gradient_steps, model.batch_size, model.num_timesteps) == (1, 8, 120)


def test_learn_may_be_called_again(tmp_path):
    model, callback = build(), ResumableCheckpoint(tmp_path, 50, patience=0)
    model.learn(120, callback=callback)
    model.learn(60, callback=callback, reset_num_timesteps=False)
    assert latest_checkpoint(tmp_path).name == "step_000000000170"


def test_older_checkpoint_starts_another_branch(tmp_path):
    for steps in (100, 200):
        model = build()
        model.num_timesteps = steps
        save_checkpoint(model, tmp_path)
    model = build()
    for abandoned in (1, 2, 3):
        ResumableCheckpoint(tmp_path, 50, resume_from=tmp_path / "step_000000000100").restore(model)
        assert latest_checkpoint(tmp_path).name == "step_000000000100"
        assert len(list(tmp_path.glob("abandoned-*/model.zip"))) == abandoned
        model.num_timesteps = 200
        save_checkpoint(model, tmp_path)


def test_statistics_are_there_even_if_nothing_is_left_to_train(tmp_path):
    model = build(normalize=True)
    model.learn(120)
    path = save_checkpoint(model, tmp_path)
    other = build(normalize=True)
    load_checkpoint(other, path)
    assert other.env.obs_rms.count > 100 and np.array_equal(other.env.obs_rms.mean, model.env.obs_rms.mean)


def test_a_logger_is_not_the_checkpoints_business(tmp_path):
    """Commands give their models one, scripts mostly do not; either may go on from the other's checkpoint."""
    for saved_with, restored_with in ((True, False), (False, True)):
        folder, loggers = tmp_path / str(saved_with), [configure(str(tmp_path / "log"), ["csv"]) for _ in range(2)]
        model = build()
        if saved_with:
            model.set_logger(loggers[0])
        model.learn(120)
        path, other = save_checkpoint(model, folder), build()
        if restored_with:
            other.set_logger(loggers[1])
        callback = ResumableCheckpoint(folder, 1_000, resume_from=path)
        callback.restore(other)
        other.learn(30, callback=callback, reset_num_timesteps=False)
        assert (other.logger is loggers[1]) == restored_with


@pytest.mark.parametrize("n_envs", [1, 4])
def test_no_episode_is_cut_where_all_end_together(tmp_path, n_envs):
    model = REDQ("MlpPolicy", make_vec_env("Pendulum-v1", n_envs), learning_starts=10_000, seed=0, device="cpu")
    model.learn(500 * n_envs, callback=ResumableCheckpoint(tmp_path, 250 * n_envs, patience=200))
    assert latest_checkpoint(tmp_path).name == f"step_{400 * n_envs:012d}"


def test_an_interruption_of_the_last_update_is_not_forgotten(tmp_path, monkeypatch):
    model, callback = build(), ResumableCheckpoint(tmp_path, 1_000)
    train = type(model).train

    def interrupted(self, *args, **kwargs):
        train(self, *args, **kwargs)
        if self.num_timesteps == 120:
            callback._hold(2, None)

    monkeypatch.setattr(type(model), "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        model.learn(120, callback=callback)
    assert latest_checkpoint(tmp_path).name == "step_000000000120"


def test_what_cannot_be_resumed_is_refused(tmp_path):
    model = SAC("MlpPolicy", "Pendulum-v1", optimize_memory_usage=True, buffer_size=100,
                replay_buffer_kwargs=dict(handle_timeout_termination=False))  # fmt: skip
    with pytest.raises(CheckpointError, match="optimize_memory_usage"):
        model.learn(10, callback=ResumableCheckpoint(tmp_path, 5))


def test_fresh_run_does_not_mix_with_another(checkpoint):
    with pytest.raises(CheckpointError, match="holds checkpoints of another run"):
        build().learn(10, callback=ResumableCheckpoint(checkpoint.parent, 100))


@pytest.mark.parametrize("name", ["model.zip", "replay_buffer.pt", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_damaged_checkpoint_is_named(checkpoint, name, damage):
    file = checkpoint / name
    content = file.read_bytes()
    if damage == "truncate":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        middle = len(content) // 2
        file.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=str(checkpoint)) as error:
        load_checkpoint(build(), checkpoint)
    assert name in str(error.value)


def test_foreign_folder_is_named(tmp_path, checkpoint):
    with pytest.raises(CheckpointError, match=r"no manifest\.json"):
        load_checkpoint(build(), tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        load_checkpoint(build(), tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="written by REDQ, not by SAC"):
        load_checkpoint(build("sac"), checkpoint)
    (checkpoint / "manifest.json").write_text('{"format": "somebody else\'s"}')
    with pytest.raises(CheckpointError, match="another kind"):
        load_checkpoint(build(), checkpoint)


def test_other_networks_are_refused(checkpoint):
    model = REDQ("MlpPolicy", "Pendulum-v1", n_critics=3, buffer_size=500, policy_kwargs=SMALL)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        load_checkpoint(model, checkpoint)


@pytest.mark.parametrize("moment", ["before", "between", "after"])
def test_a_checkpoint_is_never_lost_to_one_of_the_same_step(checkpoint, monkeypatch, moment):
    folder = checkpoint.parent
    model = build()
    model.num_timesteps = int(checkpoint.name.split("_")[1])
    replace, done = os.replace, []

    class Killed(BaseException):
        pass

    def die(source, target):
        if len(done) == {"before": 0, "between": 1, "after": 2}[moment]:
            raise Killed
        done.append(target)
        replace(source, target)

    def remove(path, **kwargs):
        if moment == "after" and "replaced" in str(path):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        if moment == "after":
            patch.setattr(shutil, "rmtree", remove)
        with pytest.raises(Killed):
            save_checkpoint(model, folder)
    remove_unfinished(folder)
    assert [path.name for path in folder.iterdir()] == [checkpoint.name]
    _verify(folder / checkpoint.name)


def test_buffers_of_another_class_are_refused(tmp_path):
    def model(buffer_class):
        return SAC("MlpPolicy", "Pendulum-v1", replay_buffer_class=buffer_class, buffer_size=50, device="cpu")

    path = save_checkpoint(model(PrioritizedReplayBuffer), tmp_path)
    for other in (TensorReplayBuffer, None):
        with pytest.raises(CheckpointError, match="holds a PrioritizedReplayBuffer"):
            load_checkpoint(model(other), path)


def test_interruption_is_given_back_even_after_failed_training(tmp_path):
    before, callbacks = signal.getsignal(signal.SIGINT), []
    for number in range(2):  # the second finds the first one's handler
        callbacks.append(ResumableCheckpoint(tmp_path / str(number), save_freq=10))
        callbacks[-1].init_callback(build())
        callbacks[-1].on_training_start({}, {})
    callbacks[1].release()
    assert signal.getsignal(signal.SIGINT) is before


def test_failed_write_keeps_the_last_checkpoint(tmp_path, checkpoint, monkeypatch):
    model = build()
    model.num_timesteps = 500

    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sb3_pgr.common.checkpoint.th.save", full_disk)
    with pytest.raises(CheckpointError, match=f"No space left on device.*last good checkpoint is {checkpoint}"):
        save_checkpoint(model, checkpoint.parent)
    assert [path.name for path in checkpoint.parent.iterdir()] == [checkpoint.name]
