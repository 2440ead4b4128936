"""When connections move from fuller workers to emptier ones, and how many."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.supervisor.balance_policy import UNEVEN_LEAST, spread_allowed, surpluses, uneven
from mpchat.supervisor.scale import workers_after

LOADS = st.lists(st.integers(0, 5_000), max_size=12)


def evened(loads: list[int]) -> list[int]:
    """What becomes of the loads when what is given away goes where there is most room, one by one."""
    given = surpluses(loads)
    left = [load - surplus for load, surplus in zip(loads, given, strict=True)]
    for _ in range(sum(given)):
        left[left.index(min(left))] += 1
    return left


@given(LOADS)
def test_giving_surpluses_away_evens_workers_out_and_nobody_gives_twice(loads: list[int]) -> None:
    after = evened(loads)
    assert sum(after) == sum(loads)
    assert all(0 <= surplus <= load for surplus, load in zip(surpluses(loads), loads, strict=True))
    if loads:
        assert max(after) - min(after) <= spread_allowed(max(loads))
        assert max(after) <= max(loads)
        assert min(after) >= min(loads)
    assert not any(surpluses(after))


@given(st.lists(st.integers(0, 5_000), min_size=2, max_size=12))
def test_no_more_move_than_are_above_the_fair_share(loads: list[int]) -> None:
    fair = sum(loads) / len(loads)
    assert sum(surpluses(loads)) <= sum(max(0.0, load - fair) for load in loads)


@given(LOADS)
def test_who_is_even_gives_nothing_and_who_is_told_uneven_has_something_to_give(loads: list[int]) -> None:
    if loads and max(loads) - min(loads) <= max(2, max(loads) // 20):
        assert not any(surpluses(loads))
    if uneven(loads):
        assert any(surpluses(loads))
        assert not uneven(evened(loads))


@pytest.mark.parametrize(
    ("loads", "given"),
    [
        ([2, 0], [0, 0]),
        ([3, 0], [1, 0]),
        ([0, 4], [0, 2]),
        ([105, 100], [0, 0]),
        ([106, 100], [3, 0]),
        ([120, 114], [0, 0]),
        ([10, 10, 0], [3, 3, 0]),
    ],
)
def test_a_difference_of_more_than_two_and_a_twentieth_is_evened_out(
    loads: list[int], given: list[int]
) -> None:
    assert surpluses(loads) == given


@pytest.mark.parametrize(
    ("loads", "unasked"),
    [([8, 0], False), ([9, 0], True), ([100, 80], False), ([100, 79], True), ([0, 0], False)],
)
def test_only_more_than_eight_and_a_fifth_is_evened_out_unasked(loads: list[int], unasked: bool) -> None:
    assert uneven(loads) is unasked


@given(st.lists(st.integers(0, UNEVEN_LEAST), min_size=1, max_size=12), st.integers(0, 1_000))
def test_small_differences_are_not_uneven(loads: list[int], more: int) -> None:
    assert not uneven([load + more for load in loads])


def test_a_worker_that_came_back_empty_is_uneven() -> None:
    assert uneven([250, 250, 250, 0])
    assert surpluses([250, 250, 250, 0]) == [62, 62, 62, 0]
    assert not uneven([])
    assert surpluses([]) == []


@pytest.mark.parametrize(
    ("workers", "difference", "after"), [(1, 1, 2), (3, -1, 2), (1, -1, 1), (255, 1, 256), (256, 1, 256)]
)
def test_one_more_and_one_fewer_stay_within_what_the_setting_allows(
    workers: int, difference: int, after: int
) -> None:
    assert workers_after(workers, difference) == after
