"""Servers that are one on several hosts: mpchat, socket.io and NATS, each with one server beside.

A host is a server with a port of its own; here all are on this machine. The rule it keeps: every process
that the hosts need to be one, Redis too, counts as a process of the server.
"""

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import psutil

from mpchat import __version__
from mpchat.config import Config
from scripts.bench import node
from scripts.bench.peers import (
    HOST,
    START_S,
    TRY_S,
    Peer,
    Server,
    all_peers,
    free_port,
    knock,
    mpchat_peer,
    nats_command,
)
from scripts.bench.row import BenchError
from scripts.bench.wire import STAMP, STAMP_SIZE, WIRES, Wire
from scripts.common.processes import cpu_ns

# The hosts of each server, by name.
HOSTS = ("a", "b")
# Seconds between two messages that ask whether the hosts hear each other.
ASK_EVERY_S = 0.1
# Bytes of one read of such a message, at most.
READ_SIZE = 64 * 1024

# Names of counters. Of the Redis between the hosts: commands that append to the log and that read it, the µs
# that they took, the bytes that came and went, and all CPU µs. Of each host: CPU µs.
APPENDS, APPEND_US, READS, READ_US = "appends", "append µs", "reads", "read µs"
BYTES_IN, BYTES_OUT, LOG_US = "bytes in", "bytes out", "log µs"
HOST_US = "host %s µs"

READ_COMMANDS = ("xread", "xrange")


@dataclass(frozen=True)
class ClusterServer(Server):
    """Several running servers that are one; the first is at ``port``."""

    members: Sequence[Server]  # a server on each host
    redis: Server | None  # the one between them
    append_command: str  # Redis's name of the command that appends

    @property
    def ports(self) -> tuple[int, ...]:
        """The port of each host."""
        return tuple(server.port for server in self.members)

    def processes(self) -> list[psutil.Process]:
        """Return all processes of all hosts and of the log."""
        servers = [*self.members, *([self.redis] if self.redis else [])]
        return [process for server in servers for process in server.processes()]

    def counters(self) -> dict[str, float]:
        """Return what each host took so far, and what the log did."""
        found: dict[str, float] = {
            HOST_US % name: sum(server.cpu_ns().values()) / 1e3
            for name, server in zip(HOSTS, self.members, strict=True)
        }
        if self.redis:
            found |= log_counters(redis_info(self.redis.port), self.append_command)
            found[LOG_US] = cpu_ns(self.redis.root) / 1e3
        return found


def redis_info(port: int) -> str:
    """Return what a Redis on loopback says about its commands and its network."""
    parts = []
    with socket.create_connection((HOST, port), timeout=START_S) as sock, sock.makefile("rb") as answer:
        # One section at a time: Redis 6 takes no more.
        for section in (b"commandstats", b"stats"):
            sock.sendall(b"INFO %s\r\n" % section)
            size = int(answer.readline().removeprefix(b"$"))
            parts.append(answer.read(size + len(b"\r\n")).decode())
    return "".join(parts)


def log_counters(info: str, append_command: str) -> dict[str, float]:
    """Return the counters of the log in Redis's ``info``. A command that was never called counts 0."""
    lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)

    def command(name: str) -> tuple[float, float]:
        parts = dict(part.split("=") for part in lines.get(f"cmdstat_{name}", "calls=0,usec=0").split(","))
        return float(parts["calls"]), float(parts["usec"])

    appends, append_us = command(append_command)
    reads, read_us = map(sum, zip(*map(command, READ_COMMANDS), strict=True))
    return {
        APPENDS: appends,
        APPEND_US: append_us,
        READS: reads,
        READ_US: read_us,
        BYTES_IN: float(lines["total_net_input_bytes"]),
        BYTES_OUT: float(lines["total_net_output_bytes"]),
    }


@dataclass(frozen=True, kw_only=True)
class ClusterPeer(Peer):
    """A kind of server on several hosts."""

    # Returns the server of a host by its place in HOSTS and a port of loopback: the log's, or a free one.
    member: Callable[[int, int], Peer]
    redis: Peer | None  # the one between the hosts
    append_command: str

    @property
    def hosts(self) -> int:
        """The number of hosts."""
        return len(HOSTS)

    @contextlib.contextmanager
    def serving(self, folder: Path, clients: int) -> Iterator[Server]:
        """Start all for ``clients`` clients; wait until the hosts are one; stop them at the end."""
        with contextlib.ExitStack() as stack:

            def start(peer: Peer, name: str) -> Server:
                own = folder / name
                own.mkdir()
                return stack.enter_context(peer.serving(own, clients))

            redis = start(self.redis, "redis") if self.redis else None
            port = redis.port if redis else free_port()
            members = [start(self.member(index, port), name) for index, name in enumerate(HOSTS)]
            if self.ready is None:
                try:
                    hear_each_other(members, WIRES[self.wire])
                except OSError as error:
                    raise BenchError(f"{self.name}: the hosts do not hear each other: {error}") from error
            first = members[0]
            yield ClusterServer(first.host, first.port, first.root, members, redis, self.append_command)


def hear_each_other(servers: Sequence[Server], wire: Wire) -> None:
    """Wait until a client of each server got a message from each. Raise ``OSError`` when none comes.

    The wait is needed beyond the start: socket.io's adapter drops what comes between two looks at the stream
    until a look has found something.
    """
    before, after = wire.publication(STAMP_SIZE)
    deadline = time.monotonic() + START_S
    with contextlib.ExitStack() as stack:
        receivers = [stack.enter_context(_client(server, wire, receives=True)) for server in servers]
        for number, server in enumerate(servers):
            sender = stack.enter_context(_client(server, wire, receives=False))
            text = STAMP % (number, 0, 0)
            missing = receivers
            while missing:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"a message did not come within {START_S:g} s")
                sender.sendall(before + text + after)
                time.sleep(ASK_EVERY_S)
                missing = [each for each in missing if text not in _received(each)]


@contextlib.contextmanager
def _client(server: Server, wire: Wire, *, receives: bool) -> Iterator[socket.socket]:
    with socket.create_connection((server.host, server.port), timeout=TRY_S) as sock:
        knock(sock, wire, receives=receives)
        sock.setblocking(not receives)
        yield sock


def _received(sock: socket.socket) -> bytes:
    """Return what has come so far."""
    with contextlib.suppress(BlockingIOError):
        return sock.recv(READ_SIZE)
    return b""


def cluster_peers(workers: int) -> list[Peer]:
    """Return each server on several hosts, and each as a single one; mpchat's hosts have so many workers."""
    known = {peer.name: peer for peer in all_peers()}
    redis, nats, socket_io = known["redis"], known["nats"], known["socket.io"]
    single = mpchat_peer("mpchat", workers=workers * len(HOSTS))

    def mpchat(index: int, port: int) -> Peer:
        log = f"redis://{HOST}:{port}"
        return mpchat_peer(HOSTS[index], "--cluster", log, "--host-name", HOSTS[index], workers=workers)

    def on_node(index: int, port: int) -> Peer:
        program = str(Path(__file__).with_name("socket_io_cluster.js"))

        def command(_folder: Path, own: int, _connections: int) -> list[str]:
            return ["node", program, str(node.modules(cluster=True)), str(own), str(port)]

        return replace(socket_io, name=HOSTS[index], command=command)

    def routed(index: int, port: int) -> Peer:
        # The first host listens for the others; they find each other through it.
        where = (
            f"listen: {HOST}:{port}" if index == 0 else f"listen: {HOST}:-1, routes: [nats://{HOST}:{port}]"
        )
        more = f"server_name: {HOSTS[index]}\ncluster {{ name: bench, {where} }}\n"
        return replace(nats, name=HOSTS[index], command=partial(nats_command, more=more))

    def joined(like: Peer, member: Callable[[int, int], Peer], version: Callable[[], str]) -> ClusterPeer:
        """Return the server on several hosts that is compared with ``like``."""
        return ClusterPeer(
            f"{like.name}-cluster",
            like.wire,
            like.command,
            version,
            most_clients=like.most_clients,
            named=like.named or like.wire,
            ready=like.ready,
            member=member,
            redis=None if like is nats else redis,
            append_command="evalsha" if like is single else "xadd",
        )

    return [
        joined(single, mpchat, partial(_version_of_mpchat, redis)),
        single,
        joined(socket_io, on_node, partial(_version_of_socket_io, redis)),
        replace(socket_io, named=socket_io.wire),
        joined(nats, routed, nats.version),
        replace(nats, named=nats.wire),
    ]


def _version_of_mpchat(redis: Peer) -> str:
    """Return the versions. Raise :class:`BenchError` where something is missing."""
    if "cluster" not in Config.__annotations__:
        raise BenchError("this mpchat has no setting `cluster`")
    if find_spec("redis") is None:
        raise BenchError("pip install mpchat[cluster]")
    return f"{__version__} with Redis {redis.version()}"


def _version_of_socket_io(redis: Peer) -> str:
    adapter = node.CLUSTER_PACKAGES["@socket.io/redis-streams-adapter"]
    return f"{node.version('socket.io', cluster=True)}, adapter {adapter} with Redis {redis.version()}"
