"""Downlink: what comes down from the hub, and who in the worker gets it. A table, kind by kind.

What clients cannot keep up with is not acknowledged until they have caught up, so that the hub waits.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from mpchat.ipc.items import Down, Up
from mpchat.reactor import READ, Reactor
from mpchat.worker.clients import Clients
from mpchat.worker.lifetime import Lifetime
from mpchat.worker.migration import Migration
from mpchat.worker.uplink import Uplink

log = logging.getLogger("mpchat.worker")


class Downlink:
    """The hub's items on their way to those in the worker that they are for."""

    def __init__(
        self, reactor: Reactor, uplink: Uplink, clients: Clients, migration: Migration, lifetime: Lifetime
    ) -> None:
        """Take what comes over the link that ``uplink`` writes to."""
        # Bytes from the hub that clients could not keep up with: taken when they have caught up.
        self.held = 0
        self._reactor = reactor
        self._link = uplink.link
        self._clients = clients
        self._rooms = clients.rooms
        self._uplink = uplink
        self._migration = migration
        self._lifetime = lifetime
        self._handlers: Mapping[int, Callable[[Any], None]] = {
            Down.BATCH: self._publish_plain,
            Down.ROOMS: self._publish_in_rooms,
            Down.BEGIN: self._rooms.plain.stream.begin,
            Down.FILL: self._fill,
            Down.FILLED: self._be_ready,
            Down.MOVE: migration.prepare,
            Down.SYNCED: self._synced,
            Down.DRAIN: self._drain,
            Down.CLOSE: self._close,
            Down.KICK: self._kick,
            Down.ENTER: self._enter,
            Down.TELL: self._tell,
            Down.END: self._end,
        }

    def serve(self) -> None:
        """Listen."""
        self._reactor.watch(self._link, READ, self._on_ready)

    def _on_ready(self, mask: int) -> None:
        try:
            items = self._link.receive()
        except (EOFError, OSError):
            self._lifetime.lose_supervisor()
            return
        for item in items:
            self.held += item.cost
            self.take(item.kind, item.payload)

    def take(self, kind: int, payload: Any) -> None:
        """Do what an item says."""
        self._handlers[kind](payload)

    def acknowledge(self, now: float) -> None:
        """Let the hub send more, unless most clients here are not able to keep up."""
        if self.held and not self._rooms.must_hold(now, len(self._clients)):
            self._link.take(self.held)
            self.held = 0

    # Messages.

    def _publish_plain(self, payload: tuple[int, bytes]) -> None:
        self._rooms.publish_plain(*payload)

    def _publish_in_rooms(self, payload: tuple[list[tuple[int, int, int]], bytes]) -> None:
        self._rooms.publish(*payload)

    def _enter(self, payload: tuple[tuple[int, int, int, bool], bytes]) -> None:
        self._clients.enter(*payload)

    def _tell(self, payload: tuple[int, bytes]) -> None:
        self._clients.tell(*payload)

    # The stream's past, and moves.

    def _fill(self, payload: tuple[int, bytes]) -> None:
        count, frames = payload
        self._rooms.plain.stream.append(frames, count)

    def _be_ready(self, _: None) -> None:
        self._uplink.say(Up.READY)
        log.info("ready: worker %d", os.getpid())

    def _synced(self, _: None) -> None:
        self._migration.synced()

    # Ends.

    def _end(self, payload: tuple[int, str]) -> None:
        self._clients.end_by_identity(*payload)

    def _kick(self, payload: tuple[int, str]) -> None:
        request, address = payload
        self._uplink.say(Up.KICKED, (request, self._clients.kick(address)))

    def _drain(self, _: None) -> None:
        self._lifetime.draining = True
        self._clients.stop_reading()

    def _close(self, seconds: float) -> None:
        self._lifetime.closing_until = time.monotonic() + seconds
