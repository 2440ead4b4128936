"""Refused scrapes: requests for metrics from clients that a full server refuses.

No worker has such a connection, and the figures matter most then. So it is answered here, and ends.
"""

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Protocol

from mpchat.ipc.addresses import without_mapping
from mpchat.ipc.http_questions import Answer, Question
from mpchat.ipc.lingering import Lingering
from mpchat.protocol.http import METRICS, SAFE_HEADERS, asks_for, http_date
from mpchat.reactor import WRITE, Reactor
from mpchat.supervisor.http_desk import Reply

# Such clients at a time; a further one is refused as all others are.
MOST = 8
# Seconds that one of them has to take the answer.
PATIENCE = 5.0


class MetricsPage(Protocol):
    """The page; see :mod:`mpchat.supervisor.metrics.page`."""

    def __call__(self, question: Question, reply: Reply) -> None:
        """Answer a request."""

    def is_for(self, host: str) -> bool:
        """Tell whether a client may read the metrics."""


class RefusedScrapes:
    """Refused clients that are sent metrics."""

    def __init__(self, reactor: Reactor, page: MetricsPage, is_proxy: Callable[[str], bool]) -> None:
        """``is_proxy`` tells of an address whether it stands for clients of other ones."""
        self._reactor = reactor
        self._page = page
        self._is_proxy = is_proxy
        self._lingering = Lingering(reactor)
        # Those that wait for the page or are taking it, and what is left of it.
        self._left: dict[socket.socket, bytes] = {}
        self._watched: set[socket.socket] = set()

    def take(self, sock: socket.socket, head: bytes) -> bool:
        """Answer a refused client if it asks for metrics and may have them; else return False."""
        if len(self._left) >= MOST or not asks_for(head, METRICS):
            return False
        try:
            host = without_mapping(sock.getpeername()[0])
        except OSError:  # it has gone
            return False
        if self._is_proxy(host) or not self._page.is_for(host):
            return False
        self._left[sock] = b""
        self._reactor.call_later(PATIENCE, partial(self._end, sock))
        method = head.partition(b" ")[0].decode()
        self._page(Question(host, method, METRICS, headers=_accept(head)), partial(self._send, sock, method))
        return True

    def _send(self, sock: socket.socket, method: str, answer: Answer) -> None:
        if sock not in self._left:  # it has waited for too long
            return
        self._left[sock] = _encoded(answer, without_body=method == "HEAD")
        self._go_on(sock, WRITE)
        if sock in self._left:
            try:
                self._reactor.watch(sock, WRITE, partial(self._go_on, sock))
                self._watched.add(sock)
            except (OSError, ValueError):  # the system's limit of watches
                self._end(sock)

    def _go_on(self, sock: socket.socket, mask: int) -> None:
        try:
            self._left[sock] = self._left[sock][sock.send(self._left[sock]) :]
        except BlockingIOError:
            return
        except OSError:
            self._left[sock] = b""
        if not self._left[sock]:
            self._end(sock)

    def _end(self, sock: socket.socket) -> None:
        """End the connection, once."""
        if self._left.pop(sock, None) is None:
            return
        if sock in self._watched:
            self._watched.remove(sock)
            self._reactor.forget(sock)
        self._lingering.take(sock)

    def close(self) -> None:
        """End all connections at once."""
        for sock in list(self._left):
            self._end(sock)
        self._lingering.close()


def _accept(head: bytes) -> dict[str, str]:
    """Return the header that says which format the client wants."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"accept":
            with suppress(UnicodeDecodeError):
                return {"accept": value.decode("ascii").strip()}
    return {}


def _encoded(answer: Answer, *, without_body: bool) -> bytes:
    headers = (
        ("Date", http_date(time.time())),
        *answer.headers,
        ("Content-Length", str(len(answer.body))),
        ("Connection", "close"),
        *SAFE_HEADERS,
    )
    lines = [f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}"]
    lines += [f"{name}: {value}" for name, value in headers]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head if without_body else head + answer.body
