"""The command ``python -m scripts.lecture sync``: shows what :mod:`scripts.lecture.sync_lab` finds."""

import click

from scripts.common.console import figures_table, make_console
from scripts.lecture import sync_lab


@click.command(context_settings={"show_default": True})
@click.option("--steps", type=click.IntRange(1), default=100_000, help="Steps of each process.")
def main(steps: int) -> None:
    """Count to zero in eight ways, then end a deadlock."""
    console = make_console()
    title = f"{steps:,} times +1 in one process, −1 in another"
    table = figures_table(title, "", "comes out as", "ns a step")
    table.add_column("")
    for way in sync_lab.UNGUARDED + sync_lab.GUARDED:
        rest, seconds = sync_lab.measure(way, steps)
        style = "green" if rest == 0 else "red"
        lesson = (way.__doc__ or "").replace("``", "")
        table.add_row(way.__name__, f"[{style}]{rest:,}[/]", f"{seconds / steps * 1e9:,.0f}", lesson)
    console.print(table)
    found = sync_lab.deadlock()
    for index in (0, 1):
        holds, wants = (found.board[place] for place in sync_lab.board_places(index))
        console.print(f"process {index} holds lock {holds} and waits for lock {wants}")
    console.print("deadlock: they wait in a circle. Process 0 stood here, and was ended:", style="red")
    console.print(found.stack.rstrip(), markup=False)
    console.print(f"its lock was freed by the kernel; process 1 went on and ended with {found.survivor_exit}")
