"""What every store promises: each test runs against the one in memory and against a real Redis."""

import random
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import pytest
from support.model_store import ModelLog, ModelStore
from support.redis_server import RedisServer, running_redis

from mpchat.cluster import redis_store
from mpchat.cluster.redis_store import RedisStore
from mpchat.cluster.store import (
    AGAIN,
    ARRIVED,
    BATCH,
    FOUND,
    GONE,
    STAND_TIME,
    WAIT,
    Batch,
    FencedError,
    Place,
    RefusedError,
    RewoundError,
    Snapshot,
    Standing,
    Store,
    TrimmedError,
    chained,
)
from mpchat.cluster_url import parse

NAME = "우리 채팅"
LEASE = 10.0
START = Place("g1", 500, b"c0ffee", 12_345, 77.25, 1_700_000_000.5)
PARTS = ["상태 하나".encode(), bytes(range(256)), b""]


class Kit(Protocol):
    """What a test needs of either kind."""

    def store(self) -> Store: ...

    def pass_time(self, seconds: float) -> None:
        """Let the clock of the store go on, or back."""

    def pass_time_of_stands(self, seconds: float) -> None:
        """Let time pass for hosts that state their positions."""

    def become_empty(self) -> None: ...

    def keep_at_most(self, payload: int, batches: int) -> None: ...


class ModelKit:
    def __init__(self) -> None:
        self.log = ModelLog()

    def store(self) -> Store:
        return ModelStore(self.log)

    def pass_time(self, seconds: float) -> None:
        self.log.advance(seconds)

    pass_time_of_stands = pass_time

    def become_empty(self) -> None:
        self.log.become_empty()

    def keep_at_most(self, payload: int, batches: int) -> None:
        self.log.kept, self.log.kept_batches = payload, batches


class RedisKit:
    def __init__(self, server: RedisServer, patch: pytest.MonkeyPatch) -> None:
        self.server, self.patch = server, patch
        self.stores: list[RedisStore] = []

    def store(self) -> Store:
        self.stores.append(RedisStore(parse(self.server.url), NAME))
        return self.stores[-1]

    def pass_time(self, seconds: float) -> None:
        self.server.ask("HINCRBY", f"{{mpchat:{NAME}}}:head", "seen", -round(seconds * 1000))

    def pass_time_of_stands(self, seconds: float) -> None:
        time.sleep(seconds)

    def become_empty(self) -> None:
        self.server.ask("FLUSHALL")

    def keep_at_most(self, payload: int, batches: int) -> None:
        self.patch.setattr(redis_store, "KEPT", payload)
        self.patch.setattr(redis_store, "KEPT_BATCHES", batches)


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with running_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["model", "redis"])
def kit(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    if request.param == "model":
        yield ModelKit()
        return
    server: RedisServer = request.getfixturevalue("redis_server")
    server.ask("FLUSHALL")
    kit = RedisKit(server, monkeypatch)
    yield kit
    for each in kit.stores:
        each.close()


@pytest.fixture
def store(kit: Kit) -> Store:
    """A store whose log has just begun."""
    store = kit.store()
    assert store.found(None, Snapshot(START, 3, PARTS))
    return store


def register(store: Store, name: str = "서울", instance: str = "i", version: int = 3) -> int:
    return store.register("g1", name, instance, version, b"info", LEASE).epoch


def append(store: Store, epoch: int, *batches: tuple[int, bytes], position: int = 500) -> list[int]:
    return store.append("g1", epoch, position, LEASE, [(number, 3, text) for number, text in batches])


def read(store: Store, place: Place = START) -> list[Batch]:
    return store.read(place, 0, 1 << 20)


def end(store: Store, place: Place = START) -> Place:
    for batch in read(store, place):
        place = place.after(batch)
    return place


def shown(batches: list[Batch]) -> list[tuple[int, str, int, int]]:
    return [(batch.position, batch.kind, batch.epoch, batch.number) for batch in batches]


def test_there_is_no_log_before_it_is_founded(kit: Kit) -> None:
    store = kit.store()
    assert store.open() is None
    assert store.load() is None
    with pytest.raises(RewoundError, match="empty"):
        store.register("g1", "서울", "i", 3, b"", LEASE)
    with pytest.raises(RewoundError, match="empty"):
        store.append("g1", 1, 0, LEASE, [])
    with pytest.raises(RewoundError, match="empty"):
        store.check(START)
    with pytest.raises(RewoundError, match="empty"):
        store.read(START, 0, 1000)
    with pytest.raises(RewoundError, match="empty"):
        store.leave("g1", 1)


def test_a_founded_log_has_its_snapshot(store: Store, kit: Kit) -> None:
    assert kit.store().open() == Snapshot(START, 3, PARTS)
    assert kit.store().load() == Snapshot(START, 3, PARTS)
    store.check(START)
    assert read(store) == []


def test_one_of_two_founds_the_log(store: Store, kit: Kit) -> None:
    other = START._replace(generation="g2", position=900)
    assert not kit.store().found(None, Snapshot(other, 3, [b"other"]))
    assert store.load() == Snapshot(START, 3, PARTS)
    # A reply was lost: the founder asks again.
    assert store.found(None, Snapshot(START, 3, PARTS))
    assert store.load() == Snapshot(START, 3, PARTS)


def test_a_host_arrives_and_reads_what_it_appends(store: Store) -> None:
    epoch, position = store.register("g1", "서울", "i", 3, "정보".encode(), LEASE)
    assert (epoch, position) == (1, 501)
    assert append(store, 1, (1, "안녕".encode()), (2, b"\0\xff\r\n")) == [502, 503]
    batches = read(store)
    assert shown(batches) == [(501, ARRIVED, 1, 0), (502, BATCH, 1, 1), (503, BATCH, 1, 2)]
    assert [batch.payload for batch in batches] == ["정보".encode(), "안녕".encode(), b"\0\xff\r\n"]
    assert [batch.version for batch in batches] == [3, 3, 3]
    assert [batch.total for batch in batches] == [12_345 + 6, 12_345 + 12, 12_345 + 16]
    assert all(77.25 <= batch.time < 79.25 for batch in batches)
    assert all(batch.at > 1_700_000_000 for batch in batches)
    assert store.register("g1", "부산", "i", 3, b"", LEASE) == (2, 504)


def test_the_chain_is_what_everybody_can_compute(store: Store) -> None:
    append(store, register(store), (1, b"a"), (2, b"b"))
    chain = START.chain
    for batch in read(store):
        chain = chained(chain, batch.epoch, batch.number, round(batch.time * 1000), batch.kind)
        assert batch.chain == chain
        assert len(chain) == 40


def test_reading_goes_on_after_a_place_and_checks_it(store: Store) -> None:
    append(store, register(store), (1, b"a"), (2, b"b"))
    batches = read(store)
    place = START.after(batches[0])
    assert read(store, place) == batches[1:]
    store.check(place)
    assert read(store, end(store)) == []
    store.check(end(store))


def test_a_read_is_bounded_by_bytes_but_gives_one_batch(store: Store) -> None:
    append(store, register(store), *((number, b"x" * 1000) for number in range(1, 8)))
    place = end(store)._replace(position=501)
    place = START.after(read(store)[0])
    for _ in range(2):  # the second time a store may know how long batches are
        assert [batch.number for batch in store.read(place, 0, 2999)] == [1, 2]
    assert [batch.number for batch in store.read(place, 0, 3000)] == [1, 2, 3]
    assert [batch.number for batch in store.read(place, 0, 1)] == [1]


def test_a_batch_that_is_there_is_dropped(store: Store) -> None:
    epoch = register(store)
    assert append(store, epoch, (1, b"a"), (2, b"b")) == [502, 503]
    assert append(store, epoch, (1, b"a"), (2, b"b")) == [0, 0]
    assert append(store, epoch, (2, b"b"), (3, b"c"), (3, b"c"), (4, b"d")) == [0, 504, 0, 505]
    assert [batch.payload for batch in read(store)[1:]] == [b"a", b"b", b"c", b"d"]


def test_a_gap_in_the_numbers_appends_nothing(store: Store) -> None:
    epoch = register(store)
    with pytest.raises(RewoundError, match="from 1 up to 2"):
        append(store, epoch, (2, b"b"))
    with pytest.raises(RewoundError, match="from 2 up to 3"):
        append(store, epoch, (1, b"a"), (3, b"c"))
    assert shown(read(store)) == [(501, ARRIVED, 1, 0)]
    assert append(store, epoch, (1, b"a")) == [502]


def test_each_host_has_its_own_numbers(store: Store, kit: Kit) -> None:
    other = kit.store()
    first, second = register(store), register(other, "부산")
    assert append(store, first, (1, b"a")) == [503]
    assert append(other, second, (1, b"b")) == [504]
    assert append(store, first, (2, b"c")) == [505]


def test_a_host_that_has_read_more_than_there_is_appends_nothing(store: Store) -> None:
    epoch = register(store)
    with pytest.raises(RewoundError, match="ends at 501"):
        append(store, epoch, (1, b"a"), position=502)
    assert append(store, epoch, (1, b"a"), position=501) == [502]


def test_another_generation_is_refused_everywhere(store: Store) -> None:
    epoch = register(store)
    wrong = START._replace(generation="g0", chain=b"random")
    with pytest.raises(RewoundError, match="another log"):
        store.append("g0", epoch, 0, LEASE, [(1, 3, b"a")])
    with pytest.raises(RewoundError, match="another log"):
        store.register("g0", "부산", "i", 3, b"", LEASE)
    with pytest.raises(RewoundError, match="another log"):
        store.leave("g0", epoch)
    with pytest.raises(RewoundError, match="another log"):
        store.check(wrong)
    with pytest.raises(RewoundError, match="another log"):
        store.read(wrong._replace(position=501), 0, 1000)
    with pytest.raises(RewoundError, match="another log"):
        store.read(wrong, 0, 1000)
    store.save(Snapshot(wrong._replace(position=501), 3, [b"wrong"]))
    assert store.load() == Snapshot(START, 3, PARTS)
    assert shown(read(store)) == [(501, ARRIVED, 1, 0)]


def test_a_place_that_is_not_in_the_log_is_noticed(store: Store) -> None:
    append(store, register(store), (1, b"a"))
    place = end(store)
    with pytest.raises(RewoundError, match="ends at 502"):
        store.check(place._replace(position=503))
    with pytest.raises(RewoundError, match="ends at 502"):
        store.read(place._replace(position=503), 0, 1000)
    with pytest.raises(RewoundError, match="another batch is at 502"):
        store.check(place._replace(chain=b"0" * 40))
    with pytest.raises(RewoundError, match="another batch is at 502"):
        store.read(place._replace(chain=b"0" * 40), 0, 1000)
    with pytest.raises(RewoundError, match="another batch is at 501"):
        store.read(place._replace(position=501), 0, 1000)
    with pytest.raises(RewoundError, match="another batch is at 500"):
        store.check(START._replace(chain=b"0" * 40))


def test_a_lease_is_renewed_by_appends(store: Store, kit: Kit) -> None:
    epoch = register(store)
    for number in range(1, 15):
        kit.pass_time(1.5)
        append(store, epoch, (number, b"beat"))
    kit.pass_time(1.5)
    assert append(store, epoch) == []
    assert [batch.kind for batch in read(store)[1:]] == [BATCH] * 14
    times = [batch.time for batch in read(store)]
    assert all(1.4 < later - earlier < 1.9 for earlier, later in pairwise(times))


def pass_lease(kit: Kit, other: Store, epoch: int, first: int = 1) -> None:
    """Let more than a lease pass in which the host ``epoch`` appends."""
    for number in range(first, first + 6):
        kit.pass_time(1.9)
        append(other, epoch, (number, b"beat"))


def test_a_host_that_is_silent_for_its_lease_is_gone(store: Store, kit: Kit) -> None:
    lost, alive = register(store), register(store, "부산")
    append(store, lost, (1, b"a"))
    pass_lease(kit, store, alive)
    kinds = [(batch.kind, batch.epoch, batch.number) for batch in read(store)[3:]]
    # Right before the first batch after the lease's end.
    assert kinds == [(BATCH, 2, n) for n in range(1, 6)] + [(GONE, 1, 0), (BATCH, 2, 6)]
    for _ in range(2):
        with pytest.raises(FencedError):
            append(store, lost, (2, b"b"))
    assert [batch.kind for batch in read(store)].count(GONE) == 1
    assert register(store) == 3
    assert append(store, 3, (1, b"new")) == [512]


def test_a_lone_host_past_its_lease_is_fenced_and_reads_its_own_end(store: Store, kit: Kit) -> None:
    store.register("g1", "서울", "i", 3, b"", 1.0)
    kit.pass_time(1.5)
    with pytest.raises(FencedError):
        append(store, 1, (1, b"late"))
    assert shown(read(store)) == [(501, ARRIVED, 1, 0), (502, GONE, 1, 0)]
    with pytest.raises(FencedError):
        append(store, 1, (1, b"late"))
    assert len(read(store)) == 2


def test_an_epoch_that_the_log_never_gave_was_given_in_what_it_lost(store: Store) -> None:
    with pytest.raises(RewoundError, match="lost this host's registration"):
        append(store, 1, (1, "나도 있어".encode()))
    assert read(store) == []


def test_time_in_which_no_host_came_through_does_not_count(store: Store, kit: Kit) -> None:
    epoch = register(store)
    kit.pass_time(3600)
    assert append(store, epoch, (1, b"a")) == [502]
    arrived, batch = read(store)
    assert batch.time - arrived.time == 2.0


def test_the_log_s_clock_never_goes_back(store: Store, kit: Kit) -> None:
    epoch = register(store)
    kit.pass_time(-3600)
    append(store, epoch, (1, b"a"))
    kit.pass_time(1.0)
    append(store, epoch, (2, b"b"))
    arrived, first, second = (batch.time for batch in read(store))
    assert first == arrived
    assert 1.0 <= second - first < 1.9


def test_a_host_that_leaves_is_gone_once(store: Store) -> None:
    epoch = register(store)
    store.leave("g1", epoch)
    store.leave("g1", epoch)
    store.leave("g1", 99)
    assert shown(read(store)) == [(501, ARRIVED, 1, 0), (502, GONE, 1, 0)]
    with pytest.raises(FencedError):
        append(store, epoch, (1, b"a"))


def test_a_living_host_of_that_name_is_refused(store: Store, kit: Kit) -> None:
    register(store)
    with pytest.raises(RefusedError, match="'서울'"):
        register(kit.store(), instance="다른 기계")
    assert shown(read(store)) == [(501, ARRIVED, 1, 0)]
    # Its tries alone let the other's lease end.
    for _ in range(5):
        kit.pass_time(1.9)
        with pytest.raises(RefusedError, match="서울"):
            register(kit.store(), instance="다른 기계")
    kit.pass_time(1.9)
    assert register(kit.store(), instance="다른 기계") == 2
    assert shown(read(store)) == [(501, ARRIVED, 1, 0), (502, GONE, 1, 0), (503, ARRIVED, 2, 0)]


def test_a_host_that_starts_again_ends_its_predecessor(store: Store) -> None:
    append(store, register(store), (1, b"a"))
    assert register(store) == 2
    assert shown(read(store))[2:] == [(503, GONE, 1, 0), (504, ARRIVED, 2, 0)]
    with pytest.raises(FencedError):
        append(store, 1, (2, b"b"))
    assert append(store, 2, (1, b"b")) == [505]


@pytest.mark.parametrize("version", [1, 5])
def test_versions_that_are_two_apart_are_refused(store: Store, version: int) -> None:
    register(store)
    with pytest.raises(RefusedError, match=rf"\b{version}\b.*\b3\b"):
        register(store, "부산", version=version)
    assert len(read(store)) == 1


@pytest.mark.parametrize("version", [2, 4])
def test_versions_that_are_next_to_each_other_are_fine(store: Store, version: int) -> None:
    register(store)
    assert register(store, "부산", version=version) == 2


def test_a_dead_host_s_version_does_not_matter(store: Store, kit: Kit) -> None:
    store.register("g1", "서울", "i", 1, b"", 1.0)
    kit.pass_time(1.5)
    assert register(store, "부산", version=9) == 2
    assert shown(read(store)) == [(501, ARRIVED, 1, 0), (502, GONE, 1, 0), (503, ARRIVED, 2, 0)]


def test_a_saved_snapshot_is_the_one_to_load(store: Store, kit: Kit) -> None:
    append(store, register(store), (1, b"a"), (2, b"b"))
    batches = read(store)
    newer = START.after(batches[1])
    snapshot = Snapshot(newer, 4, [b"%d" % number for number in range(100)])
    store.save(snapshot)
    assert kit.store().load() == snapshot
    # An older one, or the same again, changes nothing.
    store.save(Snapshot(START.after(batches[0]), 4, [b"older"]))
    store.save(Snapshot(newer, 4, [b"same"]))
    assert store.load() == snapshot
    # One from beyond the end of the log is another log's.
    store.save(Snapshot(newer._replace(position=600), 4, [b"beyond"]))
    assert store.load() == snapshot


def test_a_snapshot_without_parts_is_kept(store: Store) -> None:
    register(store)
    store.save(Snapshot(end(store), 4, []))
    assert store.load() == Snapshot(end(store, end_of(store)), 4, [])


def end_of(store: Store) -> Place:
    snapshot = store.load()
    assert snapshot is not None
    return snapshot.place


def trimmed_at(store: Store, places: list[Place]) -> int:
    """Return the position from which on the log is there: ``places`` are all that it had."""

    def is_there(place: Place) -> bool:
        try:
            store.check(place)
        except TrimmedError:
            with pytest.raises(TrimmedError):
                store.read(place, 0, 1000)
            return False
        return True

    there = [place.position for place in places if is_there(place)]
    assert there == list(range(there[0], places[-1].position + 1))
    return there[0]


def places_of(store: Store) -> list[Place]:
    places = [START]
    for batch in read(store):
        places.append(places[-1].after(batch))
    return places


def test_a_save_trims_to_the_snapshot_before_the_last_one(store: Store) -> None:
    """What follows it serves hosts that return after a short while."""
    epoch = register(store)
    append(store, epoch, *((number, b"x") for number in range(1, 20)), position=501)
    append(store, epoch, position=520)
    places = places_of(store)
    # The log's founder had made the snapshot at 500.
    store.save(Snapshot(places[5], 3, [b"at 505"]))
    assert trimmed_at(store, places) == 500
    store.save(Snapshot(places[12], 3, [b"at 512"]))
    assert trimmed_at(store, places) == 505
    # One that is refused trims nothing.
    store.save(Snapshot(places[11], 3, [b"at 511"]))
    assert trimmed_at(store, places) == 505
    store.save(Snapshot(places[13], 3, [b"at 513"]))
    assert trimmed_at(store, places) == 512
    with pytest.raises(RewoundError, match="another batch is at 512"):
        store.check(places[12]._replace(chain=b"0" * 40))
    assert [batch.position for batch in read(store, places[12])] == list(range(513, 521))


def test_the_log_is_trimmed_below_the_slowest_living_host(store: Store) -> None:
    fast, slow = register(store), register(store, "부산")
    append(store, fast, *((number, b"x") for number in range(1, 11)), position=502)
    append(store, fast, (11, b"x"), position=512)
    append(store, slow, (1, b"y"), position=505)
    places = places_of(store)
    store.save(Snapshot(places[8], 3, [b"at 508"]))
    assert trimmed_at(store, places) == 500
    store.save(Snapshot(places[10], 3, [b"at 510"]))
    assert trimmed_at(store, places) == 505
    # The slow host is gone: the snapshots alone decide.
    store.leave("g1", slow)
    places = [*places, end(store, places[-1])]
    store.save(Snapshot(places[11], 3, [b"at 511"]))
    assert trimmed_at(store, places) == 510


def test_what_follows_the_snapshot_is_kept_whatever_it_is(store: Store, kit: Kit) -> None:
    kit.keep_at_most(5, 2)
    epoch = register(store)
    append(store, epoch, *((number, b"x") for number in range(1, 21)), position=501)
    place = START.after(read(store)[0])
    store.save(Snapshot(place, 3, [b"early"]))
    assert len(read(store, place)) == 20


@pytest.mark.parametrize(("payload", "batches", "left"), [(1 << 20, 7, 7), (4000, 1000, 4), (3999, 1000, 3)])
def test_a_slow_host_keeps_no_more_than_the_bound(
    store: Store, kit: Kit, payload: int, batches: int, left: int
) -> None:
    kit.keep_at_most(payload, batches)
    register(store, "부산")
    epoch = register(store)
    append(store, epoch, *((number, b"x" * 1000) for number in range(1, 21)), position=502)
    all_batches = read(store)
    place = end(store)
    store.save(Snapshot(place, 3, [b"late"]))
    edge = START.after(all_batches[-left - 1])
    assert [batch.position for batch in read(store, edge)] == list(range(523 - left, 523))
    with pytest.raises(TrimmedError):
        store.read(START.after(all_batches[-left - 2]), 0, 1000)
    # A second time, with nothing new to trim but what came meanwhile.
    append(store, epoch, (21, b"x" * 1000), position=502)
    store.save(Snapshot(end(store, place), 3, [b"later"]))
    assert len(read(store, START.after(all_batches[-left]))) == left


def test_a_place_in_a_log_that_was_trimmed_to_its_end_is_fine(store: Store, kit: Kit) -> None:
    kit.keep_at_most(1 << 20, 0)  # else what follows the snapshot before stays
    epoch = register(store)
    append(store, epoch, (1, b"a"))
    place = end(store)
    append(store, epoch, position=502)
    store.save(Snapshot(place, 3, [b"all"]))
    assert read(store, place) == []
    store.check(place)
    with pytest.raises(TrimmedError):
        read(store)
    append(store, epoch, (2, b"b"), position=502)
    assert shown(read(store, place)) == [(503, BATCH, 1, 2)]


def test_the_host_with_the_highest_position_founds(store: Store, kit: Kit) -> None:
    low, high = register(store), register(store, "부산")
    append(store, low, (1, b"a"))
    batches = read(store)
    kit.become_empty()
    first, second = kit.store(), kit.store()
    assert first.open() is None
    place_low, place_high = START.after(batches[1]), START.after(batches[2])
    assert first.stand("g1", place_low, "서울").answer == WAIT
    assert second.stand("g1", place_high, "부산").answer == WAIT
    assert first.open() is None  # statements are no foreign key
    # A host that starts now would begin an empty chat.
    assert not kit.store().found(None, Snapshot(START._replace(generation="빈"), 3, [b"empty"]))
    assert first.load() is None
    kit.pass_time_of_stands(STAND_TIME + 0.05)
    assert first.stand("g1", place_low, "서울").answer == WAIT
    lower = (place_low.position, place_low.chain)
    assert second.stand("g1", place_high, "부산") == Standing(FOUND, (lower,))
    new = Snapshot(Place("g2", 503, b"random", place_high.total, place_high.time, place_high.at), 3, [b"new"])
    assert second.found("g1", new)
    assert first.stand("g1", place_low, "서울").answer == AGAIN
    assert not first.found("g1", Snapshot(new.place._replace(generation="g3"), 3, [b"no"]))
    assert first.load() == new
    with pytest.raises(RewoundError, match="another log"):
        first.check(place_low)
    assert first.register("g2", "서울", "i", 3, b"", LEASE).position == 504
    assert high == 2


def test_of_two_with_equal_positions_one_founds(store: Store, kit: Kit) -> None:
    kit.become_empty()
    stores = {name: kit.store() for name in ("나", "가", "다")}
    for name, each in stores.items():
        assert each.stand("g1", START, name).answer == WAIT
    kit.pass_time_of_stands(STAND_TIME + 0.05)
    assert [name for name, each in stores.items() if each.stand("g1", START, name).answer == FOUND] == ["가"]


def test_a_host_that_dies_while_it_stands_does_not_stop_the_others(store: Store, kit: Kit) -> None:
    kit.become_empty()
    store.stand("g1", START._replace(position=900), "죽은 호스트")
    answers = []
    for _ in range(9):
        answers.append(store.stand("g1", START, "서울").answer)
        kit.pass_time_of_stands(0.4)
    assert answers[:7] == [WAIT] * 7
    assert answers[-1] == FOUND


def test_a_new_log_replaces_one_that_was_rolled_back(store: Store, kit: Kit) -> None:
    append(store, register(store), (1, b"a"))
    place = Place("g2", 700, b"random", 99_999, 500.0, 1_700_000_000.0)
    assert store.found("g1", Snapshot(place, 3, [b"new"]))
    assert store.load() == Snapshot(place, 3, [b"new"])
    assert store.read(place, 0, 1000) == []
    with pytest.raises(RewoundError, match="another log"):
        append(store, 1, (2, b"b"))
    # The old log had one host, and its epoch is not used again.
    assert store.register("g2", "서울", "다른", 3, b"xx", LEASE) == (2, 701)
    [arrived] = store.read(place, 0, 1000)
    assert arrived.total == 99_999 + 2
    assert 500.0 <= arrived.time < 502.1


def test_everything_can_be_asked_after_an_error(store: Store) -> None:
    gone = register(store)
    store.leave("g1", gone)
    with pytest.raises(FencedError):
        append(store, gone, (1, b"a"))
    with pytest.raises(RewoundError):
        store.check(START._replace(position=900))
    assert append(store, register(store), (1, b"a")) == [504]


def test_closing_can_be_repeated(store: Store) -> None:
    store.close()
    store.close()
    assert store.load() is not None


class Twin:
    """One store of two that live through the same history, and what was read from it."""

    def __init__(self, kit: Kit) -> None:
        self.kit, self.store = kit, kit.store()
        assert self.store.found(None, Snapshot(START, 3, PARTS))
        kit.keep_at_most(3000, 40)
        self.batches: list[Batch] = []
        self.places = [START]

    def do(
        self, what: str, epoch: int, at: int, batches: list[tuple[int, int, bytes]], number: int
    ) -> object:
        """Do one step, and return what comes of it in a form that has no time and no chain."""
        store, place = self.store, self.places[at]
        try:
            match what:
                case "append":
                    return store.append("g1", epoch, place.position, 10.5, batches)
                case "register":
                    name, instance, version = f"호스트 {number % 3}", f"{number % 2}", 3 + 2 * (number == 7)
                    return store.register("g1", name, instance, version, b"info", 10.5)
                case "leave":
                    store.leave("g1", epoch)
                case "save":
                    store.save(Snapshot(place, 3, [b"%d" % number]))
                case "load":
                    snapshot = store.load()
                    return snapshot and (snapshot.place.position, snapshot.parts)
                case "check":
                    store.check(place)
                case _:
                    # Only one: of more, a store may give as few as it likes.
                    return shown(store.read(place, 0, 1))
            return None
        except (FencedError, RewoundError, RefusedError, TrimmedError) as error:
            return type(error)

    def catch_up(self) -> None:
        new = self.store.read(self.places[-1], 0, 1 << 20)
        self.batches += new
        for batch in new:
            self.places.append(self.places[-1].after(batch))


STEPS = ("append",) * 8 + ("register", "register", "leave", "save", "save", "load", "check", "read")


@pytest.mark.parametrize("seed", range(4))
def test_the_model_and_redis_live_through_the_same_history(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    redis_server.ask("FLUSHALL")
    redis_kit = RedisKit(redis_server, monkeypatch)
    model, real = Twin(ModelKit()), Twin(redis_kit)
    chance = random.Random(seed)
    seen = set()
    for _ in range(300):
        what, number = chance.choice(STEPS), chance.randint(0, 7)
        at = chance.randrange(max(0, len(model.places) - 30), len(model.places))
        epoch = max(0, 1 + max((batch.epoch for batch in model.batches), default=0) - chance.randint(0, 4))
        last = max((batch.number for batch in model.batches if batch.epoch == epoch), default=0)
        first = max(1, last + chance.choice([-1, 0, 1, 1, 1, 1, 2]))
        batches = [(first + more, 3, b"x" * chance.randint(0, 300)) for more in range(chance.randint(0, 3))]
        # Whole seconds, as leases end between them: what the steps themselves take does not matter then.
        step = chance.choice([0.0, 0.0, 0.0, 1.0, 2.0, 5.0, -3.0])
        outcomes = []
        for twin in (model, real):
            twin.kit.pass_time(step)
            outcomes.append(twin.do(what, epoch, at, batches, number))
            twin.catch_up()
        assert outcomes[0] == outcomes[1], (what, epoch, at, batches, number)
        assert shown(model.batches) == shown(real.batches)
        seen.add(outcomes[0] if isinstance(outcomes[0], type) else what)
    assert seen >= {FencedError, RewoundError, RefusedError, TrimmedError, *STEPS}
    for each in redis_kit.stores:
        each.close()
