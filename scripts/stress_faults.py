"""The faults of a run, each a thing that begins, steps while the clock goes on, and ends.

They decide when; what a fault does to a process or a connection is done elsewhere (``stress_server``,
``stress_rude``, ``stress_garbage``).
"""

import random
from dataclasses import dataclass, field
from typing import Any, Protocol

from stress_clients import Address
from stress_crew import Crew, Member
from stress_server import Server

# Seconds between two storms of leaving: everybody has to be back in between.
STORM_EVERY = 5.0
# Seconds that a client process is stopped, and then goes on.
STOPPED_FOR = 6.0


class Fault(Protocol):
    """What a run asks of a fault."""

    def step(self, now: float) -> None:
        """Do what is due at ``now`` (seconds, monotonic)."""

    def end(self) -> None:
        """Stop harming: let everything go on that was held up."""

    def done(self) -> bool:
        """Say whether it has done what was asked of it."""

    def facts(self) -> dict[str, Any]:
        """Return what it did, for the verdict."""


@dataclass
class KillWorkers:
    """Kills a random worker every few seconds, each slot once before any a second time."""

    server: Server
    chooser: random.Random
    every: float  # seconds
    peers: set[Address] = field(default_factory=set)  # whose connections went with a worker
    kills: int = 0
    _next: float = 0.0
    _spared: set[int] = field(default_factory=set)

    def step(self, now: float) -> None:
        """Kill one when it is time."""
        if now < self._next:
            return
        self._next = now + self.every
        if len(self._spared) >= self.server.workers:
            self._spared.clear()
        killed = self.server.kill_worker(self.chooser, self._spared)
        if killed is not None:
            self.kills += 1
            self._spared.add(killed[0])
            self.peers |= killed[1]

    def end(self) -> None:
        """Nothing is held up."""

    def done(self) -> bool:
        """At least one was killed."""
        return self.kills > 0

    def facts(self) -> dict[str, Any]:
        """Return the number of kills and of connections that went with them."""
        return {"kills": self.kills, "connections": len(self.peers)}


@dataclass
class Stalls:
    """Clients that do not read, and a client process that is stopped and continued in turn."""

    crew: Crew
    stalled: Member
    stopped: Member
    stops: int = 0
    _next: float = 0.0

    def step(self, now: float) -> None:
        """Stop the process, or let it go on."""
        if now < self._next:
            return
        self._next = now + STOPPED_FOR
        self.stops += 1
        if self.stops % 2:
            self.crew.stop_process(self.stopped)
        else:
            self.crew.resume_process(self.stopped)

    def end(self) -> None:
        """Let everybody read again."""
        self.crew.resume_process(self.stopped)
        self.crew.tell([self.stalled], "resume")

    def done(self) -> bool:
        """Stalling has no goal but to last."""
        return True

    def facts(self) -> dict[str, Any]:
        """Return how many stalled, how many the server cut off, and how many of those were not far behind."""
        reports = [member.report for member in (self.stalled, self.stopped) if member.report]
        return {
            "stalled": self.stalled.plan.connections - 1,
            "stopped": self.stopped.plan.connections,
            "cut_off": self.stalled.tick.cut + self.stopped.tick.cut,
            "unexplained": sum(report.extra["unexplained"] for report in reports),
        }


@dataclass
class Storms:
    """Many clients leave in one moment, come back, and leave again."""

    crew: Crew
    member: Member
    storms: int = 0
    _next: float = 0.0

    def step(self, now: float) -> None:
        """Let them leave when it is time and all are there."""
        if now >= self._next and self.member.tick.joined == self.member.plan.connections:
            self._next = now + STORM_EVERY
            self.storms += 1
            self.crew.tell([self.member], "storm")

    def end(self) -> None:
        """Nothing is held up."""

    def done(self) -> bool:
        """At least one storm was had."""
        return self.storms > 0

    def facts(self) -> dict[str, Any]:
        """Return how many storms there were and how many left in them."""
        left = self.member.report.extra["left"] if self.member.report else 0
        return {"storms": self.storms, "left": left}


@dataclass
class GarbageInputs:
    """The clients that send garbage; they pace themselves."""

    member: Member

    def step(self, now: float) -> None:
        """They pace themselves."""

    def end(self) -> None:
        """Nothing is held up."""

    def done(self) -> bool:
        """All inputs were sent and answered."""
        return self.member.tick.complete

    def facts(self) -> dict[str, Any]:
        """Return what was sent and how it was answered."""
        return self.member.report.extra if self.member.report else {"inputs": 0}
