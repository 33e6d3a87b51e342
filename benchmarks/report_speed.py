"""
Seconds that ``sb3-pgr report`` takes over 300 runs, and that a browser takes to draw the page.

    python benchmarks/report_speed.py           # writes benchmarks/results/report_speed.json
    python benchmarks/report_speed.py --quick   # smoke run over 12 runs, writes nothing

The runs are synthetic: 6 tasks x 5 algorithms x 10 seeds as ``sb3-pgr benchmark`` lays them out, each with 100 evaluations of
10 episodes, 500 rows of ``progress.csv`` and the usual texts; on the first seeds a video (200 kB), and picture and table of a
generator. They lie in ``build/report_speed``. The command runs in a process of its own, on one core, imports included. If
Chromium and Selenium are installed, the page is opened in it, and the time until it has drawn everything is noted.
"""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections import OrderedDict
from pathlib import Path

import numpy as np
import yaml
from provenance import RESULTS, provenance

FOLDER = Path(__file__).parents[1] / "build" / "report_speed"
TASKS, ARMS, SEEDS = 6, 5, 10
EVALUATIONS, EPISODES, ROWS = 100, 10, 500


def main() -> None:
    """Make the runs, time the command, then the browser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    shutil.rmtree(FOLDER, ignore_errors=True)
    seeds = 2 if quick else SEEDS
    tasks, arms = (2, 3) if quick else (TASKS, ARMS)
    for task in range(tasks):
        for arm in range(arms):
            for seed in range(seeds):
                make_run(FOLDER / "runs", task, arm, seed)
    page = FOLDER / "report.html"
    command = [sys.executable, "-m", "sb3_pgr", "report", str(FOLDER / "runs"), "-o", str(page)]
    begin, used = time.perf_counter(), os.times()
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=_on_one_core)
    seconds = time.perf_counter() - begin
    processor = sum(os.times()[2:4]) - sum(used[2:4])
    result = {
        "runs": tasks * arms * seeds,
        "seconds": round(seconds, 1),
        "processor_seconds": round(processor, 1),
        "page_mb": round(page.stat().st_size / 2**20, 1),
        "browser": browser_seconds(page),
    }
    print(json.dumps(result, indent=1))
    if not quick:
        (RESULTS / "report_speed.json").write_text(
            json.dumps({"provenance": provenance(range(SEEDS)), **result}, indent=1) + "\n"
        )


def make_run(root: Path, task: int, arm: int, seed: int) -> None:
    """One run folder, with noise around a curve that rises."""
    rng = np.random.default_rng([task, arm, seed])
    run = root / f"task-{task}" / f"arm_{arm}" / f"seed_{seed}" / "sac" / f"task-{task}_1"
    (run / f"task-{task}").mkdir(parents=True)
    steps = 10_000 * np.arange(1, EVALUATIONS + 1)
    height = 1_000 * (1 + task) * (1 + 0.1 * arm) * rng.uniform(0.8, 1.1)
    returns = height * (1 - np.exp(-steps / 3e5))[:, None] + 0.05 * height * rng.standard_normal((EVALUATIONS, EPISODES))
    np.savez(run / "evaluations.npz", timesteps=steps, results=returns, ep_lengths=np.full(returns.shape, 1000))
    with open(run / "progress.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["time/total_timesteps", "time/time_elapsed", "time/fps", "rollout/ep_rew_mean", "train/actor_loss"])
        for step in np.linspace(2_000, steps[-1], ROWS).astype(int):
            writer.writerow([step, int(step / 150), 150, *rng.standard_normal(2)])
    arguments = OrderedDict(algo="sac", env=f"task-{task}", n_timesteps=int(steps[-1]), seed=seed)
    (run / f"task-{task}" / "args.yml").write_text(yaml.dump(arguments | {f"option_{i}": i for i in range(40)}))
    hyperparams = {"policy": "MlpPolicy", "learning_rate": 3e-4, "policy_kwargs": {"net_arch": [256, 256]}, "arm": arm}
    (run / f"task-{task}" / "config.yml").write_text(yaml.dump(OrderedDict(hyperparams)))
    (run / f"task-{task}" / "command.txt").write_text(f"python -m sb3_pgr train --algo sac --env task-{task} --seed {seed}")
    machine = {"cpu": "a processor", "cores": 2, "gpu": None}
    content = {"argv": ["--algo", "sac"], "seed": seed, "hyperparams": hyperparams, "machine": machine}
    (run / "run.json").write_text(json.dumps(content | {"versions": {f"package_{i}": "1.0" for i in range(8)}}))
    last = {"return_mean": float(returns[-1].mean()), "return_std": 1.0, "episodes": 100}
    scores = {"algo": "sac", "seed": seed, "timesteps": int(steps[-1]), "updates": int(steps[-1]), "last": last}
    (run / "scores.json").write_text(json.dumps(scores))
    if seed == 0:
        _add_media(run, rng)


def _add_media(run: Path, rng: np.random.Generator) -> None:
    for folder in ("videos", "diagnostics"):
        (run / folder).mkdir()
    (run / "videos" / "task_1000000.mp4").write_bytes(rng.bytes(200_000))
    (run / "diagnostics" / "refit_001000000.png").write_bytes(rng.bytes(150_000))
    columns = ["step", "problem", *(f"number_{i}" for i in range(20))]
    lines = [",".join([str(10_000 * i), "", *map(str, rng.standard_normal(20))]) for i in range(100)]
    (run / "diagnostics" / "refits.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")


def browser_seconds(page: Path) -> dict[str, float] | None:
    """From opening the page to the last chart, and of one click on a filter; none without a browser."""
    if shutil.which("chromium") is None:
        return None
    try:
        from selenium import webdriver
        from selenium.webdriver.common.by import By
    except ModuleNotFoundError:
        return None
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        begin = time.perf_counter()
        driver.get(page.resolve().as_uri())
        opened = time.perf_counter() - begin
        begin = time.perf_counter()
        driver.find_element(By.CSS_SELECTOR, "input[name=axis][value=time]").click()
        clicked = time.perf_counter() - begin
        errors = driver.get_log("browser")
        if errors:
            raise RuntimeError(f"{page}: {errors}")
        return {"open": round(opened, 1), "click": round(clicked, 2)}
    finally:
        driver.quit()


def _on_one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


if __name__ == "__main__":
    main()
