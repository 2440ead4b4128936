"""The machine that a script runs on: what its figures depend on."""

import os
import platform
from collections.abc import Mapping
from pathlib import Path


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
