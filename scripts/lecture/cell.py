"""One cell of models.py's tables: one way to serve, so many clients, one run.

Starts the server and the crowd (peers.py and load.py of the bench), takes the server's figures, ends both.
One more client, the *asker*, is this process itself: it asks questions that are answered to it alone, and
counts what the crowd is told. The rule it keeps: only a run in which every delivery arrived has figures; any
other has faults, or says what the server said when it refused so many.
"""

import contextlib
import json
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from mpchat import __version__
from scripts.bench.cell import IN_FLIGHT, CellError, LoadProcess
from scripts.bench.load import Plan
from scripts.bench.peers import Peer, PeerError, ProgramPeer, Server, last_line, python_peer
from scripts.bench.wire import FILL, WIRES

WIRE = WIRES["frames"]
# Bytes of each text.
SIZE = 100
# Clients that talk; the others only listen.
TALKERS = 5
# Processes of listeners; one more is the talkers'.
LISTENER_PROCESSES = 2
# Messages a second: what keeps the deliveries near this many a second, within bounds. The upper one is far
# below what mpchat would gather into one send, so that every message pays its own way in every model.
DELIVERIES_PER_S = 20_000
SLOWEST, FASTEST = 5, 50
# Seconds to let a server come to rest before its memory is read.
REST_S = 0.3
# Seconds for each step of the load, and without any progress until a delivery counts as lost.
PATIENCE_S = 60.0
STALL_S = 15.0
# Seconds for one answer to the asker.
ANSWER_S = 10.0
# Clients that come at the same moment to see how long each waits.
QUEUE = 3
# Seconds until a server that ended has said why.
LAST_WORDS_S = 2.0


@dataclass(frozen=True)
class Options:
    """What is the same for all cells."""

    seconds: float = 2.0  # of talking
    asks_s: float = 0.5  # of questions, one after the other
    hold_s: float = 1.0  # how long each client of the queue stays once it is served


@dataclass(frozen=True)
class Model:
    """A way to serve. ``limited``: it may refuse a crowd, and that is a finding, not a fault."""

    name: str
    what: str
    peer: Peer
    limited: bool = False
    one_client: bool = False


@dataclass
class Figures:
    """What one cell gave; CPU is that of all the server's processes."""

    model: str
    clients: int
    faults: list[str] = field(default_factory=list)
    # What the server said where it would not take so many, and how many it had taken.
    refusal: str = ""
    messages: int = 0
    us_per_message: float = 0.0
    us_per_delivery: float = 0.0
    # A question that is answered to the asker alone: the cost of waking up with so many connections watched.
    us_per_answer: float = 0.0
    bytes_all: int = 0
    bytes_per_connection: float = 0.0
    # Only with one client: seconds that clients waited who came together and stayed for a while each.
    waits_s: list[float] = field(default_factory=list)

    @property
    def measured(self) -> bool:
        return not self.faults and not self.refusal


def all_models() -> list[Model]:
    """Return every model, in the order of the lecture."""
    loops = [
        Model(
            name,
            f"one process, one {name} loop",
            python_peer(name, "-m", "scripts.lecture.peer_loop", arguments=[name]),
            limited=name == "select",
        )
        for name in ("select", "poll", "epoll")
    ]
    ours = [
        Model(f"mpchat {name}", f"mpchat, 1 worker, {name}", _mpchat(name, 1), limited=name == "select")
        for name in ("select", "poll", "epoll")
    ]
    threads = python_peer("threads", "-m", "scripts.lecture.peer_threads")
    return [
        Model(
            "blocking",
            "one client at a time",
            python_peer("blocking", "-m", "scripts.lecture.peer_blocking"),
            limited=True,
            one_client=True,
        ),
        *loops,
        Model("threads", "a thread per client", threads, limited=True),
        *ours,
        *(Model(f"mpchat {n}", f"mpchat, {n} workers, epoll", _mpchat("epoll", n)) for n in (2, 4)),
    ]


def _mpchat(multiplexer: str, workers: int) -> Peer:
    """Return mpchat with so many workers, each waiting in this way.

    In the foreground, as this process's child: the one in the background is its init's, and not gone before
    that has looked, which takes a second with some. Without notices: the other models have none either.
    """

    def command(folder: Path, port: int, _connections: int) -> list[str]:
        where = ("--name", "models", "--runtime-dir", str(folder), "--port", str(port))
        how = ("--workers", str(workers), "--multiplexer", multiplexer, "--notices", "off")
        return [sys.executable, "-m", "mpchat", "start", "--foreground", *where, *how]

    return ProgramPeer(f"mpchat-{multiplexer}-{workers}", WIRE.name, command, lambda: __version__)


class Asker:
    """One client on a blocking socket."""

    def __init__(self, server: Server) -> None:
        self._sock = socket.create_connection((server.host, server.port), timeout=ANSWER_S)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._stream = self._sock.makefile("rb")

    def exchange(self, frame: bytes) -> bytes:
        """Send ``frame`` and return the payload of the next one that comes; OSError when none does."""
        self._sock.sendall(frame)
        header = self._stream.read(2)
        payload = self._stream.read(int.from_bytes(header, "big"))
        if len(header) < 2 or len(payload) < int.from_bytes(header, "big"):
            raise ConnectionResetError("the server closed the connection")
        return payload

    def ask(self) -> bytes:
        """Ask whether it is served: an empty frame, answered to the asker alone."""
        return self.exchange(WIRE.knock)

    def take(self, messages: int) -> None:
        """Read so many messages; CellError when they do not come."""
        expected = WIRE.bytes_of(SIZE, messages)
        got = len(self._stream.read(expected))
        if got != expected:
            raise CellError(f"the asker got {got} of {expected} bytes")

    def close(self) -> None:
        """Leave."""
        self._stream.close()
        self._sock.close()


def pace(clients: int) -> float:
    """Return how many messages a second a crowd of ``clients`` is told."""
    return min(FASTEST, max(SLOWEST, DELIVERIES_PER_S / clients))


def run(model: Model, clients: int, options: Options) -> Figures:
    """Serve ``clients`` clients in this way, once."""
    figures = Figures(model.name, clients)
    if model.one_client and clients > 1:
        figures.refusal = f"1 client is served, the other {clients - 1:,} wait until it goes"
        return figures
    with _faults_to(figures):
        with TemporaryDirectory(prefix="models-") as folder, ExitStack() as stack:
            _measure(model, Path(folder), figures, options, stack)
    if figures.faults and model.limited:
        with _faults_to(figures):
            figures.refusal = refusal(model, clients)
            figures.faults = [] if figures.refusal else figures.faults
    return figures


@contextlib.contextmanager
def _faults_to(figures: Figures) -> Iterator[None]:
    """Write down what goes wrong in the block."""
    try:
        yield
    except (CellError, PeerError, psutil.NoSuchProcess, OSError) as error:
        figures.faults.append(str(error))


def _measure(model: Model, folder: Path, figures: Figures, options: Options, stack: ExitStack) -> None:
    """Take all through the same steps: connected, at rest, asked, told."""
    crowd = figures.clients - 1  # the asker is one of them
    # The load is there before the server and goes after it: a client's leaving is no work to measure.
    load = [
        stack.enter_context(closing(LoadProcess(folder / f"load-{index}.log")))
        for index in range(LISTENER_PROCESSES + 1 if crowd else 0)
    ]
    server = stack.enter_context(model.peer.serving(folder, figures.clients))
    asker = stack.enter_context(closing(Asker(server)))
    asker.ask()  # answered by a server that is complete: mpchat accepts nobody before all workers are there
    alone = server.resident_bytes()
    _gather(server, load, crowd, options, folder / "board")
    time.sleep(REST_S)
    figures.bytes_all = server.resident_bytes()
    figures.bytes_per_connection = (figures.bytes_all - alone) / crowd if crowd else 0.0
    figures.us_per_answer = _ask(server, asker, options.asks_s)
    told_us = (
        _tell_all(server, load, asker, figures) if load else _tell_oneself(server, asker, figures, options)
    )
    figures.us_per_message = told_us / figures.messages
    figures.us_per_delivery = figures.us_per_message / figures.clients
    if not load:
        asker.close()
        figures.waits_s = waits(server, options.hold_s)


def _gather(server: Server, load: Sequence[LoadProcess], crowd: int, options: Options, board: Path) -> None:
    """Let the crowd come: first the listeners' processes, the talkers' last."""
    board.write_bytes(bytes(8 * len(load)))
    talkers = min(TALKERS, crowd // 2)
    for index, process in enumerate(load):
        last = index == len(load) - 1
        share = (crowd - talkers + index) // LISTENER_PROCESSES
        plan = Plan(
            role="senders" if last else "clients",
            wire=WIRE.name,
            host=server.host,
            port=server.port,
            source=f"127.0.0.{1 + index}",
            connections=talkers if last else share,
            witnesses=0 if last else 2,
            in_flight=IN_FLIGHT // len(load),
            size=SIZE,
            board=str(board),
            slots=len(load),
            slot=index,
            nap_s=0.0,
            stall_s=STALL_S,
            rate=pace(crowd),
            seconds=options.seconds,
            window=max(talkers, int(pace(crowd) * STALL_S)),
        )
        process.tell(**asdict(plan))
    for process in load:
        process.hear("connected", PATIENCE_S)


def _ask(server: Server, asker: Asker, seconds: float) -> float:
    """Ask one question after the other; return the CPU microseconds that one took."""
    asked = 0

    def work() -> None:
        nonlocal asked
        until = time.monotonic() + seconds
        while not asked or time.monotonic() < until:
            asker.ask()
            asked += 1

    spent_us = _spent_us(server, work)
    return spent_us / asked


def _tell_all(server: Server, load: Sequence[LoadProcess], asker: Asker, figures: Figures) -> float:
    """Have the talkers talk; return the CPU microseconds it took, once everybody has everything."""
    talkers = load[-1]
    reports: list[dict[str, Any]] = []

    def talk() -> None:
        talkers.tell(run=True)
        figures.messages = talkers.hear("sent", PATIENCE_S)["messages"]
        for process in load:
            process.tell(messages=figures.messages)
        reports.extend(process.hear("report", PATIENCE_S) for process in load)

    talkers.tell(go=True)
    for process in load:
        process.hear("ready", PATIENCE_S)
    spent_us = _spent_us(server, talk)
    asker.take(1 + figures.messages)  # the go was one, too
    for report in reports:
        figures.faults += report["faults"]
    deliveries = sum(report["deliveries"] for report in reports) + figures.messages
    if not deliveries or deliveries != figures.messages * figures.clients:
        raise CellError(f"{deliveries} deliveries of {figures.messages * figures.clients}")
    return spent_us


def _tell_oneself(server: Server, asker: Asker, figures: Figures, options: Options) -> float:
    """Have the one client talk to itself; return the CPU microseconds it took."""
    before, after = WIRE.publication(SIZE)
    frame = before + FILL * SIZE + after
    figures.messages = max(1, int(FASTEST * options.seconds))

    def talk() -> None:
        for _ in range(figures.messages):
            if asker.exchange(frame) != frame[2:]:
                raise CellError("the one client got something else than it sent")

    return _spent_us(server, talk)


def _spent_us(server: Server, work: Callable[[], object]) -> float:
    """Return the CPU microseconds that all the server's processes took for ``work``."""
    before = server.cpu_ns()
    work()
    after = server.cpu_ns()
    if before.keys() - after.keys():
        raise CellError("a process of the server ended under the work, and its CPU time with it")
    return sum(used - before.get(pid, 0) for pid, used in after.items()) / 1e3


def waits(server: Server, hold_s: float) -> list[float]:
    """Let clients come together, each staying ``hold_s`` once it is served; return how long each waited."""
    with ExitStack() as stack:
        waiting = [
            stack.enter_context(socket.create_connection((server.host, server.port), timeout=ANSWER_S))
            for _ in range(QUEUE)
        ]
        came = time.monotonic()
        for sock in waiting:
            sock.sendall(WIRE.knock)
        waited: list[float] = []
        served: deque[tuple[float, socket.socket]] = deque()
        while waiting:
            until = served[0][0] if served else came + ANSWER_S + QUEUE * hold_s
            for sock in select.select(waiting, [], [], max(0.0, until - time.monotonic()))[0]:
                if not sock.recv(4096):
                    raise CellError("the server closed a waiting client's connection")
                waiting.remove(sock)
                waited.append(time.monotonic() - came)
                served.append((time.monotonic() + hold_s, sock))
            if time.monotonic() >= until:
                if not served:
                    raise CellError(f"{len(waiting)} waiting clients were not served")
                served.popleft()[1].close()
    return waited


def refusal(model: Model, clients: int) -> str:
    """Let clients come one by one until the server refuses one; return how many came and what it said."""
    with (
        TemporaryDirectory(prefix="models-") as folder,
        model.peer.serving(Path(folder), clients) as server,
        ExitStack() as stack,
    ):
        for number in range(clients):
            try:
                answer = stack.enter_context(closing(Asker(server))).ask()
            except OSError as error:
                words = _last_words(Path(folder, f"{model.peer.name}.log")) or str(error)
                return f"{number:,} clients served, then it ended: {words}"
            told = json.loads(answer).get("error", {}) if answer else {}
            if told.get("code") == "full":
                return f"{number:,} clients served, then: {told['text']}"
    return ""


def _last_words(log: Path) -> str:
    """Return what an ended server said last; it may be about to say it."""
    deadline = time.monotonic() + LAST_WORDS_S
    while log.exists() and not log.read_bytes().strip() and time.monotonic() < deadline:
        time.sleep(0.05)
    return last_line(log) if log.exists() else ""
