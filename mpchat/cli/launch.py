"""Launch: how a command becomes a server, in the background or in its own place.

The server runs as ``python -m mpchat.supervisor`` in a fresh interpreter, so that it and its workers carry
none of what the command line needs. Settings reach it through a pipe; in the background a second pipe brings
back what became of the start.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from mpchat.config import Config
from mpchat.errors import AlreadyRunningError, ConfigError, StartError
from mpchat.settings import Sources
from mpchat.supervisor.startup import Order, Outcome

# The folder that the package lies in: the server's first working directory, so that ``-m`` finds the same
# package whether it is installed or not, and nothing in the folder of whoever started it.
_HOME = Path(__file__).resolve().parents[2]
# Bytes of settings that fit a pipe before anybody reads it, on every system.
_PIPE_SIZE = 64 << 10


def _settings_pipe(order: Order) -> int:
    """Return the reading end of a pipe that holds the order."""
    # Not msgspec's own JSON: a path may hold bytes that are no text, which Python carries as half pairs.
    data = json.dumps(msgspec.to_builtins(order)).encode()
    if len(data) > _PIPE_SIZE:
        raise ConfigError(f"all settings together take {len(data)} bytes, allowed: {_PIPE_SIZE}")
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    os.set_inheritable(reader, True)
    return reader


def _command(config: Config, settings: int, outcome: int) -> list[str]:
    # The name is there for people who read a list of processes.
    return [sys.executable, "-m", "mpchat.supervisor", config.name, str(settings), str(outcome)]


def in_foreground(config: Config, sources: Sources) -> NoReturn:
    """Become the server. Ctrl-C waits until the server can end in order: see :func:`take_interrupts`."""
    settings = _settings_pipe(Order(config, sources))
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    sys.stdout.flush()
    os.chdir(_HOME)
    os.execv(sys.executable, _command(config, settings, -1))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C for the end of the block: a child that is just being started would be left alone."""
    held: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if held:
        raise KeyboardInterrupt


def in_background(config: Config, sources: Sources) -> dict[str, Any]:
    """Start the server in a session of its own; returns its facts once every worker can serve.

    Raises :class:`StartError` or :class:`AlreadyRunningError`; then nothing is left running. Ctrl-C while it
    starts ends it again.
    """
    settings = _settings_pipe(Order(config, sources))
    reader, writer = os.pipe()
    server: subprocess.Popen[bytes] | None = None
    try:
        with _interrupts_held():
            server = subprocess.Popen(
                _command(config, settings, writer),
                cwd=_HOME,
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
    outcome = msgspec.json.decode(line, type=Outcome) if line else _silent(config, server)
    if outcome.exit:
        server.wait()
        error = AlreadyRunningError if outcome.exit == AlreadyRunningError.exit_code else StartError
        raise error(outcome.text)
    server.returncode = 0  # it lives on; this process does not wait for it
    return outcome.facts


def _silent(config: Config, server: "subprocess.Popen[bytes]") -> Outcome:
    code = server.wait()
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    text = f"the server ended before it could serve ({how}); see {config.log_file}"
    return Outcome(exit=StartError.exit_code, text=text)
