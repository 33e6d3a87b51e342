"""Tables of our own runs in the pages say what the files of results say."""

import csv
import json

import numpy as np
import pytest
from documented import ROOT
from scipy import stats

RESULTS = ROOT / "benchmarks" / "results" / "offline_quality"
ALGORITHMS = {"BC": "bc", "BC, best tenth": "bc_best", "TD3BC": "td3_bc", "IQL": "iql", "CQL": "cql", "BCQ": "bcq"}
DATASETS = ("halfcheetah-medium-replay", "hopper-medium-replay", "walker2d-medium-replay")


def returns(dataset: str, side: str, algo: str) -> str:
    """Of the last policy, each seed."""
    files = sorted((RESULTS / dataset).glob(f"{side}_{algo}_seed?.json"))
    means = [json.loads(file.read_text())["curve"][-1]["return_mean"] for file in files]
    return ", ".join(f"{mean:.0f}" for mean in means)


def table(page: str, header: str) -> list[list[str]]:
    """Rows below the header, each a list of cells."""
    lines = (ROOT / "docs" / f"{page}.md").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(header)) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_datasets():
    tasks = json.loads((RESULTS.parent / "offline_datasets.json").read_text())["tasks"]
    expected = []
    for task, card in tasks.items():
        reference = [f"{card['reference'][name]:.0f}" for name in ("random", "expert")]
        for kind in ("medium", "medium-replay", "medium-expert"):
            made = card[kind]
            sizes = [f"{made['rows']:,}", f"{made['episodes']:,}", f"{made['return_mean']:.0f}"]
            expected.append([f"{task.split('-')[0].lower()}-{kind}", *sizes, *reference])
    assert len(expected) == 9 and table("offline", "| our dataset | rows") == expected


def test_all_of_them():
    dataset, found = "", []
    for name, algo, ours, peers in table("offline", "| dataset (mean return of the behaviour)"):
        dataset = name.partition(" ")[0] or dataset
        found.append((dataset, algo))
        expected = [returns(dataset, side, ALGORITHMS[algo]) for side in ("sb3_pgr", "d3rlpy")]
        assert [ours, peers] == expected, (dataset, algo)
    assert found == [(dataset, algo) for dataset in DATASETS for algo in ALGORITHMS]


@pytest.mark.parametrize("algo", ["td3_bc", "iql", "cql", "bcq"])
def test_of_one_algorithm(algo):
    sides = [("sb3_pgr", algo), ("d3rlpy", algo), ("sb3_pgr", "bc")]
    expected = [[dataset, *(returns(dataset, *side) for side in sides)] for dataset in DATASETS]
    assert table(algo, "| our dataset | ours | d3rlpy 2.8.1 | our BC") == expected


def test_of_behaviour_cloning():
    expected = [[dataset, *(returns(dataset, "sb3_pgr", algo) for algo in ("bc", "bc_best"))] for dataset in DATASETS]
    assert table("bc", "| our dataset | BC | BC, best tenth |") == expected


def of_study(name: str, algo: str, dataset: str = DATASETS[0]) -> str:
    """Returns of the seeds in a study of ours."""
    with open(RESULTS.parent / name / "runs.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["task"], row["algorithm"]) == (dataset, algo)]
    return ", ".join(f"{float(row['return_mean']):.0f}" for row in sorted(rows, key=lambda row: int(row["seed"])))


def test_after_more_updates():
    expected = [
        [name, returns(DATASETS[0], "sb3_pgr", ALGORITHMS[name]), of_study("offline_long", ALGORITHMS[name])]
        for name in ("BC", "TD3BC", "IQL")
    ]
    assert table("offline", "| | 50 000 updates (table above)") == expected
    hopper, value_based = DATASETS[1], (("BC", "50 000"), ("CQL", "3 000"), ("BCQ", "3 000"))
    expected = [
        [name, updates, returns(hopper, "sb3_pgr", ALGORITHMS[name]), of_study("offline_value", ALGORITHMS[name], hopper)]
        for name, updates in value_based
    ]
    assert table("offline", "| | updates before (table above)") == expected


def test_of_a_tenth_of_the_rows():
    def of_arm(arm: str, algo: str) -> str:
        files = sorted((RESULTS.parent / "offline_synther").glob(f"{arm}_{algo}_seed?.json"))
        return ", ".join(f"{json.loads(file.read_text())['return_mean']:.0f}" for file in files)

    algos = ("td3_bc", "iql")
    expected = {
        "a tenth": [of_arm("subset", algo) for algo in algos],
        "a tenth, and synthetic rows": [of_arm("upsampled", algo) for algo in algos],
        "all rows (table above)": [returns(DATASETS[2], "sb3_pgr", algo) for algo in algos],
    }
    assert {name: cells for name, _, *cells in table("offline", "| learned from | rows")} == expected


def of_gems(name: str) -> dict[tuple[str, str], list[float]]:
    """Returns of the seeds by world (or dataset) and algorithm."""
    found: dict[tuple[str, str], list[float]] = {}
    with open(RESULTS.parent / name / "runs.csv", newline="") as file:
        for row in sorted(csv.DictReader(file), key=lambda row: int(row["seed"])):
            found.setdefault((row["task"], row["algorithm"]), []).append(float(row["return_mean"]))
    return found


def rounded(values: list[float]) -> str:
    return ", ".join(f"{value:.0f}" for value in values)


def test_gems_agents():
    constant = {row[0]: row[5] for row in table("gems", "| world | random | logging")}
    found = of_gems("gems_online")
    for world, summary, seeds, _, slate, *_ in table("gems", "| world | SAC+GeMS, mean"):
        clicks = found.pop((world, "sac_gems"))
        half = stats.t.ppf(0.975, len(clicks) - 1) * stats.sem(clicks)
        mean = float(np.mean(clicks))
        assert summary == f"{mean:.0f} ({mean - half:.0f} to {mean + half:.0f})", world
        assert seeds == rounded(clicks)
        assert slate == constant[f"`gems/{world}-v0`"]
    assert not found


def test_gems_offline():
    found = of_gems("gems_offline")
    behaviour = {
        run["task"]: run["behaviour"]["return_mean"]
        for run in json.loads((RESULTS.parent / "gems_offline" / "runs.json").read_text())["runs"]
    }
    for dataset, returns_, *cells in table("gems", "| dataset | its mean return | `BC`, each seed"):
        assert returns_ == f"{behaviour[dataset]:.0f}"
        assert cells == [rounded(found.pop((dataset, algo))) for algo in ("bc", "td3_bc", "iql")], dataset
    assert not found

    found = of_gems("gems_cql_bcq")
    for dataset, *cells in table("gems", "| dataset | `BC`, each seed"):
        assert cells == [rounded(found.pop((dataset, algo))) for algo in ("bc", "cql", "bcq")], dataset
    assert not found


@pytest.mark.parametrize("study", ["levers", "levers_gpu", "unseen_earlier", "confirmation"])
def test_study_of_generative_replay(study):
    table = (RESULTS.parent / "pgr_study" / study / "table.md").read_text()
    assert table in (ROOT / "docs" / "pgr_study.md").read_text()


def test_targets_of_generated_rows():
    """A number for each seed, in the order of the file."""
    file = json.loads((RESULTS.parent / "pgr_study" / "unseen_earlier" / "targets.json").read_text())["runs"]
    errors = ("generated_error", "error_of_missed_ends", "error_of_false_ends", "error_of_other_rows")
    names = (*errors, "real_value_above_target", "new_value_above_target", "new_entropy", "ent_coef")
    found: dict[tuple[str, str], list[list[str]]] = {}
    for run, values in file.items():
        task, arm, _ = run.split()
        digits = [2 if name == "ent_coef" else 1 for name in names]
        cells = [
            f"{values[name]:.{n}f}".replace("-0.0", "0.0") if name in values else ""
            for name, n in zip(names, digits, strict=True)
        ]
        found.setdefault((f"`{task}`", arm), []).append(cells)
    for task, arm, *cells in table("pgr_study", "| task | arm | generated targets"):
        assert cells == [", ".join(seeds).strip(", ") for seeds in zip(*found[task, arm], strict=True)]


def test_generated_rewards():
    found = json.loads((RESULTS.parent / "generated_rewards.json").read_text())["results"]
    rows = table("pgr_study", "| task | rewards missed within the goal")
    assert len(rows) == len(found)
    for task, *cells in rows:
        names = [
            (kind, name) for name in ("missed_within_goal", "share_given_elsewhere") for kind in ("classified", "predicted")
        ]
        of_task = [[seed[kind][name] for seed in found[task.strip("`")]] for kind, name in names]
        assert cells == [", ".join(f"{100 * value:.0f} %" for value in seeds) for seeds in of_task], task


def test_rows_with_velocities_that_are_cut_off():
    file = json.loads((RESULTS.parent / "pgr_study" / "unseen_earlier" / "targets.json").read_text())["runs"]
    names = "real_known", "relevant_known", "generated_known"
    for arm, *cells in table("pgr_study", "| arm | real rows | the most relevant quarter"):
        seeds = [values for run, values in file.items() if run.startswith(f"Walker2d-v5 {arm} ")]
        assert cells == [", ".join(f"{1 - values[name]:.0%}".replace("%", " %") for values in seeds) for name in names], arm


def test_rows_that_relevance_asks_for():
    runs = json.loads((RESULTS.parent / "pgr_study" / "unseen_earlier" / "asked_for.json").read_text())["runs"].values()
    cells = [", ".join(f"{run[name]:.0%}".replace("%", " %") for run in runs) for name in next(iter(runs))]
    assert table("pgr_study", "| all rows | curiosity") == [cells]


def test_falls():
    steps = range(20_000, 50_001, 5_000)
    for seed, arm, *cells in table("pgr_study", "| seed | arm | 20 000"):
        path = RESULTS.parent / "pgr_study" / "confirmation" / "dmc-cheetah-run-v0" / f"{arm}_seed{seed}.csv"
        with open(path, newline="") as file:
            returns = {float(row["timesteps"]): float(row["return_mean"]) for row in csv.DictReader(file)}
        assert cells == [f"{returns[step]:.0f}" for step in steps], (arm, seed)


def test_averaged_actor():
    """Of evaluations from 80 000 to 100 000 steps, by the average and by the latest weights: mean, lowest, last."""
    for task, arm, seed, *cells in table("pgr_study", "| task | arm | seed | mean, averaged"):
        folder = RESULTS.parent / "pgr_study" / "confirmation" / task.strip("`").replace("/", "-")
        with open(folder / f"{arm}_seed{seed}.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if float(row["timesteps"]) > 75_000]
        assert len(rows) == 5
        both = [[float(row[name]) for row in rows] for name in ("return_mean", "latest_return_mean")]
        measures = (lambda values: sum(values) / len(values)), min, (lambda values: values[-1])
        assert cells == [f"{measure(values):.0f}" for measure in measures for values in both], (task, arm, seed)


def test_statistics_after_a_fall():
    runs = json.loads((RESULTS.parent / "pgr_study" / "fallen.json").read_text())["runs"].values()

    def cell(steps: str, answers: str, name: str) -> str:
        return ", ".join(f"{run[f'{steps} steps, answers {answers}'][name]:.2f}" for run in runs)

    rows = table("pgr_study", "| steps on the back")
    assert [row[0] for row in rows] == ["100", "300", "1 000", "3 000"]
    for n, deviation, *changes in rows:
        steps = n.replace(" ", "")
        assert deviation == cell(steps, "kept", "pitch_std")
        assert changes == [cell(steps, answers, "action_change") for answers in ("not kept", "kept")]
