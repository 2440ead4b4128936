"""A terminal for a server in the foreground: a real pseudo-terminal that the server's session belongs to."""

import os
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from support.harness import MPCHAT, Server

# Gets a terminal's path. Begins a session there, and becomes the command; or, as a shell does with "&", runs
# the command in a process group of its own and waits for its end. The command may have SIGHUP ignored.
_SESSION = """
import os, signal, subprocess, sys
terminal, how, command = sys.argv[1], sys.argv[2], sys.argv[3:]
os.setsid()
descriptor = os.open(terminal, os.O_RDWR)
for number in range(3):
    os.dup2(descriptor, number)
os.close(descriptor)
signal.signal(signal.SIGHUP, signal.SIG_IGN if how == "nohup" else signal.SIG_DFL)
if how == "background":
    sys.exit(subprocess.run(command, process_group=0).returncode)
os.execv(command[0], command)
"""


class Terminal:
    """The side of a terminal on which the user sits."""

    def __init__(self) -> None:
        self._user, self._programs = os.openpty()
        self.path = os.ttyname(self._programs)
        self._shown = bytearray()

    def stop_background_output(self) -> None:
        """Do what ``stty tostop`` does."""
        attributes = termios.tcgetattr(self._programs)
        attributes[3] |= termios.TOSTOP
        termios.tcsetattr(self._programs, termios.TCSANOW, attributes)

    def stop_output(self) -> None:
        """Do what Ctrl-S does: writes to the terminal wait."""
        termios.tcflow(self._programs, termios.TCOOFF)

    def type(self, line: str) -> None:
        """Type a line and press Enter; a byte that is no text is a surrogate, as of ``os.fsdecode``."""
        os.write(self._user, f"{line}\n".encode(errors="surrogateescape"))

    @property
    def text(self) -> str:
        """Read what was written so far, and return all of it."""
        os.set_blocking(self._user, False)
        with suppress(BlockingIOError):
            while data := os.read(self._user, 65536):
                self._shown += data
        return self._shown.decode()

    def close(self) -> None:
        """Close the terminal as a user closes a window."""
        for descriptor in (self._user, self._programs):
            if descriptor >= 0:
                os.close(descriptor)
        self._user = self._programs = -1


def session_command(terminal: Terminal, how: str, *command: str) -> list[str]:
    """Return the command that runs another one in a session with a terminal; ``how``: as below."""
    return [sys.executable, "-c", _SESSION, terminal.path, how, *command]


@contextmanager
def in_terminal(
    server: Server, how: str, *flags: str
) -> Iterator[tuple[Terminal, "subprocess.Popen[bytes]"]]:
    """Start a server in the foreground of a session with a terminal.

    ``how``: ``leader`` (the server is the session's first process), ``nohup``
    (the same, with SIGHUP ignored), ``background`` (the server is a job of the session's first process).
    """
    terminal = Terminal()
    command = [*MPCHAT, "start", "--foreground", "--port", "0", "--workers", "1", *flags]
    process = subprocess.Popen(
        session_command(terminal, how, *command),
        env=server.environment,
        cwd=server.folder,
    )
    try:
        yield terminal, process
    finally:
        terminal.close()
        server.end()
        process.kill()
        process.wait()
