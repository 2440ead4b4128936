"""What a script shows: progress, tables, a picture; and how Ctrl-C ends it."""

import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

# Exit codes: a delivery was lost or a goal missed; the script was interrupted.
FAILED = 1
INTERRUPTED = 130
# Columns of the tables when standard output is no terminal.
FILE_WIDTH = 120
# Redraws of the progress line a second: few, because they cost CPU on the machine that is measured.
REDRAWS_PER_S = 2


def make_console() -> Console:
    """Return the console for standard output."""
    return Console(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)


def run_steps(console: Console, total: int, steps: Iterable[str]) -> bool:
    """Run ``steps`` to their end behind a progress bar of ``total``; each yields its name before it works.

    Return False when SIGINT or SIGTERM ended them. What the steps started is stopped by then, and the results
    so far remain.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True, refresh_per_second=REDRAWS_PER_S)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        with progress:
            task = progress.add_task("", total=total)
            for name in steps:
                progress.update(task, description=name)
                progress.advance(task)
    except KeyboardInterrupt:
        console.print("interrupted: all servers are stopped; these are the results so far", style="yellow")
        return False
    return True


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    """End the run in order. A second Ctrl-C is ignored: it must not end the stopping, which has deadlines."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def figures_table(title: str, *headings: str) -> Table:
    """Return an empty table: the first column is names, the others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE)
    for index, heading in enumerate(headings):
        table.add_column(heading, justify="right" if index else "left", no_wrap=True)
    return table


@contextmanager
def picture(path: Path, caption: str, *grid: int, **options: Any) -> Iterator[Any]:
    """Yield the axes of matplotlib's ``subplots(*grid, **options)``; at the end write the picture."""
    import matplotlib  # type: ignore[import-not-found,import-untyped,unused-ignore]

    matplotlib.use("Agg")
    from matplotlib import pyplot  # type: ignore[import-not-found,import-untyped,unused-ignore]

    figure, axes = pyplot.subplots(*grid, **options)
    yield axes
    figure.suptitle(caption, fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
