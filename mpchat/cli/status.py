"""``mpchat status``: one picture, one JSON object, or one after the other."""

import time
from contextlib import suppress
from typing import Any

import click
import msgspec

from mpchat.cli.options import addressed, as_json
from mpchat.cli.running import ask, server_config
from mpchat.config import Config
from mpchat.control import requests
from mpchat.control.answers import ServerStatus
from mpchat.control.client import result_as

# Seconds between two lines of ``status --watch --json``.
WATCH_EVERY = 1.0


@click.command()
@addressed
@as_json
@click.option("--watch", is_flag=True, help="Repeat every second until q or Ctrl-C.")
def status(config_file: str | None, as_json: bool, watch: bool, **flags: Any) -> None:
    """Show a running server and its workers.

    With --watch on a terminal: first what is wrong, then rates and how they were in the
    last minutes, what has happened, and the workers. A server that stops is waited
    for. Elsewhere than on a terminal the plain status is repeated.
    """
    config = server_config(config_file, flags)
    if not watch:
        _print_status(config, as_json=as_json)
        return
    with suppress(KeyboardInterrupt):
        if not as_json:
            from mpchat.cli.watch import watch as watch_server

            watch_server(config)
            return
        while True:
            _print_status(config, as_json=True)
            time.sleep(WATCH_EVERY)


def _print_status(config: Config, *, as_json: bool) -> None:
    answer = ask(config, requests.Status())
    if as_json:  # as it came: also what this release does not know
        click.echo(msgspec.json.encode(answer.result).decode())
        return
    from rich.console import Console

    from mpchat.cli.display import status_picture

    console = Console(highlight=False)
    console.print(status_picture(result_as(answer, ServerStatus), console.width))
