"""Log lines as JSON: one object a line, in ASCII, whatever is in it; the setting ``log_format``.

Loaded only when that is set. A string is escaped as in a line of text first, so that a program that prints it
repaints no terminal either.
"""

import json
import logging
import math
import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mpchat.ipc.log_events import AUDIT, EVENTS, OTHER, OUTPUT
from mpchat.text import visible, visible_lines

# Characters of a line, at most: what standard error takes whole (``LONGEST`` of its stream, and a line end).
LONGEST = (16 << 10) - 1
# Characters of each string in a line that would be longer, tried in turn. The last one fits with any text.
_CUTS = (8 << 10, 2 << 10, 512, 64)


class JsonFormat(logging.Formatter):
    """Makes lines of one process."""

    # A line that goes to the log past this object is not JSON.
    takes_text = False

    def __init__(self, who: str) -> None:
        """``who`` is the process's name in each line."""
        super().__init__()
        self.who = who
        self._process = f"{who}[{os.getpid()}]"

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as an object."""
        event, fields = _event(record)
        more = {}
        if repeated := getattr(record, "repeated", 0):
            more["repeated"] = repeated
        if stack := getattr(record, "stack", ""):
            more["stack"] = stack
        if record.exc_info:
            more["stack"] = self.formatException(record.exc_info)
        return self._line(record.created, record.levelname, event, record.getMessage(), {**fields, **more})

    def printed(self, line: str) -> str:
        """Return as an object a line that was not logged."""
        return self._line(datetime.now().timestamp(), "ERROR", OUTPUT, line, {})

    def _line(self, at: float, level: str, event: str, text: str, fields: Mapping[str, Any]) -> str:
        time = datetime.fromtimestamp(at).astimezone().isoformat(timespec="milliseconds")
        head = {"time": time, "level": level.lower(), "process": self._process, "event": event}
        return _encode({**head, "text": text, **fields})


def _event(record: logging.LogRecord) -> tuple[str, Mapping[str, Any]]:
    """Return the name of a record's event, and its fields."""
    if (audit := getattr(record, "audit", None)) is not None:
        return AUDIT, audit
    event, *names = EVENTS.get(str(record.msg), (OTHER,))
    values = record.args if isinstance(record.args, tuple) else ()
    return event, dict(zip(names, values, strict=False))


def _encode(line: Mapping[str, Any]) -> str:
    """Return an object as a line that is not longer than ``LONGEST``."""
    safe = {name: _safe(name, value) for name, value in line.items()}
    encoded = json.dumps(safe)
    for most in _CUTS:
        if len(encoded) <= LONGEST:
            break
        encoded = json.dumps({name: _cut(value, most) for name, value in safe.items()})
    return encoded


def _safe(name: str, value: Any) -> Any:
    if isinstance(value, int | None) or (isinstance(value, float) and math.isfinite(value)):
        return value
    text = str(value)[:LONGEST]  # what is longer is cut anyway, and costs time
    return visible_lines(text) if name == "stack" else visible(text)  # of the strings only a stack has lines


def _cut(value: Any, most: int) -> Any:
    return f"{value[:most]} [cut]" if isinstance(value, str) and len(value) > most else value
