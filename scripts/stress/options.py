"""The options that mean the same in every scenario: one table, of which command line and report are made."""

import re
from dataclasses import dataclass, field
from typing import Any

import click

# Seconds between kills: a slot of four is then killed every 40 s, and the server counts a worker that lived
# for 30 s as healthy. With shorter pauses the server is right to give the slot up.
KILL_EVERY = 10.0


def option(default: Any, text: str, kind: Any = None) -> Any:
    """Return a field that is also an option of the command: its default, its help text, its type."""
    return field(default=default, metadata={"help": text, "type": kind})


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a run was asked for. A field is an option: ``kill_every`` is ``--kill-every``."""

    seconds: float = option(30.0, "Length; 0: only --start-storm.", click.FloatRange(0))
    processes: int = option(2, "Client processes.", click.IntRange(1, 64))
    connections: int = option(50, "Connections of each client process.", click.IntRange(1, 5000))
    websockets: float = option(
        0.3, "The part of the clients that are WebSocket clients.", click.FloatRange(0, 1)
    )
    rate: float = option(40.0, "Messages a second, of all clients together.", click.FloatRange(0.1))
    address: str = option("", "A running server, HOST:PORT; no server is started.")
    workers: int = option(2, "Workers of the server that is started.", click.IntRange(1))
    server_log: str = option("", "Where the started server logs; default: not kept.")
    kill_workers: bool = option(False, "kill -9 of a random worker now and then.")
    kill_every: float = option(KILL_EVERY, "Seconds between kills.", click.FloatRange(0.5))
    reload: bool = option(False, "Replace all workers again and again; clients stay.")
    reloads: int = option(0, "How many reloads; 0: as the time allows.", click.IntRange(0))
    scale: bool = option(False, "Change the number of workers again and again; clients stay.")
    scalings: int = option(0, "How many changes; 0: as the time allows.", click.IntRange(0))
    scale_most: int = option(8, "Workers, at most.", click.IntRange(2, 256))
    disconnect_storm: bool = option(False, "Many clients leave in one moment, again and again.")
    storm_clients: int = option(500, "How many clients leave.", click.IntRange(1))
    start_storm: bool = option(False, "Many starts of one name at once; before all else.")
    starts: int = option(50, "How many starts at once.", click.IntRange(2))
    rounds: int = option(1, "How many rounds of starts.", click.IntRange(1))
    seed: int | None = option(None, "Repeats the choices of an earlier run.", click.INT)

    @property
    def changes(self) -> dict[str, int]:
        """How many changes are wanted, by command; 0: as many as the time allows."""
        wanted = {"reload": self.reloads} if self.reload else {}
        return wanted | ({"scale": self.scalings} if self.scale else {})

    @property
    def any_fault(self) -> bool:
        """Say whether there is a phase with faults; a scenario adds its own faults."""
        return self.kill_workers or self.disconnect_storm or bool(self.changes)

    def check(self) -> None:
        """Raise click.UsageError for options that do not go together."""
        if self.address and not re.fullmatch(r".+:\d{1,5}", self.address):
            raise click.UsageError("--address is HOST:PORT, as in 127.0.0.1:4000")
        if self.address and (self.kill_workers or self.start_storm or self.changes):
            raise click.UsageError(
                "--kill-workers, --reload, --scale and --start-storm need an own server, not --address"
            )
        if not self.seconds and not self.start_storm:
            raise click.UsageError("--seconds 0 leaves nothing to do without --start-storm")
