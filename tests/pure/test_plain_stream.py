"""Batches of the plain stream: every post once, in order, and none larger than an item of the channel."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from mpchat.hub.plain_stream import joined
from mpchat.ipc.limits import BATCH_SIZE


@given(st.lists(st.tuples(st.integers(1, 5), st.binary(min_size=1, max_size=2000)), max_size=30))
def test_posts_come_out_once_in_the_order_in_which_they_went_in(posts: list[tuple[int, bytes]]) -> None:
    batches = joined(posts)
    assert b"".join(frames for _, frames in batches) == b"".join(frames for _, frames in posts)
    assert sum(count for count, _ in batches) == sum(count for count, _ in posts)


@given(st.lists(st.integers(1, 20_000), min_size=2, max_size=30))
def test_small_posts_share_a_batch_and_no_batch_outgrows_an_item_but_a_post_that_does_so_alone(
    sizes: list[int],
) -> None:
    batches = joined([(1, bytes(size)) for size in sizes])
    assert b"".join(frames for _, frames in batches) == bytes(sum(sizes))
    assert all(len(frames) <= BATCH_SIZE or count == 1 for count, frames in batches)
    for (_, one), (_, next_one) in pairwise(batches):
        assert len(one) + len(next_one) > BATCH_SIZE
