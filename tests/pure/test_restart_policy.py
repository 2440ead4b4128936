"""When a dead worker is replaced, and when a start is given up."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from mpchat.supervisor.restart_policy import (
    BACKOFF_FIRST,
    BACKOFF_MOST,
    DEATHS_AT_START,
    DEATHS_TO_FAILING,
    PROVEN,
    BackOff,
)


def test_a_worker_that_dies_again_and_again_comes_back_later_and_later_and_is_never_given_up() -> None:
    back_off = BackOff(Random(1))
    for number in range(5000):  # longer than a float counts in powers of two
        pause = back_off.after_death(1.0)
        longest = min(BACKOFF_MOST, BACKOFF_FIRST * 2 ** min(number, 20))
        assert pause is not None
        assert longest / 2 <= pause <= longest
        assert back_off.failing == (number + 1 >= DEATHS_TO_FAILING)


def test_a_death_after_long_service_begins_the_count_anew() -> None:
    back_off = BackOff(Random(1))
    for _ in range(DEATHS_TO_FAILING):
        back_off.after_death(0.0)
    pause = back_off.after_death(PROVEN)
    assert pause is not None
    assert pause <= BACKOFF_FIRST
    assert (back_off.deaths, back_off.failing) == (1, False)


def test_a_death_after_less_than_long_service_counts_as_one_more() -> None:
    back_off = BackOff(Random(1))
    for number in range(1, DEATHS_TO_FAILING):
        back_off.after_death(PROVEN - 0.01)
        assert back_off.deaths == number


def test_after_many_deaths_the_pause_stays_in_the_upper_half_of_the_ceiling() -> None:
    back_off = BackOff(Random(1))
    pauses = [back_off.after_death(0.0) or 0.0 for _ in range(200)]
    assert all(BACKOFF_MOST / 2 <= pause <= BACKOFF_MOST for pause in pauses[20:])
    assert max(pauses) - min(pauses[20:]) > BACKOFF_MOST / 4


def test_while_the_server_starts_a_mistake_is_told_sooner() -> None:
    back_off = BackOff(Random(1))
    pauses = [back_off.after_death(0.0, DEATHS_AT_START) for _ in range(DEATHS_AT_START)]
    assert [pause is None for pause in pauses] == [False] * (DEATHS_AT_START - 1) + [True]


@given(st.integers(), st.lists(st.floats(0.0, PROVEN * 2), max_size=50))
def test_no_pause_is_longer_than_the_ceiling_or_shorter_than_half_the_first(
    seed: int, lives: list[float]
) -> None:
    back_off = BackOff(Random(seed))
    for lived in lives:
        pause = back_off.after_death(lived)
        assert pause is not None
        assert BACKOFF_FIRST / 2 <= pause <= BACKOFF_MOST


def test_slots_do_not_come_back_in_step() -> None:
    pauses = {BackOff(Random(seed)).after_death(0.0) for seed in range(20)}
    assert len(pauses) == 20
