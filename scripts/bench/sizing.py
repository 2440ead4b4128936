"""What a log in Redis takes for more hosts and members than were measured: computed from measured runs.

Pure: it gets the figures of runs and computes. How:

* Redis's CPU for an append, and for a read, has a fixed part and a part for each byte. Both come from the
  line through the runs' figures, from Redis's own clock of its commands. What its process took beyond its
  commands (to receive, to send) is a line over the bytes of a command as well.
* A host appends at most one batch per turn of its loop: it appends each message alone as long as fewer come
  than it had appends at full speed, and larger batches then. At least it appends its beat.
* All hosts read all batches. A host reads as often as batches come, but no more often than at full speed.
* Bytes to Redis are those of appends, with the requests to read of as many hosts as were measured. What more
  hosts ask for is left out of the bytes; its CPU is a part of that of a read.

So the table is an upper bound where hosts have more members: their turns take longer, so they append and read
more seldom.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.bench.cluster_peers import APPEND_US, APPENDS, BYTES_IN, BYTES_OUT, LOG_US, READ_US, READS
from scripts.bench.row import BenchError, Figures

HOSTS = (10, 30, 100)
MEMBERS = (10_000, 100_000, 1_000_000)
# Messages of each member a minute.
PER_MINUTE = (1, 10)
# Appends of a silent host a second.
BEATS = 1.0


@dataclass(frozen=True)
class Line:
    """A fixed part, and a part for each unit of something; neither is negative."""

    fixed: float
    each: float

    def at(self, size: float) -> float:
        """Return the sum for so many units."""
        return self.fixed + self.each * size

    @classmethod
    def through(cls, points: Sequence[tuple[float, float]]) -> "Line":
        """Return the line with the least squares through ``points``; at least one."""
        count = len(points)
        middle, height = sum(x for x, _ in points) / count, sum(y for _, y in points) / count
        spread = sum((x - middle) ** 2 for x, _ in points)
        each = sum((x - middle) * (y - height) for x, y in points) / spread if spread else 0.0
        if each <= 0:
            return cls(max(0.0, height), 0.0)
        fixed = height - each * middle
        if fixed >= 0:
            return cls(fixed, each)
        return cls(0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points))


@dataclass(frozen=True)
class Costs:
    """What runs showed. CPU in µs of Redis, rates of one host a second."""

    append: Line  # CPU of an append, by its bytes
    read: Line  # CPU of a read, by its bytes
    beyond: Line  # CPU beyond that of commands, for each command, by its bytes
    bytes_in: Line  # bytes to Redis for an append, requests to read among them, by messages
    bytes_out: Line  # bytes from Redis for an append and host, by messages
    most_appends: float
    most_reads: float
    reads: float  # for each append, where batches are smallest

    @classmethod
    def of(cls, runs: Sequence[Figures], hosts: int) -> "Costs":
        """Take the costs from runs with so many hosts. Raise :class:`BenchError` where these cannot tell."""
        runs = [run for run in runs if not run.faults and run.counted.get(APPENDS) and run.counted.get(READS)]
        rates = [run.counted[APPENDS] / run.wall_s / hosts for run in runs]
        sizes = sorted(run.messages / run.counted[APPENDS] for run in runs)
        if len({run.row for run in runs}) < 2 or sizes[0] * 1.5 > sizes[-1]:
            raise BenchError("no table: that takes runs with small batches and with large ones")
        counts = [run.counted for run in runs]
        small = min(runs, key=lambda run: run.messages / run.counted[APPENDS])
        return cls(
            Line.through(
                [(each[BYTES_IN] / each[APPENDS], each[APPEND_US] / each[APPENDS]) for each in counts]
            ),
            Line.through([(each[BYTES_OUT] / each[READS], each[READ_US] / each[READS]) for each in counts]),
            Line.through([_beyond(each) for each in counts]),
            Line.through([_for_each_append(run, BYTES_IN) for run in runs]),
            Line.through([_for_each_append(run, BYTES_OUT, hosts) for run in runs]),
            max(rates),
            max(run.counted[READS] / run.wall_s / hosts for run in runs),
            small.counted[READS] / small.counted[APPENDS] / hosts,
        )


def _beyond(counted: dict[str, float]) -> tuple[float, float]:
    """Return the bytes of a command, and the CPU that it took beyond Redis's clock of commands."""
    commands = counted[APPENDS] + counted[READS]
    beyond_us = counted[LOG_US] - counted[APPEND_US] - counted[READ_US]
    return (counted[BYTES_IN] + counted[BYTES_OUT]) / commands, beyond_us / commands


def _for_each_append(run: Figures, name: str, hosts: int = 1) -> tuple[float, float]:
    """Return the messages of an append, and what it has of the counter ``name`` for each host."""
    appends = run.counted[APPENDS]
    return run.messages / appends, run.counted[name] / appends / hosts


@dataclass(frozen=True)
class Load:
    """A line of the table: all figures a second, and the CPU as a share of one core."""

    hosts: int
    members: int
    per_minute: int  # messages of each member
    appends: float
    batch: float  # messages of an append
    reads: float
    bytes_in: float
    bytes_out: float
    core: float


def load(costs: Costs, hosts: int, members: int, per_minute: int) -> Load:
    """Compute what so many members on so many hosts make Redis do."""
    messages = members * per_minute / 60
    appends = hosts * max(BEATS, min(messages / hosts, costs.most_appends))
    batch = messages / appends
    # A read may bring no batch or several; at full speed it brings what came since the one before.
    reads = hosts * min(costs.reads * appends, costs.most_reads)
    bytes_in = appends * costs.bytes_in.at(batch)
    bytes_out = appends * hosts * costs.bytes_out.at(batch)
    cpu_us = (
        appends * costs.append.at(bytes_in / appends)
        + reads * costs.read.at(bytes_out / reads)
        + (appends + reads) * costs.beyond.at((bytes_in + bytes_out) / (appends + reads))
    )
    return Load(hosts, members, per_minute, appends, batch, reads, bytes_in, bytes_out, cpu_us / 1e6)


def loads(costs: Costs) -> Iterator[Load]:
    """Compute the whole table."""
    for per_minute in PER_MINUTE:
        for members in MEMBERS:
            for hosts in HOSTS:
                yield load(costs, hosts, members, per_minute)
