"""One client's side of the wire, without I/O: bytes from a server go in, typed events come out.

Knows nothing of sockets, time or threads; what outlives a connection stands in ``conversation``. What a
server wrote reaches a program only as the text of an event, and never a log.
"""

from dataclasses import dataclass

from ..errors import ProtocolError
from ..protocol.frames import MAX_PAYLOAD, FrameDecoder, Oversized
from ..protocol.messages import decode_from_server, message_frame


@dataclass(frozen=True, slots=True)
class Message:
    """One line of the conversation; ``str(message)`` is its text. Later versions may add fields."""

    text: str

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


Received = Message | Refused | Garbled
Event = Received | Connected | Disconnected


class ClientProtocol:
    """One connection: feed it what arrives, take the events, write what ``send`` returns."""

    __slots__ = ("_decoder", "_events")

    def __init__(self) -> None:
        """Begin between two frames. A server's frames may be as long as two bytes of length can say."""
        self._decoder = FrameDecoder(MAX_PAYLOAD)
        self._events: list[Received] = []

    def receive_data(self, data: bytes) -> None:
        """Take the next bytes of the server's stream, in pieces of any size."""
        for payload in self._decoder.feed(data):
            event = _event(payload)
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
