"""The tables of the speed page in Markdown, from the JSON of a run. Measures nothing."""

import json
from collections import defaultdict
from pathlib import Path

import click

from scripts.bench.report import cost_grid, in_flight_grid, named_grid, versions_line
from scripts.bench.row import Figures, Row
from scripts.common.machine import machine_line


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def main(file: Path) -> None:
    """Print the tables of FILE, which `--json FILE` wrote, in Markdown.

    CPU per delivery as ratios to Redis's in the same run; the same with less text in flight; named members
    as ratios to plain clients; then a line with the machine and the versions.
    """
    written = json.loads(file.read_text())
    rows = [Row(**row) for row in written["rows"]]
    servers = list(written["versions"])
    results: dict[tuple[str, str], list[Figures]] = defaultdict(list)
    for run in written["runs"]:
        results[run["row"], run["server"]].append(Figures(**run))
    grids = [build(rows, servers, results) for build in (cost_grid, in_flight_grid, named_grid)]
    for grid in grids:
        if grid.lines:
            click.echo(f"{grid.title}:\n\n{grid.as_markdown()}\n")
    counts = sorted({len(runs) for runs in results.values()})
    rounds = " to ".join(str(count) for count in sorted({counts[0], counts[-1]})) if counts else "0"
    about = [machine_line(written["machine"]), versions_line(written["versions"])]
    click.echo("; ".join([*about, f"{rounds} rounds of {written['options']['seconds']:g} s"]))
