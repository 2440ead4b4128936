"""Trend: what ``mpchat status --watch`` has seen of a server: figures by the second, and events. Pure."""

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

from mpchat.cli.troubles import NEWS, Trouble
from mpchat.control.answers import ServerStatus, TlsProcess, WorkerStatus

# Pictures whose figures are kept: as many as a wide terminal has columns.
KEPT = 300
# Events that are kept.
EVENTS = 20


class Event(NamedTuple):
    """Something that has happened, and when (seconds since 1970)."""

    at: float
    text: str
    # True for what is a trouble for a minute.
    bad: bool = False


class Trend:
    """Takes a status each second, or that there was none."""

    def __init__(self) -> None:
        self.status: ServerStatus | None = None
        self.connections: deque[float] = deque(maxlen=KEPT)
        self.messages: deque[float] = deque(maxlen=KEPT)
        self.deliveries: deque[float] = deque(maxlen=KEPT)
        # The longest turn of a worker's loop, in milliseconds; and clients that are behind.
        self.turn: deque[float] = deque(maxlen=KEPT)
        self.late: deque[float] = deque(maxlen=KEPT)
        # What has changed from one picture to the next, the oldest first.
        self.events: deque[Event] = deque(maxlen=EVENTS)
        # Since when there is no answer (seconds since 1970), and why.
        self.lost_at: float | None = None
        self.why = ""
        # When clients were refused, how many of them and with what code.
        self._refused: deque[tuple[float, str, int]] = deque(maxlen=KEPT)

    def take(self, status: ServerStatus, now: float) -> None:
        """Take a status; ``now`` is in seconds since 1970."""
        before, self.status = self.status, status
        self.lost_at, self.why = None, ""
        workers = status.workers
        self.connections.append(status.connections)
        self.messages.append(sum(each.in_per_second for each in workers))
        self.deliveries.append(sum(each.out_per_second for each in workers))
        self.turn.append(max((each.lag_ms for each in workers), default=0.0))
        self.late.append(sum(each.late for each in workers))
        if before is not None:
            self.events += self._changes(before, status, now)

    def lose(self, why: str, now: float) -> None:
        """Take note that there was no answer."""
        if self.lost_at is None:
            self.lost_at = now
            self.events.append(Event(now, "the server did not answer", bad=True))
        self.why = why

    def _changes(self, before: ServerStatus, status: ServerStatus, now: float) -> Iterator[Event]:
        if (before.pid, before.started) != (status.pid, status.started):
            self._refused.clear()
            yield Event(now, f"the server was started anew, pid {status.pid}", bad=True)
            return
        for code, count in status.refused_by_code.items():
            if more := count - before.refused_by_code.get(code, 0):
                self._refused.append((now, code, more))
        died = [*_deaths("worker", before.workers, status.workers)]
        if before.tls is not None and status.tls is not None:
            died += _deaths("TLS process", before.tls.processes, status.tls.processes)
        yield from (Event(now, text, bad=True) for text in died)
        if status.generation != before.generation:
            yield Event(now, f"the workers were replaced, generation {status.generation}")
        if len(status.workers) != len(before.workers):
            yield Event(now, f"{len(status.workers)} workers, {len(before.workers)} before")

    def news(self, now: float) -> list[Trouble]:
        """Return what was bad in the last minute, though it may be well again."""
        found = [Trouble(each.text) for each in self.events if each.bad and now - each.at < NEWS]
        lately: Counter[str] = Counter()
        for at, code, count in self._refused:
            if now - at < NEWS:
                lately[code] += count
        if lately:
            codes = ", ".join(f"{count} {code}" for code, count in lately.most_common())
            found.append(Trouble(f"refused in the last minute: {codes}"))
        return found


def _deaths(
    kind: str, before: list[WorkerStatus] | list[TlsProcess], now: list[WorkerStatus] | list[TlsProcess]
) -> Iterator[str]:
    known = {each.slot: each for each in before}
    for slot in now:
        earlier = known.get(slot.slot)
        if earlier is None:
            continue
        if slot.deaths > earlier.deaths or slot.restarts > earlier.restarts:
            yield f"{kind} {slot.slot} died: {slot.died or 'it is not known how'}"
