"""The log of several hosts as one of them sees it: what comes out, in which order, and how often."""

import random
from itertools import islice
from typing import Any

import pytest
from support.any_entries import AnyEntries, limits
from support.endpoints import RecordingEndpoint

from mpchat.cluster.store import ARRIVED, BATCH, GONE, Batch, Place, RewoundError
from mpchat.hub.entries import Announced, Arrived, Entry, Gone, Kicked
from mpchat.hub.hosts import HostInfo, encode_info
from mpchat.hub.log import Applied, More, Record, SaidAll, Step
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.shared_log import BATCH_SIZE, OLDEST_VERSION, VERSION, Outgoing, SharedLog, StrangerError
from mpchat.hub.state import HubState

START = Place("g", 10, b"chain", 1000, 5.0, 1.7e9)
TOTAL = 900


def said(text: str) -> Announced:
    return Announced(0.0, 0.0, text.encode())


class Order:
    """What the log has behind START, and makes of what hosts append."""

    def __init__(self) -> None:
        self.place = START

    def add(
        self, epoch: int, number: int = 0, payload: bytes = b"", kind: str = BATCH, version: int = 1
    ) -> Batch:
        before = self.place
        position, total = before.position + 1, before.total + len(payload)
        time, at, chain = before.time + 1.0, before.at + 1.0, b"%d" % position
        batch = Batch(position, kind, epoch, number, time, at, total, version, payload, chain)
        self.place = before.after(batch)
        return batch

    def take(self, epoch: int, outgoing: list[Outgoing]) -> list[Batch]:
        return [self.add(epoch, each.number, each.payload, version=each.version) for each in outgoing]

    def gone(self, epoch: int) -> Batch:
        return self.add(epoch, kind=GONE)


def member(epoch: int = 1) -> SharedLog:
    """Return the log of a host that takes part."""
    log = SharedLog(START)
    join(log, epoch)
    return log


def join(log: SharedLog, epoch: int, *first: Entry) -> None:
    """Let a host take part that has read its arrival already."""
    log.join(epoch, list(first), log.place.position, b"")


def append(log: SharedLog, *contents: Entry | Step) -> None:
    for each in contents:
        log.append(each, None, 10)


def batches(log: SharedLog) -> list[Outgoing]:
    return log.take_batches(VERSION, TOTAL)


def drained(log: SharedLog) -> list[Record]:
    records = []
    while log:
        records.append(log.next())
    return records


def contents(log: SharedLog) -> list[Any]:
    """Return what comes out, without the ends of batches."""
    return [each.content for each in drained(log) if not isinstance(each.content, Applied)]


# What comes out.


def test_an_own_entry_comes_out_when_it_is_read_back() -> None:
    log, order, worker = member(), Order(), RecordingEndpoint(1)
    entry = said("안녕")
    log.append(entry, worker, 500)
    sent = batches(log)
    assert not log
    assert log.owes
    assert batches(log) == []
    log.receive(order.take(1, sent))
    first, last = drained(log)
    assert first == Record(entry, worker, 500, 1)
    assert first.content is entry
    assert last == Record(Applied(order.place, 1, 1, TOTAL), None, 0)
    assert log.place == order.place
    assert not log.owes


def test_an_entry_of_another_host_comes_out_as_it_was_sent() -> None:
    other, log, order = member(2), member(1), Order()
    append(other, said("안녕"), Kicked("밥"))
    log.receive(order.take(2, batches(other)))
    assert drained(log) == [
        Record(Announced(6.0, 1.7e9 + 1.0, "안녕".encode()), None, 0, 2),
        Record(Kicked("밥"), None, 0, 2),
        Record(Applied(order.place, 2, 1, TOTAL), None, 0),
    ]


def test_entries_get_the_times_of_the_log() -> None:
    log, order = member(), Order()
    append(log, said("하나"))
    order.add(9, 1)
    log.place = order.place
    (batch,) = order.take(1, batches(log))
    log.receive([batch])
    (entry,) = contents(log)
    assert (entry.now, entry.at) == (batch.time, batch.at) == (7.0, 1.7e9 + 2.0)


def test_the_log_itself_says_which_hosts_come_and_go() -> None:
    log, order = member(), Order()
    info = encode_info(HostInfo(name="부산", version=1))
    log.receive([order.add(2, payload=info, kind=ARRIVED), order.gone(2)])
    records = drained(log)
    assert [each.host for each in records] == [0, 0, 0, 0]
    assert [each.content for each in records[::2]] == [
        Arrived(6.0, 1.7e9 + 1, 2, info),
        Gone(7.0, 1.7e9 + 2, 2),
    ]
    assert records[3].content == Applied(order.place, 2, 0, 0)
    assert log.epoch == 1


def test_every_kind_of_entry_is_the_same_on_all_hosts() -> None:
    one, two, order = member(1), member(2), Order()
    rng = random.Random(3)
    state = HubState(limits(rng), Past("시대"), Moderation({}, {}))
    kinds = set()
    for entry, host, _ in islice(AnyEntries(3, state, shared=True), 1500):
        state.apply(entry, host)
        if isinstance(entry, Arrived | Gone):
            continue
        kinds.add(type(entry))
        append(one, entry)
        found = order.take(1, batches(one))
        one.receive(found)
        two.receive(found)
        assert contents(one) == contents(two) == [entry]
    assert len(kinds) == len(Entry.__args__) - 2


# Steps.


def test_steps_keep_their_places_between_the_entries_of_this_host() -> None:
    log, order = member(), Order()
    first, second = said("하나"), said("둘")
    append(log, SaidAll([1]))
    assert contents(log) == [SaidAll([1])]  # nothing was before it
    append(log, first, SaidAll([2]), SaidAll([3]), second, SaidAll([4]))
    assert not log
    other = member(2)
    append(other, said("셋"))
    log.receive(order.take(2, batches(other)))
    assert SaidAll([2]) not in contents(log)
    log.receive(order.take(1, batches(log)))
    assert contents(log) == [first, SaidAll([2]), SaidAll([3]), second, SaidAll([4])]
    assert not log.owes


def test_a_step_between_two_batches_comes_out_after_the_first() -> None:
    log, order = member(), Order()
    first, second = said("하나"), said("둘")
    log.append(first, None, BATCH_SIZE)
    append(log, SaidAll([1]))
    log.append(second, None, BATCH_SIZE)
    one, two = order.take(1, batches(log))
    log.receive([one])
    assert contents(log) == [first, SaidAll([1])]
    log.receive([two])
    assert contents(log) == [second]


# Batches.


def test_a_batch_holds_so_many_bytes_and_one_entry_at_least() -> None:
    log, order = member(), Order()
    costs = [2 * BATCH_SIZE, BATCH_SIZE // 2, BATCH_SIZE // 3, 1, BATCH_SIZE // 2, 2 * BATCH_SIZE]
    entries = [said(f"{number}") for number in range(len(costs))]
    for entry, cost in zip(entries, costs, strict=True):
        log.append(entry, None, cost)
    sent = batches(log)
    assert [each.number for each in sent] == [1, 2, 3, 4]
    found = []
    for batch in order.take(1, sent):
        log.receive([batch])
        found.append(contents(log))
    assert found == [entries[:1], entries[1:4], entries[4:5], entries[5:]]


def test_batches_are_written_in_the_version_that_all_hosts_read() -> None:
    log = member()
    append(log, said("하나"))
    assert log.take_batches(OLDEST_VERSION, TOTAL)[0].version == OLDEST_VERSION
    append(log, said("둘"))
    assert log.take_batches(VERSION + 1, TOTAL)[0].version == VERSION + 1


@pytest.mark.parametrize("version", [OLDEST_VERSION, VERSION, VERSION + 1])
def test_entries_of_a_version_that_is_one_higher_are_read(version: int) -> None:
    log, other, order = member(1), member(2), Order()
    append(other, said("안녕"))
    log.receive(order.take(2, other.take_batches(version, TOTAL)))
    assert len(contents(log)) == 1


@pytest.mark.parametrize("version", [OLDEST_VERSION - 1, VERSION + 2])
def test_entries_of_another_version_are_an_error_that_names_it(version: int) -> None:
    log, other, order = member(1), member(2), Order()
    append(other, said("안녕"))
    with pytest.raises(
        StrangerError, match=rf"version {version}; this mpchat reads 1 to {VERSION + 1}: update"
    ):
        log.receive(order.take(2, other.take_batches(version, TOTAL)))
    assert log.place == START
    assert not log


# A log that is not what it was.


def test_a_batch_out_of_turn_is_a_rewound_log() -> None:
    log, order = member(), Order()
    append(log, said("하나"))
    (first,) = batches(log)
    append(log, said("둘"))
    (second,) = batches(log)
    with pytest.raises(RewoundError, match="batch 2"):
        log.receive(order.take(1, [second]))
    assert log.place == START
    log.receive(Order().take(1, [first, second]))
    with pytest.raises(RewoundError, match="batch 3"):
        log.receive([order.add(1, 3, second.payload)._replace(position=13)])


@pytest.mark.parametrize("position", [10, 12])
def test_a_batch_out_of_its_place_is_a_rewound_log(position: int) -> None:
    log, order = member(), Order()
    with pytest.raises(RewoundError, match=f"read {position} after 10"):
        log.receive([order.gone(2)._replace(position=position)])
    assert not log


# A lost epoch.


def test_a_host_that_takes_no_part_sends_nothing_until_it_does() -> None:
    log, other, order = SharedLog(START), member(2), Order()
    append(log, said("하나"), SaidAll([1]))
    assert batches(log) == []
    join(log, 4, said("먼저"), said("다음"))
    found = order.take(4, batches(log))
    expected = [Announced(6.0, 1.7e9 + 1, each.encode()) for each in ("먼저", "다음", "하나")]
    for reader, more in ((log, [SaidAll([1])]), (other, [])):
        reader.receive(found)
        assert contents(reader) == [*expected, *more]


def test_what_was_not_read_back_goes_out_again_once_under_the_next_epoch() -> None:
    log, order, worker = member(), Order(), RecordingEndpoint(1)
    names = [Kicked(each) for each in ("앨리스", "밥", "철수", "영희")]
    append(log, names[0], SaidAll([1]))
    first = batches(log)
    log.append(names[1], worker, 70)
    append(log, SaidAll([2]))
    lost = batches(log)
    assert [each.number for each in lost] == [2]
    append(log, names[2])
    log.receive([*order.take(1, first), order.gone(1)])
    assert log.epoch == 0
    assert contents(log) == [names[0], SaidAll([1]), Gone(7.0, 1.7e9 + 2, 1)]
    append(log, names[3])
    assert batches(log) == []
    join(log, 2, Kicked("돌아온 이"))
    (again,) = batches(log)
    assert again.number == 1
    log.receive(order.take(2, [again]))
    records = drained(log)
    assert [each.content for each in records[:-1]] == [
        Kicked("돌아온 이"),
        names[1],
        SaidAll([2]),
        *names[2:],
    ]
    assert records[1] == Record(names[1], worker, 70, 2)
    assert batches(log) == []
    assert not log.owes


def test_the_past_that_a_member_reads_waits_for_nothing() -> None:
    """While the log is away, and when much comes back at once, a room's past would be forgotten meanwhile."""
    log, order = member(), Order()
    append(log, Kicked("앨리스"), SaidAll([1]), More(2))
    assert contents(log) == [More(2)]
    log.receive(order.take(1, batches(log)))
    assert contents(log) == [Kicked("앨리스"), SaidAll([1])]


def test_the_end_of_another_host_loses_nothing() -> None:
    log, order = member(), Order()
    append(log, Kicked("앨리스"))
    sent = batches(log)
    log.receive([order.gone(2), *order.take(1, sent)])
    assert Kicked("앨리스") in contents(log)


@pytest.mark.parametrize(("number", "settled"), [(0, []), (1, [0]), (2, [0, 1]), (3, [0, 1, 2])])
def test_a_snapshot_settles_what_it_has_of_this_host(number: int, settled: list[int]) -> None:
    log, order, worker = member(), Order(), RecordingEndpoint(1)
    names = [Kicked(each) for each in ("앨리스", "밥", "철수", "영희")]
    for name in names[:3]:
        log.append(name, worker, 70)
        append(log, SaidAll([1]))
        batches(log)
    log.append(names[3], worker, 70)
    place = START._replace(generation="g2", position=50)
    step = Record(SaidAll([1]), None, 10)
    records = [each for name in settled for each in (Record(names[name], worker, 70), step)]
    assert log.restart(place, number) == records
    assert (log.place, log.epoch) == (place, 0)
    assert not log
    join(log, 5)
    order.place = place
    log.receive(order.take(5, batches(log)))
    found = contents(log)
    assert [each for each in found if each != SaidAll([1])] == names[len(settled) :]
    assert found.count(SaidAll([1])) == 3 - len(settled)
    assert not log.owes


def test_a_second_snapshot_settles_what_was_sent_before_the_first() -> None:
    """A host begins a lost log anew; that is lost too, and another host begins it, which had read more."""
    log, order, worker = member(), Order(), RecordingEndpoint(1)
    names = [Kicked(each) for each in ("앨리스", "밥", "철수")]
    for name in names:
        log.append(name, worker, 70)
        batches(log)
    place = START._replace(generation="g2", position=50)
    assert log.restart(place, 0) == []
    assert log.restart(place._replace(generation="g3"), 2) == [Record(each, worker, 70) for each in names[:2]]
    join(log, 5)
    order.place = log.place
    log.receive(order.take(5, batches(log)))
    assert contents(log) == names[2:]
    assert not log.owes
    # Numbers of another epoch say nothing of these.
    log.append(names[0], worker, 70)
    batches(log)
    log.lose_epoch()
    join(log, 6)
    assert log.restart(place._replace(generation="g4"), 9) == []


def test_records_can_be_put_first_and_entries_of_a_kind_dropped_while_a_host_takes_no_part() -> None:
    log, order = member(), Order()
    append(log, Kicked("앨리스"), said("하나"), Kicked("밥"))
    assert log.waiting(Kicked) == [Kicked("앨리스"), Kicked("밥")]
    batches(log)
    records = [Record(said("먼저"), None, 10), Record(SaidAll([1]), None, 10)]
    log.put_first(records)
    log.drop(Kicked)
    join(log, 2)
    other, found = SharedLog(START), order.take(2, batches(log))
    for reader, expected in ((log, ["먼저", SaidAll([1]), "하나"]), (other, ["먼저", "하나"])):
        reader.receive(found)
        texts = [each.frame.decode() if isinstance(each, Announced) else each for each in contents(reader)]
        assert texts == expected
    assert not log.owes


def test_a_host_knows_its_own_batches_only_behind_its_own_arrival() -> None:
    """Another host had the epoch before the log was lost, or has it since."""
    log, other, order = SharedLog(START), member(1), Order()
    append(other, Kicked("밥"))
    log.join(1, [Kicked("앨리스")], 12, b"info")
    sent = batches(log)
    log.receive(order.take(1, batches(other)))
    assert contents(log) == [Kicked("밥")]
    log.receive([order.add(1, payload=b"info", kind=ARRIVED), *order.take(1, sent)])
    assert contents(log)[1:] == [Kicked("앨리스")]
    assert not log.owes


@pytest.mark.parametrize(
    ("kind", "epoch", "info"), [(GONE, 1, b""), (ARRIVED, 2, b"info"), (ARRIVED, 1, b"x")]
)
def test_another_entry_in_the_place_of_the_arrival_is_a_rewound_log(
    kind: str, epoch: int, info: bytes
) -> None:
    log, order = SharedLog(START), Order()
    log.join(1, [], 11, b"info")
    with pytest.raises(RewoundError, match="arrival is not at 11"):
        log.receive([order.add(epoch, payload=info, kind=kind)])


@pytest.mark.parametrize("seed", range(50))
def test_all_comes_out_once_and_in_order_however_often_the_epoch_is_lost(seed: int) -> None:
    rng, order = random.Random(seed), Order()
    log, epoch, added = member(), 1, list[Any]()
    wire: list[Outgoing] = []
    found: list[Any] = []
    other, heard = SharedLog(START), list[Any]()

    def receive(batches: list[Batch]) -> None:
        for reader, out in ((log, found), (other, heard)):
            reader.receive(batches)
            out += [each for each in contents(reader) if not isinstance(each, Gone)]

    def read(count: int) -> None:
        receive(order.take(epoch, wire[:count]))
        del wire[:count]

    for number in range(300):
        chance = rng.random()
        if chance < 0.6:
            added.append(rng.choice([Kicked(f"{number}"), SaidAll([number])]))
            log.append(added[-1], None, rng.choice([10, BATCH_SIZE]))
        elif chance < 0.9:
            wire += batches(log)
            read(rng.randint(0, 3))
        elif log.epoch:
            wire.clear()
            receive([order.gone(epoch)])
        else:
            epoch += 1
            join(log, epoch)
    if not log.epoch:
        epoch += 1
        join(log, epoch)
    wire += batches(log)
    read(len(wire))
    assert found == added
    assert heard == [each for each in added if isinstance(each, Kicked)]
    assert not log.owes
