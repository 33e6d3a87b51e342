"""Building models, training on latent slates, and recording datasets by command."""

import os
import shutil
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import rl_zoo3.train
import torch as th
import yaml
from commands import run

from sb3_pgr.common.evaluation import HELD_OUT_SEED
from sb3_pgr.offline.readers import load_dataset
from sb3_pgr.zoo import collect, enjoy, gems, train
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.manager import Extras, Manager
from sb3_pgr.zoo.rendering import render_kwargs

LATENT = "gems/focused_topdown_latent-v0"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with tiny models of one world, and how to run commands there."""
    root = tmp_path_factory.mktemp("gems")
    where = dict(cwd=root, env={**os.environ, "SB3_PGR_MODELS": str(root / "models")})
    output = run("gems", "build", "--env", "gems/focused_topdown-v0", "--preset", "tiny", "--no-compile", **where)
    assert "slate_vae: items" in output and (root / "models/gems/focused_topdown/belief.pt").is_file()
    return root, where


def test_from_models_to_an_offline_score(world, monkeypatch):
    root, where = world
    small = ["policy_kwargs:dict(net_arch=[8])", "learning_starts:64", "gradient_steps:1", "n_envs:8", "compile:False"]
    arguments = ["--algo", "redq", "--env", LATENT, "-n", 1_600, "--save-freq", 800, "--eval-freq", 800, "--eval-episodes", 8]
    run("train", *arguments, "--n-eval-envs", 8, "-f", "logs", "-params", *small, **where)
    run_folder = next((root / "logs/redq").glob("*_1"))
    evaluations = np.load(run_folder / "evaluations.npz")
    assert evaluations["results"].shape == (2, 8) and (evaluations["ep_lengths"] == 100).all()

    recorded = ["gems", "collect", "--env", LATENT, "--users", 9]
    behaviours = ["--behaviour", "random", "logging", "medium", "expert", "--run", run_folder, "--through-decoder"]
    output = run(*recorded, *behaviours, "-o", "mixed.npz", **where)
    assert "900 transitions of 9 users" in output and "Medium: rl_model_" in output
    data = np.load(root / "mixed.npz")
    assert data["observations"].shape == (900, 20) and data["actions"].shape == (900, 32)
    assert data["slates"].dtype == np.int16 and data["clicks"].sum() == data["rewards"].sum()
    metadata = load_dataset(root / "mixed.npz").metadata
    assert metadata["through_decoder"] and metadata["agents"]["medium"]["timesteps"] in (800, 1_600)
    final = f"{LATENT.replace('/', '-')}.zip"
    assert metadata["agents"]["expert"] == {"run": str(run_folder), "model": final, "timesteps": 1_600}

    expert = [*recorded, "--behaviour", "expert", "--run"]
    shutil.copytree(run_folder, root / "logs/redq/stopped_2")
    (root / "logs/redq/stopped_2" / final).unlink()
    assert "has no final model" in run(*expert, "logs/redq/stopped_2", "-o", "x.npz", expect=2, **where)
    shutil.copytree(root / "models/gems/focused_topdown", root / "elsewhere")
    output = run(*recorded, "--behaviour", "random", "--models", "elsewhere", "-o", "elsewhere.npz", **where)
    assert load_dataset(root / "elsewhere.npz").metadata["env_kwargs"] == {"models": "elsewhere"}
    config = run_folder / LATENT.replace("/", "-") / "config.yml"
    kept = config.read_text()
    config.write_text(yaml.dump(dict(yaml.unsafe_load(kept)) | {"normalize": True}))
    assert "was trained with normalize" in run(*expert, run_folder, "-o", "x.npz", expect=2, **where)
    config.write_text(kept)

    assert "9 of 100 to 100 rows" in run("dataset", "info", "mixed.npz", **where)

    scored = ["--eval-freq", 20, "--eval-episodes", 8, "--n-eval-envs", 8, "--final-episodes", 8]
    small = ["policy_kwargs:dict(net_arch=[8])", "compile:False"]
    output = run(
        "train", "--algo", "iql", "--dataset", "mixed.npz", "-n", 40, *scored, "-f", "logs", "-params", *small, **where
    )
    assert "random slates and budget oracle" in output and "iql, last policy, 8 episodes" in output

    monkeypatch.chdir(root)
    monkeypatch.setenv("SB3_PGR_MODELS", where["env"]["SB3_PGR_MODELS"])
    recordings = []
    for seed in (3, 3, 4):
        again = ["random", "random-slates", "logging", "expert", "--run", run_folder, "--seed", seed, "-o", "again.npz"]
        monkeypatch.setattr(sys, "argv", ["sb3-pgr", *map(str, [*recorded[1:], "--behaviour", *again])])
        gems.main()
        recordings.append(dict(np.load("again.npz")))
    first, same, other = recordings
    assert all(np.array_equal(first[name], same[name]) for name in ("observations", "actions", "slates", "clicks"))
    assert not set(first["episode_ids"]) & set(other["episode_ids"])
    for differ in np.split(first["slates"] != other["slates"], [300, 500, 700]):
        assert differ.mean() > 0.5

    of_users = [*recorded[1:], "--observations", "privileged", "--behaviour"]
    monkeypatch.setattr(sys, "argv", ["sb3-pgr", *map(str, [*of_users, "random", "-o", "privileged.npz"])])
    gems.main()
    dataset = load_dataset("privileged.npz")
    assert dataset.observations.shape[1] == 51 and dataset.metadata["env_kwargs"] == {"observations": "privileged"}
    assert gym.make(LATENT, **dataset.metadata["env_kwargs"]).observation_space.shape == (51,)
    monkeypatch.setattr(sys, "argv", ["sb3-pgr", *map(str, [*of_users, "expert", "--run", run_folder, "-o", "x.npz"])])
    with pytest.raises(UsageError, match="agents act on beliefs; leave out expert"):
        gems.main()

    monkeypatch.setattr(
        sys, "argv", ["collect", "--env", LATENT, "--algo", "redq", "-f", "logs", "--episodes", "1", "-o", "one.npz"]
    )
    collect.main()
    assert load_dataset("one.npz").metadata["models"] == load_dataset("mixed.npz").metadata["models"] != {}

    # Models that were built anew mean other slates: neither dataset nor agent works with them.
    shutil.copytree(root / "models/gems/focused_topdown", root / "rebuilt/gems/focused_topdown")
    file = root / "rebuilt/gems/focused_topdown/slate_vae.pt"
    saved = th.load(file, weights_only=True)
    saved["state"]["low"] -= 0.1
    th.save(saved, file)
    monkeypatch.setenv("SB3_PGR_MODELS", str(root / "rebuilt"))
    monkeypatch.setattr(Manager, "extras", Extras())
    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", Manager)
    for verb, *rest in (
        [train, "--algo", "bc", "--dataset", "mixed.npz", "-n", 20],
        [train, "--resume", run_folder, "-n", 2_400],
        [enjoy, "--algo", "redq", "--env", LATENT, "--no-render"],
        [collect, "--env", LATENT, "--episodes", 1, "-o", "x.npz"],
        [gems, *recorded[1:], "--behaviour", "expert", "--run", run_folder, "-o", "x.npz"],
    ):
        monkeypatch.setattr(sys, "argv", ["sb3-pgr", *map(str, rest)])
        with pytest.raises(ValueError, match="is not the model that the agent or dataset was made with"):
            verb.main()


def test_videos_of_a_size_that_the_world_does_not_know():
    plain = render_kwargs("gems/focused_topdown-v0", {}, None)
    assert render_kwargs("gems/focused_topdown-v0", {}, (320, 240)) == plain == {"render_mode": "rgb_array"}


def test_one_bar_for_each_model(monkeypatch, tmp_path):
    bars = []

    class Bar:
        def __init__(self, desc, **kwargs):
            bars.append(desc)
            self.n = 0

        def update(self, steps):
            self.n += steps

        def set_postfix_str(self, text): ...

        def close(self): ...

    def build(engine, folder, preset, seed, device, compile, progress):
        for step in range(1, 11):
            progress("items", step, 10, 0.5)
        return {"seconds": 1, "slate_vae": {}, "belief_explained_variance": {}}

    monkeypatch.setattr(gems, "tqdm", Bar)
    monkeypatch.setattr(gems, "build_models", build)
    monkeypatch.setattr(sys, "argv", ["gems", "build", "--env", "gems/focused_topdown-v0", "--models", str(tmp_path)])
    gems.main()
    assert bars == ["items"]


def test_refusals(world):
    root, where = world
    collect = ["gems", "collect", "--env", LATENT, "-o", "x.npz", "--behaviour"]
    assert "--run RUN_FOLDER" in run(*collect, "expert", expect=2, **where)
    assert "is no run on" in run(*collect, "expert", "--run", root, expect=2, **where)
    assert "at least 2" in run(*collect, "random", "logging", "--users", 1, expect=2, **where)
    assert "no world of GeMS" in run("gems", "build", "--env", "CartPole-v1", expect=2, **where)
    assert "Did you mean" in run("gems", "build", "--env", "gems/focused_topdwn-v0", expect=2, **where)
    missing = run("train", "--algo", "redq", "--env", "gems/diffuse_mix_latent-v0", "-n", 100, expect=2, **where)
    assert "sb3-pgr gems build --env gems/diffuse_mix-v0" in missing and "Traceback" not in missing
    assert "--seed -1 must be 0 or more" in run(*collect, "random", "--seed", "-1", expect=2, **where)
    assert "only once" in run(*collect, "logging", "logging", expect=2, **where)
    assert "--through-decoder is for" in run(*collect, "random", "--through-decoder", expect=2, **where)
    assert not (root / "x.npz").exists()
    (root / "file").write_text("")
    build = ["gems", "build", "--env", "gems/focused_topdown-v0", "--preset", "tiny"]
    assert "Cannot write to file" in run(*build, "--models", "file", expect=2, **where)
    assert "--device nothing" in run(*build, "--device", "nothing", expect=2, **where)


def test_runs_of_neighbouring_seeds_have_users_of_their_own(tmp_path, monkeypatch):
    users = []

    def seen(manager, model):
        model.env.reset()
        users.append(set(model.env.get_attr("stream")[0].seeds.tolist()))

    monkeypatch.setattr(Manager, "learn", seen)
    monkeypatch.setattr(Manager, "extras", Extras())
    monkeypatch.setattr(rl_zoo3.train, "ExperimentManager", Manager)
    world = ["--algo", "redq", "--env", "gems/focused_topdown-v0", "--eval-freq", "-1", "-f", str(tmp_path)]
    params = ["n_envs:64", "buffer_size:100", "env_kwargs:dict(actions='top_k', observations='privileged')"]
    for seed in ("0", "1", "0"):
        monkeypatch.setattr(sys, "argv", ["train", *world, "--seed", seed, "-params", *params])
        train.main()
    assert users[0] == users[2] and len(users[0] | users[1]) == 128
    assert not {*range(HELD_OUT_SEED, HELD_OUT_SEED + 10_000)} & (users[0] | users[1])


def test_specifications_of_the_benchmarks(tmp_path, monkeypatch):
    from sb3_pgr.zoo.errors import UsageError
    from sb3_pgr.zoo.registry import register
    from sb3_pgr.zoo.studies.spec import load_spec, runs_of

    register()
    folder = Path(__file__).parents[1] / "benchmarks" / "gems"
    runs = runs_of(load_spec(folder / "online.yml"))
    assert len(runs) == 18 and len({run.path for run in runs}) == 18
    monkeypatch.chdir(tmp_path)  # where the datasets are not
    with pytest.raises(UsageError) as problems:
        load_spec(folder / "offline.yml")
    lines = str(problems.value).splitlines()[1:]
    tasks = yaml.safe_load((folder / "offline.yml").read_text())["tasks"]
    assert len(lines) == len(tasks) and all("there is no file" in line for line in lines)
    assert yaml.safe_load((folder / "cql_bcq.yml").read_text())["tasks"].keys() <= tasks.keys()
