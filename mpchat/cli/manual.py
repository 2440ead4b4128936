"""``mpchat manual``: the pages of ``mpchat/manual``, in a pager on a terminal and as they are elsewhere.

A page is Markdown. It begins with a title and one line that says what it is about; the list of subjects is
made of these lines.
"""

import shutil
import sys
from textwrap import fill
from typing import TYPE_CHECKING

import click

from mpchat.cli.candidates import one_of
from mpchat.text import visible

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

# Columns below which the list has a subject and its line below each other.
NARROW = 60
# The order of the list: a newcomer reads from top to bottom.
SUBJECTS = (
    "start",
    "chat",
    "wire",
    "clients",
    "web",
    "encryption",
    "sign-in",
    "proxies",
    "library",
    "members-and-rooms",
    "hook",
    "api",
    "settings",
    "commands",
    "operating",
    "logs",
    "metrics",
    "reload",
    "hosts",
    "promises",
    "security",
    "speed",
    "lecture",
    "internals",
    "changelog",
)


@click.command()
@click.argument("subject", required=False, shell_complete=one_of(*SUBJECTS))
def manual(subject: str | None) -> None:
    """Show a page of the manual; without SUBJECT list the pages."""
    if subject is None:
        click.echo(contents(_columns()))
        return
    if subject not in SUBJECTS:
        raise click.UsageError(
            f"the manual has no page {visible(subject)!r}; its pages:\n\n{contents(_columns())}"
        )
    page = read_page(subject)
    if not _shows_pages():
        click.echo(page, nl=False)
        return
    from mpchat.cli.page import rendered

    click.echo_via_pager(rendered(page))


def read_page(subject: str) -> str:
    """Return a page's Markdown."""
    return _folder().joinpath(f"{subject}.md").read_text(encoding="utf-8")


def summary(page: str) -> str:
    """Return the line that says what a page is about: the third, after the title and a blank line."""
    return page.split("\n", 3)[2]


def contents(columns: int | None = None) -> str:
    """Return the list of subjects for a terminal of so many ``columns``; None: a line each, however long."""
    return "\n".join(_entry(subject, summary(read_page(subject)), columns) for subject in SUBJECTS)


def _entry(subject: str, line: str, columns: int | None) -> str:
    margin = 2 + max(map(len, SUBJECTS)) + 2
    if columns is None:
        return f"  {subject}".ljust(margin) + line
    if columns < NARROW:
        return f"  {subject}\n" + fill(line, columns, initial_indent="    ", subsequent_indent="    ")
    begin = f"  {subject}".ljust(margin)
    return fill(line, columns, initial_indent=begin, subsequent_indent=" " * margin)


def _columns() -> int | None:
    """Return the width of the terminal behind standard output; None for a file or a pipe."""
    out = sys.stdout
    return shutil.get_terminal_size().columns if out is not None and out.isatty() else None


def _folder() -> "Traversable":
    from importlib.resources import files  # loads tempfile and more, which no other command needs

    return files("mpchat").joinpath("manual")


def _shows_pages() -> bool:
    """Tell whether standard output is a terminal that can show bullets and lines of tables."""
    out = sys.stdout
    return out is not None and out.isatty() and (out.encoding or "").lower().startswith("utf")
