"""When a worker looks at nothing but the hub: while all that clients could send would only be gathered."""

import time
from collections.abc import Iterator

import pytest
from support.harness import frame
from support.one_worker import Bench

from mpchat.worker.uplink import LITTLE, Uplink
from mpchat.worker.worker import NAP


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


def post(uplink: Uplink, now: float, size: int = 10) -> None:
    uplink.post("192.0.2.1:1", 1, b"x" * size)
    uplink.work(now)
    assert not uplink.posts


def moment(uplink: Uplink, number: int) -> float:
    """Return the middle of the time between two moments at which posts go up."""
    return (number + 0.5) * uplink.gather


def test_a_worker_rests_until_posts_may_go_up_if_some_have_gone_up_each_time(bench: Bench) -> None:
    uplink = bench.worker.uplink
    assert not uplink.rest(moment(uplink, 1000))
    post(uplink, moment(uplink, 1000))
    assert not uplink.rest(moment(uplink, 1000)), "that may have been all"
    for number in range(1001, 1005):
        post(uplink, moment(uplink, number))
        assert uplink.rest(moment(uplink, number)) == pytest.approx(uplink.gather / 2)
    assert not uplink.rest(moment(uplink, 1005)), "they may go up now"
    post(uplink, moment(uplink, 1010))
    assert not uplink.rest(moment(uplink, 1010)), "there was a pause"


@pytest.mark.parametrize("size", [LITTLE, 10 * LITTLE])
def test_a_worker_does_not_rest_where_clients_send_much(bench: Bench, size: int) -> None:
    uplink = bench.worker.uplink
    for number in range(1000, 1005):
        post(uplink, moment(uplink, number), size)
        assert not uplink.rest(moment(uplink, number))


def test_a_worker_does_not_rest_while_somebody_waits_or_it_drains(bench: Bench) -> None:
    uplink = bench.worker.uplink
    for number in range(1000, 1003):
        post(uplink, moment(uplink, number))
    now = moment(uplink, 1002)
    uplink.hurried = True
    assert not uplink.rest(now)
    uplink.hurried = False
    assert uplink.rest(now)
    bench.worker.lifetime.draining = True
    assert not uplink.rest(now)


def test_a_resting_worker_hears_the_hub_and_reads_clients_afterwards(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, naps = bench.worker, list[float]()
    client, connection = bench.connect(1)
    bench.turn()
    monkeypatch.setattr(worker.reactor, "nap", lambda link, seconds: naps.append(seconds))
    monkeypatch.setattr(worker.uplink, "rest", lambda now: 0.004)
    client.send_raw(frame("안녕"))
    worker.turn()
    assert connection.spoke, "what had come was read when the rest was over"
    assert naps == [0.004]
    worker.counters.late = 1
    worker.uplink.posts.clear()
    client.send_raw(frame("안녕"))
    worker.turn()
    assert naps == [0.004], "a client waits for its socket to become writable"
    worker.counters.late = 0
    monkeypatch.setattr(type(worker.rooms.aside), "late", 1)
    worker.uplink.posts.clear()
    client.send_raw(frame("안녕"))
    worker.turn()
    assert naps == [0.004], "a client is sent the past"
    monkeypatch.undo()
    monkeypatch.setattr(worker.uplink, "rest", lambda now: 1.0)
    worker.uplink.posts.clear()
    assert worker._rest(None) == NAP, "there are others than those that say something"


def test_a_worker_that_gathers_rests_no_longer_than_its_posts_wait(bench: Bench) -> None:
    worker = bench.worker
    worker.uplink.post("192.0.2.1:1", 1, b"x")
    worker.uplink._post_due = time.monotonic() + 60
    assert worker._rest(60.0) == NAP
    assert worker._rest(0.001) == 0.001
