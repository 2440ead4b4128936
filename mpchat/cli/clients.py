"""``mpchat clients``: one row for each connection."""

from typing import Any

import click
import msgspec

from mpchat.cli.options import addressed, as_json
from mpchat.cli.running import ask, server_config
from mpchat.config import Config
from mpchat.control import requests
from mpchat.control.answers import ClientFacts, ClientsPage
from mpchat.control.client import result_as
from mpchat.errors import TimedOutError
from mpchat.text import visible

# Seconds that a page may take: each worker of a busy server gets three.
PAGE_TIMEOUT = 60.0


@click.command()
@click.option("--room", metavar="ROOM", help="Only the clients that hear this room.")
@addressed
@as_json
def clients(room: str | None, config_file: str | None, as_json: bool, **flags: Any) -> None:
    """List the connections: address, name, room, protocol, age, silence, worker.

    The oldest connections come first. SILENT is the time since the server last heard
    the client. BEHIND is what the client was not sent yet, because it does not read.

    The list is made in pages, so that no client waits for it. A connection that
    stays while the list is made is in it once, also when a reload moves it. One
    that comes or goes meanwhile may be in it or not. Of several hosts that are one
    chat, this lists the clients of this host.
    """
    found, silent, shaking = _all_clients(server_config(config_file, flags), room)
    if as_json:  # as they came: also what this release does not know
        click.echo(
            msgspec.json.encode({"clients": found, "silent_workers": silent, "shaking": shaking}).decode()
        )
    else:
        _print(msgspec.convert(found, list[ClientFacts]), room, shaking)
    if silent:
        slots = ", ".join(map(str, silent))
        raise TimedOutError(f"the list is not complete: no answer from worker {slots}; see mpchat status")


def _all_clients(config: Config, room: str | None) -> tuple[list[Any], list[int], int]:
    """Return the clients of all pages, the workers that have not answered, and how many shake hands."""
    found: list[Any] = []
    silent: list[int] = []
    after = 0
    while True:
        answer = ask(config, requests.Clients(after, room, silent), PAGE_TIMEOUT)
        page = result_as(answer, ClientsPage)
        found += answer.result["clients"]
        silent += page.silent
        if page.next is None:
            return found, silent, page.shaking
        after = page.next


def _print(found: list[ClientFacts], room: str | None, shaking: int) -> None:
    import time

    from rich.console import Console

    from mpchat.cli.client_table import client_lines

    console = Console(highlight=False)
    if found:
        head, *lines = client_lines(found, time.time(), console.width)
        console.print(head, style="dim", markup=False, soft_wrap=True)
        for line in lines:
            click.echo(line)
    else:
        click.echo("no client is connected" if room is None else f"no client hears {visible(room)}")
    if shaking:
        click.echo(f"{shaking} more: TLS handshake under way")
