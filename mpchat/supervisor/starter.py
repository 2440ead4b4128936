"""Starter: finds the service manager that has started this process, by the variables that it has set."""

import os
from collections.abc import MutableMapping

from mpchat.supervisor.service_manager import GivenSockets, ServiceManager

# Variables of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3).
VARIABLES = (
    *("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"),
    *("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "LISTEN_PIDFDID"),
)


def find_manager(environment: MutableMapping[str, str], *, foreground: bool) -> ServiceManager:
    """Return the service manager that has started this process, and remove its variables.

    No process that the server starts may speak to it. The variables do not concern a server in the
    background: its starter is the service then.
    """
    found = {name: environment.pop(name) for name in VARIABLES if name in environment}
    if not foreground:
        return ServiceManager()
    given = None
    if found.get("LISTEN_PID") == str(os.getpid()):
        given = GivenSockets(found.get("LISTEN_FDS", ""), found.get("LISTEN_FDNAMES", ""))
    if not found.get("NOTIFY_SOCKET"):
        return ServiceManager(given)
    from mpchat.supervisor.systemd import Systemd, watchdog_seconds

    period = watchdog_seconds(found.get("WATCHDOG_USEC", ""), found.get("WATCHDOG_PID", ""))
    return Systemd(found["NOTIFY_SOCKET"], period, given)
