"""Receiver: one connection to the program that events are sent to, and one request at a time on it.

Whatever the receiver does, a request ends: there is one deadline for all of it, and no more of an answer is
read than is needed. A redirect is an answer like any other. Blocks; for a thread.
"""

import base64
import socket
import ssl
import threading
import time
from contextlib import suppress
from typing import NamedTuple

import h11

from mpchat import __version__
from mpchat.hook_url import HookUrl

# Seconds for a connection with its handshake, and for a whole request with its answer.
CONNECT_TIMEOUT = 5.0
TIMEOUT = 10.0
# Bytes of an answer's body that are read to use the connection again; a longer one costs the connection.
BODY_LIMIT = 64 << 10
# Bytes of an answer's head, and of one read.
HEAD_LIMIT = 16 << 10
READ_SIZE = 16 << 10


class ReceiverError(Exception):
    """A delivery has no answer; the text says why."""


class Answer(NamedTuple):
    """What the receiver has answered."""

    status: int
    reason: str = ""
    retry_after: str = ""


class Receiver:
    """The receiver, with the connection that was used last, as long as that may be used again."""

    def __init__(self, *, timeout: float = TIMEOUT) -> None:
        """``timeout`` is how many seconds a request may take."""
        self._timeout = timeout
        self._url: HookUrl | None = None
        self._sock: socket.socket | None = None
        self._http = h11.Connection(h11.CLIENT)
        self._tls: ssl.SSLContext | None = None
        self._deadline = 0.0
        # One thread sends, another may abort.
        self._lock = threading.Lock()
        self._aborted = False

    def post(self, url: HookUrl, body: bytes, headers: dict[str, str]) -> Answer:
        """Send a body and return the answer. Raise :class:`ReceiverError` if none comes in time."""
        self._deadline = time.monotonic() + self._timeout
        if self._sock is not None and (url != self._url or not self._is_open()):
            self.close()
        used = self._sock is not None
        try:
            try:
                return self._exchange(url, body, headers)
            except _EndedError:
                if not used:
                    raise
                # The receiver has closed a connection that was open for a while, as it may at any time.
                return self._exchange(url, body, headers)
        except _EndedError as error:
            raise ReceiverError(str(error)) from None
        except ssl.SSLCertVerificationError as error:
            raise ReceiverError(f"its certificate is not trusted: {error.verify_message}") from None
        except TimeoutError:
            raise ReceiverError(f"no answer within {self._timeout:g} s") from None
        except OSError as error:
            raise ReceiverError(error.strerror or str(error)) from None
        except h11.RemoteProtocolError:  # its own text may show what came
            raise ReceiverError("its answer is not HTTP") from None

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()

    def abort(self) -> None:
        """End what another thread is just doing here, and all that it begins later."""
        with self._lock:
            self._aborted = True
            if self._sock is not None:
                with suppress(OSError):
                    self._sock.shutdown(socket.SHUT_RDWR)

    def _is_open(self) -> bool:
        """Tell whether an idle connection has no news: it would be that it was closed."""
        assert self._sock is not None
        self._sock.settimeout(0.0)
        try:
            self._sock.recv(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        return False

    def _exchange(self, url: HookUrl, body: bytes, headers: dict[str, str]) -> Answer:
        reusable = False
        try:
            if self._sock is None:
                self._connect(url)
            answer = self._request(url, body, headers)
            reusable = self._finish()
        finally:
            if not reusable:
                self.close()
        return answer

    def _connect(self, url: HookUrl) -> None:
        """Connect to the first of the host's addresses that answers."""
        found = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
        for place, (family, kind, protocol, _, address) in enumerate(found, 1):
            sock = socket.socket(family, kind, protocol)
            with self._lock:
                self._sock, self._url = sock, url
            try:
                sock.settimeout(min(CONNECT_TIMEOUT, self._left()))
                sock.connect(address)
                break
            except OSError:
                self.close()
                if place == len(found):
                    raise
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if url.scheme == "https":
            sock.settimeout(min(CONNECT_TIMEOUT, self._left()))
            self._shake_hands(sock, url.host)
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT)

    def _shake_hands(self, sock: socket.socket, host: str) -> None:
        """Encrypt the connection, and check the receiver's certificate by the system's authorities."""
        self._tls = self._tls or ssl.create_default_context()
        secure = self._tls.wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
        with self._lock:
            self._sock = secure
        secure.do_handshake()

    def _request(self, url: HookUrl, body: bytes, headers: dict[str, str]) -> Answer:
        """Send a request; return its answer without the body."""
        request = h11.Request(
            method="POST", target=url.target, headers=list(_headers(url, body, headers).items())
        )
        parts = (request, h11.Data(data=body), h11.EndOfMessage())
        data = b"".join(self._http.send(part) or b"" for part in parts)
        with suppress(ConnectionError):  # it may have answered before it had read all
            self._send(data)
        while True:
            event = self._next_event()
            if isinstance(event, h11.Response):
                found = {name: value.decode("latin-1") for name, value in event.headers}
                reason = event.reason.decode("latin-1")
                return Answer(event.status_code, reason, found.get(b"retry-after", ""))
            if not isinstance(event, h11.InformationalResponse):
                raise _EndedError("it closes connections without an answer")

    def _finish(self) -> bool:
        """Read the rest of an answer. Return whether the connection may be used again."""
        size = 0
        try:
            while not isinstance(event := self._next_event(), h11.EndOfMessage):
                size += len(event.data) if isinstance(event, h11.Data) else 0
                if size > BODY_LIMIT or not isinstance(event, h11.Data):
                    return False
            self._http.start_next_cycle()
        except (_EndedError, OSError, h11.ProtocolError):  # it has said what it thinks of the batch
            return False
        return True

    def _next_event(self) -> h11.Event:
        """Return what the receiver says next. Raise what :meth:`post` knows when there is nothing more."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            try:
                data = self._ready().recv(READ_SIZE)
            except ConnectionError as error:
                raise _EndedError(error.strerror or "the connection was reset") from None
            if not data and not self._http.trailing_data[0] and self._http.their_state is h11.SEND_RESPONSE:
                raise _EndedError("it closes connections without an answer")
            self._http.receive_data(data)
        if not isinstance(event, h11.Event):
            raise _EndedError("it says more than an answer")
        return event

    def _send(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[self._ready().send(view) :]

    def _ready(self) -> socket.socket:
        """Return the socket, for one call that ends in time."""
        assert self._sock is not None
        self._sock.settimeout(self._left())
        return self._sock

    def _left(self) -> float:
        """Return the seconds that are left. Raise ``TimeoutError`` if there are none."""
        left = self._deadline - time.monotonic()
        if left <= 0 or self._aborted:
            raise TimeoutError
        return left


class _EndedError(Exception):
    """The receiver has closed the connection before it has answered."""


def _headers(url: HookUrl, body: bytes, headers: dict[str, str]) -> dict[str, str]:
    found = {
        "Host": url.authority,
        "User-Agent": f"mpchat/{__version__}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **headers,
    }
    if url.user or url.password:
        pair = base64.b64encode(f"{url.user}:{url.password}".encode()).decode()
        found["Authorization"] = f"Basic {pair}"
    return found
