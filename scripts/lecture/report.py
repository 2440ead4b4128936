"""What models.py shows: its tables, the sentences that follow from them, the JSON and the picture.

Pure presentation: takes figures that are there and never runs anything. The rule it keeps: a sentence states
what the figures of this run say, not what one would expect.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from mpchat.config import default_workers
from scripts.bench.cell import Figures as BenchFigures
from scripts.bench.report import machine
from scripts.lecture.cell import Figures, Model, Options

# Seconds from which a wait counts as waiting for others: far above an answer, below any --hold.
NOTICED_S = 0.1
# More workers must bring so much more to be said to pay off: less is noise.
PAYS_OFF = 1.10

Value = Callable[[Figures], float]
# Fewer connections than this are lost in what a process takes for itself anyway.
FEWEST_TO_WEIGH = 100


class Kind(NamedTuple):
    """One of a cell's figures."""

    title: str
    value: Value
    fewest: int = 1  # clients


MESSAGE = Kind("CPU µs per message that everybody gets", lambda each: each.us_per_message)
DELIVERY = Kind("CPU µs per delivery of it to one client", lambda each: each.us_per_delivery)
ANSWER = Kind(
    "CPU µs per answer to one client alone: what waking up costs with so many watched",
    lambda each: each.us_per_answer,
)
MEMORY = Kind("Memory of all processes, MiB", lambda each: each.bytes_all / 2**20)
MEMORY_EACH = Kind(
    "Memory per connection, KiB", lambda each: each.bytes_per_connection / 2**10, FEWEST_TO_WEIGH
)


def _columns(*headings: str) -> Table:
    """Return an empty table: the first column is names, the others are figures."""
    table = Table(box=SIMPLE)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


def _titled(title: str, table: Table) -> Group:
    """Put a title above a table, wider than it if need be."""
    return Group(Text(title, style="bold"), table)


def _figure(value: float) -> str:
    """Three digits, and no more places than they need."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _cell(figures: Figures | None, kind: Kind) -> Text:
    if figures is None or figures.clients < kind.fewest:
        return Text("–")
    if figures.faults:
        return Text("FAILED", style="red")
    if figures.refusal:
        return Text("refused", style="yellow")
    return Text(_figure(kind.value(figures)))


def waits_table(models: Sequence[Model], cells: Sequence[Figures], hold_s: float) -> Group:
    """Return how long the clients of a queue waited, by model."""
    table = _columns("", "first", "second", "third")
    table.add_column("")
    for model in models:
        for each in cells:
            if each.model == model.name and each.waits_s:
                waited = (Text(f"{wait * 1e3:,.0f}", style=_late(wait)) for wait in each.waits_s)
                table.add_row(model.name, *waited, model.what)
    title = f"Three clients come together, each stays {hold_s:g} s once it is served: ms that each waited"
    return _titled(title, table)


def _late(wait_s: float) -> str:
    return "red" if wait_s >= NOTICED_S else ""


def size_tables(models: Sequence[Model], sizes: Sequence[int], cells: Sequence[Figures]) -> list[Group]:
    """Return a table for each kind of figure: a line for each model, a column for each number of clients."""
    by_place = {(each.model, each.clients): each for each in cells}
    groups = []
    for kind in (MESSAGE, DELIVERY, ANSWER, MEMORY, MEMORY_EACH):
        table = _columns("clients", *(f"{size:,}" for size in sizes))
        for model in models:
            table.add_row(model.name, *(_cell(by_place.get((model.name, size)), kind) for size in sizes))
        groups.append(_titled(kind.title, table))
    return groups


def refusal_lines(cells: Sequence[Figures]) -> list[str]:
    """Return what each model said when it first refused."""
    first: dict[str, Figures] = {}
    for each in cells:
        if each.refusal:
            first.setdefault(each.model, each)
    return [f"{each.model} refused {each.clients:,}: {each.refusal}" for each in first.values()]


def growth_lines(cells: Sequence[Figures]) -> list[str]:
    """Say for each model by how much an answer to one client grew from the fewest clients to the most."""
    lines = []
    for name in dict.fromkeys(each.model for each in cells):
        mine = [each for each in cells if each.model == name and each.measured]
        if len(mine) > 1:
            few, many = mine[0], mine[-1]
            times = many.us_per_answer / few.us_per_answer
            lines.append(
                f"{name}: an answer with {many.clients:,} watched costs {times:.1f} times"
                f" what it costs with {few.clients:,}"
            )
    return lines


# ---- workers


def middle(runs: Sequence[BenchFigures], attribute: str) -> float:
    """Return the median of a figure over the runs without a fault; 0 without one."""
    values: list[float] = [getattr(run, attribute) for run in runs if not run.faults]
    return median(values or [0.0])


def _middle(runs: Sequence[BenchFigures], attribute: str, form: str) -> str:
    """Return it as a cell of the table; a dash where there was no run."""
    return format(middle(runs, attribute), form) if runs else "–"


Runs = dict[tuple[int, str], list[BenchFigures]]


def workers_table(counts: Sequence[int], runs: Runs, cores: int) -> Group:
    """Return throughput and latency by the number of workers; runs by workers and row."""
    table = _columns("workers", "deliv./s", "µs/delivery", "server", "load", "p50 ms", "p99", "max")
    for count in counts:
        flood, steady = runs.get((count, "flood"), []), runs.get((count, "steady"), [])
        name = f"{count} (the default)" if count == default_workers(cores) else str(count)
        table.add_row(
            name,
            _middle(flood, "deliveries_per_s", ",.0f"),
            _middle(flood, "cpu_us_per_delivery", ".3f"),
            _middle(flood, "server_share", ".0%"),
            _middle(flood, "load_share", ".0%"),
            *(_middle(steady, figure, ".1f") for figure in ("p50_ms", "p99_ms", "max_ms")),
        )
    title = (
        f"Workers on {cores} cores, 100 clients, 100 B: as fast as it goes, with the shares of all cores that"
        " server and load took; then latency at 500 messages a second"
    )
    return _titled(title, table)


def workers_lines(counts: Sequence[int], runs: Runs, cores: int) -> list[str]:
    """Say how many workers pay off, and what a core left free brings and costs."""
    pace = {count: middle(runs.get((count, "flood"), []), "deliveries_per_s") for count in counts}
    best = max(pace.values())
    if not best:
        return []
    enough = next(count for count in counts if pace[count] * PAYS_OFF >= best)
    lines = [f"{enough} worker(s) pay off: more bring less than {PAYS_OFF - 1:.0%} on top."]
    free, full = default_workers(cores), cores
    if free != full and pace.get(free) and pace.get(full) and runs.get((full, "steady")):
        flood = {count: runs.get((count, "flood"), []) for count in (free, full)}
        cost = {count: middle(flood[count], "cpu_us_per_delivery") for count in flood}
        late = {count: middle(runs.get((count, "steady"), []), "p99_ms") for count in flood}
        lines.append(
            f"A core left free, {free} worker(s) instead of {full}: {pace[free] / pace[full]:.2f} times the"
            f" deliveries a second, {cost[free] / cost[full]:.2f} times the CPU for each, p99"
            f" {late[free]:.1f} ms instead of {late[full]:.1f} ms. The load runs on the same cores: what it"
            " takes, the server lacks."
        )
    return lines


# ---- files


def as_json(
    models: Sequence[Model], cells: Sequence[Figures], runs: Runs, options: Options
) -> dict[str, Any]:
    """Return everything, each single run included, as plain JSON values."""
    return {
        "machine": machine(),
        "options": asdict(options),
        "models": {model.name: model.what for model in models},
        "cells": [asdict(each) for each in cells],
        "workers": [{"workers": count} | asdict(run) for (count, _), each in runs.items() for run in each],
    }


def draw(
    path: Path,
    models: Sequence[Model],
    cells: Sequence[Figures],
    counts: Sequence[int],
    runs: Runs,
    caption: str,
) -> None:
    """Draw cost and memory by the number of clients, and throughput by the number of workers."""
    import matplotlib  # type: ignore[import-not-found,import-untyped,unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,import-untyped,unused-ignore]

    figure, axes = pyplot.subplots(2, 2, figsize=(13, 9))
    for axis, kind in zip(axes.flat, (MESSAGE, ANSWER, MEMORY), strict=False):
        for model in models:
            mine = [each for each in cells if each.model == model.name and each.measured]
            style = "o--" if model.name.startswith("mpchat") else "o-"
            heights = [kind.value(each) for each in mine]
            axis.plot([each.clients for each in mine], heights, style, label=model.name)
        axis.set(xscale="log", yscale="log", xlabel="clients")
        axis.set_title(kind.title, fontsize="medium")
        axis.grid(alpha=0.3)
    axes[0][0].legend(ncols=2, fontsize="small")
    _draw_workers(axes[1][1], counts, runs)
    figure.suptitle(caption, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _draw_workers(axis: Any, counts: Sequence[int], runs: Runs) -> None:
    """Draw deliveries a second as bars, CPU per delivery as a line on the right."""
    places = [str(count) for count in counts]
    flood = [runs.get((count, "flood"), []) for count in counts]
    axis.bar(places, [middle(each, "deliveries_per_s") / 1e6 for each in flood], color="tab:blue", alpha=0.6)
    axis.set(xlabel="workers", ylabel="million deliveries a second")
    axis.set_title("How many workers pay off", fontsize="medium")
    right = axis.twinx()
    right.plot(places, [middle(each, "cpu_us_per_delivery") for each in flood], "o-", color="tab:red")
    right.set(ylabel="CPU µs per delivery")
    right.set_ylim(bottom=0)
