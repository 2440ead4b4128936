"""The connections of one load process: they connect, and count the bytes that each receives.

Bytes are counted and thrown away by the kernel; only the witnesses' bytes reach this process, those of TLS
connections, and those of WebSocket connections whose frames gather several deliveries: there only payloads
are counted. The rule it keeps: for one size of text, a number of bytes is a number of messages, so every
delivery is counted.
"""

import select
import socket
import ssl
import time
from collections.abc import Callable
from typing import Any

from scripts.bench.load.asker import Asker
from scripts.bench.load.plan import ANSWER_S, NOT_COUNTING, WAIT_S, Board, LoadError, Plan
from scripts.bench.load.witness import Witness, witness_of
from scripts.bench.tls import client_context, secured
from scripts.bench.websocket import Unwrapper, after_handshake
from scripts.bench.wire import GO_SENDER, WIRES, Wire
from scripts.common.latency import Latency

# Bytes of one read, at most. Larger than what a socket usually holds, so a read empties it.
READ_SIZE = 256 * 1024
# Seconds between two looks at the slowest connection, whose count gives the senders their credit; for each
# begun thousand of connections.
TELL_S = 0.001
# Seconds after the last delivery in which a surplus delivery would still be seen: on a busy machine a server
# may be stopped for some tens of milliseconds between two sends.
AFTERMATH_S = 0.2
# Linux: bind to an address, but choose the port at connect, when the whole 4-tuple is known.
IP_BIND_ADDRESS_NO_PORT = 24
# Linux, TCP: count the bytes that have come and throw them away, without a copy.
DISCARD = socket.MSG_TRUNC


class Crowd:
    """The connections of one process, and how many bytes each has received since it was served."""

    def __init__(self, plan: Plan, board: Board, slot: int, orders: int) -> None:
        """Prepare; ``orders`` is the descriptor that orders come on."""
        self._plan = plan
        self._orders = orders
        # The wire of the first room: all rooms' deliveries are equally long.
        self._wire = WIRES[plan.wire].in_room(0) if plan.row.rooms else WIRES[plan.wire]
        self._board, self._slot = board, slot
        # On a wire that does not send to senders, a sender reads answers only, and counts nothing.
        self.counting = plan.role == "clients" or self._wire.sender_receives
        # Bytes of the go, and of a delivery at least.
        self._stride = self._wire.bytes_of(plan.row.size, 1)
        self._tell_ns = TELL_S * 1e9 * (1 + plan.connections // 1000)
        self._tls = client_context() if plan.tls else None
        self._epoll = select.epoll()
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self.sockets: dict[int, socket.socket] = {}
        self._got: dict[int, int] = {}
        # The room of each connection, and, where others talk before the go, the end of what it received.
        self._rooms: dict[int, int] = {}
        self._tails: dict[int, bytes] = {}
        # Of those that shake hands first: what to send then. Where frames gather: what takes them off.
        self._knocks: dict[int, bytes] = {}
        self._unwrappers: dict[int, Unwrapper] = {}
        self._witnesses: dict[int, Witness] = {}
        self._faults: list[str] = []
        # One of the connections that had the fewest bytes when they were last looked at, and how many.
        self._slowest: tuple[int, int] | None = None
        # What the last turn found ready.
        self._ready: list[tuple[int, int]] = []
        self._told_ns = 0
        self.last_ns = 0

    # ---- connecting

    def connect(self) -> None:
        """Open all connections and wait until each is served."""
        waiting: dict[int, bytes] = {}
        deadline = time.monotonic() + ANSWER_S
        while waiting or len(self.sockets) < self._plan.connections:
            while len(waiting) < self._plan.in_flight and len(self.sockets) < self._plan.connections:
                waiting[self._begin()] = b""
            for fd, _ in self._epoll.poll(WAIT_S):
                deadline = time.monotonic() + ANSWER_S
                if fd not in waiting:
                    self._take_early(fd, self._heard(fd))
                    continue
                waiting[fd] = self._answered(fd, waiting[fd] + self._heard(fd))
                if fd not in self._knocks and self._served(waiting[fd]):
                    del waiting[fd]
                    self._got[fd] = 0
            if time.monotonic() > deadline:
                raise LoadError(f"{len(waiting)} clients were not answered within {ANSWER_S:.0f} s")
        self._place_witnesses()
        self._epoll.register(self._orders, select.EPOLLIN)

    def ask(self, connections: int, pause_s: float) -> list[list[int]]:
        """Ask on so many connections until an order comes; return each one's round trips in nanoseconds."""
        asker = Asker(self._wire, list(self.sockets.values())[:connections], pause_s, self._orders)
        asker.run()
        return list(asker.trips_ns.values())

    def _begin(self) -> int:
        """Open the next connection and knock, or shake hands first; return its descriptor."""
        number = len(self.sockets)
        sock = self._open(number)
        fd = sock.fileno()
        if self._wire.handshake:
            self._knocks[fd] = self._knock(number)
        sock.sendall(self._wire.handshake or self._knock(number))
        sock.setblocking(False)
        if self._wire.gathers:
            self._unwrappers[fd] = Unwrapper()
        self._rooms[fd] = self._room(number)
        self.sockets[fd] = sock
        self._epoll.register(fd, select.EPOLLIN)
        return fd

    def _answered(self, fd: int, answer: bytes) -> bytes:
        """Return the part of ``answer`` that is for the knock; knock when the handshake has been answered."""
        if fd not in self._knocks:
            return answer
        try:
            rest = after_handshake(answer)
        except ConnectionRefusedError as error:
            raise LoadError(str(error)) from error
        if rest is None:
            return answer
        self.sockets[fd].sendall(self._knocks.pop(fd))
        return rest

    def _open(self, number: int) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(ANSWER_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._plan.source, 0))
        try:
            sock.connect((self._plan.host, self._plan.port_of(number)))
        except OSError as error:
            raise LoadError(f"client {number + 1} could not connect: {error}") from error
        if self._tls is None:
            return sock
        try:
            return secured(sock, self._plan.tls, self._tls)
        except OSError as error:
            raise LoadError(f"client {number + 1} has no TLS: {error}") from error

    @property
    def _served(self) -> Callable[[bytes], bool]:
        return self._wire.sender_served if self._plan.role == "senders" else self._wire.served

    def _room(self, index: int) -> int:
        return (self._plan.first + index) % self._plan.channels

    def _knock(self, index: int) -> bytes:
        if self._plan.role == "senders" and not self._wire.sender_receives:
            return self._wire.sender_knock
        return self._channel(self._room(index)).knock_of(self._plan.first + index)

    def _channel(self, room: int) -> Wire:
        return self._wire.in_room(room) if self._plan.row.rooms else self._wire

    def _take_early(self, fd: int, data: bytes) -> None:
        """Count what comes before the go. On a wire that talks, keep its last bytes: so many as a go has."""
        if self._wire.talks:
            self._tails[fd] = (self._tails.get(fd, b"") + data)[-self._stride :]
        else:
            self._got[fd] += len(self._payload(fd, data))

    def _payload(self, fd: int, data: bytes) -> bytes:
        """Return what counts of ``data``: all of it, or what is in frames where these gather."""
        return self._unwrappers[fd].feed(data) if self._unwrappers else data

    def _heard(self, fd: int) -> bytes:
        try:
            data = self.sockets[fd].recv(READ_SIZE)
        except ssl.SSLWantReadError:  # a ticket, or half a record
            return b""
        except ConnectionError:
            data = b""
        if not data:
            raise LoadError(f"the server closed a new connection, {len(self._got)} were served")
        return data

    def _place_witnesses(self) -> None:
        """Spread the witnesses evenly, because some servers serve in the order of arrival."""
        fds = list(self.sockets)
        count = min(self._plan.witnesses, len(fds)) if self.counting else 0
        for index in range(count):
            fd = fds[index * len(fds) // count]
            self._witnesses[fd] = witness_of(self._channel(self._rooms[fd]), self._plan.row.size)

    # ---- counting

    def await_go(self) -> None:
        """Wait for the first message, the go, on every connection."""
        if self._wire.talks:
            self._await_go_among_others()
        else:
            while self.counting and not self.last_ns:  # an idle crowd costs nothing
                self.turn(WAIT_S)
        self.count(0)
        self.await_surplus()
        if self._faults:
            raise LoadError(self._faults[0])
        for witness in self._witnesses.values():
            witness.forget()

    def _await_go_among_others(self) -> None:
        """Wait until each connection's last message is the go; nothing follows it until all are ready."""
        missing = set(self.sockets)
        go = b'{"message":"%02d ' % GO_SENDER
        while missing:
            for fd, _ in self._epoll.poll(WAIT_S):
                if fd == self._orders:
                    raise LoadError("the bench went on before the go had come")
                self._take_early(fd, self._heard(fd))
                if self._tails[fd].startswith(go, 2):
                    self._got[fd] = self._stride
                    missing.discard(fd)
        self._tails.clear()

    def turn(self, timeout_s: float) -> bool:
        """Read what has come, after at most ``timeout_s``; return True when there is an order to read."""
        ordered = False
        got, sockets, witnesses, unwraps = self._got, self.sockets, self._witnesses, bool(self._unwrappers)
        events = self._ready = self._epoll.poll(timeout_s)
        for fd, _ in events:
            if fd == self._orders:
                ordered = True
                continue
            if self._tls is not None:
                self._decrypt(fd)
                continue
            witness = witnesses.get(fd)
            looks = witness or unwraps
            try:
                size = sockets[fd].recv_into(self._buffer, READ_SIZE, 0 if looks else DISCARD)
            except BlockingIOError:
                continue
            except ConnectionError:
                size = 0
            if not size:
                self._lose(fd)
                continue
            if looks:
                self._look_at(fd, bytes(self._view[:size]), witness)
            else:
                got[fd] += size
        now_ns = time.monotonic_ns()
        if len(events) > ordered:
            self.last_ns = now_ns
        if now_ns - self._told_ns >= self._tell_ns:
            self._told_ns = now_ns
            self._board[self._slot] = self.least()
        return ordered

    @property
    def received(self) -> dict[int, int]:
        """The bytes that each connection has received."""
        return self._got

    @property
    def heard(self) -> list[int]:
        """The connections that have received something in the last turn."""
        return [fd for fd, _ in self._ready if fd in self._got]

    def _decrypt(self, fd: int) -> None:
        """Read all that a TLS connection has: what OpenSSL holds makes no descriptor readable."""
        witness = self._witnesses.get(fd)
        while True:
            try:
                data = self.sockets[fd].recv(READ_SIZE)
            except ssl.SSLWantReadError:
                return
            except OSError:
                data = b""
            if not data:
                self._lose(fd)
                return
            self._look_at(fd, data, witness)

    def _look_at(self, fd: int, data: bytes, witness: Witness | None) -> None:
        data = self._payload(fd, data)
        self._got[fd] += len(data)
        if witness:
            witness.feed(data, time.monotonic_ns())

    def least(self) -> int:
        """Return how many messages every connection has, the go included."""
        if not self.counting or not self._got:
            return NOT_COUNTING
        return self._wire.messages_in(self._plan.row.size, self._least_bytes())[0]

    def _least_bytes(self) -> int:
        """Return the fewest bytes that a connection has.

        As long as the slowest connection gets nothing, no other one can be slower, and none is looked at.
        Of equally slow ones the last is chosen: where rooms take turns, it is the last to get something.
        """
        got = self._got
        if self._slowest is None or got[self._slowest[0]] != self._slowest[1]:
            least = min(got.values())
            self._slowest = next(fd for fd in reversed(got) if got[fd] == least), least
        return self._slowest[1]

    def count(self, sent: int) -> None:
        """Read until every connection has its go and its room's part of ``sent`` messages.

        Give up when nothing has come for the stall time; that is a fault.
        """
        progress, since = -1, time.monotonic()
        while not self._has_all(sent):
            self.turn(self._tell_ns / 1e9)
            total = sum(self._got.values())
            if total != progress:
                progress, since = total, time.monotonic()
            elif time.monotonic() - since > self._plan.options.stall_s:
                share = 1 + sent // self._plan.channels
                self._faults.append(f"the slowest connection got {self.least()} of {share} messages")
                return

    def await_surplus(self) -> None:
        """Read for a while longer what nobody should have sent."""
        last_ns = self.last_ns
        until = time.monotonic() + AFTERMATH_S
        while (rest := until - time.monotonic()) > 0:
            self.turn(rest)
        self.last_ns = last_ns

    def _expected(self, sent: int, room: int) -> int:
        """Return how many of ``sent`` messages are a room's, its go included: the rooms take turns."""
        share, more = divmod(sent, self._plan.channels)
        return 1 + share + (room < more)

    def _has_all(self, sent: int) -> bool:
        if not self.counting or not self._got:
            return True
        size, of_all = self._plan.row.size, sent // self._plan.channels
        if self._least_bytes() < self._wire.bytes_of(size, 1 + of_all):
            return False
        more, full = sent % self._plan.channels, self._wire.bytes_of(size, 2 + of_all)
        return not more or all(got >= full for fd, got in self._got.items() if self._rooms[fd] < more)

    def _lose(self, fd: int) -> None:
        self._epoll.unregister(fd)
        if self.counting:
            self._faults.append(f"the server closed a connection after {self._got[fd]} bytes")
        # It can get nothing any more, and must not hold the senders back.
        self._got[fd] = NOT_COUNTING

    # ---- the result

    def report(self, sent: int) -> dict[str, Any]:
        """Return the number of deliveries, the gos not counted, and the faults, when ``sent`` were sent."""
        ages = Latency()
        if not self.counting:
            return {"deliveries": 0, "faults": [], "ages": ages, "last_ns": 0}
        counts = {
            fd: self._wire.messages_in(self._plan.row.size, got)
            for fd, got in self._got.items()
            if got != NOT_COUNTING
        }
        self._find_wrong_counts(counts, sent)
        self._faults += [witness.fault for witness in self._witnesses.values() if witness.fault]
        for witness in self._witnesses.values():
            ages.add(witness.ages)
        return {
            "deliveries": sum(count - 1 for count, _ in counts.values()),
            "faults": self._faults,
            "ages": ages,
            "last_ns": self.last_ns,
        }

    def _find_wrong_counts(self, counts: dict[int, tuple[int, int]], sent: int) -> None:
        """Note how many connections have another number of messages than they should, with an example."""
        unit = len(self._wire.noise) or self._stride
        wrong = [
            (count, expected)
            for fd, (count, rest) in counts.items()
            if count != (expected := self._expected(sent, self._rooms[fd])) or rest % unit
        ]
        if wrong:
            count, expected = wrong[0]
            self._faults.append(
                f"{len(wrong)} of {len(self._got)} connections received a wrong number of messages,"
                f" for example {count - 1} of {expected - 1}"
            )
