"""One order: every client sees the same messages in the same order, each exactly once, whatever happens."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from support.crowd import (
    Listener,
    Sender,
    Window,
    assert_one_order,
    by_sender,
    everybody_heard_of_leaving,
    everybody_hears,
    facts,
    last_for,
    listeners,
    numbered,
    sending,
    wait_until_running,
    worker_pids,
)
from support.harness import Client, Server, assert_nothing_left, frame, running, settle, stopped
from support.waiting import eventually

from mpchat.hub.sequencer import NOTICE_GATHER

pytestmark = pytest.mark.one_python

BEGIN, END = "= begin =", "= end ="
# Spaces that make a frame nearly as long as a payload may be.
BIG = 59_000
# Bytes that senders may be ahead of what everybody has heard: many times the window of a channel, and half of
# the default lag limit. On a busy machine the threads that read here may have to wait.
WINDOW = 4 << 20


@pytest.fixture(scope="module")
def lasting_four(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with four workers, for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("four")
    with running(folder, workers=4) as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def four(lasting_four: Server) -> Server:
    """The file's server with four workers that serve, no client, and no notice that is still to come."""
    assert len(lasting_four.wait_until_running()["workers"]) == 4
    lasting_four.wait_for_connections(0)
    last_for(3 * NOTICE_GATHER)
    return lasting_four


def wait_for_last(crowd: Sequence[Listener], senders: Sequence[Sender]) -> None:
    """Wait until each sender's last message is in the order: the first listener has heard it."""
    for sender in senders:
        sender.thread.join()
        everybody_hears(crowd[:1], sender.texts[-1])


def chat_and_compare(crowd: Sequence[Listener], texts: Sequence[Sequence[str]]) -> None:
    """Everybody sends everything; then all streams are compared."""
    crowd[0].say(BEGIN)
    everybody_hears(crowd, BEGIN)
    with sending(crowd[: len(texts)], texts) as senders:
        wait_for_last(crowd, senders)
    finish(crowd, {str(number): len(each) for number, each in enumerate(texts)})


def finish(crowd: Sequence[Listener], counts: dict[str, int]) -> None:
    crowd[0].say(END)
    everybody_hears(crowd, END)
    assert_one_order(crowd, counts, BEGIN, END)


def test_sixteen_senders_at_full_speed_on_four_workers(four: Server) -> None:
    with listeners(four, 16) as crowd:
        chat_and_compare(crowd, [numbered(str(number), 1000) for number in range(16)])


def test_frames_of_59_kilobytes_among_small_ones(four: Server) -> None:
    with listeners(four, 8) as crowd:
        chat_and_compare(crowd, [numbered(str(number), 200, BIG) for number in range(8)])


def test_a_supervisor_stopped_between_the_pieces_of_frames_of_59_kilobytes(shared: Server) -> None:
    """A worker's beats overtake what waits for the window, also between the pieces of one frame."""
    supervisor = facts(shared)["pid"]
    texts = [[f"{name} {number}" + " " * BIG for number in range(200)] for name in "01"]
    with listeners(shared, 4) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        with sending(crowd[:2], texts, Window(crowd, WINDOW)) as senders:
            with stopped(supervisor):
                last_for(2.5)
            wait_for_last(crowd, senders)
        finish(crowd, {"0": 200, "1": 200})


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_senders_that_leave_right_after_their_last_message(four: Server, leave: str) -> None:
    count = 300
    with listeners(four, 4) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        leavers = [Client(four.address) for _ in range(12)]
        settle(leavers)
        addresses = [each.address for each in leavers]
        for number, each in enumerate(leavers):
            each.send_raw(b"".join(map(frame, numbered(str(number), count))))
            each.reset() if leave == "reset" else each.close()
        eventually(lambda: facts(four)["connections"] == 4, "the leavers to be gone")
        everybody_heard_of_leaving(crowd, len(leavers))
        finish(crowd, {str(number): count for number in range(len(leavers))})
        heard = crowd[0].texts
        for number, address in enumerate(addresses):
            notice = next((place for place, text in enumerate(heard) if f"{address} " in text), len(heard))
            assert heard.index(f"{number} {count - 1}") < notice, "the notice came before the last message"


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_sender_that_leaves_while_its_worker_sleeps_and_others_chat(shared: Server, leave: str) -> None:
    """What it sent is read to the end although sending to it fails first."""
    with listeners(shared, 2) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        sender = Client(shared.address)
        settle([sender])
        pid = worker_of_the_third(shared)
        texts = numbered("0", 150, 10_000)
        with stopped(pid):
            sender.send_raw(b"".join(map(frame, texts)))
            for number in range(100):
                crowd[0].say(f"x{number}")
                crowd[1].say(f"y{number}")
            sender.reset() if leave == "reset" else sender.close()
        everybody_heard_of_leaving(crowd, 1)
        finish(crowd, {"0": len(texts)})


def worker_of_the_third(server: Server) -> int:
    """Three connections on two workers: the one with two of them has the last comer or shares it."""
    workers = facts(server)["workers"]
    return int(max(workers, key=lambda each: each["connections"])["pid"])


def test_a_worker_stopped_for_two_seconds_under_load(four: Server) -> None:
    pids = worker_pids(four)
    with listeners(four, 8) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        texts = [numbered(str(number), 4_000, 4_000) for number in range(8)]
        with sending(crowd, texts) as senders:
            with stopped(pids[1]):
                last_for(2.0)
            wait_for_last(crowd, senders)
        finish(crowd, {str(number): len(each) for number, each in enumerate(texts)})
        assert worker_pids(four) == pids


def test_a_supervisor_stopped_for_three_seconds_under_load(folder: Path) -> None:
    with running(folder, "--hang-timeout", "1s", workers=4) as server:
        pids = worker_pids(server)
        supervisor = facts(server)["pid"]
        with listeners(server, 8) as crowd:
            crowd[0].say(BEGIN)
            everybody_hears(crowd, BEGIN)
            texts = [numbered(str(number), 4_000) for number in range(8)]
            with sending(crowd, texts) as senders:
                with stopped(supervisor):
                    last_for(3.0)
                wait_for_last(crowd, senders)
            finish(crowd, {str(number): len(each) for number, each in enumerate(texts)})
            assert worker_pids(server) == pids
            assert [each["restarts"] for each in wait_until_running(server)["workers"]] == [0] * 4


def test_back_pressure_switched_on_and_off_all_the_time(four: Server) -> None:
    """Each worker in turn falls asleep for moments, so windows fill and empty again and again."""
    pids = worker_pids(four)
    with listeners(four, 8) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        texts = [numbered(str(number), 3_000, 4_000) for number in range(8)]
        with sending(crowd, texts) as senders:
            naps = 0
            while any(each.thread.is_alive() for each in senders) or naps < 8:
                with stopped(pids[naps % 4]):
                    last_for(0.1)
                naps += 1
            wait_for_last(crowd, senders)
        finish(crowd, {str(number): len(each) for number, each in enumerate(texts)})
        assert len(by_sender(crowd[0].texts)) >= 8
