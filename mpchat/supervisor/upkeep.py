"""Upkeep: what the supervisor looks after at every beat: hung workers, balance, idle rooms, its own files."""

import logging
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
from mpchat.supervisor.client_commands import ClientCommands
from mpchat.supervisor.hang_watch import end_hung_workers
from mpchat.supervisor.lifecycle import Lifecycle
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.record_keeper import RecordKeeper

log = logging.getLogger("mpchat.supervisor")


class Upkeep:
    """Does its round again and again, by a timer of its own."""

    def __init__(
        self,
        reactor: Reactor,
        lifecycle: Lifecycle,
        pool: WorkerPool,
        changes: ChangeRunner,
        hub: Hub,
        heal_files: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._lifecycle = lifecycle
        self._pool = pool
        self._changes = changes
        self._hub = hub
        self._heal_files = heal_files
        self._last_round = time.monotonic()

    def begin(self) -> None:
        """Do the first round, and the others in time."""
        self._round()

    def _round(self) -> None:
        every = beat_every(self._pool.config.hang_timeout)
        self._reactor.call_later(every, self._round)
        now = time.monotonic()
        # A late round means that this process was asleep: no worker is to blame for that time.
        asleep = max(0.0, now - self._last_round - every)
        self._last_round = now
        end_hung_workers(self._pool.handles, now, asleep)
        if self._lifecycle.running:
            self._changes.watch_balance(now)
        self._hub.sweep(now)
        self._heal_files()
        logs.heal(self._pool.config.log_file)


def heal_files(guard: Guard, record: RecordKeeper, control: Server, clients: ClientCommands) -> None:
    """Restore the lock, the record, the control socket and the bans if their files are gone."""
    with suppress(OSError):
        if guard.heal():
            log.warning("lock file was gone or replaced, taken again: %s", guard.paths.lock)
        record.heal()
        control.heal()
    clients.follow_moderation_file()
