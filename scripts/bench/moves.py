"""What moving live connections costs: reloads of mpchat with many idle clients, and what the clients notice.

``python -m scripts.bench moves`` runs the bench's work "one message to many idle clients"; before the message
it reloads the server several times. It shows how long each reload took, how long connections were without a
worker by the server's own clocks, and what probes saw. At the end every client must receive exactly the one
message, so a connection or a message that was lost is a fault.

A probe sends an empty frame, which the server refuses, so that the answer goes to the probe alone; it sends
the next 20 ms after the one before, once that is answered. So its round trips say how long *it* had to wait.
Times are in seconds, of one machine that clients and server share. ``--websockets`` does the same with
WebSocket connections, on a server of their own after the plain ones, and compares the times of the reloads.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mpchat.control.client import ask
from mpchat.control.requests import Reload
from mpchat.errors import MpchatError
from scripts.bench.cell import Cell, run_cell
from scripts.bench.peers import Peer, control_socket, mpchat_peer
from scripts.bench.row import BenchError, Options, Row
from scripts.common.console import FAILED, figures_table, make_console
from scripts.common.latency import Latency

# Seconds between two empty frames of a probe.
PROBE_EVERY_S = 0.02
# Seconds of silence in a reload until it counts as failed.
SILENCE_S = 30.0
# Probes, at most: one process runs them all.
MOST_PROBES = 1000
# Seconds that a reload may take, and that a connection may be without a worker (p99 and maximum).
GOALS = {"seconds": 5.0, "p99": 0.1, "max": 0.5}
# How long reloads with WebSocket connections may take, as a multiple of those with plain ones (medians).
MOST_OF_PLAIN = 1.2
QUIET, RELOAD = "quiet", "reload"


@dataclass(frozen=True)
class Work:
    """What is done to a server. Times in seconds."""

    connections: int
    probes: int
    rounds: int
    quiet_s: float  # before each reload, and after the last one
    workers: int


def measure(work: Work, peer: Peer, progress: Callable[[str], None]) -> dict[str, Any]:
    """Do the work; return what ``--json`` prints."""
    reloads: list[dict[str, Any]] = []
    # All round trips, and the longest of each probe in each part of the run.
    trips, longest = ({QUIET: Latency(), RELOAD: Latency()} for _ in range(2))

    @contextmanager
    def probing(cell: Cell, phase: str) -> Iterator[None]:
        with cell.asking(work.probes, PROBE_EVERY_S) as trips_ns:
            yield
        for each in trips_ns:
            for trip in each:
                trips[phase].record(trip)
            longest[phase].record(max(each, default=0))

    def meanwhile(cell: Cell) -> None:
        for number in range(1, work.rounds + 1):
            progress(f"{peer.name}: reload {number} of {work.rounds}")
            with probing(cell, QUIET):
                time.sleep(work.quiet_s)
            with probing(cell, RELOAD):
                reloads.append(reload(cell.folder))
        with probing(cell, QUIET):
            time.sleep(work.quiet_s)
        progress(f"{peer.name}: one message to all")

    progress(f"{peer.name}: opening {work.connections} connections")
    clients = work.connections + work.probes
    row = Row("moves", "one message to idle clients", clients, senders=work.probes, rate=100, messages=1)
    figures = run_cell(peer, row, Options(), meanwhile)
    return {
        "server": peer.name,
        "workers": work.workers,
        "connections": clients,
        "probes": work.probes,
        "reloads": reloads,
        "received": figures.deliveries,
        "trips": {phase: each.summary() for phase, each in trips.items()},
        "longest": {phase: each.summary() for phase, each in longest.items()},
        "faults": [*figures.faults, *faults(reloads)],
        "missed": missed(reloads),
    }


def compared(websockets: dict[str, Any], plain: dict[str, Any]) -> dict[str, Any]:
    """Return the facts of WebSocket connections with those of plain ones among them, and how they compare."""
    times = [
        [each["seconds"] for each in facts["reloads"] if not each["exit"]] for facts in (websockets, plain)
    ]
    ratio = median(times[0]) / median(times[1]) if all(times) else None
    over = [_times_plain(ratio)] if ratio is not None and ratio > MOST_OF_PLAIN else []
    return websockets | {
        "plain": plain,
        "times_plain": ratio,
        "faults": [*plain["faults"], *websockets["faults"]],
        "missed": [*plain["missed"], *websockets["missed"], *over],
    }


def _times_plain(ratio: float) -> str:
    return f"reloads took {ratio:.2f} times as long as with plain connections, the goal {MOST_OF_PLAIN:g}"


def reload(folder: Path) -> dict[str, Any]:
    """Reload the server whose files are in ``folder``; return its answer."""
    try:
        answer = ask(control_socket(folder), Reload(), SILENCE_S)
    except MpchatError as error:
        raise BenchError(f"a reload failed: {error}") from error
    shown = ("seconds", "moved", "failed", "lost", "pauses")
    result = {name: answer.result[name] for name in shown if name in answer.result}
    return {**result, "exit": answer.exit, "text": answer.text}


def faults(reloads: Sequence[dict[str, Any]]) -> list[str]:
    """Return the promises that reloads broke."""
    found = [f"a reload failed: {each['text']}" for each in reloads if each["exit"]]
    return found + [f"{each['lost']} connections were lost" for each in reloads if each.get("lost")]


def missed(reloads: Sequence[dict[str, Any]]) -> list[str]:
    """Return the goals that were missed, and in which reload."""
    found = []
    for number, each in enumerate(reloads, 1):
        figures = {"seconds": each.get("seconds", 0.0), **each.get("pauses", {})}
        found += [
            f"reload {number}: {name} is {figures[name]:.3f} s, the goal {goal:g} s"
            for name, goal in GOALS.items()
            if figures.get(name, 0.0) >= goal
        ]
    return found


def tables(facts: dict[str, Any]) -> list[Table]:
    """Return the table of the reloads and that of the probes."""
    title = f"{facts['server']}, {facts['connections']} connections on {facts['workers']} workers"
    reloads = figures_table(
        f"{title}: a connection was without a worker for",
        "",
        "seconds",
        "moved",
        "lost",
        "p50 ms",
        "p99",
        "max",
    )
    for number, each in enumerate(facts["reloads"], 1):
        if not each["exit"]:
            row = (f"{each['seconds']:.2f}", f"{each['moved']}", f"{each['lost']}")
            reloads.add_row(f"reload {number}", *row, *in_ms(each["pauses"]))
    reloads.add_row("goal, below", f"{GOALS['seconds']:g}", "", "", "", *in_ms(GOALS))
    probes = figures_table(f"Round trips of {facts['probes']} probes", "", "p50 ms", "p99", "max")
    for name, kind in (("all", "trips"), ("each probe's longest", "longest")):
        for phase, figures in facts[kind].items():
            probes.add_row(f"{name}, {phase}", *in_ms(figures))
    return [reloads, probes]


def in_ms(figures: dict[str, float]) -> list[str]:
    """Return p50, p99 and max as the tables show them, as far as they are there."""
    return [f"{figures[name] * 1000:.1f}" for name in ("p50", "p99", "max") if name in figures]


def show(facts: dict[str, Any]) -> None:
    """Print the tables, those of plain connections first."""
    if "plain" in facts:
        show(facts["plain"])
    console = make_console()
    console.print(*tables(facts), f"received the one message: {facts['received']}")
    if facts.get("times_plain"):
        console.print(_times_plain(facts["times_plain"]))


@click.command(context_settings={"show_default": True})
@click.option("--workers", type=click.IntRange(1), default=4, help="Workers of the server.")
@click.option("--connections", type=click.IntRange(2), default=20_000, help="Idle connections.")
@click.option("--probes", type=click.IntRange(1, MOST_PROBES), default=200, help="That measure round trips.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Reloads.")
@click.option("--quiet", "quiet_s", type=click.FloatRange(0), default=2.0, help="Seconds between reloads.")
@click.option("--websockets", is_flag=True, help="Also with WebSocket connections, and compare.")
@click.option("--check", is_flag=True, help="Exit with 1 when a goal is missed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def main(websockets: bool, check: bool, as_json: bool, **sizes: Any) -> None:
    """Reload a server with many idle connections; show what that takes, and what clients notice.

    Exit code 1: a reload failed, a connection or a message was lost, or with --check a goal was missed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left
    errors = Console(stderr=True, highlight=False)
    work = Work(**sizes)
    with errors.status("starting") as status:
        facts = measure(work, mpchat_peer("mpchat", workers=work.workers), status.update)
        if websockets:
            peer = mpchat_peer("mpchat-ws", workers=work.workers, websocket=True)
            facts = compared(measure(work, peer, status.update), facts)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        show(facts)
    for each in [*facts["faults"], *facts["missed"]]:
        errors.print(each, markup=False)
    sys.exit(FAILED if facts["faults"] or (check and facts["missed"]) else 0)
