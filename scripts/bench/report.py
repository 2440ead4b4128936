"""What the bench shows: the tables, the faults, the JSON and the picture.

Pure presentation: it gets figures, and never runs or judges anything.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from scripts.bench.goals import (
    BASE,
    BEHIND_TLS,
    DELIVERIES_ALONE,
    FLOOR,
    MOST_OF_PLAIN,
    MOST_OF_TLS,
    MOST_OF_WEBSOCKET,
    OURS,
    OURS_TLS,
    OURS_WEBSOCKET,
    Verdict,
    in_a_flood,
    websocket_limits,
)
from scripts.bench.row import FULL_WINDOW, Figures, Options, Results, Row, ratio
from scripts.bench.rows import window_name
from scripts.common.console import figures_table, picture
from scripts.common.machine import machine

# What mpchat with WebSocket clients stands beside in a table of its own.
BESIDE_WEBSOCKET = ("mpchat", "mpchat-ws-w2", *MOST_OF_WEBSOCKET, "websockets", "nats-ws")

Cells = list[tuple[str, str | Text]]


def versions_line(versions: Mapping[str, str]) -> str:
    """Return the servers with their versions, in one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def fault_lines(results: Results) -> list[str]:
    """Return a line for each row and server that had runs with faults."""
    lines = []
    for (row, server), runs in results.items():
        faulty = [run for run in runs if run.faults]
        if faulty:
            lines.append(f"{row}, {server}: {len(faulty)} of {len(runs)} runs FAILED: {faulty[0].faults[0]}")
    return lines


# ---- the table of a row


def row_table(row: Row, servers: Sequence[str], results: Results) -> Table:
    """Return a row of work as a table, a line for each server."""
    headings = [heading for heading, _ in _cells(row, results, Figures(row.name, ""))]
    table = figures_table(f"{row.name}: {row.title}", "", *headings)
    for name in servers:
        label = Text(name, style="bold" if name in (*OURS, *OURS_WEBSOCKET, *OURS_TLS) else "")
        if (summary := results.median(row.name, name)) is not None:
            table.add_row(label, *(cell for _, cell in _cells(row, results, summary)))
        elif (row.name, name) in results:
            table.add_row(label, Text("FAILED", style="red"))
        elif row.rooms:
            table.add_row(label, *("–" for _ in headings))
    return table


def _cells(row: Row, results: Results, figures: Figures) -> Cells:
    """Return the headings and cells of a server's line."""
    cost = [("µs/delivery", f"{figures.cpu_us_per_delivery:.4f}")]
    base = ratio(figures, results.median(row.name, BASE))
    load = ("load", f"{figures.load_share:.0%}")
    connection = ("bytes each", f"{figures.bytes_per_connection:,.0f}")
    if row.crowd:
        pace = ("connects/s", f"{figures.connects_per_s:,.0f}")
        each = ("µs/connect", f"{figures.cpu_us_per_connect:,.0f}")
        told = ("told all, ms", f"{figures.wall_s * 1e3:,.1f}")
        return [pace, each, connection, told, *cost, ("× Redis", _times(base)), load]
    work = [
        ("deliv./s", short(figures.deliveries_per_s)),
        ("p50 ms", f"{figures.p50_ms:.1f}"),
        ("p99", f"{figures.p99_ms:.1f}"),
        ("max", f"{figures.max_ms:.0f}"),
        ("server", f"{figures.server_share:.0%}"),
        load,
    ]
    if row.plain:
        limit = MOST_OF_PLAIN if row.window == FULL_WINDOW and figures.server in OURS else None
        to_plain = judged(ratio(figures, results.median(row.plain, figures.server)), limit)
        return [*cost, ("× plain", to_plain), *work]
    if row.rooms:
        silent = ("silent, ms/s", f"{figures.idle_ms_per_s:.1f}")
        to_base = judged(base, row.target if figures.server in OURS else None)
        return [*cost, ("× Redis", to_base), *work, silent, connection]
    return [*cost, *_ratios(row, results, figures), *work]


def _ratios(row: Row, results: Results, figures: Figures) -> Cells:
    """Return CPU as multiples of that of the servers to compare with, as far as the row was run on them."""
    name = figures.server
    limits = websocket_limits(row, name) if name in OURS_WEBSOCKET and row.window == FULL_WINDOW else {}
    if name in OURS_TLS and in_a_flood(row):
        limits = dict.fromkeys(BEHIND_TLS, MOST_OF_TLS)
    if name in OURS and row.target is not None:
        limits[BASE] = row.target
    others = {other: f"× {other}" for other in (FLOOR, *MOST_OF_WEBSOCKET, *BEHIND_TLS)}
    titles = {BASE: "× Redis", **others}
    if any((row.name, each) in results for each in OURS_WEBSOCKET):
        # Of the entry with plain clients that is its own; of others there is none.
        titles = {OURS_WEBSOCKET.get(name, ""): "× plain", **titles}
    return [
        (title, judged(ratio(figures, results.median(row.name, other)), limits.get(other)))
        for other, title in titles.items()
        if title == "× plain" or (row.name, other) in results
    ]


def judged(value: float | None, limit: float | None) -> Text:
    """Return a ratio; with its goal, if it has one, green where it is reached."""
    if value is None or limit is None:
        return Text(_times(value))
    return Text(f"{value:.2f} (≤ {limit:.2f})", style="green" if value <= limit else "red")


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def short(value: float) -> str:
    """Return three digits: 4.38 M, 243 k."""
    for unit, letter in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


# ---- tables over all rows


def cost_table(rows: Sequence[Row], servers: Sequence[str], results: Results) -> Table:
    """Return CPU per delivery as ratios to Redis's, with Redis's own figure and the goal."""
    others = [name for name in servers if name != BASE]
    table = figures_table("CPU per delivery, × Redis", "work", "Redis, µs", *others, "goal")
    for row in rows:
        if row.target is not None and (redis := results.median(row.name, BASE)):
            ratios = [_times(ratio(results.median(row.name, name), redis)) for name in others]
            table.add_row(row.title, f"{redis.cpu_us_per_delivery:.2f}", *ratios, f"{row.target:.2f}")
    return table


def in_flight_table(rows: Sequence[Row], servers: Sequence[str], results: Results) -> Table:
    """Return CPU per delivery of the rows as fast as possible, × Redis, by how much text is in flight.

    The two figures of a cell belong to the smallest window and to the full one.
    """
    twins: dict[tuple[int, int, int], list[Row]] = defaultdict(list)
    for row in rows:
        if not row.rate and not row.rooms:
            twins[row.clients, row.size, row.senders].append(row)
    others = [name for name in servers if name != BASE]
    table = figures_table("", "row", *others)
    for each in twins.values():
        each.sort(key=lambda row: row.window)
        ends = [each[0], each[-1]]
        if ends[0] is not ends[1] and any(results.median(row.name, BASE) for row in ends):
            names = " → ".join(window_name(row.window) for row in ends)
            table.title = f"CPU per delivery, × Redis, with {names} in flight"
            bases = [(row.name, results.median(row.name, BASE)) for row in ends]
            costs = [
                [_times(ratio(results.median(row, name), base)) for row, base in bases] for name in others
            ]
            table.add_row(ends[1].name, *(" → ".join(cost) for cost in costs))
    return table


def websocket_table(rows: Sequence[Row], servers: Sequence[str], results: Results) -> Table:
    """Return CPU per delivery to mpchat's WebSocket clients, and as ratios to that of other servers."""
    ours = next(iter(OURS_WEBSOCKET))
    others = [name for name in servers if name in BESIDE_WEBSOCKET]
    alone = [name for name in servers if name in DELIVERIES_ALONE]
    headings = [
        f"{ours}, µs",
        *(f"× {name}" for name in others),
        *(f"{name} × {OURS_WEBSOCKET[name]}" for name in alone),
    ]
    table = figures_table("CPU per delivery to WebSocket clients", "work", *headings)
    for row in rows:
        if not row.crowd and (figures := results.median(row.name, ours)):
            pairs = [(ours, name) for name in others] + [(name, OURS_WEBSOCKET[name]) for name in alone]
            medians = [[results.median(row.name, name) for name in pair] for pair in pairs]
            ratios = [_times(ratio(*pair)) for pair in medians]
            table.add_row(row.title, f"{figures.cpu_us_per_delivery:.2f}", *ratios)
    return table


def named_table(rows: Sequence[Row], servers: Sequence[str], results: Results) -> Table:
    """Return CPU per delivery to named members as ratios to plain clients of the same server."""
    named = [row for row in rows if row.plain and any(name == row.name for name, _ in results)]
    ours = [name for name in servers if any((row.name, name) in results for row in named)]
    table = figures_table("CPU per delivery to named members, × plain clients", "work", *ours)
    for row in named:
        pairs = [[results.median(each, name) for each in (row.name, row.plain)] for name in ours]
        table.add_row(row.title, *(_times(ratio(*pair)) for pair in pairs))
    return table


def goal_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the goals, each with the figure that was reached."""
    table = figures_table("Goals", "row", "server", "goal", "reached", "")
    marks = {True: Text("holds", style="green"), False: Text("MISSED", style="red"), None: Text("open")}
    for verdict in verdicts:
        table.add_row(verdict.row, verdict.server, verdict.goal, verdict.reached, marks[verdict.holds])
    return table


# ---- files


def as_json(
    options: Options,
    versions: Mapping[str, str],
    rows: Sequence[Row],
    results: Results,
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    """Return everything, each single run included, as plain JSON values."""
    summaries = {key: results.median(*key) for key in results}
    return {
        "machine": machine(),
        "versions": dict(versions),
        "options": asdict(options),
        "rows": [asdict(row) for row in rows],
        "runs": [asdict(run) for runs in results.values() for run in runs],
        "medians": [
            asdict(summary) | {"times_redis": ratio(summary, summaries.get((row, BASE)))}
            for (row, _), summary in summaries.items()
            if summary is not None
        ],
        "goals": [asdict(verdict) for verdict in verdicts],
    }


def draw(path: Path, rows: Sequence[Row], servers: Sequence[str], results: Results, caption: str) -> None:
    """Draw CPU per delivery and deliveries a second of the rows of work, both on logarithmic axes."""
    drawn = [row for row in rows if not row.crowd] or list(rows)
    panels = (("cpu_us_per_delivery", "CPU µs per delivery"), ("deliveries_per_s", "deliveries per second"))
    width = 0.85 / max(1, len(servers))
    with picture(path, caption, 2, 1, figsize=(max(8, 1.4 * len(drawn)), 9), sharex=True) as axes:
        for axis, (attribute, label) in zip(axes, panels, strict=True):
            for index, server in enumerate(servers):
                summaries = [results.median(row.name, server) for row in drawn]
                places = [place + index * width for place, summary in enumerate(summaries) if summary]
                heights = [getattr(summary, attribute) for summary in summaries if summary]
                axis.bar(places, heights, width, label=server)
            axis.set(yscale="log", ylabel=label)
            axis.grid(axis="y", alpha=0.3)
        middle = width * (len(servers) - 1) / 2
        places = [place + middle for place in range(len(drawn))]
        axes[-1].set_xticks(places, [row.name for row in drawn], rotation=20, horizontalalignment="right")
        axes[0].legend(ncols=5, fontsize="small")
