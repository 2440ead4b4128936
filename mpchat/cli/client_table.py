"""The table of ``mpchat clients``. Pure: facts in, lines out.

Not a table of rich's: that takes seconds for ten thousand rows.
"""

from collections.abc import Iterator, Sequence
from itertools import zip_longest

from rich.cells import cell_len, chop_cells, set_cell_size

from mpchat.cli.display import TABLE_WIDTH, size
from mpchat.control.answers import ClientFacts
from mpchat.text import visible

HEAD = ("address", "name", "room", "protocol", "age", "silent", "behind", "worker")
# Columns whose cells may take several lines, and the width below which they never go.
_FOLDED = range(3)
_LEAST = 8
_RIGHT = frozenset({4, 5, 6, 7})
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"))


def short(seconds: float) -> str:
    """Return a time in its largest unit."""
    for length, unit in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{max(0, int(seconds))} s"


def client_lines(clients: Sequence[ClientFacts], now: float, width: int) -> list[str]:
    """Return the lines of the table, the head first, each at most ``width`` cells wide.

    ``now`` is in seconds since 1970. Where the table does not fit, a client takes several lines.
    """
    rows = [_cells(each, now) for each in clients]
    if width < TABLE_WIDTH:
        return ["address, name, room", *(line for row in rows for line in _block(row, width))]
    widths = [max(map(cell_len, column)) for column in zip(HEAD, *rows, strict=True)]
    _shrink(widths, width)
    return [line for row in (HEAD, *rows) for line in _lines(row, widths)]


def _cells(client: ClientFacts, now: float) -> tuple[str, ...]:
    protocol = visible(client.protocol or "-")
    worker = "-" if client.worker is None else str(client.worker)
    return (
        visible(client.address),
        visible(client.name) or "-",
        "-" if client.room is None else visible(client.room),
        f"{protocol}+TLS" if client.tls else protocol,
        "-" if client.since is None else short(now - client.since),
        "-" if client.silent is None else short(client.silent),
        size(client.behind) if client.behind else "-",
        worker if client.state == "served" else visible(client.state),
    )


def _shrink(widths: list[int], width: int) -> None:
    """Make the widest of the columns that may be folded narrower, until all fit."""
    while sum(widths) + len(widths) - 1 > width:
        widest = max(_FOLDED, key=lambda each: widths[each])
        if widths[widest] <= _LEAST:
            return
        widths[widest] -= 1


def _lines(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Return a row as one line, or as several where a cell is wider than its column."""
    folded = [
        [cell] if cell_len(cell) <= width else chop_cells(cell, width)
        for cell, width in zip(row, widths, strict=True)
    ]
    for parts in zip_longest(*folded, fillvalue=""):
        yield " ".join(_placed(each, place, widths[place]) for place, each in enumerate(parts)).rstrip()


def _placed(cell: str, place: int, width: int) -> str:
    return " " * (width - cell_len(cell)) + cell if place in _RIGHT else set_cell_size(cell, width)


def _block(row: Sequence[str], width: int) -> Iterator[str]:
    """Return a client as several lines, for a terminal too narrow for the table: nothing is cut off."""
    address, name, room, protocol, age, silent, behind, worker = row
    rest = [protocol, f"age {age}", f"silent {silent}", f"behind {behind}", f"worker {worker}"]
    yield from _wrapped([address, name, room], width, "")
    yield from _wrapped(rest, width, "  ")


def _wrapped(parts: Sequence[str], width: int, indent: str) -> Iterator[str]:
    """Return the parts with commas between them, in lines that end between two parts where possible."""
    line = indent
    for number, part in enumerate(parts):
        piece = part if number == len(parts) - 1 else f"{part},"
        if line != indent and cell_len(line) + 1 + cell_len(piece) > width:
            yield line
            line = indent
        line += piece if line == indent else f" {piece}"
        while cell_len(line) > width:
            first = chop_cells(line, width)[0]
            yield first
            line = indent + line[len(first) :]
    yield line
