"""The log: standard logging on standard error, which may be a file.

A log file is standard error itself, pointed at the file: so tracebacks, stack dumps and whatever a library
prints go the same way, and opening the file anew is one ``dup2``. A line starts with what happened and ends
with who it happened to; characters that do not print are escaped; a line that would come again and again is
counted instead. No line makes the process wait, nor does a file that is opened while the process serves: see
:mod:`mpchat.ipc.standard_stream`.
"""

import atexit
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any, TextIO, cast

from mpchat.ipc.standard_stream import StandardStream, is_file, open_file
from mpchat.text import visible

# So many lines of one kind go out in so many seconds; the rest is counted and told with the next one.
BURST = 5
BURST_SECONDS = 10.0
# Of a line that is always written: what an operator has done. ``log.info(…, extra=AUDIT)``.
AUDIT = {"audit": True}
# Seconds that a process waits at its end for a log that is slow; less than a stop gives workers (STOP_GRACE).
DRAIN = 1.0


class _Formatter(logging.Formatter):
    default_msec_format = "%s.%03d"

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One line, whatever is in it: only a stack, which follows, has several."""
        return visible(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        return "\n".join(map(visible, super().formatException(ei).split("\n")))


class _Repeats(logging.Filter):
    """Lets few lines of a kind through. Kinds are message templates, so there are few of them."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds: dict[object, tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG or hasattr(record, "audit"):
            return True
        now = time.monotonic()
        since, count = self._kinds.get(record.msg, (now, 0))
        if now - since > BURST_SECONDS:
            if count > BURST:
                kind, record.msg = record.msg, f"{record.msg} ({count - BURST} more like it went unlogged)"
                self._kinds[kind] = (now, 1)
                return True
            since, count = now, 0
        self._kinds[record.msg] = (since, count + 1)
        return count < BURST


def set_up(level: str, who: str, stream: TextIO | None = None) -> None:
    """Log what is at least ``level`` to standard error; ``who`` is in every line.

    All that this process writes to ``sys.stderr`` goes the same way from now on. A test may give a
    ``stream`` of its own instead.
    """
    formatter: logging.Formatter = _Formatter(f"%(asctime)s %(levelname)s {who}[{os.getpid()}]: %(message)s")
    if os.environ.get("JOURNAL_STREAM"):
        from mpchat.ipc.journal import JournalFormatter

        formatter = JournalFormatter(_Formatter(f"{who}[{os.getpid()}]: %(message)s"), formatter)
    handler = logging.StreamHandler(stream or _take_standard_error(formatter))
    handler.setFormatter(formatter)
    handler.addFilter(_Repeats())
    logger = logging.getLogger("mpchat")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    # A full disk must not turn into a traceback for each line.
    logging.raiseExceptions = False


def _take_standard_error(formatter: logging.Formatter) -> TextIO:
    def note(count: int) -> str:
        text = "1 log line was dropped" if count == 1 else f"{count} log lines were dropped"
        record = logging.LogRecord(
            "mpchat.log", logging.WARNING, "", 0, f"{text}: the log could not be written", None, None
        )
        return f"{formatter.format(record)}\n"

    stream = StandardStream(2, note)
    atexit.register(stream.drain, DRAIN)
    # A traceback, which nobody expected, must not block the process either.
    sys.stderr = cast("TextIO", stream)
    return sys.stderr


def point_at(path: str) -> None:
    """Make ``path`` this process's standard error, appending, while nobody is served. Raises ``OSError``."""
    descriptor = open_file(path)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    if isinstance(sys.stderr, StandardStream):
        sys.stderr.renew()
    if _dumps is not None:
        _dumps.follow()


def point_later_at(path: str) -> None:
    """Have a thread make ``path`` this process's standard error, appending; lines from now on go there.

    If that cannot be done, a line says so, and lines go where they went before.
    """
    if not isinstance(sys.stderr, StandardStream):
        return
    try:
        sys.stderr.reopen(path, partial(_on_opened, path))
    except OSError as error:
        _on_opened(path, error)


def _on_opened(path: str, error: OSError | None) -> None:
    if error is not None:
        logging.getLogger("mpchat").error("log not opened anew: %s: %s", error.strerror, path)
    elif _dumps is not None:
        _dumps.follow()


def drain(timeout: float) -> None:
    """Wait until all lines are written, at most ``timeout`` seconds."""
    if isinstance(sys.stderr, StandardStream):
        sys.stderr.drain(timeout)


def is_open(path: str) -> bool:
    """Tell whether standard error is the file at ``path``; True without a file. Asks the disk."""
    if not path:
        return True
    with suppress(OSError):
        return os.path.samestat(os.stat(path), os.fstat(2))
    return False


def check(path: str) -> None:
    """Raise ``OSError`` if ``path`` cannot be a log file. Asks the disk."""
    os.close(open_file(path))


def reopen_on_signal(path: str) -> None:
    """On SIGUSR1 open the log file anew, after somebody moved it away; without a file do nothing."""

    def reopen(number: int, frame: FrameType | None) -> None:
        if path:
            point_later_at(path)

    signal.signal(signal.SIGUSR1, reopen)


def dump_on_signal(*, chain: bool = False) -> None:
    """On SIGUSR2 write the threads' stacks to the log, also when the loop hangs.

    With ``chain`` the handler that was there before is called too.
    """
    global _dumps
    faulthandler.enable()
    _dumps = _Dumps(chain)
    _dumps.follow()


class _Dumps:
    """Writes stacks on SIGUSR2: straight into a plain file, else through a pipe of this process's own.

    Another pipe or a terminal may take nothing, and the signal's handler would wait for it. The own pipe
    never makes the handler wait: it takes 64 KiB, and a dump past that is cut. A thread passes the stacks on
    to the log. It needs the interpreter's lock: while native code holds that, only a plain file gets stacks.
    Such a dump has the loop's thread alone.
    """

    def __init__(self, chain: bool) -> None:
        self._chain = chain
        self._pipe: int | None = None

    def follow(self) -> None:
        """Choose anew where stacks go; call it after standard error was pointed at another file."""
        file = 2
        if isinstance(sys.stderr, StandardStream) and not is_file(2):
            if self._pipe is None:
                self._pipe = _pipe_to_log()
            # A dump that may have to wait is better than none.
            file = 2 if self._pipe is None else self._pipe
        # The threads that pass a dump on run while it is made: to walk their frames then may crash.
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=file == 2, chain=self._chain)


# Set once stacks are written on SIGUSR2.
_dumps: _Dumps | None = None


def _pipe_to_log() -> int | None:
    """Return the end of a pipe that takes text for the log, and drops text when the pipe is full.

    Return None if no descriptor or no thread is free.
    """
    try:
        reader, writer = os.pipe()
    except OSError:
        return None
    os.set_blocking(writer, False)
    try:
        threading.Thread(target=_copy_to_log, args=(reader,), name="stacks", daemon=True).start()
    except RuntimeError:
        os.close(reader)
        os.close(writer)
        return None
    return writer


def _copy_to_log(reader: int) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    (handler,) = logging.getLogger("mpchat").handlers
    with open(reader, encoding="ascii", errors="backslashreplace") as lines:
        for line in lines:
            # The stream expects one writer at a time.
            handler.acquire()
            try:
                sys.stderr.write(line)
            finally:
                handler.release()
