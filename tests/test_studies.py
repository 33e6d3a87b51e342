"""Studies: specifications, storage, who works on what, and machines that die."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import fsspec
import pytest
import yaml
from commands import command, run

from sb3_pgr.zoo.errors import UsageError
from sb3_pgr.zoo.interrupts import end_with_parent, interrupt_with_parent
from sb3_pgr.zoo.registry import register
from sb3_pgr.zoo.studies import attempt, state
from sb3_pgr.zoo.studies.run import Run
from sb3_pgr.zoo.studies.spec import arms_of, load_spec, runs_of
from sb3_pgr.zoo.studies.storage import Storage, StorageError

ROOT = Path(__file__).parents[1]
RUN = Run("dmc/x-v0", "redq", 3, ("--algo", "redq"))
SPEC = {
    "tasks": {"pendulum": "Pendulum-v1"},
    "algorithms": {"redq": {"learning_starts": 50, "gradient_steps": 1, "policy_kwargs": {"net_arch": [8]}}},
    "seeds": [0],
    "n_timesteps": 200,
    "eval_freq": 200,
    "eval_episodes": 1,
    "final_episodes": 1,
}


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    yield Storage(str(tmp_path / "study") if request.param == "local" else "memory://study")
    fsspec.filesystem("memory").store.clear()


def test_grids_are_arms_of_their_own():
    arms = arms_of(
        {"td3_bc": {"grid": {"alpha": [1.0, 2.5], "tau": [0.1]}, "gamma": 0.9}, "bold": {"algo": "iql"}, "bc": None}
    )
    assert arms == {
        "td3_bc_alpha=1.0_tau=0.1": {"algo": "td3_bc", "gamma": 0.9, "alpha": 1.0, "tau": 0.1},
        "td3_bc_alpha=2.5_tau=0.1": {"algo": "td3_bc", "gamma": 0.9, "alpha": 2.5, "tau": 0.1},
        "bold": {"algo": "iql"},
        "bc": {"algo": "bc"},
    }


@pytest.mark.parametrize(
    "change, message",
    [
        ({"seeds": [-1]}, "from 0 on"),
        ({"n_eval_envs": 0}, "n_eval_envs must be a whole number of at least 1"),
        ({"algorithms": {"a b": {"algo": "redq"}, "ab": {"algo": "redq"}}}, "two names stand for the folder ab"),
        ({"algorithms": {"redq": {"grid": {"net": ["x" * 300]}}}}, "more than 200 bytes"),
    ],
)
def test_names_and_seeds_that_would_fail_later(change, message, tmp_path):
    register()
    (tmp_path / "spec.yml").write_text(yaml.safe_dump(SPEC))
    load_spec(tmp_path / "spec.yml")
    (tmp_path / "spec.yml").write_text(yaml.safe_dump(SPEC | change))
    with pytest.raises(UsageError, match=message):
        load_spec(tmp_path / "spec.yml")


@pytest.mark.parametrize(
    "algorithms, message",
    [
        ("off: {algo: redq}", "False must be text; put it in quotes"),
        ("10:", "10 must be text"),
        ("a: {algo: [redq]}", "algo must be text"),
        ("redq: {policy: [MlpPolicy]}", "policy must be text"),
        ("redq: {grid: {1: [2]}}", "grid must be a mapping"),
        ("redq:\n  redq: {n_critics: 5}", "there are two 'redq'"),
        ("r\xe9dq:", "can't decode"),
    ],
)
def test_plausible_slips(algorithms, message, tmp_path):
    register()
    text = f"tasks: {{pendulum: Pendulum-v1}}\nseeds: [0]\nn_timesteps: 200\nalgorithms:\n  {algorithms}\n"
    (tmp_path / "spec.yml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=message):
        load_spec(tmp_path / "spec.yml")


def test_as_many_runs_as_cores_may_be_used():
    program = "import os; os.sched_setaffinity(0, {0}); from sb3_pgr.zoo.benchmark import usable_cores; print(usable_cores())"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split() == ["1"]


def test_runs_of_a_specification():
    spec = SPEC | {
        "seeds": [0, 1],
        "algorithms": {"hybrid_sac": {"demonstrations": "d.npz", "vec_env": "subproc", "gamma": 0.9}},
    }
    first, second = runs_of(spec, threads=3)
    assert (first.path, second.path) == ("pendulum/hybrid_sac/seed_0", "pendulum/hybrid_sac/seed_1")
    text = " ".join(first.arguments)
    assert "--env Pendulum-v1 --demonstrations d.npz --vec-env subproc -n 200 --num-threads 3" in text and text.endswith(
        "-params gamma:0.9"
    )
    assert "--n-eval-envs" not in text and "--n-eval-envs 5" in " ".join(runs_of(spec | {"n_eval_envs": 5})[0].arguments)


def test_all_that_is_wrong_with_an_arm_is_said(tmp_path):
    register()
    wrong = {
        "redq": {"gama": 0.9, "n_critics": "ten", "policy_kwargs": {"net_arc": [8]}, "policy": "Mlp"},
        "sac": {"grid": {"tau": 0.5}},
        "td3": {"grid": {"tau": [0.1, "much"]}},
        "dqn": 3,
        "hybrid_sac": {"demonstrations": "nowhere.npz", "vec_env": "threads"},
    }
    (tmp_path / "wrong.yml").write_text(
        yaml.safe_dump(SPEC | {"algorithms": wrong, "tasks": {"d": {"dataset": "no/such-v0"}}})
    )
    with pytest.raises(UsageError) as caught:
        load_spec(tmp_path / "wrong.yml")
    expected = ["'gama'", "n_critics must be", "no policy 'Mlp'", "sac: grid must be", "'much'", "dqn: must be a mapping"]
    for message in [*expected, "no file nowhere.npz", "not 'threads'", "no/such-v0 is neither"]:
        assert message in str(caught.value), message
    wrong = {"redq": {"policy_kwargs": {"net_arc": [8]}}}
    (tmp_path / "wrong.yml").write_text(yaml.safe_dump(SPEC | {"algorithms": wrong}))
    with pytest.raises(UsageError, match="no parameter 'net_arc'"):
        load_spec(tmp_path / "wrong.yml")


def test_storage(storage, tmp_path):
    storage.check()
    assert storage.files() == [] and storage.read_json("a.json") is None
    (tmp_path / "file").write_bytes(b"content")
    storage.put(tmp_path / "file", "x/y/file")
    storage.write_json("x/a.json", {"b": 1})
    assert storage.files() == ["x/a.json", "x/y/file"] and storage.files("x/y") == ["x/y/file"]
    assert storage.read_json("x/a.json") == {"b": 1} and storage.exists("x/y/file") and not storage.exists("x/z")
    storage.get("x/y/file", tmp_path / "back" / "file")
    assert (tmp_path / "back" / "file").read_bytes() == b"content"
    storage.put(tmp_path / "file", "x/y_net_arch=[64,64]/file")
    storage.remove("x/y_net_arch=[64,64]")
    storage.remove("x/y")
    storage.remove("x/y")
    assert storage.files() == ["x/a.json"]
    with pytest.raises(FileNotFoundError):
        storage.put(tmp_path / "nothing", "x/nothing")


def test_storage_that_does_not_answer(tmp_path):
    class Silent(fsspec.AbstractFileSystem):
        protocol = "silent"

        def pipe_file(self, path, value, **kwargs):
            time.sleep(5)

    fsspec.register_implementation("silent", Silent, clobber=True)
    started = time.time()
    with pytest.raises(StorageError, match="no answer within 0 seconds"):
        Storage("silent://x").check(seconds=0.2)
    assert time.time() - started < 2
    with pytest.raises(StorageError, match="nosuch"):
        Storage("nosuch://x")
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be used: FileExists"):
        Storage(str(tmp_path / "file")).check()


def test_a_network_that_fails_now_and_then(monkeypatch):
    storage, pauses, failures = Storage("memory://study"), [], [OSError("gone"), OSError("gone")]
    monkeypatch.setattr(time, "sleep", pauses.append)
    write = storage.fs.pipe_file

    def unreliable(*args, **kwargs):
        if failures:
            raise failures.pop()
        write(*args, **kwargs)

    monkeypatch.setattr(storage.fs, "pipe_file", unreliable)
    storage.write_json("a.json", {})
    assert storage.read_json("a.json") == {} and len(pauses) == 2
    failures += [OSError("gone")] * 10
    with pytest.raises(StorageError, match="gone"):
        storage.write_json("a.json", {})
    fsspec.filesystem("memory").store.clear()


def test_only_one_attempt_owns_a_run(storage, monkeypatch, tmp_path):
    folder = tmp_path / RUN.path
    for step, files in (
        ("1000", ["manifest.json"]),
        ("2000", ["model.zip"]),
    ):  # the later one half-copied, without its manifest
        checkpoint = folder / f"redq/x-v0_1/checkpoints/step_{step:0>12}"
        checkpoint.mkdir(parents=True)
        (checkpoint / files[0]).touch()
    (folder / "redq/x-v0_1/run.json").touch()
    first = state.claim(storage, RUN)
    assert state.beat(storage, RUN, first, folder) and state.read_state(storage, RUN)["timesteps"] == 1_000
    second = state.claim(storage, RUN)
    assert not state.beat(storage, RUN, first, folder) and state.beat(storage, RUN, second, folder)
    state.close(storage, RUN, first, folder, "finished")  # too late
    assert state.read_state(storage, RUN)["state"] == "running"
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * state.LOST_SECONDS)
    assert state.read_state(storage, RUN)["state"] == "lost"
    state.beat(storage, RUN, second, folder)  # it was only asleep
    assert state.read_state(storage, RUN)["state"] == "running"
    state.close(storage, RUN, second, folder, "finished")
    known = state.read_state(storage, RUN)
    assert known["state"] == "finished" and [it["outcome"] for it in known["attempts"]] == [None, "finished"]


def test_only_one_command_hands_out_runs(storage, monkeypatch):
    with state.only_driver(storage):
        with pytest.raises(StorageError, match=r"process \d+\) hands out the runs"):
            with state.only_driver(storage):
                pass
    with state.only_driver(storage):  # the one before is over
        pass
    storage.write_json(state.DRIVER, {"node": "elsewhere", "pid": 1, "beat": time.time()})
    with pytest.raises(StorageError, match="on elsewhere"):
        with state.only_driver(storage):
            pass
    storage.write_json(state.DRIVER, {"node": socket.gethostname(), "pid": 2**22 + 1, "beat": time.time()})
    with state.only_driver(storage):  # of this machine, and dead
        pass


def test_a_run_that_was_finished_alone_is_settled(storage):
    state.settle(storage, RUN)
    assert state.read_state(storage, RUN) is None  # nobody began it under this name
    state.claim(storage, RUN)
    state.settle(storage, RUN)
    known = state.read_state(storage, RUN)
    assert known["state"] == "finished" and known["attempts"][0]["outcome"] == "finished"


def make_checkpoint(copy, step, content="weights"):
    folder = copy.folder / "redq/x-v0_1/checkpoints" / f"step_{step:012d}"
    folder.mkdir(parents=True)
    for name in ("manifest.json", "model.zip"):
        (folder / name).write_text(f"{content} {step}")


def test_what_another_machine_finds(storage, tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "SETTLED_SECONDS", -1.0)
    here = attempt.RunCopy(storage, RUN, tmp_path / "here")
    run_folder = here.folder / "redq/x-v0_1"
    make_checkpoint(here, 100)
    for name in ("run.json", "progress.csv", "scores.json", ".writing-scores.json"):
        (run_folder / name).write_text(name)
    here.log.write_text("log")
    here.upload()
    names = [name.rsplit("/", 1)[1] for name in storage.files()]
    assert sorted(names) == ["manifest.json", "model.zip", "progress.csv", "run.json", "seed_3.log"]  # scores come at the end

    make_checkpoint(here, 200)
    order = []
    put = storage.put
    monkeypatch.setattr(storage, "put", lambda local, name: (order.append(name.rsplit("/", 1)[1]), put(local, name)))
    (run_folder / "progress.csv").write_text("more")
    here.upload()
    assert order == ["progress.csv", "model.zip", "manifest.json"]  # what has not changed stays
    assert storage.files(f"{RUN.path}/redq/x-v0_1/checkpoints/step_000000000100") == []

    def die_before_manifest(local, name):
        if name.endswith("step_000000000300/manifest.json"):
            raise InterruptedError
        put(local, name)

    make_checkpoint(here, 300)
    monkeypatch.setattr(storage, "put", die_before_manifest)
    with pytest.raises(InterruptedError):
        here.upload()
    assert storage.exists(f"{RUN.path}/redq/x-v0_1/checkpoints/step_000000000300/model.zip")
    monkeypatch.setattr(storage, "put", put)
    there = attempt.RunCopy(storage, RUN, tmp_path / "there")
    there.download()
    checkpoints = sorted(path.name for path in (there.folder / "redq/x-v0_1/checkpoints").iterdir())
    assert checkpoints == ["step_000000000200"] and there.log.read_text() == "log"
    assert (there.folder / "redq/x-v0_1/progress.csv").read_text() == "more"

    here.upload(final=True)
    assert storage.exists(f"{RUN.path}/redq/x-v0_1/scores.json")


def test_files_that_are_being_written_are_left_for_later(tmp_path):
    storage = Storage(str(tmp_path / "study"))
    copy = attempt.RunCopy(storage, RUN, tmp_path / "here")
    copy.folder.mkdir(parents=True)
    (copy.folder / "best_model.zip").write_text("half")
    copy.log.write_text("")
    copy.upload()
    assert storage.files() == [RUN.log]
    copy.upload(final=True)
    assert f"{RUN.path}/best_model.zip" in storage.files()


def test_a_run_that_was_taken_over_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(attempt, "POLL_SECONDS", 0.05)
    storage = Storage(str(tmp_path / "study"))
    copy = attempt.RunCopy(storage, RUN, tmp_path / "here")
    token = state.claim(storage, RUN)
    state.claim(storage, RUN)
    training = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert attempt._follow(training, storage, RUN, token, copy) == "taken over"
    finally:
        training.kill()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help is Linux's")
@pytest.mark.parametrize("preparation", ["end_with_parent", "interrupt_with_parent"])
def test_training_ends_with_what_started_it(preparation):
    program = (
        f"import subprocess, sys, time\nfrom sb3_pgr.zoo.interrupts import {preparation}\n"
        f"child = subprocess.Popen(['sleep', '60'], preexec_fn={preparation})\nprint(child.pid, flush=True)\ntime.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.time() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text() and time.time() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()


@pytest.mark.parametrize("preparation", [end_with_parent, interrupt_with_parent])
def test_training_hears_that_it_shall_stop(preparation):
    """Ray's workers may have Ctrl-C blocked, and children inherit that."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        child = subprocess.Popen(["sleep", "60"], preexec_fn=preparation)
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == -signal.SIGINT
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        child.kill()


def test_light_to_import():
    program = "import sys, sb3_pgr.zoo.studies.attempt; print('torch' in sys.modules, 'rl_zoo3' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False False"


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_status_stop_resume(tmp_path, engine):
    (tmp_path / "long.yml").write_text(
        yaml.safe_dump(SPEC | {"n_timesteps": 20_000, "eval_freq": 10_000, "checkpoint_freq": 200})
    )
    assert "is no study" in run("benchmark", "status", "out", expect=2, cwd=tmp_path)
    study = command("benchmark", "long.yml", "-o", "out", "--engine", engine)
    process = subprocess.Popen(study, cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while not list(tmp_path.glob("out/**/manifest.json")) and time.time() < deadline:
        time.sleep(0.2)
    assert "running" in run("benchmark", "status", "out", cwd=tmp_path)
    assert "resume" in run("benchmark", "stop", "out", cwd=tmp_path)
    assert process.wait(timeout=120) == 130
    status = run("benchmark", "status", "out", cwd=tmp_path)
    assert "stopped" in status and "1 stopped of 1 runs" in status and "steps" in status

    study = json.loads((tmp_path / "out/study.json").read_text())
    log = (tmp_path / "out/pendulum/redq/seed_0.log").read_text()
    assert "Interrupted at step" in log and study["options"]["engine"] == engine
    again = subprocess.Popen(command("benchmark", "resume", "out"), cwd=tmp_path, stdout=subprocess.DEVNULL)
    deadline = time.time() + 120
    while "Resuming from" not in (tmp_path / "out/pendulum/redq/seed_0.log").read_text() and time.time() < deadline:
        time.sleep(0.2)
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=120) == 130
    assert "attempt 2" in run("benchmark", "status", "out", cwd=tmp_path)


def test_a_cluster_that_is_not_there(tmp_path):
    (tmp_path / "spec.yml").write_text(yaml.safe_dump(SPEC))
    started = time.time()
    output = run("benchmark", "spec.yml", "--engine", "ray", "--address", "127.0.0.1:1", expect=2, cwd=tmp_path)
    assert "No Ray cluster at 127.0.0.1:1" in output and "Traceback" not in output and time.time() - started < 60
    output = run("benchmark", "spec.yml", "--engine", "ray", "--storage", "nosuch://x", expect=2, cwd=tmp_path)
    assert "Storage nosuch://x" in output
    assert "--storage is for" in run("benchmark", "spec.yml", "--storage", "elsewhere", expect=2, cwd=tmp_path)


def test_a_node_of_a_cluster_dies(tmp_path):
    script = ROOT / "benchmarks" / "cluster_failures.py"
    flags = f"--runs 3 --kills 1 --steps 4000 --work {tmp_path}/work --output {tmp_path}/result.json".split()
    done = subprocess.run([sys.executable, script, *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["all_finished_once_with_the_same_weights"] and result["runs_that_lost_their_node"] == 1
