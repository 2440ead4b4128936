"""Control groups: where Linux says how much of the machine this process may use, in both of their versions.

Not here: what the limits mean; :mod:`mpchat.cores` and :mod:`mpchat.memory_limit` read them.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


class Group(NamedTuple):
    """The folder of a control group, and whether its files are those of the second version."""

    folder: Path
    is_second: bool


def groups(controller: str, cgroup: Path, root: Path) -> list[Group]:
    """Return the process's control groups for ``controller`` (``cpu``, ``memory``), and those around them.

    ``cgroup`` is what the process is told of its groups, and ``root`` the folder of all groups. In the first
    version the controller's folder has its name. It may be a link, where it shares a folder with another one.
    """
    found: list[Group] = []
    with suppress(OSError, ValueError):
        for line in cgroup.read_text().splitlines():
            number, controllers, group = line.split(":", 2)
            if number == "0":
                found += (Group(each, True) for each in _around(root, group))
            elif controller in controllers.split(","):
                found += (Group(each, False) for each in _around(root / controller, group))
    return found


def _around(top: Path, group: str) -> Iterator[Path]:
    """Return the folder of a control group and of those around it, ``top`` last.

    A container may be told the path that the machine sees. Then only ``top`` is there, and it is the
    container's own group.
    """
    inner = top / group.lstrip("/")
    return (each for each in (inner, *inner.parents) if each.is_relative_to(top))
