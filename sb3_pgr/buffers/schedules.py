"""Numbers that change while a buffer fills."""

from collections.abc import Callable, Sequence
from math import inf
from numbers import Real

Schedule = float | Sequence[float] | Callable[[int], float]


def schedule_value(schedule: Schedule, n_added: float, name: str = "schedule") -> float:
    """
    The present value of a schedule.

    :param schedule: a constant; ``(start, end, n_transitions)``, linear and then constant; or a function of the number
        of transitions added so far
    :param n_added: number of transitions added so far
    :param name: what to call it in an error
    :raises ValueError: if it is none of these
    """
    if callable(schedule):
        return float(schedule(int(n_added)))
    if isinstance(schedule, Real):
        return float(schedule)
    if not isinstance(schedule, list | tuple) or len(schedule) != 3 or schedule[2] <= 0:
        raise ValueError(f"{name}={schedule!r} must be a number, (start, end, n_transitions) or a function.")
    start, end, n_transitions = schedule
    return float(start + (end - start) * min(n_added / n_transitions, 1.0))


def foreseen_values(schedule: Schedule, name: str = "schedule") -> list[float]:
    """First and last value of a schedule; of a function, only the first."""
    return [schedule_value(schedule, n_added, name) for n_added in ((0,) if callable(schedule) else (0, inf))]
