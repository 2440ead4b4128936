"""Shared hub: a hub whose order is that of several hosts.

What comes from here takes effect when it comes back from the log that the hosts share, at the same point
everywhere. The hub carries out here what follows for connections of this host. Time is that of the log.
"""

import logging
import time
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import msgspec

from mpchat.cluster.store import Place
from mpchat.errors import MpchatError
from mpchat.hub.delivery import NOBODY
from mpchat.hub.effects import Hold, Say
from mpchat.hub.endpoint import Endpoint
from mpchat.hub.entries import (
    Arrived,
    Asked,
    Configured,
    CutOff,
    Entry,
    Gone,
    Kicked,
    Left,
    NoticesDue,
    RoomClosed,
    RoomHeld,
    WorkerDied,
    ended_identities,
)
from mpchat.hub.hosts import global_identity
from mpchat.hub.hub import Hub
from mpchat.hub.limits import Limits
from mpchat.hub.log import Applied, Died, Record, Settled, Then
from mpchat.hub.shared_log import SharedLog
from mpchat.hub.state import HubState
from mpchat.ipc.items import PLAIN, Down
from mpchat.ipc.reasons import INTERNAL_ERROR, SLOW
from mpchat.protocol.messages import message_frame
from mpchat.text import visible

# Seconds by which hosts differ that let time pass, should it be due: as a rule the first one is enough.
TICK_APART = 0.1

log = logging.getLogger("mpchat.hub")


class SharedPast(NamedTuple):
    """The state that the shared log has led to, at a place; ``begun``: this process has begun the log."""

    state: HubState
    place: Place
    begun: bool = False


class SharedHub(Hub):
    """One order for several hosts, as one of them sees it."""

    def __init__(
        self,
        limits: Limits,
        past: SharedPast,
        *,
        notices: bool = True,
        connections: Callable[[], int] = int,
    ) -> None:
        """Begin with no worker, as a host that does not take part yet. See :class:`Hub`."""
        super().__init__(limits, notices=notices, past=past.state, connections=connections)
        self._log = self.log = SharedLog(past.place)
        # Gets what was applied, and the moment (seconds, monotonic).
        self.on_applied: Callable[[Applied, float], None] = _nothing
        # Called before this host's own end is applied.
        self.on_own_end: Callable[[float], None] = _nothing
        # True when nothing more of the order is for clients of this host: it is about to stop.
        self.closed = False
        # How far the log was applied; when that was here, on the log's clock, and on its wall clock.
        self.place = past.place
        self.state.hosts.note(past.place.position, past.place.chain)  # a log begins with a chain of its own
        self._heard = time.monotonic(), past.place.time, past.place.at
        self._ticking = False
        # When clients of this host were last told something that a batch has said (seconds, monotonic).
        self.told_at = 0.0
        # Up to which position plain clients have heard the log, where a snapshot was older.
        self._shown = 0
        # The rooms of which workers were told that their senders wait.
        self._told_held: set[int] = set()
        self._servers[Died] = self._died
        self.delivery.on_hold = self._on_hold
        self.delivery.on_overtaken = self._on_overtaken
        self.moderator.wall = self.wall
        self.take_part(0)

    # Time.

    def local_time(self, moment: float) -> float:
        """Return when a moment of the log's clock is here (seconds, monotonic), about."""
        heard, time_then, _ = self._heard
        return heard + moment - time_then

    def log_time(self, now: float) -> float:
        """Return what the log's clock says at ``now`` (seconds, monotonic), about."""
        heard, time_then, _ = self._heard
        return time_then + now - heard

    def wall(self) -> float:
        """Return the time that is shown and by which bans and mutes end, in seconds since 1970."""
        heard, _, at = self._heard
        return at + time.monotonic() - heard

    def notice_due(self) -> float | None:
        """Return when this host is to let time pass (monotonic clock, seconds), or None."""
        due = self.state.notice_due()
        if due is None or self._ticking:
            return None
        before = sum(epoch < self.state.here for epoch in self.state.hosts.by_epoch)
        return self.local_time(due) + TICK_APART * before

    def _sweep(self, now: float) -> None:
        """Do nothing: hosts let the others forget with their beats."""

    # The order.

    def waits(self, now: float) -> bool:
        """See :meth:`Hub.waits`. A host that is about to stop applies nothing more."""
        return self.closed or super().waits(now)

    def _apply(self, record: Record, now: float) -> None:
        content, endpoint, cost, host = record
        if isinstance(content, Applied):
            self._applied(content, now)
        elif isinstance(content, Settled):
            self._settle_all(content.records, ())
        elif isinstance(content, Then):
            content.call()
        elif endpoint is None or type(content) not in self._servers:
            assert not isinstance(content, tuple), "steps have servers"
            self._apply_entry(content, now, host)
            if endpoint is not None:
                endpoint.take(cost)
        else:
            super()._apply(record, now)

    def _decide(self, entry: Entry, now: float) -> None:
        """Put something of the server itself in order, when it comes back."""
        self._ticking = self._ticking or isinstance(entry, NoticesDue)
        self.log.append(entry, None, 0)

    def _put_in_order(self, entry: Entry, now: float) -> None:
        self._apply_entry(entry, now, self.state.here)

    def _apply_entry(self, entry: Entry, now: float, host: int) -> None:
        """Apply an entry as all hosts do, and carry out here what is for clients of this host."""
        own = host == self.state.here
        if own and isinstance(entry, NoticesDue):
            self._ticking = False
        if self.proofs and own and isinstance(entry, Left | WorkerDied):
            self.proofs.forget(entry)
        before = self._before_end(entry, now) if isinstance(entry, Gone) else ""
        try:
            effects = self.state.apply(entry, host)
        except Exception:  # the same on every host; none may end because of one entry
            log.exception("failed, left out by all hosts: an entry of host %d", host)
            effects = []
            if own and isinstance(entry, Asked):
                self.log.append(CutOff(now, entry.identity, INTERNAL_ERROR), None, 0)
        self.state.digest.add(effects)
        if before:
            self._log_epoch(before)
        elif isinstance(entry, Arrived) and entry.epoch in self.state.hosts.by_epoch:
            host_name = self.state.hosts.by_epoch[entry.epoch].name
            log.info("host is there: %s, epoch %d", visible(host_name), entry.epoch)
        if self.place.position < self._shown:
            effects = [each for each in effects if not isinstance(each, Say)]
        self.delivery.kicks = host != self.state.here
        self.delivery.carry_out(effects)
        while self.delivery.too_slow:
            self.log.append(CutOff(now, self.delivery.too_slow.pop(), SLOW), None, 0)

    def _before_end(self, gone: Gone, now: float) -> str:
        """Look at the end of a host before it is applied; return the chat's epoch."""
        if gone.epoch == self.state.here:
            self.on_own_end(now)
            self.take_part(0)
        else:
            self._log_end(gone)
        return self.state.members.past.epoch

    def _log_epoch(self, before: str) -> None:
        epoch = self.state.members.past.epoch
        if epoch != before:
            log.warning("no host is left that knows whether the log has lost its end: epoch %s begins", epoch)

    def _log_end(self, gone: Gone) -> None:
        host = self.state.hosts.by_epoch.get(gone.epoch)
        if host is None:
            return
        about = visible(host.name), gone.epoch, host.clients
        if gone.now - host.heard >= host.lease:
            log.warning("host gone, its lease is over: %s, epoch %d, %d clients", *about)
        else:
            log.info("host has left: %s, epoch %d, %d clients", *about)

    def _applied(self, applied: Applied, now: float) -> None:
        """Note that a batch ends. Due notices go out on every host at this point."""
        place = applied.place
        due = self.state.notice_due()
        if due is not None and due <= place.time:
            self._apply_entry(NoticesDue(place.time), now, 0)
            self._ticking = False
        if applied.number:
            self.state.hosts.count(applied.epoch, applied.number, applied.total, place.time)
        self.state.hosts.note(place.position, place.chain)
        self.place, self._heard = place, (now, place.time, place.at)
        if self.delivery.has_news:
            self.told_at = now
        self.on_applied(applied, now)

    # Taking part.

    def take_part(self, epoch: int) -> None:
        """Serve the connections of this process as those of a host; 0: as of none."""
        self.state.here = epoch
        self.delivery.base = global_identity(epoch, 0) if epoch else NOBODY
        if epoch:
            for room in self._sender_holds.held:  # of a host that has just come the others know no hold
                self.log.append(RoomHeld(room, True), None, 0)

    def replace_state(
        self, past: SharedPast, number: int, entered: Collection[int], now: float, *, ends_later: bool
    ) -> None:
        """Go on from a snapshot, which has this host's batches up to ``number``; nobody hears a room then.

        The connections in ``entered`` are entered again. ``ends_later``: see :meth:`SharedLog.restart`.
        """
        state, place, _ = past
        self._end_holds()
        same = self.place.generation == place.generation
        self._shown = max(self._shown, self.place.position) if same else 0
        self.delivery.leave_all()
        self.state = self.moderator.state = state
        self.delivery.use_rooms(state.rooms)
        state.hosts.note(place.position, place.chain)
        self.take_part(0)
        self.place, self._heard = place, (now, place.time, place.at)
        self._ticking = False
        self._settle_all(self.log.restart(place, number, ends_later=ends_later), entered)
        for room in self._held:
            self._tell_hold_to_all(room)

    def _settle_all(self, records: list[Record], entered: Collection[int]) -> None:
        """Settle what a snapshot has, but ask again what was not answered here, in its place among steps."""
        ended = {
            identity
            for content, *_ in records
            if isinstance(content, Left | WorkerDied)
            for identity in ended_identities(content)
        }
        again: list[Record] = []
        for record in records:
            content = record.content
            if isinstance(content, Asked) and content.identity not in ended:
                joins, is_in = content.request.join is not None, content.identity in entered
                # A private message has come to its receiver, and a member that is entered again is welcomed.
                if content.request.to is None and not (joins and is_in):
                    again.append(record)
                    continue
            if again and isinstance(content, tuple):
                again.append(record)
            else:
                self._settle(record)
        self.log.put_first(again)

    def _settle(self, record: Record) -> None:
        """Acknowledge what a snapshot has, and that did not come out here."""
        content, endpoint, cost, _ = record
        if isinstance(content, tuple):
            self._apply(record, time.monotonic())
            return
        if isinstance(content, Left | WorkerDied):
            self.proofs.forget(content)
            self.delivery.forget_ended(content)
        if endpoint is not None:
            endpoint.take(cost)
            if isinstance(content, Asked):
                self.proofs.answered(content.identity)

    # Workers.

    def _read_request(self, endpoint: Endpoint, payload: Any, now: float) -> Any:
        read = super()._read_request(endpoint, payload, now)
        if not isinstance(read, CutOff):  # should its worker die, it is known who is lost
            self.delivery.meet(payload[0][0], endpoint)
        return read

    def _serve(self, asked: Asked, endpoint: Endpoint, now: float) -> None:
        """Let a request be served: the setting auth is the same as long as the server runs."""
        self._answer_in_order(asked, endpoint, now)

    def _answered(self, asked: Asked, endpoint: Endpoint) -> None:
        if asked.began is not None:  # its connection may be in transit
            self.proofs.answered(asked.identity)
        else:
            super()._answered(asked, endpoint)

    def _let_join(self, asked: Asked, endpoint: Endpoint, now: float) -> None:
        began = self.log_time(asked.now)
        self.log.append(msgspec.structs.replace(asked, began=began), endpoint, 0)

    def _end_lost(self, endpoint: Endpoint, speakers: int, in_transit: set[int], now: float) -> None:
        """End a dead worker's connections behind what it has still said."""
        self.log.append(Died(speakers, in_transit), endpoint, 0)

    def _died(self, died: Died, endpoint: Endpoint, now: float) -> None:
        super()._end_lost(endpoint, died.speakers, died.in_transit, now)

    # Rooms whose senders wait: they may be with other hosts.

    @property
    def _held(self) -> Collection[int]:
        return self.state.hosts.held

    def _hold_changed(self, room: int) -> None:
        self.log.append(RoomHeld(room, room in self._sender_holds.held), None, 0)

    def _on_overtaken(self, identity: int, room: int, lost: tuple[int, int]) -> bytes:
        return self.state.members.overtaken(self.delivery.base + identity, room, lost)

    def _on_hold(self, hold: Hold) -> None:
        self._tell_hold_to_all(hold.room)

    def _tell_hold(self, endpoint: Endpoint, room: int) -> None:
        (self._told_held.add if room in self._held else self._told_held.discard)(room)
        super()._tell_hold(endpoint, room)

    def _end_holds(self) -> None:
        """Let all senders speak: the rooms may get other numbers."""
        for endpoint in self.delivery.endpoints:
            if endpoint.ready:
                for room in (PLAIN, *self._told_held):
                    endpoint.send(Down.HOLD, (room, False))
        self._told_held.clear()

    # What operators and settings want.

    def say_farewell(self, text: str, now: float) -> None:
        """Say something to all clients of this host, as its last word. It gets no number."""
        frame = message_frame(text)
        self.plain.post((1, frame))
        self.delivery.tell_all(frame)

    def close_room(self, name: str, now: float) -> tuple[str, int]:
        """End a room when that comes back; return its name and how many members it has.

        Raises :class:`MpchatError` when there is no such room, for the lobby, and while members of this host
        are moved.
        """
        room = self._closable(name)
        base = self.delivery.base
        if any(self.delivery.in_transit(each - base) for each in room.members):
            raise MpchatError(f"members of {room.name} are just being moved to other workers; try again")
        self.log.append(RoomClosed(now, 0.0, room.number), None, 0)
        return room.name, len(room.members)

    def _configure(self, limits: Limits, notices: bool, now: float) -> None:
        if differ(limits, notices, self.state):
            self.log.append(Configured(limits, notices, now), None, 0)

    def silence_notices(self, now: float) -> None:
        """Carry out nothing more for clients of this host. Those of others are told what happens."""
        self.closed = True

    def when_ordered(self, call: Callable[[], None]) -> None:
        """Call ``call`` when all that came from here before has its place, and was applied here."""
        self.log.append(Then(call), None, 0)

    def kick_everywhere(self, target: str) -> None:
        """Have the other hosts close the connections of a name, an address or a network too."""
        self.log.append(Kicked(target), None, 0)


def differ(limits: Limits, notices: bool, state: HubState) -> bool:
    """Tell whether limits that all hosts keep to are others than the state has."""
    shared = limits._replace(lag=state.limits.lag, answers=state.limits.answers)
    return (shared, notices) != (state.limits, state.sequencer.notices)


def _nothing(*args: object) -> None:
    pass
