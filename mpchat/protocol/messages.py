"""Payloads as typed structs: the JSON of messages and errors, and what a client decodes.

A plain client sends ``{"message": "…"}`` and gets only objects with ``message`` or ``error``. A client that
has sent ``{"join": {…}}`` is a member and gets more: :mod:`mpchat.protocol.requests` has the requests and
their answers. A text comes out as it went in, or is rejected: it is decoded and encoded again, never patched
as bytes.
"""

import re
from functools import lru_cache
from typing import Annotated, Any

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import HEADER_SIZE, MAX_PAYLOAD, Oversized, encode_frame
from mpchat.protocol.likely_cause import too_long_hint

# The two roles of a member.
MEMBER, OPERATOR = "member", "operator"
# Seconds that a ban or a mute may last: ten years, as with the operator's commands.
LONGEST_SANCTION = 10 * 365 * 86_400


def shown_without(struct: msgspec.Struct, *hidden: str) -> str:
    """Return the ``repr`` of ``struct`` with the fields in ``hidden`` as ``…``, for proofs and tokens."""
    fields = msgspec.structs.asdict(struct).items()
    return "{}({})".format(
        type(struct).__name__,
        ", ".join(
            f"{key}={'…' if key in hidden and value is not None else repr(value)}" for key, value in fields
        ),
    )


class Message(msgspec.Struct, frozen=True, gc=False):
    """One line of the conversation."""

    message: str


# The range of a count on the wire. Python refuses to print an integer of more than 4300 digits.
Times = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]


class Refusal(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The reason of a rejection: ``code`` is stable and for programs, ``text`` is for people.

    ``times`` counts the rejected payloads that this error stands for. ``proofs`` are the kinds of proof that
    the server takes, with the code ``auth_required``.
    """

    code: str
    text: str
    times: Times = 1
    proofs: tuple[str, ...] = ()


class ErrorReply(msgspec.Struct, frozen=True, gc=False):
    """The answer to a rejected payload, for the client that sent it."""

    error: Refusal


class FromServer(msgspec.Struct, frozen=True, gc=False):
    """Any payload that a server sends to a plain client: one of the two fields is set."""

    message: str | None = None
    error: Refusal | None = None


_encode = msgspec.json.Encoder().encode
_decode_message = msgspec.json.Decoder(Message).decode
_decode_from_server = msgspec.json.Decoder(FromServer).decode

_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def message_frame(text: str) -> bytes:
    """Return the frame of ``{"message": text}``.

    Raises :class:`ProtocolError` when ``text`` cannot be a message: it holds a lone surrogate, or its JSON is
    longer than a frame takes (65 535 bytes).
    """
    try:
        payload = _encode(Message(text))
    except UnicodeEncodeError:
        raise ProtocolError("bad_text", "the text holds half of a surrogate pair") from None
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError("too_long", f"the message takes {len(payload)} bytes, a frame {MAX_PAYLOAD}")
    return encode_frame(payload)


@lru_cache(maxsize=64)
def error_frame(code: str, text: str, proofs: tuple[str, ...] = ()) -> bytes:
    """Return the frame of ``{"error": {"code": code, "text": text}}``. Cached: errors come in swarms.

    ``proofs`` is added where it is not empty; see :class:`Refusal`.
    """
    return encode_frame(_encode(ErrorReply(Refusal(code, text, proofs=proofs))))


def counted_error_frame(frame: bytes, times: int) -> bytes:
    """Return the frame of :func:`error_frame` that stands for so many errors: ``times`` is added to it."""
    if times == 1:
        return frame
    return encode_frame(b'%b,"times":%d}}' % (frame[HEADER_SIZE : -len(b"}}")], times))


def leading_run(data: bytes, start: int, most: int, limit: int) -> tuple[int, int]:
    """Return how many frames from ``start`` on can be relayed as they stand, and where they end.

    These are the messages that would be encoded again to the same bytes. The run ends before the first other
    frame, before a frame that is not whole or has a payload over ``limit``, and within ``most`` bytes.
    """
    count, position, stop = 0, start, min(len(data), start + most)
    try:
        while stop - position >= HEADER_SIZE:
            length = data[position] << 8 | data[position + 1]
            end = position + HEADER_SIZE + length
            if end > stop or length > limit:
                break
            payload = data[position + HEADER_SIZE : end]
            if _encode(_decode_message(payload)) != payload:
                break
            position = end
            count += 1
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # not a message: relayed_frame says why
    return count, position


def relayed_frame(payload: bytes | Oversized, limit: int) -> bytes:
    """Return the frame that the room gets for a client's ``payload``.

    Raises :class:`ProtocolError`, whose text says why, when ``payload`` is not a message. The result is never
    longer than the frame that came in: it only loses escapes that JSON does not need.
    """
    if isinstance(payload, Oversized):
        hint = too_long_hint(payload.size)
        raise ProtocolError("too_long", f"the payload has {payload.size} bytes, {limit} are allowed{hint}")
    try:
        encoded = _encode(_decode_message(payload))
        # The decoder does not look into the values of unknown keys. With equal sizes there are none, and the
        # text itself has been checked.
        if len(encoded) != len(payload):
            payload.decode()
    except msgspec.ValidationError as error:
        raise ProtocolError("not_a_message", f'expected {{"message": "text"}}: {error}') from None
    except RecursionError:
        raise ProtocolError("not_json", "nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if where := where_not_utf8(payload, error):
            raise ProtocolError("not_utf8", where) from None
        raise ProtocolError("not_json", _why_not_json(payload, str(error))) from None
    return len(encoded).to_bytes(2, "big") + encoded


def where_not_utf8(payload: bytes, error: Exception) -> str:
    """Return where a payload is not UTF-8, if a decoder has refused it for that; else an empty text.

    Since version 0.23 msgspec raises an error of its own for that, which does not say where.
    """
    if not (isinstance(error, UnicodeDecodeError) or str(error).startswith("Invalid UTF-8")):
        return ""
    try:
        payload.decode()
    except UnicodeDecodeError as first:
        return f"not UTF-8 at byte {first.start}: {first.reason}"
    return ""


def _why_not_json(payload: bytes, reason: str) -> str:
    if not payload:
        return "the frame is empty"
    if _LONE_SURROGATE.search(payload):
        return "not JSON: half of a surrogate pair"
    return f"not JSON: {reason}"


def decode_from_server(payload: bytes | Oversized) -> FromServer:
    """Decode a server's payload. Raises :class:`ProtocolError` when it is not an object of this protocol.

    Unknown keys are ignored.
    """
    if isinstance(payload, Oversized):
        raise ProtocolError("too_long", f"the server sent a payload of {payload.size} bytes")
    try:
        return _decode_from_server(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("not_a_message", f"not an mpchat server: {error}") from None


# The member's side: the requests that a client sends, and the payloads that it decodes. Unknown keys are
# ignored, as everywhere.


class Welcome(msgspec.Struct, frozen=True, gc=False):
    """A granted join: history follows (numbers up to ``seq``), then new messages (from ``seq`` + 1 on).

    ``name`` and ``room`` are as the server spells them; ``members`` counts the members, this one included.
    ``lost`` is the first and the last number that will not come; the last is None when it is unknown.
    ``role`` is ``operator`` for a member that may send an operator's requests. ``expires`` is the time, in
    seconds since 1970, at which the proof ends, None: never. ``again``: the welcome answers no join, because
    the server has entered the member again; it goes on in the same room, as a join with ``after`` would.
    """

    name: str
    room: str
    seq: int
    epoch: str
    members: int
    token: str
    recovered: bool = False
    lost: tuple[int, int | None] | None = None
    role: str = MEMBER
    expires: float | None = None
    again: bool = False

    def __repr__(self) -> str:
        """Return all fields but the token, which proves that the name is the client's."""
        return shown_without(self, "token")


class Joined(msgspec.Struct, frozen=True, gc=False):
    """Members entered the room: ``count`` of them, at most 8 by name; ``members`` are there now."""

    room: str
    names: tuple[str, ...]
    count: int
    members: int


class Left(msgspec.Struct, frozen=True, gc=False):
    """Members left the room, as :class:`Joined`; ``reason`` is a word or two, such as ``closed``."""

    room: str
    names: tuple[str, ...]
    count: int
    members: int
    reason: str = ""


class Who(msgspec.Struct, frozen=True, gc=False):
    """One page of a room's names, sorted, of ``members``; ``next`` asks for the next page, None: the last."""

    room: str
    names: tuple[str, ...]
    members: int
    next: str | None = None


class RoomSize(msgspec.Struct, frozen=True, gc=False):
    """A room and the number of its members."""

    room: str
    members: int


class Rooms(msgspec.Struct, frozen=True, gc=False):
    """One page of the rooms, of ``count``; ``next`` asks for the next page, None: the last."""

    rooms: tuple[RoomSize, ...]
    count: int
    next: str | None = None


class PastMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a room's history; a message of the server itself has no ``sender``."""

    message: str
    seq: int
    at: float
    sender: str | None = msgspec.field(default=None, name="from")


class HistoryPage(msgspec.Struct, frozen=True, gc=False):
    """Messages of a room's history, oldest first; ``next`` asks for those before them, None: none is kept."""

    room: str
    messages: tuple[PastMessage, ...]
    next: int | None = None


class Moderated(msgspec.Struct, frozen=True, gc=False):
    """The answer to an operator's request: ``action`` is its key, ``target`` the name, address or room.

    ``count`` is the connections that were ended (kick, ban) or the members that were put into the lobby
    (close), and 0 for the others.
    """

    action: str
    target: str
    count: int = 0


class FromNamedServer(msgspec.Struct, frozen=True):
    """Any payload that a server sends to a member: one field is set, with ``message`` the first six."""

    message: str | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    room: str | None = None
    seq: int | None = None
    at: float | None = None
    to: str | None = None
    error: Refusal | None = None
    welcome: Welcome | None = None
    joined: Joined | None = None
    left: Left | None = None
    who: Who | None = None
    rooms: Rooms | None = None
    history: HistoryPage | None = None
    moderated: Moderated | None = None
    pong: Any = msgspec.UNSET


_decode_from_named_server = msgspec.json.Decoder(FromNamedServer).decode


def join_frame(
    name: str | None,
    room: str | None,
    *,
    token: str | None = None,
    after: int | None = None,
    epoch: str | None = None,
    proof: tuple[str, str] | None = None,
) -> bytes:
    """Return the frame of a join to ``room`` under ``name``; None for a member, which has a name.

    A member keeps its room where ``room`` is None. ``after`` and ``epoch`` ask for the messages after that
    number. ``proof`` is the kind (``password``, ``jwt`` or ``secret``) and the text. Raises as
    :func:`message_frame`.
    """
    join = {"name": name, "room": room, "token": token, "after": after, "epoch": epoch}
    if proof is not None:
        kind, join[kind] = proof
    return _request_frame({"join": {key: value for key, value in join.items() if value is not None}})


def private_frame(text: str, to: str) -> bytes:
    """Return the frame of a message for ``to`` alone. Raises as :func:`message_frame`."""
    return _request_frame({"message": text, "to": to})


def who_frame(room: str | None = None, after: str | None = None) -> bytes:
    """Return the frame that asks for the names in ``room`` (None: the member's) that follow ``after``."""
    who = {"room": room, "after": after}
    return _request_frame({"who": {key: value for key, value in who.items() if value is not None}})


def rooms_frame(after: str | None = None) -> bytes:
    """Return the frame that asks for the rooms that follow ``after``."""
    return _request_frame({"rooms": {} if after is None else {"after": after}})


def history_frame(before: int | None = None, limit: int | None = None) -> bytes:
    """Return the frame that asks for up to ``limit`` messages of the room with numbers below ``before``."""
    history = {"before": before, "limit": limit}
    return _request_frame({"history": {key: value for key, value in history.items() if value is not None}})


def ping_frame(value: str | int) -> bytes:
    """Return the frame of a ping, which is answered with ``value``."""
    return _request_frame({"ping": value})


def moderation_frame(action: str, target: str, seconds: float | None = None) -> bytes:
    """Return the frame of an operator's request: kick, ban, unban, mute or unmute a name, or close a room.

    ``seconds`` is how long a ban or a mute lasts, 1 to :data:`LONGEST_SANCTION`, None: for good. Raises
    ``ValueError`` for any other number, and as :func:`message_frame`.
    """
    # JSON has no infinity: the encoder would write null, which means for good.
    if seconds is not None and not 1 <= seconds <= LONGEST_SANCTION:
        raise ValueError(f"a ban or a mute lasts 1 to {LONGEST_SANCTION} seconds, and not {seconds}")
    what: dict[str, object] = {"room" if action == "close" else "name": target}
    if seconds is not None:
        what["for"] = seconds
    return _request_frame({action: what})


def _request_frame(request: dict[str, object]) -> bytes:
    try:
        payload = _encode(request)
    except UnicodeEncodeError:
        raise ProtocolError("bad_text", "the text holds half of a surrogate pair") from None
    if len(payload) > MAX_PAYLOAD:
        raise ProtocolError("too_long", f"the message takes {len(payload)} bytes, a frame {MAX_PAYLOAD}")
    return encode_frame(payload)


def decode_from_named_server(payload: bytes | Oversized) -> FromNamedServer:
    """Decode a server's payload for a member. Raises as :func:`decode_from_server`."""
    if isinstance(payload, Oversized):
        raise ProtocolError("too_long", f"the server sent a payload of {payload.size} bytes")
    try:
        return _decode_from_named_server(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError("not_a_message", f"not an mpchat server: {error}") from None
