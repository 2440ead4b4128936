"""What bench.py shows: the header, the tables, the goals, the JSON and the picture.

Pure presentation: takes figures that are there and never runs or judges anything.
"""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from rich.box import SIMPLE
from rich.table import Table
from rich.text import Text

from scripts.bench.cell import Figures, Options, Row
from scripts.bench.peers import Peer
from scripts.bench.rows import BASE, FLOOR, MOST_OF_PLAIN, OURS, Verdict, medians, ratio

Results = Mapping[tuple[str, str], Sequence[Figures]]


def machine() -> dict[str, str]:
    """Return what the figures depend on beside the servers."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: what platform says must do
    return {
        "cores": str(os.cpu_count()),
        "processor": model,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def machine_line() -> str:
    """Return the machine in one line."""
    about = machine()
    return f"{about['cores']} cores, {about['processor']}, {about['kernel']}, Python {about['python']}"


def versions_line(versions: Mapping[str, str]) -> str:
    """Return the servers with their versions, in one line."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def absent_line(peer: Peer) -> str:
    """Say that a server is not here and how it would come here."""
    if peer.package:
        return f"{peer.name} is absent: apt-get install {peer.package}"
    return f"{peer.name} is absent: this checkout's mpchat has no command line that starts"


def row_table(row: Row, servers: Sequence[str], results: Results) -> Table:
    """Return one row of work as a table, a line for each server."""
    summaries = {name: medians(results.get((row.name, name), ())) for name in servers}
    table = Table(title=f"{row.name}: {row.title}", title_justify="left", title_style="bold", box=SIMPLE)
    table.add_column("")
    columns = _crowd_columns if row.crowd else _room_columns if row.rooms > 1 else _work_columns
    if row.plain:
        # Named members are compared with plain clients of the same server.
        plain = {name: medians(results.get((row.plain, name), ())) for name in servers}
        columns = partial(_named_columns, plain)
    headings = [heading for heading, _ in columns(row, summaries, Figures(row.name, ""))]
    for heading in headings:
        table.add_column(heading, justify="right")
    for name in servers:
        runs = results.get((row.name, name), ())
        if (summary := summaries[name]) is not None:
            table.add_row(_name(name), *(cell for _, cell in columns(row, summaries, summary)))
        elif runs:
            table.add_row(_name(name), Text("FAILED", style="red"))
        elif row.rooms:
            table.add_row(_name(name), *("–" for _ in headings))
    return table


def fault_lines(results: Results) -> list[str]:
    """Return a line for each row and server that had runs with faults."""
    lines = []
    for (row, server), runs in results.items():
        faulty = [run for run in runs if run.faults]
        if faulty:
            lines.append(f"{row}, {server}: {len(faulty)} of {len(runs)} runs FAILED: {faulty[0].faults[0]}")
    return lines


def _name(name: str) -> Text:
    return Text(name, style="bold" if name in OURS else "")


def _short(value: float) -> str:
    """Three digits: 4.38 M, 243 k."""
    for unit, letter in ((1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _work_columns(
    row: Row, summaries: Mapping[str, Figures | None], figures: Figures
) -> list[tuple[str, str | Text]]:
    to_base = ratio(figures, summaries.get(BASE))
    style = ""
    if figures.server in OURS and row.target is not None and to_base is not None:
        style = "green" if to_base <= row.target else "red"
    goal = f" (≤ {row.target:.2f})" if style else ""
    return [
        ("µs/delivery", f"{figures.cpu_us_per_delivery:.4f}"),
        ("× Redis", Text(_times(to_base) + goal, style=style)),
        ("× floor", _times(ratio(figures, summaries.get(FLOOR)))),
        ("deliv./s", _short(figures.deliveries_per_s)),
        ("p50 ms", f"{figures.p50_ms:.1f}"),
        ("p99", f"{figures.p99_ms:.1f}"),
        ("max", f"{figures.max_ms:.0f}"),
        ("server", f"{figures.server_share:.0%}"),
        ("load", f"{figures.load_share:.0%}"),
    ]


def _named_columns(
    plain: Mapping[str, Figures | None],
    row: Row,
    summaries: Mapping[str, Figures | None],
    figures: Figures,
) -> list[tuple[str, str | Text]]:
    to_plain = ratio(figures, plain.get(figures.server))
    style = ""
    if figures.server in OURS and to_plain is not None:
        style = "green" if to_plain <= MOST_OF_PLAIN else "red"
    goal = f" (≤ {MOST_OF_PLAIN:.2f})" if style else ""
    cells = _work_columns(row, summaries, figures)
    return [cells[0], ("× plain", Text(_times(to_plain) + goal, style=style)), *cells[3:]]


def _room_columns(
    row: Row, summaries: Mapping[str, Figures | None], figures: Figures
) -> list[tuple[str, str | Text]]:
    cells = _work_columns(row, summaries, figures)
    return [
        *cells[:2],
        *cells[3:],
        ("silent, ms/s", f"{figures.idle_ms_per_s:.1f}"),
        ("bytes each", f"{figures.bytes_per_connection:,.0f}"),
    ]


def _crowd_columns(
    _row: Row, summaries: Mapping[str, Figures | None], figures: Figures
) -> list[tuple[str, str | Text]]:
    return [
        ("connects/s", f"{figures.connects_per_s:,.0f}"),
        ("bytes each", f"{figures.bytes_per_connection:,.0f}"),
        ("told all, ms", f"{figures.wall_s * 1e3:,.1f}"),
        ("µs/delivery", f"{figures.cpu_us_per_delivery:.2f}"),
        ("× Redis", _times(ratio(figures, summaries.get(BASE)))),
        ("load", f"{figures.load_share:.0%}"),
    ]


def goal_table(verdicts: Sequence[Verdict]) -> Table:
    """Return the goals, each with what came out."""
    table = Table(title="Goals", title_justify="left", title_style="bold", box=SIMPLE)
    for heading in ("row", "server", "goal", "reached", ""):
        table.add_column(heading)
    marks = {True: Text("holds", style="green"), False: Text("MISSED", style="red"), None: Text("open")}
    for verdict in verdicts:
        table.add_row(verdict.row, verdict.server, verdict.goal, verdict.reached, marks[verdict.holds])
    return table


def as_json(
    options: Options,
    versions: Mapping[str, str],
    rows: Sequence[Row],
    results: Results,
    verdicts: Sequence[Verdict],
) -> dict[str, Any]:
    """Return everything, each single run included, as plain JSON values."""
    summaries = {key: medians(runs) for key, runs in results.items()}
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
    import matplotlib  # type: ignore[import-not-found,import-untyped,unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,import-untyped,unused-ignore]

    drawn = [row for row in rows if not row.crowd] or list(rows)
    figure, axes = pyplot.subplots(2, 1, figsize=(max(8, 1.4 * len(drawn)), 9), sharex=True)
    panels = (("cpu_us_per_delivery", "CPU µs per delivery"), ("deliveries_per_s", "deliveries per second"))
    width = 0.85 / max(1, len(servers))
    for axis, (attribute, label) in zip(axes, panels, strict=True):
        for index, server in enumerate(servers):
            summaries = [medians(results.get((row.name, server), ())) for row in drawn]
            places = [place + index * width for place, summary in enumerate(summaries) if summary]
            heights = [getattr(summary, attribute) for summary in summaries if summary]
            axis.bar(places, heights, width, label=server)
        axis.set_yscale("log")
        axis.set_ylabel(label)
        axis.grid(axis="y", alpha=0.3)
    middle = width * (len(servers) - 1) / 2
    places = [place + middle for place in range(len(drawn))]
    axes[-1].set_xticks(places, [row.name for row in drawn], rotation=20, horizontalalignment="right")
    axes[0].legend(ncols=5, fontsize="small")
    figure.suptitle(caption, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
