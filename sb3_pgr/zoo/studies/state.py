"""Who works on a run, since when and with what outcome: one small file a run, which every engine keeps."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sb3_pgr.zoo.studies.run import Run, newest_checkpoint, timesteps
from sb3_pgr.zoo.studies.storage import Storage, StorageError

STUDY = "study.json"  # what a study is: specification, options, where it was begun
DRIVER = "driver.json"  # which command hands out the runs of a study
STOP = ".stop"  # a file of this name asks every engine that works there to save and stop
BEAT_SECONDS = 5.0
LOST_SECONDS = 90.0  # without a beat, whoever worked on a run is taken for dead


@contextmanager
def only_driver(storage: Storage) -> Iterator[None]:
    """
    Hand out the runs of a storage, as nobody else does meanwhile.

    :raises StorageError: if another command does, wherever it runs
    """
    other = storage.read_json(DRIVER)
    if other is not None and time.time() - other["beat"] < LOST_SECONDS and not _is_dead(other):
        raise StorageError(
            f"A benchmark on {other['node']} (process {other['pid']}) hands out the runs of {storage.url}. "
            f"If it was killed, try again in {LOST_SECONDS:.0f} seconds."
        )
    me = {"node": socket.gethostname(), "pid": os.getpid()}
    over = threading.Event()

    def go_on_beating() -> None:
        while not over.wait(BEAT_SECONDS):
            try:
                storage.write_json(DRIVER, me | {"beat": time.time()})
            except StorageError:
                pass  # the next may arrive

    storage.write_json(DRIVER, me | {"beat": time.time()})
    thread = threading.Thread(target=go_on_beating, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        storage.remove(DRIVER)


def _is_dead(driver: dict[str, Any]) -> bool:
    """Whether it was of this machine, and is no more; of others nobody knows."""
    if driver["node"] != socket.gethostname():
        return False
    try:
        os.kill(driver["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False


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


def settle(storage: Storage, run: Run) -> None:
    """Write that a run has finished, where its scores say so and whoever did it died before it could."""
    state = storage.read_json(_name(run))
    if state is not None and state["state"] != "finished":
        state["attempts"][-1] |= {"ended": state["beat"], "outcome": "finished"}
        storage.write_json(_name(run), state | {"state": "finished"})


def read_state(storage: Storage, run: Run) -> dict[str, Any] | None:
    """What is known of a run; None if nobody has begun it."""
    state = storage.read_json(_name(run))
    if state is not None and state["state"] == "running" and time.time() - state["beat"] > LOST_SECONDS:
        state["state"] = "lost"
    return state


def has_failed(storage: Storage, run: Run) -> bool:
    """Whether its last attempt ended in an error."""
    return (read_state(storage, run) or {}).get("state") == "failed"


def _name(run: Run) -> str:
    return f"{run.path}.state.json"
