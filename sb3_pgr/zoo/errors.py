"""What the command line says when it cannot go on."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gymnasium as gym

from sb3_pgr.common.checkpoint import CheckpointError
from sb3_pgr.common.health import DivergedError, NonFiniteTransitionError
from sb3_pgr.envs.errors import ModelError


class UsageError(ValueError):
    """The user asked for something that does not exist or cannot be done; the message says what can."""


EXPECTED = (UsageError, CheckpointError, DivergedError, NonFiniteTransitionError, ModelError, gym.error.Error, MemoryError)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Print expected errors without a traceback and exit with 1 (2 for wrong usage); exit with 130 on Ctrl-C."""
    try:
        yield
        sys.stdout.flush()  # at exit nobody could catch what that raises
    except EXPECTED as error:
        print(f"sb3-pgr: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError | ModelError | gym.error.Error) else 1)
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        print(f"sb3-pgr: {error.filename}: {error.strerror}.", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


def entry_point(main: Callable[[], None]) -> None:
    """Run a command with ``plain_errors``."""
    with plain_errors():
        main()
