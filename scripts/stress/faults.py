"""The faults of a run: each begins, takes steps while time passes, and ends.

A fault decides when; what it does to a process or a connection is done by the server harness, or by client
processes that the fault has for itself.
"""

import random
from dataclasses import dataclass, field
from typing import Any

from scripts.common.address import Address
from scripts.common.server import Server
from scripts.stress.fleet import ClientProcess

# Seconds between two storms: all clients have to be back in between.
STORM_EVERY = 5.0


class Fault:
    """What a run asks of a fault. A fault overrides what concerns it."""

    processes: tuple[ClientProcess, ...] = ()  # of its own: they join before the faults and leave after

    def step(self, now: float) -> None:
        """Do what is due at ``now`` (seconds, monotonic)."""

    def end(self) -> None:
        """Stop harming: continue all that was held up."""

    def done(self) -> bool:
        """Say whether it has done what was asked of it."""
        return True

    def facts(self) -> dict[str, Any]:
        """Return what it did, for the report."""
        return {}

    def reasons(self, killing: bool) -> list[str]:
        """Return what speaks against a clean verdict; ``killing``: workers were killed in this run."""
        return []


@dataclass
class KillWorkers(Fault):
    """Kills a random worker every few seconds, each slot once before any slot a second time."""

    server: Server
    chooser: random.Random
    every: float  # seconds
    peers: set[Address] = field(default_factory=set)  # clients of the workers that were killed
    kills: int = 0
    _next: float = 0.0
    _spared: set[int] = field(default_factory=set)

    def step(self, now: float) -> None:
        """Kill a worker when it is time."""
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

    def done(self) -> bool:
        """Say whether a worker was killed."""
        return self.kills > 0

    def facts(self) -> dict[str, Any]:
        """Return the number of kills and of connections that ended with them."""
        return {"kills": self.kills, "connections": len(self.peers)}


class Storms(Fault):
    """Many clients of one process leave in one moment, come back, and leave again."""

    def __init__(self, process: ClientProcess) -> None:
        """Take the process of the clients: it obeys the command ``storm`` and counts ``left``."""
        self.processes = (process,)
        self.storms = 0
        self._next = 0.0

    def step(self, now: float) -> None:
        """Let the clients leave when it is time and all are there."""
        process = self.processes[0]
        if now >= self._next and process.tick.joined == process.plan.connections:
            self._next = now + STORM_EVERY
            self.storms += 1
            process.tell("storm")

    def done(self) -> bool:
        """Say whether clients have left in a storm."""
        return self.processes[0].count("left") > 0

    def facts(self) -> dict[str, Any]:
        """Return how many storms there were and how many clients left in them."""
        return {"storms": self.storms, "left": self.processes[0].count("left")}
