"""Multiplexers: all of them report the same, and epoll too, which is used without the standard selectors."""

import os
import select
import socket
import time
from collections.abc import Iterator

import pytest

from mpchat.multiplexer import READ, WRITE, Epoll, Multiplexer, make_multiplexer

HERE = ["auto", "poll", "select", *(["epoll"] if hasattr(select, "epoll") else [])]


@pytest.fixture(params=HERE)
def multiplexer(request: pytest.FixtureRequest) -> Iterator[Multiplexer]:
    made = make_multiplexer(request.param)
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        yield near, far


class Told:
    """What a multiplexer has said of each target, by a name."""

    def __init__(self, multiplexer: Multiplexer) -> None:
        self.multiplexer = multiplexer

    def __call__(self) -> list[tuple[str, int]]:
        """Return what is ready now."""
        said: list[tuple[str, int]] = []
        self.said = said
        for on_event, mask in self.multiplexer.select(0):
            on_event(mask)
        return said

    def by(self, name: str) -> "Note":
        """Return what to register under a name."""
        return Note(self, name)


class Note:
    """Notes an event."""

    def __init__(self, told: Told, name: str) -> None:
        self.told, self.name = told, name

    def __call__(self, mask: int) -> None:
        self.told.said.append((self.name, mask))


@pytest.fixture
def told(multiplexer: Multiplexer) -> Told:
    return Told(multiplexer)


Pair = tuple[socket.socket, socket.socket]


def test_what_is_ready_is_said_as_long_as_it_is_so(told: Told, pair: Pair) -> None:
    near, far = pair
    told.multiplexer.register(near, READ, told.by("near"))
    assert told() == []
    far.send(b"ab")
    assert told() == told() == [("near", READ)]
    near.recv(1)
    assert told() == [("near", READ)], "a part of it is still there"
    near.recv(1)
    assert told() == []


def test_only_what_was_asked_for_is_said(told: Told, pair: Pair) -> None:
    near, far = pair
    far.send(b"a")
    told.multiplexer.register(near, WRITE, told.by("writes"))
    assert told() == [("writes", WRITE)]
    told.multiplexer.modify(near, READ | WRITE, told.by("both"))
    assert told() == [("both", READ | WRITE)]
    told.multiplexer.modify(near, READ, told.by("reads"))
    assert told() == [("reads", READ)]
    told.multiplexer.modify(near, READ, told.by("somebody else"))
    assert told() == [("somebody else", READ)]
    told.multiplexer.unregister(near)
    assert told() == []


@pytest.mark.parametrize("events", [READ, WRITE, READ | WRITE])
def test_the_peers_end_is_said_to_whoever_waits(told: Told, pair: Pair, events: int) -> None:
    """Both ends of the stream: to read gives the end, and to write an error."""
    near, far = pair
    told.multiplexer.register(near, events, told.by("near"))
    far.close()
    ((name, mask),) = told()
    assert name == "near"
    assert mask & events
    assert not mask & ~events


def test_a_reset_is_said(told: Told) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        told.multiplexer.register(near, READ, told.by("near"))
        far.close()
        assert told() == [("near", READ)]


def test_a_pipe_is_watched_by_its_number(told: Told) -> None:
    reader, writer = os.pipe()
    told.multiplexer.register(writer, WRITE, told.by("writer"))
    told.multiplexer.register(reader, READ, told.by("reader"))
    assert told() == [("writer", WRITE)]
    os.write(writer, b"!")
    assert sorted(told()) == [("reader", READ), ("writer", WRITE)]
    told.multiplexer.unregister(writer)
    os.close(writer)
    os.read(reader, 1)
    assert told() == [("reader", READ)], "its end"
    told.multiplexer.unregister(reader)
    os.close(reader)


def test_of_what_is_paused_nothing_is_said_until_it_is_watched_again(told: Told, pair: Pair) -> None:
    near, far = pair
    told.multiplexer.register(near, READ, told.by("near"))
    far.send(b"a")
    for _ in range(2):
        told.multiplexer.pause(near)
        assert told() == []
        far.send(b"b")
        assert told() == []
        told.multiplexer.modify(near, READ, told.by("again"))
        assert told() == told() == [("again", READ)]
    told.multiplexer.pause(near)
    told.multiplexer.modify(near, WRITE, told.by("writes"))
    assert told() == [("writes", WRITE)]


def test_the_end_of_what_is_paused_wakes_nobody_and_is_said_afterwards(told: Told) -> None:
    """Of a TCP connection that was reset, too: it would be said again and again otherwise."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
    with near:
        told.multiplexer.register(near, READ, told.by("near"))
        told.multiplexer.pause(near)
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        far.close()
        assert told() == []
        begin = time.monotonic()
        assert told.multiplexer.select(0.05) == []
        assert told.multiplexer.select(0.05) == []
        assert time.monotonic() - begin >= 0.05, "at most one of these waits was cut short"
        told.multiplexer.modify(near, READ, told.by("near"))
        assert told() == [("near", READ)]


def test_what_is_paused_can_be_forgotten(told: Told, pair: Pair) -> None:
    near, far = pair
    with pytest.raises(KeyError):
        told.multiplexer.pause(near)
    told.multiplexer.register(near, READ, told.by("near"))
    told.multiplexer.pause(near)
    told.multiplexer.unregister(near)
    far.send(b"a")
    assert told() == []
    with pytest.raises(KeyError):
        told.multiplexer.unregister(near)
    told.multiplexer.register(near, READ, told.by("again"))
    assert told() == [("again", READ)]


def test_nothing_is_watched_twice_or_forgotten_twice(told: Told, pair: Pair) -> None:
    near, _ = pair
    with pytest.raises(KeyError):
        told.multiplexer.unregister(near)
    with pytest.raises(KeyError):
        told.multiplexer.modify(near, READ, told.by("near"))
    told.multiplexer.register(near, READ, told.by("near"))
    with pytest.raises(KeyError):
        told.multiplexer.register(near, READ, told.by("again"))
    told.multiplexer.unregister(near)
    told.multiplexer.register(near, WRITE, told.by("again"))
    assert told() == [("again", WRITE)]


def test_a_wait_ends_after_its_time(multiplexer: Multiplexer, pair: Pair) -> None:
    assert multiplexer.select(0.01) == []


def test_many_that_are_ready_are_said_together(told: Told) -> None:
    pairs = [socket.socketpair() for _ in range(100)]
    for place, (near, far) in enumerate(pairs):
        told.multiplexer.register(near, READ, told.by(str(place)))
        far.send(b"!")
    assert sorted(told()) == sorted((str(place), READ) for place in range(100))
    for near, far in pairs:
        told.multiplexer.unregister(near)
        near.close()
        far.close()


@pytest.mark.skipif(not hasattr(select, "epoll"), reason="this system has no epoll")
class TestEpoll:
    """What only epoll does."""

    def test_it_is_used_without_the_standard_selectors(self) -> None:
        for name in ("auto", "epoll"):
            made = make_multiplexer(name)
            assert isinstance(made, Epoll)
            made.close()

    def test_what_the_system_refuses_is_not_taken_for_watched(self, pair: Pair, tmp_path: object) -> None:
        """A regular file cannot be watched."""
        made, near = Epoll(), pair[0]
        with open(f"{tmp_path}/file", "wb") as file, pytest.raises(PermissionError):
            made.register(file, READ, print)
        with open(f"{tmp_path}/file", "rb") as file:
            descriptor = file.fileno()
        os.dup2(near.fileno(), descriptor)
        made.register(descriptor, WRITE, print)
        assert made.select(0) == [(print, WRITE)]
        made.unregister(descriptor)
        os.close(descriptor)
        made.close()

    def test_a_socket_that_was_closed_without_a_word_harms_nobody(self, pair: Pair) -> None:
        """Its duplicate keeps the events coming; nobody is called who is not meant."""
        made, (near, far) = Epoll(), pair
        twin = near.dup()
        made.register(twin, READ, print)
        del made._watched[twin.fileno()]
        far.send(b"!")
        assert made.select(0) == []
        twin.close()
        made.close()
