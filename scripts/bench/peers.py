"""The servers that bench.py compares: how each is started, watched and stopped.

Knows nothing of the work that is put on them. The rule it keeps: what is started here is ended here, by its
own process id, whatever happens in between; everything runs on loopback, in a folder that goes away with it.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

HOST = "127.0.0.1"
# Where `python -m mpchat` finds this checkout's mpchat, installed or not.
CHECKOUT = Path(__file__).resolve().parents[2]
# Seconds until a server must serve, and until it must have ended by itself before it is killed.
START_S = 30.0
STOP_S = 10.0
# Seconds for one mpchat command; more than it takes to give up by itself.
RUN_S = 60.0
# Seconds between two looks at something that is waited for.
LOOK_S = 0.02
# Another program may take a port between the moment it was found free and the server's bind.
PORT_TRIES = 3
# Connections beside the clients that a server must take: senders, a look whether it serves.
SPARE_CONNECTIONS = 100
# Descriptors that a process of a server needs for itself.
SPARE_DESCRIPTORS = 64
# select() takes descriptors up to 1023; standard streams and the listener are among them.
SELECT_CLIENTS = 1010
# A thread each: more would measure the scheduler, if they can be started at all.
THREAD_CLIENTS = 2000


class PeerError(Exception):
    """A server did not start or could not be asked; the text says which and why."""


@dataclass(frozen=True)
class Server:
    """A running server: where it serves, and all its processes, by their root."""

    host: str
    port: int
    root: psutil.Process

    def processes(self) -> list[psutil.Process]:
        """Return the root and everything below it."""
        return [self.root, *self.root.children(recursive=True)]

    def cpu_ns(self) -> dict[int, int]:
        """Return the CPU time of each process so far, in nanoseconds by process id."""
        return {process.pid: _cpu_ns(process) for process in self.processes()}

    def resident_bytes(self) -> int:
        """Return the memory of all processes: shares of shared pages where the system tells them."""
        return sum(_resident_bytes(process) for process in self.processes())


def _cpu_ns(process: psutil.Process) -> int:
    """CPU time of all threads, ended ones too, exact to the nanosecond on Linux.

    ``/proc/PID/stat`` counts in ticks of 10 ms, ``/proc/PID/task/*/schedstat`` forgets ended threads; the
    clock of ``clock_getcpuclockid(3)`` does neither. Python has no such call, but the number is documented:
    the id's complement, three bits left, and 2 for the scheduler's clock.
    """
    if sys.platform == "linux":
        try:
            return time.clock_gettime_ns((~process.pid << 3) | 2)
        except OSError:
            return 0  # it ended just now
    times = process.cpu_times()
    return int((times.user + times.system) * 1e9)


def _resident_bytes(process: psutil.Process) -> int:
    try:
        full = process.memory_full_info()
        return int(getattr(full, "pss", 0) or full.rss)
    except psutil.AccessDenied:
        return int(process.memory_info().rss)


class Peer:
    """A kind of server. ``package`` is Debian's name for it, if it is not part of this checkout.

    ``named`` is the wire of clients with a name, ``rooms`` that of clients in one of many rooms or channels;
    empty where the server (or the bench) has none.
    """

    named = ""
    rooms = ""

    def __init__(self, name: str, wire: str, *, package: str = "", most_clients: int | None = None) -> None:
        self.name = name
        self.wire = wire
        self.package = package
        self.most_clients = most_clients

    def wire_for(self, rooms: int) -> str:
        """Return the wire of a row with so many rooms, 0 for plain clients; empty: it cannot do that row."""
        return (self.wire, self.named)[rooms] if rooms < 2 else self.rooms

    def version(self) -> str | None:
        """Return what is installed, or None when it is absent."""
        raise NotImplementedError

    @contextlib.contextmanager
    def serving(self, folder: Path, clients: int) -> Iterator[Server]:
        """Start it for ``clients`` clients, with its files in ``folder``; stop it at the end."""
        raise NotImplementedError
        yield


class ProgramPeer(Peer):
    """A program that stays in the foreground and takes its port as an argument or in a file."""

    def __init__(
        self,
        name: str,
        wire: str,
        command: Callable[[Path, int, int], Sequence[str]],
        version: Callable[[], str | None],
        *,
        package: str = "",
        most_clients: int | None = None,
        rooms: str = "",
    ) -> None:
        super().__init__(name, wire, package=package, most_clients=most_clients)
        self.rooms = rooms
        self._command = command
        self._version = version

    def version(self) -> str | None:
        """Ask the program."""
        return self._version()

    @contextlib.contextmanager
    def serving(self, folder: Path, clients: int) -> Iterator[Server]:
        """Start it, wait until it accepts, end it at the end."""
        log = folder / f"{self.name}.log"
        for attempt in range(PORT_TRIES):
            port = free_port()
            command = self._command(folder, port, clients + SPARE_CONNECTIONS)
            with started(command, log) as process:
                if not accepts(port, process):
                    if process.poll() is not None and attempt + 1 < PORT_TRIES:
                        continue
                    raise PeerError(f"{self.name} did not start: {last_line(log)}")
                yield Server(HOST, port, psutil.Process(process.pid))
                return


class MpchatPeer(Peer):
    """This checkout's mpchat, started and stopped as a user would."""

    named = rooms = "members"

    def __init__(self, name: str, workers: int | None) -> None:
        processes = workers or max(1, (os.cpu_count() or 1) - 1)
        super().__init__(name, "frames", most_clients=processes * (_descriptors() - SPARE_DESCRIPTORS))
        self._workers = workers

    def version(self) -> str | None:
        """Return its version if it has a command line to start it by."""
        answer = self._run("--version")
        return _number_in(answer.stdout) if answer.returncode == 0 else None

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "mpchat", *arguments]
        with uninterrupted():
            return subprocess.run(
                command, cwd=CHECKOUT, capture_output=True, text=True, timeout=RUN_S, start_new_session=True
            )

    @contextlib.contextmanager
    def serving(self, folder: Path, clients: int) -> Iterator[Server]:
        """``mpchat start``, ``mpchat status`` for the port and the processes, ``mpchat stop``."""
        where = ("--name", "bench", "--runtime-dir", str(folder))
        workers = () if self._workers is None else ("--workers", str(self._workers))
        family: list[psutil.Process] = []
        try:
            answer = self._run("start", *where, "--port", "0", *workers)
            if answer.returncode:
                raise PeerError(f"{self.name} did not start: {(answer.stderr or answer.stdout).strip()}")
            server = self._server(where)
            family = server.processes()
            yield server
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._run("stop", *where)
            _end(family)

    def _server(self, where: tuple[str, ...]) -> Server:
        answer = self._run("status", *where, "--json")
        try:
            status: dict[str, Any] = json.loads(answer.stdout)
            host, _, port = status["addresses"][0].rpartition(":")
            return Server(host, int(port), psutil.Process(int(status["pid"])))
        except (ValueError, KeyError, IndexError, psutil.NoSuchProcess) as error:
            raise PeerError(f"{self.name}: no status: {error!r}: {answer.stdout or answer.stderr}") from error


# ---- processes


@contextlib.contextmanager
def started(command: Sequence[str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` until the end of the block; what it says goes to ``log``."""
    with open(log, "wb") as output:
        process: subprocess.Popen[bytes] | None = None
        try:
            with uninterrupted():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=CHECKOUT,
                    # Ctrl-C in the terminal reaches the bench alone, which then stops all in order.
                    start_new_session=True,
                )
            yield process
        finally:
            if process is not None:
                _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    family: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        family = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    _end(family)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the end of the block.

    Else one that comes between the start of a child and the line that remembers it leaves the child running.
    (Blocking the signals would not do: a child inherits that.)
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _frame: held.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for came in held:
            signal.raise_signal(came)


def _end(family: Sequence[psutil.Process]) -> None:
    """End what is left of ``family``; psutil knows a reused process id from the old one."""
    deadline = time.monotonic() + STOP_S
    while (left := [each for each in family if _lives(each)]) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _lives(process: psutil.Process) -> bool:
    """A zombie does not: whoever adopted it may collect it late or never."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False


def free_port() -> int:
    """Return a port of loopback that nobody listens on just now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def accepts(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until somebody accepts at ``port``; False when ``process`` ended or took too long."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            with socket.create_connection((HOST, port), timeout=1):
                return True
        except OSError:
            time.sleep(LOOK_S)
    return False


def last_line(log: Path) -> str:
    """Return what a program said last."""
    return log.read_text(errors="replace").strip().rpartition("\n")[2] or "it said nothing"


def _said(program: str, *arguments: str) -> str | None:
    """Return the first version number that ``program`` says, or None when it is not installed."""
    # Debian keeps servers in /usr/sbin, which is not on every user's path.
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        return None
    answer = subprocess.run([path, *arguments], capture_output=True, text=True)
    return _number_in(answer.stdout + answer.stderr)


def _number_in(text: str) -> str:
    number = re.search(r"\d+(?:\.\d+)+", text)
    return number.group() if number else "of unknown version"


def _program(name: str) -> str:
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin") or name


# ---- the brokers, set so that nobody is dropped for being slow and nothing is written to disk


def _redis(folder: Path, port: int, connections: int) -> list[str]:
    options = {
        "bind": HOST,
        # Its own idea of loopback is 127.0.0.1 alone, and the load has an address for each process.
        "protected-mode": "no",
        "port": str(port),
        "save": "",
        "appendonly": "no",
        "client-output-buffer-limit": "pubsub 0 0 0",
        "maxclients": str(connections),
        "tcp-backlog": "4096",
        "dir": str(folder),
        "daemonize": "no",
    }
    return [
        _program("redis-server"),
        *(part for key, value in options.items() for part in (f"--{key}", value)),
    ]


def _nats(folder: Path, port: int, connections: int) -> list[str]:
    settings = folder / "nats.conf"
    settings.write_text(
        f"host: {HOST}\nport: {port}\nmax_connections: {connections}\n"
        'write_deadline: "60s"\nmax_pending: 1GB\nping_interval: "1h"\n'
    )
    return [_program("nats-server"), "-c", str(settings)]


def _mosquitto(folder: Path, port: int, connections: int) -> list[str]:
    settings = folder / "mosquitto.conf"
    # Started by root it would become a user who cannot read this folder; log_dest none: it logs every client.
    settings.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\nmax_connections {connections}\nuser root\n"
        "max_queued_messages 0\npersistence false\nset_tcp_nodelay true\nlog_type error\nlog_dest stderr\n"
    )
    return [_program("mosquitto"), "-c", str(settings)]


# ---- the servers of this folder


def _floor(folder: Path, port: int, connections: int) -> list[str]:
    program = folder / "floor"
    compiler = ["cc", "-O2", "-o", str(program), str(Path(__file__).with_name("floor.c"))]
    answer = subprocess.run(compiler, capture_output=True, text=True)
    if answer.returncode:
        raise PeerError(f"the C floor does not compile: {answer.stderr.strip()}")
    return [str(program), str(port)]


def python_peer(
    name: str, *program: str, arguments: Sequence[str] = (), most_clients: int | None = None
) -> Peer:
    """Return a peer that is a Python program of this project's wire; its first argument is the port.

    ``program`` is a file, or ``-m`` and a module of this checkout.
    """

    def command(_folder: Path, port: int, _connections: int) -> list[str]:
        return [sys.executable, *program, str(port), *arguments]

    return ProgramPeer(name, "frames", command, lambda: sys.version.split()[0], most_clients=most_clients)


def _descriptors() -> int:
    """How many descriptors a process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def all_peers() -> list[Peer]:
    """Return every peer there is, installed or not, in the order of the tables."""
    one_process = _descriptors() - SPARE_DESCRIPTORS - SPARE_CONNECTIONS
    return [
        ProgramPeer(
            "redis",
            "redis",
            _redis,
            lambda: _said("redis-server", "--version"),
            package="redis-server",
            most_clients=one_process,
            rooms="redis-members",
        ),
        mpchat_peer("mpchat"),
        mpchat_peer("mpchat-w2"),
        ProgramPeer(
            "floor",
            "frames",
            _floor,
            lambda: _said("cc", "--version"),
            package="gcc",
            most_clients=one_process,
        ),
        ProgramPeer(
            "nats",
            "nats",
            _nats,
            lambda: _said("nats-server", "--version"),
            package="nats-server",
            most_clients=one_process,
        ),
        ProgramPeer(
            "mosquitto",
            "mqtt",
            _mosquitto,
            lambda: _said("mosquitto", "-h"),
            package="mosquitto",
            most_clients=one_process,
        ),
        python_peer("select", "-m", "scripts.lecture.peer_select", most_clients=SELECT_CLIENTS),
        python_peer("threads", "-m", "scripts.lecture.peer_threads", most_clients=THREAD_CLIENTS),
        python_peer("asyncio", "-m", "scripts.lecture.peer_asyncio", most_clients=one_process),
    ]


def mpchat_peer(name: str) -> Peer:
    """Return mpchat at its defaults (``mpchat``) or with N workers (``mpchat-wN``)."""
    match = re.fullmatch(r"mpchat(?:-w([1-9]\d*))?", name)
    if match is None:
        raise PeerError(f"{name} is no server of this bench: mpchat, or mpchat-wN for N workers")
    return MpchatPeer(name, int(match.group(1)) if match.group(1) else None)
