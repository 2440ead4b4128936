"""Moderation: who may not come in, and who may not speak; kept in a file, over restarts.

The file is written anew at every change, beside its place, and put there in one step: a crash leaves the old
or the new one. It is small: an operator types every entry.
"""

import ipaddress
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from mpchat.errors import MpchatError, ProtocolError, StartError
from mpchat.protocol.names import checked_name, name_key


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One ban or mute. ``until`` is in seconds since 1970; None: for good."""

    target: str
    until: float | None = None

    def holds(self, at: float) -> bool:
        return self.until is None or at < self.until


class _Kept(msgspec.Struct):
    bans: dict[str, Entry] = {}
    mutes: dict[str, Entry] = {}


class Moderation:
    """Bans of names and addresses, mutes of names."""

    def __init__(self, path: Path) -> None:
        """Read what is kept. Raises :class:`StartError` for a file that cannot be read: to serve without it
        would let everybody in again."""
        self.path = path
        self._kept = _Kept()
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StartError(
                f"cannot read the bans in {path}: {error}; mend the file, or move it away to begin without"
            ) from None

    def banned_name(self, name: str, at: float) -> bool:
        return self._holds(self._kept.bans, name_key(name), at)

    def banned_host(self, host: str, at: float) -> bool:
        return bool(self._kept.bans) and self._holds(self._kept.bans, host, at)

    def muted(self, name: str, at: float) -> bool:
        return bool(self._kept.mutes) and self._holds(self._kept.mutes, name_key(name), at)

    @staticmethod
    def _holds(entries: dict[str, Entry], key: str, at: float) -> bool:
        return key in entries and entries[key].holds(at)

    def ban(self, target: str, until: float | None) -> str:
        """Keep somebody out; returns the name or address as it is kept. Raises :class:`MpchatError`."""
        host = as_host(target)
        return self._add(
            self._kept.bans,
            host or name_key(target),
            host or _name(target, "neither an address nor a name"),
            until,
        )

    def mute(self, name: str, until: float | None) -> str:
        """Let nobody hear what this name says; returns the name. Raises :class:`MpchatError`."""
        return self._add(self._kept.mutes, name_key(name), _name(name, "no name"), until)

    def _add(self, entries: dict[str, Entry], key: str, target: str, until: float | None) -> str:
        entries[key] = Entry(target, until)
        self._write()
        return target

    def lift(self, what: str, target: str) -> None:
        """End a ban (``what`` is "bans") or a mute ("mutes"). Raises :class:`MpchatError`."""
        entries: dict[str, Entry] = getattr(self._kept, what)
        key = as_host(target) or name_key(target)
        if entries.pop(key, None) is None:
            raise MpchatError(f"{target} is not {'banned' if what == 'bans' else 'muted'}")
        self._write()

    def listing(self, at: float) -> dict[str, list[dict[str, Any]]]:
        """Return what holds at ``at``; forgets what does not any more."""
        for entries in (self._kept.bans, self._kept.mutes):
            for key in [key for key, entry in entries.items() if not entry.holds(at)]:
                del entries[key]
        return {
            "bans": [{"target": each.target, "until": each.until} for each in self._kept.bans.values()],
            "mutes": [{"target": each.target, "until": each.until} for each in self._kept.mutes.values()],
        }

    def _write(self) -> None:
        fresh = self.path.with_name(self.path.name + ".new")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb") as stream:
                stream.write(msgspec.json.format(msgspec.json.encode(self._kept)))
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(fresh, self.path)
        except OSError as error:
            with suppress(OSError):
                os.unlink(fresh)
            raise MpchatError(
                f"it holds until the server stops, but could not be written to {self.path}: {error.strerror}"
            ) from None


def as_host(target: str) -> str | None:
    """Return the host that an address, ``host`` or ``host:port``, is of; None for a name."""
    for candidate in (target, target.rpartition(":")[0]):
        with suppress(ValueError):
            return str(ipaddress.ip_address(candidate.strip("[]")))
    return None


def _name(target: str, otherwise: str) -> str:
    try:
        return checked_name(target)
    except ProtocolError as error:
        raise MpchatError(f"{target!r} is {otherwise}: {error.text}") from None
