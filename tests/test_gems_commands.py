"""Building models, training on latent slates, and recording datasets by command."""

import os
from pathlib import Path

import numpy as np
import pytest
from commands import run

LATENT = "gems/focused_topdown_latent-v0"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with tiny models of one world, and how to run commands there."""
    root = tmp_path_factory.mktemp("gems")
    where = dict(cwd=root, env={**os.environ, "SB3_PGR_MODELS": str(root / "models")})
    output = run("gems", "build", "--env", "gems/focused_topdown-v0", "--preset", "tiny", "--no-compile", **where)
    assert "slate_vae: items" in output and (root / "models/gems/focused_topdown/belief.pt").is_file()
    return root, where


def test_from_models_to_an_offline_score(world):
    root, where = world
    small = ["policy_kwargs:dict(net_arch=[8])", "learning_starts:64", "gradient_steps:1", "n_envs:8", "compile:False"]
    arguments = ["--algo", "redq", "--env", LATENT, "-n", 1_600, "--save-freq", 800, "--eval-freq", 800, "--eval-episodes", 8]
    run("train", *arguments, "--n-eval-envs", 8, "-f", "logs", "-params", *small, **where)
    run_folder = next((root / "logs/redq").glob("*_1"))
    evaluations = np.load(run_folder / "evaluations.npz")
    assert evaluations["results"].shape == (2, 8) and (evaluations["ep_lengths"] == 100).all()

    collect = ["gems", "collect", "--env", LATENT, "--users", 9]
    output = run(
        *collect, "--behaviour", "random", "logging", "medium", "expert", "--run", run_folder, "-o", "mixed.npz", **where
    )
    assert "900 transitions of 9 users" in output and "Medium: rl_model_" in output
    data = np.load(root / "mixed.npz")
    assert data["observations"].shape == (900, 20) and data["actions"].shape == (900, 32)
    assert data["slates"].dtype == np.int16 and data["clicks"].sum() == data["rewards"].sum()

    assert "9 of 100 to 100 rows" in run("dataset", "info", "mixed.npz", **where)

    scored = ["--eval-freq", 20, "--eval-episodes", 8, "--n-eval-envs", 8, "--final-episodes", 8]
    small = ["policy_kwargs:dict(net_arch=[8])", "compile:False"]
    output = run(
        "train", "--algo", "iql", "--dataset", "mixed.npz", "-n", 40, *scored, "-f", "logs", "-params", *small, **where
    )
    assert "random slates and budget oracle" in output and "iql, last policy, 8 episodes" in output


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
    assert "only once" in run(*collect, "logging", "logging", expect=2, **where)
    assert not (root / "x.npz").exists()
    (root / "file").write_text("")
    build = ["gems", "build", "--env", "gems/focused_topdown-v0", "--preset", "tiny"]
    assert "Cannot write to file" in run(*build, "--models", "file", expect=2, **where)
    assert "--device nothing" in run(*build, "--device", "nothing", expect=2, **where)


def test_specifications_of_the_benchmarks():
    from sb3_pgr.zoo.errors import UsageError
    from sb3_pgr.zoo.registry import register
    from sb3_pgr.zoo.studies.spec import load_spec, runs_of

    register()
    folder = Path(__file__).parents[1] / "benchmarks" / "gems"
    runs = runs_of(load_spec(folder / "online.yml"))
    assert len(runs) == 18 and len({run.path for run in runs}) == 18
    with pytest.raises(UsageError) as problems:  # the datasets are made, not committed
        load_spec(folder / "offline.yml")
    lines = str(problems.value).splitlines()
    assert len(lines) == 7 and all("there is no file" in line for line in lines[1:])
