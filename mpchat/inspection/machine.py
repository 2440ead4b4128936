"""Machine: descriptors, cores, memory, the kernel's limits for connections, and the clock."""

import time
from contextlib import suppress
from pathlib import Path

from mpchat.cores import usable_cores
from mpchat.inspection.findings import Finding, failure, ok, warning
from mpchat.inspection.scope import Scope
from mpchat.memory import bounds, total
from mpchat.memory_limit import memory_limit, shortage
from mpchat.supervisor.capacity import RESERVED_DESCRIPTORS
from mpchat.supervisor.descriptors import allowed_descriptors, fitting_connections, most_connections
from mpchat.supervisor.listeners import BACKLOG

_KERNEL = Path("/proc/sys/net")
# 2024-01-01 in seconds since 1970: this program is younger.
_EARLIEST = 1_704_067_200.0
_RAISE = "raise the hard limit: LimitNOFILE= of systemd, --ulimit nofile= of a container, or ulimit -Hn"


def machine(scope: Scope) -> list[Finding]:
    """Look at all that the machine, or a container, limits."""
    return [_descriptors(scope), _cores(scope), _memory(scope), *_kernel(), _clock(scope)]


def _descriptors(scope: Scope) -> Finding:
    allowed, wanted = allowed_descriptors(), scope.config.max_connections
    fit = fitting_connections(scope.config, scope.workers)
    text = f"{allowed} for each process, so {fit} connections fit, with {_workers(scope.workers)}"
    if allowed <= RESERVED_DESCRIPTORS:
        return failure(
            "descriptors", f"{text}; a process needs {RESERVED_DESCRIPTORS} beside its clients", _RAISE
        )
    if wanted > fit:
        return warning("descriptors", f"{text}, and max_connections is {wanted}", _RAISE)
    return ok("descriptors", text)


def _workers(count: int) -> str:
    return f"{count} worker{'s' if count != 1 else ''}"


def _cores(scope: Scope) -> Finding:
    cores, workers = usable_cores(), scope.workers
    text = f"{cores} by affinity and control group, {_workers(workers)}"
    if workers > cores:
        return warning(
            "cores", f"{text}: they take turns", "set workers = 0 for one less than there are cores"
        )
    return ok("cores", text)


def _memory(scope: Scope) -> Finding:
    rows = bounds(scope.config, scope.workers, most_connections(scope.config, scope.workers))
    limit = memory_limit()
    if scope.running is not None:  # it uses what it is to have
        limit = limit._replace(used=0)
    programs = rows[0].size
    if programs > limit.free:
        text = f"the processes alone take up to {programs >> 20} MiB, and {limit.free >> 20} MiB are free"
        return failure("memory", text, "raise the limit of the control group, or set workers = 1")
    if short := shortage(rows, limit):
        text, _, remedy = short.partition(": ")
        return warning("memory", text, remedy)
    return ok("memory", f"{total(rows) >> 20} MiB at most, {limit.free >> 20} MiB are free")


def _kernel() -> list[Finding]:
    """Look at what bounds a burst of new connections."""
    queue, cookies = _number("core/somaxconn"), _number("ipv4/tcp_syncookies")
    found = []
    if queue is not None and queue < BACKLOG:
        text = f"net.core.somaxconn is {queue}: of more connections at the same moment some are lost"
        found.append(warning("kernel", text, f"sysctl -w net.core.somaxconn={BACKLOG}"))
    if cookies == 0:
        text = "net.ipv4.tcp_syncookies is 0: a flood of half-made connections keeps clients out"
        found.append(warning("kernel", text, "sysctl -w net.ipv4.tcp_syncookies=1"))
    return found or [ok("kernel", "its queue of new connections is as long as the server's")]


def _number(name: str) -> int | None:
    with suppress(OSError, ValueError):
        return int((_KERNEL / name).read_text())
    return None


def _clock(scope: Scope) -> Finding:
    now = time.time()
    text = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    started = scope.running.started if scope.running is not None else 0.0
    if now < max(_EARLIEST, started):
        remedy = "set the clock: certificates, tokens and the age of history depend on it"
        return failure("clock", f"it is {text}, which is in the past", remedy)
    return ok("clock", text)
