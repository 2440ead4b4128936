"""Control socket: how commands talk to a running server. One JSON object a line each way.

A Unix socket of mode 0600 in the instance's folder; the peer's user is checked too. Synchronous: an answer
comes when what was asked for is done; what takes long says in lines before it how far it is. A path that is
too long for a socket address is reached through its folder's descriptor.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from mpchat.control.messages import _READ_SIZE, REQUEST_LIMIT, Answer, Request, _address
from mpchat.errors import MpchatError, NotRunningError, TimedOutError


def ask(
    path: Path,
    request: Request,
    timeout: float,
    on_progress: Callable[[dict[str, Any]], None] | None = None,
) -> Answer:
    """Send a request and wait for its final answer; ``on_progress`` is called with each line before it.

    ``timeout`` is the longest silence, in seconds. Raises :class:`NotRunningError` when nobody listens,
    :class:`TimedOutError` when no answer comes in time, and :class:`MpchatError` when it cannot be asked or
    answers something else.
    """
    asked = _encode(request)
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        with _told(path, request, timeout), _address(path) as address:
            sock.connect(address)
            sock.sendall(asked)
        while True:
            with _told(path, request, timeout):
                line = _read_line(sock, received, time.monotonic() + timeout)
            if not line:
                raise NotRunningError(f"the server ended before it answered {request.command}")
            answer = _decode(line, path)
            if answer.final:
                return answer
            if on_progress is not None:
                on_progress(answer.result)


@contextmanager
def _told(path: Path, request: Request, timeout: float) -> Iterator[None]:
    """Tell an error of the socket as one of ours."""
    try:
        yield
    except (TimeoutError, BlockingIOError):
        raise TimedOutError(f"no answer to {request.command} within {timeout:g} s") from None
    except PermissionError:
        raise MpchatError(f"no right to use {path}: only the server's own user may") from None
    except OSError as error:
        raise NotRunningError(f"nobody listens at {path}: {error.strerror}") from None


def _decode(line: bytes, path: Path) -> Answer:
    try:
        return msgspec.json.decode(line, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MpchatError(f"what listens at {path} is another version of mpchat: {error}") from None


def _encode(request: Request) -> bytes:
    try:
        encoded = msgspec.json.encode(request) + b"\n"
    except UnicodeEncodeError:
        raise MpchatError(f"{request.command}: this is not text in the terminal's encoding") from None
    if len(encoded) > REQUEST_LIMIT:
        raise MpchatError(f"{request.command}: {len(encoded)} bytes are too long, {REQUEST_LIMIT} are taken")
    return encoded


def _read_line(sock: socket.socket, received: bytearray, deadline: float) -> bytes:
    """Take the next line out of ``received``, which keeps what comes behind it; b"" at the end of all."""
    while (end := received.find(b"\n")) < 0:
        sock.settimeout(max(0.001, deadline - time.monotonic()))
        data = sock.recv(_READ_SIZE)
        if not data:
            return b""
        received += data
    line = bytes(received[: end + 1])
    del received[: end + 1]
    return line
