"""TLS at a real server: its clients beside unencrypted ones, changes, and processes that die or hang."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.client import HTTPSConnection
from pathlib import Path

import psutil
import pytest
from support.changing import all_gone, reload, scale
from support.crowd import (
    Listener,
    assert_one_order,
    connections,
    everybody_hears,
    facts,
    last_for,
    listeners,
    wait_until_running,
    worker_pids,
)
from support.harness import (
    Client,
    Server,
    assert_nothing_left,
    kill,
    leftovers,
    running,
    settle,
    stopped,
)
from support.leftovers import nothing_left_behind
from support.members import Member
from support.tls import Authority
from support.tls_peer import (
    Encrypted,
    TlsClient,
    TlsMember,
    first_bytes,
    tls_listeners,
    tls_of,
    tls_pids,
    tls_runs,
)
from support.waiting import eventually
from support.web_crowd import shake_hands, talking, web_listeners, worker_of
from websockets.exceptions import InvalidStatus

import mpchat
from mpchat.client.core import Connected, Disconnected, Message, Welcome

pytestmark = pytest.mark.one_python

BEGIN, END = "= begin =", "= end ="
# The first bytes of a client that speaks TLS, and the first byte of the server's answer.
HELLO, HANDSHAKE = first_bytes(), b"\x16"
# Seconds that an event of the library may take: a worker's death and the next one's start are in it.
SOON = 20.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def flags(authority: Authority) -> list[str]:
    chain, key = authority.issue("localhost", "127.0.0.1")
    return ["--tls-cert", str(chain), "--tls-key", str(key)]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, flags: list[str]) -> Iterator[Server]:
    """A server with TLS, for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("lasting")
    with running(folder, *flags) as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def server(folder: Path, flags: list[str]) -> Iterator[Server]:
    with running(folder, *flags, "--hang-timeout", "2s") as started:
        yield started


@contextmanager
def mixed(server: Server, authority: Authority, each: int = 2) -> Iterator[list[Listener]]:
    """Plain clients and WebSocket clients, unencrypted and over TLS: so many of each kind, in this order."""
    with (
        listeners(server, each) as plain,
        tls_listeners(server, authority, each) as secure,
        web_listeners(server, each) as web,
        web_listeners(server, each, authority) as secure_web,
    ):
        yield [*plain, *secure, *web, *secure_web]


def begin(crowd: Sequence[Listener]) -> None:
    crowd[0].say(BEGIN)
    everybody_hears(crowd, BEGIN)


def end(crowd: Sequence[Listener], counts: dict[str, int]) -> None:
    """Everybody is there, and has heard the same from the beginning on, each message once."""
    crowd[-1].say(END)
    everybody_hears(crowd, END)
    assert min(counts.values()) > 10
    assert_one_order(crowd, counts, BEGIN, END)
    assert [each.ended for each in crowd] == [None] * len(crowd)


def test_all_clients_hear_one_order_while_workers_are_replaced(shared: Server, authority: Authority) -> None:
    process = tls_pids(shared)
    with mixed(shared, authority) as crowd:
        begin(crowd)
        with talking([crowd[0], crowd[2], crowd[4], crowd[6]]) as counts:
            reload(shared)
            scale(shared, 3)
            scale(shared, 2)
        end(crowd, counts)
        assert tls_of(shared)["processes"][0]["connections"] == 4
    assert tls_pids(shared) == process


def test_clients_that_come_during_changes_are_all_served(shared: Server, authority: Authority) -> None:
    address, context = shared.address, authority.context()
    stop = threading.Event()
    served: list[int] = []

    def come_and_go() -> None:
        count = 0
        while not stop.is_set():
            with Encrypted(socket.create_connection(address, timeout=20), context, address[0]) as sock:
                sock.sendall(b"\0\0")
                assert b'"error"' in sock.recv(1000)
            count += 1
        served.append(count)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            reload(shared)
            scale(shared, 3)
            scale(shared, 2)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(served) == len(threads)
    assert sum(served) > 100
    shared.wait_for_connections(0)
    eventually(lambda: tls_of(shared)["processes"][0]["connections"] == 0, "no connection to be left")
    assert facts(shared)["connections"] == 0


def test_a_killed_worker_ends_its_own_clients_alone(server: Server, authority: Authority) -> None:
    with listeners(server, 2) as plain, tls_listeners(server, authority, 4) as secure:
        crowd = [*plain, *secure]
        before, process = worker_pids(server), tls_pids(server)
        count = connections(server)[0]
        assert connections(server) == [3, 3]
        kill(before[0])
        eventually(lambda: sum(each.ended is not None for each in crowd) == count, "the end of its clients")
        left = [each for each in crowd if each.ended is None]
        assert {type(each) for each in crowd if each.ended is not None} == {type(each) for each in left}
        begin(left)
        with talking(left) as counts:
            wait_until_running(server)
            reload(server)
        end(left, counts)
        assert sum(each.ended is not None for each in crowd) == count
        assert tls_pids(server) == process


def test_a_killed_tls_process_ends_its_own_clients_alone(server: Server, authority: Authority) -> None:
    with listeners(server, 2) as plain, tls_listeners(server, authority, 3) as secure:
        begin(plain)
        workers, [killed] = worker_pids(server), tls_pids(server)
        with talking(plain) as counts:
            kill(killed)
            eventually(lambda: all(each.ended is not None for each in secure), "the end of its clients")
            tls_runs(server, 1, [killed])
            with TlsClient(server.address, authority) as late:
                settle([late])
        end(plain, counts)
        assert worker_pids(server) == workers
        assert tls_of(server)["processes"][0]["restarts"] == 1
        server.wait_for_connections(2)
        assert facts(server)["connections"] == 2


def test_clients_wait_for_the_successor_of_a_killed_tls_process(server: Server, authority: Authority) -> None:
    [killed] = tls_pids(server)
    kill(killed)
    with TlsClient(server.address, authority) as first, TlsClient(server.address, authority) as second:
        settle([first, second])
        first.say("we are here")
        assert (first.hear(), second.hear()) == ("we are here", "we are here")
    assert tls_runs(server, 1, [killed])


def test_a_stopped_tls_process_is_replaced_and_others_chat_on(server: Server, authority: Authority) -> None:
    with listeners(server, 2) as plain, tls_listeners(server, authority, 2) as secure:
        begin(plain)
        [hung] = tls_pids(server)
        with talking(plain) as counts, stopped(hung):
            found = tls_runs(server, 1, [hung])
            with TlsClient(server.address, authority) as late:
                settle([late])
        end(plain, counts)
        assert found != [hung]
        eventually(lambda: all(each.ended is not None for each in secure), "the end of its clients")
        assert "killed: TLS process 1" in server.log


def test_first_bytes_that_came_while_a_worker_stood_still_decide(
    folder: Path, flags: list[str], authority: Authority
) -> None:
    """The worker goes on after the client's grace is over; what the client said in time is there by then."""
    with running(folder, *flags, "--listen-grace", "1s") as server, ExitStack() as stack:
        speakers = [stack.enter_context(Client(server.address)) for _ in range(2)]
        settle(speakers)
        client = stack.enter_context(Client(server.address))
        busy = worker_of(server, client)
        speakers[0].say("to be delivered")
        assert {each.hear() for each in speakers} == {"to be delivered"}
        with stopped(busy):
            client.sock.sendall(HELLO)
            last_for(1.2)
        assert client.sock.recv(1) == HANDSHAKE


def test_members_over_tls_have_names_rooms_and_private_messages(shared: Server, authority: Authority) -> None:
    address = shared.address
    with (
        TlsMember(address, authority) as alice,
        Member(address) as bob,
        TlsMember(address, authority) as cora,
    ):
        alice.join("앨리스")
        bob.join("bob")
        cora.join("cora", room="games")
        bob.ask(message="psst", to="앨리스")
        assert alice.hear_from_room("psst")["from"] == "bob"
        cora.ask(message="from another room", to="bob")
        assert bob.hear_from_room("from another room")["from"] == "cora"
        alice.join(room="games")
        alice.ask(message="안녕" * 5000)
        assert cora.hear_from_room("안녕" * 5000)["room"] == "games"
        bob.sync()
        assert not [each for each in bob.got if each.get("room") == "games" and "message" in each]


def test_the_library_resumes_over_tls_when_its_worker_was_killed(
    server: Server, authority: Authority
) -> None:
    host, port = server.address
    with (
        mpchat.connect_blocking(host, port, name="alice", tls=authority.context()) as alice,
        mpchat.connect_blocking(host, port, name="bob") as bob,
    ):
        token = alice.token
        alice.send("before")
        assert [each.recv(SOON).text for each in (alice, bob)] == ["before", "before"]
        for pid in worker_pids(server):
            kill(pid)
        events = [alice.next_event(SOON)]
        while not (isinstance(events[-1], Welcome) and events[-1].recovered):
            events.append(alice.next_event(SOON))
        assert any(isinstance(each, Disconnected) for each in events)
        assert any(isinstance(each, Connected) for each in events)
        alice.send("after")
        assert alice.recv(SOON).text == "after"
        assert bob.recv(SOON).text == "after"
        assert (alice.name, alice.token) == ("alice", token)


def test_the_asyncio_library_resumes_over_tls_when_the_tls_process_was_killed(
    server: Server, authority: Authority
) -> None:
    host, port = server.address

    async def scenario() -> list[str]:
        async with mpchat.connect(host, port, name="alice", tls=authority.context()) as alice:
            async with mpchat.connect(host, port, name="bob") as bob:
                kill(tls_pids(server)[0])
                await bob.send("missed")
                await bob.send("not missed")
                heard = [(await alice.recv(SOON)).text for _ in range(2)]
                await alice.send("back")
                return [*heard, *[(await bob.recv(SOON)).text for _ in range(3)]]

    assert asyncio.run(scenario()) == ["missed", "not missed", "missed", "not missed", "back"]


def test_a_name_is_taken_over_by_its_token_over_tls(shared: Server, authority: Authority) -> None:
    host, port = shared.address
    with TlsMember(shared.address, authority) as first:
        token = first.join("owner")["token"]
        first.ask(message="once")
        seq = first.hear_from_room("once")["seq"]
        first.sock.close()
        with mpchat.connect_blocking(
            host, port, name="owner", token=token, tls=authority.context()
        ) as second:
            welcome = second.next_event(SOON)
            while not isinstance(welcome, Welcome):
                welcome = second.next_event(SOON)
            assert (welcome.name, welcome.seq) == ("owner", seq)
            second.send("twice")
            message = second.next_event(SOON)
            while not (isinstance(message, Message) and message.text == "twice"):
                message = second.next_event(SOON)
            assert message.seq == seq + 1


def get(server: Server, authority: Authority, path: str) -> tuple[int, str, bytes]:
    connection = HTTPSConnection(*server.address, timeout=20, context=authority.context())
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.headers["Content-Type"], response.read()
    finally:
        connection.close()


def test_the_page_is_served_over_https_and_may_connect_from_there(
    shared: Server, authority: Authority
) -> None:
    status, kind, page = get(shared, authority, "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    assert page.startswith(b"<!doctype html>")
    assert get(shared, authority, "/healthz")[::2] == (200, b"the server's loop turns\n")
    status, kind, script = get(shared, authority, "/mpchat.js")
    assert status == 200
    assert "javascript" in kind
    assert len(script) > 10_000
    address = shared.address
    at = f"{address[0]}:{address[1]}"
    with shake_hands(address, sock=Encrypted.connect_to(address, authority), Origin=f"https://{at}") as web:
        web.ping().wait(20)
    with pytest.raises(InvalidStatus) as raised:
        shake_hands(address, sock=Encrypted.connect_to(address, authority), Origin="https://evil.example")
    assert raised.value.response.status_code == 403


def test_what_a_client_says_last_is_heard_and_answered(shared: Server, authority: Authority) -> None:
    """A client ends its half of the stream: what it said is heard, and then the server ends its own."""
    with TlsClient(shared.address, authority) as client, Client(shared.address) as other:
        settle([other])
        client.say("my last words")
        client.sock.shutdown(socket.SHUT_WR)
        assert other.hear() == "my last words"
        assert client.hear() == "my last words"
        assert client.receive() is None


def said_and_closed(address: tuple[str, int], authority: Authority, texts: Sequence[str]) -> None:
    with mpchat.connect_blocking(*address, tls=authority.context()) as chat:
        for text in texts:
            chat.send(text)


async def said_and_closed_by_asyncio(
    address: tuple[str, int], authority: Authority, texts: Sequence[str]
) -> None:
    async with mpchat.connect(*address, tls=authority.context()) as chat:
        for text in texts:
            await chat.send(text)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_what_a_chat_of_the_library_says_before_it_is_closed_arrives(
    shared: Server, authority: Authority, kind: str
) -> None:
    """Its own messages come back meanwhile: a close with unread input would reset the connection."""
    texts = [f"{number} {kind}" + " " * 15_000 for number in range(200)]
    with listeners(shared, 1) as [other]:
        if kind == "blocking":
            said_and_closed(shared.address, authority, texts)
        else:
            asyncio.run(said_and_closed_by_asyncio(shared.address, authority, texts))
        everybody_hears([other], texts[-1], 10.0)
        assert [text for text in other.texts if kind in text] == texts


def test_a_closed_chat_of_the_library_leaves_no_thread_and_no_descriptor(
    shared: Server, authority: Authority
) -> None:
    context = authority.context()
    before = threading.active_count()

    async def chat() -> None:
        async with mpchat.connect(*shared.address, tls=context) as chat:
            await chat.send("hello")
            await chat.recv(SOON)

    def ended() -> bool:
        return threading.active_count() == before

    asyncio.run(chat())  # what it loads once
    eventually(ended, "the thread that encrypts to end", 5.0)
    with nothing_left_behind():
        for _ in range(5):
            with mpchat.connect_blocking(*shared.address, tls=context) as blocking:
                blocking.send("hello")
                while blocking.recv(SOON).text != "hello":  # a notice of the one before
                    pass
            asyncio.run(chat())
        with pytest.raises(mpchat.ConnectError, match="not to be trusted"):
            mpchat.connect_blocking(*shared.address, tls=True)
        eventually(ended, "the threads that encrypt to end", 5.0)


def test_the_tls_process_ends_with_a_killed_supervisor_and_the_next_start_works(
    folder: Path, flags: list[str], authority: Authority
) -> None:
    with running(folder, *flags) as server, TlsClient(server.address, authority) as client:
        settle([client])
        processes = [psutil.Process(pid) for pid in (*worker_pids(server), *tls_pids(server))]
        kill(server.pid)
        with pytest.raises(OSError, match=r"EOF|reset"):
            client.receive()
        all_gone(processes, 10.0)
        eventually(lambda: not leftovers(folder), "nothing to be left of it", pause=0.05)
        server.start(*flags)
        with TlsClient(server.address, authority) as late:
            settle([late])


def test_descriptors_of_the_tls_process_are_given_back(shared: Server, authority: Authority) -> None:
    [pid] = tls_pids(shared)
    process, context = psutil.Process(pid), authority.context()
    address = shared.address

    def come_and_go(number: int) -> None:
        sock = Encrypted(socket.create_connection(address, timeout=20), context, address[0])
        if number % 2:
            sock.sendall(b"\0\0")
            assert sock.recv(2)
        sock.close()

    come_and_go(1)
    shared.wait_for_connections(0)
    eventually(lambda: tls_of(shared)["processes"][0]["connections"] == 0, "no connection to be left")
    before = process.num_fds()
    for number in range(200):
        come_and_go(number)
    shared.wait_for_connections(0)
    eventually(lambda: process.num_fds() <= before, f"{before} descriptors again")
    assert process.num_fds() == before
    assert tls_of(shared)["processes"][0]["connections"] == 0
    assert facts(shared)["connections"] == 0
