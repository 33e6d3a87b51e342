"""
Does a generator help offline learners where data are scarce? (SynthER, Lu et al. 2023, section 4.1)

    python benchmarks/offline_datasets.py --replay                 # first: makes the file
    python benchmarks/offline_quality.py --algos td3_bc iql        # learners of all rows
    python benchmarks/offline_synther.py [--jobs 2]                # what is missing, then the report
    python benchmarks/offline_synther.py --report

Of ``walker2d-medium-replay``, a tenth of the rows in whole episodes, drawn anew for each seed. TD3+BC and IQL learn from it
(*subset*); from it and ten synthetic rows for each real one, drawn by ``sb3-pgr upsample`` from a generator that was fitted on
the subset alone (*upsampled*). What there is to win is in the runs of offline_quality.py, which have the same settings and
number of updates and all rows (*whole*). Each run writes
``benchmarks/results/offline_synther/<arm>_<algorithm>_seed<seed>.json``.
"""

import argparse
import functools
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import offline_quality
from offline_quality import DATA, UPDATES, evaluate, fingerprint_of, run_all, settings_of
from provenance import RESULTS, provenance

NAME, SHARE, FACTOR, SEEDS = "walker2d-medium-replay", 0.1, 10, (0, 1, 2)
ARMS, ALGOS = ("subset", "upsampled"), ("td3_bc", "iql")
WORK = Path(__file__).parents[1] / "build" / "offline_synther"
FOLDER = RESULTS / "offline_synther"


def result_file(arm: str, algo: str, seed: int) -> Path:
    return FOLDER / f"{arm}_{algo}_seed{seed}.json"


@functools.cache
def whole() -> Any:
    from sb3_pgr import load_dataset

    return load_dataset(DATA / f"{NAME}.npz")


def dataset_of(arm: str, seed: int) -> Any:
    from sb3_pgr import load_dataset
    from sb3_pgr.offline.dataset import concatenate
    from sb3_pgr.offline.readers import save_npz

    real = whole().sample_episodes(round(SHARE * len(whole())), seed)
    if arm == "subset":
        return real
    path, synthetic = WORK / f"real_{seed}.npz", WORK / f"synthetic_{seed}.npz"
    if not synthetic.exists() or load_dataset(synthetic).metadata["synthetic_from"] != real.fingerprint:
        save_npz(real, path)
        command = [sys.executable, "-m", "sb3_pgr", "upsample", str(path), "--num-samples", str(FACTOR * len(real))]
        subprocess.run([*command, "--seed", str(seed), "-o", str(synthetic)], check=True)
    return concatenate([real, load_dataset(synthetic)], "real and synthetic rows")


def run(arm: str, algo: str, seed: int) -> None:
    import torch as th

    from sb3_pgr import IQL, TD3BC

    th.set_num_threads(1)
    started, data = time.time(), dataset_of(arm, seed)
    kind = {"iql": IQL, "td3_bc": TD3BC}[algo]
    common = dict(env=data.env_id, dataset=data, seed=seed, device="cpu", compile=True, precision="bf16")
    model = kind(**common, **settings_of(algo, data.env_id))
    model.learn(UPDATES[algo], log_interval=-1)
    returns = evaluate(model, data.env_id, final=True)
    result = {
        "rows": len(data),
        "fingerprint": data.fingerprint,
        "whole": fingerprint_of(NAME),
        "updates": UPDATES[algo],
        "episodes": len(returns),
        "return_mean": float(returns.mean()),
        "return_std": float(returns.std()),
        "seconds": round(time.time() - started),
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    result_file(arm, algo, seed).write_text(json.dumps(result, indent=1) + "\n")
    print(f"{arm} {algo} seed {seed}: {result}", flush=True)


def finished(arm: str, algo: str, seed: int) -> dict[str, Any] | None:
    """What a run wrote, if it learned as much from rows of the dataset that is there now."""
    if arm == "whole":
        found = offline_quality.finished(NAME, "sb3_pgr", algo, seed)
        return found and {"rows": len(whole()), "return_mean": found["curve"][-1]["return_mean"]}
    path = result_file(arm, algo, seed)
    result = json.loads(path.read_text()) if path.exists() else {}
    same = (result.get("whole"), result.get("updates")) == (fingerprint_of(NAME), UPDATES[algo])
    return result if same else None


def run_missing(jobs: int) -> int:
    """Returns how many failed."""
    todo = [(arm, algo, seed) for seed in SEEDS for arm in ARMS for algo in ALGOS if finished(arm, algo, seed) is None]
    for seed in SEEDS:  # once, before two learners ask for it
        if any(cell[0] == "upsampled" and cell[2] == seed for cell in todo):
            dataset_of("upsampled", seed)
    return run_all([["--run", *map(str, cell)] for cell in todo], jobs)


def report() -> None:
    from sb3_pgr.common.evaluation import bootstrap_interval, interquartile_mean

    rows = []
    print("| | rows | TD3+BC | IQL |\n|---|---|---|---|")
    for arm in (*ARMS, "whole"):
        texts, n = [], ""
        for algo in ALGOS:
            results = [result for seed in SEEDS if (result := finished(arm, algo, seed)) is not None]
            returns = [result["return_mean"] for result in results]
            if not returns:
                texts.append("")
                continue
            row = {"arm": arm, "algorithm": algo, "rows": results[0]["rows"], "returns": np.round(returns, 1).tolist()}
            rows.append(row | {"iqm": round(interquartile_mean(returns), 1), "interval_95": bootstrap_interval(returns)})
            texts.append(f"{rows[-1]['iqm']} {rows[-1]['returns']}")
            n = f"{results[0]['rows']:,}"
        print(f"| {arm} | {n} | {' | '.join(texts)} |")
    result = {
        "provenance": provenance(SEEDS),
        "dataset": NAME,
        "updates": {algo: UPDATES[algo] for algo in ALGOS},
        "rows": rows,
    }
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "report.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--run", nargs=3, metavar=("ARM", "ALGO", "SEED"))
    parser.add_argument("--report", action="store_true", help="only the table, of what there is")
    args = parser.parse_args()
    if args.run:
        run(args.run[0], args.run[1], int(args.run[2]))
    else:
        failed = 0 if args.report else run_missing(args.jobs)
        report()
        if failed:
            sys.exit(f"{failed} runs failed; their errors are above.")
