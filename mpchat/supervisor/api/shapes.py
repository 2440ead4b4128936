"""Shapes of the HTTP API: what a request's query and body hold, and what answers hold. Pure.

Where the wire or the control socket has a shape for the same, that one is used. The docstrings and the limits
stand in the description that ``GET /api`` returns.
"""

from typing import Annotated

import msgspec

from mpchat.protocol.messages import PastMessage
from mpchat.protocol.requests import MOST_HISTORY, Number

# Rooms, or names of a room, on a page: an answer takes the way down of everybody's messages.
MOST_ON_PAGE = 500
PAGE = 100
# Messages of a page of history where the request names no limit, and the bytes of a page of several.
HISTORY_PAGE = 50
HISTORY_SIZE = 64 << 10


def _about(description: str) -> msgspec.Meta:
    return msgspec.Meta(description=description)


_OnPage = Annotated[int, msgspec.Meta(ge=1, le=MOST_ON_PAGE), _about("Names on the page at most.")]
_After = Annotated[str, _about("The name that the page follows, as next says it; empty: the first page.")]
_Number = Annotated[
    Number | None, _about("The number of the last message that is known; without it the newest are returned.")
]
_Messages = Annotated[int, msgspec.Meta(ge=1, le=MOST_HISTORY), _about("Messages at most.")]


class ToSay(msgspec.Struct, frozen=True):
    """A message for the members of a room. Without a room it is for all clients."""

    message: str
    room: str | None = None


class ToTell(msgspec.Struct, frozen=True):
    """A message for one member alone."""

    message: str
    to: str


class PageWanted(msgspec.Struct, frozen=True):
    """A page of names: those that follow a name, in the order of their code points."""

    after: _After = ""
    limit: _OnPage = PAGE


class HistoryWanted(msgspec.Struct, frozen=True):
    """Messages of a room: those that follow a number, or the newest."""

    after: _Number = None
    limit: _Messages = HISTORY_PAGE


class Nothing(msgspec.Struct, frozen=True):
    """No parameters."""


class SaidIn(msgspec.Struct, frozen=True):
    """The room that has the message, and the message's number there; null: all rooms have it."""

    room: str | None
    seq: int | None


class ToldTo(msgspec.Struct, frozen=True):
    """The name of the member, as the member spells it."""

    to: str


class EndOf(msgspec.Struct, frozen=True):
    """The name or address whose ban or mute has ended."""

    name: str


class RoomPage(msgspec.Struct, frozen=True, kw_only=True):
    """A room and a page of its members' names; the value of next asks for the next page, null: the last.

    Moments are seconds since 1970, null when they are not known.
    """

    room: str
    members: int
    names: list[str]
    next: str | None
    # The number of the last message.
    seq: int
    # Messages that are kept, and the bytes of memory that they take.
    messages: int
    bytes: int
    made: float | None
    active: float | None


class HistoryOf(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of a room, the oldest first; the value of next asks for the next page, null: the last.

    first and last are the numbers of the oldest message that is kept and of the newest that was said. Numbers
    are compared within one epoch only.
    """

    room: str
    epoch: str
    messages: list[PastMessage]
    first: int | None
    last: int
    next: int | None
