"""Upkeep: what the supervisor looks after at every beat: hung workers, balance, idle rooms, its own files."""

import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress

from mpchat.control.server import Server
from mpchat.hub.hub import Hub
from mpchat.instance.lock import Guard
from mpchat.ipc import logs
from mpchat.ipc.beat import beat_every
from mpchat.reactor import Reactor
from mpchat.supervisor.change_runner import ChangeRunner
from mpchat.supervisor.hang_watch import end_hung_workers
from mpchat.supervisor.job_thread import JobThread
from mpchat.supervisor.lifecycle import Lifecycle
from mpchat.supervisor.record_keeper import RecordKeeper
from mpchat.supervisor.service_manager import ServiceManager
from mpchat.supervisor.tls_pool import Pools

# Seconds between two looks at the end of the certificate.
LOOK_AT_CERTIFICATE = 86_400.0

log = logging.getLogger("mpchat.supervisor")


class Upkeep:
    """Does its round again and again, by a timer of its own."""

    def __init__(
        self,
        reactor: Reactor,
        lifecycle: Lifecycle,
        pools: Pools,
        changes: ChangeRunner,
        hub: Hub,
        heal_files: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._lifecycle = lifecycle
        self._pools = pools
        self._certificate_looked_at = -LOOK_AT_CERTIFICATE
        self._changes = changes
        self._hub = hub
        self._heal_files = heal_files
        # Told in each round that this loop turns: the loop, and the watch over the workers, are one.
        self.manager = ServiceManager()
        self._last_round = time.monotonic()

    def begin(self) -> None:
        """Do the first round, and the others in time."""
        self._round()

    def _round(self) -> None:
        every = min(beat_every(self._pools.workers.config.hang_timeout), self.manager.beat_every)
        self._reactor.call_later(every, self._round)
        now = time.monotonic()
        # A late round means that this process was asleep: no worker is to blame for that time.
        asleep = max(0.0, now - self._last_round - every)
        self._last_round = now
        end_hung_workers(self._pools.handles, now, asleep)
        self.manager.beat(now)
        if self._lifecycle.running:
            self._changes.watch_balance(now)
            self._pools.tls.tidy()
        self._look_at_certificate(now)
        self._hub.sweep(now)
        self._heal_files()

    def _look_at_certificate(self, now: float) -> None:
        """Warn of a certificate that ends soon, once a day."""
        certificate = self._pools.tls.certificate
        if certificate is None or now - self._certificate_looked_at < LOOK_AT_CERTIFICATE:
            return
        self._certificate_looked_at = now
        if warning := certificate.warning(time.time()):
            log.warning("renewal is due: %s", warning)


class OwnFiles:
    """The lock, the record, the control socket and the log: restored when their files are gone or replaced.

    The disk is looked at in its thread, because a disk that hangs may not even tell whether a file is there.
    """

    def __init__(
        self,
        disk: JobThread,
        guard: Guard,
        record: RecordKeeper,
        control: Server,
        pools: Pools,
        follow_moderation_file: Callable[[], None],
    ) -> None:
        """``follow_moderation_file`` has the file of bans and mutes looked at too."""
        self._disk = disk
        self._guard = guard
        self._record = record
        self._control = control
        self._pools = pools
        self._follow_moderation_file = follow_moderation_file
        self._looking = False
        self._whole = True
        # The log was gone or replaced, and can be opened again.
        self._log_is_due = False

    def look(self) -> None:
        """Begin to look, unless the last look is still under way; restore what is missing."""
        if not self._looking:
            self._looking = True
            self._follow_moderation_file()
            self._disk.do(self._look, self._on_seen)

    def _look(self) -> None:
        path = self._pools.workers.config.log_file
        self._log_is_due = not logs.is_open(path) and _can_be_opened(path)
        self._whole = self._guard.in_place and self._record.in_place and self._control.in_place

    def _on_seen(self, error: Exception | None) -> None:
        self._looking = False
        if self._log_is_due:
            self._log_is_due = False
            self._open_log_again()
        if error is not None or self._whole:
            return
        with suppress(OSError):
            if self._guard.heal():
                log.warning("lock file was gone or replaced, taken again: %s", self._guard.paths.lock)
            self._record.heal()
            self._control.heal()

    def _open_log_again(self) -> None:
        """Open the log here and in all workers; until it is open, lines go where they went before."""
        path = self._pools.workers.config.log_file
        logs.point_later_at(path)
        log.warning("log file was gone or replaced, opened again: %s", path)
        self._pools.pass_on(signal.SIGUSR1)


def _can_be_opened(path: str) -> bool:
    with suppress(OSError):
        logs.check(path)
        return True
    return False
