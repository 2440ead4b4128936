"""How much memory a process may use, in both versions of control groups."""

import logging
import os
from pathlib import Path

import pytest

from mpchat.config import resolve
from mpchat.memory import Bound
from mpchat.memory_limit import MemoryLimit, memory_limit, shortage
from mpchat.supervisor import supervisor
from mpchat.supervisor.startup import StartFacts

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1 << 20
# What the first version says where there is no limit.
NONE_OF_FIRST = 0x7FFFFFFFFFFFF000


def second(folder: Path, most: object, current: int = 0, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {inactive}\nactive_file 7\n")


def first(folder: Path, most: int, current: int = 0, inactive: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.limit_in_bytes").write_text(f"{most}\n")
    (folder / "memory.usage_in_bytes").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"inactive_file 5\ntotal_inactive_file {inactive}\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "cgroup"
    path.write_text("0::/a/b\n")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "fs"


def test_without_a_limit_the_machine_is_the_limit(own: Path, root: Path) -> None:
    assert memory_limit(own, root) == MemoryLimit(MACHINE, 0, False)
    second(root / "a" / "b", "max", 77)
    assert memory_limit(own, root) == MemoryLimit(MACHINE, 0, False)
    assert memory_limit(own.with_name("none"), root) == MemoryLimit(MACHINE, 0, False)


def test_what_files_take_and_nobody_uses_counts_as_free(own: Path, root: Path) -> None:
    second(root / "a" / "b", 512 * MIB, 100 * MIB, 30 * MIB)
    found = memory_limit(own, root)
    assert (found, found.free) == (MemoryLimit(512 * MIB, 70 * MIB, True), 442 * MIB)


def test_a_group_around_it_counts_where_less_is_left(own: Path, root: Path) -> None:
    second(root / "a" / "b", 512 * MIB, 10 * MIB)
    second(root / "a", 1024 * MIB, 900 * MIB)
    assert memory_limit(own, root) == MemoryLimit(1024 * MIB, 900 * MIB, True)


def test_a_container_that_is_told_the_machines_path_has_the_limit_of_its_top_folder(
    own: Path, root: Path
) -> None:
    second(root, 256 * MIB)
    assert memory_limit(own, root).size == 256 * MIB


def test_the_first_version(own: Path, root: Path) -> None:
    own.write_text("4:memory:/a/b\n1:cpu:/x\n0::/z\n")
    first(root / "memory", NONE_OF_FIRST)
    assert not memory_limit(own, root).is_groups
    first(root / "memory" / "a" / "b", 300 * MIB, 50 * MIB, 20 * MIB)
    assert memory_limit(own, root) == MemoryLimit(300 * MIB, 30 * MIB, True)


@pytest.mark.parametrize("missing", ["memory.current", "memory.stat"])
def test_a_limit_counts_also_where_nothing_says_how_much_is_used(own: Path, root: Path, missing: str) -> None:
    second(root / "a" / "b", 512 * MIB, 40 * MIB, 40 * MIB)
    (root / "a" / "b" / missing).unlink()
    assert memory_limit(own, root).size == 512 * MIB


def test_more_in_use_than_the_limit_leaves_nothing(own: Path, root: Path) -> None:
    second(root / "a" / "b", 100, 200)
    assert memory_limit(own, root).free == 0


def test_nonsense_is_no_limit(own: Path, root: Path) -> None:
    second(root / "a" / "b", "much")
    own.write_text("nonsense\n0::/a/b\n")
    assert not memory_limit(own, root).is_groups


def test_a_shortage_names_both_numbers_and_the_settings_that_count_most() -> None:
    rows = [
        Bound("programs", 100 * MIB, ("workers",)),
        Bound("many", 900 * MIB, ("max_connections", "payload_limit")),
        Bound("answers", 300 * MIB, ("answers_memory", "workers")),
        Bound("little", 5 * MIB, ("name_hold",)),
    ]
    assert shortage(rows, MemoryLimit(1400 * MIB, 95 * MIB, True)) is None
    said = shortage(rows, MemoryLimit(1400 * MIB, 96 * MIB, True))
    assert said == (
        "the settings allow 1305 MiB at most, the control group leaves 1304 MiB: "
        "lower max_connections, payload_limit, answers_memory, workers; the table is in: mpchat config"
    )
    assert "this machine has 512 MiB" in (shortage(rows, MemoryLimit(512 * MIB, 0, False)) or "")


@pytest.mark.parametrize(
    ("limit", "warned"),
    [
        (MemoryLimit(200 * MIB, 0, True), True),
        (MemoryLimit(1 << 50, 0, True), False),
        # Other programs may be ended, and much of the sum is what only hostile clients cause.
        (MemoryLimit(200 * MIB, 0, False), False),
    ],
)
def test_a_server_logs_that_its_control_group_is_too_small(
    limit: MemoryLimit, warned: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(supervisor, "memory_limit", lambda: limit)
    monkeypatch.setattr(logging.getLogger("mpchat"), "propagate", True)
    facts = StartFacts(name="default", pid=1, addresses=[], workers=1, fits=500, log="")
    supervisor._warn_of_memory(resolve([])[0], facts)
    assert ("the control group leaves 200 MiB" in caplog.text) is warned
