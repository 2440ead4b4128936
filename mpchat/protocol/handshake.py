"""Handshake: the answer to a browser that asks for a WebSocket and may not have it. Pure.

A page sees nothing of a handshake that is rejected: a client that shall know why needs one that is accepted,
the error, and a close code. Clients that are let in get theirs from the package websockets, which takes too
long to load for a process that everybody waits for.
"""

import hashlib
from base64 import b64decode, b64encode

from mpchat.protocol.websocket_decoder import FULL, POLICY, close_frame
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING

# RFC 6455, section 1.3.
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_BYTES = 16


def refusing_answer(head: bytes, error: bytes, *, for_now: bool) -> bytes | None:
    """Return all that a client gets whose request has this head; None if it asks for no WebSocket.

    ``error`` is the plain frame of the error that it is told. The close code says whether it may come
    again later (1013), or is not let in at all (1008).
    """
    accept = _accept(head)
    if accept is None:
        return None
    # A browser that has offered a subprotocol takes no answer without it.
    offered = _header(head, b"sec-websocket-protocol").replace(b" ", b"").split(b",")
    chosen = b"Sec-WebSocket-Protocol: mpchat\r\n" if b"mpchat" in offered else b""
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n" + chosen + b"\r\n"
    )
    return answer + WEBSOCKET_FRAMING.encode(error) + close_frame(FULL if for_now else POLICY)


def _accept(head: bytes) -> bytes | None:
    """Return what proves that the request was read; None if it asks for no WebSocket of this version."""
    key = _header(head, b"sec-websocket-key")
    try:
        well_formed = len(b64decode(key, validate=True)) == _KEY_BYTES
    except ValueError:
        well_formed = False
    asks = head.startswith(b"GET ") and _header(head, b"upgrade").lower() == b"websocket"
    if not (asks and well_formed and _header(head, b"sec-websocket-version") == b"13"):
        return None
    return b64encode(hashlib.sha1(key + _GUID).digest())


def _header(head: bytes, name: bytes) -> bytes:
    """Return a header's value; empty if there is none."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return b""
