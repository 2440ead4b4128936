"""Flush: one blob on its way to all clients that are caught up. The hottest code of a worker.

Each step is one system call for one client. A flush goes in slices, and the loop looks at the other
descriptors in between. What goes wrong with one client is handed back; nothing here waits for any of them.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice, repeat
from typing import NamedTuple

from mpchat.worker.connection import Connection
from mpchat.worker.shared_pages import Pages, worth_sharing

# Unbound methods: a bound method of each socket would be one more object for each client.
_SEND, _FILENO = socket.socket.send, socket.socket.fileno
# Stands for how much of a blob a client took when sending failed.
FAILED = -1


class Slice(NamedTuple):
    """What became of a blob at some of its receivers."""

    # How many receivers were tried, and how many took all of it.
    tried: int
    whole: int
    # The others, and how many bytes each of them took.
    partly: list[tuple[Connection, int]]


class Flush:
    """A blob, its receivers, and how many of them have been tried."""

    __slots__ = ("_pages", "_steps", "_tried", "blob", "failed", "messages", "receivers")

    def __init__(
        self, blob: bytes, messages: int, receivers: list[Connection], socks: list[socket.socket]
    ) -> None:
        """Begin to send ``blob``, which is ``messages`` frames; ``socks`` are those of ``receivers``."""
        self.blob = blob
        self.messages = messages
        self.receivers = receivers
        # Receivers that sending has failed for, with the error, since the last look.
        self.failed: list[tuple[Connection, OSError]] = []
        self._tried = 0
        self._pages: Pages | None = None
        self._steps = self._sends(socks)

    def _sends(self, socks: list[socket.socket]) -> Iterator[int]:
        """Return what sends the blob to the next receiver at each step."""
        size = len(self.blob)
        if worth_sharing(size, len(socks)):
            with suppress(OSError, AttributeError):
                self._pages = Pages(self.blob)
                pages = repeat(self._pages.descriptor)
                return map(os.sendfile, map(_FILENO, socks), pages, repeat(0), repeat(size))
        return map(_SEND, socks, repeat(self.blob))

    def send(self, most: int) -> Slice:
        """Send the blob to the next ``most`` receivers, or to as many as are left."""
        size, first = len(self.blob), self._tried
        sent = self._send_to_next(most)
        whole = sent.count(size)
        if whole == len(sent):
            return Slice(whole, whole, [])
        receivers = islice(self.receivers, first, self._tried)
        partly = [
            (connection, each)
            for connection, each in zip(receivers, sent, strict=True)
            if each not in (size, FAILED)
        ]
        return Slice(len(sent), whole, partly)

    def _send_to_next(self, most: int) -> list[int]:
        """Send to the next ``most`` receivers; returns how much the system took for each.

        One call for all that goes well: a loop here would touch three objects for each client, none of them
        in the processor's cache, and that costs more than what it does.
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
