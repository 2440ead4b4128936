"""Errors of the HTTP API: those of the wire, with a status of HTTP for each code. Pure."""

from collections.abc import Sequence

from mpchat.errors import AwayError, MpchatError, ProtocolError
from mpchat.ipc.http_questions import Answer, error_answer
from mpchat.protocol.sign_in import AUTH_REQUIRED, BAD_CREDENTIALS, EXPIRED, NOT_ALLOWED, TRY_LATER

# The status of an error by its code; 400 for all others: they are about the request.
STATUSES = {
    AUTH_REQUIRED: 401,
    BAD_CREDENTIALS: 401,
    EXPIRED: 401,
    NOT_ALLOWED: 403,
    "banned": 403,
    "muted": 403,
    "not_found": 404,
    "no_such_name": 404,
    "bad_room": 404,
    "bad_method": 405,
    "cannot_close": 409,
    "too_long": 413,
    "not_json_type": 415,
    "failed": 500,
    TRY_LATER: 503,
    "no_key": 503,
}
BAD_REQUEST = 400
# What a client is told that has to show a token, or another one (RFC 6750, section 3).
SHOW_A_TOKEN = ("WWW-Authenticate", 'Bearer realm="mpchat"')
SHOW_ANOTHER = ("WWW-Authenticate", 'Bearer realm="mpchat", error="invalid_token"')
# Seconds after which it may be better.
RETRY = ("Retry-After", "1")
# What the wire says of a join's proof, said of a request's.
_TEXTS = {
    BAD_CREDENTIALS: "the token is wrong: its signature, its audience or its claims",
    EXPIRED: "the token is over; send a fresh one",
}


class ApiError(ProtocolError):
    """A request that is not served."""

    def __init__(self, code: str, text: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        super().__init__(code, text)
        self.headers = tuple(headers)


def answer_to(error: MpchatError, *, cost: int = 0) -> Answer:
    """Return the answer for an error; ``cost`` is charged beside that of any request."""
    if isinstance(error, AwayError):
        error = ProtocolError(TRY_LATER, str(error))
    if not isinstance(error, ProtocolError):
        error = ProtocolError("failed", str(error))
    code, text = error.code, _TEXTS.get(error.code, error.text)
    headers = list(error.headers) if isinstance(error, ApiError) else []
    if code in (BAD_CREDENTIALS, EXPIRED):
        headers.append(SHOW_ANOTHER)
    elif code == AUTH_REQUIRED:
        headers.append(SHOW_A_TOKEN)
    elif code == TRY_LATER:
        headers.append(RETRY)
    answer = error_answer(STATUSES.get(code, BAD_REQUEST), code, text, *headers)
    return Answer(answer.status, answer.headers, answer.body, cost)
