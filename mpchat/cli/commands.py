"""The command ``mpchat``: the group of all commands, and how errors end.

Every error ends as one line on standard error and one of the fixed exit codes (:class:`mpchat.errors.Exit`).
A module beside this one has the commands of each subject.
"""

import errno
import os
import sys
from typing import Any

import click

from mpchat import __version__
from mpchat.cli.accounts import user
from mpchat.cli.changes import reload, scale
from mpchat.cli.chat import chat
from mpchat.cli.check import check
from mpchat.cli.client import client
from mpchat.cli.clients import clients
from mpchat.cli.completion import completion
from mpchat.cli.config import show_config
from mpchat.cli.hosts import hosts
from mpchat.cli.life_cycle import start, stop
from mpchat.cli.log import log
from mpchat.cli.manual import manual
from mpchat.cli.moderation import ban, bans, kick, mute, say, unban, unmute
from mpchat.cli.rooms import close, rooms
from mpchat.cli.service import service
from mpchat.cli.status import status
from mpchat.cli.token import token
from mpchat.errors import Exit, MpchatError
from mpchat.text import visible_lines


class _Commands(click.Group):
    """Turns this package's errors into a line and an exit code."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare the standard streams, then run the command."""
        _open_standard_streams()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):  # a character that the terminal lacks is escaped, not an error
                stream.reconfigure(errors="backslashreplace")
        return super().main(*args, **kwargs)

    def invoke(self, context: click.Context) -> Any:
        """Run the command; end with a line and an exit code for every error that is expected."""
        try:
            return super().invoke(context)
        except MpchatError as error:
            click.echo(f"mpchat: {visible_lines(str(error))}", err=True)
            context.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of the output has gone; click ends quietly
                raise
            click.echo(f"mpchat: {visible_lines(_os_error_text(error))}", err=True)
            _drop_output()
            context.exit(Exit.FAILED)


def _open_standard_streams() -> None:
    """Give a descriptor to each closed standard stream.

    Otherwise the next pipe would take its number, and a server that is started would lose that pipe.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _os_error_text(error: OSError) -> str:
    return f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror or error}"


def _drop_output() -> None:
    """Discard output that cannot be written (a full disk): it would be tried, and fail, again at the end."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, 1)
    os.close(descriptor)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="mpchat")
def main() -> None:
    """A multi-process TCP chat server: one instance, every core, one order.

    Exit codes: 0 ok, 1 failed, 2 usage, 3 not running, 4 already running, 5 did not start or reload, 6 timed
    out.
    """


# In the order of the manual's page.
for _command in (
    *(start, stop, status, log, reload, scale, chat),
    *(say, kick, ban, unban, mute, unmute, bans),
    *(clients, rooms, close, hosts),
    *(user, token),
    *(show_config, check, service, client, manual, completion),
):
    main.add_command(_command)


if __name__ == "__main__":
    sys.exit(Exit.OK if main() is None else Exit.FAILED)
