"""The table of ``mpchat check``. Pure: findings in, a picture out."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

_STYLES = {"ok": "green", "warning": "yellow", "failure": "bold red"}
# What the last line says, by the number of findings of each kind.
_ALL_WELL = "nothing will fail"


def findings_picture(rows: Sequence[tuple[str, str, str, str]]) -> RenderableType:
    """Draw findings: subject, level, what was found, and the remedy, below it."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for subject, level, text, remedy in rows:
        said = Text(text)
        if remedy:
            said.append(f"\n→ {remedy}", style="bold")
        table.add_row(Text(level, style=_STYLES[level]), Text(subject), said)
    return Group(table, Text(_summary([level for _, level, _, _ in rows])))


def _summary(levels: Sequence[str]) -> str:
    failures, warnings = levels.count("failure"), levels.count("warning")
    said = f"{failures} will fail" if failures else _ALL_WELL
    return f"{said}, {warnings} warning{'s' if warnings != 1 else ''}" if warnings else said
