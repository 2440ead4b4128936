"""Servers as systemd starts them: what it hears from start to stop, and the sockets that it keeps."""

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.harness import Client, Server, assert_nothing_left, free_port, stopped
from support.service_manager import Hearing, environment_of, hearing, served
from support.waiting import PATIENCE, eventually

from mpchat.supervisor.starter import VARIABLES

FAREWELL = "The server is stopping."
# Seconds between the beats that a service manager of these tests wants, at most.
WATCHDOG = 0.4


class Service(Server):
    """A server in the foreground, and what its service manager hears."""

    manager: Hearing


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A server for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("service")
    made = Service(folder)
    with hearing(folder) as made.manager:
        with served(made, "--port", "0", notify=made.manager.address, watchdog=WATCHDOG):
            made.manager.hear_until("READY")
            yield made
            made.end()
    assert_nothing_left(folder)


def test_a_whole_life_is_told_in_order(folder: Path) -> None:
    server = Server(folder)
    settings = folder / "mpchat.toml"
    settings.write_text('port = 0\nnotices = "on"\n')
    manager = Hearing(f"@mpchat-{os.getpid()}-{folder.name}")
    with served(server, "--config", str(settings), notify=manager.address) as process:
        ready = manager.hear_until("READY")
        assert ready["MAINPID"] == str(process.pid)
        assert ready["STATUS"].startswith("connections: 0; workers: 1 of 1; at 127.0.0.1:")
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        process.send_signal(signal.SIGHUP)
        assert int(manager.hear_until("RELOADING")["MONOTONIC_USEC"]) > before
        assert "failed" not in manager.hear_until("READY")["STATUS"]
        settings.write_text('notices = "perhaps"\n')
        process.send_signal(signal.SIGHUP)
        manager.hear_until("RELOADING")
        why = manager.hear_until("READY")["STATUS"]
        assert "; the last reload failed: nothing has changed: " in why
        assert "line 1: notices is 'perhaps'" in why
        process.send_signal(signal.SIGTERM)
        assert manager.hear_until("STOPPING")["STATUS"] == "stopping: signal SIGTERM"
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        journal = process.stderr.read().splitlines()
    manager.hear_all()
    expected = ["READY", "RELOADING", "READY", "RELOADING", "READY", "STOPPING"]
    assert manager.states() == expected
    assert [each for each in manager.heard if "WATCHDOG" in each]
    assert any(each.startswith("<6>worker 1[") for each in journal)
    assert any(each.startswith("<3>supervisor[") and "failed after" in each for each in journal)
    assert [each for each in journal if not each.startswith("<")] == []
    manager.close()


def test_beats_go_on_under_load_and_a_loop_that_stands_sends_none(service: Service) -> None:
    done = threading.Event()

    def talk() -> None:
        with Client(service.address) as client:
            while not done.is_set():
                client.say("hello")
                client.hear_until("hello")

    talkers = [threading.Thread(target=talk) for _ in range(3)]
    for each in talkers:
        each.start()
    try:
        service.manager.hear_all()
        beats = [time.monotonic()]
        while len(beats) < 6:
            service.manager.hear_until("WATCHDOG")
            beats.append(time.monotonic())
    finally:
        done.set()
        for each in talkers:
            each.join()
    # What is wanted is one in WATCHDOG: a busy machine gets a few times that.
    assert beats[-1] - beats[0] < 5 * 5 * WATCHDOG
    with stopped(service.pid):
        service.manager.hear_all()
        with pytest.raises(AssertionError, match="no message within"):
            service.manager.hear(3 * WATCHDOG)
    service.manager.hear_until("WATCHDOG")


def test_a_second_start_has_its_own_exit_code_and_says_nothing(service: Service) -> None:
    with served(service, "--port", "0", notify=service.manager.address) as second:
        assert second.wait(PATIENCE) == 4
        assert second.stderr is not None
        assert 'mpchat "default" is already running: pid ' in second.stderr.read()
    assert "STOPPING" not in {key for each in service.manager.hear_all() for key in each}


def test_no_other_process_of_the_server_knows_of_the_service_manager(service: Service) -> None:
    children = psutil.Process(service.pid).children(recursive=True)
    assert len(children) >= 2
    for child in children:
        assert environment_of(child.pid) & set(VARIABLES) == set()


def test_a_start_that_fails_says_why_and_ends_with_its_code(folder: Path) -> None:
    server = Server(folder)
    with socket.create_server(("127.0.0.1", free_port())) as taken, hearing(folder) as manager:
        port = taken.getsockname()[1]
        with served(server, "--port", str(port), notify=manager.address) as process:
            assert process.wait(PATIENCE) == 5
            told = manager.hear_until("EXIT_STATUS")
        assert told["STATUS"].startswith(f"127.0.0.1:{port} is taken by ")
        assert (told["ERRNO"], told["EXIT_STATUS"]) == ("98", "5")
        assert "READY" not in manager.states()


def test_a_background_server_that_a_service_starts_is_not_that_service(folder: Path) -> None:
    server = Server(folder)
    with hearing(folder) as manager:
        server.environment["NOTIFY_SOCKET"] = manager.address
        try:
            server.start(workers=1)
            assert server.stop().returncode == 0
        finally:
            server.end()
        assert manager.hear_all() == []


# Sockets that the service manager has opened.


class Caller(threading.Thread):
    """Connects again and again, and takes note of what became of each connection."""

    def __init__(self, address: tuple[str, int], name: str) -> None:
        super().__init__(name=name)
        self.address = address
        self.done = threading.Event()
        self.outcomes: list[str] = []

    def run(self) -> None:
        while not self.done.is_set():
            try:
                self.outcomes.append(self._call(f"{self.name} {len(self.outcomes)}"))
            except (OSError, AssertionError) as error:
                self.outcomes.append(repr(error))

    def _call(self, text: str) -> str:
        """Say something; return "echo" when it came back, or else what came instead."""
        with Client(self.address, source=self.address[0]) as client:
            client.say(text)
            while (received := client.receive()) is not None:
                if received.get("message") == text:
                    return "echo"
                if received.get("message") == FAREWELL:
                    return "farewell"
                if "error" in received:
                    return str(received["error"])
            return "end"


def answered_again(callers: list[Caller], count: int) -> None:
    """Wait until each caller has had that many connections more."""
    aims = [len(each.outcomes) + count for each in callers]
    for each, aim in zip(callers, aims, strict=True):
        eventually(lambda each=each, aim=aim: len(each.outcomes) >= aim, f"{each.name} to be answered")  # type: ignore[misc]


def test_sockets_outlive_the_server_and_a_restart_refuses_no_client(folder: Path) -> None:
    """The service manager of this test never reads: its socket is full after a moment."""
    server = Server(folder)
    four = socket.create_server(("127.0.0.1", 0), backlog=128)
    six = socket.create_server(("::1", 0), family=socket.AF_INET6, backlog=128)
    callers = [Caller(each.getsockname()[:2], f"caller {n}") for n, each in enumerate([four, six] * 2)]

    def serve(manager: Hearing, *, first: bool = False, last: bool = False) -> None:
        # The settings say another port, which means nothing here.
        flags, notify, sockets = ("--port", "1"), manager.address, [four, six]
        with served(server, *flags, notify=notify, watchdog=0.1, sockets=sockets) as process:
            server.wait_until_running()
            assert server.status()["addresses"] == [address_text(four), address_text(six)]
            for each in callers if first else ():
                each.start()
            answered_again(callers, 20)
            for each in callers if last else ():
                each.done.set()
                each.join()
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0

    with four, six, hearing(folder) as manager:
        serve(manager, first=True)
        serve(manager, last=True)
    outcomes = [each for caller in callers for each in caller.outcomes]
    assert [each for each in outcomes if each not in ("echo", "farewell")] == []
    # At a stop each caller has one connection at most.
    assert outcomes.count("farewell") <= len(callers)


def address_text(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def test_a_reload_keeps_given_sockets_whatever_the_settings_say(folder: Path) -> None:
    server = Server(folder)
    settings = folder / "mpchat.toml"
    settings.write_text("port = 4001\n")
    with socket.create_server(("127.0.0.1", 0)) as given:
        with served(server, "--config", str(settings), sockets=[given]) as process:
            server.wait_until_running()
            settings.write_text("port = 4002\nmax_rooms = 7\n")
            process.send_signal(signal.SIGHUP)
            done = eventually(lambda: server.status()["last_reload"], "the reload to be done")
            assert (done["exit"], done["changed"]) == (0, ["max_rooms"])
            assert list(done["kept"]) == ["port"]
            assert "the service manager has opened the sockets" in done["kept"]["port"]
            assert server.status()["addresses"] == [address_text(given)]
            for child in psutil.Process(server.pid).children(recursive=True):
                assert [each for each in child.net_connections("tcp") if each.status == "LISTEN"] == []
            with Client(given.getsockname()) as client:
                client.say("still here")
                client.hear_until("still here")
        server.end()


def test_a_socket_by_which_no_client_comes_in_ends_the_start(folder: Path) -> None:
    server = Server(folder)
    with socket.socket(socket.AF_UNIX) as local, hearing(folder) as manager:
        with served(server, notify=manager.address, sockets=[local]) as process:
            assert process.wait(PATIENCE) == 5
            assert process.stderr is not None
            said = "descriptor 3 of the service manager is no TCP socket; use ListenStream="
            assert f"<3>mpchat: {said}" in process.stderr.read()
        assert manager.hear_until("EXIT_STATUS")["STATUS"].startswith(said)
