"""mpchat beside the brokers that people use: the same work on all of them, in the same run.

``python -m scripts.bench`` starts every server itself on loopback, runs the rows of rows.py on each in turn,
several rounds interleaved, and prints medians and ratios to Redis. It is no load test of a server that runs
already. The rule it keeps: every delivery is counted, and a lost delivery makes the exit code 1.

How the figures come about:

* CPU per delivery: the CPU clocks of all the server's processes, from the first message to the last delivery.
* As fast as possible: at most a window of text is in flight to the slowest client, and goes out in bursts of
  a quarter of it; those that a room's sender may send at once go out together. The window is the same for all
  servers. A larger window lets a server gather more messages into one send, so each of these rows runs with
  64 KiB (655 messages of 100 bytes) and with 1 MiB (10 485).
* Size is the size of the text. What a protocol puts around it is that protocol's cost.
* Named members get longer frames; they are compared with plain clients of the same server. In rows of many
  rooms one member of each talks, in turn. Before that all are silent for as long, and the CPU that the server
  takes meanwhile is shown.
* Latency is the time from just before a message's send to the read that brought it. In rows as fast as
  possible it is mostly the window, and the first message of each burst stands for the burst.
* WebSocket servers get the rows of plain clients. mpchat's deliveries to WebSocket clients are compared with
  those to plain ones (`mpchat-to-ws`: plain clients send to both), and mpchat-ws, where all are WebSocket
  clients, with `ws` and `socket.io`, which npm installs at first use. Pings and compression are off. The
  mask of clients' frames is zero, and a server takes it off like any other.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import click
from rich.console import Console

from scripts.bench.goals import Verdict, judge
from scripts.bench.peers import Peer, all_peers, mpchat_by_name
from scripts.bench.report import as_json, draw, goal_table, in_flight_table, versions_line
from scripts.bench.rounds import Rounds
from scripts.bench.row import BenchError, Options
from scripts.bench.rows import Sizes, all_rows
from scripts.common.command import split_names, split_numbers
from scripts.common.console import FAILED, INTERRUPTED, make_console, run_steps
from scripts.common.machine import machine_line

# KiB of text in flight, at most: a server must hold so much for each client that is behind.
MOST_KIB = 64 * 1024


@click.command(context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=5, help="Rounds; the tables show medians.")
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, help="Length of each run of a row.")
@click.option("--rows", default="", show_default="all", help="Rows to run, separated by commas.")
@click.option(
    "--servers",
    default="",
    show_default="all that are reached neither by WebSocket nor by TLS",
    help="Servers, by commas; mpchat-wN, mpchat-ws-wN, mpchat-to-ws-wN and mpchat-tls-wN too.",
)
@click.option(
    "--windows",
    default="64,1024",
    help="KiB of text in flight at most, by commas: each row as fast as possible runs with each.",
)
@click.option("--connects", type=click.IntRange(2), default=4000, help="Clients of the row `connect`.")
@click.option("--idle", type=click.IntRange(2), default=10_000, help="Clients of the row `idle`.")
# 5000 rooms of 4 and their publishers would be more than Redis's one process takes with 20 000 descriptors.
@click.option(
    "--rooms", type=click.IntRange(2), default=4900, help="Rooms of 4 clients in the rows of rooms."
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every run to this file.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Draw a picture (needs matplotlib)."
)
@click.option("--check", is_flag=True, help="Exit with 1 when a goal is missed, too.")
@click.option("--list", "only_list", is_flag=True, help="Show the rows and servers, run nothing.")
def main(**flags: object) -> None:
    """Compare mpchat with Redis, NATS, Mosquitto, the lecture's servers and a minimal relay in C.

    By WebSocket: mpchat-ws, mpchat-to-ws (plain clients send), both with -w2, ws and socket.io on Node,
    websockets, nats-ws. By TLS: mpchat-tls, nats-tls, mosquitto-tls.

    Exit code 0: every delivery arrived; 1: a delivery was lost, or with --check a goal missed; 130:
    interrupted. The results so far are shown then.
    """
    compare(SimpleNamespace(**flags))


def compare(flags: SimpleNamespace) -> None:
    """Run the comparison, show the results, and end the process with the exit code."""
    console = make_console()
    windows = [1024 * kib for kib in split_numbers(flags.windows, 1, MOST_KIB, "--windows")]
    sizes = Sizes(flags.connects, flags.idle, flags.rooms, windows)
    rows = split_names(flags.rows, {row.name: row for row in all_rows(sizes)}, "--rows")
    peers = chosen_peers(flags.servers)
    versions = print_header(console, peers)
    if flags.only_list:
        for row in rows:
            console.print(f"{row.name:20} {row.title}")
        return
    peers = [peer for peer in peers if peer.name in versions]
    rounds = Rounds(rows, peers, flags.rounds, Options(seconds=flags.seconds))
    finished = run_steps(console, rounds.total, rounds.steps(console))
    verdicts = [each for row in rounds.begun for each in judge(row, rounds.servers, rounds.results)]
    show(console, rounds, verdicts)
    if flags.json_path:
        everything = as_json(rounds.options, versions, rows, rounds.results, verdicts)
        flags.json_path.write_text(json.dumps(everything, indent=1) + "\n")
    if flags.plot_path:
        caption = f"{machine_line()}\n{versions_line(versions)}"
        draw(flags.plot_path, rounds.begun, rounds.servers, rounds.results, caption)
    lost = any(run.faults for runs in rounds.results.values() for run in runs)
    missed = flags.check and any(verdict.holds is False for verdict in verdicts)
    sys.exit(INTERRUPTED if not finished else FAILED if lost or missed else 0)


def chosen_peers(names: str) -> list[Peer]:
    """Return the servers that ``names`` asks for; without names all but those reached by WebSocket."""
    known = {peer.name: peer for peer in all_peers()}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    wanted = wanted or [name for name, peer in known.items() if not (peer.websocket or peer.tls)]
    try:
        return [known.get(name) or mpchat_by_name(name) for name in wanted]
    except BenchError as error:
        raise click.BadParameter(f"{error}; or {', '.join(known)}", param_hint="--servers") from None


def print_header(console: Console, peers: Sequence[Peer]) -> dict[str, str]:
    """Print the machine and the servers; return the versions of those that are installed."""
    console.print(machine_line())
    versions: dict[str, str] = {}
    for peer in peers:
        try:
            versions[peer.name] = peer.version()
        except BenchError as error:
            console.print(f"{peer.name} is absent: {error}", style="yellow")
    console.print(versions_line(versions))
    return versions


def show(console: Console, rounds: Rounds, verdicts: Sequence[Verdict]) -> None:
    """Print the tables of all rows, the faults and the goals."""
    rounds.show(console)
    table = in_flight_table(rounds.begun, rounds.servers, rounds.results)
    if table.rows:
        console.print(table, "")
    if verdicts:
        console.print(goal_table(verdicts))
