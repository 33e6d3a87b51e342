"""Runs on the machines of a Ray cluster. Ray schedules, notices machines that die, and tries elsewhere."""

import logging
import os
import socket
from pathlib import Path
from typing import Any

from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.interrupts import termination_interrupts
from sb3_pgr.zoo.studies.attempt import TrainingKilledError, attempt
from sb3_pgr.zoo.studies.run import FILES, Run
from sb3_pgr.zoo.studies.state import STOP
from sb3_pgr.zoo.studies.storage import Storage, StorageError

SECONDS_TO_CONNECT = 10.0


def run_on_cluster(
    runs: list[Run],
    storage: Storage,
    address: str | None,
    cpus: int,
    gpus: float,
    retries: int,
) -> list[Run]:
    """
    Do what has not finished; at Ctrl-C, SIGTERM, or ``benchmark stop``, the running ones save a checkpoint and come to rest in
    the storage.

    :param runs: those that have not finished
    :param storage: that all machines see
    :param address: of a running cluster; without one, and without ``RAY_ADDRESS``, one is started on this machine
    :param cpus: processor cores of a run
    :param gpus: graphics cards of a run, or part of one
    :param retries: how often a run goes on elsewhere when its machine, or its process, dies
    :return: runs that failed
    :raises KeyboardInterrupt: if they were stopped
    :raises UsageError: if the cluster cannot be reached, or none of its machines can bear a run
    """
    ray = connect(address)
    try:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            known = ", ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes)
            raise UsageError(f"A run asks for {cpus} cores and {gpus:g} GPUs; the machines of the cluster have {known}.")
        inputs = share_inputs(runs, storage)
        remote = ray.remote(attempt).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=retries,
            retry_exceptions=[TrainingKilledError, StorageError, OSError],
            scheduling_strategy="SPREAD",
        )
        print(f"{len(runs)} runs to do on {len(nodes)} machines.", flush=True)
        waiting = {remote.remote(run, storage.url, cpus, inputs): run for run in runs}
        return _collect(ray, waiting, storage)
    finally:
        ray.shutdown()


def connect(address: str | None) -> Any:
    """
    The ``ray`` module, connected.

    :raises UsageError: if it is not installed, or the cluster does not answer
    """
    try:
        import ray
    except ImportError:
        raise UsageError("The Ray engine needs Ray. Install it with: pip install 'sb3_pgr[ray]'") from None
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None and address != "auto":
        _require_answer(address)
    try:
        dashboard = None if address else False
        ray.init(address or "local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=dashboard)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"No Ray cluster at {address or 'this machine'}: {error}") from None
    return ray


def _require_answer(address: str) -> None:
    """
    :raises UsageError: if nobody listens there
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), SECONDS_TO_CONNECT):
            return
    except (OSError, ValueError) as error:
        raise UsageError(f"No Ray cluster at {address}: {error}. Start one with: ray start --head") from None


@termination_interrupts()  # Ray's own handler ends the process
def _collect(ray: Any, waiting: dict[Any, Run], storage: Storage) -> list[Run]:
    failed, stopped = [], False
    while waiting:
        try:
            done, _ = ray.wait(list(waiting), num_returns=1, timeout=1.0)
        except KeyboardInterrupt:
            if stopped:
                raise
            stopped = True
            storage.write_json(STOP, {})
            print("Stopping: runs save a checkpoint first. Ctrl-C again to leave at once.", flush=True)
            continue
        for reference in done:
            run = waiting.pop(reference)
            try:
                outcome = ray.get(reference)
            except ray.exceptions.RayError as error:
                outcome = f"failed ({str(error).strip().splitlines()[-1]})"
            stopped |= outcome == "stopped"
            failed += [run] if outcome.startswith(("failed", "taken over")) else []
            if outcome != "stopped":
                print(f"{outcome}: {run}; {len(waiting)} left", flush=True)
    if stopped:
        raise KeyboardInterrupt
    return failed


def share_inputs(runs: list[Run], storage: Storage) -> dict[str, str]:
    """
    Datasets and demonstrations that runs read, by the path in their arguments: where machines find them. That is the whole
    path if the storage is a folder that they share; otherwise a name in the storage, to which the file is copied.

    :raises UsageError: if there is something that cannot be copied
    """
    options = {pair for run in runs for pair in zip(run.arguments, run.arguments[1:])}
    paths = sorted(value for flag, value in options if flag.removeprefix("--") in FILES and flag.startswith("--"))
    if storage.is_local:
        return {path: str(Path(path).resolve()) for path in paths if Path(path).exists()}
    inputs = {}
    for path in paths:
        if not Path(path).is_file():
            raise UsageError(f"{path} is no file: to machines that share no folder, only files can be handed on.")
        stat = Path(path).stat()
        inputs[path] = f"inputs/{stat.st_size}-{stat.st_mtime_ns}-{Path(path).name}"
        if not storage.exists(inputs[path]):
            storage.put(Path(path), inputs[path])
    return inputs
