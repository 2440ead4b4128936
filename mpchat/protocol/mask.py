"""Masks: what each WebSocket client joins its payloads with by exclusive or (RFC 6455, section 5.3).

The package ``websockets`` has a compiled function for it, seven times as fast as Python's integers. To import
the package takes 2 MB and 30 ms, so this is done when the first WebSocket comes. Until then, and where it was
built without that function, integers do it.
"""

from collections.abc import Callable
from contextlib import suppress

# Takes a payload and the four bytes of its mask; returns the payload with the mask taken off, or put on.
Unmask = Callable[[bytes, bytes], bytes]

# Bytes of a mask.
KEY_SIZE = 4


def unmask_with_integers(payload: bytes, key: bytes) -> bytes:
    """Return ``payload`` with its mask taken off, or put on. About 8 ns a byte."""
    size = len(payload)
    mask = (key * (size // KEY_SIZE + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(mask)).to_bytes(size)


_unmask: Unmask = unmask_with_integers


def best_unmask() -> Unmask:
    """Return the fastest function that is loaded."""
    return _unmask


def load() -> None:
    """Import the compiled function, if there is one; :func:`best_unmask` returns it from then on."""
    global _unmask
    with suppress(ImportError):
        from websockets.speedups import apply_mask

        _unmask = apply_mask
