"""Shares: to what size the largest holders of memory are cut down."""

from hypothesis import given
from hypothesis import strategies as st

from mpchat.ipc.shares import FREED, Memory, highest_share


@given(st.lists(st.integers(0, 1000), max_size=50), st.integers(0, 5000))
def test_all_fit_after_the_largest_were_cut_and_nothing_was_cut_without_need(
    sizes: list[int], memory: int
) -> None:
    share = highest_share(sizes, memory)
    assert sum(min(size, share) for size in sizes) <= memory
    if any(size > share for size in sizes):
        assert sum(min(size, share + 1) for size in sizes) > memory


def test_small_ones_stay_whole_however_many_they_are() -> None:
    assert highest_share([10] * 1000 + [400], 10_400) == 400
    assert highest_share([10] * 1000 + [400, 4000], 11_000) == 600
    assert highest_share([], 7) == 7


def test_more_is_freed_than_needed_so_that_the_next_message_needs_no_look_at_all_rooms() -> None:
    memory = Memory(3200)
    memory.used = 3200
    assert not memory.is_over
    memory.used += 1
    assert memory.is_over
    assert memory.share([3201]) == 3200 - 3200 // FREED


def test_there_is_room_again_once_as_much_is_free_as_is_freed_at_a_time() -> None:
    memory = Memory(3200)
    assert memory.used == 0
    memory.used += 3200 - 3200 // FREED
    assert memory.has_room
    memory.used += 1
    assert not memory.has_room
    assert not memory.is_over
