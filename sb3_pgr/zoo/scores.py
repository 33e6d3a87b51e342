"""What a trained policy earns, beside what it is compared to."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, sync_envs_normalization

from sb3_pgr.bc import BC
from sb3_pgr.common.evaluation import HELD_OUT_SEED, LAST_EVALUATIONS, evaluate_episodes
from sb3_pgr.common.run_files import SCORES, read_evaluations
from sb3_pgr.offline.dataset import OfflineDataset
from sb3_pgr.offline.off_policy_evaluation import off_policy_scores
from sb3_pgr.offline.scores import ReferenceScores, reference_scores

OFF_POLICY_ROWS = 5_000


def report_scores(model: BaseAlgorithm, algo: str, env: VecEnv | None, run: Path, episodes: int) -> None:
    """
    Evaluate the last policy and write ``scores.json``, ``final_episodes.csv`` and ``learning_curve.png``; print a table. If
    the model learned from a dataset, the table has its behaviour's return, and behaviour cloning's if a run of it lies beside.

    :param model: trained
    :param algo: its name on the command line
    :param env: for the evaluation; none if there is none
    :param run: run folder
    :param episodes: of the evaluation
    """
    dataset: OfflineDataset | None = getattr(model, "dataset", None)
    scores: dict[str, Any] = {"algo": algo, "seed": model.seed, "timesteps": model.num_timesteps, "updates": model._n_updates}
    scores["env_id"] = None if env is None else _env_id(env)
    if isinstance(model, BC) and model.best_fraction != 1:
        scores["best_fraction"] = model.best_fraction
    references = None
    if dataset is not None:
        references = reference_scores(scores["env_id"] or dataset.env_id, dataset.metadata)
        scores |= {
            "dataset": {"source": dataset.source, "fingerprint": dataset.fingerprint, "rows": len(dataset)},
            "reference": references and vars(references),
            "off_policy": _off_policy(model, dataset),
        }
        if len(dataset.played_returns):
            scores["behaviour"] = _summary(dataset.played_returns, references)
    if env is not None:
        if model.get_vec_normalize_env() is not None:
            sync_envs_normalization(model.env, env)  # type: ignore[arg-type]  # both with all of their wrappers
        final = evaluate_episodes(model, env, episodes)
        env.close()
        scores["last"] = _summary(final.returns, references) | {"first_seed": HELD_OUT_SEED}
        _write_csv(run / "final_episodes.csv", final.returns, final.lengths)
    scores |= _curve_scores(run, references)
    temporary = run / f".writing-{SCORES}"
    temporary.write_text(json.dumps(scores, indent=1) + "\n")
    os.replace(temporary, run / SCORES)
    _draw(run, dataset, references)
    _print(scores, [] if dataset is None else _cloning_beside(run, scores))


def _off_policy(model: BaseAlgorithm, dataset: OfflineDataset) -> dict[str, float]:
    """On whole episodes of enough rows: a policy such as BCQ's weighs a hundred actions in each."""
    if dataset.played.any() and not dataset.played.all():
        dataset = dataset.select_episodes(np.flatnonzero(dataset.played))
    few = dataset if len(dataset) <= OFF_POLICY_ROWS else dataset.sample_episodes(OFF_POLICY_ROWS)
    return off_policy_scores(model, few) | {"rows": len(few)}


def _env_id(env: VecEnv) -> str | None:
    spec = env.get_attr("spec")[0]
    return None if spec is None else str(spec.id)


def _summary(returns: np.ndarray, references: ReferenceScores | None) -> dict[str, Any]:
    result = {"return_mean": float(returns.mean()), "return_std": float(returns.std()), "episodes": len(returns)}
    return result if references is None else result | {"normalized": float(references.normalize(returns.mean()))}


def _evaluations(run: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """During training; a damaged file costs the curve, not the scores."""
    try:
        return read_evaluations(run)
    except ValueError as error:
        print(f"{run}: {error}; scores are without it.")
        return None


def _curve_scores(run: Path, references: ReferenceScores | None) -> dict[str, Any]:
    """Of the evaluations during training: the best (chosen after the fact), and the mean of the last."""
    evaluations = _evaluations(run)
    if evaluations is None:
        return {}
    _, results = evaluations
    best, late = results[results.mean(1).argmax()], results[-LAST_EVALUATIONS:]
    return {
        "best_of_evaluations": _summary(best, references) | {"chosen_from": len(results)},
        "mean_of_last_evaluations": _summary(late.ravel(), references) | {"evaluations": len(late)},
    }


def _write_csv(path: Path, returns: np.ndarray, lengths: np.ndarray) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["episode", "return", "length"])
        writer.writerows(zip(range(len(returns)), returns, lengths))


def _cloning_beside(run: Path, scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Scores of behaviour cloning on the same dataset in the same environment, of all its episodes or of the best."""
    found = []
    for path in sorted((run.parent.parent / "bc").glob(f"*/{SCORES}")):
        try:
            other = json.loads(path.read_text())
            same = other.get("env_id") == scores["env_id"] and other["reference"] == scores["reference"]
            if same and other["dataset"]["fingerprint"] == scores["dataset"]["fingerprint"] and "last" in other:
                found.append(other["last"] | {"best_fraction": other.get("best_fraction", 1)})
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:  # half written, or of another version
            print(f"{path} is passed over: {type(error).__name__}: {error}.")
    return found


def _draw(run: Path, dataset: OfflineDataset | None, references: ReferenceScores | None) -> None:
    """The curve of evaluations, beside the returns in the dataset."""
    evaluations = _evaluations(run)
    if evaluations is None:
        return
    steps, results = evaluations
    figure = Figure(figsize=(6, 4))
    axis = figure.subplots()
    axis.plot(
        steps, results.mean(1), marker="o", markersize=3, label="evaluations (line: mean, band: lowest to highest episode)"
    )
    axis.fill_between(steps, results.min(1), results.max(1), alpha=0.2, linewidth=0)
    if dataset is not None and len(dataset.played_returns):
        behaviour = dataset.played_returns.mean()
        axis.axhline(behaviour, color="0.4", linestyle="--", label="behaviour: mean return in the dataset")
    axis.set(title=run.name, xlabel="environment steps" if dataset is None else "gradient steps", ylabel="return")
    axis.legend(frameon=False, fontsize=8)
    axis.grid(alpha=0.3)
    axis.spines["top"].set_visible(False)
    if references is not None:
        right = axis.twinx()
        right.set_ylim(*references.normalize(np.array(axis.get_ylim())))
        right.set_ylabel(f"normalised ({references.name})")
        right.spines["top"].set_visible(False)
    figure.tight_layout()
    figure.savefig(run / "learning_curve.png", dpi=130)


def _print(scores: dict[str, Any], cloning: list[dict[str, Any]]) -> None:
    reference = scores.get("reference")
    print(f"\n{'':34}{'return':>18}{'normalised' if reference else '':>12}")
    rows = [("behaviour (mean of the dataset)", scores["behaviour"])] if "behaviour" in scores else []
    rows += [(_cloning_label(number, row), row) for number, row in enumerate(cloning, 1) if scores["algo"] != "bc"]
    rows += [
        (label.format(**scores.get(name, {})), scores[name])
        for name, label in (
            ("last", scores["algo"] + ", last policy, {episodes} episodes"),
            ("mean_of_last_evaluations", "mean of the last {evaluations} evaluations"),
            ("best_of_evaluations", "best of {chosen_from} evaluations"),
        )
        if name in scores
    ]
    for label, row in rows:
        value = f"{row['return_mean']:.5g} ± {row['return_std']:.4g}"
        print(f"{label:34}{value:>18}{row['normalized'] if reference else '':>12{'.1f' if reference else ''}}")
    if reference:
        print(f"0 and 100 are returns of {reference['low']:g} and {reference['high']:g}: {reference['name']}.")
    if "off_policy" not in scores:
        return
    if scores["algo"] != "bc" and not cloning and "last" in scores:
        print("No run of bc on this dataset lies beside it: sb3-pgr train --algo bc --dataset ... gives what to compare with.")
    estimates = ", ".join(f"{name} {value:.4g}" for name, value in scores["off_policy"].items() if name != "rows")
    print(f"From {scores['off_policy']['rows']:,} rows of the dataset alone, in the learner's rewards: {estimates}")


def _cloning_label(number: int, row: dict[str, Any]) -> str:
    best = row["best_fraction"]
    return f"bc, run {number}" if best == 1 else f"bc, run {number}, of the best {best:.3g}"
