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
from sb3_pgr.common.run_files import CHECKPOINTS, RUN_FILE, env_name_of
from sb3_pgr.zoo.errors import UsageError

BEST = "best_model.zip"  # of the evaluations during training, as SB3 calls it
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
    run: str | Path,
    argv: list[str],
    seed: int,
    hyperparams: dict[str, Any],
    dataset_fingerprint: str | None,
    not_resumable: str | None = None,
) -> None:
    """
    Remember what ``--resume`` needs (command line, seed drawn, hyper-parameters, dataset), or why it cannot be, and where the
    run is done.
    """
    try:
        stored = json.loads(json.dumps(hyperparams)) if _survives_json(hyperparams) else None
    except TypeError:
        stored = None  # classes among them: they are read again from YAML and the command line
    content = {"argv": argv, "seed": seed, "hyperparams": stored, "dataset_fingerprint": dataset_fingerprint}
    content |= {} if not_resumable is None else {"not_resumable": not_resumable}
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
        return {**known, **{name: content.get(name) for name in ("dataset_fingerprint", "not_resumable")}}
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


def number_of(run: Path) -> str:
    """RL Zoo's, at the end of the folder's name."""
    return run.name.removeprefix(f"{env_name_of(run)}_").partition("_")[0]


def find_models(run: str | Path) -> list[Path]:
    """Saved models of a run from newest to oldest, then the best of its evaluations, whenever that was."""
    run = Path(run)
    name = env_name_of(run)
    steps = {path: step_of(path) or 0 for path in (run / CHECKPOINTS).glob("step_*/model.zip")}
    steps |= {path: step_of(path) or 0 for path in run.glob("rl_model_*_steps.zip")}
    final = run / f"{name}.zip"
    if final.is_file():
        steps = {final: _timesteps(final), **steps}
    best = run / BEST
    return [*sorted(steps, key=lambda path: steps[path], reverse=True), *([best] if best.is_file() else [])]


def step_of(model: Path) -> int | None:
    """At which it was saved, if its name or its folder's tells."""
    name = model.parent.name if model.name == "model.zip" else model.stem
    found = re.fullmatch(r"step_(\d+)|rl_model_(\d+)_steps", name)
    return int(found[1] or found[2]) if found else None


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
    reason = read_run_file(run)["not_resumable"] if checkpoint is None else None
    if reason is not None:
        name = env_name_of(run)
        raise UsageError(f"{run} cannot be resumed: {reason}. A new run can start from its model: -i {Path(run) / name}.zip")
    if checkpoint is None:
        raise UsageError(f"{run} has no complete checkpoint to resume from; --checkpoint-freq says how often there is one.")
    return checkpoint


def _survives_json(value: Any) -> bool:
    """Whether JSON gives back what it was given, down to the types."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _survives_json(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_survives_json(item) for item in value)
    return value is None or type(value) in (bool, int, float, str)
