"""``mpchat clients`` and the clients that were cut off, with real servers."""

import json
import resource
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any

import pytest
from support.harness import MPCHAT, Client, Server, assert_nothing_left, clients, running, settle, stopped
from support.members import Member
from support.said import FAILED, OK
from support.tls import Authority
from support.tls_peer import Encrypted
from support.waiting import PATIENCE, eventually
from support.websocket_peer import HANDSHAKE

from mpchat.control.client import ask
from mpchat.control.requests import Clients
from mpchat.errors import Exit
from mpchat.ipc.listing import PAGE

pytestmark = pytest.mark.one_python

# Connections of the large test, and the descriptors that this process needs for them.
MANY = 5000
DESCRIPTORS = MANY + 500


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("lasting")
    chain, key = authority.issue("127.0.0.1")
    flags = ["--tls-cert", str(chain), "--tls-key", str(key), "--hang-timeout", "1m"]
    with running(folder, *flags, "--connect-rate", "0") as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def shared(lasting: Server) -> Iterator[Server]:
    yield lasting
    lasting.wait_for_connections(0)


def listed(server: Server, *words: str) -> dict[str, Any]:
    """Return the rows of ``mpchat clients --json`` by address; no address is there twice."""
    done = server.command("clients", "--json", *words)
    assert (done.returncode, done.stderr) == (OK, "")
    answer = json.loads(done.stdout)
    rows = {each["address"]: each for each in answer["clients"]}
    assert len(rows) == len(answer["clients"])
    assert answer["silent_workers"] == []
    return rows


def test_each_kind_of_client_has_its_row(shared: Server, authority: Authority) -> None:
    with ExitStack() as stack:
        plain, silent, browser = [stack.enter_context(Client(shared.address)) for _ in range(3)]
        alice = stack.enter_context(Member(shared.address))
        secure = stack.enter_context(closing(Encrypted.connect_to(shared.address, authority)))
        settle([plain])
        browser.send_raw(HANDSHAKE)
        assert browser.sock.recv(12) == b"HTTP/1.1 101"
        alice.join("앨리스", room="게임-7")
        secure.sendall(b"\0\x02{}")
        assert secure.recv(1000)
        secure_address = "{}:{}".format(*secure.getsockname())
        shared.wait_for_connections(5)
        rows = listed(shared)

        def facts(address: str) -> list[Any]:
            return [rows[address][each] for each in ("name", "room", "protocol", "tls", "state")]

        assert len(rows) == 5
        assert facts(plain.address) == ["", "lobby", "plain", False, "served"]
        assert facts(silent.address) == ["", "lobby", None, False, "served"]
        assert facts(browser.address) == ["", "lobby", "websocket", False, "served"]
        assert facts(alice.address) == ["앨리스", "게임-7", "plain", False, "served"]
        assert facts(secure_address) == ["", "lobby", "plain", True, "served"]
        assert {each["worker"] for each in rows.values()} == {1, 2}
        assert list(listed(shared, "--room", "게임-７")) == [alice.address]
        assert alice.address not in listed(shared, "--room", "lobby")
        head, row = shared.command("clients", "--room", "게임-7").stdout.splitlines()
        assert head.split() == ["address", "name", "room", "protocol", "age", "silent", "behind", "worker"]
        assert row.split()[:4] == [alice.address, "앨리스", "게임-7", "plain"]
        done = shared.command("clients", "--room", "\x1b[31mred")
        assert done.returncode == FAILED
        assert "there is no room" in done.stderr
        assert "\x1b" not in done.stderr


def test_a_client_that_stays_is_listed_once_while_workers_are_replaced(shared: Server) -> None:
    with clients(shared, 300) as joined:
        before = listed(shared)
        reload = subprocess.Popen(
            [*MPCHAT, "reload"], env=shared.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        lists = 0
        while reload.poll() is None or not lists:
            rows = listed(shared)
            assert set(rows) == {each.address for each in joined}
            lists += 1
        assert reload.communicate()[1] == b""
        assert lists > 1
        after = listed(shared)
        for address, row in after.items():
            assert row["since"] == pytest.approx(before[address]["since"], abs=0.1)
            assert row["silent"] >= before[address]["silent"]


def test_a_worker_that_does_not_answer_is_named_and_the_others_are_listed(shared: Server) -> None:
    with clients(shared, 4), stopped(shared.worker_pids[0]):
        done = shared.command("clients", "--json")
        assert done.returncode == Exit.TIMED_OUT
        assert "no answer from worker 1;" in done.stderr
        answer = json.loads(done.stdout)
        assert answer["silent_workers"] == [1]
        assert [each["worker"] for each in answer["clients"]] == [2, 2]


def test_a_kicked_client_is_among_those_cut_off_with_its_name(shared: Server) -> None:
    with Member(shared.address) as bob:
        bob.join("bob")
        shared.command("kick", "bob")
        last = eventually(lambda: shared.status()["cut_off"], "a client that was cut off")[-1]
        assert (last["name"], last["address"], last["reason"]) == ("bob", bob.address, "kicked")
    assert "kicked" in shared.command("status").stdout


@contextmanager
def descriptors(count: int) -> Iterator[None]:
    """Let this process have so many, or skip the test."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} descriptors, this process may have {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_many_clients_are_listed_in_small_pages_while_others_talk(shared: Server) -> None:
    done = threading.Event()
    talked: list[int] = []

    def has_talked(before: int) -> bool:
        return len(talked) > before

    def talk(alice: Member) -> None:
        while not done.is_set():
            alice.ask(message="안녕")
            alice.until("message")
            talked.append(len(talked))

    with descriptors(DESCRIPTORS), ExitStack() as stack:
        crowd = [stack.enter_context(Client(shared.address)) for _ in range(MANY)]
        alice = stack.enter_context(Member(shared.address))
        alice.join("앨리스", room="게임")
        eventually(lambda: shared.status()["connections"] == MANY + 1, "all clients", PATIENCE)
        thread = threading.Thread(target=talk, args=(alice,))
        thread.start()
        stack.callback(thread.join)
        stack.callback(done.set)
        found: list[str] = []
        after: int | None = 0
        while after is not None:
            said = len(talked)
            page = ask(shared.instance_folder / "control.sock", Clients(after), 30.0).result
            assert len(page["clients"]) <= PAGE
            found += [each["address"] for each in page["clients"]]
            after = page["next"]
            eventually(partial(has_talked, said), "an innocent client's message")
        assert len(found) == len(set(found)) == MANY + 1
        assert set(found) == {each.address for each in (*crowd, alice)}
