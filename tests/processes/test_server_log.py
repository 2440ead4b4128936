"""The log of a real server: JSON whatever clients send, the audit trail, and ``mpchat log``."""

import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.harness import MPCHAT, Client, Server, in_foreground, kill, raw_frame, running
from support.members import Member
from support.waiting import PATIENCE, eventually

from mpchat.cli.launch import _LastLines

pytestmark = pytest.mark.one_python

# Where a proxy would be.
PROXY = "127.0.0.2"
EVIL = '\x1b[2J\r\n{"event": "audit"}\u202e\u2028\u200b\x00'
SETTINGS = 'log_format = "{}"\nlog_level = "debug"\nproxy_from = ["127.0.0.2"]\nsecret = "{}"\n'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("logs")
    (folder / "secret").write_text("a secret of eleven words")
    (folder / "secret").chmod(0o600)
    settle(folder, "json")
    with running(folder) as server:
        yield server


def settle(folder: Path, log_format: str) -> None:
    (folder / "mpchat.toml").write_text(SETTINGS.format(log_format, folder / "secret"))


def ok(server: Server, *words: str) -> str:
    done = server.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def events(server: Server) -> list[dict[str, Any]]:
    """Every line of the log, which must be an object; one that is being written may be there in part."""
    return [json.loads(line) for line in server.log.split("\n")[:-1]]


def of(server: Server, event: str, **fields: Any) -> list[dict[str, Any]]:
    return [each for each in events(server) if {"event": event, **fields}.items() <= each.items()]


def send_and_leave(address: tuple[str, int], data: bytes, source: str = "127.0.0.1") -> None:
    """Send bytes, and wait until the server has ended the connection or answered."""
    with Client(address, source=source) as client, suppress(OSError):
        client.send_raw(data)
        client.sock.shutdown(socket.SHUT_WR)
        while client.sock.recv(1 << 16):
            pass


def test_nothing_that_a_client_sends_is_in_the_log_unescaped(server: Server) -> None:
    address, evil = server.address, EVIL.encode()
    for garbage in (
        b"GET /" + evil + b" HTTP/1.1\r\nHost: " + evil + b"\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: x\r\nOrigin: \x1b[2J\xff\r\nSec-WebSocket-Protocol: \x07\r\n\r\n",
        b"\x16\x03\x01" + evil,
        raw_frame(evil),
        struct.pack(">H", 9) + b"\xff\xfe",
        b"\x00" * 10,
    ):
        send_and_leave(address, garbage)
    for header in (
        b"PROXY TCP4 " + evil + b" 1 2 3\r\n",
        b"PROXY \x1b[2J\r\n",
        b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\xff" * 12 + evil,
        b"GET / HTTP/1.1\r\nX-Forwarded-For: \x1b[2J" + evil + b"\r\n\r\n",
        b"no header at all" + evil,
    ):
        send_and_leave(address, header, PROXY)
    with Member(address) as member:
        for name in (EVIL, "eve\u202e", "\ud800"):
            member.send_raw(
                raw_frame(json.dumps({"join": {"name": name, "secret": EVIL, "room": EVIL}}).encode())
            )
            member.until("error")
        member.ask(join={"name": "eve", "jwt": EVIL})
        member.until("error")
        member.ask(join={"name": "eve", "secret": EVIL})
        member.until("error")
    for words in (("kick", EVIL.replace("\x00", "")), ("say", EVIL.replace("\x00", ""))):
        server.command(*words)
    eventually(lambda: of(server, "audit", action="say"), "the last line")
    eventually(lambda: of(server, "proof_refused"), "a proof to be refused")
    assert of(server, "proxy_header_refused")
    for line in events(server):
        assert line["time"]
        assert line["process"]
        texts = [value for value in line.values() if isinstance(value, str)]
        assert all(unicodedata.category(char)[0] != "C" for text in texts for char in text.replace("\n", ""))
        assert not set("\u2028\u2029") & set("".join(texts))
    # What seems to be the trail is the trail.
    assert all({"actor", "action", "result"} <= set(each) for each in of(server, "audit"))
    shown = ok(server, "log", "-n", "1000")
    assert not set("\x1b\x00\u202e\u2028\r") & set(shown)


def test_each_command_that_changes_something_is_in_the_audit_trail(server: Server) -> None:
    ok(server, "ban", "192.0.2.9", "--for", "60s")
    ok(server, "unban", "192.0.2.9")
    ok(server, "mute", "bob")
    ok(server, "unmute", "bob")
    assert server.command("close", "nowhere").returncode == 1
    ok(server, "status")
    accounts = str(server.folder / "accounts.db")
    done = server.run("user", "add", "앨리스", "--accounts", accounts, input="long enough\n", stdin=None)
    assert done.returncode == 0, done.stderr
    assert server.run("user", "remove", "앨리스", "--accounts", accounts).returncode == 0
    eventually(lambda: of(server, "audit", action="user remove"), "the last line")
    trail = [json.loads(line) for line in ok(server, "log", "--audit", "--json", "-n", "7").splitlines()]
    assert [(each["action"], each["target"]) for each in trail] == [
        ("ban", "192.0.2.9"),
        ("unban", "192.0.2.9"),
        ("mute", "bob"),
        ("unmute", "bob"),
        ("close", "nowhere"),
        ("user add", "앨리스 member"),
        ("user remove", "앨리스"),
    ]
    assert trail[0]["seconds"] == 60.0
    assert trail[0]["result"] == "done, connections ended: 0"
    assert "nowhere" in trail[4]["result"]
    assert all(f"(uid {os.geteuid()})" in each["actor"] for each in trail)


def test_stacks_and_deaths_are_events(server: Server) -> None:
    before = len(of(server, "stacks"))
    os.kill(server.pid, signal.SIGUSR2)
    eventually(lambda: len(of(server, "stacks")) == before + 3, "the stacks of three processes")
    assert all("most recent call first" in each["stack"] for each in of(server, "stacks"))
    kill(server.worker_pids[1])
    died = eventually(lambda: of(server, "process_died"), "the death to be told")
    assert died[-1]["child"] == "worker 2"
    assert "SIGKILL" in died[-1]["how"]
    server.wait_until_running()


def test_the_log_is_followed_while_it_is_rotated(server: Server) -> None:
    command = [*MPCHAT, "log", "--follow", "-n", "0", "--audit"]
    with subprocess.Popen(
        command, cwd=server.folder, env=server.environment, stdout=subprocess.PIPE, text=True
    ) as follower:
        try:
            assert follower.stdout is not None
            seen = 0
            while not _readable(follower):  # until it follows
                seen += 1
                ok(server, "mute", f"first{seen}")
            assert '"first' in follower.stdout.readline()
            path = server.instance_folder / "server.log"
            path.rename(server.instance_folder / "server.log.1")
            os.kill(server.pid, signal.SIGUSR1)
            eventually(path.exists, "the log to be opened anew")
            ok(server, "mute", "last")
            while '"last"' not in (line := follower.stdout.readline()):
                assert "audit: mute" in line
        finally:
            follower.send_signal(signal.SIGINT)
            follower.wait(PATIENCE)
    assert follower.returncode == 0


def _readable(process: "subprocess.Popen[str]") -> bool:
    assert process.stdout is not None
    return bool(select.select([process.stdout.fileno()], [], [], 0.3)[0])


def test_a_reload_changes_the_format_in_each_process(server: Server) -> None:
    settle(server.folder, "text")
    try:
        assert "log_format" in ok(server, "reload")
        logged = len(server.log)
        ok(server, "mute", "carol")
        eventually(lambda: 'audit: mute "carol"' in server.log[logged:], "a line of the supervisor")
        with Member(server.address) as member:
            member.join("dora")
        eventually(lambda: "= joined: 127.0.0.1" in server.log[logged:], "a line of a worker")
        assert "{" not in server.log[logged:]
        shown = ok(server, "log", "-n", "1000").splitlines()
        assert all(each[:2] == "20" for each in shown if each[:1] != " " and not each.startswith("Stack"))
    finally:
        settle(server.folder, "json")
        ok(server, "reload")


def test_the_log_of_a_server_in_the_foreground_is_where_its_standard_error_leads(tmp_path: Path) -> None:
    server = Server(tmp_path)
    with in_foreground(server, "--log-format", "json") as process:
        done = server.command("log")
        assert (done.returncode, done.stdout) == (1, "")
        assert "is its standard error" in done.stderr
        assert "start it with --log-file FILE" in done.stderr
        process.terminate()
        _, said = process.communicate(timeout=PATIENCE)
    lines = [json.loads(line) for line in said.splitlines()]
    assert lines[-1]["event"] == "server_stopped"


def test_what_a_start_shows_of_a_log_in_json_is_readable() -> None:
    said = {"time": "2026-11-29T09:30:15.123+09:00", "level": "error", "process": "supervisor[7]"}
    lines = [
        {**said, "event": "output", "text": "Traceback (most recent call last):"},
        {**said, "event": "output", "text": "ValueError: bad\\x1b[2J"},
        {**said, "event": "other", "text": "it is over", "stack": "one\ntwo"},
    ]
    program = "import sys; sys.stderr.write(sys.argv[1])"
    text = "".join(f"{json.dumps(each)}\n" for each in lines) + "plain \x1b text\n"
    with subprocess.Popen([sys.executable, "-c", program, text], stderr=subprocess.PIPE) as process:
        last = _LastLines(process)
        process.wait()
        assert last.text() == (
            "\n  ValueError: bad\\x1b[2J\n  2026-11-29 09:30:15.123 ERROR supervisor[7]: it is over"
            "\n  one\n  two\n  plain \\x1b text"
        )
