"""``diagnose`` and ``upsample``, and PGRSAC through ``train``, as a user types them."""

import json
import shutil
import sys
from dataclasses import replace

import numpy as np
import pytest
from commands import run

from sb3_pgr.offline import load_dataset
from sb3_pgr.offline.readers import save_npz
from sb3_pgr.zoo import diagnose, upsample
from sb3_pgr.zoo.errors import UsageError

PGR = [
    "-params", "learning_starts:100", "gradient_steps:1", "policy_kwargs:dict(net_arch=[8])", "retrain_every:150",
    "num_samples:300", "generator:dict(denoiser_kwargs=dict(width=16, n_blocks=1), train_steps=30, dynamics_steps=30)",
    "replay_buffer_kwargs:dict(warmup=50, max_outside=1.0)",
]  # fmt: skip


def train(*arguments):
    run("train", *arguments)


def flags(folder, env="InvertedPendulum-v5", steps=320):
    return ["--algo", "pgrsac", "--env", env, "-n", steps, "-f", folder, "--seed", 1, "--num-threads", 1]


@pytest.fixture
def call(monkeypatch):
    """A command in this process: what starts it is tested elsewhere, and takes seconds."""

    def call(command, *arguments):
        monkeypatch.setattr(sys, "argv", ["sb3-pgr", *map(str, arguments)])
        command.main()

    return call


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    train(*flags(folder), "--checkpoint-freq", 200, *PGR)
    return folder / "pgrsac" / "InvertedPendulum-v5_1"


def test_run_folder_holds_diagnostics(trained):
    folder = trained / "diagnostics"
    assert {path.name for path in folder.iterdir()} == {
        "refits.csv", "refit_000000150.npz", "refit_000000150.png", "refit_000000300.npz", "refit_000000300.png",
    }  # fmt: skip
    assert "pgr/synthetic_share" in (trained / "progress.csv").read_text()


def test_resume(trained, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(trained, copied)
    train("--resume", copied, "-n", 480)
    assert (copied / "diagnostics" / "refit_000000450.npz").is_file()


def test_a_model_of_another_relevance_is_no_start(trained, tmp_path):
    given = ["-i", trained / "InvertedPendulum-v5.zip", *PGR, "relevance:'reward'"]
    output = run("train", *flags(tmp_path), *given, expect=2)
    assert "Saved with relevance Curiosity; this one has Reward" in output and "Traceback" not in output


def test_diagnose(trained, call, capsys):
    (trained / "diagnostics" / "refit_000000150.png").unlink()
    call(diagnose, trained)
    said = capsys.readouterr().out
    assert "marginal_distance" in said and "dynamics_error" in said
    assert (trained / "diagnostics" / "refit_000000150.png").stat().st_size > 20_000
    assert (trained / "diagnostics" / "refits.png").stat().st_size > 10_000


def test_packaged_configuration_by_name(tmp_path):
    train(*flags(tmp_path, steps=20), "--conf-file", "pgrsac_paper.yml", "-params", "num_samples:300")
    settings = json.loads((tmp_path / "pgrsac" / "InvertedPendulum-v5_1" / "run.json").read_text())["hyperparams"]
    assert settings["generator"] == "paper"


def dataset(path, n=400, discrete=False, **changes):
    random = np.random.default_rng(0)
    obs = random.normal(size=(n, 3)).astype(np.float32)
    actions = random.integers(4, size=n) if discrete else random.uniform(-2, 6, (n, 2)).astype(np.float32)
    data = {
        "observations": obs,
        "actions": actions,
        "rewards": obs[:, 0] * 10,
        "next_observations": obs + 0.1,
        "terminals": random.random(n) < 0.1,
        "timeouts": random.random(n) < 0.05,
    } | changes
    np.savez(path, **{name: value for name, value in data.items() if value is not None})
    return data


IMAGES = np.zeros((400, 3, 8, 8), np.uint8)
FAST = ["--num-samples", 150, "--train-steps", 60, "--relevance-steps", 5]


@pytest.mark.parametrize("relevance", ["uniform", "curiosity", "return_to_go"])
@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_upsample_keeps_the_format(tmp_path, call, relevance, discrete):
    dataset(tmp_path / "data.npz", discrete=discrete)
    call(upsample, tmp_path / "data.npz", *FAST, "--relevance", relevance)
    name = "data-synthetic" if relevance == "uniform" else f"data-{relevance}"  # they leave each other alone
    made, source = load_dataset(tmp_path / f"{name}.npz"), load_dataset(tmp_path / "data.npz")
    assert (tmp_path / name / "diagnostics" / "refits.csv").is_file()
    for name in ("observations", "actions", "rewards", "next_observations", "terminals"):
        ours, theirs = getattr(made, name), getattr(source, name)
        assert ours.dtype == theirs.dtype and ours.shape == (150, *theirs.shape[1:]), name
        assert ours.min() >= theirs.min() - 1e-4 and ours.max() <= theirs.max() + 1e-4, name
    if not discrete:
        assert made.actions.std(0).min() > 1  # in their own units
    assert (made.timeouts != made.terminals).all()  # each row stands for itself
    assert made.metadata["synthetic_from"] == source.fingerprint
    assert not made.played.any()
    np.testing.assert_array_equal(made.played_returns, source.episode_returns)


def test_upsample_keeps_what_returns_are_compared_with(tmp_path, call):
    dataset(tmp_path / "plain.npz")
    reference = {"name": "ours", "random": 1, "expert": 9}
    kept = {"reference": reference, "env_kwargs": {"gravity": 5.0}, "models": {"slate_vae": "12ab"}}
    real = replace(load_dataset(tmp_path / "plain.npz"), env_id="A-v0", metadata=kept | {"seed": 3, "noise": None})
    save_npz(real, tmp_path / "data.npz")
    call(upsample, tmp_path / "data.npz", *FAST)
    made = load_dataset(tmp_path / "data-synthetic.npz")
    assert made.env_id == "A-v0" and kept.items() <= made.metadata.items()
    assert made.metadata["seed"] == 0 and "noise" not in made.metadata


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(rewards=None), "lacks rewards; it holds actions"),
        (dict(actions=np.zeros((400, 2), int)), "integer actions must be one index"),
        (dict(observations=IMAGES, next_observations=IMAGES), "Observations are images"),
    ],
    ids=str,
)
def test_upsample_names_what_is_wrong(tmp_path, call, changes, message):
    dataset(tmp_path / "data.npz", **changes)
    with pytest.raises(UsageError, match=f"data.npz.*{message}"):
        call(upsample, tmp_path / "data.npz", *FAST)
    assert not (tmp_path / "data-synthetic.npz").exists()


def test_bad_arguments_are_named(tmp_path, call):
    dataset(tmp_path / "data.npz")
    (tmp_path / "text.npz").write_text("no archive")
    run_folder = tmp_path / "run" / "diagnostics"
    run_folder.mkdir(parents=True)
    (run_folder / "refit_000000010.npz").write_bytes(b"damaged")
    for command, arguments, message in (
        (upsample, [tmp_path / "none.npz", *FAST], "There is no file"),
        (upsample, [tmp_path / "text.npz", *FAST], "text.npz"),
        (upsample, [tmp_path / "data.npz", "--num-samples", 0], "--num-samples 0 must be at least 1"),
        (upsample, [tmp_path / "data.npz", *FAST, "-o", tmp_path / "data.npz"], "is the dataset itself"),
        (upsample, [tmp_path / "data.npz", *FAST, "-o", tmp_path / "data"], "is the dataset itself"),
        (upsample, [tmp_path / "data.npz", *FAST, "--device", "cuda:7"], "torch sees no such device"),
        (upsample, [tmp_path / "data.npz", *FAST, "--top-frac", 2], "cond_top_frac=2.0 must be"),
        (diagnose, [tmp_path], "holds no refits"),
        (diagnose, [tmp_path / "run"], "is not the report of a refit, or is damaged"),
    ):
        with pytest.raises(UsageError, match=message):
            call(command, *arguments)


def test_run_file_names_the_settings(trained):
    assert json.loads((trained / "run.json").read_text())["hyperparams"]["retrain_every"] == 150
