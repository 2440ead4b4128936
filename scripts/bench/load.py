"""The load: one process of clients, or the one of senders, started by cell.py.

Not a benchmark by itself: it does what its plan says and reports counts, times and what it cost. The plan
comes as one line of JSON on standard input, further orders too; answers go out as lines of JSON. It ends when
standard input does, so nothing outlives the bench.

The rule it keeps: to cost little. Bytes are counted, not looked at; only the *witnesses*, a few of the
connections, are parsed in full: each message once, in order, unchanged, and how old it is.
"""

import contextlib
import json
import mmap
import os
import re
import resource
import select
import socket
import struct
import sys
import time
from array import array
from dataclasses import dataclass
from typing import Any

from scripts.bench.wire import FILL, GO_SENDER, STAMP, STAMP_SIZE, WIRES, MemberWire, Wire

# Bytes: what one read may take. Larger than what a socket usually holds, so one read empties it.
READ_SIZE = 256 * 1024
# Seconds between two looks at the slowest connection, whose count gives the senders their credit; for each
# begun thousand of connections.
TELL_S = 0.001
# Seconds that a wait for events lasts at most: how late a stall or a missing order is seen.
WAIT_S = 0.1
# A full window goes out in this many bursts, so that the servers never run dry and still get batches.
BURSTS = 4
# Seconds for one connect or one knock before it counts as refused.
CONNECT_S = 30.0
# Seconds after the last delivery in which one too many would still be seen.
AFTERMATH_S = 0.02
# Latency samples of one process: enough for a p99, small as JSON. Beyond, every other one is dropped.
MOST_SAMPLES = 50_000
# Linux: bind to an address, but choose the port at connect, when the whole 4-tuple can be looked at.
IP_BIND_ADDRESS_NO_PORT = 24
# Linux, TCP: count what has come and throw it away, without a copy.
DISCARD = socket.MSG_TRUNC
# A board slot of a process that does not count: never the slowest.
NOT_COUNTING = 2**62

ORDERS_FD = 0


class LoadError(Exception):
    """What the bench asked for could not be done; the text says why."""


@dataclass(frozen=True)
class Plan:
    """What one load process is to do. Times in seconds, sizes in bytes."""

    role: str  # "clients" or "senders"
    wire: str
    host: str
    port: int
    source: str  # the local address, because one has 28 000 ports
    connections: int
    witnesses: int
    in_flight: int  # connections begun and not yet served; below any server's accept queue
    size: int  # of one text
    board: str  # the file with one counter for each counting process
    slots: int
    slot: int
    nap_s: float  # between two turns, so that reads are large; 0 where latency is what counts
    stall_s: float  # without any progress: give up
    rate: float = 0.0  # messages a second; 0 is as fast as it goes
    seconds: float = 0.0
    messages: int = 0  # stop after so many; 0 is no limit
    window: int = 0  # messages on their way to the slowest connection, at most; in each room
    rooms: int = 0  # 0: no rooms; else client number N is in room N modulo this
    first: int = 0  # the number of this process's first client

    @property
    def channels(self) -> int:
        """How many there are, at least one."""
        return max(1, self.rooms)


class Witness:
    """Checks every message of one connection, and takes its age."""

    def __init__(self, wire: Wire, size: int) -> None:
        self._before, after = wire.delivery(size)
        self._after = FILL * (size - STAMP_SIZE) + after
        self._fields = struct.Struct(f"{len(self._before)}s2sx10sx18sx{len(self._after)}s")
        self._noise = wire.noise
        self._rest = b""
        self._expected: dict[bytes, int] = {}
        self._last_stamp = b""
        self.ages_ns = array("q")
        self.fault = ""

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take what came. Of messages with one stamp, a burst's, the first gives the age."""
        if self.fault:
            return
        data = self._rest + data
        if self._noise and self._noise in data:
            data = data.replace(self._noise, b"")
        whole = len(data) - len(data) % self._fields.size
        self._rest = data[whole:]
        for before, sender, number, stamp, after in self._fields.iter_unpack(data[:whole]):
            if before != self._before or after != self._after:
                self.fault = f"garbled: {before + sender + number!r}"
                return
            expected = self._expected.get(sender, 0)
            if int(number) != expected:
                self.fault = f"sender {sender.decode()}: expected number {expected}, got {number.decode()}"
                return
            self._expected[sender] = expected + 1
            if stamp != self._last_stamp:
                self._last_stamp = stamp
                self.ages_ns.append(now_ns - int(stamp))

    def forget(self) -> None:
        """Drop the ages taken so far: what came before the measured time."""
        self.ages_ns = array("q")


class MemberWitness(Witness):
    """The same for a named member: each message has the room's next number, and one sender one name."""

    def __init__(self, wire: MemberWire, size: int) -> None:
        super().__init__(wire, size)
        # One pattern for all rooms, which is compiled once.
        self._next = re.compile(
            rb'(..){"message":"(\d\d) (\d{10}) (\d{18}) %b{%d}",'
            rb'"from":"(\w+)","room":"(\w+)","seq":(\d+),"at":\d{10}\.\d{3}}' % (FILL, size - STAMP_SIZE),
            re.DOTALL,
        ).match
        self._room = wire.room
        # The go was number 1 and was not shown to a witness.
        self._seq = 1
        self._names: dict[bytes, bytes] = {}

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take what came; see :meth:`Witness.feed`."""
        if self.fault:
            return
        data = self._rest + data
        position = 0
        while len(data) - position >= 2:
            end = position + 2 + (data[position] << 8 | data[position + 1])
            if end > len(data):
                break
            found = self._next(data, position, end)
            if found is None or found.end() != end:
                self.fault = f"garbled: {data[position:end]!r}"
                return
            _, sender, number, stamp, name, room, seq = found.groups()
            self._seq += 1
            if int(seq) != self._seq or room != self._room or self._names.setdefault(sender, name) != name:
                self.fault = f"expected number {self._seq} in {self._room!r}, got {data[position:end]!r}"
                return
            expected = self._expected.get(sender, 0)
            if int(number) != expected:
                self.fault = f"sender {sender.decode()}: expected number {expected}, got {number.decode()}"
                return
            self._expected[sender] = expected + 1
            if stamp != self._last_stamp:
                self._last_stamp = stamp
                self.ages_ns.append(now_ns - int(stamp))
            position = end
        self._rest = data[position:]


def witness_of(wire: Wire, size: int) -> Witness:
    """Return what checks deliveries on this wire."""
    return MemberWitness(wire, size) if isinstance(wire, MemberWire) else Witness(wire, size)


class Crowd:
    """The connections of one process, and how many bytes each has got since it was served."""

    def __init__(self, plan: Plan, board: "Board") -> None:
        self._plan = plan
        # That of the first room: all rooms' deliveries are equally long.
        self._wire = WIRES[plan.wire].in_room(0) if plan.rooms else WIRES[plan.wire]
        self._board = board
        # A sender on a wire that does not send to senders reads answers only, and counts nothing.
        self.counting = plan.role == "clients" or self._wire.sender_receives
        # What the go takes, and what a delivery takes at least.
        self._stride = self._wire.bytes_of(plan.size, 1)
        self._tell_ns = TELL_S * 1e9 * (1 + plan.connections // 1000)
        self._epoll = select.epoll()
        self._buffer = bytearray(READ_SIZE)
        self._view = memoryview(self._buffer)
        self.sockets: dict[int, socket.socket] = {}
        self._got: dict[int, int] = {}
        # Which room each is in, and, where others talk before the go, what it got last.
        self._rooms: dict[int, int] = {}
        self._tails: dict[int, bytes] = {}
        self._witnesses: dict[int, Witness] = {}
        self._faults: list[str] = []
        self._told_ns = 0
        self.last_ns = 0

    # ---- connecting

    def connect(self) -> None:
        """Open all connections and wait until each is served."""
        waiting: dict[int, bytearray] = {}
        senders_only = self._plan.role == "senders"
        served = self._wire.sender_served if senders_only else self._wire.served
        deadline = time.monotonic() + CONNECT_S
        while waiting or len(self.sockets) < self._plan.connections:
            while len(waiting) < self._plan.in_flight and len(self.sockets) < self._plan.connections:
                sock = self._open()
                sock.sendall(self._knock(len(self.sockets)))
                sock.setblocking(False)
                self._rooms[sock.fileno()] = self._room(len(self.sockets))
                self.sockets[sock.fileno()] = sock
                waiting[sock.fileno()] = bytearray()
                self._epoll.register(sock.fileno(), select.EPOLLIN)
            for fd, _ in self._epoll.poll(WAIT_S):
                deadline = time.monotonic() + CONNECT_S
                if fd not in waiting:
                    self._take_early(fd, self._heard(fd))
                    continue
                waiting[fd] += self._heard(fd)
                if served(bytes(waiting[fd])):
                    del waiting[fd]
                    self._got[fd] = 0
            if time.monotonic() > deadline:
                raise LoadError(f"{len(waiting)} clients were not answered within {CONNECT_S:.0f} s")
        self._place_witnesses()
        self._epoll.register(ORDERS_FD, select.EPOLLIN)

    def _room(self, index: int) -> int:
        return (self._plan.first + index) % self._plan.channels

    def _knock(self, index: int) -> bytes:
        if self._plan.role == "senders" and not self._wire.sender_receives:
            return self._wire.sender_knock
        return self._channel(self._room(index)).knock_of(self._plan.first + index)

    def _channel(self, room: int) -> Wire:
        return self._wire.in_room(room) if self._plan.rooms else self._wire

    def _take_early(self, fd: int, data: bytes) -> None:
        """Take what comes before the go. Where others talk, keep as much of the end as the go would be."""
        if self._wire.talks:
            self._tails[fd] = (self._tails.get(fd, b"") + data)[-self._stride :]
        else:
            self._got[fd] += len(data)

    def _open(self) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(CONNECT_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
        sock.bind((self._plan.source, 0))
        try:
            sock.connect((self._plan.host, self._plan.port))
        except OSError as error:
            raise LoadError(f"client {len(self.sockets) + 1} could not connect: {error}") from error
        return sock

    def _heard(self, fd: int) -> bytes:
        try:
            data = self.sockets[fd].recv(READ_SIZE)
        except ConnectionError:
            data = b""
        if not data:
            raise LoadError(f"the server closed a new connection, {len(self._got)} were served")
        return data

    def _place_witnesses(self) -> None:
        """Spread them evenly, because some servers serve in the order of arrival."""
        fds = list(self.sockets)
        count = min(self._plan.witnesses, len(fds)) if self.counting else 0
        for index in range(count):
            fd = fds[index * len(fds) // count]
            self._witnesses[fd] = witness_of(self._channel(self._rooms[fd]), self._plan.size)

    # ---- counting

    def turn(self, timeout_s: float) -> bool:
        """Read what has come, waiting at most ``timeout_s`` for it; True when there is an order to read."""
        ordered = False
        got, sockets, witnesses = self._got, self.sockets, self._witnesses
        events = self._epoll.poll(timeout_s)
        for fd, _ in events:
            if fd == ORDERS_FD:
                ordered = True
                continue
            witness = witnesses.get(fd)
            try:
                size = sockets[fd].recv_into(self._buffer, READ_SIZE, 0 if witness else DISCARD)
            except BlockingIOError:
                continue
            except ConnectionError:
                size = 0
            if not size:
                self._lose(fd)
                continue
            got[fd] += size
            if witness:
                witness.feed(bytes(self._view[:size]), time.monotonic_ns())
        now_ns = time.monotonic_ns()
        if len(events) > ordered:
            self.last_ns = now_ns
        if now_ns - self._told_ns >= self._tell_ns:
            self._told_ns = now_ns
            self._board.tell(self.least())
        return ordered

    def least(self) -> int:
        """Messages that every connection has got, the go included. Costs a look at each."""
        if not self.counting or not self._got:
            return NOT_COUNTING
        return self._wire.messages_in(self._plan.size, min(self._got.values()))[0]

    def _expected(self, sent: int, room: int) -> int:
        """How many of ``sent`` messages are a room's, its go included: the rooms are spoken to in turn."""
        share, more = divmod(sent, self._plan.channels)
        return 1 + share + (room < more)

    def _has_all(self, sent: int) -> bool:
        if not self.counting or not self._got:
            return True
        size, of_all = self._plan.size, sent // self._plan.channels
        if min(self._got.values()) < self._wire.bytes_of(size, 1 + of_all):
            return False
        more, full = sent % self._plan.channels, self._wire.bytes_of(size, 2 + of_all)
        return not more or all(got >= full for fd, got in self._got.items() if self._rooms[fd] < more)

    def _lose(self, fd: int) -> None:
        self._epoll.unregister(fd)
        if self.counting:
            self._faults.append(f"the server closed a connection after {self._got[fd]} bytes")
        # It can get nothing any more, and must not hold the senders back.
        self._got[fd] = NOT_COUNTING

    def count(self, sent: int) -> None:
        """Go on until every connection has its go and its room's part of ``sent`` messages, or nothing has
        come for the stall time."""
        progress, since = -1, time.monotonic()
        while not self._has_all(sent):
            self.turn(self._tell_ns / 1e9)
            total = sum(self._got.values())
            if total != progress:
                progress, since = total, time.monotonic()
            elif time.monotonic() - since > self._plan.stall_s:
                share = 1 + sent // self._plan.channels
                self._faults.append(f"the slowest connection got {self.least()} of {share} messages")
                return
        last_ns = self.last_ns
        self.turn(AFTERMATH_S)
        self.last_ns = last_ns

    def await_go(self) -> None:
        """Wait for the first message, the go, on every connection."""
        if self._wire.talks:
            self._await_go_among_others()
        else:
            while self.counting and not self.last_ns:  # an idle crowd costs nothing
                self.turn(WAIT_S)
        self.count(0)
        if self._faults:
            raise LoadError(self._faults[0])
        for witness in self._witnesses.values():
            witness.forget()

    def _await_go_among_others(self) -> None:
        """Wait until each connection's last message is the go, which nothing follows until all are ready."""
        missing = set(self.sockets)
        go = b'{"message":"%02d ' % GO_SENDER
        while missing:
            for fd, _ in self._epoll.poll(WAIT_S):
                if fd == ORDERS_FD:
                    raise LoadError("the bench went on before the go had come")
                self._take_early(fd, self._heard(fd))
                if self._tails[fd].startswith(go, 2):
                    self._got[fd] = self._stride
                    missing.discard(fd)
        self._tails.clear()

    # ---- the result

    def report(self, sent: int) -> dict[str, Any]:
        """Say how many deliveries there were, the gos not counted, and what was wrong when ``sent`` were sent
        to the rooms in turn."""
        if not self.counting:
            return {"deliveries": 0, "faults": [], "ages_ns": [], "last_ns": 0}
        unit = len(self._wire.noise) or self._stride
        counts = {
            fd: self._wire.messages_in(self._plan.size, got)
            for fd, got in self._got.items()
            if got != NOT_COUNTING
        }
        wrong = [
            (fd, count)
            for fd, (count, rest) in counts.items()
            if count != self._expected(sent, self._rooms[fd]) or rest % unit
        ]
        if wrong:
            fd, count = wrong[0]
            self._faults.append(
                f"{len(wrong)} of {len(self._got)} connections got something else than they should, one of"
                f" them {count - 1} messages of {self._expected(sent, self._rooms[fd]) - 1}"
            )
        self._faults += [witness.fault for witness in self._witnesses.values() if witness.fault]
        ages = [age for witness in self._witnesses.values() for age in witness.ages_ns]
        return {
            "deliveries": sum(count - 1 for count, _ in counts.values()),
            "faults": self._faults,
            "ages_ns": ages[:: len(ages) // MOST_SAMPLES + 1],
            "last_ns": self.last_ns,
        }


class Board:
    """One counter for each counting process, in a file that all of them map.

    Eight aligned bytes each, one writer each: no lock is needed, and an old value only delays a sender.
    """

    def __init__(self, path: str, slots: int, slot: int) -> None:
        with open(path, "r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), slots * 8)).cast("q")
        self._slot = slot

    def tell(self, count: int) -> None:
        """Write down what the slowest connection here has got."""
        self._cells[self._slot] = count

    def least(self) -> int:
        """Return what the slowest connection of all has got."""
        return min(self._cells)


class Sender:
    """One who sends, to one room: stamps and numbers its messages; never waits for the server."""

    def __init__(self, sock: socket.socket, wire: Wire, name: int, size: int) -> None:
        self._sock = sock
        self._name = name
        before, after = (part.replace(b"%", b"%%") for part in wire.publication(size))
        self._template = before + STAMP + FILL * (size - STAMP_SIZE) + after
        self._number = 0
        self._unsent = memoryview(b"")

    def post(self, messages: int) -> bool:
        """Send ``messages`` as one burst with one stamp. Only after :meth:`flush` has said True to all who
        share the socket; returns what it says now."""
        stamp, first = time.monotonic_ns(), self._number
        self._number += messages
        numbers = range(first, self._number)
        burst = b"".join([self._template % (self._name, number, stamp) for number in numbers])
        self._unsent = memoryview(burst)
        return self.flush()

    def flush(self) -> bool:
        """Send what the socket did not take before; True when nothing is left."""
        while self._unsent:
            try:
                self._unsent = self._unsent[self._sock.send(self._unsent) :]
            except BlockingIOError:
                return False
            except ConnectionError as error:
                raise LoadError(f"the server closed a sender's connection: {error}") from error
        return True


class Publisher:
    """All senders of a cell, in one process: so one count of what is on its way."""

    def __init__(self, plan: Plan, crowd: Crowd, board: Board) -> None:
        self._plan = plan
        self._crowd = crowd
        self._board = board
        self._socks = list(crowd.sockets.values())
        self._senders = [self._sender(index) for index in range(max(plan.channels, len(self._socks)))]
        # Those whose sockets did not take all.
        self._stuck: list[Sender] = []
        self.sent = 0
        self.first_ns = 0

    def _sender(self, index: int, name: int | None = None) -> Sender:
        """Return the sender with this number. The rooms have one each, and may share a socket."""
        room, sock = index % self._plan.channels, self._socks[index % len(self._socks)]
        wire = WIRES[self._plan.wire]
        name = index // self._plan.channels if name is None else name
        return Sender(sock, wire.in_room(room) if self._plan.rooms else wire, name, self._plan.size)

    def go(self) -> None:
        """Send the message that says that everybody is there, to each room."""
        for room in range(self._plan.channels):
            self._post(self._sender(room, GO_SENDER), 1)
            while not self._flushed():
                time.sleep(TELL_S)

    def run(self) -> None:
        """Send what the plan says, then return; the last ones may still be on their way."""
        self.first_ns = time.monotonic_ns()
        if self._plan.rate:
            self._steadily()
        else:
            self._flood()

    def _credit(self) -> int:
        """How many messages may go out now; none while a socket is still full."""
        if not self._flushed():
            return 0
        # The go is in the counters and not in `sent`.
        return self._plan.window - (self.sent // self._plan.channels + 1 - self._board.least())

    def _flood(self) -> None:
        share = max(1, self._plan.window // BURSTS // len(self._senders))
        burst = share * len(self._senders)
        moved = time.monotonic()
        end = moved + self._plan.seconds
        while (now := time.monotonic()) < end or not self._flushed():
            if now < end and self._credit() >= burst:
                for sender in self._senders:
                    self._post(sender, share)
                self.sent += burst
                moved = now
            elif now - moved > self._plan.stall_s:
                return
            else:
                self._crowd.turn(0)
                time.sleep(TELL_S / 2)

    def _post(self, sender: Sender, messages: int) -> None:
        if not sender.post(messages):
            self._stuck.append(sender)

    def _flushed(self) -> bool:
        self._stuck = [sender for sender in self._stuck if not sender.flush()]
        return not self._stuck

    def _steadily(self) -> None:
        """Each message at its time; late ones follow at once, so a pause does not lower the rate."""
        begin = time.monotonic()
        end = begin + self._plan.seconds
        while not self._plan.messages or self.sent < self._plan.messages:
            due = begin + self.sent / self._plan.rate
            if due >= end or time.monotonic() > end + self._plan.stall_s:
                return
            self._crowd.turn(0)
            time.sleep(max(0.0, due - time.monotonic()))
            if self._credit() > 0:
                self._post(self._senders[self.sent % len(self._senders)], 1)
                self.sent += 1
            else:
                time.sleep(TELL_S)


class Orders:
    """Lines of JSON from the bench. The end of them is the end of this process."""

    def __init__(self) -> None:
        self._unread = b""

    def read(self) -> dict[str, Any]:
        """Return the next order, waiting for it."""
        while b"\n" not in self._unread:
            data = os.read(ORDERS_FD, READ_SIZE)
            if not data:
                # Nothing to clean up: the kernel closes the sockets, and faster than a loop here would.
                os._exit(0)
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        order: dict[str, Any] = json.loads(line)
        return order


def say(what: str, **values: Any) -> None:
    """Tell the bench."""
    sys.stdout.write(json.dumps({"say": what, **values}) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Connect, wait for the go, count (or send) until told how many there were, report."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, hard), hard))
    orders = Orders()
    plan = Plan(**orders.read())
    try:
        work(plan, orders)
    except LoadError as error:
        say("failed", text=str(error))


def work(plan: Plan, orders: Orders) -> None:
    """The one measured run of this process."""
    board = Board(plan.board, plan.slots, plan.slot)
    crowd = Crowd(plan, board)
    began_ns = time.monotonic_ns()
    crowd.connect()
    say("connected", began_ns=began_ns, ended_ns=time.monotonic_ns())
    publisher = Publisher(plan, crowd, board) if plan.role == "senders" else None
    if publisher:
        orders.read()
        publisher.go()
    crowd.await_go()
    say("ready")
    began_s = time.process_time()
    if publisher:
        orders.read()
        publisher.run()
        say("sent", messages=publisher.sent, first_ns=publisher.first_ns)
    else:
        while not crowd.turn(WAIT_S):
            if plan.nap_s:
                # Naps make large reads: the load must cost less than the server.
                time.sleep(plan.nap_s)
    sent = int(orders.read()["messages"])
    crowd.count(sent)
    say("report", cpu_s=time.process_time() - began_s, **crowd.report(sent))
    # Keep the connections: a sender's last messages may still be on their way, and leaving is news to others.
    orders.read()


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        main()
