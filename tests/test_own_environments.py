"""Environments of a user's own package, in every command; and what is said where something does not fit."""

import json
import os
import re

import numpy as np
import pytest
import yaml
from commands import run

from sb3_pgr.offline.minari_format import save_minari
from sb3_pgr.offline.readers import env_id_of, load_dataset
from sb3_pgr.zoo.arguments import with_packages

SMALL = ["-params", "learning_starts:20", "buffer_size:500", "gradient_steps:1", "policy_kwargs:dict(net_arch=[8])"]
TRAIN = ["train", "--algo", "redq", "--eval-freq", -1, "-f", "logs"]
PACKAGE = """
import gymnasium as gym
import numpy as np

class Cart(gym.Env):
    action_space = gym.spaces.Box(-1, 1, (1,))
    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    def __init__(self, nested=False, render_mode=None):
        vector = gym.spaces.Box(-np.inf, np.inf, (2,))
        self.nested, self.render_mode = nested, render_mode
        self.observation_space = gym.spaces.Dict({"place": vector}) if nested else vector
    def _obs(self):
        return {"place": self.place} if self.nested else self.place
    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.normal(size=2).astype(np.float32)
        return self._obs(), {}
    def step(self, action):
        self.place = self.place + 0.1 * np.float32(action[0])
        return self._obs(), -float(abs(self.place).sum()), False, False, {}
    def render(self):
        return np.zeros((64, 64, 3), np.uint8)

class Counting(Cart):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        print("made", file=open("counted", "a"))
    def close(self):
        print("closed", file=open("counted", "a"))

gym.register("carts/Counting-v0", entry_point="my_carts:Counting", max_episode_steps=20)
gym.register("carts/Cart-v0", entry_point="my_carts:Cart", max_episode_steps=20)
gym.register("carts/CartDict-v0", entry_point="my_carts:Cart", max_episode_steps=20, kwargs=dict(nested=True))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds the package, a run of it and a dataset."""
    folder = tmp_path_factory.mktemp("carts")
    (folder / "my_carts.py").write_text(PACKAGE)
    yield folder


@pytest.fixture(scope="module")
def call(folder):
    home = folder / "home"
    environment = {**os.environ, "PYTHONPATH": str(folder), "MINARI_DATASETS_PATH": str(home)}
    return lambda *arguments, expect=0: run(*arguments, expect=expect, cwd=folder, env=environment)


@pytest.fixture(scope="module")
def dataset(folder, call):
    call("collect", "--env", "my_carts:carts/Cart-v0", "--random", "--episodes", 4, "-o", "random.npz")
    return "random.npz"


@pytest.fixture(scope="module")
def trained(call):
    return call(*TRAIN, "--env", "my_carts:carts/Cart-v0", "-n", 60, "--seed", 3, *SMALL)


def test_environments_of_evaluations_are_closed_too(call, folder):
    given = ["train", "--algo", "redq", "--eval-freq", 20, "--eval-episodes", 1, "-f", "counting", "-n", 40]
    call(*given, "--env", "my_carts:carts/Counting-v0", *SMALL)
    counted = (folder / "counted").read_text().split()
    assert counted.count("made") == counted.count("closed") >= 2


@pytest.mark.parametrize(
    "argv, expected",
    [
        (["--env", "A-v0"], ["--env", "A-v0"]),
        (["--env=p:A-v0", "-n", "5"], ["--env=p:A-v0", "-n", "5", "--env", "A-v0", "--gym-packages", "p"]),
        (
            ["--gym-packages", "q", "r", "--env", "p.s:A-v0"],
            ["--env", "p.s:A-v0", "--env", "A-v0", "--gym-packages", "q", "r", "p.s"],
        ),
    ],
)
def test_modules_before_an_id(argv, expected):
    assert with_packages(argv) == expected


def test_a_run_goes_on_without_its_package_being_named(folder, call, trained):
    run_folder = "logs/redq/carts-Cart-v0_1"
    assert "Resuming" in call("train", "--resume", run_folder, "-n", 80)
    assert json.loads((folder / run_folder / "run.json").read_text())["seed"] == 3
    assert "step_" in call("record-video", "--env", "carts/Cart-v0", "--list-models")  # needs no package
    call("enjoy", "--algo", "redq", "--env", "my_carts:carts/Cart-v0", "-n", 5)
    call("collect", "--env", "my_carts:carts/Cart-v0", "--episodes", 1, "-o", "trained.npz")


@pytest.mark.parametrize(
    "said, message",
    [
        (["--seed", 7], "--seed cannot change it"),
        (["--env", "Pendulum-v1"], "--env cannot change it"),
        (["--env-kwargs", "nested:True"], "--env-kwargs cannot change it"),
        (["--algo", "sac"], "--algo cannot change it"),
    ],
)
def test_resuming_as_another_run_is_refused(folder, call, trained, said, message):
    before = (folder / "logs/redq/carts-Cart-v0_1/carts-Cart-v0/command.txt").read_text()
    output = call("train", "--resume", "logs/redq/carts-Cart-v0_1", "-n", 100, *said, expect=2)
    assert message in output and "Traceback" not in output
    assert (folder / "logs/redq/carts-Cart-v0_1/carts-Cart-v0/command.txt").read_text() == before


def test_a_study(folder, call, dataset):
    spec = {
        "tasks": {"own": {"dataset": dataset}, "named": {"dataset": dataset, "env": "my_carts:carts/Cart-v0"}},
        "algorithms": {"bc": {"policy_kwargs": {"net_arch": [8]}}},
        "seeds": [0],
        "n_timesteps": 40,
        "eval_freq": 20,
        "eval_episodes": 1,
        "final_episodes": 1,
    }
    (folder / "without.yml").write_text(yaml.safe_dump(spec | {"tasks": {"own": {"dataset": dataset}}}))
    output = call("benchmark", "without.yml", "-o", "without", expect=2)
    assert "random.npz is from carts/Cart-v0, which is not registered here; gym_packages" in output
    (folder / "wrong.yml").write_text(yaml.safe_dump(spec | {"gym_packages": ["my_cats"], "seeds": 0}))
    output = call("benchmark", "wrong.yml", "-o", "wrong", expect=2)
    assert "gym_packages: there is no package 'my_cats'" in output and "seeds must be a list" in output
    (folder / "spec.yml").write_text(yaml.safe_dump(spec | {"gym_packages": ["my_carts"]}))
    assert "2 of 2 runs" in call("benchmark", "spec.yml", "-o", "out", "--jobs", 1)


def test_an_online_study_whose_runs_fail(folder, call):
    spec = {"tasks": {"own": "my_carts:carts/Cart-v0"}, "algorithms": {"redq": {"batch_size": -1}}, "seeds": [0]}
    (folder / "online.yml").write_text(yaml.safe_dump(spec | {"n_timesteps": 30, "final_episodes": 1}))
    output = call("benchmark", "online.yml", "-o", "online", "--jobs", 1, expect=1)
    assert "seed_0.log: sb3-pgr: redq on carts/Cart-v0: batch_size=-1 must be a whole number of at least 1" in output


def test_datasets_of_a_package_that_is_not_there(folder, call, dataset):
    assert env_id_of(folder / dataset) == "carts/Cart-v0"
    flags = [
        "train",
        "--algo",
        "bc",
        "--dataset",
        dataset,
        "-f",
        "logs",
        "-n",
        20,
        "-params",
        "policy_kwargs:dict(net_arch=[8])",
    ]
    assert "--eval-freq -1 trains without evaluations" in call(*flags, expect=2)
    call(*flags[:-2], "--eval-freq", -1, *flags[-2:])
    assert "is not registered here" in call("dataset", "convert", dataset, "carts/random-v0", expect=2)
    call("dataset", "convert", dataset, "carts/random-v0", "--gym-packages", "my_carts")  # the id was not used up


def test_an_id_is_not_used_up_by_what_fails(folder, monkeypatch):
    import minari

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "other_home"))
    data = load_dataset({name: np.zeros((4, 2), np.float32) for name in ("observations", "next_observations", "actions")}
                        | {"rewards": np.zeros(4), "terminals": np.arange(4) == 3})  # fmt: skip

    class Refused(RuntimeError):
        pass

    def fail(*args, **kwargs):
        (folder / "other_home" / "kind" / "set-v0" / "data").mkdir(parents=True)
        raise Refused

    with monkeypatch.context() as patch, pytest.raises(Refused):
        patch.setattr(minari, "create_dataset_from_buffers", fail)
        save_minari(data, "kind/set-v0")
    save_minari(data, "kind/set-v0")


def test_mixing_onto_a_dataset_is_refused(folder, call, dataset):
    before = (folder / dataset).read_bytes()
    assert "the first name is the file to write" in call("dataset", "mix", dataset, dataset, expect=2)
    assert (folder / dataset).read_bytes() == before
    assert "a number of rows" in call("dataset", "mix", "new.npz", f"{dataset}:-5", expect=2)
    (folder / "text.npz").write_text("no arrays")
    assert "it is no such file, or was cut off" in call("dataset", "info", "text.npz", expect=2)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["train", "--algo", "redq", "--env", "carts/Cart-v0"], "my_package:MyEnv-v0"),
        (["train", "--algo", "redq", "--env", "cats:carts/Cart-v0"], "there is no package 'cats'"),
        ([*TRAIN, "--env", "my_carts:carts/CartDict-v0", "-n", 30, *SMALL], "redq on carts/CartDict-v0: .*MultiInputPolicy'"),
        ([*TRAIN, "--env", "CartPole-v1", "-n", 30, *SMALL], "redq on CartPole-v1: The algorithm only supports"),
        ([*TRAIN, "--env", "Pendulum-v1", "-n", -100], "-n must be at least 1"),
        ([*TRAIN, "--env", "Pendulum-v1", "--eval-episodes", 0], "--eval-episodes must be at least 1"),
        ([*TRAIN, "--env", "Pendulum-v1", "-i", "nope.zip"], "there is no such zip file"),
        ([*TRAIN, "--env", "Pendulum-v1", "-conf", "list.yml"], "list.yml must map environments"),
        ([*TRAIN, "--env", "Pendulum-v1", "-conf", "other.yml"], "neither settings for Pendulum-v1 nor a `default`"),
        ([*TRAIN, "--env", "Pendulum-v1", "-n", 30, "-params", "gamma:1.5"], r"gamma=1\.5 must be between 0 and 1"),
        (["record-video", "--env", "Pendulum-v1", "--episodes", -1], "--episodes must be at least 1"),
        (["enjoy", "--algo", "redq", "--env", "my_carts:carts/Cart-v0", "--exp-id", 9], "There is no run 9 .* there are 1"),
        (
            ["collect", "--env", "my_carts:carts/CartDict-v0", "--model-path", "logs/redq/carts-Cart-v0_1/carts-Cart-v0.zip",
             "--episodes", 1, "-o", "other.npz"],
            "is of another environment: its observation_space is",
        ),
    ],
    ids=range(13),
)  # fmt: skip
def test_what_does_not_fit(folder, call, trained, arguments, message):
    (folder / "list.yml").write_text("[1, 2]")
    (folder / "other.yml").write_text("Hopper-v5: {n_timesteps: 10}")
    before = set((folder / "logs" / "redq").glob("*"))
    output = call(*arguments, expect=2)
    assert re.search(message, output) and "Traceback" not in output, output
    assert set((folder / "logs" / "redq").glob("*")) == before  # nothing is left of what never began
