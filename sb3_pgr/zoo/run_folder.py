"""Run folders as RL Zoo lays them out: ``<logs>/<algo>/<env>_<k>/``."""

import json
import os
import re
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from sb3_pgr.common.checkpoint import latest_checkpoint
from sb3_pgr.common.provenance import machine, versions
from sb3_pgr.common.run_files import CHECKPOINTS, RUN_FILE
from sb3_pgr.zoo.errors import UsageError

TRAINING_ONLY = ("interventions", "intervention_kwargs")  # arguments of environments: nobody helps in an evaluation


def require_writable(folder: str | Path, free_bytes: int = 200 * 2**20) -> None:
    """
    :raises UsageError: if nothing can be written there, or less than ``free_bytes`` are free
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"\0" * 4096)
            file.flush()
    except OSError as error:
        raise UsageError(f"Cannot write to {folder}: {error.strerror}. Choose another folder.") from None
    free = shutil.disk_usage(folder).free
    if free < free_bytes:
        raise UsageError(
            f"Only {free / 2**20:.0f} MB are free in {folder}, and a run needs at least {free_bytes / 2**20:.0f} MB."
        )


def require_npz_target(path: Path) -> None:
    """
    Before the work that would be lost.

    :raises UsageError: if no npz file can be written there
    """
    if path.suffix != ".npz":
        raise UsageError(f"-o {path}: the file must end in .npz.")
    if path.is_dir():
        raise UsageError(f"-o {path} is a folder; name a file.")
    require_writable(path.parent)


def write_run_file(
    run: str | Path, argv: list[str], seed: int, hyperparams: dict[str, Any], dataset_fingerprint: str | None
) -> None:
    """Remember what ``--resume`` needs (command line, seed drawn, hyper-parameters, dataset), and where the run is done."""
    try:
        stored = json.loads(json.dumps(hyperparams)) if _survives_json(hyperparams) else None
    except TypeError:
        stored = None  # classes among them: they are read again from YAML and the command line
    content = {"argv": argv, "seed": seed, "hyperparams": stored, "dataset_fingerprint": dataset_fingerprint}
    text = json.dumps(content | {"machine": machine(), "versions": versions()}, indent=1)
    temporary = Path(run) / f".{RUN_FILE}.writing"
    temporary.write_text(text + "\n")
    os.replace(temporary, Path(run) / RUN_FILE)


def read_run_file(run: str | Path) -> dict[str, Any]:
    """
    :raises UsageError: if the folder is not a run of ours
    """
    path = Path(run) / RUN_FILE
    try:
        content = json.loads(path.read_text())
        known = {key: content[key] for key in ("argv", "seed", "hyperparams")}
        return {**known, "dataset_fingerprint": content.get("dataset_fingerprint")}
    except FileNotFoundError:
        raise UsageError(f"{run} is not a run that can be resumed: it has no {RUN_FILE}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError):
        raise UsageError(f"{path} is damaged: it is not what `sb3-pgr train` writes.") from None


def find_runs(logs: str | Path, env_id: str, algo: str | None = None) -> list[Path]:
    """Runs of an environment, newest first."""
    name = re.escape(env_id.replace("/", "-"))
    pattern = re.compile(rf"{name}_\d+(_[0-9a-f-]+)?")
    roots = [Path(logs) / algo] if algo else [path for path in Path(logs).glob("*") if path.is_dir()]
    runs = [path for root in roots for path in root.glob("*") if path.is_dir() and pattern.fullmatch(path.name)]
    # A run folder changes when a video of it is made; run.json only when it is started or resumed.
    started = {run: run / RUN_FILE if (run / RUN_FILE).exists() else run for run in runs}
    return sorted(runs, key=lambda run: started[run].stat().st_mtime, reverse=True)


def env_name_of(run: str | Path) -> str:
    """Id of a run's environment, as folders are named after it."""
    return re.sub(r"_\d+(_[0-9a-f-]+)?$", "", Path(run).resolve().name)


def find_models(run: str | Path) -> list[Path]:
    """Saved models of a run from newest to oldest, then the best of its evaluations, whenever that was."""
    run = Path(run)
    name = env_name_of(run)
    steps = {path: int(path.parent.name.split("_")[1]) for path in (run / CHECKPOINTS).glob("step_*/model.zip")}
    steps |= {path: int(path.stem.split("_")[2]) for path in run.glob("rl_model_*_steps.zip")}
    final = run / f"{name}.zip"
    if final.is_file():
        steps = {final: _timesteps(final), **steps}
    best = run / "best_model.zip"
    return [*sorted(steps, key=lambda path: steps[path], reverse=True), *([best] if best.is_file() else [])]


def _timesteps(model: Path) -> int:
    """At which a model was saved by SB3; -1 if the file is cut off."""
    try:
        with zipfile.ZipFile(model) as file:
            return int(json.loads(file.read("data"))["num_timesteps"])
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return -1


def resume_point(run: str | Path) -> Path:
    """
    The newest checkpoint of a run.

    :raises UsageError: if there is none
    """
    checkpoint = latest_checkpoint(Path(run) / CHECKPOINTS)
    if checkpoint is None:
        raise UsageError(f"{run} has no complete checkpoint to resume from; train with --checkpoint-freq to get some.")
    return checkpoint


def _survives_json(value: Any) -> bool:
    """Whether JSON gives back what it was given, down to the types."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _survives_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_survives_json(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)
