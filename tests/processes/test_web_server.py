"""Browsers at a real server: WebSocket clients of another library beside plain ones, and HTTP."""

import json
import socket
from http.client import HTTPConnection
from pathlib import Path

import pytest
from support.crowd import (
    Listener,
    assert_one_order,
    everybody_hears,
    facts,
    listeners,
    wait_until_running,
)
from support.harness import Client, Server, kill, running
from support.waiting import eventually
from support.web_crowd import WebListener, shake_hands, talking, web_listeners, worker_of
from websockets.exceptions import ConnectionClosed, InvalidStatus

pytestmark = pytest.mark.one_python

BEGIN, END = "= begin =", "= end ="


def get(address: tuple[str, int], path: str) -> tuple[int, bytes]:
    connection = HTTPConnection(*address, timeout=20)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


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
