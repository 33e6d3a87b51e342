"""Finds runs: what ``benchmark`` writes, and what ``train`` writes."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sb3_pgr.common.run_files import ARGUMENTS, CHECKPOINTS, EVALUATIONS, PROGRESS, RUN_FILE, SCORES, VIDEOS

MARKS = (RUN_FILE, SCORES, EVALUATIONS, PROGRESS)  # any of them makes a folder a run, so that a damaged one is seen
_SEED = re.compile(r"seed_(-?\d+)")


class NoRunsError(ValueError):
    """There is nothing to report; the message says what was found and what is expected."""


@dataclass(frozen=True)
class Place:
    """
    Where a run lies, and what its folders say about it.

    :param folder: of the run
    :param root: the folder that was asked for
    :param task: of a benchmark; none if ``train`` wrote the run by itself
    :param arm: of a benchmark, the algorithm with its settings; otherwise the algorithm
    :param seed: of a benchmark
    :param started: whether there is a run; if not, ``folder`` is where it was to be
    """

    folder: Path
    root: Path
    task: str | None
    arm: str
    seed: int | None
    started: bool = True


def find_runs(roots: Sequence[Path]) -> list[Place]:
    """
    All runs below some folders, each once, sorted by path.

    :raises NoRunsError: if a folder does not exist, or there is no run in any of them
    """
    missing = [str(root) for root in roots if not root.is_dir()]
    if missing:
        raise NoRunsError(f"There is no folder {', '.join(missing)}.")
    found: dict[Path, Place] = {}
    for root in roots:
        for place in _runs_below(root):
            found.setdefault(place.folder.resolve(), place)
    if not found:
        seen = sorted({path.name for root in roots for path in root.iterdir()})
        inside = f"holds {', '.join(seen[:8])}{', ...' if len(seen) > 8 else ''}" if seen else "is empty"
        raise NoRunsError(
            f"There are no runs in {', '.join(map(str, roots))}, which {inside}. Expected: what `sb3-pgr benchmark` "
            f"wrote, or logs of `sb3-pgr train` (<logs>/<algo>/<env>_<k>/), with runs that hold one of {', '.join(MARKS)}."
        )
    return [found[path] for path in sorted(found)]


def _runs_below(root: Path) -> Iterator[Place]:
    waiting: dict[Path, Place] = {}  # folders of seeds in which no run has been seen yet
    seen: set[Path] = set()  # links may lead in a circle
    for name, folders, files in os.walk(root, onerror=_refuse, followlinks=True):
        folder = Path(name)
        if folder.resolve() in seen:
            folders.clear()
            continue
        seen.add(folder.resolve())
        if any(mark in files for mark in MARKS):
            place = _place(folder, root)
            waiting.pop(folder.parent.parent, None)
            folders.clear()
            yield place
            continue
        folders[:] = sorted(part for part in folders if part not in (CHECKPOINTS, VIDEOS) and not part.startswith("."))
        seed = _SEED.fullmatch(folder.name)
        if ARGUMENTS in files and seed:
            task, arm = folder.resolve().parts[-3:-1]
            waiting[folder] = Place(folder, root, task, arm, int(seed[1]), started=False)
    yield from waiting.values()


def _place(folder: Path, root: Path) -> Place:
    parts = folder.resolve().parts
    seed = _SEED.fullmatch(parts[-3]) if len(parts) > 5 else None
    if seed is None or not (folder.parent.parent / ARGUMENTS).exists():
        return Place(folder, root, None, parts[-2], None)
    return Place(folder, root, parts[-5], parts[-4], int(seed[1]))


def _refuse(error: OSError) -> None:
    """Rather than to walk past a folder that cannot be read."""
    raise error
