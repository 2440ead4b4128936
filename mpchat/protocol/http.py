"""HTTP as a dialect: the heads of requests, cut out of a connection's bytes. Pure.

What a request means and what it is answered with is :mod:`mpchat.worker.http_answers`.
"""

from datetime import UTC, datetime
from math import inf
from typing import ClassVar
from urllib.parse import urlsplit

from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT
from mpchat.protocol.framing import PLAIN_FRAMING, Framing
from mpchat.protocol.likely_cause import HalfFrame
from mpchat.protocol.session import DialectState

# Bytes of a request's head at most.
HEAD_LIMIT = 8 << 10
HEAD_END = b"\r\n\r\n"
# Where a probe asks whether the loop turns, and its answer: a status and a line.
HEALTH = "/healthz"
ALIVE = "200 OK", "the server's loop turns"
# Paths that the supervisor answers: these, and those below the second.
METRICS, API = "/metrics", "/api"
# Nothing from elsewhere, and no code or style in the page itself.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
# Headers of each answer: what a browser may do with it.
SAFE_HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)
# The words of a date, the same in every country (RFC 9110, section 5.6.7).
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def http_date(now: float) -> str:
    """Return a moment, in Unix seconds, as the header Date has it."""
    at = datetime.fromtimestamp(now, UTC)
    return f"{_DAYS[at.weekday()]}, {at.day:02} {_MONTHS[at.month - 1]} {at.year:04} {at:%H:%M:%S} GMT"


def path_of(target: str) -> str:
    """Return the path of a target, also of one that names the server (RFC 9112, section 3.2.2)."""
    if target.startswith("/"):
        return target.partition("?")[0]
    try:
        parts = urlsplit(target)
    except ValueError:
        return target
    return (parts.path or "/") if parts.scheme in ("http", "https") else target


def is_passed_on(head: bytes) -> bool:
    """Tell whether a whole head asks for something that the supervisor answers."""
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    path = path_of(rest.partition(b" ")[0].decode("latin-1"))
    return method != b"CONNECT" and (path in (METRICS, API) or path.startswith(f"{API}/"))


def asks_for(head: bytes, path: str) -> bool:
    """Tell whether a whole head asks with GET or HEAD for what is at a path."""
    method, _, rest = head.partition(b"\r\n")[0].partition(b" ")
    target, _, version = rest.partition(b" ")
    if method not in (b"GET", b"HEAD") or not version.startswith(b"HTTP/1.") or HEAD_END not in head:
        return False
    return path_of(target.decode("latin-1")) == path


def bare_answer(asked: bytes, status: str, text: str, now: float) -> bytes:
    """Return an answer with a line for people, after which the connection ends.

    For answers that must not wait until a library is loaded; ``asked`` is the request's head or its
    beginning, ``status`` is a code and a phrase, and ``now`` is in Unix seconds. A client that asked with
    HEAD gets the size of the line alone.
    """
    body = f"{text}\n".encode()
    headers = (
        ("Date", http_date(now)),
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
        *SAFE_HEADERS,
    )
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers)]
    head = "\r\n".join(lines).encode() + HEAD_END
    return head if asked.startswith(b"HEAD ") else head + body


class HttpDialect:
    """What a browser speaks before it has asked for a WebSocket. It posts nothing and reads no stream."""

    __slots__ = ("_kept", "_lacking", "_searched", "asked")

    name: ClassVar[str] = "http"
    framing: ClassVar[Framing] = PLAIN_FRAMING

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, resumed: DialectState | None = None) -> None:
        """Begin, or go on from ``resumed``; ``limit`` is for messages, of which there are none here."""
        self.asked = False
        self._kept = bytearray(resumed.partial if resumed else b"")
        # Where the end of the head is not before.
        self._searched = 0
        # With how many bytes the request was found to lack a part of its body.
        self._lacking = 0

    @property
    def has_more(self) -> bool:
        """True when a whole head is kept, or more than a head may have; False while its body lacks bytes."""
        if self._lacking and self._lacking == len(self._kept):
            return False
        return self._end() >= 0 or len(self._kept) > HEAD_LIMIT

    @property
    def mid_frame(self) -> bool:
        """True while a head has begun and not ended."""
        return bool(self._kept) and not self.has_more

    @property
    def held(self) -> int:
        """How many bytes are kept."""
        return len(self._kept)

    def receive_data(self, data: bytes, posts: list[tuple[int, bytes]], most: float = inf) -> bytes:
        """Keep bytes of the client; :meth:`take_head` cuts them."""
        self._kept += data
        return b""

    def take_head(self) -> bytes | None:
        """Return the next request's head with its empty line; ``b""`` when it is too long, None when it is
        not whole."""
        end = self._end()
        if end < 0:
            return b"" if len(self._kept) > HEAD_LIMIT else None
        head = bytes(self._kept[:end])
        del self._kept[:end]
        self._searched = 0
        return head if end <= HEAD_LIMIT else b""

    @property
    def head(self) -> bytes:
        """The head that is kept; ``b""`` when it is too long or not whole."""
        end = self._end()
        return bytes(self._kept[:end]) if 0 <= end <= HEAD_LIMIT else b""

    def kept_from(self, start: int) -> bytes:
        """Return what is kept behind the first ``start`` bytes."""
        return bytes(self._kept[start:])

    def wait_for_body(self) -> None:
        """Take note that what is kept lacks a part of the request's body."""
        self._lacking = len(self._kept)

    def drop(self, size: int) -> None:
        """Forget the first ``size`` bytes: a request with its body."""
        del self._kept[:size]
        self._searched = self._lacking = 0

    def take_rest(self) -> bytes:
        """Return all that is kept, and keep nothing."""
        rest = bytes(self._kept)
        self._kept.clear()
        self._searched = 0
        return rest

    def _end(self) -> int:
        """Return where the head ends; -1 when that has not come. Looks at each byte once."""
        found = self._kept.find(HEAD_END, self._searched)
        if found < 0:
            self._searched = max(0, len(self._kept) - len(HEAD_END) + 1)
            return -1
        self._searched = found
        return found + len(HEAD_END)

    @property
    def closing(self) -> None:
        """None: what is wrong is told by an answer."""
        return None

    def take_control(self) -> bytes:
        """Return nothing: all answers come from elsewhere."""
        return b""

    def end_run(self) -> bytes:
        """Return nothing: there are no errors on the wire of messages."""
        return b""

    def take_counted(self) -> int:
        """Return 0, for the same reason."""
        return 0

    def receive_eof(self) -> bool:
        """Take the end of the client's stream: nothing is owed for a head that is not whole."""
        return True

    def half_frame(self) -> HalfFrame | None:
        """Return None: a head is no frame."""
        return None

    def export(self) -> DialectState:
        """Return all that another process needs to go on."""
        return DialectState(bytes(self._kept))
