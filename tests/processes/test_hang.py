"""A worker whose loop does not turn is found, its stacks are logged, it is replaced; others chat on."""

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from support.crowd import (
    Listener,
    everybody_hears,
    facts,
    last_for,
    listeners,
    wait_until_running,
    worker_pids,
)
from support.harness import Server, running, stopped
from support.injected import inject
from support.waiting import eventually

pytestmark = pytest.mark.one_python

END = "= end ="
# What a worker of slot 2 does at a turn of its loop once the flag is there, and what its stack then shows.
FAULTS = {
    "a loop that sleeps": ("time.sleep(60)", "in act"),
    "a call that holds the interpreter lock": (
        # A signal ends a sleep, and the dump of its stacks is one.
        "import ctypes; [ctypes.PyDLL(None).sleep(60) for _ in range(9)]",
        "in act",
    ),
}
_HANG = """
    def install(worker, slot):
        def act(turns):
            if slot == 2 and flagged("hang") and not flagged("hung"):
                open(os.path.join(FOLDER, "hung"), "w").close()
                {what}
        before_each_turn(worker, act)
"""


@contextmanager
def hanging(folder: Path, what: str, *flags: str) -> Iterator[Server]:
    """A server whose second worker hangs, once, as soon as the flag stands."""
    server = Server(folder)
    inject(server, _HANG.format(what=what))
    try:
        yield server.start(*flags)
    finally:
        server.end()


def hang(server: Server) -> None:
    (server.folder / "site" / "hang").touch()


def chat_until_replaced(server: Server, crowd: list[Listener], pid: int) -> int:
    """The others chat on, and status answers, until the hung worker is gone; returns the rounds."""
    rounds = 0
    while pid in worker_pids(server):
        rounds += 1
        crowd[rounds % len(crowd)].say(f"round {rounds}")
        everybody_hears(crowd, f"round {rounds}")
        last_for(0.05)
    return rounds


def on_worker(server: Server, crowd: list[Listener], pid: int) -> list[Listener]:
    """Those of the crowd that this worker serves: the peers of its sockets."""
    ports = {
        each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr and each.laddr
    }
    return [each for each in crowd if each.sock.getsockname()[1] in ports]


@pytest.mark.parametrize("what", FAULTS)
def test_a_hung_worker_is_found_dumped_killed_and_replaced(folder: Path, what: str) -> None:
    code, stack = FAULTS[what]
    with hanging(folder, code, "--hang-timeout", "2s") as server, listeners(server, 4) as crowd:
        before = worker_pids(server)
        others = on_worker(server, crowd, before[0])
        assert len(others) == 2
        hang(server)
        assert chat_until_replaced(server, others, before[1]) > 3
        found = wait_until_running(server)
        assert found["workers"][0]["pid"] == before[0]
        assert found["workers"][1]["restarts"] == 1
        eventually(lambda: [each.ended is None for each in crowd].count(True) == 2, "its clients to be gone")
        others[0].say(END)
        everybody_hears(others, END)
        assert re.search(r"hung for [\d.]+ s, its stacks follow: worker 2", server.log)
        assert "most recent call first" in server.log
        assert stack in server.log
        assert re.search(r"hung for [\d.]+ s, killed: worker 2", server.log)
        assert "stacks follow: worker 1" not in server.log


def test_a_worker_stopped_by_sigstop_is_killed_and_replaced(folder: Path) -> None:
    with running(folder, "--hang-timeout", "2s") as server, listeners(server, 4) as crowd:
        before = worker_pids(server)
        others = on_worker(server, crowd, before[0])
        with stopped(before[1]):
            assert chat_until_replaced(server, others, before[1]) > 3
        found = wait_until_running(server)
        assert found["workers"][0]["pid"] == before[0]
        assert re.search(r"hung for [\d.]+ s, killed: worker 2", server.log)


def test_a_crash_in_native_code_leaves_the_stacks_of_the_process_in_the_log(folder: Path) -> None:
    with running(folder) as server:
        supervisor = server.processes()[0]
        for number in (server.worker_pids[0], supervisor.pid):
            logged = len(server.log)
            os.kill(number, signal.SIGSEGV)
            if number == supervisor.pid:
                supervisor.wait(10.0)
            else:
                eventually(lambda: "died: worker 1, killed by SIGSEGV" in server.log, "the death to be told")
            stacks = server.log[logged:].partition("Fatal Python error: Segmentation fault")[2]
            assert "Current thread" in stacks
            assert re.search(r'File ".*/mpchat/reactor\.py", line \d+ in turn', stacks)


def test_the_shortest_patience_takes_nobody_who_works_for_hung(folder: Path) -> None:
    with running(folder, "--hang-timeout", "1s", "--workers", "2") as server:
        time.sleep(5.0)
        assert "hung" not in server.log


def test_supervisor_killed_while_a_worker_hangs_leaves_no_worker(folder: Path) -> None:
    """No thread of that worker can run any more."""
    code, _ = FAULTS["a call that holds the interpreter lock"]
    with hanging(folder, code, "--hang-timeout", "60s") as server:
        processes = server.processes()
        hang(server)
        eventually((folder / "site" / "hung").exists, "the worker to hang")
        processes[0].kill()
        _, alive = psutil.wait_procs(processes, timeout=2.0)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


def test_status_tells_of_the_silence_of_a_hung_worker_and_a_stop_kills_it_after_the_deadline(
    folder: Path,
) -> None:
    with hanging(folder, "time.sleep(60)", "--stop-timeout", "1s", "--hang-timeout", "60s") as server:
        processes = server.processes()
        hang(server)
        eventually(lambda: facts(server)["workers"][1]["silent"] > 2.0, "the silence to show", pause=0.05)
        assert facts(server)["workers"][0]["silent"] < 2.0
        assert server.command("status").returncode == 0
        assert server.stop().returncode == 0
        _, alive = psutil.wait_procs(processes, timeout=2.0)
        assert not [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
