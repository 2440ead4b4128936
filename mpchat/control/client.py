"""Control client: how a command asks a running server and waits for the answer.

The socket is a Unix socket of mode 0600 in the instance's folder, and the server checks the peer's user too.
The exchange is synchronous: the answer comes when the request is done. A long request reports progress in
lines before its answer.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mpchat.control.messages import READ_SIZE, Answer, decode_answer, encode_request
from mpchat.control.requests import Request
from mpchat.control.socket_address import socket_address
from mpchat.errors import MpchatError, NotRunningError, TimedOutError
from mpchat.instance.owners import check_entry

Result = TypeVar("Result")

# What a command gets: the result as it came, also fields that this release does not know.
ReceivedAnswer = Answer[dict[str, Any]]


def ask(
    path: Path,
    request: Request,
    timeout: float,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> ReceivedAnswer:
    """Send a request and wait for its final answer; ``on_progress`` is called with each report before it.

    ``timeout`` is the longest silence, in seconds. Raise :class:`NotRunningError` if no server listens,
    :class:`TimedOutError` if no answer comes in time, and :class:`MpchatError` if the request cannot be sent
    or the answer cannot be read.
    """
    line = encode_request(request)
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        with _translated_errors(path, request, timeout), socket_address(path) as address:
            sock.connect(address)
            sock.sendall(line)
        while True:
            with _translated_errors(path, request, timeout):
                line = _read_line(sock, received, time.monotonic() + timeout)
            if not line:
                raise NotRunningError(f"the server ended before it answered {request.command()}")
            answer = _decode(line, path)
            if answer.final:
                return answer
            if on_progress is not None:
                on_progress(answer.result)


def result_as(answer: ReceivedAnswer, kind: type[Result]) -> Result:
    """Return the answer's result as a struct of :mod:`mpchat.control.answers`. Raise :class:`MpchatError`."""
    return convert_result(answer.result, kind)


def convert_result(result: dict[str, Any], kind: type[Result]) -> Result:
    """Return a result, or a report of progress, as a struct. Raise :class:`MpchatError`."""
    try:
        return msgspec.convert(result, kind)
    except msgspec.ValidationError as error:
        raise MpchatError(f"the server is another version of mpchat: {error}") from None


@contextmanager
def _translated_errors(path: Path, request: Request, timeout: float) -> Iterator[None]:
    """Raise the socket's errors as this package's."""
    try:
        yield
    except (TimeoutError, BlockingIOError):
        raise TimedOutError(f"no answer to {request.command()} within {timeout:g} s") from None
    except PermissionError:
        check_entry(path.parent)
        raise MpchatError(f"no right to use {path}: only the server's own user may") from None
    except OSError as error:
        raise NotRunningError(f"no server listens at {path}: {error.strerror}") from None


def _decode(line: bytes, path: Path) -> ReceivedAnswer:
    try:
        return decode_answer(line)
    except ValueError as error:
        raise MpchatError(f"what listens at {path} is another version of mpchat: {error}") from None


def _read_line(sock: socket.socket, received: bytearray, deadline: float) -> bytes:
    """Take the next line out of ``received``, which keeps what follows it; b"" at the end of the stream."""
    while (end := received.find(b"\n")) < 0:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(READ_SIZE)
        if not data:
            return b""
        received += data
    line = bytes(received[: end + 1])
    del received[: end + 1]
    return line
