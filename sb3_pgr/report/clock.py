"""When a run did what: seconds of training at its timesteps."""

import csv
from pathlib import Path

import numpy as np

from sb3_pgr.common.progress_csv import TIMESTEPS, number_of
from sb3_pgr.common.run_files import PROGRESS

ELAPSED, RATE = "time/time_elapsed", "time/fps"


class Clock:
    """
    What ``progress.csv`` tells: steps, and seconds of training since the start of a run, its evaluations included and pauses
    between its parts not.

    ``time_elapsed`` starts at 0 again when a run is resumed. A new part is seen where it falls, or where the logged rate
    cannot have come this far since the last start.

    :param run: run folder
    """

    def __init__(self, run: Path):
        self.found = (run / PROGRESS).is_file()
        rows = _read(run / PROGRESS)
        self.last_step = int(max((steps for steps, _, _ in rows), default=0))
        timed = _increasing(rows)
        self._steps = np.array([0.0, *(steps for steps, _, _ in timed)])
        self._elapsed = np.array([0.0, *_cumulative(timed)])

    def seconds(self, steps: np.ndarray) -> np.ndarray:
        """
        Seconds at these timesteps ``(n,)``: interpolated, after the last row at the rate before it.

        :raises ValueError: if nothing tells the time
        """
        if len(self._steps) < 2:
            raise ValueError(f"{PROGRESS} {'holds no times' if self.found else 'is missing'}")
        rate = (self._elapsed[-1] - self._elapsed[-2]) / (self._steps[-1] - self._steps[-2])
        return np.interp(steps, self._steps, self._elapsed) + rate * np.clip(steps - self._steps[-1], 0, None)


def _cumulative(rows: list[tuple[float, float, float | None]]) -> list[float]:
    before, previous, started_by = 0.0, 0.0, 0.0
    result = []
    for steps, elapsed, rate in rows:
        # Seconds and rate are logged rounded down: these are the last and the first step at which the part can have started.
        at_most = steps if rate is None else steps - rate * elapsed
        at_least = 0.0 if rate is None else steps - (rate + 1) * (elapsed + 1)
        if elapsed < previous or at_least > started_by:
            before, started_by = before + previous, at_most
        started_by = min(started_by, at_most)
        previous = elapsed
        result.append(before + elapsed)
    return result


def _increasing(read: list[tuple[float, float | None, float | None]]) -> list[tuple[float, float, float | None]]:
    """Timesteps, seconds and rate of the rows that tell the time, with timesteps that increase."""
    rows: list[tuple[float, float, float | None]] = []
    for steps, elapsed, rate in read:
        if elapsed is not None and steps > (rows[-1][0] if rows else 0):
            rows.append((steps, elapsed, rate))
    return rows


def _read(path: Path) -> list[tuple[float, float | None, float | None]]:
    try:
        with open(path, newline="", errors="replace") as file:
            read = [[number_of(row.get(name)) for name in (TIMESTEPS, ELAPSED, RATE)] for row in csv.DictReader(file)]
    except (OSError, csv.Error):
        return []
    return [(steps, elapsed, rate) for steps, elapsed, rate in read if steps is not None]
