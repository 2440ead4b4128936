"""The limit of descriptors that a script and its child processes have."""

import resource

# Descriptors of a process without a limit of its own: Linux's default for the whole machine (fs.nr_open).
NO_LIMIT = 2**20


def descriptor_limit() -> int:
    """Return how many descriptors a process may have after :func:`raise_descriptor_limit`."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return NO_LIMIT if hard == resource.RLIM_INFINITY else hard


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of descriptors to the hard limit; its children inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor_limit(), hard))
