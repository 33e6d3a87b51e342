"""``progress.csv`` that survives a resume."""

import csv
import math
import os
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat

TIMESTEPS = "time/total_timesteps"


class ResumableCSV(CSVOutputFormat):
    """
    SB3's CSV log, which keeps the rows of an earlier part of the same run.

    :param path: the file
    :param since: rows with more timesteps than this are dropped (they are about to be repeated); 0 starts afresh
    """

    def __init__(self, path: str | Path, since: int = 0):
        rows: list[dict[str, str]] = []
        if since > 0 and os.path.exists(path):
            with open(path, newline="", errors="replace") as file:
                rows = [row for row in csv.DictReader(file) if _timesteps(row) <= since]
        super().__init__(f"{path}.writing")
        for row in rows:
            values = {key: _value(text) for key, text in row.items() if key and text}
            self.write(values, dict.fromkeys(values, ()))
        self.file.flush()
        os.replace(f"{path}.writing", path)  # not before the rows are in it


def number_of(text: str | None) -> float | None:
    """None of a missing or infinite number, and of a line cut off by a crash."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _timesteps(row: dict[str, str]) -> float:
    try:
        return float(row[TIMESTEPS])
    except (KeyError, TypeError, ValueError):
        return float("inf")  # a line cut off by a crash
