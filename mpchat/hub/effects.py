"""Effects: what follows from an entry, as values: who is sent what, and what is kept. Pure."""

from typing import NamedTuple

import msgspec

from mpchat.hub.history import Run


class Say(NamedTuple):
    """Send frames to all plain clients, one for each of ``messages``."""

    messages: int
    frames: bytes


class SayInRoom(msgspec.Struct, frozen=True, gc=False):
    """Send a run of numbered messages to all members of its room, and write it to the history file.

    Nearly all effects are such ones, and a named tuple takes four times as long to make.
    """

    room: int
    run: Run


class NoticeInRoom(NamedTuple):
    """Send frames to all members of a room: ``notices`` of comers and leavers."""

    room: int
    notices: int
    frames: bytes


class Tell(NamedTuple):
    """Send frames to one connection alone, after everything that was said before."""

    identity: int
    frames: bytes


class Enter(NamedTuple):
    """Send ``frames`` to one connection, then the messages ``first`` to ``last`` of the room's history, then
    all that is said in the room from here on. It hears no other room any more."""

    identity: int
    room: int
    first: int
    last: int
    frames: bytes


class Leave(NamedTuple):
    """Send a connection nothing more of the room that it has entered."""

    identity: int


class End(NamedTuple):
    """Close a connection, and name the reason."""

    identity: int
    reason: str


class Order(NamedTuple):
    """Carry out what an operator asks for from a client, and answer that client.

    ``by`` is the operator's name. ``action`` is kick, ban, unban, mute, unmute or close. ``target`` is a
    name, an address, a network, or a room. ``seconds`` is for how long; None: for good.
    """

    identity: int
    by: str
    action: str
    target: str
    seconds: float | None


class Forget(NamedTuple):
    """A connection has ended."""

    identity: int


class ForgetRoom(NamedTuple):
    """A room is gone; its number is not given again."""

    room: int


class ForgetHistory(NamedTuple):
    """Remove a room's messages up to number ``last`` from the history file."""

    room: str
    last: int


class RoomNumbered(NamedTuple):
    """Write to the history file that a room's numbers begin after ``last``, at ``at`` (seconds since 1970).

    A new room gets no number that a forgotten room had. Clients are told the last number at once.
    """

    room: str
    last: int
    at: float


class Hold(NamedTuple):
    """Let those who speak in a room wait (``held``), or speak again: a host's clients cannot keep up."""

    room: int
    held: bool


class Kick(NamedTuple):
    """Close the connections of a name, an address or a network, on each host its own.

    The host whose operator wants that closes them before it is in the order. A ban (``lasts``) closes those
    too that have come in between.
    """

    target: str
    lasts: bool = False


class Presence(NamedTuple):
    """Tell a watcher that a member has entered a room, or left it for ``reason`` (empty: it has entered).

    ``members`` are in the room now. There is such an effect only while the state is watched.
    """

    room: str
    name: str
    members: int
    reason: str = ""


Effect = (
    Say
    | SayInRoom
    | NoticeInRoom
    | Tell
    | Enter
    | Leave
    | End
    | Order
    | Forget
    | ForgetRoom
    | ForgetHistory
    | RoomNumbered
    | Hold
    | Kick
    | Presence
)
