"""What else happens while connections move: clients go, the server is stopped, killed, asked once more."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.changing import (
    NOT_STARTED,
    OK,
    all_gone,
    change,
    configured,
    processes_of,
    reload,
    scale,
    served_by,
    server_address,
    signalled,
    under_way,
    until_reloads_end,
    worker_count,
    workers_of,
    write_settings,
)
from support.crowd import (
    Listener,
    connected,
    descriptors_given_back,
    everybody_heard_of_leaving,
    everybody_hears,
    facts,
    last_for,
    listeners,
    numbered,
    sending,
    wait_until_running,
)
from support.harness import MPCHAT, Server, assert_nothing_left, introduce, kill, running, settle, stopped
from support.injected import inject
from support.waiting import eventually

from mpchat.control.client import ReceivedAnswer
from mpchat.errors import MpchatError

pytestmark = pytest.mark.one_python

END = "= end ="
FAREWELL = "The server is stopping."
# What a worker does at its start while the flag stands: a reload then takes so much longer, in seconds.
SLOW = 0.6


@contextmanager
def slow(folder: Path, *flags: str, workers: int = 2) -> Iterator[Server]:
    """A server whose workers take their time to start, while there is the flag."""
    server = Server(folder)
    inject(server, f'def install(worker, slot):\n    if flagged("slow"):\n        time.sleep({SLOW})\n')
    try:
        yield server.start(*flags, workers=workers)
    finally:
        server.end()


@pytest.fixture(scope="module")
def lasting_slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose workers take their time to start, for tests that leave it as it was but for that."""
    folder = tmp_path_factory.mktemp("slow")
    with slow(folder) as started:
        slow_down(started)
        yield started
    assert_nothing_left(folder)


def slow_down(server: Server) -> None:
    (server.folder / "site" / "slow").touch()


@contextmanager
def reloading_all_the_time(server: Server) -> Iterator[list[ReceivedAnswer]]:
    """One reload after the other for the length of the block; what came of them."""
    answers: list[ReceivedAnswer] = []
    enough = threading.Event()

    def go_on() -> None:
        while not enough.is_set():
            answers.append(change(server, "reload"))

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        yield answers
    finally:
        enough.set()
        thread.join()


# Clients.


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_clients_that_go_while_they_are_moved_are_told_of_once(shared: Server, leave: str) -> None:
    with descriptors_given_back(shared), listeners(shared, 4) as crowd:
        with reloading_all_the_time(shared) as answers:
            gone = 0
            while not answers and gone < 10_000:
                with connected(server_address(shared), 20) as leavers:
                    settle(leavers[:10])
                    for each in leavers:
                        each.say(f"{leave} {gone}")
                        if leave == "reset":
                            each.reset()
                        gone += 1
                last_for(0.02)
            everybody_heard_of_leaving(crowd, gone)
        assert {(each.exit, each.result["lost"], each.result["failed"]) for each in answers} == {(OK, 0, 0)}
        eventually(lambda: facts(shared)["connections"] == 4, "only the others to be there")
        crowd[0].say(END)
        everybody_hears(crowd, END)
        everybody_heard_of_leaving(crowd, gone)
        if leave == "close":
            said = [text for text in crowd[0].texts if text.startswith("close ")]
            assert sorted(said) == sorted(f"close {number}" for number in range(gone))


def test_everybody_is_found_by_kick_wherever_they_are(shared: Server) -> None:
    with listeners(shared, 2) as crowd, connected(server_address(shared), 30) as victims:
        introduce(victims)
        with reloading_all_the_time(shared) as answers:
            for each in victims:
                result = change(shared, "kick", address=each.address).result
                assert result == {"ended": 1, "silent": [], "hosts": 0}
        assert answers
        assert change(shared, "kick", address=victims[0].address).result["ended"] == 0
        everybody_heard_of_leaving(crowd, 30)
        assert [each.ended for each in crowd] == [None, None]


def test_new_clients_come_in_during_reloads_and_scalings(shared: Server) -> None:
    with descriptors_given_back(shared):
        with reloading_all_the_time(shared) as answers:
            rounds = 0
            while len(answers) < 2 and rounds < 40:
                with connected(server_address(shared), 10) as crowd:
                    settle(crowd)
                last_for(0.02)
                rounds += 1
        assert {each.exit for each in answers} == {OK}
        eventually(lambda: facts(shared)["connections"] == 0, "all to be gone")


# The end.


def orderly_end_with_farewell(crowd: Sequence[Listener]) -> None:
    eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
    assert [each.ended for each in crowd] == [""] * len(crowd)
    assert [each.texts[-1] for each in crowd] == [FAREWELL] * len(crowd)


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_stop_during_a_reload(server: Server, after: float) -> None:
    with listeners(server, 30) as crowd, under_way(server, "reload") as background:
        processes = processes_of(server)
        last_for(after)
        processes = [*processes, *processes_of(server)]
        assert server.stop().returncode == 0
        answer = background.answer()
        assert (answer.exit, answer.result["lost"]) in ((NOT_STARTED, 0), (OK, 0))
        if answer.exit:
            assert answer.text == "the server was told to stop"
        orderly_end_with_farewell(crowd)
        all_gone(processes, 2.0)


def test_stop_during_a_reload_whose_new_worker_dies_then(folder: Path) -> None:
    """Who was on the way to it goes back to the one before, and is told the farewell."""
    with running(folder, workers=1) as server, listeners(server, 20) as crowd, ExitStack() as fault:
        supervisor, *_ = processes_of(server)
        (old,) = workers_of(server)
        old_stopped = fault.enter_context(ExitStack())
        old_stopped.enter_context(stopped(old))
        with under_way(server, "reload") as background:
            eventually(lambda: facts(server)["workers"][0]["generation"] == 2, "the new one to serve")
            new = next(each for each in workers_of(server) if each != old)
            fault.enter_context(stopped(new))
            old_stopped.close()
            eventually(lambda: not any(served_by(old, crowd)), "all to be on their way")
            supervisor.terminate()
            eventually(lambda: facts(server)["state"] == "STOPPING", "the stop to begin")
            processes = processes_of(server)
            kill(new)
            orderly_end_with_farewell(crowd)
            all_gone(processes, 4.0)
            assert background.answer().exit == NOT_STARTED


def test_stop_twice_during_a_reload_is_quick(folder: Path) -> None:
    with slow(folder) as server, listeners(server, 10) as crowd:
        slow_down(server)
        with under_way(server, "reload") as background:
            processes = processes_of(server)
            for _ in range(2):
                processes[0].send_signal(signal.SIGTERM)
            all_gone(processes, 4.0)
            assert background.going or background.answer().exit == NOT_STARTED
        eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")


def test_the_supervisor_killed_during_a_reload_leaves_nothing(server: Server) -> None:
    for after in (0.1, 0.35):
        with listeners(server, 30):
            dead = processes_of(server)
            thread = threading.Thread(target=ask_in_vain, args=(server,))
            thread.start()
            last_for(after)
            dead += processes_of(server)
            dead[0].kill()
            all_gone(dead, 3.0)
            thread.join()
        server.start()
        with listeners(server, 2) as crowd:
            crowd[0].say(END)
            everybody_hears(crowd, END)


def ask_in_vain(server: Server) -> None:
    with suppress(MpchatError):
        change(server, "reload")


# A name server that takes its time.

_SLOW_NAMES = """
    import socket

    ask = socket.getaddrinfo

    def slow(host, *arguments, **options):
        if host != "chat.example" or options.get("flags") == socket.AI_NUMERICHOST:
            return ask(host, *arguments, **options)
        while flagged("slow"):
            time.sleep(0.01)
        return ask("127.0.0.2", *arguments, **options)

    socket.getaddrinfo = slow

    def install(worker, slot):
        pass
"""


def test_everybody_is_served_while_a_reload_waits_for_a_name_server(folder: Path) -> None:
    with configured(folder, fault=_SLOW_NAMES) as server, listeners(server, 2) as crowd:
        slow_down(server)
        port = server_address(server)[1]
        write_settings(server, port=0, workers=2, host=["127.0.0.1", "chat.example"])
        with under_way(server, "reload") as background:
            crowd[0].say("meanwhile")
            everybody_hears(crowd, "meanwhile")
            assert facts(server)["generation"] == 1
            (server.folder / "site" / "slow").unlink()
            answer = background.answer()
        assert (answer.exit, answer.result["changed"]) == (OK, ["host"])
        assert facts(server)["addresses"] == [f"127.0.0.1:{port}", f"127.0.0.2:{port}"]
        slow_down(server)
        write_settings(server, port=0, workers=2, host=["chat.example"])
        answer = change(server, "reload")
        assert answer.exit == NOT_STARTED
        assert "no answer within 5 s about an address of chat.example; nothing has changed" in answer.text
        assert facts(server)["generation"] == 2
        crowd[0].say(END)
        everybody_hears(crowd, END)


# Asked again.


def test_a_second_reload_and_a_scaling_are_told_that_one_is_under_way(lasting_slow: Server) -> None:
    server = lasting_slow
    with listeners(server, 4) as crowd:
        with under_way(server, "reload") as background:
            for words in (["reload"], ["scale", "3"]):
                command = server.command(*words)
                assert (command.returncode, command.stdout) == (NOT_STARTED, "")
                assert command.stderr.startswith("mpchat: a reload is under way, for ")
                assert command.stderr.count("\n") == 1
            answer = background.answer()
        assert (answer.exit, answer.result["moved"], worker_count(server)) == (OK, 4, 2)
        crowd[0].say(END)
        everybody_hears(crowd, END)


def test_a_hundred_hups_in_a_row_are_few_reloads(shared: Server) -> None:
    texts = [numbered(str(number), 2_000) for number in range(2)]
    pid, before = facts(shared)["pid"], facts(shared)["generation"]
    with listeners(shared, 6) as crowd, sending(crowd[:2], texts) as senders:
        for _ in range(100):
            os.kill(pid, signal.SIGHUP)
            time.sleep(0.001)
        found = until_reloads_end(shared, lambda found: found["generation"] > before)
        assert found["generation"] <= before + 7
        assert found["pid"] == pid
        for each in senders:
            each.thread.join()
            everybody_hears(crowd, each.texts[-1])
        found = until_reloads_end(shared, lambda found: True)
        assert [each["generation"] for each in found["workers"]] == [found["generation"]] * 2
        assert found["last_reload"]["exit"] == OK
        assert len(workers_of(shared)) == 2


def test_hup_and_ttin_during_the_start_wait_for_its_end(folder: Path) -> None:
    server = Server(folder)
    inject(server, "def install(worker, slot):\n    time.sleep(0.5)\n")
    command = [*MPCHAT, "start", "--foreground", "--port", "0", "--workers", "1"]
    process = subprocess.Popen(
        command, env=server.environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        eventually((server.instance_folder / "control.sock").exists, "the server to begin")
        eventually(lambda: psutil.Process(process.pid).children(), "the worker to begin")
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP):
            process.send_signal(number)
        assert process.stdout is not None
        assert "serves at" in process.stdout.readline()
        found = until_reloads_end(server, lambda found: len(found["workers"]) == 2)
        assert (found["generation"], found["state"]) == (2, "RUNNING")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.communicate()


def test_a_reload_and_scalings_by_signal_one_after_the_other(shared: Server) -> None:
    before = facts(shared)["generation"]
    with listeners(shared, 6) as crowd:
        for number in (signal.SIGHUP, signal.SIGTTIN, signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU):
            signalled(shared, number)
        until_reloads_end(shared, lambda found: len(found["workers"]) == 3 and found["generation"] > before)
        wait_until_running(shared)
        assert scale(shared, 2)["workers"] == 2
        assert reload(shared)["moved"] == 6
        crowd[0].say(END)
        everybody_hears(crowd, END)


def test_a_command_that_goes_away_does_not_end_the_reload(lasting_slow: Server) -> None:
    server = lasting_slow
    server.wait_for_connections(0)
    before = facts(server)
    with listeners(server, 4) as crowd:
        waiting = subprocess.Popen([*MPCHAT, "reload"], env=server.environment, cwd=server.folder)
        eventually(lambda: facts(server)["change"] == "reload", "the reload to begin")
        waiting.kill()
        waiting.wait()
        found = until_reloads_end(server, partial(generation_is, before["generation"] + 1))
        assert (found["last_reload"]["exit"], found["moves"] - before["moves"]) == (OK, 4)
        crowd[0].say(END)
        everybody_hears(crowd, END)


def generation_is(number: int, found: dict[str, int]) -> bool:
    return found["generation"] == number
