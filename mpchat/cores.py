"""Cores: how many this process may use, which may be fewer than the machine has."""

import os
from contextlib import suppress
from math import ceil
from pathlib import Path

from mpchat.cgroup import CGROUP, CGROUPS, groups


def usable_cores() -> int:
    """Return the cores that affinity (``taskset``) and the control group (``docker --cpus``) leave.

    At least 1; a part of a core counts as one. Both versions of control groups are asked.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS
        cores = os.cpu_count() or 1
    return max(1, min([cores, *_quotas(CGROUP, CGROUPS)]))


def _quotas(cgroup: Path, root: Path) -> list[int]:
    """Return the limits of the process's control groups and of those around them, in cores."""
    found = [
        _quota(each.folder / "cpu.max")
        if each.is_second
        else _quota(each.folder / "cpu.cfs_quota_us", each.folder / "cpu.cfs_period_us")
        for each in groups("cpu", cgroup, root)
    ]
    return [each for each in found if each]


def _quota(*paths: Path) -> int:
    """Return the limit in cores that the files say together; 0 for none.

    They say a quota and a period in microseconds. No limit is a quota of ``max`` or -1.
    """
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = " ".join(each.read_text() for each in paths).split()
        return max(0, ceil(int(quota) / int(period)))
    return 0
