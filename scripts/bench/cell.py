"""One cell of bench.py's table: one server, one row of work, one run.

Starts the server and the load (load.py), has them ready, takes the server's figures before and after
the work, and ends both. The rule it keeps: only a run in which every delivery arrived has figures; any other
one has faults.
"""

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from scripts.bench.load import Plan
from scripts.bench.peers import CHECKOUT, Peer, PeerError, Server, last_line
from scripts.bench.wire import WIRES

# Connections of one load process, at most: below the 20 000 descriptors that a process may have here.
CLIENTS_PER_PROCESS = 15_000
# Connections begun and not yet served, all processes together: below the smallest accept queue, which is
# Mosquitto's with 100.
IN_FLIGHT = 80
# Messages a second that one process parses in full, about; decides how many connections are witnesses.
PARSED_PER_S = 10_000
# Seconds between two turns of the counting processes in rows that go as fast as it goes.
NAP_S = 0.001
# Seconds to let a server come to rest before its memory is read, or its members have been told who has come.
REST_S = 1.0
# Messages of each room that may be on their way where there are many rooms; they talk at a steady rate.
ROOM_WINDOW = 4
# Seconds that the load may take for a step beside what the plan says: to start, connect, drain.
PATIENCE_S = 120.0
# Seconds until a load process must have ended after its standard input did.
LEAVE_S = 10.0


@dataclass(frozen=True)
class Row:
    """A named piece of work. ``rate`` in messages a second, 0 is as fast as it goes."""

    name: str
    title: str
    clients: int
    size: int = 100
    senders: int = 1
    rate: float = 0.0
    messages: int = 0  # 0: for as long as the options say
    rooms: int = 0  # 0: plain clients; 1: all have a name and are in one room; or each is in one of so many
    plain: str = ""  # the same row with plain clients, with which this one is compared
    # What CPU per delivery must be at most, as a share of Redis's, if a row is compared.
    target: float | None = None

    @property
    def crowd(self) -> bool:
        """True where connections are what is measured: how fast they come, what they cost."""
        return self.messages == 1

    @property
    def in_one_room(self) -> int:
        """How many clients get one message."""
        return self.clients // max(1, self.rooms)


@dataclass(frozen=True)
class Options:
    """What is the same for all cells."""

    seconds: float = 3.0
    window_bytes: int = 256 * 1024
    load_processes: int = 2
    # Without any progress for so long, a delivery counts as lost.
    stall_s: float = 15.0


@dataclass
class Figures:
    """What one cell gave. Without ``faults``, every one of ``deliveries`` arrived."""

    row: str
    server: str
    faults: list[str] = field(default_factory=list)
    messages: int = 0
    deliveries: int = 0
    wall_s: float = 0.0
    cpu_us_per_delivery: float = 0.0
    deliveries_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    # Shares of all cores together while the work lasted.
    server_share: float = 0.0
    load_share: float = 0.0
    connects_per_s: float = 0.0
    bytes_per_connection: float = 0.0
    # CPU that the server takes while its clients say nothing, in milliseconds a second.
    idle_ms_per_s: float = 0.0


class CellError(Exception):
    """The run gave no figures; the text says why."""


class LoadProcess:
    """The bench's end of one load.py."""

    def __init__(self, log: Path) -> None:
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "scripts.bench.load"],
                cwd=CHECKOUT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._orders = self._process.stdin
        self._answers = self._process.stdout
        self._log = log
        self._unread = b""

    def tell(self, **order: Any) -> None:
        """Send one order."""
        with suppress(BrokenPipeError):  # it ended: hear() says why
            self._orders.write(json.dumps(order).encode() + b"\n")

    def hear(self, what: str, patience_s: float) -> dict[str, Any]:
        """Wait for the answer ``what``."""
        deadline = time.monotonic() + patience_s
        while b"\n" not in self._unread:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._answers], [], [], remaining)[0]:
                raise CellError(f"the load did not say {what!r} within {patience_s:.0f} s")
            data = os.read(self._answers.fileno(), 1 << 20)
            if not data:
                raise CellError(f"the load ended: {last_line(self._log)}")
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if answer["say"] != what:
            raise CellError(str(answer.get("text", answer)))
        return answer

    def close(self) -> None:
        """End it: the end of its orders is its end; kill it if it is not."""
        self._orders.close()
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._answers.close()


def run_cell(peer: Peer, row: Row, options: Options) -> Figures:
    """Run ``row`` on ``peer`` once."""
    figures = Figures(row.name, peer.name)
    receivers = row.clients - _sending_clients(peer, row)
    processes = min(max(options.load_processes, -(-receivers // CLIENTS_PER_PROCESS)), receivers)
    try:
        with TemporaryDirectory(prefix="bench-") as name, ExitStack() as stack:
            folder = Path(name)
            # The load is there before the server and goes after it: a client's leaving is no work to measure.
            load = [
                stack.enter_context(closing(LoadProcess(folder / f"load-{index}.log")))
                for index in range(processes + 1)
            ]
            server = stack.enter_context(peer.serving(folder, row.clients))
            board = folder / "board"
            board.write_bytes(bytes(8 * len(load)))
            for process, plan in zip(load, _plans(peer, row, options, server, board, processes), strict=True):
                process.tell(**asdict(plan))
            _measure(server, row, options, load, figures)
    except (CellError, PeerError, psutil.NoSuchProcess) as error:
        figures.faults.append(str(error))
    return figures


def _senders(row: Row) -> int:
    """How many connections send: one member of each room, where there are many."""
    return row.senders if row.rooms < 2 else row.rooms


def _sending_clients(peer: Peer, row: Row) -> int:
    """How many clients send: on some wires a sender is a client like all others, on others none is."""
    return _senders(row) if WIRES[peer.wire_for(row.rooms)].sender_receives else 0


def _plans(
    peer: Peer, row: Row, options: Options, server: Server, board: Path, processes: int
) -> Iterator[Plan]:
    """Share the clients out among ``processes``; the last plan is the senders'."""
    sending = _sending_clients(peer, row)
    receivers = row.clients - sending
    channels = max(1, row.rooms)
    # Where nothing says how many messages a second there will be, one witness must do.
    witnesses = max(2, int(PARSED_PER_S / row.rate * channels)) if row.rate else 1
    first = sending
    for index in range(processes + 1):
        senders = index == processes
        share = receivers // processes + (index < receivers % processes)
        yield Plan(
            role="senders" if senders else "clients",
            wire=peer.wire_for(row.rooms),
            host=server.host,
            port=server.port,
            source=f"127.0.0.{1 + index}",
            connections=_senders(row) if senders else share,
            witnesses=0 if senders else witnesses,
            in_flight=max(1, IN_FLIGHT // (processes + 1)),
            size=row.size,
            board=str(board),
            slots=processes + 1,
            slot=index,
            nap_s=0.0 if row.rate else NAP_S,
            stall_s=options.stall_s,
            rate=row.rate,
            seconds=options.seconds,
            messages=row.messages,
            window=max(row.senders, options.window_bytes // row.size) if channels == 1 else ROOM_WINDOW,
            rooms=row.rooms,
            first=0 if senders else first,
        )
        first += share


def _measure(
    server: Server, row: Row, options: Options, load: Sequence[LoadProcess], figures: Figures
) -> None:
    """Take all through the same steps: connected, ready, sent, counted."""
    patience_s = PATIENCE_S + options.seconds + options.stall_s
    senders = load[-1]
    weighed = row.crowd or row.rooms > 1
    empty_bytes = server.resident_bytes() if weighed else 0
    _connect(load, figures, row, patience_s)
    if weighed or row.rooms:
        time.sleep(REST_S)
    if weighed:
        figures.bytes_per_connection = (server.resident_bytes() - empty_bytes) / row.clients
    if row.rooms > 1:
        before = server.cpu_ns()
        time.sleep(options.seconds)
        figures.idle_ms_per_s = _cpu_s(before, server.cpu_ns()) * 1e3 / options.seconds
    senders.tell(go=True)
    for process in load:
        process.hear("ready", patience_s)
    before = server.cpu_ns()
    senders.tell(run=True)
    sent = senders.hear("sent", patience_s)
    for process in load:
        process.tell(messages=sent["messages"])
    reports = [process.hear("report", patience_s) for process in load]
    after = server.cpu_ns()
    if before.keys() - after.keys():
        figures.faults.append("a process of the server ended under the work, and its CPU time with it")
    _fill_in(figures, row, sent, reports, _cpu_s(before, after))


def _cpu_s(before: dict[int, int], after: dict[int, int]) -> float:
    return sum(used - before.get(pid, 0) for pid, used in after.items()) / 1e9


def _connect(load: Sequence[LoadProcess], figures: Figures, row: Row, patience_s: float) -> None:
    spans = [process.hear("connected", patience_s) for process in load]
    # All processes have the plan before the slowest of them begins; the senders' few do not matter.
    begun, ended = min(span["began_ns"] for span in spans), max(span["ended_ns"] for span in spans)
    figures.connects_per_s = row.clients / max(1, ended - begun) * 1e9


def _fill_in(
    figures: Figures, row: Row, sent: dict[str, Any], reports: Sequence[dict[str, Any]], cpu_s: float
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
    figures.cpu_us_per_delivery = cpu_s * 1e6 / figures.deliveries
    figures.deliveries_per_s = figures.deliveries / figures.wall_s
    ages_ms = sorted(age / 1e6 for report in reports for age in report["ages_ns"])
    if ages_ms:
        figures.p50_ms, figures.p99_ms = (ages_ms[int(len(ages_ms) * share)] for share in (0.5, 0.99))
        figures.max_ms = ages_ms[-1]
    cores_s = figures.wall_s * (os.cpu_count() or 1)
    figures.server_share = cpu_s / cores_s
    figures.load_share = sum(report["cpu_s"] for report in reports) / cores_s
