"""A process of members that are spread over hosts: a connection that was lost begins again at any of them."""

import time
from collections import Counter
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

from scripts.common.address import Address
from scripts.stress.clients import Connection
from scripts.stress.cluster.conversation import Edges, HostConversation
from scripts.stress.cluster.hosts import Ended
from scripts.stress.members.clients import MembersLoop, MembersReport
from scripts.stress.members.member import Member, MemberConnection, MembersPlan

# The part of the members that change hosts once when the faults are over: every host then has some again.
SPREAD = 0.5
# Seconds after Redis was emptied in which names and tokens that were just given may be unknown.
UNSURE_FOR = 20.0


@dataclass(frozen=True, kw_only=True)
class HostsPlan(MembersPlan):
    """What one process of members is to do; ``address`` is not used."""

    hosts: tuple[Address | None, ...]  # None: it is not there now
    kept: int  # messages that each room keeps
    may_rewind: bool  # Redis may lose what was shown


class Epochs(NamedTuple):
    """To the parent: how many members know which epoch."""

    known: Counter[str]


@dataclass(frozen=True, kw_only=True)
class HostsReport(MembersReport):
    """To the parent, last."""

    edges: Edges


class HostConnection(MemberConnection):
    """A connection to one host."""

    def __init__(self, number: int, talk: HostConversation, host: int) -> None:
        """Open a socket; ``host``: the number of the host."""
        super().__init__(number, talk)
        self.host = host


class Directory:
    """Which hosts are there, as a client process knows it."""

    def __init__(self, hosts: "tuple[Address | None, ...]") -> None:
        """Begin with the addresses of all hosts; None: not there."""
        self.living: dict[int, Address] = {}
        self.last: dict[int, Address] = {}
        self.update(hosts)

    def update(self, hosts: "tuple[Address | None, ...]") -> None:
        """Take note of which hosts are there now."""
        self.living = {number: address for number, address in enumerate(hosts) if address is not None}
        self.last |= self.living


class HostsLoop(MembersLoop):
    """All members of a process; each connection goes to a random living host."""

    plan: HostsPlan

    def __init__(self, plan: HostsPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        super().__init__(plan, pipe)
        self.hosts = Directory(plan.hosts)
        self.edges: Edges = {}
        self._unsure_until = 0.0
        self._told: Counter[str] = Counter()

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent; ``hosts ADDRESSES``: which are there, ``emptied``: Redis has lost its data."""
        super().command(verb, *args)
        if verb == "hosts":
            self.hosts.update(*args)
        elif verb == "emptied":
            self._unsure_until = time.monotonic() + UNSURE_FOR
        elif verb == "phase" and args[0] == "after":
            self._spread()

    # Connections.

    def new_connection(self, number: int, label: str) -> MemberConnection:
        """Choose a host."""
        host = self.random.choice(list(self.hosts.living or self.hosts.last))
        talk = HostConversation(
            f"{label}@{host + 1}",
            self.plan.run,
            self.ledger,
            self.mailbox,
            self.findings,
            kept=self.plan.kept,
            may_rewind=self.plan.may_rewind,
            edges=self.edges,
        )
        self.counts[f"connections to host {host + 1}"] += 1
        return HostConnection(number, talk, host)

    def address_of(self, connection: Connection) -> Address:
        """Return the address of the connection's host, the last one that is known."""
        assert isinstance(connection, HostConnection)
        return self.hosts.last[connection.host]

    def lost_connection(self, connection: MemberConnection, text: str) -> None:
        """Report a connection that ended with its host: the parent knows what happened to that."""
        assert isinstance(connection, HostConnection)
        self.pipe.send(Ended(connection.host, time.monotonic(), text))

    def forget(self, connection: MemberConnection) -> None:
        """Count what a closed connection has received."""
        super().forget(connection)
        talk = connection.talk
        assert isinstance(talk, HostConversation)
        for name in ("entered_again", "told_lost", "uncertain"):
            self.counts[name] += getattr(talk, name)

    def _spread(self) -> None:
        """Let members change hosts in one moment, in order or with a reset."""
        for member, connection in self.live():
            if self.random.random() < SPREAD:
                self.counts["spread"] += 1
                self.hang_up(member, connection, reset=self.random.random() < 0.5)

    # What several hosts may do.

    def new_epoch(self, member: Member, connection: MemberConnection) -> None:
        """Forget numbers of the old epoch; report it where nothing can have brought it about."""
        if not self.plan.may_rewind:
            super().new_epoch(member, connection)
        self.counts["new epochs"] += 1
        member.seen.clear()

    def owns(self, member: Member, now: float) -> bool:
        """Say whether the chat surely holds the name, and the member knows the token."""
        return now > self._unsure_until and super().owns(member, now)

    # What the parent is told.

    def tell(self) -> None:
        """Report which epochs the members know, when that has changed."""
        super().tell()
        known = Counter(member.epoch for member in self.members)
        if known != self._told:
            self._told = known
            self.pipe.send(Epochs(known))

    def asker(self) -> MemberConnection | None:
        """Return a connection to another host in each round of the census, where a member is there."""
        wanted = (self.round + self.plan.number) % max(1, len(self.hosts.last))
        live = [connection for _, connection in self.live()]
        there = (each for each in live if isinstance(each, HostConnection) and each.host == wanted)
        return next(there, live[0] if live else None)

    def report(self) -> HostsReport:
        """Return the last report."""
        return HostsReport(
            findings=self.findings,
            counts=self.counts,
            latency=self.latency,
            ledger=self.ledger,
            mailbox=self.mailbox,
            edges=self.edges,
        )
