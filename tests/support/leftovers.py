"""What a test must not leave behind in its own process."""

import gc
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """See that no descriptor and no thread is there at the end that was not there before.

    What tests before this one have left may end meanwhile. What they dropped in circles would be closed if it
    was collected, and its numbers given again. To collect it first would look at all tests of the run each
    time.
    """
    gc.disable()
    try:
        before = _held()
        yield
        left = _held() - before
        assert not left, f"left behind: {left}"
    finally:
        gc.enable()


def _held() -> set[object]:
    """Return the threads of this process, and its descriptors with what they are of."""
    held: set[object] = set(threading.enumerate())
    for descriptor in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the one of this listing is closed by now
            held.add((descriptor, os.readlink(f"/proc/self/fd/{descriptor}")))
    return held
