"""The rows of bench.py's table: what work there is, and what mpchat is to reach in it.

Data, and pure functions over medians; nothing here runs anything. The rule it keeps: a goal is judged only
where all figures it needs are there, and said to be open where they are not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median
from types import MappingProxyType

from scripts.bench.cell import Figures, Row

# What mpchat is compared with, and its own entries: as installed, and with two workers.
BASE = "redis"
FLOOR = "floor"
OURS = ("mpchat", "mpchat-w2")
# Must be behind in every row that goes by CPU per delivery.
BEHIND = ("nats", "mosquitto")
# CPU per delivery as a multiple of the C floor's, at most: 100 clients and more, 100 B, as fast as it goes.
MOST_OF_FLOOR = 2.0
# Milliseconds that the p99 latency may be above Redis's in the steady rows.
MOST_P99_ABOVE_MS = 5.0
# Bytes of resident memory for an idle connection, all processes counted.
MOST_BYTES_PER_CONNECTION = 3 * 1024
# Connections a second, each one served.
LEAST_CONNECTS_PER_S = 8_000
# CPU per delivery to named members, whose frames are longer, as a multiple of that of the plain row, at most.
MOST_OF_PLAIN = 1.5
# Members of each room, messages a second in all rooms together, and milliseconds of CPU a second that the
# server may take while all of them are silent.
MEMBERS = 4
ROOMS_RATES = {"rooms": 1000, "rooms-busy": 4000}
MOST_IDLE_MS = 10.0


def all_rows(connects: int, idle: int, rooms: int) -> list[Row]:
    """Return every row; ``connects`` and ``idle`` are the clients of the two rows about connections."""
    return [
        Row("max-10", "10 clients, 100 B, as fast as it goes", 10, target=0.85),
        Row("max-100", "100 clients, 100 B, as fast as it goes", 100, target=0.30),
        Row("max-1000", "1000 clients, 100 B, as fast as it goes", 1000, target=0.18),
        Row("max-100-1k", "100 clients, 1 KB, as fast as it goes", 100, size=1024, target=0.42),
        Row("max-100-16k", "100 clients, 16 KB, as fast as it goes", 100, size=16 * 1024),
        Row(
            "max-100-8s",
            "100 clients, 100 B, 8 of them send, as fast as it goes",
            100,
            senders=8,
            target=0.28,
        ),
        Row("steady-1000", "1000 clients, 5 messages a second", 1000, rate=5, target=1.00),
        Row("steady-500", "500 clients, 100 messages a second", 500, rate=100, target=1.00),
        Row("steady-100", "100 clients, 1000 messages a second", 100, rate=1000, target=0.60),
        Row("connect", f"{connects} clients connect, each is served", connects, rate=100, messages=1),
        Row("idle", f"one message to {idle} idle clients", idle, rate=100, messages=1),
        Row(
            "max-100-named",
            "100 named members of a room, 100 B, as fast as it goes",
            100,
            rooms=1,
            plain="max-100",
        ),
        Row(
            "max-1000-named",
            "1000 named members of a room, 100 B, as fast as it goes",
            1000,
            rooms=1,
            plain="max-1000",
        ),
        Row(
            "max-100-1k-named",
            "100 named members of a room, 1 KB, as fast as it goes",
            100,
            size=1024,
            rooms=1,
            plain="max-100-1k",
        ),
        Row(
            "steady-1000-named",
            "1000 named members of a room, 5 messages a second",
            1000,
            rate=5,
            rooms=1,
            plain="steady-1000",
        ),
        Row(
            "steady-100-named",
            "100 named members of a room, 1000 messages a second",
            100,
            rate=1000,
            rooms=1,
            plain="steady-100",
        ),
        *(
            Row(
                name,
                f"{rooms} rooms of {MEMBERS}, {rate} messages a second",
                rooms * MEMBERS,
                rate=rate,
                rooms=rooms,
                target=1.20,
            )
            for name, rate in ROOMS_RATES.items()
        ),
    ]


def medians(runs: Sequence[Figures]) -> Figures | None:
    """Return the median of every figure (the maximum of ``max_ms``) over runs without a fault, if any."""
    good = [run for run in runs if not run.faults]
    if not good:
        return None
    summary = Figures(good[0].row, good[0].server)
    for entry in fields(Figures):
        if entry.name not in ("row", "server", "faults"):
            setattr(summary, entry.name, median(getattr(run, entry.name) for run in good))
    summary.max_ms = max(run.max_ms for run in good)
    return summary


def ratio(part: Figures | None, whole: Figures | None) -> float | None:
    """Return CPU per delivery of ``part`` as a multiple of that of ``whole``."""
    if part is None or whole is None or not whole.cpu_us_per_delivery:
        return None
    return part.cpu_us_per_delivery / whole.cpu_us_per_delivery


@dataclass(frozen=True)
class Verdict:
    """One goal: what was wanted, what came out, and whether that is enough (None: could not be judged)."""

    row: str
    server: str
    goal: str
    reached: str
    holds: bool | None


def judge(
    row: Row,
    summaries: Mapping[str, Figures | None],
    plain: Mapping[str, Figures | None] = MappingProxyType({}),
) -> list[Verdict]:
    """Compare ``row``'s medians, by server, with what mpchat is to reach; ``plain`` are those of the row
    ``row.plain``."""
    verdicts = []
    for name in OURS:
        if name in summaries:
            ours = summaries[name]
            if row.crowd:
                verdicts += _judge_crowd(row, name, ours)
            elif row.rooms:
                verdicts += _judge_members(row, name, summaries, plain)
            else:
                verdicts += _judge_work(row, name, summaries)
    return verdicts


def _judge_members(
    row: Row, name: str, summaries: Mapping[str, Figures | None], plain: Mapping[str, Figures | None]
) -> list[Verdict]:
    ours, base = summaries[name], summaries.get(BASE)
    if row.plain:
        share = ratio(ours, plain.get(name))
        return [_at_most(row, name, f"times the CPU of {row.plain}", share, MOST_OF_PLAIN)]
    verdicts = []
    if row.target is not None:
        verdicts.append(_at_most(row, name, "times Redis's CPU", ratio(ours, base), row.target))
    above = ours.p99_ms - base.p99_ms if ours and base else None
    verdicts.append(_at_most(row, name, "ms of p99 above Redis's", above, MOST_P99_ABOVE_MS))
    silent = ours.idle_ms_per_s if ours else None
    verdicts.append(_at_most(row, name, "ms of CPU a second while all are silent", silent, MOST_IDLE_MS))
    return verdicts


def _judge_work(row: Row, name: str, summaries: Mapping[str, Figures | None]) -> list[Verdict]:
    verdicts = []
    ours, base = summaries[name], summaries.get(BASE)
    if row.target is not None:
        verdicts.append(_at_most(row, name, "times Redis's CPU", ratio(ours, base), row.target))
    if FLOOR in summaries and not row.rate and row.size == 100 and row.clients >= 100:
        floor = ratio(ours, summaries.get(FLOOR))
        verdicts.append(_at_most(row, name, "times the floor's CPU", floor, MOST_OF_FLOOR))
    if row.rate:
        above = ours.p99_ms - base.p99_ms if ours and base else None
        verdicts.append(_at_most(row, name, "ms of p99 above Redis's", above, MOST_P99_ABOVE_MS))
    for other in sorted(summaries.keys() & set(BEHIND)):
        share = ratio(ours, summaries.get(other))
        verdicts.append(_at_most(row, name, f"times the CPU of {other}", share, 1.0))
    return verdicts


def _judge_crowd(row: Row, name: str, ours: Figures | None) -> list[Verdict]:
    if row.name == "idle":
        size = ours.bytes_per_connection if ours else None
        return [_at_most(row, name, "bytes for a connection", size, MOST_BYTES_PER_CONNECTION)]
    pace = ours.connects_per_s if ours else None
    holds = None if pace is None else pace >= LEAST_CONNECTS_PER_S
    reached = "no figure" if pace is None else f"{pace:,.0f}"
    return [Verdict(row.name, name, f"at least {LEAST_CONNECTS_PER_S:,} connects a second", reached, holds)]


def _at_most(row: Row, name: str, what: str, value: float | None, limit: float) -> Verdict:
    if value is None:
        return Verdict(row.name, name, f"at most {limit:g} {what}", "no figure", None)
    return Verdict(row.name, name, f"at most {limit:g} {what}", f"{value:,.2f}", value <= limit)
