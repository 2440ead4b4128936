"""Launch: the command's half of a start: it starts the server's process and waits for what that reports.

The server's half is :mod:`mpchat.supervisor.startup`. The server runs as ``python -m mpchat.supervisor`` in a
fresh interpreter, so that it and its workers carry none of what the command line needs. Settings reach it
through a pipe; in the background a second pipe brings back the outcome of the start.
"""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import msgspec

from mpchat.config import Config
from mpchat.errors import AlreadyRunningError, ConfigError, StartError
from mpchat.settings import Sources
from mpchat.supervisor.startup import Order, Outcome, StartFacts, encode_order, signal_name

# The folder that the package lies in. The server starts there, so that ``-m`` finds this package, installed
# or not, and nothing in the folder of the user who starts it.
_PACKAGE_FOLDER = Path(__file__).resolve().parents[2]
# Bytes that fit a socket before the server reads it.
_ORDER_SIZE = 64 << 10


def in_foreground(config: Config, sources: Sources) -> NoReturn:
    """Become the server. Ctrl-C waits until the new program can handle it.

    Raise :class:`ConfigError` if the settings are too long.
    """
    settings = _settings_pipe(Order(config, sources))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    sys.stdout.flush()
    os.chdir(_PACKAGE_FOLDER)
    os.execv(sys.executable, _command(config, settings, -1))


def in_background(config: Config, sources: Sources) -> StartFacts:
    """Start the server in a session of its own; return its facts once every worker can serve.

    Raise :class:`ConfigError`, :class:`StartError` or :class:`AlreadyRunningError`; then no process is left.
    Ctrl-C while the server starts ends it again.
    """
    settings = _settings_pipe(Order(config, sources))
    reader, writer = os.pipe()
    server: subprocess.Popen[bytes] | None = None
    try:
        with _interrupts_held():
            server = subprocess.Popen(
                _command(config, settings, writer),
                cwd=_PACKAGE_FOLDER,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(settings, writer),
                start_new_session=True,
            )
        os.close(settings)
        os.close(writer)
        with open(reader, "rb") as stream:
            line = stream.read()
    except KeyboardInterrupt:
        if server is not None:
            server.terminate()
            server.wait()
        raise
    outcome = msgspec.json.decode(line, type=Outcome) if line else _silent_outcome(config, server)
    if outcome.facts is None:
        server.wait()
        error = AlreadyRunningError if outcome.exit == AlreadyRunningError.exit_code else StartError
        raise error(outcome.text)
    server.returncode = 0  # it lives on; this process does not wait for it
    return outcome.facts


def _settings_pipe(order: Order) -> int:
    """Return the reading end of a socket that holds the order.

    A pipe may hold no more than 4 KiB, of a user whose pipes take much already.
    """
    data = encode_order(order)
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _ORDER_SIZE)
        writer.setblocking(False)
        if len(data) > _ORDER_SIZE or writer.send(data) < len(data):
            raise ConfigError(f"all settings together take {len(data)} bytes, allowed: {_ORDER_SIZE}")
        reader.set_inheritable(True)
        return reader.detach()


def _command(config: Config, settings: int, outcome: int) -> list[str]:
    # The name is there for people who read a list of processes.
    return [sys.executable, "-m", "mpchat.supervisor", config.name, str(settings), str(outcome)]


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


def _silent_outcome(config: Config, server: "subprocess.Popen[bytes]") -> Outcome:
    """Return the outcome of a server that ended without a report."""
    code = server.wait()
    how = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
    text = f"the server ended before it could serve ({how}); see {config.log_file}"
    return Outcome(exit=StartError.exit_code, text=text)
