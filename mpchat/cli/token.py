"""``mpchat token``: make a token, as another program would for its users."""

import os
import time

import click

from mpchat.auth.grant import MEMBER, TOKEN_ROLES, Grant
from mpchat.cli.audit import tell_server
from mpchat.cli.options import Duration, settings_options
from mpchat.control.requests import Audit
from mpchat.errors import ConfigError, MpchatError, StartError
from mpchat.protocol.names import checked_name, checked_room
from mpchat.settings import Sources, absolute_place, current_folder

# Seconds that a token holds unless another time is asked for.
HOUR = 3600.0


@click.command()
@click.argument("name")
@click.option("--rooms", metavar="ROOMS", help="Rooms it is for, as in game-*,lobby; without it all rooms.")
@click.option(
    "--role",
    metavar="ROLE",
    type=click.Choice(TOKEN_ROLES),
    default=MEMBER,
    help="member, operator, or service for the HTTP API; without it member.",
)
@click.option("--for", "seconds", type=Duration(), default=HOUR, help="How long it holds; without it 1h.")
@settings_options("jwt_key", "jwt_audience")
def token(
    name: str, rooms: str | None, role: str, seconds: float, config_file: str | None, **flags: str | None
) -> None:
    """Print a token (JWT) for NAME, signed with jwt_key.

    A client with the token has the name until the token ends: send it to one user only. A token of the role
    service is for a program that uses the HTTP API.
    """
    from mpchat.auth.keys import load_key, read_secret
    from mpchat.auth.tokens import make_token

    config = Sources.of_command(config_file, flags).read(os.environ)[0]
    if not config.jwt_key:
        raise ConfigError("jwt_key is not set; give --jwt-key FILE, with a private key or a shared key")
    now = time.time()
    grant = Grant(checked_name(name), role, _patterns(rooms), now + seconds)
    try:
        key = load_key(read_secret("jwt_key", absolute_place(config.jwt_key, current_folder())))
    except StartError as error:  # no server was to be started
        raise MpchatError(str(error)) from None
    made = make_token(key, grant, config.jwt_audience, now)
    tell_server(config_file, Audit("token", f"{grant.name} {role} {rooms or ''}".rstrip()))
    click.echo(made)


def _patterns(rooms: str | None) -> tuple[str, ...] | None:
    if rooms is None:
        return None
    found = tuple(each.strip() for each in rooms.split(",") if each.strip())
    if not found:
        raise click.UsageError("--rooms names no room; leave it out for all rooms")
    return tuple(each if "*" in each else checked_room(each) for each in found)
