"""What a test must not leave behind in its own process."""

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import psutil


@contextmanager
def nothing_left_behind() -> Iterator[None]:
    """See that no descriptor and no thread is there at the end that was not there before.

    What tests before this one dropped in circles would be closed meanwhile if it was collected. To collect it
    first would look at all tests of the run each time.
    """
    process = psutil.Process()
    gc.disable()
    try:
        before = process.num_fds(), threading.active_count()
        yield
        assert (process.num_fds(), threading.active_count()) == before
    finally:
        gc.enable()
