"""Acceptor and listeners in a loop of the test's: which clients come in, and what those outside are told."""

import errno
import json
import socket
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec
import pytest
from support.harness import free_port
from support.reactors import LimitedReactor
from support.waiting import eventually
from websockets.client import ClientProtocol
from websockets.frames import Frame
from websockets.http11 import Response
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from mpchat.config import resolve
from mpchat.errors import StartError
from mpchat.ipc import lingering
from mpchat.ipc.lingering import LINGERING
from mpchat.protocol.messages import error_frame
from mpchat.reactor import Reactor
from mpchat.supervisor.acceptor import OUT_OF_DESCRIPTORS, Acceptor
from mpchat.supervisor.admission import TOO_FAST
from mpchat.supervisor.listeners import (
    AddressTakenError,
    ListenAddress,
    addresses_of,
    close_all,
    look_up,
    open_listeners,
    port_of,
    prepare_change,
    taken_by,
)
from mpchat.supervisor.refusals import BANNED, Refusal
from mpchat.supervisor.shutdown import STOPPING

NOT_TODAY = Refusal("not today")


@contextmanager
def accepting(*hosts: str) -> Iterator[tuple[Acceptor, LimitedReactor, list[socket.socket]]]:
    """An acceptor at a free port, its loop, and the connections that it has accepted."""
    reactor, accepted = LimitedReactor(), list[socket.socket]()
    acceptor = Acceptor(
        reactor, listen(hosts or ("127.0.0.1",)), lambda sock, host, port: accepted.append(sock)
    )
    try:
        yield acceptor, reactor, accepted
    finally:
        acceptor.close()
        reactor.close()
        for each in accepted:
            each.close()


def addresses(hosts: tuple[str, ...], port: int = 0) -> list[ListenAddress]:
    lookup = look_up(hosts, port)
    eventually(lambda: lookup.done, "the lookup")
    return lookup.result()


def listen(hosts: tuple[str, ...], port: int = 0) -> list[socket.socket]:
    return open_listeners(addresses(hosts, port))


def turn_until(reactor: Reactor, reached: Callable[[], object], what: str) -> None:
    """Turn the loop until something is so."""

    def turned() -> object:
        reactor.turn(0.01)
        return reached()

    eventually(turned, what)


def connect(acceptor: Acceptor) -> socket.socket:
    return socket.create_connection(acceptor.listeners[0].getsockname(), timeout=5.0)


def has_ended(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def told(client: socket.socket) -> tuple[str, str]:
    """Read an error to the end of the stream."""
    with client.makefile("rb") as stream:
        data = stream.read()
    error = json.loads(data[2:])["error"]
    return error["code"], error["text"]


# Listeners.


def test_two_addresses_of_one_host_share_the_port_that_the_system_gives() -> None:
    listeners = listen(("127.0.0.1", "127.0.0.2"), 0)
    try:
        assert len({port_of(each) for each in listeners}) == 1
        assert [each.rpartition(":")[0] for each in addresses_of(listeners)] == ["127.0.0.1", "127.0.0.2"]
    finally:
        close_all(listeners)


def test_hosts_with_the_same_address_are_one_listener() -> None:
    listeners = listen(("localhost", "127.0.0.1", "127.0.0.1"), 0)
    try:
        addresses = addresses_of(listeners)
        assert [each for each in addresses if each.startswith("127.0.0.1:")] == [
            f"127.0.0.1:{port_of(listeners[0])}"
        ]
    finally:
        close_all(listeners)


def test_without_ipv6_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without_ipv6(family: int = -1, *arguments: int, **more: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *arguments, **more)

    monkeypatch.setattr("mpchat.supervisor.listeners.socket.socket", without_ipv6)
    with pytest.raises(StartError, match="this system has no IPv6; choose another --host"):
        listen(("::1",), 0)


def test_the_name_of_a_program_that_has_the_port_reaches_no_terminal_as_it_is(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        evil = tmp_path / "\x1b[31mred"
        evil.symlink_to(sys.executable)
        code = "import os, sys, time; os.write(1, b'x'); time.sleep(60)"
        command = [str(evil), "-c", code]
        with subprocess.Popen(command, pass_fds=[taken.fileno()], stdout=subprocess.PIPE) as holder:
            try:
                assert holder.stdout is not None
                holder.stdout.read(1)
                taken.close()
                with pytest.raises(AddressTakenError) as raised:
                    listen(("127.0.0.1",), port)
                said = str(taken_by(raised.value.where))
            finally:
                holder.kill()
    assert f"(pid {holder.pid})" in said
    assert "\x1b" not in said


def test_a_taken_port_is_an_error_that_leaves_nothing_open() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.2", port)):
        with pytest.raises(StartError, match=rf"127\.0\.0\.2:{port} "):
            listen(("127.0.0.1", "127.0.0.2"), port)
        with socket.create_server(("127.0.0.1", port)):
            pass


def test_a_change_that_cannot_listen_leaves_the_listeners_as_they_were() -> None:
    with accepting() as (acceptor, _, _), socket.create_server(("127.0.0.3", 0)) as taken:
        lookup = look_up(("127.0.0.2", "127.0.0.3"), taken.getsockname()[1])
        with pytest.raises(StartError):
            prepare_change(acceptor.listeners, lookup.result())
        with socket.create_server(("127.0.0.2", taken.getsockname()[1])):
            pass
        assert addresses_of(acceptor.listeners) == acceptor.addresses


def test_an_unknown_host_is_an_error_where_its_result_is_asked_for() -> None:
    lookup = look_up(("no-such-host.invalid",), 1)
    eventually(lambda: lookup.done, "the lookup")
    with pytest.raises(StartError, match=r"no-such-host\.invalid is no address of this machine"):
        lookup.result()


# IPv6 and IPv4.


def reached(listeners: list[socket.socket]) -> list[str]:
    """Which of this machine's addresses lead to the listeners."""
    found = []
    for host in ("127.0.0.1", "127.0.0.2", "::1"):
        try:
            socket.create_connection((host, port_of(listeners[0])), timeout=5.0).close()
            found.append(host)
        except ConnectionRefusedError:
            pass
    return found


@pytest.mark.parametrize(
    ("hosts", "leading"),
    [
        (("::",), ["127.0.0.1", "127.0.0.2", "::1"]),
        (("::", "0.0.0.0"), ["127.0.0.1", "127.0.0.2", "::1"]),
        (("0.0.0.0", "::"), ["127.0.0.1", "127.0.0.2", "::1"]),
        (("::", "127.0.0.2"), ["127.0.0.2", "::1"]),
        (("0.0.0.0",), ["127.0.0.1", "127.0.0.2"]),
        (("::1",), ["::1"]),
    ],
)
def test_every_interface_by_ipv6_is_every_interface_unless_ipv4_is_listed_too(
    hosts: tuple[str, ...], leading: list[str]
) -> None:
    listeners = listen(hosts, free_port())  # else a test beside this one may listen at 127.0.0.1 there
    try:
        assert reached(listeners) == leading
        # The same settings again are no change, other ones are.
        assert prepare_change(listeners, addresses(hosts, port_of(listeners[0]))) == ([], [])
    finally:
        close_all(listeners)


def test_a_client_that_comes_by_ipv4_to_an_ipv6_listener_has_its_ipv4_address() -> None:
    reactor, hosts = Reactor(), list[str]()

    def on_client(sock: socket.socket, host: str, port: int) -> None:
        sock.close()
        hosts.append(host)

    acceptor = Acceptor(reactor, listen(("::",)), on_client)
    try:
        acceptor.open()
        for host in ("127.0.0.1", "::1"):
            socket.create_connection((host, port_of(acceptor.listeners[0])), timeout=5.0).close()
            turn_until(reactor, lambda host=host: host in hosts, f"{host} to come in")  # type: ignore[misc]
        assert hosts == ["127.0.0.1", "::1"]
    finally:
        acceptor.close()
        reactor.close()


def test_from_both_to_ipv6_alone_needs_a_restart_and_changes_nothing() -> None:
    with accepting("::") as (acceptor, _, _):
        port = port_of(acceptor.listeners[0])
        with pytest.raises(AddressTakenError) as raised:
            prepare_change(acceptor.listeners, addresses(("::", "127.0.0.2"), port))
        assert "stop and start" in str(taken_by(raised.value.where))
        assert reached(acceptor.listeners) == ["127.0.0.1", "127.0.0.2", "::1"]


# Accepting.


@pytest.mark.parametrize(("count", "paused"), [(300, False), (10, True)])
def test_a_client_in_the_queue_of_an_address_that_goes_comes_in(count: int, paused: bool) -> None:
    """More than are accepted in one turn, and also while the acceptor is paused."""
    with accepting() as (acceptor, reactor, accepted), ExitStack() as clients:
        acceptor.open()
        if paused:
            acceptor.pause()
        waiting = [clients.enter_context(connect(acceptor)) for _ in range(count)]
        lookup = look_up(("127.0.0.2",), port_of(acceptor.listeners[0]))
        eventually(lambda: lookup.done, "the addresses")
        acceptor.change(prepare_change(acceptor.listeners, lookup.result()))
        assert acceptor.addresses[0].startswith("127.0.0.2:")
        reactor.turn(0.0)
        assert (len(accepted), sum(map(has_ended, waiting))) == (count, 0)


def test_without_a_descriptor_the_first_in_the_queue_is_told_and_the_others_wait() -> None:
    class Exhausted:
        """A listener that finds no descriptor, but for the spare one, until there are some again."""

        exhausted = True

        def __init__(self, listener: socket.socket) -> None:
            self.listener = listener
            self.failed = False

        def accept(self) -> object:
            if self.exhausted and not self.failed:
                self.failed = True
                raise OSError(errno.EMFILE, "Too many open files")
            self.failed = False
            return self.listener.accept()

        def __getattr__(self, name: str) -> object:
            return getattr(self.listener, name)

    with accepting() as (acceptor, reactor, accepted), ExitStack() as clients:
        acceptor.listeners[0] = exhausted = Exhausted(acceptor.listeners[0])  # type: ignore[call-overload]
        acceptor.open()
        first, second = (clients.enter_context(connect(acceptor)) for _ in range(2))
        reactor.turn(0.0)
        assert told(first) == (OUT_OF_DESCRIPTORS.code, OUT_OF_DESCRIPTORS.text)
        assert (acceptor.refusals.count, accepted) == (1, [])
        assert not has_ended(second)
        exhausted.exhausted = False

        turn_until(reactor, lambda: len(accepted) == 1, "the second client to come in")


# Refusing.


def test_a_refused_client_that_has_sent_something_reads_why_and_then_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "LINGER", 0.01)
    with accepting() as (acceptor, reactor, accepted), connect(acceptor) as client:
        client.sendall(b"\0\x02{}")
        acceptor.open()
        reactor.turn(0.1)
        acceptor.refuse(accepted.pop(), Refusal("not today", "banned"))
        assert told(client) == ("banned", "not today")
        client.sendall(b"\0\x02{}")  # it lingers: no reset yet
        turn_until(reactor, lambda: not acceptor.refusals._lingering, "the connection to be closed")


def test_no_more_refused_clients_linger_than_are_allowed() -> None:
    with accepting() as (acceptor, reactor, accepted), ExitStack() as clients:
        acceptor.open()
        refused = [clients.enter_context(connect(acceptor)) for _ in range(LINGERING + 3)]
        turn_until(reactor, lambda: len(accepted) == len(refused), "the clients to come in")
        sockets, accepted[:] = list(accepted), []
        for sock in sockets:
            acceptor.refuse(sock, Refusal("full"))
        assert [each.fileno() < 0 for each in sockets] == [True] * 3 + [False] * LINGERING
        assert acceptor.refusals.count == len(refused)


# Refusing where browsers come too.


@contextmanager
def refusing(
    grace: float = 60.0, refusal: Refusal = NOT_TODAY
) -> Iterator[tuple[Acceptor, Reactor, Callable[[], socket.socket]]]:
    """An acceptor with web on that refuses everybody, its loop, and what makes one client more."""
    config = msgspec.structs.replace(resolve([])[0], web=True, listen_grace=grace)
    with accepting() as (acceptor, reactor, accepted), ExitStack() as clients:
        acceptor.refusals.follow(config)
        acceptor.open()

        def refused() -> socket.socket:
            client = clients.enter_context(connect(acceptor))
            turn_until(reactor, lambda: accepted, "the client to come in")
            acceptor.refuse(accepted.pop(), refusal)
            return client

        yield acceptor, reactor, refused


def answer_to(reactor: Reactor, client: socket.socket) -> bytes:
    """Turn the loop until a client has been answered; returns all up to the orderly end."""
    found = bytearray()
    client.setblocking(False)

    def ended() -> bool:
        try:
            data = client.recv(1 << 16)
        except BlockingIOError:
            return False
        found.extend(data)
        return not data

    turn_until(reactor, ended, "the answer and the end")
    return bytes(found)


FRAME = error_frame("full", "not today")
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("cuts", [(), (1,), (2,), (3,), (1, 2, 3, 4), (20,)])
def test_a_refused_browser_is_told_in_its_own_words(cuts: tuple[int, ...]) -> None:
    with refusing() as (acceptor, reactor, refused):
        client = refused()
        begin = 0
        for cut in (*cuts, len(REQUEST)):
            client.sendall(REQUEST[begin:cut])
            begin = cut
            for _ in range(3):
                reactor.turn(0.0)
        head, _, body = answer_to(reactor, client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert f"Content-Length: {len(body)}".encode() in head
        assert body == b"not today\n"
        client.close()
        turn_until(reactor, lambda: not acceptor.refusals._lingering, "the connection to be closed")


@pytest.mark.parametrize(
    ("refusal", "status"),
    [(NOT_TODAY, 503), (BANNED, 403), (TOO_FAST, 429)],
    ids=["full", "banned", "too fast"],
)
def test_a_refused_request_with_head_is_answered_without_a_body(refusal: Refusal, status: int) -> None:
    with refusing(refusal=refusal) as (_, reactor, refused):
        client = refused()
        client.sendall(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = answer_to(reactor, client)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert answer.endswith(b"\r\n\r\n")
        assert b"\r\nContent-Security-Policy: default-src 'none'; " in answer


@pytest.mark.parametrize("refusal", [NOT_TODAY, TOO_FAST, STOPPING], ids=["full", "too fast", "stopping"])
@pytest.mark.parametrize("target", ["/healthz", "/healthz?probe=1", "http://chat.example/healthz"])
@pytest.mark.parametrize(("method", "body"), [("GET", b"the server's loop turns\n"), ("HEAD", b"")])
def test_a_refused_probe_is_told_that_the_loop_turns(
    refusal: Refusal, target: str, method: str, body: bytes
) -> None:
    with refusing(refusal=refusal) as (_, reactor, refused):
        client = refused()
        client.sendall(f"{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        head, _, got = answer_to(reactor, client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"\r\nConnection: close\r\n" in head
        assert got == body


@pytest.mark.parametrize(
    ("refusal", "sent", "status"),
    [
        (BANNED, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 403),
        (NOT_TODAY, b"POST /healthz HTTP/1.1\r\nHost: a\r\n\r\n", 503),
        (NOT_TODAY, b"GET /healthzz HTTP/1.1\r\nHost: a\r\n\r\n", 503),
        (NOT_TODAY, b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", 503),
        (NOT_TODAY, b"GET /healthz HTTP/1.1\r\nHost: a\r\n", 503),
        (NOT_TODAY, b"GET /healthz\r\n\r\n", 503),
    ],
)
def test_all_but_a_probe_is_refused(refusal: Refusal, sent: bytes, status: int) -> None:
    with refusing(0.05, refusal) as (_, reactor, refused):
        client = refused()
        client.sendall(sent)
        assert answer_to(reactor, client).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\nHost: a", b"GET /" + b"a" * 9000])
def test_a_refused_browser_whose_request_is_not_whole_is_told_by_a_status(sent: bytes) -> None:
    with refusing(0.05) as (_, reactor, refused):
        client = refused()
        client.sendall(sent)
        assert answer_to(reactor, client).startswith(b"HTTP/1.1 503 Service Unavailable\r\n")


@pytest.mark.parametrize("offered", [None, ["other", "mpchat"]])
@pytest.mark.parametrize(("refusal", "code"), [(NOT_TODAY, 1013), (BANNED, 1008)], ids=["full", "banned"])
def test_a_refused_websocket_gets_the_error_and_a_close_code(
    refusal: Refusal, code: int, offered: list[Subprotocol] | None
) -> None:
    with refusing(refusal=refusal) as (_, reactor, refused):
        client = refused()
        protocol = ClientProtocol(parse_uri("ws://a/ws"), subprotocols=offered)
        protocol.send_request(protocol.connect())
        client.sendall(b"".join(protocol.data_to_send()))
        protocol.receive_data(answer_to(reactor, client))
        protocol.receive_eof()
        response, message, _ = protocol.events_received()
        assert protocol.handshake_exc is None
        assert isinstance(response, Response)
        assert protocol.subprotocol == (offered and "mpchat")
        assert isinstance(message, Frame)
        assert json.loads(bytes(message.data)) == {"error": {"code": refusal.code, "text": refusal.text}}
        assert protocol.close_code == code


@pytest.mark.parametrize("sent", [b"\0\x02{}", b"\0", b"GE{", b"\x16\x03\x01"])
def test_a_refused_client_that_speaks_no_http_is_told_at_once(sent: bytes) -> None:
    with refusing() as (_, reactor, refused):
        client = refused()
        client.sendall(sent)
        assert answer_to(reactor, client) == FRAME


@pytest.mark.parametrize("sent", [b"", b"GE"])
@pytest.mark.parametrize("grace", [0.0, 0.02])
def test_a_refused_client_that_says_nothing_or_too_little_does_not_wait_for_long(
    sent: bytes, grace: float
) -> None:
    with refusing(grace) as (_, reactor, refused):
        client = refused()
        client.sendall(sent)
        assert answer_to(reactor, client) == FRAME


def test_a_refused_client_that_has_ended_its_stream_is_told_at_once() -> None:
    with refusing() as (_, reactor, refused):
        client = refused()
        client.shutdown(socket.SHUT_WR)
        assert answer_to(reactor, client) == FRAME


def test_first_bytes_that_do_not_tell_enough_do_not_keep_the_loop_busy() -> None:
    with refusing() as (_, reactor, refused):
        client = refused()
        client.sendall(b"GE")
        reactor.turn(1.0)
        calls: list[int] = []
        reactor.call_later(0.02, lambda: calls.append(1))
        turns = 0
        while not calls:
            reactor.turn(1.0)
            turns += 1
        assert turns <= 3
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)


def test_a_refused_client_that_was_answered_is_not_kept_until_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "LINGER", 0.05)
    with refusing() as (acceptor, reactor, refused):
        client = refused()
        kept = weakref.ref(next(iter(acceptor.refusals._begun)))
        client.sendall(b"\x00\x02{}")
        assert answer_to(reactor, client) == FRAME
        client.close()
        turn_until(reactor, lambda: kept() is None, "its socket to be forgotten")


@pytest.mark.parametrize("refusals", [1, 2, 5])
def test_where_the_system_has_no_watch_left_clients_wait_until_it_has(refusals: int) -> None:
    with accepting("127.0.0.1", "127.0.0.2") as (acceptor, reactor, accepted):
        with socket.create_connection(acceptor.listeners[1].getsockname()):
            reactor.refusals = refusals
            acceptor.open()
            turn_until(reactor, lambda: accepted, "the client")
            acceptor.pause()
            acceptor.open()


def test_no_more_refused_clients_are_waited_for_than_are_allowed() -> None:
    with refusing() as (acceptor, reactor, refused):
        clients = [refused() for _ in range(LINGERING + 2)]
        assert [answer_to(reactor, each) for each in clients[:2]] == [FRAME] * 2
        assert not any(has_ended(each) for each in clients[2:])
        assert len(acceptor.refusals._begun) == LINGERING


def test_refused_clients_that_have_gone_or_are_left_at_the_end_keep_no_descriptor() -> None:
    with refusing() as (acceptor, reactor, refused):
        refused().close()
        left = refused()
        turn_until(reactor, lambda: len(acceptor.refusals._begun) == 1, "the first to be seen to have gone")
        turn_until(reactor, lambda: not acceptor.refusals._lingering, "its descriptor to be closed")
        acceptor.close()
        assert answer_to(reactor, left) == FRAME
        assert not acceptor.refusals._begun


# Lingering.


def test_a_peer_that_goes_on_sending_is_read_from_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "INPUT", 100_000)
    monkeypatch.setattr(lingering, "LINGER", 60.0)
    near, far = socket.socketpair()
    reactor = Reactor()
    kept = lingering.Lingering(reactor)
    with far, near:
        near.setblocking(False)
        kept.take(near)
        assert far.recv(1) == b""
        far.sendall(b"x" * 60_000)
        turn_until(reactor, lambda: kept._left[near] < 60_000, "some of it to be read")
        assert len(kept) == 1
        far.sendall(b"x" * 60_000)
        turn_until(reactor, lambda: not kept, "the bound to be reached")
        assert near.fileno() < 0
    reactor.close()
