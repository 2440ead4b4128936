"""Tables and lines for people, made of a server's answers. Pure: facts in, a picture or a text out."""

import re
import time
from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mpchat.control.answers import (
    Cluster,
    CutOff,
    History,
    Host,
    LastReload,
    Progress,
    ReloadResult,
    RoomFacts,
    Sanctions,
    ScaleResult,
    ServerStatus,
    Tls,
    TlsProcess,
    Webhook,
    WorkerStatus,
)
from mpchat.memory import Bound, total
from mpchat.text import visible

# Characters that the table of workers needs.
TABLE_WIDTH = 78
# Clients that were cut off, of which the status shows so many.
CUT_OFF_SHOWN = 5
# Characters of a lease from 10 s to 99 s.
LEASE_WIDTH = 6
_AUTH = {"names": "registered names need a proof", "closed": "clients need a proof"}
_STATE_STYLES = {
    "RUNNING": "green",
    "STARTING": "yellow",
    "DRAINING": "yellow",
    "STOPPING": "yellow",
    "BACKOFF": "red",
    "FATAL": "bold red",
}
_HOST_STYLES = {"here": "green"}
# The words for each state of a host that passes, followed by the time when it began.
_CLUSTER_WORDS = {
    "joining": "is joining since {since}",
    "away": "Redis has not been reachable since {since}: senders wait",
    "returning": "lost its lease at {since}: it is coming back",
    "recovering": "Redis lost a part of the log, noticed at {since}: the hosts begin it anew",
    "left": "left at {since}",
}
# The space in "12 clients", and what stands for it while lines are made: a character for private use, which
# visible() lets through from nowhere.
_BEFORE_UNIT = re.compile(r"(?<=\d) (?=[a-z])", re.ASCII)
_GLUE = "\ue000"
# Seconds after which the time of the day alone is not enough.
_DAY = 86_400.0


class _Unsplit:
    """A text whose lines never end between a number and its unit."""

    def __init__(self, text: Text) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text = self._text.copy()
        # rich ends lines at no-break spaces too.
        text.plain = _BEFORE_UNIT.sub(_GLUE, text.plain)
        for line in text.wrap(console, options.max_width):
            line.plain = line.plain.replace(_GLUE, " ")
            yield line


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


def accounts_picture(rows: Sequence[tuple[str, str, float, float]]) -> Table:
    """Draw the registered names: name, role, and when made and changed (seconds since 1970)."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in ("name", "role", "made", "changed"):
        table.add_column(column, no_wrap=column != "name")
    for name, role, made, changed in rows:
        table.add_row(Text(visible(name)), Text(visible(role)), _day(made), _day(changed))
    return table


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def pause(seconds: float) -> str:
    """Return a short time in milliseconds, or in seconds from 1 s on."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.01 else f"{seconds * 1000:.2g} ms"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def status_picture(status: ServerStatus, width: int) -> RenderableType:
    """Draw ``mpchat status``, ``width`` characters wide."""
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.started))
    head = Text()
    head.append(f"{visible(status.name)} ", style="bold")
    head.append(visible(status.state), style=_STATE_STYLES.get(status.state, ""))
    addresses, version = visible(", ".join(status.addresses)), visible(status.version)
    head.append(f" at {addresses}, pid {status.pid}, version {version}\n")
    head.append(f"up {duration(status.uptime)}, since {since}\n")
    head.append(f"{status.connections} of {_count(status.limits.connections, 'connection')}, ")
    head.append(f"{_count(status.messages, 'message')}, {status.refused} refused")
    if too_fast := status.refused_by_code.get("too_fast"):
        head.append(f", {too_fast} of them too fast")
    _append_chat(head, status)
    if status.generation is not None:
        head.append(f"\n{_change_line(status)}")
    if last := status.last_reload:
        head.append(f"\n{_last_reload_line(last)}", style="red" if last.exit else "")
    for worker in status.workers:
        head.append(_waiting_worker(worker), style="red")
    if status.tls:
        head.append_text(_tls_lines(status.tls))
    if status.cut_off:
        head.append_text(_cut_off_lines(status.cut_off))
    if width < TABLE_WIDTH:
        return Group(head, *(_Unsplit(_worker_lines(each)) for each in status.workers))
    return Group(head, _workers_table(status.workers))


def _append_chat(head: Text, status: ServerStatus) -> None:
    """Add the lines about the chat itself: members, history, webhook, proofs, hosts."""
    if status.people or status.history:
        head.append(f"\n{_people_line(status)}")
    if history := status.history:
        head.append(f"\n{_history_line(history)}", style="" if history.state == "ok" else "red")
    if hook := status.hook:
        head.append(f"\n{_hook_line(hook)}", style="" if hook.state == "ok" else "red")
    if status.auth != "open":
        head.append(f"\nauth {visible(status.auth)}: {_AUTH.get(status.auth, '')}")
    if status.cluster:
        head.append_text(_cluster_line(status.cluster))


def _waiting_worker(worker: WorkerStatus) -> str:
    """Return the line of a worker that waits for its next start; empty for any other."""
    if worker.restart_in is None:
        return ""
    return f"\n{_waiting_line('worker', worker, worker.restart_in)}"


def _cut_off_lines(cut_off: Sequence[CutOff]) -> Text:
    """Return the last clients that were cut off, the latest first."""
    lines = Text("\nrecently cut off:")
    for each in list(reversed(cut_off))[:CUT_OFF_SHOWN]:
        lines.append(f"\n  {_clock(each.at)} {cut_off_words(each)}")
    return lines


def cut_off_words(client: CutOff) -> str:
    """Return why a client was cut off and which one it was."""
    name = f"{visible(client.name)} at " if client.name else ""
    return f"{visible(client.reason)}: {name}{visible(client.address)}"


def bans_text(sanctions: Sanctions) -> str:
    """Return the output of ``mpchat bans``: one line for each ban and mute."""
    lines = [
        f"{visible(each.target)} {what}, {_until(each.until)}"
        for found, what in ((sanctions.bans, "banned"), (sanctions.mutes, "muted"))
        for each in found
    ]
    return "\n".join(lines) or "nobody is banned or muted"


def _until(moment: float | None) -> str:
    if moment is None:
        return "for good"
    return time.strftime("until %Y-%m-%d %H:%M:%S", time.localtime(moment))


def _people_line(status: ServerStatus) -> str:
    people = status.people
    return f"{people} {'person' if people == 1 else 'people'} in {_count(status.rooms, 'room')}"


def _history_line(history: History) -> str:
    line = f"history {visible(history.state)}: {_count(history.saved, 'message')} saved"
    if history.dropped:
        line += f", {history.dropped} dropped"
    return f"{line} in {visible(history.path)}"


def _hook_line(hook: Webhook) -> str:
    since = "" if hook.state == "ok" else f" since {_clock(hook.since)}"
    line = f"hook {visible(hook.state)}{since}: {_count(hook.sent, 'event')} sent"
    if hook.waiting:
        line += f", {hook.waiting} waiting"
    if hook.dropped:
        line += f", {hook.dropped} dropped"
    return f"{line} to {visible(hook.url)}"


def _change_line(status: ServerStatus) -> str:
    line = f"generation {status.generation}, {_count(status.moves, 'connection')} moved"
    return f"{line}; {visible(status.change)} under way" if status.change else line


def _last_reload_line(last: LastReload) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.at))
    if last.exit:
        return f"last reload {at} failed: {visible(last.text)}"
    line = f"last reload {at}: {_count(last.moved, 'connection')} moved in {last.seconds:.2f} s"
    if last.moved:
        line += f", longest pause {pause(last.pauses.max)}"
    return ", ".join([line, *_losses(last)])


def _losses(result: LastReload | ReloadResult | ScaleResult) -> list[str]:
    losses = [f"{_count(result.failed, 'move')} failed"] if result.failed else []
    return [*losses, f"{_count(result.lost, 'connection')} lost"] if result.lost else losses


def reload_text(name: str, result: ReloadResult, *, done: bool) -> str:
    """Return the lines about a reload; ``done`` is False when it stopped before its end."""
    how = "reloaded" if done else "reloaded in part" if result.renewed else "not reloaded"
    generation = "unknown" if result.generation is None else result.generation
    lines = [
        f'mpchat "{name}" {how}: generation {generation}, '
        f"{_count(len(result.renewed), 'worker')} renewed in {result.seconds:.2f} s",
        *_moves(result),
    ]
    changed = f"changed: {visible(', '.join(result.changed)) or 'no setting'}"
    settings = [changed] if result.changed or done else []
    if result.kept:
        reasons = ", ".join(f"{each} ({reason})" for each, reason in result.kept.items())
        settings.append(f"not changed while it runs: {visible(reasons)}")
    return "\n".join([*lines, "; ".join(settings)] if settings else lines)


def scale_text(name: str, result: ScaleResult) -> str:
    """Return the lines about a change of the number of workers, done or not."""
    workers = "an unknown number of workers" if result.workers is None else _count(result.workers, "worker")
    line = f'mpchat "{name}" has {workers}, after {result.seconds:.2f} s'
    return "\n".join([line, *_moves(result)])


def _moves(result: ReloadResult | ScaleResult) -> list[str]:
    """Return a line about the moved connections, and one more if any move failed or a connection was lost."""
    line = f"{_count(result.moved, 'connection') if result.moved else 'no connections'} moved"
    if result.moved:
        half, most, longest = map(pause, (result.pauses.p50, result.pauses.p99, result.pauses.max))
        line += f", pauses: half under {half}, 99 % under {most}, longest {longest}"
    losses = ", ".join(_losses(result))
    return [line, losses] if losses else [line]


_PHASES = {"start": "starting worker", "move": "moving connections of worker", "retire": "ending old worker"}


def progress_text(progress: Progress) -> str:
    """Return a line of progress: the phase, the worker, and how many connections have moved."""
    worker = "" if progress.worker is None else progress.worker
    line = f"{_PHASES.get(progress.phase, visible(progress.phase))} {worker}"
    return f"{line}, {progress.moved} of {progress.connections}" if progress.connections else line


def _waiting_line(kind: str, slot: WorkerStatus | TlsProcess, seconds: float) -> str:
    """Return why a slot has no process, and when the next one starts."""
    at = time.strftime("%H:%M:%S", time.localtime(time.time() + seconds))
    line = f"{kind} {slot.slot} waits: the next one starts in {seconds:.0f} s, at {at}"
    if not slot.died:
        return line
    return f"{line}; {_count(slot.deaths, 'death')} in a row, the last: {visible(slot.died)}"


def _cluster_line(cluster: Cluster) -> Text:
    """Return the line about the cluster. It stands out while senders wait."""
    line = Text(f"\ncluster {visible(cluster.name)} as {visible(cluster.host)}: ")
    if cluster.state == "member":
        there = len(cluster.hosts)
        line.append(f"{_count(there, 'host')}, position {cluster.position}, {_behind(cluster)} behind")
        return line
    since = _clock(cluster.since)
    words = _CLUSTER_WORDS.get(cluster.state, "{state} since {since}")
    style = "bold red" if cluster.state in ("away", "recovering") else "yellow"
    line.append(words.format(state=visible(cluster.state), since=since), style=style)
    if cluster.reason:
        line.append(f" ({visible(cluster.reason)})")
    return line


def _clock(moment: float) -> str:
    """Return the time of the day; with the date when it is not of the last 24 hours."""
    form = "%H:%M:%S" if abs(time.time() - moment) < _DAY else "%Y-%m-%d %H:%M:%S"
    return time.strftime(form, time.localtime(moment))


def _behind(part: Cluster | Host) -> str:
    batches = f"{part.lag} batch{'' if part.lag == 1 else 'es'}"
    return f"{batches}, {part.behind:.1f} s" if part.lag else batches


def hosts_picture(hosts: Sequence[Host], width: int) -> RenderableType:
    """Draw ``mpchat hosts``, ``width`` characters wide."""
    if width < TABLE_WIDTH:
        return Group(*(_Unsplit(_host_lines(each)) for each in hosts))
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("host", overflow="fold")
    table.add_column("state")
    for name in ("epoch", "lease", "position", "lag", "clients", "version"):
        # 10.0 s and 9.3 s take the same place: a table that is drawn again does not jump.
        least = LEASE_WIDTH if name == "lease" else None
        table.add_column(name, justify="right", overflow="fold", min_width=least)
    for each in hosts:
        table.add_row(
            Text(visible(each.name)),
            _host_state(each),
            str(each.epoch),
            _lease(each),
            str(each.position),
            f"{each.lag}, {each.behind:.1f} s" if each.lag else "0",
            str(each.clients),
            Text(visible(each.version) or "-"),
        )
    return table


def _host_lines(host: Host) -> Text:
    """Return a host's figures as text, for a terminal too narrow for the table: nothing is cut off."""
    line = Text(f"{visible(host.name)} ")
    line.append_text(_host_state(host))
    line.append(
        f", epoch {host.epoch}: lease {_lease(host)}, position {host.position}, {_behind(host)} behind, "
        f"{_count(host.clients, 'client')}, version {visible(host.version) or '-'}"
    )
    return line


def _host_state(host: Host) -> Text:
    return Text(visible(host.state), style=_HOST_STYLES.get(host.state, ""))


def _lease(host: Host) -> str:
    return "-" if host.lease is None else f"{max(0.0, host.lease):.1f} s"


def _tls_lines(tls: Tls) -> Text:
    lines = Text(f"\n{_certificate_line(tls)}", style="red" if tls.warning else "")
    for each in tls.processes:
        lines.append("\n")
        lines.append_text(_tls_process_line(each))
    return lines


def _certificate_line(tls: Tls) -> str:
    names = visible(", ".join(tls.names)) or "no name"
    line = f"TLS {visible(tls.mode)}"
    if tls.expires is not None:
        day = time.strftime("%Y-%m-%d", time.localtime(tls.expires))
        line += f", the certificate is for {names} until {day}"
    return f"{line}; {visible(tls.warning)}" if tls.warning else line


def _tls_process_line(process: TlsProcess) -> Text:
    if process.restart_in is not None:
        return Text(_waiting_line("TLS process", process, process.restart_in), style="red")
    line = Text(f"TLS process {process.slot} ")
    line.append(visible(process.state), style=_STATE_STYLES.get(process.state, ""))
    line.append(
        f", pid {process.pid or '-'}: {_count(process.connections, 'client')}, "
        f"{process.shaking} shaking hands, {_count(process.handshakes, 'handshake')}, "
        f"lag {process.lag_ms:.1f} ms, cpu {process.cpu:.0%}, "
        f"{size(process.rss)}, {_count(process.restarts, 'restart')}"
    )
    return line


def _worker_lines(worker: WorkerStatus) -> Text:
    """Return a worker's figures as text, for a terminal too narrow for the table: nothing is cut off."""
    line = Text(f"worker {worker.slot} ")
    line.append(visible(worker.state), style=_STATE_STYLES.get(worker.state, ""))
    line.append(
        f", pid {worker.pid or '-'}: {_count(worker.connections, 'client')}, "
        f"{worker.in_per_second:.0f} in/s, {worker.out_per_second:.0f} out/s, "
        f"lag {worker.lag_ms:.1f} ms, {worker.late} late, cpu {worker.cpu:.0%}, "
        f"{size(worker.rss)}, {_count(worker.restarts, 'restart')}"
    )
    if worker.generation is not None:
        line.append(f", generation {worker.generation}")
    return line


def _workers_table(workers: Sequence[WorkerStatus]) -> Table:
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("slot", justify="right")
    table.add_column("pid", justify="right")
    table.add_column("state")
    # A server of an earlier version has no generations.
    generations = any(each.generation is not None for each in workers)
    if generations:
        table.add_column("gen", justify="right")
    for name in ("clients", "in/s", "out/s", "lag ms", "late", "cpu", "memory", "restarts"):
        table.add_column(name, justify="right", overflow="fold")
    for each in workers:
        table.add_row(
            str(each.slot),
            str(each.pid or "-"),
            Text(visible(each.state), style=_STATE_STYLES.get(each.state, "")),
            *(["-" if each.generation is None else str(each.generation)] if generations else []),
            str(each.connections),
            f"{each.in_per_second:.0f}",
            f"{each.out_per_second:.0f}",
            f"{each.lag_ms:.1f}",
            str(each.late),
            f"{each.cpu:.0%}",
            size(each.rss),
            str(each.restarts),
        )
    return table


def rooms_picture(rooms: Sequence[RoomFacts], now: float) -> RenderableType:
    """Draw ``mpchat rooms``; ``now`` is in seconds since 1970. Names of rooms come from clients."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("room", overflow="fold")
    for name in ("members", "messages", "memory", "age", "last active"):
        table.add_column(name, justify="right", overflow="fold")
    for each in rooms:
        table.add_row(
            Text(visible(each.room)),
            str(each.members),
            str(each.messages),
            size(each.bytes),
            _since(each.made, now),
            _since(each.active, now),
        )
    return table


def _since(moment: float | None, now: float) -> str:
    return "-" if moment is None else duration(max(0.0, now - moment))


def config_picture(rows: Sequence[tuple[str, str, str]]) -> RenderableType:
    """Draw settings: name, value, where it came from."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("setting", "value", "from"):
        table.add_column(name, overflow="fold")
    for name, value, place in rows:
        table.add_row(Text(name), Text(value), Text(place, style="dim" if place == "default" else ""))
    return table


def memory_picture(rows: Sequence[Bound], workers: int, connections: int) -> RenderableType:
    """Draw how much memory all processes of a server take at most, row by row, and the sum.

    What is switched off takes nothing and has no row.
    """
    head = f"\nmemory at most, with {_count(workers, 'worker')} and {_count(connections, 'connection')}:"
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("what is kept", overflow="fold")
    table.add_column("at most", justify="right", overflow="fold")
    table.add_column("follows from", overflow="fold", style="dim")
    for each in rows:
        if each.size:
            table.add_row(each.what, size(each.size), ", ".join(each.settings))
    table.add_row("all together", size(total(list(rows))), "", style="bold")
    return Group(Text(head), table)
