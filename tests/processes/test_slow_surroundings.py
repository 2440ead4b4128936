"""A name server or a disk that does not answer: nobody waits for it but the command that needs it."""

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.changing import NOT_STARTED, OK, change, under_way, write_settings
from support.harness import MPCHAT, Client, Server, assert_nothing_left, clients, kill, raw_frame
from support.injected import inject_into_all, inject_into_supervisor
from support.waiting import eventually

from mpchat.control.client import ReceivedAnswer
from mpchat.ipc.standard_stream import WAITING

# Seconds that a stop may take on a busy machine.
IN_TIME = 15.0
# What the log says of lines that it has not.
DROPPED = re.compile(r"(\d+) log lines? (?:was|were) dropped")

# A name server that knows no answer while "lookup" is flagged.
SLOW_RESOLVER = """
    def install():
        real = socket.getaddrinfo
        def getaddrinfo(host, *arguments, **more):
            if host == "slow.example" and not more.get("flags", 0) & socket.AI_NUMERICHOST:
                hold("lookup")
                host = "127.0.0.1"
            return real(host, *arguments, **more)
        socket.getaddrinfo = getaddrinfo
"""
# A disk that hangs while "disk" is flagged: no sync ends, no new name of a file, no look at the server's
# own files, nor does the settings file open. Nor the log, which takes no line either; that is so while "log
# disk" is flagged, too.
HANGING_DISK = """
    def install():
        import pathlib
        log = "/server.log"
        def is_log(descriptor):
            try:
                return os.readlink(f"/proc/self/fd/{descriptor}").endswith(log)
            except OSError:
                return False
        real_write, real_fstat, real_open = os.write, os.fstat, os.open
        def hold_log():
            hold("disk")
            hold("log disk")
        def write(descriptor, data):
            if is_log(descriptor):
                hold_log()
            return real_write(descriptor, data)
        def fstat(descriptor):
            if is_log(descriptor):
                hold_log()
            return real_fstat(descriptor)
        def open_(path, *arguments, **more):
            if str(path).endswith(log):
                hold_log()
            elif str(path).endswith("/mpchat.toml"):
                hold("disk")
            return real_open(path, *arguments, **more)
        os.write, os.fstat, os.open = write, fstat, open_
        def held(real):
            def call(*arguments, **more):
                hold("disk")
                return real(*arguments, **more)
            return call
        os.fsync, os.replace = held(os.fsync), held(os.replace)
        pathlib.Path.replace = held(pathlib.Path.replace)
        own = os.path.dirname(FOLDER) + "/run/"
        def held_look(real):
            def look(path, *arguments, **more):
                if str(path).startswith(own):
                    hold("disk")
                return real(path, *arguments, **more)
            return look
        os.stat, os.lstat = held_look(os.stat), held_look(os.lstat)
"""
# A system that does not tell which program listens at a port while "holder" is flagged.
SLOW_HOLDER = """
    def install():
        import psutil
        real = psutil.net_connections
        def net_connections(kind="inet"):
            if kind == "tcp":
                hold("holder")
            return real(kind)
        psutil.net_connections = net_connections
"""


def waits(flag: Path) -> None:
    """Wait until the server has met what the flag holds up."""
    eventually(lambda: flag.with_name(f"{flag.name} waits").exists(), f"the {flag.name} to be waited for")


def test_a_stop_does_not_wait_for_a_name_server_at_the_start(folder: Path) -> None:
    server = Server(folder)
    flag = inject_into_supervisor(server, SLOW_RESOLVER) / "lookup"
    flag.touch()
    command = [*MPCHAT, "start", "--foreground", "--port", "0", "--host", "slow.example"]
    process = subprocess.Popen(command, env=server.environment, cwd=folder, stderr=subprocess.PIPE, text=True)
    try:
        waits(flag)
        process.send_signal(signal.SIGHUP)  # the start goes on
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=IN_TIME)
        assert process.returncode == 0
        assert "stopping: signal SIGTERM" in said
        assert "Traceback" not in said
    finally:
        process.kill()
        process.communicate()


def test_a_stop_does_not_wait_for_the_name_of_the_program_that_has_the_port_at_the_start(
    folder: Path,
) -> None:
    server = Server(folder)
    flag = inject_into_supervisor(server, SLOW_HOLDER) / "holder"
    flag.touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [*MPCHAT, "start", "--foreground", "--port", str(taken.getsockname()[1])]
        process = subprocess.Popen(
            command, env=server.environment, cwd=folder, stderr=subprocess.PIPE, text=True
        )
        try:
            waits(flag)
            process.send_signal(signal.SIGTERM)
            _, said = process.communicate(timeout=IN_TIME)
            assert process.returncode == 0
            assert "stopping: signal SIGTERM" in said
            assert "Traceback" not in said
        finally:
            process.kill()
            process.communicate()


def test_the_chat_goes_on_while_a_reload_asks_for_the_name_of_the_program_that_has_the_port(
    folder: Path,
) -> None:
    server = Server(folder)
    flag = inject_into_supervisor(server, SLOW_HOLDER) / "holder"
    write_settings(server, port=0, workers=2)
    answers = list[ReceivedAnswer]()
    try:
        server.start_as_configured()
        with socket.create_server(("127.0.0.1", 0)) as taken:
            write_settings(server, port=taken.getsockname()[1], workers=2)
            flag.touch()
            reload = threading.Thread(target=lambda: answers.append(change(server, "reload")))
            reload.start()
            waits(flag)
            chat_goes_on(server)
            assert not answers
            flag.unlink()
            reload.join(IN_TIME)
        assert [each.exit for each in answers] == [NOT_STARTED]
        assert f"(pid {os.getpid()})" in answers[0].text
    finally:
        flag.unlink(missing_ok=True)
        server.end()


@contextmanager
def on_a_hanging_disk(folder: Path) -> Iterator[tuple[Server, Path]]:
    """A server on a disk that hangs while the flag is there."""
    server = Server(folder)
    flag = inject_into_all(server, HANGING_DISK) / "disk"
    write_settings(server, port=0, workers=2, stop_timeout="2s", log_level="debug")
    try:
        yield server.start_as_configured(), flag
    finally:
        flag.unlink(missing_ok=True)
        flag.with_name("log disk").unlink(missing_ok=True)
        server.end()


@pytest.fixture
def hanging(folder: Path) -> Iterator[tuple[Server, Path]]:
    """A server of its own on a disk that hangs while the flag is there."""
    with on_a_hanging_disk(folder) as server_and_flag:
        yield server_and_flag


@pytest.fixture(scope="module")
def lasting_hanging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """The same for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("hanging")
    with on_a_hanging_disk(folder) as server_and_flag:
        yield server_and_flag
    assert_nothing_left(folder)


@pytest.fixture
def shared_hanging(lasting_hanging: tuple[Server, Path]) -> Iterator[tuple[Server, Path]]:
    """The file's server on a disk that hangs while the flag is there, with no client."""
    server, flag = lasting_hanging
    server.wait_until_running()
    server.wait_for_connections(0)
    yield server, flag
    flag.unlink(missing_ok=True)
    flag.with_name("log disk").unlink(missing_ok=True)


def chat_goes_on(server: Server) -> None:
    with clients(server, 2) as (one, two):
        one.say("안녕")
        two.hear_until("안녕")


def test_while_the_disk_hangs_all_goes_on_and_a_ban_is_answered_when_it_is_written(
    hanging: tuple[Server, Path],
) -> None:
    server, flag = hanging
    with Client(server.address, source="127.0.0.9") as banned:
        flag.touch()
        done = list[str]()
        ban = threading.Thread(target=lambda: done.append(server.command("ban", "127.0.0.9").stdout))
        ban.start()
        waits(flag)
        # The ban holds at once.
        while banned.receive() is not None:
            pass
        chat_goes_on(server)
        worker = server.worker_pids[0]
        kill(worker)
        eventually(lambda: worker not in server.worker_pids, "the dead worker to be gone")
        server.wait_until_running()
        chat_goes_on(server)
        assert server.command("status").returncode == 0
        assert f"ready: worker {server.worker_pids[0]}" not in server.log
        assert not done
        assert not (server.instance_folder / "bans.json").exists()
    flag.unlink()
    ban.join(IN_TIME)
    assert done == ["127.0.0.9 is banned for good; 1 connection ended\n"]
    assert "127.0.0.9" in (server.instance_folder / "bans.json").read_text()
    record = server.instance_folder / "record.json"
    eventually(lambda: str(server.worker_pids[0]) in record.read_text(), "the record to follow")
    said = (f"supervisor[{server.pid}]: died: worker 1", f"ready: worker {server.worker_pids[0]}")
    eventually(lambda: all(each in server.log for each in said), "what was logged meanwhile")


def say_nonsense(client: Client, times: int) -> None:
    """Have the worker log a line ``times`` times: that it has answered."""
    for _ in range(times):
        client.send_raw(raw_frame(b"[]"))
        while "error" not in (client.receive() or {}):
            pass


def test_log_lines_that_a_hanging_disk_does_not_take_are_counted_and_the_others_keep_their_order(
    shared_hanging: tuple[Server, Path],
) -> None:
    server, flag = shared_hanging
    lines, logged = 3 * WAITING // 2, len(server.log)
    with Client(server.address) as client:
        say_nonsense(client, 10)
        flag.touch()
        say_nonsense(client, lines)
        flag.unlink()
        eventually(lambda: DROPPED.search(server.log[logged:]), "the log to say how many lines it has not")
        say_nonsense(client, 1)
        client.say("still here")
        client.hear_until("still here")
    eventually(
        lambda: kept_and_dropped(server.log[logged:]) == lines + 11, "each line to be there or counted"
    )
    dropped = DROPPED.search(server.log[logged:])
    assert dropped is not None
    assert lines - WAITING <= int(dropped[1]) < lines
    for slot in ("worker 1[", "worker 2["):
        times = [
            line[:23] for line in server.log[logged:].splitlines() if slot in line and "dropped" not in line
        ]
        assert times == sorted(times)


def kept_and_dropped(log: str) -> int:
    return log.count("> answered: ") + sum(map(int, DROPPED.findall(log)))


def test_a_reload_replaces_the_workers_while_the_disk_of_the_log_hangs(
    shared_hanging: tuple[Server, Path],
) -> None:
    server, flag = shared_hanging
    logged = len(server.log)
    flag = flag.with_name("log disk")
    before = server.worker_pids
    with clients(server, 2) as (one, two):
        flag.touch()
        assert change(server, "reload").exit == OK
        waits(flag)
        os.kill(server.pid, signal.SIGUSR1)
        one.say("안녕")
        two.hear_until("안녕")
        assert not set(before) & set(server.worker_pids)
        assert "done in" not in server.log[logged:]
        flag.unlink()
        said = ["done in", *(f"ready: worker {pid}" for pid in server.worker_pids)]
        eventually(lambda: all(each in server.log[logged:] for each in said), "what was logged meanwhile")


def test_a_reload_ends_when_the_disk_with_the_settings_hangs_and_the_chat_goes_on(
    shared_hanging: tuple[Server, Path],
) -> None:
    server, flag = shared_hanging
    with clients(server, 2) as (one, two):
        flag.touch()
        with under_way(server, "reload") as reload:
            waits(flag)
            one.say("안녕")
            two.hear_until("안녕")
            assert server.status()["change"] == "reload"
            answer = reload.answer()
        assert answer.exit == NOT_STARTED
        assert "no answer within 5 s from the disk" in answer.text
        flag.unlink()
        assert change(server, "reload").exit == OK
        two.say("still here")
        one.hear_until("still here")


def test_a_stop_does_not_wait_for_a_disk_that_hangs(hanging: tuple[Server, Path]) -> None:
    server, flag = hanging
    flag.touch()
    kill(server.worker_pids[0])
    waits(flag)
    process = server.processes()[0]
    process.send_signal(signal.SIGTERM)
    process.wait(IN_TIME)
