"""Listing: what a worker tells of its connections when an operator lists them, a page at a time.

Pages go by identity, which a connection keeps for its life, in whatever process it is. A client that stays is
on exactly one page, however often it moves meanwhile.
"""

import msgspec

# Connections in a page. A worker makes one in about a millisecond.
PAGE = 256
# Above every identity.
LAST = (1 << 63) - 1
# Served by a worker. Between two workers. Waits for its first worker.
SERVED, MOVING, WAITING = "served", "moving", "waiting"
# A dialect that is not known yet: the client has sent nothing, or too little.
UNKNOWN = ""


class ListedClient(msgspec.Struct, frozen=True, array_like=True):
    """One connection, as the process that holds it knows it."""

    identity: int
    host: str
    port: int
    # The name of its dialect, or UNKNOWN; and whether a TLS process encrypts it.
    dialect: str = UNKNOWN
    secure: bool = False
    # SERVED, MOVING or WAITING.
    state: str = SERVED
    # When the first worker took it, and when it was last heard (seconds, monotonic); 0: not known.
    since: float = 0.0
    heard: float = 0.0
    # Bytes that it has not been sent yet.
    behind: int = 0
    # True while the client has not shown who it is, and has to.
    barred: bool = False


encode_page = msgspec.msgpack.Encoder().encode
decode_page = msgspec.msgpack.Decoder(list[ListedClient]).decode
