"""What several hosts cost: mpchat, socket.io and NATS on two hosts each, beside a single host, in one run.

``python -m scripts.bench cluster`` starts them all on loopback, in rounds that take turns. mpchat's hosts are
one over a Redis, socket.io's are two Node processes with its Redis Streams adapter, nats-server's have a
route. Clients are members of one room and spread evenly over the hosts; the senders are, too. Beside them
runs each server as a single one, with as many members. The rule it keeps: every client of every host gets
every message, else the run has no figures.

* CPU for each delivery counts all processes of all hosts, and Redis. ``log`` is Redis's part. ``server`` and
  ``load`` are shares of all cores of the machine, on which both run.
* As fast as possible: a window of text is in flight to the slowest client of all hosts, as in the other
  comparison.
* Added latency is that of two hosts minus that of a single one, in the row with a steady rate.
* In the row ``apart`` all members are at the first host. It shows what the second host takes for a message
  that goes through the log for nobody there.
* socket.io sends each event to its whole namespace, without a look at rooms. Its stream may hold all that is
  in flight, more than by default: its trimming does not wait for readers.

With ``--table`` it also computes what Redis has to do for more hosts and members; see sizing.py.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from scripts.bench.cluster_peers import HOST_US, HOSTS, LOG_US, cluster_peers
from scripts.bench.compare import MOST_KIB, print_header
from scripts.bench.goals import Goal, Verdict, at_most
from scripts.bench.report import as_json, fault_lines, goal_table, judged, short
from scripts.bench.rounds import Rounds
from scripts.bench.row import BenchError, Figures, Options, Results, Row, ratio
from scripts.bench.rows import windowed
from scripts.bench.sizing import Costs, loads
from scripts.common.command import split_names, split_numbers
from scripts.common.console import FAILED, INTERRUPTED, figures_table, make_console, run_steps

OURS = "mpchat-cluster"
SINGLE = "mpchat"
# CPU per delivery as fast as possible, as a multiple of that of other servers, at most.
MOST_OF = {"socket.io-cluster": 0.2, "nats-cluster": 0.8, SINGLE: 1.5}
# Milliseconds that p50 and p99 may be above those of a single host at the steady rate.
MOST_ADDED_P50_MS = 4.0
MOST_ADDED_P99_MS = 15.0
# CPU µs of a host for a message to a room that has no members there.
MOST_APART_US = 2.0
# Messages a second of the steady row, and connections that send in all rows.
RATE = 100
SENDERS = 4
# Members of the room whose members are all at one host: few, so that there are many messages.
MEMBERS_APART = 10
APART = "apart"


def all_rows(members: int, windows: Sequence[int]) -> list[Row]:
    """Return the rows for ``members`` members on each host; those as fast as possible with each window."""
    clients = members * len(HOSTS)
    room = f"{clients} members of a room, 100 B"
    fast, apart = (
        Row(name, f"{title}, as fast as possible", count, senders=SENDERS, rooms=1, apart=name == APART)
        for name, title, count in (
            ("max", room, clients),
            (APART, f"{MEMBERS_APART} members of a room, all at the first host", MEMBERS_APART),
        )
    )
    steady = Row("steady", f"{room}, {RATE} messages a second", clients, senders=SENDERS, rate=RATE, rooms=1)
    return [*windowed(fast, windows), steady, *windowed(apart, windows[:1])]


def judge(row: Row, results: Results) -> list[Verdict]:
    """Compare the medians of ``row`` with the goals, as far as mpchat's hosts were run."""
    if (row.name, OURS) not in results:
        return []
    return [at_most(row, OURS, *goal) for goal in _goals(row, results)]


def _goals(row: Row, results: Results) -> Iterator[Goal]:
    ours, single = results.median(row.name, OURS), results.median(row.name, SINGLE)
    if row.apart:
        yield MOST_APART_US, "µs of the host without members for a message", apart_us(ours)
    elif row.rate:
        both = (ours, single) if ours and single else None
        added = [both[0].p50_ms - both[1].p50_ms, both[0].p99_ms - both[1].p99_ms] if both else [None, None]
        yield MOST_ADDED_P50_MS, "ms of p50 above that of a single host", added[0]
        yield MOST_ADDED_P99_MS, "ms of p99 above that of a single host", added[1]
    else:
        for other, limit in MOST_OF.items():
            yield limit, f"times the CPU of {other}", ratio(ours, results.median(row.name, other))


def apart_us(figures: Figures | None) -> float | None:
    """Return the CPU µs that the last host took for a message; None where there is no such host."""
    name = HOST_US % HOSTS[-1]
    if figures is None or not figures.messages or name not in figures.counted:
        return None
    return figures.counted[name] / figures.messages


def row_table(row: Row, servers: Sequence[str], results: Results) -> Table:
    """Return a row of work as a table, a line for each server that was run."""
    compared = [name for name in MOST_OF if (row.name, name) in results]
    columns = ["µs each", "log", *(f"× {name.removesuffix('-cluster')}" for name in compared)]
    if row.apart:
        columns.append("apart, µs")
    columns += ["deliv./s", "p50 ms", "p99", "server + load"]
    table = figures_table(f"{row.name}: {row.title}", "", *columns)
    for name in servers:
        label = Text(name, style="bold" if name == OURS else "")
        if (figures := results.median(row.name, name)) is not None:
            table.add_row(label, *_cells(row, compared, results, figures))
        elif (row.name, name) in results:
            table.add_row(label, Text("FAILED", style="red"))
    return table


def _cells(row: Row, compared: Sequence[str], results: Results, figures: Figures) -> Iterator[str | Text]:
    yield f"{figures.cpu_us_per_delivery:.2f}"
    yield f"{figures.counted[LOG_US] / figures.deliveries:.2f}" if LOG_US in figures.counted else "–"
    limits = MOST_OF if figures.server == OURS and not (row.rate or row.apart) else {}
    for name in compared:
        yield judged(ratio(figures, results.median(row.name, name)), limits.get(name))
    if row.apart:
        yield judged(apart_us(figures), MOST_APART_US if figures.server == OURS else None)
    yield short(figures.deliveries_per_s)
    yield from (f"{each:.1f}" for each in (figures.p50_ms, figures.p99_ms))
    yield f"{figures.server_share:.0%} + {figures.load_share:.0%}"


def cost_table(costs: Costs) -> Table:
    """Return what was measured, from which the other table is computed."""
    table = figures_table("Redis, measured: µs of CPU", "", "each", "each KiB")
    for name, line in (("append", costs.append), ("read", costs.read), ("beyond, a command", costs.beyond)):
        table.add_row(name, f"{line.fixed:.1f}", f"{line.each * 1024:.2f}")
    return table


def load_table(costs: Costs) -> Table:
    """Return what Redis has to do for more hosts and members."""
    headings = (
        "members",
        "a minute",
        "appends/s",
        "messages each",
        "reads/s",
        "in, MB/s",
        "out, MB/s",
        "core",
    )
    table = figures_table("COMPUTED, not measured: Redis's work a second", "hosts", *headings)
    for each in loads(costs):
        table.add_row(
            f"{each.hosts}",
            f"{each.members:,}",
            f"{each.per_minute}",
            f"{each.appends:,.0f}",
            f"{each.batch:,.1f}",
            f"{each.reads:,.0f}",
            f"{each.bytes_in / 1e6:,.2f}",
            f"{each.bytes_out / 1e6:,.1f}",
            f"{each.core:.1%}",
        )
    return table


@click.command(context_settings={"show_default": True})
@click.option("--rounds", type=click.IntRange(1), default=5, help="Rounds; the tables show medians.")
@click.option("--seconds", type=click.FloatRange(0.1), default=3.0, help="Length of each run of a row.")
@click.option("--members", type=click.IntRange(2), default=200, help="Members on each host.")
@click.option("--workers", type=click.IntRange(1), default=1, help="Workers of each host of mpchat.")
@click.option("--rows", default="", show_default="all", help="Rows to run, separated by commas.")
@click.option("--servers", default="", show_default="all", help="Servers, separated by commas.")
@click.option("--windows", default="64,1024", help="KiB of text in flight at most, by commas.")
@click.option("--table", "with_table", is_flag=True, help="Also compute Redis's work for more hosts.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write every run to this file.")
@click.option("--check", is_flag=True, help="Exit with 1 when a goal is missed, too.")
def main(**flags: object) -> None:
    """Compare mpchat on two hosts with socket.io and NATS on two, and each with a single host.

    Exit code 0: every delivery arrived; 1: a delivery was lost, or with --check a goal missed; 130:
    interrupted. The results so far are shown then.
    """
    run(SimpleNamespace(**flags))


def run(flags: SimpleNamespace) -> None:
    """Run the comparison, show the results, and end the process with the exit code."""
    console = make_console()
    windows = [1024 * kib for kib in split_numbers(flags.windows, 1, MOST_KIB, "--windows")]
    rows = split_names(flags.rows, {row.name: row for row in all_rows(flags.members, windows)}, "--rows")
    known = {peer.name: peer for peer in cluster_peers(flags.workers)}
    peers = split_names(flags.servers, known, "--servers")
    versions = print_header(console, peers)
    peers = [peer for peer in peers if peer.name in versions]
    rounds = Rounds(rows, peers, flags.rounds, Options(seconds=flags.seconds))
    finished = run_steps(console, rounds.total, rounds.steps(console))
    verdicts = [each for row in rounds.begun for each in judge(row, rounds.results)]
    show(console, rounds, verdicts)
    if flags.with_table:
        show_computed(console, rounds.results)
    if flags.json_path:
        everything = as_json(rounds.options, versions, rows, rounds.results, verdicts)
        flags.json_path.write_text(json.dumps(everything, indent=1) + "\n")
    lost = any(each.faults for runs in rounds.results.values() for each in runs)
    missed = flags.check and any(verdict.holds is False for verdict in verdicts)
    sys.exit(INTERRUPTED if not finished else FAILED if lost or missed else 0)


def show(console: Console, rounds: Rounds, verdicts: Sequence[Verdict]) -> None:
    """Print the tables of all rows, the faults and the goals."""
    for row in rounds.begun:
        console.print(row_table(row, rounds.servers, rounds.results), "")
    for line in fault_lines(rounds.results):
        console.print(line, style="red")
    if verdicts:
        console.print(goal_table(verdicts))


def show_computed(console: Console, results: Results) -> None:
    """Print the tables about more hosts, from the runs of mpchat's hosts."""
    ours = [
        each
        for (row, name), runs in results.items()
        if name == OURS and not row.startswith(APART)
        for each in runs
    ]
    try:
        costs = Costs.of(ours, len(HOSTS))
    except BenchError as error:
        console.print(str(error), style="yellow")
        return
    console.print(cost_table(costs), load_table(costs))
