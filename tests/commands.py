"""Runs the command line as a user does."""

import atexit
import multiprocessing
import os
import pty
import runpy
import signal
import subprocess
import sys
import tempfile
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

    :param interrupt_at: a text on which Ctrl-C is pressed
    """
    ours, its = pty.openpty()
    process = subprocess.Popen(command(*arguments), stdin=its, stdout=its, stderr=its, cwd=cwd, start_new_session=True)
    os.close(its)
    said, pressed = b"", False
    while True:
        try:
            part = os.read(ours, 65_536)
        except OSError:  # the other end is closed
            part = b""
        if not part:
            break
        said += part
        if interrupt_at is not None and not pressed and interrupt_at.encode() in said:
            pressed = True
            os.killpg(process.pid, signal.SIGINT)
    os.close(ours)
    return process.wait(), said.decode(errors="replace")


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
