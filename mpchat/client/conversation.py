"""The part of a chat that outlives one connection: its state, its unread events, when to try again.

Does no I/O, never waits, and is given the time. The asyncio and the blocking client are this class with two
ways of waiting around it. Only one thread at a time may call it.
"""

import math
import random
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Generic, TypeVar

from mpchat.client.core import (
    ClientProtocol,
    Connected,
    Disconnected,
    Event,
    Garbled,
    History,
    Joined,
    Left,
    Lost,
    Message,
    Moderated,
    Pong,
    Received,
    Refused,
    Rejected,
    Rooms,
    Welcome,
    Who,
)
from mpchat.client.proof import NoTokenError, Proof, kept
from mpchat.client.resume import Gap, Tracks
from mpchat.config import BY_NAME, format_address
from mpchat.errors import (
    ConfigError,
    ConnectError,
    ConnectionLostError,
    MpchatError,
    ProtocolError,
    RefusedError,
    TimedOutError,
)
from mpchat.protocol.messages import join_frame, private_frame
from mpchat.protocol.names import name_key

MAX_PORT = 65_535
# The port of a server with default settings.
DEFAULT_PORT: int = BY_NAME["port"].default
# Seconds to resolve the address and connect: over twice the cost of a lost first SYN (1 s, then 2 s).
OPEN_TIMEOUT = 10.0
# Seconds for one message to reach the kernel, a reconnect included.
SEND_TIMEOUT = 10.0
# Seconds that closing waits for the server to close too: a reset could destroy the last message.
CLOSE_TIMEOUT = 1.0
# Bytes of one read: the usual content of a socket's receive buffer under load.
READ_SIZE = 65_536
# Bytes of memory for unread events. Past this limit the socket is not read, so TCP slows the server down. One
# more read may still be added.
INBOX_LIMIT = 1_048_576
# Bytes that an event costs beside its text: the object and its place in the queue.
EVENT_SIZE = 96
# The room of a join that names none.
DEFAULT_ROOM = "lobby"
# Messages of a request for history that names no number.
HISTORY_PAGE = 50
# A join that was rejected for one of these may be granted later: a name is free again a minute after its
# connection was lost, members leave rooms, and failed attempts to sign in are forgotten.
PASSING = frozenset(
    {
        "name_taken",
        "room_full",
        "too_many_rooms",
        "too_many_rooms_by_address",
        "full",
        "too_fast",
        "try_later",
    }
)
# Error code sent when the token is over: in a join, or of a connection, which the server then closes.
EXPIRED = "expired"
# Code of the event that says that the application's function has returned no token.
NO_TOKEN = "no_token"
# Error codes that end a member's chat. A kick would do nothing to a client that comes back by itself. To take
# a name back from a newer connection would never end.
FINAL = frozenset({"kicked", "banned", "taken_over", "tls_required"})
# Error code sent when the operator has closed the room. The welcome that follows answers no join.
ROOM_CLOSED = "room_closed"
# Error codes of a join, and of every other request. A server of an earlier version answers both with
# not_a_message.
_WRONG_JOIN = PASSING | {
    *("bad_name", "bad_room", "bad_request", "banned", "not_a_message"),
    *("auth_required", "not_allowed"),
}
# More error codes of a join with a proof.
_WRONG_PROOF = frozenset({"bad_credentials", EXPIRED})
_WRONG_QUESTION = frozenset({"bad_request", "bad_room", "not_joined", "not_a_message"})
# More error codes of a question: in a closed chat, and with a token for some rooms.
_NOT_ANSWERED = frozenset({"auth_required", "not_allowed"})
# More error codes of an operator's request.
_NOT_MODERATED = frozenset({"no_such_name", "bad_name", "failed"})
# Error codes of a private message. An operator's request may have the same ones.
_NOT_TOLD = frozenset(
    {"no_such_name", "muted", "not_joined", "not_a_message", "bad_request", "too_long", "auth_required"}
)
# Operator's requests whose answer may spell the target otherwise: a ban of host:port is one of the host.
_RESPELLED = frozenset({"ban", "close"})
# Seconds that a connection must last for the next loss to count as the first. A full server accepts, rejects
# and closes: the client must not come back to it as fast as to one that was only restarted.
STEADY = 5.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """The wait before each attempt to reconnect: exponential, with full jitter.

    ``delay(n)`` is a random time up to ``first * 2**n``, never below ``floor`` nor above ``cap``; all in
    seconds. Full jitter, because a thousand clients lose a restarted server at the same moment.
    """

    # A server that only restarts is back within a second or two.
    first: float = 0.5
    # An unlucky draw must not become a busy loop.
    floor: float = 0.1
    # A user at a terminal does not wait longer.
    cap: float = 20.0
    # Gives numbers in [0, 1).
    draw: Callable[[], float] = random.random

    def delay(self, attempt: int) -> float:
        """Return the seconds before attempt number ``attempt``, from 0 on."""
        # ldexp, and not **: a float that is too large for attempt 2000 must not end the client.
        ceiling = min(self.cap, math.ldexp(self.first, min(attempt, 64)))
        return max(self.floor, ceiling * self.draw())


class State(Enum):
    """The state of a chat. It begins ``DISCONNECTED``; ``LOST`` and ``CLOSED`` are final."""

    CONNECTED = "connected"
    # Another attempt to connect will follow.
    DISCONNECTED = "disconnected"
    # The connection was lost, and the chat does not reconnect.
    LOST = "lost"
    # The application closed it.
    CLOSED = "closed"

    @property
    def final(self) -> bool:
        """True when no other connection will follow."""
        return self in (State.LOST, State.CLOSED)


class Inbox:
    """Events that arrived and were not read, in order, with a limit in bytes that the reader must respect."""

    __slots__ = ("_events", "_limit", "size")

    def __init__(self, limit: int) -> None:
        """Start empty."""
        self._events: deque[Event] = deque()
        self._limit = limit
        self.size = 0

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self._events)

    @property
    def full(self) -> bool:
        """True when nothing more should be read."""
        return self.size >= self._limit

    def put(self, event: Event) -> None:
        """Append ``event``. Unread losses in a row become one, so they cannot pile up."""
        if isinstance(event, Disconnected):
            for _ in range(self._reconnects_at_the_end()):
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

    def _reconnects_at_the_end(self) -> int:
        """Return how many of the last events a new loss replaces: a loss, a connect, a passing rejection."""
        events = self._events
        count = 2 + (len(events) > 0 and isinstance(events[-1], Rejected) and events[-1].retrying)
        if len(events) < count or not isinstance(events[-count], Disconnected):
            return 0
        return count if isinstance(events[1 - count], Connected) else 0


A = TypeVar("A", Welcome, Who, Rooms, History, Pong, Moderated, Message)


class Request(Generic[A]):
    """A request to the server, from its sending until ``answer`` or ``error`` is set.

    A private message is one too, of the kind ``Message``: it comes back, or the server rejects it.
    """

    __slots__ = ("abandoned", "answer", "error", "kind", "means", "proof", "resumes", "said")

    def __init__(
        self,
        kind: type[A],
        *,
        resumes: bool = False,
        proof: Proof | None = None,
        means: tuple[str, str | int] | None = None,
        said: int = 0,
    ) -> None:
        """Expect an answer of this ``kind``, after those to so many messages that were ``said`` before.

        A join that ``resumes`` continues the last connection; a join may show a ``proof``. The answer names
        what the request ``means``: see :func:`_ordered` and :func:`_told`.
        """
        self.kind: type[A] = kind
        self.means = means
        self.said = said
        # True when nothing waits for the answer any more; an answer that comes late is dropped.
        self.abandoned = False
        self.resumes = resumes
        self.proof = proof
        self.answer: A | None = None
        self.error: MpchatError | None = None

    @property
    def done(self) -> bool:
        """True when waiting is over."""
        return self.answer is not None or self.error is not None

    def result(self) -> A:
        """Return the answer of a request that is done, or raise its error."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


@dataclass(frozen=True, slots=True)
class Seat:
    """The name and room that each connection begins with, with their proofs.

    ``token`` is from a welcome: it proves that the name is the member's. ``proof`` proves the identity.
    ``name`` is None until the first welcome where a JSON web token has it.
    """

    name: str | None
    room: str = DEFAULT_ROOM
    token: str | None = field(default=None, repr=False)
    proof: Proof | None = None


class Conversation:
    """A chat with one server over as many connections as it takes.

    With a ``seat`` each connection begins with a join, and no message is sent before the welcome. Messages
    from the server before the welcome are ignored: until then the connection is a plain client's, and the
    same messages come again with numbers.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        reconnect: bool = True,
        seat: Seat | None = None,
        backoff: Backoff | None = None,
        inbox_limit: int = INBOX_LIMIT,
    ) -> None:
        """Begin disconnected from ``host``, ``port``; ``inbox_limit`` is in bytes.

        Raises ``ConfigError`` for a port out of range, ``ProtocolError`` for a name or a proof that no frame
        can hold.
        """
        if not 0 < port <= MAX_PORT:
            # The resolver would take the port modulo 65536, and so find another server.
            raise ConfigError(f"the port is {port}; it must be 1 to {MAX_PORT}")
        self.address = format_address(host, port)
        self.state = State.DISCONNECTED
        self.inbox = Inbox(inbox_limit)
        self._reconnect = reconnect
        self._backoff = backoff or Backoff()
        self._attempt = 0
        self._opened_at = -math.inf
        self._last_reason = ""
        self._protocol = ClientProtocol()
        self._greeted = False
        self.seat = seat
        # From the last welcome; None for a plain client.
        self.role: str | None = None
        self.expires: float | None = None
        # What the next connection's join shows: of a renewable proof, the text that prove() has got.
        self._shown: tuple[str, str] | None = None
        # True from the end of a token until the next welcome: if a fresh one is over too, the chat ends.
        self._asked_again = False
        # The proof of a renewal that was answered with expired, until anything else comes. The server may
        # have meant the old token, and then it ends the connection.
        self._doubtful: Proof | None = None
        # True when the next attempt to connect need not wait; and when that has been so since the last
        # connection that was steady.
        self._at_once = self._hurried = False
        self._told_no_token = ""
        if seat is not None:  # raises what no connection can repair
            join_frame(seat.name, seat.room, token=seat.token)
            if seat.proof is not None and not seat.proof.renewable:
                self.prove()
        # True when this connection has got its welcome, or needs none.
        self.seated = seat is None
        # Set when the join of a later connection was rejected, or by an error that ends the chat. The
        # connection's owner then closes it.
        self.rejected: Rejected | None = None
        # The join that this connection began with; opening the chat waits for the first one.
        self.entrance: Request[Welcome] | None = None
        self._was_seated = False
        # True from the error room_closed until the welcome that follows it.
        self._room_closed = False
        self._tracks = Tracks()
        # Requests on this connection, in the order of sending, which is the order of their answers.
        self._requests: deque[Request[Any]] = deque()
        # Messages to the room on this connection, and how many of them have come back or were rejected, as
        # far as is known: a message that is heard says that the client is heard too.
        self._said = self._settled = 0

    @property
    def paused(self) -> bool:
        """True while the connection should not be read: the application is behind."""
        return self.inbox.full and self.state is not State.CLOSED

    def encode(self, text: str) -> bytes:
        """Return the frame of ``text``. Raises :class:`ProtocolError` when no frame can hold it."""
        return self._protocol.send(text)

    def encode_private(self, text: str, to: str) -> bytes:
        """Return the frame of ``text`` for ``to`` alone. Raises as :meth:`encode`."""
        return private_frame(text, to)

    def prove(self) -> None:
        """Get the proof that the next join shows; call before each attempt to connect.

        Raises what the application's function raises, and as :meth:`encode` for a proof that no frame holds.
        The function may wait, so no lock should be held.
        """
        if self.seat is not None and self.seat.proof is not None:
            shown = self.seat.proof.show()
            seat = self.seat if not self._greeted else Seat(None)
            join_frame(seat.name, seat.room, token=seat.token, proof=shown)
            self._shown = shown

    def unproved(self, error: Exception) -> None:
        """Note that :meth:`prove` has failed before a later connection: it is tried again with back-off.

        The text of the event is that of a ``NoTokenError``, else the error's type: its text may have a proof.
        """
        text = str(error) if isinstance(error, NoTokenError) else type(error).__name__
        if text != self._told_no_token and self.seat is not None and not self.state.final:
            self._told_no_token = text
            self.inbox.put(Rejected(self.seat.name or "", self.seat.room, NO_TOKEN, text, True))

    def renewal(self) -> Proof:
        """Return the proof whose function returns fresh tokens. Raises ``ValueError`` without one."""
        proof = None if self.seat is None else self.seat.proof
        if proof is None or not proof.renewable:
            raise ValueError("no function returns this chat's token: give the fresh one")
        return proof

    def opened(self, now: float) -> bytes:
        """Note that a connection was made; return the bytes to send first, maybe none.

        Raises ``ProtocolError`` for a join that no frame holds: close the connection, and note its loss.
        """
        self._protocol = ClientProtocol(named=self.seat is not None)
        self._opened_at = now
        self.state = State.CONNECTED
        self.rejected = None
        self._room_closed = False
        self._said = self._settled = 0
        self._told_no_token = ""
        self.seated = self.seat is None
        self.inbox.put(Connected(self.address, again=self._greeted))
        self._greeted = True
        return self._hello(self.seat) if self.seat is not None else b""

    def received(self, data: bytes) -> None:
        """Take bytes from the connection; after :meth:`close` ignore them."""
        if self.state is State.CLOSED:
            return
        self._protocol.receive_data(data)
        for event in self._protocol.events():
            if self.rejected is None:
                self._doubtful = None
                self._take(event)

    def lost(self, now: float, error: OSError | None) -> None:
        """Note the connection's end: by ``error``, or by the server when it is None."""
        if self.state.final:
            return
        if now - self._opened_at >= STEADY:
            self._attempt, self._hurried = 0, False
        self._last_reason = self._why(error)
        again = self._reconnect and (self.rejected is None or self.rejected.retrying)
        expired = self.rejected is not None and self.rejected.code == EXPIRED
        # Only once: a server whose clock is wrong may let the client in and end its token at once.
        self._at_once = again and expired and not self._hurried
        self._hurried |= self._at_once
        self.state = State.DISCONNECTED if again else State.LOST
        self.inbox.put(Disconnected(self.address, self._last_reason, retrying=again))
        self.seated = self.seat is None
        if self.seat is not None:
            self.seat = replace(self.seat, proof=kept(self.seat.proof, self._doubtful))
        self._doubtful = None
        self._give_up_requests(f"the connection to {self.address} was lost before the answer came")

    def ask(
        self, kind: type[A], proof: Proof | None = None, *, order: tuple[str, str] | None = None
    ) -> Request[A]:
        """Note a request that is being sent now; one at a time, in the order of sending.

        A join may show a ``proof``, which is kept for later connections when the join is granted. ``order``
        is the action and the target of an operator's request.
        """
        means = None if order is None else _ordered(*order)
        request = Request(kind, proof=proof, means=means, said=self._said)
        self._requests.append(request)
        # The answer must be decoded, even when it rejects the first join.
        self._protocol.named = True
        return request

    def say(self) -> None:
        """Note a message to the room that is being sent now: an error may be about it."""
        self._said += 1

    def tell(self, text: str, to: str) -> Request[Message]:
        """Note a private message that is being sent now, as :meth:`ask`: an error may be about it."""
        request = Request(Message, means=_told(text, to))
        self._requests.append(request)
        return request

    def withdraw(self, request: Request[A] | None) -> None:
        """Note that ``request``, or a message to the room (None), was not sent after all."""
        if request is None:
            self._said = max(self._settled, self._said - 1)
        elif request in self._requests:
            self._requests.remove(request)

    def next_delay(self) -> float:
        """Return the seconds to wait before the next attempt to connect."""
        if self._at_once:
            self._at_once = False
            return 0.0
        delay = self._backoff.delay(self._attempt)
        self._attempt += 1
        return delay

    def close(self) -> None:
        """Note that the application has closed the chat."""
        self.state = State.CLOSED
        self._give_up_requests(f"the chat with {self.address} is closed")

    def not_open(self) -> ConnectionLostError:
        """Return the error for a chat without a connection."""
        if self.state is State.CLOSED:
            return ConnectionLostError(f"the chat with {self.address} is closed")
        return ConnectionLostError(f"the connection to {self.address} is lost: {self._last_reason}")

    def not_sent(self, timeout: float) -> TimedOutError | ConnectionLostError:
        """Return the error for a message that was not sent within ``timeout`` seconds."""
        if self.state is State.CONNECTED:
            return self.not_taken(timeout) if self.seated else self.not_answered(timeout)
        return ConnectionLostError(f"not sent within {timeout:g} s: {self.not_open()}")

    def not_taken(self, timeout: float) -> TimedOutError:
        """Return the error for a message that the server did not read for ``timeout`` seconds."""
        return TimedOutError(f"not sent within {timeout:g} s: {self.address} does not read")

    def not_answered(self, timeout: float) -> TimedOutError:
        """Return the error for a request without an answer after ``timeout`` seconds."""
        return TimedOutError(f"no answer from {self.address} within {timeout:g} s")

    def next_event(self) -> Event | None:
        """Take the next event; None when there is none yet, ``ConnectionLostError`` when none will come."""
        if self.state is not State.CLOSED and self.inbox:
            return self.inbox.take()
        if self.state.final:
            raise self.not_open()
        return None

    def _why(self, error: OSError | None) -> str:
        if self.rejected is not None:
            return f"{self.rejected.text} ({self.rejected.code})"
        if error is not None:
            return error.strerror or type(error).__name__
        if self._protocol.receive_eof():
            return "the server closed it"
        return "the server closed it inside a frame"

    def _hello(self, seat: Seat) -> bytes:
        track = self._tracks.get(seat.room)
        self.entrance = Request(Welcome, resumes=track is not None)
        self._requests.append(self.entrance)
        after, epoch = (None, None) if track is None else (track.after, track.epoch)
        return join_frame(seat.name, seat.room, token=seat.token, after=after, epoch=epoch, proof=self._shown)

    def _take(self, event: Received) -> None:
        match event:
            case Message():
                self._message(event)
            case Welcome():
                self._welcome(event)
            case Moderated() | Pong():
                # The client sent nothing that it could answer, so it says nothing to the application.
                self._settle(event)
            case Who() | Rooms() | History():
                if self._settle(event) is None:
                    self.inbox.put(event)
            case Refused():
                self._room_closed |= event.code == ROOM_CLOSED
                self._refused(event)
            case Joined() | Left() if (
                event.count == 1 and self.seat is not None and event.names == (self.seat.name,)
            ):
                pass  # the client's own joining or leaving
            case _:
                self.inbox.put(event)

    def _message(self, message: Message) -> None:
        match message:
            case Message(seq=None, to=None):
                if self.seat is None:
                    self._settled = self._said
                elif not self.seated:
                    return
                # To a member it is the farewell of its host: no message of the client has come back.
            case Message(text, sender, to=str(to)):
                if self.seat is not None and sender == self.seat.name:
                    self._came_back(_told(text, to))
            case Message(room=str(room), seq=int(seq)) if track := self._tracks.get(room):
                new, gap = track.take(seq)
                self._put_gap(room, gap)
                if not new:
                    return
        self.inbox.put(message)

    def _welcome(self, welcome: Welcome) -> None:
        # Before its first welcome a client has sent nothing but the join. A host answers that in this form
        # when another host has entered the member already.
        unasked = self._room_closed or (welcome.again and self.seated)
        request = None if unasked else self._settle(welcome)
        self._room_closed = False
        if welcome.again:
            self._not_all_come_back()
        goes_on = (
            welcome.again and self.seat is not None and name_key(self.seat.room) == name_key(welcome.room)
        )
        resumes = goes_on or (request is not None and request.resumes)
        if resumes and self.seat is not None:
            self._tracks.respelled(self.seat.room, welcome.room)
        track, gap = self._tracks.entered(welcome.room), None
        if resumes and track.epoch:
            gap = track.resume(welcome.epoch, welcome.seq, welcome.recovered, welcome.lost)
        else:
            track.join(welcome.epoch, welcome.seq)
        self.role, self.expires, self._asked_again = welcome.role, welcome.expires, False
        proof = kept(self.seat.proof if self.seat else None, request.proof if request else None)
        self.seat = Seat(welcome.name, welcome.room, welcome.token, proof)
        self.seated = self._was_seated = True
        self.inbox.put(welcome)
        self._put_gap(welcome.room, gap)

    def _not_all_come_back(self) -> None:
        """Wait no longer than for a later answer: private messages may have been lost with the log."""
        for each in self._tells():
            each.abandoned = True

    def _put_gap(self, room: str, gap: Gap | None) -> None:
        if gap is not None:
            self.inbox.put(Lost(room, *gap))

    def _settle(self, answer: Welcome | Who | Rooms | History | Pong | Moderated) -> Request[Any] | None:
        """Give ``answer`` to the oldest request of its kind and return that; None without such a request."""
        request = next((each for each in self._requests if each.kind is type(answer)), None)
        if isinstance(answer, Moderated):
            request = self._ordered(answer)
        if request is not None:
            self._answered(request)
            request.answer = answer
        return request

    def _answered(self, request: Request[Any]) -> None:
        """Remove ``request``, and those before it that were abandoned: their answers will not come.

        A pong says nothing about them, because it may overtake other answers.
        """
        before = self._requests.index(request) if request.kind is not Pong else 0
        for each in [each for at, each in enumerate(self._requests) if at < before and each.abandoned]:
            self._requests.remove(each)
        self._requests.remove(request)

    def _ordered(self, done: Moderated) -> Request[Any] | None:
        """Return the operator's request that was carried out; None without such a request."""
        means = _ordered(done.action, done.target)
        asked = [each for each in self._requests if each.kind is Moderated and each.means]
        same = [each for each in asked if each.means == means]
        if not same and done.action in _RESPELLED:
            same = [each for each in asked if each.means and each.means[0] == done.action]
        return next(iter(same), None)

    def _came_back(self, means: tuple[str, str | int]) -> None:
        """Note that a private message of this client came back, so no error is about it or an earlier one."""
        if any(each.means == means for each in self._tells()):
            for each in self._tells():
                self._requests.remove(each)
                if each.means == means:
                    return

    def _tells(self) -> list[Request[Any]]:
        return [each for each in self._requests if each.kind is Message]

    def _refused(self, refused: Refused) -> None:
        """Find the requests that were rejected; without one, the server rejected a message."""
        left, tells = refused.times, len(self._tells())
        while left and self.rejected is None and self._rejects(refused):
            left -= 1
        # The application waits for no answer to a private message, so its error is an event.
        left += tells - len(self._tells())
        self._settled = min(self._said, self._settled + left)
        if left and self.rejected is None:
            self.inbox.put(replace(refused, times=left))

    def _rejects(self, refused: Refused) -> bool:
        """Give the error to a request, or to the chat; returns False when it is about a message."""
        request = next((each for each in self._requests if self._may_mean(refused, each)), None)
        if request is None and (refused.code in FINAL or refused.code == EXPIRED) and self.seat is not None:
            self._sent_away(refused, self.seat)
            return True
        if request is None:
            return False
        self._answered(request)
        request.error = RefusedError(refused.code, refused.text, proofs=refused.proofs)
        if refused.code == EXPIRED:
            self._doubtful = request.proof
        if request is self.entrance and self.seat is not None and self._was_seated:
            self._sent_away(refused, self.seat)
        return True

    def _sent_away(self, refused: Refused, seat: Seat) -> None:
        retrying = refused.code in PASSING
        if refused.code == EXPIRED and seat.proof is not None and seat.proof.renewable:
            retrying, self._asked_again = not self._asked_again, True
        self.rejected = Rejected(
            seat.name or "",
            seat.room,
            refused.code,
            refused.text,
            self._reconnect and retrying,
            refused.proofs,
        )
        self.inbox.put(self.rejected)

    def _may_mean(self, refused: Refused, request: Request[Any]) -> bool:
        # Before the welcome nothing else is sent.
        if request is self.entrance:
            return True
        if request.kind is Welcome:
            return _may_mean_join(refused.code, request, self._settled)
        if request.kind is Message:
            return refused.code in _NOT_TOLD
        more: frozenset[str] = frozenset() if request.kind is Pong else _NOT_ANSWERED
        if request.kind is Moderated:
            more |= _NOT_MODERATED
        return refused.code in _WRONG_QUESTION or refused.code in more

    def _give_up_requests(self, reason: str) -> None:
        for request in self._requests:
            request.error = ConnectionLostError(reason)
        self._requests.clear()


def _may_mean_join(code: str, join: Request[Any], settled: int) -> bool:
    """Tell whether an error may be about ``join``, when so many messages are ``settled``."""
    proof = join.proof
    if code == "auth_required" and proof is not None:
        # A wrong proof has other codes, so it is about a message that was said before. But a name may need
        # another proof than the secret.
        return proof.kind == "secret" and settled >= join.said
    return code in _WRONG_JOIN or (proof is not None and code in _WRONG_PROOF)


def _ordered(action: str, target: str) -> tuple[str, str]:
    """Return what an operator's request means: any spelling of a name is the same name."""
    return action, name_key(target)


def _told(text: str, to: str) -> tuple[str, int]:
    """Return what a private message means; of its text the hash, which costs no memory."""
    return name_key(to), hash(text)


def message_in(event: Event) -> Message | None:
    """Return ``event`` if it is a message, None for a notice; raise an error of the server."""
    match event:
        case Message():
            return event
        case Refused():
            raise RefusedError(event.code, event.text, event.times, event.proofs)
        case Garbled():
            raise ProtocolError(event.code, event.text)
        case _:
            return None


def connect_error(host: str, port: int, error: Exception) -> ConnectError:
    """Return the error for a first connection that could not be made."""
    address = format_address(host, port)
    if isinstance(error, ConnectionRefusedError):
        option = "" if port == DEFAULT_PORT else f" --port {port}"
        return ConnectError(f"no server answers at {address}; start one with: mpchat start{option}")
    if isinstance(error, TimeoutError):
        return ConnectError(f"no answer from {address} in time; is the address right?")
    return ConnectError(f"cannot connect to {address}: {getattr(error, 'strerror', None) or error}")


def _weight(event: Event) -> int:
    match event:
        case Message():
            return EVENT_SIZE + _sizes(event.text, event.sender, event.room, event.to)
        case Refused():
            return EVENT_SIZE + _sizes(event.code, event.text, *event.proofs)
        case Rejected():
            return EVENT_SIZE + _sizes(event.name, event.room, event.code, event.text, *event.proofs)
        case Garbled():
            return EVENT_SIZE + _sizes(event.code, event.text)
        case Disconnected():
            return EVENT_SIZE + _sizes(event.address, event.reason)
        case Welcome():
            return EVENT_SIZE + _sizes(event.name, event.room, event.epoch, event.token, event.role)
        case _:
            return EVENT_SIZE + _list_size(event)


def _list_size(event: Event) -> int:
    match event:
        case Joined():
            return _sizes(event.room, *event.names)
        case Left():
            return _sizes(event.room, event.reason, *event.names)
        case Who():
            return _sizes(event.room, event.next, *event.names)
        case History():
            return _sizes(event.room) + sum(map(_weight, event.messages))
        case Rooms():
            return _sizes(event.next) + sum(EVENT_SIZE + _sizes(each.room) for each in event.rooms)
        case _:
            return 0


def _sizes(*texts: str | None) -> int:
    return sum(map(sys.getsizeof, texts))
