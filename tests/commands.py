"""Runs the command line as a user does."""

import atexit
import multiprocessing
import os
import pty
import re
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# A server that has imported what commands import, and forks one process for each: starting Python anew takes seconds.
# ``fork`` alone would copy this process, whose threads (of torch, say) would be missing in the copy.
_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["sb3_pgr.zoo.manager", "sb3_pgr.zoo.train", "torch._dynamo", "scipy.stats", "moviepy", "mujoco", "tensorboard"]
)


def command(*arguments, module="sb3_pgr"):
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(*arguments, expect=0, module="sb3_pgr", cwd=None, env=None):
    """What the command printed; it must exit with ``expect``."""
    with tempfile.NamedTemporaryFile() as printed:
        given = [module, *map(str, arguments)]
        process = _SERVER.Process(target=_run, args=(given, printed.name, str(cwd or Path.cwd()), dict(env or os.environ)))
        process.start()
        process.join()
        output = Path(printed.name).read_text()
    assert process.exitcode == expect, output
    return output


def in_terminal(*arguments, cwd=None, interrupt_at=None):
    """
    Exit status and what the command wrote on a terminal of its own.

    :param interrupt_at: a pattern; when it appears, Ctrl-C is pressed, and again if nothing happens for a while
    """
    ours, its = pty.openpty()
    process = subprocess.Popen(command(*arguments), stdin=its, stdout=its, stderr=its, cwd=cwd, start_new_session=True)
    os.close(its)
    said, pressed, began = "", float("inf"), time.monotonic()
    while True:
        try:
            part = os.read(ours, 65_536) if select.select([ours], [], [], 1)[0] else None
        except OSError:  # the other end is closed
            break
        said += (part or b"").decode(errors="replace")
        now = time.monotonic()
        if interrupt_at is not None and (now > pressed + 30 or (pressed > now and re.search(interrupt_at, said))):
            pressed = now
            os.killpg(process.pid, signal.SIGINT)
        if part == b"" or now > began + 300:
            break
    os.close(ours)
    try:
        return process.wait(10), said
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait(), said


def _run(given, printed, cwd, env):
    with open(printed, "ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    sys.path[:0] = [path for path in env.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = given
    try:
        runpy.run_module(given[0], run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        atexit._run_exitfuncs()
