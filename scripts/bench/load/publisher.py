"""The senders of a run, in one process: they stamp and number messages, and keep a window in flight.

The rule it keeps: a sender never waits for the server. What a socket does not accept is sent later, and what
the slowest connection has not received yet is never more than the window.
"""

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial

from scripts.bench.load.crowd import TELL_S, Crowd
from scripts.bench.load.plan import Board, LoadError, Plan
from scripts.bench.wire import FILL, GO_SENDER, NUMBER, STAMP_SIZE, TIME, WIRES, Wire

# A full window goes out in so many bursts: the servers never run dry, and still get batches.
BURSTS = 4
# Lists of numbers that are kept, because the senders of many rooms need the same ones after each other.
NUMBERS_KEPT = 64


@lru_cache(NUMBERS_KEPT)
def numbers(name: int, first: int, end: int) -> list[bytes]:
    """Return the beginnings of a sender's stamps for the messages from ``first`` on and before ``end``."""
    return [NUMBER % (name, number) for number in range(first, end)]


class Sender:
    """The sender of one series of messages to one room. Several senders may share a socket."""

    def __init__(self, sock: socket.socket, wire: Wire, name: int, size: int) -> None:
        """Prepare messages of ``size`` bytes; ``name`` is the sender in their stamps."""
        self._sock = sock
        self._name = name
        self._before, after = wire.publication(size)
        self._after = FILL * (size - STAMP_SIZE) + after
        self._number = 0
        self._unsent = memoryview(b"")

    def post(self, messages: int) -> bool:
        """Send ``messages`` as one burst with one time; return what :meth:`flush` returns.

        Call it only after :meth:`flush` has returned True for all senders that share the socket.
        """
        first, self._number = self._number, self._number + messages
        end = TIME % time.monotonic_ns() + self._after
        texts = (end + self._before).join(numbers(self._name, first, self._number))
        self._unsent = memoryview(self._before + texts + end)
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


class RoomCredit:
    """How much one room's sender may send."""

    def __init__(self, fd: int, window: int, bytes_of: Callable[[int], int]) -> None:
        """Begin with a whole window, in messages; ``fd`` is the sender's connection.

        ``bytes_of`` returns how many bytes so many deliveries take.
        """
        self.fd = fd
        self.sent = 0
        self._bytes_of = bytes_of
        self._window, self._burst = window, max(1, window // BURSTS)
        # Bytes that the sender must have received before it may send the next burst.
        self._needed = 0

    def take(self, received: dict[int, int], most: int | None) -> int:
        """Return how many messages are to be sent now, in whole bursts; they count as sent.

        ``most`` is what is sent in the end, if that is known. A connection that was lost may send a window:
        its sender finds that out then.
        """
        before = self.sent
        end = before + self._window if most is None else min(most, before + self._window)
        while received[self.fd] >= self._needed and self.sent < end:
            self.sent += min(self._burst, end - self.sent)
            back = self.sent + self._burst - self._window
            self._needed = self._bytes_of(1 + back) if back > 0 else 0
        return self.sent - before


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
        elif self._plan.channels > 1:
            self._flood_rooms()
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

    def _flood_rooms(self) -> None:
        """Keep a window in flight in each room, whatever others do; in the end all rooms get equally many.

        A room's sender goes by what it has received itself.
        """
        plan = self._plan
        # Kept, because all rooms ask for the same numbers after each other.
        bytes_of = lru_cache(NUMBERS_KEPT)(partial(WIRES[plan.wire].in_room(0).bytes_of, plan.row.size))
        rooms = [RoomCredit(fd, plan.window, bytes_of) for fd in self._crowd.sockets]
        by_fd = {room.fd: number for number, room in enumerate(rooms)}
        to_look_at: Iterable[int] = range(len(rooms))
        moved = time.monotonic()
        end, most = moved + self._plan.options.seconds, None
        while (now := time.monotonic()) < moved + self._plan.options.stall_s:
            if now >= end and most is None:
                most, to_look_at = max(room.sent for room in rooms), range(len(rooms))
            if self._post_in(rooms, to_look_at, most):
                moved = now
            if most is not None and all(room.sent == most for room in rooms):
                break
            self._crowd.turn(TELL_S)
            to_look_at = {*self._stuck_rooms(), *(by_fd[fd] for fd in self._crowd.heard)}
            self._flushed()
        self.sent = sum(room.sent for room in rooms)

    def _stuck_rooms(self) -> list[int]:
        return [self._senders.index(sender) for sender in self._stuck]

    def _post_in(self, rooms: Sequence[RoomCredit], numbers: Iterable[int], most: int | None) -> bool:
        """Post in those of the rooms that may send more; ``most`` is what each gets. Say whether any has."""
        posted = False
        for number in numbers:
            sender = self._senders[number]
            if sender not in self._stuck and (share := rooms[number].take(self._crowd.received, most)):
                self._post(sender, share)
                posted = True
        return posted

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
