"""What outlives one connection: its state, what the application has not read yet, when to try again.

Does no I/O, never waits, and is given the time: the asyncio and the blocking client are this class with two
ways of waiting around it. One thread at a time may be inside.
"""

import math
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from ..config import format_address
from ..errors import (
    ConfigError,
    ConnectError,
    ConnectionLostError,
    ProtocolError,
    RefusedError,
    TimedOutError,
)
from .core import ClientProtocol, Connected, Disconnected, Event, Garbled, Message, Refused

MAX_PORT = 65_535
# Seconds for finding the address and connecting: over twice what a lost first SYN costs (1 s, then 2 s).
OPEN_TIMEOUT = 10.0
# Seconds for one message to leave for the kernel, a reconnect on the way included.
SEND_TIMEOUT = 10.0
# Seconds that closing waits for the server to close too, so that what was just sent is not reset away.
CLOSE_TIMEOUT = 1.0
# Bytes of one read: what a socket's receive buffer typically has ready under load.
READ_SIZE = 65_536
# Bytes of memory for what the application has not read; past it the socket is not read either, so that
# TCP slows the server down. One more read may still land on top.
INBOX_LIMIT = 1_048_576
# Bytes that an event costs besides its text: the object and its place in the queue.
EVENT_SIZE = 64
# Seconds that a connection must have lasted for the next loss to count as the first: a full server accepts,
# says no and closes, and must not be asked again as fast as one that was only restarted.
STEADY = 5.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """How long to wait before each attempt to reconnect: exponential, with full jitter.

    ``delay(n)`` is a random time up to ``first * 2**n``, never under ``floor`` nor over ``cap``; all in
    seconds. Full jitter, because a thousand clients lose a restarted server in the same moment.
    """

    # A server that only restarts is back within a second or two.
    first: float = 0.5
    # Keeps an unlucky draw from becoming a busy loop.
    floor: float = 0.1
    # Somebody looking at a terminal gives up on more.
    cap: float = 20.0

    def delay(self, attempt: int, draw: Callable[[], float]) -> float:
        """Return the seconds before attempt number ``attempt`` (from 0); ``draw`` gives numbers in [0, 1)."""
        # ldexp, and not **: a float that is too large for attempt 2000 must not end the client.
        ceiling = min(self.cap, math.ldexp(self.first, min(attempt, 64)))
        return max(self.floor, ceiling * draw())


class State(Enum):
    """Where a chat stands. It begins ``DISCONNECTED``; ``LOST`` and ``CLOSED`` are final."""

    CONNECTED = "connected"
    # Another attempt to connect is on its way.
    DISCONNECTED = "disconnected"
    # The connection is gone, and nobody asked for another.
    LOST = "lost"
    # The application closed it.
    CLOSED = "closed"

    @property
    def final(self) -> bool:
        """True when no connection will come any more."""
        return self in (State.LOST, State.CLOSED)


class Inbox:
    """What has arrived and was not read, in order, with a limit in bytes that the reader must respect."""

    __slots__ = ("_events", "_limit", "size")

    def __init__(self, limit: int) -> None:
        """Start empty."""
        self._events: deque[Event] = deque()
        self._limit = limit
        self.size = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def full(self) -> bool:
        """True when nothing more should be read."""
        return self.size >= self._limit

    def put(self, event: Event) -> None:
        """Append ``event``. Losses that nobody has looked at become one, so they cannot pile up."""
        if isinstance(event, Disconnected) and self._ends_with_reconnect():
            self.take_last()
            self.take_last()
        self._events.append(event)
        self.size += _weight(event)

    def take(self) -> Event | None:
        """Remove and return the oldest event, or None."""
        if not self._events:
            return None
        event = self._events.popleft()
        self.size -= _weight(event)
        return event

    def take_last(self) -> None:
        """Remove the newest event."""
        self.size -= _weight(self._events.pop())

    def _ends_with_reconnect(self) -> bool:
        events = self._events
        return len(events) > 1 and isinstance(events[-1], Connected) and isinstance(events[-2], Disconnected)


class Conversation:
    """A chat with one server over as many connections as it takes."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        reconnect: bool = True,
        backoff: Backoff | None = None,
        draw: Callable[[], float] = random.random,
        inbox_limit: int = INBOX_LIMIT,
    ) -> None:
        """Begin disconnected from ``host``, ``port``; ``draw`` is the random source of the back-off."""
        if not 0 < port <= MAX_PORT:
            # The resolver would take the port modulo 65536, and so find somebody else's server.
            raise ConfigError(f"the port is {port}; it must be 1 to {MAX_PORT}")
        self.address = format_address(host, port)
        self.state = State.DISCONNECTED
        self.inbox = Inbox(inbox_limit)
        self._reconnect = reconnect
        self._backoff = backoff or Backoff()
        self._draw = draw
        self._attempt = 0
        self._opened_at = -math.inf
        self._last_reason = ""
        self._protocol = ClientProtocol()
        self._greeted = False

    @property
    def paused(self) -> bool:
        """True while nothing should be read from the connection: the application is behind."""
        return self.inbox.full and self.state is not State.CLOSED

    def encode(self, text: str) -> bytes:
        """Return the frame of ``text``; :class:`ProtocolError` when there is none. Needs no connection."""
        return self._protocol.send(text)

    def opened(self, now: float) -> None:
        """Note that a connection was made."""
        self._protocol = ClientProtocol()
        self._opened_at = now
        self.state = State.CONNECTED
        self.inbox.put(Connected(self.address, again=self._greeted))
        self._greeted = True

    def received(self, data: bytes) -> None:
        """Take bytes from the connection; what comes after :meth:`close` is of no use to anybody."""
        if self.state is State.CLOSED:
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            self.inbox.put(event)

    def lost(self, now: float, error: OSError | None) -> None:
        """Note the connection's end: by ``error``, or by the server when it is None."""
        if self.state.final:
            return
        if now - self._opened_at >= STEADY:
            self._attempt = 0
        self._last_reason = self._why(error)
        self.state = State.DISCONNECTED if self._reconnect else State.LOST
        self.inbox.put(Disconnected(self.address, self._last_reason, retrying=self._reconnect))

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt to connect."""
        delay = self._backoff.delay(self._attempt, self._draw)
        self._attempt += 1
        return delay

    def close(self) -> None:
        """Note that the application wants no more."""
        self.state = State.CLOSED

    def not_open(self) -> ConnectionLostError:
        """Return the error that says why there is no connection."""
        if self.state is State.CLOSED:
            return ConnectionLostError(f"the chat with {self.address} is closed")
        return ConnectionLostError(f"the connection to {self.address} is lost: {self._last_reason}")

    def not_sent(self, timeout: float) -> TimedOutError | ConnectionLostError:
        """Return the error for a message that could not leave within ``timeout`` seconds."""
        if self.state is State.CONNECTED:
            return self.not_taken(timeout)
        return ConnectionLostError(f"not sent within {timeout:g} s: {self.not_open()}")

    def not_taken(self, timeout: float) -> TimedOutError:
        """Return the error for a message that the server left standing for ``timeout`` seconds."""
        return TimedOutError(f"not sent within {timeout:g} s: {self.address} does not read")

    def next_event(self) -> Event | None:
        """Take the next event, or None when it has yet to come; raises when none will."""
        if self.state is not State.CLOSED and self.inbox:
            return self.inbox.take()
        if self.state.final:
            raise self.not_open()
        return None

    def _why(self, error: OSError | None) -> str:
        if error is not None:
            return error.strerror or type(error).__name__
        if self._protocol.receive_eof():
            return "the server closed it"
        return "the server closed it inside a frame"


def message_in(event: Event) -> Message | None:
    """Return the message that ``event`` is, None for a notice; an error of the server is raised."""
    match event:
        case Message():
            return event
        case Refused():
            raise RefusedError(event.code, event.text)
        case Garbled():
            raise ProtocolError(event.code, event.text)
        case _:
            return None


def connect_error(host: str, port: int, error: Exception) -> ConnectError:
    """Return what to tell the user when the first connection could not be made."""
    address = format_address(host, port)
    if isinstance(error, ConnectionRefusedError):
        return ConnectError(f"no server answers at {address}; start one with: mpchat start")
    if isinstance(error, TimeoutError):
        return ConnectError(f"no answer from {address} in time; is the address right?")
    return ConnectError(f"cannot connect to {address}: {getattr(error, 'strerror', None) or error}")


def _weight(event: Event) -> int:
    match event:
        case Message():
            return EVENT_SIZE + sys.getsizeof(event.text)
        case Refused() | Garbled():
            return EVENT_SIZE + sys.getsizeof(event.code) + sys.getsizeof(event.text)
        case _:
            return EVENT_SIZE
