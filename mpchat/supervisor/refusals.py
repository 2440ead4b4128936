"""Refusals: answers clients that may not come in, so that each can read why before its connection closes."""

import socket
from collections import Counter, deque
from typing import NamedTuple

from mpchat.protocol.messages import error_frame
from mpchat.reactor import Reactor

# Refused clients that may still be reading their answer, and the time that they get (seconds).
LINGERING = 32
LINGER = 1.0
# Bytes of a refused client's input that are read: unread input would reset the connection.
INPUT = 256 << 10


class Refusal(NamedTuple):
    """Why a client is refused: ``code`` is for programs, ``text`` for people."""

    text: str
    code: str = "full"


class Refusals:
    """Refused clients, counted, and those that are still reading their answer."""

    def __init__(self, reactor: Reactor) -> None:
        # By code.
        self.counts: Counter[str] = Counter()
        self._reactor = reactor
        self._lingering: deque[socket.socket] = deque()

    @property
    def count(self) -> int:
        """How many clients were refused."""
        return self.counts.total()

    def refuse(self, sock: socket.socket, refusal: Refusal, *, linger: bool = True) -> None:
        """Send an error and close, now or, with ``linger``, after the client had time to read it."""
        self.counts[refusal.code] += 1
        if not (_answer(sock, refusal) and linger):
            sock.close()
            return
        self._lingering.append(sock)
        self._reactor.call_later(LINGER, lambda: self._close(sock))
        if len(self._lingering) > LINGERING:
            self._lingering.popleft().close()

    def _close(self, sock: socket.socket) -> None:
        if sock in self._lingering:
            self._lingering.remove(sock)
            sock.close()

    def close(self) -> None:
        """Close all connections at once."""
        for sock in self._lingering:
            sock.close()
        self._lingering.clear()


def _answer(sock: socket.socket, refusal: Refusal) -> bool:
    """Send the error and the end of the stream; return False if the client has gone."""
    try:
        sock.setblocking(False)
        sock.send(error_frame(refusal.code, refusal.text))
        sock.shutdown(socket.SHUT_WR)
        # Unread input at close would reset the connection, and the answer with it.
        sock.recv(INPUT)
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True
