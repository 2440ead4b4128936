"""One stress run from beginning to end, whatever its clients do: the engine under all scenarios.

:class:`Run` has the verbs (start clients, let a phase pass, put faults on it, let clients leave);
:class:`Scenario` is what clients do and what the checker verifies, and its :meth:`Scenario.play` is the order
of phases: idle server → clients join → calm → faults → after → clients leave → idle server → stop. Every wait
has a deadline. Whatever happens, the server, the client processes and the folder are gone at the end.
"""

import random
import tempfile
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from scripts.common.address import Address
from scripts.common.server import HarnessError, Server
from scripts.stress.changes import Changes
from scripts.stress.clients import ClientLoop, Plan
from scripts.stress.faults import Fault, KillWorkers
from scripts.stress.findings import Findings
from scripts.stress.fleet import LOOK_EVERY, ClientProcess, Fleet
from scripts.stress.options import Options
from scripts.stress.report import Verdict
from scripts.stress.start_storm import StartStorm

# Parts of the whole time, when there are faults.
CALM_PART, FAULTS_PART, AFTER_PART = 0.25, 0.5, 0.25
# Seconds for connections to join, or to come back after the faults.
JOIN_TIMEOUT = 120.0
# Seconds for all clients to read to the end and to report.
REPORT_TIMEOUT = 90.0
# Seconds for workers, connections and descriptors to be as few as before once all clients have left.
SETTLE_TIMEOUT = 30.0
# Times its planned length that the phase with faults may take until each fault has done its work.
OVERTIME = 5.0
# Seconds more for each reload and scaling that is wanted: on a busy machine eight workers take that to start.
CHANGE_PATIENCE = 15.0
# Seconds of silence after which the server takes a client for a plain one: on a busy machine a WebSocket
# client may need as long from its connection to its first byte.
LISTEN_GRACE = 20.0

# Gets the name of the phase and how much of it is done, 0 to 1.
Progress = Callable[[str, float], None]


class Scenario:
    """What clients do, and what the checker verifies.

    Started once the server runs. Its docstring is the help text of its command.
    """

    options_type: ClassVar[type[Options]] = Options
    unused: ClassVar[tuple[str, ...]] = ()  # options that its command does not have
    kinds: ClassVar[tuple[str, ...]]  # of findings
    own_servers: ClassVar[bool] = False  # it starts servers itself, and the run starts none
    quiet_timeout = 60.0  # seconds for what is outstanding when the clients stop acting

    def __init__(self, run: "Run") -> None:
        """Prepare for ``run``."""
        self.run = run

    @staticmethod
    def server_options(options: Any, folder: Path) -> tuple[str, ...]:
        """Return more flags for the server that is started; ``folder`` is for files that they name."""
        return ()

    def set_up(self) -> None:
        """Start the scenario's own servers."""

    def take_down(self) -> list[str]:
        """Stop the scenario's own servers; return what is left of them, in words."""
        return []

    def close(self) -> None:
        """Kill what is left of the scenario's own servers; called last, whatever happened."""

    def start(self) -> list[ClientProcess]:
        """Start the clients that stay for the whole run."""
        raise NotImplementedError

    def faults(self) -> dict[str, Fault]:
        """Start the scenario's own faults, for the phase with faults, by name."""
        return {}

    def hear(self, process: ClientProcess, said: object) -> None:
        """Take what a client process reports."""

    def step(self, now: float) -> None:
        """Do what is due while the run waits; ``now``: seconds, monotonic."""

    def before_leaving(self, processes: list[ClientProcess]) -> tuple[Any, ...]:
        """Check what can be checked while the quiet clients are there; return arguments of ``finish``."""
        return ()

    def judge(self, whole: bool) -> None:
        """Check all that was heard; ``whole``: the run was not stopped by an error."""

    def play(self) -> None:
        """Go through the phases of the run."""
        run, seconds = self.run, self.run.options.seconds
        stay = self.start()
        run.verdict.planned = sum(process.plan.connections for process in stay)
        run.join(stay)
        run.fleet.tell(stay, "go")
        run.phase("calm", seconds * (CALM_PART if run.options.any_fault else 1))
        run.snapshot("calm")
        if run.options.any_fault:
            run.hurt(seconds * FAULTS_PART)
            run.join(stay)
            if run.options.kill_workers:
                run.wait_for_workers()
            run.snapshot("after_faults")
            run.phase("after", seconds * AFTER_PART)
        run.snapshot("last")
        run.leave(stay)


class Run:
    """A run under way: its server, its client processes, its faults, and what a scenario does with them."""

    def __init__(
        self, scenario: type[Scenario], options: Options, verdict: Verdict, progress: Progress, folder: Path
    ) -> None:
        """Prepare; ``folder`` is for the server's files."""
        self.options = options
        self.verdict = verdict
        self.progress = progress
        self.chooser = random.Random(options.seed)
        self.name = f"{self.chooser.getrandbits(40):010x}"
        self.findings: Findings = verdict.findings
        self.faults: dict[str, Fault] = {}
        self.server: Server | None = None
        self.folder = folder
        if not options.address and not scenario.own_servers:
            log = Path(options.server_log or folder / "server.log")
            flags = ("--listen-grace", f"{LISTEN_GRACE:g}s", *scenario.server_options(options, folder))
            self.server = Server(folder, "stress", options.workers, log, flags)
        self.fleet = Fleet(lambda process, said: self.scenario.hear(process, said))
        self.scenario = scenario(self)

    def run(self) -> None:
        """Go through all phases; what stops the run becomes a reason against it."""
        try:
            self.progress("start", 0)
            if self.server:
                self.server.start()
                self.snapshot("before")
            self.scenario.set_up()
            try:
                self.scenario.play()
            except HarnessError:
                self._collect(whole=False)
                raise
            self._collect(whole=True)
            self._wait_until_idle()
        except HarnessError as error:
            self.verdict.reasons.append(str(error))
        if self.server and self.server.pid:
            self.progress("stop", 0)
            self.verdict.left += self.server.stop()
        self.verdict.left += self.scenario.take_down()

    def close(self) -> None:
        """Leave nothing behind, whatever happened."""
        try:
            self.fleet.close()
        finally:
            try:
                self.scenario.close()
            finally:
                if self.server:
                    self.server.end()

    # What scenarios do with a run.

    @property
    def address(self) -> Address:
        """Where the server listens; nowhere, when a scenario has servers of its own."""
        if self.server or not self.options.address:
            return self.server.address if self.server else ("", 0)
        host, _, port = self.options.address.rpartition(":")
        return host.strip("[]"), int(port)

    def plan(self, kind: str, connections: int, rate: float = 0.0) -> dict[str, Any]:
        """Return the fields that every plan of a client process has; ``kind`` names the process."""
        number = len(self.fleet.processes) + 1
        return {
            "name": f"{kind}-{number}",
            "number": number,
            "address": self.address,
            "run": self.name,
            "connections": connections,
            "rate": rate,
            "seed": self.options.seed,
            "seconds": self.options.seconds * FAULTS_PART,
        }

    def start(self, loop: type[ClientLoop[Any]], plan: Plan) -> ClientProcess:
        """Start one client process."""
        return self.fleet.start(loop, plan)

    def wait(
        self, what: str, until: Callable[[], bool], seconds: float, idle: Callable[[], None] = lambda: None
    ) -> None:
        """Wait until ``until`` is true and call ``idle`` meanwhile; raise HarnessError after ``seconds``."""
        deadline = time.monotonic() + seconds
        while not until():
            if self.server and not self.server.alive:
                raise HarnessError("the server has ended")
            if time.monotonic() > deadline:
                raise HarnessError(f"waited {seconds:.0f} s for {what}")
            self.scenario.step(time.monotonic())
            idle()
            self.fleet.look()

    def join(self, processes: list[ClientProcess]) -> None:
        """Wait until all connections of ``processes`` are there."""
        planned = sum(process.plan.connections for process in processes)

        def joined() -> int:
            return sum(process.tick.joined for process in processes)

        for process in processes:
            process.tick = process.tick._replace(joined=0)  # wait for news
        self.wait(
            f"{planned} connections to join",
            lambda: joined() == planned,
            JOIN_TIMEOUT,
            lambda: self.progress("join", joined() / planned),
        )

    def phase(self, name: str, seconds: float) -> None:
        """Let time pass; clients know the phase's name, and faults take their steps.

        The phase is over early when there are no faults and all clients have done what they were to do. It
        lasts longer when a fault is not done; past a deadline that is a reason against the run.
        """
        processes = [process for process in self.fleet.processes if process.report is None]
        self.fleet.tell(processes, "phase", name)
        begin = time.monotonic()
        faults = self.faults if name == "faults" else {}

        def idle() -> None:
            now = time.monotonic()
            for fault in faults.values():
                fault.step(now)
            self.progress(name, min(1.0, (now - begin) / seconds))

        def over() -> bool:
            if time.monotonic() - begin >= seconds:
                return all(fault.done() for fault in faults.values())
            return not self.options.any_fault and all(process.tick.complete for process in processes)

        patience = seconds * OVERTIME + JOIN_TIMEOUT + sum(self.options.changes.values()) * CHANGE_PATIENCE
        self._wait_or_note(f"the end of phase {name}", over, patience, idle)
        self.fleet.tell(processes, "phase", "")

    def hurt(self, seconds: float) -> None:
        """Let the phase with faults pass, from the joining of the faults' own clients to their leaving."""
        options = self.options
        if options.kill_workers and self.server:
            self.faults["kill_workers"] = KillWorkers(self.server, self.chooser, options.kill_every)
        if options.changes and self.server:
            self.faults["changes"] = Changes(self.server, self.chooser, options.changes, options.scale_most)
        self.faults |= self.scenario.faults()
        own = [process for fault in self.faults.values() for process in fault.processes]
        if own:
            self.join(own)
            self.fleet.tell(own, "go")
        self.phase("faults", seconds)
        for fault in self.faults.values():
            fault.end()
        if own:
            self.leave(own)

    def leave(self, processes: list[ClientProcess]) -> None:
        """Let clients leave: they act no more, what is outstanding comes, they are checked, and report."""
        self.progress("leave", 0)
        living = [process for process in processes if process.report is None]
        self.fleet.tell(living, "quiet")
        self._wait_or_note(
            "the clients to be quiet",
            lambda: all(process.tick.quiet for process in living),
            self.scenario.quiet_timeout,
        )
        self.fleet.tell(living, "finish", *self.scenario.before_leaving(living))
        self._wait_for_reports(living)
        self.progress("leave", 1)

    def wait_for_workers(self) -> None:
        """Wait until every worker serves again."""
        if self.server:
            self.wait("every worker to serve again", self.server.all_running, JOIN_TIMEOUT)

    def snapshot(self, name: str) -> None:
        """Measure what the server uses now."""
        if self.server:
            self.verdict.snapshots[name] = self.server.snapshot()

    def _wait_or_note(
        self, what: str, until: Callable[[], bool], seconds: float, idle: Callable[[], None] = lambda: None
    ) -> None:
        """Wait; a wait that takes too long is a reason against the run, and the run continues."""
        deadline = time.monotonic() + seconds
        self.wait(what, lambda: until() or time.monotonic() > deadline, seconds * 2, idle)
        if not until():
            self.verdict.reasons.append(f"waited {seconds:.0f} s for {what}")

    def _wait_for_reports(self, processes: list[ClientProcess]) -> None:
        self.wait(
            "the client processes' reports",
            lambda: all(process.report is not None for process in processes),
            REPORT_TIMEOUT,
        )

    # The end.

    def _collect(self, whole: bool) -> None:
        """Put all that is known into the verdict."""
        verdict = self.verdict
        if not whole:  # what the clients have found until now may say why
            for process in self.fleet.processes:
                process.resume()
            self.fleet.tell(self.fleet.processes, "finish")
            with suppress(HarnessError):
                self._wait_for_reports(self.fleet.processes)
        for process in self.fleet.processes:
            verdict.counts += (process.report or process.tick).counts
            if process.report:
                self.findings.add(process.report.findings)
                verdict.add_latency(process.report.latency)
        self.scenario.judge(whole)
        killing = self.options.kill_workers
        verdict.faults |= {name: fault.facts() for name, fault in self.faults.items()}
        verdict.reasons += [text for fault in self.faults.values() for text in fault.reasons(killing)]
        kills = self.faults.get("kill_workers")
        peers = kills.peers if isinstance(kills, KillWorkers) else set()
        verdict.died = sum(address in peers for address, _ in self.fleet.died)
        verdict.dropped += [f"dropped: {why}" for address, why in self.fleet.died if address not in peers]

    def _wait_until_idle(self) -> None:
        """Wait until the server is as it was before the clients came; otherwise the verdict says so."""
        if not self.server:
            return
        deadline = time.monotonic() + SETTLE_TIMEOUT
        before = self.verdict.snapshots["before"]
        while True:
            end = self.verdict.snapshots["end"] = self.server.snapshot()
            steady = min(end.descriptors.values()) >= 0  # no worker is being replaced
            if (steady and not end.growth(before)) or time.monotonic() > deadline:
                return
            time.sleep(LOOK_EVERY)


def run(name: str, scenario: type[Scenario], options: Options, progress: Progress) -> Verdict:
    """Do a whole run of ``scenario`` and return the verdict; nothing that was started is left."""
    verdict = Verdict(name, scenario.kinds, asdict(options))
    with tempfile.TemporaryDirectory(prefix="mpstress-") as folder:
        if options.start_storm:
            storm = StartStorm(Path(folder), options.starts, options.rounds)
            storm.run(lambda part: progress("start storm", part))
            verdict.faults["start_storm"] = storm.facts()
            verdict.reasons += storm.wrong
        if options.seconds:
            with closing(Run(scenario, options, verdict, progress, Path(folder))) as under_way:
                under_way.run()
    verdict.conclude()
    return verdict
