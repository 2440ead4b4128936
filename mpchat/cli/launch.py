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
from contextlib import ExitStack, contextmanager
from typing import IO, NoReturn

import msgspec

from mpchat.config import Config
from mpchat.errors import AlreadyRunningError, ConfigError, StartError
from mpchat.instance.paths import paths as instance_paths
from mpchat.instance.record import SERVER
from mpchat.instance.second_start import refuse_second_start
from mpchat.log_line import as_text
from mpchat.settings import Sources
from mpchat.supervisor import boot
from mpchat.supervisor.startup import Order, Outcome, StartFacts, encode_order, signal_name

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
    order = _checked_order(config, sources)
    try:
        with _settings_pipe(order) as settings:
            settings.set_inheritable(True)
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
            os.chdir(_SERVER_FOLDER)
            os.execv(sys.executable, _command(config, settings.fileno(), -1))
    except OSError as error:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        raise _not_started(error) from None


def in_background(config: Config, sources: Sources) -> StartFacts:
    """Start the server in a session of its own; return its facts once every worker can serve.

    Raise :class:`ConfigError`, :class:`StartError` or :class:`AlreadyRunningError`; then no process is left.
    Ctrl-C while the server starts ends it again.
    """
    order = _checked_order(config, sources)
    server: subprocess.Popen[bytes] | None = None
    last_lines: _LastLines | None = None
    try:
        with _settings_pipe(order) as settings, _outcome_pipe() as (reader, writer):
            with _interrupts_held():
                server = subprocess.Popen(
                    _command(config, settings.fileno(), writer.fileno()),
                    cwd=_SERVER_FOLDER,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(settings.fileno(), writer.fileno()),
                    start_new_session=True,
                )
            settings.close()
            writer.close()
            last_lines = _LastLines(server)
            line = reader.read()
    except (KeyboardInterrupt, OSError, RuntimeError) as failure:
        if server is not None:
            _end(server, last_lines)
        if isinstance(failure, KeyboardInterrupt):
            raise
        raise _not_started(failure) from None
    outcome = msgspec.json.decode(line, type=Outcome) if line else _silent_outcome(config, server, last_lines)
    if outcome.facts is None:
        server.wait()
        error = AlreadyRunningError if outcome.exit == AlreadyRunningError.exit_code else StartError
        raise error(outcome.text)
    server.returncode = 0  # it lives on; this process does not wait for it
    return outcome.facts


def _end(server: "subprocess.Popen[bytes]", last_lines: "_LastLines | None") -> None:
    """End a server that has not reported yet, and wait for its end."""
    server.terminate()
    server.wait()
    if last_lines is None and server.stderr is not None:  # otherwise its thread closes the stream
        server.stderr.close()


def _not_started(error: OSError | RuntimeError) -> StartError:
    """Return the error for a process that could not be started.

    Python raises ``RuntimeError`` where no thread is free.
    """
    if isinstance(error, OSError) and error.filename:
        reason = f"{error.filename}: {error.strerror}"
    else:
        text = error.strerror if isinstance(error, OSError) else None
        reason = f"{text or error}; end other processes, or raise a limit that ulimit -a shows"
    return StartError(f"the server's process could not be started: {reason}")


def _checked_order(config: Config, sources: Sources) -> bytes:
    """Return the order as bytes, for a server that no other one is in the way of, as far as is known yet."""
    data = encode_order(Order(config, sources))
    if len(data) > _ORDER_SIZE:
        raise _too_long(data)
    refuse_second_start(config)
    return data


def _too_long(data: bytes) -> ConfigError:
    return ConfigError(f"all settings together take {len(data)} bytes, allowed: {_ORDER_SIZE}")


def _settings_pipe(data: bytes) -> socket.socket:
    """Return the reading end of a socket that holds the order.

    A pipe may hold no more than 4 KiB, of a user whose pipes take much already.
    """
    reader, writer = socket.socketpair()
    with writer, ExitStack() as on_error:
        on_error.enter_context(reader)
        writer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _ORDER_SIZE)
        writer.setblocking(False)
        if writer.send(data) < len(data):
            raise _too_long(data)
        on_error.pop_all()
        return reader


@contextmanager
def _outcome_pipe() -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open the pipe that brings back the outcome: its reading end and its writing end."""
    reader, writer = os.pipe()
    with open(reader, "rb") as outcome, open(writer, "wb") as servers_end:
        yield outcome, servers_end


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
        lines = [as_text(line.decode(errors="replace").rstrip()) for line in self._lines]
        # One of JSON may hold a stack, which has lines.
        return "".join(f"\n  {line}" for line in "\n".join(lines).splitlines()[-_LAST_LINES:])


def _silent_outcome(config: Config, server: "subprocess.Popen[bytes]", last_lines: _LastLines) -> Outcome:
    """Return the outcome of a server that ended without a report."""
    code = server.wait()
    how = f"killed by {signal_name(-code)}" if code < 0 else f"exit code {code}"
    said = last_lines.text()
    where = f"; its last words:{said}" if said else f"; see {config.log_file}"
    return Outcome(exit=StartError.exit_code, text=f"the server ended before it could serve ({how}){where}")
