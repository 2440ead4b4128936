"""A simulated plain client: it has no name, speaks in the lobby, and hears the plain stream."""

import json
from collections.abc import Callable

from support.cluster_simulator.client import Truth
from support.cluster_simulator.worker import Connection


class PlainClient:
    """A client without a name, which comes again as another one."""

    def __init__(self, name: str, truth: Truth, fail: Callable[[str], None]) -> None:
        self.name = name
        self._truth, self._fail = truth, fail
        self.connection: Connection | None = None
        self.count = 0
        self.heard: list[str] = []

    def say(self) -> None:
        assert self.connection is not None
        self.count += 1
        self.connection.unread.append(f"{self.name}-{self.connection.address}-{self.count}")

    def lose(self, connection: Connection, reason: str) -> None:
        if connection is self.connection:
            self.connection = None
            self.heard.clear()

    def hear(self, connection: Connection, payload: bytes) -> None:
        if connection is not self.connection:
            return
        got = json.loads(payload)
        text = got.get("message", "")
        if text.startswith(" Disconnect") or not text:
            return
        text = text.rpartition(": ")[2]
        if text in self.heard and not self._truth.store_lost:
            self._fail(f"{self.name} hears {text} again")
        self.heard.append(text)
