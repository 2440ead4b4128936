"""TLS, its limits and its end: addresses, clients that are refused, handshakes that never end, a stop."""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest
from support.changing import all_gone
from support.crowd import everybody_hears, facts, listeners
from support.harness import Client, Server, assert_nothing_left, running, settle, stopped
from support.tls import Authority
from support.tls_peer import TlsClient, TlsMember, first_bytes, refused_alert, tls_listeners, tls_of, tls_pids
from support.waiting import eventually

pytestmark = pytest.mark.one_python

FAREWELL = "The server is stopping."
ELSEWHERE = "127.0.0.9"
# Handshakes that never end, all from one address: a few more than may be under way. The process ends the
# oldest of them then, and the others after 10 s.
UNFINISHED = 1050
# Seconds that ending may take beyond what was set, on a machine that is busy with something else.
MARGIN = 6.0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def flags(authority: Authority) -> list[str]:
    chain, key = authority.issue("127.0.0.1")
    return ["--tls-cert", str(chain), "--tls-key", str(key)]


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, flags: list[str]) -> Iterator[Server]:
    """A server with TLS, for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("lasting")
    with running(folder, *flags) as started:
        yield started
    assert_nothing_left(folder)


def test_a_notice_tells_the_clients_own_address(shared: Server, authority: Authority) -> None:
    with Client(shared.address) as plain:
        with TlsClient(shared.address, authority, source=ELSEWHERE) as client:
            settle([plain, client])
            address = client.address
            client.say("hello")
            assert client.hear() == plain.hear() == "hello"
        assert address.startswith(f"{ELSEWHERE}:")
        assert plain.hear() == f" Disconnect : {address} "


def test_a_kick_and_a_ban_of_an_address_mean_clients_over_tls_too(
    shared: Server, authority: Authority
) -> None:
    with (
        TlsClient(shared.address, authority) as stays,
        TlsClient(shared.address, authority, source=ELSEWHERE) as kicked,
        TlsMember(shared.address, authority, source=ELSEWHERE) as banned,
    ):
        settle([stays, kicked])
        banned.join("banned")
        done = shared.command("kick", kicked.address)
        assert (done.returncode, done.stdout) == (0, "1 connection ended\n")
        while kicked.receive() is not None:
            pass
        done = shared.command("ban", ELSEWHERE)
        assert (done.returncode, done.stdout) == (0, f"{ELSEWHERE} is banned for good; 1 connection ended\n")
        while banned.receive() is not None:
            pass
        assert refused_alert(shared.address, authority, source=ELSEWHERE) == "TLSV1_ALERT_ACCESS_DENIED"
        assert shared.command("unban", ELSEWHERE).returncode == 0
        with TlsClient(shared.address, authority, source=ELSEWHERE) as back:
            settle([back])
        stays.say("still here")
        assert "still here" in stays.hear_until("still here")


def test_a_full_server_and_a_full_address_refuse_a_client_over_tls_by_an_alert(
    folder: Path, flags: list[str], authority: Authority
) -> None:
    with (
        running(folder, *flags, "--max-per-address", "2", "--max-connections", "3") as server,
        TlsClient(server.address, authority, source=ELSEWHERE) as first,
        Client(server.address, source=ELSEWHERE) as second,
    ):
        settle([first, second])
        assert refused_alert(server.address, authority, source=ELSEWHERE) == "TLSV1_ALERT_ACCESS_DENIED"
        with TlsClient(server.address, authority) as third:
            settle([third])
            assert refused_alert(server.address, authority, source="127.0.0.7") == "TLSV1_ALERT_ACCESS_DENIED"
        assert facts(server)["refused_by_code"] == {"full": 2}
        server.wait_for_connections(2)
        first.close()
        server.wait_for_connections(1)
        with TlsClient(server.address, authority, source=ELSEWHERE) as again:
            settle([again])


def test_handshakes_that_never_end_disturb_nobody_and_leave_nothing(
    shared: Server, authority: Authority
) -> None:
    [pid] = tls_pids(shared)
    process = psutil.Process(pid)
    before = process.num_fds()
    whole = first_bytes()
    with listeners(shared, 1) as plain, tls_listeners(shared, authority, 1) as secure, ExitStack() as stack:
        crowd = [*plain, *secure]
        for number in range(UNFINISHED):
            sock = socket.create_connection(shared.address, timeout=20, source_address=(ELSEWHERE, 0))
            stack.enter_context(sock)
            sock.sendall(whole if number % 2 else whole[:50])
            if number % 100 == 0:
                crowd[number // 100 % 2].say(f"among {number}")
                everybody_hears(crowd, f"among {number}")
        eventually(lambda: tls_of(shared)["processes"][0]["shaking"] > UNFINISHED // 2, "handshakes")
        rounds = 0
        while tls_of(shared)["processes"][0]["shaking"]:
            rounds += 1
            begun = time.monotonic()
            crowd[rounds % 2].say(f"round {rounds}")
            everybody_hears(crowd, f"round {rounds}")
            with TlsClient(shared.address, authority) as late:
                settle([late])
            assert time.monotonic() - begun < 2.0
            assert rounds < 1000
        assert rounds > 3
        ended = tls_of(shared)["processes"][0]["ended"]
        assert ended["too many handshakes"] > 0
        assert ended["too many handshakes"] + ended["slow handshake"] == UNFINISHED
        shared.wait_for_connections(2)
        assert facts(shared)["connections"] == 2
        assert [each.ended for each in crowd] == [None, None]
    shared.wait_for_connections(0)
    eventually(lambda: process.num_fds() <= before, f"{before} descriptors again")
    assert tls_pids(shared) == [pid]


def test_a_stop_gives_clients_the_farewell_and_an_orderly_end(
    folder: Path, flags: list[str], authority: Authority
) -> None:
    with running(folder, *flags) as server, TlsMember(server.address, authority) as member:
        member.join("alice")
        with tls_listeners(server, authority, 40) as crowd:
            processes = server.processes()
            crowd[0].say("hello")
            everybody_hears(crowd, "hello")
            assert server.stop().returncode == 0
            all_gone(processes)
            eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
            # In order: behind a close_notify.
            assert {each.ended for each in crowd} == {""}
            assert all(each.heard(FAREWELL) for each in crowd)
        assert member.hear_from_room(FAREWELL)
        assert member.receive() is None
        assert not (server.instance_folder / "control.sock").exists()
        assert_nothing_left(folder)


def test_a_stop_ends_in_time_with_a_client_over_tls_that_never_reads(
    folder: Path, flags: list[str], authority: Authority
) -> None:
    with (
        running(folder, *flags, "--stop-timeout", "2s") as server,
        TlsClient(server.address, authority) as deaf,
        tls_listeners(server, authority, 2) as crowd,
    ):
        settle([deaf])
        for number in range(80):
            crowd[0].say(f"{number}" + " " * 50_000)
        crowd[0].say("all said")
        everybody_hears(crowd, "all said")
        eventually(lambda: any(each["late"] for each in facts(server)["workers"]), "a client to be late")
        processes = server.processes()
        begun = time.monotonic()
        assert server.stop().returncode == 0
        assert time.monotonic() - begun < 2.0 + MARGIN
        all_gone(processes)
        eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
        assert [(each.ended, each.heard(FAREWELL)) for each in crowd] == [("", True)] * 2
        assert_nothing_left(folder)


def test_a_stop_ends_in_time_with_a_tls_process_that_is_stopped(
    folder: Path, flags: list[str], authority: Authority
) -> None:
    with (
        running(folder, *flags, "--stop-timeout", "2s") as server,
        tls_listeners(server, authority, 2) as secure,
        listeners(server, 2) as plain,
    ):
        processes = server.processes()
        with stopped(tls_pids(server)[0]):
            begun = time.monotonic()
            assert server.stop().returncode == 0
            assert time.monotonic() - begun < 2.0 + MARGIN
            all_gone(processes)
        eventually(lambda: all(each.ended is not None for each in (*plain, *secure)), "connections to end")
        assert [(each.ended, each.heard(FAREWELL)) for each in plain] == [("", True)] * 2
        assert "killed: TLS processes" in server.log
        assert_nothing_left(folder)


def test_a_stop_that_kills_leaves_no_tls_process(
    folder: Path, flags: list[str], authority: Authority
) -> None:
    with running(folder, *flags) as server, tls_listeners(server, authority, 2) as crowd:
        pids = [server.pid, *server.worker_pids, *tls_pids(server)]
        processes = [psutil.Process(pid) for pid in pids]
        for each in processes:
            each.suspend()
        assert server.stop("--timeout", "1", "--kill").returncode == 0
        all_gone(processes)
        eventually(lambda: all(each.ended is not None for each in crowd), "connections to end")
        assert_nothing_left(folder)
