"""The command hosts, which lists the hosts of a cluster."""

from typing import Any

import click
import msgspec

from mpchat.cli.options import addressed, as_json
from mpchat.cli.running import ask, server_config
from mpchat.control import requests
from mpchat.control.answers import Hosts
from mpchat.control.client import result_as


@click.command()
@addressed
@as_json
def hosts(config_file: str | None, as_json: bool, **flags: Any) -> None:
    """List the hosts of the cluster: state, lease, how far each is behind, clients."""
    answer = ask(server_config(config_file, flags), requests.Hosts())
    if as_json:  # as it came: also what this release does not know
        click.echo(msgspec.json.encode(answer.result).decode())
        return
    from rich.console import Console

    from mpchat.cli.display import hosts_picture

    console = Console(highlight=False)
    console.print(hosts_picture(result_as(answer, Hosts).hosts, console.width))
