"""``scores.json`` of a run, whatever state it is in."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sb3_pgr.common.run_files import SCORES
from sb3_pgr.offline.scores import ReferenceScores
from sb3_pgr.report.settings import read_json


@dataclass
class Scores:
    """
    :param found: whether there is a whole file, which is written last of all
    :param last: mean return of the last policy on held-out episodes
    :param last_episodes: how many
    :param behaviour: mean return of the dataset
    :param reference: what 0 and 100 are
    :param dataset_source: path or id that was given
    :param dataset_fingerprint: of its arrays
    :param dataset_rows: number of transitions
    :param problems: what could not be read, and why
    """

    found: bool = False
    seed: int | None = None
    timesteps: int = 0
    last: float | None = None
    last_episodes: int | None = None
    behaviour: float | None = None
    behaviour_std: float | None = None
    behaviour_episodes: int | None = None
    reference: ReferenceScores | None = None
    dataset_source: str | None = None
    dataset_fingerprint: str | None = None
    dataset_rows: int | None = None
    problems: list[str] = field(default_factory=list)


def read_scores(run: Path) -> Scores:
    """Empty if the run has none, which only its end writes."""
    scores = Scores()
    try:
        content = read_json(run / SCORES)
    except FileNotFoundError:
        return scores
    except ValueError as error:
        scores.problems.append(f"{error}: its last evaluation stands for the last policy")
        return scores
    scores.found = True
    scores.seed = content["seed"] if type(content.get("seed")) is int else None
    scores.timesteps = content["timesteps"] if type(content.get("timesteps")) is int else 0
    last, behaviour, dataset, reference = (_part(content, name) for name in ("last", "behaviour", "dataset", "reference"))
    scores.last, scores.last_episodes = _number(last.get("return_mean")), _count(last.get("episodes"))
    if "last" in content and scores.last is None:
        scores.problems.append(f"{SCORES} holds no finite return of the last policy: its last evaluation stands for it")
    scores.behaviour, scores.behaviour_std = _number(behaviour.get("return_mean")), _number(behaviour.get("return_std"))
    scores.behaviour_episodes = _count(behaviour.get("episodes"))
    scores.dataset_source, scores.dataset_fingerprint = _text(dataset.get("source")), _text(dataset.get("fingerprint"))
    scores.dataset_rows = _count(dataset.get("rows"))
    low, high = _number(reference.get("low")), _number(reference.get("high"))
    if low is not None and high is not None and high != low:
        scores.reference = ReferenceScores(str(reference.get("name")), low, high)
    return scores


def _part(content: dict[str, Any], name: str) -> dict[str, Any]:
    return content[name] if isinstance(content.get(name), dict) else {}


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) else None


def _count(value: Any) -> int | None:
    return value if type(value) is int else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
