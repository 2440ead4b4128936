"""The door by itself, in a loop of the test's: who has knocked in time comes in."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from support.waiting import eventually

from mpchat.reactor import Reactor
from mpchat.supervisor.acceptor import Acceptor, open_listeners


@contextmanager
def door() -> Iterator[tuple[Acceptor, Reactor, list[socket.socket]]]:
    """A door at a free port, its loop, and the clients that have come in."""
    reactor, came_in = Reactor(), list[socket.socket]()
    opened = Acceptor(
        reactor, open_listeners(("127.0.0.1",), 0), lambda sock, host, port: came_in.append(sock)
    )
    try:
        yield opened, reactor, came_in
    finally:
        opened.close()
        reactor.close()
        for each in came_in:
            each.close()


def has_ended(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(("count", "paused"), [(300, False), (10, True)])
def test_who_is_in_the_queue_of_an_address_that_goes_comes_in(count: int, paused: bool) -> None:
    """More than are accepted in one turn, and also when the door is closed for the moment."""
    with door() as (opened, reactor, came_in), ExitStack() as clients:
        opened.open()
        if paused:
            opened.pause()
        knocking = [
            clients.enter_context(socket.create_connection(opened.listeners[0].getsockname()))
            for _ in range(count)
        ]
        lookup = opened.look_up(("127.0.0.2",), 0)
        eventually(lambda: lookup.done, "the addresses")
        opened.change(opened.prepare(lookup))
        assert opened.addresses[0].startswith("127.0.0.2:")
        reactor.turn(0.0)
        assert (len(came_in), sum(map(has_ended, knocking))) == (count, 0)
