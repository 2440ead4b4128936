"""The servers that bench and lecture compare: how each is started, watched and stopped.

It knows nothing of the work that is put on them. Everything runs on loopback, in a folder that goes away.
The brokers are set so that no client is dropped for being slow and nothing is written to disk.
"""

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import psutil

from mpchat import __version__
from mpchat.control.client import ask
from mpchat.control.requests import Status
from mpchat.errors import MpchatError
from scripts.bench import node
from scripts.bench.row import BenchError
from scripts.bench.tls import AFTER_A_LINE, AT_ONCE, client_context, secured
from scripts.bench.websocket import after_handshake
from scripts.bench.wire import WIRES, Wire
from scripts.common.certificate import certificate
from scripts.common.descriptors import descriptor_limit
from scripts.common.processes import LOOK_S, cpu_ns, last_line, resident_bytes, started

HOST = "127.0.0.1"
# Seconds until a server must serve, and for one try whether it does.
START_S = 30.0
TRY_S = 1.0
# Another program may take a port between the moment it was found free and the server's bind.
PORT_TRIES = 3
# Connections beside the clients that a server must accept: senders, a try whether it serves.
SPARE_CONNECTIONS = 100
# Descriptors that a process of a server needs for itself.
SPARE_DESCRIPTORS = 64
# select() takes descriptors up to 1023; standard streams and the listener are among them.
SELECT_CLIENTS = 1010
# A thread each: more would measure the scheduler, if they can be started at all.
THREAD_CLIENTS = 2000
# Debian keeps servers in /usr/sbin, which is not on every user's path.
PROGRAM_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
# The name of every mpchat that is started here; its folder is its own.
INSTANCE = "bench"

# Entries of mpchat that are reached by WebSocket.
OVER_WEBSOCKET = ("mpchat-ws", "mpchat-ws-w2", "mpchat-to-ws", "mpchat-to-ws-w2")

# Makes a command line of a folder for the server's files, a port, and a number of connections.
Command = Callable[[Path, int, int], Sequence[str]]


@dataclass(frozen=True)
class Server:
    """A running server: where it serves, and all its processes, by their root."""

    host: str
    port: int
    root: psutil.Process

    @property
    def ports(self) -> tuple[int, ...]:
        """The ports that clients are spread over: several where several servers are one."""
        return (self.port,)

    def processes(self) -> list[psutil.Process]:
        """Return the root and everything below it."""
        return [self.root, *self.root.children(recursive=True)]

    def cpu_ns(self) -> dict[int, int]:
        """Return the CPU time of each process so far, in nanoseconds by process id."""
        return {process.pid: cpu_ns(process) for process in self.processes()}

    def counters(self) -> dict[str, float]:
        """Return counters that only grow, by name; a run notes by how much. A single server has none."""
        return {}

    def resident_bytes(self) -> int:
        """Return the memory of all processes."""
        return sum(resident_bytes(process) for process in self.processes())


@dataclass(frozen=True)
class Peer:
    """A kind of server: a program that stays in the foreground."""

    name: str
    wire: str  # of plain clients
    command: Command
    # Raises BenchError when it is absent, with what would install it.
    version: Callable[[], str]
    most_clients: int | None = None
    # The wires of members of one room, and of members of many rooms or channels; empty: it has none.
    named: str = ""
    rooms: str = ""
    # The wire of plain senders, where it is another one than that of those who only receive.
    senders: str = ""
    # When its clients begin to shake hands for TLS, see ``bench.tls``; empty: nothing is encrypted.
    tls: str = ""
    # Says, from its folder, whether it serves; None: a client asks.
    ready: Callable[[Path], bool] | None = None

    @property
    def hosts(self) -> int:
        """The number of servers that are one."""
        return 1

    @property
    def websocket(self) -> bool:
        """True for a server that is reached by WebSocket."""
        return bool(WIRES[self.wire].handshake)

    def wire_for(self, rooms: int) -> str:
        """Return the wire of a row with so many rooms, 0 for plain clients; empty: no such row here."""
        return (self.wire, self.named)[rooms] if rooms < 2 else self.rooms

    @contextlib.contextmanager
    def serving(self, folder: Path, clients: int) -> Iterator[Server]:
        """Start it for ``clients`` clients, with its files in ``folder``; stop it at the end."""
        log = self.log(folder)
        for attempt in range(PORT_TRIES):
            port = free_port()
            with started(self.command(folder, port, clients + SPARE_CONNECTIONS), log) as process:
                if not self._serves(folder, port, process):
                    if process.poll() is not None and attempt + 1 < PORT_TRIES:
                        continue
                    raise BenchError(f"{self.name} did not start: {last_line(log)}")
                yield Server(HOST, port, psutil.Process(process.pid))
                return

    def log(self, folder: Path) -> Path:
        """Return the file of its output."""
        return folder / f"{self.name}.log"

    def _serves(self, folder: Path, port: int, process: "subprocess.Popen[bytes]") -> bool:
        """Wait until a client would be served; return False when ``process`` ended or took too long."""
        deadline = time.monotonic() + START_S
        while process.poll() is None and time.monotonic() < deadline:
            if self.ready(folder) if self.ready else self.answers(port):
                return True
            time.sleep(LOOK_S)
        return False

    def answers(self, port: int) -> bool:
        """Say whether a client is served that leaves at once."""
        wire = WIRES[self.wire]
        try:
            with socket.create_connection((HOST, port), timeout=TRY_S) as sock:
                if self.tls:
                    with secured(sock, self.tls, client_context()) as encrypted:
                        knock(encrypted, wire)
                else:
                    knock(sock, wire)
        except OSError:
            return False
        return True


def knock(sock: socket.socket, wire: Wire, *, receives: bool = False) -> bytes:
    """Knock as a connection that only sends, or as a client; return the answer.

    Raise OSError when it is not served.
    """
    answer = b""
    if wire.handshake:
        sock.sendall(wire.handshake)
        while (rest := after_handshake(answer)) is None:
            answer += _heard(sock)
        answer = rest
    sock.sendall(wire.knock if receives else wire.sender_knock)
    served = wire.served if receives else wire.sender_served
    while not served(answer):
        answer += _heard(sock)
    return answer


def _heard(sock: socket.socket) -> bytes:
    data = sock.recv(4096)
    if not data:
        raise ConnectionResetError("the server closed the connection")
    return data


def free_port() -> int:
    """Return a port of loopback that no program listens on just now."""
    with socket.create_server((HOST, 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# ---- mpchat, and the servers of this checkout


def mpchat_peer(
    name: str,
    *options: str,
    workers: int | None = None,
    websocket: bool = False,
    senders: str = "",
    tls: str = "",
) -> Peer:
    """Return mpchat with ``options`` of ``mpchat start``, and so many workers or its default number.

    With ``websocket`` its clients are WebSocket clients, and are not sent pings, as those of other servers;
    ``senders`` is another wire for those who send. With ``tls`` its clients encrypt.

    It runs in the foreground: a server in the background is a child of init, which collects it late.
    """
    processes = workers or max(1, (os.cpu_count() or 1) - 1)
    if workers:
        options = ("--workers", str(workers), *options)
    if websocket:
        options = ("--keepalive", "0", *options)

    def command(folder: Path, port: int, _connections: int) -> list[str]:
        where = ("--name", INSTANCE, "--runtime-dir", str(folder), "--port", str(port))
        # All clients of a measurement come from one address.
        unbounded = ["--max-rooms-per-address", "0"]
        if tls:
            chain, key = certificate(folder)
            unbounded += ["--tls-cert", chain, "--tls-key", key]
        return [sys.executable, "-m", "mpchat", "start", "--foreground", *where, *unbounded, *options]

    return Peer(
        name,
        "frames-websocket" if websocket else "frames",
        command,
        lambda: __version__,
        # A TLS process has two descriptors for each client.
        most_clients=(descriptor_limit() - SPARE_DESCRIPTORS) * (1 if tls else 2 * processes) // 2,
        named="" if websocket else "members",
        rooms="" if websocket else "members",
        senders=senders,
        tls=tls,
        ready=_mpchat_is_ready,
    )


def control_socket(folder: Path) -> Path:
    """Return the control socket of the mpchat whose files are in ``folder``."""
    return folder / INSTANCE / "control.sock"


def _mpchat_is_ready(folder: Path) -> bool:
    """Say whether all workers run. No client asks: its leaving would be told to the room."""
    try:
        workers = ask(control_socket(folder), Status(), START_S).result.get("workers", [])
    except MpchatError:
        return False
    return bool(workers) and all(worker["state"] == "RUNNING" for worker in workers)


def mpchat_by_name(name: str) -> Peer:
    """Return mpchat at its defaults (``mpchat``) or with N workers (``mpchat-wN``).

    ``mpchat-ws`` and ``mpchat-ws-wN`` are the same with WebSocket clients. With ``mpchat-to-ws`` and
    ``mpchat-to-ws-wN`` plain clients send and WebSocket clients receive: what a delivery alone costs. With
    ``mpchat-tls`` and ``mpchat-tls-wN`` all encrypt.
    """
    match = re.fullmatch(r"mpchat(-ws|-to-ws|-tls)?(?:-w([1-9]\d*))?", name)
    if match is None:
        known = "mpchat-wN for N workers, mpchat-ws-wN with WebSocket clients, mpchat-to-ws-wN, mpchat-tls-wN"
        raise BenchError(f"{name} is no server of this bench: {known}")
    kind, workers = match.groups()
    count = int(workers) if workers else None
    if kind == "-tls":
        return mpchat_peer(name, workers=count, tls=AT_ONCE)
    senders = "frames" if kind == "-to-ws" else ""
    return mpchat_peer(name, workers=count, websocket=bool(kind), senders=senders)


def python_peer(name: str, *program: str, most_clients: int | None = None) -> Peer:
    """Return a Python program that speaks mpchat's wire to plain clients; its last argument is the port.

    ``program`` is a file, or ``-m`` and a module of this checkout, and other arguments.
    """

    def command(_folder: Path, port: int, _connections: int) -> list[str]:
        return [sys.executable, *program, str(port)]

    return Peer(name, "frames", command, lambda: sys.version.split()[0], most_clients=most_clients)


def lecture_peer(kind: str, most_clients: int | None = None) -> Peer:
    """Return one of the lecture's servers (scripts/lecture/peer.py)."""
    return python_peer(kind, "-m", "scripts.lecture.peer", kind, most_clients=most_clients)


def _floor(folder: Path, port: int, _connections: int) -> list[str]:
    program = folder / "floor"
    compiler = ["cc", "-O2", "-o", str(program), str(Path(__file__).with_name("floor.c"))]
    answer = subprocess.run(compiler, capture_output=True, text=True)
    if answer.returncode:
        raise BenchError(f"the C floor does not compile: {answer.stderr.strip()}")
    return [str(program), str(port)]


# ---- the brokers


def _redis(folder: Path, port: int, connections: int) -> list[str]:
    options = {
        "bind": HOST,
        # Redis accepts as loopback 127.0.0.1 alone, and each load process has an address of its own.
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


def nats_command(
    folder: Path,
    port: int,
    connections: int,
    *,
    websocket: bool = False,
    tls: bool = False,
    more: str = "",
) -> list[str]:
    """Return the command line; ``more`` stands in its settings too."""
    settings = folder / "nats.conf"
    # Its plain port is always there; -1 is any that is free.
    web = f"websocket {{ host: {HOST}, port: {port}, no_tls: true, compression: false }}\n"
    settings.write_text(
        f"host: {HOST}\nport: {-1 if websocket else port}\nmax_connections: {connections}\n"
        'write_deadline: "60s"\nmax_pending: 1GB\nping_interval: "1h"\n' + web * websocket + more
    )
    if tls:
        chain, key = certificate(folder)
        with settings.open("a") as file:
            file.write(f'tls {{ cert_file: "{chain}", key_file: "{key}", timeout: 60 }}\n')
    return [_program("nats-server"), "-c", str(settings)]


def _mosquitto(folder: Path, port: int, connections: int, *, tls: bool = False) -> list[str]:
    settings = folder / "mosquitto.conf"
    # user root: started by root it would become a user that cannot read this folder. log_dest: it would log
    # every client.
    settings.write_text(
        f"listener {port} {HOST}\nallow_anonymous true\nmax_connections {connections}\nuser root\n"
        "max_queued_messages 0\npersistence false\nset_tcp_nodelay true\nlog_type error\nlog_dest stderr\n"
    )
    if tls:
        chain, key = certificate(folder)
        with settings.open("a") as file:
            file.write(f"certfile {chain}\nkeyfile {key}\n")
    return [_program("mosquitto"), "-c", str(settings)]


def _program(name: str) -> str:
    return shutil.which(name, path=PROGRAM_PATH) or name


def _version_of(program: str, argument: str, package: str) -> str:
    """Return the first version number in the output of ``program``, which is in Debian's ``package``."""
    path = shutil.which(program, path=PROGRAM_PATH)
    if path is None:
        raise BenchError(f"apt-get install {package}")
    answer = subprocess.run([path, argument], capture_output=True, text=True)
    number = re.search(r"\d+(?:\.\d+)+", answer.stdout + answer.stderr)
    return number.group() if number else "of unknown version"


# ---- WebSocket servers beside mpchat and NATS


def _node_peer(package: str, program: str, wire: str) -> Peer:
    """Return a relay on Node that takes the folder of npm's packages and the port."""

    def command(_folder: Path, port: int, _connections: int) -> list[str]:
        return ["node", str(Path(__file__).with_name(program)), str(node.modules()), str(port)]

    return Peer(package, wire, command, partial(node.version, package), _most_of_one_process())


def _websockets_peer() -> Peer:
    """Return a relay that is a Python program with the package of this name."""

    def command(_folder: Path, port: int, _connections: int) -> list[str]:
        return [sys.executable, str(Path(__file__).with_name("websockets_relay.py")), str(port)]

    return Peer("websockets", "websocket", command, partial(version, "websockets"), _most_of_one_process())


def _most_of_one_process() -> int:
    return descriptor_limit() - SPARE_DESCRIPTORS - SPARE_CONNECTIONS


def all_peers() -> list[Peer]:
    """Return every peer, installed or not, in the order of the tables."""
    one_process = _most_of_one_process()

    def program(
        name: str, wire: str, command: Command, asked: tuple[str, str], package: str, tls: str = ""
    ) -> Peer:
        rooms = "redis-members" if name == "redis" else ""
        ask = partial(_version_of, *asked, package)
        return Peer(name, wire, command, ask, one_process, rooms=rooms, tls=tls)

    nats = ("nats-server", "--version"), "nats-server"
    mosquitto = ("mosquitto", "-h"), "mosquitto"
    return [
        program("redis", "redis", _redis, ("redis-server", "--version"), "redis-server"),
        mpchat_peer("mpchat"),
        mpchat_peer("mpchat-w2", workers=2),
        program("floor", "frames", _floor, ("cc", "--version"), "gcc"),
        program("nats", "nats", nats_command, *nats),
        program("mosquitto", "mqtt", _mosquitto, *mosquitto),
        lecture_peer("select", SELECT_CLIENTS),
        lecture_peer("threads", THREAD_CLIENTS),
        lecture_peer("asyncio", one_process),
        *map(mpchat_by_name, OVER_WEBSOCKET),
        _node_peer("ws", "ws_relay.js", "websocket"),
        _node_peer("socket.io", "socket_io_relay.js", "socket.io"),
        _websockets_peer(),
        program("nats-ws", "nats-websocket", partial(nats_command, websocket=True), *nats),
        mpchat_by_name("mpchat-tls"),
        program("nats-tls", "nats", partial(nats_command, tls=True), *nats, AFTER_A_LINE),
        program("mosquitto-tls", "mqtt", partial(_mosquitto, tls=True), *mosquitto, AT_ONCE),
    ]
