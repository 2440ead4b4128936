"""Behind real proxies: the client's own address counts for limits, bans, notices and the log."""

import json
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import NamedTuple

import pytest
from support.harness import Client, Server, running
from support.members import Member
from support.proxies import LOOPBACK, proxies
from support.tls import Authority
from support.waiting import eventually
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

PROXY = "127.0.0.1"


class Front(NamedTuple):
    """A server, the ports of the ways to it, and how clients encrypt."""

    server: Server
    ports: dict[str, int]
    context: ssl.SSLContext

    def client(self, way: str, source: str, *, tls: bool = False) -> Client:
        client = Client((LOOPBACK, self.ports[way]), source=source)
        if tls:
            client.sock = self.context.wrap_socket(client.sock, server_hostname="localhost")
        return client

    def websocket(self, way: str, source: str, **headers: str) -> ClientConnection:
        encrypted = way.endswith("s")
        return connect(
            f"ws{'s' if encrypted else ''}://localhost:{self.ports[way]}/ws",
            sock=Client((LOOPBACK, self.ports[way]), source=source).sock,
            ssl=self.context if encrypted else None,
            additional_headers=headers,
        )


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("proxies")
    authority = Authority(folder)
    chain, key = authority.issue("localhost", LOOPBACK)
    flags = ("--proxy-from", PROXY, "--tls-cert", str(chain), "--tls-key", str(key), "--max-per-address", "3")
    with (
        running(folder, *flags) as server,
        proxies(folder, server.address[1], chain, key) as ports,
    ):
        yield Front(server, ports, authority.context())


def hear_of_the_end(client: Client, address: str) -> None:
    """Wait for the notice that the client at ``address`` has gone; it may name others too."""
    while True:
        text = client.hear()
        if text.startswith(" Disconnect : ") and address in text:
            return


@pytest.mark.parametrize(
    ("way", "tls"),
    [
        ("haproxy-v1", False),
        ("haproxy-v1", True),
        ("haproxy-v2", False),
        ("haproxy-v2", True),
        ("haproxy-tls", True),
        ("nginx-stream", False),
        ("nginx-stream", True),
    ],
)
def test_a_notice_names_the_client_s_own_address(front: Front, way: str, tls: bool) -> None:
    with front.client("haproxy-v1", "127.0.0.30") as other:
        other.say("here")
        other.hear_until("here")
        client = front.client(way, "127.0.0.31", tls=tls)
        address = client.address
        client.say("안녕")
        other.hear_until("안녕")
        client.hear_until("안녕")
        client.close()
        hear_of_the_end(other, address)


@pytest.mark.parametrize("way", ["nginx-http", "nginx-https"])
def test_a_websocket_and_the_page_through_http(front: Front, way: str) -> None:
    scheme = "https" if way.endswith("s") else "http"
    with urllib.request.urlopen(
        f"{scheme}://localhost:{front.ports[way]}/", timeout=10, context=front.context
    ) as page:
        assert b"<!doctype html>" in page.read()
    with front.client("haproxy-v2", "127.0.0.30") as other:
        other.say("here")
        other.hear_until("here")
        with front.websocket(way, "127.0.0.32") as socket:
            socket.send(json.dumps({"message": f"by {way}"}))
            other.hear_until(f"by {way}")
        hear_of_the_end(other, "127.0.0.32:")


@pytest.mark.parametrize("way", ["haproxy-v1", "nginx-stream", "nginx-http"])
def test_a_ban_ends_and_keeps_out_the_client_and_not_the_proxy(front: Front, way: str) -> None:
    banned = "127.0.0.33"
    with ExitStack() as stack:
        other = stack.enter_context(front.client("haproxy-v2", "127.0.0.34"))
        other.say("here")
        other.hear_until("here")
        if way == "nginx-http":
            socket = stack.enter_context(front.websocket(way, banned))
            socket.send(json.dumps({"message": "one"}))
        else:
            client = stack.enter_context(front.client(way, banned))
            client.say("one")
        other.hear_until("one")
        assert front.server.run("ban", banned).stdout.count("1 connection") == 1
        try:
            if way == "nginx-http":
                with suppress(ConnectionClosed):
                    while True:
                        socket.recv(10)
                with front.websocket(way, banned) as again:
                    assert json.loads(again.recv(10))["error"]["code"] == "banned"
                # What the client itself says in front of the proxy's word changes nothing.
                with front.websocket(way, banned, **{"X-Forwarded-For": "203.0.113.1"}) as again:
                    assert json.loads(again.recv(10))["error"]["code"] == "banned"
            else:
                while client.receive() is not None:
                    pass
                with front.client(way, banned) as again:
                    answer = again.receive()
                    assert answer is not None
                    assert answer["error"]["code"] == "banned"
        finally:
            front.server.run("unban", banned)
        other.say("still here")
        other.hear_until("still here")


def test_the_limit_of_an_address_counts_clients_and_not_the_proxy_s_connections(front: Front) -> None:
    there = [front.client("haproxy-v2", f"127.0.0.{40 + number}") for number in range(8)]
    same = [front.client("haproxy-v2", "127.0.0.50") for _ in range(3)]
    for each in (*there, *same):
        each.say("x")
        each.hear_until("x")
    with front.client("nginx-stream", "127.0.0.50") as fourth:
        answer = fourth.receive()
        assert answer is not None
        assert answer["error"] == {
            "code": "full",
            "text": "3 clients are connected from your address already",
        }
    same[0].close()
    for each in there:
        each.close()

    def may_come() -> bool:
        with front.client("nginx-stream", "127.0.0.50") as again:
            again.say("again")
            heard = again.receive()
            return heard is not None and "error" not in heard

    eventually(may_come, "the place is free again")
    for each in same[1:]:
        each.close()


def test_who_connects_past_the_proxy_is_told(front: Front) -> None:
    with Client(front.server.address) as direct:
        direct.say("no header")
        answer = direct.receive()
        assert answer is not None
        assert answer["error"]["code"] == "bad_frame"
        assert "must begin with a PROXY header" in answer["error"]["text"]
    with Client(front.server.address, source="127.0.0.60") as stranger:
        stranger.send_raw(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n")
        answer = stranger.receive()
        assert answer is not None
        assert "this looks like a PROXY header" in answer["error"]["text"]
    with Client(front.server.address, source="127.0.0.60") as other:
        other.say("needs none")
        other.hear_until("needs none")
    told = "no PROXY header, and proxy_from names its address: 127.0.0.1"
    eventually(lambda: told in front.server.log, f"the log to say {told!r}")  # a thread writes it


def test_the_proxies_health_checks_are_no_news(front: Front) -> None:
    """haproxy checks the server five times a second, and closes each connection after its header."""
    with front.client("haproxy-v1", "127.0.0.61") as other:
        other.say("one")
        other.hear_until("one")
        time.sleep(0.6)
        other.say("two")
        assert not any("127.0.0.1:" in each for each in other.hear_until("two"))


def test_a_reload_moves_clients_behind_proxies(front: Front) -> None:
    ways = ("haproxy-v1", "haproxy-v2", "nginx-stream")
    with ExitStack() as stack:
        there = []
        for number, way in enumerate(ways):
            member = Member((LOOPBACK, front.ports[way]), source=f"127.0.0.{70 + number}")
            there.append(stack.enter_context(member))
            member.join(f"n{number}", room="moved")
        for turn in range(3):
            for number, member in enumerate(there):
                member.ask(message=f"{turn} of {number}")
            assert front.server.run("reload").returncode == 0
        for member in there:
            member.sync()
        heard = [[each["message"] for each in member.numbered if each["room"] == "moved"] for member in there]
        assert len(heard[0]) == 9
        assert heard[0] == heard[1] == heard[2]
