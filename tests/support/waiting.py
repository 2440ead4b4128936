"""The one place where tests wait: for a condition, with a deadline, saying what was waited for."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds; many times what anything here takes, for a machine that is busy with something else.
PATIENCE = 20.0
# Seconds between two looks.
PAUSE = 0.01


def eventually(
    predicate: Callable[[], T | None], what: str, timeout: float = PATIENCE, *, pause: float = PAUSE
) -> T:
    """Return the first true value of ``predicate``; fail with ``what`` after ``timeout`` seconds.

    ``pause`` is in seconds: longer than usual for a look that costs much CPU.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s for {what}; the last look gave {value!r}")
        time.sleep(pause)
    return value
