"""What an operator sees of rooms and does to them: rooms, close."""

import time
from typing import Any

import click
import msgspec

from mpchat.cli.options import addressed, as_json
from mpchat.cli.running import ask, server_config
from mpchat.config import Config
from mpchat.control import requests
from mpchat.control.answers import Closed, RoomFacts
from mpchat.control.client import result_as
from mpchat.text import visible


@click.command()
@addressed
@as_json
def rooms(config_file: str | None, as_json: bool, **flags: Any) -> None:
    """List the rooms: members, kept messages, memory, age and last activity."""
    found = _all_rooms(server_config(config_file, flags))
    if as_json:  # as they came: also what this release does not know
        click.echo(msgspec.json.encode({"rooms": found}).decode())
        return
    from rich.console import Console

    from mpchat.cli.display import rooms_picture

    facts = msgspec.convert(found, list[RoomFacts])
    Console(highlight=False).print(rooms_picture(facts, time.time()))


def _all_rooms(config: Config) -> list[Any]:
    """Return the rooms of all pages."""
    found: list[Any] = []
    after: str | None = None
    while True:
        page = ask(config, requests.Rooms(after)).result
        found += page["rooms"]
        after = page.get("next")
        if after is None:
            return found


@click.command()
@click.argument("room")
@addressed
def close(room: str, config_file: str | None, **flags: Any) -> None:
    """End ROOM: put its members into the lobby and remove its history.

    The history is removed from the history file too. A member that joins ROOM again makes a new room.
    """
    config = server_config(config_file, flags)
    closed = result_as(ask(config, requests.Close(room)), Closed)
    members = f"{closed.members} member{'s' if closed.members != 1 else ''}"
    click.echo(f"{visible(closed.room)} is closed; {members} put into the lobby")
