"""What named clients ask for, and what they get: who is in which room, and messages with sender and number.

Frames for members are made from the frames that plain clients get, by cutting and joining bytes: both are
JSON that this program has written itself, so that what stands where is known.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import HEADER_SIZE, encode_frame
from mpchat.protocol.messages import Welcome

LOBBY = "lobby"
# What a message's number may be. Nobody counts further, and Python refuses to write an integer of more than
# 4300 digits, which a frame has room for.
Number = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
# Names that one notice about comers or leavers holds; the rest is counted.
NAMED_IN_NOTICE = 8


class Join(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Who somebody wants to be, and where; ``after`` and ``epoch`` say what it has seen of that room."""

    name: str | None = None
    room: str | None = None
    after: Number | None = None
    epoch: str | None = None
    token: str | None = None


class Who(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The members of a room, from the name ``after`` on."""

    room: str | None = None
    after: str | None = None


class ListRooms(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """All rooms, from the one called ``after`` on."""

    after: str | None = None


class Request(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a client may send beside a message to its room: one of these is set."""

    join: Join | None = None
    message: str | None = None
    to: str | None = None
    who: Who | None = None
    rooms: ListRooms | None = None
    ping: msgspec.Raw = msgspec.Raw()


# Keys that make an object a request. A message to the room is none, whatever else it holds but "to".
_REQUESTS = ("join", "who", "rooms", "ping")


_encode = msgspec.json.Encoder().encode
_decode_request = msgspec.json.Decoder(Request).decode


def looks_like_request(payload: bytes) -> bool:
    """Tell whether a payload that is no message may be a request: one that is wrong gets its own error.

    A key that is null counts as missing: many write down all that they have. But null can be a ping.
    """
    try:
        found = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    given = {key for key, value in found.items() if key == "ping" or bytes(value) != b"null"}
    return "to" in given if "message" in found else not given.isdisjoint(_REQUESTS)


def decode_request(payload: bytes) -> Request:
    """Decode a payload that looks like a request. Raises :class:`ProtocolError` that says what is wrong."""
    try:
        request = _decode_request(payload)
        payload.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("not_utf8", f"not UTF-8 at byte {error.start}: {error.reason}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError("bad_request", f"not understood: {error}") from None
    if request.to is not None and request.message is None:
        raise ProtocolError("bad_request", "a private message needs both message and to")
    return request


def encode_request(request: Request) -> bytes:
    """Return the payload of a request, as the hub gets it."""
    return _encode(request)


def _frame(key: str, value: Any) -> bytes:
    return encode_frame(_encode({key: value}))


def pong_frame(value: msgspec.Raw) -> bytes:
    return encode_frame(b'{"pong":' + bytes(value) + b"}")


def welcome_frame(welcome: Welcome) -> bytes:
    return _frame("welcome", welcome)


def private_frame(text: str, sender: str, to: str, at: float) -> bytes:
    return encode_frame(_encode({"message": text, "from": sender, "to": to, "at": round(at, 3)}))


def joined_frame(room: str, names: Sequence[str], members: int) -> bytes:
    named = list(names[:NAMED_IN_NOTICE])
    return _frame("joined", {"room": room, "names": named, "count": len(names), "members": members})


def left_frame(room: str, names: Sequence[str], members: int, reason: str) -> bytes:
    named = list(names[:NAMED_IN_NOTICE])
    about = {"room": room, "names": named, "count": len(names), "members": members, "reason": reason}
    return _frame("left", about)


def who_frame(room: str, names: Sequence[str], members: int, after: str | None) -> bytes:
    return _frame("who", {"room": room, "names": list(names), "members": members, "next": after})


def rooms_frame(rooms: Sequence[tuple[str, int]], count: int, after: str | None) -> bytes:
    found = [{"room": room, "members": members} for room, members in rooms]
    return _frame("rooms", {"rooms": found, "count": count, "next": after})


# Bytes of {"message":" in front of a message's text.
_BEFORE_TEXT = len('{"message":"')


def as_said_by(name: str, frames: bytes) -> bytes:
    """Return what plain clients get of what a member said: ``name: text``."""
    before = b'{"message":"' + _encode(name)[1:-1] + b": "
    result = []
    position, end = 0, len(frames)
    while position < end:
        text = position + HEADER_SIZE + _BEFORE_TEXT
        position += HEADER_SIZE + (frames[position] << 8 | frames[position + 1])
        result.append(encode_frame(before + frames[text:position]))
    return b"".join(result)


def room_field(room: str) -> bytes:
    """Return what stands between sender and number in what members of a room get: made once for each room."""
    return b',"room":' + _encode(room) + b',"seq":'


@lru_cache(maxsize=16)
def _time_field(at: float) -> bytes:
    """Return how a message ends. Thousands are taken at one moment, and the digits take longest of all."""
    return b',"at":%.3f}' % at


def numbered_frames(frames: bytes, sender: str, room: bytes, first: int, at: float) -> bytes:
    """Return what members get for plain ``frames``: with who said it (if not the server), room, number, time.

    ``room`` is from :func:`room_field`. Messages are numbered from ``first`` on; ``at`` is in seconds since
    1970.
    """
    middle = b',"from":' + _encode(sender) + room if sender else room
    tail = _time_field(at)
    end = len(frames)
    if end and HEADER_SIZE + (frames[0] << 8 | frames[1]) == end:  # one alone: no list to join
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
