"""How many cores a process may use."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from mpchat import cores
from mpchat.cli import commands
from mpchat.config import resolve
from mpchat.supervisor.pool import WorkerPool


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


# What /proc/self/cgroup says: the first version of control groups alone, beside the second one without
# controllers, and with the CPU's controller alone.
FIRST_VERSION = {
    "first": "5:memory:/a/b\n4:cpu,cpuacct:/a/b\n3:cpuset:/c\n1:name=systemd:/d\n",
    "both": "4:cpuacct,cpu:/a/b\n0::/d\n",
    "alone": "2:cpu:/a/b\n",
}


@pytest.mark.parametrize("said", FIRST_VERSION.values(), ids=FIRST_VERSION)
@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({"": (-1, 100_000), "a/b": (-1, 100_000)}, []),
        ({"a/b": (150_000, 100_000)}, [2]),
        ({"a/b": (25_000, 50_000), "a": (400_000, 100_000), "": (700_000, 100_000)}, [1, 4, 7]),
        # A container that is told the machine's path, and sees only its own group.
        ({"": (300_000, 100_000)}, [3]),
        ({"a/b": (100_000, 0)}, []),
        ({}, []),
    ],
)
def test_the_limits_of_the_first_version_of_control_groups_count(
    tmp_path: Path, said: str, limits: dict[str, tuple[int, int]], expected: list[int]
) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text(said)
    # No limit of ours: another controller's group of the same path, and what is beside the controllers.
    for group, (quota, period) in {**{f"cpu/{each}": it for each, it in limits.items()}, **OTHERS}.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        (root / group / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (root / group / "cpu.cfs_period_us").write_text(f"{period}\n")
    assert cores._quotas(own, root) == expected


OTHERS = {"memory/a/b": (100_000, 100_000), "cpu/c": (100_000, 100_000), "": (100_000, 100_000)}


def test_a_limit_of_which_a_file_is_missing_is_none(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("2:cpu:/\n")
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("100000\n")
    assert cores._quotas(tmp_path / "cgroup", tmp_path) == []


def test_without_control_groups_there_is_no_limit(tmp_path: Path) -> None:
    assert cores._quotas(tmp_path / "none", tmp_path) == []
    assert 1 <= cores.usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("limit", "expected"), [("300000 100000", 3), ("1600000 100000", 8)])
def test_the_usable_cores_are_the_fewer_of_affinity_and_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, expected: int
) -> None:
    own, root = tmp_path / "cgroup", tmp_path / "fs"
    own.write_text("0::/a\n")
    (root / "a").mkdir(parents=True)
    (root / "a" / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(cores, "CGROUP", own)
    monkeypatch.setattr(cores, "CGROUPS", root)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert cores.usable_cores() == expected


def test_a_server_starts_as_many_workers_as_the_usable_cores_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpchat.supervisor.pool.usable_cores", lambda: 71)
    config = resolve([])[0]
    assert WorkerPool.wanted(msgspec.structs.replace(config, workers=0)) == 70
    assert WorkerPool.wanted(msgspec.structs.replace(config, workers=3)) == 3


def test_the_config_command_counts_with_the_usable_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpchat.cli.config.usable_cores", lambda: 71)
    (tmp_path / "mpchat.toml").write_text("workers = 0\n")
    shown = CliRunner().invoke(commands.main, ["config", "--config", str(tmp_path / "mpchat.toml")])
    assert shown.exit_code == 0
    assert "workers = 0 means 70 here, with 71 cores\n" in shown.stdout
    assert "memory at most, with 70 workers and " in shown.stdout
