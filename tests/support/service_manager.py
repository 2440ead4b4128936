"""A stand-in for systemd: hears what a server says, and starts one with sockets that it has opened."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from support.harness import MPCHAT, Server
from support.waiting import PATIENCE

# Sets the pid that only the new process has, makes standard error the journal, puts the sockets in their
# places, and becomes the server.
LAUNCHER = """
import fcntl, os, sys
given = [fcntl.fcntl(int(each), fcntl.F_DUPFD, 100) for each in sys.argv[1].split(",") if each]
for place, descriptor in enumerate(given):
    os.dup2(descriptor, 3 + place)
    os.close(descriptor)
me, journal = str(os.getpid()), os.fstat(2)
os.environ["JOURNAL_STREAM"] = f"{journal.st_dev}:{journal.st_ino}"
os.environ |= {"LISTEN_PID": me, "LISTEN_FDS": str(len(given)), "WATCHDOG_PID": me}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Hearing:
    """A datagram socket as systemd has one: a message is the dictionary of its lines."""

    def __init__(self, address: str) -> None:
        """``address`` is a path, or begins with ``@``."""
        self.address = address
        self.heard: list[dict[str, str]] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address.replace("@", "\0", 1) if address.startswith("@") else address)

    def hear(self, timeout: float = PATIENCE) -> dict[str, str]:
        """Return the next message; fail if none comes in time."""
        self._socket.settimeout(timeout)
        try:
            text = self._socket.recv(65536).decode()
        except (TimeoutError, BlockingIOError):
            raise AssertionError(f"no message within {timeout:g} s; heard so far: {self.heard}") from None
        self.heard.append(dict(line.split("=", 1) for line in text.split("\n")))
        return self.heard[-1]

    def hear_until(self, key: str) -> dict[str, str]:
        """Return the next message that has a key."""
        deadline = time.monotonic() + PATIENCE
        while key not in (message := self.hear()):
            assert time.monotonic() < deadline, f"no {key}; heard: {self.heard[-10:]}"
        return message

    def hear_all(self) -> list[dict[str, str]]:
        """Return the messages that are there now."""
        found = []
        with suppress(AssertionError):
            while True:
                found.append(self.hear(0.0))
        return found

    def states(self) -> list[str]:
        """Return what was heard so far of changes of state, in order."""
        states = ("READY", "RELOADING", "STOPPING", "ERRNO", "EXIT_STATUS")
        return [name for message in self.heard for name in states if name in message]

    def close(self) -> None:
        self._socket.close()


@contextmanager
def hearing(folder: Path) -> Iterator[Hearing]:
    manager = Hearing(str(folder / "notify"))
    try:
        yield manager
    finally:
        manager.close()


@contextmanager
def served(
    server: Server,
    *flags: str,
    notify: str = "",
    watchdog: float = 0.4,
    sockets: Sequence[socket.socket] = (),
) -> Iterator["subprocess.Popen[str]"]:
    """A server in the foreground as a service manager starts it; ``watchdog`` is in seconds."""
    environment = {**server.environment, "WATCHDOG_USEC": str(int(watchdog * 1e6))}
    if notify:
        environment["NOTIFY_SOCKET"] = notify
    descriptors = [each.fileno() for each in sockets]
    words = [*MPCHAT[1:], "start", "--foreground", "--name", server.name, "--workers", "1", *flags]
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, ",".join(map(str, descriptors)), *words],
        env=environment,
        cwd=server.folder,
        pass_fds=descriptors,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def environment_of(pid: int) -> set[str]:
    """Return the names of the variables that a process was started with."""
    data = Path(f"/proc/{pid}/environ").read_bytes()
    return {os.fsdecode(each.partition(b"=")[0]) for each in data.split(b"\0") if each}
