"""Table of the HTTP API: all operations. It decides what is done, and the description is made of it."""

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

import msgspec

from mpchat.control.answers import Banned, Closed, Kicked, Muted, RoomsPage, ServerStatus
from mpchat.ipc.http_questions import JSON
from mpchat.protocol.requests import CloseRoom, Sanction, Target
from mpchat.supervisor.api.actions import Actions, Call
from mpchat.supervisor.api.errors import ApiError
from mpchat.supervisor.api.shapes import (
    EndOf,
    HistoryOf,
    HistoryWanted,
    Nothing,
    PageWanted,
    RoomPage,
    SaidIn,
    ToldTo,
    ToSay,
    ToTell,
)

# Stands in a path for a room's name, percent-encoded UTF-8.
ROOM = "{room}"
# Parameters of a query that are read.
MOST_PARAMETERS = 20


class Operation(NamedTuple):
    """One operation. ``wanted`` is the shape of its body, or with GET of its query."""

    method: str
    path: str
    name: str
    summary: str
    wanted: Any
    result: Any
    act: Callable[[Actions, Call], None]


OPERATIONS = (
    Operation(
        "POST", "/api/say", "say", "Say something in a room, or to all clients.", ToSay, SaidIn, Actions.say
    ),
    Operation(
        "POST", "/api/tell", "tell", "Say something to one member alone.", ToTell, ToldTo, Actions.tell
    ),
    Operation("GET", "/api/rooms", "rooms", "List the rooms.", PageWanted, RoomsPage, Actions.list_rooms),
    Operation(
        "GET",
        f"/api/rooms/{ROOM}",
        "room",
        "Show a room and its members.",
        PageWanted,
        RoomPage,
        Actions.show_room,
    ),
    Operation(
        "GET",
        f"/api/rooms/{ROOM}/history",
        "history",
        "Read what was said in a room.",
        HistoryWanted,
        HistoryOf,
        Actions.read_history,
    ),
    Operation(
        "POST",
        "/api/kick",
        "kick",
        "End the connections of a name, an address or a network.",
        Target,
        Kicked,
        Actions.kick,
    ),
    Operation(
        "POST",
        "/api/ban",
        "ban",
        "Keep a name, an address or a network out.",
        Sanction,
        Banned,
        Actions.ban,
    ),
    Operation("POST", "/api/unban", "unban", "End a ban.", Target, EndOf, Actions.unban),
    Operation(
        "POST",
        "/api/mute",
        "mute",
        "Deliver nothing of what a member says.",
        Sanction,
        Muted,
        Actions.mute,
    ),
    Operation("POST", "/api/unmute", "unmute", "End a mute.", Target, EndOf, Actions.unmute),
    Operation("POST", "/api/close", "close", "End a room.", CloseRoom, Closed, Actions.close),
    Operation("GET", "/api/status", "status", "Show the status.", Nothing, ServerStatus, Actions.status),
)


def find(method: str, path: str) -> tuple[Operation, str]:
    """Return the operation for a request, and the room that its path names, or "".

    Raise :class:`ApiError` for a path or a method that there is not.
    """
    method = "GET" if method == "HEAD" else method
    matching = [(each, room) for each in OPERATIONS if (room := _room_in(path, each.path)) is not None]
    if not matching:
        raise ApiError("not_found", "there is nothing here; GET /api describes what there is")
    for operation, room in matching:
        if operation.method == method:
            return operation, decoded(room)
    raise bad_method([operation.method for operation, _ in matching])


def bad_method(allowed: list[str]) -> ApiError:
    """Return the error for a method that a path does not have."""
    listed = ", ".join([*allowed, "HEAD"] if "GET" in allowed else allowed)
    return ApiError("bad_method", f"here only {listed} is known", [("Allow", listed)])


def _room_in(path: str, template: str) -> str | None:
    """Return what stands in a path where a template has the room, "" for none; None: it does not match."""
    before, room, after = template.partition(ROOM)
    if not room:
        return "" if path == template else None
    name = path[len(before) : len(path) - len(after)]
    return name if name and "/" not in name and path == before + name + after else None


def decoded(text: str) -> str:
    """Return a part of a path without its percent-encoding. Raise :class:`ApiError`."""
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ApiError("bad_request", "the path is not percent-encoded UTF-8") from None


def read_query(query: str, shape: Any) -> Any:
    """Return what a query asks for. Raise :class:`ApiError`. Unknown parameters are ignored."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=MOST_PARAMETERS)
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ApiError("bad_request", "a parameter of the query stands there twice")
        return msgspec.convert(found, shape, strict=False)
    except UnicodeDecodeError:
        raise ApiError("bad_request", "the query is not percent-encoded UTF-8") from None
    except (msgspec.ValidationError, ValueError) as error:
        raise ApiError("bad_request", f"the query is not understood: {error}") from None


def read_body(body: bytes, kind: str, shape: Any) -> Any:
    """Return what a body says. ``kind`` is its Content-Type. Raise :class:`ApiError`."""
    if kind.partition(";")[0].strip().lower() != JSON:
        raise ApiError("not_json_type", f"send JSON, with the header Content-Type: {JSON}")
    try:
        body.decode()  # the decoder does not look into the values of unknown keys
        return msgspec.json.decode(body, type=shape)
    except UnicodeDecodeError as error:
        raise ApiError("not_utf8", f"not UTF-8 at byte {error.start}: {error.reason}") from None
    except msgspec.ValidationError as error:
        raise ApiError("bad_request", f"not understood: {error}") from None
    except RecursionError:
        raise ApiError("not_json", "nested too deeply") from None
    except msgspec.DecodeError as error:
        raise ApiError("not_json", f"not JSON: {error}") from None
