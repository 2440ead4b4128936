"""Audit: commands that work without a server tell a running one what they did, for its audit trail."""

import os
from contextlib import suppress

from mpchat.cli.running import ask
from mpchat.control.requests import Audit
from mpchat.errors import MpchatError
from mpchat.settings import Sources

# Seconds that a server gets: the command has done its work.
TIMEOUT = 1.0


def tell_server(config_file: str | None, deed: Audit) -> None:
    """Tell the server that settings file and environment name, if it runs. It need not know this request."""
    with suppress(MpchatError, OSError):
        ask(Sources.of_command(config_file, {}).read_address(os.environ), deed, TIMEOUT)
