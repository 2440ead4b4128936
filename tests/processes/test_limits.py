"""Limits: of connections, time, descriptors and patience with slow clients. Reaching one harms nobody."""

import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count, islice
from pathlib import Path

import psutil
import pytest
from support.crowd import (
    connected,
    connections,
    descriptors_given_back,
    everybody_heard_of_leaving,
    everybody_hears,
    facts,
    last_for,
    listeners,
    worker_pids,
)
from support.harness import (
    Client,
    Server,
    clients,
    commands_served,
    frame,
    introduce,
    running,
    settle,
    stopped,
)
from support.waiting import eventually

from mpchat.errors import MpchatError

pytestmark = pytest.mark.one_python

END = "= end ="


def refused(client: Client) -> str:
    """The code that a refused client is told before the orderly end."""
    answer = client.receive()
    assert answer is not None
    assert client.receive() is None
    return str(answer["error"]["code"])


def is_served(address: tuple[str, int], source: str = "127.0.0.1") -> bool:
    with Client(address, source=source) as client:
        client.send_raw(b"\0\0")
        answer = client.receive()
        while answer is not None and "error" not in answer:  # a notice about the one before
            answer = client.receive()
        return answer is not None and answer["error"]["code"] != "full"


def ended(server: Server, reason: str) -> int:
    """How many connections the workers say they have ended for this reason."""
    return sum(each["ended"].get(reason, 0) for each in facts(server)["workers"])


def end_of(client: Client) -> str:
    """Read to the end of the stream and say how it ended."""
    try:
        while client.sock.recv(1 << 16):
            pass
    except ConnectionError as error:
        return str(error)
    return ""


# Connections.


def test_one_client_more_than_fit_is_told_full_and_there_is_room_when_one_leaves(folder: Path) -> None:
    with running(folder, "--max-connections", "3") as server, clients(server, 3) as inside:
        for _ in range(5):
            with Client(server.address) as outside:
                assert refused(outside) == "full"
        inside[0].say("still here")
        assert inside[2].hear() == "still here"
        assert facts(server)["refused"] == 5
        inside[1].close()
        eventually(lambda: is_served(server.address), "room for another client")


def test_one_client_more_than_an_address_may_have(folder: Path) -> None:
    with running(folder, "--max-per-address", "2", workers=1) as server, clients(server, 2) as inside:
        with Client(server.address) as outside:
            assert refused(outside) == "full"
        assert is_served(server.address, "127.0.0.2")
        inside[0].close()
        eventually(lambda: is_served(server.address), "room for another client of the address")


def answer_code(address: tuple[str, int], source: str = "127.0.0.1") -> str:
    """The code of the error that a client gets for an empty frame, or for coming at all."""
    with Client(address, source=source) as client:
        with suppress(OSError):
            client.send_raw(b"\0\0")
        answer = client.receive()
        while answer is not None and "error" not in answer:  # a notice about the one before
            answer = client.receive()
        assert answer is not None
        return str(answer["error"]["code"])


def test_an_address_that_connects_too_fast_is_told_so_and_others_come_in(folder: Path) -> None:
    with (
        running(folder, "--connect-rate", "1", "--connect-burst", "3", workers=1) as server,
        Client(server.address, source="127.0.0.2") as other,
    ):
        begun = time.monotonic()
        codes = [answer_code(server.address) for _ in range(20)]
        served = len(codes) - codes.count("too_fast")
        assert 3 <= served <= 4 + time.monotonic() - begun
        assert facts(server)["refused_by_code"] == {"too_fast": codes.count("too_fast")}
        assert answer_code(server.address, "127.0.0.2") == "not_json"
        other.say("still here")
        other.hear_until("still here")
        eventually(lambda: answer_code(server.address) == "not_json", "a place after a while")


def test_a_client_that_says_nothing_is_ended_by_the_idle_timeout(folder: Path) -> None:
    with running(folder, "--idle-timeout", "2s", workers=1) as server, listeners(server, 2) as (busy, idle):
        begun = time.monotonic()
        while idle.ended is None:
            busy.say("awake")
            last_for(0.1)
            assert time.monotonic() - begun < 20.0, "the idle client is still there"
        assert time.monotonic() - begun > 1.5
        assert busy.ended is None
        eventually(lambda: ended(server, "idle") == 1, "the counter")


def test_half_a_frame_is_ended_by_the_frame_timeout_and_progress_is_not(folder: Path) -> None:
    with running(folder, "--frame-timeout", "2s", workers=1) as server, listeners(server, 3) as crowd:
        quiet, half, slow = crowd
        whole = frame("piece by piece")
        half.send_raw(whole[:5])
        slow.send_raw(whole[:5])
        begun = time.monotonic()
        while half.ended is None:
            slow.send_raw(whole[5:] + whole[:5])
            last_for(0.1)
            assert time.monotonic() - begun < 20.0, "the client with half a frame is still there"
        assert time.monotonic() - begun > 1.5
        assert slow.ended is None
        assert quiet.ended is None
        eventually(lambda: ended(server, "half a frame") == 1, "the counter")


def test_half_a_frame_and_then_quiet_bothers_nobody(shared: Server) -> None:
    with listeners(shared, 4) as crowd:
        crowd[0].send_raw(frame("never finished")[:1])
        crowd[1].send_raw(frame("never finished")[:9])
        for number in range(100):
            crowd[2].say(f"{number}")
        crowd[3].say(END)
        everybody_hears(crowd, END)


# Slow clients.


def test_a_client_that_never_reads_is_cut_off_and_the_others_get_everything(folder: Path) -> None:
    with running(folder, "--lag-limit", "1m", workers=1) as server, connected(server.address, 1) as stalled:
        introduce(stalled)
        with listeners(server, 4) as crowd:
            text = " " * 50_000
            for number in range(300):
                crowd[0].say(f"{number}{text}")
                if number % 8 == 7:  # on a busy machine these would be slow consumers too, and rightly
                    everybody_hears(crowd, f"{number}{text}")
            crowd[0].say(END)
            everybody_hears(crowd, END)
            texts = [each for each in crowd[3].texts if each.endswith(text)]
            assert texts == [f"{number}{text}" for number in range(300)]
            eventually(lambda: ended(server, "slow consumer") == 1, "the slow client to be cut off")
            assert "slow consumer" in server.log
            everybody_heard_of_leaving(crowd, 1)


def test_a_reader_of_a_byte_at_a_time_bothers_nobody(shared: Server) -> None:
    leave = threading.Event()

    def read_slowly(client: Client) -> None:
        with suppress(OSError):
            while not leave.wait(0.1) and client.sock.recv(1):
                pass

    with connected(shared.address, 1) as slow, listeners(shared, 3) as crowd:
        settle(slow)
        thread = threading.Thread(target=read_slowly, args=slow)
        thread.start()
        for _ in range(60):
            crowd[0].say(" " * 50_000)
        crowd[0].say(END)
        everybody_hears(crowd, END)
        assert facts(shared)["connections"] == 4
        leave.set()
        thread.join()


def test_a_storm_of_five_hundred_that_leave_at_one_moment_shares_few_notices(shared: Server) -> None:
    with descriptors_given_back(shared), listeners(shared, 2) as crowd:
        with connected(shared.address, 500) as storm:
            introduce(storm)
        everybody_heard_of_leaving(crowd, 500)
        notices = [text for text in crowd[0].texts if text.startswith(" Disconnect : ")]
        assert len(notices) <= 50
        assert max(map(len, notices)) < 1_000


# Descriptors.


def limit_that_leaves(pid: int, free: int) -> int:
    """The limit under which a process can open ``free`` more: numbers below it that are not in use."""
    used = {int(each) for each in os.listdir(f"/proc/{pid}/fd")}
    unused = (number for number in count() if number not in used)
    return next(islice(unused, free, None))


@contextmanager
def short_of_descriptors(pid: int, free: int) -> Iterator[None]:
    """Lower a running process's limit to what it uses and ``free`` more."""
    process = psutil.Process(pid)
    eventually(lambda: not commands_served(process), "the last command's connection to be closed")
    before = process.rlimit(psutil.RLIMIT_NOFILE)
    process.rlimit(psutil.RLIMIT_NOFILE, (limit_that_leaves(pid, free), before[1]))
    try:
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            process.rlimit(psutil.RLIMIT_NOFILE, before)


def cpu_share(pid: int, seconds: float) -> float:
    process = psutil.Process(pid)
    begun, used = time.monotonic(), sum(process.cpu_times()[:2])
    last_for(seconds)
    return float(sum(process.cpu_times()[:2]) - used) / (time.monotonic() - begun)


def test_a_supervisor_out_of_descriptors_neither_spins_nor_floods_the_log_and_recovers(
    shared: Server,
) -> None:
    """The workers are stopped, so every client that is let in keeps a descriptor of the supervisor."""
    found = facts(shared)
    address = shared.address
    lines = shared.log.count("\n")
    with descriptors_given_back(shared), ExitStack() as fault:
        for each in found["workers"]:
            fault.enter_context(stopped(each["pid"]))
        fault.enter_context(short_of_descriptors(found["pid"], 5))
        with connected(address, 60) as waiting:
            assert cpu_share(found["pid"], 2.0) < 0.1
            assert shared.log.count("\n") - lines < 20
            answered, _, _ = select.select([each.sock for each in waiting], [], [], 0)
            assert 0 < len(answered) < 60, "some are told full, at a pace that costs little"
            fault.close()
            eventually(lambda: is_served(address), "the server to let clients in again")


def test_a_supervisor_without_one_descriptor_does_not_spin_over_a_command(shared: Server) -> None:
    pid = facts(shared)["pid"]
    with short_of_descriptors(pid, 0):
        asking = threading.Thread(target=ask_in_vain, args=(shared,))
        asking.start()
        assert cpu_share(pid, 2.0) < 0.1
    asking.join()
    assert facts(shared)["pid"] == pid


def ask_in_vain(server: Server) -> None:
    with suppress(MpchatError):
        facts(server)


def test_a_worker_killed_while_the_supervisor_has_no_descriptors_is_replaced_later(folder: Path) -> None:
    with running(folder, workers=1) as server:
        victim = worker_pids(server)[0]
        with short_of_descriptors(facts(server)["pid"], 0):
            psutil.Process(victim).kill()
            last_for(1.0)
        eventually(
            lambda: [each["state"] for each in facts(server)["workers"]] == ["RUNNING"], "a new worker", 40.0
        )
        assert worker_pids(server) != [victim]


def test_a_worker_out_of_descriptors_gives_its_connections_to_another(shared: Server) -> None:
    pids = worker_pids(shared)
    with descriptors_given_back(shared), short_of_descriptors(pids[0], 3):
        with connected(shared.address, 40) as crowd:
            settle(crowd)
            counts = connections(shared)
            assert sum(counts) == 40
            assert counts[0] <= 4


def test_all_workers_out_of_descriptors_is_told_as_full_and_ends_with_it(shared: Server) -> None:
    address = shared.address
    with descriptors_given_back(shared):
        with ExitStack() as fault:
            for pid in worker_pids(shared):
                fault.enter_context(short_of_descriptors(pid, 0))
            with connected(address, 5) as crowd:
                assert [refused(each) for each in crowd] == ["full"] * 5
        eventually(lambda: is_served(address), "the workers to take clients again")


def test_three_thousand_connect_and_leave_and_no_descriptor_stays(shared: Server) -> None:
    address = shared.address
    with descriptors_given_back(shared):
        for number in range(3000):
            client = Client(address)
            if number % 3 == 0:
                client.say("x")
            client.reset() if number % 2 else client.close()
        eventually(lambda: facts(shared)["connections"] == 0, "all to be gone")


def test_four_hundred_clients_are_spread_evenly_over_four_workers(folder: Path) -> None:
    with running(folder, workers=4) as server, connected(server.address, 400) as crowd:
        settle(crowd)
        assert all(95 <= each <= 105 for each in connections(server)), connections(server)


# Multiplexers.


@pytest.mark.parametrize("name", ["select", "poll", *(["epoll"] if sys.platform == "linux" else [])])
def test_each_multiplexer_serves_also_clients_that_cannot_take_all_at_once(folder: Path, name: str) -> None:
    with running(folder, "--multiplexer", name, workers=1) as server:
        with connected(server.address, 2) as late, listeners(server, 2) as crowd:
            settle(late)
            for number in range(60):
                crowd[0].say(f"{number}" + " " * 50_000)
            crowd[0].say(END)
            everybody_hears(crowd, END)
            for each in late:
                assert len(each.hear_until(END)) == 61
        eventually(partial(nobody_left, server), "everybody to be gone")


def nobody_left(server: Server) -> bool:
    return sum(connections(server)) == 0
