"""Cores: how many this process may use, which may be fewer than the machine has."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return the cores that affinity (``taskset``) and the control group (``docker --cpus``) leave.

    At least 1; a part of a core counts as one. Only the second version of control groups is asked.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(_CGROUP, _CGROUPS)]))


def _quotas(cgroup: Path, root: Path) -> list[int]:
    """Return the limits of the process's control group and of those around it, in cores."""
    with suppress(OSError):
        for line in cgroup.read_text().splitlines():
            if line.startswith("0::"):
                group = root / line.removeprefix("0::").lstrip("/")
                return [found for each in (group, *group.parents) if (found := _quota(each / "cpu.max"))]
    return []


def _quota(path: Path) -> int:
    """Return the limit that ``path`` says, ``QUOTA PERIOD`` in microseconds; 0 for none."""
    with suppress(OSError, ValueError):
        quota, period = path.read_text().split()
        return ceil(int(quota) / int(period))
    return 0
