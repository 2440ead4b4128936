"""``mpchat hosts``, and how the commands treat the settings of a cluster."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.harness import Server
from support.stubs import serving

from mpchat.control.answers import Host, Hosts
from mpchat.control.messages import Answer, Reply
from mpchat.control.requests import Hosts as HostsRequest
from mpchat.control.requests import Request
from mpchat.errors import Exit

pytestmark = pytest.mark.usefixtures("commands_apart")

HOSTS = [
    Host(name="서울-1", state="here", epoch=3, lease=9.5, position=70, clients=2, version="0.2.0"),
    Host(name="부산-2", state="living", epoch=4, lease=8.0, position=69, lag=1, behind=0.1, version="0.2.0"),
]
PASSWORD = "비밀번호"
URL = f"redis://me:{PASSWORD}@127.0.0.1:1"


def answered(folder: Path, result: Any, *words: str, width: int = 80) -> str:
    """Return what a command prints when a server gives this answer to a request for hosts."""
    asked: list[Request] = []

    def handle(request: Request, reply: Reply) -> None:
        asked.append(request)
        reply(Answer(result))

    server = Server(folder)
    server.environment["COLUMNS"] = str(width)
    server.instance_folder.mkdir(parents=True, mode=0o700)
    with serving(server.instance_folder / "control.sock", handle):
        done = server.command("hosts", *words)
    assert asked == [HostsRequest()]
    assert (done.returncode, done.stderr) == (Exit.OK, "")
    return done.stdout


def test_a_terminal_gets_a_table(folder: Path) -> None:
    lines = answered(folder, Hosts(HOSTS)).splitlines()
    assert [each.split()[0] for each in lines] == ["host", "서울-1", "부산-2"]
    assert lines[2].split() == ["부산-2", "living", "4", "8.0", "s", "69", "1,", "0.1", "s", "0", "0.2.0"]


def test_a_narrow_terminal_gets_lines(folder: Path) -> None:
    shown = answered(folder, Hosts(HOSTS), width=40)
    assert "부산-2 living, epoch 4: lease 8.0 s," in shown


def test_a_program_gets_what_the_server_said_also_what_is_not_known_here(folder: Path) -> None:
    said = {**msgspec.to_builtins(Hosts(HOSTS)), "later": 1}
    out = answered(folder, said, "--json")
    assert out.count("\n") == 1
    assert json.loads(out) == said


def test_a_server_that_is_alone_has_no_hosts_and_says_so(lasting: Server) -> None:
    for words in (["hosts"], ["hosts", "--json"]):
        done = lasting.command(*words)
        assert (done.returncode, done.stdout) == (Exit.FAILED, "")
        assert done.stderr == "mpchat: this server is alone: the setting cluster is empty\n"
    assert lasting.status()["cluster"] is None


def refused_start(server: Server, code: Exit, *flags: str) -> str:
    done = server.command("start", "--port", "0", "--cluster", URL, *flags)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.count("\n") == 1
    assert PASSWORD not in done.stderr
    assert server.log == ""
    return done.stderr


@pytest.mark.parametrize("name", ["history", "bans"])
def test_a_start_with_a_file_for_what_the_log_keeps_is_wrong_usage(folder: Path, name: str) -> None:
    line = refused_start(Server(folder), Exit.USAGE, f"--{name}", "x")
    assert line.startswith(f"mpchat: {name} is set, and cluster too: the cluster's log keeps the ")


def test_a_start_without_the_library_says_how_to_get_it(folder: Path) -> None:
    server = Server(folder)
    (folder / "sitecustomize.py").write_text("import sys; sys.modules['redis'] = None\n")
    server.environment["PYTHONPATH"] = f"{folder}:{server.environment.get('PYTHONPATH', '')}"
    line = refused_start(server, Exit.NOT_STARTED)
    assert line == "mpchat: cluster is set, and redis-py is not installed: pip install 'redis>=6.0'\n"


def test_a_wrong_url_is_wrong_usage_and_is_not_shown(folder: Path) -> None:
    line = refused_start(Server(folder), Exit.USAGE, "--cluster", f"redis//:{PASSWORD}@a")
    assert "flag --cluster: cluster is a value that is not shown" in line


def test_config_shows_no_password(folder: Path) -> None:
    server = Server(folder)
    server.environment["COLUMNS"] = "200"
    (folder / "mpchat.toml").write_text(f'cluster = "{URL}"\n')
    done = server.command("config")
    assert done.returncode == Exit.OK
    assert f"redis://me:***@127.0.0.1:1 {folder}" in " ".join(done.stdout.split())
    assert PASSWORD not in done.stdout + done.stderr
