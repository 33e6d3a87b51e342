"""The page about many runs: what it reads, computes and writes. How it behaves in a browser is in ``test_report_page``."""

import csv
import json
import os
import shutil
from collections import OrderedDict

import numpy as np
import pytest
import yaml
from commands import run as command
from report_runs import make_benchmark, make_run, write_progress
from rliable import library, metrics

from sb3_pgr.common.evaluation import bootstrap_interval, interquartile_mean
from sb3_pgr.report import NoRunsError, build_report
from sb3_pgr.report.clock import Clock
from sb3_pgr.report.comparison import Comparison, _probability, _share_above, compare
from sb3_pgr.report.curves import _common_points, over_seconds, over_steps
from sb3_pgr.report.folders import find_runs
from sb3_pgr.report.run import read_run
from sb3_pgr.report.settings import read_settings
from sb3_pgr.report.summary import summarise
from sb3_pgr.report.tasks import sort_runs


def tasks_of(*roots):
    return {task.name: task for task in sort_runs([read_run(place) for place in find_runs(roots)])}


def rows_of(tasks):
    return [row for task in tasks.values() for row in summarise(task)]


def remarks_of(folder):
    (place,) = find_runs([folder])
    return read_run(place).remarks


def problems_of(folder):
    (place,) = find_runs([folder])
    return " | ".join(read_run(place).problems)


# ---- folders


def test_layouts(tmp_path):
    make_benchmark(tmp_path / "out", ["task"], ["arm"], [3])
    make_run(tmp_path / "logs/sac/dmc-cheetah-run-v0_2", [1, 2], env="dmc/cheetah-run-v0", seed=7)
    make_run(tmp_path / "logs/bc/Pendulum-v1_1", [1, 2], last=3.0, behaviour=1.0)
    runs = [read_run(place) for place in find_runs([tmp_path])]
    assert [(run.task, run.arm, run.seed) for run in runs] == [
        ("Pendulum-v1 (gone)", "bc", 0), ("dmc/cheetah-run-v0", "sac", 7), ("task", "arm", 3),
    ]  # fmt: skip
    assert all(run.finished and not run.problems for run in runs)
    inner = tmp_path / "logs/sac/dmc-cheetah-run-v0_2"
    assert len(find_runs([inner, tmp_path / "logs/sac", tmp_path / "logs"])) == 2  # each once, whatever is named


def test_logs_in_folders_called_after_seeds_are_no_benchmark(tmp_path):
    for algo in ("sac", "td3"):
        make_run(tmp_path / "proj/logs/seed_0" / algo / "Pendulum-v1_1", [1, 2])
    assert list(tasks_of(tmp_path)["Pendulum-v1"].groups) == ["sac", "td3"]


def test_nothing_there(tmp_path):
    with pytest.raises(NoRunsError, match=r"no folder .*nowhere"):
        find_runs([tmp_path, tmp_path / "nowhere"])
    with pytest.raises(NoRunsError, match="is empty"):
        find_runs([tmp_path])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(NoRunsError, match=r"holds notes.txt.*benchmark.*logs of"):
        find_runs([tmp_path])


def test_arms_of_two_folders_are_kept_apart_where_they_share_a_seed(tmp_path):
    for name, seeds in (("old", [0, 1]), ("new", [1, 2])):
        make_benchmark(tmp_path / name, ["task"], ["sac"], seeds)
    assert list(tasks_of(tmp_path / "old", tmp_path / "new")["task"].groups) == ["sac (new)", "sac (old)"]
    make_benchmark(tmp_path / "old", ["other"], ["sac"], [0])
    assert list(tasks_of(tmp_path / "old", tmp_path / "new")["other"].groups) == ["sac (old)"]  # the same arm on all tasks
    shutil.rmtree(tmp_path / "new/task/sac/seed_1")
    assert list(tasks_of(tmp_path / "old", tmp_path / "new")["task"].groups) == ["sac"]


# ---- broken runs are said, never dropped


def test_broken_files(tmp_path):
    folder = make_run(tmp_path / "sac/Pendulum-v1_1", [1, 2, 3])
    whole = (folder / "evaluations.npz").read_bytes()
    for damaged in (b"", whole[:3], whole[:100], whole[:-10], whole.replace(b"\x00", b"\x01", 50)):
        (folder / "evaluations.npz").write_bytes(damaged)
        assert "evaluations.npz" in problems_of(tmp_path) and "nothing in it can be shown" in problems_of(tmp_path)
    np.savez(folder / "evaluations.npz", timesteps=np.arange(3), results=np.zeros(3))
    assert "not (n, episodes)" in problems_of(tmp_path)
    np.savez(folder / "evaluations.npz", timesteps=[100, 200], results=[[1, np.nan], [2, 3]])
    assert "1 of 2 evaluations are not finite" in problems_of(tmp_path)
    np.savez(folder / "evaluations.npz", timesteps=[200, 100], results=[[1, 2], [2, 3]])
    assert "do not increase" in problems_of(tmp_path)
    (folder / "evaluations.npz").unlink()
    assert "neither scores" in problems_of(tmp_path)
    (folder / "scores.json").write_text('{"last": {"return_mean": 4')
    assert "scores.json is damaged" in problems_of(tmp_path)
    (folder / "scores.json").write_text("[]")
    assert "holds a list" in problems_of(tmp_path)
    (folder / "scores.json").write_text('{"last": {"return_mean": NaN}}')
    assert "no finite return" in problems_of(tmp_path)
    (folder / "run.json").write_text("{")
    assert "run.json is damaged" in problems_of(tmp_path)
    (folder / "run.json").unlink()
    assert "run.json is missing" in problems_of(tmp_path)
    (folder / "Pendulum-v1/args.yml").write_text("a: [")
    assert "args.yml is damaged" in problems_of(tmp_path)
    shutil.rmtree(folder / "Pendulum-v1")
    assert "config.yml is missing" in problems_of(tmp_path)


@pytest.mark.parametrize("name", ["evaluations.npz", "progress.csv", "run.json", "scores.json", "config.yml", "args.yml"])
def test_any_damage_to_any_file_is_survived(tmp_path, name):
    folder = make_run(tmp_path / "sac/Pendulum-v1_1", [1, 2, 3], last=4.0, behaviour=1.0, reference=("ours", 0.0, 1.0))
    path = folder / name if (folder / name).exists() else folder / "Pendulum-v1" / name
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for kind in range(30):
        damaged = bytearray(whole[: rng.integers(len(whole))] if kind % 2 else whole)
        for place in rng.integers(max(len(damaged), 1), size=kind // 3):
            damaged[place : place + 1] = rng.bytes(1)
        path.write_bytes(damaged)
        (place,) = find_runs([tmp_path])
        assert rows_of({task.name: task for task in sort_runs([read_run(place)])})
    path.unlink()
    path.mkdir()
    (place,) = find_runs([tmp_path])
    assert read_run(place).problems or read_run(place).remarks


def test_configuration_makes_no_objects(tmp_path):
    folder = make_run(tmp_path / "sac/Pendulum-v1_1", [1])
    text = "!!python/object/apply:os.system ['touch made']\n"
    (folder / "Pendulum-v1/config.yml").write_text("policy: " + text)
    os.chdir(tmp_path)
    settings = read_settings(folder)
    assert not (tmp_path / "made").exists() and text in settings.texts["config.yml"]


def test_unfinished_runs(tmp_path):
    root = make_benchmark(tmp_path / "out", ["task"], ["sac", "td3"], [0, 1])
    late = root / "task/sac/seed_2/sac/task_1"
    make_run(late, [900, 901], env="task", seed=2, wanted=1_000)
    (late / "checkpoints/step_000000000300").mkdir(parents=True)
    never = root / "task/sac/seed_3"
    never.mkdir()
    (never / "arguments.json").write_text("[]")
    never.with_suffix(".log").write_text("ValueError: batch_size=-1\n")
    make_run(root / "task/late/seed_0/sac/task_1", [5, 6], env="task", wanted=1_000)
    for begun in ("sac/seed_2", "late/seed_0"):
        (root / "task" / begun / "arguments.json").write_text("[]")
    task = tasks_of(root)["task"]
    sac, alone = task.groups["sac"], task.groups["late"]
    assert [run.seed for run in sac.counted] == [0, 1] and len(sac.runs) == 4
    assert [run.seed for run in sac.runs] == [0, 1, 2, 3]
    assert sac.runs[2].problems == ["not finished: its last trace is at step 300 of 1,000"]
    assert "did not begin" in sac.runs[3].problems[0] and "batch_size=-1" in sac.runs[3].problems[0]
    assert alone.unfinished and len(alone.counted) == 1  # there are no others to show
    assert not task.held_out and any("not all runs have held-out" in note for note in task.notes)


def test_a_run_in_its_last_evaluation_does_not_change_what_others_are_measured_by(tmp_path):
    root = make_benchmark(tmp_path, ["a"], ["sac", "td3"], range(3))
    folder = next(root.glob("a/td3/seed_2/*/*"))
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "argv": ["--final-episodes", "100"]}))
    (folder / "scores.json").unlink()
    task = tasks_of(root)["a"]
    assert task.held_out and [run.seed for run in task.groups["td3"].counted] == [0, 1]


def test_linked_runs_are_found_once(tmp_path):
    make_run(tmp_path / "logs/sac/Pendulum-v1_1", [1, 2])
    links = tmp_path / "links"
    links.mkdir()
    for name, target in (("sac", "logs/sac"), ("again", "logs/sac"), ("circle", "links")):
        (links / name).symlink_to(tmp_path / target)
    assert len(find_runs([links])) == 1


def test_an_algorithm_with_other_seeds_does_not_stop_the_comparison(tmp_path):
    root = make_benchmark(tmp_path, ["a"], ["sac", "td3"], range(3))
    make_benchmark(tmp_path, ["a"], ["iql"], range(3, 6))
    found = compare(rows_of(tasks_of(root)))
    assert found.arms == ("sac", "td3") and found.left_out[0].startswith("iql: no two finished runs of these seeds")


def test_a_minari_dataset_makes_one_task_of_runs_with_scores_and_without(tmp_path):
    root = tmp_path / "iql"
    for number, source in enumerate(["minari:mine-v0", None]):
        folder = make_run(root / f"HalfCheetah-v5_{number}", [1, 2], env="HalfCheetah-v5", seed=number)
        content = json.loads((folder / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**content, "hyperparams": {"dataset": "mine-v0"}}))
        if source:
            (folder / "scores.json").write_text(json.dumps({"dataset": {"source": source}}))
    assert list(tasks_of(tmp_path)) == ["HalfCheetah-v5 (mine-v0)"]


def test_a_final_model_without_checkpoints_is_the_end(tmp_path):
    folder = make_run(tmp_path / "ppo/Pendulum-v1_1", [1, 2], wanted=250)
    assert "not finished" in problems_of(tmp_path)
    (folder / "Pendulum-v1.zip").write_bytes(b"")
    assert not problems_of(tmp_path)


# ---- wall-clock


def test_clock_goes_on_after_a_resume(tmp_path):
    write_progress(tmp_path, [(100, 10), (200, 20), (300, 5), (400, 15)])
    assert np.allclose(Clock(tmp_path).seconds(np.array([50, 100, 150, 200, 300, 400, 500])), [5, 10, 15, 20, 25, 35, 45])


def test_a_resume_is_seen_from_the_rate_where_times_only_rise(tmp_path):
    # 10 steps a second; resumed at step 200 and logged next when the new part is 30 s old: 10 + 30 s, not 30.
    write_progress(tmp_path, [(100, 10), (500, 30), (600, 40)], rate=[10, 10, 10])
    assert np.allclose(Clock(tmp_path).seconds(np.array([100, 500, 600])), [10, 40, 50])
    rng = np.random.default_rng(0)
    for _ in range(50):  # of one part, however uneven, none is made two
        steps, seconds = np.cumsum(rng.integers(1, 2_000, 30)), np.cumsum(rng.exponential(7.0, 30))
        write_progress(tmp_path, list(zip(steps, seconds)), rate=(steps / seconds).astype(int))
        assert np.allclose(Clock(tmp_path).seconds(steps), seconds.astype(int))


def test_unknown_times(tmp_path):
    folder = make_run(tmp_path / "sac/Pendulum-v1_1", [1, 2])
    (folder / "progress.csv").unlink()
    assert remarks_of(tmp_path) == ["its wall-clock time is not known: progress.csv is missing"] and not problems_of(tmp_path)
    (folder / "progress.csv").write_text("time/total_timesteps,time/time_elapsed\n100,\n200\n\x00,")
    assert "holds no times" in remarks_of(tmp_path)[0]


# ---- numbers


def test_summary(tmp_path):
    root = make_benchmark(tmp_path, ["a"], ["sac", "td3"], range(5), behaviour=7.0, reference=("ours", 100.0, 300.0))
    task = tasks_of(root)["a"]
    best, worst = summarise(task)
    assert (best.group.arm, worst.group.arm) == ("td3", "sac") and task.behaviour == 7.0 and task.unit == "gradient steps"
    values = [104.5, 114.5, 124.5, 134.5, 144.5]
    assert best.last.values == tuple(values) and best.last.seeds == (0, 1, 2, 3, 4) and best.last.episodes == 10
    assert best.last.iqm == interquartile_mean(values) and best.last.interval == bootstrap_interval(values)
    assert best.last.mapped(task.reference.normalize).iqm == pytest.approx((124.5 - 100) / 2)
    assert best.late.values == (102, 112, 122, 132, 142) and best.best.values == (104, 114, 124, 134, 144)


def test_without_scores_the_last_evaluation_stands_for_the_last_policy(tmp_path):
    for seed in range(2):
        make_run(tmp_path / f"sac/HalfCheetah-v5_{seed}", [5, 9, 7 + seed], env="HalfCheetah-v5", seed=seed)
    task = tasks_of(tmp_path)["HalfCheetah-v5"]
    (row,) = summarise(task)
    assert row.last.values == (7, 8) and row.best.values == (9, 9) and not task.held_out
    assert task.reference.name.startswith("D4RL-v2")  # known for the environment


def test_notes(tmp_path):
    for number in (1, 2):
        folder = make_run(tmp_path / f"sac/Pendulum-v1_{number}", [1, 2])
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "hyperparams": {"learning_rate": 1.0}}))
    notes = " | ".join(tasks_of(tmp_path)["Pendulum-v1"].notes)
    assert "2 runs of seed 0 are counted as if" in notes and "differ in learning_rate" in notes


def test_lengths_and_environments_that_differ_are_said(tmp_path):
    make_run(tmp_path / "sac/Pendulum-v1_1", [1, 2], wanted=200)
    folder = make_run(tmp_path / "sac/Pendulum-v1_2", [1, 2, 3], seed=1, wanted=300)
    arguments = dict(algo="sac", env="Pendulum-v1", n_timesteps=300, seed=1, env_kwargs={"g": 9.81})
    (folder / "Pendulum-v1/args.yml").write_text(yaml.dump(OrderedDict(arguments)))
    assert "sac: its runs differ in env_kwargs, n_timesteps" in tasks_of(tmp_path)["Pendulum-v1"].notes


def test_curves(tmp_path):
    root = make_benchmark(tmp_path, ["a"], ["sac"], range(5), n=4)
    group = tasks_of(root)["a"].groups["sac"]
    band = over_steps(group)
    assert band.x.tolist() == [100, 200, 300, 400] and band.n_runs == 5
    values = np.array([[10 * seed + k for k in range(4)] for seed in range(5)])
    assert np.allclose(band.iqm, [interquartile_mean(column) for column in values.T]) and np.allclose(
        band.mean, values.mean(0)
    )
    assert np.allclose(band.extremes, [values.min(0), values.max(0)])
    exact = bootstrap_interval(values[:, 0])
    assert np.allclose(band.iqm_interval[:, 0], exact, atol=4)  # a tenth of the resamples
    assert over_seconds(group).x.tolist() == [10, 20, 30, 40]


def test_lines_end_where_the_first_run_ends_and_slow_runs_meet_fast_ones(tmp_path):
    make_run(tmp_path / "sac/Pendulum-v1_1", [0, 10, 20, 30], rate=10)
    make_run(tmp_path / "sac/Pendulum-v1_2", [0, 10, 20], seed=1, rate=5)
    task = tasks_of(tmp_path)["Pendulum-v1"]
    group = task.groups["sac"]
    assert over_steps(group).x.tolist() == [100, 200, 300] and over_steps(group).mean.tolist() == [0, 10, 20]
    band = over_seconds(group)  # shared from 20 s, where the slow one begins, to 40 s, where the fast one ends
    assert (band.x[0], band.x[-1]) == (20, 40) and (band.mean[0], band.mean[-1]) == (5, 20)
    assert "from step 100 to 300" in task.curve_notes[0]


@pytest.mark.parametrize("order", [1, -1])
def test_curves_that_share_little_are_drawn_in_either_order(order):
    first, second = np.array([10.0, 100.0]), np.array([40.0, 60.0])
    grid = _common_points([first, second][::order])
    assert (grid[0], grid[-1]) == (40, 60)


def test_comparison_is_rliables(tmp_path):
    root = make_benchmark(tmp_path, ["a", "b"], ["sac", "td3", "iql"], range(4))
    before = np.random.get_state()[1].copy()
    found = compare(rows_of(tasks_of(root)))
    assert np.array_equal(before, np.random.get_state()[1])
    assert isinstance(found, Comparison) and found.scale == "min-max" and found.seeds == (0, 1, 2, 3)
    assert found.tasks["a"] == "min-max: 0 is 4.5 and 100 is 234.5, the lowest and the highest of these runs"
    first = found.improvements[0]
    assert (first.better, first.worse, first.probability) == ("iql", "td3", 1.0) and len(found.improvements) == 3
    assert found.profiles["iql"][0] == 1 and found.profiles["iql"][-1] == 0 and (np.diff(found.profiles["iql"]) <= 0).all()
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (6, 3)).astype(float), rng.integers(0, 5, (6, 3)).astype(float)
    assert _probability(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))
    thresholds = np.linspace(-1, 6, 30)
    assert np.allclose(_share_above(x, thresholds), library.score_distributions(x, thresholds))


def test_what_cannot_be_compared_is_left_out_and_said(tmp_path):
    root = make_benchmark(tmp_path, ["a", "b"], ["sac", "td3"], range(3), reference=("ours", 0.0, 50.0))
    make_benchmark(tmp_path, ["a"], ["odd"], range(3))
    make_benchmark(tmp_path, ["c"], ["odd"], range(3))
    shutil.rmtree(root / "b/sac/seed_2")
    found = compare(rows_of(tasks_of(root)))
    assert found.arms == ("sac", "td3") and list(found.tasks) == ["a", "b"] and found.seeds == (0, 1)
    assert found.left_out == [
        "odd: no two finished runs of these seeds on each of these tasks",
        "c: no two finished runs of each of these algorithms",
        "seed 2: not of all algorithms on all tasks",
    ]  # fmt: skip
    assert found.scale == "reference" and found.thresholds[-1] > 100  # better than the reference is shown as such
    shutil.rmtree(root / "a/td3")
    shutil.rmtree(root / "b")
    shutil.rmtree(root / "a/odd")
    assert "at least two algorithms" in compare(rows_of(tasks_of(root)))


def test_runs_of_a_seed_that_is_there_twice_are_named(tmp_path):
    for study in ("one", "two"):
        make_benchmark(tmp_path / study, ["a"], ["sac", "td3"], range(2))
    found = compare(rows_of(tasks_of(tmp_path)))
    assert found.left_out == [
        f"{arm} on a: all but the last of 2 runs of seed {seed}" for arm in ("sac", "td3") for seed in (0, 1)
    ]


def test_algorithms_on_other_terms_are_no_comparison(tmp_path):
    for algo, steps, kwargs in (("sac", 300, dict(g=9.0)), ("td3", 300, dict(g=9.0)), ("redq", 200, dict(interventions="x"))):
        folder = make_run(tmp_path / algo / "Pendulum-v1_1", [1] * (steps // 100), last=1.0)
        file = folder / "Pendulum-v1/args.yml"
        arguments = yaml.load(file.read_text(), Loader=yaml.UnsafeLoader)
        file.write_text(yaml.dump(arguments | {"env_kwargs": kwargs}))
    (task,) = tasks_of(tmp_path).values()
    assert task.notes == [
        "its algorithms differ in steps (redq: 200; sac: 300; td3: 300)",
        "its algorithms differ in arguments of the environment (redq: none; sac: g=9.0; td3: g=9.0)",
    ]
    shutil.rmtree(tmp_path / "redq")
    (task,) = tasks_of(tmp_path).values()
    assert task.notes == []


def test_most_runs_are_compared(tmp_path):
    root = make_benchmark(tmp_path, list("uvwxyz"), ["sac", "td3", "iql"], range(2))
    for arm, task in (("sac", "x"), ("td3", "y"), ("iql", "z")):
        shutil.rmtree(root / task / arm)
    found = compare(rows_of(tasks_of(root)))  # nine cells; two arms have four tasks in common, eight cells
    assert (found.arms, list(found.tasks)) == (("iql", "sac", "td3"), ["u", "v", "w"])


# ---- files and page


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    root = make_benchmark(tmp_path_factory.mktemp("study") / "out", ["a", "b"], ["sac", "td3"], range(3))
    report = build_report([root], root.parent / "page.html", title="A study")
    return report, report.page.read_text()


def test_files_of_an_earlier_report_do_not_stay(tmp_path):
    root = make_benchmark(tmp_path / "out", ["a"], ["sac", "td3"], range(2))
    files = build_report([root], tmp_path / "page.html").files
    (files / "notes.txt").write_text("somebody's own")
    assert (files / "probability_of_improvement.tex").is_file()
    shutil.rmtree(root / "a/td3")
    build_report([root], tmp_path / "page.html")
    assert not list(files.glob("probability_of_improvement.*")) and not list(files.glob("performance_profile.*"))
    assert (files / "notes.txt").is_file() and (files / "results.csv").is_file()


def test_page_and_files(study):
    report, page = study
    assert (report.n_runs, report.n_incomplete, report.left_out) == (12, 0, [])
    assert "<h1>A study</h1>" in page and page.count("<h1") == 1 and '<html lang="en">' in page
    for name in ("learning_curves_steps", "learning_curves_wall_clock", "last_policies", "performance_profile"):
        assert (report.files / f"{name}.png").stat().st_size > 5_000 and "</svg>" in (report.files / f"{name}.svg").read_text()
    with open(report.files / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["algorithm"]) for row in rows] == [("a", "td3"), ("a", "sac"), ("b", "td3"), ("b", "sac")]
    assert float(rows[0]["last_iqm"]) == pytest.approx(114.5) and rows[0]["last_values"] == "104.5 114.5 124.5"
    assert r"\toprule" in (report.files / "results.tex").read_text()
    with open(report.files / "learning_curves.csv") as file:
        points = list(csv.DictReader(file))
    assert len(points) == 2 * 2 * 2 * 5 and {point["against"] for point in points} == {"timesteps", "seconds"}


def test_page_needs_no_network(study):
    _, page = study
    assert "default-src 'none'" in page
    without_scripts = page.split("<script")[0]
    assert "http:" not in without_scripts and "https:" not in without_scripts and "src=" not in without_scripts


def test_same_input_same_page(study, tmp_path):
    report, page = study
    again = build_report([report.page.parent / "out"], tmp_path / "page.html", title="A study").page.read_text()

    def charts(text):
        return text.split('id="charts">')[1].split("</script>")[0]

    assert charts(again) == charts(page)
    assert (tmp_path / "page_files/results.csv").read_bytes() == (report.files / "results.csv").read_bytes()


def test_names_are_no_markup(tmp_path):
    evil = "<script>alert(1)<"  # no folder has a slash in its name
    root = make_benchmark(tmp_path / "out", ["a&b"], [evil, "$x_1$"], range(2))
    folder = root / "a&b" / evil / "seed_0/sac/a&b_1"
    (folder / "a&b/config.yml").write_text(yaml.dump({"policy": "</pre><script>alert(2)</script>"}))
    (folder / "scores.json").write_text("</script><script>alert(3)</script>")
    report = build_report([root], tmp_path / "page.html", title="<b>bold</b>")
    page = report.page.read_text()
    assert "<script>alert" not in page and "<b>bold" not in page and "&lt;script&gt;alert(1)" in page
    assert page.count("<script") == 3 and page.count("</script>") == 3
    data = json.loads(page.split('id="charts">')[1].split("</script>")[0])
    assert {arm["name"] for arm in data["arms"]} == {evil, "$x_1$"}
    assert r"\$x\_1\$" in (report.files / "results.tex").read_text()


def test_videos_within_the_room_there_is(tmp_path):
    root = make_benchmark(tmp_path / "out", ["a"], ["sac", "td3"], range(2))
    for arm in ("sac", "td3"):
        for seed in range(2):
            folder = root / f"a/{arm}/seed_{seed}/sac/a_1/videos"
            folder.mkdir()
            for step, age in ((100, 2_000), (500, 1_000)):
                (folder / f"a_{step}.mp4").write_bytes(b"v" * 1_000)
                os.utime(folder / f"a_{step}.mp4", (1e9 - age, 1e9 - age))
            (folder / ".a_900.writing.mp4").write_bytes(b"")
    report = build_report([root], tmp_path / "page.html", embed_bytes=2_500)
    page = report.page.read_text()
    assert page.count("<video") == 2 and "a_500.mp4 of a, sac, seed 0" not in page
    assert "a_500 of a, sac, seed 0" in page and "a_500 of a, td3, seed 0" in page  # one of each before a second
    assert len(report.left_out) == 2 and all("seed_1" in text and "no room" in text for text in report.left_out)
    assert report.left_out[0] in page


def test_generators_and_datasets(tmp_path):
    root = make_benchmark(tmp_path / "out", ["a"], ["sac"], range(2), behaviour=7.25)
    folder = root / "a/sac/seed_0/sac/a_1/diagnostics"
    folder.mkdir()
    (folder / "refit_000000100.png").write_bytes(b"old")
    (folder / "refit_000000200.png").write_bytes(b"newest")
    (folder / "refits.csv").write_text("step,problem,nearest_ratio\n100,,1.23456789\n200,too far,2\n")
    (root / "a/sac/seed_1/sac/a_1/diagnostics").mkdir()
    (root / "a/sac/seed_1/sac/a_1/diagnostics/refits.csv").write_text("step,problem\n100\n")
    report = build_report([root], tmp_path / "page.html")
    page = report.page.read_text()
    assert "bmV3ZXN0" in page and 'b2xk"' not in page and "<td>1.235</td>" in page and "too far" in page
    assert "refits.csv of its generator cannot be read" in page
    assert "gone.npz" in page and "7.2" in page and "not where the run found it" in page


def test_runs_of_which_nothing_can_be_shown(tmp_path):
    folder = make_run(tmp_path / "logs/bc/data-v0_1", [1.0])
    (folder / "evaluations.npz").unlink()
    (folder / "videos").mkdir()
    (folder / "videos/a_1.mp4").write_bytes(b"v")
    report = build_report([tmp_path / "logs"], tmp_path / "page.html")
    page = report.page.read_text()
    assert "No run has anything to show" in page and "it has neither scores" in page and "<video" in page
    assert (report.n_runs, report.n_incomplete) == (1, 1)


# ---- by command


def test_benchmark_then_report(tmp_path):
    spec = {
        "tasks": {"pendulum": {"dataset": "data.npz"}}, "seeds": [0, 1], "n_timesteps": 60, "eval_freq": 30,
        "algorithms": {name: {"policy_kwargs": {"net_arch": [8]}} for name in ("bc", "td3_bc")},
        "eval_episodes": 1, "final_episodes": 2,
    }  # fmt: skip
    command("collect", "--env", "Pendulum-v1", "--random", "--episodes", 5, "-o", tmp_path / "data.npz")
    (tmp_path / "spec.yml").write_text(yaml.safe_dump(spec))
    command("benchmark", "spec.yml", "-o", "out", "--jobs", 2, cwd=tmp_path)
    output = command("report", "out", "-o", "page/report.html", cwd=tmp_path)
    assert "4 runs: page/report.html" in output
    page = (tmp_path / "page/report.html").read_text()
    assert "behaviour" in page and "1,000" in page and "terminations" in page  # the card has what the file tells
    assert (tmp_path / "page/report_files/dataset_1.png").is_file()
    with open(tmp_path / "out/runs.csv") as file:
        expected = {(row["algorithm"], row["seed"]): float(row["return_mean"]) for row in csv.DictReader(file)}
    with open(tmp_path / "page/report_files/runs.csv") as file:
        assert {(row["algorithm"], row["seed"]): float(row["last_policy"]) for row in csv.DictReader(file)} == expected


def test_wrong_usage_is_said(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "There is no folder nowhere" in command("report", "nowhere", expect=2, cwd=tmp_path)
    assert "which is empty" in command("report", "empty", expect=2, cwd=tmp_path)
    assert "ends in .html" in command("report", "empty", "-o", "page.pdf", expect=2, cwd=tmp_path)
    assert "0 or more" in command("report", "empty", "--embed-mb", -1, expect=2, cwd=tmp_path)
