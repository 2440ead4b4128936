"""Decisions: who gets a connection, when a slot is given up, when a room has to wait for its members."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.ipc.beat import beat_every
from mpchat.supervisor.policy import (
    BACKOFF_FIRST,
    BACKOFF_MOST,
    DEATHS_AT_START,
    DEATHS_TO_FATAL,
    MAX_UNACKED,
    PROVEN,
    RESERVED_DESCRIPTORS,
    SELECT_LIMIT,
    SLUGGISH,
    UNEVEN_LEAST,
    Candidate,
    Deaths,
    connections_per_worker,
    place,
    spread_allowed,
    surpluses,
    uneven,
    workers_after,
)
from mpchat.worker.pacing import BRISK, BRISK_GRACE, is_brisk, must_hold, next_post

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        slot=st.integers(1, 8),
        connections=st.integers(0, 20),
        unacked=st.sampled_from([0, 1, 5, MAX_UNACKED - 1, MAX_UNACKED]),
        oldest_unacked=st.sampled_from([0.0, 0.1, SLUGGISH, 5.0]),
        limit=st.integers(1, 300),
    ),
    max_size=8,
    unique_by=lambda each: each.slot,
)


def idle(slot: int, connections: int = 0) -> Candidate:
    return Candidate(slot, connections, 0, 0.0, 1000)


@given(CANDIDATES, st.integers(0, 100))
def test_nobody_is_given_more_than_fits_and_somebody_is_found_if_anybody_can(
    candidates: list[Candidate], turn: int
) -> None:
    chosen = place(candidates, turn)
    able = [
        each
        for each in candidates
        if each.connections + each.unacked < each.limit and each.unacked < MAX_UNACKED
    ]
    assert (chosen is None) == (not able)
    assert chosen is None or chosen in able


@given(CANDIDATES, st.integers(0, 100))
def test_nobody_prompt_has_fewer_than_the_chosen_one(candidates: list[Candidate], turn: int) -> None:
    chosen = place(candidates, turn)
    for each in candidates:
        able = each.connections + each.unacked < each.limit and each.unacked < MAX_UNACKED
        if able and chosen is not None and each.oldest_unacked < SLUGGISH:
            assert chosen.oldest_unacked < SLUGGISH
            assert chosen.connections + chosen.unacked <= each.connections + each.unacked


def test_a_thousand_clients_are_spread_evenly_over_four_workers() -> None:
    workers = [idle(slot) for slot in range(1, 5)]
    for turn in range(1000):
        chosen = place(workers, turn)
        assert chosen is not None
        workers[workers.index(chosen)] = chosen._replace(connections=chosen.connections + 1)
    assert [each.connections for each in workers] == [250] * 4


def test_ties_go_in_turn() -> None:
    workers = [idle(1), idle(2), idle(3)]
    chosen = [place(workers, turn) for turn in range(6)]
    assert [each.slot for each in chosen if each] == [1, 2, 3, 1, 2, 3]


def test_a_worker_that_owes_an_ack_for_long_gets_nothing_while_another_can_take_it() -> None:
    stopped = Candidate(1, 0, 1, SLUGGISH, 1000)
    assert place([stopped, idle(2, 500)], 0) == idle(2, 500)
    assert place([stopped], 0) == stopped


def test_a_worker_gets_no_more_unacked_connections_than_the_kernel_queues_for_it() -> None:
    worker, placed = idle(1), 0
    while place([worker], placed) is not None:
        worker, placed = worker.with_one_more(), placed + 1
    assert (placed, worker) == (253, Candidate(1, 0, 253, 0.0, 1000))


def test_connections_on_their_way_count_as_a_worker_s_own() -> None:
    assert place([Candidate(1, 3, 4, 0.0, 1000), idle(2, 6)], 0) == idle(2, 6)
    assert place([Candidate(1, 3, 2, 0.0, 5)], 0) is None


def test_with_no_candidate_nobody_is_chosen() -> None:
    assert place([], 5) is None


def test_select_takes_no_descriptor_of_1024_and_above() -> None:
    assert connections_per_worker(100_000, "select") == SELECT_LIMIT - RESERVED_DESCRIPTORS
    assert connections_per_worker(100_000, "epoll") == 100_000 - RESERVED_DESCRIPTORS
    assert connections_per_worker(10, "poll") == 1


def test_a_worker_that_dies_again_and_again_comes_back_later_and_later_and_is_given_up() -> None:
    deaths = Deaths(Random(1))
    pauses = [deaths.after(1.0) for _ in range(DEATHS_TO_FATAL)]
    assert pauses[-1] is None
    for number, pause in enumerate(pauses[:-1]):
        assert pause is not None
        assert BACKOFF_FIRST * 2**number / 2 <= pause <= BACKOFF_FIRST * 2**number


def test_a_death_after_long_service_begins_the_count_anew() -> None:
    deaths = Deaths(Random(1))
    for _ in range(100):
        for _ in range(DEATHS_TO_FATAL - 1):
            assert deaths.after(0.0) is not None
        pause = deaths.after(PROVEN)
        assert pause is not None
        assert pause <= BACKOFF_FIRST
        deaths = Deaths(Random(1))


def test_a_death_after_less_than_long_service_counts_as_one_more() -> None:
    deaths = Deaths(Random(1))
    for number in range(1, DEATHS_TO_FATAL):
        deaths.after(PROVEN - 0.01)
        assert deaths.in_a_row == number
    assert deaths.after(PROVEN - 0.01) is None


def test_after_many_deaths_the_pause_stays_in_the_upper_half_of_the_ceiling() -> None:
    deaths = Deaths(Random(1))
    pauses = [deaths.after(0.0, most=10_000) or 0.0 for _ in range(200)]
    assert all(BACKOFF_MOST / 2 <= pause <= BACKOFF_MOST for pause in pauses[20:])
    assert max(pauses) - min(pauses[20:]) > BACKOFF_MOST / 4


def test_while_the_server_starts_a_mistake_is_told_sooner() -> None:
    deaths = Deaths(Random(1))
    pauses = [deaths.after(0.0, DEATHS_AT_START) for _ in range(DEATHS_AT_START)]
    assert [pause is None for pause in pauses] == [False] * (DEATHS_AT_START - 1) + [True]


@given(st.integers(), st.lists(st.floats(0.0, PROVEN * 2), max_size=50))
def test_no_pause_is_longer_than_the_ceiling_or_shorter_than_half_the_first(
    seed: int, lives: list[float]
) -> None:
    deaths = Deaths(Random(seed))
    for lived in lives:
        pause = deaths.after(lived, most=10_000)
        assert pause is not None
        assert BACKOFF_FIRST / 2 <= pause <= BACKOFF_MOST


def test_slots_do_not_come_back_in_step() -> None:
    pauses = {Deaths(Random(seed)).after(0.0) for seed in range(20)}
    assert len(pauses) == 20


@pytest.mark.parametrize("timeout", [1.0, 2.0, 10.0, 3600.0])
def test_several_beats_fit_into_the_time_that_a_worker_may_be_silent(timeout: float) -> None:
    assert 3 * beat_every(timeout) < timeout
    assert beat_every(timeout) <= 1.0


def test_a_client_is_waited_for_while_it_reads_fast_enough() -> None:
    assert is_brisk(0, BRISK_GRACE / 2)
    assert is_brisk(BRISK * 2, 2.0)
    assert not is_brisk(BRISK * 2 - 1, 2.0)
    assert not is_brisk(0, BRISK_GRACE)


@pytest.mark.parametrize(
    ("behind", "connections", "hold"),
    [(0, 0, False), (0, 10, False), (5, 10, False), (6, 10, True), (1, 1, True)],
)
def test_only_more_than_half_of_the_room_makes_the_rest_wait(
    behind: int, connections: int, hold: bool
) -> None:
    assert must_hold(behind, connections) is hold


@given(st.floats(0.0, 1e7), st.sampled_from([0.0, 0.001, 0.0045, 0.02, 1.0]))
def test_posts_are_gathered_for_no_longer_than_said(posted_at: float, gather: float) -> None:
    assert -1e-6 <= next_post(posted_at, gather) - posted_at <= gather + 1e-6


def test_workers_that_post_in_the_same_while_post_together_the_next_time() -> None:
    moments = {round(next_post(100.0 + each / 1000, 0.005), 9) for each in (0.1, 1.3, 2.5, 4.9)}
    assert moments == {100.005}


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
