"""A simulated client: it joins, speaks, goes and comes back with what it has, and judges what it hears."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from mpchat.protocol.names import name_key
from mpchat.protocol.requests import Join, ListRooms, ReadHistory, Request, Who
from support.cluster_simulator.worker import Connection

Object = dict[str, Any]


class Numbered(NamedTuple):
    """A message of a room: the chat's epoch, the room's key, and the number."""

    epoch: str
    room: str
    number: int


class Truth:
    """What all clients have heard together, and what is wrong with it."""

    def __init__(self) -> None:
        self.said: dict[Numbered, tuple[str, str]] = {}
        # Messages that their senders have seen come back.
        self.seen: dict[Numbered, str] = {}
        # True once the store has lost something: ranges may be lost, and heard twice.
        self.store_lost = False
        # Chat epochs in which numbers may have been given twice, because the store has lost them.
        self.forked: set[str] = set()
        # True once hosts have begun an epoch because they do not know whether the store has lost something.
        self.doubted = False
        # The keys of rooms that an operator has closed: with them went their history.
        self.closed: set[str] = set()

    def may_lose(self, epoch: str, room: str, first: int, last: int | None) -> bool:
        """Tell whether a client may be told that it has lost these messages of a room.

        A room that was forgotten, with nothing said in it, begins behind the numbers of those that were
        closed meanwhile.
        """
        if self.store_lost or room in self.closed or (last is None and self.doubted):
            return True
        if not self.closed or last is None:
            return False
        return not any(Numbered(epoch, room, number) in self.said for number in range(first, last + 1))


class Client:
    """One user with one name, at most one connection, and a memory."""

    def __init__(self, name: str, truth: Truth, fail: Callable[[str], None]) -> None:
        self.name = name
        self._truth, self._fail = truth, fail
        self.connection: Connection | None = None
        # As the last welcome had it.
        self.token: str | None = None
        self.room = self.epoch = ""
        self.is_in = False
        # The last number heard in the room, and the next; None: not known.
        self.last: int | None = None
        self.next: int | None = None
        # The join that is not answered: room, number to go on after (None: none).
        self.joining: tuple[str, int | None] | None = None
        # Texts ever said; those of this connection that have not come back; texts heard since the last
        # uncertain range.
        self.count = self.connections = 0
        self.pending: list[str] = []
        self.heard: set[str] = set()
        self.last_of: dict[str, int] = {}
        self.asked = 0
        self.answered = 0
        self.errors: list[str] = []
        self.told: list[str] = []
        # Gets all that it hears, where a run is shown.
        self.trace: Callable[[str], None] = lambda text: None

    def fail(self, why: str) -> None:
        self._fail(f"{self.name} in {self.room} after {self.last}: {why}")

    # What it does.

    def connect(self, connection: Connection) -> None:
        self.connection = connection
        self.connections += 1
        self.is_in = False
        self.joining = None
        self.pending.clear()

    def join(self, room: str, *, resume: bool = True) -> None:
        """Join a room; with a name and a token that it has, and after the last message that it has."""
        assert self.connection is not None
        after = self.last if resume and name_key(room) == name_key(self.room) and self.epoch else None
        join = Join(
            name=self.name,
            room=room,
            after=after,
            epoch=self.epoch if after is not None else None,
            token=self.token,
        )
        self.joining = (room, after)
        self.connection.unread.append(Request(join=join))

    def say(self) -> None:
        assert self.connection is not None
        self.count += 1
        text = f"{self.name}-{self.connections}-{self.count}"
        self.pending.append(text)
        self.connection.unread.append(text)

    def tell(self, name: str) -> None:
        assert self.connection is not None
        self.count += 1
        self.connection.unread.append(Request(message=f"{self.name}-{self.count}", to=name))

    def ask(self, choice: int) -> None:
        assert self.connection is not None
        requests = [Request(who=Who()), Request(rooms=ListRooms()), Request(history=ReadHistory())]
        self.connection.unread.append(requests[choice % len(requests)])

    def go(self, reason: str) -> None:
        """Close the connection, or lose it."""
        if self.connection is not None:
            self.connection.gone = reason
        self.connection, self.is_in, self.joining = None, False, None

    # What it hears.

    def lose(self, connection: Connection, reason: str) -> None:
        if connection is self.connection:
            self.connection, self.is_in, self.joining = None, False, None
            self.pending.clear()

    def hear(self, connection: Connection, payload: bytes) -> None:
        if connection is not self.connection or connection.gone:
            return
        got: Object = json.loads(payload)
        self.trace(f"{self.name} > {payload.decode()}")
        if "welcome" in got:
            self._on_welcome(got["welcome"])
        elif "seq" in got:
            self._on_message(got)
        elif "error" in got:
            self._on_error(got["error"])
        elif "message" in got and "to" in got and got["from"] == got["to"]:
            self.told.append(got["message"])

    def _on_welcome(self, welcome: Object) -> None:
        joining, self.joining = self.joining, None
        assert welcome["name"] == self.name
        lost, recovered, same = welcome["lost"], welcome["recovered"], welcome["room"] == self.room
        if lost is not None and not self._truth.may_lose(welcome["epoch"], name_key(welcome["room"]), *lost):
            self.fail(f"lost {lost}, and the store has lost nothing")
        if joining is not None and joining[1] is None:
            self._forget(None)
        elif lost is not None:
            first, last = lost
            if self.last is not None and first > self.last + 1:
                self.fail(f"lost {lost} leaves out some before")
            self._forget(last + 1 if last is not None else None)
        elif recovered and same and self.last is not None and self.last > welcome["seq"]:
            # The number in the welcome tells: there was a loss that no living host has seen.
            if not self._truth.store_lost:
                self.fail(f"the room is only at {welcome['seq']}, and the store has lost nothing")
            self._forget(welcome["seq"] + 1)
        elif recovered and same:
            self.next = self.last + 1 if self.last is not None else None
        elif joining is not None:
            self.fail(f"neither recovered nor lost: {welcome}")
        else:
            self._forget(None)
        self.room, self.epoch, self.token = welcome["room"], welcome["epoch"], welcome["token"]
        self.is_in = True
        if self.last is None and not welcome["seq"]:
            self.last, self.next = 0, 1
        self._first = welcome["seq"] + 1

    def _forget(self, following: int | None) -> None:
        """Forget what was heard: it may come again. ``following`` is the next number, if it is known."""
        self.last, self.next = None, following
        self.heard.clear()
        self.last_of.clear()

    def _on_message(self, got: Object) -> None:
        number, sender, text = got["seq"], got.get("from", ""), got["message"]
        if not self.is_in or got["room"] != self.room:
            self.fail(f"hears {text} of {got['room']}")
            return
        if self.next is not None and number != self.next:
            self.fail(f"hears {number} ({text}) instead of {self.next}")
        elif self.next is None and number > self._first:
            self.fail(f"hears {number} ({text}) first, the room was at {self._first - 1}")
        key = Numbered(self.epoch, name_key(self.room), number)
        said = self._truth.said.setdefault(key, (sender, text))
        if said != (sender, text) and self.epoch not in self._truth.forked:
            self.fail(f"hears {number} as {text} of {sender!r}, others as {self._truth.said[key]}")
        if text in self.heard:
            self.fail(f"hears {text} again, as {number}")
        self.heard.add(text)
        if sender:
            # One sender's words keep their order, those of one connection: an older one may be heard late.
            said_by, _, count = text.rpartition("-")
            if int(count) <= self.last_of.get(said_by, 0):
                self.fail(f"hears {text} after {self.last_of[said_by]} of the same sender")
            self.last_of[said_by] = int(count)
        self.last, self.next = number, number + 1
        if sender == self.name and text in self.pending:
            self._truth.seen[key] = text
            while self.pending and self.pending.pop(0) != text:
                pass

    def _on_error(self, error: Object) -> None:
        code = error["code"]
        self.errors.append(code)
        if code == "muted":
            del self.pending[: error.get("times", 1)]
        if self.joining is not None and not self.is_in and code not in ("muted", "room_closed"):
            self.joining = None
