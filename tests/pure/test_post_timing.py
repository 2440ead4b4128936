"""How often a worker beats and posts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.ipc.beat import beat_every
from mpchat.worker.post_timing import gather_time, next_post


@pytest.mark.parametrize("timeout", [1.0, 2.0, 10.0, 3600.0])
def test_several_beats_fit_into_the_time_that_a_worker_may_be_silent(timeout: float) -> None:
    assert 3 * beat_every(timeout) < timeout
    assert beat_every(timeout) <= 1.0


@given(st.floats(0.0, 1e7), st.sampled_from([0.0, 0.001, 0.0045, 0.02, 1.0]))
def test_posts_are_gathered_for_no_longer_than_said(posted_at: float, gather: float) -> None:
    assert -1e-6 <= next_post(posted_at, gather) - posted_at <= gather + 1e-6


def test_workers_that_post_in_the_same_while_post_together_the_next_time() -> None:
    moments = {round(next_post(100.0 + each / 1000, 0.005), 9) for each in (0.1, 1.3, 2.5, 4.9)}
    assert moments == {100.005}


@pytest.mark.parametrize("coalesce", [0.0, 0.001, 0.005, 1.0])
def test_most_of_the_time_that_a_setting_allows_is_for_posts(
    coalesce: float,
) -> None:
    assert coalesce / 2 <= gather_time(coalesce) <= coalesce
    assert gather_time(coalesce) < coalesce or not coalesce
