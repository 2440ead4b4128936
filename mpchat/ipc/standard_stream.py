"""Standard stream: writes text to standard output or standard error and never blocks the caller.

The stream may be a pipe that nobody reads, a terminal that was stopped with Ctrl-S, or a file on a disk that
hangs. So a thread writes, and the text that waits for the thread is bounded. Text past the bound is dropped
and counted, and so is text that a full disk does not take.

Text keeps its order. A line with the count stands where text is missing.
"""

import errno
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import groupby
from queue import SimpleQueue
from typing import NamedTuple

# Pieces of text (mostly lines) that wait for the thread; with the longest piece, in characters, 16 MiB.
WAITING = 1000
LONGEST = 16 << 10

# Returns the line that says how many lines were dropped.
Note = Callable[[int], str]
# Gets the error for which a file was not opened, or None.
OnOpened = Callable[[OSError | None], None]


class StandardStream(io.TextIOBase):
    """A standard stream, as ``sys.stdout`` or ``sys.stderr`` can be one."""

    def __init__(self, descriptor: int, note: Note) -> None:
        """Write to ``descriptor``, in the encoding that Python has found for standard error."""
        self._descriptor = descriptor
        self._note = note
        self._encoding = getattr(sys.__stderr__, "encoding", None) or "utf-8"
        # There is none before the first text. And the one before a call of renew().
        self._serving: _Writer | None = None
        self._before: _Writer | None = None
        # Lines for which no thread could be begun; lines that were dropped by threads before this one.
        self._dropped = 0
        self._dropped_before = 0

    @property
    def dropped(self) -> int:
        """How many lines were dropped so far. It never goes back."""
        writer = self._serving or self._before
        return self._dropped_before + self._dropped + (writer.dropped if writer is not None else 0)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Have the thread write a text, or drop it."""
        if self._serving is None:
            with suppress(OSError, RuntimeError):
                self._begin()
        if self._serving is not None:
            self._serving.put(text)
        else:
            self._dropped += _lines(text)
        return len(text)

    def renew(self) -> None:
        """Follow the descriptor after it was pointed at another file.

        Text that still waits is written to the file before, by a thread that ends afterwards.
        """
        if self._serving is not None:
            self._before, self._serving = self._serving, None
            self._before.end()

    def reopen(self, path: str, on_opened: OnOpened) -> None:
        """Have the thread open ``path`` and point the descriptor at it; text of from now on goes there.

        ``on_opened`` is called in the thread. If the file cannot be opened, text goes where it went before.
        Raise ``OSError`` if no descriptor or no thread is free.
        """
        if self._serving is None or self._serving.opening != path:
            self._begin(path, on_opened)

    def drain(self, timeout: float) -> None:
        """Wait until all text is written, at most ``timeout`` seconds; call it before the process ends."""
        if self._serving is not None:
            self._serving.drain(timeout)
        elif self._before is not None:
            self._before.join(timeout)

    def _begin(self, path: str = "", on_opened: OnOpened | None = None) -> None:
        """Begin a thread, and end the one before."""
        writer = _Writer(self._descriptor, self._note, self._encoding, path, on_opened)
        serving, self._serving = self._serving, writer
        before = serving or self._before
        try:
            writer.start(before, self._dropped)
        except RuntimeError as error:
            self._serving = serving
            raise OSError(errno.EAGAIN, str(error)) from None
        self._dropped_before += before.dropped if before is not None else 0
        self._before, self._dropped = None, 0
        if serving is not None:
            serving.end()


class _Piece(NamedTuple):
    """Text for the thread; ``missing`` is how many lines had been dropped when it was put."""

    missing: int
    text: str = ""
    # Set when it is written.
    written: threading.Event | None = None
    # The thread is to end.
    last: bool = False


class _Writer:
    """A thread that writes to a descriptor of its own until :meth:`end`."""

    def __init__(
        self, descriptor: int, note: Note, encoding: str, path: str, on_opened: OnOpened | None
    ) -> None:
        """Write to what ``descriptor`` is now, or to ``path``. Raise ``OSError`` if no descriptor is free."""
        self.opening = path
        self._on_opened = on_opened
        self._target = descriptor
        # A copy: the thread goes on to write to this file after the descriptor was pointed at another one.
        self._descriptor = os.dup(descriptor)
        self._note = note
        self._encoding = encoding
        self._before: _Writer | None = None
        # Written by callers alone: lines that found no room. And by the thread alone: lines that the
        # descriptor did not take, how many of both the reader was told of, and the pieces being written.
        self._refused = 0
        self._lost = self._told = 0
        # Lines that this thread's own pieces have lost.
        self._lost_here = 0
        self._in_hand = 0
        # True after a line of which the descriptor took the beginning alone: the next one begins a new line.
        self._broken = False
        # Not a bounded queue with a lock: a signal handler may log while the same thread is putting.
        self._pieces: SimpleQueue[_Piece] = SimpleQueue()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)

    @property
    def dropped(self) -> int:
        """How many lines this one has dropped."""
        return self._refused + self._lost_here

    def start(self, before: "_Writer | None", dropped: int) -> None:
        """Begin, after a writer ``before`` this one; ``dropped`` lines are missing already.

        Raise ``RuntimeError`` if there is no room for a thread.
        """
        self._before = before
        self._refused += dropped
        try:
            self._thread.start()
        except RuntimeError:
            os.close(self._descriptor)
            raise

    def put(self, text: str) -> None:
        """Have a text written; drop it if too much waits."""
        if self._pieces.qsize() + self._in_hand >= WAITING:
            self._refused += _lines(text)
        else:
            cut = text if len(text) <= LONGEST else f"{text[:LONGEST]} [cut]\n"
            self._pieces.put(_Piece(self._refused, cut))

    def drain(self, timeout: float) -> None:
        """Wait until all that was put is written, and what was put to the writer before this one."""
        deadline = time.monotonic() + timeout
        before, written = self._before, threading.Event()
        self._pieces.put(_Piece(self._refused, written=written))
        written.wait(timeout)
        if before is not None:
            before.join(max(0.0, deadline - time.monotonic()))

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended, at most ``timeout`` seconds."""
        self._thread.join(timeout)

    def end(self) -> None:
        """Write what waits, and end; does not wait for that."""
        self._ends = True
        self._pieces.put(_Piece(self._refused, last=True))

    def _run(self) -> None:
        # A terminal set to "tostop" would answer each write of a background process with SIGTTOU, for ever.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        if self.opening:
            self._open()
        self._follow_before()
        ended = False
        while not ended:
            pieces = self._take()
            for missing, group in groupby(pieces, lambda each: each.missing):
                self._write(missing, "".join(each.text for each in group))
            for each in pieces:
                if each.written is not None:
                    each.written.set()
            ended = any(each.last for each in pieces)
        os.close(self._descriptor)

    def _open(self) -> None:
        error = None
        try:
            descriptor = open_file(self.opening)
            os.dup2(descriptor, self._descriptor, inheritable=False)
            if not self._ends:
                os.dup2(descriptor, self._target)
            os.close(descriptor)
        except OSError as raised:
            error = raised
        self.opening = ""
        if self._on_opened is not None:
            self._on_opened(error)

    def _follow_before(self) -> None:
        """Wait for the writer before this one if it writes to the same file: lines keep their order.

        What its file is does not depend on how far its thread has come, unless it still opens another one.
        """
        before = self._before
        if before is not None and not before.opening and _are_one(before._descriptor, self._descriptor):
            before.join()

    def _take(self) -> list[_Piece]:
        """Return all pieces that wait, at least one: a thread that took each alone would fall behind."""
        self._in_hand = 0
        if self._pieces.empty():
            self._write(self._refused, "")  # what was dropped is told without waiting for the next line
        pieces = [self._pieces.get()]
        while not self._pieces.empty():
            pieces.append(self._pieces.get())
        self._in_hand = len(pieces)
        return pieces

    def _write(self, refused: int, text: str) -> None:
        self._inherit()
        missing = refused + self._lost - self._told
        note = (self._note(missing) if missing else "").encode(self._encoding, "backslashreplace")
        data = text.encode(self._encoding, "backslashreplace")
        whole = (b"\n" if self._broken else b"") + note + data
        left = _write(self._descriptor, whole)
        if len(left) < len(whole):
            self._broken = bool(left) and not whole.endswith(b"\n", 0, len(whole) - len(left))
        if len(left) <= len(data):
            self._told += missing
            lost = left.count(b"\n")
        else:
            lost = data.count(b"\n")
        self._lost += lost
        self._lost_here += lost

    def _inherit(self) -> None:
        """Tell what the writer before this one could not tell any more."""
        before = self._before
        if before is not None and not before._thread.is_alive():
            self._lost += before._refused + before._lost - before._told
            self._before = None


def _are_one(one: int, other: int) -> bool:
    """Tell whether two descriptors are of one file. Asks the disk."""
    with suppress(OSError):  # the writer before has ended
        return os.path.sameopenfile(one, other)
    return False


def open_file(path: str) -> int:
    """Return a descriptor that appends to a file. Raise ``OSError``."""
    # Not blocking while it opens: a FIFO that nobody reads is an error, not something to wait for.
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o600)
    os.set_blocking(descriptor, True)
    return descriptor


def is_file(descriptor: int) -> bool:
    """Tell whether a descriptor is a plain file, which takes text without waiting for a reader.

    The disk is not asked.
    """
    try:
        os.lseek(descriptor, 0, os.SEEK_CUR)
    except OSError:
        return False
    return not os.isatty(descriptor)


def _lines(text: str) -> int:
    return text.count("\n")


def _write(descriptor: int, data: bytes) -> bytes:
    """Write all of it, as long as that takes; return what cannot be written.

    Whole lines together: other processes write to the same pipe, and the system takes up to ``PIPE_BUF``
    bytes at once or none of them.
    """
    most = len(data) if is_file(descriptor) else select.PIPE_BUF
    view, begin = memoryview(data), 0
    while begin < len(data):
        try:
            begin += os.write(descriptor, view[begin : _end_of_lines(data, begin, begin + most)])
        except BlockingIOError:  # another program has made it non-blocking
            poll = select.poll()
            poll.register(descriptor, select.POLLOUT)
            poll.poll()
        except OSError:
            break
    return data[begin:]


def _end_of_lines(data: bytes, begin: int, most: int) -> int:
    """Return where the last line ends before ``most``; of a longer line, or of all of it, the end."""
    if len(data) <= most:
        return len(data)
    return data.rfind(b"\n", begin, most) + 1 or data.find(b"\n", most) + 1 or len(data)
