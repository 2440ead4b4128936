"""Steps of the wall clock: when there was one, and which stamps of before and after it are too old."""

from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.hub.clock_watch import ClockWatch
from mpchat.hub.history_age import STEP, StampedAges

# The wall clock is ahead of the steady clock by so much, and a server starts at 1000 (seconds).
AHEAD = 50_000.0
AGE = 10.0


def at(steady: float, stepped: float = 0.0) -> float:
    """Return the wall clock's time, stepped by so much."""
    return steady + AHEAD + stepped


@pytest.fixture
def ages() -> StampedAges:
    return StampedAges(1000.0, at(1000.0))


def test_until_an_age_after_the_start_any_stamp_that_is_not_too_old_may_come_from_another_clock(
    ages: StampedAges,
) -> None:
    assert ages.span(1005.0, AGE) == (at(995.0), inf)
    assert ages.span(1010.0, AGE) == (at(1000.0), inf)
    assert ages.span(1010.5, AGE) == (at(1000.5), at(1010.5) + 2 * STEP)


@pytest.mark.parametrize("apart", [STEP, -STEP])
def test_clocks_that_come_a_little_apart_are_no_step(ages: StampedAges, apart: float) -> None:
    ages.note(1020.0, at(1020.0, apart))
    assert ages.span(1021.0, AGE) == (at(1011.0), at(1021.0) + 2 * STEP)


def test_after_a_step_ahead_stamps_of_before_count_until_they_are_too_old(ages: StampedAges) -> None:
    ages.span(1015.0, AGE)
    ages.note(1020.0, at(1020.0, 100.0))
    assert ages.span(1030.0, AGE) == (at(1020.0), inf)
    assert ages.span(1030.5, AGE) == (at(1020.5, 100.0), at(1030.5, 100.0) + 2 * STEP)


def test_after_a_step_back_stamps_from_the_future_count_until_they_are_too_old(ages: StampedAges) -> None:
    ages.note(1020.0, at(1020.0, -100.0))
    assert ages.span(1030.0, AGE) == (at(1020.0, -100.0), inf)
    assert ages.span(1030.5, AGE) == (at(1020.5, -100.0), at(1030.5, -100.0) + 2 * STEP)


def test_of_steps_in_a_row_the_lowest_clock_counts_and_later_it_is_forgotten(ages: StampedAges) -> None:
    for second, stepped in ((1020.0, -100.0), (1021.0, 100.0), (1022.0, 50.0)):
        ages.note(second, at(second, stepped))
    assert ages.span(1023.0, AGE) == (at(1013.0, -100.0), inf)
    assert ages.span(1040.0, AGE) == (at(1030.0, 50.0), at(1040.0, 50.0) + 2 * STEP)
    ages.note(1041.0, at(1041.0, 70.0))
    assert ages.span(1042.0, AGE) == (at(1032.0, 50.0), inf)


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0, 0, 0, 40, -40, 1000, -1000]))))
def test_no_message_is_taken_for_too_old_before_it_is(steps: list[tuple[int, int]]) -> None:
    now, stepped, said = 1000.0, 0.0, list[tuple[float, float]]()
    ages = StampedAges(now, at(now))
    for seconds, step in steps:
        now, stepped = now + seconds, stepped + step
        ages.note(now, at(now, stepped))
        said.append((now, at(now, stepped)))
        oldest, newest = ages.span(now, AGE)
        assert all(oldest <= stamp <= newest for taken, stamp in said if now - taken <= AGE)


def test_a_clock_watch_tells_each_step_once() -> None:
    watch = ClockWatch(1000.0, at(1000.0))
    assert watch.step(1010.0, at(1010.0)) == 0.0
    assert watch.step(1020.0, at(1020.0, 100.0)) == 100.0
    assert watch.step(1030.0, at(1030.0, 100.0)) == 0.0
    assert watch.step(1040.0, at(1040.0, 30.0)) == -70.0
    assert watch.step(1050.0, at(1050.0, 30.0)) == 0.0


def test_clocks_that_come_apart_slowly_count_as_a_step_once_they_are_far_enough_apart() -> None:
    watch = ClockWatch(1000.0, at(1000.0))
    assert watch.step(1010.0, at(1010.0, STEP)) == 0.0
    assert watch.step(1020.0, at(1020.0, -STEP)) == 0.0
    assert watch.step(1030.0, at(1030.0, STEP + 0.5)) == STEP + 0.5
