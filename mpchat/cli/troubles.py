"""Troubles: what of a server's status an engineer on call has to know. Pure: a status in, a list out."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

from mpchat.control.answers import Cluster, CutOff, ServerStatus, Tls, TlsProcess, WorkerStatus

# Milliseconds of a loop's turn: clients notice a delay; something is wrong.
SLOW_TURN, STUCK_TURN = 250.0, 1000.0
# Seconds without a beat, which comes every second.
SILENT = 3.0
# Of one core: a worker that has no more CPU time to get.
BUSY = 0.95
# Of the connections that fit: it is time to think of more.
FULL = 0.9
# The late clients that are many: a share of all, and a number.
LATE_SHARE, LATE_LEAST = 0.05, 5
# Seconds of the log that a host of a cluster is behind.
BEHIND = 2.0
# Seconds for which what has happened is news.
NEWS = 60.0
# The reason of a client's end that is the operator's own doing.
KICKED = "kicked"


class Trouble(NamedTuple):
    """A trouble, and whether clients suffer from it now."""

    text: str
    severe: bool = False


def troubles(status: ServerStatus, now: float) -> list[Trouble]:
    """Return what is wrong, the severe things first; ``now`` is in seconds since 1970."""
    found = [*_of_server(status, now), *_of_clients(status, now)]
    for worker in status.workers:
        found += _of_worker(worker, changing=status.change is not None or status.state != "RUNNING")
    if status.tls is not None:
        found += _of_tls(status.tls, now)
    if status.cluster is not None:
        found += _of_cluster(status.cluster)
    return sorted(found, key=lambda each: not each.severe)


def _of_server(status: ServerStatus, now: float) -> Iterator[Trouble]:
    if status.state != "RUNNING":
        yield Trouble(f"the server is {status.state}")
    if status.change is not None:
        yield Trouble(f"{status.change} under way")
    if status.history is not None and status.history.state != "ok":
        dropped = f", {status.history.dropped} messages dropped" if status.history.dropped else ""
        yield Trouble(f"history {status.history.state}{dropped}", severe=True)
    if status.last_reload is not None and status.last_reload.exit:
        yield Trouble(f"the last reload failed: {status.last_reload.text}", severe=True)


def _of_clients(status: ServerStatus, now: float) -> Iterator[Trouble]:
    limit = status.limits.connections
    if limit and status.connections >= limit * FULL:
        full = status.connections >= limit
        yield Trouble(f"{status.connections} of {limit} connections that fit", severe=full)
    late = sum(each.late for each in status.workers)
    if late >= max(LATE_LEAST, status.connections * LATE_SHARE):
        yield Trouble(f"{late} of {status.connections} clients are behind")
    if cut_off := _cut_off_lately(status.cut_off, now):
        yield Trouble(cut_off)


def _cut_off_lately(cut_off: list[CutOff], now: float) -> str:
    lately = [each for each in cut_off if now - each.at < NEWS and each.reason != KICKED]
    if not lately:
        return ""
    counts = Counter(each.reason for each in lately).most_common()
    reasons = ", ".join(f"{count} {reason}" for reason, count in counts)
    return f"cut off in the last minute: {reasons}; the last: {lately[-1].name or lately[-1].address}"


def _of_worker(worker: WorkerStatus, *, changing: bool) -> Iterator[Trouble]:
    if worker.restart_in is not None:
        yield _waiting("worker", worker, worker.restart_in)
    elif worker.state != "RUNNING":
        if not changing:
            yield Trouble(f"worker {worker.slot} is {worker.state}", severe=worker.state == "FATAL")
    elif worker.silent > SILENT:
        yield Trouble(f"worker {worker.slot} is silent for {worker.silent:.0f} s", severe=True)
    elif worker.lag_ms >= SLOW_TURN:
        severe = worker.lag_ms >= STUCK_TURN
        yield Trouble(
            f"worker {worker.slot} is slow: a turn of its loop takes {worker.lag_ms:.0f} ms", severe
        )
    elif worker.cpu >= BUSY:
        yield Trouble(f"worker {worker.slot} uses a whole core")


def _waiting(kind: str, slot: WorkerStatus | TlsProcess, seconds: float) -> Trouble:
    text = f"{kind} {slot.slot} waits: the next one starts in {seconds:.0f} s"
    if slot.died:
        text += f"; {slot.deaths} death{'s' if slot.deaths != 1 else ''} in a row, the last: {slot.died}"
    return Trouble(text, severe=True)


def _of_tls(tls: Tls, now: float) -> Iterator[Trouble]:
    if tls.warning:
        yield Trouble(tls.warning, severe=tls.expires is not None and tls.expires <= now)
    for each in tls.processes:
        if each.restart_in is not None:
            yield _waiting("TLS process", each, each.restart_in)
        elif each.state == "RUNNING" and each.silent > SILENT:
            yield Trouble(f"TLS process {each.slot} is silent for {each.silent:.0f} s", severe=True)


def _of_cluster(cluster: Cluster) -> Iterator[Trouble]:
    if cluster.state == "member":
        if cluster.behind >= BEHIND:
            yield Trouble(f"this host is {cluster.behind:.1f} s behind the log of the cluster")
        return
    what = "Redis cannot be reached, senders wait" if cluster.state == "away" else cluster.state
    reason = f" ({cluster.reason})" if cluster.reason else ""
    yield Trouble(f"cluster {cluster.name}: {what}{reason}", severe=cluster.state in ("away", "recovering"))
