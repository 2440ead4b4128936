"""kill -9 of a worker, at any instant: its own clients go, everybody else notices nothing but that."""

import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil
import pytest
from support.crowd import (
    Listener,
    all_speak,
    assert_same_stream,
    by_sender,
    connected,
    connections,
    descriptors_given_back,
    everybody_heard_of_leaving,
    everybody_hears,
    facts,
    last_for,
    leavers_heard,
    listeners,
    numbered,
    sending,
    wait_until_running,
    worker_pids,
)
from support.harness import Server, frame, kill, running, settle, stopped
from support.waiting import eventually

pytestmark = pytest.mark.one_python

# Tests kill workers of the shared server too: of no slot so many that it counts as failing.
BEGIN, END = "= begin =", "= end ="


@pytest.fixture
def four(folder: Path) -> Iterator[Server]:
    """A server with four workers."""
    with running(folder, workers=4) as started:
        yield started


def survivors(crowd: Sequence[Listener]) -> list[Listener]:
    return [each for each in crowd if each.ended is None]


def test_killed_at_random_instants_while_everybody_sends_at_full_speed(four: Server) -> None:
    chance = random.Random(4)
    texts = [numbered(str(number), 3_000, 2_000) for number in range(16)]
    with descriptors_given_back(four):
        with listeners(four, 16) as crowd:
            crowd[0].say(BEGIN)
            everybody_hears(crowd, BEGIN)
            spared = four_of_one_worker(four, crowd)
            with sending(crowd, texts) as senders:
                for _ in range(3):
                    last_for(chance.uniform(0.0, 0.3))
                    kill(chance.choice([pid for pid in worker_pids(four) if pid != spared]))
                alive = survivors(crowd)
                for number, sender in enumerate(senders):
                    if crowd[number].ended is None:
                        sender.thread.join()
            wait_until_running(four)
            alive = survivors(crowd)
            assert 4 <= len(alive) < 16
            for number, each in enumerate(crowd):
                if each.ended is None:
                    everybody_hears(alive, texts[number][-1])
            everybody_heard_of_leaving(alive, 16 - len(alive))
            assert sum(connections(four)) == len(alive)
            alive[0].say(END)
            everybody_hears(alive, END)
            heard = by_sender(assert_same_stream(alive, BEGIN, END))
            for name, numbers in heard.items():
                assert numbers == list(range(len(numbers))), f"sender {name} is lost, doubled or reordered"
                if crowd[int(name)].ended is None:
                    assert len(numbers) == len(texts[int(name)])


def four_of_one_worker(server: Server, crowd: Sequence[Listener]) -> int:
    """The worker to be spared, so that somebody is left to tell: 16 clients are four to each."""
    assert connections(server) == [4, 4, 4, 4]
    return worker_pids(server)[0]


def test_killed_again_and_again_its_replacement_comes_and_counts_come_back(server: Server) -> None:
    with descriptors_given_back(server), listeners(server, 2) as (one, other):
        all_speak([one, other])
        gone = 0
        for round_number in range(3):
            victim = facts(server)["workers"][1]
            kill(victim["pid"])
            wait_until_running(server)
            if round_number == 0:
                gone = 1
            slot = facts(server)["workers"][1]
            assert slot["pid"] != victim["pid"]
            assert slot["restarts"] == round_number + 1
        alive = survivors([one, other])
        assert len(alive) == gone
        everybody_heard_of_leaving(alive, 1)
        assert " Disconnect : 1 client " in alive[0].texts
        with listeners(server, 5):
            assert connections(server) == [3, 3]
        eventually(lambda: sum(connections(server)) == 1, "the counts to come back")


@pytest.mark.parametrize("speakers", [0, 3, 4])
def test_only_clients_that_have_spoken_are_told_of_when_their_worker_dies(
    shared: Server, speakers: int
) -> None:
    """Health checks and speculative connections are no news, however they end."""
    with listeners(shared, 4) as crowd:
        all_speak(crowd[:speakers])
        assert connections(shared) == [2, 2]
        kill(worker_pids(shared)[speakers % 2])
        wait_until_running(shared)
        eventually(lambda: len(survivors(crowd)) == 2, "the killed worker's clients to be gone")
        eventually(lambda: facts(shared)["connections"] == 2, "its death to be known")
        alive = survivors(crowd)
        alive[0].say(END)
        everybody_hears(alive, END)
        lost = sum(each.ended is not None for each in crowd[:speakers])
        assert [leavers_heard(each) for each in alive] == [lost, lost]


def test_killed_while_it_starts(server: Server) -> None:
    kill(worker_pids(server)[0])
    for _ in range(2):
        starting = eventually(lambda: pid_in(server, "STARTING"), "a worker that starts")
        kill(int(starting))
        eventually(partial(no_longer_starting, server, starting), "its death to be noticed")
    found = wait_until_running(server)
    assert found["workers"][0]["restarts"] == 3
    with listeners(server, 4) as crowd:
        crowd[0].say(END)
        everybody_hears(crowd, END)


def no_longer_starting(server: Server, pid: int) -> bool:
    return pid_in(server, "STARTING") != pid


def pid_in(server: Server, state: str) -> int:
    return next((each["pid"] for each in facts(server)["workers"] if each["state"] == state), 0)


def test_killed_while_it_holds_connections_that_it_has_not_acked(shared: Server) -> None:
    """They go to another worker, with what they had sent before."""
    pid = worker_pids(shared)[0]
    with descriptors_given_back(shared), listeners(shared, 2) as crowd, stopped(pid):
        with connected(shared.address, 10) as waiting:
            for number, each in enumerate(waiting):
                each.say(f"early {number}")
            eventually(lambda: connections(shared)[0] > 1, "connections on their way to the stopped worker")
            kill(pid)
            settle(waiting)
            eventually(lambda: sum(connections(shared)) == 11, "all of them and one of the first two")
            eventually(lambda: len(survivors(crowd)) == 1, "its client to be gone")
            alive = survivors(crowd)
            for number in range(10):
                everybody_hears(alive, f"early {number}")


@pytest.mark.parametrize("end", ["continued", "killed"])
def test_a_thousand_connect_while_one_worker_is_stopped(shared: Server, end: str) -> None:
    """All are served in the end: those that it had been offered by it, or by others when it is killed."""
    pid = worker_pids(shared)[0]
    address = shared.address
    with descriptors_given_back(shared), ExitStack() as fault:
        fault.enter_context(stopped(pid))
        with connected(address, 1000) as waiting:
            eventually(lambda: sum(connections(shared)) == 1000, "all of them to be let in")
            if end == "killed":
                kill(pid)
            fault.close()
            settle(waiting)
            waiting[0].say(END)
            for each in waiting:
                assert END in each.hear_until(END)
        wait_until_running(shared)


def test_killed_in_the_middle_of_a_frame_of_many_pieces(shared: Server) -> None:
    """What it had not written whole is not taken for the beginning of somebody else's frame."""
    supervisor = facts(shared)["pid"]
    with listeners(shared, 4) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        texts = [[f"{name} {number}" + " " * 59_000 for number in range(60)] for name in "0123"]
        with sending(crowd, texts):
            with stopped(supervisor):
                last_for(0.5)
                for pid in [psutil.Process(supervisor).children()[-1].pid]:
                    kill(pid)
            eventually(lambda: len(survivors(crowd)) == 2, "the killed worker's clients to be gone")
            alive = survivors(crowd)
            for number, each in enumerate(crowd):
                if each.ended is None:
                    everybody_hears(alive, texts[number][-1])
        alive[0].say(END)
        everybody_hears(alive, END)
        for name, numbers in by_sender(assert_same_stream(alive, BEGIN, END)).items():
            assert numbers == list(range(len(numbers))), f"sender {name} is lost, doubled or reordered"


def test_the_others_chat_while_one_worker_is_stopped_and_then_killed(shared: Server) -> None:
    pid = worker_pids(shared)[1]
    with listeners(shared, 2) as crowd:
        all_speak(crowd)
        with stopped(pid):
            for number in range(20):
                for each in crowd:
                    each.send_raw(frame(f"{number}"))
            eventually(lambda: any(each.heard("19") for each in crowd), "the others to go on")
            kill(pid)
        eventually(lambda: len(survivors(crowd)) == 1, "its client to be gone")
        everybody_heard_of_leaving(survivors(crowd), 1)
