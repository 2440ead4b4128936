"""A relay between one host and Redis that breaks the link on request, at the worst moments.

It is honest unless told otherwise. It does not understand what passes: it tells requests apart by the names
of their commands. A process for each host runs one; the parent commands it over a pipe.
"""

import selectors
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.common.address import Address

# Half of an append reaches Redis. An append is done, and its answer does not come back. Half of the answer to
# a read comes back. Nothing passes for a while, and then the connections end.
IN_APPEND, NO_ANSWER, IN_READ, SILENCE = "in an append", "no answer", "in a read", "silence"
CUTS = (IN_APPEND, NO_ANSWER, IN_READ, SILENCE)
# Seconds after which a cut that waits for its request takes the next one, whatever it is.
PATIENCE = 2.0
# Bytes of one read, and seconds of one wait for sockets.
READ_SIZE = 64 * 1024
LOOK_FOR = 0.02
APPEND, READ, OTHER = "append", "read", "other"
_KINDS = {b"EVAL": APPEND, b"FCALL": APPEND, b"XADD": APPEND, b"XREAD": READ, b"XRANGE": READ}


def kind_of(request: bytes) -> str:
    """Return what kind of request the bytes have, by the first command that is known."""
    upper = request[:READ_SIZE].upper()
    places = {upper.find(name): kind for name, kind in _KINDS.items() if name in upper}
    return places[min(places)] if places else OTHER


@dataclass(eq=False)
class Link:
    """One connection of the host: two sockets, what waits on each, and what was asked last."""

    client: socket.socket
    server: socket.socket
    waiting: dict[socket.socket, bytes] = field(default_factory=dict)
    kind: str = OTHER
    swallowing: bool = False  # the next answer ends it instead of passing
    ending: bool = False  # ends once what waits is sent

    def other(self, sock: socket.socket) -> socket.socket:
        """Return the other one of its sockets."""
        return self.server if sock is self.client else self.client


class Relay:
    """Passes bytes between clients and ``target``; one thread."""

    def __init__(self, target: Address) -> None:
        """Listen on a free port."""
        self.target = target
        self.cuts: Counter[str] = Counter()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._links: dict[socket.socket, Link] = {}
        self._armed = ""
        self._armed_at = 0.0
        self._silent_until = 0.0

    def arm(self, cut: str, seconds: float = 0.0) -> None:
        """Do ``cut`` at the next request that it fits; ``seconds``: length of a silence."""
        now = time.monotonic()
        if cut == SILENCE:
            self.cuts[cut] += 1
            self._silent_until = now + seconds
        else:
            self._armed, self._armed_at = cut, now

    def turn(self, wait: float = LOOK_FOR) -> None:
        """Pass what has come, for at most ``wait`` seconds."""
        if self._silent_until:
            if time.monotonic() < self._silent_until:
                time.sleep(min(wait, LOOK_FOR))
                return
            self._silent_until = 0.0
            for link in set(self._links.values()):
                self._end(link)
        for key, events in self._selector.select(wait):
            if key.fileobj is self._listener:
                self._accept()
                continue
            sock = key.fileobj
            assert isinstance(sock, socket.socket)
            if events & selectors.EVENT_WRITE and sock in self._links:
                self._flush(self._links[sock], sock)
            if events & selectors.EVENT_READ and sock in self._links:
                self._read(self._links[sock], sock)

    def close(self) -> None:
        """Close all sockets."""
        for link in set(self._links.values()):
            self._end(link)
        self._selector.close()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            client, _ = self._listener.accept()
            try:
                server = socket.create_connection(self.target, timeout=PATIENCE)
            except OSError:  # Redis is not there, and that is what the host sees
                client.close()
                return
            link = Link(client, server)
            for sock in (client, server):
                sock.setblocking(False)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                link.waiting[sock] = b""
                self._links[sock] = link
                self._selector.register(sock, selectors.EVENT_READ)

    def _read(self, link: Link, sock: socket.socket) -> None:
        try:
            data = sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end(link)
        elif not link.ending:
            self._pass_on(link, sock, data)

    def _pass_on(self, link: Link, sock: socket.socket, data: bytes) -> None:
        """Pass bytes on, or what the cut that waits makes of them."""
        if sock is link.client:
            kind = kind_of(data)
            if kind != OTHER:
                link.kind = kind
            if self._fits(IN_APPEND, kind == APPEND) and len(data) > 1:
                self._fired()
                link.ending, data = True, data[: len(data) // 2]
            elif self._fits(NO_ANSWER, kind == APPEND):
                self._fired()
                link.swallowing = True
        elif link.swallowing:
            self._end(link)
            return
        elif self._fits(IN_READ, link.kind == READ) and len(data) > 1:
            self._fired()
            link.ending, data = True, data[: len(data) // 2]
        other = link.other(sock)
        link.waiting[other] += data
        self._flush(link, other)

    def _fits(self, cut: str, right: bool) -> bool:
        return self._armed == cut and (right or time.monotonic() - self._armed_at > PATIENCE)

    def _fired(self) -> None:
        self.cuts[self._armed] += 1
        self._armed = ""

    def _flush(self, link: Link, sock: socket.socket) -> None:
        try:
            count = sock.send(link.waiting[sock]) if link.waiting[sock] else 0
        except BlockingIOError:
            count = 0
        except OSError:
            self._end(link)
            return
        waiting = link.waiting[sock] = link.waiting[sock][count:]
        if link.ending and not waiting:
            self._end(link)
            return
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if waiting else 0)
        if self._selector.get_key(sock).events != events:
            self._selector.modify(sock, events)

    def _end(self, link: Link) -> None:
        for sock in (link.client, link.server):
            if self._links.pop(sock, None) is not None:
                self._selector.unregister(sock)
                sock.close()


def serve_relay(pipe: "Pipe[Any, Any]", target: Address) -> None:
    """Run a relay in this process until the pipe closes; send its port first, and each change of its cuts.

    A command is ``(cut, seconds)``.
    """
    relay = Relay(target)
    pipe.send(relay.port)
    told: Counter[str] = Counter()
    while True:
        if pipe.poll():
            relay.arm(*pipe.recv())
        relay.turn()
        if relay.cuts != told:
            told = Counter(relay.cuts)
            pipe.send(told)
