"""Standard stream: writes text to standard output or standard error and never blocks the caller.

The stream may be a pipe that nobody reads, or a terminal that was stopped with Ctrl-S. Its descriptor cannot
be made non-blocking, because that would hold for every program that shares it. So a thread writes, and the
text that waits for the thread is bounded. Text past the bound is dropped and counted. A plain file is written
directly; text that a full disk does not take is counted in the same way.

Text keeps its order. A line with the count stands where text is missing.
"""

import io
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import NamedTuple

# Pieces of text (mostly lines) that wait for the thread; with the longest piece, in characters, 16 MiB.
WAITING = 1000
LONGEST = 16 << 10

# Returns the line that says how many lines were dropped.
Note = Callable[[int], str]


class StandardStream(io.TextIOBase):
    """A standard stream, as ``sys.stdout`` or ``sys.stderr`` can be one."""

    def __init__(self, descriptor: int, note: Note) -> None:
        """Write to ``descriptor``, in the encoding that Python has found for standard error."""
        self._descriptor = descriptor
        self._note = note
        self._encoding = getattr(sys.__stderr__, "encoding", None) or "utf-8"
        self._thread: _Writer | None = None
        # Lines that a plain file did not take.
        self._dropped = 0

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write a text, or have the thread write it, or drop it."""
        if self._thread is None and is_file(self._descriptor):
            self._write_file(text)
        elif writer := self._thread or self._begin_thread():
            writer.put(text)
        else:
            self._dropped += _lines(text)
        return len(text)

    def renew(self) -> None:
        """Follow the descriptor after it was pointed at another file.

        Text that still waits is written to the file before, by a thread that ends afterwards.
        """
        if self._thread is not None:
            self._thread.end()
            self._thread = None

    def drain(self, timeout: float) -> None:
        """Wait until all text is written, at most ``timeout`` seconds; call it before the process ends."""
        if self._thread is not None:
            self._thread.drain(timeout)

    def _write_file(self, text: str) -> None:
        if self._dropped:
            text = self._note(self._dropped) + text
        if _write(self._descriptor, text.encode(self._encoding, "backslashreplace")):
            self._dropped = 0
        else:
            self._dropped += _lines(text) - bool(self._dropped)

    def _begin_thread(self) -> "_Writer | None":
        try:
            descriptor = os.dup(self._descriptor)
        except OSError:  # it is closed, or no descriptor is free
            return None
        try:
            self._thread = _Writer(descriptor, self._note, self._encoding)
        except RuntimeError:  # no room for a thread
            os.close(descriptor)
        return self._thread


class _Piece(NamedTuple):
    """Text for the thread; ``missing`` is how many lines had been dropped when it was put."""

    missing: int
    text: str
    # Set when it is written.
    written: threading.Event | None = None


class _Writer:
    """A thread that writes to a descriptor of its own until :meth:`end`."""

    def __init__(self, descriptor: int, note: Note, encoding: str) -> None:
        """Take possession of ``descriptor``. Raise ``RuntimeError`` if there is no room for a thread."""
        self._descriptor = descriptor
        self._note = note
        self._encoding = encoding
        # Written by callers alone: lines that found no room. And by the thread alone: lines that the
        # descriptor did not take, and how many of both the reader was told of.
        self._refused = 0
        self._lost = self._told = 0
        # Not a bounded queue with a lock: a signal handler may log while the same thread is putting.
        self._pieces: SimpleQueue[_Piece | None] = SimpleQueue()
        threading.Thread(target=self._run, name="log", daemon=True).start()

    def put(self, text: str) -> None:
        """Have a text written; drop it if too much waits."""
        if self._pieces.qsize() >= WAITING:
            self._refused += _lines(text)
        else:
            cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} [cut]\n"
            self._pieces.put(_Piece(self._refused, cut))

    def drain(self, timeout: float) -> None:
        """Wait until all that was put is written."""
        written = threading.Event()
        self._pieces.put(_Piece(self._refused, "", written))
        written.wait(timeout)

    def end(self) -> None:
        """Write what waits, and end; does not wait for that."""
        self._pieces.put(None)

    def _run(self) -> None:
        # A terminal set to "tostop" would answer each write of a background process with SIGTTOU, for ever.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (piece := self._next()) is not None:
            self._write(piece.missing, piece.text)
            if piece.written is not None:
                piece.written.set()
        os.close(self._descriptor)

    def _next(self) -> _Piece | None:
        try:
            return self._pieces.get_nowait()
        except Empty:
            self._write(self._refused, "")  # what was dropped is told without waiting for the next line
            return self._pieces.get()

    def _write(self, refused: int, text: str) -> None:
        missing = refused + self._lost - self._told
        if missing:
            text = self._note(missing) + text
        if not text:
            return
        if _write(self._descriptor, text.encode(self._encoding, "backslashreplace")):
            self._told += missing
        else:
            self._lost += _lines(text) - bool(missing)


def is_file(descriptor: int) -> bool:
    """Tell whether a descriptor is a plain file, which takes text without waiting for a reader."""
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    except OSError:
        return False


def _lines(text: str) -> int:
    return text.count("\n")


def _write(descriptor: int, data: bytes) -> bool:
    """Write all of it, as long as that takes; return False if it cannot be written."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # another program has made it non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            return False
    return True
