"""Memory limit: how many bytes this process and those beside it may use, by a control group or the machine.

Past a control group's limit the kernel kills a process of the group.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mpchat.cgroup import CGROUP, CGROUPS, Group, groups
from mpchat.memory import Bound, total

# Rows of bounds whose settings a warning names, the largest.
_NAMED = 3


class MemoryLimit(NamedTuple):
    """A limit in bytes, and how much of it is in use (bytes that the kernel cannot just take back)."""

    size: int
    used: int
    is_groups: bool

    @property
    def free(self) -> int:
        """The rest of the limit, in bytes."""
        return max(0, self.size - self.used)


def shortage(rows: list[Bound], limit: MemoryLimit) -> str | None:
    """Return what is to be said where the bounds of a server exceed the limit; None where they fit."""
    most = total(rows)
    if most <= limit.free:
        return None
    largest = sorted(rows, key=lambda each: each.size, reverse=True)[:_NAMED]
    names = dict.fromkeys(name for each in largest for name in each.settings)
    whose = "the control group leaves" if limit.is_groups else "this machine has"
    return (
        f"the settings allow {most >> 20} MiB at most, {whose} {limit.free >> 20} MiB: "
        f"lower {', '.join(names)}; the table is in: mpchat config"
    )


def memory_limit(cgroup: Path = CGROUP, root: Path = CGROUPS) -> MemoryLimit:
    """Return the limit of which least is left: that of a control group, or else the machine's memory.

    The machine's memory counts as free: other programs that use it can be ended.
    """
    machine = MemoryLimit(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), 0, False)
    found = [_limit(each) for each in groups("memory", cgroup, root)]
    # The first version says a limit beyond every machine where there is none.
    limits = [each for each in found if each is not None and each.size < machine.size]
    return min([*limits, machine], key=lambda each: each.free)


def _limit(group: Group) -> MemoryLimit | None:
    """Return the limit of one group; None where it has none, which the second version calls ``max``."""
    most, current, files = (
        ("memory.max", "memory.current", "inactive_file")
        if group.is_second
        else ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    )
    with suppress(OSError, ValueError):
        size = int((group.folder / most).read_text())
        used = 0
        with suppress(OSError, ValueError):
            used = int((group.folder / current).read_text()) - _kept_of_files(group.folder, files)
        return MemoryLimit(size, max(0, used), True)
    return None


def _kept_of_files(folder: Path, name: str) -> int:
    """Return the bytes of files that the group keeps in memory and does not use."""
    with suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name:
                return int(value)
    return 0
