"""``benchmark``: tasks x algorithms x seeds, on this machine or on a Ray cluster; ``status``, ``stop``, ``resume``."""

import argparse
import json
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sb3_pgr.common.run_files import ARGUMENTS, CHECKPOINTS, SCORES
from sb3_pgr.zoo.benchmark_report import read_run, write_report
from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.registry import register
from sb3_pgr.zoo.studies.cluster import run_on_cluster
from sb3_pgr.zoo.studies.local import alone, run_here
from sb3_pgr.zoo.studies.run import Run, is_finished, run_folder
from sb3_pgr.zoo.studies.spec import load_spec, runs_of
from sb3_pgr.zoo.studies.state import STOP, STUDY, has_failed, only_driver, read_state
from sb3_pgr.zoo.studies.storage import Storage, StorageError

ENGINES = ("local", "ray")
LOCAL_ONLY, RAY_ONLY = {"jobs": None}, {"gpus": 0.0, "address": None, "retries": 10}  # and their defaults


def main() -> None:
    """Run what is missing, then write ``table.md``, ``runs.csv`` and ``curves.png``."""
    register()
    try:
        verb = sys.argv[1] if len(sys.argv) > 1 else ""
        if verb in ("status", "stop", "resume"):
            parser = argparse.ArgumentParser(prog=f"sb3-pgr benchmark {verb}")
            parser.add_argument("study", help="folder of a study, or its --storage")
            storage = Storage(parser.parse_args(sys.argv[2:]).study)
            if not storage.is_local:
                storage.check()
            {"status": _status, "stop": _stop, "resume": _resume}[verb](storage, _read_study(storage))
            return
        args = _parser().parse_args()
        spec = load_spec(args.spec)
        output = args.output or Path("logs") / args.spec.stem
        options = {name: getattr(args, name) for name in ("engine", "jobs", "cpus", "gpus", "address", "retries")}
        _work(spec, options, output, args.storage or str(output), args.report)
    except StorageError as error:
        raise UsageError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sb3-pgr benchmark",
        description=__doc__,
        epilog="sb3-pgr benchmark status|stop|resume DIR: of a study that was begun there. See docs/studies.md.",
    )
    parser.add_argument("spec", type=Path, help="YAML: tasks, algorithms, seeds, n_timesteps")
    parser.add_argument("-o", "--output", type=Path, help="folder of the runs and the report (default: logs/<name of spec>)")
    parser.add_argument("--report", action="store_true", help="only table and picture, of the runs there are")
    parser.add_argument("--engine", choices=ENGINES, default="local", help="this machine, or a Ray cluster")
    parser.add_argument("--jobs", type=_at_least(1), help="local: runs at a time (default: as many as the cores bear)")
    parser.add_argument("--cpus", type=_at_least(1), default=1, help="cores, and threads, of a run")
    parser.add_argument("--gpus", type=float, default=RAY_ONLY["gpus"], help="ray: graphics cards of a run, or part of one")
    parser.add_argument("--address", help="ray: of a running cluster; by default RAY_ADDRESS, or one is started here")
    parser.add_argument("--storage", metavar="URL", help="ray: where runs lie if machines share no folder: s3://..., gs://...")
    retries = RAY_ONLY["retries"]
    parser.add_argument("--retries", type=_at_least(0), default=retries, help="ray: times that a run goes on elsewhere")
    return parser


def _at_least(least: int) -> Any:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"must be at least {least}")
        return value

    return number


def _work(spec: dict[str, Any], options: dict[str, Any], output: Path, url: str, only_report: bool) -> None:
    if options["engine"] == "local" and url != str(output):
        raise UsageError("--storage is for --engine ray; the local engine works in -o.")
    other: dict[str, Any] = RAY_ONLY if options["engine"] == "local" else LOCAL_ONLY
    for name in (name for name, default in other.items() if options.get(name, default) != default):
        raise UsageError(f"--{name} means nothing with --engine {options['engine']}.")
    runs = runs_of(spec, options["cpus"])
    storage = Storage(url if "://" in url else str(Path(url).resolve()))
    failed = []
    _require_same_settings(runs, storage)
    if only_report:
        _fetch(runs, storage, output)
    else:
        storage.check()
        is_local = options["engine"] == "local"
        with alone(output) as lock, nullcontext() if is_local else only_driver(storage):
            storage.remove(STOP)
            study = {"spec": spec, "options": options, "output": str(output.resolve()), "storage": storage.url}
            storage.write_json(STUDY, study | {"folder": os.getcwd()})
            if is_local:
                jobs = options["jobs"] or max(usable_cores() // options["cpus"], 1)
                try:
                    failed = run_here(runs, output, jobs, options["cpus"], lock)
                except KeyboardInterrupt:
                    print(f"Stopped. Go on with: sb3-pgr benchmark resume {output}", flush=True)
                    raise
            else:
                todo = sorted(_not_finished(runs, storage), key=lambda run: has_failed(storage, run))
                print(f"{len(runs)} runs, {len(runs) - len(todo)} finished before.")
                names = ("address", "cpus", "gpus", "retries")
                chosen = {name: options[name] for name in names}
                failed = run_on_cluster(todo, storage, **chosen) if todo else []
                _fetch(runs, storage, output)
    for run in failed:
        print(f"Failed: {run}, see {output / run.log}: {_last_line(output / run.log)}", file=sys.stderr)
    if len(failed) < len(runs):
        _report(runs, output)
    if failed:
        sys.exit(1)


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.is_file() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "it is empty")


def usable_cores() -> int:
    """Of this process, which may be held to fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _not_finished(runs: list[Run], storage: Storage) -> list[Run]:
    """By its state, and by its scores, which are gone where somebody removed the run."""
    scored = [name for name in storage.files() if name.endswith(f"/{SCORES}")]
    return [
        run
        for run in runs
        if (read_state(storage, run) or {}).get("state") != "finished"
        or not any(name.startswith(f"{run.path}/") for name in scored)
    ]


def _report(runs: list[Run], output: Path) -> None:
    results = []
    for run in runs:
        folder = run_folder(output / run.path)
        if folder is None or not is_finished(output / run.path):
            continue
        try:
            results.append(read_run(run.task, run.arm, run.seed, folder))
        except json.JSONDecodeError:
            print(
                f"{folder / SCORES} is damaged and is left out; without this file, the run is finished anew.", file=sys.stderr
            )
    if not results:
        raise UsageError(f"None of the {len(runs)} runs has finished.")
    write_report(results, output)
    print(f"{len(results)} of {len(runs)} runs: {output / 'table.md'}, {output / 'curves.png'}, {output / 'runs.csv'}")


def _require_same_settings(runs: list[Run], storage: Storage) -> None:
    """
    :raises UsageError: if there are runs of other settings in the places of these
    """
    there = set(storage.files())
    others = [
        str(run)
        for run in runs
        if (name := f"{run.path}/{ARGUMENTS}") in there and storage.read_json(name) != list(run.arguments)
    ]
    if others:
        raise UsageError(
            f"In {storage.url} are runs of other settings: {', '.join(others)}. "
            "Remove them, or choose another -o (--cpus is a setting too)."
        )


def _fetch(runs: list[Run], storage: Storage, output: Path) -> None:
    """Bring what a report needs from a storage that is not the output folder itself."""
    if storage.is_local and Path(storage.root) == output.resolve():
        return
    folders = tuple(f"{run.path}/" for run in runs)
    logs = {run.log for run in runs}
    for name in storage.files():
        if (name.startswith(folders) and f"/{CHECKPOINTS}/" not in name) or name in logs:
            storage.get(name, output / name)


def _read_study(storage: Storage) -> dict[str, Any]:
    study = storage.read_json(STUDY)
    if study is None:
        raise UsageError(f"{storage.url} is no study: it has no {STUDY}, which `sb3-pgr benchmark` writes when it starts.")
    return study


def _status(storage: Storage, study: dict[str, Any]) -> None:
    """One line a run, and how many are in which state."""
    runs = runs_of(study["spec"], study["options"]["cpus"])
    counts: dict[str, int] = {}
    for run in runs:
        state = read_state(storage, run) or {"state": "waiting", "attempts": []}
        counts[state["state"]] = counts.get(state["state"], 0) + 1
        last = state["attempts"][-1] if state["attempts"] else {}
        steps = "" if state.get("timesteps") is None else f"at {state['timesteps']:,} steps"
        until = last.get("ended") or (state["beat"] if state["state"] == "lost" else time.time())
        spent = f"{(until - last['started']) / 60:.1f} min on {last['node']}" if last else ""
        again = f"attempt {len(state['attempts'])}" if len(state["attempts"]) > 1 else ""
        print("  ".join(part for part in (f"{state['state']:8}", str(run), steps, spent, again) if part))
    print(", ".join(f"{count} {state}" for state, count in sorted(counts.items())) + f" of {len(runs)} runs")


def _stop(storage: Storage, study: dict[str, Any]) -> None:
    storage.write_json(STOP, {"time": time.time()})
    print(f"Runs of {storage.url} save a checkpoint and stop. Go on with: sb3-pgr benchmark resume {storage.url}")


def _resume(storage: Storage, study: dict[str, Any]) -> None:
    if Path(study["folder"]).is_dir():
        os.chdir(study["folder"])  # paths in the specification are relative to it
    output = Path(study["output"])
    url = storage.root if storage.is_local else storage.url
    if storage.is_local and study.get("storage", study["output"]) != url:  # it was moved
        output = Path(url)
    said = " ".join(f"--{name} {value}" for name, value in study["options"].items() if value is not None)
    print(f"Going on as it was begun: {said}")
    _work(study["spec"], study["options"], output, url, only_report=False)
