"""Scope: what an inspection is about: the settings of one server, and the server if it runs."""

import os
import time
from typing import NamedTuple

from mpchat.config import Config, default_workers
from mpchat.control.answers import ServerStatus
from mpchat.control.client import ask, result_as
from mpchat.control.requests import Status
from mpchat.cores import usable_cores
from mpchat.errors import MpchatError, NotRunningError
from mpchat.inspection.findings import Finding, ok, refused, warning
from mpchat.instance.owners import check_entry, check_own
from mpchat.instance.paths import Paths, option_text, paths
from mpchat.instance.second_start import is_locked

# Seconds that a running server gets to answer.
PATIENCE = 5.0
_SUBJECT = "instance"


class Scope(NamedTuple):
    """The settings as a start would run with them, where its files are, and the server that runs already."""

    config: Config
    paths: Paths
    running: ServerStatus | None

    @property
    def workers(self) -> int:
        """How many workers a start would start."""
        return self.config.workers or default_workers(usable_cores())


def scope_of(config: Config) -> tuple[Scope, Finding]:
    """Look for the server that these settings are of."""
    places = paths(config.name, config.runtime_dir)
    running, found = _running(config, places)
    return Scope(config, places, running), found


def _running(config: Config, places: Paths) -> tuple[ServerStatus | None, Finding]:
    options = option_text(config.name, config.runtime_dir)
    if not os.path.isdir(places.folder):
        return None, ok(_SUBJECT, f"{config.name} does not run")
    try:
        check_entry(places.folder)
        check_own(places.folder)
        status = result_as(ask(places.control, Status(), PATIENCE), ServerStatus)
    except NotRunningError:
        if is_locked(places.lock):
            return None, warning(
                _SUBJECT,
                f"{config.name} is being started or stopped, or its control socket is missing",
                f"look at it again in a moment with: mpchat status{options}",
            )
        return None, ok(_SUBJECT, f"{config.name} does not run")
    except MpchatError as error:
        return None, refused(_SUBJECT, error)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status.started))
    return status, ok(
        _SUBJECT, f"{config.name} runs already: pid {status.pid}, since {since}; a second start is rejected"
    )
