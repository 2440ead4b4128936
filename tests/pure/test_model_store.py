"""The store in memory: the faults that its caller may choose. What all stores promise is tested elsewhere."""

import pytest
from support.model_store import ModelLog, ModelStore

from mpchat.cluster.store import Place, RewoundError, Snapshot, UnavailableError

START = Place("g1", 0, b"c0ffee", 0, 0.0, 0.0)
LEASE = 10.0


def begun() -> tuple[ModelLog, ModelStore]:
    log = ModelLog()
    store = ModelStore(log)
    assert store.found(None, Snapshot(START, 1, [b"state"]))
    assert store.register("g1", "서울", "i", 1, b"", LEASE) == (1, 1)
    return log, store


def append(store: ModelStore, *numbers: int, position: int = 0) -> list[int]:
    return store.append("g1", 1, position, LEASE, [(number, 1, b"%d" % number) for number in numbers])


def numbers(store: ModelStore) -> list[int]:
    return [batch.number for batch in store.read(START, 0, 1000)[1:]]


def test_a_lost_reply_is_one_to_work_that_was_done() -> None:
    _, store = begun()
    store.lose_replies(2)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            append(store, 1)
    assert append(store, 1, 2) == [0, 3]
    assert numbers(store) == [1, 2]


def test_a_store_that_is_away_does_nothing() -> None:
    log, store = begun()
    other = ModelStore(log)
    store.away = True
    with pytest.raises(UnavailableError):
        append(store, 1)
    assert numbers(other) == []
    store.away, log.away = False, True
    for each in (store, other):
        with pytest.raises(UnavailableError):
            each.check(START)
    log.away = False
    assert append(store, 1) == [2]


def test_a_log_loses_its_last_entries_with_all_that_they_did() -> None:
    log, store = begun()
    for number in range(1, 6):
        append(store, number)
    [*_, last] = store.read(START, 0, 1000)
    log.lose_last(2)
    assert numbers(store) == [1, 2, 3]
    with pytest.raises(RewoundError, match="from 4 up to 6"):
        append(store, 6)
    with pytest.raises(RewoundError, match="ends at 4"):
        append(store, 4, position=6)
    log.advance(0.5)
    assert append(store, 4, 5) == [5, 6]
    with pytest.raises(RewoundError, match="another batch"):
        store.check(START.after(last))
    # Again, and further back than the first time.
    log.lose_last(3)
    assert numbers(store) == [1, 2]
    assert append(store, 3) == [4]


def test_a_lost_registration_gives_its_epoch_again() -> None:
    log, store = begun()
    assert store.register("g1", "부산", "j", 1, b"", LEASE) == (2, 2)
    log.lose_last(1)
    assert store.register("g1", "대구", "k", 1, b"", LEASE) == (2, 2)


def test_entries_that_were_trimmed_come_back_with_what_was_lost() -> None:
    log, store = begun()
    append(store, 1, 2)
    append(store, 3, position=3)
    batches = store.read(START, 0, 1000)
    place = START.after(batches[2])
    store.save(Snapshot(place, 1, [b"newer"]))
    log.lose_last(1)
    assert numbers(store) == [1, 2]
    assert store.load() == Snapshot(START, 1, [b"state"])


def test_a_log_can_become_empty_and_be_begun_again() -> None:
    log, store = begun()
    log.become_empty()
    assert store.load() is None
    with pytest.raises(RewoundError, match="empty"):
        append(store, 1)
    assert store.found("g1", Snapshot(START._replace(generation="g2"), 1, [b"new"]))
    assert store.register("g2", "서울", "i", 1, b"", LEASE) == (1, 1)
