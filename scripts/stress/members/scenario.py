"""The scenario of members: how they are started, and compared with each other at the end."""

import time
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import click

from scripts.stress.engine import Run, Scenario
from scripts.stress.faults import Fault, Storms
from scripts.stress.findings import Findings
from scripts.stress.fleet import ClientProcess
from scripts.stress.members.census import compare
from scripts.stress.members.clients import Census, MembersLoop, MembersReport
from scripts.stress.members.ledger import Ledger
from scripts.stress.members.mailbox import Mailbox
from scripts.stress.members.member import MembersPlan
from scripts.stress.options import Options, option

# Seconds for the answers of all processes to a census.
ANSWER_TIMEOUT = 60.0
# History that a room keeps, in messages: few enough that some members that come back have missed more.
HISTORY = 300
# What the counts of cuts begin with.
CUT = "cut: "


@dataclass(frozen=True, kw_only=True)
class MembersOptions(Options):
    """The options of members."""

    connections: int = option(100, "Members of each client process.", click.IntRange(2, 5000))
    rate: float = option(200.0, "Actions a second, of all members together.", click.FloatRange(1))
    rooms: int = option(20, "Rooms.", click.IntRange(1, 1000))
    cuts: int = option(1000, "Connections to cut while there are faults, of all together.", click.IntRange(0))
    name_hold: float = option(10.0, "Seconds that the server holds names.", click.FloatRange(1))
    patience: float = option(60.0, "Seconds that answers may take.", click.FloatRange(1))

    @property
    def any_fault(self) -> bool:
        """Say whether there is a phase with faults."""
        return super().any_fault or self.cuts > 0


class Cuts(Fault):
    """Connections that members cut; their processes pace themselves."""

    def __init__(self, members: list[ClientProcess], wanted: int) -> None:
        """Count the cuts of ``members``, which are there during the whole run."""
        self._members = members
        self._wanted = wanted

    def _made(self) -> int:
        return sum(process.count("cuts") for process in self._members)

    def done(self) -> bool:
        """Say whether all cuts were made."""
        return self._made() >= self._wanted

    def facts(self) -> dict[str, Any]:
        """Return the number of cuts, of each kind."""
        kinds = {name for process in self._members for name in process.tick.counts if name.startswith(CUT)}
        by_kind = {
            name[len(CUT) :]: sum(process.count(name) for process in self._members) for name in sorted(kinds)
        }
        return {"cuts": self._made(), **by_kind}

    def reasons(self, killing: bool) -> list[str]:
        """Return how many cuts are missing."""
        made = self._made()
        return [] if made >= self._wanted else [f"{made} connections were cut, {self._wanted} were to be"]


class MembersScenario(Scenario):
    """Clients with a name that come back.

    Members say numbered messages in rooms and in private, change rooms and ask which members are there;
    strangers try their names. They are cut off at any moment, and come back with name, token and the number
    of the last message that they have seen. Every message, number, notice and name that a member receives is
    checked.
    """

    options_type = MembersOptions
    kinds = ("lost", "doubled", "reordered", "differing", "strange", "names", "members", "private", "hung")
    rounds = 1  # of the census that must be right at the end

    def __init__(self, run: Run) -> None:
        """Prepare for ``run``."""
        super().__init__(run)
        assert isinstance(run.options, MembersOptions)
        self.options = run.options
        self.quiet_timeout = 2 * run.options.patience
        self.ledger = Ledger(run.name, run.findings)
        self.mailbox = Mailbox(run.findings)
        self.members: list[ClientProcess] = []
        self._census: dict[ClientProcess, Census] = {}

    @staticmethod
    def server_options(options: Any, folder: Path) -> tuple[str, ...]:
        """Let the server forget messages and release names soon enough to be seen."""
        limits = ("--history-messages", str(HISTORY), "--max-rooms-per-address", "0")
        return ("--name-hold", f"{options.name_hold:g}s", *limits)

    def start(self) -> list[ClientProcess]:
        """Start the members."""
        options = self.options
        for number in range(options.processes):
            cuts = options.cuts // options.processes + (number < options.cuts % options.processes)
            rate = options.rate / options.processes
            self.members.append(self.start_members("members", options.connections, rate, cuts))
        return self.members

    def start_members(self, kind: str, connections: int, rate: float = 0.0, cuts: int = 0) -> ClientProcess:
        """Start a process of ``connections`` members that act ``rate`` times a second and are cut."""
        options = self.options
        plan = MembersPlan(
            **self.run.plan(kind, connections, rate),
            rooms=options.rooms,
            cuts=cuts,
            hold=options.name_hold,
            patience=options.patience,
            websockets=options.websockets,
        )
        return self.run.start(MembersLoop, plan)

    def faults(self) -> dict[str, Fault]:
        """Let members be cut, and others leave all at once."""
        faults: dict[str, Fault] = {}
        if self.options.cuts:
            faults["cuts"] = Cuts(self.members, self.options.cuts)
        if self.options.disconnect_storm:
            leavers = self.start_members("leavers", self.options.storm_clients)
            faults["disconnect_storm"] = Storms(leavers)
        return faults

    def hear(self, process: ClientProcess, said: object) -> None:
        """Compare what a process heard with what the others heard."""
        if isinstance(said, Census):
            self._census[process] = said
        elif isinstance(said, MembersReport):
            self.ledger.add(process.plan.name, said.ledger)
            self.mailbox.add(said.mailbox)

    def before_leaving(self, processes: list[ClientProcess]) -> tuple[Any, ...]:
        """Ask which members are there until all answers agree, or it is clear that they do not."""
        if not set(self.members) <= set(processes):
            return ()
        deadline = time.monotonic() + self.options.patience
        right = 0  # rounds one after the other
        for number in count(1):
            self._take_census(number)
            found = self._compare_census()
            right = 0 if found.counts else right + 1
            if right == self.rounds or time.monotonic() > deadline:
                self.run.findings.add(found)
                break
        return ()

    def is_current(self, epoch: str) -> bool:
        """Say whether an epoch is that of the end; a single server has one."""
        return True

    def _take_census(self, number: int) -> None:
        self._census.clear()
        self.run.fleet.tell(self.members, "census", number)

        def answered() -> bool:
            taken = list(self._census.values())
            return len(taken) == len(self.members) and all(each.round == number for each in taken)

        self.run.wait("the members' census", answered, ANSWER_TIMEOUT)

    def _compare_census(self) -> Findings:
        found = Findings()
        taken = list(self._census.values())
        present = [each for census in taken for each in census.present]
        last: Counter[str] = Counter()
        for reached in (self.ledger.last, *(census.last for census in taken)):  # first, of those that left
            last |= Counter({room: seq for (epoch, room), seq in reached.items() if self.is_current(epoch)})
        for census in taken:
            compare(present, census.who, last.__getitem__, found)
        if len(present) != sum(process.plan.connections for process in self.members):
            found.note("hung", f"{len(present)} members are there at the end")
        return found

    def judge(self, whole: bool) -> None:
        """Compare rooms with their senders' counts, and private messages with their addressees."""
        self.mailbox.judge()
        self.ledger.judge()
        rooms = len(self.ledger.rooms)
        self.run.verdict.counts.update(messages=len(self.ledger), rooms_used=rooms)
