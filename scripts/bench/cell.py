"""One run: one row of work on one server.

It starts the server and the load, takes both through the same steps, and ends both. The rule it keeps: only
a run in which every delivery arrived has figures; any other run has faults.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from scripts.bench.load_process import LoadProcess, client_processes, plans
from scripts.bench.peers import Peer, Server
from scripts.bench.row import BenchError, Figures, Options, Row
from scripts.common.latency import Latency
from scripts.common.spawning import SPAWN

# Seconds that the load may take for a step in addition to what the plan says: to start, connect, send.
PATIENCE_S = 120.0
# The same for the last step: servers on Node take minutes to bring a full window to 1000 clients. A server
# that stands still is found by the load before.
DRAIN_S = 600.0

# Clients that come and go before memory is weighed: enough for each process to get one.
FIRST_CLIENTS = 16


def run_cell(
    peer: Peer, row: Row, options: Options, meanwhile: "Callable[[Cell], None] | None" = None
) -> Figures:
    """Run ``row`` on ``peer`` once; call ``meanwhile`` while all clients are connected and silent."""
    figures = Figures(row.name, peer.name)
    try:
        with TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
            folder = Path(name)
            # The load is there before the server and goes after it: a client's leaving is not measured.
            count = client_processes(peer, row) + 1
            board = SPAWN.RawArray("q", count)
            load = [stack.enter_context(closing(LoadProcess(board, slot))) for slot in range(count)]
            server = stack.enter_context(peer.serving(folder, row.clients))
            if row.weigh:
                _serve_first_clients(peer, server, options)
            for process, plan in zip(load, plans(peer, row, options, server), strict=True):
                process.tell(plan=plan)
            Cell(row, options, server, folder, load, figures).measure(meanwhile)
    except (BenchError, psutil.NoSuchProcess) as error:
        figures.faults.append(str(error))
    return figures


def _serve_first_clients(peer: Peer, server: Server, options: Options) -> None:
    """Have each process of the server load what its first client needs: that is no part of a connection."""
    for port in server.ports:
        for _ in range(FIRST_CLIENTS):
            if not peer.answers(port):
                raise BenchError(f"{peer.name} did not serve its first clients")
    time.sleep(options.rest_s)


@dataclass(frozen=True)
class Cell:
    """A run that is going on."""

    row: Row
    options: Options
    server: Server
    folder: Path  # of the server's files
    load: Sequence[LoadProcess]  # the senders' is the last
    figures: Figures

    @property
    def patience_s(self) -> float:
        """Seconds that a step of the load may take."""
        return PATIENCE_S + self.options.seconds + self.options.stall_s

    def measure(self, meanwhile: "Callable[[Cell], None] | None") -> None:
        """Take server and load through the steps: connected, at rest, ready, sent, counted."""
        row, options, figures, server = self.row, self.options, self.figures, self.server
        empty_bytes = server.resident_bytes() if row.weigh else 0
        figures.cpu_us_per_connect = self.cpu_us(self._connect) / row.clients
        if row.weigh or row.rooms:
            time.sleep(options.rest_s)
        if row.weigh:
            figures.resident_bytes = server.resident_bytes()
            figures.bytes_per_connection = (figures.resident_bytes - empty_bytes) / row.clients
        if row.rooms > 1:
            idle_us = self.cpu_us(lambda: time.sleep(options.seconds))
            figures.idle_ms_per_s = idle_us / 1e3 / options.seconds
        if meanwhile:
            meanwhile(self)
        self._work()

    @contextmanager
    def asking(self, connections: int, pause_s: float) -> Iterator[list[list[int]]]:
        """Have so many senders ask during the block, each the next question ``pause_s`` after the one before.

        Yield a list that has each sender's round trips, in nanoseconds, after the block.
        """
        trips_ns: list[list[int]] = []
        self.load[-1].tell(ask=connections, pause_s=pause_s)
        yield trips_ns
        self.load[-1].tell(stop=True)
        trips_ns += self.load[-1].hear("asked", self.patience_s)["trips_ns"]

    def _connect(self) -> None:
        spans = [process.hear("connected", self.patience_s) for process in self.load]
        # All processes have the plan before the slowest of them begins; the senders' few do not matter.
        begun, ended = min(span["began_ns"] for span in spans), max(span["ended_ns"] for span in spans)
        self.figures.connects_per_s = self.row.clients / max(1, ended - begun) * 1e9

    def _work(self) -> None:
        """Let the senders send and all processes count; fill in the figures."""
        senders = self.load[-1]
        senders.tell(go=True)
        for process in self.load:
            process.hear("ready", self.patience_s)
        sent: dict[str, Any] = {}

        def work() -> None:
            senders.tell(run=True)
            sent.update(senders.hear("sent", self.patience_s))
            for process in self.load:
                process.tell(messages=sent["messages"])
            for process in self.load:
                process.hear("counted", self.patience_s + DRAIN_S)

        before = self.server.counters()
        cpu_us = self.cpu_us(work)  # what the server takes when all is delivered is no part of a delivery
        after = self.server.counters()
        self.figures.counted = {name: value - before[name] for name, value in after.items()}
        reports = [process.hear("report", self.patience_s) for process in self.load]
        _fill_in(self.figures, self.row, sent, reports, cpu_us)

    def cpu_us(self, work: Callable[[], object]) -> float:
        """Return the CPU µs that all processes of the server took for ``work``."""
        before = self.server.cpu_ns()
        work()
        after = self.server.cpu_ns()
        if before.keys() - after.keys():
            self.figures.faults.append("a process of the server ended during the work, its CPU time is lost")
        return sum(used - before.get(pid, 0) for pid, used in after.items()) / 1e3


def _fill_in(
    figures: Figures, row: Row, sent: dict[str, Any], reports: Sequence[dict[str, Any]], cpu_us: float
) -> None:
    figures.messages = sent["messages"]
    figures.deliveries = sum(report["deliveries"] for report in reports)
    for report in reports:
        figures.faults += report["faults"]
    expected = figures.messages * row.in_one_room
    if figures.deliveries != expected or not expected:
        figures.faults.append(f"{figures.deliveries} deliveries of {expected}")
    if figures.faults:
        return
    figures.wall_s = (max(report["last_ns"] for report in reports) - sent["first_ns"]) / 1e9
    figures.cpu_us_per_delivery = cpu_us / figures.deliveries
    figures.deliveries_per_s = figures.deliveries / figures.wall_s
    ages = Latency()
    for report in reports:
        ages.add(report["ages"])
    figures.p50_ms, figures.p99_ms, figures.max_ms = (
        ages.percentile(share) * 1e3 for share in (0.5, 0.99, 1)
    )
    cores_us = figures.wall_s * (os.cpu_count() or 1) * 1e6
    figures.server_share = cpu_us / cores_us
    figures.load_share = sum(report["cpu_s"] for report in reports) * 1e6 / cores_us
