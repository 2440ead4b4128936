"""The log: standard logging on standard error, which may be a file.

A log file is standard error itself, pointed at the file: so tracebacks, stack dumps and whatever a library
prints go the same way, and opening the file anew is one ``dup2``. How a line looks is decided in
:mod:`mpchat.ipc.log_text`. A line that would come again and again is counted instead, by
:mod:`mpchat.ipc.log_repeats`. No line makes the process wait, nor does a file that is opened while the
process serves: see :mod:`mpchat.ipc.standard_stream`.
"""

import atexit
import faulthandler
import logging
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import TextIO, cast

from mpchat.config import Config
from mpchat.ipc.log_output import Output
from mpchat.ipc.log_repeats import Repeats
from mpchat.ipc.log_text import Format, make_format
from mpchat.ipc.stack_dumps import Dumps
from mpchat.ipc.standard_stream import StandardStream, is_file, open_file

# Seconds that a process waits at its end for a log that is slow; less than a stop gives workers (STOP_GRACE).
DRAIN = 1.0

# Set once stacks are written on SIGUSR2.
_dumps: Dumps | None = None


def set_up(level: str, who: str, stream: TextIO | None = None, *, log_format: str = "text") -> None:
    """Log what is at least ``level`` to standard error; ``who`` is in every line.

    All that this process writes to ``sys.stderr`` goes the same way from now on. A test may give a
    ``stream`` of its own instead.
    """
    handler = logging.StreamHandler(stream)
    _set_format(handler, log_format, who)
    handler.addFilter(Repeats(handler.handle))
    if stream is None:
        handler.setStream(_take_standard_error(handler))
    logger = logging.getLogger("mpchat")
    logger.handlers = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
    # A full disk must not turn into a traceback for each line.
    logging.raiseExceptions = False


def _set_format(handler: logging.Handler, log_format: str, who: str) -> None:
    form = make_format(log_format, who)
    if os.environ.get("JOURNAL_STREAM"):
        from mpchat.ipc.journal import JournalFormat

        form = JournalFormat(form)
    handler.setFormatter(cast("logging.Formatter", form))


def _format(handler: logging.Handler) -> Format:
    return cast("Format", handler.formatter)


def _take_standard_error(handler: logging.Handler) -> TextIO:
    """Return the stream for the log's lines; ``sys.stderr`` is another one, which leads to it."""

    def note(count: int) -> str:
        lines = "log line was" if count == 1 else "log lines were"
        text = f"%d {lines} dropped: the log could not be written"
        record = logging.LogRecord("mpchat.log", logging.WARNING, "", 0, text, (count,), None)
        return f"{_format(handler).format(record)}\n"

    stream = StandardStream(2, note)
    atexit.register(drain, DRAIN)
    # A traceback, which nobody expected, must not block the process either.
    sys.stderr = cast("TextIO", Output(stream, handler))
    return cast("TextIO", stream)


def follow(before: Config, config: Config) -> None:
    """Let other settings of the log hold, in a process that serves on with them."""
    logger = logging.getLogger("mpchat")
    logger.setLevel(config.log_level.upper())
    if config.log_format != before.log_format:
        (handler,) = logger.handlers
        _set_format(handler, config.log_format, _format(handler).who)
        _redirect_dumps()
    if config.log_file != before.log_file:
        point_later_at(config.log_file)
        reopen_on_signal(config.log_file)


def point_at(path: str) -> None:
    """Make ``path`` this process's standard error, appending, while nobody is served. Raises ``OSError``."""
    descriptor = open_file(path)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    if isinstance(sys.stderr, Output):
        sys.stderr.stream.renew()
    _redirect_dumps()


def point_later_at(path: str) -> None:
    """Have a thread make ``path`` this process's standard error, appending; lines from now on go there.

    If that cannot be done, a line says so, and lines go where they went before.
    """
    if not isinstance(sys.stderr, Output):
        return
    try:
        sys.stderr.stream.reopen(path, partial(_on_opened, path))
    except OSError as error:
        _on_opened(path, error)


def _on_opened(path: str, error: OSError | None) -> None:
    if error is not None:
        logging.getLogger("mpchat").error("log not opened anew: %s: %s", error.strerror, path)
    else:
        _redirect_dumps()


def drain(timeout: float) -> None:
    """Tell what was held back, and wait until all lines are written, at most ``timeout`` seconds."""
    if not isinstance(sys.stderr, Output):
        return
    for handler in logging.getLogger("mpchat").handlers:
        for each in handler.filters:
            if isinstance(each, Repeats):
                each.tell_all()
    sys.stderr.finish()
    sys.stderr.stream.drain(timeout)


def dropped() -> int:
    """Return how many lines of this process were dropped so far."""
    return sys.stderr.stream.dropped if isinstance(sys.stderr, Output) else 0


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
    # A crash in native code is told in text, whatever the log's format: nothing else runs any more.
    faulthandler.enable()
    _dumps = Dumps(_write_dump, chain=chain)
    _redirect_dumps()


def _write_dump(text: str) -> None:
    logger = logging.getLogger("mpchat")
    if _format(logger.handlers[0]).takes_text:
        sys.stderr.write(text)
    else:
        logger.warning("stacks that signal SIGUSR2 asks for", extra={"stack": text.rstrip("\n")})


def _redirect_dumps() -> None:
    """Choose anew where stacks go, after standard error or the format has changed."""
    if _dumps is not None:
        handlers = logging.getLogger("mpchat").handlers
        plain = not handlers or _format(handlers[0]).takes_text
        _dumps.follow(straight=not isinstance(sys.stderr, Output) or (plain and is_file(2)))
