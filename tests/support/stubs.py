"""A control socket with no server behind it: what commands ask and how they take the answers."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue

from mpchat.control.messages import Reply
from mpchat.control.requests import Request
from mpchat.control.server import Server
from mpchat.reactor import READ, Reactor
from support.waiting import PATIENCE


class LoopThread:
    """A loop that turns in a thread of its own; everything is done there."""

    def __init__(self) -> None:
        self.reactor = Reactor()
        self._near, self._far = socket.socketpair()
        self._calls: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._going = True
        self.reactor.watch(self._near, READ, self._take_calls)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Have ``function`` called in the loop."""
        self._calls.put(function)
        self._far.send(b"x")

    def _take_calls(self, mask: int) -> None:
        for _ in self._near.recv(64):
            self._calls.get()()

    def _run(self) -> None:
        while self._going:
            self.reactor.turn()

    def close(self) -> None:
        self.call(lambda: setattr(self, "_going", False))
        self._thread.join(PATIENCE)
        self.reactor.close()
        self._near.close()
        self._far.close()


@contextmanager
def serving(path: Path, handle: Callable[[Request, Reply], None]) -> Iterator[LoopThread]:
    """A control server in a thread; ``handle`` runs there, and so must every reply."""
    loop = LoopThread()
    server: list[Server] = []
    try:
        loop.call(
            lambda: server.append(Server(loop.reactor, path, lambda asked, reply, _: handle(asked, reply)))
        )
        ready = threading.Event()
        loop.call(ready.set)
        assert ready.wait(PATIENCE), "no control server in time"
        yield loop
    finally:
        loop.call(lambda: server[0].close())
        loop.close()
