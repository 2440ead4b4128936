"""What an operator says and does to clients: say, kick, ban, mute, unban, unmute, bans."""

from typing import Any

import click
import msgspec

from mpchat.cli.options import Duration, addressed, as_json, shown
from mpchat.cli.running import ask, server_config
from mpchat.control import requests
from mpchat.control.answers import Banned, Kicked, Muted, Said, Sanctions
from mpchat.control.client import result_as
from mpchat.errors import MpchatError, TimedOutError
from mpchat.text import visible

_for = click.option(
    "--for", "seconds", type=Duration(), help="How long, such as 90s or 1h; without it for good."
)


@click.command()
@click.argument("text")
@addressed
def say(text: str, config_file: str | None, **flags: Any) -> None:
    """Announce TEXT to all clients."""
    config = server_config(config_file, flags)
    said = result_as(ask(config, requests.Say(text)), Said)
    count = said.connections
    elsewhere = f" here, and to those of {_other_hosts(said.hosts)}" if said.hosts else ""
    click.echo(f"said to {count} client{'s' if count != 1 else ''}{elsewhere}")


@click.command()
@click.argument("target", metavar="NAME-or-ADDRESS")
@addressed
def kick(target: str, config_file: str | None, **flags: Any) -> None:
    """Close the connection of a member or of host:port, or all of a host or a network.

    A kicked member's client ends, and the user may enter again; see ban. A client
    without a name is not told, so mpchat's own comes back by itself.
    """
    config = server_config(config_file, flags)
    result = result_as(ask(config, requests.Kick(target)), Kicked)
    ended = _ended(result)
    if not ended and not result.hosts:
        raise MpchatError(
            f"no member is called {target} and no client is connected from there; "
            "allowed: a name, host:port, a host or a network such as 192.0.2.0/24"
        )
    click.echo(f"{_connections(ended)} ended{_elsewhere(result)}")


@click.command()
@click.argument("target", metavar="NAME-or-ADDRESS")
@addressed
@_for
def ban(target: str, config_file: str | None, seconds: float | None, **flags: Any) -> None:
    """Ban a name, an address or a network and close its connections.

    For an address host:port, the whole host is banned. A network is written
    192.0.2.0/24 or 2001:db8::/48.
    """
    config = server_config(config_file, flags)
    result = result_as(ask(config, requests.Ban(target, seconds)), Banned)
    # The server says the host for host:port, because that is what it has banned.
    banned = visible(result.target or target)
    click.echo(
        f"{banned} is banned {_how_long(seconds)}; {_connections(_ended(result))} ended{_elsewhere(result)}"
    )


@click.command()
@click.argument("target", metavar="NAME")
@addressed
@_for
def mute(target: str, config_file: str | None, seconds: float | None, **flags: Any) -> None:
    """Stop delivering what a member says."""
    config = server_config(config_file, flags)
    muted = result_as(ask(config, requests.Mute(target, seconds)), Muted)
    here = "" if muted.here else ", and not here now"
    click.echo(f"{visible(muted.name)} is muted {_how_long(seconds)}{here}")


@click.command()
@click.argument("target", metavar="NAME-or-ADDRESS")
@addressed
def unban(target: str, config_file: str | None, **flags: Any) -> None:
    """Lift a ban."""
    config = server_config(config_file, flags)
    ask(config, requests.Lift("bans", target))
    click.echo(f"{visible(target)} is not banned any more")


@click.command()
@click.argument("target", metavar="NAME")
@addressed
def unmute(target: str, config_file: str | None, **flags: Any) -> None:
    """Deliver a member's messages again."""
    config = server_config(config_file, flags)
    ask(config, requests.Lift("mutes", target))
    click.echo(f"{visible(target)} is not muted any more")


@click.command()
@addressed
@as_json
def bans(config_file: str | None, as_json: bool, **flags: Any) -> None:
    """List bans and mutes, and when they end."""
    config = server_config(config_file, flags)
    answer = ask(config, requests.Bans())
    if as_json:
        click.echo(msgspec.json.encode(answer.result).decode())
        return
    from mpchat.cli.display import bans_text

    click.echo(bans_text(result_as(answer, Sanctions)))


def _ended(result: Kicked | Banned) -> int:
    """Return how many connections were closed; raise when a worker has not answered."""
    if result.silent:
        slots = ", ".join(map(str, result.silent))
        raise TimedOutError(f"{_connections(result.ended)} ended; no answer from worker {slots}")
    return result.ended


def _elsewhere(result: Kicked | Banned) -> str:
    """Return what is said of other hosts, whose connections are not counted."""
    return f" here, and those on {_other_hosts(result.hosts)}" if result.hosts else ""


def _other_hosts(count: int) -> str:
    return f"{count} other host{'s' if count != 1 else ''}"


def _connections(count: int) -> str:
    return f"{count} connection{'s' if count != 1 else ''}"


def _how_long(seconds: float | None) -> str:
    return f"for {shown(seconds)} s" if seconds is not None else "for good"
