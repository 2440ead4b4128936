"""Launch: the command's half of a start: it starts the server's process and waits for what that reports.

The server's half is :mod:`mpchat.supervisor.startup`. The server runs as ``mpchat.supervisor`` in a fresh
interpreter: it and its workers carry none of what the command line needs, and import nothing from the current
folder. Settings reach it through a pipe; in the background a second pipe brings back the outcome of the
start, and a third one what the server says before its log is open.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, NoReturn

import msgspec

from mpchat.config import Config
from mpchat.errors import AlreadyRunningError, ConfigError, StartError
from mpchat.instance.paths import paths as instance_paths
from mpchat.instance.record import SERVER
from mpchat.instance.second_start import refuse_second_start
from mpchat.settings import Sources
from mpchat.supervisor import boot
from mpchat.supervisor.startup import Order, Outcome, StartFacts, encode_order, signal_name
from mpchat.text import visible

# A relative entry of PYTHONPATH, which may be empty, means this folder for the server.
_SERVER_FOLDER = "/"
# Lines that are shown of what a server said before it ended.
_LAST_LINES = 5
# Seconds to wait for them: a process that the server has left may hold its standard error open.
_LAST_LINES_TIMEOUT = 1.0
# Bytes that fit a socket before the server reads it.
_ORDER_SIZE = 64 << 10


def in_foreground(config: Config, sources: Sources) -> NoReturn:
    """Become the server. Ctrl-C waits until the new program can handle it.

    Raise :class:`ConfigError` if the settings are too long, and :class:`StartError` or
    :class:`AlreadyRunningError` if that is known before.
    """
    settings = _settings_pipe(_checked_order(config, sources))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.chdir(_SERVER_FOLDER)
    os.execv(sys.executable, _command(config, settings, -1))


def in_background(config: Config, sources: Sources) -> StartFacts:
    """Start the server in a session of its own; return its facts once every worker can serve.

    Raise :class:`ConfigError`, :class:`StartError` or :class:`AlreadyRunningError`; then no process is left.
    Ctrl-C while the server starts ends it again.
    """
    settings = _settings_pipe(_checked_order(config, sources))
    reader, writer = os.pipe()
    server: subprocess.Popen[bytes] | None = None
    try:
        with _interrupts_held():
            server = subprocess.Popen(
                _command(config, settings, writer),
                cwd=_SERVER_FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(settings, writer),
                start_new_session=True,
            )
        os.close(settings)
        os.close(writer)
        last_lines = _LastLines(server)
        with open(reader, "rb") as stream:
            line = stream.read()
    except KeyboardInterrupt:
        if server is not None:
            server.terminate()
            server.wait()
        raise
    outcome = msgspec.json.decode(line, type=Outcome) if line else _silent_outcome(config, server, last_lines)
    if outcome.facts is None:
        server.wait()
        error = AlreadyRunningError if outcome.exit == AlreadyRunningError.exit_code else StartError
        raise error(outcome.text)
    server.returncode = 0  # it lives on; this process does not wait for it
    return outcome.facts


def _checked_order(config: Config, sources: Sources) -> bytes:
    """Return the order as bytes, for a server that no other one is in the way of, as far as is known yet."""
    data = encode_order(Order(config, sources))
    if len(data) > _ORDER_SIZE:
        raise _too_long(data)
    refuse_second_start(config)
    return data


def _too_long(data: bytes) -> ConfigError:
    return ConfigError(f"all settings together take {len(data)} bytes, allowed: {_ORDER_SIZE}")


def _settings_pipe(data: bytes) -> int:
    """Return the reading end of a socket that holds the order.

    A pipe may hold no more than 4 KiB, of a user whose pipes take much already.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _ORDER_SIZE)
        writer.setblocking(False)
        if writer.send(data) < len(data):
            raise _too_long(data)
        reader.set_inheritable(True)
        return reader.detach()


def _command(config: Config, settings: int, outcome: int) -> list[str]:
    # Name and folder are there for people, and commands, that read a list of processes.
    folder = str(instance_paths(config.name, config.runtime_dir).folder)
    return [sys.executable, "-P", boot.__file__, SERVER, config.name, folder, str(settings), str(outcome)]


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C for the end of the block: in between it would leave a child that is just being started."""
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


class _LastLines:
    """Reads what a server says on standard error until its log is open; a full pipe must not stop it."""

    def __init__(self, server: "subprocess.Popen[bytes]") -> None:
        self._lines: deque[bytes] = deque(maxlen=_LAST_LINES)
        self._thread = threading.Thread(target=self._read, args=(server.stderr,), daemon=True)
        self._thread.start()

    def _read(self, stream: IO[bytes]) -> None:
        with stream:
            self._lines.extend(line for line in stream if line.strip())

    def text(self) -> str:
        """Return the lines, safe to show; call when the server has ended."""
        self._thread.join(_LAST_LINES_TIMEOUT)
        return "".join(f"\n  {visible(line.decode(errors='replace').rstrip())}" for line in self._lines)


def _silent_outcome(config: Config, server: "subprocess.Popen[bytes]", last_lines: _LastLines) -> Outcome:
    """Return the outcome of a server that ended without a report."""
    code = server.wait()
    how = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
    said = last_lines.text()
    where = f"; its last words:{said}" if said else f"; see {config.log_file}"
    return Outcome(exit=StartError.exit_code, text=f"the server ended before it could serve ({how}){where}")
