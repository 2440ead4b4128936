"""The command ``night``: its options, and the table that it prints."""

import json
import random
import signal
import sys

import click
import rich.progress
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from scripts.common.console import FILE_WIDTH
from scripts.stress.night.evening import Plan, Verdict, pass_a_night
from scripts.stress.night.events import EVENTS

# What the crowd counts, and how the table calls it.
COUNTS = ("said", "deliveries", "served", "refused", "ended", "unsure")


@click.command()
@click.option("--seconds", type=click.FloatRange(8), default=300.0, help="Length of the night.")
@click.option("--members", type=click.IntRange(3, 3000), default=60, help="Members that chat all night.")
@click.option("--rate", type=click.FloatRange(1), default=100.0, help="Messages a second, of all together.")
@click.option("--seed", type=int, default=None, help="Repeats the choices of an earlier run.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def night(seconds: float, members: int, rate: float, seed: int | None, as_json: bool) -> None:
    """Let a night in five minutes pass: a server under a service manager, in use, and much befalls it.

    The stand-in for the service manager holds the listening socket. Members chat over TCP, TLS and WebSocket;
    newcomers come all the time. The log's reader stalls, the disk is full, the certificate is renewed,
    workers are killed, the server is reloaded and restarted. Nobody may be refused, nothing lost, doubled or
    reordered; connections end with killed workers and at the restart alone. A table shows what metrics, log
    and status said of each event.
    """
    plan = Plan(seconds, members, rate, random.randrange(2**32) if seed is None else seed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: cleanly
    verdict = _watched(plan)
    if as_json:
        print(json.dumps(verdict.as_dict(), indent=2, ensure_ascii=False))
    else:
        _show(verdict, plan)
    sys.exit(1 if verdict.reasons else 0)


def _watched(plan: Plan) -> Verdict:
    console = Console(stderr=True)
    with rich.progress.Progress(console=console, disable=not console.is_terminal, transient=True) as shown:
        task = shown.add_task("", total=len(EVENTS) + 2)
        for each in pass_a_night(plan):
            if isinstance(each, Verdict):
                return each
            shown.update(task, description=each, advance=1)
    raise AssertionError("the last thing is the verdict")


def _show(verdict: Verdict, plan: Plan) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)
    table = Table(title=f"a night, seed {plan.seed}", title_justify="left", box=SIMPLE, show_lines=True)
    for heading in ("event", "crowd", "metrics", "log", "status"):
        table.add_column(heading, overflow="fold")
    for row in verdict.rows:
        crowd = "\n".join(f"{name} {row.counts[name]}" for name in COUNTS if row.counts.get(name))
        table.add_row(f"{row.event}\n{row.seconds:.0f} s", crowd, *row.told)
    console.print(table)
    told = ", ".join(f"{name} {count}" for name, count in sorted(verdict.notified.items()))
    console.print(f"told to the service manager: {told}")
    for reason in verdict.reasons:
        console.print(f"[red]not clean:[/] {reason}", highlight=False)
    if not verdict.reasons:
        console.print("[green]clean[/]")
