"""Who works on a run, since when and with what outcome: one small file a run, which every engine keeps."""

import os
import secrets
import socket
import time
from pathlib import Path
from typing import Any

from sb3_pgr.zoo.studies.run import Run, newest_checkpoint, timesteps
from sb3_pgr.zoo.studies.storage import Storage

STUDY = "study.json"  # what a study is: specification, options, where it was begun
STOP = "stop"  # a file of this name asks every engine that works there to save and stop
BEAT_SECONDS = 5.0
LOST_SECONDS = 90.0  # without a beat, whoever worked on a run is taken for dead


def claim(storage: Storage, run: Run) -> str:
    """Begin an attempt, whoever else has begun one before; returns the token that it is known by."""
    token, now = secrets.token_hex(8), time.time()
    before = (read_state(storage, run) or {}).get("attempts", [])
    this = {"token": token, "node": socket.gethostname(), "pid": os.getpid(), "started": now, "outcome": None}
    storage.write_json(_name(run), {"state": "running", "token": token, "beat": now, "attempts": [*before, this]})
    return token


def beat(storage: Storage, run: Run, token: str, folder: Path) -> bool:
    """
    Say that the attempt is alive, and how far it came.

    :param folder: of the run, on this machine
    :return: whether the run is still this attempt's: another may have taken it over
    """
    return _write(storage, run, token, folder)


def close(storage: Storage, run: Run, token: str, folder: Path, outcome: str) -> None:
    """End an attempt: finished, failed or stopped. Without effect if another has taken the run over."""
    _write(storage, run, token, folder, outcome)


def _write(storage: Storage, run: Run, token: str, folder: Path, outcome: str | None = None) -> bool:
    state = read_state(storage, run)
    if state is None or state.get("token") != token:
        return False
    now = time.time()
    if outcome is not None:
        state["attempts"][-1] |= {"ended": now, "outcome": outcome}
    reached = timesteps(newest_checkpoint(folder))  # after a pause the state read may be "lost", which it is not
    storage.write_json(_name(run), state | {"state": outcome or "running", "beat": now, "timesteps": reached})
    return True


def read_state(storage: Storage, run: Run) -> dict[str, Any] | None:
    """What is known of a run; None if nobody has begun it."""
    state = storage.read_json(_name(run))
    if state is not None and state["state"] == "running" and time.time() - state["beat"] > LOST_SECONDS:
        state["state"] = "lost"
    return state


def _name(run: Run) -> str:
    return f"{run.path}.state.json"
