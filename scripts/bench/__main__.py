"""mpchat beside the brokers people use: the same work on all of them, in the same run.

``python -m scripts.bench`` starts every server itself on loopback, runs the rows of rows.py on each in
turn, several rounds interleaved, and prints medians and ratios to Redis. It is no load test of a server that
runs already. The rule it keeps: every delivery is counted, and one that is lost makes the exit code 1.

The modules beside it: rows (the work, the goals), peers (the servers), cell (one run),
load (a load process), wire (the protocols), report (tables, JSON, picture).

How the figures come about:

* CPU per delivery: the CPU clocks of all the server's processes, from the first message to the last delivery.
* As fast as it goes: at most a window of texts (``--window``, the same for all servers: 1 MiB, so 10 000
  messages of 100 bytes) is on its way to the slowest client, sent in bursts of a quarter of it. So servers
  can form batches, and none has a reason to drop anybody.
* Size is the size of the text. What a protocol puts around it is that protocol's cost.
* Named members get longer frames; they are compared with plain clients of the same server. In rows of many
  rooms one member of each talks, in turn (on Redis, where subscribers cannot, four further connections).
  Before that all are silent for as long, and what the server takes meanwhile is shown.
* Latency is from just before a message's send to the read that brought it; in rows that go as fast as they go
  it is mostly the window, and the first message of each burst stands for the burst.
"""

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from scripts.bench.cell import Figures, Options, Row, run_cell
from scripts.bench.peers import Peer, PeerError, all_peers, mpchat_peer
from scripts.bench.report import (
    absent_line,
    as_json,
    draw,
    fault_lines,
    goal_table,
    machine_line,
    row_table,
    versions_line,
)
from scripts.bench.rows import Verdict, all_rows, judge, medians

# Exit codes: a delivery was lost or a goal missed; the bench was interrupted.
FAILED = 1
INTERRUPTED = 130
# Columns of the tables where there is no terminal to ask.
FILE_WIDTH = 120
# Redraws of the progress line a second: few, they cost CPU on the machine that is measured.
REDRAWS_PER_S = 2


@click.command(context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=5, help="Rounds; the tables show medians.")
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, help="Length of each run of a row.")
@click.option("--rows", "row_names", default="", help="Rows to run, separated by commas.  [default: all]")
@click.option(
    "--servers", "server_names", default="", help="Servers, by commas; mpchat-wN too.  [default: all]"
)
@click.option("--window", type=click.IntRange(1), default=1024, help="KiB of text on the way at most.")
@click.option("--load-processes", type=click.IntRange(1), default=2, help="Processes of clients, at least.")
@click.option("--connects", type=click.IntRange(2), default=4000, help="Clients of the row `connect`.")
@click.option("--idle", type=click.IntRange(2), default=10_000, help="Clients of the row `idle`.")
# 5000 rooms of 4 and their publishers would be more than Redis's one process takes with 20 000 descriptors.
@click.option(
    "--rooms", type=click.IntRange(2), default=4900, help="Rooms, of 4 clients each, of those rows."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every run to this file.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Draw a picture (needs matplotlib)."
)
@click.option("--check", is_flag=True, help="Exit with 1 when a goal is missed, too.")
@click.option("--list", "only_list", is_flag=True, help="Show the rows and servers, run nothing.")
def main(
    rounds: int,
    seconds: float,
    row_names: str,
    server_names: str,
    window: int,
    load_processes: int,
    connects: int,
    idle: int,
    rooms: int,
    json_path: Path | None,
    plot_path: Path | None,
    check: bool,
    only_list: bool,
) -> None:
    """Compare mpchat with Redis, NATS, Mosquitto, the lecture's servers and a floor in C."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    rows = chosen_rows(all_rows(connects, idle, rooms), row_names)
    peers = chosen_peers(server_names)
    versions = print_header(console, peers)
    peers = [peer for peer in peers if peer.name in versions]
    if only_list:
        for row in rows:
            console.print(f"{row.name:14} {row.title}")
        return
    options = Options(seconds=seconds, window_bytes=window * 1024, load_processes=load_processes)
    results: dict[tuple[str, str], list[Figures]] = {}
    finished = run_all(console, rows, peers, rounds, options, results)

    names = [peer.name for peer in peers]
    for row in rows:
        console.print(row_table(row, names, results), "")
    for line in fault_lines(results):
        console.print(line, style="red", highlight=False)
    verdicts = all_verdicts(rows, names, results)
    if verdicts:
        console.print(goal_table(verdicts))
    if json_path:
        json_path.write_text(json.dumps(as_json(options, versions, rows, results, verdicts), indent=1) + "\n")
    if plot_path:
        draw(plot_path, rows, names, results, f"{machine_line()}\n{versions_line(versions)}")
    if not finished:
        sys.exit(INTERRUPTED)
    lost = any(run.faults for runs in results.values() for run in runs)
    missed = check and any(verdict.holds is False for verdict in verdicts)
    sys.exit(FAILED if lost or missed else 0)


def chosen_rows(rows: Sequence[Row], names: str) -> list[Row]:
    """Return the rows that ``names`` (separated by commas) asks for, all when it is empty."""
    known = {row.name: row for row in rows}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise click.BadParameter(f"no row {unknown[0]!r}; there are {', '.join(known)}", param_hint="--rows")
    return [known[name] for name in wanted]


def chosen_peers(names: str) -> list[Peer]:
    """Return the servers that ``names`` asks for, all when it is empty."""
    known = {peer.name: peer for peer in all_peers()}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    try:
        return [known.get(name) or mpchat_peer(name) for name in wanted]
    except PeerError as error:
        raise click.BadParameter(f"{error}; or {', '.join(known)}", param_hint="--servers") from None


def print_header(console: Console, peers: Sequence[Peer]) -> dict[str, str]:
    """Print the machine and the servers; return the versions of those that are there."""
    console.print(machine_line(), highlight=False)
    versions: dict[str, str] = {}
    for peer in peers:
        version = peer.version()
        if version is None:
            console.print(absent_line(peer), style="yellow", highlight=False)
        else:
            versions[peer.name] = version
    console.print(versions_line(versions), highlight=False)
    return versions


def run_all(
    console: Console,
    rows: Sequence[Row],
    peers: Sequence[Peer],
    rounds: int,
    options: Options,
    results: dict[tuple[str, str], list[Figures]],
) -> bool:
    """Fill ``results``, round by round; False when a signal ended it, with what there is so far."""
    cells = [
        (number, row, peer) for number in range(rounds) for row in rows for peer in turned(peers, number)
    ]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, refresh_per_second=REDRAWS_PER_S)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, interrupt)
    try:
        with progress:
            task = progress.add_task("", total=len(cells))
            for number, row, peer in cells:
                progress.update(task, description=f"round {number + 1}/{rounds} · {row.name} · {peer.name}")
                if not peer.wire_for(row.rooms):
                    pass  # the table has a dash
                elif peer.most_clients is None or row.clients <= peer.most_clients:
                    figures = run_cell(peer, row, options)
                    results.setdefault((row.name, peer.name), []).append(figures)
                    for fault in figures.faults[:1]:
                        console.print(f"{row.name}, {peer.name}: {fault}", style="red", highlight=False)
                elif number == 0:
                    limit = f"{peer.name} takes at most {peer.most_clients:,} clients in its processes"
                    console.print(f"{row.name}: {limit}, left out", style="yellow", highlight=False)
                progress.advance(task)
    except KeyboardInterrupt:
        console.print("interrupted: all servers are stopped; this is what there is so far", style="yellow")
        return False
    return True


def turned(peers: Sequence[Peer], number: int) -> list[Peer]:
    """Return ``peers`` beginning with another one each round, so that no one always comes after the same."""
    shift = number % len(peers) if peers else 0
    return [*peers[shift:], *peers[:shift]]


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the run in order. Once: a second Ctrl-C must not end the stopping, which has deadlines."""
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.SIG_IGN)
    raise KeyboardInterrupt


def all_verdicts(
    rows: Sequence[Row], names: Sequence[str], results: dict[tuple[str, str], list[Figures]]
) -> list[Verdict]:
    """Judge every row by its medians."""
    verdicts = []
    for row in rows:
        ours, plain = (
            {name: medians(results.get((each, name), ())) for name in names} for each in (row.name, row.plain)
        )
        verdicts += judge(row, ours, plain)
    return verdicts


if __name__ == "__main__":
    main()
