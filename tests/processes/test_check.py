"""``mpchat check`` as a command: beside a server, in a container's surroundings, for people and programs."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.harness import MPCHAT, Server, in_foreground
from support.namespaces import as_random_user, sticky_folder, with_read_only_root

from mpchat.errors import Exit

pytestmark = pytest.mark.one_python

Findings = dict[str, dict[str, str]]


def findings(done: "subprocess.CompletedProcess[str]") -> Findings:
    """Return what was found by subject; the exit code agrees with it."""
    said = json.loads(done.stdout)
    fails = any(each["level"] == "failure" for each in said["findings"])
    assert (said["ok"], done.returncode) == (not fails, Exit.FAILED if fails else Exit.OK)
    return {each["subject"]: each for each in said["findings"]}


def files(folder: Path) -> dict[str, bytes | None]:
    """Return what lies in a folder, but the log, which a server goes on writing."""
    paths = [path for path in folder.rglob("*") if path.name != "server.log"]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def test_beside_a_running_server_it_finds_no_fault_and_changes_nothing(shared: Server) -> None:
    port = str(shared.address[1])
    before, status = files(shared.folder), shared.status()
    found = findings(shared.command("check", "--json", "--port", port))
    assert f"pid {shared.pid}" in found["instance"]["text"]
    assert found["port"]["text"] == f"127.0.0.1:{port} is this server's"
    assert files(shared.folder) == before
    after = shared.status()
    assert (after["connections"], after["workers"][0]["pid"]) == (0, status["workers"][0]["pid"])
    assert shared.log.count("ERROR") == 0


def test_another_servers_port_is_named_with_its_holder(shared: Server) -> None:
    port = str(shared.address[1])
    done = shared.command("check", "--json", "--port", port, "--name", "other")
    found = findings(done)
    assert found["port"]["level"] == "failure"
    assert f"mpchat (pid {shared.pid}" in found["port"]["text"]
    assert "another --port" in found["port"]["remedy"]


def test_the_table_has_each_remedy_and_a_last_line_that_sums_up(shared: Server, folder: Path) -> None:
    done = shared.command(
        "check", "--port", "0", "--workers", "256", "--log-file", str(folder / "no" / "log")
    )
    assert done.returncode == Exit.FAILED
    words = " ".join(done.stdout.split())
    assert "→ set workers = 0" in words
    assert "→ see --log-file" in words
    assert done.stdout.splitlines()[-1].startswith("1 will fail, ")
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_history_that_the_running_server_has_open_is_looked_into(folder: Path) -> None:
    server = Server(folder)
    with in_foreground(server, "--history", "history.db"):
        before = sorted(path.name for path in folder.iterdir())
        found = findings(server.command("check", "--json", "--port", "0", "--history", "history.db"))
        assert found["history"]["level"] == "ok", found["history"]
        assert sorted(path.name for path in folder.iterdir()) == before


@pytest.fixture
def sticky() -> Iterator[Path]:
    with sticky_folder() as made:
        yield made


@pytest.mark.parametrize("read_only", [False, True], ids=["random user", "read-only root"])
def test_what_a_container_forbids(sticky: Path, read_only: bool) -> None:
    before = [*(with_read_only_root(sticky) if read_only else []), *as_random_user()]
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    words = [*before, *MPCHAT, "check", "--json", "--port", "80", "--log-file", "/var/lib/log"]
    done = subprocess.run(
        words, cwd="/", env={**kept, "TMPDIR": str(sticky)}, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    found = findings(done)
    assert found["runtime folder"]["level"] != "failure", found["runtime folder"]
    assert ("read-only" if read_only else "no right to write") in found["log"]["text"]
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 80:
        assert "no right to listen" in found["port"]["text"]


def test_no_other_command_loads_what_it_loads() -> None:
    code = "import sys, mpchat.cli.commands; print(*(each for each in sys.modules if 'inspection' in each))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
