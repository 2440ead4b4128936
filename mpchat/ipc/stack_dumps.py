"""Stack dumps: the stacks of a process's threads, written to the log on SIGUSR2, also when the loop hangs."""

import faulthandler
import os
import select
import signal
import threading
from collections.abc import Callable

# Bytes of a dump, at most: what a pipe takes.
_DUMP = 64 << 10
# Milliseconds without more after which a dump is whole: it is written line by line, without a pause.
_PAUSE = 50


class Dumps:
    """Writes stacks on SIGUSR2: straight into the log where it takes them, else through a pipe of its own.

    Another pipe or a terminal may take nothing, and the signal's handler would wait for it. A log of JSON
    takes no plain text. The own pipe never makes the handler wait: it takes 64 KiB, and a dump past that is
    cut. A thread passes the stacks on to the log. It needs the interpreter's lock: while native code holds
    that, only a plain file gets stacks. Such a dump has the loop's thread alone.
    """

    def __init__(self, write: Callable[[str], object], *, chain: bool) -> None:
        """``write`` takes a dump for the log. With ``chain`` the handler of before is called too."""
        self._write = write
        self._chain = chain
        self._pipe: int | None = None

    def follow(self, *, straight: bool) -> None:
        """Choose anew where stacks go: ``straight`` into standard error, or through the pipe."""
        file = 2
        if not straight:
            if self._pipe is None:
                self._pipe = self._open_pipe()
            # A dump that may have to wait is better than none.
            file = 2 if self._pipe is None else self._pipe
        # The threads that pass a dump on run while it is made: to walk their frames then may crash.
        faulthandler.register(signal.SIGUSR2, file=file, all_threads=file == 2, chain=self._chain)

    def _open_pipe(self) -> int | None:
        """Return the end of a pipe that takes text for the log, and drops text when the pipe is full.

        Return None if no descriptor or no thread is free.
        """
        try:
            reader, writer = os.pipe()
        except OSError:
            return None
        os.set_blocking(writer, False)
        try:
            threading.Thread(target=self._copy, args=(reader,), name="stacks", daemon=True).start()
        except RuntimeError:
            os.close(reader)
            os.close(writer)
            return None
        return writer

    def _copy(self, reader: int) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        while True:
            dump = os.read(reader, _DUMP)
            while len(dump) < _DUMP and poll.poll(_PAUSE):
                dump += os.read(reader, _DUMP)
            self._write(dump.decode("ascii", errors="backslashreplace"))
