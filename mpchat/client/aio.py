"""The asyncio client: ``async with connect() as chat``, then ``send``, ``recv`` and ``async for``.

One task per chat owns the socket: it connects, reads until the connection ends, and connects again. It works
on the socket itself and not through a transport, for two reasons. It must stop reading when the application
does. And a transport whose write fails discards the server's last bytes, such as the error ``full``.
It needs a loop with ``add_writer``: every loop but the proactor of Windows.
"""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, suppress
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


def connect(
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
) -> "Chat":
    """Return a chat with the server at ``host``, ``port``: ``async with`` opens and closes it, as does
    ``await`` together with :meth:`Chat.close`.

    Opening raises ``ConnectError`` when no connection is there within ``open_timeout`` seconds; the first
    connection is tried once. After a later loss the client reconnects with back-off, unless ``reconnect`` is
    false.

    With a ``name`` (1 to 20 characters) the client joins ``room`` (1 to 32) under that name before the chat
    is open. After each loss it joins again and gets the missed messages: each message once, or a ``Lost``
    event.
    Opening then also raises ``RefusedError``. Its code is ``name_taken`` when another client has the name, or
    when an earlier connection of the same client had it less than a minute ago. In that case the token of the
    earlier chat, its :attr:`Chat.token`, gets the name back.

    A proof of identity goes with each connection's first join, at most one of three: the ``password`` of the
    name; ``jwt``, a JSON web token; the server's ``secret``. A ``jwt`` may be a function without arguments
    that returns the token: it is called before each attempt to connect, in the loop, so it should not block.
    With a ``jwt`` the ``name`` may be left out: it is the token's subject.

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
    return Chat(conversation, host, port, open_timeout=open_timeout, send_timeout=send_timeout, tls=tls)


class Chat:
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
        """Use :func:`connect`. Timeouts are in seconds."""
        self._conversation = conversation
        self._host, self._port = host, port
        self._open_timeout = open_timeout
        self._send_timeout = send_timeout
        self._tls = encryption(tls)
        self._link: _Link | None = None
        self._task: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._waiting: set[asyncio.Future[None]] = set()

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

    async def send(self, text: str) -> None:
        """Say ``text``. Return when the kernel has all of it; wait for a reconnect if there is no connection.

        At most once: a message that was sent before a loss is not sent again. An application that must know
        waits for the message to come back. Raises ``ProtocolError``, before sending, for text that no message
        can hold; ``TimedOutError`` or ``ConnectionLostError`` when the text was not sent and will not be.
        """
        await self._send(self._conversation.encode(text), self._conversation.say)

    async def tell(self, name: str, text: str) -> None:
        """Say ``text`` to the member ``name`` alone, in any room; it comes back to this client too.

        As :meth:`send`. When no member has that name, the event ``Refused`` says ``no_such_name``.
        """
        frame = self._conversation.encode_private(text, name)
        await self._send(frame, lambda: self._conversation.tell(text, name))

    async def join(
        self, name: str, room: str = DEFAULT_ROOM, *, token: str | None = None, **proof: Unpack[Shown]
    ) -> Welcome:
        """Join under a name, in a chat that was opened without one, and return the server's welcome.

        ``proof`` is ``password``, ``jwt`` or ``secret``, as in :func:`connect`. Later connections
        show it too.

        History and new messages follow the event ``Welcome``, as they do for :meth:`enter`. Raises
        ``RefusedError``, which leaves name and room as they were; ``TimedOutError`` when no answer came
        within ``send_timeout`` seconds, as in a chat whose events are not read; ``ConnectionLostError``;
        ``ProtocolError``, before sending, for a name far over its limit.
        """
        check_lengths(name=name, room=room)
        shown = proof_of(name, **proof)
        frame = join_frame(name, room, token=token, proof=None if shown is None else shown.show())
        return await self._ask(Welcome, frame, shown)

    async def enter(self, room: str) -> Welcome:
        """Change to ``room``. As :meth:`join`."""
        check_lengths(room=room)
        return await self._ask(Welcome, join_frame(None, room))

    async def who(self, room: str | None = None, *, after: str | None = None) -> Who:
        """Return up to 100 names in ``room`` (None: this client's) that follow ``after``. As :meth:`join`."""
        check_lengths(name=after, room=room)
        return await self._ask(Who, who_frame(room, after))

    async def rooms(self, *, after: str | None = None) -> Rooms:
        """Return the server's rooms, those that follow ``after``. As :meth:`join`."""
        check_lengths(room=after)
        return await self._ask(Rooms, rooms_frame(after))

    async def history(self, before: int | None = None, limit: int = HISTORY_PAGE) -> History:
        """Return up to ``limit`` (1 to 100) messages of the room with numbers below ``before``, oldest first.

        ``before`` is None for the newest. Long messages make it fewer; ``next`` of the answer is None where
        no older ones are kept, else the next ``before``. They are no events, and the chat's own messages may
        be among them. As :meth:`join`.
        """
        return await self._ask(History, history_frame(before, limit))

    async def ping(self) -> float:
        """Return how many seconds the server takes to answer. As :meth:`join`."""
        asked = time.monotonic()
        await self._ask(Pong, ping_frame(0))
        return time.monotonic() - asked

    async def renew(self, jwt: Jwt | None = None) -> Welcome:
        """Show a fresh token, which prolongs the connection's time, and stay in the room.

        ``jwt`` is as in :func:`connect`; None asks the function that was given there.
        Later connections show the fresh token, or ask the function. Raises as :meth:`join`, and
        ``ValueError`` without a token and a function.
        """
        proof = self._conversation.renewal() if jwt is None else Proof("jwt", jwt)
        return await self._ask(Welcome, join_frame(None, None, proof=proof.show()), proof)

    async def kick(self, name: str) -> Moderated:
        """End a member's connection, or those from an address or a network. For an operator.

        The answer has the number of connections. Raises ``RefusedError`` with the code ``not_allowed`` for a
        member that is no operator, ``no_such_name`` when no connection is meant; and as :meth:`join`.
        """
        return await self.moderate("kick", name)

    async def ban(self, name: str, seconds: float | None = None) -> Moderated:
        """Ban a name, an address or a network for ``seconds`` (1 to ten years), None: for good.

        As :meth:`kick`; raises ``ValueError`` for any other number.
        """
        return await self.moderate("ban", name, seconds)

    async def unban(self, name: str) -> Moderated:
        """Lift a ban. As :meth:`kick`."""
        return await self.moderate("unban", name)

    async def mute(self, name: str, seconds: float | None = None) -> Moderated:
        """Stop the delivery of what a member says. As :meth:`ban`, but only a name can be muted."""
        return await self.moderate("mute", name, seconds)

    async def unmute(self, name: str) -> Moderated:
        """Deliver a member's messages again. As :meth:`kick`."""
        return await self.moderate("unmute", name)

    async def close_room(self, room: str) -> Moderated:
        """Close ``room``: its members go into the lobby, and its history is forgotten. As :meth:`kick`.

        The answer has the number of members. The code is ``bad_room`` for the lobby and for no room.
        """
        return await self.moderate("close", room)

    async def moderate(self, action: str, target: str, seconds: float | None = None) -> Moderated:
        """Send an operator's request by its key: kick, ban, unban, mute, unmute or close.

        ``target`` is the room to close, or else the name. As the methods of these names.
        """
        check_lengths(room=target) if action == "close" else check_lengths(name=target)
        frame = moderation_frame(action, target, seconds)
        return await self._ask(Moderated, frame, order=(action, target))

    async def _ask(
        self,
        kind: type[A],
        frame: bytes,
        proof: Proof | None = None,
        *,
        order: tuple[str, str] | None = None,
    ) -> A:
        try:
            async with asyncio.timeout(self._send_timeout):
                async with self._sending:
                    link = await self._writable_link()
                    request = self._conversation.ask(kind, proof, order=order)
                    try:
                        await link.write(frame)
                    except BaseException:
                        # A half-sent frame has ended the connection, and all its requests.
                        self._conversation.withdraw(request)
                        raise
                return await self._answer_to(request)
        except TimeoutError:
            raise self._conversation.not_answered(self._send_timeout) from None

    async def _answer_to(self, request: Request[A]) -> A:
        try:
            while not request.done:
                await self._changed()
        except BaseException:
            request.abandoned = True
            raise
        return request.result()

    async def _send(self, frame: bytes, note: Callable[[], Request[Message] | None]) -> None:
        """Send a message; ``note`` notes it for the connection that it is sent on."""
        try:
            async with asyncio.timeout(self._send_timeout):
                async with self._sending:
                    # A frame that was not sent whole is no message to any server, so it may be sent again.
                    while not await self._write(await self._writable_link(), frame, note):
                        pass
        except TimeoutError:
            raise self._conversation.not_sent(self._send_timeout) from None
        # Sending in a loop must leave the reader its turn.
        await asyncio.sleep(0)

    async def _write(self, link: "_Link", frame: bytes, note: Callable[[], Request[Message] | None]) -> bool:
        noted = note()
        try:
            return await link.write(frame)
        except BaseException:
            self._conversation.withdraw(noted)
            raise

    async def recv(self, timeout: float | None = None) -> Message:
        """Return the next message, waiting up to ``timeout`` seconds.

        Raises ``RefusedError`` for an error of the server and ``ProtocolError`` for a frame of another
        protocol, and can be called again after either; ``TimedOutError``; ``ConnectionLostError`` when
        the chat is closed, or lost without ``reconnect``. Skips connects and disconnects.
        """
        async with _deadline(timeout):
            while (message := message_in(await self._next_event())) is None:
                pass
            return message

    async def next_event(self, timeout: float | None = None) -> Event:
        """Return the next event of any kind, waiting up to ``timeout`` seconds; server errors are events."""
        async with _deadline(timeout):
            return await self._next_event()

    async def events(self) -> AsyncIterator[Event]:
        """Iterate over all events, connects and disconnects too, until the chat is closed or lost."""
        with suppress(ConnectionLostError):
            while True:
                yield await self._next_event()

    def __aiter__(self) -> Self:
        """Iterate over the messages."""
        return self

    async def __anext__(self) -> Message:
        """Return the next message; end when the chat is closed. Raises as :meth:`recv`."""
        try:
            return await self.recv()
        except ConnectionLostError:
            if self.state is State.CLOSED:
                raise StopAsyncIteration from None
            raise

    async def open(self) -> Self:
        """Connect; ``async with`` does it for you."""
        self._conversation.prove()
        try:
            link = await self._dial()
        except CONNECT_ERRORS as error:
            raise connect_error(self._host, self._port, error) from None
        self._opened(link)
        self._task = asyncio.create_task(self._stay_connected(link))
        if self._conversation.entrance is not None:
            await self._let_in(self._conversation.entrance)
        return self

    async def close(self) -> None:
        """End the chat; iterations over it end. May be called twice."""
        self._conversation.close()
        self._notify()
        if self._task is None:
            return
        try:
            if self._link is not None:
                shut(self._link.sock, socket.SHUT_WR)
                await asyncio.wait({self._task}, timeout=CLOSE_TIMEOUT)
        finally:  # a cancelled close must not leave the reading task behind
            self._task.cancel()
        await asyncio.wait({self._task})

    def __await__(self) -> Generator[object, None, Self]:
        """Open the chat, as :meth:`open`."""
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        """Open the chat."""
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the chat."""
        await self.close()

    async def _let_in(self, entrance: Request[Welcome]) -> None:
        try:
            async with asyncio.timeout(self._open_timeout):
                await self._answer_to(entrance)
        except TimeoutError:
            await self.close()
            raise self._conversation.not_answered(self._open_timeout) from None
        except BaseException:
            await self.close()
            raise

    async def _stay_connected(self, link: "_Link") -> None:
        """Read, and reconnect, until the chat ends. This task owns every socket of the chat."""
        while True:
            try:
                failure = await self._read(link)
            finally:
                self._link = None
                link.close()
            self._conversation.lost(time.monotonic(), failure)
            self._notify()
            if self.state.final:
                return
            link = await self._redial()
            self._opened(link)

    async def _read(self, link: "_Link") -> OSError | None:
        """Read until the connection ends; return the error, None when the server closed it."""
        loop = asyncio.get_running_loop()
        while True:
            # Paused and broken at once would mean to wait for ever.
            while self._conversation.paused and link.failure is None:
                await self._changed()
            if self._conversation.paused:
                return link.failure
            try:
                data = await loop.sock_recv(link.sock, READ_SIZE)
            except OSError as error:
                return error
            if not data:
                return link.failure
            # Reading continues after close(): with unread bytes the kernel would reset the connection, and
            # the last message could be lost.
            self._conversation.received(data)
            self._notify()
            if self._conversation.rejected is not None:
                return None

    async def _redial(self) -> "_Link":
        while True:
            await asyncio.sleep(self._conversation.next_delay())
            try:
                self._conversation.prove()
            except Exception as error:  # noqa: BLE001  # the application's: the chat outlives it
                self._conversation.unproved(error)
                self._notify()
                continue
            with suppress(*CONNECT_ERRORS):
                return await self._dial()

    async def _dial(self) -> "_Link":
        """Connect to the first address that answers; all of them share one deadline."""
        loop = asyncio.get_running_loop()
        failure: OSError = OSError("the name has no address")
        async with asyncio.timeout(self._open_timeout):
            addresses = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in addresses:
                sock = socket.socket(family, kind, protocol)
                try:
                    sock.setblocking(False)
                    await loop.sock_connect(sock, address)
                    prepare(sock)
                    if self._tls is not None:
                        sock = await asyncio.to_thread(
                            secured, sock, self._tls, self._host, self._open_timeout
                        )
                    return _Link(sock, self._notify)
                except OSError as error:
                    sock.close()
                    failure = error
                except BaseException:
                    sock.close()
                    raise
        raise failure

    def _opened(self, link: "_Link") -> None:
        self._link = link
        try:
            link.begin(self._conversation.opened(time.monotonic()))
        except ProtocolError as error:
            link.give_up(error)
        self._notify()

    async def _writable_link(self) -> "_Link":
        while self._link is None or self._link.failure is not None or not self._conversation.seated:
            if self.state.final:
                raise self._conversation.not_open()
            await self._changed()
        return self._link

    async def _next_event(self) -> Event:
        while (event := self._take()) is None:
            await self._changed()
        return event

    def _take(self) -> Event | None:
        was_full = self._conversation.inbox.full
        event = self._conversation.next_event()
        if was_full:
            self._notify()
        return event

    async def _changed(self) -> None:
        """Wait until anything has changed; the caller then checks its own condition."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await future
        finally:
            self._waiting.discard(future)

    def _notify(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class _Link:
    """One connection's socket, for writing; ``failure`` is set when no byte may follow."""

    def __init__(self, sock: socket.socket, on_failure: Callable[[], None]) -> None:
        self.sock = sock
        self.failure: OSError | None = None
        self._on_failure = on_failure
        self._room: asyncio.Future[None] | None = None

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

    async def write(self, frame: bytes) -> bool:
        """Write all of ``frame`` and return True, or False when the connection ended before that.

        A frame that was given up half-way (a deadline, a cancelled task) ends the connection: the server
        would read the next frame as the rest of this one.
        """
        rest = memoryview(frame)
        try:
            while self.failure is None:
                rest = rest[try_send(self.sock, rest) :]
                if not rest:
                    return True
                await self._wait_for_room()
        except OSError as error:
            self._fail(error)
        except BaseException:
            if len(rest) < len(frame):
                self._fail(ConnectionAbortedError("a message was given up half-way"))
                shut(self.sock, socket.SHUT_RDWR)
            raise
        return False

    def close(self) -> None:
        """Close the socket, also while a writer waits on it."""
        if self._room is not None:
            asyncio.get_running_loop().remove_writer(self.sock)
        self._fail(ConnectionAbortedError("closed"))
        self.sock.close()

    async def _wait_for_room(self) -> None:
        loop = asyncio.get_running_loop()
        self._room = loop.create_future()
        loop.add_writer(self.sock, self._wake)
        try:
            await self._room
        finally:
            self._room = None
            # After close() the descriptor may already be another socket's.
            if self.sock.fileno() >= 0:
                loop.remove_writer(self.sock)

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _fail(self, error: OSError) -> None:
        if self.failure is None:
            self.failure = error
            self._wake()
            self._on_failure()


@asynccontextmanager
async def _deadline(seconds: float | None) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise TimedOutError(f"nothing came within {seconds:g} s") from None
