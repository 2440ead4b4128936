"""Held names: which is the oldest, and which goes first when there are too many."""

import time
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mpchat.hub.held_names import HeldNames


@given(st.lists(st.tuples(st.integers(0, 15), st.sampled_from("abc"))))
def test_the_oldest_and_the_first_to_go_are_those_that_a_list_shows(steps: list[tuple[int, str]]) -> None:
    held, shown = HeldNames(), dict[str, str]()
    for number, owner in steps:
        key = f"{number}"
        if key in shown:
            del shown[key]
            held.remove(key)
        else:
            shown[key] = owner
            held.add(key, owner)
        assert len(held) == len(shown)
        if shown:
            assert held.oldest == next(iter(shown))
            counts = Counter(shown.values())
            first = held.first_to_go
            assert counts[shown[first]] == max(counts.values())
            assert first == next(key for key, owner in shown.items() if owner == shown[first])
    held.remove("not held")


def test_of_addresses_that_hold_the_same_number_the_first_loses_a_name() -> None:
    held = HeldNames()
    for key in "xyz":
        held.add(key, f"owner of {key}")
    assert held.first_to_go == "x"


def test_many_names_are_held_no_more_one_after_the_other_in_a_moment() -> None:
    """Each look at the oldest would go over all that are gone: it took half a minute."""
    held = HeldNames()
    for number in range(100_000):
        held.add(f"{number}", "owner")
    began = time.process_time()
    while held:
        assert held.oldest == held.first_to_go
        held.remove(held.oldest)
    assert time.process_time() - began < 5.0


def test_addresses_whose_names_are_gone_are_forgotten() -> None:
    held = HeldNames()
    for key in "xyz":
        held.add(key, "owner of two" if key != "z" else "owner of one")
    for key in "zxy":
        held.remove(key)
    assert vars(held) == vars(HeldNames())
