"""Kinds of hostile clients, as data: what each client sends, again and again. A new kind is one entry."""

import json
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

from scripts.common.frames import framed
from scripts.common.sign_in import forged_token

# The room with a long past, and the name of somebody who is in it and never reads.
BIG, DEAF = "big", "deaf"
# Seconds: the longest p99 round trip of an innocent client beside hostile ones, and beside clients that send
# valid messages at full speed.
PROMPT, BESIDE_MESSAGES = 0.05, 0.1
# The name that is registered where a server checks proofs, and that guessers want to have.
REGISTERED = "앨리스"


def payload(**what: Any) -> bytes:
    """Return the frame of one JSON object."""
    return framed(json.dumps(what).encode())


def _join(number: int, room: str = BIG, **more: Any) -> bytes:
    return payload(join={"name": f"hostile{number}", "room": room, **more})


class Kind(NamedTuple):
    """What the clients of one kind send."""

    # Again and again, by the client's number.
    again: Callable[[int], bytes]
    # Once, before.
    first: Callable[[int], bytes] = lambda number: b""
    # Bytes of each write and of each read; 0: as much as goes.
    piece: int = 0
    # Seconds that the innocent client's p99 may take meanwhile.
    limit: float = PROMPT
    # True when the server must have a certificate.
    tls: bool = False
    # The server's setting auth meanwhile.
    auth: str = "open"
    # Errors after which a client that reads leaves, and comes again with a number and from an address that no
    # client has had; 0: it stays, and all come from one address.
    leaves_after: int = 0
    # True when the answers are those of HTTP, and no frames.
    http: bool = False


def _frame(first: int, data: bytes) -> bytes:
    """Return a WebSocket frame of a client, its mask zero; at most 125 bytes of data."""
    return bytes((first, 0x80 | len(data))) + bytes(4) + data


_HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_PING, _CLOSE, _TEXT, _MORE, _LAST = 0x89, 0x88, 0x01, 0x00, 0x80
# The shortest message, as it is posted together with others.
TINY = framed(b'{"message":""}')


@cache
def _hello() -> bytes:
    """Return what a client begins to shake hands with."""
    out = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return out.read()


# The longest record, and in it the longest greeting, which never ends when it comes byte by byte.
_LONG_HELLO = b"\x16\x03\x01\x40\0" + b"\x01\0\x3f\xfc\x03\x03"


def _guess(number: int, **proof: str) -> bytes:
    return payload(join={"name": f"손님{number}", **proof})


_GET_API = b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n"


def _say_by_api(token: str) -> bytes:
    """Return a request of a program to say something to all."""
    body = b'{"message":"y"}'
    head = f"POST /api/say HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


# As long as a token that names many rooms.
_GARBAGE = "eyJ" + "x" * 2000 + "." + "y" * 2000 + "." + "z" * 86

KINDS: dict[str, Kind] = {
    "empty frames": Kind(lambda number: b"\0\0" * 60_000),
    "no JSON": Kind(lambda number: (framed(b"{" * 40) + framed(b"[" * 40)) * 250),
    "not UTF-8": Kind(lambda number: framed(b'{"message":"\xff"}') * 500),
    "too long": Kind(lambda number: framed(b"x" * 65_000) * 10),
    "deep JSON": Kind(lambda number: framed(b'{"message":' + b"[" * 50_000) * 10),
    "HTTP": Kind(lambda number: b"GET / HTTP/1.1\r\nX: " + b"x" * 60_000),
    "requests": Kind(lambda number: b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n" * 100),
    "API": Kind(lambda number: _GET_API * 100),
    "header lines": Kind(lambda number: b"GET / HTTP/1.1\nHost: a\n" + b"a:\n" * 2600 + b"\r\n\r\n"),
    "handshakes": Kind(lambda number: _frame(_CLOSE, b""), lambda number: _HANDSHAKE),
    "pings": Kind(lambda number: _frame(_PING, b"x" * 125) * 500, lambda number: _HANDSHAKE),
    "fragments": Kind(
        lambda number: _frame(_TEXT, b"{") + _frame(_MORE, b"{") * 500 + _frame(_LAST, b"{"),
        lambda number: _HANDSHAKE,
    ),
    "TLS greetings": Kind(lambda number: _hello() * 2, tls=True),
    "half TLS greetings": Kind(lambda number: bytes(1000), lambda number: _LONG_HELLO, piece=1, tls=True),
    "one byte": Kind(lambda number: payload(message="slow"), piece=1),
    "half frames": Kind(lambda number: b"\xea\x60" + b"x" * 100, piece=51),
    "joins": Kind(lambda number: _join(number, after=0) * 50),
    "room to room": Kind(lambda number: b"".join(_join(number, f"r{each}") for each in range(20)) * 5),
    "who": Kind(lambda number: payload(who={}) * 500, _join),
    "rooms": Kind(lambda number: payload(rooms={}) * 500, _join),
    "history": Kind(lambda number: payload(history={"limit": 100}) * 500, _join),
    # To cut one message out of thousands takes the longest, for the shortest answer.
    "history of little": Kind(
        lambda number: payload(history={"limit": 1}) * 500,
        lambda number: _join(number, f"tiny{number % 10}") + (TINY * 4000 if number < 10 else b""),
    ),
    "ping": Kind(lambda number: payload(ping="x" * 100) * 500),
    "private to oneself": Kind(lambda number: payload(message="x" * 2000, to=f"hostile{number}") * 50, _join),
    "private to nobody": Kind(lambda number: payload(message="x", to="nobody") * 500, _join),
    "private to the deaf": Kind(lambda number: payload(message="x" * 2000, to=DEAF) * 50, _join),
    "messages": Kind(lambda number: payload(message="y" * 100) * 200, limit=BESIDE_MESSAGES),
    "long messages": Kind(lambda number: payload(message="y" * 59_000) * 2, limit=BESIDE_MESSAGES),
    "messages of members": Kind(
        lambda number: payload(message="y" * 100) * 200,
        lambda number: _join(number, "loud"),
        0,
        BESIDE_MESSAGES,
    ),
    "password guesses": Kind(
        lambda number: payload(join={"name": REGISTERED, "password": f"guess {number}"}) * 20, auth="closed"
    ),
    # Each address may be wrong a few times before it has to wait, and so may each name.
    "password guesses of many": Kind(
        lambda number: _guess(number, password="123456789") * 5, auth="closed", leaves_after=5
    ),
    "garbage for tokens": Kind(lambda number: payload(join={"jwt": _GARBAGE}) * 10, auth="closed"),
    "forged tokens": Kind(lambda number: payload(join={"jwt": forged_token()}) * 10, auth="closed"),
    "forged tokens of many": Kind(
        lambda number: payload(join={"jwt": forged_token()}) * 5, auth="closed", leaves_after=5
    ),
    "forged tokens for the API": Kind(
        lambda number: _say_by_api(forged_token()) * 10, auth="closed", http=True
    ),
    "secret guesses": Kind(lambda number: _guess(number, secret=f"guess {number}") * 20, auth="closed"),
    "joins without proof": Kind(lambda number: _guess(number) * 100, auth="closed"),
    "joins of a registered name": Kind(lambda number: payload(join={"name": REGISTERED}) * 50, auth="names"),
    "messages without proof": Kind(lambda number: payload(message="y" * 100) * 200, auth="closed"),
}
