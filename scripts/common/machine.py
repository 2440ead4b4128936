"""The machine that a script runs on: what its figures depend on, and its limit of descriptors."""

import os
import platform
import resource
from collections.abc import Mapping
from pathlib import Path

# Descriptors of a process without a limit of its own: Linux's default for the whole machine (fs.nr_open).
NO_LIMIT = 2**20


def machine() -> dict[str, str]:
    """Return the cores, the processor, the kernel and the Python version."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: what platform says must do
    return {
        "cores": str(os.cpu_count()),
        "processor": model,
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def machine_line(about: Mapping[str, str] | None = None) -> str:
    """Return this machine, or another one that :func:`machine` returned, in one line."""
    return "{cores} cores, {processor}, {kernel}, Python {python}".format(**about or machine())


def descriptor_limit() -> int:
    """Return how many descriptors a process may have after :func:`raise_descriptor_limit`."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return NO_LIMIT if hard == resource.RLIM_INFINITY else hard


def raise_descriptor_limit() -> None:
    """Raise this process's soft limit of descriptors to the hard limit; its children inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptor_limit(), hard))
