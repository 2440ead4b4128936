"""What the lecture's comparison shows: tables, sentences that follow from them, the JSON and the picture.

Pure presentation: it gets figures and never runs anything. The rule it keeps: a sentence states what the
figures of this run say, not what a reader would expect.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from mpchat.config import default_workers
from scripts.bench.row import Results
from scripts.common.console import figures_table, picture
from scripts.common.machine import machine
from scripts.lecture.cell import Model, Options, Outcome

# Seconds from which a wait counts as waiting for others: far above an answer, below any time of staying.
NOTICED_S = 0.1
# More workers pay off when they bring so many times the deliveries: less is noise.
PAYS_OFF = 1.10
# Fewer connections than this are lost in what a process takes for itself anyway.
FEWEST_TO_WEIGH = 100


class Kind(NamedTuple):
    """A figure of every run."""

    title: str
    value: Callable[[Outcome], float]
    fewest: int = 1  # clients


MESSAGE = Kind("CPU µs per message that all clients receive", lambda each: each.us_per_message)
DELIVERY = Kind("CPU µs per delivery of it to one client", lambda each: each.figures.cpu_us_per_delivery)
ANSWER = Kind(
    "CPU µs per answer to one client alone: the cost of waking up with so many watched",
    lambda each: each.us_per_answer,
)
MEMORY = Kind("Memory of all processes, MiB", lambda each: each.figures.resident_bytes / 2**20)
MEMORY_EACH = Kind(
    "Memory per connection, KiB",
    lambda each: each.figures.bytes_per_connection / 2**10,
    FEWEST_TO_WEIGH,
)


def _figure(value: float) -> str:
    """Return three digits, and no more places than they need."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _cell(outcome: Outcome | None, kind: Kind) -> Text:
    if outcome is None or outcome.clients < kind.fewest:
        return Text("–")
    if outcome.faults:
        return Text("FAILED", style="red")
    if outcome.refusal:
        return Text("refused", style="yellow")
    return Text(_figure(kind.value(outcome)))


def waits_table(models: Sequence[Model], outcomes: Sequence[Outcome], hold_s: float) -> Table:
    """Return how long the clients of a queue waited, by model."""
    title = f"Three clients come together, each stays {hold_s:g} s once it is served: ms that each waited"
    table = figures_table(title, "", "first", "second", "third")
    table.add_column("")
    for model in models:
        for each in outcomes:
            if each.model == model.name and each.waits_s:
                waited = (Text(f"{wait * 1e3:,.0f}", style=_late(wait)) for wait in each.waits_s)
                table.add_row(model.name, *waited, model.what)
    return table


def _late(wait_s: float) -> str:
    return "red" if wait_s >= NOTICED_S else ""


def size_tables(models: Sequence[Model], sizes: Sequence[int], outcomes: Sequence[Outcome]) -> list[Table]:
    """Return a table for each kind of figure: a line for each model, a column for each number of clients."""
    by_place = {(each.model, each.clients): each for each in outcomes}
    tables = []
    for kind in (MESSAGE, DELIVERY, ANSWER, MEMORY, MEMORY_EACH):
        table = figures_table(kind.title, "clients", *(f"{size:,}" for size in sizes))
        for model in models:
            table.add_row(model.name, *(_cell(by_place.get((model.name, size)), kind) for size in sizes))
        tables.append(table)
    return tables


def refusal_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Return what each model said when it first refused."""
    first: dict[str, Outcome] = {}
    for each in outcomes:
        if each.refusal:
            first.setdefault(each.model, each)
    return [f"{each.model} refused {each.clients:,}: {each.refusal}" for each in first.values()]


def growth_lines(outcomes: Sequence[Outcome]) -> list[str]:
    """Say for each model by how much an answer to one client grew from the fewest clients to the most."""
    lines = []
    for name in dict.fromkeys(each.model for each in outcomes):
        mine = [each for each in outcomes if each.model == name and each.measured]
        if len(mine) > 1:
            few, many = mine[0], mine[-1]
            times = many.us_per_answer / few.us_per_answer
            lines.append(
                f"{name}: an answer with {many.clients:,} watched costs {times:.1f} times"
                f" what it costs with {few.clients:,}"
            )
    return lines


# ---- workers


def middle(runs: Results, row: str, server: str, attribute: str) -> float:
    """Return the median of a figure over the runs without a fault; 0 without such a run."""
    return float(getattr(runs.median(row, server), attribute, 0.0))


def workers_lines(servers: Sequence[str], runs: Results, cores: int) -> list[str]:
    """Say how many workers pay off, and what a core left free brings and costs."""
    pace = {name: middle(runs, "flood", name, "deliveries_per_s") for name in servers}
    best = max(pace.values())
    if not best or len(servers) == 1:
        return []
    enough = next(name for name in servers if pace[name] * PAYS_OFF >= best)
    lines = [f"{enough} pays off: more workers bring less than {PAYS_OFF - 1:.0%} on top."]
    free, full = (f"mpchat-w{count}" for count in (default_workers(cores), cores))
    if free != full and pace.get(free) and pace.get(full) and ("steady", full) in runs:
        cost = {name: middle(runs, "flood", name, "cpu_us_per_delivery") for name in (free, full)}
        late = {name: middle(runs, "steady", name, "p99_ms") for name in (free, full)}
        lines.append(
            f"A core left free, {free} (the default) instead of {full}: {pace[free] / pace[full]:.2f} times"
            f" the deliveries a second, {cost[free] / cost[full]:.2f} times the CPU for each, p99"
            f" {late[free]:.1f} ms instead of {late[full]:.1f} ms. The load runs on the same cores: what it"
            " takes, the server lacks."
        )
    return lines


# ---- files


def as_json(
    models: Sequence[Model], outcomes: Sequence[Outcome], runs: Results, options: Options
) -> dict[str, Any]:
    """Return everything, each single run included, as plain JSON values."""
    return {
        "machine": machine(),
        "options": asdict(options),
        "models": {model.name: model.what for model in models},
        "cells": [asdict(each) for each in outcomes],
        "workers": [asdict(run) for each in runs.values() for run in each],
    }


def draw(
    path: Path, caption: str, outcomes: Sequence[Outcome], servers: Sequence[str], runs: Results
) -> None:
    """Draw cost and memory by the number of clients, and throughput by the number of workers."""
    with picture(path, caption, 2, 2, figsize=(13, 9)) as axes:
        for axis, kind in zip(axes.flat, (MESSAGE, ANSWER, MEMORY), strict=False):
            for name in dict.fromkeys(each.model for each in outcomes):
                mine = [each for each in outcomes if each.model == name and each.measured]
                style = "o--" if name.startswith("mpchat") else "o-"
                heights = [kind.value(each) for each in mine]
                axis.plot([each.clients for each in mine], heights, style, label=name)
            axis.set(xscale="log", yscale="log", xlabel="clients")
            axis.set_title(kind.title, fontsize="medium")
            axis.grid(alpha=0.3)
        axes[0][0].legend(ncols=2, fontsize="small")
        _draw_workers(axes[1][1], servers, runs)


def _draw_workers(axis: Any, servers: Sequence[str], runs: Results) -> None:
    """Draw deliveries a second as bars, CPU per delivery as a line on the right."""
    pace, cost = (
        [middle(runs, "flood", name, figure) for name in servers]
        for figure in ("deliveries_per_s", "cpu_us_per_delivery")
    )
    axis.bar(servers, [each / 1e6 for each in pace], color="tab:blue", alpha=0.6)
    axis.set(ylabel="million deliveries a second")
    axis.set_title("How many workers pay off", fontsize="medium")
    right = axis.twinx()
    right.plot(servers, cost, "o-", color="tab:red")
    right.set(ylabel="CPU µs per delivery")
    right.set_ylim(bottom=0)
