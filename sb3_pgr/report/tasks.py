"""Runs sorted by task and algorithm, and which of them count."""

from collections import Counter
from dataclasses import dataclass, field

from sb3_pgr.offline.dataset import ENV_KWARGS
from sb3_pgr.offline.scores import ReferenceScores, reference_scores
from sb3_pgr.report.run import Run

NOT_THE_TASK = ("fingerprints", "interventions", "intervention_kwargs")  # arguments that leave what is evaluated as it is


@dataclass
class Group:
    """
    The runs of an algorithm (arm) on a task, sorted by seed.

    :param counted: those that numbers and lines are made of: the finished ones; if none has finished, all that show something
    :param unfinished: whether the counted ones have not finished
    """

    task: str
    arm: str
    runs: list[Run]
    counted: list[Run] = field(init=False)
    unfinished: bool = field(init=False)

    def __post_init__(self) -> None:
        self.runs = sorted(self.runs, key=lambda run: (run.seed is None, run.seed or 0, run.folder))
        usable = [run for run in self.runs if run.usable]
        finished = [run for run in usable if run.finished]
        self.counted, self.unfinished = finished or usable, bool(usable) and not finished


@dataclass
class Task:
    """
    :param groups: by arm
    :param reference: what 0 and 100 are, if known
    :param behaviour: mean return of the dataset, if there is one
    :param held_out: whether every counted run has a score of its last policy on held-out episodes; otherwise the last
        evaluations during training stand for the last policies, of all runs alike
    :param notes: what a reader has to know to compare its numbers
    :param curve_notes: the same of its lines
    """

    name: str
    groups: dict[str, Group]
    reference: ReferenceScores | None = None
    behaviour: float | None = None
    held_out: bool = True
    notes: list[str] = field(default_factory=list)
    curve_notes: list[str] = field(default_factory=list)

    @property
    def unit(self) -> str:
        """What a timestep is."""
        offline = self.behaviour is not None or any(run.is_offline for run in self.runs)
        return "gradient steps" if offline else "environment steps"

    @property
    def decimals(self) -> int:
        """Of its returns, as many as their size asks for."""
        largest = max((abs(run.curve.returns).max() for run in self.runs if run.curve is not None), default=0.0)
        largest = max(largest, *(abs(run.scores.last or 0.0) for run in self.runs))
        return 0 if largest >= 1000 else 1 if largest >= 10 else 2 if largest >= 1 else 3

    @property
    def runs(self) -> list[Run]:
        return [run for group in self.groups.values() for run in group.runs]


def sort_runs(runs: list[Run]) -> list[Task]:
    """By name of task and arm. Arms of two folders that share a task and a seed are kept apart by the folder's name."""
    _keep_folders_apart(runs)
    tasks: dict[str, dict[str, list[Run]]] = {}
    for run in runs:
        tasks.setdefault(run.task, {}).setdefault(run.arm, []).append(run)
    return [_task(name, {arm: Group(name, arm, arms[arm]) for arm in sorted(arms)}) for name, arms in sorted(tasks.items())]


def _keep_folders_apart(runs: list[Run]) -> None:
    places: dict[tuple[str, str, int | None], set[str]] = {}
    for run in runs:
        places.setdefault((run.task, run.arm, run.seed), set()).add(str(run.root))
    shared = {arm for (_, arm, _), roots in places.items() if len(roots) > 1}  # on one task; then it is two on all tasks
    names = Counter(root.resolve().name for root in {run.root for run in runs})
    for run in runs:
        if run.arm in shared:
            name = run.root.resolve().name
            run.arm += f" ({name if names[name] == 1 else run.root})"


def _task(name: str, groups: dict[str, Group]) -> Task:
    task = Task(name, groups)
    counted = [run for group in groups.values() for run in group.counted]
    references = [run.scores.reference for run in counted if run.scores.reference is not None]
    known = references or [found for run in counted[:1] if (found := reference_scores(run.settings.env_id)) is not None]
    if len(set(known)) > 1:
        task.notes.append("its runs name different references, so its scores are not normalised")
    else:
        task.reference = known[0] if known else None
    datasets = {run.scores.dataset_fingerprint for run in counted if run.scores.dataset_fingerprint}
    if len(datasets) > 1:
        task.notes.append(f"its runs learned from {len(datasets)} different datasets")
    task.behaviour = next((run.scores.behaviour for run in counted if run.scores.behaviour is not None), None)
    task.held_out = all(run.scores.last is not None for run in counted)
    if not task.held_out and any(run.scores.last is not None for run in counted):
        task.notes.append("not all runs have held-out scores, so the last evaluations during training are compared")
    task.notes += _differences(groups)
    for group in groups.values():
        task.notes += _notes(group)
        task.curve_notes += [note] if (note := _curve_note(group)) else []
    if task.behaviour is not None and not any(run.folder.parent.name == "bc" for run in counted):
        task.notes.append("behaviour cloning is not among the algorithms, so nothing tells learning from imitation")
    return task


def _differences(groups: dict[str, Group]) -> list[str]:
    """What makes algorithms' numbers no comparison of algorithms."""
    found = []
    of_arms = {arm: [run for run in group.counted if run.settings.hyperparams] for arm, group in groups.items()}
    for what, values in (
        ("steps", {arm: {f"{run.wanted:,}" for run in runs if run.wanted is not None} for arm, runs in of_arms.items()}),
        ("arguments of the environment", {arm: {_arguments(run) for run in runs} for arm, runs in of_arms.items()}),
    ):
        if len({frozenset(value) for value in values.values() if value}) > 1:
            said = "; ".join(f"{arm}: {', '.join(sorted(value))}" for arm, value in values.items() if value)
            found.append(f"its algorithms differ in {what} ({said})")
    return found


def _arguments(run: Run) -> str:
    given = run.settings.hyperparams.get(ENV_KWARGS) or {}
    return ", ".join(f"{name}={given[name]!r}" for name in sorted(given) if name not in NOT_THE_TASK) or "none"


def _notes(group: Group) -> list[str]:
    seeds = Counter(run.seed for run in group.counted)
    notes = []
    for seed, times in seeds.items():
        if times > 1:
            what = "runs of unknown seed" if seed is None else f"runs of seed {seed}"
            notes.append(f"{group.arm}: {times} {what} are counted as if they were independent")
    settings = [run.settings.hyperparams | {"n_timesteps": run.wanted} for run in group.counted if run.settings.hyperparams]
    names = {name for part in settings for name in part}
    different = sorted(str(name) for name in names if any(part.get(name) != settings[0].get(name) for part in settings))
    if different:
        notes.append(f"{group.arm}: its runs differ in {', '.join(different)}")
    return notes


def _curve_note(group: Group) -> str | None:
    """Where a line does not show all that its runs did."""
    curves = [run.curve.steps for run in group.counted if run.curve is not None]
    if not curves:
        return None
    first, last = max(steps[0] for steps in curves), min(steps[-1] for steps in curves)
    if all(steps[0] == first and steps[-1] == last for steps in curves):
        return None
    where = "at no step" if last < first else f"at step {first:,}" if last == first else f"from step {first:,} to {last:,}"
    return f"{group.arm}: all of its runs were evaluated only {where}, so its line is no longer; each seed can be shown"
