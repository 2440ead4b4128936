"""Likely cause: what bytes look like that make no whole frame. Pure.

Nothing here decides what is a frame: see ``frames``. A client's author reads these texts. The bytes are
hostile: only the first few are looked at, and fewer are shown, escaped.
"""

import re
from typing import NamedTuple

# Bytes of a frame that are looked at, its length included: an HTTP request's first line, or the first key.
HEAD_SIZE = 64
# Bytes that are shown.
SHOWN = 24

# The beginnings that no frame with a JSON object can have: the third byte would begin the object, or be white
# space before it. Each is long enough that a frame with another payload has it by intention only.
_FOREIGN = (
    (re.compile(rb"(GET|HEAD|POST|PUT|DELETE|OPTIONS|PATCH|TRACE|CONNECT) [!-~]"), "HTTP"),
    (re.compile(rb"PRI \* HTTP/2"), "HTTP/2"),
    (re.compile(rb"\x16\x03[\x00-\x04]..\x01", re.DOTALL), "TLS"),
    (re.compile(rb"SSH-\d"), "SSH"),
    (re.compile(rb"PROXY (TCP|UNKNOWN)|\r\n\r\n\0\r\nQUIT\n"), "a PROXY header"),
    (re.compile(rb'\{[ \t\r\n]*"\w'), "JSON without a length"),
)
_TEXT = re.compile(rb"[\t\r\n -~\x80-\xff]+")
_ADVICE = "two bytes of length, the high byte first, come before each payload"


class HalfFrame(NamedTuple):
    """A frame that has begun: its first bytes, and how many bytes of its payload came and were announced."""

    head: bytes
    came: int
    announced: int


def foreign(head: bytes) -> str:
    """Return the protocol that a connection's first bytes belong to; empty when they may begin a frame."""
    return next((name for pattern, name in _FOREIGN if pattern.match(head)), "")


def foreign_text(name: str, head: bytes) -> str:
    """Return the text of the error for bytes that are of another protocol."""
    return f"this looks like {name}: {shown(head)}; {_ADVICE}"


def half_frame_text(half: HalfFrame) -> str:
    """Return the text of the error for a frame that did not become whole: what came, and the likely cause."""
    head, came, announced = half
    if not head:
        return f"{announced} bytes of a payload over the limit did not come"
    if len(head) < 2:
        return f"one byte of a length came, and no second one: {shown(head)}"
    cause = _cause(half)
    arrived = f"a frame of {announced} bytes was announced and {came} came: {shown(head)}"
    return f"{arrived}; {cause}" if cause else arrived


def _cause(half: HalfFrame) -> str:
    head, came, _ = half
    if name := foreign(head):
        return f"this looks like {name}: {_ADVICE}"
    if head[2:5] == b"\0\0{":
        return f"the length looks like four little-endian bytes: {_ADVICE}"
    swapped = head[0] | head[1] << 8
    if 0 < swapped <= came and head[2:].lstrip()[:1] == b"{":
        return f"the length looks little-endian: read so it is {swapped}; {_ADVICE}"
    if _TEXT.fullmatch(head):
        if came + 2 <= len(head) and head.rstrip().endswith(b"}"):
            return "the length of the payload before was too small: count bytes, not characters"
        return f"this looks like text without a length: {_ADVICE}"
    return ""


def too_long_hint(size: int) -> str:
    """Return what may explain the length of a payload over the limit; empty when nothing does."""
    low, high = size & 0xFF, size >> 8
    return f"; if the length is little-endian, it is {high}: send the high byte first" if not low else ""


def shown(head: bytes) -> str:
    """Return the first bytes for people: short, printable ASCII, everything else escaped."""
    text = "".join(map(_escaped, head[:SHOWN]))
    return f"{text}…" if len(head) > SHOWN else text


def _escaped(byte: int) -> str:
    return chr(byte) if ord(" ") <= byte <= ord("~") and byte != ord("\\") else f"\\x{byte:02x}"
