"""The senders of a run, in one process: they stamp and number messages, and keep a window in flight.

The rule it keeps: a sender never waits for the server. What a socket does not accept is sent later, and what
the slowest connection has not received yet is never more than the window.
"""

import socket
import ssl
import time

from scripts.bench.load.crowd import TELL_S, Crowd
from scripts.bench.load.plan import Board, LoadError, Plan
from scripts.bench.wire import FILL, GO_SENDER, STAMP, STAMP_SIZE, WIRES, Wire

# A full window goes out in so many bursts: the servers never run dry, and still get batches.
BURSTS = 4


class Sender:
    """The sender of one series of messages to one room. Several senders may share a socket."""

    def __init__(self, sock: socket.socket, wire: Wire, name: int, size: int) -> None:
        """Prepare messages of ``size`` bytes; ``name`` is the sender in their stamps."""
        self._sock = sock
        self._name = name
        before, after = (part.replace(b"%", b"%%") for part in wire.publication(size))
        self._template = before + STAMP + FILL * (size - STAMP_SIZE) + after
        self._number = 0
        self._unsent = memoryview(b"")

    def post(self, messages: int) -> bool:
        """Send ``messages`` as one burst with one time; return what :meth:`flush` returns.

        Call it only after :meth:`flush` has returned True for all senders that share the socket.
        """
        stamp, first = time.monotonic_ns(), self._number
        self._number += messages
        numbers = range(first, self._number)
        burst = b"".join([self._template % (self._name, number, stamp) for number in numbers])
        self._unsent = memoryview(burst)
        return self.flush()

    def flush(self) -> bool:
        """Send what the socket did not accept before; return True when nothing is left."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except (BlockingIOError, ssl.SSLWantWriteError):
                return False
            except ConnectionError as error:
                raise LoadError(f"the server closed a sender's connection: {error}") from error
        return True


class Publisher:
    """All senders of a run, so that one count says how many messages are in flight."""

    def __init__(self, plan: Plan, crowd: Crowd, board: Board) -> None:
        """Give each room a sender, and each socket."""
        self._plan = plan
        self._crowd = crowd
        self._board = board
        self._socks = list(crowd.sockets.values())
        self._senders = [self._sender(index) for index in range(max(plan.channels, len(self._socks)))]
        # The senders whose sockets did not accept everything.
        self._stuck: list[Sender] = []
        self.sent = 0
        self.first_ns = 0

    def _sender(self, index: int, name: int | None = None) -> Sender:
        """Return the sender with this number. Each room has one, and rooms may share a socket."""
        room, sock = index % self._plan.channels, self._socks[index % len(self._socks)]
        wire = WIRES[self._plan.wire]
        name = index // self._plan.channels if name is None else name
        return Sender(sock, wire.in_room(room) if self._plan.row.rooms else wire, name, self._plan.row.size)

    def go(self) -> None:
        """Send the go to each room: the message that says that all clients are there."""
        for room in range(self._plan.channels):
            self._post(self._sender(room, GO_SENDER), 1)
            while not self._flushed():
                time.sleep(TELL_S)

    def run(self) -> None:
        """Send what the plan says, then return; the last messages may still be in flight."""
        self.first_ns = time.monotonic_ns()
        if self._plan.row.rate:
            self._send_at_rate()
        else:
            self._flood()

    def _credit(self) -> int:
        """Return how many messages may be sent now; 0 while a socket is full."""
        if not self._flushed():
            return 0
        slowest: int = min(self._board)
        # The go is in the counters and not in `sent`.
        return self._plan.window - (self.sent // self._plan.channels + 1 - slowest)

    def _flood(self) -> None:
        """Send bursts as fast as the window allows."""
        share = max(1, self._plan.window // BURSTS // len(self._senders))
        burst = share * len(self._senders)
        moved = time.monotonic()
        end = moved + self._plan.options.seconds
        while (now := time.monotonic()) < end or not self._flushed():
            if now < end and self._credit() >= burst:
                for sender in self._senders:
                    self._post(sender, share)
                self.sent += burst
                moved = now
            elif now - moved > self._plan.options.stall_s:
                return
            else:
                self._crowd.turn(0)
                time.sleep(TELL_S / 2)

    def _send_at_rate(self) -> None:
        """Send each message at its time. Late messages follow at once: a pause does not lower the rate."""
        begin = time.monotonic()
        end = begin + self._plan.options.seconds
        while not self._plan.row.messages or self.sent < self._plan.row.messages:
            due = begin + self.sent / self._plan.row.rate
            if due >= end or time.monotonic() > end + self._plan.options.stall_s:
                return
            self._crowd.turn(0)
            time.sleep(max(0.0, due - time.monotonic()))
            if self._credit() > 0:
                self._post(self._senders[self.sent % len(self._senders)], 1)
                self.sent += 1
            else:
                time.sleep(TELL_S)

    def _post(self, sender: Sender, messages: int) -> None:
        if not sender.post(messages):
            self._stuck.append(sender)

    def _flushed(self) -> bool:
        self._stuck = [sender for sender in self._stuck if not sender.flush()]
        return not self._stuck
