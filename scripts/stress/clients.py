"""A client process: the loop that all scenarios' clients run in, and their connections.

The loop knows nothing of the server's processes, nor of the verdict. It hears from the parent process over a
pipe, and reports how far it is, which connections the server ended, and at the end what it found. A scenario
subclasses :class:`ClientLoop`: what its clients send, and how it checks what they receive.
"""

import random
import selectors
import socket
import ssl
import struct
import time
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from scripts.common.address import Address
from scripts.common.latency import Latency
from scripts.common.tls_wire import TlsWire, trusting_all
from scripts.common.websocket import RefusedError, WebSocketWire
from scripts.stress.findings import Findings

# Bytes of one read: below the size from which malloc asks the kernel for memory each time.
READ_SIZE = 64 * 1024
# Seconds between two reports to the parent.
REPORT_EVERY = 0.5


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What one client process is to do; a scenario adds fields."""

    name: str  # of the process; findings call its clients by it
    number: int  # of the process, counted over the run
    address: Address
    run: str  # marks the test messages of this run
    connections: int
    rate: float = 0.0  # messages a second of all its clients; 0: they send nothing
    seed: int = 0
    seconds: float = 1.0  # length of the phase with faults
    websockets: float = 0.0  # the part of its clients that are WebSocket clients
    tls: float = 0.0  # the part of its clients that speak TLS


class Tick(NamedTuple):
    """To the parent: how far the process is."""

    joined: int = 0  # connections that are there
    quiet: bool = False  # told to be quiet, and nothing is outstanding
    complete: bool = False  # all that was to be sent, or done, has been
    died: tuple[tuple[Address, str], ...] = ()  # own addresses of connections that ended, and why
    counts: Counter[str] = Counter()  # noqa: RUF012  (never changed)


@dataclass(frozen=True, kw_only=True)
class Report:
    """To the parent, last: what the process found; a scenario adds fields."""

    findings: Findings
    counts: Counter[str]
    latency: dict[str, Latency]


class Connection:
    """One client's socket, and the bytes that are still to be sent on it."""

    def __init__(self, name: str) -> None:
        """Open a socket; findings call it ``name``."""
        self.name = name
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.address: Address = ("", 0)  # its own, once it connects
        self.connected = False
        self.reading = True
        self.closed = False
        self.out = b""
        self.carry = b""  # half a frame
        self.wire: WebSocketWire | None = None  # how bytes look on it; None: as they are
        self.tls: TlsWire | None = None  # encrypts what the wire makes of them; None: nothing does


C = TypeVar("C", bound=Connection)


class ClientLoop(ABC, Generic[C]):
    """The connections of one process and the loop that serves them."""

    pause: ClassVar[float] = 0.0  # seconds without a look at the sockets, in each turn
    look_for: ClassVar[float] = 0.01  # seconds that a turn waits for sockets

    def __init__(self, plan: Plan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        self.pipe = pipe
        self.address = plan.address
        self.websockets = plan.websockets
        self.tls = plan.tls
        self._encryption = trusting_all() if plan.tls else None
        self.random = random.Random(f"{plan.seed}:{plan.name}")
        self.findings = Findings()
        self.counts: Counter[str] = Counter()
        self.latency: dict[str, Latency] = {}
        self.selector = selectors.DefaultSelector()
        self.connections: list[C] = []
        self.died: list[tuple[Address, str]] = []
        self.acting = False
        self.phase = ""
        self.quiet_since = 0.0
        self.finishing = False
        self._next_report = 0.0

    def run(self) -> None:
        """Serve until the parent says finish, or is gone."""
        try:
            while not self.finished():
                if self.pipe.poll(self.pause):
                    self.command(*self.pipe.recv())
                self._sweep()
                now = time.monotonic()
                self.turn(now)
                if now >= self._next_report:
                    self._next_report = now + REPORT_EVERY
                    self.tell()
            self.finish()
        finally:
            for connection in self.connections:
                connection.sock.close()
            self.selector.close()

    # What a scenario says.

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent: ``go``, ``phase NAME``, ``quiet``, ``finish``, and what a subclass adds."""
        if verb == "go":
            self.acting = True
        elif verb == "phase":
            self.phase = args[0]
        elif verb == "quiet":
            self.acting = False
            self.quiet_since = time.monotonic()
        elif verb == "finish":
            self.finishing = True

    @abstractmethod
    def turn(self, now: float) -> None:
        """Connect and send what is due at ``now`` (seconds, monotonic)."""

    @abstractmethod
    def received(self, connection: C, data: bytes) -> None:
        """Check the next bytes of a connection."""

    @abstractmethod
    def ended(self, connection: C, why: str) -> None:
        """Close a connection that the server or the network has ended."""

    @abstractmethod
    def joined(self) -> int:
        """Return how many connections are there."""

    @abstractmethod
    def quiet(self, now: float) -> bool:
        """Say whether nothing is outstanding any more; asked once the parent wants quiet."""

    @abstractmethod
    def report(self) -> Report:
        """Return the last report."""

    def complete(self) -> bool:
        """Say whether all that was to be sent, or done, has been."""
        return False

    def finished(self) -> bool:
        """Say whether the loop may end."""
        return self.finishing

    def address_of(self, connection: C) -> Address:
        """Return where a connection leads to."""
        return self.address

    def forget(self, connection: C) -> None:
        """Drop what a subclass keeps for a connection that has just been closed."""

    # What the parent is told.

    def tell(self) -> None:
        """Report how far the clients are; a subclass adds its news."""
        quiet = bool(self.quiet_since) and self.quiet(time.monotonic())
        died, self.died = tuple(self.died), []
        self.pipe.send(Tick(self.joined(), quiet, self.complete(), died, Counter(self.counts)))

    def finish(self) -> None:
        """Send the last news and the report."""
        self.tell()
        self.pipe.send(self.report())

    # Connections and bytes.

    def connect(self, connection: C) -> None:
        """Begin to connect, with what is to be sent first in ``out``."""
        self.connections.append(connection)
        address = self.address_of(connection)
        if self.random.random() < self.websockets:
            connection.wire = WebSocketWire(f"{address[0]}:{address[1]}", self.random)
            connection.out = connection.wire.opening + connection.wire.encode(connection.out)
            self.counts["websockets"] += 1
        if self._encryption is not None and self.random.random() < self.tls:
            connection.tls = TlsWire(self._encryption)
            connection.out = connection.tls.replies + connection.tls.encode(connection.out)
            connection.tls.replies = b""
            self.counts["tls"] += 1
        try:
            connection.sock.connect(address)
        except BlockingIOError:
            pass
        except OSError as error:
            self.ended(connection, f"connect: {error.strerror}")
            return
        connection.address = connection.sock.getsockname()[:2]
        self.selector.register(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)

    def close(self, connection: C, reset: bool = False) -> None:
        """Close a connection; with ``reset`` the server sees a reset."""
        if connection.closed:
            return
        connection.closed = True
        if connection.sock in self.selector.get_map():
            self.selector.unregister(connection.sock)
        if reset:
            reset_at_close(connection.sock)
        connection.sock.close()
        self.connections.remove(connection)
        self.forget(connection)

    def write(self, connection: C, data: bytes) -> None:
        """Send, or keep what the kernel does not accept now."""
        data = data if connection.wire is None else connection.wire.encode(data)
        connection.out += data if connection.tls is None else connection.tls.encode(data)
        if connection.connected:
            self.flush(connection)

    def flush(self, connection: C) -> None:
        """Send what is kept, as far as the kernel accepts it."""
        try:
            count = connection.sock.send(connection.out) if connection.out else 0
        except BlockingIOError:
            count = 0
        except OSError as error:
            self.ended(connection, f"write: {error.strerror}")
            return
        connection.out = connection.out[count:]
        self.watch(connection)

    def read(self, connection: C, size: int = READ_SIZE) -> None:
        """Read once and check what came."""
        try:
            data = connection.sock.recv(size)
        except BlockingIOError:
            return
        except OSError as error:
            self.ended(connection, f"read: {error.strerror}")
            return
        if not data:
            self.ended(connection, "the server closed it")
        elif connection.tls is None:
            self._read_wire(connection, data)
        else:
            self._read_tls(connection, connection.tls, data)

    def _read_tls(self, connection: C, tls: TlsWire, data: bytes) -> None:
        try:
            data = tls.decode(data)
        except ssl.SSLError as error:
            self.ended(connection, f"no TLS: {error.reason}")
            return
        connection.out, tls.replies = connection.out + tls.replies, b""
        if connection.out:
            self.flush(connection)
        if data and not connection.closed:
            self._read_wire(connection, data)
        if tls.ended and not connection.closed:
            self.ended(connection, "the server closed it")

    def _read_wire(self, connection: C, data: bytes) -> None:
        wire = connection.wire
        if wire is None:
            self.received(connection, data)
            return
        try:
            frames = wire.decode(data)
        except RefusedError as error:
            self.ended(connection, f"no WebSocket: {error}")
            return
        replies, wire.replies = wire.replies, b""
        connection.out += replies if connection.tls is None else connection.tls.encode(replies)
        if connection.out:
            self.flush(connection)
        if frames and not connection.closed:
            self.received(connection, frames)

    def watch(self, connection: C) -> None:
        """Wait for what this connection needs."""
        events = (selectors.EVENT_READ if connection.reading else 0) | (
            selectors.EVENT_WRITE if connection.out else 0
        )
        registered = None if connection.closed else self.selector.get_map().get(connection.sock)
        if registered is None:
            if events and not connection.closed:
                self.selector.register(connection.sock, events, connection)
        elif not events:
            self.selector.unregister(connection.sock)
        elif registered.events != events:
            self.selector.modify(connection.sock, events, connection)

    def writable(self, connection: C) -> None:
        """Continue to send: the kernel accepts bytes again."""
        connection.connected = True
        self.flush(connection)

    def _sweep(self) -> None:
        for key, events in self.selector.select(self.look_for):
            connection: C = key.data
            if events & selectors.EVENT_WRITE and not connection.closed:
                self.writable(connection)
            if events & selectors.EVENT_READ and not connection.closed:
                self.read(connection)


def reset_at_close(sock: socket.socket) -> None:
    """Let the close of ``sock`` be a reset for the server."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def serve(pipe: "Pipe[Any, Any]", loop: type[ClientLoop[Any]], plan: Plan) -> None:
    """Run one loop in this process, until it is told to finish or the parent is gone."""
    loop(plan, pipe).run()
