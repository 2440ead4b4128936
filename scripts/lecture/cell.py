"""One run of the lecture's comparison: one way to serve, so many clients.

The work is a row of the bench, and the bench's harness runs it (scripts/bench/cell.py). In addition a client
asks questions that are answered to it alone; a server may refuse so many clients, and is quoted then; and
clients come together to see how long each waits.
"""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from scripts.bench.cell import Cell, run_cell
from scripts.bench.peers import Peer, Server, knock, lecture_peer, mpchat_peer
from scripts.bench.row import BenchError, Figures, Row
from scripts.bench.row import Options as BenchOptions
from scripts.bench.wire import WIRES
from scripts.common.processes import LOOK_S, last_line

WIRE = WIRES["frames"]
# Clients that talk; the others only listen.
TALKERS = 5
# Messages a second: what keeps the deliveries near this many a second, within bounds. The upper bound is far
# below what mpchat would gather into one send, so that every message has its own send in every model.
DELIVERIES_PER_S = 20_000
SLOWEST, FASTEST = 5, 50
# Seconds to let a server come to rest before its memory is read.
REST_S = 0.3
# Seconds for one answer.
ANSWER_S = 10.0
# Clients that come at the same moment to see how long each waits.
QUEUE = 3
# Seconds until a server that ended has said why.
LAST_WORDS_S = 2.0


@dataclass(frozen=True)
class Options:
    """What all runs have in common, in seconds."""

    seconds: float = 2.0  # of talking
    asks_s: float = 0.5  # of questions, one after the other
    hold_s: float = 1.0  # how long each client of the queue stays once it is served
    stall_s: float = 15.0  # without any progress a delivery counts as lost


@dataclass(frozen=True)
class Model:
    """A way to serve. ``limited``: it may refuse a crowd, and that is a finding, not a fault."""

    name: str
    what: str
    peer: Peer
    limited: bool = False
    one_client: bool = False


@dataclass
class Outcome:
    """The results of one run: the bench's figures, and what is measured here in addition."""

    model: str
    clients: int
    figures: Figures
    # What the server said where it would not accept so many, and how many it had accepted.
    refusal: str = ""
    # CPU µs of a question answered to one client: the cost of waking up with so many connections watched.
    us_per_answer: float = 0.0
    # Only with one client: seconds that clients waited that came together and stayed for a while each.
    waits_s: list[float] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """What went wrong; the figures are void then."""
        return self.figures.faults

    @property
    def measured(self) -> bool:
        """True where there are figures."""
        return not self.faults and not self.refusal

    @property
    def us_per_message(self) -> float:
        """CPU µs of a message that all clients receive."""
        return self.figures.cpu_us_per_delivery * self.clients


def all_models() -> list[Model]:
    """Return every model, in the order of the lecture."""
    loops = ("select", "poll", "epoll")
    return [
        Model("blocking", "one client at a time", lecture_peer("blocking"), limited=True, one_client=True),
        *(
            Model(name, f"one process, one {name} loop", lecture_peer(name), limited=name == "select")
            for name in loops
        ),
        Model("threads", "a thread per client", lecture_peer("threads"), limited=True),
        *(
            Model(f"mpchat {name}", f"mpchat, 1 worker, {name}", _mpchat(name, 1), limited=name == "select")
            for name in loops
        ),
        *(Model(f"mpchat {n}", f"mpchat, {n} workers, epoll", _mpchat("epoll", n)) for n in (2, 4)),
    ]


def _mpchat(multiplexer: str, workers: int) -> Peer:
    """Return mpchat with so many workers that wait in this way; without notices, as the other models."""
    name = f"mpchat-{multiplexer}-{workers}"
    return mpchat_peer(name, "--multiplexer", multiplexer, "--notices", "off", workers=workers)


def pace(clients: int) -> float:
    """Return how many messages a second a crowd of ``clients`` is told."""
    return min(FASTEST, max(SLOWEST, DELIVERIES_PER_S / clients))


def run(model: Model, clients: int, options: Options) -> Outcome:
    """Serve ``clients`` clients in this way, once."""
    senders = max(1, min(TALKERS, clients // 2))
    row = Row(model.name, model.what, clients, senders=senders, rate=pace(clients), weigh=True)
    outcome = Outcome(model.name, clients, Figures(row.name, model.peer.name))
    if model.one_client and clients > 1:
        outcome.refusal = f"1 client is served, the other {clients - 1:,} wait until it goes"
        return outcome

    def ask(cell: Cell) -> None:
        questions: list[int] = []

        def work() -> None:
            with cell.asking(1, 0.0) as trips_ns:
                time.sleep(options.asks_s)
            questions.extend(trips_ns[0])

        outcome.us_per_answer = cell.cpu_us(work) / len(questions)

    bench = BenchOptions(options.seconds, options.stall_s, REST_S)
    outcome.figures = run_cell(model.peer, row, bench, ask)
    try:
        if outcome.faults and model.limited:
            outcome.refusal = refusal(model, clients)
            if outcome.refusal:
                outcome.faults.clear()
        elif clients == 1:
            outcome.waits_s = waits(model, options.hold_s)
    except (BenchError, psutil.NoSuchProcess, OSError) as error:
        outcome.faults.append(str(error))
    return outcome


@contextlib.contextmanager
def _serving(model: Model, clients: int) -> Iterator[tuple[Server, Path]]:
    """Start the server without any load; yield it and the file of its output."""
    with TemporaryDirectory(prefix="lecture-") as name, model.peer.serving(Path(name), clients) as server:
        yield server, model.peer.log(Path(name))


def _connect(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=ANSWER_S)


def waits(model: Model, hold_s: float) -> list[float]:
    """Let clients come together, each staying ``hold_s`` once it is served; return how long each waited."""
    with _serving(model, QUEUE) as (server, _), ThreadPoolExecutor(QUEUE) as pool:
        came = time.monotonic()

        def stay() -> float:
            with _connect(server) as sock:
                knock(sock, WIRE)
                waited = time.monotonic() - came
                time.sleep(hold_s)
            return waited

        clients = [pool.submit(stay) for _ in range(QUEUE)]
        return sorted(each.result() for each in clients)


def refusal(model: Model, clients: int) -> str:
    """Let clients come one by one until the server refuses one; return how many came and what it said."""
    with _serving(model, clients) as (server, log), ExitStack() as stack:
        for number in range(clients):
            try:
                answer = knock(stack.enter_context(_connect(server)), WIRE)[2:]
            except TimeoutError:
                text = f"client {number + 1:,} had no answer within {ANSWER_S:g} s"
                raise BenchError(text) from None
            except OSError as error:
                return f"{number:,} clients served, then it ended: {_last_words(log) or error}"
            told = json.loads(answer).get("error", {}) if answer else {}
            if told.get("code") == "full":
                return f"{number:,} clients served, then: {told['text']}"
    return ""


def _last_words(log: Path) -> str:
    """Return the last output of a server that ended; it may still be about to write it."""
    deadline = time.monotonic() + LAST_WORDS_S
    while not log.read_bytes().strip() and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return last_line(log)
