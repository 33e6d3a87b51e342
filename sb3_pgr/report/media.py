"""Files inside the page, as far as there is room for them."""

import base64
from dataclasses import dataclass
from pathlib import Path

from sb3_pgr.report.run import Run
from sb3_pgr.report.tasks import Task

KINDS = {".mp4": "video/mp4", ".png": "image/png"}


@dataclass(frozen=True)
class Embedded:
    """
    A file of a run, in the page.

    :param url: ``data:`` with all its bytes
    :param size: bytes of the file
    """

    run: Run
    path: Path
    url: str
    size: int


class Room:
    """
    What the page may hold of files of runs.

    :param n_bytes: of all files together, before base64 makes a third more of them
    """

    def __init__(self, n_bytes: int):
        self.left = n_bytes
        self.left_out: list[str] = []

    def take(self, run: Run, path: Path) -> Embedded | None:
        """Embed a file; none, with the reason in ``left_out``, if there is no room or it cannot be read."""
        try:
            content = path.read_bytes() if path.stat().st_size <= self.left else None
        except OSError as error:
            self.left_out.append(f"{path}: it cannot be read ({error.strerror})")
            return None
        if content is None:
            self.left_out.append(f"{path}: {path.stat().st_size / 2**20:.1f} MB, for which there is no room")
            return None
        if not content:
            self.left_out.append(f"{path}: it is empty")
            return None
        self.left -= len(content)
        url = f"data:{KINDS[path.suffix]};base64,{base64.b64encode(content).decode()}"
        return Embedded(run, path, url, len(content))


def one_of_each_first(tasks: list[Task]) -> list[Run]:
    """All runs, the first of every algorithm on every task before any second, so that a page too small shows each."""
    ranked = []
    for task in tasks:
        for group in task.groups.values():
            rest = [run for run in group.runs if run not in group.counted]
            ranked += [(rank, run) for rank, run in enumerate([*group.counted, *rest])]
    return [run for _, run in sorted(ranked, key=lambda pair: pair[0])]
