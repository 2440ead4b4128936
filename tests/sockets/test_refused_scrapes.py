"""Refused clients that ask for metrics: who gets them, what they do not hold up, and how they end."""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from support.waiting import PATIENCE

from mpchat.ipc.http_questions import Answer, Question
from mpchat.reactor import Reactor
from mpchat.supervisor.http_desk import Reply
from mpchat.supervisor.metrics import refused
from mpchat.supervisor.metrics.refused import MOST, RefusedScrapes
from mpchat.supervisor.refusals import BANNED, Refusal, Refusals

FULL = Refusal("the server is full")
ASK = b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: application/openmetrics-text\r\n\r\n"


class Door:
    """Refusals, a page that the test answers for, and clients."""

    def __init__(self, stack: ExitStack) -> None:
        self.reactor = Reactor()
        self.allowed, self.proxies = True, False
        self.asked: list[tuple[Question, Reply]] = []
        self.refusals = Refusals(self.reactor)
        self.scrapes = RefusedScrapes(self.reactor, self, lambda host: self.proxies)
        self.refusals.spare = self.scrapes.take
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._stack = stack

    def __call__(self, question: Question, reply: Reply) -> None:
        self.asked.append((question, reply))

    def is_for(self, host: str) -> bool:
        return self.allowed and host == "127.0.0.1"

    def refuse(self, begun: bytes = ASK, refusal: Refusal = FULL) -> socket.socket:
        """Return a client that was refused after it had said ``begun``."""
        client = self._stack.enter_context(socket.create_connection(self._listener.getsockname(), PATIENCE))
        ours, _ = self._listener.accept()
        self.refusals.refuse(ours, refusal, begun)
        return client

    def turn_until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, "waited for the loop"
            self.reactor.turn(0.01)

    def heard(self, client: socket.socket) -> bytes:
        """Return all that a client is sent, up to the end."""
        client.setblocking(False)
        found = bytearray()

        def ended() -> bool:
            try:
                while data := client.recv(1 << 16):
                    found.extend(data)
            except BlockingIOError:
                return False
            return True

        self.turn_until(ended)
        return bytes(found)


@pytest.fixture
def door() -> Iterator[Door]:
    with ExitStack() as stack:
        door = Door(stack)
        stack.callback(door.reactor.close)
        stack.callback(door.scrapes.close)
        stack.callback(door.refusals.close)
        yield door


def test_the_page_is_sent_whole_and_then_the_connection_ends(door: Door) -> None:
    client = door.refuse()
    ((question, reply),) = door.asked
    assert (question.host, question.method, question.path) == ("127.0.0.1", "GET", "/metrics")
    assert question.headers == {"accept": "application/openmetrics-text"}
    body = b"x" * (8 << 20)  # more than the socket takes at once
    reply(Answer(200, [("Content-Type", "a/b")], body))
    head, _, rest = door.heard(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nContent-Length: 8388608\r\n" in head
    assert b"\r\nConnection: close" in head
    assert rest == body


def test_head_gets_no_body(door: Door) -> None:
    client = door.refuse(ASK.replace(b"GET", b"HEAD"))
    door.asked[0][1](Answer(200, [], b"page"))
    assert door.heard(client).endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /metrics/x HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n" + b"a" * 9000,
        b"\0\x05hello",
    ],
)
def test_what_is_no_request_for_metrics_is_refused_as_ever(door: Door, begun: bytes) -> None:
    client = door.refuse(begun)
    assert b"the server is full" in door.heard(client)
    assert door.asked == []


def test_those_who_may_not_have_them_are_refused_as_ever(door: Door) -> None:
    door.allowed = False
    assert b"503" in door.heard(door.refuse())
    door.allowed, door.proxies = True, True
    assert b"503" in door.heard(door.refuse())
    door.proxies = False
    assert b"403" in door.heard(door.refuse(refusal=BANNED))
    assert door.asked == []


def test_clients_that_do_not_read_are_few_and_end(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "PATIENCE", 0.2)
    lazy = [door.refuse() for _ in range(MOST)]
    for _, reply in door.asked:
        reply(Answer(200, [], b"x" * (32 << 20)))
    assert b"503" in door.heard(door.refuse())
    quiet = time.monotonic() + 0.3
    door.turn_until(lambda: time.monotonic() > quiet)
    again = door.refuse()
    door.asked[-1][1](Answer(200, [], b"page"))
    assert door.heard(again).endswith(b"page")
    assert len(lazy) == MOST


def test_an_answer_that_comes_too_late_is_dropped(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "PATIENCE", 0.05)
    client = door.refuse()
    assert door.heard(client) == b""
    door.asked[0][1](Answer(200, [], b"page"))


def test_a_client_that_has_gone_is_no_matter(door: Door) -> None:
    client = door.refuse()
    client.close()
    door.asked[0][1](Answer(200, [], b"x" * (8 << 20)))
    quiet = time.monotonic() + 0.1
    door.turn_until(lambda: time.monotonic() > quiet)
