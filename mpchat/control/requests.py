"""Requests: what a command asks of a running server, one struct per command.

On the wire the command's name is the tag::

    {"command": "scale", "arguments": {"workers": 3}, "version": 1}

A command and a server may be of different releases: a new field needs a default, and a request whose meaning
changes needs another :data:`~mpchat.control.messages.VERSION`.
"""

from typing import Literal

import msgspec


class Request(msgspec.Struct, frozen=True):
    """Base of all requests."""

    @classmethod
    def command(cls) -> str:
        """Return the command's name, as it is on the wire and in messages."""
        return cls.__name__.lower()


class Status(Request, frozen=True):
    """Describe the server and its workers."""


class Stop(Request, frozen=True):
    """Stop the server; the answer comes at once and names the processes that will end."""


class Reload(Request, frozen=True):
    """Read the settings again and replace every worker; the answer comes when that is done."""


class Scale(Request, frozen=True):
    """Change the number of workers; the answer comes when that is done."""

    workers: int


class Say(Request, frozen=True):
    """Send an announcement to every client."""

    text: str


class Kick(Request, frozen=True):
    """Close the connections of a name, of ``host:port`` or of a host."""

    address: str


class Ban(Request, frozen=True):
    """Ban a name or a host for ``seconds``, or for good, and close its connections."""

    target: str
    seconds: float | None = None


class Mute(Request, frozen=True):
    """Mute a name for ``seconds``, or for good."""

    target: str
    seconds: float | None = None


class Lift(Request, frozen=True):
    """End a ban or a mute."""

    what: Literal["bans", "mutes"]
    target: str


class Bans(Request, frozen=True):
    """List the bans and mutes in force."""


class Rooms(Request, frozen=True):
    """List a page of rooms whose names follow ``after``, in the order of their names."""

    after: str | None = None


class Clients(Request, frozen=True):
    """List a page of connections that came after ``after``, all or those of a room.

    ``without`` are slots of workers that are not to be asked.
    """

    after: int = 0
    room: str | None = None
    without: list[int] = []


class Close(Request, frozen=True):
    """End a room and remove its history."""

    room: str


class Audit(Request, frozen=True):
    """Write to the audit trail what a command has done without the server."""

    action: Literal["user add", "user password", "user role", "user remove", "token"]
    target: str


class Hosts(Request, frozen=True):
    """List the hosts of the cluster."""


BY_COMMAND: dict[str, type[Request]] = {
    each.command(): each
    for each in (
        *(Status, Stop, Reload, Scale, Say, Kick, Ban, Mute, Lift, Bans),
        *(Rooms, Clients, Close, Audit, Hosts),
    )
}
