"""``mpchat status``: one picture, one JSON object, or one after the other."""

import time
from contextlib import nullcontext, suppress
from typing import Any

import click
import msgspec

from mpchat.cli.options import addressed, as_json
from mpchat.cli.running import ask, server_config
from mpchat.config import Config
from mpchat.control import requests
from mpchat.control.answers import ServerStatus
from mpchat.control.client import result_as

# Seconds between two pictures of ``status --watch``.
WATCH_EVERY = 1.0


@click.command()
@addressed
@as_json
@click.option("--watch", is_flag=True, help="Repeat every second until Ctrl-C.")
def status(config_file: str | None, as_json: bool, watch: bool, **flags: Any) -> None:
    """Show a running server and its workers."""
    config = server_config(config_file, flags)
    if not watch:
        _print_status(config, as_json=as_json)
        return
    with suppress(KeyboardInterrupt):
        if not as_json:
            _watch(config)
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


def _watch(config: Config) -> None:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from mpchat.cli.display import status_picture

    console = Console(highlight=False)

    def picture() -> RenderableType:
        status = result_as(ask(config, requests.Status()), ServerStatus)
        return status_picture(status, console.width)

    first = picture()
    with Live(first, console=console, auto_refresh=False) if console.is_terminal else nullcontext() as live:
        while True:
            if live is None:  # a file or a pipe: one picture after the other
                console.print(first)
            time.sleep(WATCH_EVERY)
            first = picture()
            if live is not None:
                live.update(first, refresh=True)
