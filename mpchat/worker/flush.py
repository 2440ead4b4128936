"""Flush: one blob on its way to all clients that are caught up. The hottest code of a worker.

Each step is one system call for one client. A flush goes in slices, and the loop looks at the other
descriptors in between. What goes wrong with one client is handed back; nothing here waits for any of them.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, repeat

from mpchat.worker.connection import Connection
from mpchat.worker.shared_pages import Pages

# Unbound methods: a bound method of each socket would be one more object for each client.
_SEND, _FILENO = socket.socket.send, socket.socket.fileno
# A blob of so many bytes and more, for so many clients and more, is put into pages that all their sockets
# share: a copy for each costs 0.23 ns a byte, to refer to pages half. Below that it saves nothing.
SHARED_SIZE = 32 << 10
SHARED_BY = 8
# Stands for how much of a blob a client took when sending failed.
FAILED = -1


class Flush:
    """A blob, its receivers, and how many of them have been tried."""

    __slots__ = ("_pages", "_steps", "_tried", "failed", "messages", "receivers", "size")

    def __init__(
        self, blob: bytes, messages: int, receivers: list[Connection], socks: list[socket.socket]
    ) -> None:
        """Begin to send ``blob``, which is ``messages`` frames; ``socks`` are those of ``receivers``."""
        self.size = len(blob)
        self.messages = messages
        self.receivers = receivers
        # Receivers that sending has failed for, with the error, since the last look.
        self.failed: list[tuple[Connection, OSError]] = []
        self._tried = 0
        self._pages: Pages | None = None
        self._steps: Iterator[int] = map(_SEND, socks, repeat(blob))
        if self.size >= SHARED_SIZE and len(socks) >= SHARED_BY:
            with suppress(OSError, AttributeError):
                self._share(blob, socks)

    def _share(self, blob: bytes, socks: list[socket.socket]) -> None:
        """Let all sockets send from the same pages."""
        self._pages = Pages(blob)
        pages = repeat(self._pages.descriptor)
        self._steps = map(os.sendfile, map(_FILENO, socks), pages, repeat(0), repeat(self.size))

    def send(self, most: int) -> list[int]:
        """Send the blob to the next ``most`` receivers, or to as many as are left.

        Returns how many bytes the system took for each. One call for all that goes well: a loop here would
        touch three objects for each client, none of them in the processor's cache, and that costs more than
        what it does.
        """
        sent: list[int] = []
        while True:
            try:
                sent.extend(islice(self._steps, most - len(sent)))
            except BlockingIOError:
                sent.append(0)
            except OSError as error:
                self.failed.append((self.receivers[self._tried + len(sent)], error))
                sent.append(FAILED)
            else:
                self._tried += len(sent)
                return sent

    def taken_in_part(self, sent: list[int]) -> Iterator[tuple[Connection, int]]:
        """Yield the receivers that could not take all of the blob, of those that ``sent`` is about: the last
        ones that were tried."""
        receivers = islice(self.receivers, self._tried - len(sent), self._tried)
        for connection, each in zip(receivers, sent, strict=True):
            if each not in (self.size, FAILED):
                yield connection, each
