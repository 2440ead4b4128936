"""Every error that mpchat raises on purpose, as one tree.

Two questions place an error: whose fault is it, and does the connection (or the process) survive it?

::

    MpchatError                    exit code 1
    ├── ConfigError                2  the user's fault: a setting; nothing was changed
    ├── NotRunningError            3  no server of that name runs on this machine
    ├── AlreadyRunningError        4  a server of that name serves or is starting
    ├── StartError                 5  the server did not start or reload; no process is left
    ├── AwayError                  1  the log of the hosts cannot be reached now
    ├── TimedOutError              6  a deadline passed; the awaited work goes on
    ├── ProtocolError              the peer's fault: its frame is rejected, the connection survives
    ├── ConnectError               no server answers at that address
    ├── ConnectionLostError        the connection is gone, with everything not yet answered
    └── RefusedError               the server rejected a request: ``code`` for programs, ``text`` for people

Exit codes are part of the command line's contract and never change their meaning.
"""

from collections.abc import Mapping
from enum import IntEnum


class Exit(IntEnum):
    """A command's exit code; :data:`EXIT_MEANINGS` says what each means."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    ALREADY_RUNNING = 4
    NOT_STARTED = 5
    TIMED_OUT = 6


EXIT_MEANINGS: Mapping[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILED: "failed; the line on standard error says why",
    Exit.USAGE: "wrong usage, or a wrong setting",
    Exit.NOT_RUNNING: "not running",
    Exit.ALREADY_RUNNING: "already running",
    Exit.NOT_STARTED: (
        "did not start (a taken port, a missing right, workers that die) "
        "or did not reload (a wrong setting: nothing was changed)"
    ),
    Exit.TIMED_OUT: "timed out",
}


class MpchatError(Exception):
    """Base of all errors of mpchat; ``str()`` of it is one line that a user can act on."""

    exit_code = Exit.FAILED


class ConfigError(MpchatError):
    """A setting is unknown, malformed or out of range; the text names its place and what is allowed."""

    exit_code = Exit.USAGE


class NotRunningError(MpchatError):
    """No running server has this instance name."""

    exit_code = Exit.NOT_RUNNING


class AlreadyRunningError(MpchatError):
    """A server with this instance name holds the lock."""

    exit_code = Exit.ALREADY_RUNNING


class StartError(MpchatError):
    """The server could not start: a taken port, a missing right, a worker that dies."""

    exit_code = Exit.NOT_STARTED


class AwayError(MpchatError):
    """The log of the hosts cannot be reached now, so nothing was done; try again."""


class TimedOutError(MpchatError):
    """A deadline passed before the answer came."""

    exit_code = Exit.TIMED_OUT


class ProtocolError(MpchatError):
    """A frame that is not a message. The peer gets ``code`` and ``text``; its connection survives."""

    def __init__(self, code: str, text: str, proofs: tuple[str, ...] = ()) -> None:
        """Keep ``code``, which programs compare, and ``text``, one line for people.

        ``proofs`` are the kinds of proof that a server takes, with the code ``auth_required``.
        """
        super().__init__(text)
        self.code = code
        self.text = text
        self.proofs = proofs


class ConnectError(MpchatError):
    """No connection could be made; the text names the address, the cause and the next step."""


class ConnectionLostError(MpchatError):
    """The connection ended before the request was done."""


class RefusedError(MpchatError):
    """The server answered ``{"error": …}``: ``code`` is stable, ``text`` is for people.

    ``times`` is how many rejected messages or requests it stands for. ``proofs`` are the kinds of proof that
    the server takes (``password``, ``jwt``, ``secret``), with the code ``auth_required``.
    """

    def __init__(self, code: str, text: str, times: int = 1, proofs: tuple[str, ...] = ()) -> None:
        """Keep all; ``str()`` of the error shows all but ``proofs``."""
        super().__init__(f"{text} ({code}{f', {times} times' if times > 1 else ''})")
        self.code = code
        self.text = text
        self.times = times
        self.proofs = proofs
