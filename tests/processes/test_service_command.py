"""``mpchat service``: units that systemd understands, that run, and that hold no secret."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import Server
from support.programs import require
from support.service_manager import hearing
from support.waiting import PATIENCE

from mpchat.cli import service

# All that has a meaning in a unit.
HOSTILE = "bye % %n $HOME ${HOME} \"x' \\ \\n ; # 안녕"


@pytest.fixture
def settled(folder: Path) -> Server:
    """A server that is not started."""
    return Server(folder)


def printed(server: Server, *words: str) -> str:
    done = server.run("service", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def values(unit: str, key: str) -> list[str]:
    return [each.removeprefix(f"{key}=") for each in unit.splitlines() if each.startswith(f"{key}=")]


def verified(folder: Path, units: dict[str, str]) -> str:
    """Return what systemd has against units."""
    paths = []
    for name, text in units.items():
        paths.append(folder / name)
        paths[-1].write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", *map(str, paths)], capture_output=True, text=True, check=False
    )
    ours = [each for each in done.stderr.splitlines() if "mpchat" in each]
    return "\n".join(ours) or ("" if done.returncode == 0 else done.stderr)


def test_systemd_understands_every_unit_whatever_the_settings_are(settled: Server) -> None:
    require("systemd-analyze")
    odd = settled.folder / "50% of $HOME \\ 가"
    odd.mkdir()
    (odd / "mpchat.toml").write_text("workers = 1\n")
    settled.environment["MPCHAT_FAREWELL"] = HOSTILE
    words = ("--config", str(odd / "mpchat.toml"), "--history", str(odd / "h.db"), "--secret", str(odd / "s"))
    unit = printed(settled, *words)
    sockets = printed(settled, *words, "--socket", "--host", "127.0.0.1,::1")
    assert verified(settled.folder, {"mpchat.service": unit, "mpchat.socket": sockets}) == ""
    assert verified(settled.folder, {"mpchat.service": printed(settled, *words, "--user")}) == ""
    # It does find what is wrong.
    assert verified(settled.folder, {"mpchat.service": unit.replace('\\"', '"')}) != ""


@pytest.mark.parametrize(
    ("version", "kind"), [(252, "notify"), (253, "notify-reload"), (257, "notify-reload")]
)
def test_the_type_is_one_that_this_systemd_knows(
    settled: Server, version: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = settled.folder / "bin"
    programs.mkdir()
    (programs / "systemctl").write_text(f"#!/bin/sh\necho 'systemd {version} ({version}.1-2)'\n")
    (programs / "systemctl").chmod(0o755)
    settled.environment["PATH"] = f"{programs}:{os.environ['PATH']}"
    assert values(printed(settled), "Type") == [kind]
    monkeypatch.setattr(service, "VERSION_TIMEOUT", 0.1)
    for body in ("exit 1", "echo no version", "exec sleep 5", "echo"):
        (programs / "systemctl").write_text(f"#!/bin/sh\n{body}\n")
        assert values(printed(settled), "Type") == ["notify-reload"]


def test_the_command_of_a_unit_runs_the_server_with_all_settings(settled: Server) -> None:
    (settled.folder / "mpchat.toml").write_text('port = 0\nworkers = 1\nbans = "bans.json"\n')
    settled.environment["MPCHAT_FAREWELL"] = HOSTILE
    del settled.environment["MPCHAT_RUNTIME_DIR"]
    unit = printed(settled, "--max-rooms", "7")
    del settled.environment["MPCHAT_FAREWELL"]
    # What systemd does: it takes words apart, and replaces what begins with %.
    specifiers = {"t": str(settled.folder / "run"), "S": str(settled.folder), "%": "%"}

    def words(text: str) -> list[str]:
        return shlex.split(re.sub("%(.)", lambda found: specifiers[found[1]], text))

    variables = dict(each.split("=", 1) for line in values(unit, "Environment") for each in words(line))
    assert variables["MPCHAT_FAREWELL"] == HOSTILE
    assert variables["MPCHAT_RUNTIME_DIR"] == str(settled.folder / "run" / "mpchat")
    # For the fixture, which looks for what is left behind by this variable.
    variables["MPCHAT_RUNTIME_DIR"] = str(settled.folder / "run")
    start = words(values(unit, "ExecStart")[0].removeprefix(":"))
    assert f"--bans={settled.folder / 'bans.json'}" in start
    with hearing(settled.folder) as manager:
        environment = {**settled.environment, **variables, "NOTIFY_SOCKET": manager.address}
        with subprocess.Popen(start, env=environment, cwd="/", stdout=subprocess.DEVNULL) as process:
            try:
                manager.hear_until("READY")
                process.terminate()
                assert process.wait(PATIENCE) == 0
            finally:
                process.kill()


def test_no_secret_is_printed(settled: Server) -> None:
    hidden = "hidden-password"
    key = settled.folder / "key"
    key.write_text(hidden * 3)
    key.chmod(0o600)
    settled.environment |= {"WORD": hidden, "MPCHAT_CLUSTER": f"redis://me:{hidden}@127.0.0.1:7000/1"}
    unit = printed(settled, "--jwt-key", str(key), "--secret", "env:WORD")
    assert hidden not in unit
    assert values(unit, "LoadCredential") == [f"jwt_key:{key}"]
    assert "--jwt-key=%d/jwt_key --secret=env:WORD" in values(unit, "ExecStart")[0]
    assert values(unit, "EnvironmentFile") == ["-/etc/mpchat.env"]
    assert "MPCHAT_CLUSTER=redis://me@127.0.0.1:7000/1" in values(unit, "Environment")
    assert "# Note: the password in the URL of the cluster is not printed" in unit
    # A cluster keeps bans itself.
    assert "MPCHAT_BANS" not in unit
    own = printed(settled, "--jwt-key", "key", "--user", "--cluster", f"redis://:{hidden}@127.0.0.1")
    assert hidden not in own
    assert values(own, "LoadCredential") == []
    assert f"--jwt-key={key}" in values(own, "ExecStart")[0]


def test_an_instance_has_its_own_unit_and_folders(settled: Server) -> None:
    del settled.environment["MPCHAT_RUNTIME_DIR"]
    unit = printed(settled, "--name", "games", "--auth", "names")
    assert unit.startswith("# /etc/systemd/system/mpchat-games.service\n")
    assert values(unit, "RuntimeDirectory") == values(unit, "StateDirectory") == ["mpchat-games"]
    assert "MPCHAT_ACCOUNTS=%S/mpchat-games/accounts.db" in values(unit, "Environment")
    assert sys.executable in values(unit, "ExecStart")[0]


def test_paths_that_a_service_does_not_see_or_may_not_write_are_named(settled: Server) -> None:
    del settled.environment["MPCHAT_RUNTIME_DIR"]
    words = ("--history", "/home/me/history.db", "--log-file", "/srv/logs/chat.log")
    unit = printed(settled, *words)
    assert "# Note: the service does not see " in unit
    assert "/home/me/history.db" in unit.split("the service does not see")[1].splitlines()[0]
    assert values(unit, "ReadWritePaths") == ["/srv/logs", "/home/me"]
    assert "does not see" not in printed(settled, *words, "--user")
    own = printed(settled, "--history", "/var/lib/mpchat/history.db")
    assert values(own, "ReadWritePaths") == []


def test_a_socket_unit_needs_a_port_and_wrong_settings_are_a_line(settled: Server) -> None:
    done = settled.run("service", "--socket", "--port", "0")
    assert done.returncode == 2
    assert done.stderr == "mpchat: port is 0: a socket unit needs a number; choose one with --port\n"
    unit = printed(settled, "--socket", "--host", "::", "--port", "5000")
    assert values(unit, "ListenStream") == ["[::]:5000"]
    assert values(unit, "BindIPv6Only") == ["both"]
    done = settled.run("service", "--workers", "many")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
