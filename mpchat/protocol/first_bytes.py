"""First bytes: which protocol a connection speaks. Pure.

A frame's two bytes of length may be any letters. The third byte decides: it begins JSON, or is white space
before it, and no method of HTTP has such a third byte.
"""

from enum import Enum

_METHODS = tuple(
    f"{method} ".encode()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
)


class Speaks(Enum):
    """What a connection's first bytes say about the rest."""

    PLAIN = "plain"
    HTTP = "http"
    # Too few bytes to tell.
    UNKNOWN = "unknown"


def speaks(head: bytes) -> Speaks:
    """Return what a connection speaks that begins with ``head``."""
    begun = head[: len("CONNECT ")]
    for method in _METHODS:
        if begun.startswith(method):
            return Speaks.HTTP
        if method.startswith(begun):
            return Speaks.UNKNOWN
    return Speaks.PLAIN
