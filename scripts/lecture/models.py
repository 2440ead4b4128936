"""The lecture's question, measured: what does each way to serve many clients cost, and where does it end?

``python -m scripts.lecture`` lets the same chat (2-byte length + JSON, everybody gets each message) be served
one client at a time, by ``select``, ``poll``, ``epoll``, a thread per client, and by processes, mpchat's;
mostly idle clients, a handful talks. It compares models, not products: that is bench.py. The rule it keeps:
every delivery is counted, and one that is lost makes the exit code 1; a server that refuses a crowd is no
failure, and is quoted.

The modules beside it: cell (one run), report (tables, JSON, picture), peer_blocking, peer_loop
and peer_threads (the servers); scripts.bench.load puts the load on.

How to read the figures:

* ``select``, ``poll`` and ``epoll`` are one small loop that differs in the waiting alone: these compare the
  system calls. ``mpchat select`` and so on are mpchat with one worker, which pays for the relay between
  processes and for its promises as well: these say how much of that the choice decides.
* CPU per message is dominated by one ``send`` for each client, whatever the model; what only the waiting
  costs is in the CPU per answer, a question that the server answers to the one who asked.
* Memory is that of the processes (shared pages shared out); the kernel's socket buffers are the same for all.
"""

import json
import os
import resource
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mpchat import __version__
from scripts.bench.__main__ import FAILED, FILE_WIDTH, INTERRUPTED, REDRAWS_PER_S, interrupt
from scripts.bench.cell import Options as BenchOptions
from scripts.bench.cell import Row, run_cell
from scripts.bench.peers import SPARE_CONNECTIONS, SPARE_DESCRIPTORS, mpchat_peer
from scripts.bench.report import machine_line
from scripts.lecture.cell import Figures, Model, Options, all_models, run
from scripts.lecture.report import (
    Runs,
    as_json,
    draw,
    growth_lines,
    refusal_lines,
    size_tables,
    waits_table,
    workers_lines,
    workers_table,
)

# Clients of each run. One alone is always the first: more is nothing that the blocking server has.
FULL_SIZES = "10,100,1000,5000,10000"
# For --quick: one that select refuses.
QUICK_SIZES = "1100"
FEWEST_CLIENTS, MOST_CLIENTS = 10, 20_000
# Seconds of talking and of asking in each run, seconds that a client of the queue stays, rounds of the
# workers' table.
FULL_S, FULL_ASKS_S, FULL_HOLD_S, FULL_ROUNDS = 1.5, 0.5, 1.0, 3
QUICK_S, QUICK_ASKS_S, QUICK_HOLD_S, QUICK_ROUNDS = 0.3, 0.1, 0.2, 1
# The work for each number of workers.
WORKER_ROWS = (
    Row("flood", "100 clients, 100 B, as fast as it goes", 100),
    Row("steady", "100 clients, 500 messages a second", 100, rate=500),
)
# Up to so many cores each number of workers is tried; beyond, powers of two and what is around the cores.
FEW_CORES = 6


@dataclass(frozen=True)
class Work:
    """What is to be run."""

    models: Sequence[Model]
    sizes: Sequence[int]
    options: Options
    counts: Sequence[int]  # of workers
    rows: Sequence[Row]  # for each of them
    rounds: int

    @property
    def steps(self) -> int:
        return len(self.models) * len(self.sizes) + self.rounds * len(self.counts) * len(self.rows)


@dataclass
class Results:
    """What there is so far."""

    cells: list[Figures] = field(default_factory=list)
    workers: Runs = field(default_factory=dict)

    @property
    def faults(self) -> list[str]:
        """Every fault with its place."""
        cells = [
            f"{each.model}, {each.clients:,} clients: {each.faults[0]}" for each in self.cells if each.faults
        ]
        return cells + [
            f"{count} workers, {row}: {run.faults[0]}"
            for (count, row), runs in self.workers.items()
            for run in runs
            if run.faults
        ]


@click.command(context_settings={"show_default": True})
@click.option("--quick", is_flag=True, help="Small and short: does it work? The figures are noise.")
@click.option("--sizes", default="", help=f"Numbers of clients, by commas.  [default: {FULL_SIZES}]")
@click.option("--models", "names", default="", help="Models, by commas.  [default: all]")
@click.option(
    "--seconds", type=click.FloatRange(0.1, 30), help=f"Length of each run's talk.  [default: {FULL_S}]"
)
@click.option(
    "--workers", "workers", default="", help="Numbers of workers, by commas.  [default: 1 to cores + 2]"
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every run to this file.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Draw a picture (needs matplotlib)."
)
def main(
    quick: bool,
    sizes: str,
    names: str,
    seconds: float | None,
    workers: str,
    json_path: Path | None,
    plot_path: Path | None,
) -> None:
    """Measure what select, poll, epoll, threads and processes cost, and where each ends."""
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    if plot_path and find_spec("matplotlib") is None:  # said now, not after minutes of work
        raise click.UsageError("--plot needs matplotlib: pip install -e '.[bench]'")
    cores = os.cpu_count() or 1
    wanted = numbers(sizes or (QUICK_SIZES if quick else FULL_SIZES), FEWEST_CLIENTS, MOST_CLIENTS, "--sizes")
    work = Work(
        models=chosen_models(names),
        sizes=[1, *that_fit(console, wanted)],
        options=Options(
            seconds=seconds or (QUICK_S if quick else FULL_S),
            asks_s=QUICK_ASKS_S if quick else FULL_ASKS_S,
            hold_s=QUICK_HOLD_S if quick else FULL_HOLD_S,
        ),
        counts=numbers(workers, 1, 256, "--workers") if workers else worker_counts(cores, quick),
        rows=WORKER_ROWS[:1] if quick else WORKER_ROWS,
        rounds=QUICK_ROUNDS if quick else FULL_ROUNDS,
    )
    header = f"{machine_line()}, mpchat {__version__}"
    console.print(header, highlight=False)
    results = Results()
    finished = run_all(console, work, results)
    show(console, work, cores, results)
    if json_path:
        everything = as_json(work.models, results.cells, results.workers, work.options)
        json_path.write_text(json.dumps(everything, indent=1) + "\n")
    if plot_path:
        draw(plot_path, work.models, results.cells, work.counts, results.workers, header)
    sys.exit(INTERRUPTED if not finished else FAILED if results.faults else 0)


def numbers(text: str, least: int, most: int, option: str) -> list[int]:
    """Return the numbers in ``text`` in rising order; ends the command when one is out of range."""
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise click.BadParameter(f"{text!r}: numbers separated by commas", param_hint=option) from None
    if found[0] < least or found[-1] > most:
        raise click.BadParameter(f"{text}: {least} to {most:,}", param_hint=option)
    return found


def chosen_models(names: str) -> list[Model]:
    """Return the models that ``names`` (separated by commas) asks for, all when it is empty."""
    known = {model.name: model for model in all_models()}
    wanted = [name.strip() for name in names.split(",") if name.strip()] or list(known)
    if unknown := [name for name in wanted if name not in known]:
        raise click.BadParameter(
            f"no model {unknown[0]!r}; there are {', '.join(known)}", param_hint="--models"
        )
    return [known[name] for name in wanted]


def worker_counts(cores: int, quick: bool) -> list[int]:
    """Return which numbers of workers to try: the ones around ``cores``, and some on the way there."""
    if quick:
        return [1, 2]
    if cores <= FEW_CORES:
        return list(range(1, cores + 3))
    doubling = {2**power for power in range(cores.bit_length()) if 2**power < cores}
    return sorted(doubling | {cores - 1, cores, cores + 2})


def that_fit(console: Console, sizes: Sequence[int]) -> list[int]:
    """Raise this process's limit of descriptors, which all others inherit; name the sizes that do not fit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = max(soft, MOST_CLIENTS + SPARE_CONNECTIONS + SPARE_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    most = hard - SPARE_CONNECTIONS - SPARE_DESCRIPTORS
    for size in sizes:
        if size > most:
            console.print(
                f"{size:,} clients left out: a process may have {hard:,} descriptors", style="yellow"
            )
    return [size for size in sizes if size <= most]


def run_all(console: Console, work: Work, results: Results) -> bool:
    """Fill ``results``; False when a signal ended it, with what there is so far."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, refresh_per_second=REDRAWS_PER_S)
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, interrupt)
    try:
        with progress:
            task = progress.add_task("", total=work.steps)
            for description in chain(run_models(work, results), run_workers(work, results)):
                progress.update(task, description=description)
                progress.advance(task)
    except KeyboardInterrupt:
        console.print("interrupted: all servers are stopped; this is what there is so far", style="yellow")
        return False
    return True


def run_models(work: Work, results: Results) -> Iterator[str]:
    """Run every model with every number of clients; say before each what it will be."""
    refused: dict[str, str] = {}
    for size in work.sizes:
        for model in work.models:
            yield f"{size:,} clients · {model.name}"
            if model.name in refused:  # who refuses a crowd refuses a larger one
                figures = Figures(model.name, size, refusal=refused[model.name])
            else:
                figures = run(model, size, work.options)
            if figures.refusal:
                refused[model.name] = figures.refusal
            results.cells.append(figures)


def run_workers(work: Work, results: Results) -> Iterator[str]:
    """Run mpchat with each number of workers, rounds interleaved; say before each what it will be."""
    options = BenchOptions(seconds=work.options.seconds)
    for number in range(work.rounds):
        for row in work.rows:
            for count in work.counts:
                yield f"workers, round {number + 1}/{work.rounds} · {row.name} · {count}"
                figures = run_cell(mpchat_peer(f"mpchat-w{count}"), row, options)
                results.workers.setdefault((count, row.name), []).append(figures)


def show(console: Console, work: Work, cores: int, results: Results) -> None:
    """Print what there is."""
    console.print(waits_table(work.models, results.cells, work.options.hold_s))
    for table in size_tables(work.models, work.sizes, results.cells):
        console.print(table)
    for line in refusal_lines(results.cells):
        console.print(line, style="yellow", highlight=False)
    for line in growth_lines(results.cells):
        console.print(line, highlight=False)
    console.print("", workers_table(work.counts, results.workers, cores))
    for line in workers_lines(work.counts, results.workers, cores):
        console.print(line, highlight=False)
    for fault in results.faults:
        console.print(f"FAILED: {fault}", style="red", highlight=False)
