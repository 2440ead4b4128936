"""The picture of ``mpchat status --watch``. Pure: what was seen of a server in, a picture out.

From top to bottom: how the server is, what is wrong, how much goes on, what has happened, and the workers.
Only what is wrong has a loud colour, and nothing is said by colour alone.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.cells import cell_len, chop_cells
from rich.console import Group, RenderableType
from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from mpchat.cli.display import TABLE_WIDTH, cut_off_words, duration, size
from mpchat.cli.sparkline import sparkline
from mpchat.cli.trend import Event, Trend
from mpchat.cli.troubles import BUSY, SLOW_TURN, STUCK_TURN, Trouble, troubles
from mpchat.control.answers import ServerStatus, WorkerStatus
from mpchat.text import visible

# The widths of a rate's name, of its figure, and of what follows the bars where there is room.
_LABEL, _FIGURE, _PEAK = 13, 7, 13
# Events that are shown where there is room for all, and seconds after which one is not news any more.
_EVENTS, _RECENT = 6, 3600.0
# Lines around the events: a title and an empty one. Around the workers: the head of the table and a hint.
_AROUND_EVENTS = _AROUND_WORKERS = 2
# The share of the height that troubles may take.
TROUBLES_SHARE = 3
# Workers that are shown at least.
_LEAST = 2
_FINE, _WARNING, _SEVERE = "bold black on green", "bold black on yellow", "bold white on red"


class Canvas(NamedTuple):
    """What the picture is drawn on: its width and height, and whether it has characters for bars."""

    width: int
    height: int
    bars: bool = True


def watch_picture(trend: Trend, now: float, canvas: Canvas, hint: str = "") -> RenderableType:
    """Draw what was seen of a server up to ``now`` (seconds since 1970); ``hint`` says how to end."""
    status = trend.status
    assert status is not None, "the first status is an error where there is none"
    width, height = canvas.width, canvas.height
    wrong = _wrong(trend, status, now)
    head = [_headline(trend, status, wrong, now, width), _place(status, width), Text()]
    head += [*_trouble_lines(wrong, width, height // TROUBLES_SHARE), Text()]
    rates = [*_rates(trend, canvas), Text()]
    room = height - len(head) - len(rates) - _AROUND_WORKERS - min(_LEAST, len(status.workers))
    recent = _recent(trend, status, now, canvas, min(_EVENTS, room - _AROUND_EVENTS))
    room = height - len(head) - len(rates) - len(recent) - _AROUND_WORKERS
    table, left_out = _workers(status.workers, width, max(_LEAST, room))
    if trend.lost_at is not None:  # these are old
        for line in (*rates, *recent):
            line.stylize("dim")
    more = f"{left_out} more workers" if left_out else ""
    last = ", ".join(each for each in (hint, more) if each)
    workers = Styled(table, "dim") if trend.lost_at is not None else table
    return Group(*head, *rates, *recent, workers, *([Text(f" {last}", style="dim")] if last else []))


def _wrong(trend: Trend, status: ServerStatus, now: float) -> list[Trouble]:
    if trend.lost_at is not None:
        return [Trouble(trend.why, severe=True)]
    found = [*troubles(status, now), *trend.news(now)]
    return sorted(found, key=lambda each: not each.severe)


def _headline(trend: Trend, status: ServerStatus, wrong: list[Trouble], now: float, width: int) -> Text:
    severe = any(each.severe for each in wrong)
    style = _SEVERE if severe else _WARNING if wrong else _FINE
    state = visible(status.state)
    if trend.lost_at is not None:
        state = f"NO ANSWER since {_clock(trend.lost_at)}"
    line = Text(f" {visible(status.name)} {state} ", style=style)
    line.truncate(width, overflow="ellipsis")
    up = f" up {duration(status.uptime)}" if trend.lost_at is None else ""
    clock = _clock(now)
    for each in (up, " " * (width - line.cell_len - len(up) - len(clock)) + clock):
        if line.cell_len + len(each) <= width:
            line.append(each, style="not bold default on default")
    return line


def _place(status: ServerStatus, width: int) -> Text:
    parts = [
        visible(", ".join(status.addresses)),
        f"pid {status.pid}",
        f"version {visible(status.version)}",
        f"{status.people} named in {status.rooms} room{'s' if status.rooms != 1 else ''}",
    ]
    if status.cluster is not None:
        hosts = len(status.cluster.hosts)
        parts.append(f"cluster of {hosts} host{'s' if hosts != 1 else ''}")
    line = Text(" " + ", ".join(parts), style="dim")
    line.truncate(width, overflow="ellipsis")
    return line


def _trouble_lines(wrong: Sequence[Trouble], width: int, most: int) -> list[Text]:
    """Return what is wrong in at most ``most`` lines."""
    if not wrong:
        return [Text(" nothing is wrong", style="green")]
    lines: list[Text] = []
    for number, each in enumerate(wrong):
        further = list(_marked(each, width))
        if lines and len(lines) + len(further) > most - (number < len(wrong) - 1):
            lines.append(Text(f"    and {len(wrong) - number} more", style="yellow"))
            break
        lines += further
    return lines


def _marked(each: Trouble, width: int) -> Iterator[Text]:
    mark, style = ("!!", "bold red") if each.severe else (" !", "yellow")
    # Every line that a long text takes has the mark's indent.
    for number, part in enumerate(_folded(visible(each.text), width - 4)):
        yield Text(f"{mark if not number else '  '} {part}", style=style)


def _folded(text: str, width: int) -> Iterator[str]:
    """Return a text in lines that end between words where that is possible."""
    line = ""
    for word in text.split(" "):
        if line and cell_len(line) + 1 + cell_len(word) > width:
            yield line
            line = ""
        line = f"{line} {word}" if line else word
        while cell_len(line) > width:
            first = chop_cells(line, width)[0]
            yield first
            line = line[len(first) :]
    yield line


def _rates(trend: Trend, canvas: Canvas) -> Iterator[Text]:
    late, turn = trend.late[-1], trend.turn[-1]
    yield _rate("connections", trend.connections, _count, canvas)
    yield _rate("messages/s", trend.messages, _count, canvas)
    yield _rate("deliveries/s", trend.deliveries, _count, canvas)
    yield _rate("longest turn", trend.turn, _milliseconds, canvas, _turn_style(turn))
    yield _rate("late clients", trend.late, _count, canvas, "yellow" if late else "")


def _turn_style(milliseconds: float) -> str:
    return "bold red" if milliseconds >= STUCK_TURN else "yellow" if milliseconds >= SLOW_TURN else ""


def _rate(
    name: str, figures: Sequence[float], shown: Callable[[float], str], canvas: Canvas, style: str = ""
) -> Text:
    line = Text(f" {name:<{_LABEL}}")
    line.append(f"{shown(figures[-1]):>{_FIGURE}}  ", style=style or "bold")
    wide = canvas.width >= TABLE_WIDTH
    bars = sparkline(figures, canvas.width - line.cell_len - 1 - (_PEAK if wide else 0), bars=canvas.bars)
    line.append(bars, style="cyan")
    if wide:
        line.append(f" peak {shown(max(list(figures)[-len(bars) :]))}", style="dim")
    return line


def _count(number: float) -> str:
    for limit, unit in ((1e4, ""), (1e6, " k"), (1e9, " M")):
        if number < limit:
            return f"{number / (limit / 1e3 if unit else 1):.0f}{unit}"
    return f"{number / 1e9:.0f} G"


def _milliseconds(number: float) -> str:
    return f"{number / 1000:.1f} s" if number >= 1000 else f"{number:.0f} ms"


def _recent(trend: Trend, status: ServerStatus, now: float, canvas: Canvas, most: int) -> list[Text]:
    """Return the last events, the latest first, below a title and above an empty line."""
    cut_off = (Event(each.at, cut_off_words(each)) for each in status.cut_off)
    events = sorted((each for each in (*trend.events, *cut_off) if now - each.at < _RECENT), reverse=True)
    if not events or most < 1:
        return []
    lines = [Text(" recently", style="dim")]
    for each in events[:most]:
        line = Text(f" {_clock(each.at)} ", style="dim")
        line.append(visible(each.text), style="not dim")
        line.truncate(canvas.width, overflow="ellipsis")
        lines.append(line)
    return [*lines, Text()]


def _clock(moment: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(moment))


# The workers.


def _workers(workers: Sequence[WorkerStatus], width: int, most: int) -> tuple[Table, int]:
    """Return a table of at most ``most`` workers, and how many are left out: those with nothing unusual."""
    shown = list(workers)
    if len(shown) > most:
        shown = sorted(workers, key=_unusual, reverse=True)[:most]
        shown.sort(key=lambda each: each.slot)
    wide = width >= TABLE_WIDTH
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column(" worker", justify="right")
    if wide:
        table.add_column("pid", justify="right")
        table.add_column("state")
    for name in ("clients", "in/s", "out/s", "lag ms", "cpu"):
        table.add_column(name, justify="right")
    if wide:
        for name in ("late", "memory", "restarts"):
            table.add_column(name, justify="right")
    for each in shown:
        table.add_row(*_cells(each, wide=wide))
    return table, len(workers) - len(shown)


def _unusual(worker: WorkerStatus) -> tuple[bool, float, float]:
    return worker.state != "RUNNING", worker.lag_ms, worker.cpu


def _cells(worker: WorkerStatus, *, wide: bool) -> Iterable[Text]:
    running = worker.state == "RUNNING"
    busy = "yellow" if worker.cpu >= BUSY else ""
    yield Text(str(worker.slot), style="" if running else "bold red")
    if wide:
        yield Text(str(worker.pid or "-"))
        yield Text(visible(worker.state), style="" if running else "bold red")
    yield Text(_count(worker.connections))
    yield Text(_count(worker.in_per_second))
    yield Text(_count(worker.out_per_second))
    yield Text(f"{worker.lag_ms:.1f}", style=_turn_style(worker.lag_ms))
    yield Text(f"{worker.cpu:.0%}", style=busy)
    if wide:
        yield Text(_count(worker.late), style="yellow" if worker.late else "")
        yield Text(size(worker.rss))
        yield Text(str(worker.restarts))
