"""Every error that mpchat raises on purpose, as one tree.

Two questions place an error: whose fault is it, and does the connection (or the process) survive?

::

    MpchatError                    exit code 1
    ├── ConfigError                2  the user's: a setting; nothing was changed
    ├── NotRunningError            3  no server of that name on this machine
    ├── AlreadyRunningError        4  a server of that name serves, or is about to
    ├── StartError                 5  the server did not start or reload; nothing is left behind
    ├── TimedOutError              6  a deadline passed; what was waited for goes on
    ├── ProtocolError              the peer's: what it sent is refused, the connection lives on
    ├── ConnectError               nobody answers at that address
    ├── ConnectionLostError        the connection is gone, and with it what was not yet answered
    └── RefusedError               the server said no: ``code`` for programs, ``text`` for people

Exit codes are part of the command line's contract and never change their meaning.
"""

from enum import IntEnum


class Exit(IntEnum):
    """What a command's exit code says; the README has the same table."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_RUNNING = 3
    ALREADY_RUNNING = 4
    NOT_STARTED = 5
    TIMED_OUT = 6


class MpchatError(Exception):
    """Base of all errors here; ``str()`` of it is one line that a user can act on."""

    exit_code = Exit.FAILED


class ConfigError(MpchatError):
    """A setting is unknown, malformed or out of range; names where it stands and what is allowed."""

    exit_code = Exit.USAGE


class NotRunningError(MpchatError):
    """There is no running server with this instance name."""

    exit_code = Exit.NOT_RUNNING


class AlreadyRunningError(MpchatError):
    """A server with this instance name holds the lock."""

    exit_code = Exit.ALREADY_RUNNING


class StartError(MpchatError):
    """The server could not start: a taken port, a missing right, a worker that dies."""

    exit_code = Exit.NOT_STARTED


class TimedOutError(MpchatError):
    """A deadline passed before the answer came."""

    exit_code = Exit.TIMED_OUT


class ProtocolError(MpchatError):
    """A frame that is not a message. The peer gets ``code`` and ``text``; its connection lives on."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text


class ConnectError(MpchatError):
    """No connection could be made; names the address, the cause and what to try."""


class ConnectionLostError(MpchatError):
    """The connection ended before what was asked for was done."""


class RefusedError(MpchatError):
    """The server answered ``{"error": …}``: ``code`` is stable, ``text`` is for people."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} ({code})")
        self.code = code
        self.text = text
