"""Runs on this machine, as many at a time as it bears."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.interrupts import GRACE_SECONDS, interrupt_with_parent, termination_interrupts
from sb3_pgr.zoo.studies.run import Run, is_finished, prepare
from sb3_pgr.zoo.studies.state import BEAT_SECONDS, STOP, beat, claim, close, has_failed, settle
from sb3_pgr.zoo.studies.storage import Storage

POLL_SECONDS = 0.1


@dataclass
class _Running:
    process: subprocess.Popen[bytes]
    token: str


@contextmanager
def alone(output: Path) -> Iterator[int]:
    """
    The descriptor of a lock; runs inherit it, so that it holds on as long as any of them.

    :raises UsageError: if another command, or a run that one left behind, works in this folder
    """
    output.mkdir(parents=True, exist_ok=True)
    with open(output / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UsageError(f"A benchmark, or a run of one that was killed, still works in {output}.") from None
        yield lock.fileno()


@termination_interrupts()
def run_here(runs: list[Run], output: Path, jobs: int, threads: int, lock: int) -> list[Run]:
    """
    Do what has not finished, and last what failed before; at Ctrl-C, SIGTERM, SIGHUP or ``benchmark stop``, or (on Linux) when
    this command is killed, the running ones save a checkpoint.

    :param output: folder of the study
    :param jobs: runs at a time
    :param threads: of each run
    :param lock: descriptor that runs inherit
    :return: runs that failed
    :raises KeyboardInterrupt: if they were stopped
    """
    storage = Storage(str(output))
    todo = sorted((run for run in runs if not is_finished(output / run.path)), key=lambda run: has_failed(storage, run))
    for run in set(runs) - set(todo):
        settle(storage, run)
    print(f"{len(runs)} runs, {len(runs) - len(todo)} finished before; {min(jobs, len(todo))} at a time.", flush=True)
    running: dict[Run, _Running] = {}
    failed: list[Run] = []
    last_beat = time.time()
    try:
        while todo or running:
            if (output / STOP).exists():
                raise KeyboardInterrupt
            while todo and len(running) < jobs:
                run = todo.pop(0)
                running[run] = _start(run, output, storage, threads, lock)
            for run in [run for run, it in running.items() if it.process.poll() is not None]:
                it = running.pop(run)
                outcome = "finished" if it.process.returncode == 0 and is_finished(output / run.path) else "failed"
                close(storage, run, it.token, output / run.path, outcome)
                failed += [run] if outcome == "failed" else []
                print(f"{outcome}: {run}; {len(todo) + len(running)} left", flush=True)
            if time.time() - last_beat > BEAT_SECONDS:
                last_beat = time.time()
                for run, it in running.items():
                    beat(storage, run, it.token, output / run.path)
            time.sleep(POLL_SECONDS)
    finally:
        for it in running.values():
            it.process.send_signal(signal.SIGINT)
        if running:
            _say(f"Waiting for {', '.join(map(str, running))}, to end an update and save.")
        for run, it in running.items():
            try:
                it.process.wait(GRACE_SECONDS)
            except subprocess.TimeoutExpired:
                it.process.kill()
                _say(f"{run} did not end in {GRACE_SECONDS / 60:.0f} minutes and was killed.")
            done = it.process.returncode == 0 and is_finished(output / run.path)
            close(storage, run, it.token, output / run.path, "finished" if done else "stopped")
    return failed


def _say(text: str) -> None:
    with suppress(OSError):  # of a terminal that was closed
        print(text, flush=True)


def _start(run: Run, output: Path, storage: Storage, threads: int, lock: int) -> _Running:
    command, token = prepare(run, output / run.path), claim(storage, run)
    with open(output / run.log, "ab") as log:
        # A group of its own: Ctrl-C reaches this command alone, which then hands it on once.
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            env=environment,
            pass_fds=[lock],
            start_new_session=True,
            preexec_fn=interrupt_with_parent,
        )
    return _Running(process, token)
