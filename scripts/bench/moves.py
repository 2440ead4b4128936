"""What moving live connections costs: reloads of mpchat with many idle clients, and what the clients notice.

``python -m scripts.bench moves`` runs the bench's work "one message to many idle clients"; before the message
it reloads the server several times. It shows how long each reload took, how long connections were without a
worker by the server's own clocks, and what probes saw. At the end every client must receive exactly the one
message, so a connection or a message that was lost is a fault.

A probe sends an empty frame, which the server refuses, so that the answer goes to the probe alone; it sends
the next 20 ms after the one before, once that is answered. So its round trips say how long *it* had to wait.
Times are in seconds, of one machine that clients and server share.
"""

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from mpchat.control.client import ask
from mpchat.control.requests import Reload
from mpchat.errors import MpchatError
from scripts.bench.cell import Cell, run_cell
from scripts.bench.peers import control_socket, mpchat_peer
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
QUIET, RELOAD = "quiet", "reload"


def measure(
    connections: int, probes: int, rounds: int, quiet_s: float, workers: int, progress: Callable[[str], None]
) -> dict[str, Any]:
    """Reload ``rounds`` times, each time after ``quiet_s`` of silence; return what ``--json`` prints."""
    reloads: list[dict[str, Any]] = []
    # All round trips, and the longest of each probe in each part of the run.
    trips, longest = ({QUIET: Latency(), RELOAD: Latency()} for _ in range(2))

    @contextmanager
    def probing(cell: Cell, phase: str) -> Iterator[None]:
        with cell.asking(probes, PROBE_EVERY_S) as trips_ns:
            yield
        for each in trips_ns:
            for trip in each:
                trips[phase].record(trip)
            longest[phase].record(max(each, default=0))

    def meanwhile(cell: Cell) -> None:
        for number in range(1, rounds + 1):
            progress(f"reload {number} of {rounds}")
            with probing(cell, QUIET):
                time.sleep(quiet_s)
            with probing(cell, RELOAD):
                reloads.append(reload(cell.folder))
        with probing(cell, QUIET):
            time.sleep(quiet_s)
        progress("one message to all")

    progress(f"opening {connections} connections")
    clients = connections + probes
    row = Row("moves", "one message to idle clients", clients, senders=probes, rate=100, messages=1)
    figures = run_cell(mpchat_peer("mpchat", workers=workers), row, Options(), meanwhile)
    return {
        "workers": workers,
        "connections": clients,
        "probes": probes,
        "reloads": reloads,
        "received": figures.deliveries,
        "trips": {phase: each.summary() for phase, each in trips.items()},
        "longest": {phase: each.summary() for phase, each in longest.items()},
        "faults": [*figures.faults, *faults(reloads)],
        "missed": missed(reloads),
    }


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
    title = f"{facts['connections']} connections on {facts['workers']} workers"
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


@click.command(context_settings={"show_default": True})
@click.option("--workers", type=click.IntRange(1), default=4, help="Workers of the server.")
@click.option("--connections", type=click.IntRange(2), default=20_000, help="Idle connections.")
@click.option("--probes", type=click.IntRange(1, MOST_PROBES), default=200, help="That measure round trips.")
@click.option("--rounds", type=click.IntRange(1), default=5, help="Reloads.")
@click.option("--quiet", "quiet_s", type=click.FloatRange(0), default=2.0, help="Seconds between reloads.")
@click.option("--check", is_flag=True, help="Exit with 1 when a goal is missed, too.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def main(check: bool, as_json: bool, **work: Any) -> None:
    """Reload a server with many idle connections; show what that takes, and what clients notice.

    Exit code 1: a reload failed, a connection or a message was lost, or with --check a goal was missed.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left
    errors = Console(stderr=True, highlight=False)
    with errors.status("starting") as status:
        facts = measure(**work, progress=status.update)
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        make_console().print(*tables(facts), f"received the one message: {facts['received']}")
    for each in [*facts["faults"], *facts["missed"]]:
        errors.print(each, markup=False)
    sys.exit(FAILED if facts["faults"] or (check and facts["missed"]) else 0)
