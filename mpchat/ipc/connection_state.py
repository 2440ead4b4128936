"""Connection state: all that a connection consists of but its socket, as it goes from one worker to another.

One struct. A field that a worker adds to its connections and that must survive a move stands here too; see
``worker.migration``, which exports and imports it. The supervisor passes it on unread.
"""

import msgspec

from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.session import DialectState

# The state of a fresh connection: msgpack's nil.
FRESH = msgspec.Raw(b"\xc0")


class ConnectionState(msgspec.Struct, frozen=True, array_like=True):
    """A moved connection, as of a moment in which no process touches it."""

    # What the client speaks (see ``protocol.dialects``), and how far it has got with that.
    dialect: str
    dialect_state: DialectState
    # The room whose stream the client reads (a number, or that of plain clients, or none; see
    # ``worker.rooms``), and the client's place there.
    room: int
    place: Place
    # What is for this client alone, and whether a part of it has gone.
    outbox: bytes
    outbox_open: bool
    # When the client was last heard, when the frame that it is in the middle of last made progress, and when
    # it was last read from here: seconds on the monotonic clock, which all processes share.
    heard: float
    half_since: float | None
    left_at: float
    # How many messages the client may send at once, as of when it was last heard; below nothing: it waits.
    allowance: float
    # The same for work that is no plain message.
    budget: float = 0.0
    # True when the client has said something; and when it has ended its stream and is to get what it is owed.
    spoke: bool = False
    half_closed: bool = False
    # True while it is not known what the client speaks: it has been sent nothing.
    undecided: bool = False
    # True while a request of the client is with the hub: it is read from again when that is answered.
    asking: bool = False
    # True while the client has not shown who it is, and has to.
    barred: bool = False
    # When the first worker took the connection (seconds, monotonic); 0: not known.
    since: float = 0.0


def encode_state(state: ConnectionState) -> msgspec.Raw:
    """Return the state as it travels."""
    return msgspec.Raw(msgspec.msgpack.encode(state))


def decode_state(state: msgspec.Raw) -> ConnectionState | None:
    """Return what has travelled; None for a fresh connection."""
    return msgspec.msgpack.decode(state, type=ConnectionState | None)
