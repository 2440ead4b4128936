"""HTTP questions: requests that workers pass on to the supervisor, and its answers to them.

A worker reads a request, and its body, and writes the answer: the supervisor sees no bytes of HTTP.
"""

import msgspec

# Headers of a request that are passed on, in lower case.
PASSED_HEADERS = ("accept", "accept-encoding", "authorization", "content-type", "if-none-match")
JSON = "application/json"


class Question(msgspec.Struct, frozen=True, array_like=True):
    """An HTTP request."""

    # The client's address: behind a proxy its own.
    host: str
    # In capitals, as a rule.
    method: str
    # Both as they came: percent-encoded. The query has no question mark.
    path: str
    query: str = ""
    # Those of PASSED_HEADERS that the request has; one that comes more than once is joined with ", ".
    headers: dict[str, str] = {}
    body: bytes = b""
    # True when a TLS process encrypts the connection.
    secure: bool = False

    def __repr__(self) -> str:
        """Return it without headers and body: they may hold a token."""
        return f"{self.method} {self.path} from {self.host}"


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """The answer to an HTTP request. The worker adds the length, the date and what keeps browsers safe."""

    status: int
    headers: list[tuple[str, str]] = []
    body: bytes = b""
    # What the client is charged beside the request and the answer's bytes; see ``worker.budget.BUDGET``.
    cost: int = 0


def as_json(status: int, content: object, *headers: tuple[str, str], cost: int = 0) -> Answer:
    """Return an answer with a JSON value as its body."""
    body = msgspec.json.encode(content) + b"\n"
    return Answer(status, [("Content-Type", JSON), *headers], body, cost)


def error_answer(status: int, code: str, text: str, *headers: tuple[str, str]) -> Answer:
    """Return an answer that says what was wrong, as an error frame does."""
    return as_json(status, {"error": {"code": code, "text": text}}, *headers)


encode_question = msgspec.msgpack.Encoder().encode
decode_question = msgspec.msgpack.Decoder(Question).decode
encode_answer = msgspec.msgpack.Encoder().encode
decode_answer = msgspec.msgpack.Decoder(Answer).decode
