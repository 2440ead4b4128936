"""Which worker a connection goes to, and how many fit."""

from hypothesis import given
from hypothesis import strategies as st

from mpchat.supervisor.capacity import RESERVED_DESCRIPTORS, SELECT_LIMIT, connections_per_worker
from mpchat.supervisor.placement_policy import MAX_UNACKED, SLUGGISH, Candidate, choose_worker

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
    chosen = choose_worker(candidates, turn)
    able = [
        each
        for each in candidates
        if each.connections + each.unacked < each.limit and each.unacked < MAX_UNACKED
    ]
    assert (chosen is None) == (not able)
    assert chosen is None or chosen in able


@given(CANDIDATES, st.integers(0, 100))
def test_nobody_prompt_has_fewer_than_the_chosen_one(candidates: list[Candidate], turn: int) -> None:
    chosen = choose_worker(candidates, turn)
    for each in candidates:
        able = each.connections + each.unacked < each.limit and each.unacked < MAX_UNACKED
        if able and chosen is not None and each.oldest_unacked < SLUGGISH:
            assert chosen.oldest_unacked < SLUGGISH
            assert chosen.connections + chosen.unacked <= each.connections + each.unacked


def test_a_thousand_clients_are_spread_evenly_over_four_workers() -> None:
    workers = [idle(slot) for slot in range(1, 5)]
    for turn in range(1000):
        chosen = choose_worker(workers, turn)
        assert chosen is not None
        workers[workers.index(chosen)] = chosen._replace(connections=chosen.connections + 1)
    assert [each.connections for each in workers] == [250] * 4


def test_ties_go_in_turn() -> None:
    workers = [idle(1), idle(2), idle(3)]
    chosen = [choose_worker(workers, turn) for turn in range(6)]
    assert [each.slot for each in chosen if each] == [1, 2, 3, 1, 2, 3]


def test_a_worker_that_owes_an_ack_for_long_gets_nothing_while_another_can_take_it() -> None:
    stopped = Candidate(1, 0, 1, SLUGGISH, 1000)
    assert choose_worker([stopped, idle(2, 500)], 0) == idle(2, 500)
    assert choose_worker([stopped], 0) == stopped


def test_a_worker_gets_no_more_unacked_connections_than_the_kernel_queues_for_it() -> None:
    worker, placed = idle(1), 0
    while choose_worker([worker], placed) is not None:
        worker, placed = worker.with_one_more(), placed + 1
    assert (placed, worker) == (253, Candidate(1, 0, 253, 0.0, 1000))


def test_connections_on_their_way_count_as_a_worker_s_own() -> None:
    assert choose_worker([Candidate(1, 3, 4, 0.0, 1000), idle(2, 6)], 0) == idle(2, 6)
    assert choose_worker([Candidate(1, 3, 2, 0.0, 5)], 0) is None


def test_with_no_candidate_nobody_is_chosen() -> None:
    assert choose_worker([], 5) is None


def test_select_takes_no_descriptor_of_1024_and_above() -> None:
    assert connections_per_worker(100_000, "select") == SELECT_LIMIT - RESERVED_DESCRIPTORS
    assert connections_per_worker(100_000, "epoll") == 100_000 - RESERVED_DESCRIPTORS
    assert connections_per_worker(10, "poll") == 1
