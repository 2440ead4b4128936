"""The lecture's question, measured: what does each way to serve many clients cost, and where does it end?

``python -m scripts.lecture`` serves the same chat (2-byte length + JSON, all receive each message) to one
client at a time, by ``select``, ``poll``, ``epoll``, a thread per client, and by mpchat's processes. Most
clients are idle, a few talk. It compares models, not products: that is scripts.bench. The rule it keeps:
every delivery is counted, and a lost delivery makes the exit code 1. A server that refuses a crowd is no
failure, and is quoted.

How to read the figures:

* ``select``, ``poll`` and ``epoll`` are one small loop that differs in the waiting alone: these compare the
  system calls. ``mpchat select`` and so on are mpchat with one worker, which pays for the relay between
  processes and for its promises as well: these say how much of that the choice decides.
* CPU per message is mostly one ``send`` for each client, whatever the model. The cost of the waiting alone is
  in the CPU per answer, to a question that the server answers to one client.
* Memory is that of the processes (shared pages shared out); the kernel's socket buffers are the same for all.
"""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import click
from rich.console import Console

from mpchat import __version__
from scripts.bench.peers import SPARE_CONNECTIONS, SPARE_DESCRIPTORS, mpchat_by_name
from scripts.bench.report import fault_lines
from scripts.bench.rounds import Rounds
from scripts.bench.row import Figures, Row
from scripts.bench.row import Options as BenchOptions
from scripts.common.command import split_names, split_numbers
from scripts.common.console import FAILED, INTERRUPTED, make_console, run_steps
from scripts.common.descriptors import descriptor_limit, raise_descriptor_limit
from scripts.common.machine import machine_line
from scripts.lecture.cell import Model, Options, Outcome, all_models, run
from scripts.lecture.report import (
    as_json,
    draw,
    growth_lines,
    refusal_lines,
    size_tables,
    waits_table,
    workers_lines,
)

FEWEST_CLIENTS, MOST_CLIENTS = 10, 20_000
MOST_WORKERS = 256
# The work for each number of workers.
WORKER_ROWS = (
    Row("flood", "100 clients, 100 B, as fast as possible", 100),
    Row("steady", "100 clients, 500 messages a second", 100, rate=500),
)
# Up to so many cores each number of workers is tried; beyond, powers of two and the numbers around the cores.
FEW_CORES = 6


@dataclass(frozen=True)
class Scope:
    """How large and how long a comparison is, unless the command line says otherwise."""

    sizes: str  # numbers of clients; a run with one client is always the first
    options: Options
    rows: Sequence[Row]  # for each number of workers
    rounds: int  # of the workers' table


FULL = Scope("10,100,1000,5000,10000", Options(1.5, 0.5, 1.0), WORKER_ROWS, 3)
# The size is one that select refuses.
QUICK = Scope("1100", Options(0.3, 0.1, 0.2), WORKER_ROWS[:1], 1)


@dataclass
class Comparison:
    """What is compared, and the results so far."""

    models: Sequence[Model]
    sizes: Sequence[int]
    options: Options
    workers: Rounds  # mpchat with each number of workers
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def faults(self) -> list[str]:
        """The faults of the models, each with its place."""
        places = [(f"{each.model}, {each.clients:,} clients", each.faults) for each in self.outcomes]
        return [f"{place}: {found[0]}" for place, found in places if found]

    def run(self, console: Console) -> bool:
        """Run everything; return False when a signal ended it."""
        total = len(self.models) * len(self.sizes) + self.workers.total
        return run_steps(console, total, chain(self._run_models(), self.workers.steps(console)))

    def _run_models(self) -> Iterator[str]:
        """Run every model with every number of clients; yield the name of each run before it."""
        refused: dict[str, str] = {}
        for size in self.sizes:
            for model in self.models:
                yield f"{size:,} clients · {model.name}"
                if model.name in refused:  # a server that refuses a crowd refuses a larger one
                    void = Figures(model.name, model.peer.name)
                    outcome = Outcome(model.name, size, void, refusal=refused[model.name])
                else:
                    outcome = run(model, size, self.options)
                if outcome.refusal:
                    refused[model.name] = outcome.refusal
                self.outcomes.append(outcome)


def planned(console: Console, flags: SimpleNamespace) -> Comparison:
    """Return the comparison that the command line asks for."""
    scope = QUICK if flags.quick else FULL
    sizes = split_numbers(flags.sizes or scope.sizes, FEWEST_CLIENTS, MOST_CLIENTS, "--sizes")
    counts = worker_counts(os.cpu_count() or 1, flags.quick)
    if flags.workers:
        counts = split_numbers(flags.workers, 1, MOST_WORKERS, "--workers")
    models = split_names(flags.models, {model.name: model for model in all_models()}, "--models")
    seconds = flags.seconds or scope.options.seconds
    options = Options(seconds, scope.options.asks_s, scope.options.hold_s)
    peers = [mpchat_by_name(f"mpchat-w{count}") for count in counts]
    workers = Rounds(scope.rows, peers, scope.rounds, BenchOptions(seconds=seconds))
    return Comparison(models, [1, *that_fit(console, sizes)], options, workers)


def worker_counts(cores: int, quick: bool) -> list[int]:
    """Return which numbers of workers to try: the numbers around ``cores``, and some on the way there."""
    if quick:
        return [1, 2]
    if cores <= FEW_CORES:
        return list(range(1, cores + 3))
    doubling = {2**power for power in range(cores.bit_length()) if 2**power < cores}
    return sorted(doubling | {cores - 1, cores, cores + 2})


def that_fit(console: Console, sizes: Sequence[int]) -> list[int]:
    """Return the sizes for which a process may have enough descriptors; print the others."""
    limit = descriptor_limit()
    most = limit - SPARE_CONNECTIONS - SPARE_DESCRIPTORS
    for size in sizes:
        if size > most:
            console.print(
                f"{size:,} clients left out: a process may have {limit:,} descriptors", style="yellow"
            )
    return [size for size in sizes if size <= most]


@click.command(context_settings={"show_default": True})
@click.option(
    "--quick", is_flag=True, help="Small and short, to see whether it works: the figures are noise."
)
@click.option("--sizes", default="", show_default=FULL.sizes, help="Numbers of clients, by commas.")
@click.option("--models", default="", show_default="all", help="Models, by commas.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 30),
    show_default=f"{FULL.options.seconds}",
    help="Length of each run's talk.",
)
@click.option("--workers", default="", show_default="1 to cores + 2", help="Numbers of workers, by commas.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every run to this file.")
@click.option(
    "--plot", "plot_path", type=click.Path(path_type=Path), help="Draw a picture (needs matplotlib)."
)
def main(**flags: object) -> None:
    """Measure what select, poll, epoll, threads and processes cost, and where each ends.

    Exit code 0: every delivery arrived; 1: a delivery was lost; 130: interrupted, with the results so far.
    """
    compare(SimpleNamespace(**flags))


def compare(flags: SimpleNamespace) -> None:
    """Run the comparison, show the results, and end the process with the exit code."""
    console = make_console()
    if flags.plot_path and find_spec("matplotlib") is None:  # said now, not after minutes of work
        raise click.UsageError("--plot needs matplotlib: pip install -e '.[bench]'")
    raise_descriptor_limit()
    comparison = planned(console, flags)
    header = f"{machine_line()}, mpchat {__version__}"
    console.print(header)
    finished = comparison.run(console)
    show(console, comparison)
    workers = comparison.workers
    if flags.json_path:
        everything = as_json(comparison.models, comparison.outcomes, workers.results, comparison.options)
        flags.json_path.write_text(json.dumps(everything, indent=1) + "\n")
    if flags.plot_path:
        draw(flags.plot_path, header, comparison.outcomes, workers.servers, workers.results)
    lost = comparison.faults or fault_lines(workers.results)
    sys.exit(INTERRUPTED if not finished else FAILED if lost else 0)


def show(console: Console, comparison: Comparison) -> None:
    """Print the results so far."""
    outcomes, workers = comparison.outcomes, comparison.workers
    console.print(waits_table(comparison.models, outcomes, comparison.options.hold_s))
    for table in size_tables(comparison.models, comparison.sizes, outcomes):
        console.print(table)
    for line in refusal_lines(outcomes):
        console.print(line, style="yellow")
    for line in growth_lines(outcomes):
        console.print(line)
    workers.show(console)
    for line in workers_lines(workers.servers, workers.results, os.cpu_count() or 1):
        console.print(line)
    for fault in comparison.faults:
        console.print(f"FAILED: {fault}", style="red")
