"""What the generators of runs did: newest picture and numbers of their refits."""

import csv
from dataclasses import dataclass
from pathlib import Path

from sb3_pgr.report.media import Embedded, Room
from sb3_pgr.report.run import Run


@dataclass(frozen=True)
class Generator:
    """
    :param pictures: the newest refit's, and the course over all refits if ``diagnose`` drew it
    :param columns: of its ``refits.csv``
    :param rows: as many cells as columns, one row a refit
    """

    run: Run
    pictures: list[Embedded]
    columns: list[str]
    rows: list[list[str]]


def read_generator(run: Run, room: Room) -> Generator | None:
    """None of a run without diagnostics; a damaged table is a problem of the run."""
    folder = run.diagnostics
    if folder is None:
        return None
    newest = sorted(folder.glob("refit_*.png"))[-1:]
    pictures = [picture for path in (*newest, *folder.glob("refits.png")) if (picture := room.take(run, path)) is not None]
    try:
        columns, rows = _table(folder / "refits.csv")
    except (OSError, csv.Error, ValueError) as error:
        run.problems.append(f"refits.csv of its generator cannot be read ({error})")
        columns, rows = [], []
    return Generator(run, pictures, columns, rows)


def _table(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        return [], []
    with open(path, newline="") as file:
        columns, *rows = [*csv.reader(file)] or [[]]
    if any(len(row) != len(columns) for row in rows):
        raise ValueError("a row is cut off")
    return columns, [[_short(cell) for cell in row] for row in rows]


def _short(cell: str) -> str:
    """Four digits of a number."""
    try:
        return cell if cell.isdigit() else f"{float(cell):.4g}"
    except ValueError:
        return cell
