"""Tables and lines for people, made of a server's answers. Pure: facts in, a picture or a text out."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from mpchat.text import visible

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
    """Return a duration in its two largest units."""
    whole = int(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def size(count: float) -> str:
    """Return a number of bytes with the unit that keeps it short."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def pause(seconds: float) -> str:
    """Return a short time in milliseconds, or in seconds from 1 s on."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2g} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def status_picture(facts: Mapping[str, Any], width: int) -> RenderableType:
    """Draw ``mpchat status`` from the object of ``status --json``, ``width`` characters wide."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started"]))
    head = Text()
    head.append(f"{facts['name']} ", style="bold")
    head.append(facts["state"], style=_STATE_STYLES.get(facts["state"], ""))
    head.append(f" at {', '.join(facts['addresses'])}, pid {facts['pid']}, version {facts['version']}\n")
    head.append(f"up {duration(facts['uptime'])}, since {since}\n")
    head.append(f"{facts['connections']} of {_count(facts['limits']['connections'], 'connection')}, ")
    head.append(f"{_count(facts['messages'], 'message')}, {facts['refused']} refused")
    if facts.get("people") or facts.get("history"):
        head.append(f"\n{_people_line(facts)}")
    if history := facts.get("history"):
        style = "" if history["state"] == "ok" else "red"
        head.append(f"\n{_history_line(history)}", style=style)
    if "generation" in facts:
        head.append(f"\n{_change_line(facts)}")
    if last := facts.get("last_reload"):
        head.append(f"\n{_last_reload_line(last)}", style="red" if last["exit"] else "")
    if width < TABLE_WIDTH:
        return Group(head, *map(_worker_lines, facts["workers"]))
    return Group(head, _workers_table(facts["workers"]))


def bans_text(found: Mapping[str, Any]) -> str:
    """Return the output of ``mpchat bans``: one line for each ban and mute."""
    lines = [
        f"{visible(each['target'])} {what}, {_until(each['until'])}"
        for kind, what in (("bans", "banned"), ("mutes", "muted"))
        for each in found[kind]
    ]
    return "\n".join(lines) or "nobody is banned or muted"


def _until(moment: float | None) -> str:
    if moment is None:
        return "for good"
    return time.strftime("until %Y-%m-%d %H:%M:%S", time.localtime(moment))


def _people_line(facts: Mapping[str, Any]) -> str:
    people = facts["people"]
    return f"{people} {'person' if people == 1 else 'people'} in {_count(facts['rooms'], 'room')}"


def _history_line(history: Mapping[str, Any]) -> str:
    line = f"history {visible(history['state'])}: {_count(history['saved'], 'message')} saved"
    if history["dropped"]:
        line += f", {history['dropped']} dropped"
    return f"{line} in {visible(history['path'])}"


def _change_line(facts: Mapping[str, Any]) -> str:
    line = f"generation {facts['generation']}, {_count(facts.get('moves', 0), 'connection')} moved"
    return f"{line}; {facts['change']} under way" if facts.get("change") else line


def _last_reload_line(last: Mapping[str, Any]) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last["at"]))
    if last["exit"]:
        return f"last reload {at} failed: {visible(last['text'])}"
    line = f"last reload {at}: {_count(last['moved'], 'connection')} moved in {last['seconds']:.2f} s"
    if last["moved"]:
        line += f", longest pause {pause(last['pauses']['max'])}"
    return ", ".join([line, *_losses(last)])


def _losses(result: Mapping[str, Any]) -> list[str]:
    failed, lost = result.get("failed", 0), result.get("lost", 0)
    said = [f"{_count(failed, 'move')} failed"] if failed else []
    return [*said, f"{_count(lost, 'connection')} lost"] if lost else said


def reload_text(name: str, result: Mapping[str, Any], *, done: bool) -> str:
    """Return the lines about a reload; ``done`` is False when it stopped before its end."""
    renewed, changed, kept = (result.get(each, ()) for each in ("renewed", "changed", "kept"))
    how = "reloaded" if done else "reloaded in part" if renewed else "not reloaded"
    lines = [
        f'mpchat "{name}" {how}: generation {result.get("generation", "unknown")}, '
        f"{_count(len(renewed), 'worker')} renewed in {result.get('seconds', 0.0):.2f} s",
        *_moves(result),
    ]
    settings = [f"changed: {', '.join(changed) or 'no setting'}"] if changed or done else []
    if kept:
        reasons = ", ".join(f"{each} ({reason})" for each, reason in kept.items())
        settings.append(f"not changed while it runs: {reasons}")
    return "\n".join([*lines, "; ".join(settings)] if settings else lines)


def scale_text(name: str, result: Mapping[str, Any]) -> str:
    """Return the lines about a change of the number of workers, done or not."""
    workers = _count(result["workers"], "worker") if "workers" in result else "an unknown number of workers"
    line = f'mpchat "{name}" has {workers}, after {result.get("seconds", 0.0):.2f} s'
    return "\n".join([line, *_moves(result)])


def _moves(result: Mapping[str, Any]) -> list[str]:
    """Return a line about the moved connections, and one more if any move failed or a connection was lost."""
    moved, pauses = result.get("moved", 0), result.get("pauses", {})
    line = f"{_count(moved, 'connection') if moved else 'no connections'} moved"
    if moved and pauses:
        half, most, longest = (pause(pauses[each]) for each in ("p50", "p99", "max"))
        line += f", pauses: half under {half}, 99 % under {most}, longest {longest}"
    losses = ", ".join(_losses(result))
    return [line, losses] if losses else [line]


_PHASES = {"start": "starting worker", "move": "moving connections of worker", "retire": "ending old worker"}


def progress_text(facts: Mapping[str, Any]) -> str:
    """Return a line of progress: the phase, the worker, and how many connections have moved."""
    phase = str(facts.get("phase", ""))
    line = f"{_PHASES.get(phase, visible(phase))} {facts.get('worker', '')}"
    return f"{line}, {facts['moved']} of {facts['connections']}" if facts.get("connections") else line


def _worker_lines(each: Mapping[str, Any]) -> Text:
    """Return a worker's figures as text, for a terminal too narrow for the table: nothing is cut off."""
    line = Text(f"worker {each['slot']} ")
    line.append(each["state"], style=_STATE_STYLES.get(each["state"], ""))
    line.append(
        f", pid {each['pid'] or '-'}: {each['connections']} clients, {each['in_per_second']:.0f} in/s, "
        f"{each['out_per_second']:.0f} out/s, lag {each['lag_ms']:.1f} ms, {each['late']} late, "
        f"cpu {each['cpu']:.0%}, {size(each['rss'])}, {each['restarts']} restarts"
    )
    if "generation" in each:
        line.append(f", generation {each['generation']}")
    return line


def _workers_table(workers: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("slot", justify="right")
    table.add_column("pid", justify="right")
    table.add_column("state")
    # A server of an earlier version has no generations.
    generations = any("generation" in each for each in workers)
    if generations:
        table.add_column("gen", justify="right")
    for name in ("clients", "in/s", "out/s", "lag ms", "late", "cpu", "memory", "restarts"):
        table.add_column(name, justify="right", overflow="fold")
    for each in workers:
        table.add_row(
            str(each["slot"]),
            str(each["pid"] or "-"),
            Text(each["state"], style=_STATE_STYLES.get(each["state"], "")),
            *([str(each.get("generation", "-"))] if generations else []),
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
