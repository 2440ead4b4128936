"""Accounts: register names with passwords and roles in the file that servers check them with.

No server needs to run: the file is the place. Servers that use it see a change at the next join.
"""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from mpchat.auth.grant import MEMBER, ROLES
from mpchat.cli.audit import tell_server
from mpchat.cli.options import as_json, settings_options
from mpchat.control.requests import Audit
from mpchat.errors import MpchatError
from mpchat.protocol.names import checked_name
from mpchat.settings import Sources, absolute, current_folder
from mpchat.text import visible

if TYPE_CHECKING:
    from mpchat.auth.accounts import Accounts
    from mpchat.auth.passwords import Stored

# Bytes of a password's line.
_LONGEST_LINE = 8 << 10

_where = settings_options("accounts")
_role = click.Choice(ROLES)


@click.group()
def user() -> None:
    """Register names: with a password, and with the role member or operator."""


@user.command()
@click.argument("name")
@click.option(
    "--role", metavar="ROLE", type=_role, default=MEMBER, help="member or operator; without it member."
)
@_where
def add(name: str, role: str, config_file: str | None, accounts: str | None) -> None:
    """Register NAME.

    The password is asked for twice. Without a terminal it is the first line of
    standard input. It has 8 to 256 characters.
    """
    from mpchat.auth.lookalikes import looks, too_many_marks

    name = checked_name(name)
    if too_many_marks(name):
        raise MpchatError("a registered name has at most 4 marks in a row on a letter")
    with _open(config_file, accounts, create=True) as store:
        # Before the password is asked for; in the end the file decides.
        store.check_free(name, looks(name))
        store.add(name, _new_password(name), role)
    tell_server(config_file, Audit("user add", f"{name} {role}"))
    click.echo(f"{visible(name)} is registered, role {role}")


@user.command()
@click.argument("name")
@_where
def password(name: str, config_file: str | None, accounts: str | None) -> None:
    """Give NAME another password, which is read as by mpchat user add.

    Connections that are signed in stay: to end them, see mpchat kick.
    """
    with _open(config_file, accounts) as store:
        name = store.known(name).name
        store.set_password(name, _new_password(name))
    tell_server(config_file, Audit("user password", name))
    click.echo(f"{visible(name)} has another password")


@user.command("role")
@click.argument("name")
@click.argument("role", type=_role)
@_where
def set_role(name: str, role: str, config_file: str | None, accounts: str | None) -> None:
    """Give NAME another role; it holds from the next join on."""
    with _open(config_file, accounts) as store:
        name = store.known(name).name
        store.set_role(name, role)
    tell_server(config_file, Audit("user role", f"{name} {role}"))
    click.echo(f"{visible(name)} has the role {role}")


@user.command("list")
@_where
@as_json
def show(config_file: str | None, accounts: str | None, as_json: bool) -> None:
    """List the registered names: role, and when made and changed."""
    with _open(config_file, accounts) as store:
        found = store.all()
    if as_json:
        rows = [
            {"name": each.name, "role": each.role, "made": each.made, "changed": each.changed}
            for each in found
        ]
        click.echo(msgspec.json.encode({"accounts": rows}).decode())
    elif found:
        from rich.console import Console

        from mpchat.cli.display import accounts_picture

        rows_of_text = [(each.name, each.role, each.made, each.changed) for each in found]
        Console(highlight=False).print(accounts_picture(rows_of_text))
    else:
        click.echo(f"no name is registered in {visible(str(store.path))}")


@user.command()
@click.argument("name")
@_where
def remove(name: str, config_file: str | None, accounts: str | None) -> None:
    """Remove the account of NAME: the name is free again.

    Connections that are signed in stay: to end them, see mpchat kick.
    """
    with _open(config_file, accounts) as store:
        name = store.known(name).name
        store.remove(name)
    tell_server(config_file, Audit("user remove", name))
    click.echo(f"{visible(name)} is not registered any more")


def _open(config_file: str | None, accounts: str | None, *, create: bool = False) -> "Accounts":
    """Open the accounts that the settings name."""
    from mpchat.auth.accounts import Accounts, default_path  # loads sqlite3

    config = Sources.of_command(config_file, {"accounts": accounts}).read(os.environ)[0]
    path = absolute(config.accounts, current_folder())
    return Accounts(Path(path) if path else default_path(), create=create)


def _new_password(name: str) -> "Stored":
    """Read a new password for ``name`` and return its hash.

    No argument and no variable holds it: others may see those.
    """
    from mpchat.auth.passwords import check_length, hash_password

    def checked(text: str) -> str:
        try:
            check_length(text)
        except MpchatError as error:
            raise click.UsageError(str(error)) from None  # then it is asked for again
        return text

    terminal = sys.stdin is not None and sys.stdin.isatty()
    try:
        if terminal:
            text: str = click.prompt(
                f"password for {visible(name)}",
                hide_input=True,
                confirmation_prompt="once more",
                err=True,
                value_proc=checked,
            )
            text.encode()
        else:
            text = _first_line()
    except UnicodeError:
        if terminal:
            click.echo(err=True)  # ends the line with the prompt
        why = "it is not in UTF-8, or not as the locale says"
        raise MpchatError(f"the password cannot be read as text: {why}") from None
    return hash_password(text)


def _first_line() -> str:
    """Return the first line of standard input. Raise ``UnicodeDecodeError`` if it is not UTF-8."""
    line = b"" if sys.stdin is None else sys.stdin.buffer.readline(_LONGEST_LINE)
    if not line:
        raise MpchatError("no password: it is the first line of standard input")
    return line.decode().removesuffix("\n").removesuffix("\r")
