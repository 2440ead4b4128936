"""Figures: what the metrics are made of, as it was at one moment. Values only; another thread may read them.

They are put together in the supervisor's loop, from what its parts count and what processes say in beats. A
look at each process's memory and descriptors takes longer: see :mod:`mpchat.supervisor.metrics.processes`.
"""

from typing import NamedTuple

import msgspec

from mpchat.control.answers import Cluster, History, Webhook
from mpchat.ipc.durations import CLASSES, Durations
from mpchat.ipc.items import Beat
from mpchat.supervisor.metrics.totals import Counted


class Counts(NamedTuple):
    """How many durations were in each class, and their sum in seconds; see ``durations.Durations``."""

    counts: list[int]
    total: float

    @classmethod
    def of(cls, durations: Durations) -> "Counts":
        """Return a copy of what was counted."""
        return cls(durations.counts.copy(), durations.total)


class Held(NamedTuple):
    """Resident memory (bytes) and open descriptors of one process, or of all processes of a slot."""

    memory: int = 0
    descriptors: int = 0


class PoolFigures(msgspec.Struct, frozen=True, kw_only=True):
    """All processes of one kind."""

    # Slots by their state.
    states: dict[str, int]
    # What the processes of each slot have counted since the server's start.
    counted: dict[str, Counted]
    # The processes that run: process ids, titles of their slots, last beats.
    running: list[tuple[int, str, Beat]]
    # Connections that ended because their process died.
    lost: int
    restarts: int
    # Processes that died although nobody had told them to end, by how they did.
    deaths: dict[str, int]


NO_PROCESSES = PoolFigures(states={}, counted={}, running=[], lost=0, restarts=0, deaths={})


class HubFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The hub of this server."""

    # Connections here that have asked for a name; names that are held; rooms.
    members: int
    held_names: int
    rooms: int
    # Bytes of the streams that are kept.
    streams: int
    # Messages to one member; announcements.
    private: int
    announced: int
    # Trips of items to a worker and back.
    trips: Counts


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One server."""

    # Seconds since 1970.
    started: float
    running: bool
    # Connections now, and how many the server takes.
    connections: int
    fits: int
    # The limit of one process.
    descriptors: int
    # Connections accepted; connections refused, by the code of the error.
    accepted: int
    refused: dict[str, int]
    # Connections that wait for a worker, or a TLS process; that are between two workers; that were moved.
    waiting: int
    in_transit: int
    moves: int
    # Changes that have ended, by name and by whether they were carried out.
    changes: dict[tuple[str, bool], int]
    hub: HubFigures
    workers: PoolFigures
    tls: PoolFigures = NO_PROCESSES
    # Of the supervisor: turns of its loop, CPU time in seconds, lines of its log that were dropped.
    loop: Counts = Counts([0] * CLASSES, 0.0)
    cpu: float = 0.0
    log_dropped: int = 0
    # When the certificate ends (seconds since 1970); None: TLS is off.
    certificate_ends: float | None = None
    history: History | None = None
    hook: Webhook | None = None
    cluster: Cluster | None = None
