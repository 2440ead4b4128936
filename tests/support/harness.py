"""Real servers and real clients for tests: started by the command, spoken to over sockets, killed by faults.

Nothing here is a mock. Every wait has a deadline and says what it waited for.
"""

import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from unittest.mock import patch

import psutil
from click.testing import CliRunner

from mpchat.cli import commands
from mpchat.control.client import ask
from mpchat.control.requests import Status
from mpchat.errors import NotRunningError
from support.waiting import PATIENCE, eventually

# Commands run in this interpreter, from a folder of their own, so that nothing of the checkout helps them.
MPCHAT = [sys.executable, "-m", "mpchat"]
# Seconds since the epoch: a process that is older than the tests is none of theirs.
BEGUN = psutil.Process().create_time()


def frame(text: str) -> bytes:
    """Encode a message as the lecture's clients do."""
    payload = json.dumps({"message": text}, ensure_ascii=False).encode()
    return raw_frame(payload)


def raw_frame(payload: bytes) -> bytes:
    return struct.pack(">H", len(payload)) + payload


class Client:
    """A plain client on a blocking socket: what it does not read, it does not read."""

    def __init__(
        self, address: tuple[str, int], *, timeout: float = PATIENCE, source: str = "127.0.0.1"
    ) -> None:
        self.sock = self._connect(address, timeout, source)
        self._received = bytearray()

    def _connect(self, address: tuple[str, int], timeout: float, source: str) -> socket.socket:
        return socket.create_connection(address, timeout=timeout, source_address=(source, 0))

    @property
    def address(self) -> str:
        host, port = self.sock.getsockname()[:2]
        return f"{host}:{port}"

    def say(self, text: str) -> None:
        self.sock.sendall(frame(text))

    def send_raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def receive(self) -> dict[str, Any] | None:
        """Return the next object, None at the end of the stream; the socket's timeout is the deadline."""
        header = self._exactly(2)
        if header is None:
            return None
        payload = self._exactly(struct.unpack(">H", header)[0])
        assert payload is not None, "the stream ended inside a frame"
        decoded: dict[str, Any] = json.loads(payload)
        return decoded

    def hear(self) -> str:
        """Return the next message's text; anything else fails."""
        received = self.receive()
        assert received is not None, "the connection ended, a message was expected"
        return str(received["message"])

    def hear_until(self, text: str) -> list[str]:
        """Return messages up to and including ``text``."""
        heard = [self.hear()]
        while heard[-1] != text:
            heard.append(self.hear())
        return heard

    def _exactly(self, count: int) -> bytes | None:
        while len(self._received) < count:
            data = self.sock.recv(65536)
            if not data:
                assert not self._received or count != 2, "the stream ended inside a frame"
                return None
            self._received += data
        taken = bytes(self._received[:count])
        del self._received[:count]
        return taken

    def reset(self) -> None:
        """Close with a reset instead of an orderly end."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Server:
    """One instance in a runtime folder of its own, driven through the command."""

    # Whether each command has an interpreter of its own.
    apart = False

    def __init__(self, folder: Path, name: str = "default") -> None:
        self.folder = folder
        self.name = name
        self.environment = {**os.environ, "MPCHAT_RUNTIME_DIR": str(folder / "run")}
        for variable in [each for each in self.environment if each.startswith("MPCHAT_")]:
            if variable != "MPCHAT_RUNTIME_DIR":
                del self.environment[variable]

    @property
    def instance_folder(self) -> Path:
        return self.folder / "run" / self.name

    @property
    def log(self) -> str:
        with suppress(FileNotFoundError):
            return (self.instance_folder / "server.log").read_text()
        return ""

    def command(self, *words: str, timeout: float = 60.0, **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run ``mpchat WORDS`` for this instance and return what it said.

        In this process, unless the command itself is what is tested (:attr:`apart`) or it needs more.
        """
        names = [] if words[0] in ("chat", "config") else ["--name", self.name]
        return self.run(words[0], *names, *words[1:], timeout=timeout, **more)

    def run(self, *words: str, timeout: float = 60.0, **more: Any) -> "subprocess.CompletedProcess[str]":
        """Run ``mpchat WORDS`` as they are, in this server's folder; where, see :meth:`command`."""
        alone = threading.current_thread() is threading.main_thread()
        if not (self.apart or more or not alone or words[0] == "chat" or "--foreground" in words):
            return self._run_here(*words, folder=self.folder)
        return subprocess.run(
            [*MPCHAT, *words],
            **{
                "capture_output": True,
                "text": True,
                "timeout": timeout,
                "env": self.environment,
                "cwd": self.folder,
                "stdin": subprocess.DEVNULL,
                **more,
            },
        )

    def start(self, *flags: str, workers: int = 2, port: int = 0) -> "Server":
        """Start it as the command does; fails the test when that fails."""
        return self.start_as_configured(
            "--name", self.name, "--port", str(port), "--workers", str(workers), *flags
        )

    def start_as_configured(self, *flags: str) -> "Server":
        """Start it with what its settings file says, where ``flags`` say nothing else."""
        done = self._run_here("start", *flags, folder=self.folder)
        assert done.returncode == 0, f"start failed: {done.stderr}\nlog:\n{self.log}"
        return self

    def end(self) -> None:
        """Leave nothing of it, whatever state it and its settings file are in."""
        self._run_here("stop", "--name", self.name, "--timeout", "5", "--kill", folder=Path("/"))

    def _run_here(self, *words: str, folder: Path) -> "subprocess.CompletedProcess[str]":
        """Run a command in this process: an interpreter of its own takes 0.2 s of CPU to load.

        For the main thread alone. A server that is started so is a child of the test's process: its end
        leaves a zombie.
        """
        with patch.dict(os.environ, self.environment, clear=True), chdir(folder):
            done = CliRunner(catch_exceptions=False).invoke(commands.main, words)
        return subprocess.CompletedProcess(words, done.exit_code, done.stdout, done.stderr)

    def status(self) -> dict[str, Any]:
        """What ``mpchat status --json`` prints, asked for without the half second that a command takes."""
        return ask(self.instance_folder / "control.sock", Status(), timeout=30.0).result

    def stop(self, *flags: str) -> "subprocess.CompletedProcess[str]":
        return self.command("stop", *flags)

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.status()["addresses"][0].rpartition(":")
        return host.strip("[]"), int(port)

    @property
    def pid(self) -> int:
        return int(self.status()["pid"])

    @property
    def worker_pids(self) -> list[int]:
        return [each["pid"] for each in self.status()["workers"] if each["pid"]]

    def processes(self) -> list[psutil.Process]:
        """The supervisor and everything below it."""
        supervisor = psutil.Process(self.pid)
        return [supervisor, *supervisor.children(recursive=True)]

    def wait_until_running(self) -> dict[str, Any]:
        """Wait until every slot's worker runs; returns the status."""

        def running() -> dict[str, Any] | None:
            try:
                facts = self.status()
            except NotRunningError:  # its socket has its name already, and does not listen yet
                return None
            return facts if all(map(serves, facts["workers"])) else None

        return eventually(running, "every worker to run again")

    def wait_for_connections(self, count: int) -> None:
        eventually(
            lambda: sum(each["connections"] for each in self.status()["workers"]) == count,
            f"{count} connections",
        )


def leftovers(folder: Path) -> list[psutil.Process]:
    """Processes that belong to servers whose files are in ``folder``: they have its lock files open, or its
    path in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.create_time() < BEGUN:  # to read an environment costs much more than this
                continue
            if process.pid != os.getpid() and process.environ().get("MPCHAT_RUNTIME_DIR") == str(
                folder / "run"
            ):
                found.append(process)
    return found


def assert_nothing_left(folder: Path) -> None:
    """No process of the servers in ``folder`` is there: the tracker that Python starts for a supervisor sees
    its end, and ends itself a moment later."""
    eventually(lambda: not leftovers(folder), "no process of the servers to be left", 5.0, pause=0.03)


@contextmanager
def running(folder: Path, *flags: str, workers: int = 2, name: str = "default") -> Iterator[Server]:
    """A server for the length of a test; whatever happens, nothing of it is left."""
    server = Server(folder, name)
    try:
        yield server.start(*flags, workers=workers)
    finally:
        server.end()


@contextmanager
def in_foreground(server: Server, *flags: str) -> Iterator["subprocess.Popen[str]"]:
    """A server that is a child of the test, so that its exit code can be seen."""
    command = [*MPCHAT, "start", "--foreground", "--port", "0", "--workers", "2", *flags]
    process = subprocess.Popen(
        command,
        env=server.environment,
        cwd=server.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "serves at" in process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def clients(server: Server, count: int) -> Iterator[list[Client]]:
    """So many clients, all of them known to be in the room."""
    address = server.address
    joined = [Client(address) for _ in range(count)]
    try:
        settle(joined)
        yield joined
    finally:
        for each in joined:
            each.close()


def free_port() -> int:
    """Return a port that is free now, below those that the system gives away by itself."""
    for port in random.sample(range(20_000, 32_000), 100):
        with socket.socket() as sock, suppress(OSError):
            sock.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def settle(joined: Sequence[Client], mark: str = "= settled =") -> None:
    """Have every client in the room: each is served once it gets an answer of its own."""
    for each in joined:
        each.send_raw(raw_frame(b""))
    for each in joined:
        received = each.receive()
        while received is not None and "error" not in received:
            received = each.receive()
        assert received is not None, "the connection ended, an answer was expected"


def introduce(joined: Sequence[Client]) -> None:
    """Have every client say something: only then is its leaving told."""
    for each in joined:
        each.say("안녕하세요")
    settle(joined)


def commands_served(process: psutil.Process) -> int:
    """Connections at the control socket, the listening one not counted."""
    return max(0, sum("control.sock" in str(each.laddr) for each in process.net_connections("unix")) - 1)


def kill(pid: int) -> None:
    """``kill -9``, and wait until the process is gone."""
    process = psutil.Process(pid)
    process.kill()
    eventually(lambda: _gone(process), f"{pid} to be gone")


def serves(worker: dict[str, Any]) -> bool:
    """Tell whether a worker of a status serves: one that was killed a moment ago is not known to be dead."""
    if worker["state"] != "RUNNING":
        return False
    try:
        return not _gone(psutil.Process(worker["pid"]))
    except psutil.NoSuchProcess:
        return False


def _gone(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """SIGSTOP for the length of a block."""
    process = psutil.Process(pid)
    process.suspend()
    try:
        eventually(lambda: process.status() == psutil.STATUS_STOPPED, f"{pid} to be stopped")
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGCONT)
