"""Log lines, read again: of either format, as :mod:`mpchat.ipc.log_text` and its neighbour make them. Pure.

What comes out is safe to show, whatever a library or another program has put into the file.
"""

import re
from typing import Any

import msgspec

from mpchat.text import visible, visible_lines

LEVELS = ("debug", "info", "warning", "error", "critical")
# The event of a line that was printed, not logged.
OUTPUT = "output"
# What the text of each line of the audit trail begins with.
AUDIT_TEXT = "audit: "

_TEXT = re.compile(
    r"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}) (?P<level>[A-Z]+) "
    r"(?P<process>\S.*?\[\d+\]): (?P<text>.*)"
)


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """What every line has. ``raw`` is the line as it was read.

    A line of text without a head, as of a stack, has only its ``text``.
    """

    time: str = ""
    level: str = ""
    process: str = ""
    event: str = ""
    text: str = ""
    stack: str = ""
    repeated: int = 0
    raw: str = ""

    @property
    def begins(self) -> bool:
        """False for a line that belongs to the one before."""
        return bool(self.time)

    @property
    def is_audit(self) -> bool:
        """True for a line of the audit trail."""
        return self.event == "audit" or (not self.event and self.text.startswith(AUDIT_TEXT))

    def is_at_least(self, level: str) -> bool:
        """Tell whether the line is of a level or a worse one."""
        return self.level in LEVELS and LEVELS.index(self.level) >= LEVELS.index(level)


def read(raw: str) -> LogLine:
    """Return a line of the log, without its line end, in its parts."""
    if raw.startswith("{"):
        try:
            return msgspec.structs.replace(msgspec.json.decode(raw, type=LogLine), raw=raw)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            return LogLine(text=raw, raw=raw)
    found = _TEXT.fullmatch(raw)
    if found is None:
        return LogLine(text=raw, raw=raw)
    return LogLine(
        time=found["time"],
        level=found["level"].lower(),
        process=found["process"],
        text=found["text"],
        raw=raw,
    )


def as_text(raw: str) -> str:
    """Return a line of the log as the text format has it, in several lines if it holds a stack."""
    line = read(raw)
    if not line.begins or line.event == OUTPUT:
        return visible(line.text)
    if not line.event:
        return visible(raw)
    time = line.time[:23].replace("T", " ")
    more = f" ({line.repeated} more like it went unlogged)" if line.repeated else ""
    head = visible(f"{time} {line.level.upper()} {line.process}: {line.text}{more}")
    return f"{head}\n{visible_lines(line.stack)}" if line.stack else head


def as_object(raw: str) -> dict[str, Any]:
    """Return a line of the log as an object; of a line of text it has what can be read."""
    line = read(raw)
    if line.event:
        return dict(msgspec.json.decode(raw))
    event = "audit" if line.is_audit else OUTPUT if not line.begins else "line"
    known = {"time": line.time, "level": line.level, "process": line.process}
    return {**{name: value for name, value in known.items() if value}, "event": event, "text": line.text}
