"""One run of a study, and what its folder says about it. Light to import: machines of a cluster need no more."""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from sb3_pgr.common.run_files import ARGUMENTS, CHECKPOINTS, RUN_FILE, SCORES, latest_checkpoint

FILES = ("dataset", "demonstrations")  # options of ``train`` that name what a run reads


@dataclass(frozen=True)
class Run:
    """
    One training.

    :param task: its name in the specification
    :param arm: name of the algorithm with its settings
    :param arguments: of ``train``, without folder and seed
    """

    task: str
    arm: str
    seed: int
    arguments: tuple[str, ...]

    @property
    def path(self) -> str:
        """Of its folder, below that of the study."""
        return f"{self.task.replace('/', '-')}/{self.arm}/seed_{self.seed}"

    @property
    def log(self) -> str:
        """Path of what it prints, below the folder of the study."""
        return f"{self.path}.log"

    def __str__(self) -> str:
        return f"{self.task} {self.arm} seed {self.seed}"


def run_folder(folder: Path) -> Path | None:
    """What ``train`` made below ``folder``, if it began."""
    return next(iter(sorted(path.parent for path in folder.glob(f"*/*/{RUN_FILE}"))), None)


def newest_checkpoint(folder: Path) -> Path | None:
    """Of the run below ``folder``."""
    begun = run_folder(folder)
    return None if begun is None else latest_checkpoint(begun / CHECKPOINTS)


def timesteps(checkpoint: Path | None) -> int | None:
    """At which a checkpoint was taken."""
    return None if checkpoint is None else int(checkpoint.name.split("_")[1])


def is_finished(folder: Path) -> bool:
    """Whether the run below ``folder`` has its scores."""
    begun = run_folder(folder)
    return begun is not None and (begun / SCORES).is_file()


def prepare(run: Run, folder: Path) -> list[str]:
    """
    The command that goes on from the last checkpoint below ``folder``, or starts there anew, in which case what a start
    without a checkpoint left is removed.
    """
    program, begun = [sys.executable, "-m", "sb3_pgr", "train"], run_folder(folder)
    if newest_checkpoint(folder) is not None:
        return [*program, "--resume", str(begun)]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    writing = folder / f".{ARGUMENTS}"
    writing.write_text(json.dumps(run.arguments))
    writing.replace(folder / ARGUMENTS)
    return [*program, "-f", str(folder), "--seed", str(run.seed), *run.arguments]
