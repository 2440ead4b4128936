"""The client without an event loop: the same names as ``aio``, for programs that may wait.

One thread per chat owns the socket: it connects, reads until the connection ends, and connects again, while
the program does something else. ``send`` writes from the thread that calls it. Every method may be called
from any thread; usually one thread reads and another writes.
"""

import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from mpchat.client.conversation import (
    CLOSE_TIMEOUT,
    DEFAULT_ROOM,
    HISTORY_PAGE,
    OPEN_TIMEOUT,
    READ_SIZE,
    SEND_TIMEOUT,
    A,
    Conversation,
    Request,
    Seat,
    State,
    connect_error,
    message_in,
)
from mpchat.client.core import Event, History, Message, Moderated, Pong, Rooms, Welcome, Who
from mpchat.client.proof import Jwt, Proof, Shown, proof_of
from mpchat.client.sockets import CONNECT_ERRORS, encryption, prepare, secured, shut, try_send
from mpchat.errors import ConnectionLostError, ProtocolError, TimedOutError
from mpchat.protocol.messages import (
    history_frame,
    join_frame,
    moderation_frame,
    ping_frame,
    rooms_frame,
    who_frame,
)
from mpchat.protocol.names import check_lengths

if TYPE_CHECKING:
    from mpchat.client.secure import Tls


def connect_blocking(
    host: str = "127.0.0.1",
    port: int = 4000,
    *,
    name: str | None = None,
    room: str = DEFAULT_ROOM,
    token: str | None = None,
    password: str | None = None,
    jwt: Jwt | None = None,
    secret: str | None = None,
    reconnect: bool = True,
    open_timeout: float = OPEN_TIMEOUT,
    send_timeout: float = SEND_TIMEOUT,
    tls: "Tls" = False,
) -> "BlockingChat":
    """Connect to the server at ``host``, ``port`` and return the chat, which ``with`` or ``close`` ends.

    Raises ``ConnectError`` when no connection is there within ``open_timeout`` seconds; the first connection
    is tried once. After a later loss the client reconnects with back-off, unless ``reconnect`` is false.

    With a ``name`` (1 to 20 characters) the client joins ``room`` (1 to 32) under that name before this
    returns. After each loss it joins again and gets the missed messages: each message once, or a ``Lost``
    event. It then also raises ``RefusedError``. Its code is ``name_taken`` when another client has the name,
    or when an earlier connection of the same client had it less than a minute ago. In that case the token of
    the earlier chat, its :attr:`BlockingChat.token`, gets the name back.

    A proof of identity goes with each connection's first join, at most one of three: the ``password`` of the
    name; ``jwt``, a JSON web token; the server's ``secret``. A ``jwt`` may be a function without arguments
    that returns the token: it is called before each attempt to connect, later in another thread. With a
    ``jwt`` the ``name`` may be left out: it is the token's subject.

    A proof that is missing or wrong raises ``RefusedError`` with the code ``auth_required`` (its ``proofs``
    are the kinds that the server takes), ``bad_credentials``, ``expired``, ``not_allowed`` or ``try_later``.
    Raises ``ValueError`` for more than one proof, and for a password or a secret without a name; and what the
    function raises.

    With ``tls`` the connection is encrypted, and the server must show a certificate for ``host`` that the
    system trusts; an ``ssl.SSLContext`` decides otherwise.
    """
    proof = proof_of(name, password, jwt, secret)
    seat = None if name is None and proof is None else Seat(name, room, token, proof)
    conversation = Conversation(host, port, reconnect=reconnect, seat=seat)
    chat = BlockingChat(
        conversation, host, port, open_timeout=open_timeout, send_timeout=send_timeout, tls=tls
    )
    return chat.open()


class BlockingChat:
    """One chat. Each message comes once: to ``recv``, an iteration or ``events``, whichever is first."""

    def __init__(
        self,
        conversation: Conversation,
        host: str,
        port: int,
        *,
        open_timeout: float,
        send_timeout: float,
        tls: "Tls" = False,
    ) -> None:
        """Use :func:`connect_blocking`. Timeouts are in seconds."""
        self._conversation = conversation
        self._host, self._port = host, port
        self._open_timeout = open_timeout
        self._send_timeout = send_timeout
        self._tls = encryption(tls)
        self._link: _Link | None = None
        self._thread: threading.Thread | None = None
        # Held while a message is written, so that no two mix; acquired before _changed, never inside it.
        self._sending = threading.Lock()
        # Guards the conversation and the link; notified when one of them has changed.
        self._changed = threading.Condition()

    @property
    def state(self) -> State:
        """The state of the chat."""
        return self._conversation.state

    @property
    def name(self) -> str | None:
        """This client's name as the server spells it; None for a client that has none yet."""
        seat = self._conversation.seat
        return None if seat is None else seat.name

    @property
    def room(self) -> str | None:
        """The client's room, also while it reconnects, as the server spells it; None for a plain client."""
        seat = self._conversation.seat
        return None if seat is None else seat.room

    @property
    def token(self) -> str | None:
        """The proof that the name belongs to this client, for a later ``connect``."""
        seat = self._conversation.seat
        return None if seat is None else seat.token

    @property
    def role(self) -> str | None:
        """``operator`` for a client that may kick, ban, mute and close rooms, else ``member``.

        None for a plain client.
        """
        return self._conversation.role

    @property
    def expires(self) -> float | None:
        """The time, in seconds since 1970, at which the client's token ends; None: never."""
        return self._conversation.expires

    def send(self, text: str) -> None:
        """Say ``text``. Return when the kernel has all of it; wait for a reconnect if there is no connection.

        At most once: a message that was sent before a loss is not sent again. An application that must know
        waits for the message to come back. Raises ``ProtocolError``, before sending, for text that no message
        can hold; ``TimedOutError`` or ``ConnectionLostError`` when the text was not sent and will not be.
        """
        self._send(self._conversation.encode(text), self._conversation.say)

    def tell(self, name: str, text: str) -> None:
        """Say ``text`` to the member ``name`` alone, in any room; it comes back to this client too.

        As :meth:`send`. When no member has that name, the event ``Refused`` says ``no_such_name``.
        """
        frame = self._conversation.encode_private(text, name)
        self._send(frame, lambda: self._conversation.tell(text, name))

    def join(
        self, name: str, room: str = DEFAULT_ROOM, *, token: str | None = None, **proof: Unpack[Shown]
    ) -> Welcome:
        """Join under a name, in a chat that was opened without one, and return the server's welcome.

        ``proof`` is ``password``, ``jwt`` or ``secret``, as in :func:`connect_blocking`. Later connections
        show it too.

        History and new messages follow the event ``Welcome``, as they do for :meth:`enter`. Raises
        ``RefusedError``, which leaves name and room as they were; ``TimedOutError`` when no answer came
        within ``send_timeout`` seconds, as in a chat whose events are not read; ``ConnectionLostError``;
        ``ProtocolError``, before sending, for a name far over its limit.
        """
        check_lengths(name=name, room=room)
        shown = proof_of(name, **proof)
        frame = join_frame(name, room, token=token, proof=None if shown is None else shown.show())
        return self._ask(Welcome, frame, shown)

    def enter(self, room: str) -> Welcome:
        """Change to ``room``. As :meth:`join`."""
        check_lengths(room=room)
        return self._ask(Welcome, join_frame(None, room))

    def who(self, room: str | None = None, *, after: str | None = None) -> Who:
        """Return up to 100 names in ``room`` (None: this client's) that follow ``after``. As :meth:`join`."""
        check_lengths(name=after, room=room)
        return self._ask(Who, who_frame(room, after))

    def rooms(self, *, after: str | None = None) -> Rooms:
        """Return the server's rooms, those that follow ``after``. As :meth:`join`."""
        check_lengths(room=after)
        return self._ask(Rooms, rooms_frame(after))

    def history(self, before: int | None = None, limit: int = HISTORY_PAGE) -> History:
        """Return up to ``limit`` (1 to 100) messages of the room with numbers below ``before``, oldest first.

        ``before`` is None for the newest. Long messages make it fewer; ``next`` of the answer is None where
        no older ones are kept, else the next ``before``. They are no events, and the chat's own messages may
        be among them. As :meth:`join`.
        """
        return self._ask(History, history_frame(before, limit))

    def ping(self) -> float:
        """Return how many seconds the server takes to answer. As :meth:`join`."""
        asked = time.monotonic()
        self._ask(Pong, ping_frame(0))
        return time.monotonic() - asked

    def renew(self, jwt: Jwt | None = None) -> Welcome:
        """Show a fresh token, which prolongs the connection's time, and stay in the room.

        ``jwt`` is as in :func:`connect_blocking`; None asks the function that was given there.
        Later connections show the fresh token, or ask the function. Raises as :meth:`join`, and
        ``ValueError`` without a token and a function.
        """
        proof = self._conversation.renewal() if jwt is None else Proof("jwt", jwt)
        return self._ask(Welcome, join_frame(None, None, proof=proof.show()), proof)

    def kick(self, name: str) -> Moderated:
        """End a member's connection, or those from an address or a network. For an operator.

        The answer has the number of connections. Raises ``RefusedError`` with the code ``not_allowed`` for a
        member that is no operator, ``no_such_name`` when no connection is meant; and as :meth:`join`.
        """
        return self.moderate("kick", name)

    def ban(self, name: str, seconds: float | None = None) -> Moderated:
        """Ban a name, an address or a network for ``seconds`` (1 to ten years), None: for good.

        As :meth:`kick`; raises ``ValueError`` for any other number.
        """
        return self.moderate("ban", name, seconds)

    def unban(self, name: str) -> Moderated:
        """Lift a ban. As :meth:`kick`."""
        return self.moderate("unban", name)

    def mute(self, name: str, seconds: float | None = None) -> Moderated:
        """Stop the delivery of what a member says. As :meth:`ban`, but only a name can be muted."""
        return self.moderate("mute", name, seconds)

    def unmute(self, name: str) -> Moderated:
        """Deliver a member's messages again. As :meth:`kick`."""
        return self.moderate("unmute", name)

    def close_room(self, room: str) -> Moderated:
        """Close ``room``: its members go into the lobby, and its history is forgotten. As :meth:`kick`.

        The answer has the number of members. The code is ``bad_room`` for the lobby and for no room.
        """
        return self.moderate("close", room)

    def moderate(self, action: str, target: str, seconds: float | None = None) -> Moderated:
        """Send an operator's request by its key: kick, ban, unban, mute, unmute or close.

        ``target`` is the room to close, or else the name. As the methods of these names.
        """
        check_lengths(room=target) if action == "close" else check_lengths(name=target)
        frame = moderation_frame(action, target, seconds)
        return self._ask(Moderated, frame, order=(action, target))

    def _ask(
        self,
        kind: type[A],
        frame: bytes,
        proof: Proof | None = None,
        *,
        order: tuple[str, str] | None = None,
    ) -> A:
        deadline = time.monotonic() + self._send_timeout
        if not self._sending.acquire(timeout=self._send_timeout):
            raise self._conversation.not_answered(self._send_timeout)
        try:
            # Under one lock, or the request could be noted for a later connection than it is sent on.
            with self._changed:
                link = self._writable_link(deadline)
                request = self._conversation.ask(kind, proof, order=order)
            try:
                link.write(frame, deadline)
            except BaseException as error:
                # A half-sent frame has ended the connection, and all its requests.
                with self._changed:
                    self._conversation.withdraw(request)
                if isinstance(error, TimedOutError):
                    raise self._conversation.not_taken(self._send_timeout) from None
                raise
        finally:
            self._sending.release()
        return self._answer_to(request, deadline, self._send_timeout)

    def _answer_to(self, request: Request[A], deadline: float, timeout: float) -> A:
        with self._changed:
            try:
                answered = self._changed.wait_for(lambda: request.done, max(0.0, deadline - time.monotonic()))
            finally:
                request.abandoned = not request.done
            if not answered:
                raise self._conversation.not_answered(timeout)
            return request.result()

    def _send(self, frame: bytes, note: Callable[[], Request[Message] | None]) -> None:
        """Send a message; ``note`` notes it for the connection that it is sent on."""
        deadline = time.monotonic() + self._send_timeout
        if not self._sending.acquire(timeout=self._send_timeout):
            raise self._conversation.not_sent(self._send_timeout)
        try:
            # A frame that was not sent whole is no message to any server, so it may be sent again.
            while not self._write(frame, note, deadline):
                pass
        finally:
            self._sending.release()

    def _write(self, frame: bytes, note: Callable[[], Request[Message] | None], deadline: float) -> bool:
        # Under one lock, as a request.
        with self._changed:
            link = self._writable_link(deadline)
            noted = note()
        try:
            return link.write(frame, deadline)
        except BaseException as error:
            with self._changed:
                self._conversation.withdraw(noted)
            if isinstance(error, TimedOutError):
                # The state does not say it: giving up half-way has ended the connection, and the reader may
                # have noted that.
                raise self._conversation.not_taken(self._send_timeout) from None
            raise

    def recv(self, timeout: float | None = None) -> Message:
        """Return the next message, waiting up to ``timeout`` seconds.

        Raises ``RefusedError`` for an error of the server and ``ProtocolError`` for a frame of another
        protocol, and can be called again after either; ``TimedOutError``; ``ConnectionLostError`` when
        the chat is closed, or lost without ``reconnect``. Skips connects and disconnects.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            message = message_in(self.next_event(remaining))
            if message is not None:
                return message

    def next_event(self, timeout: float | None = None) -> Event:
        """Return the next event of any kind, waiting up to ``timeout`` seconds; server errors are events."""
        with self._changed:
            event = self._changed.wait_for(self._take, timeout)
        if event is None:
            raise TimedOutError(f"nothing came within {timeout:g} s")
        return event

    def events(self) -> Iterator[Event]:
        """Iterate over all events, connects and disconnects too, until the chat is closed or lost."""
        with suppress(ConnectionLostError):
            while True:
                yield self.next_event()

    def __iter__(self) -> Self:
        """Iterate over the messages."""
        return self

    def __next__(self) -> Message:
        """Return the next message; end when the chat is closed. Raises as :meth:`recv`."""
        try:
            return self.recv()
        except ConnectionLostError:
            if self.state is State.CLOSED:
                raise StopIteration from None
            raise

    def open(self) -> Self:
        """Connect; :func:`connect_blocking` does it for you."""
        self._conversation.prove()
        try:
            link = self._dial()
        except CONNECT_ERRORS as error:
            raise connect_error(self._host, self._port, error) from None
        self._opened(link)
        # A daemon, so that a program that forgets to close the chat can still end.
        self._thread = threading.Thread(
            target=self._stay_connected, args=(link,), name="mpchat-reader", daemon=True
        )
        self._thread.start()
        if self._conversation.entrance is not None:
            self._let_in(self._conversation.entrance)
        return self

    def close(self) -> None:
        """End the chat; iterations over it end. May be called twice, and from any thread."""
        with self._changed:
            self._conversation.close()
            self._changed.notify_all()
            if self._link is not None:
                shut(self._link.sock, socket.SHUT_WR)
        if self._thread is None:
            return
        self._thread.join(CLOSE_TIMEOUT)
        with self._changed:
            if self._link is not None:
                shut(self._link.sock, socket.SHUT_RDWR)
        # The thread can now only be in an attempt to connect, which ends at its own deadline.
        self._thread.join(CLOSE_TIMEOUT)

    def __enter__(self) -> Self:
        """Return the chat, which is open already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the chat."""
        self.close()

    def _let_in(self, entrance: Request[Welcome]) -> None:
        try:
            self._answer_to(entrance, time.monotonic() + self._open_timeout, self._open_timeout)
        except BaseException:
            self.close()
            raise

    def _stay_connected(self, link: "_Link | None") -> None:
        """Read, and reconnect, until the chat ends. Runs in the thread that owns every socket of the chat."""
        while link is not None:
            failure = self._read(link)
            with self._changed:
                self._link = None
                self._conversation.lost(time.monotonic(), failure)
                self._changed.notify_all()
            link.close()
            link = self._redial()

    def _read(self, link: "_Link") -> OSError | None:
        """Read until the connection ends; return the error, None when the server closed it."""
        with link.readiness(selectors.EVENT_READ) as readable:
            while True:
                with self._changed:
                    # Paused and broken at once would mean to wait for ever.
                    self._changed.wait_for(lambda: not self._conversation.paused or link.failure is not None)
                    if self._conversation.paused:
                        return link.failure
                try:
                    readable.select()
                    data = link.sock.recv(READ_SIZE)
                except BlockingIOError:
                    continue
                except OSError as error:
                    return error
                if not data:
                    return link.failure
                self._received(data)
                if self._conversation.rejected is not None:
                    return None

    def _received(self, data: bytes) -> None:
        with self._changed:
            # Reading continues after close(): with unread bytes the kernel would reset the connection, and
            # the last message could be lost.
            self._conversation.received(data)
            self._changed.notify_all()

    def _redial(self) -> "_Link | None":
        """Connect again, however long it takes; None when the chat has ended."""
        while True:
            with self._changed:
                if self.state.final:
                    return None
                delay = self._conversation.next_delay()
                self._changed.wait_for(lambda: self.state.final, delay)
            if self.state.final:
                return None
            try:
                self._conversation.prove()
            except Exception as error:  # noqa: BLE001  # the application's: the chat outlives it
                with self._changed:
                    self._conversation.unproved(error)
                    self._changed.notify_all()
                continue
            with suppress(*CONNECT_ERRORS):
                link = self._dial()
                if self._opened(link):
                    return link
                link.close()

    def _dial(self) -> "_Link":
        sock = socket.create_connection((self._host, self._port), self._open_timeout)
        try:
            prepare(sock)
        except BaseException:
            sock.close()
            raise
        if self._tls is not None:
            sock = secured(sock, self._tls, self._host, self._open_timeout)
        return _Link(sock, self._notify)

    def _opened(self, link: "_Link") -> bool:
        """Start to use ``link``; return False when the chat was closed meanwhile."""
        with self._changed:
            if self.state.final:
                return False
            self._link = link
            try:
                link.begin(self._conversation.opened(time.monotonic()))
            except ProtocolError as error:
                link.give_up(error)
            self._changed.notify_all()
            return True

    def _writable_link(self, deadline: float) -> "_Link":
        with self._changed:
            self._changed.wait_for(self._can_write_or_never_will, max(0.0, deadline - time.monotonic()))
            if self._link is not None and self._can_write():
                return self._link
            if self.state.final:
                raise self._conversation.not_open()
            raise self._conversation.not_sent(self._send_timeout)

    def _can_write_or_never_will(self) -> bool:
        return self.state.final or self._can_write()

    def _can_write(self) -> bool:
        return self._link is not None and self._link.failure is None and self._conversation.seated

    def _take(self) -> Event | None:
        was_full = self._conversation.inbox.full
        event = self._conversation.next_event()
        if was_full:
            self._changed.notify_all()
        return event

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


class _Link:
    """One connection's socket; ``failure`` is set when no byte may follow.

    The reading thread closes it under the lock that a writer holds: a writer never uses a descriptor that has
    become another socket's.
    """

    def __init__(self, sock: socket.socket, on_failure: Callable[[], None]) -> None:
        self.sock = sock
        self.failure: OSError | None = None
        self._on_failure = on_failure
        self._writing = threading.Lock()

    def readiness(self, events: int) -> selectors.BaseSelector:
        """Return a selector for this socket alone; the caller closes it."""
        selector = selectors.DefaultSelector()
        selector.register(self.sock, events)
        return selector

    def begin(self, frame: bytes) -> None:
        """Write the first bytes; a fresh socket takes them whole."""
        try:
            if try_send(self.sock, frame) < len(frame):
                raise ConnectionAbortedError("no room in a fresh socket")
        except OSError as error:
            self._fail(error)
            shut(self.sock, socket.SHUT_RDWR)

    def give_up(self, error: Exception) -> None:
        """End a connection on which nothing can be sent."""
        self._fail(OSError(errno.EMSGSIZE, str(error)))
        shut(self.sock, socket.SHUT_RDWR)

    def write(self, frame: bytes, deadline: float) -> bool:
        """Write all of ``frame`` and return True, or False when the connection ended before that.

        A frame that was given up half-way (a deadline, Ctrl-C) ends the connection: the server would read the
        next frame as the rest of this one.
        """
        rest = memoryview(frame)
        with self._writing:
            try:
                while self.failure is None:
                    rest = rest[try_send(self.sock, rest) :]
                    if not rest:
                        return True
                    self._wait_for_room(deadline)
            except OSError as error:
                self._fail(error)
            except BaseException:
                self._give_up(len(rest) < len(frame))
                raise
        return False

    def close(self) -> None:
        """Close the socket after a writer that waits on it has stopped."""
        shut(self.sock, socket.SHUT_RDWR)
        with self._writing:
            self._fail(ConnectionAbortedError("closed"))
            self.sock.close()

    def _wait_for_room(self, deadline: float) -> None:
        with self.readiness(selectors.EVENT_WRITE) as writable:
            if not writable.select(max(0.0, deadline - time.monotonic())):
                raise TimedOutError("no room in the socket")

    def _give_up(self, begun: bool) -> None:
        if begun:
            self._fail(ConnectionAbortedError("a message was given up half-way"))
            shut(self.sock, socket.SHUT_RDWR)

    def _fail(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = error
            self._on_failure()
