"""A Redis of the run's own: a real ``redis-server`` with an append-only file, in a folder of the run.

It is spoken to over its own protocol, in a few lines: a run without the extra ``mpchat[cluster]`` has no
library for it. The rule: only the process that was started here is touched.
"""

import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from scripts.common.address import Address
from scripts.common.server import HarnessError

# Seconds until Redis answers after its start, and until it has ended after a signal.
START_TIMEOUT, END_TIMEOUT = 30.0, 10.0
# Seconds for one answer of a Redis that runs.
ANSWER_TIMEOUT = 5.0
# Seconds between two looks at a Redis that starts.
LOOK_EVERY = 0.02
# What of INFO a run reports.
REPORTED = ("redis_version", "used_memory", "used_memory_peak", "total_commands_processed")


def free_port() -> int:
    """Return a port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class RedisServer:
    """One Redis; its port stays the same over all its starts."""

    folder: Path  # for its data; must not exist yet
    appendfsync: str = "everysec"
    port: int = 0
    _process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> Address:
        """Where it listens."""
        return "127.0.0.1", self.port

    @property
    def alive(self) -> bool:
        """Say whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it with what its folder has, and wait until it answers. Raise HarnessError."""
        self.port = self.port or free_port()
        self.folder.mkdir(exist_ok=True)
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": self.appendfsync,
            "save": "",
            "logfile": str(self.folder.with_suffix(".log")),
        }
        command = [
            "redis-server",
            *(word for name, value in options.items() for word in (f"--{name}", value)),
        ]
        try:
            # Ctrl-C in the terminal reaches the script alone.
            self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        except OSError as error:
            raise HarnessError(f"redis-server does not start: {error.strerror}") from None
        deadline = time.monotonic() + START_TIMEOUT
        while self.ask("PING") != "+PONG":
            if not self.alive or time.monotonic() > deadline:
                raise HarnessError(f"redis-server does not answer on port {self.port}")
            time.sleep(LOOK_EVERY)

    def suspend(self) -> None:
        """Stop it (SIGSTOP): connections stay, and nothing is answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue it."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it (SIGKILL) and wait until it has ended."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(END_TIMEOUT)

    def forget(self) -> None:
        """Remove all its data; it must not run."""
        shutil.rmtree(self.folder)

    def info(self) -> dict[str, str]:
        """Return the part of INFO that a run reports; empty when it does not answer."""
        found = dict(line.split(":", 1) for line in self.ask("INFO").splitlines() if ":" in line)
        return {name: found[name] for name in REPORTED if name in found}

    def ask(self, command: str) -> str:
        """Return the answer to a command of one word, as it comes; empty when there is none."""
        with suppress(OSError), socket.create_connection(self.address, ANSWER_TIMEOUT) as asking:
            asking.sendall(command.encode() + b"\r\n")
            answer = b""
            while part := asking.recv(65536):
                answer += part
                head, found, rest = answer.partition(b"\r\n")
                if found and (not head.startswith(b"$") or len(rest) >= int(head[1:]) + 2):
                    return answer.decode(errors="replace").strip()
        return ""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
