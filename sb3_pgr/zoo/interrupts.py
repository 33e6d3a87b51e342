"""Being told to stop."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

GRACE_SECONDS = 1_800.0  # an update holds Ctrl-C back, and a generator may be fitted in it
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


@contextmanager
def termination_interrupts() -> Iterator[None]:
    """
    Within, SIGTERM (of ``kill``, a batch system, a container that is stopped) and SIGHUP (of a terminal that is closed, unless
    it is ignored, as by ``nohup``) do what Ctrl-C does.
    """
    signals = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signals.append(signal.SIGHUP)
    previous = {number: signal.signal(number, signal.default_int_handler) for number in signals}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def interrupt_with_parent() -> None:
    """In a child: hear Ctrl-C, which one of a command in the background would ignore, and get it when the parent dies."""
    _hear_interrupts()
    _at_death_of_parent(signal.SIGINT)


def end_with_parent() -> None:
    """In a child: hear Ctrl-C, and be killed when the parent dies."""
    _hear_interrupts()
    _at_death_of_parent(signal.SIGKILL)


def _hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _at_death_of_parent(number: signal.Signals) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, number)
