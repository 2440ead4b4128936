"""Terminal screen: the whole terminal for a program that draws again and again, and the pressed keys.

It leaves the terminal as it was at the end, at a stop (Ctrl-Z), and at SIGTERM. Keys are read only where
standard input is the same terminal and this program is in its foreground.
"""

import os
import select
import signal
import sys
import termios
import tty
from contextlib import ExitStack, suppress
from types import FrameType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.control import Control
from rich.screen import Screen

# Bytes that are read at a time: a person's keys, or a paste whose rest is read next.
READ_SIZE = 1024


class TerminalScreen:
    """Use as a context manager, in the main thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stack = ExitStack()
        # The terminal's modes before; None while they are not changed.
        self._modes: list[Any] | None = None
        self.has_keys = _may_read_keys()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            reading, writing = os.pipe()
            for descriptor in (reading, writing):
                stack.callback(os.close, descriptor)
                os.set_blocking(descriptor, False)
            # A signal ends the wait for keys.
            self._woken = reading
            before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
            stack.callback(signal.set_wakeup_fd, before)
            for number, handler in (
                (signal.SIGWINCH, _ignore),
                (signal.SIGTSTP, self._on_stop),
                (signal.SIGTERM, self._on_end),
            ):
                stack.callback(signal.signal, number, signal.signal(number, handler))
            stack.callback(self._give_back)
            self._take()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def draw(self, picture: RenderableType) -> None:
        """Draw a picture over the one before; what does not fit is not shown."""
        with self._console:  # written at once
            self._console.control(Control.home())
            self._console.print(Screen(picture), end="")

    def wait(self, seconds: float) -> str:
        """Return the key that is pressed within so many seconds, or nothing; a resize ends the wait."""
        watched = [self._woken, *([sys.stdin.fileno()] if self.has_keys else [])]
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if self._woken in ready:
            with suppress(BlockingIOError):
                os.read(self._woken, READ_SIZE)
        if len(ready) == 0 or ready == [self._woken]:
            return ""
        data = os.read(sys.stdin.fileno(), READ_SIZE)
        if not data:  # its end: what it was has gone
            self.has_keys = False
        return data.decode(errors="replace")[:1]

    def _take(self) -> None:
        if self.has_keys:
            self._modes = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
        self._console.set_alt_screen(True)
        self._console.show_cursor(False)

    def _give_back(self) -> None:
        self._console.show_cursor(True)
        self._console.set_alt_screen(False)
        if self._modes is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._modes)
            self._modes = None

    def _on_stop(self, number: int, frame: FrameType | None) -> None:
        """Stop as the user wants, and go on when the shell says so, perhaps in the background."""
        self._give_back()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        signal.signal(number, self._on_stop)
        self.has_keys = _may_read_keys()
        self._take()

    def _on_end(self, number: int, frame: FrameType | None) -> None:
        self._stack.close()
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Take a signal that only has to end a wait."""


def _may_read_keys() -> bool:
    try:
        return sys.stdin.isatty() and os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal of this session; closed
        return False
