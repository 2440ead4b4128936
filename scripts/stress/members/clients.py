"""A process of members: they talk, change rooms, are cut off at any moment, and come back.

All that they receive is checked as it comes: each connection by a :class:`Conversation`, all together by the
ledger, the mailbox and the names. A connection that the server ended is reported by its own address; the
parent knows whether its worker was killed.
"""

import json
import random
import socket
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from typing import Any, NamedTuple

from scripts.common.frames import HEADER, framed, split_frames
from scripts.stress.clients import Report
from scripts.stress.members.census import Present
from scripts.stress.members.conversation import Ask, Asked
from scripts.stress.members.ledger import Ledger
from scripts.stress.members.mailbox import Mailbox
from scripts.stress.members.member import (
    MOST_PAD,
    Member,
    MemberConnection,
    MembersPlan,
    RequestLoop,
    room_name,
)
from scripts.stress.members.strangers import Strangers
from scripts.stress.members.texts import NEVER, write

# Connections of one process on their way in at a time.
MAX_OPENING = 32
# Actions that are made up for after a pause, at most: no burst.
MOST_AT_ONCE = 50
# Messages by which a member may pretend to have seen less than it has.
BACK_BY = 400
# The actions of a member, and how often each comes.
ACTIONS = {
    "say": 60,
    "tell": 14,
    "move": 8,
    "who": 5,
    "rooms": 1,
    "ping": 3,
    "pause": 2,
    "impostor": 3,
    "heir": 1,
}
# How a connection is cut, and how often each comes. The fates are decided when the connection begins.
CUTS = {
    "reset": 20,
    "close": 20,
    "half a frame": 10,
    "behind a message": 10,
    "behind a room change": 10,
    "taken over": 5,
}
FATES = {"": 12, "behind the join": 3, "inside the join": 1, "in the past": 3}


class Census(NamedTuple):
    """To the parent: which members are there by their own account, and by the server's answers."""

    round: int
    present: list[Present]
    who: dict[str, set[str]]
    last: Counter[tuple[str, str]]  # of the ledger


@dataclass(frozen=True, kw_only=True)
class MembersReport(Report):
    """To the parent, last."""

    ledger: Ledger
    mailbox: Mailbox


def _drawn(chooser: random.Random, weights: dict[str, int]) -> str:
    return chooser.choices(list(weights), list(weights.values()))[0]


class MembersLoop(RequestLoop):
    """All members of a process."""

    def __init__(self, plan: MembersPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        super().__init__(plan, pipe)
        self.strangers = Strangers(self)
        self._paused: dict[MemberConnection, float] = {}  # connections that do not read, until when
        self._since = self._acted = 0.0
        self._cut_since = 0.0
        self.round = 0
        self._asking: MemberConnection | None = None  # asks for the census
        self._who: dict[str, set[str]] = {}

    def command(self, verb: str, *args: Any) -> None:
        """Obey the parent; ``storm``: all leave at once, ``census ROUND``: say which members are where."""
        super().command(verb, *args)
        now = time.monotonic()
        if verb == "go":
            self._since = now
        elif verb == "phase":
            self._cut_since = now
        elif verb == "storm":
            self._storm()
        elif verb == "quiet":
            self.strangers.dismiss()
        elif verb == "census":
            self.round = args[0]
            self._begin_census()

    def turn(self, now: float) -> None:
        """Let members come back and act, and look after what should have happened."""
        self._come_back(now)
        if self.acting and self.plan.rate:
            self._act(now)
        self._look_after(now)

    # Members come.

    def _come_back(self, now: float) -> None:
        """Connect members that are not there, not too many at a time."""
        opening = sum(not connection.talk.welcomes for connection in self.connections)
        for member in self.members:
            if opening >= MAX_OPENING:
                return
            if member.connection is None and now >= member.back_at:
                opening += self._connect(member, now)

    def _connect(self, member: Member, now: float) -> bool:
        connection = self.open(member.name, member)
        if connection is None:
            return False
        if member.token and self._cuts_due(now):
            connection.fate = _drawn(self.random, FATES)
        stays = member.room and self.random.random() < 0.7
        room = member.room if stays else self.random_room()
        self._join(member, connection, room, past=connection.fate == "in the past")
        if connection.fate == "inside the join":
            connection.out = connection.out[: self.random.randrange(1, len(connection.out))]
            connection.talk.asked.clear()
        elif not connection.fate and self.owns(member, now) and self.random.random() < 0.3:
            # Right behind the join: where that is refused, the message goes to the lobby.
            self.say(member, connection)
        return True

    def _join(self, member: Member, connection: MemberConnection, room: str, past: bool = False) -> None:
        """Ask to be in a room, with or without the number that the member has seen of it."""
        join: dict[str, Any] = {"room": room}
        if not connection.talk.welcomes or self.random.random() < 0.1:
            join["name"] = member.name
            if member.token:
                join["token"] = member.token
        seen, chance = member.seen.get(room), self.random.random()
        if seen is not None and (past or chance < 0.9):
            back = past or chance < 0.1
            join["after"] = max(0, seen - self.random.randrange(BACK_BY)) if back else seen
            join["epoch"] = member.epoch if chance >= 0.01 else "of another server"
        member.room = room
        self.ask_to_join(connection, join, member.said)

    # What comes.

    def received(self, connection: MemberConnection, data: bytes) -> None:
        """Check the objects that came."""
        talk, now = connection.talk, time.time()
        frames, connection.carry = split_frames(connection.carry + data)
        for frame in frames:
            talk.take(json.loads(frame[HEADER:]), now)
            if talk.welcomes != connection.shown or talk.refusal:
                self._answered(connection)
            if connection.closed:
                return
        member = connection.member
        if member is not None and member.connection is connection and talk.welcomes:
            member.seen[talk.room] = talk.position
            if connection.fate == "in the past":
                self.cut(member, connection, connection.fate)

    def _answered(self, connection: MemberConnection) -> None:
        """Check the answer to a join."""
        now = time.monotonic()
        member, talk = connection.member, connection.talk
        if member is None:
            self.strangers.answered(connection, now)
        elif talk.refusal and talk.former:  # a later connection was quicker
            talk.refusal = ""
        elif talk.refusal:
            self._refused(member, connection, now)
        else:
            connection.shown = talk.welcomes
            if not talk.former:
                self._welcomed(member, connection, now)

    def _welcomed(self, member: Member, connection: MemberConnection, now: float) -> None:
        talk, welcome = connection.talk, connection.talk.welcome
        if member.epoch not in ("", welcome["epoch"]):
            self.new_epoch(member, connection)
        member.token, member.epoch = welcome["token"], welcome["epoch"]
        if talk.welcomes == 1:
            self.counts["welcomes"] += 1
            self.names.welcomed(member.name, connection.number, connection.name, now, owner=True)
            member.unsure = False

    def new_epoch(self, member: Member, connection: MemberConnection) -> None:
        """Report another epoch: this server was not started anew."""
        text = f"{connection.name}: the epoch is {connection.talk.welcome['epoch']}, it was {member.epoch}"
        self.findings.note("strange", text)

    def owns(self, member: Member, now: float) -> bool:
        """Say whether the server surely holds the name, and the member knows the token."""
        return bool(member.token) and now - member.had_name < self.plan.hold / 2 and not member.unsure

    def _refused(self, member: Member, connection: MemberConnection, now: float) -> None:
        code, connection.talk.refusal = connection.talk.refusal, ""
        if code != "name_taken":
            self.findings.note("strange", f"{connection.name} was refused: {code}")
        elif self.owns(member, now):
            self.names.refused_to_owner(member.name, connection.name)
        else:  # an earlier join was granted unheard, or the member came too late
            self.counts["renamed"] += 1
            member.names += 1
            member.unsure = False
            member.name, member.token = self.name(member.number, member.names), ""
        self.close(connection)
        self._away(member, now + 0.2)

    def ended(self, connection: MemberConnection, why: str) -> None:
        """Close a connection that the server has ended, and report it where that was not expected."""
        member = connection.member
        own = member is not None and member.connection is connection
        if not connection.address[1]:
            self.counts[why] += 1  # it never began
        elif own or member is None:  # else it was to be ended, or has ended itself
            self.lost_connection(connection, f"{connection.name}: {why}")
        if member is not None and own:
            self._be_unsure(member, connection)
        self.close(connection)
        if member is not None and own:
            self._away(member, 0.0)

    def lost_connection(self, connection: MemberConnection, text: str) -> None:
        """Report a connection that the server has ended."""
        self.died.append((connection.address, text))

    def forget(self, connection: MemberConnection) -> None:
        """Count what a closed connection has received."""
        talk = connection.talk
        talk.ended()
        if talk.name:
            self.names.gone(talk.name, connection.number, time.monotonic())
        for name in ("deliveries", "privates", "recovered", "gaps"):
            self.counts[name] += getattr(talk, name)

    def _away(self, member: Member, back_at: float) -> None:
        now = time.monotonic()
        if member.connection is not None and member.connection.talk.welcomes:
            member.had_name = now
        member.connection = None
        member.back_at = back_at or now + (0.0 if self.random.random() < 0.7 else self.random.random())

    # Cuts.

    def _cuts_due(self, now: float) -> bool:
        if not self.acting or self.phase != "faults":
            return False
        due = (now - self._cut_since) / self.plan.seconds * self.plan.cuts
        return self.counts["cuts"] < min(due, self.plan.cuts)

    def cut(self, member: Member, connection: MemberConnection, how: str) -> None:
        """End a member's connection in some way; the member will be back."""
        self.counts["cuts"] += 1
        self.counts[f"cut: {how}"] += 1
        if how == "half a frame":
            self._send_half(member, connection)
        elif how == "behind a message":
            for _ in range(self.random.randrange(1, 4)):
                self.say(member, connection)
        elif how == "behind a room change":
            self._join(member, connection, self.random_room())
        if connection.closed:
            return
        if how == "taken over":
            self._be_unsure(member, connection)
            connection.talk.give_up()
            # The names find out whether it is still there.
            connection.deadline = time.monotonic() + 2 * self.plan.patience
            member.connection = None
            self._connect(member, time.monotonic())
        else:
            self.hang_up(member, connection, reset=how != "close" and self.random.random() < 0.5)

    def _send_half(self, member: Member, connection: MemberConnection) -> None:
        pad = self.random.randrange(MOST_PAD)
        whole = write(self.plan.run, member.room, member.name, NEVER, pad)
        frame = framed(json.dumps({"message": whole}).encode())
        self.write(connection, frame[: self.random.randrange(1, len(frame))])

    def hang_up(self, member: Member, connection: MemberConnection, reset: bool) -> None:
        """End a connection with a reset, or in order."""
        self._be_unsure(member, connection)
        if reset:
            self.close(connection, reset=True)
        else:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_WR)
            connection.out = b""
            connection.talk.give_up()
            member.unsure = True
            self.names.freed(member.name)
            connection.deadline = time.monotonic() + self.plan.patience
            self.watch(connection)
        self._away(member, 0.0)

    def _storm(self) -> None:
        """Let all members leave in one moment, half of them with a reset."""
        for number, (member, connection) in enumerate(self.live()):
            self.counts["left"] += 1
            self.hang_up(member, connection, reset=number % 2 == 1)

    @staticmethod
    def _be_unsure(member: Member, connection: MemberConnection) -> None:
        """Note where the server may grant a join whose answer the member will never get."""
        if any(asked.kind is Ask.JOIN for asked in connection.talk.asked):
            member.unsure = True

    def writable(self, connection: MemberConnection) -> None:
        """Continue to send; a connection whose fate is its join is cut once that is sent."""
        super().writable(connection)
        member = connection.member
        fated = connection.fate in ("behind the join", "inside the join")
        if fated and member is not None and not connection.out and not connection.closed:
            self.cut(member, connection, connection.fate)

    # What members do.

    def live(self) -> list[tuple[Member, MemberConnection]]:
        """Return the members that can act, each with its connection."""
        pairs = [(member, member.connection) for member in self.members]
        return [(member, connection) for member, connection in pairs if connection and connection.live]

    def _act(self, now: float) -> None:
        due = min(int((now - self._since) * self.plan.rate - self._acted), MOST_AT_ONCE)
        if due == MOST_AT_ONCE:
            self._since, self._acted = now, 0
        else:
            self._acted += due
        live = self.live()
        if not live:
            return
        for _ in range(due):
            member, connection = self.random.choice(live)
            if member.connection is connection and connection.live and not connection.out:
                action = _drawn(self.random, ACTIONS)
                self.counts[action] += 1
                getattr(self, f"_do_{action}")(member, connection)
        for _ in range(MOST_AT_ONCE):
            if not self._cuts_due(now):
                return
            member, connection = self.random.choice(live)
            if member.connection is connection and connection.live:
                self.cut(member, connection, _drawn(self.random, CUTS))

    def _do_say(self, member: Member, connection: MemberConnection) -> None:
        self.say(member, connection)

    def _do_tell(self, member: Member, connection: MemberConnection) -> None:
        to = self.random.choice(self.members).name
        text = write(self.plan.run, f">{to}", member.name, member.told)
        connection.talk.asks(Asked(Ask.TELL, number=member.told, to=to))
        member.told += 1
        self.send(connection, {"message": text, "to": to})

    def _do_move(self, member: Member, connection: MemberConnection) -> None:
        self._join(member, connection, self.random_room())
        if self.random.random() < 0.3:
            self.say(member, connection)

    def _do_who(self, member: Member, connection: MemberConnection) -> None:
        connection.talk.found.clear()
        if self.random.random() < 0.6:  # without a room: its own
            connection.talk.asks(Asked(Ask.WHO, connection.asked_room))
            self.send(connection, {"who": {}})
        else:
            self.ask_who(connection, self.random_room())

    def _do_rooms(self, member: Member, connection: MemberConnection) -> None:
        connection.talk.asks(Asked(Ask.ROOMS))
        self.send(connection, {"rooms": {}})

    def _do_ping(self, member: Member, connection: MemberConnection) -> None:
        number = self.random.randrange(1 << 30)
        connection.talk.pings.append(number)
        self.send(connection, {"ping": number})

    def _do_pause(self, member: Member, connection: MemberConnection) -> None:
        """Read nothing for a while."""
        self._paused[connection] = time.monotonic() + self.random.random()
        connection.reading = False
        self.watch(connection)

    def _do_impostor(self, member: Member, connection: MemberConnection) -> None:
        self.strangers.try_name(member)

    def _do_heir(self, member: Member, connection: MemberConnection) -> None:
        self.strangers.expect_heir()

    # What is looked after.

    def _look_after(self, now: float) -> None:
        for connection in [each for each, until in self._paused.items() if now >= until]:
            del self._paused[connection]
            connection.reading = True
            self.watch(connection)
        self.strangers.look_after(now)
        self._take_pages()
        self.names.overdue(now)
        for connection in [each for each in self.connections if not each.live and now > each.deadline]:
            what = "its end" if connection.talk.former else "an answer to its join"
            text = f"{connection.name} waited {self.plan.patience:.0f} s for {what}"
            self.findings.note("hung", text)
            self.close(connection, reset=True)
            member = connection.member
            if member is not None and member.connection is connection:
                self._away(member, 0.0)

    # The census.

    def _begin_census(self) -> None:
        """Ask for the members of every room."""
        self._who = {}
        self._asking = self.asker()
        if self._asking is not None:
            self._asking.talk.found.clear()
            for number in range(self.plan.rooms):
                self.ask_who(self._asking, room_name(number))

    def asker(self) -> MemberConnection | None:
        """Return the connection that asks for the census; None: there is none."""
        return next((connection for _, connection in self.live()), None)

    def _take_pages(self) -> None:
        """Take the pages that have come; when there are no more, tell the parent."""
        asking = self._asking
        if asking is None:
            return
        if asking.closed:
            self._begin_census()
            return
        found, asking.talk.found = asking.talk.found, []
        for page in found:
            self._who.setdefault(page["room"], set()).update(page["names"])
            if page["next"] is not None:
                self.ask_who(asking, page["room"], page["next"])
        if not asking.talk.asked:
            self._asking = None
            talks = [(member.name, connection.talk) for member, connection in self.live()]
            present = [Present(name, talk.room, talk.position, talk.members) for name, talk in talks]
            self.pipe.send(Census(self.round, present, self._who, self.ledger.last))

    # What the parent is told.

    def joined(self) -> int:
        """Return how many members are there."""
        return len(self.live())

    def complete(self) -> bool:
        """Say whether all cuts were made."""
        return 0 < self.plan.cuts <= self.counts["cuts"]

    def quiet(self, now: float) -> bool:
        """Say whether all members are there and wait for nothing."""
        live = self.live()
        all_quiet = len(live) == len(self.members) and all(each.talk.quiet for _, each in live)
        return all_quiet and len(self.connections) == len(self.members) and not self._paused

    def finish(self) -> None:
        """Close all connections, and report."""
        for connection in list(self.connections):
            if connection.live:
                connection.talk.balance_up()
            self.close(connection)
        super().finish()

    def report(self) -> MembersReport:
        """Return the last report."""
        return MembersReport(
            findings=self.findings,
            counts=self.counts,
            latency=self.latency,
            ledger=self.ledger,
            mailbox=self.mailbox,
        )
