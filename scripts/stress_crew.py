"""The parent's side of the client processes: starts them, hears them, and holds their orders against another.

Knows nothing of what runs in a client process beyond its plan and its reports. A thread listens to all pipes,
so that no crowd ever waits for the parent. The rule: every process started here is gone when the crew closes.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait as wait_readable
from multiprocessing.process import BaseProcess
from typing import Any

from stress_clients import Address, Crowd, Echoed, Order, Plan, Probe, Report, Role, Stopped, Tick, serve
from stress_findings import Findings, Numbers
from stress_frames import HERALD, Talk, split_frames
from stress_garbage import Garbage
from stress_order import NEVER, OneOrder, Reader
from stress_rude import Stall, Storm

CROWDS: dict[Role, type[Crowd]] = {
    Role.CHAT: Crowd,
    Role.PROBE: Probe,
    Role.STALL: Stall,
    Role.STOPPED: Stopped,
    Role.STORM: Storm,
    Role.GARBAGE: Garbage,
}
# Seconds that a client process has to end by itself once its pipe is closed.
END_TIMEOUT = 5.0
# Seconds for a mark to come back to the parent that sent it.
MARK_TIMEOUT = 30.0
# Seconds for all connections to read up to the mark.
FINISH_TIMEOUT = 60.0
# Seconds between two looks at what the listening thread has heard, and between two settlings.
LOOK_EVERY = 0.1
SETTLE_EVERY = 1.0


NOTHING_YET = Tick(0, 0, 0, False, [], 0)


class StressError(Exception):
    """The run cannot go on; says why. Whatever was found until then still counts."""


@dataclass(eq=False)
class Member:
    """What the parent knows of one client process."""

    plan: Plan
    process: BaseProcess
    pipe: "Pipe[Any, Any]"
    reader: Reader
    segment: int = 0
    tick: Tick = NOTHING_YET
    echoed: Echoed | None = None
    report: Report | None = None
    ended: bool = False

    @property
    def alive(self) -> bool:
        """Say whether more will be heard of it."""
        return self.report is None and not self.ended


@dataclass
class Crew:
    """All client processes of a run, and the order that they agree on."""

    talk: Talk
    address: Address
    findings: Findings = field(default_factory=Findings)
    died: list[tuple[Address, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.members: list[Member] = []
        self.numbers = Numbers(self.talk, self.findings)
        self.faults: list[str] = []  # client processes that ended without a report
        self._order = OneOrder(self.talk, self.findings)
        self._lock = threading.Lock()
        self._context = multiprocessing.get_context("spawn")
        self._closing = False
        self._next_settle = 0.0
        self._mark = -1
        self._listener = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._listener.start()

    # Processes.

    def start(self, plan: Plan) -> Member:
        """Start one client process."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve, args=(CROWDS[plan.role], plan, theirs), name=plan.name, daemon=True
        )
        # Ctrl-C reaches the whole group. The child inherits the mask from its first moment; here it is held
        # back until the child is known, and not lost.
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process.start()
            theirs.close()
            member = self._welcome(plan, process, ours)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)
        return member

    def _welcome(self, plan: Plan, process: BaseProcess, pipe: "Pipe[Any, Any]") -> Member:
        with self._lock:
            reader = self._order.add(Reader(plan.name, weight=plan.connections))
            member = Member(plan, process, pipe, reader)
            self.members.append(member)
        return member

    def close(self) -> None:
        """End every client process, one way or another."""
        self._closing = True
        self._listener.join(END_TIMEOUT)
        for member in self.members:
            self.resume_process(member)
            member.pipe.close()
        deadline = time.monotonic() + END_TIMEOUT
        for member in self.members:
            member.process.join(max(0.1, deadline - time.monotonic()))
            if member.process.exitcode is None:
                member.process.kill()
                member.process.join()
            member.process.close()

    def stop_process(self, member: Member) -> None:
        """Stop a client process (SIGSTOP): none of its connections reads."""
        if member.alive and member.process.pid:
            os.kill(member.process.pid, signal.SIGSTOP)

    def resume_process(self, member: Member) -> None:
        """Let it go on."""
        if member.process.exitcode is None and member.process.pid:
            os.kill(member.process.pid, signal.SIGCONT)

    def tell(self, members: Iterable[Member], *command: Any) -> None:
        """Tell client processes what to do."""
        for member in members:
            if member.alive:
                with contextlib.suppress(OSError):
                    member.pipe.send(command)

    def wait(self, what: str, until: Callable[[], bool], seconds: float, idle: Callable[[], None]) -> None:
        """Wait until something is so; past the deadline say what was waited for. ``idle`` runs meanwhile."""
        deadline = time.monotonic() + seconds
        while not until():
            if self.faults:
                raise StressError(self.faults[0])
            if time.monotonic() > deadline:
                raise StressError(f"waited {seconds:.0f} s for {what}")
            idle()
            threading.Event().wait(LOOK_EVERY)

    # The end of a part of the run.

    def finish(self, members: list[Member], idle: Callable[[], None]) -> None:
        """Let members go: their own messages come back, a mark follows, and they read up to it."""
        living = [member for member in members if member.alive]
        self.tell(living, "quiet")
        self.wait(
            "the clients' own messages to come back",
            lambda: all(member.echoed or not member.alive for member in living),
            MARK_TIMEOUT * 2,
            idle,
        )
        self._mark += 1
        _send_mark(self.talk, self.address, self._mark)
        self.tell(living, "finish", self._mark, FINISH_TIMEOUT)
        self.wait(
            "the clients to read to the end",
            lambda: not any(member.alive for member in living),
            FINISH_TIMEOUT + MARK_TIMEOUT,
            idle,
        )

    def judge(self) -> None:
        """Hold everything that was heard against one order, and that against what the senders counted."""
        with self._lock:
            self._order.finish(self._mark)
            self._take_order()
            sent: dict[int, int] = {}
            for member in self.members:
                if member.report:
                    sent.update(member.report.senders)
                    self.findings.add(member.report.findings)
            self.numbers.finish(sent)

    # The listening thread.

    def _listen(self) -> None:
        while not self._closing:
            by_pipe = {member.pipe: member for member in list(self.members) if member.alive}
            if not by_pipe:
                threading.Event().wait(LOOK_EVERY)
                continue
            for pipe in wait_readable(list(by_pipe), LOOK_EVERY):
                member = by_pipe[pipe]  # type: ignore[index]  # what was put in comes out
                try:
                    said = member.pipe.recv()
                except (EOFError, OSError):
                    member.ended = True
                    self.faults.append(f"the client process {member.plan.name} ended without a report")
                    continue
                with self._lock:
                    self._hear(member, said)
            self._settle(time.monotonic())

    def _hear(self, member: Member, said: object) -> None:
        if isinstance(said, Order):
            self._hear_order(member, said)
        elif isinstance(said, Tick):
            member.tick = said
            self.died += said.died
        elif isinstance(said, Echoed):
            member.echoed = said
        elif isinstance(said, Report):
            member.report = said
            if said.lived and not self._order.complete(member.reader, self._mark):
                return  # stays in the order, so that the end names what it lacks
            self._order.close(member.reader)

    def _hear_order(self, member: Member, said: Order) -> None:
        if said.segment != member.segment:
            # All its connections had died. What it tells now begins later than where it was.
            old = member.reader
            self._order.close(old)
            member.segment = said.segment
            member.reader = self._order.add(Reader(old.name, weight=old.weight), floor=old.position)
        if member.reader.joined == NEVER:
            member.reader.joined = said.joined
        self._order.feed(member.reader, said.data)

    def _settle(self, now: float) -> None:
        if now >= self._next_settle:
            self._next_settle = now + SETTLE_EVERY
            with self._lock:
                self._order.settle()
                self._take_order()

    def _take_order(self) -> None:
        for segment, data in self._order.take():
            self.numbers.feed(segment, data)


def _send_mark(talk: Talk, address: Address, number: int) -> None:
    """Send a mark from a connection of its own and wait until it comes back, so that it has its place."""
    deadline = time.monotonic() + MARK_TIMEOUT
    try:
        with socket.create_connection(address, MARK_TIMEOUT) as sock:
            sock.sendall(talk.frame(HERALD, number))
            rest = b""
            while time.monotonic() < deadline:
                data = sock.recv(65536)
                if not data:
                    raise StressError("the server closed the connection that sent a mark")
                frames, rest = split_frames(rest + data)
                for test in filter(None, map(talk.read, frames)):
                    if (test.sender, test.number) == (HERALD, number):
                        return
    except OSError as error:
        raise StressError(f"the mark did not come back: {error}") from None
    raise StressError(f"the mark did not come back within {MARK_TIMEOUT:.0f} s")
