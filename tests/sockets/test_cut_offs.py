"""Clients that are cut off are named to the supervisor, a few a second, while the hub still knows them."""

from support.one_worker import Bench

from mpchat.hub.cut_offs import KEPT, CutOffs
from mpchat.ipc.items import Up
from mpchat.ipc.reasons import CLOSED, SLOW
from mpchat.worker.cut_offs import MOST


def named(bench: Bench) -> list[tuple[int, str, str]]:
    found = []
    while bench.link.readable:
        found += [item.payload for item in bench.link.receive() if item.kind == Up.CUT_OFF]
    return found


def test_the_first_few_of_a_second_are_named_and_those_that_left_are_not() -> None:
    bench = Bench()
    try:
        joined = [bench.connect(number)[1] for number in range(1, 4 * MOST + 1)]
        bench.worker.clients.end(joined.pop(), CLOSED)
        first = joined[0].address
        for each in joined[: 2 * MOST]:
            bench.worker.clients.end(each, SLOW)
        found = named(bench)
        assert len(found) == MOST
        assert found[0] == (1, first, SLOW)
        bench.worker.reactor.now += 1.0
        for each in joined[2 * MOST :]:
            bench.worker.clients.end(each, SLOW)
        assert [identity for identity, _, _ in named(bench)] == list(range(2 * MOST + 1, 3 * MOST + 1))
        assert bench.worker.counters.ended[SLOW] == len(joined)
    finally:
        bench.close()


def test_the_last_are_kept_the_oldest_first() -> None:
    cut_offs = CutOffs()
    for number in range(KEPT + 5):
        cut_offs.add(f"127.0.0.1:{number}", "", SLOW, float(number))
    assert [each.at for each in cut_offs.last] == [float(number) for number in range(5, KEPT + 5)]
