"""Network: the addresses to listen on, and the Redis of a cluster."""

from contextlib import suppress

import psutil

from mpchat import cluster_url
from mpchat.auth.keys import read_secret
from mpchat.config import Config, format_address
from mpchat.errors import MpchatError
from mpchat.inspection.findings import Finding, failure, ok, refused
from mpchat.inspection.scope import Scope
from mpchat.supervisor.listeners import (
    AddressTakenError,
    ListenAddress,
    check_free,
    holder,
    look_up,
    taken_by,
)

# Seconds for a name server.
_PATIENCE = 10.0


def network(scope: Scope) -> list[Finding]:
    """Look at ports and, with the setting, at the cluster."""
    return [*_ports(scope), *([_cluster(scope.config)] if scope.config.cluster else [])]


def _ports(scope: Scope) -> list[Finding]:
    lookup = look_up(scope.config.host, scope.config.port)
    if not lookup.wait(_PATIENCE):
        names = ", ".join(scope.config.host)
        return [failure("port", f"{names}: no name server answers", "set host to IP addresses")]
    try:
        return [_port(each, scope) for each in lookup.result()]
    except MpchatError as error:
        return [refused("port", error)]


def _port(where: ListenAddress, scope: Scope) -> Finding:
    text = format_address(*where.address)
    if scope.running is not None and text in scope.running.addresses:
        return ok("port", f"{text} is this server's")
    try:
        check_free(where)
    except AddressTakenError:
        if _is_service_managers(where.address[1]):
            return ok("port", f"{text} is held by systemd, which gives the socket to its service")
        return refused("port", taken_by(where))
    except MpchatError as error:
        return refused("port", error)
    return ok("port", f"{text} is free" if where.address[1] else "the system chooses one")


def _is_service_managers(port: int) -> bool:
    """Tell whether systemd listens on a port, for a service that is started when a client comes."""
    with suppress(psutil.Error):
        found = holder(port)
        return found is not None and found.pid == 1 and found.name() == "systemd"
    return False


def _cluster(config: Config) -> Finding:
    # Loads redis-py, which only a cluster needs.
    from mpchat.cluster.redis_store import RedisStore

    url = cluster_url.parse(config.cluster)
    try:
        place = config.cluster_password
        password = read_secret("cluster_password", place).decode() if place else ""
        store = RedisStore(url, config.cluster_name, password)
        try:
            version = store.look()
        finally:
            store.close()
    except UnicodeDecodeError:  # which would show it
        return failure("cluster", "cluster_password is no text in UTF-8", "write it anew")
    except MpchatError as error:
        return failure("cluster", str(error), "correct that, or the settings cluster and cluster_password")
    return ok("cluster", f"Redis {version} at {url} can hold the log of {config.cluster_name}")
