"""The tables of the speed page in Markdown, from the JSON of a run. Measures nothing."""

import json
from pathlib import Path

import click
from rich.box import MARKDOWN
from rich.console import Console

from scripts.bench.goals import judge
from scripts.bench.report import (
    cost_table,
    fault_lines,
    in_flight_table,
    named_table,
    versions_line,
    websocket_table,
)
from scripts.bench.row import Figures, Results, Row
from scripts.common.machine import machine_line

# Characters of a line of a table, at most: Markdown does not wrap them.
LONGEST_LINE = 500


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Print the tables of FILE, which `--json FILE` wrote, in Markdown.

    CPU per delivery as ratios to Redis's in the same run; the same with less text in flight; named members
    as ratios to plain clients; mpchat's WebSocket clients as ratios to other servers. Then the goals that
    are missed, the runs that failed, of which no figure is made, and the machine and the versions.
    """
    written = json.loads(file.read_text())
    rows = [Row(**row) for row in written["rows"]]
    servers = list(written["versions"])
    results = Results()
    for run in written["runs"]:
        results.setdefault((run["row"], run["server"]), []).append(Figures(**run))
    page = Console(width=LONGEST_LINE, highlight=False)
    for build in (cost_table, in_flight_table, named_table, websocket_table):
        table = build(rows, servers, results)
        if table.rows:
            click.echo(f"{table.title}:\n")
            table.box, table.title = MARKDOWN, None
            page.print(table)
            click.echo()
    for verdict in (each for row in rows for each in judge(row, servers, results)):
        if verdict.holds is False:
            click.echo(f"MISSED: {verdict.row}, {verdict.server}: {verdict.goal}; reached: {verdict.reached}")
    for line in fault_lines(results):
        click.echo(line)
    counts = sorted({sum(not run.faults for run in runs) for runs in results.values()})
    rounds = " to ".join(str(count) for count in sorted({counts[0], counts[-1]})) if counts else "0"
    about = [machine_line(written["machine"]), versions_line(written["versions"])]
    click.echo("; ".join([*about, f"{rounds} rounds of {written['options']['seconds']:g} s"]))
