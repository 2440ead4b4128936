"""Descriptors: how many a process of a server that is started from here may have, and what fits them."""

import resource

from mpchat.config import Config
from mpchat.supervisor.capacity import connections_per_worker

# What macOS allows although it says "unlimited".
_OPEN_MAX = 10_240


def allowed_descriptors() -> int:
    """Return the hard limit: each process of a server raises its own limit to that."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _OPEN_MAX if hard == resource.RLIM_INFINITY else hard


def fitting_connections(config: Config, workers: int) -> int:
    """Return how many connections fit the descriptors of so many workers."""
    return workers * connections_per_worker(allowed_descriptors(), config.multiplexer)


def most_connections(config: Config, workers: int) -> int:
    """Return how many connections a server has at most."""
    fit = fitting_connections(config, workers)
    return min(fit, config.max_connections) if config.max_connections else fit
