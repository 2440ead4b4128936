"""Members and their connections, and the part of their loop that opens connections and sends requests."""

import json
import socket
import time
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from typing import Any

from scripts.common.frames import framed
from scripts.stress.clients import ClientLoop, Connection, Plan
from scripts.stress.members.conversation import Ask, Asked, Conversation
from scripts.stress.members.ledger import Ledger
from scripts.stress.members.mailbox import Mailbox
from scripts.stress.members.names import Names
from scripts.stress.members.texts import write

# Bytes of the receive buffer of connections that are to fall behind; one connection of so many is.
TINY_BUFFER = 4096
TINY_EVERY = 3
# Bytes more in a test message, at most.
MOST_PAD = 400


def room_name(number: int) -> str:
    """Return the name of a room; number 0 is where plain clients are."""
    return "lobby" if number == 0 else f"방-{number}" if number % 4 == 1 else f"room-{number}"


@dataclass(frozen=True, kw_only=True)
class MembersPlan(Plan):
    """What one process of members is to do; ``rate`` counts actions."""

    rooms: int
    cuts: int  # connections to cut in the phase with faults
    hold: float  # seconds that the server keeps a name
    patience: float  # seconds for anything that the server owes


class MemberConnection(Connection):
    """One connection: its conversation, and how it is meant to end."""

    def __init__(self, number: int, talk: Conversation) -> None:
        """Open a socket; ``number`` is unique in its process."""
        super().__init__(talk.label)
        self.number = number
        self.talk = talk
        self.member: Member | None = None  # None: a stranger's
        self.fate = ""  # the cut that was decided when it began
        self.shown = 0  # welcomes that were looked at
        self.asked_name = ""
        self.asked_room = ""
        self.asked_at = 0.0
        self.deadline = float("inf")

    @property
    def live(self) -> bool:
        """Whether a member acts on it."""
        return bool(self.talk.welcomes) and not self.talk.former and not self.closed


@dataclass(eq=False)
class Member:
    """What a member takes along from one connection to the next; ``number`` is unique in its process."""

    number: int
    name: str
    names: int = 0  # that it had before
    token: str = ""
    room: str = ""
    epoch: str = ""
    seen: dict[str, int] = field(default_factory=dict)
    said: int = 0
    told: int = 0
    connection: MemberConnection | None = None
    back_at: float = 0.0
    had_name: float = 0.0  # when it surely had its name (seconds, monotonic)
    unsure: bool = False  # it may have a newer token that it never received, or may have released its name


class RequestLoop(ClientLoop[MemberConnection]):
    """Opens connections and sends requests; each is noted in its conversation first."""

    def __init__(self, plan: MembersPlan, pipe: "Pipe[Any, Any]") -> None:
        """Prepare; ``pipe`` leads to the parent."""
        super().__init__(plan, pipe)
        self.plan = plan
        self.ledger = Ledger(plan.run, self.findings)
        self.mailbox = Mailbox(self.findings)
        self.names = Names(self.findings, plan.hold, plan.patience)
        self.members = [Member(number, self.name(number, 0)) for number in range(plan.connections)]
        self._opened = 0

    def name(self, number: int, before: int) -> str:
        """Return the name of a member that had ``before`` names."""
        kind = ("p", "Ü", "누", "p", "p")[number % 5]
        return f"{kind}{self.plan.number}-{number}" + (f".{before}" if before else "")

    def random_room(self) -> str:
        """Return the name of any room."""
        return room_name(self.random.randrange(self.plan.rooms))

    def open(self, label: str, member: Member | None = None) -> MemberConnection | None:
        """Begin a connection, of ``member`` or of a stranger; None when it fails at once."""
        self._opened += 1
        connection = self.new_connection(self._opened, f"{label}/{self._opened}")
        if self._opened % TINY_EVERY == 0:
            connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY_BUFFER)
        connection.deadline = time.monotonic() + self.plan.patience
        if member is not None:
            connection.member, member.connection = member, connection
        self.connect(connection)
        return None if connection.closed else connection

    def new_connection(self, number: int, label: str) -> MemberConnection:
        """Return a connection that is not connected yet, with its conversation."""
        talk = Conversation(label, self.plan.run, self.ledger, self.mailbox, self.findings)
        return MemberConnection(number, talk)

    def send(self, connection: MemberConnection, what: dict[str, Any]) -> None:
        """Send an object."""
        self.write(connection, framed(json.dumps(what, ensure_ascii=False).encode()))

    def ask_to_join(self, connection: MemberConnection, join: dict[str, Any], said: int = 0) -> None:
        """Ask for a room; ``said``: messages that the member has said before."""
        room = connection.asked_room = join.setdefault("room", "lobby")
        connection.asked_at = time.monotonic()
        asked = Asked(Ask.JOIN, room, join.get("after"), join.get("epoch"), said, at=connection.asked_at)
        connection.talk.asks(asked)
        self.send(connection, {"join": join})

    def ask_who(self, connection: MemberConnection, room: str, after: str = "") -> None:
        """Ask which members are in a room, from the name ``after`` on."""
        connection.talk.asks(Asked(Ask.WHO, room, to=after))
        self.send(connection, {"who": {"room": room, **({"after": after} if after else {})}})

    def say(self, member: Member, connection: MemberConnection) -> None:
        """Say the member's next message."""
        pad = self.random.randrange(MOST_PAD)
        text = write(self.plan.run, member.room, member.name, member.said, pad)
        connection.talk.says(member.said)
        member.said += 1
        self.counts["sent"] += 1
        self.send(connection, {"message": text})
