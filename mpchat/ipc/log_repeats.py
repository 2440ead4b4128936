"""Repeats: of a line that comes again and again, few are logged; the rest is counted, and the count is told.

The count stands at the next line of the kind after ``BURST_SECONDS``. When none comes, the last line that was
held back is logged then, with the count of the others; when the process ends, at its end.
"""

import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

# So many lines of one kind go out in so many seconds.
BURST = 5
BURST_SECONDS = 10.0
# Seconds that the thread sleeps longer than it has to, so that the time is over when it looks.
_MARGIN = 0.01


class _Kind(NamedTuple):
    """Lines of one kind: when the first of them came (seconds, monotonic), and how many."""

    since: float
    came: int = 1

    @property
    def end(self) -> float:
        """When the count is told."""
        return self.since + BURST_SECONDS


class Repeats(logging.Filter):
    """Lets few lines of a kind through. Kinds are message templates, so there are few of them.

    A line that carries a count has the attribute ``repeated``. Lines with the attribute ``audit`` all pass.
    """

    def __init__(self, tell: Callable[[logging.LogRecord], object]) -> None:
        """``tell`` is called with a line that was held back, when its time has come; it may be filtered."""
        super().__init__()
        self._tell = tell
        self._kinds: dict[object, _Kind] = {}
        # Of each kind with lines that were held back, the last one. Mostly there is none.
        self._held: dict[object, logging.LogRecord] = {}
        # Held by its own thread again when a signal's handler logs.
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a line goes out now; the count of those before may be added to it."""
        if record.levelno <= logging.DEBUG or hasattr(record, "audit") or hasattr(record, "repeated"):
            return True
        with self._lock:
            now = time.monotonic()
            passes = self._is_few(record, now)
            due = self._take(now)
            self._wait_for_the_rest()
        for each in due:
            self._tell(each)
        return passes

    def _is_few(self, record: logging.LogRecord, now: float) -> bool:
        kind = self._kinds.get(record.msg)
        if kind is None or now > kind.end:
            if kind is not None and self._held.pop(record.msg, None) is not None:
                record.repeated = kind.came - BURST
            self._kinds[record.msg] = _Kind(now)
            return True
        self._kinds[record.msg] = _Kind(kind.since, kind.came + 1)
        if kind.came < BURST:
            return True
        self._held[record.msg] = _kept(record)
        return False

    def tell_all(self) -> None:
        """Tell what was held back: the process ends."""
        with self._lock:
            due = self._take(math.inf)
        for each in due:
            self._tell(each)

    def _take(self, now: float) -> list[logging.LogRecord]:
        """Return the lines that were held back and are to be told ``now``, ready for that."""
        due = [msg for msg in list(self._held) if now > self._kinds[msg].end]
        return [self._ready(msg) for msg in due]

    def _ready(self, msg: object) -> logging.LogRecord:
        record, kind = self._held.pop(msg), self._kinds.pop(msg)
        record.repeated = kind.came - BURST - 1
        record.created = time.time()
        record.msecs = record.created % 1 * 1000
        return record

    def _wait_for_the_rest(self) -> None:
        """Have a thread tell what is held back, should no further line come."""
        if self._thread is None and self._next_end() is not None:
            self._thread = threading.Thread(target=self._run, name="log repeats", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # no thread is free: the next line of any kind tells it
                self._thread = None

    def _next_end(self) -> float | None:
        return min((self._kinds[msg].end for msg in list(self._held)), default=None)

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            with self._lock:
                end = self._next_end()
                if end is None:
                    self._thread = None
                    return
            time.sleep(max(0.0, end - time.monotonic()) + _MARGIN)
            with self._lock:
                due = self._take(time.monotonic())
            for each in due:
                self._tell(each)


def _kept(record: logging.LogRecord) -> logging.LogRecord:
    """Return a record that keeps nothing alive: no stack's frames, and none of the values' objects."""
    record.exc_info = None
    if isinstance(record.args, tuple):
        with suppress(Exception):
            record.args = tuple(
                each if isinstance(each, int | float | str) else str(each) for each in record.args
            )
    return record
