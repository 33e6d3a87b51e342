"""From folders of runs to the page, its pictures and its tables."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sb3_pgr.report.charts import chart_data
from sb3_pgr.report.comparison import compare
from sb3_pgr.report.curves import Band, Bands, over_seconds, over_steps
from sb3_pgr.report.datasets import describe_datasets
from sb3_pgr.report.folders import find_runs
from sb3_pgr.report.generators import Generator, read_generator
from sb3_pgr.report.media import Embedded, Room, one_of_each_first
from sb3_pgr.report.page import Content, render
from sb3_pgr.report.pictures import write_pictures
from sb3_pgr.report.run import read_run
from sb3_pgr.report.summary import summarise
from sb3_pgr.report.tables import write_tables
from sb3_pgr.report.tasks import Group, Task, sort_runs


@dataclass(frozen=True)
class Report:
    """
    What was written.

    :param page: the HTML file
    :param files: folder of pictures and tables
    :param n_runs: runs that were found
    :param n_incomplete: runs of which something is broken or missing, that are not finished, or that nothing can be shown of
    :param left_out: videos and pictures for which there was no room
    """

    page: Path
    files: Path
    n_runs: int
    n_incomplete: int
    left_out: list[str]


def build_report(
    folders: Sequence[str | Path],
    output: str | Path,
    title: str | None = None,
    embed_bytes: int = 50 * 2**20,
    dataset_bytes: int = 500 * 2**20,
) -> Report:
    """
    Write ``output`` and the folder ``<output without its ending>_files`` of pictures and tables beside it.

    :param folders: what ``sb3-pgr benchmark`` wrote, or logs of ``sb3-pgr train``
    :param output: the HTML file
    :param title: heading of the page; by default names of the folders
    :param embed_bytes: of videos and diagnostics that go into the page, before base64
    :param dataset_bytes: of dataset files that are read for their cards
    :raises NoRunsError: if there is no such folder, or no run in any
    """
    roots, page = [Path(folder) for folder in folders], Path(output)
    tasks = sort_runs([read_run(place) for place in find_runs(roots)])
    runs = [run for task in tasks for run in task.runs]
    rows = [row for task in tasks for row in summarise(task)]
    steps, seconds = _bands(tasks, over_steps), _bands(tasks, over_seconds)
    comparison = compare(rows)
    files = page.with_name(f"{page.stem}_files")
    files.mkdir(parents=True, exist_ok=True)
    room = Room(embed_bytes)
    videos, generators = _media(tasks, room)
    datasets = describe_datasets(tasks, dataset_bytes, files)
    pictures = write_pictures(tasks, rows, steps, seconds, comparison, files)
    pictures += [card.picture.stem for card in datasets if card.picture is not None]
    tables = write_tables(rows, runs, steps, seconds, comparison, files)
    content = Content(
        title=title or f"Report: {', '.join(root.resolve().name for root in roots)}",
        roots=roots,
        runs=runs,
        tasks=tasks,
        rows=rows,
        comparison=comparison,
        charts=chart_data(tasks, steps, seconds, comparison),
        videos=videos,
        generators=generators,
        datasets=datasets,
        left_out=room.left_out,
        files=[*(f"{name}.{kind}" for name in pictures for kind in ("png", "svg")), *tables],
        folder=files.name,
    )
    _remove_earlier(files, content.files)
    temporary = page.with_name(f".{page.name}.writing")
    temporary.write_text(render(content), encoding="utf-8")
    os.replace(temporary, page)
    return Report(page, files, len(runs), sum(bool(run.problems) for run in runs), room.left_out)


def _remove_earlier(folder: Path, written: list[str]) -> None:
    """Files of an earlier report of this name that this one does not have."""
    listing = folder / ".written"
    earlier = listing.read_text().splitlines() if listing.is_file() else []
    for name in set(earlier) - set(written):
        (folder / Path(name).name).unlink(missing_ok=True)
    listing.write_text("\n".join(written) + "\n")


def _media(tasks: list[Task], room: Room) -> tuple[list[Embedded], list[Generator]]:
    """As far as there is room, sorted by task, algorithm and seed."""
    videos, generators = [], []
    for run in one_of_each_first(tasks):
        if (path := run.video) is not None and (video := room.take(run, path)) is not None:
            videos.append(video)
        if (generator := read_generator(run, room)) is not None:
            generators.append(generator)
    places = {run.folder: number for number, run in enumerate(run for task in tasks for run in task.runs)}

    def place(found: Embedded | Generator) -> int:
        return places[found.run.folder]

    return sorted(videos, key=place), sorted(generators, key=place)


def _bands(tasks: list[Task], over: Callable[[Group], Band | None]) -> Bands:
    return {
        (task.name, arm): band for task in tasks for arm, group in task.groups.items() if (band := over(group)) is not None
    }
