"""Controlling terminal: tells a SIGHUP for a closed terminal from a SIGHUP that asks for a reload.

A server in the foreground belongs to the terminal that it was started in, and ends with it. A server that was
started with SIGHUP ignored, as by ``nohup``, serves on.
"""

import errno
import os
import signal

# What opening the terminal fails with when a process has none, and when its terminal has just been closed.
_NONE = frozenset({errno.ENXIO, errno.EIO, errno.ENOENT})


class ControllingTerminal:
    """The terminal of this process. Make it before SIGHUP gets a handler."""

    def __init__(self) -> None:
        self._is_open = _is_there()
        # Whether this process is to end with its terminal.
        self.decides = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN

    def closed_now(self) -> bool:
        """Tell whether the terminal was closed since this was asked last; the kernel sends SIGHUP then."""
        before, self._is_open = self._is_open, self._is_open and _is_there()
        return before and not self._is_open


def _is_there() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno not in _NONE
    return True
