"""Runs the command line as a user does."""

import subprocess
import sys


def command(*arguments, module="sb3_pgr"):
    return [sys.executable, "-m", module, *map(str, arguments)]


def run(*arguments, expect=0, module="sb3_pgr", **kwargs):
    """What the command printed; it must exit with ``expect``."""
    done = subprocess.run(command(*arguments, module=module), capture_output=True, text=True, **kwargs)
    assert done.returncode == expect, done.stdout + done.stderr
    return done.stdout + done.stderr
