"""HTTP answers: what a request is answered with. No I/O.

Loaded when the first browser comes: h11 reads requests and writes answers, and the handshake of a WebSocket
is that of the package websockets, whose protocol object is dropped afterwards.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NamedTuple

import h11
from websockets.http11 import Request
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from mpchat.protocol.http import ALIVE, HEAD_LIMIT, HEALTH, POLICY, SAFE_HEADERS, http_date, path_of
from mpchat.worker.site import File

SUBPROTOCOL = Subprotocol("mpchat")
# Lines of a request's head at most, as in the package websockets: each takes h11 some 3 µs, however short.
MOST_LINES = 128
# By this name the page's tests know it.
_POLICY = POLICY
_TEXT = "text/plain; charset=utf-8"
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
# RFC 6455, section 4.2.2: what a client is told whose handshake asks for something else.
_VERSION = "13"
_UPGRADE = (("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", _VERSION))


class Answer(NamedTuple):
    """An answer as bytes, and what comes after it."""

    data: bytes
    # True when the connection is to end.
    last: bool
    # True when the connection is a WebSocket from here on.
    upgraded: bool = False


class Site(NamedTuple):
    """What answers depend on, beside the request."""

    files: Mapping[str, File]
    # Origins of pages that may connect, beside the server's own.
    origins: Sequence[str]


def answer(head: bytes, site: Site, now: float) -> Answer:
    """Return the answer to a request's head; ``b""`` stands for one that is too long.

    ``now`` is in Unix seconds.
    """
    exchange = Exchange(now)
    if not head:
        return exchange.refuse(431, f"the head of a request has {HEAD_LIMIT} bytes at most")
    if head.count(b"\n") > MOST_LINES:
        return exchange.refuse(431, f"the head of a request has {MOST_LINES} lines at most")
    try:
        request = exchange.read(head)
    except h11.RemoteProtocolError as error:
        return exchange.refuse(error.error_status_hint, f"this is no HTTP request: {error}")
    path = path_of(request.target.decode("latin-1"))
    if request.method not in (b"GET", b"HEAD"):
        return exchange.text(405, "only GET and HEAD are known here", ("Allow", "GET, HEAD"))
    if path == "/ws":
        return _upgrade(exchange, head, request, site)
    if path == HEALTH:
        return exchange.text(200, ALIVE[1])
    if path == "/readyz":
        # The supervisor has let this connection in, and tells those 503 that it refuses. So a probe connects
        # anew each time.
        return exchange.text(200, "clients are accepted", ("Connection", "close"))
    if path in site.files:
        return _file(exchange, request, site.files[path])
    return exchange.text(404, "there is nothing here; the chat's page is /")


def too_slow(seconds: float, now: float) -> bytes:
    """Return the answer to a request whose head did not come in time."""
    return Exchange(now).refuse(408, f"the head of the request did not come within {seconds:g} seconds").data


class Exchange:
    """One request and its answer."""

    def __init__(self, now: float) -> None:
        """``now`` is in Unix seconds; set it again for an answer that comes later."""
        self.now = now
        self.h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._without_body = False

    def read(self, head: bytes) -> h11.Request:
        """Return the request of a whole head, without its body. Raises ``h11.RemoteProtocolError``."""
        request = self.read_head(head)
        # A body that follows is not read: then the connection ends, so that nobody takes it for a request.
        self.h11.next_event()
        return request

    def read_head(self, head: bytes) -> h11.Request:
        """Return the request of a whole head; its body may follow. Raises ``h11.RemoteProtocolError``."""
        self.h11.receive_data(head)
        request = self.h11.next_event()
        if not isinstance(request, h11.Request):
            raise h11.RemoteProtocolError("not a request", 400)
        self._without_body = request.method == b"HEAD"
        if self.h11.trailing_data[0]:  # h11 takes two line feeds for the end of a head, too
            raise h11.RemoteProtocolError("a line of the head ends without a carriage return", 400)
        return request

    def refuse(self, status: int, text: str) -> Answer:
        """Answer with an error after which nothing can be read."""
        return self.text(status, text, ("Connection", "close"))

    def text(self, status: int, text: str, *more: tuple[str, str]) -> Answer:
        """Answer with a line for people."""
        return self.send(status, text.encode() + b"\n", ("Content-Type", _TEXT), *more)

    def send(self, status: int, body: bytes, *headers: tuple[str, str]) -> Answer:
        """Answer with a body, of which a client that asked with HEAD gets the size alone."""
        size = () if status == 304 else (("Content-Length", str(len(body))),)
        end = (("Connection", "close"),) if self.h11.their_state is h11.SEND_BODY else ()
        response = h11.Response(
            status_code=status,
            headers=[("Date", http_date(self.now)), *headers, *size, *end, *SAFE_HEADERS],
            reason=HTTPStatus(status).phrase,
        )
        data = self.h11.send(response) or b""
        if body and not self._without_body:
            data += self.h11.send(h11.Data(data=body)) or b""
        data += self.h11.send(h11.EndOfMessage()) or b""
        states = self.h11.our_state, self.h11.their_state
        return Answer(data, last=states != (h11.DONE, h11.DONE))


def _file(exchange: Exchange, request: h11.Request, file: File) -> Answer:
    # A browser asks each time, and is told that nothing has changed: after an update all files fit.
    headers = (("Content-Type", file.kind), ("ETag", file.tag), ("Cache-Control", "no-cache"))
    tags = [each.strip().removeprefix("W/") for each in _header(request, b"if-none-match").split(",")]
    known = file.tag in tags or "*" in tags
    return exchange.send(304, b"", *headers) if known else exchange.send(200, file.body, *headers)


def _header(request: h11.Request, name: bytes) -> str:
    return ", ".join(value.decode("latin-1") for key, value in request.headers if key == name)


def _upgrade(exchange: Exchange, head: bytes, request: h11.Request, site: Site) -> Answer:
    if request.method != b"GET" or "websocket" not in _header(request, b"upgrade").lower():
        return exchange.text(426, "this path is for WebSocket clients", *_UPGRADE)
    if _header(request, b"sec-websocket-version") not in ("", _VERSION):
        return exchange.text(426, f"version {_VERSION} of WebSocket is known here, no other", *_UPGRADE)
    origin = _header(request, b"origin")
    if origin and not _is_allowed(origin, _header(request, b"host"), site.origins):
        return exchange.text(
            403, "pages of this origin may not connect: the setting origins lists those that may"
        )
    protocol = ServerProtocol(subprotocols=[SUBPROTOCOL], select_subprotocol=_choose)
    protocol.receive_data(head)
    asked = [event for event in protocol.events_received() if isinstance(event, Request)]
    if not asked:
        return exchange.refuse(400, f"this is no WebSocket handshake: {protocol.parser_exc or 'incomplete'}")
    response = protocol.accept(asked[0])
    if response.status_code != 101:
        more = _UPGRADE if response.status_code == 426 else (("Connection", "close"),)
        return exchange.text(response.status_code, bytes(response.body or b"").decode().strip(), *more)
    protocol.send_response(response)
    return Answer(b"".join(protocol.data_to_send()), last=False, upgraded=True)


def _is_allowed(origin: str, host: str, origins: Sequence[str]) -> bool:
    """Tell whether a page of this origin may connect: the server's own, by whatever name it was reached."""
    scheme, _, own = origin.lower().partition("://")
    port = _DEFAULT_PORTS.get(scheme, "")  # an origin leaves it out, and a proxy may add it
    own = own.removesuffix(port)
    return own == host.lower().removesuffix(port) or f"{scheme}://{own}" in origins or "*" in origins


def _choose(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    return SUBPROTOCOL if SUBPROTOCOL in offered else None
