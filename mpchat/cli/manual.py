"""``mpchat manual``: the pages of ``mpchat/manual``, in a pager on a terminal and as they are elsewhere.

A page is Markdown. It begins with a title and one line that says what it is about; the list of subjects is
made of these lines.
"""

import sys
from importlib.resources import files
from importlib.resources.abc import Traversable

import click

from mpchat.text import visible

# The order of the list: a newcomer reads from top to bottom.
SUBJECTS = (
    "start",
    "chat",
    "wire",
    "clients",
    "library",
    "members-and-rooms",
    "settings",
    "commands",
    "operating",
    "reload",
    "promises",
    "security",
    "speed",
    "lecture",
    "internals",
)


@click.command()
@click.argument("subject", required=False)
def manual(subject: str | None) -> None:
    """Show a page of the manual; without SUBJECT list the pages."""
    if subject is None:
        click.echo(_contents())
        return
    if subject not in SUBJECTS:
        raise click.UsageError(f"the manual has no page {visible(subject)!r}; its pages:\n\n{_contents()}")
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


def _contents() -> str:
    width = max(map(len, SUBJECTS))
    return "\n".join(f"  {each:{width}}  {summary(read_page(each))}" for each in SUBJECTS)


def _folder() -> Traversable:
    return files("mpchat").joinpath("manual")


def _shows_pages() -> bool:
    """Tell whether standard output is a terminal that can show bullets and lines of tables."""
    out = sys.stdout
    return out is not None and out.isatty() and (out.encoding or "").lower().startswith("utf")
