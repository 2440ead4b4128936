"""Connections move while everybody sends as fast as it goes: one order, exactly once, for all of them."""

import threading
from pathlib import Path

import pytest
from support.changing import configured, generations, reload, scale, until_reloads_end, write_settings
from support.crowd import (
    Listener,
    Window,
    assert_one_order,
    assert_same_stream,
    connections,
    descriptors_given_back,
    everybody_hears,
    facts,
    last_for,
    listeners,
    numbered,
    sending,
    wait_until_running,
)
from support.harness import Server, frame, running, stopped
from support.injected import inject

pytestmark = pytest.mark.one_python

BEGIN, END = "= begin =", "= end ="


@pytest.mark.parametrize(
    ("count", "padding", "megabytes"),
    [(4_000, 500, 8), (300, 50_000, 8), (4_000, 2_000, 2)],
    ids=["small frames", "large frames", "a stream that is soon forgotten"],
)
def test_reloads_and_scalings_while_all_send_at_full_speed(
    folder: Path, count: int, padding: int, megabytes: int
) -> None:
    texts = [numbered(str(number), count, padding) for number in range(8)]
    with running(folder, "--lag-limit", f"{megabytes}M") as server, descriptors_given_back(server):
        with listeners(server, 12) as crowd:
            crowd[0].say(BEGIN)
            everybody_hears(crowd, BEGIN)
            moved = changes = 0
            with sending(crowd[:8], texts, Window(crowd, megabytes << 19)) as senders:
                while any(each.thread.is_alive() for each in senders) and changes < 3:
                    moved += reload(server)["moved"]
                    moved += scale(server, (3, 1, 2)[changes % 3])["moved"]
                    changes += 1
                for each in senders:
                    each.thread.join()
                    everybody_hears(crowd[:1], each.texts[-1])
            assert changes
            assert moved >= 12 * changes
            crowd[0].say(END)
            everybody_hears(crowd, END)
            assert_one_order(crowd, {str(number): count for number in range(8)}, BEGIN, END)
            assert [each.ended for each in crowd] == [None] * 12
        scale(server, 2)


def test_a_supervisor_that_sleeps_in_the_middle_of_reloads_under_load(server: Server) -> None:
    """What goes by two ways, posts and connections, meets again in all orders."""
    texts = [numbered(str(number), 3_000, 3_000) for number in range(6)]
    pid = facts(server)["pid"]
    with listeners(server, 8) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        with sending(crowd[:6], texts) as senders:
            rounds = 0
            while any(each.thread.is_alive() for each in senders) and rounds < 3:
                with stopped(pid):
                    last_for(0.05)
                reload(server)
                rounds += 1
            for each in senders:
                each.thread.join()
                everybody_hears(crowd[:1], each.texts[-1])
        crowd[0].say(END)
        everybody_hears(crowd, END)
        assert_one_order(crowd, {str(number): 3_000 for number in range(6)}, BEGIN, END)
        assert sum(connections(server)) == 8


def test_lag_limits_up_and_down_under_load(folder: Path) -> None:
    """Streams of all sizes are filled from one another while they grow."""
    texts = [numbered(str(number), 8_000, 1_000) for number in range(4)]
    with configured(folder) as server, listeners(server, 6) as crowd:
        crowd[0].say(BEGIN)
        everybody_hears(crowd, BEGIN)
        with sending(crowd[:4], texts, Window(crowd, 128 << 10)) as senders:
            for size in ("256k", "32M", "1M", "300k"):
                write_settings(server, port=0, workers=2, lag_limit=size)
                reload(server)
            for each in senders:
                each.thread.join()
                everybody_hears(crowd[:1], each.texts[-1])
        crowd[0].say(END)
        everybody_hears(crowd, END)
        assert_one_order(crowd, {str(number): 8_000 for number in range(4)}, BEGIN, END)
        until_reloads_end(server, lambda found: found["generation"] == 5)
        wait_until_running(server)
        assert generations(server) == [5, 5]


# A new worker that goes on with everything else, and takes connections in a second and a half later.
_TAKES_ITS_TIME = """
    def install(worker, slot):
        migration, take = part_of_worker("migration.Migration.take_handoff")
        turn, waiting = worker.Worker.turn, []

        def later(self, handoff, descriptors):
            moved = any(bytes(each.state) != b"\\xc0" for each in handoff.connections)
            waiting.append((time.monotonic() + 1.5 * moved, handoff, descriptors))

        def with_fault(self):
            while waiting and time.monotonic() >= waiting[0][0]:
                take(self.migration, *waiting.pop(0)[1:])
            turn(self)

        migration.take_handoff, worker.Worker.turn = later, with_fault
"""


def test_who_waits_between_two_workers_is_not_taken_for_slow(folder: Path) -> None:
    """Twice the lag limit would go by in the time that the new worker takes."""
    server = Server(folder)
    inject(server, _TAKES_ITS_TIME)
    server.start("--lag-limit", "4M")
    try:
        with listeners(server, 6) as crowd:
            crowd[0].say(BEGIN)
            everybody_hears(crowd, BEGIN)
            done = threading.Event()
            talk = threading.Thread(target=_six_megabytes_a_second, args=(crowd, done))
            talk.start()
            moved = reload(server)["moved"]
            done.set()
            talk.join()
            crowd[0].say(END)
            everybody_hears(crowd, END)
            assert moved >= 6
            assert "slow consumer" not in server.log
            assert_same_stream(crowd, BEGIN, END)
    finally:
        server.end()


def _six_megabytes_a_second(crowd: list[Listener], done: threading.Event) -> None:
    """Talk, but do not let much pile up while nobody gets anything: it would come as one burst."""
    number = said = 0
    begun = min(len(each.data) for each in crowd)
    while not done.wait(0.008):
        if said + begun - max(len(each.data) for each in crowd) < 256 << 10:
            number += 1
            data = frame(f"0 {number}" + " " * 50_000)
            crowd[0].send_raw(data)
            said += len(data)
