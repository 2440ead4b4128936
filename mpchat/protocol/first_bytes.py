"""First bytes: which protocol a connection speaks. Pure.

A frame's two bytes of length may be any letters. The third byte decides: it begins JSON, or is white space
before it, and neither a method of HTTP nor a record of TLS has such a third byte.
"""

from enum import Enum

_METHODS = tuple(
    f"{method} ".encode()
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT")
)

# A record of TLS begins with its kind, 22 for a handshake, and a version, 3.0 to 3.4.
_TLS = tuple(bytes((22, 3, minor)) for minor in range(5))


class Speaks(Enum):
    """What a connection's first bytes say about the rest."""

    PLAIN = "plain"
    HTTP = "http"
    TLS = "tls"
    # Too few bytes to tell.
    UNKNOWN = "unknown"


def speaks(head: bytes) -> Speaks:
    """Return what a connection speaks that begins with ``head``."""
    if head.startswith(_TLS):
        return Speaks.TLS
    if head and _TLS[0].startswith(head[:2]) and len(head) < len(_TLS[0]):
        return Speaks.UNKNOWN
    begun = head[: len("CONNECT ")]
    for method in _METHODS:
        if begun.startswith(method):
            return Speaks.HTTP
        if method.startswith(begun):
            return Speaks.UNKNOWN
    return Speaks.PLAIN
