"""Named clients over real sockets: what they ask for, and everything that they have been sent."""

import json
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from support.harness import Client, raw_frame

Object = dict[str, Any]
# Seconds that the server has to end a connection whose client has left; one that is stopped does not.
LEAVING = 1.0


class Member(Client):
    """A client that has joined, or is about to. ``got`` is every object that it has been sent."""

    def __init__(self, address: tuple[str, int], **more: Any) -> None:
        super().__init__(address, **more)
        self.got: list[Object] = []
        self.welcome: Object = {}

    def close(self) -> None:
        """Leave in order. Closed with something unread, the connection would be reset, and its name held."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)
            self.sock.settimeout(LEAVING)
            while self.sock.recv(1 << 16):
                pass
        super().close()

    def ask(self, **request: Any) -> None:
        self.send_raw(raw_frame(json.dumps(request, ensure_ascii=False).encode()))

    def take(self) -> Object:
        """Return the next object; the end of the stream fails."""
        received = self.receive()
        assert received is not None, f"the connection ended after {self.got[-3:]}"
        self.got.append(received)
        return received

    def until(self, key: str) -> Object:
        """Return the value of the next object that has ``key``."""
        while key not in (received := self.take()):
            pass
        value: Object = received[key]
        return value

    def join(self, name: str | None = None, **more: Any) -> Object:
        """Join and return the welcome; a refusal fails."""
        self.ask(join={**({"name": name} if name is not None else {}), **more})
        while True:
            received = self.take()
            assert "error" not in received, received
            if "welcome" in received:
                self.welcome = received["welcome"]
                return self.welcome

    def refused(self, **request: Any) -> str:
        """Ask for what will be refused; returns the error's code."""
        self.ask(**request)
        return str(self.until("error")["code"])

    def sync(self) -> None:
        """Get everything that is in the order by now: a message to oneself comes after it."""
        mark = f"sync {len(self.got)}"
        self.ask(message=mark, to=self.welcome["name"])
        while self.take().get("message") != mark:
            pass

    def until_all_have_come(self, wanted: Sequence[str]) -> None:
        """Wait for the notices about those who came after this one; they are gathered for a moment."""
        later = wanted[wanted.index(self.welcome["name"]) + 1 :]
        while not set(later) <= {
            name for each in self.got if "joined" in each for name in each["joined"]["names"]
        }:
            self.take()

    def hear_from_room(self, text: str) -> Object:
        """Return the message of this text, whatever comes before it."""
        while (received := self.take()).get("message") != text:
            pass
        return received

    @property
    def numbered(self) -> list[Object]:
        """The room messages that it got, in the order of their coming."""
        return [each for each in self.got if "seq" in each]


def names(members: Sequence[Member]) -> list[str]:
    return [each.welcome["name"] for each in members]


@contextmanager
def members(address: tuple[str, int], *wanted: str, room: str = "lobby") -> Iterator[list[Member]]:
    """Members of one room, who have seen each other come."""
    with ExitStack() as stack:
        joined = []
        for name in wanted:
            joined.append(stack.enter_context(Member(address)))
            joined[-1].join(name, room=room)
        for each in joined:
            each.until_all_have_come(wanted)
            each.sync()
        yield joined
