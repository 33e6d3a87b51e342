"""Run folders as ``train`` and ``benchmark`` write them, without training."""

import csv
import json
from collections import OrderedDict

import numpy as np
import yaml

MACHINE = {"cpu": "a processor", "cores": 2, "gpu": None}


def make_run(folder, returns, env="Pendulum-v1", seed=0, rate=10, wanted=None, last=None, behaviour=None, reference=None):
    """
    One run with an evaluation of two episodes every 100 steps, whose mean returns are given.

    :param folder: ``<algo>/<env>_<k>``
    :param rate: steps a second
    :param wanted: timesteps; by default as many as were done
    :param last: held-out return of the last policy; with it the run has scores
    """
    inner = folder / env.replace("/", "-")
    inner.mkdir(parents=True)
    steps = 100 * np.arange(1, len(returns) + 1)
    results = np.array(returns, float)[:, None] + [-1, 1]
    np.savez(folder / "evaluations.npz", timesteps=steps, results=results, ep_lengths=np.full(results.shape, 200))
    write_progress(folder, [(step, step / rate) for step in steps.tolist()])
    algo, n_timesteps = folder.parent.name, wanted or int(steps[-1])
    arguments = OrderedDict(algo=algo, env=env, n_timesteps=n_timesteps, seed=seed)
    (inner / "args.yml").write_text(yaml.dump(arguments))
    (inner / "config.yml").write_text(yaml.dump(OrderedDict(policy="MlpPolicy", learning_rate=0.001)))
    (inner / "command.txt").write_text(f"python -m sb3_pgr train --algo {algo} --env {env} --seed {seed}")
    content = {"argv": ["--algo", algo], "seed": seed, "hyperparams": {"learning_rate": 0.001}}
    (folder / "run.json").write_text(json.dumps({**content, "machine": MACHINE, "versions": {"torch": "2.13.0"}}))
    if last is not None:
        scores = {"algo": algo, "seed": seed, "timesteps": n_timesteps, "updates": n_timesteps}
        scores["last"] = {"return_mean": last, "return_std": 1.0, "episodes": 10}
        if behaviour is not None:
            scores["behaviour"] = {"return_mean": behaviour, "return_std": 2.0, "episodes": 5}
            scores["dataset"] = {"source": "gone.npz", "fingerprint": "f" * 64, "rows": 1_000}
        scores["reference"] = reference and dict(zip(("name", "low", "high"), reference))
        (folder / "scores.json").write_text(json.dumps(scores))
    return folder


def write_progress(folder, rows, rate=None):
    """Timesteps and seconds, and rows between them that tell no time, as evaluations write them."""
    with open(folder / "progress.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["eval/mean_reward", "time/total_timesteps", "time/time_elapsed", "time/fps"])
        for number, (step, seconds) in enumerate(rows):
            writer.writerow(["-5", step - 1, "", ""])
            writer.writerow(["", step, int(seconds), "" if rate is None else rate[number]])


def make_benchmark(root, tasks, arms, seeds, n=5, **kwargs):
    """
    ``root/<task>/<arm>/seed_<k>/sac/<task>_1``; the mean return of an evaluation tells which run it is of: 1000 times the
    number of the task, 100 times the arm's, 10 times the seed, and its own number.
    """
    for i, task in enumerate(tasks):
        for j, arm in enumerate(arms):
            for seed in seeds:
                returns = [1000 * i + 100 * j + 10 * seed + k for k in range(n)]
                folder = root / task / arm / f"seed_{seed}" / "sac" / f"{task}_1"
                make_run(folder, returns, env=task, seed=seed, rate=10 * (j + 1), last=returns[-1] + 0.5, **kwargs)
                (folder.parent.parent / "arguments.json").write_text("[]")
    return root
