"""``mpchat chat``: which server is meant, and then the chat of :mod:`mpchat.client.terminal`."""

import sys
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import click

from mpchat.cli.candidates import files
from mpchat.cli.running import living_record, server_config
from mpchat.config import BY_NAME
from mpchat.errors import ConfigError, MpchatError
from mpchat.supervisor.startup import LOOPBACK

if TYPE_CHECKING:
    from mpchat.client.proof import Shown
    from mpchat.client.secure import Tls

_PORT = click.IntRange(1, 65_535)
# Options without a value: the program asks for it.
_ASKED = frozenset({"--password", "--secret"})


class _ChatCommand(click.Command):
    """Refuses a password on the command line, which would be taken for a host, and shown in errors."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the words after ``chat``. Raises ``UsageError``, whose text has none of them but options."""
        for option, word in pairwise(args):
            if option in _ASKED and not word.startswith("-"):
                what = option.removeprefix("--")
                why = (
                    f"{option} takes no value: the program asks for the {what}; write HOST and PORT before it"
                )
                raise click.UsageError(why, ctx)
        return super().parse_args(ctx, args)


@click.command(cls=_ChatCommand)
@click.argument("host", required=False)
@click.argument("port", required=False, type=_PORT)
@click.option("--name", metavar="NAME", help="Your name; without one you get texts only.")
@click.option("--room", metavar="ROOM", help="The room to begin in, with a name; without it lobby.")
@click.option(
    "--password", is_flag=True, help="Ask for the password of NAME, at the terminal; takes no value."
)
@click.option("--secret", is_flag=True, help="Ask for the server's secret, at the terminal; takes no value.")
@click.option(
    "--token",
    metavar="FILE",
    shell_complete=files,
    help="Show the token in FILE (its first line); without --name it has your name.",
)
@click.option("--tls", is_flag=True, help="Encrypt; the server must show a certificate for HOST.")
@click.option(
    "--ca",
    metavar="FILE",
    shell_complete=files,
    type=click.Path(exists=True, dir_okay=False),
    help="With --tls: trust the certificates in FILE (PEM), and no others.",
)
@click.option("--plain", is_flag=True, help="Lines from standard input, messages to standard output.")
def chat(
    host: str | None, port: int | None, name: str | None, room: str | None, *, plain: bool, **others: Any
) -> None:
    """Chat with the server at HOST PORT or HOST:PORT, or else with the one started from here."""
    from mpchat.client.conversation import DEFAULT_ROOM
    from mpchat.client.terminal import run_chat

    kind = _kind_of_proof(name, others)
    if room is not None and name is None and kind is None:
        raise click.UsageError("--room needs --name: a client without a name is always in the lobby")
    address = _own_server() if host is None else _address(host, port)
    tls = _tls(others["tls"], others["ca"])
    proof = _proof(kind, others["token"])
    sys.exit(run_chat(*address, plain=plain, name=name, room=room or DEFAULT_ROOM, tls=tls, **proof))


def _kind_of_proof(name: str | None, options: dict[str, Any]) -> str | None:
    given = [kind for kind in ("password", "secret", "token") if options[kind] not in (None, False)]
    if len(given) > 1:
        raise click.UsageError(f"--{given[0]} and --{given[1]}: a server takes one proof")
    if not given:
        return None
    if name is None and given != ["token"]:
        raise click.UsageError(f"--{given[0]} needs --name")
    if options["token"] == "-":
        raise click.UsageError("--token takes a file, which is read again before each join, and not -")
    return given[0]


def _proof(kind: str | None, path: str) -> "Shown":
    from mpchat.client.ask_secret import ask_secret
    from mpchat.client.token_file import TokenFile

    match kind:
        case "password":
            return {"password": ask_secret("password", "a program shows a token: --token FILE")}
        case "secret":
            return {"secret": ask_secret("secret", "a program shows a token: --token FILE")}
        case "token":
            return {"jwt": TokenFile(path)}
        case _:
            return {}


def _tls(tls: bool, ca: str | None) -> "Tls":
    if not tls:
        if ca is not None:
            raise click.UsageError("--ca needs --tls: it says whose servers to trust")
        return False
    from mpchat.client.secure import trusting

    try:
        return trusting(ca)
    except OSError as error:
        raise click.UsageError(f"--ca: {ca} holds no certificates in PEM: {error.strerror}") from None


def _address(host: str, port: int | None) -> tuple[str, int]:
    """Return the address that ``HOST``, ``HOST:PORT`` or ``[HOST]:PORT`` means, with ``port`` if it is given.

    An IPv6 address without brackets has no port.
    """
    before, colon, after = host.rpartition(":")
    if colon and (":" not in before or (before.startswith("[") and before.endswith("]"))):
        if port is not None:
            raise click.UsageError(f"{host} already has a port; {port} is a second one")
        host, port = before, int(_PORT(after))
    host = host.removeprefix("[").removesuffix("]")
    return host or "127.0.0.1", port or BY_NAME["port"].default


def _own_server() -> tuple[str, int]:
    """Return the address of the server that ``mpchat start`` starts, or has started, from this folder."""
    config = server_config(None, {})
    try:
        record = living_record(config)
    except ConfigError:
        raise
    except MpchatError as error:
        raise MpchatError(f"{error}, or give the server's address: mpchat chat HOST PORT") from None
    if record is not None and record.addresses:  # it has none yet while the server starts
        host, port = _address(record.addresses[0], None)
    else:
        host, port = config.host[0], config.port or BY_NAME["port"].default
    return LOOPBACK.get(host, host), port
