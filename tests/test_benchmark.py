"""Many runs by command."""

import csv
import fcntl
import json
import signal
import subprocess
import time

import numpy as np
import pytest
import yaml
from commands import command, run

from sb3_pgr.zoo import plots
from sb3_pgr.zoo.benchmark_report import Result, write_report
from sb3_pgr.zoo.plots import together

SPEC = {
    "tasks": {"pendulum": {"dataset": "data.npz"}},
    "algorithms": {"bc": {"policy_kwargs": {"net_arch": [8]}}, "td3": {"algo": "td3_bc", "policy_kwargs": {"net_arch": [8]}}},
    "seeds": [0, 1],
    "n_timesteps": 60,
    "eval_freq": 30,
    "eval_episodes": 1,
    "final_episodes": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("benchmark")
    run("collect", "--env", "Pendulum-v1", "--random", "--episodes", 5, "-o", root / "data.npz")
    (root / "spec.yml").write_text(yaml.safe_dump(SPEC))
    return root


def test_runs_once_and_reports(folder):
    output = run("benchmark", "spec.yml", "-o", "out", "--jobs", 2, cwd=folder)
    assert "4 runs, 0 finished before" in output and "4 of 4 runs" in output
    with open(folder / "out" / "runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["algorithm"], row["seed"]) for row in rows] == [("bc", "0"), ("td3", "0"), ("bc", "1"), ("td3", "1")]
    scores = json.loads(next((folder / "out/pendulum/td3/seed_1").glob("*/*/scores.json")).read_text())
    assert float(rows[3]["return_mean"]) == scores["last"]["return_mean"] and scores["seed"] == 1
    table = (folder / "out" / "table.md").read_text()
    values = [float(row["return_mean"]) for row in rows if row["algorithm"] == "td3"]
    assert f"| {np.mean(values):.1f} [" in table and "*behaviour (mean of the dataset)*" in table
    assert (folder / "out" / "curves.png").stat().st_size > 5_000

    before = {path: path.stat().st_mtime_ns for path in folder.glob("out/**/scores.json")}
    assert "4 runs, 4 finished before" in run("benchmark", "spec.yml", "-o", "out", cwd=folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("out/**/scores.json")} == before

    (folder / "spec.yml").write_text(yaml.safe_dump(SPEC | {"n_timesteps": 90}))
    for only in ([], ["--report"]):
        output = run("benchmark", "spec.yml", "-o", "out", *only, expect=2, cwd=folder)
        assert "runs of other settings: pendulum bc seed 0" in output
    (folder / "spec.yml").write_text(yaml.safe_dump(SPEC))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])  # SIGTERM: in test_studies.py
def test_an_interrupted_benchmark_goes_on(folder, number):
    """Its runs save and end, when their terminal is closed and even when their command is killed."""
    output = folder / f"long_{number.name}"
    long = SPEC | {"n_timesteps": 6_000, "eval_freq": 100_000, "algorithms": {"td3_bc": None}, "seeds": [0]}
    (folder / "long.yml").write_text(yaml.safe_dump(long))
    process = subprocess.Popen(command("benchmark", "long.yml", "-o", output), cwd=folder, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list(output.glob("**/run.json")) and time.time() < deadline:
        time.sleep(0.2)
    time.sleep(3)
    process.send_signal(number)
    assert process.wait(timeout=120) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    with open(output / ".lock") as lock:  # runs hold it as well
        fcntl.flock(lock, fcntl.LOCK_EX)
    assert list(output.glob("**/checkpoints/*/manifest.json")) and not list(output.glob("**/scores.json"))
    run("benchmark", "long.yml", "-o", output, cwd=folder)
    log = next(output.glob("**/seed_0.log")).read_text()
    assert "Resuming from" in log
    assert json.loads(next(output.glob("**/scores.json")).read_text())["updates"] == 6_000


def test_online_tasks_and_failures(folder):
    small = {"learning_starts": 50, "gradient_steps": 1, "policy_kwargs": {"net_arch": [8]}}
    spec = SPEC | {
        "tasks": {"pendulum": "Pendulum-v1"}, "seeds": [0], "n_timesteps": 200, "eval_freq": 100,
        "algorithms": {"broken": {"algo": "redq", "batch_size": -1}, "redq": small},
    }  # fmt: skip
    (folder / "online.yml").write_text(yaml.safe_dump(spec))
    output = run("benchmark", "online.yml", "-o", "online", "--jobs", 2, expect=1, cwd=folder)
    assert "failed: pendulum broken seed 0" in output and "1 of 2 runs" in output
    assert "batch_size=-1" in (folder / "online/pendulum/broken/seed_0.log").read_text()
    table = (folder / "online" / "table.md").read_text()
    assert "| pendulum | redq |" in table and "behaviour" not in table
    next((folder / "online" / "pendulum" / "redq").glob("**/scores.json")).unlink()
    output = run("benchmark", "online.yml", "-o", "online", "--jobs", 1, expect=1, cwd=folder)
    assert output.index("finished: pendulum redq") < output.index("failed: pendulum broken"), "what failed comes last"


def test_the_logs_are_named_where_nothing_succeeds(folder):
    spec = SPEC | {"tasks": {"pendulum": "Pendulum-v1"}, "seeds": [0], "algorithms": {"redq": {"batch_size": -1}}}
    (folder / "hopeless.yml").write_text(yaml.safe_dump(spec))
    output = run("benchmark", "hopeless.yml", "-o", "hopeless", expect=1, cwd=folder)
    assert "Failed: pendulum redq seed 0, see hopeless/pendulum/redq/seed_0.log" in output


def test_algorithms_without_checkpoints_finish(folder):
    spec = SPEC | {"tasks": {"pendulum": "Pendulum-v1"}, "seeds": [0], "algorithms": {"ars": {"n_delta": 1}}}
    (folder / "ars.yml").write_text(yaml.safe_dump(spec | {"n_timesteps": 800}))
    assert "1 of 1 runs" in run("benchmark", "ars.yml", "-o", "ars", cwd=folder)
    assert "1 finished before" in run("benchmark", "ars.yml", "-o", "ars", cwd=folder)


def result(arm, seed, last, steps=(1, 2, 3), updates=3):
    scores = {"algo": arm, "updates": updates, "last": {"return_mean": last, "return_std": 0.0, "episodes": 2}}
    return Result("task", arm, seed, scores, (np.array(steps), np.array(steps) * 10.0))


def test_rates_keep_their_digits_and_what_is_not_finite_is_said(tmp_path, capsys):
    write_report([result("sac", seed, last) for seed, last in enumerate([0.02, 0.04, 0.06, np.nan])], tmp_path)
    assert "| task | sac | 0.040 [0.020, 0.060] | 0.020, 0.040, 0.060, nan |" in capsys.readouterr().out
    assert "1 of 4 returns are not finite" in (tmp_path / "table.md").read_text()


def test_runs_that_learned_nothing_are_named(tmp_path, capsys):
    write_report([result("sac", 0, 1.0, updates=0), result("sac", 1, 1.0, updates=0), result("td3", 0, 1.0)], tmp_path)
    output = capsys.readouterr().out
    assert "task, sac: nothing was learned" in output and "td3: nothing" not in output


def test_runs_on_other_data_are_named(tmp_path, capsys):
    runs = [result("bc", seed, 1.0) for seed in range(2)]
    for each, fingerprint in zip(runs, "ab", strict=True):
        each.scores |= {"dataset": {"fingerprint": fingerprint}}
    write_report(runs, tmp_path)
    assert "task: its runs learned from 2 different datasets" in capsys.readouterr().out
    write_report(runs[:1], tmp_path)
    assert "different datasets" not in capsys.readouterr().out


def test_a_column_has_one_unit(tmp_path, capsys):
    """Only runs with a dataset have normalised scores."""
    offline, online = result("iql", 0, 30.0), result("sac", 0, 2_000.0)
    reference = {"name": "ours", "low": -20.0, "high": 3_234.0}
    offline.scores |= {"last": {**offline.scores["last"], "normalized": 1.5}, "reference": reference}
    write_report([offline], tmp_path)
    assert "| 1.50 |" in capsys.readouterr().out and "0 is -20" in (tmp_path / "table.md").read_text()
    write_report([online, offline], tmp_path)
    assert "| 30.0 |" in capsys.readouterr().out and "0 is -20" not in (tmp_path / "table.md").read_text()


def test_plots_keep_datasets_apart_and_bear_lines_that_were_cut_off(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_draw", lambda axis, name, curves, **_: drawn.append((name, len(curves))))
    for number, dataset in enumerate(["medium.npz", "medium.npz", "expert.npz"]):
        folder = tmp_path / f"iql/Hopper-v5_{number}"
        folder.mkdir(parents=True)
        (folder / "progress.csv").write_text("time/total_timesteps,loss\n100,0.5\n200,1.2e")
        content = {"argv": ["--dataset", dataset], "seed": 0, "hyperparams": None, "dataset_fingerprint": dataset}
        (folder / "run.json").write_text(json.dumps(content))
    argv = ["plots", "-a", "iql", "-e", "Hopper-v5", "-f", tmp_path, "--columns", "loss", "-o", tmp_path / "a.png"]
    monkeypatch.setattr("sys.argv", [str(part) for part in argv])
    plots.main()
    assert sorted(drawn) == [("IQL, expert", 1), ("IQL, medium", 2)]


def test_curves_are_averaged_at_the_same_steps():
    steps, returns = together([result("a", seed, 0.0, steps).curve for seed, steps in enumerate([(1, 2, 3, 4), (3, 4)])])
    assert steps.tolist() == [3, 4] and returns.tolist() == [[30, 40], [30, 40]]


def test_a_damaged_file_of_scores_is_named_and_left_out(folder):
    spec = SPEC | {"algorithms": {"bc": {"policy_kwargs": {"net_arch": [8]}}}}
    (folder / "bc.yml").write_text(yaml.safe_dump(spec))
    run("benchmark", "bc.yml", "-o", "bc", "--jobs", 2, cwd=folder)
    damaged = next((folder / "bc/pendulum/bc/seed_0").glob("*/*/scores.json"))
    damaged.write_text("")
    output = run("benchmark", "bc.yml", "-o", "bc", "--report", cwd=folder)
    assert "scores.json is damaged" in output and "1 of 2 runs" in output


def test_everything_wrong_is_said_at_once(folder):
    spec = {
        "tasks": {"a": {"dataset": "nowhere.npz"}, "b": "Nowhere-v0", "c": 3},
        "algorithms": {"iqll": {}, "iql": {"expectil": 1, "n_timesteps": 3, "dataset": "missing.npz"}},
        "seeds": [0, 0], "n_timesteps": -5, "colour": "red",
    }  # fmt: skip
    (folder / "wrong.yml").write_text(yaml.safe_dump(spec))
    output = run("benchmark", "wrong.yml", "-o", "wrong", expect=2, cwd=folder)
    expected = ["unknown key 'colour'", "Did you mean iql", "expectil", "seeds must be", "n_timesteps must be"]
    expected += ["n_timesteps is of the whole study", "no file missing.npz"]
    for message in (*expected, "nowhere.npz", "Nowhere", "tasks: c: must be"):
        assert message in output, message
    assert "10 problem(s)" in output or "11 problem(s)" in output
    assert not (folder / "wrong").exists() and "Traceback" not in output
    assert "no file" in run("benchmark", "nothing.yml", expect=2, cwd=folder)
    assert "--gpus means nothing with --engine local" in run(
        "benchmark", "spec.yml", "-o", "x", "--gpus", 1, expect=2, cwd=folder
    )
    assert "None of the 4 runs" in run("benchmark", "spec.yml", "-o", "empty", "--report", expect=2, cwd=folder)


def test_one_command_a_folder(folder):
    (folder / "locked").mkdir()
    with open(folder / "locked" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "still works in locked" in run("benchmark", "spec.yml", "-o", "locked", expect=2, cwd=folder)
