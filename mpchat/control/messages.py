"""Control messages: what a command and the server say to each other, one JSON object a line each way."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

# Raised when a request or an answer changes its meaning.
VERSION = 1


# The longest request taken, in bytes: an announcement of the longest message, escaped, fits.
REQUEST_LIMIT = 512 << 10


_READ_SIZE = 64 << 10


# What a Unix socket address holds, in bytes, with a margin for the system with the least (macOS: 104).
_PATH_MAX = 100


class Request(msgspec.Struct, frozen=True):
    """What a command asks for."""

    command: str
    arguments: dict[str, Any] = {}
    version: int = VERSION


class Answer(msgspec.Struct, frozen=True):
    """``exit`` is the exit code the command ends with; ``text`` says why when it is not 0.

    One that is not ``final`` says how far it is: only its ``result`` counts, and more will come.
    """

    result: dict[str, Any] = {}
    exit: int = 0
    text: str = ""
    version: int = VERSION
    final: bool = True


Reply = Callable[[Answer], None]


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """Yield a name for ``path`` that fits a socket address."""
    if len(os.fsencode(path)) <= _PATH_MAX or sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
