"""What befalls the server in the night, and what must have been told of it.

An event does something to the server and puts it right again. :meth:`Event.told` is what metrics, log and
status said of it, in the table's words; :meth:`Event.missing` is what they should have said and did not.
"""

import random
import resource
import signal
import socket
import ssl
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar, NamedTuple

import psutil
import trustme

from scripts.common.certificate import certificate
from scripts.stress.night.manager import Manager
from scripts.stress.night.tellers import Moment, events

# Days that the certificate has left at first, so that the server says that renewal is due; and the next one.
DAYS_LEFT, DAYS_OF_NEXT = 10, 90
DAY = 86_400
# Workers killed in the night, one after the other.
KILLS = 3
# Seconds for a killed worker's successor to serve.
PATIENCE = 60.0
# Connections that come and go while nobody reads the log: more lines than the server keeps
# (``standard_stream.WAITING``, of each of two workers).
VISITS = 4000


class Told(NamedTuple):
    """What the three said of an event."""

    metrics: str
    log: str
    status: str


class Night(NamedTuple):
    """What events work with."""

    manager: Manager
    folder: Path
    authority: trustme.CA
    chooser: random.Random
    # Seconds that an event lasts.
    seconds: float


class Event:
    """Something that happens."""

    name: ClassVar[str]
    # Whether connections may end: those of killed workers, and all at a restart.
    ends: ClassVar[bool] = False
    # Metrics that the table shows, as they grow or, those that are no counters, as they are.
    metrics: ClassVar[tuple[str, ...]] = ("mpchat_deliveries_total",)
    # What the table shows of the status.
    status: ClassVar[tuple[str, ...]] = ("state",)

    def __init__(self, night: Night) -> None:
        self.night = night
        self.manager = night.manager
        # What the status said while it lasted, for what is over afterwards.
        self.meanwhile: dict[str, str] = {}
        self.wrong: list[str] = []

    def happen(self) -> None:
        """Do it, and put it right again."""
        time.sleep(self.night.seconds)

    def told(self, before: Moment, after: Moment) -> Told:
        """Say what the three told."""
        grown = (_change(name, before, after) for name in self.metrics)
        lines = events(self.manager, before, after)
        return Told("\n".join(filter(None, grown)), _most(lines), "\n".join(self._status(after)))

    def _status(self, after: Moment) -> list[str]:
        lines = [f"{name}: {text}" for name, text in self.meanwhile.items()]
        return lines + [f"{name}: {_at(after.status, name)}" for name in self.status]

    def missing(self, before: Moment, after: Moment) -> list[str]:
        """Return what should have been told and was not."""
        return []

    def must_grow(self, name: str, by: float, before: Moment, after: Moment) -> list[str]:
        """Return that a metric did not grow by so much, if it did not."""
        grown = after.metric(name) - before.metric(name)
        return [] if grown >= by else [f"{name} grew by {grown:g}, not by {by:g}"]

    def must_log(self, text: str, before: Moment, after: Moment) -> list[str]:
        """Return that no line of the log has this text, if none has."""
        lines = self.manager.journal.lines[before.lines : after.lines]
        return [] if any(text in str(each) for each in lines) else [f"the log does not say {text!r}"]


class Calm(Event):
    """Nothing happens."""

    name = "calm"
    status = ("state", "connections")


class StalledLogReader(Event):
    """The journal stops reading the log while much happens."""

    name = "log reader stalls"

    def happen(self) -> None:
        """Stall, let many come and go, and read again."""
        self.manager.journal.stall()
        for _ in range(VISITS):
            with socket.create_connection(self.manager.address, timeout=PATIENCE):
                pass
        time.sleep(self.night.seconds)
        self.manager.journal.go_on()
        time.sleep(1.0)  # what waits is read

    def missing(self, before: Moment, after: Moment) -> list[str]:
        """The lines that could not be written are counted."""
        return self.must_log("dropped: the log could not be written", before, after)


class FullDisk(Event):
    """No file of the server may grow: SQLite's writes fail as on a full disk."""

    name = "disk full"
    metrics = (
        "mpchat_deliveries_total",
        "mpchat_history_saved_messages_total",
        "mpchat_history_dropped_messages_total",
        "mpchat_history_failing",
    )
    status = ("history.state", "history.dropped")

    def happen(self) -> None:
        """Take the room away, and give it back."""
        server = psutil.Process(self.manager.pid)
        soft, hard = server.rlimit(resource.RLIMIT_FSIZE)
        server.rlimit(resource.RLIMIT_FSIZE, (0, hard))
        try:
            time.sleep(self.night.seconds / 2)
            self.meanwhile["history.state, full"] = str(_at(self.manager.status(), "history.state"))
        finally:
            server.rlimit(resource.RLIMIT_FSIZE, (soft, hard))
        self.manager.wait("the history to be written again", self._is_written)
        time.sleep(self.night.seconds / 2)

    def _is_written(self) -> bool:
        return _at(self.manager.status(), "history.state") == "ok"

    def missing(self, before: Moment, after: Moment) -> list[str]:
        """It was failing, it says when that ended, and nothing was dropped."""
        found = self.must_log("history not written", before, after)
        found += self.must_log("history written again", before, after)
        if not self.meanwhile["history.state, full"].startswith("failing"):
            found.append("the status did not say that the history fails")
        if after.metric("mpchat_history_dropped_messages_total"):
            found.append("messages are missing in the history")
        return found


class RenewedCertificate(Event):
    """The certificate is renewed, and the server told to reload."""

    name = "certificate renewed"
    metrics = ("mpchat_tls_expiry_timestamp_seconds", "mpchat_changes_total")
    status = ("tls.expires",)

    def happen(self) -> None:
        """Put another certificate into the file."""
        before = self._shown()
        certificate(self.night.folder, self.night.authority, DAYS_OF_NEXT)
        self.manager.reload()
        if self._shown() == before:
            self.wrong.append("new clients are shown the old certificate")
        time.sleep(self.night.seconds)

    def _shown(self) -> bytes:
        context = ssl.create_default_context()
        self.night.authority.configure_trust(context)
        with (
            socket.create_connection(self.manager.address, timeout=PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True) or b""

    def missing(self, before: Moment, after: Moment) -> list[str]:
        """The reload is counted, and the later end of the certificate is told."""
        found = self.wrong + self.must_grow("mpchat_changes_total", 1, before, after)
        longer = (DAYS_OF_NEXT - DAYS_LEFT - 1) * DAY
        return found + self.must_grow("mpchat_tls_expiry_timestamp_seconds", longer, before, after)


class KilledWorkers(Event):
    """Workers are killed, one after the other."""

    name = f"{KILLS} workers killed"
    ends = True
    metrics = ("mpchat_deaths_total", "mpchat_restarts_total", "mpchat_connection_ends_total")
    status = ("workers",)

    def happen(self) -> None:
        """Kill one, and wait until another one serves in its place."""
        for _ in range(KILLS):
            worker = self.night.chooser.choice(self.manager.status()["workers"])
            psutil.Process(worker["pid"]).send_signal(signal.SIGKILL)
            self.manager.wait("the next worker", lambda pid=worker["pid"]: self._is_replaced(pid))  # type: ignore[misc]
            self.manager.remember()
            time.sleep(self.night.seconds / KILLS)

    def _is_replaced(self, pid: int) -> bool:
        workers = self.manager.status()["workers"]
        return all(each["state"] == "RUNNING" and each["pid"] != pid for each in workers)

    def missing(self, before: Moment, after: Moment) -> list[str]:
        """Each death is counted, and each restart."""
        found = self.must_grow("mpchat_deaths_total", KILLS, before, after)
        return found + self.must_grow("mpchat_restarts_total", KILLS, before, after)


class Reload(Event):
    """The server is told to reload, twice."""

    name = "two reloads"
    metrics = ("mpchat_changes_total", "mpchat_moves_total")
    status = ("generation", "last_reload.moved", "last_reload.lost")

    def happen(self) -> None:
        """Reload by signal, as a service manager does."""
        for _ in range(2):
            self.manager.reload()
            time.sleep(self.night.seconds / 2)

    def missing(self, before: Moment, after: Moment) -> list[str]:
        """Both reloads are counted, and the moves."""
        found = self.must_grow("mpchat_changes_total", 2, before, after)
        return found + self.must_grow("mpchat_moves_total", 1, before, after)


class Restart(Event):
    """The service is restarted. The listening socket stays with the manager: nobody is refused."""

    name = "restart"
    ends = True
    metrics = ("mpchat_start_time_seconds", "mpchat_accepts_total")
    status = ("state", "uptime", "connections")

    def happen(self) -> None:
        """Stop it, wait a moment in which clients come, and start it."""
        self.manager.stop()
        time.sleep(1.0)
        self.manager.start()
        time.sleep(self.night.seconds)

    def missing(self, before: Moment, after: Moment) -> list[str]:
        """It is another server, and the old one has said goodbye."""
        if after.metric("mpchat_start_time_seconds") <= before.metric("mpchat_start_time_seconds"):
            return ["the metrics do not show another start"]
        return self.must_log("stopped after", before, after)


EVENTS: tuple[type[Event], ...] = (
    Calm,
    StalledLogReader,
    FullDisk,
    RenewedCertificate,
    KilledWorkers,
    Reload,
    Restart,
    Calm,
)


def _change(name: str, before: Moment, after: Moment) -> str:
    """Return a metric as the table shows it: the growth of a counter, the value of another."""
    was, now = before.metric(name), after.metric(name)
    short = name.removeprefix("mpchat_")
    if name.endswith("_total"):
        return f"{short} +{now - was:g}" if now >= was else f"{short} {now:g} (anew)"
    return f"{short} {now:.0f}" if now == was else f"{short} {was:.0f} → {now:.0f}"


def _most(lines: Counter[str], most: int = 6) -> str:
    """Return the events that came most often."""
    return "\n".join(f"{name} x{count}" for name, count in lines.most_common(most)) or "nothing"


def _at(status: object, path: str) -> object:
    """Return what a status has at a path such as ``history.state``."""
    for name in path.split("."):
        status = status.get(name) if isinstance(status, dict) else None
    if isinstance(status, list):
        return f"{len(status)}, " + ", ".join(f"deaths {each.get('deaths')}" for each in status)
    return f"{status:.0f}" if isinstance(status, float) else status
