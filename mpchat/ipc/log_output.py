"""Output: what a process of the server has for ``sys.stderr``: each line that is printed gets the log's form.

Tracebacks that nobody expected, warnings and what a library prints come this way. Log lines do not.
"""

import io
import logging
from typing import cast

from mpchat.ipc.log_text import Format
from mpchat.ipc.standard_stream import LONGEST, StandardStream


class Output(io.TextIOBase):
    """Gathers whole lines, and hands them to the stream that the log has."""

    def __init__(self, stream: StandardStream, handler: logging.Handler) -> None:
        """The ``handler`` says how a line looks; its lock keeps lines of threads apart."""
        self.stream = stream
        self._handler = handler
        self._rest = ""

    def fileno(self) -> int:
        """Return the stream's descriptor."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, text: str) -> int:
        """Write the lines that are whole; the beginning of one waits for its end."""
        with self._handler.lock:  # type: ignore[union-attr]  # each handler has one
            *lines, self._rest = (self._rest + text).split("\n")
            if len(self._rest) > LONGEST:
                lines, self._rest = [*lines, self._rest], ""
            for each in lines:
                self._put(each)
        return len(text)

    def finish(self) -> None:
        """Write the beginning of a line too: its end will not come."""
        if self._rest:
            self.write("\n")

    def _put(self, line: str) -> None:
        self.stream.write(f"{cast('Format', self._handler.formatter).printed(line)}\n")
