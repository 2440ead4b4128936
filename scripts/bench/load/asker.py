"""Questions to the server that it answers to one connection alone, and how long each answer takes.

A question is a knock of the wire: for mpchat an empty frame, which is refused. The rule: a connection
asks again only when its question is answered, so a round trip says how long *it* had to wait.
"""

import heapq
import select
import socket
import time
from collections.abc import Sequence

from scripts.bench.load.plan import ANSWER_S, WAIT_S, LoadError
from scripts.bench.wire import Wire


class Asker:
    """Asks on each of some connections, the next question ``pause_s`` after the one before."""

    def __init__(self, wire: Wire, socks: Sequence[socket.socket], pause_s: float, orders: int) -> None:
        self._wire = wire
        self._orders = orders  # the descriptor that orders come on
        self._socks = {sock.fileno(): sock for sock in socks}
        self._pause_s = pause_s
        # When each connection asks next; they begin one after the other, never all at once.
        begin, step = time.monotonic(), pause_s / len(socks)
        self._due = [(begin + number * step, fd) for number, fd in enumerate(self._socks)]
        self._asked: dict[int, float] = {}
        self._answers = dict.fromkeys(self._socks, b"")
        self.trips_ns: dict[int, list[int]] = {fd: [] for fd in self._socks}
        self._poll = select.poll()
        for fd in (self._orders, *self._socks):
            self._poll.register(fd, select.POLLIN)

    def run(self) -> None:
        """Ask until an order comes, then wait for the open answers."""
        while not self._turn(self._ask_due()):
            pass
        self._poll.unregister(self._orders)
        deadline = time.monotonic() + ANSWER_S
        while self._asked:
            self._turn(WAIT_S)
            if time.monotonic() > deadline:
                raise LoadError(f"{len(self._asked)} questions were not answered within {ANSWER_S:.0f} s")

    def _ask_due(self) -> float:
        """Ask what is due; return the seconds until the next question, at most ``WAIT_S``."""
        while self._due and self._due[0][0] <= time.monotonic():
            fd = heapq.heappop(self._due)[1]
            self._asked[fd] = time.monotonic()
            self._socks[fd].sendall(self._wire.knock)
        wait_s = self._due[0][0] - time.monotonic() if self._due else WAIT_S
        return min(max(0.0, wait_s), WAIT_S)

    def _turn(self, timeout_s: float) -> bool:
        """Read what has come; return True when there is an order to read."""
        ordered = False
        for fd, _ in self._poll.poll(timeout_s * 1e3):
            if fd == self._orders:
                ordered = True
            else:
                self._read(fd)
        return ordered

    def _read(self, fd: int) -> None:
        data = self._socks[fd].recv(4096)
        self._answers[fd] += data
        if not data or fd not in self._asked:
            raise LoadError(f"a connection that asks received {self._answers[fd]!r} and was not to")
        if self._wire.served(self._answers[fd]):
            now, asked = time.monotonic(), self._asked.pop(fd)
            self.trips_ns[fd].append(int((now - asked) * 1e9))
            self._answers[fd] = b""
            heapq.heappush(self._due, (max(now, asked + self._pause_s), fd))
