"""The guard: one server of a name on this machine, however it is started, killed or tampered with."""

import json
import os
import re
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.harness import (
    MPCHAT,
    Server,
    assert_nothing_left,
    clients,
    free_port,
    kill,
    leftovers,
    running,
    stopped,
)
from support.said import ALREADY, NOT_RUNNING, NOT_STARTED, TIMED_OUT, one_line
from support.waiting import eventually

from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.instance.paths import option_text, paths

pytestmark = pytest.mark.one_python


def begin(server: Server, *words: str, **more: Any) -> "subprocess.Popen[str]":
    """Run a command without waiting for it."""
    return subprocess.Popen(
        [*MPCHAT, words[0], "--name", server.name, *words[1:]],
        **{
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "env": server.environment,
            "cwd": server.folder,
            **more,
        },
    )


def gone(processes: list[psutil.Process]) -> bool:
    return not any(each.is_running() and each.status() != psutil.STATUS_ZOMBIE for each in processes)


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    """A server with one worker: what is guarded is the whole of it."""
    with running(folder, workers=1) as started:
        yield started


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The same for all tests of this file that leave it as it was."""
    folder = tmp_path_factory.mktemp("lasting")
    with running(folder, workers=1) as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def shared(lasting: Server) -> Server:
    """The file's server, whose lock and socket are in their places; no client, and no notice to come."""
    lasting.wait_until_running()
    lasting.wait_for_connections(0)
    time.sleep(3 * NOTICE_GATHER)
    eventually(lambda: lock_is_held(lasting, lasting.pid), "the lock file to be there", 10.0)
    return lasting


@pytest.fixture
def instance(folder: Path) -> Iterator[Server]:
    """An instance that is not started yet; ended when the test is over."""
    server = Server(folder)
    yield server
    server.end()


# A second start.


def test_a_second_start_from_another_directory_is_told_everything_it_needs(server: Server) -> None:
    elsewhere = server.folder / "elsewhere"
    elsewhere.mkdir()
    facts = server.status()
    eventually(lambda: server.log.count(": ready: ") == 2, "the lines of supervisor and worker in the log")
    before = server.log
    said = one_line(server.command("start", "--port", "0", cwd=elsewhere), ALREADY)
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(facts["started"]))
    assert '"default" is already running' in said
    assert f"pid {facts['pid']}, since {since}, at {facts['addresses'][0]};" in said
    told = re.search(r"stop it with: mpchat (.*)\n", said)
    assert told is not None
    assert server.status() | {"uptime": 0, "workers": []} == facts | {"uptime": 0, "workers": []}
    assert server.log == before
    done = subprocess.run([*MPCHAT, *told[1].split()], env=server.environment, cwd=elsewhere, check=False)
    assert done.returncode == 0


def test_a_second_start_in_the_foreground_is_refused_with_the_same_line(shared: Server) -> None:
    said = one_line(shared.command("start", "--port", "0", "--foreground"), ALREADY)
    assert f"pid {shared.pid}" in said


def test_a_second_start_is_refused_before_it_has_started_a_process(
    shared: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpchat.supervisor.boot.__file__", "/dev/null/no-program")
    assert f"pid {shared.pid}" in one_line(shared.command("start", "--port", "0"), ALREADY)


def test_two_names_run_side_by_side_and_do_not_hear_each_other(shared: Server) -> None:
    with running(shared.folder, workers=1, name="second") as second:
        assert shared.address[1] != second.address[1]
        assert shared.pid != second.pid
        with clients(shared, 1) as (alice,), clients(second, 1) as (bob,):
            alice.say("in the first")
            bob.say("in the second")
            assert (alice.hear(), bob.hear()) == ("in the first", "in the second")
        assert second.stop().returncode == 0
        assert shared.status()["state"] == "RUNNING"


def test_a_port_taken_by_another_program_is_told_with_its_name_and_pid(instance: Server) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        said = one_line(instance.command("start", "--port", str(port), "--workers", "1"), NOT_STARTED)
    assert f"127.0.0.1:{port} is taken by {psutil.Process().name()} (pid {os.getpid()})" in said
    assert "--port" in said
    assert_nothing_left(instance.folder)
    instance.start("--workers", "1", port=port)


def test_a_port_taken_by_the_instance_of_another_name_is_told(shared: Server) -> None:
    other = Server(shared.folder, "other")
    said = one_line(other.command("start", "--port", str(shared.address[1])), NOT_STARTED)
    where = f"127.0.0.1:{shared.address[1]}"
    assert f"{where} is taken by mpchat (pid {shared.pid}, runtime folder {shared.folder / 'run'});" in said


# Many starts at once.


def start_many(server: Server, count: int) -> Counter[int]:
    """Start so many at once; returns how often each exit code came."""
    starts = [
        begin(server, "start", "--port", "0", "--workers", "1", stdout=subprocess.DEVNULL)
        for _ in range(count)
    ]
    said = [each.communicate(timeout=100)[1] for each in starts]
    assert all(text.count("\n") == (each.returncode != 0) for text, each in zip(said, starts, strict=True))
    return Counter(each.returncode for each in starts)


def exactly_one_serves(server: Server) -> None:
    found = [each for each in leftovers(server.folder) if each.ppid() != server.pid]
    assert [each.pid for each in found] == [server.pid]


def test_fifty_starts_at_once_while_status_polls_give_one_server_and_49_refusals(instance: Server) -> None:
    """The polls have no interpreters of their own, and so come much closer together."""
    outcome: list[Counter[int]] = []
    starting = threading.Thread(target=lambda: outcome.append(start_many(instance, 50)))
    codes: Counter[int] = Counter()
    starting.start()
    while starting.is_alive():
        codes[instance.command("status").returncode] += 1
        starting.join(0.1)
    assert outcome == [{0: 1, ALREADY: 49}]
    exactly_one_serves(instance)
    assert codes[NOT_RUNNING] > 0, "polls began before the server"
    assert set(codes) <= {0, NOT_RUNNING, TIMED_OUT}


# Sudden death.


def start_again_at_once(server: Server, port: int) -> None:
    """The next start works at once, on the same port, and says nothing but what a start says."""
    done = server.command("start", "--port", str(port), "--workers", "1")
    assert done.returncode == 0, f"{done.stderr}\nlog:\n{server.log}"
    assert done.stderr == ""


# Without clients: the test after this one, whose worker is stopped besides.
def test_after_kill_9_of_the_supervisor_with_clients_commands_say_what_to_do_and_a_start_works_at_once(
    server: Server,
) -> None:
    address, processes = server.address, server.processes()
    with clients(server, 20) as joined:
        kill(processes[0].pid)
        start_again_at_once(server, address[1])
        eventually(lambda: gone(processes), "the old workers to be gone", 2.0)
        for each in joined:
            with suppress(ConnectionResetError):
                while each.receive() is not None:
                    pass
        with clients(server, 1) as (fresh,):
            fresh.say("anew")
            assert fresh.hear() == "anew"
            kill(server.pid)
            for command in ("status", "stop"):
                assert "start it with: mpchat start" in one_line(server.command(command), NOT_RUNNING)


def test_after_kill_9_of_the_supervisor_a_worker_stopped_by_sigstop_is_not_in_the_way(
    server: Server,
) -> None:
    port, processes, worker = server.address[1], server.processes(), server.worker_pids[0]
    with stopped(worker):
        kill(processes[0].pid)
        start_again_at_once(server, port)
        eventually(lambda: gone(processes), "the old workers to be gone", 2.0)


def shared_memory() -> set[str]:
    """What Python programs have there: other tests' programs, written in other languages, run meanwhile."""
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return {each for each in names if each.startswith(("sem.mp-", "psm_"))}


def test_after_kill_9_of_everything_nothing_is_left_and_the_terminal_stays_clean(instance: Server) -> None:
    before = shared_memory()
    instance.start()
    port, processes = instance.address[1], instance.processes()
    for each in processes:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    eventually(lambda: gone(processes), "everything to be gone")
    assert_nothing_left(instance.folder)
    start_again_at_once(instance, port)
    assert instance.stop().stderr == ""
    eventually(lambda: shared_memory() <= before, "nothing more to be in shared memory")
    assert "leaked" not in instance.log
    assert "Traceback" not in instance.log


def the_supervisor(server: Server) -> psutil.Process | None:
    for each in leftovers(server.folder):
        with suppress(psutil.Error):
            if "mpchat.supervisor" in each.cmdline():
                return each
    return None


# How far a start has come: before the lock, with the lock, with a record, with a first worker.
INSTANTS: dict[str, Callable[[Server, psutil.Process], object]] = {
    "as_it_begins": lambda server, process: True,
    "with_the_lock": lambda server, process: (server.instance_folder / "lock").exists(),
    "with_its_record": lambda server, process: (server.instance_folder / "record.json").exists(),
    "with_its_control_socket": lambda server, process: (server.instance_folder / "control.sock").exists(),
    "with_two_children": lambda server, process: len(process.children()) > 1,
}


@pytest.mark.parametrize("instant", INSTANTS)
def test_kill_9_in_the_middle_of_a_start_is_told_and_the_next_start_works(
    instance: Server, instant: str
) -> None:
    port = free_port()
    starting = begin(instance, "start", "--port", str(port), "--workers", "1")
    process = eventually(lambda: the_supervisor(instance), "the supervisor to begin")
    assert process is not None
    eventually(lambda: INSTANTS[instant](instance, process), instant)
    process.kill()
    out, err = starting.communicate(timeout=30)
    assert (starting.returncode, out, err.count("\n")) == (NOT_STARTED, "", 1)
    assert "killed by SIGKILL" in err
    start_again_at_once(instance, port)


# Files that vanish while the server runs.


def lock_is_held(server: Server, pid: int) -> bool:
    """The file at the lock's path is the one that the supervisor has open."""
    path = server.instance_folder / "lock"
    held = (Path(each.path) for each in psutil.Process(pid).open_files())
    return path.exists() and any(each.samefile(path) for each in held if each.exists())


def answers_again(server: Server) -> None:
    """Wait until the control socket is back."""
    eventually(lambda: server.command("status").returncode == 0, "the control socket", 10.0, pause=0.1)


@pytest.mark.parametrize("fault", ["deleted", "renamed", "replaced"])
def test_with_the_lock_file_gone_a_second_start_is_refused_and_the_server_takes_it_again(
    shared: Server, fault: str
) -> None:
    lock, before = shared.instance_folder / "lock", shared.log.count("taken again")
    lock.rename(lock.with_name("aside"))
    if fault == "deleted":
        lock.with_name("aside").unlink()
    elif fault == "replaced":
        lock.touch()
    assert f"pid {shared.pid}" in one_line(shared.command("start", "--port", "0"), ALREADY)
    assert shared.status()["state"] == "RUNNING"
    pid = shared.pid
    eventually(lambda: lock_is_held(shared, pid), "the lock file to be taken again", 10.0)
    eventually(lambda: shared.log.count("taken again") == before + 1, "the log to tell of it")
    assert f"pid {shared.pid}" in one_line(shared.command("start", "--port", "0"), ALREADY)


def test_with_its_whole_folder_deleted_a_second_start_is_refused_and_the_server_heals(server: Server) -> None:
    pid = server.pid
    shutil.rmtree(server.instance_folder)
    one_line(server.command("start", "--port", "0"), ALREADY)
    answers_again(server)
    assert server.pid == pid
    assert f"pid {pid}" in one_line(server.command("start", "--port", "0"), ALREADY)
    assert server.stop().returncode == 0


def test_after_its_whole_folder_was_swept_bans_and_the_log_are_there_again(server: Server) -> None:
    assert server.command("ban", "철수").returncode == 0
    pids = {server.pid, *server.worker_pids}
    shutil.rmtree(server.instance_folder)
    bans = server.instance_folder / "bans.json"
    eventually(bans.exists, "the bans to be written again", 10.0)
    assert list(json.loads(bans.read_bytes())["bans"]) == ["철수"]
    log = server.instance_folder / "server.log"
    eventually(
        lambda: log.exists() and all(log.samefile(f"/proc/{pid}/fd/2") for pid in pids),
        "all to have the new log",
        10.0,
    )
    eventually(lambda: "log file was gone or replaced, opened again" in server.log, "the log to tell of it")
    assert server.stop().returncode == 0
    assert "stopped after" in server.log


def test_a_deleted_control_socket_is_not_told_as_not_running_and_comes_back(shared: Server) -> None:
    pid = shared.pid
    (shared.instance_folder / "control.sock").unlink()
    done = shared.command("status")
    assert done.returncode == 0 or f"(pid {pid}) does not answer" in done.stderr
    answers_again(shared)


def test_a_server_whose_control_socket_was_deleted_can_be_stopped_at_once(server: Server) -> None:
    processes = server.processes()
    (server.instance_folder / "control.sock").unlink()
    assert server.stop().returncode == 0
    eventually(lambda: gone(processes), "everything to be gone", 2.0)


def test_a_control_socket_replaced_by_a_folder_harms_nobody_and_comes_back(shared: Server) -> None:
    control, pid = shared.instance_folder / "control.sock", shared.pid
    with clients(shared, 1) as (alice,):
        control.unlink()
        control.mkdir()
        for number in range(3):  # the lock is looked after in the same moment as the socket
            (shared.instance_folder / "lock").unlink()
            eventually(lambda: lock_is_held(shared, pid), "the next look at lock and socket", 10.0)
            alice.say(f"{number}")
            assert alice.hear() == f"{number}"
        control.rmdir()
        answers_again(shared)
        assert shared.pid == pid


# Long and strange places.


def test_a_runtime_folder_longer_than_a_socket_address_works(folder: Path) -> None:
    server = Server(folder / ("long" * 30) / ("longer" * 30))
    server.folder.mkdir(parents=True)
    assert len(os.fsencode(paths("default", str(server.folder / "run")).control)) > 300
    try:
        server.start(workers=1)
        assert server.status()["state"] == "RUNNING"
        assert one_line(server.command("start", "--port", "0"), ALREADY)
        (server.instance_folder / "control.sock").unlink()
        answers_again(server)
        assert server.stop().returncode == 0
        assert not (server.instance_folder / "control.sock").exists()
    finally:
        server.end()
    assert_nothing_left(server.folder)


def test_the_command_that_a_line_tells_can_be_pasted_into_a_shell() -> None:
    assert option_text("default", "") == ""
    assert option_text("lobby", "/run/a b/$(x)") == " --name lobby --runtime-dir '/run/a b/$(x)'"


def test_files_of_the_instance_are_for_its_user_alone(shared: Server) -> None:
    assert shared.instance_folder.stat().st_mode & 0o777 == 0o700
    for each in shared.instance_folder.iterdir():
        with suppress(FileNotFoundError):  # the record is written to another file, which then gets its name
            assert each.stat().st_mode & 0o077 == 0 or each.name == "record.json", each
