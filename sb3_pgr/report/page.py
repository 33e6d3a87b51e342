"""The page: one HTML file that needs nothing else, and no network."""

import base64
import datetime
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from sb3_pgr.report.comparison import Comparison
from sb3_pgr.report.datasets import Card
from sb3_pgr.report.generators import Generator
from sb3_pgr.report.media import Embedded
from sb3_pgr.report.run import Run
from sb3_pgr.report.style import arm_styles
from sb3_pgr.report.summary import Estimate, Row
from sb3_pgr.report.tasks import Task
from sb3_pgr.version import __version__


@dataclass(frozen=True)
class Content:
    """
    What the page shows.

    :param title: its heading
    :param roots: folders that were asked for
    :param rows: results by task, in the order of the tasks
    :param charts: what ``report.js`` draws
    :param left_out: files that were not embedded, and why
    :param files: names of pictures and tables beside the page
    :param folder: name of the folder they are in
    """

    title: str
    roots: list[Path]
    runs: list[Run]
    tasks: list[Task]
    rows: list[Row]
    comparison: Comparison | str
    charts: dict[str, Any]
    videos: list[Embedded]
    generators: list[Generator]
    datasets: list[Card]
    left_out: list[str]
    files: list[str]
    folder: str


def render(content: Content) -> str:
    """The whole page; every text of a run in it is escaped."""
    package = resources.files("sb3_pgr.report")
    loader = jinja2.FunctionLoader(lambda name: (package / name).read_text(encoding="utf-8"))
    environment = jinja2.Environment(
        loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {
        "number": lambda value, decimals: f"{value:,.{decimals}f}",
        "data_url": _data_url,
        "mega": lambda size: f"{size / 2**20:.1f} MB",
    }
    template = environment.get_template("page.html.jinja")
    arms = sorted({row.group.arm for row in content.rows})
    machines = _machines(content.runs)
    return template.render(
        **vars(content),
        compared=isinstance(content.comparison, Comparison),
        arms=arms,
        styles=arm_styles(arms),
        results=[(task, [row for row in content.rows if row.task is task]) for task in content.tasks],
        dots=_dots,
        machines=machines,
        n_machines=sum(bool(entry["machine"] or entry["versions"]) for entry in machines),
        n_incomplete=sum(bool(run.problems) for run in content.runs),
        incomplete=_same_problems(content.runs),
        made=datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=__version__,
        css=(package / "report.css").read_text(encoding="utf-8"),
        js=(package / "report.js").read_text(encoding="utf-8"),
        plotly=get_plotlyjs(),
    )


def _dots(row: Row, rows: list[Row]) -> dict[str, Any]:
    """Places of seeds, interval, mean and behaviour on one line, from 0 to 1 over all of the task."""
    shown = [value for other in rows if other.last is not None for value in _extent(other.last)]
    behaviour = row.task.behaviour
    shown += [] if behaviour is None else [behaviour]
    low, high = min(shown, default=0.0), max(shown, default=1.0)

    def place(value: float) -> float:
        return round((value - low) / (high - low), 4) if high > low else 0.5

    assert row.last is not None
    return {
        "seeds": [place(value) for value in row.last.values],
        "interval": None if row.last.interval is None else [place(end) for end in row.last.interval],
        "iqm": place(row.last.iqm),
        "behaviour": None if behaviour is None else place(behaviour),
    }


def _extent(estimate: Estimate) -> list[float]:
    return [*estimate.values, *(estimate.interval or ())]


def _machines(runs: list[Run]) -> list[dict[str, Any]]:
    """Distinct machines and versions, with the runs of each; runs that note neither under one entry."""
    found: dict[str, dict[str, Any]] = {}
    for run in runs:
        machine, versions = run.settings.machine, run.settings.versions
        key = json.dumps([machine, versions], sort_keys=True, default=str)
        found.setdefault(key, {"machine": machine, "versions": versions, "runs": []})["runs"].append(run)
    return sorted(found.values(), key=lambda entry: -len(entry["runs"]))


def _same_problems(runs: list[Run]) -> list[list[Run]]:
    """Runs of a task and an algorithm that are short of the same, together; those that are whole but for a remark last."""
    found: dict[tuple[str, str, tuple[str, ...]], list[Run]] = {}
    for run in sorted(runs, key=lambda run: not run.problems):
        if run.problems or run.remarks:
            found.setdefault((run.task, run.arm, (*run.problems, *run.remarks)), []).append(run)
    return list(found.values())


def _data_url(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
