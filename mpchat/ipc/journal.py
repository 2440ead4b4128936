"""Journal: log lines for systemd's journal, which knows the time itself and is told how bad a line is.

A line begins with its level as ``<N>``, sd-daemon(3). ``JOURNAL_STREAM`` names the device and the inode that
standard error has when it is the journal: it may be a file by now.
"""

import logging
import os

from mpchat.ipc.log_text import Format, TextFormat

VARIABLE = "JOURNAL_STREAM"
STDERR = 2
# The levels of syslog(3).
ERROR, WARNING, INFO, DEBUG = 3, 4, 6, 7


def is_journal(descriptor: int = STDERR) -> bool:
    """Tell whether a descriptor is the journal."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get(VARIABLE) == f"{status.st_dev}:{status.st_ino}"


def marked(text: str, level: int = logging.ERROR) -> str:
    """Return a text, of which each line is one for the journal, with the mark of its level."""
    return "\n".join(f"<{_priority(level)}>{line}" for line in text.split("\n"))


def _priority(level: int) -> int:
    if level >= logging.ERROR:
        return ERROR
    if level >= logging.WARNING:
        return WARNING
    return INFO if level >= logging.INFO else DEBUG


class JournalFormat(logging.Formatter):
    """Makes lines for the journal, or as ``plain`` does when standard error is something else by now."""

    def __init__(self, plain: Format) -> None:
        """The journal gets the lines of ``plain`` without time and level, if those are text."""
        super().__init__()
        self.who = plain.who
        self.takes_text = plain.takes_text
        self._plain = plain
        self._bare = TextFormat(plain.who, timed=False) if isinstance(plain, TextFormat) else plain

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, or a stack's lines, without a line break at the end."""
        if is_journal():
            return marked(self._bare.format(record), record.levelno)
        return self._plain.format(record)

    def printed(self, line: str) -> str:
        """Return the line for a line that was printed, not logged."""
        return marked(self._bare.printed(line)) if is_journal() else self._plain.printed(line)
