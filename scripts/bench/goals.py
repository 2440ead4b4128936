"""What mpchat is to reach in each row. Pure functions over medians.

The rule it keeps: a goal is judged only where all figures that it needs are there. Otherwise it is open.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from scripts.bench.row import FULL_WINDOW, Figures, Results, Row, ratio

# What mpchat is compared with, and its own entries: as installed, and with two workers.
BASE = "redis"
FLOOR = "floor"
OURS = ("mpchat", "mpchat-w2")
# The same with WebSocket clients, and the entry that has plain ones. In some of them plain clients send, so
# that only deliveries differ.
OURS_WEBSOCKET = {
    "mpchat-ws": "mpchat",
    "mpchat-ws-w2": "mpchat-w2",
    "mpchat-to-ws": "mpchat",
    "mpchat-to-ws-w2": "mpchat-w2",
}
DELIVERIES_ALONE = frozenset(("mpchat-to-ws", "mpchat-to-ws-w2"))
# Servers that must cost more in every row that goes by CPU per delivery.
BEHIND = ("nats", "mosquitto")
# CPU per delivery as a multiple of the C floor's, at most: 100 clients and more, 100 B, as fast as possible.
MOST_OF_FLOOR = 2.0
# Milliseconds that the p99 latency may be above Redis's in the steady rows.
MOST_P99_ABOVE_MS = 5.0
# The entry whose clients encrypt, and others with TLS: CPU per delivery as a multiple of theirs, at most, in
# the rows that the floor is in; CPU per connection, at most; bytes of memory for an idle connection.
OURS_TLS = ("mpchat-tls",)
BEHIND_TLS = ("nats-tls", "mosquitto-tls")
MOST_OF_TLS = 0.6
MOST_OF_TLS_CONNECT = {"nats-tls": 3.0}
MOST_BYTES_PER_TLS = 60 * 1024
# Bytes of resident memory for an idle connection, all processes counted.
MOST_BYTES_PER_CONNECTION = 3 * 1024
# Connections a second, each one served.
LEAST_CONNECTS_PER_S = 8_000
# CPU per delivery to named members, whose frames are longer, as a multiple of that of the plain row, at most.
MOST_OF_PLAIN = 1.5
# CPU per delivery to WebSocket clients as a multiple of that to plain ones, at most, whoever sends: a
# delivery is as long, or two bytes longer.
MOST_OF_PLAIN_CLIENTS = 1.15
# The same as a multiple of other WebSocket servers', at most, in the rows that the floor is in. There all are
# WebSocket clients.
MOST_OF_WEBSOCKET = {"ws": 0.3, "socket.io": 0.15}
# Bytes of resident memory for an idle WebSocket connection, all processes counted.
MOST_BYTES_PER_WEBSOCKET = 1536
# Milliseconds of CPU a second that the server may take while the members of all rooms are silent.
MOST_IDLE_MS = 10.0


@dataclass(frozen=True)
class Verdict:
    """A goal, the figure that was reached, and whether that is enough (None: the goal is open)."""

    row: str
    server: str
    goal: str
    reached: str
    holds: bool | None


def judge(row: Row, servers: Sequence[str], results: Results) -> list[Verdict]:
    """Compare the medians of ``row`` with the goals."""
    if row.window != FULL_WINDOW and row.rooms < 2:
        return []
    verdicts = []
    for name in servers:
        if name in OURS and row.crowd and row.name != "idle":
            verdicts.append(_judge_pace(row, name, results.median(row.name, name)))
        elif name in OURS:
            verdicts += [at_most(row, name, *goal) for goal in _goals(row, name, servers, results)]
        elif name in OURS_WEBSOCKET and not row.rooms:
            verdicts += [at_most(row, name, *goal) for goal in _websocket_goals(row, name, results)]
        elif name in OURS_TLS and not row.rooms:
            verdicts += [at_most(row, name, *goal) for goal in _tls_goals(row, name, results)]
    return verdicts


# The most that a figure may be, what it is, and what was reached.
Goal = tuple[float, str, float | None]


def _goals(row: Row, name: str, servers: Sequence[str], results: Results) -> Iterator[Goal]:
    ours, base = results.median(row.name, name), results.median(row.name, BASE)
    if row.crowd:
        size = ours.bytes_per_connection if ours else None
        yield MOST_BYTES_PER_CONNECTION, "bytes for a connection", size
        return
    if row.plain:
        yield MOST_OF_PLAIN, f"times the CPU of {row.plain}", ratio(ours, results.median(row.plain, name))
        return
    if row.target is not None:
        yield row.target, "times Redis's CPU", ratio(ours, base)
    if FLOOR in servers and in_a_flood(row):
        yield MOST_OF_FLOOR, "times the floor's CPU", ratio(ours, results.median(row.name, FLOOR))
    if row.least_pace is not None:
        theirs = base.deliveries_per_s / ours.deliveries_per_s if ours and base else None
        yield 1 / row.least_pace, "times as many deliveries a second by Redis", theirs
    if row.rate:
        above = ours.p99_ms - base.p99_ms if ours and base else None
        yield MOST_P99_ABOVE_MS, "ms of p99 above Redis's", above
    if row.rooms:
        idle = ours.idle_ms_per_s if ours else None
        yield MOST_IDLE_MS, "ms of CPU a second while all are silent", idle
        return
    for other in sorted({*servers} & {*BEHIND}):
        yield 1.0, f"times the CPU of {other}", ratio(ours, results.median(row.name, other))


def _websocket_goals(row: Row, name: str, results: Results) -> Iterator[Goal]:
    ours = results.median(row.name, name)
    if row.name == "idle":
        size = ours.bytes_per_connection if ours else None
        yield MOST_BYTES_PER_WEBSOCKET, "bytes for a connection", size
    elif not row.crowd:
        for other, limit in websocket_limits(row, name).items():
            yield limit, f"times the CPU of {other}", ratio(ours, results.median(row.name, other))


def _tls_goals(row: Row, name: str, results: Results) -> Iterator[Goal]:
    ours = results.median(row.name, name)
    if row.name == "idle":
        yield MOST_BYTES_PER_TLS, "bytes for a connection", ours.bytes_per_connection if ours else None
    if row.crowd:
        for other, limit in MOST_OF_TLS_CONNECT.items():
            theirs = results.median(row.name, other)
            value = ours.cpu_us_per_connect / theirs.cpu_us_per_connect if ours and theirs else None
            yield limit, f"times {other}'s CPU for a handshake", value
    elif in_a_flood(row):
        for other in BEHIND_TLS:
            yield MOST_OF_TLS, f"times the CPU of {other}", ratio(ours, results.median(row.name, other))


def websocket_limits(row: Row, name: str) -> dict[str, float]:
    """Return how much of other servers' CPU per delivery the WebSocket entry ``name`` may take, by server."""
    limits = {OURS_WEBSOCKET[name]: MOST_OF_PLAIN_CLIENTS}
    return limits | MOST_OF_WEBSOCKET if in_a_flood(row) and name not in DELIVERIES_ALONE else limits


def in_a_flood(row: Row) -> bool:
    """Say whether the row is as fast as possible, with short texts and not only a few clients."""
    return not row.rate and row.size == 100 and row.clients >= 100


def _judge_pace(row: Row, name: str, ours: Figures | None) -> Verdict:
    goal = f"at least {LEAST_CONNECTS_PER_S:,} connects a second"
    if ours is None:
        return Verdict(row.name, name, goal, "no figure", None)
    pace = ours.connects_per_s
    return Verdict(row.name, name, goal, f"{pace:,.0f}", pace >= LEAST_CONNECTS_PER_S)


def at_most(row: Row, name: str, limit: float, what: str, value: float | None) -> Verdict:
    """Judge a goal: ``value`` in ``what`` must not be above ``limit``."""
    reached, holds = ("no figure", None) if value is None else (f"{value:,.2f}", value <= limit)
    return Verdict(row.name, name, f"at most {limit:g} {what}", reached, holds)
