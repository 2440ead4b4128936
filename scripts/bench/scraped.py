"""What metrics cost: mpchat that is scraped beside mpchat that is not, and beside the code of another tree.

``python -m scripts.bench scraped`` runs rows of the comparison on all of them in turn. A scraped server is
asked for ``/metrics`` once a second, as Prometheus does at its fastest. ``--before TREE`` names a checkout
from before a change: so it shows what counting costs that nobody asks for. The goal is a ratio of medians.
"""

import contextlib
import http.client
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median

import click

from scripts.bench.peers import Peer, Server, mpchat_peer
from scripts.bench.rounds import Rounds
from scripts.bench.row import BenchError, Options, Row
from scripts.bench.rows import Sizes, all_rows
from scripts.common.command import split_names
from scripts.common.console import FAILED, INTERRUPTED, figures_table, make_console, run_steps
from scripts.common.machine import machine_line

# CPU per delivery, as a multiple of that of the same server without it, at most.
MOST = 1.02
# Seconds between two scrapes, and for one.
EVERY_S = 1.0
PATIENCE_S = 10.0
SILENT, SCRAPED, BEFORE = "mpchat", "mpchat-scraped", "mpchat-before"
ROWS = "max-100,max-1000,max-100-8s,steady-500"
SIZES = Sizes(connects=4000, idle=10_000, rooms=4900, windows=[1 << 20])


@dataclass(frozen=True)
class ScrapedPeer(Peer):
    """A server that is scraped while it serves."""

    @contextlib.contextmanager
    def serving(self, folder: Path, clients: int) -> Iterator[Server]:
        """Start it, and scrape it until it is stopped."""
        with super().serving(folder, clients) as server, _scraping(server):
            yield server


@contextlib.contextmanager
def _scraping(server: Server) -> Iterator[None]:
    scrape(server)  # the first one loads what metrics are written with
    done = threading.Event()

    def work() -> None:
        while not done.wait(EVERY_S):
            scrape(server)

    thread = threading.Thread(target=work, name="scraper", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join(PATIENCE_S)


def scrape(server: Server) -> bytes:
    """Return the metrics. Raise BenchError if there are none."""
    connection = http.client.HTTPConnection(server.host, server.port, timeout=PATIENCE_S)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        body = answer.read()
    except OSError as error:
        raise BenchError(f"the metrics did not come: {error}") from None
    finally:
        connection.close()
    if answer.status != http.client.OK:
        raise BenchError(f"the metrics did not come: {answer.status}")
    return body


def scraped_peer(peer: Peer) -> Peer:
    """Return the same server, scraped."""
    given = {each.name: getattr(peer, each.name) for each in fields(Peer)}
    return ScrapedPeer(**{**given, "name": SCRAPED})


def peer_of(tree: Path) -> Peer:
    """Return mpchat as another tree has it."""
    here, there = mpchat_peer(BEFORE), str(tree.resolve())

    def command(folder: Path, port: int, connections: int) -> list[str]:
        # Python looks in its folder first, then in PYTHONPATH. And env becomes the server: it is one process.
        return ["env", "-C", there, f"PYTHONPATH={there}", *here.command(folder, port, connections)]

    return replace(here, command=command)


def ratio(rounds: Rounds, row: Row, of: str, to: str) -> float | None:
    """Return the ratio of the medians of CPU per delivery; None: a run of them has failed."""
    runs = [rounds.results.get((row.name, name), []) for name in (of, to)]
    if not all(runs) or any(each.faults for both in runs for each in both):
        return None
    above, below = (median(each.cpu_us_per_delivery for each in both) for both in runs)
    return above / below


@click.command(context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=7, help="Rounds; the ratios are those of medians.")
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, help="Length of each run of a row.")
@click.option("--rows", default=ROWS, help="Rows to run, separated by commas.")
@click.option(
    "--before",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A checkout whose mpchat runs in turn, too.",
)
@click.option("--check", is_flag=True, help="Exit with 1 when the goal is missed.")
def main(rounds: int, seconds: float, rows: str, before: Path | None, check: bool) -> None:
    """Compare the CPU of mpchat that is scraped once a second with that of mpchat that is not."""
    console = make_console()
    console.print(machine_line())
    silent = mpchat_peer(SILENT)
    peers = [silent, scraped_peer(silent), *([peer_of(before)] if before else [])]
    chosen = split_names(rows, {row.name: row for row in all_rows(SIZES)}, "--rows")
    runs = Rounds(chosen, peers, rounds, Options(seconds=seconds))
    finished = run_steps(console, runs.total, runs.steps(console))
    runs.show(console)
    pairs = [(SCRAPED, SILENT), *([(SILENT, BEFORE), (SCRAPED, BEFORE)] if before else [])]
    table = figures_table(
        f"CPU per delivery (goal: at most {MOST})", "row", *(" / ".join(each) for each in pairs)
    )
    ratios = [[ratio(runs, row, *pair) for pair in pairs] for row in runs.begun]
    for row, found in zip(runs.begun, ratios, strict=True):
        table.add_row(row.name, *("–" if each is None else f"{each:.3f}" for each in found))
    console.print(table)
    every = [each for found in ratios for each in found]
    lost, missed = None in every, any(each is not None and each > MOST for each in every)
    sys.exit(INTERRUPTED if not finished else FAILED if lost or (check and missed) else 0)
