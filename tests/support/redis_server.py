"""A real Redis for tests, its replicas and its Sentinels: in a folder of the test, on free loopback ports."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis

from support.harness import free_port
from support.programs import require
from support.waiting import eventually

LOOPBACK = "127.0.0.1"


class RedisServer:
    """One server that can be killed, stopped and started again on the same port, with the same folder."""

    def __init__(self, folder: Path, *options: str, port: int = 0) -> None:
        """``options`` are those of redis-server, without ``--`` before the first: ``"appendonly yes"``."""
        require("redis-server")
        self.folder = folder
        self.port = port or free_port()
        self.options = options
        self.password = ""
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it, and wait until it has loaded its data and answers."""
        words = ["redis-server", "--port", str(self.port), "--bind", LOOPBACK, "--dir", str(self.folder)]
        words += ["--save", "", "--logfile", str(self.folder / "redis.log")]
        words += ["--repl-diskless-sync-delay", "0"]
        for option in self.options:
            name, *values = option.split(" ")
            words += [f"--{name}", *values]
        self._process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
        eventually(self._answers, f"redis-server on port {self.port}")

    def kill(self) -> None:
        """End it as ``kill -9`` does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def restart(self) -> None:
        """Kill it and start it again: with what its append-only file has, or with nothing."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self._process is not None:
            self.kill()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Let it do nothing meanwhile, with all connections open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def ask(self, *command: str | int | bytes) -> Any:
        """Return the answer to one command, on a connection of its own."""
        connection = redis.Connection(
            host=LOOPBACK, port=self.port, password=self.password or None, socket_timeout=5.0, protocol=2
        )
        try:
            connection.send_command(*command)
            return connection.read_response()
        finally:
            connection.disconnect()

    def info(self, section: str) -> dict[str, str]:
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "redis.log").read_text()
        try:
            return bool(self.ask("PING") == b"PONG")
        except redis.AuthenticationError:
            return True
        except (redis.ConnectionError, redis.TimeoutError):
            return False


@contextmanager
def running_redis(folder: Path, *options: str) -> Iterator[RedisServer]:
    """Run one server; see :class:`RedisServer` for ``options``."""
    server = RedisServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@contextmanager
def running_replica(folder: Path, master: RedisServer) -> Iterator[RedisServer]:
    """Run a replica of ``master``, which has its data."""
    with running_redis(folder, f"replicaof {LOOPBACK} {master.port}") as replica:
        eventually(
            lambda: replica.info("replication")["master_link_status"] == "up", "a replica's first copy of all"
        )
        yield replica


@contextmanager
def running_sentinel(
    folder: Path, master: RedisServer, service: str, *options: str, watched: int = 0
) -> Iterator[int]:
    """Run one Sentinel that decides alone, after half a second; yield its port.

    ``options`` are lines of its file. ``watched`` is the master's port for it, if that is another one.
    """
    folder.mkdir()
    port = free_port()
    config = folder / "sentinel.conf"
    config.write_text(
        f"port {port}\nbind {LOOPBACK}\ndir {folder}\n"
        + "".join(f"{each}\n" for each in options)
        + f"sentinel monitor {service} {LOOPBACK} {watched or master.port} 1\n"
        f"sentinel down-after-milliseconds {service} 500\nsentinel failover-timeout {service} 3000\n"
    )
    with subprocess.Popen(
        ["redis-server", str(config), "--sentinel", "--logfile", str(folder / "sentinel.log")],
        stdout=subprocess.DEVNULL,
    ) as process:
        try:
            password = next((each.split()[1] for each in options if each.startswith("requirepass ")), None)
            eventually(lambda: _knows_replica(port, service, password), "a Sentinel that knows the replica")
            yield port
        finally:
            process.kill()


def _knows_replica(port: int, service: str, password: str | None) -> bool:
    connection = redis.Connection(host=LOOPBACK, port=port, password=password, socket_timeout=5.0, protocol=2)
    try:
        connection.send_command("SENTINEL", "REPLICAS", service)
        return bool(connection.read_response())
    except redis.RedisError:
        return False
    finally:
        connection.disconnect()
