"""Tables for people: what a server says of itself, drawn with rich. Pure: facts in, a picture out."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

# Characters that the table of workers needs.
TABLE_WIDTH = 78
_STATE_STYLES = {
    "RUNNING": "green",
    "STARTING": "yellow",
    "DRAINING": "yellow",
    "STOPPING": "yellow",
    "BACKOFF": "red",
    "FATAL": "bold red",
}


def duration(seconds: float) -> str:
    """Return a length of time as people say it, in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def size(count: float) -> str:
    """Return a number of bytes with the unit that makes it short."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def status_picture(facts: Mapping[str, Any], width: int) -> RenderableType:
    """Draw ``mpchat status`` from the object of ``status --json``, ``width`` characters wide."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started"]))
    head = Text()
    head.append(f"{facts['name']} ", style="bold")
    head.append(facts["state"], style=_STATE_STYLES.get(facts["state"], ""))
    head.append(f" at {', '.join(facts['addresses'])}, pid {facts['pid']}, version {facts['version']}\n")
    head.append(f"up {duration(facts['uptime'])}, since {since}\n")
    head.append(f"{facts['connections']} of {facts['limits']['connections']} connections, ")
    head.append(f"{facts['messages']} messages, {facts['refused']} refused")
    if width < TABLE_WIDTH:
        return Group(head, *map(_worker_lines, facts["workers"]))
    return Group(head, _workers_table(facts["workers"]))


def _worker_lines(each: Mapping[str, Any]) -> Text:
    """A worker in words, for a terminal too narrow for the table: nothing is cut off."""
    line = Text(f"worker {each['slot']} ")
    line.append(each["state"], style=_STATE_STYLES.get(each["state"], ""))
    line.append(
        f", pid {each['pid'] or '-'}: {each['connections']} clients, {each['in_per_second']:.0f} in/s, "
        f"{each['out_per_second']:.0f} out/s, lag {each['lag_ms']:.1f} ms, {each['late']} late, "
        f"cpu {each['cpu']:.0%}, {size(each['rss'])}, {each['restarts']} restarts"
    )
    return line


def _workers_table(workers: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("slot", justify="right")
    table.add_column("pid", justify="right")
    table.add_column("state")
    for name in ("clients", "in/s", "out/s", "lag ms", "late", "cpu", "memory", "restarts"):
        table.add_column(name, justify="right", overflow="fold")
    for each in workers:
        table.add_row(
            str(each["slot"]),
            str(each["pid"] or "-"),
            Text(each["state"], style=_STATE_STYLES.get(each["state"], "")),
            str(each["connections"]),
            f"{each['in_per_second']:.0f}",
            f"{each['out_per_second']:.0f}",
            f"{each['lag_ms']:.1f}",
            str(each["late"]),
            f"{each['cpu']:.0%}",
            size(each["rss"]),
            str(each["restarts"]),
        )
    return table


def config_picture(rows: Sequence[tuple[str, str, str]]) -> RenderableType:
    """Draw settings: name, value, where it came from."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("setting", "value", "from"):
        table.add_column(name, overflow="fold")
    for name, value, place in rows:
        table.add_row(Text(name), Text(value), Text(place, style="dim" if place == "default" else ""))
    return table
