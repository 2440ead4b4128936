"""Throttle: which try must wait after failures, for how long, and what is forgotten."""

import pytest

from mpchat.auth import throttle
from mpchat.auth.throttle import (
    FIRST_WAIT,
    FORGET_AFTER,
    FREE,
    LONGEST_WAIT,
    LONGEST_WAIT_OF_ADDRESS,
    Throttle,
)


def fail(limits: Throttle, name: str, address: str, now: float = 100.0, times: int = FREE) -> None:
    """Let so many tries fail at one moment."""
    for _ in range(times):
        limits.fail(limits.keys(name, address)[1], now)


def wait(limits: Throttle, name: str, address: str, now: float = 100.0) -> float:
    """Return for how long a try must wait."""
    return limits.wait(limits.keys(name, address)[0], now)


def test_four_failures_cost_nothing_and_the_fifth_costs_a_wait() -> None:
    limits = Throttle()
    fail(limits, "앨리스", "192.0.2.1", times=FREE - 1)
    assert wait(limits, "앨리스", "192.0.2.1") == 0
    fail(limits, "앨리스", "192.0.2.1", times=1)
    assert wait(limits, "앨리스", "192.0.2.1") == FIRST_WAIT
    assert wait(limits, "앨리스", "192.0.2.1", 100.0 + FIRST_WAIT / 4) == FIRST_WAIT * 3 / 4
    assert wait(limits, "앨리스", "192.0.2.1", 100.0 + FIRST_WAIT) == 0


def test_each_further_failure_doubles_the_wait_up_to_the_longest() -> None:
    limits, now, waits = Throttle(), 100.0, []
    fail(limits, "앨리스", "192.0.2.1", now)
    for _ in range(40):
        waits.append(wait(limits, "앨리스", "192.0.2.1", now))
        now += waits[-1]
        fail(limits, "앨리스", "192.0.2.1", now, times=1)
    assert waits[:7] == [1, 2, 4, 8, 16, 32, LONGEST_WAIT]
    assert set(waits[6:]) == {LONGEST_WAIT}


def test_an_address_waits_less_long_than_a_name_because_many_may_share_it() -> None:
    limits = Throttle()
    fail(limits, "앨리스", "192.0.2.1", times=50)
    assert wait(limits, "밥", "192.0.2.1") == LONGEST_WAIT_OF_ADDRESS < LONGEST_WAIT
    assert wait(limits, "앨리스", "198.51.100.1") == LONGEST_WAIT


def test_a_name_and_an_address_are_throttled_each_on_its_own() -> None:
    limits = Throttle()
    for number in range(FREE):
        fail(limits, "앨리스", f"192.0.2.{number}", times=1)
    assert wait(limits, "앨리스", "198.51.100.1") == FIRST_WAIT, "the name, from anywhere"
    assert wait(limits, "밥", "192.0.2.0") == 0
    for number in range(FREE):
        fail(limits, f"이름{number}", "203.0.113.9", times=1)
    assert wait(limits, "밥", "203.0.113.9") == FIRST_WAIT, "the address, with any name"
    assert wait(limits, "", "203.0.113.9") == FIRST_WAIT, "and with a token"
    assert wait(limits, "이름0", "198.51.100.1") == 0


def test_a_proof_without_a_name_counts_for_its_address_alone() -> None:
    limits = Throttle()
    fail(limits, "", "192.0.2.1")
    assert wait(limits, "", "192.0.2.1") == FIRST_WAIT
    assert wait(limits, "", "192.0.2.2") == 0
    assert wait(limits, "앨리스", "192.0.2.2") == 0


def test_failures_are_forgotten_after_a_while_and_counted_from_one_again() -> None:
    limits = Throttle()
    fail(limits, "앨리스", "192.0.2.1", times=20)
    later = 100.0 + FORGET_AFTER + 1
    fail(limits, "앨리스", "192.0.2.1", later, times=FREE - 1)
    assert wait(limits, "앨리스", "192.0.2.1", later) == 0
    fail(limits, "앨리스", "192.0.2.1", later, times=1)
    assert wait(limits, "앨리스", "192.0.2.1", later) == FIRST_WAIT


def test_failures_are_remembered_as_long_as_each_comes_soon_after_the_one_before() -> None:
    limits, now = Throttle(), 100.0
    for _ in range(20):
        fail(limits, "앨리스", "192.0.2.1", now, times=1)
        now += FORGET_AFTER - 1
    fail(limits, "앨리스", "192.0.2.1", now, times=1)
    assert wait(limits, "앨리스", "192.0.2.1", now) == LONGEST_WAIT


def test_strangers_do_not_hold_up_a_name_where_it_was_proven() -> None:
    limits = Throttle()
    limits.prove("앨리스", "192.0.2.1")
    fail(limits, "앨리스", "203.0.113.9", times=50)
    fail(limits, "밥", "192.0.2.1", times=50)
    assert wait(limits, "앨리스", "192.0.2.1") == 0, "neither for the name nor for the address"
    assert wait(limits, "앨리스", "198.51.100.1") == LONGEST_WAIT
    assert wait(limits, "밥", "198.51.100.1") == LONGEST_WAIT


def test_a_proven_name_is_throttled_by_failures_at_its_own_address_until_it_is_proven_again() -> None:
    limits = Throttle()
    limits.prove("앨리스", "192.0.2.1")
    fail(limits, "앨리스", "192.0.2.1")
    assert wait(limits, "앨리스", "192.0.2.1") == FIRST_WAIT
    assert wait(limits, "앨리스", "198.51.100.1") == 0, "and it alone"
    limits.prove("앨리스", "192.0.2.1")
    assert wait(limits, "앨리스", "192.0.2.1") == 0


def test_a_guesser_with_an_account_of_its_own_wins_no_tries_by_proving_that() -> None:
    limits = Throttle()
    for _ in range(FREE):
        fail(limits, "앨리스", "203.0.113.9", times=1)
        limits.prove("mallory", "203.0.113.9")
    assert wait(limits, "앨리스", "203.0.113.9") == FIRST_WAIT
    assert wait(limits, "밥", "203.0.113.9") == FIRST_WAIT


def test_the_memory_is_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MOST", 100)
    limits = Throttle()
    for number in range(1000):
        limits.fail([("name", f"이름{number}")] * FREE, 100.0)
        limits.prove(f"이름{number}", "192.0.2.1")
    assert len(limits._failures) == len(limits._proven) == 100
    assert limits.wait([("name", "이름899")], 100.0) == 0
    assert limits.wait([("name", "이름900")], 100.0) == FIRST_WAIT
    assert limits.keys("이름899", "192.0.2.1")[0][0][0] == "name"
    assert limits.keys("이름900", "192.0.2.1")[0][0][0] == "proven"


def test_a_name_that_fails_again_is_not_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MOST", 2)
    limits = Throttle()
    for name in ("앨리스", "밥", "앨리스", "carol"):
        limits.fail([("name", name)], 100.0)
    assert set(limits._failures) == {("name", "앨리스"), ("name", "carol")}


def test_a_name_that_is_proven_again_and_again_is_not_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MOST", 2)
    limits = Throttle()
    for name in ("앨리스", "밥", "앨리스", "carol"):
        limits.prove(name, "192.0.2.1")
    assert limits.keys("앨리스", "192.0.2.1")[0][0][0] == "proven"
    assert limits.keys("밥", "192.0.2.1")[0][0][0] == "name"


def test_failures_that_are_old_go_with_the_next_failure() -> None:
    limits = Throttle()
    for number in range(100):
        fail(limits, f"이름{number}", "192.0.2.1", 100.0 + number, times=1)
    fail(limits, "앨리스", "192.0.2.2", 200.0 + FORGET_AFTER, times=1)
    assert set(limits._failures) == {("name", "앨리스"), ("address", "192.0.2.2")}


def test_a_wrong_proof_for_a_proven_name_counts_for_the_address_as_any_other() -> None:
    """Else a stranger could tell by the next name's wait which names were proven there."""
    limits = Throttle()
    limits.prove("앨리스", "192.0.2.1")
    for name in ("앨리스", "밥"):
        fail(limits, name, "192.0.2.1")
        assert wait(limits, "carol", "192.0.2.1") > 0
        limits = Throttle()
        limits.prove("앨리스", "192.0.2.1")
