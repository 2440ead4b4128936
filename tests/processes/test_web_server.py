"""Browsers at a real server: WebSocket clients of another library beside plain ones, and HTTP."""

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path

import psutil
import pytest
from support.crowd import (
    Listener,
    assert_one_order,
    everybody_hears,
    facts,
    listeners,
    wait_until_running,
    worker_pids,
)
from support.harness import Client, Server, kill, raw_frame, running
from support.waiting import eventually
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

pytestmark = pytest.mark.one_python

BEGIN, END = "= begin =", "= end ="
# Seconds between two messages of a speaker.
PACE = 0.005


def shake_hands(address: tuple[str, int], **more: str) -> ClientConnection:
    host, port = address
    headers = [(name.replace("_", "-"), value) for name, value in more.items()]
    return connect(
        f"ws://{host}:{port}/ws", additional_headers=headers, compression=None, proxy=None, open_timeout=20
    )


class WebListener(Listener):
    """The same over WebSocket: ``data`` is what a plain client would have got, frame by frame."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._stack = ExitStack()
        self.web = self._stack.enter_context(shake_hands(address))
        super().__init__(address)
        # The code and the reason of the server's close frame, once it has come.
        self.closing: tuple[int, str] | None = None

    def _connect(self, address: tuple[str, int], timeout: float, source: str) -> socket.socket:
        return self.web.socket

    def _listen(self) -> None:
        try:
            while True:
                message = self.web.recv()
                assert isinstance(message, str)
                self.data += raw_frame(message.encode())
        except ConnectionClosed as error:
            self.ended = str(error)
            if error.rcvd is not None:
                self.closing = error.rcvd.code, error.rcvd.reason

    def say(self, text: str) -> None:
        self.web.send(json.dumps({"message": text}))

    def close(self) -> None:
        self._stack.close()
        super().close()


@contextmanager
def web_listeners(server: Server, count: int) -> Iterator[list[WebListener]]:
    with ExitStack() as stack:
        joined = [stack.enter_context(WebListener(server.address)) for _ in range(count)]
        for each in joined:
            each.listen()
        yield joined


def get(address: tuple[str, int], path: str) -> tuple[int, bytes]:
    connection = HTTPConnection(*address, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


@contextmanager
def talking(speakers: Sequence[Listener]) -> Iterator[dict[str, int]]:
    """Let everybody speak at an even pace during the block; how often each has is known after it.

    Then the last message of each is in the order.
    """
    stop = threading.Event()
    counts: dict[str, int] = {}

    def talk(name: str, client: Listener) -> None:
        counts[name] = 0
        while not stop.wait(PACE):
            client.say(f"{name} {counts[name]}")
            counts[name] += 1

    threads = [threading.Thread(target=talk, args=(str(name), each)) for name, each in enumerate(speakers)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for name, count in counts.items():
        everybody_hears(speakers, f"{name} {count - 1}")


def test_one_order_in_both_framings_while_workers_are_replaced(shared: Server) -> None:
    with listeners(shared, 2) as plain, web_listeners(shared, 4) as web:
        crowd = [*plain, *web]
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        with talking([plain[0], web[0], web[1]]) as counts:
            for words in (("reload",), ("scale", "3"), ("scale", "2")):
                done = shared.command(*words)
                assert done.returncode == 0, done.stderr
        crowd[-1].say(END)
        everybody_hears(crowd, END)
        assert min(counts.values()) > 10
        assert_one_order(crowd, counts, BEGIN, END)
        assert [each.ended for each in crowd] == [None] * len(crowd)


def worker_of(server: Server, client: Listener) -> int:
    """Return the worker that has a client's connection."""
    port = client.sock.getsockname()[1]

    def found() -> int | None:
        for pid in worker_pids(server):
            for each in psutil.Process(pid).net_connections("tcp"):
                if each.raddr and each.raddr.port == port:
                    return pid
        return None

    return eventually(found, "a worker to have the connection")


def test_a_killed_worker_ends_its_own_clients_alone_and_a_stop_tells_the_others(server: Server) -> None:
    with listeners(server, 2) as plain, web_listeners(server, 4) as web:
        crowd: list[Listener] = [*plain, *web]
        workers = {each: worker_of(server, each) for each in crowd}
        killed = workers[web[0]]
        lost = [each for each in crowd if workers[each] == killed]
        left = [each for each in crowd if each not in lost]
        assert {type(each) for each in left} == {Listener, WebListener}
        left[0].say(BEGIN)
        everybody_hears(left, BEGIN)
        with talking(left[:3]) as counts:
            kill(killed)
            eventually(
                lambda: all(each.ended is not None for each in lost), "the end of the worker's clients"
            )
            wait_until_running(server)
        with web_listeners(server, 1) as late:
            late[0].say(END)
            everybody_hears([*left, *late], END)
            assert_one_order(left, counts, BEGIN, END)
            assert [each.ended for each in left] == [None] * len(left)
            assert web[0].closing is None
            assert server.stop().returncode == 0
            for each in [*left, *late]:
                eventually(lambda each=each: each.ended is not None, "the end of a client")  # type: ignore[misc]
                assert each.heard("The server is stopping.")
                if isinstance(each, WebListener):
                    assert each.closing == (1001, "the server is stopping")


def test_the_page_is_served_and_pages_from_elsewhere_may_not_connect(shared: Server) -> None:
    address = shared.address
    assert get(address, "/readyz") == (200, b"clients are accepted\n")
    status, page = get(address, "/")
    assert status == 200
    assert page.startswith(b"<!doctype html>")
    with pytest.raises(InvalidStatus) as raised:
        shake_hands(address, Origin="https://evil.example")
    assert raised.value.response.status_code == 403
    with shake_hands(address, Origin=f"http://{address[0]}:{address[1]}") as web:
        web.ping().wait(20)


def test_without_web_a_request_is_told_that_it_is_no_frame(folder: Path) -> None:
    with running(folder, "--web", "off", workers=1) as server, Client(server.address) as client:
        client.send_raw(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        told = client.receive()
        assert told is not None
        assert told["error"]["code"] == "bad_frame"
        assert "HTTP" in told["error"]["text"]
        assert client.receive() is None


def test_a_full_server_tells_each_in_its_own_words(folder: Path) -> None:
    with running(folder, "--max-connections", "1", workers=1) as server, Client(server.address) as inside:
        inside.say("inside")
        assert inside.hear() == "inside"
        status, text = get(server.address, "/readyz")
        assert (status, text) == (503, b"the server is full: 1 clients; try again later\n")
        assert get(server.address, "/healthz") == (200, b"the server's loop turns\n")
        with shake_hands(server.address) as outside:
            assert json.loads(outside.recv(20))["error"]["code"] == "full"
            with pytest.raises(ConnectionClosed) as closed:
                outside.recv(20)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        for sent in (b"\0\0", b""):
            with Client(server.address) as outside:
                outside.send_raw(sent)
                told = outside.receive()
                assert told is not None
                assert told["error"]["code"] == "full"
                assert outside.receive() is None
        assert facts(server)["refused_by_code"] == {"full": 5}
        inside.sock.shutdown(socket.SHUT_WR)
        assert inside.receive() is None
        eventually(lambda: get(server.address, "/readyz")[0] == 200, "room for another client")
