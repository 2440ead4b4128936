"""Moderation file: keeps bans and mutes over restarts.

Each change writes the whole file anew beside its place and puts it there in one step: a crash leaves the old
or the new file. It is small, because an operator types every rule.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from mpchat.errors import MpchatError, StartError
from mpchat.hub.moderation import Moderation


def read_moderation(path: Path) -> Moderation:
    """Return what is kept; nothing when there is no file.

    Raises :class:`StartError` for a file that cannot be read: a server without its bans would let banned
    clients in again.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Moderation)
    except FileNotFoundError:
        return Moderation()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartError(
            f"cannot read the bans in {path}: {error}; mend the file, or move it away to begin without"
        ) from None


def encode_moderation(moderation: Moderation) -> bytes:
    """Return what the file holds."""
    return msgspec.json.format(msgspec.json.encode(moderation))


def write_moderation(path: Path, data: bytes) -> None:
    """Replace the file. Raises :class:`MpchatError` when that fails; the rules hold all the same."""
    fresh = path.with_name(path.name + ".new")
    try:
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(fresh, path)
    except OSError as error:
        with suppress(OSError):
            os.unlink(fresh)
        raise MpchatError(
            f"it holds until the server stops, but could not be written to {path}: {error.strerror}"
        ) from None
