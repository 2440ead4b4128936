"""Cores: how many this process may use, which may be fewer than the machine has."""

import os
from collections.abc import Iterator
from contextlib import suppress
from math import ceil
from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_CGROUPS = Path("/sys/fs/cgroup")
# The folder of the controller of CPU time, in the first version of control groups. It is a link where the
# controller shares a folder with another one.
_CPU = "cpu"


def usable_cores() -> int:
    """Return the cores that affinity (``taskset``) and the control group (``docker --cpus``) leave.

    At least 1; a part of a core counts as one. Both versions of control groups are asked.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(_CGROUP, _CGROUPS)]))


def _quotas(cgroup: Path, root: Path) -> list[int]:
    """Return the limits of the process's control groups and of those around them, in cores."""
    found: list[int] = []
    with suppress(OSError, ValueError):
        for line in cgroup.read_text().splitlines():
            number, controllers, group = line.split(":", 2)
            if number == "0":
                found += (_quota(each / "cpu.max") for each in _around(root, group))
            elif _CPU in controllers.split(","):
                found += (
                    _quota(each / "cpu.cfs_quota_us", each / "cpu.cfs_period_us")
                    for each in _around(root / _CPU, group)
                )
    return [each for each in found if each]


def _around(top: Path, group: str) -> Iterator[Path]:
    """Return the folder of a control group and of those around it, ``top`` last.

    A container may be told the path that the machine sees. Then only ``top`` is there, and it is the
    container's own group.
    """
    inner = top / group.lstrip("/")
    return (each for each in (inner, *inner.parents) if each.is_relative_to(top))


def _quota(*paths: Path) -> int:
    """Return the limit in cores that the files say together; 0 for none.

    They say a quota and a period in microseconds. No limit is a quota of ``max`` or -1.
    """
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = " ".join(each.read_text() for each in paths).split()
        return max(0, ceil(int(quota) / int(period)))
    return 0
