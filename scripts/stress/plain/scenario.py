"""The scenario of plain clients: how they are started, and their orders compared with each other."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mpchat.client.blocking import connect_blocking
from mpchat.errors import MpchatError
from scripts.common.address import Address
from scripts.common.frames import HEADER
from scripts.common.server import HarnessError
from scripts.stress.engine import Run, Scenario
from scripts.stress.faults import Fault, Storms
from scripts.stress.fleet import ClientProcess
from scripts.stress.options import Options, option
from scripts.stress.plain.clients import OrderPart, PlainLoop, PlainPlan, PlainReport, Probes
from scripts.stress.plain.conflicts import NEVER, Reader
from scripts.stress.plain.garbage import Garbage, GarbageSenders
from scripts.stress.plain.messages import MARK_SENDER, TestMessages
from scripts.stress.plain.misbehaving import Leavers, Stalled, Stalls, Stopped
from scripts.stress.plain.numbers import Numbers
from scripts.stress.plain.order import OneOrder

# Seconds for a mark to come back to the parent that sent it, and for all connections to read up to it.
MARK_TIMEOUT = 30.0
READ_TIMEOUT = 60.0
# Seconds between two settlings of the order.
SETTLE_EVERY = 1.0
# Connections of the client process that sends garbage, and of the process that is stopped.
GARBAGE_CONNECTIONS = 20
STOPPED_CONNECTIONS = 20


@dataclass(frozen=True, kw_only=True)
class PlainOptions(Options):
    """The options of plain clients."""

    tls: float = option(0.0, "The part of the clients that speak TLS.", click.FloatRange(0, 1))
    messages: int = option(0, "Messages of each connection; 0: no limit.", click.IntRange(0))
    size: int = option(120, "Bytes of a message's payload.", click.IntRange(0, 50000))
    probes: int = option(20, "Connections that measure latency.", click.IntRange(1, 1000))
    max_p99_ratio: float | None = option(
        None, "Not clean when faults make p99 this many times longer.", click.FLOAT
    )
    stall: bool = option(False, "Clients that never read, read a byte a second, are stopped.")
    stalled: int = option(50, "How many clients never read or hardly.", click.IntRange(1))
    garbage: bool = option(False, "Clients that send random and mutated input.")
    garbage_inputs: int = option(1000, "How many inputs.", click.IntRange(1))

    @property
    def any_fault(self) -> bool:
        """Say whether there is a phase with faults."""
        return super().any_fault or self.stall or self.garbage

    def check(self) -> None:
        """Raise click.UsageError for options that do not go together."""
        super().check()
        if self.tls and self.kill_workers:
            # The system tells whose connections a killed worker had; those over TLS end at another process.
            raise click.UsageError("--tls does not go with --kill-workers")


class PlainScenario(Scenario):
    """Clients without a name, all in one order.

    Every client receives every message exactly once, in the same order as all others. Every byte that it
    receives is compared with one order, and that order with the counts of its senders.
    """

    options_type = PlainOptions
    kinds = ("lost", "doubled", "reordered", "differing", "strange", "unchecked", "answers")

    def __init__(self, run: Run) -> None:
        """Prepare for ``run``."""
        super().__init__(run)
        assert isinstance(run.options, PlainOptions)
        self.options = run.options
        self.tests = TestMessages(run.name)
        self.numbers = Numbers(self.tests, run.findings)
        self._order = OneOrder(self.tests, run.findings)
        self._streams: dict[ClientProcess, Reader] = {}
        self._next_settle = 0.0
        self._mark = -1

    @staticmethod
    def server_options(options: Any, folder: Path) -> tuple[str, ...]:
        """Let it speak TLS if clients are to."""
        if not options.tls:
            return ()
        from scripts.common.certificate import certificate  # runs without TLS do not load it

        chain, key = certificate(folder)
        return ("--tls-cert", chain, "--tls-key", key)

    # Client processes.

    def start(self) -> list[ClientProcess]:
        """Start clients that send, and clients that measure latency."""
        options = self.options
        rate = options.rate / options.processes
        chats = [self._start(PlainLoop, options.connections, rate) for _ in range(options.processes)]
        return [*chats, self._start(Probes, options.probes)]

    def _start(self, loop: type[PlainLoop], connections: int, rate: float = 0.0) -> ClientProcess:
        options = self.options
        plan = PlainPlan(
            **self.run.plan(loop.__name__.lower(), connections, rate),
            messages=options.messages,
            size=options.size,
            halves=bool(options.changes and rate),  # garbage goes in pieces of its own
            inputs=options.garbage_inputs,
            websockets=options.websockets if loop in (PlainLoop, Probes) else 0.0,
            tls=options.tls if loop in (PlainLoop, Probes) else 0.0,
        )
        process = self.run.start(loop, plan)
        self._streams[process] = self._order.add(Reader(plan.name, weight=connections))
        return process

    def faults(self) -> dict[str, Fault]:
        """Start clients that do not read, that send garbage, that leave all at once."""
        options = self.options
        faults: dict[str, Fault] = {}
        if options.stall:
            stalled = self._start(Stalled, options.stalled + 1)
            faults["stall"] = Stalls(stalled, self._start(Stopped, STOPPED_CONNECTIONS))
        if options.garbage:
            faults["garbage"] = Garbage(self._start(GarbageSenders, GARBAGE_CONNECTIONS))
        if options.disconnect_storm:
            faults["disconnect_storm"] = Storms(self._start(Leavers, options.storm_clients + 1))
        return faults

    # The order that all processes agree on.

    def hear(self, process: ClientProcess, said: object) -> None:
        """Compare a process's order with that of the others."""
        reader = self._streams[process]
        if isinstance(said, OrderPart):
            if said.segment != reader.segment:
                # All its connections had died. What it reports now begins later than where it was.
                self._order.close(reader)
                later = Reader(reader.name, weight=reader.weight, segment=said.segment)
                reader = self._streams[process] = self._order.add(later, floor=reader.position)
            if reader.joined == NEVER:
                reader.joined = said.joined
            self._order.feed(reader, said.frames)
        elif isinstance(said, PlainReport) and (
            not said.lived or self._order.complete(reader, self._mark)
        ):  # else it stays in the order, so that the end names what it lacks
            self._order.close(reader)

    def step(self, now: float) -> None:
        """Settle the order now and then, so that its memory stays bounded."""
        if now >= self._next_settle:
            self._next_settle = now + SETTLE_EVERY
            self._order.settle()
            self._take_order()

    def _take_order(self) -> None:
        for segment, frames in self._order.take():
            self.numbers.feed(segment, frames)

    def before_leaving(self, processes: list[ClientProcess]) -> tuple[int, float]:
        """Send a mark: the clients leave once they have read up to it."""
        self._mark += 1
        _send_mark(self.tests, self.run.address, self._mark)
        return self._mark, READ_TIMEOUT

    def judge(self, whole: bool) -> None:
        """Compare all that is left with the order, and the order with the senders' counts."""
        verdict = self.run.verdict
        sent: dict[int, int] = {}
        if whole:
            self._order.finish(self._mark)
            self._take_order()
            for process in self._streams:
                if isinstance(process.report, PlainReport):
                    sent |= process.report.senders
        self.numbers.finish(sent)
        verdict.counts.update(in_order=self.numbers.messages, others=self.numbers.others)
        limit = self.options.max_p99_ratio
        if limit is not None and not verdict.ratio():
            verdict.reasons.append("no latency was measured, with faults or without")
        elif limit is not None and verdict.ratio() > limit:
            verdict.reasons.append(f"p99 with faults is {verdict.ratio():.2f} times as long as without")


def _send_mark(tests: TestMessages, address: Address, number: int) -> None:
    """Send a mark from a connection of its own and wait until it comes back, so that it has its place."""
    text = json.loads(tests.frame(MARK_SENDER, number)[HEADER:])["message"]
    deadline = time.monotonic() + MARK_TIMEOUT
    try:
        with connect_blocking(*address, reconnect=False) as chat:
            chat.send(text)
            while chat.recv(max(0.0, deadline - time.monotonic())).text != text:
                pass
    except MpchatError as error:
        raise HarnessError(f"the mark did not come back: {error}") from None
