"""
One attempt at a run, on whatever machine of a cluster it falls to.

Training happens in a folder of that machine; what it writes is copied to the storage of the study as it comes, a checkpoint
when it is complete, so that another machine can go on from the last one. A checkpoint in the storage counts when its manifest
is there, which is copied last.
"""

import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from sb3_pgr.common.run_files import CHECKPOINTS, MANIFEST, SCORES
from sb3_pgr.zoo.interrupts import GRACE_SECONDS, end_with_parent
from sb3_pgr.zoo.studies.run import FILES, Run, is_finished, newest_checkpoint, prepare
from sb3_pgr.zoo.studies.state import BEAT_SECONDS, STOP, STUDY, beat, claim, close
from sb3_pgr.zoo.studies.storage import Storage

POLL_SECONDS = 1.0
SETTLED_SECONDS = 2.0  # a file that has changed since may be half-written


class TrainingKilledError(RuntimeError):
    """The system ended a training, by its memory limit say; another machine may do better."""


def attempt(run: Run, url: str, threads: int, inputs: Mapping[str, str]) -> str:
    """
    Do a run, or what is left of it.

    :param url: storage of the study
    :param threads: of the training
    :param inputs: files that the run reads, by the path in its arguments: a path on this machine, or a name in the storage
    :return: finished, failed (see its log), stopped, or taken over (by another attempt)
    :raises TrainingKilledError: if the training was killed
    """
    storage = Storage(url)
    if not storage.exists(STUDY):
        raise FileNotFoundError(f"{socket.gethostname()} does not see the storage {url}: there is no {STUDY}.")
    with tempfile.TemporaryDirectory(prefix="sb3_pgr-") as scratch:
        copy = RunCopy(storage, run, Path(scratch))
        copy.download()
        if is_finished(copy.folder):  # the machine that did it may have died before it said so
            close(storage, run, claim(storage, run), copy.folder, "finished")
            return "finished"
        if storage.exists(STOP):
            return "stopped"
        token = claim(storage, run)
        command = [*prepare(run, copy.folder), *_local_inputs(storage, run, inputs)]
        with open(copy.log, "ab") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
            training = subprocess.Popen(
                command, stdout=log, stderr=log, env=environment, start_new_session=True, preexec_fn=end_with_parent
            )
        try:
            outcome = _follow(training, storage, run, token, copy)
        finally:
            if training.poll() is None:
                training.kill()
        if outcome == "taken over":
            return outcome
        copy.upload(final=True)
        close(storage, run, token, copy.folder, outcome)
        if outcome == "killed":
            raise TrainingKilledError(f"{run} was ended by signal {-training.returncode} on {socket.gethostname()}.")
        return outcome


def _follow(training: subprocess.Popen[bytes], storage: Storage, run: Run, token: str, copy: "RunCopy") -> str:
    """Copy what comes until the training ends, or has to."""
    stopping, last_beat = 0.0, 0.0
    while True:
        try:
            code = training.wait(POLL_SECONDS)
        except subprocess.TimeoutExpired:
            if time.time() - last_beat >= BEAT_SECONDS:
                last_beat = time.time()
                if not beat(storage, run, token, copy.folder):
                    return "taken over"
                copy.upload()
                if not stopping and storage.exists(STOP):
                    stopping = time.time()
                    training.send_signal(signal.SIGINT)
            if stopping and time.time() - stopping > GRACE_SECONDS:
                training.kill()
            continue
        if not beat(storage, run, token, copy.folder):
            return "taken over"
        if code == 0 and is_finished(copy.folder):
            return "finished"
        if stopping:
            return "stopped"
        return "killed" if code < 0 else "failed"


def _local_inputs(storage: Storage, run: Run, inputs: Mapping[str, str]) -> list[str]:
    """Options that name the files which the run reads where they are on this machine; they are fetched once."""
    options = []
    for flag, path in zip(run.arguments, run.arguments[1:]):
        if path not in inputs or flag.removeprefix("--") not in FILES:
            continue
        local = Path(inputs[path])
        if not local.is_absolute():
            local = Path(tempfile.gettempdir()) / "sb3_pgr-inputs" / local.name
            if not local.exists():
                arriving = local.with_name(f".arriving-{os.getpid()}-{local.name}")
                storage.get(inputs[path], arriving)
                os.replace(arriving, local)
        options += [flag, str(local)]
    return options


class RunCopy:
    """
    A run's folder on this machine, and its copy in the storage.

    :param scratch: where the folder is made
    """

    def __init__(self, storage: Storage, run: Run, scratch: Path):
        self.storage, self.run, self.scratch = storage, run, scratch
        self.folder, self.log = scratch / run.path, scratch / run.log
        self._copied: dict[str, tuple[int, int]] = {}

    def download(self) -> None:
        """Fetch what earlier attempts left, of checkpoints only the newest complete one."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        names = self.storage.files(self.run.path)
        manifests = [name for name in names if f"/{CHECKPOINTS}/step_" in name and name.endswith(f"/{MANIFEST}")]
        complete = sorted(name.rsplit("/", 1)[0] for name in manifests)
        for name in names:
            checkpoint = name.rsplit("/", 1)[0] if f"/{CHECKPOINTS}/" in name else None
            if checkpoint is None or checkpoint in complete[-1:]:
                self.storage.get(name, self.scratch / name)
        if self.storage.exists(self.run.log):
            self.storage.get(self.run.log, self.log)

    def upload(self, final: bool = False) -> None:
        """
        Copy what is new: everything else before the checkpoint, so that what a resume takes up is not older than it; of the
        checkpoint the manifest last; then the scores, which say that the run is finished.

        :param final: whether nothing is being written any more
        """
        newest = newest_checkpoint(self.folder)
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        files = [path for path in files if CHECKPOINTS not in path.relative_to(self.folder).parts]
        settled, complete = time.time() - SETTLED_SECONDS, True
        for path in files:
            if path.name != SCORES and not path.name.startswith(".writing-"):
                # A last line that is cut off does no harm.
                complete &= self._put(path, None if final or path.suffix == ".csv" else settled)
        self._put(self.log, None)
        if newest is not None and complete:
            self._put_checkpoint(newest)
        for path in files if final else []:
            if path.name == SCORES:
                self._put(path, None)

    def _put_checkpoint(self, checkpoint: Path) -> None:
        """And remove those before it."""
        name = self._name(checkpoint)
        if name in self._copied:
            return
        try:
            for path in sorted(checkpoint.iterdir(), key=lambda path: path.name == MANIFEST):
                self.storage.put(path, f"{name}/{path.name}")
        except FileNotFoundError:  # training has moved on and removed it; there is a newer one by now
            return
        self._copied[name] = (0, 0)
        folder = self._name(checkpoint.parent)
        there = {file.removeprefix(f"{folder}/").split("/")[0] for file in self.storage.files(folder)}
        for other in {other for other in there if other < checkpoint.name or not other.startswith("step_")}:
            self.storage.remove(f"{folder}/{other}/{MANIFEST}")  # first, so that half of it never counts
            self.storage.remove(f"{folder}/{other}")

    def _put(self, path: Path, settled: float | None) -> bool:
        """
        :param settled: leave it for later if it has changed since
        :return: whether its copy is what it is now
        """
        try:
            stat = path.stat()
            name, now = self._name(path), (stat.st_mtime_ns, stat.st_size)
            if self._copied.get(name) == now:
                return True
            if settled is not None and stat.st_mtime > settled:
                return False
            self.storage.put(path, name)
            self._copied[name] = now
        except FileNotFoundError:  # it was a temporary one
            pass
        return True

    def _name(self, path: Path) -> str:
        return path.relative_to(self.scratch).as_posix()
