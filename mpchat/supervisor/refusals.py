"""Refusals: answers clients that may not come in, so that each can read why before its connection closes.

With web or TLS on, a client's first bytes decide how it is told: HTTP by a status, a WebSocket by the error
as its only message and a close code, TLS by an alert. A client that says nothing is taken for a plain one
after a while, as in a worker.
"""

import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from mpchat.config import Config
from mpchat.ipc.lingering import LINGERING, Lingering
from mpchat.protocol.first_bytes import Speaks, speaks
from mpchat.protocol.handshake import refusing_answer
from mpchat.protocol.http import ALIVE, HEAD_END, HEAD_LIMIT, HEALTH, asks_for, bare_answer
from mpchat.protocol.messages import error_frame
from mpchat.reactor import READ, Reactor, Timer

# Bytes of a refused client's input that are read before a close at once: unread input would reset the
# connection, and the answer with it.
INPUT = 256 << 10
# A fatal alert of TLS, "access denied" (RFC 8446, section 6), before any handshake.
ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))


class Refusal(NamedTuple):
    """Why a client is refused: ``code`` is for programs, ``text`` for people."""

    text: str
    code: str = "full"
    # For a client that speaks HTTP.
    status: str = "503 Service Unavailable"
    # True when the client may come again later.
    for_now: bool = True


BANNED = Refusal("your address is banned here", "banned", "403 Forbidden", for_now=False)


class _Begun(NamedTuple):
    """A refused client of which it is not known what it speaks, or what it asks for, and its first bytes."""

    refusal: Refusal
    # Answers it when its time is over.
    timer: Timer
    head: bytes = b""


class Refusals:
    """Refused clients, counted, and those that are still reading their answer."""

    def __init__(self, reactor: Reactor) -> None:
        """Begin with none, and with web off."""
        # Answers a client, with its first bytes, that gets something all the same; False: it does not.
        self.spare: Callable[[socket.socket, bytes], bool] = lambda sock, head: False
        # By code.
        self.counts: Counter[str] = Counter()
        self._reactor = reactor
        self._lingering = Lingering(reactor)
        # Seconds that a client has to say what it speaks.
        self._grace = 0.0
        self._tls_on = False
        # Clients that have not said it, the oldest first; bounded like those that linger.
        self._begun: dict[socket.socket, _Begun] = {}

    def follow(self, config: Config) -> None:
        """Let settings hold."""
        self._grace = config.listen_grace if config.tells_protocols_apart else 0.0
        self._tls_on = config.tls_on

    @property
    def count(self) -> int:
        """How many clients were refused."""
        return self.counts.total()

    def refuse(
        self, sock: socket.socket, refusal: Refusal, begun: bytes = b"", *, linger: bool = True
    ) -> None:
        """Send an error and close, now or, with ``linger``, after the client had time to read it.

        ``begun`` are first bytes that have been read from it.
        """
        self.counts[refusal.code] += 1
        sock.setblocking(False)
        if _is_enough(begun):
            self._answer_to(sock, refusal, begun)
            return
        if not linger:
            with suppress(OSError):
                sock.send(_plain(refusal))
                sock.shutdown(socket.SHUT_WR)
                sock.recv(INPUT)
            sock.close()
            return
        if not self._grace:
            self._answer(sock, _plain(refusal))
            return
        try:
            self._reactor.watch(sock, READ, partial(self._on_bytes, sock))
        except (OSError, ValueError):  # the system's limit of watches
            self._answer(sock, _plain(refusal))
            return
        timer = self._reactor.call_later(self._grace, partial(self._answer_begun, sock))
        self._begun[sock] = _Begun(refusal, timer, begun)
        if len(self._begun) > LINGERING:
            self._answer_begun(next(iter(self._begun)))

    def _on_bytes(self, sock: socket.socket, mask: int) -> None:
        """Take a client's first bytes; answer as soon as they tell what it speaks, and asks for."""
        begun = self._begun.get(sock)
        if begun is None:  # answered earlier in this turn of the loop
            return
        try:
            data = sock.recv(HEAD_LIMIT - len(begun.head))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        begun = self._begun[sock] = begun._replace(head=begun.head + data)
        if _is_enough(begun.head) or not data:
            self._answer_begun(sock)

    def _answer_begun(self, sock: socket.socket) -> None:
        """Answer a client by what it has said so far, if it has not been answered."""
        if sock in self._begun:
            begun = self._forget(sock)
            self._answer_to(sock, begun.refusal, begun.head)

    def _answer_to(self, sock: socket.socket, refusal: Refusal, head: bytes) -> None:
        if not (refusal.for_now and self.spare(sock, head)):
            self._answer(sock, self._answer_for(refusal, head))

    def _answer_for(self, refusal: Refusal, head: bytes) -> bytes:
        is_tls = self._tls_on and speaks(head) is Speaks.TLS
        return ACCESS_DENIED if is_tls else _answer_for(refusal, head)

    def _forget(self, sock: socket.socket) -> _Begun:
        self._reactor.forget(sock)
        begun = self._begun.pop(sock)
        begun.timer.cancel()  # or it would keep the socket until then
        return begun

    def _answer(self, sock: socket.socket, data: bytes) -> None:
        """Send an answer and the end of the stream."""
        try:
            sock.send(data)
        except OSError:  # the client has gone
            sock.close()
        else:
            self._lingering.take(sock)

    def close(self) -> None:
        """Answer all that have not been answered, and close all connections at once."""
        for sock in list(self._begun):
            self._answer_begun(sock)
        self._lingering.close()


def _is_enough(head: bytes) -> bool:
    """Tell whether it is known what a client speaks, and what it asks for."""
    return HEAD_END in head or len(head) >= HEAD_LIMIT or speaks(head) in (Speaks.PLAIN, Speaks.TLS)


def _answer_for(refusal: Refusal, head: bytes) -> bytes:
    """Return what a client is told that has begun with ``head``."""
    if speaks(head) is not Speaks.HTTP:
        return _plain(refusal)
    if refusal.for_now and asks_for(head, HEALTH):  # a full server is no reason to restart it
        return bare_answer(head, *ALIVE, time.time())
    by_websocket = refusing_answer(head, _plain(refusal), for_now=refusal.for_now)
    return by_websocket or bare_answer(head, refusal.status, refusal.text, time.time())


def _plain(refusal: Refusal) -> bytes:
    return error_frame(refusal.code, refusal.text)
