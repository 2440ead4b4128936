"""Changes of a running server: asked for, watched, and looked at afterwards."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from mpchat.control.client import ReceivedAnswer, ask
from mpchat.control.messages import Answer
from mpchat.control.requests import BY_COMMAND
from support.crowd import facts
from support.harness import Client, Server
from support.injected import inject
from support.waiting import PATIENCE, eventually

OK, NOT_STARTED = 0, 5
# What a client that is to be behind lets its system keep of what it does not read, in bytes.
TINY = 4096


def change(server: Server, command: str, **arguments: Any) -> ReceivedAnswer:
    """Ask as the command would, without the half second that it takes; returns the answer."""
    return ask(server.instance_folder / "control.sock", BY_COMMAND[command](**arguments), timeout=60.0)


def done(answer: ReceivedAnswer) -> dict[str, Any]:
    """The result of a change that must have gone well, with nobody lost."""
    assert answer.exit == OK, answer
    assert (answer.result["failed"], answer.result["lost"]) == (0, 0)
    return answer.result


def reload(server: Server) -> dict[str, Any]:
    return done(change(server, "reload"))


def scale(server: Server, workers: int) -> dict[str, Any]:
    return done(change(server, "scale", workers=workers))


class InBackground:
    """A change that goes on while the test does something else; :meth:`answer` waits for its end."""

    def __init__(self, server: Server, command: str, **arguments: Any) -> None:
        self._answer: ReceivedAnswer | Exception | None = None
        self._thread = threading.Thread(target=self._ask, args=(server, command, arguments))
        self._thread.start()

    def _ask(self, server: Server, command: str, arguments: dict[str, Any]) -> None:
        try:
            self._answer = change(server, command, **arguments)
        except Exception as error:  # noqa: BLE001
            self._answer = error

    @property
    def going(self) -> bool:
        return self._thread.is_alive()

    def answer(self) -> ReceivedAnswer:
        self._thread.join(60.0)
        assert isinstance(self._answer, Answer), self._answer
        return self._answer

    def close(self) -> None:
        self._thread.join(60.0)


@contextmanager
def under_way(server: Server, command: str, **arguments: Any) -> Iterator[InBackground]:
    """A change that has begun."""
    background = InBackground(server, command, **arguments)
    try:
        eventually(lambda: facts(server)["change"] == command or not background.going, "the change to begin")
        yield background
    finally:
        background.close()


def signalled(server: Server, number: signal.Signals) -> None:
    os.kill(facts(server)["pid"], number)


def generations(server: Server) -> list[int | None]:
    return [each["generation"] for each in facts(server)["workers"]]


def processes_of(server: Server) -> list[psutil.Process]:
    """The supervisor and its workers, without the half second that a command takes."""
    supervisor = psutil.Process(facts(server)["pid"])
    return [supervisor, *supervisor.children(recursive=True)]


def workers_of(server: Server) -> list[int]:
    """Every worker process that there is, also one that has no slot's row to itself, by age."""
    children = psutil.Process(facts(server)["pid"]).children()
    return [each.pid for each in sorted(children, key=_born) if _is_worker(each)]


def _born(process: psutil.Process) -> float:
    return process.create_time()


def _is_worker(process: psutil.Process) -> bool:
    try:
        return any("spawn_main" in each for each in process.cmdline())
    except psutil.Error:
        return False


def served_by(pid: int, clients: Sequence[Client]) -> list[bool]:
    """For each client, whether this process has its connection."""
    try:
        theirs = {each.raddr.port for each in psutil.Process(pid).net_connections("tcp") if each.raddr}
    except psutil.Error:
        theirs = set()
    return [each.sock.getsockname()[1] in theirs for each in clients]


def all_gone(processes: Sequence[psutil.Process], timeout: float = PATIENCE) -> None:
    _, alive = psutil.wait_procs(processes, timeout=timeout)
    alive = [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not alive, f"still there after {timeout:g} s: {alive}"


# Settings.


def write_settings(server: Server, **settings: Any) -> Path:
    """Write the settings file that this server reads."""
    path = server.folder / "mpchat.toml"
    path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
    return path


@contextmanager
def configured(
    folder: Path, *flags: str, name: str = "default", fault: str = "", **settings: Any
) -> Iterator[Server]:
    """A server whose settings stand in a file, so that they can be changed; ``fault`` is injected."""
    server = Server(folder, name)
    if fault:
        inject(server, fault)
    write_settings(server, **{"port": 0, "workers": 2, **settings})
    try:
        yield server.start_as_configured(*flags)
    finally:
        server.end()


def until_reloads_end(server: Server, ended: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Wait until no change is under way and the status is as it should be."""

    def quiet() -> dict[str, Any] | None:
        found = facts(server)
        return found if found["change"] is None and ended(found) else None

    return eventually(quiet, "the changes to end")


class Stalled(Client):
    """A client that has little room for what it does not read."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.sock = socket.socket()
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, TINY)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self._received = bytearray()

    def read_to(self, mark: bytes) -> bytes:
        """Read up to where ``mark`` has come; returns everything."""
        while mark not in self._received[-len(mark) - (1 << 17) :]:
            data = self.sock.recv(1 << 16)
            assert data, f"the stream ended before {mark!r}"
            self._received += data
        return bytes(self._received)


@contextmanager
def stalled(server: Server, count: int) -> Iterator[list[Stalled]]:
    """So many clients that are in the room and read nothing from here on."""
    address = server_address(server)
    joined = [Stalled(address) for _ in range(count)]
    try:
        for each in joined:
            each.send_raw(b"\0\0")
        for each in joined:
            assert "error" in (each.receive() or {})
        yield joined
    finally:
        for each in joined:
            each.close()


def server_address(server: Server) -> tuple[str, int]:
    """Where it listens, without the half second that a command takes."""
    host, _, port = facts(server)["addresses"][0].rpartition(":")
    return host.strip("[]"), int(port)


def worker_count(server: Server) -> int:
    return len(facts(server)["workers"])
