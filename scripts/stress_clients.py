"""What runs in one client process of a stress run: a crowd of connections, read whole and checked at once.

Knows nothing of the server's processes nor of the verdict: it hears from the parent over a pipe, and tells it
the order that its connections agree on, what it found, and who died. The rule: a connection counts as joined
when the server has answered it (an empty frame, refused), so that everything sent later is due to it.

A crowd reads in sweeps with a pause in between: many small reads would cost more than the server itself.
"""

import random
import resource
import selectors
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

from stress_findings import Findings
from stress_frames import Talk, is_error, split_frames
from stress_latency import Latency
from stress_order import OneOrder, Reader

Address = tuple[str, int]

# Asked of the server by every connection before anything else: refused, so answered, and nobody else sees it.
HELLO = b"\0\0"
# Bytes of one read: below the size from which malloc asks the kernel for memory each time.
READ_SIZE = 64 * 1024
# Connections of one crowd on their way in at a time: fewer than any listen backlog.
MAX_OPENING = 64
# Seconds between two sweeps of a crowd that only has to keep up.
SWEEP_PAUSE = 0.03
# Seconds between two reports to the parent.
REPORT_EVERY = 0.5
# Seconds that an own message may take to come back before the crowd says that it is missing.
ECHO_TIMEOUT = 30.0
# While frames are cut in two: the part of all messages after which the next one is begun at once, and seconds
# that half a frame stays so at most; the server takes more than twice that for dead.
HALVES_PART = 0.6
HALF_FOR = 10.0
# Bytes that a client must have been behind when the server cut it off: half of the default of its lag_limit.
# And seconds until that is looked at: a process that was stopped learns only then how far the others are.
CUT_OFF_BEHIND = 4 << 20
LOOK_AFTER = 3.0
# Distance between the sender numbers of two crowds.
SENDERS_PER_CROWD = 10_000_000
# Seconds after which a sender that fell behind forgets what it did not send, instead of a burst.
MAX_BACKLOG = 1.0


class Role(StrEnum):
    """What a crowd does beside reading everything."""

    CHAT = "chat"
    PROBE = "probe"
    STALL = "stall"
    STOPPED = "stopped"
    STORM = "storm"
    GARBAGE = "garbage"


class Plan(NamedTuple):
    """What one crowd is to do."""

    role: Role
    number: int  # of the crowd, for its name and its senders
    address: Address
    run: str
    connections: int
    rate: float = 0.0  # messages a second, of the whole crowd
    messages: int = 0  # of each connection; 0: no limit
    size: int = 100  # bytes of payload
    seed: int = 0
    inputs: int = 0  # garbage: how many
    over: float = 1.0  # garbage: in how many seconds

    @property
    def name(self) -> str:
        """Return what findings call this crowd."""
        return f"{self.role}-{self.number}"


class Order(NamedTuple):
    """To the parent: the next stretch of the order; ``joined``: since when the crowd has been there."""

    segment: int
    joined: int
    data: bytes


class Tick(NamedTuple):
    """To the parent: how far the crowd is; ``died`` are own addresses of connections that ended, with why."""

    joined: int
    sent: int
    delivered: int
    complete: bool  # every connection has sent all that it was to send
    died: list[tuple[Address, str]]
    cut: int  # connections that the server ended and was allowed to


class Echoed(NamedTuple):
    """To the parent: all own messages came back, but for these many."""

    missing: int


class Report(NamedTuple):
    """To the parent, last: what the crowd found. ``senders``: messages of each that lived to the end."""

    findings: Findings
    senders: dict[int, int]
    lived: bool  # some connection is there at the end, so its order goes up to the mark
    latency: dict[str, Latency]
    extra: dict[str, Any]


class Connection:
    """One client: its socket, its reader in the order, and what it has still to send."""

    __slots__ = (
        "address",
        "begun",
        "carry",
        "joined",
        "number",
        "out",
        "reader",
        "reading",
        "sender",
        "sock",
    )

    def __init__(self, sock: socket.socket, reader: Reader, sender: int) -> None:
        self.sock = sock
        self.reader = reader
        self.sender = sender
        self.number = 0  # of its next message
        self.begun = 0  # bytes of that message's frame that were sent already
        self.address: Address = ("", 0)
        self.joined = False
        self.reading = True
        self.carry = b""  # half a frame, while frames are looked at one by one
        self.out = b""


class Crowd:
    """The connections of one process and the loop that reads them."""

    pause = SWEEP_PAUSE
    may_be_cut = False  # the server may end these as slow consumers
    sampled = False  # latencies are measured here
    by_frame = False  # replies to one client alone are expected and looked at

    def __init__(self, plan: Plan, pipe: "Pipe[Any, Any]") -> None:
        self.plan = plan
        self.pipe = pipe
        self.talk = Talk(plan.run)
        self.findings = Findings()
        self.order = OneOrder(self.talk, self.findings)
        self.random = random.Random(f"{plan.seed}:{plan.name}")
        self.selector = selectors.DefaultSelector()
        self.connections: list[Connection] = []
        self.wanted = plan.connections
        self.sending = False
        self.halving = False  # messages are often sent in two pieces, with a pause in between
        self.halves = 0  # messages of which a piece was sent before the rest
        self.quiet_since = 0.0  # when sending ended and the echoes are waited for
        self.sent = 0
        self.phase = ""
        self.latency: dict[str, Latency] = {}
        self.died: list[tuple[Address, str]] = []
        self.cut = 0
        self.unexplained = 0  # of those that were cut, how many were not far behind
        self._joined = 0
        self._halved: dict[Connection, float] = {}  # since when their half a frame has been under way
        self._cut: list[tuple[float, int, int]] = []  # when, segment and offset where one was cut off
        self._next_sender = (plan.number + 1) * SENDERS_PER_CROWD
        self._mark: int | None = None
        self._deadline = 0.0
        self._next_report = 0.0
        self._send_from = 0.0
        self._turn = 0

    def run(self) -> None:
        """Go on until the parent says finish, or is gone."""
        try:
            while not self._finished():
                if self.pipe.poll(self.pause):
                    self.command(*self.pipe.recv())
                self._sweep(0 if self.pause else REPORT_EVERY / 10)
                self._open_more()
                now = time.monotonic()
                self.tick(now)
                self._watch_echoes(now)
                if now >= self._next_report:
                    self._next_report = now + REPORT_EVERY
                    self._tell()
            self._finish()
        finally:
            for connection in self.connections:
                connection.sock.close()
            self.selector.close()

    # What the parent asks for.

    def command(self, verb: str, *args: Any) -> None:
        """Do what the parent asks for."""
        if verb == "go":
            self.sending = True
            self._send_from = time.monotonic() - self.sent / (self.plan.rate or 1)
        elif verb == "quiet":
            self.sending = self.halving = False
            self._complete_begun(float("inf"))
            self.quiet_since = time.monotonic()
        elif verb == "phase":
            self.phase = args[0]
        elif verb == "halves":
            self.halving = args[0]
        elif verb == "finish":
            self._mark, seconds = args
            self._deadline = time.monotonic() + seconds
            self.wanted = 0

    def tick(self, now: float) -> None:
        """Send what is due by now."""
        if not self.sending or not self.plan.rate:
            return
        self._complete_begun(now)
        due = int((now - self._send_from) * self.plan.rate) - self.sent
        if due > self.plan.rate * MAX_BACKLOG + 1:
            self._send_from = now - self.sent / self.plan.rate
        for connection in self._senders(due):
            self.send(connection)

    def send(self, connection: Connection) -> None:
        """Send the connection's next message, or what is left of it; then, often, begin another one."""
        frame = self.talk.frame(connection.sender, connection.number, self.plan.size)[connection.begun :]
        connection.number += 1
        connection.begun = 0
        self._halved.pop(connection, None)
        self.sent += 1
        if self.halving and self.random.random() < HALVES_PART and not self._has_sent_all(connection):
            frame += self._half(connection)
        self.write(connection, frame)

    def _half(self, connection: Connection) -> bytes:
        """Return a piece of the next message's frame: one byte, or up to where its time stands."""
        head = self.talk.head(connection.sender, connection.number, self.plan.size)
        connection.begun = self.random.randint(1, len(head))
        self._halved[connection] = time.monotonic()
        self.halves += 1
        return head[: connection.begun]

    def _complete_begun(self, now: float) -> None:
        for connection, since in list(self._halved.items()):  # the oldest first
            if now - since < HALF_FOR:
                return
            self.send(connection)

    def _senders(self, count: int) -> Iterator[Connection]:
        """Go round all connections, so that every worker publishes; leave out who cannot send now."""
        for _ in range(len(self.connections)):
            if count <= 0 or not self.connections:
                return
            self._turn = (self._turn + 1) % len(self.connections)
            connection = self.connections[self._turn]
            if connection.joined and not connection.out and not self._has_sent_all(connection):
                count -= 1
                yield connection

    def _has_sent_all(self, connection: Connection) -> bool:
        return 0 < self.plan.messages <= connection.number

    # Connections come and go.

    def _open_more(self) -> None:
        opening = len(self.connections) - self._joined
        for _ in range(min(self.wanted - len(self.connections), MAX_OPENING - opening)):
            self._open()

    def _open(self) -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.prepare(sock)
        self._next_sender += 1
        name = f"{self.plan.name}/{self._next_sender}"
        reader = self.order.add(Reader(name))
        connection = Connection(sock, reader, self._next_sender)
        self.connections.append(connection)
        try:
            sock.connect(self.plan.address)
        except BlockingIOError:
            pass
        except OSError as error:
            self._ended(connection, f"connect: {error.strerror}")
            return
        connection.address = sock.getsockname()[:2]
        connection.out = HELLO
        self.selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def prepare(self, sock: socket.socket) -> None:
        """Set options of a socket before it connects."""

    def joined(self, connection: Connection) -> None:
        """The server has answered: from now on everything is due."""
        connection.joined = True
        connection.reader.joined = time.monotonic_ns()
        self._joined += 1

    def _ended(self, connection: Connection, why: str) -> None:
        """The server or the network has ended the connection."""
        if self.may_be_cut and connection.joined:
            self.cut += 1
            place = max(connection.reader.position, connection.reader.floor)
            self._cut.append((time.monotonic(), self.order.segment, place))
        else:
            self.died.append((connection.address, f"{connection.reader.name}: {why}"))
        self.leave(connection)

    def _judge_cut(self, now: float) -> None:
        """Count who was cut off without being far behind. A new segment had begun: nobody knows how far."""
        while self._cut and now - self._cut[0][0] >= LOOK_AFTER:
            _, segment, place = self._cut.pop(0)
            self.unexplained += segment == self.order.segment and self.order.end - place < CUT_OFF_BEHIND

    def leave(self, connection: Connection, reset: bool = False) -> None:
        """Close one connection, at the peer a reset where asked for."""
        if connection.sock in self.selector.get_map():
            self.selector.unregister(connection.sock)
        if reset:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.sock.close()
        self.connections.remove(connection)
        self._halved.pop(connection, None)
        self._joined -= connection.joined
        self.order.close(connection.reader)

    # Bytes.

    def _sweep(self, timeout: float) -> None:
        for key, events in self.selector.select(timeout):
            if key.data.sock.fileno() < 0:
                continue  # closed earlier in this sweep
            if events & selectors.EVENT_WRITE:
                self._flush(key.data)
            if events & selectors.EVENT_READ and key.data.sock.fileno() >= 0:
                self.read(key.data)

    def read(self, connection: Connection, size: int = READ_SIZE) -> None:
        """Read once and check what came."""
        try:
            data = connection.sock.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            self._ended(connection, f"read: {error.strerror}")
            return
        if not data:
            self._ended(connection, "the server closed it")
            return
        if not connection.joined or self.by_frame:
            data = self.look(connection, data)
        if data:
            self._feed(connection, data)

    def _feed(self, connection: Connection, data: bytes) -> None:
        reader = connection.reader
        before = reader.position
        self.order.feed(reader, data)
        if self.sampled and self.phase and before and reader.position > before:
            now = time.monotonic_ns()
            latency = self.latency.setdefault(self.phase, Latency())
            for sent in self.order.sent_between(before, reader.position):
                latency.record(now - sent)

    def look(self, connection: Connection, data: bytes) -> bytes:
        """Take replies to this client alone out of what it got; the rest is for the order."""
        frames, connection.carry = split_frames(connection.carry + data)
        shared = []
        for frame in frames:
            if not is_error(frame):
                shared.append(frame)
            elif not connection.joined:
                self.joined(connection)
            else:
                self.refused(connection, frame)
        if connection.joined and not self.by_frame:
            shared.append(connection.carry)
            connection.carry = b""
        return b"".join(shared)

    def refused(self, connection: Connection, frame: bytes) -> None:
        """The server refused something that this connection sent."""
        self.findings.note("strange", f"{connection.reader.name} was refused: {frame[2:100]!r}")

    def write(self, connection: Connection, data: bytes) -> None:
        """Send, or keep what the kernel does not take now."""
        connection.out += data
        self._flush(connection)

    def _flush(self, connection: Connection) -> None:
        try:
            count = connection.sock.send(connection.out) if connection.out else 0
        except BlockingIOError:
            count = 0
        except OSError as error:
            self._ended(connection, f"write: {error.strerror}")
            return
        connection.out = connection.out[count:]
        self.watch(connection)

    def watch(self, connection: Connection) -> None:
        """Wait for what this connection needs."""
        events = (selectors.EVENT_READ if connection.reading else 0) | (
            selectors.EVENT_WRITE if connection.out else 0
        )
        registered = self.selector.get_map().get(connection.sock)
        if registered is None:
            if events:
                self.selector.register(connection.sock, events, connection)
        elif not events:
            self.selector.unregister(connection.sock)
        elif registered.events != events:
            self.selector.modify(connection.sock, events, connection)

    # What the parent is told.

    def _tell(self) -> None:
        self.order.settle()
        self._judge_cut(time.monotonic())
        self._tell_order()
        delivered = self.order.delivered + sum(
            self.order.frames_of(connection.reader) for connection in self.connections
        )
        joined = sum(connection.joined for connection in self.connections)
        self.pipe.send(Tick(joined, self.sent, delivered, self.complete(), self.died, self.cut))
        self.died = []

    def complete(self) -> bool:
        """Say whether every connection has sent all that it was to send."""
        if not self.plan.rate:
            return True
        return bool(self.plan.messages) and all(map(self._has_sent_all, self.connections))

    def _tell_order(self) -> None:
        for segment, data in self.order.take():
            self.pipe.send(Order(segment, self.order.began.get(segment, 0), data))

    def _watch_echoes(self, now: float) -> None:
        """Once quiet, say when all own messages came back."""
        if not self.quiet_since:
            return
        missing = 0
        for connection in self.connections:
            missing += max(0, connection.number - 1 - self.order.seen.get(connection.sender, -1))
        if not missing or now > self.quiet_since + ECHO_TIMEOUT:
            self.quiet_since = 0.0
            self.pipe.send(Echoed(missing))

    def _finished(self) -> bool:
        if self._mark is None:
            return False
        if time.monotonic() > self._deadline:
            return True
        mark = self._mark
        return all(
            self.order.complete(connection.reader, mark)
            for connection in self.connections
            if connection.joined
        )

    def _finish(self) -> None:
        for connection in [connection for connection in self.connections if not connection.joined]:
            self.leave(connection)
        self._judge_cut(float("inf"))
        self.order.finish(-1 if self._mark is None else self._mark)
        self._tell()
        senders = {connection.sender: connection.number for connection in self.connections}
        self.pipe.send(Report(self.findings, senders, bool(senders), self.latency, self.extra()))

    def extra(self) -> dict[str, Any]:
        """Return what only this role has to tell."""
        return {"halves": self.halves, "unexplained": self.unexplained}


class Probe(Crowd):
    """Reads at once whatever comes, and measures how long it took."""

    pause = 0.0
    sampled = True


class Stopped(Crowd):
    """Is stopped and continued by the parent (SIGSTOP); the server may cut it off meanwhile."""

    may_be_cut = True


def serve(crowd: type[Crowd], plan: Plan, pipe: "Pipe[Any, Any]") -> None:
    """Run one crowd in this process, until told to finish or the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the parent is gone: nobody to tell
        crowd(plan, pipe).run()
