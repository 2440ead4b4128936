"""One stress run of named clients: everybody comes, acts and is cut, grows quiet, and is counted.

The order of things is here and nowhere else. Every phase has a deadline; whatever goes wrong, the server, the
client processes and the folder made here are gone at the end.
"""

import multiprocessing
import queue
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import count
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table
from stress_changes import RELOAD, SCALE, Changes
from stress_clients import Address
from stress_crew import StressError
from stress_faults import KillWorkers
from stress_people_check import KINDS, Ledger, Mailbox, Present, Wrong, census
from stress_people_client import Census, Plan, Report, Tick, serve
from stress_server import Server, Snapshot

# Seconds for everybody to come, and for the answers of all processes.
COME_TIMEOUT = 120.0
ANSWER_TIMEOUT = 60.0
# Seconds for descriptors to be as few as before once everybody has left.
SETTLE_TIMEOUT = 30.0
# Times its planned length that the acting may take until all cuts were made.
OVERTIME = 10.0
# Seconds between two looks at what the processes say.
LOOK_EVERY = 0.1
# History that a room keeps, in messages: few enough that some who come back have missed more.
HISTORY = 300

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Options:
    """What was asked for; the flags of the command, by name."""

    seconds: float
    processes: int
    clients: int
    rooms: int
    rate: float
    cuts: int
    workers: int
    name_hold: float
    patience: float
    reload: bool
    reloads: int
    scale: bool
    scalings: int
    scale_most: int
    kill: bool
    kill_every: float
    server_log: str
    seed: int


@dataclass
class Verdict:
    """Everything that a run found out; :meth:`as_dict` is what ``--json`` prints."""

    options: dict[str, Any]
    wrong: Wrong = field(default_factory=Wrong)
    reasons: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    rooms: int = 0
    seconds: float = 0.0
    died: int = 0
    dropped: list[str] = field(default_factory=list)
    faults: dict[str, dict[str, Any]] = field(default_factory=dict)
    snapshots: dict[str, Snapshot] = field(default_factory=dict)
    left: list[str] = field(default_factory=list)

    def conclude(self) -> None:
        """Collect the reasons against a clean verdict."""
        self.reasons += [f"{self.wrong.counts[kind]} {kind}" for kind in KINDS if self.wrong.counts[kind]]
        if self.dropped:
            self.reasons.append(f"{len(self.dropped)} connections ended without cause")
        if not self.counts["deliveries"]:
            self.reasons.append("nothing was delivered, so nothing was shown")
        if (made := self.counts["cuts"]) < (wanted := self.options["cuts"]):
            self.reasons.append(f"{made} connections were cut, {wanted} were to be")
        self.reasons += self.left
        before, end = self.snapshots.get("before"), self.snapshots.get("end")
        if before and end:
            for name, count in end.descriptors.items():
                if count > before.descriptors.get(name, 0):
                    self.reasons.append(
                        f"{name} has {count} descriptors, {before.descriptors.get(name, 0)} before"
                    )
        changes = self.faults.get("changes", {})
        if changes.get("missing"):
            self.reasons.append(f"{changes['missing']} of the wanted reloads and scalings were not done")
        if not self.options["kill"]:  # else some may fail: their worker was killed
            self.reasons += [
                f"{changes[name]} connections {name} at reloads and scalings"
                for name in ("failed", "lost")
                if changes.get(name)
            ]
            self.reasons += changes.get("wrong", [])

    def as_dict(self) -> dict[str, Any]:
        return {
            "clean": not self.reasons,
            "reasons": self.reasons,
            "run": self.options,
            "wrong": {kind: self.wrong.counts[kind] for kind in KINDS},
            "examples": self.wrong.examples + self.dropped[:10],
            "seconds": round(self.seconds, 1),
            "messages": self.messages,
            "rooms": self.rooms,
            "died": self.died,
            "dropped": self.dropped,
            "counts": dict(sorted(self.counts.items())),
            "faults": self.faults,
            "server": {name: each._asdict() for name, each in self.snapshots.items()},
        }

    def show(self, console: Console) -> None:
        """Print the table."""
        table = Table(title="stress, people: the verdict", show_header=False, title_justify="left")
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for kind in KINDS:
            count = self.wrong.counts[kind]
            table.add_row(kind, f"[{'red' if count else 'green'}]{count}")
        table.add_section()
        counts = self.counts
        table.add_row(
            "messages",
            f"{self.messages} in {self.rooms} rooms, {counts['deliveries']} deliveries checked, "
            f"{counts['privates']} private ones",
        )
        table.add_row(
            "cuts",
            f"{counts['cuts']} in {self.seconds:.0f} s: "
            + ", ".join(
                f"{name[5:]} {count}" for name, count in sorted(counts.items()) if name[:5] == "cut: "
            ),
        )
        table.add_row(
            "came back",
            f"{counts['welcomes']} welcomes, {counts['recovered']} without a gap, {counts['gaps']} with one "
            f"that was named; {self.died} died with a worker, {len(self.dropped)} ended without cause",
        )
        table.add_row(
            "names",
            f"{counts['name_taken']} refused to strangers, {counts['inherited']} inherited after their time, "
            f"{counts['renamed']} lost by owners who had not heard of a new token or had left in order",
        )
        for name, facts in self.faults.items():
            table.add_row(name, ", ".join(f"{key} {value}" for key, value in facts.items()))
        console.print(table)
        for example in self.wrong.examples + self.dropped[:10]:
            console.print(f"  {example}", markup=False, highlight=False)
        for reason in self.reasons:
            console.print(f"[red]not clean:[/] {reason}", highlight=False)
        if not self.reasons:
            console.print("[green]clean[/]")


class _Process:
    """What the parent knows of one client process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(plan, theirs), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()
        self.cuts = self.here = 0
        self.quiet = False
        self.census: Census | None = None
        self.report: Report | None = None

    def tell(self, *command: Any) -> None:
        with suppress(OSError):
            self.pipe.send(command)

    def close(self) -> None:
        self.pipe.close()
        self.process.join(5.0)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        self.process.close()


def run(options: Options, progress: Progress) -> Verdict:
    """Do the whole run and return the verdict; nothing that was started is left."""
    verdict = Verdict(asdict(options))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpstress-")))
        _Run(options, verdict, progress, stack, folder).run()
    verdict.conclude()
    return verdict


class _Server(Server):
    """One that forgets and lets go of names soon enough to be seen."""

    hold = 0.0

    def start_options(self) -> tuple[str, ...]:
        own = ("--name-hold", f"{self.hold:g}s", "--history-messages", str(HISTORY))
        return (*super().start_options(), *own)


class _Run:
    def __init__(
        self, options: Options, verdict: Verdict, progress: Progress, stack: ExitStack, folder: Path
    ) -> None:
        self.options = options
        self.verdict = verdict
        self.progress = progress
        self.stack = stack
        self.chooser = random.Random(options.seed)
        self.run_name = f"{self.chooser.getrandbits(24):06x}"
        log = Path(options.server_log or folder / "server.log")
        self.server = _Server(folder, "people", options.workers, log)
        self.server.hold = options.name_hold
        stack.callback(self.server.end)
        self.ledger = Ledger(self.run_name, verdict.wrong, looking=False)
        self.processes: list[_Process] = []
        self.died: list[tuple[Address, str]] = []
        self.kills: KillWorkers | None = None
        self.changes: Changes | None = None
        self._said: queue.SimpleQueue[tuple[_Process, object]] = queue.SimpleQueue()
        self._closing = False

    def run(self) -> None:
        """Go through all phases; what stops the run becomes a reason."""
        verdict = self.verdict
        try:
            self.progress("start", 0)
            self.server.start()
            verdict.snapshots["before"] = self.server.snapshot()
            try:
                self._begin()
                self._act()
                self._grow_quiet()
                self._count()
            finally:
                self._collect()
            self._settle()
        except StressError as error:
            verdict.reasons.append(str(error))
        if self.server.pid:
            self.progress("stop", 0)
            verdict.left += self.server.stop()

    # The client processes.

    def _begin(self) -> None:
        options = self.options
        for number in range(options.processes):
            plan = Plan(
                number,
                self.server.address,
                self.run_name,
                options.clients,
                options.rooms,
                options.rate / options.processes,
                options.cuts // options.processes + (number < options.cuts % options.processes),
                options.seconds,
                options.name_hold,
                options.patience,
                options.seed,
            )
            self.processes.append(_Process(plan))
        self.stack.callback(self._close)
        threading.Thread(target=self._listen, name="listener", daemon=True).start()
        wanted = options.processes * options.clients
        self._wait("everybody to come", lambda: self._here() >= wanted, COME_TIMEOUT, "coming")

    def _close(self) -> None:
        self._closing = True
        for each in self.processes:
            each.close()

    def _listen(self) -> None:
        pipes = {each.pipe: each for each in self.processes}
        while pipes and not self._closing:
            for pipe in wait(list(pipes), LOOK_EVERY):
                process = pipes[pipe]  # type: ignore[index]  # what was put in comes out
                try:
                    self._said.put((process, process.pipe.recv()))
                except (EOFError, OSError):
                    del pipes[process.pipe]
                    self._said.put((process, None))

    def _hear(self) -> None:
        with suppress(queue.Empty):
            while True:
                process, said = self._said.get_nowait()
                self._take(process, said)

    def _take(self, process: _Process, said: object) -> None:
        if isinstance(said, Tick):
            process.cuts, process.here, process.quiet = said.cuts, said.here, said.quiet
            self.died += said.died
            for each in said.heard:
                self.ledger.heard(f"process {process.plan.number}", each)
        elif isinstance(said, Census):
            process.census = said
        elif isinstance(said, Report):
            process.report = said
        elif process.report is None and not self._closing:
            raise StressError(f"the client process {process.plan.number} ended without a report")

    def _here(self) -> int:
        return sum(each.here for each in self.processes)

    def _tell(self, *command: Any) -> None:
        for each in self.processes:
            each.tell(*command)

    def _wait(self, what: str, until: Callable[[], bool], seconds: float, phase: str) -> None:
        begun = time.monotonic()
        while not until():
            past = time.monotonic() - begun
            if past > seconds:
                raise StressError(f"waited {seconds:.0f} s for {what}")
            self.progress(phase, past / seconds)
            threading.Event().wait(LOOK_EVERY)
            self._hear()

    # The phases.

    def _act(self) -> None:
        options = self.options
        if options.kill:
            self.kills = KillWorkers(self.server, self.chooser, options.kill_every)
        wanted = {RELOAD: options.reloads} if options.reload else {}
        wanted |= {SCALE: options.scalings} if options.scale else {}
        if wanted:
            self.changes = Changes(self.server, self.chooser, wanted, options.scale_most)
            self.stack.callback(self.changes.close)
        faults = [each for each in (self.kills, self.changes) if each is not None]
        self._tell("act")
        begun = time.monotonic()
        while True:
            threading.Event().wait(LOOK_EVERY)
            self._hear()
            if not psutil.pid_exists(self.server.pid):
                raise StressError("the server has ended")
            now = time.monotonic()
            past = now - begun
            done = sum(each.cuts for each in self.processes) >= options.cuts
            done = done and past > options.seconds and all(each.done() for each in faults)
            if done or past > options.seconds * OVERTIME:
                break
            for each in faults:
                each.step(now)
            self.progress("acting", min(1.0, past / options.seconds))
        self.verdict.seconds = past
        for each in faults:
            each.end()

    def _grow_quiet(self) -> None:
        """Let nobody do anything more; who is still waiting after a while is found by the census."""
        self._tell("quiet")
        for each in self.processes:
            each.quiet = False
        try:
            self._wait("the quiet at the end", self._is_quiet, 2 * self.options.patience, "quiet")
        except StressError as error:
            self.verdict.reasons.append(str(error))

    def _is_quiet(self) -> bool:
        return all(each.quiet for each in self.processes)

    def _count(self) -> None:
        """Ask who is there until the books agree, or it is clear that they do not."""
        deadline = time.monotonic() + self.options.patience
        for number in count(1):
            self._tell("census", number)
            self._wait("who is where", partial(self._has_counted, number), ANSWER_TIMEOUT, "counting")
            found = self._judge_census()
            if not found.counts or time.monotonic() > deadline:
                self.verdict.wrong.add(found)
                return

    def _has_counted(self, number: int) -> bool:
        return all(each.census is not None and each.census.round == number for each in self.processes)

    def _judge_census(self) -> Wrong:
        found = Wrong()
        books = [each.census for each in self.processes if each.census is not None]
        present: list[Present] = [each for book in books for each in book.present]
        last = {room: self.ledger.last[epoch, room] for epoch, room in self.ledger.last}
        for book in books:
            census(present, book.who, lambda room: last.get(room, 0), found)
        if len(present) != self.options.processes * self.options.clients:
            found.note("hung", f"{len(present)} clients are there at the end")
        return found

    def _collect(self) -> None:
        """Let everybody go, and judge all that was reported."""
        verdict = self.verdict
        self._tell("finish")
        mailbox = Mailbox(verdict.wrong)
        try:
            if self.processes:
                self._wait(
                    "the reports",
                    lambda: all(each.report is not None for each in self.processes),
                    ANSWER_TIMEOUT,
                    "reports",
                )
        finally:
            for report in [each.report for each in self.processes if each.report is not None]:
                verdict.wrong.add(report.wrong)
                verdict.counts += report.counts
                self.ledger.owed += report.owed
                mailbox.told += report.told
                mailbox.got |= report.got
                for name, spans in report.spans.items():
                    mailbox.spans.setdefault(name, []).extend(spans)
                for (epoch, room), seq in report.last.items():
                    self.ledger.reached(epoch, room, seq)
            mailbox.judge()
            self.ledger.judge()
            verdict.messages, verdict.rooms = len(self.ledger), len(self.ledger.rooms)
            peers = self.kills.peers if self.kills else set()
            verdict.died = sum(address in peers for address, _ in self.died)
            verdict.dropped = [why for address, why in self.died if address not in peers]
            if self.kills:
                verdict.faults["kills"] = self.kills.facts()
            if self.changes:
                verdict.faults["changes"] = self.changes.facts()

    def _settle(self) -> None:
        """Wait until the server is as it was before anybody came; where it is not, the verdict says so."""
        deadline = time.monotonic() + SETTLE_TIMEOUT
        before = self.verdict.snapshots["before"].descriptors
        while True:
            after = self.server.snapshot()
            few = all(0 <= count <= before.get(name, 0) for name, count in after.descriptors.items())
            if (few and self.server.connections() == 0) or time.monotonic() > deadline:
                break
        self.verdict.snapshots["end"] = after
        if left := self.server.connections():
            self.verdict.reasons.append(f"{left} connections are left after all clients have gone")
