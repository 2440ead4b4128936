"""Control messages: the lines that a command and the server exchange, one JSON object each.

A request is one line. An answer is one line too; lines of progress may come before it. What the lines carry
stands in :mod:`mpchat.control.requests` and :mod:`mpchat.control.answers`.
"""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import msgspec

from mpchat.control.requests import BY_COMMAND, Request
from mpchat.errors import ConfigError, Exit, MpchatError
from mpchat.text import visible

# Raised when a request or an answer changes its meaning.
VERSION = 1
# Bytes of the longest request that the server accepts: an announcement of the longest message fits, escaped.
REQUEST_LIMIT = 512 << 10
# Bytes read from a control connection at a time.
READ_SIZE = 64 << 10

Result = TypeVar("Result", covariant=True)


class Answer(msgspec.Struct, Generic[Result], frozen=True):
    """``exit`` is the exit code that the command ends with; ``text`` says why when it is not 0.

    An answer that is not ``final`` reports progress: only its ``result`` counts, and more answers will come.
    """

    result: Result
    exit: int = Exit.OK
    text: str = ""
    version: int = VERSION
    final: bool = True


# Takes each answer to one request, the final one last.
Reply = Callable[[Answer[object]], None]


class _RequestLine(msgspec.Struct, frozen=True):
    command: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")
    version: int = VERSION


def refusal(code: int, text: str) -> Answer[dict[str, Any]]:
    """Return the final answer to a request that was refused."""
    return Answer({}, code, text)


def encode_request(request: Request) -> bytes:
    """Return the request as a line. Raise :class:`MpchatError` if it is not text, or too long."""
    command = request.command()
    line = {"command": command, "arguments": request, "version": VERSION}
    try:
        encoded = msgspec.json.encode(line) + b"\n"
    except UnicodeEncodeError:
        raise MpchatError(f"{command}: this is not text in the terminal's encoding") from None
    if len(encoded) > REQUEST_LIMIT:
        raise MpchatError(f"{command}: {len(encoded)} bytes are too long, {REQUEST_LIMIT} are allowed")
    return encoded


def decode_request(line: bytes) -> Request:
    """Return the request in a line. Raise :class:`MpchatError`, whose text names what is wrong.

    Wrong arguments are a :class:`ConfigError`, wrong usage for the command.
    """
    try:
        received = msgspec.json.decode(line, type=_RequestLine)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MpchatError(f"not a request: {error}") from None
    if received.version != VERSION:
        raise MpchatError(
            f"the server speaks version {VERSION} of the control protocol, not {received.version}"
        )
    kind = BY_COMMAND.get(received.command)
    if kind is None:
        raise MpchatError(f"this server knows no {received.command!r}; it knows {', '.join(BY_COMMAND)}")
    try:
        return msgspec.json.decode(received.arguments, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"wrong arguments of {received.command}: {error}") from None


def encode_answer(answer: Answer[object]) -> bytes:
    """Return the answer as a line. Text that cannot be encoded is escaped, or its answer becomes an error."""
    try:
        return msgspec.json.encode(answer) + b"\n"
    except UnicodeEncodeError:  # half of a surrogate pair: a path of bytes that are not text
        text = visible(answer.text) or "the answer is not text: it holds bytes that are not UTF-8"
        code = answer.exit or (Exit.FAILED if answer.final else Exit.OK)
        return encode_answer(Answer({}, code, text, final=answer.final))


def decode_answer(line: bytes) -> Answer[dict[str, Any]]:
    """Return the answer in a line. Raise ``ValueError`` if there is none."""
    return msgspec.json.decode(line, type=Answer[dict[str, Any]])
