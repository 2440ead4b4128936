"""Downlink: what comes down from the hub, and who in the worker gets it. A table, kind by kind.

The worker does not acknowledge bytes while it cannot keep up. So the hub waits.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mpchat.ipc.items import Down, Up
from mpchat.ipc.lifetime import Lifetime
from mpchat.ipc.link_watch import LinkWatch
from mpchat.reactor import Reactor
from mpchat.worker.clients import Clients
from mpchat.worker.listing import page_of
from mpchat.worker.migration import Migration
from mpchat.worker.rooms import EASY, Strain
from mpchat.worker.uplink import Uplink

# Seconds after which the hub is told again what has not changed: a worker that says nothing is stuck, and
# nobody waits for it.
TELL_AGAIN = 0.25
# Bytes that are less than the pipe may hold: there is probably nothing more.
LITTLE = 60 << 10
# Bytes that are taken in one turn at most, so that clients have theirs.
MUCH = 1 << 20

log = logging.getLogger("mpchat.worker")


class Downlink:
    """The hub's items on their way to those in the worker that they are for."""

    def __init__(
        self, reactor: Reactor, uplink: Uplink, clients: Clients, migration: Migration, lifetime: Lifetime
    ) -> None:
        """Take what comes over the link that ``uplink`` writes to."""
        # Bytes from the hub that the worker could not keep up with: taken when it has caught up.
        self.held = 0
        # What the hub was told last, and when (seconds, monotonic).
        self._strains: dict[int, Strain] = {}
        self._told_at = 0.0
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
            Down.ANSWERED: clients.answered,
            Down.CHECKING: clients.checking,
            Down.HOLD: self._hold,
            Down.ECHOED: clients.echoed,
            Down.HTTP: clients.web.take_answer,
            Down.TRIP: partial(uplink.say, Up.TRIP),
            Down.LIST: self._list,
        }

    @property
    def judging(self) -> bool:
        """True while somebody waits for clients here: whether they must is to be judged again and again."""
        return bool(self.held or self._strains)

    def serve(self) -> None:
        """Listen."""
        LinkWatch(self._reactor, self._link, self._on_ready)

    def _on_ready(self, mask: int) -> None:
        """Take all that is there: what waits in the pipe delays everybody, what waits in a room only that."""
        taken = 0
        try:
            while True:
                before = self.held
                for item in self._link.receive():
                    self.held += item.cost
                    self.take(item.kind, item.payload)
                taken += self.held - before
                if taken < LITTLE:
                    return
                self._acknowledge()
                if taken > MUCH or not self._link.readable:
                    return
        except (EOFError, OSError):
            self._lifetime.lose_supervisor()

    def take(self, kind: int, payload: Any) -> None:
        """Do what an item says."""
        self._handlers[kind](payload)

    def work(self, now: float) -> None:
        """Tell the hub which rooms are too fast, and let it send more."""
        if self.held or self._strains:
            strains = self._rooms.strains(now)
            if strains != self._strains or now - self._told_at >= TELL_AGAIN:
                self._tell_strains(strains, now)
            if strains:
                self._acknowledge()
            else:  # where no room is too fast, nothing has to be held: no second look at all rooms
                self._take_held()

    def _acknowledge(self) -> None:
        """Let the hub send more, unless there is no room for it here."""
        if self.held and not self._rooms.swamped:
            self._take_held()

    def _take_held(self) -> None:
        self._link.take(self.held)
        self.held = 0

    def _tell_strains(self, strains: dict[int, Strain], now: float) -> None:
        before, self._strains, self._told_at = self._strains, strains, now
        for room in before | strains:
            strain = strains.get(room, EASY)
            self._uplink.say(Up.STRAINED, (room, strain.behind, strain.struggling))

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

    # Whose turn it is.

    def _hold(self, payload: tuple[int, bool]) -> None:
        self._clients.reading.hold(*payload)

    # Ends.

    def _end(self, payload: tuple[int, str]) -> None:
        self._clients.end_by_identity(*payload)

    def _kick(self, payload: tuple[int, str]) -> None:
        request, address = payload
        self._migration.kick(address)
        self._uplink.say(Up.KICKED, (request, self._clients.kick(address)))

    def _list(self, payload: tuple[int, int, int]) -> None:
        question, after, last = payload
        page = page_of(self._clients.by_identity, self._migration.in_transit, after, last)
        self._uplink.say(Up.LISTED, (question, page), len(page))

    def _drain(self, _: None) -> None:
        self._lifetime.draining = True
        self._clients.stop_reading()

    def _close(self, seconds: float) -> None:
        self._lifetime.closing_until = time.monotonic() + seconds
