"""One look for the page and the pictures."""

from collections.abc import Sequence

# Contrast of at least 3.7 : 1 on white and on the dark page alike.
COLOURS = ("#2f7fd1", "#c8620a", "#1f9160", "#8a63d2", "#d1483f", "#0f8a9d", "#9a6b2f", "#c9529b", "#6b7f12", "#6c7789")
DASHES = {"solid": "solid", "dash": "dashed", "dot": "dotted", "dashdot": "dashdot"}  # Plotly's names and Matplotlib's


def arm_styles(arms: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and Plotly's dash of each arm; no two are the same up to forty arms."""
    dashes = list(DASHES)
    return {
        arm: (COLOURS[number % len(COLOURS)], dashes[number // len(COLOURS) % len(dashes)]) for number, arm in enumerate(arms)
    }


def time_unit(longest: float) -> tuple[str, float]:
    """Name and seconds of the unit in which the longest of several times reads best."""
    for name, seconds in (("hours", 3600.0), ("minutes", 60.0)):
        if longest >= 2 * seconds:
            return name, seconds
    return "seconds", 1.0
