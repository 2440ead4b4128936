"""What the hub and a worker say to each other over their channel: kinds of items, and what each carries.

Up items come from a worker, down items from the hub. Payloads are plain tuples of numbers, bytes and
addresses, so that unpickling them runs no code of anybody's.

Every count that goes with frames is the number of frames, notices included. A number says how many whole
frames of a stream come before a place; see ``stream_buffer.Place``.
"""

from enum import IntEnum

import msgspec

from mpchat.ipc.channel import FIRST_KIND

# Stands for the plain clients' stream where rooms have numbers.
PLAIN = 0


class Up(IntEnum):
    """Worker to hub."""

    STARTED = FIRST_KIND  # None: its loop turns; it wants what the stream holds
    READY = FIRST_KIND + 1  # None: it has the stream, and can serve
    BEAT = FIRST_KIND + 2  # an encoded Beat: its loop turns
    # ([(who, count, size), …], frames) from its clients; acknowledged when they are in the order. Who: the
    # address, or the identity of one that has asked to be somebody.
    POSTS = FIRST_KIND + 3
    # [address or (identity, address, reason), …] of clients that have gone, after the last of their posts.
    LEFT = FIRST_KIND + 4
    # (number that all leaving clients of the plain stream have got to, identities of the leaving clients that
    # have asked to be somebody); answered when all that was posted before is in the order.
    SYNC = FIRST_KIND + 5
    DRAINED = FIRST_KIND + 6  # None: no post will follow
    KICKED = FIRST_KIND + 7  # (request, how many connections were ended)
    ASK = FIRST_KIND + 8  # ((identity, address), packed request), in order with the client's posts
    MORE = FIRST_KIND + 9  # identity: it has read what it was sent of the past
    FOLLOW = FIRST_KIND + 10  # (identity, room, number): it was moved here, and has got so far
    # (room, whether the worker is behind, how many clients are far behind although they read fast), when that
    # has changed, and several times a second while it is so; room 0 is that of plain clients.
    STRAINED = FIRST_KIND + 11
    # Identities of clients that will say nothing more; answered when all that they said is in the order.
    SAID_ALL = FIRST_KIND + 12
    # How many connections have become speakers (have sent a message or asked to join), less the speakers that
    # have ended. A moved speaker counts with its new worker from the ack on, and not here.
    SPEAKERS = FIRST_KIND + 13
    HTTP = FIRST_KIND + 14  # (number, packed Question): an HTTP request that the supervisor is to answer
    TRIP = FIRST_KIND + 15  # the answer to TRIP, with what that said
    # (question, encoded ListedClients): a page of the worker's connections, the answer to LIST.
    LISTED = FIRST_KIND + 48
    # (identity, address, reason) of a client that was cut off; a few a second at most.
    CUT_OFF = FIRST_KIND + 49


class Down(IntEnum):
    """Hub to worker."""

    BEGIN = FIRST_KIND + 16  # number before the stream's start, from where on the worker is filled
    FILL = FIRST_KIND + 17  # (count, frames) of the stream that are older than this worker
    FILLED = FIRST_KIND + 18  # None: what follows is new
    BATCH = FIRST_KIND + 19  # (count, frames) for everybody; acknowledged when clients can have them
    MOVE = FIRST_KIND + 20  # how many connections to give away; answered with a handoff
    SYNCED = FIRST_KIND + 21  # None: the answer to SYNC
    KICK = FIRST_KIND + 22  # (request, "host:port" or "host")
    DRAIN = FIRST_KIND + 23  # None: read nothing more, post what you have, say DRAINED
    CLOSE = FIRST_KIND + 24  # seconds that clients have to take what they are owed, then end
    ROOMS = FIRST_KIND + 25  # ([(room, count, size), …], frames) for members; acknowledged like a batch
    # ((identity, room, number, live), frames): the client leaves its room, gets these frames, and then the
    # room's frames from that number on, or, if not live, more of the past.
    ENTER = FIRST_KIND + 26
    TELL = FIRST_KIND + 27  # (identity, frames) for one client alone
    END = FIRST_KIND + 28  # (identity, reason): end a connection
    ANSWERED = FIRST_KIND + 29  # identity: its request was served, and what it gets for that has been sent
    HOLD = FIRST_KIND + 30  # (room, held): read nothing from clients that speak in this room; or read again
    # Identities: the answer to SAID_ALL, behind all that follows from what these clients said.
    ECHOED = FIRST_KIND + 31
    CERTIFICATE = FIRST_KIND + 32  # (chain, key), PEM: what a TLS process shows to new clients
    SETTINGS = FIRST_KIND + 33  # a Config as msgpack: what holds for a TLS process from now on
    # (identity, whether a proof is checked, which is charged): the answer takes a while, others go on.
    CHECKING = FIRST_KIND + 34
    HTTP = FIRST_KIND + 35  # (number, packed Answer): the answer to the request of this number
    TRIP = FIRST_KIND + 36  # when it was sent (seconds, monotonic); answered with the same
    # (question, identity, identity): list connections after the first and up to the second; see ipc.listing.
    LIST = FIRST_KIND + 37


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """A worker's figures, for all of its rooms and dialects, counted from its start unless said otherwise."""

    connections: int = 0
    # Messages that clients have sent.
    messages_in: int = 0
    # Messages given to clients, each counted once per client that took it.
    messages_out: int = 0
    # The longest turn of its loop since the last beat, in seconds.
    lag: float = 0.0
    # Clients that are behind their stream now.
    late: int = 0
    # Connections ended by the worker, by reason.
    ended: dict[str, int] = {}
    # CPU time of the process, in seconds.
    cpu: float = 0.0
    # Of a TLS process: clients that have shaken hands, and those that are at it now.
    handshakes: int = 0
    shaking: int = 0
    # Of messages_in, those of clients that have asked for a name.
    from_members: int = 0
    # Bytes read from clients, and bytes that their sockets took.
    bytes_in: int = 0
    bytes_out: int = 0
    # Errors that clients were sent, by code.
    errors: dict[str, int] = {}
    # How often a client was not read from for a while, because it had said or cost too much.
    waits: int = 0
    # Turns of the loop: how many of each class (see ``durations``), and all of them in seconds.
    turns: list[int] = []
    turn_time: float = 0.0
    # Bytes that are kept now: for single clients, and of streams.
    outboxes: int = 0
    streams: int = 0
    # Clients now: that speak WebSocket; HTTP; that have not shown what they speak; without the proof that
    # they need; that have ended their stream.
    websockets: int = 0
    browsers: int = 0
    undecided: int = 0
    barred: int = 0
    half_closed: int = 0
    # Lines of the process's log that were dropped.
    log_dropped: int = 0


encode_beat = msgspec.msgpack.Encoder().encode
decode_beat = msgspec.msgpack.Decoder(Beat).decode
