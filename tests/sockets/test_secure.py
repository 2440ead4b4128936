"""TLS in the clients: servers that will not do, chats over it, and that nothing is left behind."""

import asyncio
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from support.tls import Authority
from support.waiting import PATIENCE, eventually

import mpchat
from mpchat.client import secure as client_tls
from mpchat.client.secure import context_for, secure, trusting
from mpchat.protocol.messages import message_frame
from mpchat.tls.certificate import make_context

NAME = "localhost"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail a test that leaves a thread or a descriptor behind."""
    before = descriptors()
    yield
    eventually(lambda: not encrypting(), "the end of the threads that encrypt")
    eventually(lambda: descriptors() == before, "the end of all descriptors")


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def encrypting() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "mpchat-tls"]


class Server:
    """A server of one connection, which ``serve`` serves in a thread."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._serve = serve
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        self._listener.settimeout(PATIENCE)
        sock, _ = self._listener.accept()
        sock.settimeout(PATIENCE)
        with sock, suppress(OSError):
            self._serve(sock)

    def connected(self) -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        sock.setblocking(False)
        return sock

    def close(self) -> None:
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self._listener.close()


@contextmanager
def serving(serve: Callable[[socket.socket], None]) -> Iterator[Server]:
    server = Server(serve)
    try:
        yield server
    finally:
        server.close()


def over_tls(
    files: tuple[Path, Path], serve: Callable[[ssl.SSLSocket], None] = lambda sock: None
) -> Callable[[socket.socket], None]:
    """Return what shakes hands, and then serves."""
    context = make_context(*(each.read_bytes() for each in files))

    def run(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            serve(wrapped)

    return run


def until_its_end(sock: socket.socket) -> bytes:
    found = b""
    while data := sock.recv(1 << 16):
        found += data
    return found


# Servers that will not do.


def refusal(serve: Callable[[socket.socket], None], context: ssl.SSLContext, host: str = NAME) -> str:
    """Return why a client does not go on with a server."""
    with serving(serve) as server:
        sock = server.connected()
        with pytest.raises(OSError) as raised:
            secure(sock, context, host, PATIENCE)
    assert sock.fileno() == -1
    assert not isinstance(raised.value, ssl.SSLError)
    return raised.value.strerror or str(raised.value)


ANSWERS = [message_frame("hello"), b"HTTP/1.1 400 Bad Request\r\n\r\n", b"x" * 5000, b""]


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_server_without_tls_is_told_as_one(authority: Authority, answer: bytes) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        sock.sendall(answer)
        sock.shutdown(socket.SHUT_WR)
        until_its_end(sock)

    assert refusal(serve, authority.context()) == "it does not speak TLS"


def test_a_certificate_for_another_name_is_refused(authority: Authority) -> None:
    serve = over_tls(authority.issue("other.test"))
    said = refusal(serve, authority.context())
    assert said == (
        "its certificate is not to be trusted: Hostname mismatch, certificate is not valid for 'localhost'"
    )


def test_a_certificate_for_another_address_is_refused(authority: Authority) -> None:
    serve = over_tls(authority.issue("127.0.0.2"))
    said = refusal(serve, authority.context(), "127.0.0.1")
    assert said == (
        "its certificate is not to be trusted: IP address mismatch, certificate is not valid for '127.0.0.1'"
    )


def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    serve = over_tls(authority.issue(NAME))
    for context in (Authority(tmp_path).context(), context_for(True)):
        assert context is not None
        said = refusal(serve, context)
        assert said.startswith("its certificate is not to be trusted: ")
        assert "issuer" in said or "self-signed" in said


def test_an_expired_certificate_is_refused(authority: Authority) -> None:
    now = datetime.now(UTC)
    files = authority.issue(NAME, not_before=now - timedelta(9), not_after=now - timedelta(1))
    assert refusal(over_tls(files), authority.context()) == (
        "its certificate is not to be trusted: certificate has expired"
    )


def test_a_server_that_refuses_with_an_alert_is_told_as_such(authority: Authority) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(1 << 16)
        sock.sendall(bytes((21, 3, 3, 0, 2, 2, 49)))
        until_its_end(sock)

    said = refusal(serve, authority.context())
    assert said.startswith("no TLS with it: ")
    assert "access denied" in said


@pytest.mark.parametrize("first", [b"", b"\x16\x03\x03"])
def test_a_silent_server_is_given_up_in_time(authority: Authority, first: bytes) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(first)
        until_its_end(sock)

    with serving(serve) as server:
        sock, began = server.connected(), time.monotonic()
        with pytest.raises(TimeoutError):
            secure(sock, authority.context(), NAME, 0.2)
        assert 0.2 <= time.monotonic() - began < PATIENCE / 2
        assert sock.fileno() == -1


def test_who_is_trusted_is_what_was_asked_for(authority: Authority, tmp_path: Path) -> None:
    mine = authority.context()
    assert context_for(mine) is mine
    assert context_for(False) is None
    trusted = context_for(trusting(None))
    assert trusted is not None
    assert trusted.check_hostname
    assert trusted.verify_mode is ssl.CERT_REQUIRED
    with pytest.raises(OSError, match="No such file"):
        trusting(str(tmp_path / "absent"))


# What goes through.


def shaken(server: Server, authority: Authority) -> socket.socket:
    sock = secure(server.connected(), authority.context(), NAME, PATIENCE)
    sock.settimeout(PATIENCE)
    return sock


def test_all_that_is_said_goes_through_both_ways_and_the_ends_too(authority: Authority) -> None:
    said, answer, got = os.urandom(3 << 20), os.urandom(3 << 20), []

    def serve(sock: ssl.SSLSocket) -> None:
        sock.sendall(answer)
        got.append(until_its_end(sock))
        sock.sendall(b"the last words")
        sock.unwrap()

    with serving(over_tls(authority.issue(NAME), serve)) as server:
        with shaken(server, authority) as sock:
            received: list[bytes] = []
            reader = threading.Thread(target=lambda: received.append(until_its_end(sock)))
            reader.start()
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            reader.join(PATIENCE)
    assert got == [said]
    assert received == [answer + b"the last words"]


def test_the_last_words_reach_a_server_that_is_sending(authority: Authority) -> None:
    """A socket that is closed with unread input resets the connection."""
    got: list[bytes] = []
    said, ready = os.urandom(200_000), threading.Event()

    def serve(sock: ssl.SSLSocket) -> None:
        sock.sendall(b"x" * 100_000)
        assert ready.wait(PATIENCE)
        sock.sendall(b"x" * 100_000)
        got.append(until_its_end(sock))

    with serving(over_tls(authority.issue(NAME), serve)) as server:
        with shaken(server, authority) as sock:
            sock.sendall(said)
            sock.shutdown(socket.SHUT_WR)
            ready.set()
            until_its_end(sock)
    assert got == [said]


def test_the_end_of_the_server_is_the_end_of_the_stream(authority: Authority) -> None:
    with serving(over_tls(authority.issue(NAME), lambda sock: sock.sendall(b"said"))) as server:
        with shaken(server, authority) as sock:
            assert until_its_end(sock) == b"said"


def test_a_chat_that_is_closed_waits_for_no_server_that_does_not_read(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_tls, "LAST_WORDS", 0.2)
    done = threading.Event()

    def serve(sock: ssl.SSLSocket) -> None:
        done.wait(PATIENCE)

    with serving(over_tls(authority.issue(NAME), serve)) as server:
        try:
            with shaken(server, authority) as sock:
                sock.setblocking(False)
                for _ in range(20):
                    with suppress(BlockingIOError):
                        while sock.send(b"x" * 100_000):
                            pass
                    time.sleep(0.01)
            eventually(lambda: not encrypting(), "the end of the thread that encrypts", PATIENCE / 2)
        finally:
            done.set()


def echo(sock: ssl.SSLSocket) -> None:
    while data := sock.recv(1 << 16):
        sock.sendall(data)


def test_a_blocking_chat_loses_nothing_and_leaves_nothing(authority: Authority) -> None:
    texts = [f"{number}".ljust(2000, "x") for number in range(500)]
    with serving(over_tls(authority.issue(NAME), echo)) as server:
        with mpchat.connect_blocking(NAME, server.port, tls=authority.context()) as chat:
            for text in texts:
                chat.send(text)
                assert chat.recv(PATIENCE).text == text


def test_an_asyncio_chat_loses_nothing_and_leaves_nothing(authority: Authority) -> None:
    texts = [f"{number}".ljust(2000, "x") for number in range(500)]

    async def talk(port: int) -> list[Any]:
        async with mpchat.connect(NAME, port, tls=authority.context()) as chat:

            async def say() -> None:
                for text in texts:
                    await chat.send(text)

            saying = asyncio.create_task(say())
            got = [(await chat.recv(PATIENCE)).text for _ in texts]
            await saying
            return got

    with serving(over_tls(authority.issue(NAME), echo)) as server:
        assert asyncio.run(talk(server.port)) == texts


def test_what_was_sent_just_before_the_end_of_a_chat_arrives(authority: Authority) -> None:
    got: list[bytes] = []

    def serve(sock: ssl.SSLSocket) -> None:
        while data := sock.recv(1 << 16):
            got.append(data)
            sock.sendall(data)

    with serving(over_tls(authority.issue(NAME), serve)) as server:
        with mpchat.connect_blocking(NAME, server.port, tls=authority.context()) as chat:
            for _ in range(50):
                chat.send("x" * 5000)
    assert b"".join(got) == message_frame("x" * 5000) * 50


def test_a_chat_says_why_it_does_not_trust_a_server(authority: Authority) -> None:
    with serving(over_tls(authority.issue("other.test"))) as server:
        with pytest.raises(mpchat.ConnectError, match="Hostname mismatch"):
            mpchat.connect_blocking(NAME, server.port, tls=authority.context()).open()
