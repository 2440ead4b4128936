"""The commands tell the truth: in one line, with a fixed exit code, whatever server and terminal do."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from support.harness import (
    MPCHAT,
    Client,
    Server,
    assert_nothing_left,
    clients,
    kill,
    leftovers,
    running,
    stopped,
)
from support.said import FAILED, NOT_STARTED, OK, TIMED_OUT, USAGE, one_line, said
from support.waiting import PATIENCE, eventually

from mpchat.cli.display import size
from mpchat.config import resolve
from mpchat.control.answers import ServerStatus
from mpchat.memory import bounds, total

pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for the tests that leave it as it was. No worker that a test stops is replaced meanwhile."""
    folder = tmp_path_factory.mktemp("shared")
    with running(folder, "--hang-timeout", "60") as server:
        yield server
    eventually(lambda: not leftovers(folder), "nothing of the shared server to be left")


@pytest.fixture
def instance(folder: Path) -> Iterator[Server]:
    """An instance that is not started yet; ended when the test is over."""
    server = Server(folder)
    yield server
    server.end()


# A server that hangs.


def test_status_of_a_hung_server_names_it_and_the_next_step(shared: Server) -> None:
    pid = shared.pid
    with stopped(pid):
        line = one_line(shared.command("status"), TIMED_OUT)
    assert f'"default" (pid {pid}) hangs' in line
    assert "end it with: mpchat stop --kill --runtime-dir" in line


@pytest.mark.usefixtures("commands_apart")
def test_stop_of_a_hung_server_says_so_in_time_and_stop_kill_ends_it(instance: Server) -> None:
    instance.start(workers=1)
    processes = instance.processes()
    pids = [each.pid for each in processes]
    with stopped(pids[0]):
        line = one_line(instance.command("stop", "--timeout", "1"), TIMED_OUT)
        assert f"has not ended within 1 s (pid {pids[0]}" in line
        told = shlex.split(line.partition("with: mpchat ")[2])
        assert told[:4] == ["stop", "--kill", "--timeout", "0"]
        assert "has stopped" in said(instance.command(*told))
        assert not [each for each in processes if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    instance.start(workers=1)


def test_status_answers_while_a_worker_hangs_and_kick_says_who_does_not(shared: Server) -> None:
    with stopped(shared.worker_pids[0]):
        assert len(shared.status()["workers"]) == 2
        line = one_line(shared.command("kick", "192.0.2.1"), TIMED_OUT)
        assert "no answer from worker 1" in line


def test_stop_ends_in_time_while_a_worker_hangs(instance: Server) -> None:
    instance.start("--stop-timeout", "0.2", workers=1)
    with stopped(instance.worker_pids[0]):
        assert "has stopped" in said(instance.stop())
    assert_nothing_left(instance.folder)


# What they say.


@pytest.mark.usefixtures("commands_apart")
def test_status_json_is_the_contract(shared: Server) -> None:
    """Every key has its type, and none is missing, one too many or out of order."""
    out = said(shared.command("status", "--json"))
    facts = msgspec.json.decode(out, type=ServerStatus)
    assert msgspec.json.encode(facts).decode() + "\n" == out
    assert (facts.name, facts.state, facts.runtime_dir) == ("default", "RUNNING", str(shared.instance_folder))
    assert re.fullmatch(r"127\.0\.0\.1:\d+", facts.addresses[0])
    assert min(msgspec.structs.astuple(facts.limits)) >= 0
    assert abs(psutil.Process(facts.pid).create_time() - facts.started) < 30
    assert [each.slot for each in facts.workers] == [1, 2]
    for worker in facts.workers:
        assert (worker.state, worker.generation) == ("RUNNING", 1)
        assert 1 << 20 < worker.rss < 1 << 30
        assert psutil.Process(worker.pid).ppid() == facts.pid


def test_status_counts_messages_in_bytes_and_seconds_that_are_true(instance: Server) -> None:
    instance.start(workers=1)
    with clients(instance, 2) as (alice, bob):
        for _ in range(10):
            alice.say("one")
        for each in (alice, bob):
            assert [each.hear() for _ in range(10)] == ["one"] * 10

        def figures() -> tuple[int, int, int]:
            worker = instance.status()["workers"][0]
            return worker["connections"], worker["messages_in"], worker["messages_out"]

        eventually(lambda: figures() == (2, 10, 20), "2 clients, 10 messages in and 20 out")


def test_status_shows_who_serves_where_and_since_when(shared: Server) -> None:
    shown = said(shared.command("status"))
    facts = shared.status()
    assert f"default RUNNING at {facts['addresses'][0]}, pid {facts['pid']}" in shown.replace("\n", "")
    assert f"0 of {facts['limits']['connections']} connections" in shown


def test_status_watch_goes_on_until_ctrl_c_and_ends_in_order(shared: Server) -> None:
    watching = subprocess.Popen(
        [*MPCHAT, "status", "--watch"],
        env=shared.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watching.stdout is not None
    pictures = 0
    while pictures < 2:
        pictures += b" RUNNING at " in watching.stdout.readline()
    watching.send_signal(signal.SIGINT)
    assert watching.communicate(timeout=PATIENCE)[1] == b""
    assert watching.returncode == OK


def test_say_reaches_everybody_and_counts_them(shared: Server) -> None:
    with clients(shared, 3) as joined:
        shared.wait_for_connections(3)
        assert said(shared.command("say", "서버 점검 10분 전")) == "said to 3 clients\n"
        assert [each.hear() for each in joined] == ["서버 점검 10분 전"] * 3
    shared.wait_for_connections(0)
    with clients(shared, 1):
        shared.wait_for_connections(1)
        assert said(shared.command("say", "hello")) == "said to 1 client\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a" * 70_000, "a frame 65535"),
        ("\x01" * 100_000, "too long"),
        (b"\xff\xfe", "not text"),
        ("half \udcff", "not text"),
    ],
    ids=["longer_than_a_frame", "longer_than_a_request", "not_utf8", "half_a_pair"],
)
def test_say_of_what_is_no_message_is_one_line_and_the_server_goes_on(
    shared: Server, text: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(text, bytes):  # bytes that are no text have to come by a command line
        monkeypatch.setattr(Server, "apart", True)
    assert why in one_line(shared.command("say", text), FAILED)
    assert why in one_line(shared.command("kick", text), FAILED) or isinstance(text, str)
    assert shared.status()["state"] == "RUNNING"


def test_kick_by_address_ends_that_connection_and_by_host_all_of_it(shared: Server) -> None:
    with clients(shared, 3) as (alice, bob, carol):
        shared.wait_for_connections(3)
        bob.say("안녕")  # the leaving of a client that has said nothing is not told
        assert [each.hear() for each in (alice, bob, carol)] == ["안녕"] * 3
        assert said(shared.command("kick", bob.address)) == "1 connection ended\n"
        assert bob.receive() is None
        assert alice.hear() == carol.hear() == f" Disconnect : {bob.address} "
        assert said(shared.command("kick", "127.0.0.1")) == "2 connections ended\n"
        assert ended(alice)
        assert ended(carol)


@pytest.mark.parametrize("target", ["127.0.0.5/8", "[127.0.0.1]", "::ffff:127.0.0.1", "::ffff:7f00:1"])
def test_kick_finds_a_host_in_every_notation(shared: Server, target: str) -> None:
    with clients(shared, 1) as (alice,):
        shared.wait_for_connections(1)
        assert said(shared.command("kick", target)) == "1 connection ended\n"
        assert ended(alice)


def ended(client: Client) -> bool:
    with suppress(ConnectionResetError):
        while client.receive() is not None:
            pass
    return True


@pytest.mark.parametrize("address", ["127.0.0.1:1", "192.0.2.1", "nobody", "", "\x1b[2J", "[::1]:1"])
def test_kick_of_nobody_says_so(shared: Server, address: str) -> None:
    line = one_line(shared.command("kick", address), FAILED)
    assert "no member is called " in line
    assert "\x1b" not in line


# What they are told wrongly.


@pytest.mark.parametrize(
    "words",
    [
        ["start", "--colour", "red"],
        ["start", "extra"],
        ["start", "--port"],
        ["stop", "--timeout", "soon"],
        ["stop", "--timeout", "-1"],
        ["status", "--jsno"],
        ["say"],
        ["kick"],
        ["chat", "127.0.0.1", "99999"],
        ["chat", "127.0.0.1:99999"],
        ["chat", "127.0.0.1:"],
        ["chat", "127.0.0.1:4000", "4000"],
        ["restart"],
    ],
)
def test_wrong_words_are_refused_with_usage(shared: Server, words: list[str]) -> None:
    done = shared.command(*words)
    assert done.returncode == USAGE
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "Error: " in done.stderr
    assert shared.status()["state"] == "RUNNING"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--port", "99999"], "flag --port: port is '99999', allowed: 0 to 65535"),
        (["--workers", "-1"], "flag --workers"),
        (["--name", "a/b"], "flag --name"),
        (["--host", "a..b"], "flag --host"),
        (["--multiplexer", "iocp"], "flag --multiplexer"),
        (["--config", "no-such.toml"], "cannot read no-such.toml"),
        (["--config", "."], "cannot read ."),
    ],
)
def test_a_wrong_setting_is_one_line_and_nothing_is_changed(folder: Path, words: list[str], why: str) -> None:
    assert why in one_line(Server(folder).command("start", *words), USAGE)
    assert not (folder / "run").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="kqueue is there on other systems")
def test_a_multiplexer_that_this_system_lacks_is_a_wrong_setting(folder: Path) -> None:
    line = one_line(Server(folder).command("start", "--multiplexer", "kqueue"), USAGE)
    assert "this system has no kqueue; multiplexer can be one of auto, epoll, poll, select" in line
    assert not (folder / "run").exists()


def test_a_host_that_is_not_of_this_machine_is_told(folder: Path) -> None:
    for host in ("192.0.2.1", "no-such-host.invalid"):
        line = one_line(Server(folder).command("start", "--port", "0", "--host", host), NOT_STARTED)
        assert f"{host} is no address of this machine" in line
    assert_nothing_left(folder)


def test_a_wrong_file_is_told_with_its_line_by_the_commands_that_need_it(folder: Path) -> None:
    server = Server(folder)
    (folder / "mpchat.toml").write_text("# mine\nport = 4000\nworkers = 'many'\n")
    for words in (["start"], ["config"]):
        line = one_line(server.command(*words), USAGE)
        assert f"{folder / 'mpchat.toml'}, line 3: workers is 'many', allowed: 0 to 256" in line


def test_a_wrong_variable_is_told_by_its_name(folder: Path) -> None:
    server = Server(folder)
    server.environment["MPCHAT_PORT"] = "x"
    line = one_line(server.command("start"), USAGE)
    assert "variable MPCHAT_PORT: port is 'x'" in line


# mpchat config.


def test_config_shows_every_setting_its_value_and_where_it_came_from(folder: Path) -> None:
    server = Server(folder)
    (folder / "mpchat.toml").write_text("workers = 3\nnotices = false\n")
    server.environment |= {"MPCHAT_WORKERS": "5", "MPCHAT_NAME": "lobby", "COLUMNS": "200"}
    shown = said(server.command("config", "--port", "5000"))
    settings = shown.split("\n\n")[0]
    rows = {line.split()[0]: " ".join(line.split()[1:]) for line in settings.splitlines()[1:]}
    assert rows["port"] == "5000 flag --port"
    assert rows["workers"] == f"3 {folder / 'mpchat.toml'}, line 1"
    assert rows["notices"] == f"off {folder / 'mpchat.toml'}, line 2"
    assert rows["name"] == "lobby variable MPCHAT_NAME"
    assert rows["host"] == "127.0.0.1 default"
    assert f"\nsettings file: {folder / 'mpchat.toml'}\n" in shown


def test_config_shows_how_much_memory_the_server_takes_at_most_and_what_that_follows_from(
    folder: Path,
) -> None:
    server = Server(folder)
    flags = ("--workers", "3", "--max-connections", "500", "--max-rooms", "10")
    server.environment["COLUMNS"] = "200"
    shown = said(server.command("config", *flags))
    table = shown.split("\n\n")[1]
    assert table.startswith("memory at most, with 3 workers and 500 connections:\n")
    config = msgspec.structs.replace(resolve([])[0], max_rooms=10)
    expected = bounds(config, 3, 500)
    lines = [" ".join(line.split()) for line in table.splitlines()[2:]]
    assert lines == [
        *(
            f"{each.what} {size(each.size)} {', '.join(each.settings)}".strip()
            for each in expected
            if each.size
        ),
        f"all together {size(total(expected))}",
    ]


def test_config_check_tells_a_good_file_from_a_bad_one(folder: Path) -> None:
    server = Server(folder)
    (folder / "good.toml").write_text(
        'host = ["127.0.0.1", "::1"]\nlag-limit = "16 MiB"\nidle_timeout = "5m"\n'
    )
    (folder / "bad.toml").write_text("port = 4000\n\nlag_limit = '1 TiB'\n")
    assert said(server.command("config", "--check", "good.toml")) == "good.toml is right\n"
    line = one_line(server.command("config", "--check", "bad.toml"), USAGE)
    assert line.startswith("mpchat: bad.toml, line 3: lag_limit is '1 TiB', allowed: 256 KiB to 1 GiB")
    (folder / "binary.toml").write_bytes(b"port = '\xff'")
    assert "not UTF-8 at byte 8" in one_line(server.command("config", "--check", "binary.toml"), USAGE)


# Ctrl-C.


@contextmanager
def start_in(server: Server, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Begin a start in a process group of its own, as a shell does, with its output in two files."""
    with (server.folder / "out").open("wb") as out, (server.folder / "err").open("wb") as err:
        process = subprocess.Popen(
            [*MPCHAT, "start", "--name", server.name, "--port", "0", "--workers", "1", *words],
            env=server.environment,
            cwd=server.folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def written(server: Server) -> tuple[str, str]:
    """What a start has written so far: standard output and standard error."""
    return (server.folder / "out").read_text(), (server.folder / "err").read_text()


def the_supervisor(server: Server) -> psutil.Process | None:
    for each in leftovers(server.folder):
        with suppress(psutil.Error):
            if "mpchat.supervisor" in each.cmdline():
                return each
    return None


# How far a start has come when Ctrl-C is pressed.
INSTANTS: dict[str, Callable[[Server, psutil.Process], object]] = {
    "as_the_server_begins": lambda server, process: True,
    "with_the_lock": lambda server, process: (server.instance_folder / "lock").exists(),
    "with_its_record": lambda server, process: (server.instance_folder / "record.json").exists(),
    "with_a_control_socket": lambda server, process: (server.instance_folder / "control.sock").exists(),
    "with_a_child": lambda server, process: process.children(),
    "with_two_children": lambda server, process: len(process.children()) > 1,
}


# Starts, of which one is to be seen in the middle.
TRIES = 6


def code_after_ctrl_c(instance: Server, instant: str, flags: list[str]) -> int:
    """Begin a start, press Ctrl-C when it has come as far as told, and return its exit code."""
    with start_in(instance, *flags) as starting:
        process = eventually(lambda: the_supervisor(instance), "the supervisor to begin")
        assert process is not None
        with suppress(psutil.NoSuchProcess):
            eventually(lambda: INSTANTS[instant](instance, process), instant)
        os.killpg(starting.pid, signal.SIGINT)
        return starting.wait(PATIENCE)


# In the foreground one process is all that gets it: fewer instants differ.
@pytest.mark.parametrize(
    ("flags", "instant"),
    [
        *(([], each) for each in INSTANTS),
        *(
            (["--foreground"], each)
            for each in ("as_the_server_begins", "with_its_record", "with_two_children")
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "foreground" if value else "background",
)
def test_ctrl_c_in_the_middle_of_a_start_ends_all_of_it_without_a_traceback(
    instance: Server, instant: str, flags: list[str]
) -> None:
    for _ in range(TRIES):
        code = code_after_ctrl_c(instance, instant, flags)
        if code != OK or flags:
            break
        # On a busy machine the server was ready before the test had seen that it began.
        assert instance.command("stop").returncode == OK
    # In the foreground: an orderly stop, or, before there was anything to stop, the signal's own end.
    assert code in ((OK, -signal.SIGINT) if flags else (FAILED,))
    assert "Traceback" not in written(instance)[1]
    assert "Exception" not in written(instance)[1]
    eventually(lambda: not leftovers(instance.folder), "nothing to be left", 5.0)


@contextmanager
def in_foreground(server: Server, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A server that has said where it serves, in a process group of its own."""
    with start_in(server, "--foreground", *words) as process:
        eventually(lambda: "stop:" in written(server)[0] or process.poll() is not None, "it to serve")
        assert process.poll() is None, written(server)
        yield process


def test_in_the_foreground_ctrl_c_in_the_whole_group_is_one_clean_stop(instance: Server) -> None:
    with in_foreground(instance) as process:
        assert process.pid == instance.pid
        with clients(instance, 2) as (alice, bob):
            alice.say("hello")
            assert bob.hear() == "hello"
            os.killpg(process.pid, signal.SIGINT)
            assert ended(alice)
            assert process.wait(PATIENCE) == OK
    out, err = written(instance)
    assert err.count("stopping: signal SIGINT") == 1
    assert re.search(r" stopped after \d+\.\d s: default$", err.rstrip().splitlines()[-1])
    assert "Traceback" not in out + err
    assert "KeyboardInterrupt" not in out + err
    assert_nothing_left(instance.folder)


def test_in_the_foreground_a_second_ctrl_c_is_quick_though_a_client_never_reads(instance: Server) -> None:
    with in_foreground(instance, "--stop-timeout", "60") as process:
        with clients(instance, 2) as (alice, _):
            for _ in range(200):  # more than the kernel takes for a client that never reads
                alice.say("a" * 50_000)
                alice.hear()
            os.killpg(process.pid, signal.SIGINT)
            eventually(lambda: "stopping: signal SIGINT" in written(instance)[1], "the stop to begin")
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(PATIENCE) == OK
    assert "asked again, quick now: signal SIGINT" in written(instance)[1]
    assert "Traceback" not in written(instance)[1]
    assert_nothing_left(instance.folder)


def test_in_the_foreground_with_a_log_file_the_terminal_stays_for_the_person(instance: Server) -> None:
    with in_foreground(instance, "--log-file", "here.log") as process:
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(PATIENCE) == OK
    out, err = written(instance)
    assert err == ""
    assert f"log: {instance.folder / 'here.log'}" in out
    log = (instance.folder / "here.log").read_text()
    assert "ready: 1 worker" in log
    assert "stopping: signal SIGINT" in log


@pytest.mark.parametrize("flags", [[], ["--foreground"]], ids=["background", "foreground"])
def test_a_start_says_which_settings_file_it_has_read(instance: Server, flags: list[str]) -> None:
    path = instance.folder / "mpchat.toml"
    path.write_text("notices = false\n")
    with start_in(instance, *flags) as process:
        eventually(lambda: "stop:" in written(instance)[0] or process.poll() is not None, "it to serve")
        assert f"\nsettings file: {path}\n" in written(instance)[0]
        assert instance.command("stop").returncode == OK
        assert process.wait(PATIENCE) == OK


@pytest.mark.parametrize(
    ("place", "flags"),
    [("/dev/null/server.log", []), ("/no/such/folder/log", []), (".", []), (".", ["--foreground"])],
)
def test_a_log_that_cannot_be_written_is_told_and_nothing_is_left(
    folder: Path, flags: list[str], place: str
) -> None:
    server = Server(folder)
    line = one_line(server.command("start", "--port", "0", "--log-file", place, *flags), NOT_STARTED)
    assert f"cannot write the log {folder if place == '.' else place}" in line
    assert_nothing_left(folder)


# What else the server is asked.


def ask_raw(server: Server, data: bytes) -> bytes:
    """Say something to the control socket that no command would say; returns the answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(PATIENCE)
        os.chdir(server.instance_folder)  # its path may be too long for an address
        sock.connect("control.sock")
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        return sock.makefile("rb").read()


@pytest.mark.parametrize(
    "request_line",
    [
        b"\n",
        b"\xff\xfe\n",
        b"[]\n",
        b"{}\n",
        b'{"command": "dance"}\n',
        b'{"command": "say"}\n',
        b'{"command": "kick", "arguments": {}}\n',
        b'{"command": "say", "arguments": {"text": "' + b"a" * 70_000 + b'"}}\n',
        b'{"command": "status", "version": 99}\n',
        b"[" * 100_000 + b"\n",
    ],
    ids=lambda line: repr(line[:30]),
)
def test_a_request_that_is_none_is_answered_and_the_server_goes_on(
    shared: Server, request_line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared.folder)
    answer = json.loads(ask_raw(shared, request_line))
    # Arguments that are missing or wrong are wrong usage; see the control protocol's own tests.
    assert answer["exit"] == (USAGE if answer["text"].startswith("wrong arguments") else FAILED)
    assert answer["text"]
    assert shared.status()["state"] == "RUNNING"


@pytest.mark.parametrize(
    "data", [b"", b'{"command":', b"a" * (600 << 10)], ids=["nothing", "half", "too_long"]
)
def test_half_a_request_or_one_without_end_is_dropped_and_the_server_goes_on(
    shared: Server, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared.folder)
    with suppress(BrokenPipeError, ConnectionResetError):
        assert ask_raw(shared, data) == b""
    assert shared.status()["state"] == "RUNNING"


def test_usr1_with_the_logs_folder_gone_keeps_the_server_and_its_log(instance: Server) -> None:
    place = instance.folder / "logs"
    place.mkdir()
    instance.start("--log-file", str(place / "log"), workers=1)
    moved = place.rename(instance.folder / "moved")
    os.kill(instance.pid, signal.SIGUSR1)
    eventually(lambda: (moved / "log").read_text().count("log not opened anew") == 2, "both to complain")
    assert instance.status()["state"] == "RUNNING"
    assert [each["restarts"] for each in instance.status()["workers"]] == [0]


def test_a_killed_worker_is_shown_with_its_restart(instance: Server) -> None:
    instance.start(workers=1)
    kill(instance.worker_pids[0])
    assert [each["restarts"] for each in instance.wait_until_running()["workers"]] == [1]
