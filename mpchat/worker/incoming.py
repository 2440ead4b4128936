"""Incoming: an HTTP request that is passed on, from its head until its body is whole. No I/O.

h11 reads it. The bytes stay with the connection's dialect until then, so that another worker can begin anew.
"""

import h11

from mpchat.ipc.http_questions import PASSED_HEADERS, Answer, Question, error_answer
from mpchat.protocol.http import HEAD_LIMIT, path_of
from mpchat.worker import http_answers
from mpchat.worker.http_answers import MOST_LINES, Exchange

# Bytes that a body takes on its way at most, in limits of a body: in chunks it has their lengths between.
CHUNKED_SHARE = 2


class Incoming:
    """One request that is passed on."""

    def __init__(self, head: bytes, limit: int, since: float) -> None:
        """Begin with a whole head.

        ``limit`` is in bytes, for the body. ``since`` is when the head was whole (seconds, monotonic).
        """
        self.since = since
        # Bytes that were taken, and the bytes of the request alone once it is whole.
        self.size = 0
        self._head = head
        self._limit = limit
        self._exchange = Exchange(0.0)
        self._request: h11.Request | None = None
        self._body = bytearray()

    def take(self, data: bytes) -> "h11.EndOfMessage | Answer | None":
        """Take the bytes that have come since.

        Return the end of the request when it is whole, an answer that refuses it, or None: more is to come.
        """
        try:
            if self._request is None:
                self._read_head()
                data = data[len(self._head) :]
            self.size += len(data)
            return self._read_body(data)
        except h11.RemoteProtocolError as error:
            return _refused(error.error_status_hint, f"this is no HTTP request: {error}")

    def _read_head(self) -> None:
        if self._head.count(b"\n") > MOST_LINES:
            raise h11.RemoteProtocolError(f"the head has {MOST_LINES} lines at most", 431)
        self._request = self._exchange.read_head(self._head)
        self.size = len(self._head)

    def _read_body(self, data: bytes) -> "h11.EndOfMessage | Answer | None":
        connection = self._exchange.h11
        if self.announced > self._limit:
            return self._too_large()
        if data:
            connection.receive_data(data)
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Data):
                self._body += event.data
                if len(self._body) > self._limit:
                    return self._too_large()
            elif isinstance(event, h11.EndOfMessage):
                self.size -= len(connection.trailing_data[0])
                return event
            else:
                much = self.size > HEAD_LIMIT + CHUNKED_SHARE * self._limit
                return self._too_large() if much else None

    def _too_large(self) -> Answer:
        return _refused(413, f"the body of a request has {self._limit} bytes at most")

    @property
    def announced(self) -> int:
        """The bytes that the head says the body has; 0 where it does not say."""
        lengths = self._values("content-length")
        return int(lengths[0]) if lengths and lengths[0].isdecimal() else 0

    def _values(self, name: str) -> list[str]:
        assert self._request is not None
        wanted = name.encode()
        return [value.decode("latin-1") for key, value in self._request.headers if key == wanted]

    def let_continue(self) -> bytes:
        """Return what a client is told that asks whether to send its body; ``b""``: it does not ask."""
        if not self._exchange.h11.they_are_waiting_for_100_continue:
            return b""
        return self._exchange.h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b""

    def question(self, host: str, *, secure: bool) -> Question:
        """Return the request, which is whole, as the supervisor gets it."""
        assert self._request is not None
        target = self._request.target.decode("latin-1")
        found = {name: ", ".join(values) for name in PASSED_HEADERS if (values := self._values(name))}
        method, query = self._request.method.decode(), target.partition("?")[2]
        return Question(host, method, path_of(target), query, found, bytes(self._body), secure)

    def answer(self, given: Answer, now: float, *, last: bool = False) -> http_answers.Answer:
        """Return an answer as bytes; ``last``: the connection is to end. ``now`` is in Unix seconds."""
        self._exchange.now = now
        last = last and self._exchange.h11.their_state is not h11.SEND_BODY  # then it says so anyway
        end = (("Connection", "close"),) if last else ()
        headers = (*given.headers, ("Cache-Control", "no-store"), *end)
        return self._exchange.send(given.status, given.body, *headers)


def _refused(status: int, text: str) -> Answer:
    return error_answer(status, "too_long" if status in (413, 431) else "bad_request", text)
