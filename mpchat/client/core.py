"""One client's side of the wire, without I/O: bytes from a server go in, typed events come out.

Knows nothing of sockets, time or threads; :mod:`mpchat.client.conversation` has the state that outlives a
connection. A server's text reaches a program only as the text of an event, and never a log.
"""

from dataclasses import dataclass

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import MAX_PAYLOAD, FrameDecoder, Oversized
from mpchat.protocol.messages import (
    HistoryPage,
    Joined,
    Left,
    Moderated,
    Refusal,
    Rooms,
    RoomSize,
    Welcome,
    Who,
    decode_from_named_server,
    decode_from_server,
    message_frame,
)

# Characters of a welcome's name, room, epoch and token together: with a proof they fit the frame of a join. A
# server of this project sends less than 200.
LONGEST_SEAT = 1024

__all__ = [
    "ClientProtocol",
    "Connected",
    "Disconnected",
    "Event",
    "Garbled",
    "History",
    "Joined",
    "Left",
    "Lost",
    "Message",
    "Moderated",
    "Pong",
    "Received",
    "Refused",
    "Rejected",
    "RoomSize",
    "Rooms",
    "Welcome",
    "Who",
]


@dataclass(frozen=True, slots=True)
class Message:
    """One line of the conversation; ``str(message)`` is its text. Later versions may add fields.

    A client without a name gets only the text. For a member, ``seq`` is the number of the message in
    ``room``, ``at`` its time in seconds since 1970, and ``sender`` a member's name or a plain client's
    ``host:port``. An announcement of the operator has no sender. A private message has ``to``, and neither
    room nor number. The farewell of one of several hosts has its text alone.
    """

    text: str
    sender: str | None = None
    room: str | None = None
    seq: int | None = None
    at: float | None = None
    to: str | None = None

    def __str__(self) -> str:
        """Return the text alone."""
        return self.text


@dataclass(frozen=True, slots=True)
class Refused:
    """The server rejected something: ``code`` is stable and for programs, ``text`` is for people.

    ``times`` is how many rejected messages or requests of this client the event stands for. ``proofs`` are
    the kinds of proof that the server takes, with the code ``auth_required``.
    """

    code: str
    text: str
    times: int = 1
    proofs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Garbled:
    """A frame that does not belong to this protocol, so likely another kind of server; ``text`` says why."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection to ``address`` was made; ``again`` is false for the first one."""

    address: str
    again: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to ``address`` was lost; ``retrying`` says whether the client tries again by itself."""

    address: str
    reason: str
    retrying: bool


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, with the value that was sent."""

    value: object


@dataclass(frozen=True, slots=True)
class History:
    """Earlier messages of ``room``, oldest first; ``next`` asks for those before them, None: none is kept."""

    room: str
    messages: tuple[Message, ...]
    next: int | None = None


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages of ``room`` that will not come: numbers ``first`` to ``last``, both included.

    ``last`` is None when the server numbers anew: the number of lost messages is then unknown, maybe none.
    With several hosts ``first`` may be a number that was read: what was read from there on is uncertain too.
    """

    room: str
    first: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A join after a loss was rejected, or the server sent the member away; ``code`` says why.

    The codes ``kicked`` and ``taken_over`` send a member away. The code ``expired`` means that the member's
    token has ended. The code ``no_token`` is the client's own: the function that returns the token has
    raised an error, and ``text`` is its type. With ``retrying`` the client disconnects and tries again with
    back-off, but at once with a fresh token; else the chat has ended. ``proofs`` as in :class:`Refused`.
    """

    name: str
    room: str
    code: str
    text: str
    retrying: bool
    proofs: tuple[str, ...] = ()


Received = Message | Refused | Garbled | Welcome | Joined | Left | Who | Rooms | History | Pong | Moderated
Event = Received | Connected | Disconnected | Lost | Rejected


class ClientProtocol:
    """One connection: feed it the bytes that arrive, take the events, write the bytes of ``send``."""

    __slots__ = ("_decoder", "_events", "named")

    def __init__(self, *, named: bool = False) -> None:
        """Begin between two frames. A server's payloads may have all 65 535 bytes.

        A ``named`` client decodes more than texts and errors; the flag may also be set later.
        """
        self.named = named
        self._decoder = FrameDecoder(MAX_PAYLOAD)
        self._events: list[Received] = []

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes of the server's stream, in pieces of any size."""
        for payload in self._decoder.feed(data):
            event = _named_event(payload) if self.named else _event(payload)
            if event is not None:
                self._events.append(event)

    def receive_eof(self) -> bool:
        """Take the end of the server's stream; returns True when it came between two frames."""
        return not self._decoder.mid_frame

    def events(self) -> list[Received]:
        """Return the events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def send(self, text: str) -> bytes:
        """Return the frame of ``text``. Raises :class:`ProtocolError` when no frame can hold it."""
        return message_frame(text)


def _event(payload: bytes | Oversized) -> Received | None:
    try:
        content = decode_from_server(payload)
    except ProtocolError as error:
        return Garbled(error.code, error.text)
    if content.error is not None:
        return _refused(content.error)
    # An object with neither key is a notice of a later version, which this version cannot show.
    return None if content.message is None else Message(content.message)


def _named_event(payload: bytes | Oversized) -> Received | None:
    try:
        content = decode_from_named_server(payload)
    except ProtocolError as error:
        return Garbled(error.code, error.text)
    if content.message is not None:
        return Message(content.message, content.sender, content.room, content.seq, content.at, content.to)
    if content.error is not None:
        return _refused(content.error)
    if content.pong is not msgspec.UNSET:
        return Pong(content.pong)
    if content.history is not None:
        return _history(content.history)
    seat = content.welcome
    if seat and sum(map(len, (seat.name, seat.room, seat.epoch, seat.token))) > LONGEST_SEAT:
        return Garbled("not_a_message", "not an mpchat server: the welcome is too long")
    about_room = content.joined or content.left or content.who or content.rooms
    return content.welcome or about_room or content.moderated


def _refused(error: Refusal) -> Refused:
    return Refused(error.code, error.text, error.times, error.proofs)


def _history(page: HistoryPage) -> History:
    found = (Message(each.message, each.sender, page.room, each.seq, each.at) for each in page.messages)
    return History(page.room, tuple(found), page.next)
