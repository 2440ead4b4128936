"""A stand-in for systemd: it holds the listening socket, starts the server, and hears what it notifies.

It does what a unit of ``Type=notify-reload`` with a socket unit asks for, and no more. The log goes into a
pipe, as into the journal; its reader can stall.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mpchat.control.client import ask
from mpchat.control.requests import Status
from mpchat.errors import MpchatError
from scripts.common.address import Address
from scripts.common.processes import wait_until_gone
from scripts.common.server import HarnessError

# Where sd_listen_fds(3) says that the sockets are.
LISTEN_FDS_START = 3
# What the new process runs first: LISTEN_PID is its own, which nobody knows before.
_BEGIN = "import os, sys; os.environ['LISTEN_PID'] = str(os.getpid()); os.execv(sys.argv[1], sys.argv[1:])"
# Seconds for a start, a reload or a stop to be told.
PATIENCE = 60.0
# Seconds within which the server's loop must say that it lives (WATCHDOG_USEC).
WATCHDOG = 10.0
# Connections that may wait while nobody accepts.
BACKLOG = 4096
# Bytes of one read of the log.
READ_SIZE = 1 << 16
STATUS_TIMEOUT = 10.0
GONE_TIMEOUT = 10.0


class Told(NamedTuple):
    """A message of the server to the service manager, and when it came (seconds, monotonic)."""

    at: float
    fields: dict[str, str]


class Journal:
    """Reads the server's log, line by line, unless it stalls."""

    def __init__(self, reader: int) -> None:
        """Read from the descriptor ``reader``, in a thread."""
        self.lines: list[dict[str, Any]] = []
        self.strange: list[str] = []
        self._reader = reader
        self._reads = threading.Event()
        self._reads.set()
        threading.Thread(target=self._read, daemon=True).start()

    def stall(self) -> None:
        """Read nothing from now on: the pipe fills up."""
        self._reads.clear()

    def go_on(self) -> None:
        """Read again."""
        self._reads.set()

    def _read(self) -> None:
        kept = b""
        while self._reads.wait() and (data := os.read(self._reader, READ_SIZE)):
            *lines, kept = (kept + data).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            self.lines.append(json.loads(line))
        except ValueError:
            self.strange.append(line.decode(errors="replace"))


class Manager:
    """The service manager and its one service."""

    def __init__(self, folder: Path, flags: tuple[str, ...]) -> None:
        """Listen, at a free port of loopback; ``flags`` are those of ``mpchat start``."""
        self._folder = folder
        self._flags = flags
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.address: Address = self._listener.getsockname()
        self._notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notify.bind(str(folder / "notify"))
        reader, self._log = os.pipe()
        self.journal = Journal(reader)
        self.told: list[Told] = []
        self.late: list[str] = []
        self._server: subprocess.Popen[bytes] | None = None
        self.seen: set[psutil.Process] = set()
        threading.Thread(target=self._hear, daemon=True).start()

    @property
    def pid(self) -> int:
        """The server's process."""
        assert self._server is not None
        return self._server.pid

    # The service.

    def start(self) -> None:
        """Start the server; return when it says that it is ready."""
        before = len(self.told)
        command = ("-m", "mpchat", "start", "--foreground", "--name", "night")
        self._server = subprocess.Popen(
            [sys.executable, "-c", _BEGIN, sys.executable, *command, *self._flags],
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what people read at a start
            stderr=self._log,
            preexec_fn=self._pass_listener,
            close_fds=False,
            start_new_session=True,
        )
        self.wait("READY=1", lambda: self._has_told(before, "READY", "1"))
        self.remember()

    def reload(self) -> None:
        """Have the server reload; return when it has told that it begins and that it is ready again."""
        before = len(self.told)
        os.kill(self.pid, signal.SIGHUP)
        self.wait("RELOADING=1", lambda: self._has_told(before, "RELOADING", "1"))
        self.wait("READY=1 after a reload", lambda: self._has_told(before, "READY", "1"))
        self.remember()

    def stop(self) -> None:
        """Stop the server; return when nothing is left of it."""
        assert self._server is not None
        before = len(self.told)
        self.remember()
        self._server.terminate()
        try:
            code = self._server.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise HarnessError(f"the server did not stop within {PATIENCE:g} s") from None
        if code != 0:
            raise HarnessError(f"the server ended with exit code {code}")
        if not self._has_told(before, "STOPPING", "1"):
            self.late.append("it did not tell that it stops")
        if left := wait_until_gone(self.seen, GONE_TIMEOUT):
            raise HarnessError(f"left behind: {left}")
        self.seen.clear()

    def status(self) -> dict[str, Any]:
        """Return what ``mpchat status --json`` prints."""
        try:
            answer = ask(self._folder / "night" / "control.sock", Status(), STATUS_TIMEOUT)
        except MpchatError as error:
            raise HarnessError(f"no status: {error}") from None
        result: dict[str, Any] = answer.result
        return result

    def remember(self) -> None:
        """Note the server's processes: none of them may be left at the end."""
        server = psutil.Process(self.pid)
        self.seen |= {server, *server.children(recursive=True)}

    def kill(self) -> None:
        """Leave nothing running, whatever happened."""
        self.journal.go_on()
        if self._server is not None and self._server.poll() is None:
            self._server.kill()
            self._server.wait()
        wait_until_gone(self.seen, GONE_TIMEOUT)
        self._listener.close()
        self._notify.close()
        os.close(self._log)

    def wait(self, what: str, until: Callable[[], bool]) -> None:
        """Wait until something is so. Raise :class:`HarnessError` when the server ends or takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not until():
            if self._server is not None and self._server.poll() is not None:
                raise HarnessError(f"the server has ended ({self._server.returncode}), waited for {what}")
            if time.monotonic() > deadline:
                raise HarnessError(f"waited {PATIENCE:g} s for {what}")
            time.sleep(0.01)

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MPCHAT_")}
        return kept | {
            "MPCHAT_RUNTIME_DIR": str(self._folder),
            "NOTIFY_SOCKET": str(self._folder / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG * 1e6)),
            "LISTEN_FDS": "1",
        }

    def _pass_listener(self) -> None:
        """Put the listener where the server looks for it; runs in the new process."""
        os.dup2(self._listener.fileno(), LISTEN_FDS_START)
        os.set_inheritable(LISTEN_FDS_START, True)

    # What it says.

    def _has_told(self, since: int, name: str, value: str) -> bool:
        return any(each.fields.get(name) == value for each in self.told[since:])

    def _hear(self) -> None:
        while True:
            try:
                data = self._notify.recv(READ_SIZE)
            except OSError:  # closed
                return
            fields = dict(line.partition("=")[::2] for line in data.decode().splitlines())
            self.told.append(Told(time.monotonic(), fields))

    def silences(self) -> list[str]:
        """Say where the loop told for longer than the watchdog allows that it lives."""
        beats = [each.at for each in self.told if "WATCHDOG" in each.fields or "READY" in each.fields]
        gaps = [later - earlier for earlier, later in pairwise(beats)]
        return [f"no sign of life for {each:.1f} s" for each in gaps if each > WATCHDOG]
