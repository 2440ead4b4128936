"""Frames as a checker sees them: two bytes of length, then the payload. Pure.

Written apart from ``mpchat.protocol`` on purpose: a checker that shares the server's decoder would share its
mistakes.
"""

# Bytes of a frame's length field.
HEADER = 2
# The beginning of every reply that only one client gets, after the length.
ERROR_PREFIX = b'{"error"'


def framed(payload: bytes) -> bytes:
    """Return ``payload`` behind its length."""
    return len(payload).to_bytes(HEADER, "big") + payload


def split_frames(data: bytes) -> tuple[list[bytes], bytes]:
    """Cut ``data``, which begins with a frame, into whole frames and what is left of the last."""
    frames = []
    at = 0
    size = len(data)
    while size - at >= HEADER:
        end = at + HEADER + (data[at] << 8 | data[at + 1])
        if end > size:
            break
        frames.append(data[at:end])
        at = end
    return frames, data[at:]


def is_error(frame: bytes) -> bool:
    """Say whether ``frame`` is a reply to one client, which no other client gets."""
    return frame.startswith(ERROR_PREFIX, HEADER)
