"""What lies in a run folder: names, checkpoints, evaluations. Light to import."""

import re
import zipfile
from pathlib import Path

import numpy as np

RUN_FILE, SCORES, EVALUATIONS, PROGRESS = "run.json", "scores.json", "evaluations.npz", "progress.csv"
CHECKPOINTS, VIDEOS, MANIFEST = "checkpoints", "videos", "manifest.json"
ARGUMENTS = "arguments.json"  # what ``benchmark`` leaves in the folder of a run before it starts it


def read_evaluations(run: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """
    Evaluations during training, as SB3's ``EvalCallback`` writes them.

    :param run: run folder
    :return: timesteps ``(n,)`` and undiscounted returns ``(n, episodes)``; nothing if there is no file of them
    :raises ValueError: if the file is cut off, damaged or another kind of file
    """
    path = run / EVALUATIONS
    try:
        with np.load(path) as saved:
            timesteps, results = np.asarray(saved["timesteps"]), np.asarray(saved["results"], np.float64)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{EVALUATIONS} is cut off or damaged ({str(error) or type(error).__name__})") from None
    if results.ndim != 2 or timesteps.shape != results.shape[:1] or not results.size:
        raise ValueError(
            f"{EVALUATIONS} holds {results.shape} returns at {timesteps.shape} timesteps, not (n, episodes) at (n,)"
        )
    return timesteps, results


def list_checkpoints(folder: str | Path) -> list[Path]:
    """Complete checkpoints in a folder, oldest first."""
    return sorted(path.parent for path in Path(folder).glob(f"step_*/{MANIFEST}"))


def latest_checkpoint(folder: str | Path) -> Path | None:
    """The newest complete checkpoint in a folder, if there is one."""
    checkpoints = list_checkpoints(folder)
    return checkpoints[-1] if checkpoints else None


def env_name_of(run: str | Path) -> str:
    """Id of a run's environment, as folders are named after it."""
    return re.sub(r"_\d+(_[0-9a-f-]+)?$", "", Path(run).resolve().name)
