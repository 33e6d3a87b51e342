"""What the runs learned from: as their scores tell it, and as the files do where they are still there."""

from dataclasses import dataclass, field
from pathlib import Path

from sb3_pgr.offline.dataset import DatasetError
from sb3_pgr.offline.description import draw, problems, summary
from sb3_pgr.offline.minari_format import MINARI
from sb3_pgr.offline.readers import load_dataset
from sb3_pgr.report.run import Run
from sb3_pgr.report.scores import Scores
from sb3_pgr.report.tasks import Task


@dataclass
class Card:
    """
    A dataset.

    :param tasks: that learned from it
    :param facts: what is known, in words
    :param notes: what an offline learner would stumble over, or why the file was not read
    :param picture: of returns, lengths, rewards and actions; none if the file was not read
    """

    tasks: list[str]
    scores: Scores
    facts: dict[str, str]
    notes: list[str] = field(default_factory=list)
    picture: Path | None = None


def describe_datasets(tasks: list[Task], n_bytes: int, folder: Path) -> list[Card]:
    """
    One card a dataset.

    :param n_bytes: of files that are read, all together; beyond that, cards have what the scores tell
    :param folder: where pictures are written
    """
    cards: dict[str, Card] = {}
    for task in tasks:
        for run in task.runs:
            key = run.scores.dataset_fingerprint or run.scores.dataset_source
            if key is None:
                continue
            if key not in cards:
                cards[key] = Card([], run.scores, _facts(run.scores))
                n_bytes -= _read(cards[key], run, n_bytes, folder / f"dataset_{len(cards)}")
            if task.name not in cards[key].tasks:
                cards[key].tasks.append(task.name)
    return list(cards.values())


def _facts(scores: Scores) -> dict[str, str]:
    facts = {"source": scores.dataset_source or "not known"}
    if scores.dataset_rows is not None:
        facts["rows"] = f"{scores.dataset_rows:,}"
    if scores.behaviour is not None:
        spread = "" if scores.behaviour_std is None else f" ± {scores.behaviour_std:.4g} (standard deviation)"
        episodes = "" if scores.behaviour_episodes is None else f", {scores.behaviour_episodes:,} episodes"
        facts["mean return"] = f"{scores.behaviour:.5g}{spread}{episodes}"
    if scores.reference is not None:
        reference = scores.reference
        facts["references"] = f"0 is {reference.low:g}, 100 is {reference.high:g}: {reference.name}"
    facts["fingerprint"] = scores.dataset_fingerprint or "not known"
    return facts


def _read(card: Card, run: Run, n_bytes: int, picture: Path) -> int:
    """Add what the file tells; returns the bytes that were read."""
    source = Path(card.scores.dataset_source or "")
    if (card.scores.dataset_source or "").startswith(MINARI):
        card.notes.append("A Minari dataset, of which there is no more here than the run wrote down.")
        return 0
    if not card.scores.dataset_source or not source.exists():
        card.notes.append("The file is not where the run found it, so there is no more than the run wrote down.")
        return 0
    size = sum(path.stat().st_size for path in ([source] if source.is_file() else source.rglob("*")) if path.is_file())
    if size > n_bytes:
        card.notes.append(f"The file was not read: its {size / 2**20:.0f} MB are more than --dataset-mb leaves.")
        return 0
    try:
        dataset = load_dataset(source)
        described = summary(dataset)
    except (DatasetError, OSError) as error:
        card.notes.append(f"The file could not be read: {error}")
        return size
    if card.scores.dataset_fingerprint not in (None, described["fingerprint"]):
        card.notes.append("The file now there is another one than the run learned from, so it is not described.")
        return size
    card.facts |= described
    card.notes += problems(dataset)
    card.picture = picture.with_suffix(".png")
    draw(dataset, card.picture)
    draw(dataset, picture.with_suffix(".svg"))
    return size
