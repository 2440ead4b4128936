"""A page of the manual, made readable in a terminal of any width. Text in, text with colours out."""

import io
import re
import shutil
from typing import ClassVar

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, MarkdownElement, TableElement
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

# Columns of a page at most: longer lines are hard to read.
WIDEST = 100
# Columns that no table needs.
UNLIMITED = 10_000
# A link to another page becomes that page's name, as ``mpchat manual`` takes it.
_PAGE_LINK = re.compile(r"\[[^\]]+\]\(([a-z-]+)\.md\)")
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")


def rendered(page: str, columns: int | None = None) -> str:
    """Return a page's Markdown as text for a terminal, ``columns`` wide (None: as wide as this terminal)."""
    width = min(columns or shutil.get_terminal_size().columns, WIDEST)
    out = io.StringIO()
    console = Console(
        file=out, force_terminal=True, width=width, color_system="standard", legacy_windows=False
    )
    text = _PAGE_LINK.sub(r"**\1**", _IMAGE.sub(r"(A figure of the project's repository: \1.)", page))
    console.print(_Page(text, code_theme="ansi_dark", hyperlinks=False))
    return out.getvalue()


class _FittingTable(TableElement):
    """A table, or where the terminal is too narrow for one, a paragraph for each row: no word is cut."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for part in super().__rich_console__(console, options):
            if isinstance(part, Table) and not _fits(part, console, options):
                yield from self._rows()
            else:
                yield part

    def _rows(self) -> RenderResult:
        header = self.header.row.cells if self.header and self.header.row else []
        for row in self.body.rows if self.body else []:
            first, *others = row.cells
            name = first.content.copy()
            name.stylize("bold")
            yield name
            for title, cell in zip(header[1:], others, strict=False):
                label = f"{title.content.plain}: " if title.content.plain else ""
                yield Padding(Text.assemble(label, cell.content), (0, 0, 0, 2))
        yield Text()


def _fits(table: Table, console: Console, options: ConsoleOptions) -> bool:
    # A measurement is never wider than its options allow, so it is taken without a limit.
    unlimited = options.update(max_width=UNLIMITED)
    return Measurement.get(console, unlimited, table).minimum <= options.max_width


class _Page(Markdown):
    """Markdown with tables that fit."""

    elements: ClassVar[dict[str, type[MarkdownElement]]] = {**Markdown.elements, "table_open": _FittingTable}
