"""One stress run from beginning to end: a server, a crowd of clients, a calm phase, faults, and what is left.

The order of things is here and nowhere else: idle server → clients join → calm → fault clients join → faults
→ fault clients go → after → clients go → idle server → stop. Every phase has a deadline; whatever goes
wrong, the server, the client processes and the folder made here are gone at the end."""

import random
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from stress_changes import RELOAD, SCALE, Changes
from stress_clients import Address, Plan, Role
from stress_crew import Crew, Member, StressError
from stress_faults import Fault, GarbageInputs, KillWorkers, Stalls, Storms
from stress_frames import Talk
from stress_report import Verdict
from stress_server import Server, Snapshot, StartStorm

# Parts of the whole time, when there are faults.
CALM_PART, FAULTS_PART, AFTER_PART = 0.25, 0.5, 0.25
# Part of the phase with faults in which the garbage is sent; the rest is for the answers.
GARBAGE_PART = 0.7
# Seconds for connections to join, or to come back after the faults.
JOIN_TIMEOUT = 120.0
# Seconds for workers, connections and descriptors to be as they should once everybody has left.
SETTLE_TIMEOUT = 30.0
# Times its planned length that the phase with faults may take until each fault has done its work.
OVERTIME = 3.0
# Seconds more for each reload and scaling that is wanted: on a busy machine eight workers take that to start.
CHANGE_PATIENCE = 15.0
# Connections of the client process that sends garbage, and of the one that is stopped.
GARBAGE_CONNECTIONS = 20
STOPPED_CONNECTIONS = 20

# Gets the name of the phase and how much of it is done, 0 to 1.
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Options:
    """What was asked for; the flags of the command, by name."""

    address: str
    seconds: float
    processes: int
    connections: int
    messages: int
    rate: float
    size: int
    probes: int
    workers: int
    kill_workers: bool
    kill_every: float
    stall: bool
    stalled: int
    garbage: bool
    garbage_inputs: int
    disconnect_storm: bool
    storm_clients: int
    reload: bool
    reloads: int
    scale: bool
    scalings: int
    scale_most: int
    start_storm: bool
    starts: int
    rounds: int
    max_p99_ratio: float | None
    server_log: str
    seed: int

    @property
    def any_fault(self) -> bool:
        """Say whether there is a phase with faults."""
        return self.kill_workers or self.stall or self.garbage or self.disconnect_storm or self.any_change

    @property
    def changes(self) -> int:
        """Return how many reloads and scalings are wanted."""
        return self.reload * self.reloads + self.scale * self.scalings

    @property
    def any_change(self) -> bool:
        """Say whether connections are moved."""
        return self.reload or self.scale


def run(options: Options, progress: Progress) -> Verdict:
    """Do the whole run and return the verdict; nothing that was started is left."""
    verdict = Verdict(asdict(options))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mpstress-")))
        if options.start_storm:
            storm = StartStorm(folder, options.starts, options.rounds)
            storm.run(lambda: progress("start storm", storm.done / storm.rounds))
            verdict.faults["start_storm"] = {
                "rounds": storm.done,
                "starts": storm.starts,
                "wrong": storm.wrong,
            }
        if options.seconds:
            _Run(options, verdict, progress, stack, folder).run()
    verdict.conclude(options.max_p99_ratio)
    return verdict


class _Run:
    """The chat part of a run."""

    def __init__(
        self, options: Options, verdict: Verdict, progress: Progress, stack: ExitStack, folder: Path
    ) -> None:
        self.options = options
        self.verdict = verdict
        self.progress = progress
        self.chooser = random.Random(options.seed)
        self.talk = Talk(f"{self.chooser.getrandbits(40):010x}")
        self.stack = stack
        self.server = self._server(folder)
        self.crew: Crew | None = None
        self.faults: dict[str, Fault] = {}
        self._crowds = 0

    def _server(self, folder: Path) -> Server | None:
        if self.options.address:
            return None
        log = Path(self.options.server_log or folder / "server.log")
        server = Server(folder, "stress", self.options.workers, log)
        self.stack.callback(server.end)
        return server

    def run(self) -> None:
        """Go through all phases; what stops the run becomes a reason."""
        try:
            self._serve()
            crew = self.crew = Crew(self.talk, self._address())
            self.stack.callback(crew.close)
            try:
                self._chat(crew)
            finally:
                self._collect(crew)
            self._idle_again()
        except StressError as error:
            self.verdict.reasons.append(str(error))
        if self.server and self.server.pid:
            self.progress("stop", 0)
            self._ask_who_was_sent_away(self.server)
            self.verdict.left += self.server.stop()

    # The server's side.

    def _serve(self) -> None:
        self.progress("start", 0)
        if self.server:
            self.server.start()
            self._snapshot("before")

    def _address(self) -> Address:
        if self.server:
            return self.server.address
        host, _, port = self.options.address.rpartition(":")
        return host.strip("[]"), int(port)

    def _snapshot(self, name: str) -> None:
        if self.server:
            self.verdict.snapshots[name] = self.server.snapshot()

    def _idle_again(self) -> None:
        """Wait until the server is as it was before anybody came; where it is not, the verdict says so."""
        if not self.server:
            return
        deadline = time.monotonic() + SETTLE_TIMEOUT
        before = self.verdict.snapshots["before"]
        while True:
            after = self.server.snapshot()
            if (_as_few(before, after) and self.server.connections() == 0) or time.monotonic() > deadline:
                break
        self.verdict.snapshots["end"] = after
        connections = self.server.connections()
        if connections:
            self.verdict.reasons.append(f"{connections} connections are left after all clients have gone")

    def _ask_who_was_sent_away(self, server: Server) -> None:
        """Ask the server how many it did not let in: only it can tell them from those that it ended."""
        try:
            self.verdict.refused = server.status()["refused"]
        except StressError as error:
            self.verdict.reasons.append(str(error))

    # The clients' side.

    def _chat(self, crew: Crew) -> None:
        """Calm, faults, after; then everybody goes."""
        options = self.options
        chats = [
            self._start(crew, Role.CHAT, options.connections, options.rate / options.processes)
            for _ in range(options.processes)
        ]
        members = [*chats, self._start(crew, Role.PROBE, options.probes)]
        self.verdict.planned = sum(member.plan.connections for member in members)
        self._join(crew, members)
        crew.tell(chats, "go")
        self._phase(crew, "calm", options.seconds * (CALM_PART if options.any_fault else 1))
        self._snapshot("calm")
        if options.any_fault:
            self._hurt(crew)
            self._join(crew, members)
            self._wait_for_workers(crew)
            self._snapshot("after_faults")
            self._phase(crew, "after", options.seconds * AFTER_PART)
            self._snapshot("last")
        self.progress("finish", 0)
        crew.finish(members, self._idle)
        self.progress("finish", 1)
        crew.judge()

    def _start(self, crew: Crew, role: Role, connections: int, rate: float = 0.0) -> Member:
        options = self.options
        self._crowds += 1
        plan = Plan(
            role=role,
            number=self._crowds,
            address=crew.address,
            run=self.talk.run,
            connections=connections,
            rate=rate,
            messages=options.messages,
            size=options.size,
            seed=options.seed,
            inputs=options.garbage_inputs,
            over=max(0.1, options.seconds * FAULTS_PART * GARBAGE_PART),
        )
        return crew.start(plan)

    def _join(self, crew: Crew, members: list[Member]) -> None:
        planned = sum(member.plan.connections for member in members)

        def joined() -> int:
            return sum(member.tick.joined for member in members)

        def idle() -> None:
            self.progress("join", joined() / planned)

        for member in members:
            member.tick = member.tick._replace(joined=0)  # wait for news
        crew.wait(f"{planned} connections to join", lambda: joined() == planned, JOIN_TIMEOUT, idle)

    def _phase(self, crew: Crew, name: str, seconds: float) -> None:
        """Let time pass, step the faults, and measure latencies under the phase's name."""
        crew.tell(crew.members, "phase", name)
        begin = time.monotonic()
        senders = [member for member in crew.members if member.plan.role is Role.CHAT]
        faults = list(self.faults.values()) if name == "faults" else []

        def idle() -> None:
            now = time.monotonic()
            for fault in faults:
                fault.step(now)
            self.progress(name, min(1.0, (now - begin) / seconds))

        def over() -> bool:
            if time.monotonic() - begin >= seconds:
                return all(fault.done() for fault in faults)
            return not self.options.any_fault and all(member.tick.complete for member in senders)

        patience = seconds * OVERTIME + JOIN_TIMEOUT + self.options.changes * CHANGE_PATIENCE
        crew.wait(f"the end of phase {name}", over, patience, idle)
        crew.tell(crew.members, "phase", "")

    def _hurt(self, crew: Crew) -> None:
        """The phase with faults, from the joining of those who cause them to their going."""
        members = self._fault_members(crew)
        if members:
            self._join(crew, members)
        crew.tell([member for member in members if member.plan.role is Role.GARBAGE], "go")
        chats = [member for member in crew.members if member.plan.role is Role.CHAT]
        crew.tell(chats, "halves", self.options.any_change)
        self._phase(crew, "faults", self.options.seconds * FAULTS_PART)
        crew.tell(chats, "halves", False)
        for fault in self.faults.values():
            fault.end()
        if members:
            crew.finish(members, self._idle)

    def _fault_members(self, crew: Crew) -> list[Member]:
        options = self.options
        members = []
        if options.kill_workers and self.server:
            self.faults["kill_workers"] = KillWorkers(self.server, self.chooser, options.kill_every)
        if options.any_change and self.server:
            self.faults["changes"] = self._changes(self.server)
        if options.stall:
            stalled = self._start(crew, Role.STALL, options.stalled + 1)
            stopped = self._start(crew, Role.STOPPED, STOPPED_CONNECTIONS)
            self.faults["stall"] = Stalls(crew, stalled, stopped)
            members += [stalled, stopped]
        if options.garbage:
            members.append(self._start(crew, Role.GARBAGE, GARBAGE_CONNECTIONS))
            self.faults["garbage"] = GarbageInputs(members[-1])
        if options.disconnect_storm:
            members.append(self._start(crew, Role.STORM, options.storm_clients + 1))
            self.faults["disconnect_storm"] = Storms(crew, members[-1])
        return members

    def _changes(self, server: Server) -> Changes:
        options = self.options
        wanted = {RELOAD: options.reloads} if options.reload else {}
        if options.scale:
            wanted[SCALE] = options.scalings
        changes = Changes(server, self.chooser, wanted, options.scale_most)
        self.stack.callback(changes.close)
        return changes

    def _wait_for_workers(self, crew: Crew) -> None:
        if self.server:
            crew.wait("every worker to serve again", self.server.all_running, JOIN_TIMEOUT, self._idle)

    def _idle(self) -> None:
        """Nothing is to be done while waiting."""

    def _collect(self, crew: Crew) -> None:
        """Put what the crew knows into the verdict."""
        verdict = self.verdict
        verdict.findings = crew.findings
        verdict.in_order, verdict.others = crew.numbers.messages, crew.numbers.others
        for member in crew.members:
            verdict.sent += member.tick.sent
            verdict.deliveries += member.tick.delivered
            verdict.halves += member.report.extra.get("halves", 0) if member.report else 0
            for phase, latency in member.report.latency.items() if member.report else ():
                if phase in verdict.latency:
                    verdict.latency[phase].add(latency)
                else:
                    verdict.latency[phase] = latency
        verdict.faults |= {name: fault.facts() for name, fault in self.faults.items()}
        kills = self.faults.get("kill_workers")
        peers = kills.peers if isinstance(kills, KillWorkers) else set()
        verdict.died = sum(address in peers for address, _ in crew.died)
        verdict.dropped = [f"dropped: {why}" for address, why in crew.died if address not in peers]


def _as_few(before: Snapshot, after: Snapshot) -> bool:
    """Say whether the server uses no more processes and descriptors than before."""
    return after.processes <= before.processes and all(
        0 <= count <= before.descriptors.get(name, 0) for name, count in after.descriptors.items()
    )
