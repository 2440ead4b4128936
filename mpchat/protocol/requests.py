"""Requests of members, their answers, and the numbered messages that members get.

A member's frame is made of a plain client's frame by cutting and joining bytes: this program has written the
JSON of both, so the position of each part is known.
"""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Annotated, Any

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import HEADER_SIZE, encode_frame
from mpchat.protocol.messages import (
    LONGEST_SANCTION,
    MEMBER,
    Moderated,
    Welcome,
    shown_without,
    where_not_utf8,
)

LOBBY = "lobby"
# The range of a message's number. Without it a frame could hold an integer of more than 4300 digits, which
# Python refuses to print.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# Names that a notice about entering or leaving members holds; the others are only counted.
NAMED_IN_NOTICE = 8
# Messages that one request for history may ask for.
MOST_HISTORY = 100
# Characters of what a join may show. The server's own tokens and epochs have some 16. A password or a secret
# is normalised, which takes seconds for 30 000 hostile marks. A JWT has a few hundred.
LONGEST_TOKEN = 256
LONGEST_PASSWORD = 1024
LONGEST_JWT = 8 << 10
# Seconds that a ban or a mute may last.
Duration = Annotated[float, msgspec.Meta(ge=1, le=LONGEST_SANCTION)]


class Join(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A join: the wanted name and room; ``after`` and ``epoch`` name the last message seen in that room.

    ``token`` is from an earlier welcome. ``password``, ``jwt`` and ``secret`` prove the client's
    identity; a client shows at most one of these three.
    """

    name: str | None = None
    room: str | None = None
    after: Number | None = None
    epoch: Annotated[str, msgspec.Meta(max_length=LONGEST_TOKEN)] | None = None
    token: Annotated[str, msgspec.Meta(max_length=LONGEST_TOKEN)] | None = None
    password: Annotated[str, msgspec.Meta(max_length=LONGEST_PASSWORD)] | None = None
    jwt: Annotated[str, msgspec.Meta(max_length=LONGEST_JWT)] | None = None
    secret: Annotated[str, msgspec.Meta(max_length=LONGEST_PASSWORD)] | None = None

    def __repr__(self) -> str:
        """Return all fields, but no proof: a request may stand in a traceback or in a log."""
        return shown_without(self, "token", "password", "jwt", "secret")


class Who(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A question for the members of a room whose names follow ``after``."""

    room: str | None = None
    after: str | None = None


class ListRooms(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A question for the rooms whose names follow ``after``."""

    after: str | None = None


class ReadHistory(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A question for the newest messages of the member's room with numbers below ``before``.

    ``before`` is None for the newest of all. The hub has its own ``limit`` where that is None.
    """

    before: Number | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_HISTORY)] | None = None


class Target(msgspec.Struct, frozen=True, gc=False):
    """The name, address or network that an operator's kick, unban or unmute is for."""

    name: str


class Sanction(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A ban or a mute of a name, an address or a network, for so many seconds; None: for good."""

    name: str
    seconds: Duration | None = msgspec.field(default=None, name="for")


class CloseRoom(msgspec.Struct, frozen=True, gc=False):
    """A room that an operator closes."""

    room: str


class Request(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Any payload of a client but a message to its room: one field is set."""

    join: Join | None = None
    message: str | None = None
    to: str | None = None
    who: Who | None = None
    rooms: ListRooms | None = None
    history: ReadHistory | None = None
    ping: msgspec.Raw = msgspec.Raw()
    kick: Target | None = None
    ban: Sanction | None = None
    unban: Target | None = None
    mute: Sanction | None = None
    unmute: Target | None = None
    close: CloseRoom | None = None

    @property
    def operators(self) -> Target | Sanction | CloseRoom | None:
        """The request that only an operator may send, None for any other."""
        return self.kick or self.ban or self.unban or self.mute or self.unmute or self.close


# Keys of the requests that only an operator may send.
OPERATORS_REQUESTS = ("kick", "ban", "unban", "mute", "unmute", "close")
# Keys that make an object a request. An object with "message" is a message, unless it also has "to".
_REQUESTS = ("join", "who", "rooms", "history", "ping", *OPERATORS_REQUESTS)

_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(Request).decode

# Between worker and hub, which is no client's JSON: it was checked when it was decoded.
pack_request = msgspec.msgpack.Encoder().encode
unpack_request = msgspec.msgpack.Decoder(Request).decode
# How a packed request for history, and for nothing else, begins: all but the last byte, an empty object.
_PACKED_HISTORY = pack_request(Request(history=ReadHistory()))[:-1]


def is_for_history(packed: bytes) -> bool:
    """Tell whether a packed request is one for history, which costs more than a page of names."""
    return packed.startswith(_PACKED_HISTORY)


def decode_request(payload: bytes) -> Request | None:
    """Decode a payload; None: it is no request, but a message or nonsense.

    Raises :class:`ProtocolError` for a wrong request; the text says what is wrong with it. A key that is null
    counts as missing: many JSON libraries write all fields. But a ping may be null.
    """
    if b'"' not in payload:  # an object without a key: what is nonsense is mostly found out here
        return None
    try:
        request = _decode_request(payload)
        payload.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not _looks_like_request(payload):
            return None
        if where := where_not_utf8(payload, error):
            raise ProtocolError("not_utf8", where) from None
        raise ProtocolError("bad_request", f"not understood: {error}") from None
    if request.message is not None:
        return request if request.to is not None else None
    asked = request.join or request.who or request.rooms or request.history or request.operators
    if asked is None and not bytes(request.ping):
        return None
    if request.to is not None:
        raise ProtocolError("bad_request", "a private message needs both message and to")
    return request


def _looks_like_request(payload: bytes) -> bool:
    """Tell whether a payload with a mistake was to be a request: a wrong request gets its own error."""
    try:
        found = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    given = {key for key, value in found.items() if key == "ping" or bytes(value) != b"null"}
    return "to" in given if "message" in given else not given.isdisjoint(_REQUESTS)


def _frame(key: str, value: Any) -> bytes:
    return encode_frame(_encode({key: value}))


def pong_frame(value: msgspec.Raw) -> bytes:
    """Return the frame of a pong with the value of the ping."""
    return encode_frame(b'{"pong":' + bytes(value) + b"}")


def welcome_frame(welcome: Welcome) -> bytes:
    """Return the frame of a welcome; role, expires and again are left out where they say nothing."""
    about = msgspec.structs.asdict(welcome)
    if welcome.role == MEMBER:
        del about["role"]
    if welcome.expires is None:
        del about["expires"]
    if not welcome.again:
        del about["again"]
    return _frame("welcome", about)


def moderated_frame(action: str, target: str, count: int) -> bytes:
    """Return the frame that answers an operator's request, as :class:`Moderated` has it."""
    return _frame("moderated", Moderated(action, target, count))


def private_frame(text: str, sender: str, to: str, at: float) -> bytes:
    """Return the frame of a private message; ``at`` is in seconds since 1970."""
    return encode_frame(_encode({"message": text, "from": sender, "to": to, "at": round(at, 3)}))


def joined_frame(room: str, names: Sequence[str], members: int) -> bytes:
    """Return the frame that says which members entered; at most :data:`NAMED_IN_NOTICE` by name."""
    named = list(names[:NAMED_IN_NOTICE])
    return _frame("joined", {"room": room, "names": named, "count": len(names), "members": members})


def left_frame(room: str, names: Sequence[str], members: int, reason: str) -> bytes:
    """Return the frame that says which members left, as :func:`joined_frame`."""
    named = list(names[:NAMED_IN_NOTICE])
    about = {"room": room, "names": named, "count": len(names), "members": members, "reason": reason}
    return _frame("left", about)


def who_frame(room: str, names: Sequence[str], members: int, after: str | None) -> bytes:
    """Return the frame with a page of names; ``after`` asks for the next page, None: the last."""
    return _frame("who", {"room": room, "names": list(names), "members": members, "next": after})


def rooms_frame(rooms: Sequence[tuple[str, int]], count: int, after: str | None) -> bytes:
    """Return the frame with a page of rooms and their members, as :func:`who_frame`."""
    found = [{"room": room, "members": members} for room, members in rooms]
    return _frame("rooms", {"rooms": found, "count": count, "next": after})


def history_frame(room: str, messages: Sequence[bytes], before: int | None) -> bytes:
    """Return the frame with messages of the past, in the form of :func:`history_messages`, oldest first.

    ``before`` asks for the messages in front of them, None: no older ones are kept.
    """
    head, tail = _encode(room), _encode(before)
    return encode_frame(
        b'{"history":{"room":%b,"messages":[%b],"next":%b}}' % (head, b",".join(messages), tail)
    )


# The bytes in front of a message's text.
_BEFORE_TEXT = b'{"message":"'
# Messages of a run from which on a member's frames are put together from :func:`_pieces`: 0.35 µs for each of
# twenty instead of 0.5. And the payloads of such frames are shorter than that, in bytes.
MANY = 10
PREPARED = 2048
# The last digits of a number are prepared: so many numbers.
_THOUSAND = 1000


def as_said_by(name: str, frames: bytes) -> bytes:
    """Return plain clients' frames of a member's messages: the text becomes ``name: text``."""
    before = _BEFORE_TEXT + _encode(name)[1:-1] + b": "
    result = []
    position, end = 0, len(frames)
    while position < end:
        text = position + HEADER_SIZE + len(_BEFORE_TEXT)
        position += HEADER_SIZE + (frames[position] << 8 | frames[position + 1])
        result.append(encode_frame(before + frames[text:position]))
    return b"".join(result)


def room_field(room: str) -> bytes:
    """Return the bytes between sender and number in a member's frame: made once for each room."""
    return b',"room":' + _encode(room) + b',"seq":'


@lru_cache(maxsize=16)
def _time_field(at: float) -> bytes:
    """Return the end of a member's frame. Cached: thousands share one time, and its digits cost the most."""
    return b',"at":%.3f}' % at


def numbered_frames(frames: bytes, sender: str, room: bytes, first: int, at: float, count: int = 0) -> bytes:
    """Return members' frames for plain ``frames``: with sender, room, number and time.

    An empty ``sender`` is the server, and is left out. ``room`` is from :func:`room_field`. Messages are
    numbered from ``first`` on; ``at`` is in seconds since 1970. ``count`` is how many there are, 0: unknown.
    """
    middle = b',"from":' + _encode(sender) + room if sender else room
    tail = _time_field(at)
    end = len(frames)
    if count >= MANY and len(texts := frames.split(_BEFORE_TEXT)) == 1 + count:
        try:
            return b"".join(_pieces(texts, b'"' + middle, first, tail))
        except IndexError:  # a long one: one by one
            pass
    if end and HEADER_SIZE + (frames[0] << 8 | frames[1]) == end:  # a single frame: no list to join
        payload = b"%b%b%d%b" % (frames[HEADER_SIZE:-1], middle, first, tail)
        return len(payload).to_bytes(HEADER_SIZE, "big") + payload
    position, number = 0, first
    result = []
    while position < end:
        start = position + HEADER_SIZE
        position = start + (frames[position] << 8 | frames[position + 1])
        payload = b"%b%b%d%b" % (frames[start : position - 1], middle, number, tail)
        result.append(len(payload).to_bytes(HEADER_SIZE, "big"))
        result.append(payload)
        number += 1
    return b"".join(result)


@cache
def _prepared() -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return the beginnings of frames by the length of their payloads, and numbers below 1000: as they are,
    and with three digits."""
    beginnings = [length.to_bytes(HEADER_SIZE, "big") + _BEFORE_TEXT for length in range(PREPARED)]
    numbers = range(_THOUSAND)
    return beginnings, [b"%d" % number for number in numbers], [b"%03d" % number for number in numbers]


def _pieces(texts: list[bytes], middle: bytes, number: int, tail: bytes) -> list[bytes]:
    """Return what members' frames are joined from.

    ``texts`` are plain frames, split at what is in front of each text. A JSON text has no such quote, and a
    length in front of it cannot be taken for a part of it, so nothing else is split. The first is a length
    alone, and the others but the last have the length of the next one behind them. ``middle`` begins with the
    quote that ends a text. Raises ``IndexError`` for a payload that is not shorter than :data:`PREPARED`.
    """
    beginnings, numbers, last_digits = _prepared()
    after = len(b'"}') + HEADER_SIZE
    texts[-1] += bytes(HEADER_SIZE)
    pieces: list[bytes] = []
    begin = 1
    while begin < len(texts):
        thousands, low = divmod(number, _THOUSAND)
        before = middle + b"%d" % thousands if thousands else middle
        rest = (last_digits if thousands else numbers)[low : low + len(texts) - begin]
        more = len(_BEFORE_TEXT) + len(before) + len(tail) - after
        for text, digits in zip(texts[begin:], rest, strict=False):
            pieces += (beginnings[len(text) + len(digits) + more], text[:-after], before, digits, tail)
        begin += len(rest)
        number += len(rest)
    return pieces


def history_messages(frames: bytes, sender: str, first: int, at: float) -> list[bytes]:
    """Return the JSON of each message of plain ``frames`` for :func:`history_frame`.

    As :func:`numbered_frames`, without the room, which the frame names once.
    """
    middle = b',"from":%b,"seq":' % _encode(sender) if sender else b',"seq":'
    tail = _time_field(at)
    position, number = 0, first
    result = []
    while position < len(frames):
        start = position + HEADER_SIZE
        position = start + (frames[position] << 8 | frames[position + 1])
        result.append(b"%b%b%d%b" % (frames[start : position - 1], middle, number, tail))
        number += 1
    return result
