"""What moving live connections costs: reloads of mpchat with many idle clients, and what the clients notice.

``python -m scripts.bench moves`` runs the bench's work "one message to many idle clients"; before the message
it reloads the server several times. It shows how long each reload took, how long connections were without a
worker by the server's own clocks, and what probes saw. At the end every client must receive exactly the one
message, so a connection or a message that was lost is a fault.

A probe sends an empty frame, which the server refuses, so that the answer goes to the probe alone; it sends
the next 20 ms after the one before, once that is answered. So its round trips say how long *it* had to wait.
Times are in seconds, of one machine that clients and server share.
"""

import heapq
import json
import selectors
import signal
import socket
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mpchat.control.client import ReceivedAnswer, ask
from mpchat.control.requests import Reload
from mpchat.errors import MpchatError
from scripts.bench.cell import Cell, run_cell
from scripts.bench.load_process import CellError
from scripts.bench.peers import Server, control_socket, mpchat_peer
from scripts.bench.row import Options, Row
from scripts.bench.wire import WIRES
from scripts.common.console import FAILED, figures_table, make_console

WIRE = WIRES["frames"]
# Seconds between two empty frames of a probe.
PROBE_EVERY_S = 0.02
# Seconds for a probe to be served at first, or for all of them to be answered at the end.
ANSWER_S = 10.0
# Seconds of silence in a reload until it counts as failed.
SILENCE_S = 30.0
# Probes, at most: they share this process's descriptors and its time.
MOST_PROBES = 1000
# Seconds that a reload may take, and that a connection may be without a worker (p99 and maximum).
GOALS = {"seconds": 5.0, "p99": 0.1, "max": 0.5}
QUIET, RELOAD = "quiet", "reload"


@dataclass(frozen=True)
class Work:
    """What is measured."""

    connections: int
    probes: int
    rounds: int  # reloads
    quiet_s: float  # of silence before each reload and after the last


@dataclass(eq=False)
class Probe:
    """A connection that measures round trips."""

    sock: socket.socket
    answer: bytes = b""
    sent: float = 0.0  # 0: no question is open
    phase: str = QUIET  # in which it sent
    longest: float = 0.0  # of this phase's round trips


@dataclass
class Trips:
    """The round trips of one phase, and each probe's longest."""

    all: list[float] = field(default_factory=list)
    longest: list[float] = field(default_factory=list)


class Probes:
    """All probes, in one loop of this process."""

    def __init__(self, server: Server, count: int) -> None:
        """Connect ``count`` probes."""
        self._selector = selectors.DefaultSelector()
        self._probes = [Probe(socket.create_connection((server.host, server.port))) for _ in range(count)]
        self._due: list[tuple[float, int, Probe]] = []
        for number, probe in enumerate(self._probes):
            probe.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(probe.sock, selectors.EVENT_READ, probe)
            # They begin one after the other, so that they never ask all at once.
            due = time.monotonic() + PROBE_EVERY_S * number / count
            heapq.heappush(self._due, (due, id(probe), probe))
        self.phase = QUIET
        self.trips = {QUIET: Trips(), RELOAD: Trips()}

    def run(self, phase: str, going: Callable[[], bool]) -> None:
        """Probe as long as ``going()``."""
        self.phase = phase
        while going():
            self._turn(self._send_due())
        self.trips[phase].longest += [probe.longest for probe in self._probes]
        for probe in self._probes:
            probe.longest = 0.0

    def finish(self) -> None:
        """Wait for the open answers. Raise :class:`CellError` when some do not come."""
        deadline = time.monotonic() + ANSWER_S
        while any(probe.sent for probe in self._probes) and time.monotonic() < deadline:
            self._turn(PROBE_EVERY_S)
        if unanswered := sum(bool(probe.sent) for probe in self._probes):
            raise CellError(f"{unanswered} probes were not answered within {ANSWER_S:.0f} s")

    def close(self) -> None:
        """Close all connections."""
        for probe in self._probes:
            probe.sock.close()
        self._selector.close()

    def _send_due(self) -> float:
        """Send what is due; return the seconds until the next is, at most ``PROBE_EVERY_S``."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            probe = heapq.heappop(self._due)[2]
            probe.sent, probe.phase = time.monotonic(), self.phase
            probe.sock.sendall(WIRE.knock)
        next_due = self._due[0][0] if self._due else now + PROBE_EVERY_S
        return max(0.0, min(next_due - time.monotonic(), PROBE_EVERY_S))

    def _turn(self, timeout_s: float) -> None:
        for key, _ in self._selector.select(timeout_s):
            self._read(key.data)

    def _read(self, probe: Probe) -> None:
        data = probe.sock.recv(4096)
        if not data:
            raise CellError("the server closed a probe's connection")
        probe.answer += data
        if not WIRE.served(probe.answer):
            return
        if not probe.sent:
            raise CellError(f"a probe received an answer that it did not ask for: {probe.answer!r}")
        now = time.monotonic()
        trip = now - probe.sent
        # A round trip that began in a reload or ended in it is the reload's.
        self.trips[RELOAD if RELOAD in (probe.phase, self.phase) else QUIET].all.append(trip)
        probe.longest = max(probe.longest, trip)
        heapq.heappush(self._due, (max(now, probe.sent + PROBE_EVERY_S), id(probe), probe))
        probe.answer, probe.sent = b"", 0.0


class Reloads:
    """What happens between the connecting of the clients and the one message to all."""

    def __init__(self, work: Work, progress: Callable[[str], None]) -> None:
        """Report each step to ``progress``."""
        self._work = work
        self._progress = progress
        self.done: list[dict[str, Any]] = []
        self.trips: dict[str, Trips] = {}

    def __call__(self, cell: Cell) -> None:
        """Reload the server again and again while probes measure."""
        control = control_socket(cell.folder)
        with ThreadPoolExecutor(1) as pool, closing(Probes(cell.server, self._work.probes)) as probes:
            self.trips = probes.trips
            for number in range(1, self._work.rounds + 1):
                self._progress(f"reload {number} of {self._work.rounds}")
                probes.run(QUIET, _lasting(self._work.quiet_s))
                reload = pool.submit(ask, control, Reload(), SILENCE_S)
                probes.run(RELOAD, _running(reload))
                self._note(reload)
            probes.run(QUIET, _lasting(self._work.quiet_s))
            probes.finish()
        self._progress("one message to all")

    def _note(self, reload: "Future[ReceivedAnswer]") -> None:
        try:
            answer = reload.result()
        except MpchatError as error:
            raise CellError(f"a reload failed: {error}") from error
        shown = ("seconds", "moved", "failed", "lost", "pauses")
        result = {name: answer.result[name] for name in shown if name in answer.result}
        self.done.append({**result, "exit": answer.exit, "text": answer.text})


def _lasting(seconds: float) -> Callable[[], bool]:
    end = time.monotonic() + seconds
    return lambda: time.monotonic() < end


def _running(future: "Future[Any]") -> Callable[[], bool]:
    return lambda: not future.done()


# ---- what came of it


def measure(work: Work, workers: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Do the whole run; return what ``--json`` prints."""
    progress(f"opening {work.connections} connections")
    reloads = Reloads(work, progress)
    title = f"one message to {work.connections} idle clients"
    row = Row("moves", title, work.connections, rate=100, messages=1)
    # Without notices: the leaving of a probe would be a message to all.
    peer = mpchat_peer("mpchat", "--notices", "off", workers=workers)
    figures = run_cell(peer, row, Options(), reloads)
    return {
        "workers": workers,
        "connections": work.connections,
        "probes": work.probes,
        "reloads": reloads.done,
        "received": figures.deliveries,
        "trips": {phase: summary(trips.all) for phase, trips in reloads.trips.items()},
        "longest": {phase: summary(trips.longest) for phase, trips in reloads.trips.items()},
        "faults": [*figures.faults, *faults(reloads.done)],
        "missed": missed(reloads.done),
    }


def summary(times_s: Sequence[float]) -> dict[str, float]:
    """Return the count, p50, p99 and maximum of a list of times."""
    cuts = statistics.quantiles(times_s, n=100, method="inclusive") if len(times_s) > 1 else [0.0] * 99
    return {"count": len(times_s), "p50": cuts[49], "p99": cuts[98], "max": max(times_s, default=0.0)}


def faults(reloads: Sequence[dict[str, Any]]) -> list[str]:
    """Return the promises that reloads broke."""
    found = [f"a reload failed: {each['text']}" for each in reloads if each["exit"]]
    return found + [f"{each['lost']} connections were lost" for each in reloads if each.get("lost")]


def missed(reloads: Sequence[dict[str, Any]]) -> list[str]:
    """Return the goals that were missed, and in which reload."""
    found = []
    for number, each in enumerate(reloads, 1):
        figures = {"seconds": each.get("seconds", 0.0), **each.get("pauses", {})}
        found += [
            f"reload {number}: {name} is {figures[name]:.3f} s, the goal {goal:g} s"
            for name, goal in GOALS.items()
            if figures.get(name, 0.0) >= goal
        ]
    return found


def tables(facts: dict[str, Any]) -> list[Table]:
    """Return the table of the reloads and that of the probes."""
    title = f"{facts['connections']} connections and {facts['probes']} probes on {facts['workers']} workers"
    reloads = figures_table(
        f"{title}: a connection was without a worker for",
        "",
        "seconds",
        "moved",
        "lost",
        "p50 ms",
        "p99",
        "max",
    )
    for number, each in enumerate(facts["reloads"], 1):
        if not each["exit"]:
            row = (f"{each['seconds']:.2f}", f"{each['moved']}", f"{each['lost']}")
            reloads.add_row(f"reload {number}", *row, *in_ms(each["pauses"]))
    reloads.add_row("goal, below", f"{GOALS['seconds']:g}", "", "", "", *in_ms(GOALS))
    probes = figures_table("Round trips of the probes", "", "p50 ms", "p99", "max")
    for name, kind in (("all", "trips"), ("each probe's longest", "longest")):
        for phase, figures in facts[kind].items():
            probes.add_row(f"{name}, {phase}", *in_ms(figures))
    return [reloads, probes]


def in_ms(figures: dict[str, float]) -> list[str]:
    """Return p50, p99 and max as the tables show them, as far as they are there."""
    return [f"{figures[name] * 1000:.1f}" for name in ("p50", "p99", "max") if name in figures]


@click.command(context_settings={"show_default": True})
@click.option("--workers", type=click.IntRange(1), default=4, help="Workers of the server.")
@click.option("--connections", type=click.IntRange(2), default=20_000, help="Idle connections.")
@click.option("--probes", type=click.IntRange(1, MOST_PROBES), default=200, help="That measure round trips.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Reloads.")
@click.option("--quiet", "quiet_s", type=click.FloatRange(0), default=2.0, help="Seconds between reloads.")
@click.option("--check", is_flag=True, help="Exit with 1 when a goal is missed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def main(workers: int, check: bool, as_json: bool, **work: Any) -> None:
    """Reload a server with many idle connections; show what that takes, and what clients notice.

    Exit code 1: a reload failed, a connection or a message was lost, or with --check a goal was missed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left
    errors = Console(stderr=True, highlight=False)
    with errors.status("starting") as status:
        facts = measure(Work(**work), workers, status.update)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        make_console().print(*tables(facts), f"received the one message: {facts['received']}")
    for each in [*facts["faults"], *facts["missed"]]:
        errors.print(each, markup=False)
    sys.exit(FAILED if facts["faults"] or (check and facts["missed"]) else 0)
