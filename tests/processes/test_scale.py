"""More workers, fewer workers, and evening out by itself: nobody is lost, all have about as many."""

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.changing import (
    NOT_STARTED,
    change,
    generations,
    scale,
    served_by,
    server_address,
    signalled,
    under_way,
    until_reloads_end,
    workers_of,
)
from support.crowd import (
    connected,
    connections,
    descriptors_given_back,
    everybody_hears,
    facts,
    last_for,
    listeners,
    wait_until_running,
    worker_pids,
)
from support.harness import Client, Server, assert_nothing_left, kill, running, settle
from support.injected import HELD, held, inject
from support.waiting import eventually

from mpchat.supervisor.scale import TOGETHER

pytestmark = pytest.mark.one_python

END = "= end ="


def even(loads: Sequence[int]) -> bool:
    return max(loads) - min(loads) <= max(2, max(loads) * 0.05)


def all_hear(crowd: Sequence[Client], text: str) -> None:
    crowd[0].say(text)
    for each in crowd:
        assert each.hear_until(text)


def test_one_five_two_one_with_even_loads_each_time(folder: Path) -> None:
    with running(folder, workers=1) as server, descriptors_given_back(server):
        with connected(server_address(server), 300) as crowd:
            settle(crowd)
            for workers, least in ((5, 240), (2, 180), (3, 100), (1, 200)):
                said = scale(server, workers)
                assert said["workers"] == workers
                loads = connections(server)
                assert (len(loads), sum(loads)) == (workers, 300)
                assert even(loads), loads
                assert len(workers_of(server)) == workers
                all_hear(crowd, f"with {workers}")
                assert least - 10 <= said["moved"] <= least + 10, "as many as had to, and no more"
        eventually(lambda: facts(server)["connections"] == 0, "all to be gone")


def test_the_same_number_moves_nobody(shared: Server) -> None:
    with connected(server_address(shared), 9) as crowd:
        settle(crowd)
        before = worker_pids(shared)
        assert scale(shared, 2)["moved"] == 0
        assert worker_pids(shared) == before
        assert shared.command("scale", "2").stdout.startswith('mpchat "default" has 2 workers')


def test_new_slots_take_the_lowest_numbers_and_the_highest_go(shared: Server) -> None:
    kept, logged = worker_pids(shared), len(shared.log)
    scale(shared, 4)
    assert worker_pids(shared)[:2] == kept
    scale(shared, 2)
    assert worker_pids(shared) == kept
    assert [each["slot"] for each in facts(shared)["workers"]] == [1, 2]
    said = [f"ended after it was no longer wanted: worker {number}, exit code 0" for number in (3, 4)]
    eventually(lambda: all(each in shared.log[logged:] for each in said), "the log to tell of both")
    assert "replaced" not in shared.log[logged:]


@pytest.fixture(scope="module")
def lasting_holding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose workers can be held up at their start."""
    folder = tmp_path_factory.mktemp("holding")
    server = Server(folder)
    inject(server, HELD)
    try:
        yield server.start(workers=1)
    finally:
        server.end()
    assert_nothing_left(folder)


@pytest.fixture
def holding(lasting_holding: Server) -> Server:
    """The file's server whose workers can be held up, with one worker and no client."""
    scale(lasting_holding, 1)
    lasting_holding.wait_for_connections(0)
    return lasting_holding


@pytest.mark.parametrize("dies", ["ready", "before"])
def test_a_new_worker_that_dies_before_its_turn_to_serve_leaves_nothing_of_the_growth(
    holding: Server, dies: str
) -> None:
    """Ready ones wait for those before them."""
    server, logged = holding, len(holding.log)
    with connected(server_address(server), 4) as crowd, ExitStack() as fault:
        settle(crowd)
        before = workers_of(server)
        fault.enter_context(held(server, 2))
        if dies == "before":
            fault.enter_context(held(server, 3))
        with under_way(server, "scale", workers=4) as background:
            third = eventually(lambda: (worker_pids(server) + [0] * 4)[2], "the third worker")
            if dies == "ready":
                eventually(lambda: f"ready: worker {third}" in server.log, "it to be ready")
            kill(third)
            eventually(
                lambda: "died before it took over: worker 3" in server.log[logged:], "that to be known"
            )
            fault.close()
            answer = background.answer()
        assert (answer.exit, answer.result["workers"]) == (NOT_STARTED, 2)
        assert "the new worker 3 ended before it could serve, killed by SIGKILL" in answer.text
        assert "serves on" not in answer.text, "there was none before it"
        assert workers_of(server)[:1] == before
        assert len(workers_of(server)) == 2
        assert scale(server, 4)["workers"] == 4
        assert sorted(workers_of(server)) == sorted(worker_pids(server))
        all_hear(crowd, END)


def test_many_new_workers_are_started_a_few_at_a_time(holding: Server) -> None:
    """Each has its own time to become ready; a hundred at once would share the cores for all of it."""
    server, logged, count = holding, len(holding.log), 1 + TOGETHER + 1
    with ExitStack() as first_held:
        first_held.enter_context(held(server, 2))
        with under_way(server, "scale", workers=count) as background:
            eventually(
                lambda: server.log[logged:].count("ready: worker") == TOGETHER - 1,
                "all that were started but one",
            )
            assert len(workers_of(server)) == 1 + TOGETHER
            first_held.close()
            assert background.answer().result["workers"] == count
    assert worker_pids(server) == workers_of(server)


def test_fewer_than_the_connections_need_is_refused(folder: Path) -> None:
    """With select a worker takes no more than 960."""
    with running(folder, "--multiplexer", "select", workers=2) as server:
        with connected(server_address(server), 965) as crowd:
            settle(crowd)
            before = worker_pids(server)
            done = server.command("scale", "1")
            assert (done.returncode, done.stdout, done.stderr.count("\n")) == (NOT_STARTED, "", 1)
            assert "room for 960 connections, there are 965" in done.stderr
            signalled(server, signal.SIGTTOU)
            eventually(lambda: "not scaled:" in server.log, "the signal to be refused")
            assert worker_pids(server) == before
            assert facts(server)["moves"] == 0
            all_hear(crowd[:3], END)


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (0, "workers is 0, allowed: 1 to 256"),
        (257, "workers is 257, allowed: 1 to 256"),
        (-1, "workers is -1, allowed: 1 to 256"),
        ("many", "wrong arguments of scale: Expected `int`, got `str` - at `$.workers`"),
        (2.5, "wrong arguments of scale: Expected `int`, got `float` - at `$.workers`"),
    ],
)
def test_wrong_numbers_are_wrong_usage_also_for_the_server_itself(
    shared: Server, number: int | float | str, why: str
) -> None:
    before = worker_pids(shared)
    assert shared.command("scale", str(number)).returncode == 2
    answer = change(shared, "scale", workers=number)
    assert (answer.exit, answer.text) == (2, why)
    assert worker_pids(shared) == before


def test_ttin_and_ttou_are_one_more_and_one_fewer_and_one_is_the_least(shared: Server) -> None:
    with listeners(shared, 6) as crowd:
        signalled(shared, signal.SIGTTIN)
        until_reloads_end(shared, lambda found: len(found["workers"]) == 3)
        assert even(connections(shared))
        for number in (signal.SIGTTOU, signal.SIGTTOU):
            signalled(shared, number)
        until_reloads_end(shared, lambda found: len(found["workers"]) == 1)
        signalled(shared, signal.SIGTTOU)
        crowd[0].say(END)
        everybody_hears(crowd, END)
        until_reloads_end(shared, lambda found: len(found["workers"]) == 1)
        assert connections(shared) == [6]
        assert [each.ended for each in crowd] == [None] * 6
    scale(shared, 2)


def test_after_a_death_the_others_connections_are_evened_out_unasked(shared: Server) -> None:
    moves = facts(shared)["moves"]
    with connected(server_address(shared), 120) as crowd:
        settle(crowd)
        kill(worker_pids(shared)[0])
        wait_until_running(shared)
        assert sum(connections(shared)) == 60
        begun = time.monotonic()
        eventually(lambda: even(connections(shared)), "the loads to be even", 15.0)
        assert time.monotonic() - begun > 2.0, "not before it has lasted for a while"
        until_reloads_end(shared, lambda found: True)
        assert facts(shared)["moves"] - moves == 30
        alive = [each for each in crowd if still_there(each)]
        assert len(alive) == 60
        all_hear(alive, END)


def still_there(client: Client) -> bool:
    client.sock.setblocking(False)
    try:
        return client.sock.recv(1, 2) != b""  # MSG_PEEK: the notice of the others' end
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        client.sock.settimeout(20.0)


def test_small_differences_move_nobody(shared: Server) -> None:
    moves = facts(shared)["moves"]
    with connected(server_address(shared), 40) as crowd:
        settle(crowd)
        gone = [each for each, first in zip(crowd, by_first(shared, crowd), strict=True) if first][:7]
        for each in gone:
            each.close()
        eventually(lambda: sorted(connections(shared)) == [13, 20], "seven fewer with one worker")
        last_for(4.5)
        assert facts(shared)["moves"] == moves
        assert sorted(connections(shared)) == [13, 20]


def by_first(server: Server, crowd: Sequence[Client]) -> list[bool]:
    return served_by(worker_pids(server)[0], crowd)


def test_a_scaling_interrupts_evening_out_and_both_come_to_their_end(shared: Server) -> None:
    with connected(server_address(shared), 700) as crowd:
        settle(crowd)
        left = connections(shared)[0]
        kill(worker_pids(shared)[1])
        wait_until_running(shared)
        eventually(lambda: facts(shared)["change"] == "rebalance", "evening out", 15.0)
        scale(shared, 3)
        loads = connections(shared)
        assert (len(loads), sum(loads)) == (3, left)
        assert even(loads)
        assert generations(shared) == [1, 1, 1]
    scale(shared, 2)
