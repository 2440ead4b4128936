"""Sparkline: figures as a line of bars, the last one at the right. Pure."""

from collections.abc import Sequence
from itertools import islice

_BARS = "▁▂▃▄▅▆▇█"
# For terminals without those characters.
_MARKS = "_.-:=+*#"


def sparkline(figures: Sequence[float], width: int, *, bars: bool = True) -> str:
    """Draw the last ``width`` figures, from 0 to the largest of them; any above 0 is above the ground."""
    shown = list(islice(figures, max(0, len(figures) - max(0, width)), None))
    most = max(shown, default=0.0)
    signs = _BARS if bars else _MARKS
    return "".join(signs[_height(each, most)] for each in shown)


def _height(figure: float, most: float) -> int:
    if figure <= 0 or most <= 0:
        return 0
    return max(1, min(7, round(figure / most * 7)))
