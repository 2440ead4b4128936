"""State: all that the hub knows and decides, as a machine: ``apply(entry)`` returns the effects. Pure.

It knows no clock, no randomness and no I/O: entries carry the time and what is random. The same entries in
the same order give the same state and the same effects in every process, however they are read in batches.
"""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from mpchat.hub.digest import Digest, Reading
from mpchat.hub.effects import Effect, Forget, ForgetRoom, Hold, Kick, NoticeInRoom, Say, SayInRoom, Tell
from mpchat.hub.entries import (
    Announced,
    Arrived,
    Asked,
    ClockStepped,
    Configured,
    CutOff,
    Entry,
    Gone,
    HostBeat,
    Kicked,
    Left,
    Lifted,
    Moderated,
    NoticesDue,
    Posted,
    Returned,
    RoomClosed,
    RoomHeld,
    Sender,
    Spoken,
    Swept,
    Told,
    WorkerDied,
)
from mpchat.hub.hosts import HOST_BITS, Hosts, global_identity, host_of
from mpchat.hub.limits import Limits
from mpchat.hub.members import MUTED, Member, Members
from mpchat.hub.moderation import BANS, Moderation, Rule
from mpchat.hub.past import Past
from mpchat.hub.rooms import Room, Rooms, Times
from mpchat.hub.saved import SavedState
from mpchat.hub.sequencer import Sequencer
from mpchat.ipc.reasons import EXPIRED as TOKEN_EXPIRED
from mpchat.ipc.reasons import LOST
from mpchat.protocol.messages import counted_error_frame, error_frame, message_frame
from mpchat.protocol.requests import as_said_by, private_frame
from mpchat.protocol.session import MOST_TIMES
from mpchat.protocol.sign_in import EXPIRED, OVER


class HubState:
    """Plain clients' order, members, rooms and moderation."""

    def __init__(
        self,
        limits: Limits,
        past: Past,
        moderation: Moderation,
        *,
        notices: bool = True,
        archived: bool = True,
    ) -> None:
        """Begin where ``past`` stopped; of ``moderation`` the state takes possession.

        ``archived``: there is an effect also for messages in rooms without members, for the history file.
        """
        self._archived = archived
        # Over the effects, for hosts that share a log: they add them, and compare; see `digest.Digest`.
        self.digest = Digest()
        # Messages that were put in order since the start, each counted once.
        self.messages = 0
        self.moderation = moderation
        self.sequencer = Sequencer(notices=notices)
        self.rooms = Rooms(limits)
        # The hosts that share the log; none without such a log. This process's own among them; 0: none is.
        self.hosts = Hosts()
        self.here = 0
        self._effects: list[Effect] = []
        numbers = past._replace(runs=())
        self.members = Members(limits, self.rooms, moderation, numbers, self._effects.append)
        self.rooms.restore(past.last, past.floor, past.runs)
        # Rooms whose notices wait, by when they are due; and the same rooms, because each waits here once.
        self._notices: list[tuple[float, int]] = []
        self._waiting: set[int] = set()
        self._appliers: dict[type, Callable[[Any], None]] = {
            Posted: self._posted,
            Asked: self._asked,
            Left: self._left,
            CutOff: self._cut_off,
            WorkerDied: self._worker_died,
            Announced: self._announced,
            Spoken: self._spoken,
            Told: self._told,
            Moderated: self._moderated,
            Lifted: self._lifted,
            RoomClosed: self._room_closed,
            Configured: self._configured,
            ClockStepped: self._clock_stepped,
            NoticesDue: self._notices_due,
            Swept: self._swept,
            Arrived: self._arrived,
            Gone: self._host_gone,
            HostBeat: self._host_beat,
            Returned: self._returned,
            RoomHeld: self._room_held,
            Kicked: self._kicked,
        }

    def apply(self, entry: Entry, host: int = 0) -> list[Effect]:
        """Change the state; return what follows, in order.

        ``host`` is the epoch of the host whose entry it is; 0: there is only one. Identities in entries are
        those of the host, identities in effects are :func:`~mpchat.hub.hosts.global_identity`.
        """
        self.members.base = host << HOST_BITS
        try:
            self._appliers[type(entry)](entry)
        except Exception:
            self._effects.clear()  # nobody carries out a half of what an entry causes
            raise
        if self.members.stirred:
            self._wait_for_notices()
        if self.members.emptied:
            self._forget_emptied()
        if self.rooms.memory.is_over:
            self.rooms.keep_to_memory()
        effects = self._effects.copy()
        self._effects.clear()
        return effects

    @property
    def limits(self) -> Limits:
        """The limits that hold."""
        return self.members.limits

    def member_here(self, identity: int) -> Member | None:
        """Return the member that a connection of this process is."""
        return self.members.by_identity.get(global_identity(self.here, identity))

    def is_here(self, member: Member) -> bool:
        """Tell whether a member is connected to this process."""
        return host_of(member.identity) == self.here

    def read_digest(self) -> Reading:
        """Return the digest of now with the totals of now. What adds to the digest is the caller of apply."""
        return Reading(
            self.digest.value,
            len(self.members.by_identity),
            len(self.rooms),
            self.members.claims.held,
            self.rooms.memory.used,
            self.messages,
            self.sequencer.sequence,
        )

    def saved(self) -> SavedState:
        """Return as values what is the state's own, without its parts. Call it between two entries."""
        return SavedState(self._archived, self.messages, self._notices.copy(), self.hosts.saved())

    def put_back(self, saved: SavedState) -> None:
        """Go on from what was saved."""
        self._archived, self.messages, self._notices = saved.archived, saved.messages, saved.notices
        self._waiting = {number for _, number in saved.notices}
        self.hosts.put_back(saved.hosts)

    def notice_due(self) -> float | None:
        """Return when :class:`NoticesDue` is to be applied (monotonic, seconds); None: nothing waits."""
        due = self.sequencer.notice_due()
        if self._notices and (due is None or self._notices[0][0] < due):
            return self._notices[0][0]
        return due

    def _wait_for_notices(self) -> None:
        stirred, self.members.stirred = self.members.stirred, {}
        for room in stirred:
            due = room.notice_due()
            if due is not None and room.number not in self._waiting:
                self._waiting.add(room.number)
                heappush(self._notices, (due, room.number))

    def _forget_emptied(self) -> None:
        """Forget rooms that were emptied and are unused.

        The entry may have filled one of them again; and a sweep may have forgotten it already.
        """
        emptied, self.members.emptied = self.members.emptied, {}
        for room, now in emptied.items():
            if room.number in self.rooms.by_number and self.rooms.is_unused(room, now):
                self.rooms.forget(room)
                self._effects.append(ForgetRoom(room.number))

    # Messages.

    def _posted(self, entry: Posted) -> None:
        """Number messages of plain clients and members; each run in the room of its sender."""
        times, frames, position = (entry.now, entry.at), entry.frames, 0
        if self.members.by_identity or self.members.limits.closed or not _all_plain(entry):
            for sender, count, size in entry.runs:
                self._said(sender, count, frames[position : position + size], times)
                position += size
            return
        # As long as no member is there, plain clients get everything in one piece.
        lobby, total = self.rooms.lobby, 0
        for sender, count, size in entry.runs:
            said = frames[position : position + size]
            self._say_in_room(lobby, sender, count, said, times)  # type: ignore[arg-type]
            position += size
            total += count
        self.messages += total
        self._say(total, frames)

    def _said(self, sender: Sender, count: int, said: bytes, times: Times) -> None:
        """Number a run of one sender's messages."""
        closed = self.members.limits.closed  # then workers refuse what clients without a proof say
        if isinstance(sender, str):
            if closed:
                return
            self._say(count, said)
            self._say_in_room(self.rooms.lobby, sender, count, said, times)
        elif (member := self.members.by_identity.get(self.members.base + sender)) is None:
            return  # the connection was replaced and is being ended
        elif member.room is None:
            if closed:
                return
            self._say(count, said)
            self._say_in_room(self.rooms.lobby, member.address, count, said, times)
        elif self.moderation.mutes and self.members.is_muted(member, times[1]):
            self._refuse(member, count)
            return
        else:
            self._say_in_room(member.room, member.name, count, said, times)
            if member.room is self.rooms.lobby:
                self._say(count, as_said_by(member.name, said))
        self.messages += count

    def _refuse(self, member: Member, count: int) -> None:
        """Tell a muted member that so many messages were not said, as a session counts the same error."""
        error = error_frame("muted", MUTED)
        while count > 0:
            times = min(count, MOST_TIMES)
            self._effects.append(Tell(member.identity, counted_error_frame(error, times)))
            count -= times

    def _say(self, count: int, frames: bytes) -> None:
        """Say something to plain clients; in a closed chat there are none that may hear it."""
        if self.members.limits.closed:
            return
        self.sequencer.number(count)
        self._effects.append(Say(count, frames))

    def _say_in_room(self, room: Room, sender: str, count: int, frames: bytes, times: Times) -> None:
        run = room.post(sender, count, frames, times, self.rooms.kept)
        if room.members or self._archived or self.members.watched:
            self._effects.append(SayInRoom(room.number, run))

    def _announced(self, entry: Announced) -> None:
        self.messages += 1
        self._say(1, entry.frame)
        for room in self.rooms:
            if room.members:
                self._say_in_room(room, "", 1, entry.frame, (entry.now, entry.at))

    def _spoken(self, entry: Spoken) -> None:
        lobby = self.rooms.lobby
        if entry.room:
            room = self.rooms.by_number.get(entry.room)
            rooms = [room] if room is not None else []  # it has ended meanwhile
        else:
            rooms = [each for each in self.rooms if each.members or each is lobby]
        self.messages += bool(rooms)
        for room in rooms:
            self._say_in_room(room, entry.sender, 1, entry.frame, (entry.now, entry.at))
        if lobby in rooms:
            self._say(1, as_said_by(entry.sender, entry.frame))

    def _told(self, entry: Told) -> None:
        member = self.members.named(entry.to)
        if member is not None and member.room is not None:
            frames = private_frame(entry.text, entry.sender, member.name, entry.at)
            self._effects.append(Tell(member.identity, frames))

    # Members.

    def _asked(self, entry: Asked) -> None:
        if self.hosts.unproven and entry.request.join is not None:
            self.hosts.doubt(self.members.base + entry.identity, entry.request.join)
        self.members.ask(entry)

    def _left(self, entry: Left) -> None:
        for client in entry.clients:
            if isinstance(client, str):
                self.sequencer.leave([client])
            else:
                identity, address, reason = client
                identity += self.members.base
                self._gone(identity, address, reason, entry.now)
                self._effects.append(Forget(identity))

    def _gone(self, identity: int, address: str, reason: str, now: float) -> Member | None:
        """Forget a connection that had asked to join; tell plain clients, if they could hear it."""
        member = self.members.by_identity.get(identity)
        if member is None:
            heard = identity not in self.members.ending  # else it had a name, and its leaving was told
        else:
            heard = member.room is None or member.room is self.rooms.lobby
        if heard:
            self.sequencer.leave([member.name if member is not None and member.name else address])
        return self.members.gone(identity, reason, now)

    def _cut_off(self, entry: CutOff) -> None:
        member = self.members.by_identity.get(self.members.base + entry.identity)
        if member is not None:
            self._gone(member.identity, member.address, entry.reason, entry.now)
            self.members.end(member, entry.reason)

    def _worker_died(self, entry: WorkerDied) -> None:
        self._lose([self.members.base + each for each in entry.identities], entry.speakers, entry.now)

    def _lose(self, identities: list[int], speakers: int, now: float) -> None:
        """Forget connections whose process or host is gone, ``speakers`` of whom plain clients could hear."""
        for identity in identities:
            self.members.gone(identity, LOST, now)
            self._effects.append(Forget(identity))
        if speakers:
            self.sequencer.leave([], speakers)

    # Operators and time.

    def _moderated(self, entry: Moderated) -> None:
        self.moderation.put(entry.table, entry.key, Rule(entry.target, entry.until))
        if entry.table == BANS:
            self._effects.append(Kick(entry.target, lasts=True))

    def _lifted(self, entry: Lifted) -> None:
        self.moderation.put(entry.table, entry.key, None)

    def _clock_stepped(self, entry: ClockStepped) -> None:
        self.moderation.shift(entry.by)

    def _room_closed(self, entry: RoomClosed) -> None:
        room = self.rooms.by_number.get(entry.room)
        if room is not None and room is not self.rooms.lobby:
            self.members.close(room, entry.now, entry.at)

    def _configured(self, entry: Configured) -> None:
        closed = entry.limits.closed and not self.members.limits.closed
        self.members.limits = entry.limits
        if closed:
            self.members.dismiss_unproven(entry.now)
        self.rooms.change_limits(entry.limits)
        self.sequencer.notices = entry.notices

    def _notices_due(self, entry: NoticesDue) -> None:
        text = self.sequencer.take_notice(entry.now)
        if text is not None:
            self.messages += 1
            self._say(1, message_frame(text))
        while self._notices and self._notices[0][0] <= entry.now:
            number = heappop(self._notices)[1]
            self._waiting.remove(number)
            room = self.rooms.by_number.get(number)
            if room is None:
                continue
            frames = room.take_notices(entry.now)
            if frames:
                self._effects.append(NoticeInRoom(number, len(frames), b"".join(frames)))
            elif room.notice_due() is not None:
                self.members.stirred[room] = None

    def _swept(self, entry: Swept) -> None:
        self._end_expired(entry)
        self._forget_unused(entry.now, entry.at)

    def _end_expired(self, entry: Swept | HostBeat) -> None:
        for member in self.members.expired(entry.now, entry.renewing):
            self._effects.append(Tell(member.identity, error_frame(EXPIRED, OVER)))
            self._gone(member.identity, member.address, TOKEN_EXPIRED, entry.now)
            self.members.end(member, TOKEN_EXPIRED)

    def _forget_unused(self, now: float, at: float) -> None:
        self.moderation.forget_expired(at)
        for room in self.rooms.sweep(now):
            self._effects.append(ForgetRoom(room.number))

    # Hosts.

    def _arrived(self, entry: Arrived) -> None:
        if not self.hosts.arrive(entry, self._last_numbers):
            self._begin_epoch(self._next_epoch(entry.epoch, entry.at), self._last_numbers())

    def _next_epoch(self, host: int, at: float) -> str:
        first = self.members.past.epoch.partition(".")[0]
        return f"{first}.{host:x}.{round(at * 1000):x}"

    def _last_numbers(self) -> dict[str, int]:
        return {key: room.seq for key, room in self.rooms.by_key.items()}

    def _begin_epoch(self, epoch: str, last: dict[str, int]) -> None:
        self.members.past = self.members.past.followed_by(epoch, last)

    def _host_gone(self, entry: Gone) -> None:
        """Free the places of a host's members, all at this point. Their names are held."""
        host = self.hosts.forget(entry.epoch)
        members = self.members
        members.base = global_identity(entry.epoch, 0)
        lost = [each for each in members.by_identity if host_of(each) == entry.epoch]
        self._lose(lost, host.speakers if host else 0, entry.now)
        for identity in [each for each in members.ending if host_of(each) == entry.epoch]:
            del members.ending[identity]
        for number in self.hosts.let_go(entry.epoch):
            self._effects.append(Hold(number, held=False))
        if self.hosts.is_doubtful:
            # All hosts are dead that were there when the first of those came that are there now.
            epoch = self._next_epoch(entry.epoch, entry.at)
            self._begin_epoch(epoch, self.hosts.doubted)
            members.tell_of_new_epoch(self.hosts.doubted, self.hosts.suspects)
            self.hosts.believe()

    def _host_beat(self, entry: HostBeat) -> None:
        epoch = host_of(self.members.base)
        self.hosts.beat(epoch, entry)
        self._end_expired(entry)
        if epoch == self.hosts.leader:  # once for all hosts
            self._forget_unused(entry.now, entry.at)

    def _returned(self, entry: Returned) -> None:
        self.members.come_back(entry)

    def _room_held(self, entry: RoomHeld) -> None:
        if self.hosts.hold(host_of(self.members.base), entry.room, held=entry.held):
            self._effects.append(Hold(entry.room, held=entry.held))

    def _kicked(self, entry: Kicked) -> None:
        self._effects.append(Kick(entry.target))

    def begin_anew(self, epoch: str, generation: str, now: float, *, is_known: bool = True) -> None:
        """Begin a new log from what is known here, without any host: all enter their members again.

        ``epoch`` is the chat's new one. What has a number keeps it. ``generation`` is that of the lost log.
        ``is_known``: whether a number of the epoch before stands for one message only.
        """
        before, last = self.members.past.epoch, self.hosts.doubted or self._last_numbers()
        self.hosts.believe()
        for host in sorted(self.hosts.by_epoch):
            self.apply(Gone(now, 0.0, host))
        self.hosts.begin_anew(generation)
        self._begin_epoch(epoch, last)
        if not is_known:
            self.members.past = self.members.past.without(before)
        numbers = self.rooms.renumber()
        self._notices = [(due, numbers[number]) for due, number in self._notices if number in numbers]
        self._waiting = {number for _, number in self._notices}


def _all_plain(entry: Posted) -> bool:
    return all(isinstance(sender, str) for sender, _, _ in entry.runs)
