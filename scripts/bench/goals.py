"""What mpchat is to reach in each row. Pure functions over medians.

The rule it keeps: a goal is judged only where all figures that it needs are there. Otherwise it is open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scripts.bench.row import FULL_WINDOW, Figures, Results, Row, medians, ratio

# What mpchat is compared with, and its own entries: as installed, and with two workers.
BASE = "redis"
FLOOR = "floor"
OURS = ("mpchat", "mpchat-w2")
# Servers that must cost more in every row that goes by CPU per delivery.
BEHIND = ("nats", "mosquitto")
# CPU per delivery as a multiple of the C floor's, at most: 100 clients and more, 100 B, as fast as possible.
MOST_OF_FLOOR = 2.0
# Milliseconds that the p99 latency may be above Redis's in the steady rows.
MOST_P99_ABOVE_MS = 5.0
# Bytes of resident memory for an idle connection, all processes counted.
MOST_BYTES_PER_CONNECTION = 3 * 1024
# Connections a second, each one served.
LEAST_CONNECTS_PER_S = 8_000
# CPU per delivery to named members, whose frames are longer, as a multiple of that of the plain row, at most.
MOST_OF_PLAIN = 1.5
# Milliseconds of CPU a second that the server may take while the members of all rooms are silent.
MOST_IDLE_MS = 10.0

Summaries = Mapping[str, Figures | None]


@dataclass(frozen=True)
class Verdict:
    """A goal, the figure that was reached, and whether that is enough (None: the goal is open)."""

    row: str
    server: str
    goal: str
    reached: str
    holds: bool | None


def all_verdicts(rows: Sequence[Row], servers: Sequence[str], results: Results) -> list[Verdict]:
    """Judge every row by its medians."""
    verdicts = []
    for row in rows:
        ours, plain = (
            {name: medians(results.get((each, name), ())) for name in servers}
            for each in (row.name, row.plain)
        )
        verdicts += judge(row, ours, plain)
    return verdicts


def judge(row: Row, summaries: Summaries, plain: Summaries | None = None) -> list[Verdict]:
    """Compare the medians of ``row``, by server, with the goals; ``plain`` are those of ``row.plain``."""
    verdicts: list[Verdict] = []
    for name in OURS:
        if name not in summaries or row.window != FULL_WINDOW:
            continue
        if row.crowd:
            verdicts.append(_judge_crowd(row, name, summaries[name]))
        elif row.plain:
            share = ratio(summaries[name], (plain or {}).get(name))
            verdicts.append(_at_most(row, name, f"times the CPU of {row.plain}", share, MOST_OF_PLAIN))
        elif row.rooms:
            verdicts += _judge_rooms(row, name, summaries)
        else:
            verdicts += _judge_work(row, name, summaries)
    return verdicts


def _judge_rooms(row: Row, name: str, summaries: Summaries) -> list[Verdict]:
    ours = summaries[name]
    idle = ours.idle_ms_per_s if ours else None
    return [
        *_judge_cpu(row, name, summaries),
        _judge_latency(row, name, summaries),
        _at_most(row, name, "ms of CPU a second while all are silent", idle, MOST_IDLE_MS),
    ]


def _judge_work(row: Row, name: str, summaries: Summaries) -> list[Verdict]:
    ours = summaries[name]
    verdicts = _judge_cpu(row, name, summaries)
    if FLOOR in summaries and not row.rate and row.size == 100 and row.clients >= 100:
        floor = ratio(ours, summaries.get(FLOOR))
        verdicts.append(_at_most(row, name, "times the floor's CPU", floor, MOST_OF_FLOOR))
    if row.rate:
        verdicts.append(_judge_latency(row, name, summaries))
    for other in sorted(summaries.keys() & set(BEHIND)):
        share = ratio(ours, summaries.get(other))
        verdicts.append(_at_most(row, name, f"times the CPU of {other}", share, 1.0))
    return verdicts


def _judge_cpu(row: Row, name: str, summaries: Summaries) -> list[Verdict]:
    if row.target is None:
        return []
    return [_at_most(row, name, "times Redis's CPU", ratio(summaries[name], summaries.get(BASE)), row.target)]


def _judge_latency(row: Row, name: str, summaries: Summaries) -> Verdict:
    ours, base = summaries[name], summaries.get(BASE)
    above = ours.p99_ms - base.p99_ms if ours and base else None
    return _at_most(row, name, "ms of p99 above Redis's", above, MOST_P99_ABOVE_MS)


def _judge_crowd(row: Row, name: str, ours: Figures | None) -> Verdict:
    if row.name == "idle":
        size = ours.bytes_per_connection if ours else None
        return _at_most(row, name, "bytes for a connection", size, MOST_BYTES_PER_CONNECTION)
    pace = ours.connects_per_s if ours else None
    holds = None if pace is None else pace >= LEAST_CONNECTS_PER_S
    reached = "no figure" if pace is None else f"{pace:,.0f}"
    return Verdict(row.name, name, f"at least {LEAST_CONNECTS_PER_S:,} connects a second", reached, holds)


def _at_most(row: Row, name: str, what: str, value: float | None, limit: float) -> Verdict:
    if value is None:
        return Verdict(row.name, name, f"at most {limit:g} {what}", "no figure", None)
    return Verdict(row.name, name, f"at most {limit:g} {what}", f"{value:,.2f}", value <= limit)
