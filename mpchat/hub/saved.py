"""Saved: the state as plain values, as a snapshot keeps it. Pure.

The classes of the state make them of themselves, and are made from them again. Times are those of the clocks
that the entries carry. A new field gets a default, and ``snapshot.FORMAT`` rises.
"""

import msgspec

from mpchat.auth.grant import Grant
from mpchat.hub.hosts import SavedHosts
from mpchat.hub.moderation import Rule
from mpchat.protocol.messages import shown_without


class SavedClaim(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A claim on a name; see ``claims.Claim``."""

    name: str
    identity: int | None
    token: str
    before: str
    until: float
    proven: bool
    since: float
    looks: tuple[str, ...]

    def __repr__(self) -> str:
        """Return all but the tokens, which prove the ownership of the name."""
        return shown_without(self, "token", "before")


class SavedClaims(msgspec.Struct, frozen=True):
    """All claims, in their order.

    ``held``: key and address of each held name, the longest held first. ``holders``: these addresses, those
    that hold fewest first; among equals that first which loses a name first. ``freed``: key of each name that
    is free again and remembered, when it was last taken, and when it became free.
    """

    claims: list[SavedClaim]
    held: list[tuple[str, str]]
    holders: list[str]
    freed: list[tuple[str, float, float]] = []


class SavedMember(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A member, or a connection that is being ended.

    ``name`` is that of its claim; "": it has none. ``room`` is the number of its room; 0: it is in none.
    ``orphan`` is the place of its claim among those that no name leads to any more; None: its name does.
    """

    identity: int
    address: str
    name: str
    room: int
    grant: Grant | None
    listed: tuple[float, list[str]] | None
    orphan: int | None = None


class SavedMembers(msgspec.Struct, frozen=True):
    """All members, the connections that are being ended, and what they share; see ``members.Members``."""

    members: list[SavedMember]
    ending: list[SavedMember]
    # Claims that only connections in `ending` still know.
    orphans: list[SavedClaim]
    # When proofs end, by identity.
    expiring: dict[int, float]


class SavedRoom(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A room without its history and without its members."""

    number: int
    name: str
    seq: int
    owner: str
    made_at: float | None
    active_at: float | None
    awaited: float
    # The notices that wait: names of comers; names of leavers and reasons; and when the next may go out.
    joined: list[str]
    left: dict[str, str]
    next_notice: float


class SavedRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run of messages in the history of the room of this number."""

    room: int
    seq: int
    count: int
    at: float
    sender: str
    frames: bytes
    taken: float


class SavedRooms(msgspec.Struct, frozen=True):
    """The fields of ``rooms.Rooms`` beside the rooms themselves."""

    floor: int
    last: dict[str, int]
    numbers: int
    # Numbers of rooms, also of such as are forgotten: each has its place in the sweep.
    unswept: list[int]
    # Bytes that all histories may take.
    memory: int


class SavedSequencer(msgspec.Struct, frozen=True):
    """The fields of ``sequencer.Sequencer``."""

    notices: bool
    sequence: int
    left: list[str]
    left_unnamed: int
    next_notice: float


class SavedState(msgspec.Struct, frozen=True):
    """The fields of ``state.HubState`` itself."""

    archived: bool
    messages: int
    # Rooms whose notices wait, and when they are due, as a heap.
    notices: list[tuple[float, int]]
    hosts: SavedHosts = SavedHosts()


class SavedRule(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A ban or a mute: its table, the key that it is found by, and the rule."""

    table: str
    key: str
    rule: Rule
