"""One run, as far as its folder can be read; what cannot is said."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sb3_pgr.common.run_files import CHECKPOINTS, SCORES, VIDEOS, env_name_of, read_evaluations
from sb3_pgr.generative.diagnostics import FOLDER as DIAGNOSTICS
from sb3_pgr.offline.minari_format import MINARI
from sb3_pgr.report.clock import Clock
from sb3_pgr.report.folders import Place
from sb3_pgr.report.scores import Scores, read_scores
from sb3_pgr.report.settings import Settings, read_settings

LAST_LINE = 300  # characters of the last line in the log of a run that did not begin


@dataclass(frozen=True)
class Curve:
    """
    Evaluations during training.

    :param steps: timesteps ``(n,)``, increasing
    :param returns: mean undiscounted returns ``(n,)``
    :param episodes: of each evaluation
    :param seconds: of training at them ``(n,)``, if known
    """

    steps: np.ndarray
    returns: np.ndarray
    episodes: int
    seconds: np.ndarray | None


@dataclass
class Run:
    """
    What a run folder holds.

    :param task: of the benchmark; otherwise the environment, and the dataset if there is one
    :param arm: algorithm with its settings
    :param seed: of the training, if known
    :param finished: whether it did all the steps that were wanted
    :param reached: last timestep that left a trace
    :param wanted: timesteps, if known
    :param problems: what is broken or missing, each with what follows from it
    :param remarks: what is not known of a run that is whole
    """

    folder: Path
    root: Path
    task: str
    arm: str
    seed: int | None
    settings: Settings
    scores: Scores
    curve: Curve | None
    finished: bool = False
    reached: int = 0
    wanted: int | None = None
    problems: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def usable(self) -> bool:
        """Whether it has a return to show."""
        return self.curve is not None or self.scores.last is not None

    @property
    def name(self) -> str:
        return f"{self.task}, {self.arm}, seed {'unknown' if self.seed is None else self.seed}"

    @property
    def is_offline(self) -> bool:
        """Whether it learned from a dataset."""
        return self.scores.dataset_source is not None or self.settings.hyperparams.get("dataset") is not None

    @property
    def video(self) -> Path | None:
        """Of the most timesteps; times of files change when they are copied."""

        def age(path: Path) -> tuple[int, float]:
            steps = path.stem.rpartition("_")[2]
            return int(steps) if steps.isdigit() else -1, path.stat().st_mtime

        return max((self.folder / VIDEOS).glob("[!.]*.mp4"), key=age, default=None)

    @property
    def diagnostics(self) -> Path | None:
        """Folder of what the generator did, if there is something in it."""
        folder = self.folder / DIAGNOSTICS
        return folder if any(folder.glob("*.png")) or any(folder.glob("*.csv")) else None


def read_run(place: Place) -> Run:
    """Never fails: what is broken is among its problems."""
    if not place.started:
        return _never_began(place)
    settings, scores = read_settings(place.folder), read_scores(place.folder)
    problems, remarks = [*settings.problems, *scores.problems], list[str]()
    clock = Clock(place.folder)
    curve = _read_curve(place.folder, clock, problems, remarks)
    seed = next((seed for seed in (place.seed, settings.seed, scores.seed) if seed is not None), None)
    task = place.task or _task(place.folder, settings, scores)
    run = Run(place.folder, place.root, task, place.arm, seed, settings, scores, curve, problems=problems, remarks=remarks)
    run.wanted = settings.n_timesteps
    run.reached = max(scores.timesteps, clock.last_step, _last_checkpoint(place.folder))
    run.reached = max(run.reached, 0 if curve is None else int(curve.steps[-1]))
    run.finished = _finished(run)
    if not run.finished:
        wanted = "" if run.wanted is None else f" of {run.wanted:,}"
        problems.insert(0, f"not finished: its last trace is at step {run.reached:,}{wanted}")
    if not run.usable:
        problems.append("nothing in it can be shown: it has neither scores of a last policy nor evaluations")
    elif curve is None:
        remarks.append("it has no learning curve: there are no evaluations during training")
    return run


def _never_began(place: Place) -> Run:
    """A run of a benchmark that failed before it wrote anything; its log lies beside."""
    log = place.folder.with_suffix(".log")
    lines = log.read_text(errors="replace").strip().splitlines() if log.is_file() else []
    said = f" {log.name} ends with: {lines[-1].strip()[:LAST_LINE]}" if lines else ""
    run = Run(place.folder, place.root, place.task or "", place.arm, place.seed, Settings(), Scores(), None)
    run.problems.append(f"it did not begin: there is no run in its folder.{said}")
    return run


def _task(folder: Path, settings: Settings, scores: Scores) -> str:
    """Runs on different datasets are different tasks."""
    env = settings.env_id or env_name_of(folder)
    source = scores.dataset_source or settings.hyperparams.get("dataset")
    if not isinstance(source, str) or env.startswith("dataset/"):
        return env
    return f"{env} ({Path(source.removeprefix(MINARI)).stem})"


def _read_curve(folder: Path, clock: Clock, problems: list[str], remarks: list[str]) -> Curve | None:
    try:
        evaluations = read_evaluations(folder)
    except ValueError as error:
        problems.append(str(error))
        return None
    if evaluations is None:
        return None
    steps, results = evaluations
    whole = np.isfinite(results).all(1)
    if not whole.all():
        problems.append(f"{int((~whole).sum())} of {len(whole)} evaluations are not finite and are left out of its curve")
        steps, results = steps[whole], results[whole]
    if not len(steps):
        return None
    if (np.diff(steps) <= 0).any():
        problems.append("the timesteps of its evaluations do not increase, so they cannot be drawn")
        return None
    try:
        seconds = clock.seconds(steps)
    except ValueError as error:
        remarks.append(f"its wall-clock time is not known: {error}")
        seconds = None
    return Curve(steps, results.mean(1), results.shape[1], seconds)


def _last_checkpoint(folder: Path) -> int:
    steps = [path.name.removeprefix("step_") for path in (folder / CHECKPOINTS).glob("step_*")]
    return max((int(text) for text in steps if text.isdigit()), default=0)


def _finished(run: Run) -> bool:
    if run.scores.found:
        return True
    if run.settings.wants_scores and not (run.folder / SCORES).exists():  # it is in its last evaluation
        return False
    if run.wanted is not None and run.reached >= run.wanted:
        return True
    # Without checkpoints, the last traces are older than the end; then only the final model tells.
    final = any(path.stem == env_name_of(run.folder) for path in run.folder.glob("*.zip"))
    return final and not (run.folder / CHECKPOINTS).is_dir()
