"""Snapshot: the hub's state as bytes, and the state that is made of them again. Pure.

``take`` copies in the loop what may change. ``parts`` makes bytes of it in another thread, a small part at a
time. ``restore`` returns a state that does for all entries what the one that was taken does.

A part begins with the number of the format and a checksum. The checksum is over all parts so far, so none can
be missing, damaged or out of place. After that comes, as msgpack, the name of a list and a piece of it; the
lists are the fields of :class:`Lists`. The first part holds :class:`Head`, and the last one says that it is.

It holds the tokens of names, which are secrets. No error shows anything of what is in a snapshot.
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from math import inf
from struct import Struct
from typing import Any, get_type_hints
from zlib import crc32

import msgspec

from mpchat.errors import MpchatError
from mpchat.hub.digest import Digest, Reading
from mpchat.hub.history import Run
from mpchat.hub.limits import Limits
from mpchat.hub.moderation import BANS, MUTES, Moderation
from mpchat.hub.past import Past
from mpchat.hub.saved import (
    SavedClaim,
    SavedClaims,
    SavedMember,
    SavedMembers,
    SavedRoom,
    SavedRooms,
    SavedRule,
    SavedRun,
    SavedSequencer,
    SavedState,
)
from mpchat.hub.state import HubState

# Raised when a reader of the number before would make another state of it.
FORMAT = 1
# Bytes after which a part ends. One value more may stand in it: at most a worker's item, 64 KB.
PART = 192 << 10
_PREFIX = Struct(">HI")
_HEAD, _END = "head", "end"
# The first byte of an array of two values, and of one whose length follows in four bytes.
_PAIR = b"\x92"
_ARRAY = Struct(">BI")
_LONG_ARRAY = 0xDD


class SnapshotError(MpchatError):
    """These bytes are no snapshot that this version of mpchat can read; no state was made of them."""


class Head(msgspec.Struct, frozen=True):
    """All short values. The lists in it are empty: they are in parts of their own."""

    limits: Limits
    epoch: str
    # Earlier epochs, also such as no room has a number in.
    epochs: list[str]
    state: SavedState
    sequencer: SavedSequencer
    rooms: SavedRooms
    # The two checksums of the digest, and the reading that the restored state must give.
    digest: tuple[int, int]
    reading: Reading


class Lists(msgspec.Struct):
    """What may be long, in the order in which it is written."""

    claims: list[SavedClaim] = []
    held: list[tuple[str, str]] = []
    holders: list[str] = []
    freed: list[tuple[str, float, float]] = []
    members: list[SavedMember] = []
    ending: list[SavedMember] = []
    orphans: list[SavedClaim] = []
    expiring: list[tuple[int, float]] = []
    rooms: list[SavedRoom] = []
    # Number of a room, identity and name of a member, in the order of entering.
    inside: list[tuple[int, int, str]] = []
    unswept: list[int] = []
    # Last numbers by the keys of rooms.
    last: list[tuple[str, int]] = []
    notices: list[tuple[float, int]] = []
    left: list[str] = []
    rules: list[SavedRule] = []
    # Epoch, key of a room, and up to which number they agree with this epoch.
    earlier: list[tuple[str, str, int]] = []
    runs: list[SavedRun] = []


class Taken:
    """What a snapshot needs: values that nothing changes any more."""

    def __init__(self, head: Head, lists: dict[str, Iterable[Any]]) -> None:
        """Keep the head, and the lists by their names, which are read once."""
        self.head = head
        self.lists = lists


def take(state: HubState, now: float = -inf) -> Taken:
    """Return what a snapshot needs. Call it in the loop, between two entries; O(members and rooms).

    ``now`` is the time of the last entry (the clock of the entries, seconds), if no later entry is earlier:
    what is over then is left out.
    """
    rooms, members, claims = state.rooms.saved(), state.members.saved(now), state.members.claims.saved()
    own, sequencer, moderation = state.saved(), state.sequencer.saved(), state.moderation.copy()
    past, empty = state.members.past, msgspec.structs.replace
    head = Head(
        state.members.limits,
        past.epoch,
        list(past.earlier),
        empty(own, notices=[]),
        empty(sequencer, left=[]),
        empty(rooms, last={}, unswept=[]),
        (state.digest.numbers, state.digest.texts),
        state.read_digest(),
    )
    inside = [(room.number, room.members.copy()) for room in state.rooms]
    earlier = [(epoch, dict(last)) for epoch, last in past.earlier.items()]
    histories = [(room.number, room.history.runs()) for room in state.rooms]
    return Taken(
        head,
        {
            "claims": claims.claims,
            "held": claims.held,
            "holders": claims.holders,
            "freed": claims.freed,
            "members": members.members,
            "ending": members.ending,
            "orphans": members.orphans,
            "expiring": members.expiring.items(),
            "rooms": [room.saved() for room in state.rooms],
            "inside": _flat(inside),
            "unswept": rooms.unswept,
            "last": rooms.last.items(),
            "notices": own.notices,
            "left": sequencer.left,
            "rules": _rules(moderation),
            "earlier": _flat(earlier),
            "runs": _runs(histories),
        },
    )


def _flat(tables: list[tuple[Any, dict[Any, Any]]]) -> Iterator[tuple[Any, Any, Any]]:
    return ((outer, *item) for outer, table in tables for item in table.items())


def _rules(moderation: Moderation) -> Iterator[SavedRule]:
    return (
        SavedRule(table, key, rule)
        for table in (BANS, MUTES)
        for key, rule in moderation.table(table).items()
    )


def _runs(histories: list[tuple[int, list[Run]]]) -> Iterator[SavedRun]:
    """Yield all runs, and let go of each at once: to free a million in one go takes 20 ms."""
    histories.reverse()
    while histories:
        number, runs = histories.pop()
        runs.reverse()
        while runs:
            run = runs.pop()
            yield SavedRun(number, run.seq, run.count, run.at, run.sender, run.frames, run.taken)


def parts(taken: Taken) -> Iterator[bytes]:
    """Yield the snapshot in parts of about 200 KB. Runs in any thread, once for each ``taken``.

    A part takes one to two milliseconds. A thread that sleeps for 0 s after each lets the loop go on then.
    """
    checksum = 0
    for body in chain(
        _bodies(_HEAD, [taken.head]),
        *(_bodies(name, items) for name, items in taken.lists.items()),
        [_body(_END, 0, b"")],
    ):
        checksum = crc32(body, checksum)
        yield _PREFIX.pack(FORMAT, checksum) + body


def _bodies(name: str, items: Iterable[Any]) -> Iterator[bytes]:
    encode = msgspec.msgpack.Encoder().encode_into
    buffer, count = bytearray(), 0
    for item in items:
        encode(item, buffer, -1)
        count += 1
        if len(buffer) >= PART:
            yield _body(name, count, buffer)
            buffer, count = bytearray(), 0
    if count:
        yield _body(name, count, buffer)


def _body(name: str, count: int, items: bytes | bytearray) -> bytes:
    """Return a name and a list as msgpack; ``items`` are the values one after the other."""
    return b"".join((_PAIR, msgspec.msgpack.encode(name), _ARRAY.pack(_LONG_ARRAY, count), items))


_piece = msgspec.msgpack.Decoder(tuple[str, msgspec.Raw]).decode
_head = msgspec.msgpack.Decoder(list[Head]).decode
_lists = {name: msgspec.msgpack.Decoder(hint).decode for name, hint in get_type_hints(Lists).items()}


def restore(snapshot: Iterable[bytes]) -> HubState:
    """Return the state that was taken, from all parts in their order. Raises :class:`SnapshotError`."""
    try:
        head, lists = _decoded(snapshot)
        state = _made(head, lists)
    except (msgspec.MsgspecError, LookupError, ValueError, TypeError):
        # Without the cause: it may show a value.
        raise SnapshotError("the snapshot cannot be read: its parts do not fit together") from None
    if state.read_digest() != head.reading:
        raise SnapshotError("the snapshot does not give the state that it was taken from")
    return state


def _decoded(snapshot: Iterable[bytes]) -> tuple[Head, Lists]:
    head, lists, ended, checksum = None, Lists(), False, 0
    for number, part in enumerate(snapshot, 1):
        checksum = _check(part, number, checksum)
        if ended:
            raise SnapshotError(f"the snapshot goes on after its end, with part {number}")
        name, items = _piece(memoryview(part)[_PREFIX.size :])
        if name == _HEAD:
            (head,) = _head(items)
        elif name == _END:
            ended = True
        else:
            items = _lists[name](items)
            getattr(lists, name).extend(items)
    if head is None or not ended:
        raise SnapshotError("the snapshot is cut: its last part is missing")
    return head, lists


def _check(part: bytes, number: int, checksum: int) -> int:
    """Return the checksum of the parts up to this one."""
    if len(part) < _PREFIX.size:
        raise SnapshotError(f"part {number} of the snapshot is cut")
    version, expected = _PREFIX.unpack_from(part)
    if version != FORMAT:
        raise SnapshotError(f"the snapshot has format {version}; this version of mpchat reads {FORMAT}")
    checksum = crc32(memoryview(part)[_PREFIX.size :], checksum)
    if checksum != expected:
        raise SnapshotError(f"part {number} of the snapshot is damaged, or one before it is missing")
    return checksum


def _made(head: Head, lists: Lists) -> HubState:
    earlier: dict[str, dict[str, int]] = {epoch: {} for epoch in head.epochs}
    for epoch, key, number in lists.earlier:
        earlier[epoch][key] = number
    moderation = Moderation({}, {})
    for each in lists.rules:
        moderation.put(each.table, each.key, each.rule)
    full = msgspec.structs.replace
    state = HubState(head.limits, Past(head.epoch, earlier=earlier), moderation)
    state.digest = Digest(*head.digest)
    state.put_back(full(head.state, notices=lists.notices))
    state.sequencer.put_back(full(head.sequencer, left=lists.left))
    rooms = full(head.rooms, last=dict(lists.last), unswept=lists.unswept)
    state.rooms.put_back(rooms, lists.rooms)
    _fill(state, lists)
    members = state.members
    members.claims.put_back(SavedClaims(lists.claims, lists.held, lists.holders, lists.freed))
    members.put_back(SavedMembers(lists.members, lists.ending, lists.orphans, dict(lists.expiring)))
    return state


def _fill(state: HubState, lists: Lists) -> None:
    """Put histories and members back into the rooms."""
    rooms = state.rooms.by_number
    # A sender's name is one object for all of its runs, as it was.
    texts: dict[str, str] = {}
    for run in lists.runs:
        room, sender = rooms[run.room], texts.setdefault(run.sender, run.sender)
        room.history.put_back(Run(room.name, run.seq, run.count, run.at, sender, run.frames, run.taken))
    inside: dict[int, dict[int, str]] = {}
    for number, identity, name in lists.inside:
        inside.setdefault(number, {})[identity] = name
    for number, members in inside.items():
        rooms[number].members, rooms[number].names = members, sorted(members.values())
