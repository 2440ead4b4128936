"""A Unix socket's address for a path of any length."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What a Unix socket address holds, in bytes, with a margin for the system with the least (macOS: 104).
_ADDRESS_LIMIT = 100


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Yield a name for ``path`` that fits a socket address and is valid within the block.

    On Linux a path that is too long is reached through its folder's descriptor.
    """
    if len(os.fsencode(path)) <= _ADDRESS_LIMIT or sys.platform != "linux":
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
