"""How many cores a process may use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mpchat import cores


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity on this system")
def test_a_process_that_is_kept_to_one_core_has_one() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from mpchat.cores import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": "max 100000"}, []),
        ({"a/b": "150000 100000"}, [2]),
        ({"a/b": "50000 100000", "a": "400000 100000"}, [1, 4]),
        ({"a": "nonsense"}, []),
        ({}, []),
    ],
)
def test_the_limits_of_the_group_and_of_those_around_it_count(
    tmp_path: Path, limits: dict[str, str], expected: list[int]
) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("12:cpu:/old\n0::/a/b\n")
    (root / "a" / "b").mkdir(parents=True)
    for group, limit in limits.items():
        (root / group / "cpu.max").write_text(limit + "\n")
    assert cores._quotas(own, root) == expected


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cores._quotas(tmp_path / "none", tmp_path) == []
    assert 1 <= cores.usable_cores() <= (os.cpu_count() or 1)
