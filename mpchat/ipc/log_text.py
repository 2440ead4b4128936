"""Log lines as text, and the choice between text and JSON.

A line starts with what happened and ends with who it happened to; characters that do not print are escaped.
"""

import logging
import os
from typing import Any, Protocol

from mpchat.text import visible


class Format(Protocol):
    """What makes the lines of the log, for a handler and for all else that reaches standard error."""

    who: str
    # Whether lines that do not come from this object fit between those that do.
    takes_text: bool

    def format(self, record: logging.LogRecord) -> str:
        """Return the line for a record; with a stack it may be several in text."""

    def printed(self, line: str) -> str:
        """Return the line for a line that was printed to standard error, not logged."""


def make_format(log_format: str, who: str) -> Format:
    """Return the maker of this process's lines by the setting ``log_format``; ``who`` is in every line."""
    if log_format == "json":
        from mpchat.ipc.log_json import JsonFormat

        return JsonFormat(who)
    return TextFormat(who)


class TextFormat(logging.Formatter):
    """Makes lines for people."""

    default_msec_format = "%s.%03d"
    takes_text = True

    def __init__(self, who: str, *, timed: bool = True) -> None:
        """``who`` is the process's name in each line; ``timed``: time and level are in it, too."""
        head = "%(asctime)s %(levelname)s " if timed else ""
        super().__init__(f"{head}{who}[{os.getpid()}]: %(message)s")
        self.who = who

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return one line, whatever is in it: only a stack, which follows, has several."""
        repeated = getattr(record, "repeated", 0)
        more = f" ({repeated} more like it went unlogged)" if repeated else ""
        return visible(super().formatMessage(record)) + more

    def formatException(self, ei: Any) -> str:
        """Return a stack, each line of it escaped."""
        return "\n".join(map(visible, super().formatException(ei).split("\n")))

    def printed(self, line: str) -> str:
        """Return a line as it is, but for what does not print."""
        return visible(line)
