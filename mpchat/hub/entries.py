"""Entries: everything that changes the hub's state, as values. Pure.

An entry carries all that decides: which client, what it said or asked for, the time, and a random token where
one may be needed. So the same entries in the same order give the same state and the same effects anywhere.
"""

from math import inf

import msgspec

from mpchat.auth.grant import Identity
from mpchat.hub.limits import Limits
from mpchat.protocol.messages import shown_without
from mpchat.protocol.requests import Join, Request

# The sender of a run of messages: the address of a plain client, or the identity of a connection that has
# asked to join.
Sender = int | str


class Posted(msgspec.Struct, frozen=True, array_like=True, tag="posted", gc=False):
    """Messages from a worker's clients.

    ``now`` is the monotonic clock and ``at`` the wall clock, in seconds.
    ``runs`` holds the sender, the number of messages and the bytes of each run; ``frames`` holds all of them,
    one after the other, as plain clients get them.
    """

    now: float
    at: float
    runs: list[tuple[Sender, int, int]]
    frames: bytes


class Denied(msgspec.Struct, frozen=True, array_like=True):
    """Why a proof was not accepted, as the client is told; ``proofs`` as with ``errors.ProtocolError``."""

    code: str
    text: str
    proofs: tuple[str, ...] = ()


class Asked(msgspec.Struct, frozen=True, array_like=True, tag="asked"):
    """A request of one connection.

    ``now`` is the monotonic clock and ``at`` the wall clock, in seconds. ``token`` is random text that proves
    the ownership of a name, should this request take one. What a join showed as its proof is not in
    ``request``: it was checked, and is ``identified`` or ``denied``. Both are None where nothing was checked.
    """

    now: float
    at: float
    identity: int
    address: str
    request: Request
    token: str
    identified: Identity | None = None
    denied: Denied | None = None
    # When it was asked (monotonic clock), if that is earlier than ``now``: its proof was checked meanwhile.
    began: float | None = None

    def __repr__(self) -> str:
        """Return all but the token, which may become that of a name."""
        return shown_without(self, "token")


class Left(msgspec.Struct, frozen=True, array_like=True, tag="left"):
    """Connections that have ended, after the last of their posts: the address of a plain client, or identity,
    address and reason of a connection that had asked to join."""

    now: float
    clients: list[str | tuple[int, str, str]]


class CutOff(msgspec.Struct, frozen=True, array_like=True, tag="cut_off"):
    """The server itself ends a connection that had asked to join."""

    now: float
    identity: int
    reason: str


class WorkerDied(msgspec.Struct, frozen=True, array_like=True, tag="worker_died"):
    """The connections that a worker's death has ended: those that had asked to join, and the count of these
    and of the plain clients that had sent a message."""

    now: float
    identities: list[int]
    speakers: int


class Announced(msgspec.Struct, frozen=True, array_like=True, tag="announced"):
    """One message of the server itself, for every room; ``frame`` is what plain clients get."""

    now: float
    at: float
    frame: bytes


class Spoken(msgspec.Struct, frozen=True, array_like=True, tag="spoken"):
    """A message of a program that is no member, the owner of a token, whose name is ``sender``.

    ``room`` is the number of the room; 0: all rooms. ``frame`` is that of ``{"message": text}``.
    """

    now: float
    at: float
    sender: str
    room: int
    frame: bytes


class Told(msgspec.Struct, frozen=True, array_like=True, tag="told"):
    """A private message of a program that is no member, to the member of the name ``to``."""

    now: float
    at: float
    sender: str
    to: str
    text: str


class Moderated(msgspec.Struct, frozen=True, array_like=True, tag="moderated"):
    """An operator's ban or mute (``table`` is ``bans`` or ``mutes``) of ``target``, a name or an address.

    ``key`` is the text that targets are compared by. ``until`` is on the wall clock; None: for good.
    """

    table: str
    key: str
    target: str
    until: float | None


class Lifted(msgspec.Struct, frozen=True, array_like=True, tag="lifted"):
    """The end of a ban or a mute."""

    table: str
    key: str


class RoomClosed(msgspec.Struct, frozen=True, array_like=True, tag="room_closed"):
    """An operator closes a room that exists, by the number of the room.

    ``now`` is the monotonic clock and ``at`` the wall clock, in seconds.
    """

    now: float
    at: float
    room: int


class Configured(msgspec.Struct, frozen=True, array_like=True, tag="configured"):
    """Other limits hold from here on; ``notices``: tell clients who has gone. ``now``: monotonic clock."""

    limits: Limits
    notices: bool
    now: float = 0.0


class ClockStepped(msgspec.Struct, frozen=True, array_like=True, tag="clock_stepped"):
    """The wall clock was set forward by ``by`` seconds, or back if that is negative."""

    by: float


class NoticesDue(msgspec.Struct, frozen=True, array_like=True, tag="notices_due"):
    """Time has come to tell clients who has come and gone (``now``: monotonic clock)."""

    now: float


class Swept(msgspec.Struct, frozen=True, array_like=True, tag="swept"):
    """Time to forget unused rooms and history that is too old at ``now`` (monotonic clock).

    And rules that have ended at ``at`` (wall clock), and members whose proof has ended, but not those that
    are just showing a fresh one (``renewing``: their identities).
    """

    now: float
    at: float
    renewing: tuple[int, ...] = ()


# With a log that several hosts share.


class Arrived(msgspec.Struct, frozen=True, array_like=True, tag="arrived"):
    """A host takes part from here on.

    ``now`` is the log's clock and ``at`` the wall clock of the log, in seconds. ``epoch`` is the number that
    this registration got. ``info`` is an encoded :class:`~mpchat.hub.hosts.HostInfo`.
    """

    now: float
    at: float
    epoch: int
    info: bytes


class Gone(msgspec.Struct, frozen=True, array_like=True, tag="gone"):
    """A host takes part no longer: it has left, or its lease is over. Its members are lost here."""

    now: float
    at: float
    epoch: int


class HostBeat(msgspec.Struct, frozen=True, array_like=True, tag="host_beat"):
    """The report of a host once a second; old history is forgotten at the same moment.

    ``digest`` is that of its state behind the batch at ``position``. ``clients`` are its connections,
    ``speakers`` those of its plain clients that have said something. ``renewing``: as with :class:`Swept`,
    for members of this host.
    """

    now: float
    at: float
    position: int
    digest: bytes
    clients: int
    speakers: int
    renewing: tuple[int, ...] = ()


class Returned(msgspec.Struct, frozen=True, array_like=True, tag="returned"):
    """A member is entered again by its own host, which was taken for gone or has lost the log.

    ``room`` is the room's name, ``number`` the room that the member hears without a break; 0: it hears none.
    ``after`` is the last message of the room that it has, in the numbers of ``epoch``. ``token`` is that of
    the member's name; ``fresh`` becomes the name's token should nobody have the name any more. ``join`` is
    that of a member which had no answer yet: it gets this one. ``since`` is when the member took its name, on
    the log's clock: a connection that has had the name later is the client's newer one.
    """

    now: float
    at: float
    identity: int
    address: str
    name: str
    token: str
    fresh: str
    room: str
    number: int
    after: int
    epoch: str
    identified: Identity | None = None
    join: Join | None = None
    since: float = inf

    def __repr__(self) -> str:
        """Return all but the tokens."""
        return shown_without(self, "token", "fresh")


class RoomHeld(msgspec.Struct, frozen=True, array_like=True, tag="room_held"):
    """A host's clients cannot keep up with a room (``held``), or can again: the room's senders wait."""

    room: int
    held: bool


class Kicked(msgspec.Struct, frozen=True, array_like=True, tag="kicked"):
    """An operator ends the connections of a name, an address or a network, on whatever host."""

    target: str


Entry = (
    Posted
    | Asked
    | Left
    | CutOff
    | WorkerDied
    | Announced
    | Spoken
    | Told
    | Moderated
    | Lifted
    | RoomClosed
    | Configured
    | ClockStepped
    | NoticesDue
    | Swept
    | Arrived
    | Gone
    | HostBeat
    | Returned
    | RoomHeld
    | Kicked
)


def ended_identities(ended: Left | WorkerDied) -> list[int]:
    """Return the identities of the connections that have ended, without those of plain clients."""
    if isinstance(ended, WorkerDied):
        return ended.identities
    return [client[0] for client in ended.clients if not isinstance(client, str)]
