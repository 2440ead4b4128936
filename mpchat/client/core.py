"""One client's side of the wire, without I/O: bytes from a server go in, typed events come out.

Knows nothing of sockets, time or threads; what outlives a connection stands in ``conversation``. What a
server wrote reaches a program only as the text of an event, and never a log.
"""

from dataclasses import dataclass

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import MAX_PAYLOAD, FrameDecoder, Oversized
from mpchat.protocol.messages import (
    Joined,
    Left,
    Rooms,
    RoomSize,
    Welcome,
    Who,
    decode_from_named_server,
    decode_from_server,
    message_frame,
)

__all__ = [
    "ClientProtocol",
    "Connected",
    "Disconnected",
    "Event",
    "Garbled",
    "Joined",
    "Left",
    "Lost",
    "Message",
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

    Without a name of one's own there is only the text. With one, ``seq`` is its number in ``room``, ``at``
    the time it was said, in seconds since 1970, and ``sender`` a name, or the ``host:port`` of somebody
    without one; an announcement of the operator has none. A private message has ``to``, and neither room nor
    number.
    """

    text: str
    sender: str | None = None
    room: str | None = None
    seq: int | None = None
    at: float | None = None
    to: str | None = None

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Refused:
    """The server said no: ``code`` is stable and for programs, ``text`` is for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Garbled:
    """A frame that is nothing of this protocol, so likely another kind of server; ``text`` says why."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Connected:
    """There is a connection to ``address``; ``again`` is false for the first one."""

    address: str
    again: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection to ``address`` is gone; ``retrying`` says whether the client tries again by itself."""

    address: str
    reason: str
    retrying: bool


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, with what was sent."""

    value: object


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages of ``room`` that will not come: numbers ``first`` to ``last``, both included.

    ``last`` is None when the server numbers anew: how many there were, if any, nobody can tell.
    """

    room: str
    first: int
    last: int | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """There is a connection again, but not for ``name`` in ``room``; ``code`` says why, as ``name_taken``.

    With ``retrying`` the client leaves and comes back with back-off; else the chat has ended.
    """

    name: str
    room: str
    code: str
    text: str
    retrying: bool


Received = Message | Refused | Garbled | Welcome | Joined | Left | Who | Rooms | Pong
Event = Received | Connected | Disconnected | Lost | Rejected


class ClientProtocol:
    """One connection: feed it what arrives, take the events, write what ``send`` returns."""

    __slots__ = ("_decoder", "_events", "named")

    def __init__(self, *, named: bool = False) -> None:
        """Begin between two frames. A server's frames may be as long as two bytes of length can say.

        ``named`` clients look at more than texts and errors; it may be set later, too.
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
        """Return what arrived since the last call, in order."""
        events, self._events = self._events, []
        return events

    def send(self, text: str) -> bytes:
        """Return the bytes that say ``text``; :class:`ProtocolError` when no frame can hold it."""
        return message_frame(text)


def _event(payload: bytes | Oversized) -> Received | None:
    try:
        content = decode_from_server(payload)
    except ProtocolError as error:
        return Garbled(error.code, error.text)
    if content.error is not None:
        return Refused(content.error.code, content.error.text)
    # An object with neither key is a notice of a later version: nothing that this one could show.
    return None if content.message is None else Message(content.message)


def _named_event(payload: bytes | Oversized) -> Received | None:
    try:
        content = decode_from_named_server(payload)
    except ProtocolError as error:
        return Garbled(error.code, error.text)
    if content.message is not None:
        return Message(content.message, content.sender, content.room, content.seq, content.at, content.to)
    if content.error is not None:
        return Refused(content.error.code, content.error.text)
    if content.pong is not msgspec.UNSET:
        return Pong(content.pong)
    return content.welcome or content.joined or content.left or content.who or content.rooms
