"""Turns: whose bytes are decrypted next. Everybody's address gets a turn before any gets a second one.

A handshake costs up to a millisecond, a piece of the smallest records half of one. So what clients send has a
share of each round of the loop, and who sends much waits for others, not they for it.
"""

from collections import OrderedDict, deque

from mpchat.tls.client import Client


class Turns:
    """The clients whose bytes wait to be decrypted."""

    def __init__(self) -> None:
        """Begin with none."""
        self._lines = OrderedDict[str, deque[Client]]()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def add(self, client: Client) -> None:
        """Let a client wait for its turn, once."""
        if not client.in_line:
            client.in_line = True
            self._lines.setdefault(client.owner, deque()).append(client)

    def next(self) -> Client:
        """Return the client whose turn it is."""
        owner, line = self._lines.popitem(last=False)
        client = line.popleft()
        client.in_line = False
        if line:
            self._lines[owner] = line
        return client
