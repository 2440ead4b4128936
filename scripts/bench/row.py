"""A row is a named piece of work; figures are the results of one run of it on one server. Data only."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from statistics import median

# Bytes of text that a row as fast as possible keeps in flight, unless it says otherwise.
FULL_WINDOW = 1024 * 1024


class BenchError(Exception):
    """A run gave no figures; the text says why."""


@dataclass(frozen=True)
class Row:
    """A named piece of work. ``rate`` in messages a second, 0 is as fast as possible."""

    name: str
    title: str
    clients: int
    size: int = 100  # bytes of each text
    senders: int = 1
    rate: float = 0.0
    messages: int = 0  # 0: for as long as the options say
    rooms: int = 0  # 0: plain clients; 1: members of one room; or each is a member of one of so many rooms
    plain: str = ""  # the same row with plain clients, with which this one is compared
    # The goal: CPU per delivery as a share of Redis's, at most.
    target: float | None = None
    # And deliveries a second as a share of Redis's, at least.
    least_pace: float | None = None
    window: int = FULL_WINDOW  # bytes of text in flight, at most
    weigh: bool = False  # also measure what a connection takes in memory
    apart: bool = False  # of a cluster: all clients are at its first host

    @property
    def crowd(self) -> bool:
        """True where connections are measured: how fast they come, what they cost."""
        return self.messages == 1

    @property
    def in_one_room(self) -> int:
        """How many clients receive one message."""
        return self.clients // max(1, self.rooms)


@dataclass(frozen=True)
class Options:
    """What all runs have in common. Times in seconds."""

    seconds: float = 3.0  # length of a run
    # Without any progress for so long, a delivery counts as lost.
    stall_s: float = 15.0
    # Until the server is at rest: its memory can be read, its members know who is there.
    rest_s: float = 1.0


@dataclass
class Figures:
    """The results of one run. Without ``faults``, every one of ``deliveries`` arrived."""

    row: str
    server: str
    faults: list[str] = field(default_factory=list)
    messages: int = 0
    deliveries: int = 0
    wall_s: float = 0.0
    cpu_us_per_delivery: float = 0.0
    deliveries_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    max_ms: float = 0.0
    # Shares of all cores together while the work lasted.
    server_share: float = 0.0
    load_share: float = 0.0
    connects_per_s: float = 0.0
    # CPU of the server for each connection, until it is served.
    cpu_us_per_connect: float = 0.0
    # Memory of all the server's processes, and what each connection added to it.
    resident_bytes: int = 0
    bytes_per_connection: float = 0.0
    # CPU of the server while its clients are silent, in milliseconds a second.
    idle_ms_per_s: float = 0.0
    # How much the server's own counters grew during the work, by name.
    counted: dict[str, float] = field(default_factory=dict)


class Results(dict[tuple[str, str], list[Figures]]):
    """All runs, by row and server."""

    def median(self, row: str, server: str) -> Figures | None:
        """Return the medians of a server's runs of a row."""
        return medians(self.get((row, server), ()))


def medians(runs: Sequence[Figures]) -> Figures | None:
    """Return the median of every figure (the maximum of ``max_ms``) over the runs without a fault, if any."""
    good = [run for run in runs if not run.faults]
    if not good:
        return None
    summary = Figures(good[0].row, good[0].server)
    for entry in fields(Figures):
        if entry.name not in ("row", "server", "faults", "counted"):
            setattr(summary, entry.name, median(getattr(run, entry.name) for run in good))
    summary.max_ms = max(run.max_ms for run in good)
    summary.counted = {name: median(run.counted[name] for run in good) for name in good[0].counted}
    return summary


def ratio(part: Figures | None, whole: Figures | None) -> float | None:
    """Return CPU per delivery of ``part`` as a multiple of that of ``whole``."""
    if part is None or whole is None or not whole.cpu_us_per_delivery:
        return None
    return part.cpu_us_per_delivery / whole.cpu_us_per_delivery
