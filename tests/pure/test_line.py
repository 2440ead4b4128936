"""Line: whose proof is checked next, and which try gives way when the line is full."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.auth import line as line_module
from mpchat.auth.grant import Proof
from mpchat.auth.line import MOST_WAITING, Line, Try

PROOF = Proof("앨리스", password="비밀번호")
# The first identity of an address.
FIRST = {"many": 1_000, "few": 2_000, "one": 3_000}


def add(line: Line, address: str, count: int = 1, first: int | None = None) -> list[Try]:
    """Let an address add so many tries; return those that gave way."""
    begin = FIRST[address] if first is None else first
    given_way = [line.add(Try(begin + number, address, PROOF)) for number in range(count)]
    return [each for each in given_way if each is not None]


def take_all(line: Line) -> list[Try]:
    """Take the tries out in turn."""
    return list(iter(line.take, None))


def test_an_address_with_a_few_tries_does_not_wait_for_one_with_many() -> None:
    line = Line(MOST_WAITING)
    add(line, "many", 100)
    add(line, "few", 2)
    add(line, "one")
    taken = take_all(line)
    assert [each.address for each in taken[:5]] == ["many", "few", "one", "many", "few"]
    assert [each.identity for each in taken if each.address == "many"] == list(range(1_000, 1_100))
    assert len(taken) == 103
    assert (len(line), line.take()) == (0, None)


def test_an_address_that_comes_again_at_once_waits_for_the_others() -> None:
    line = Line(MOST_WAITING)
    for address in ("many", "few", "one"):
        add(line, address, 2)
    assert (first := line.take()) is not None
    assert first.address == "many"
    add(line, "many", first=1_500)
    assert [each.address for each in take_all(line)[:3]] == ["few", "one", "many"]


def test_when_the_line_is_full_the_newest_of_the_longest_address_gives_way() -> None:
    line = Line(MOST_WAITING)
    assert add(line, "many", MOST_WAITING) == []
    assert [each.identity for each in add(line, "one")] == [1_000 + MOST_WAITING - 1]
    assert len(line) == MOST_WAITING
    assert [each.identity for each in add(line, "many", first=1_900)] == [1_900], "its own new one"
    assert 3_000 in {each.identity for each in take_all(line)}


def test_two_addresses_share_a_full_line_and_the_second_pushes_no_further() -> None:
    line = Line(MOST_WAITING)
    add(line, "many", MOST_WAITING)
    out = add(line, "few", MOST_WAITING)
    counts = Counter(each.address for each in take_all(line))
    assert abs(counts["many"] - counts["few"]) <= 1
    assert counts.total() == MOST_WAITING
    assert {each.address for each in out} == {"many", "few"}


def test_among_addresses_with_one_try_each_the_newest_gives_way() -> None:
    line = Line(MOST_WAITING)
    for number in range(MOST_WAITING):
        assert line.add(Try(number, f"192.0.2.{number}", PROOF)) is None
    late = Try(5_000, "198.51.100.1", PROOF)
    assert line.add(late) is late
    assert len(line) == MOST_WAITING


def test_a_connection_that_has_ended_is_forgotten_and_leaves_no_address_behind() -> None:
    line = Line(MOST_WAITING)
    add(line, "few", 2)
    line.forget(2_000)
    line.forget(2_000)
    line.forget(9_999)
    assert len(line) == 1
    line.forget(2_001)
    assert (len(line), line.take()) == (0, None)
    assert vars(line) == vars(Line(MOST_WAITING))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 4)),
        st.tuples(st.just("take"), st.just(0)),
        st.tuples(st.just("forget"), st.integers(0, 60)),
    ),
    max_size=60,
)


@given(STEPS)
def test_each_try_comes_out_once_or_was_forgotten_and_turns_go_round(steps: list[tuple[str, int]]) -> None:
    line, waiting, number = Line(MOST_WAITING), dict[int, str](), 0
    turns: list[str] = []
    for step, value in steps:
        if step == "add":
            address = f"192.0.2.{value}"
            assert line.add(Try(number, address, PROOF)) is None
            waiting[number] = address
            if address not in turns:
                turns.append(address)
            number += 1
        elif step == "forget":
            address = waiting.pop(value, "")
            line.forget(value)
            if address and address not in waiting.values():
                turns.remove(address)
        elif (tried := line.take()) is None:
            assert not waiting
        else:
            assert tried.address == turns.pop(0)
            assert tried.identity == min(key for key, each in waiting.items() if each == tried.address)
            del waiting[tried.identity]
            if tried.address in waiting.values():
                turns.append(tried.address)
        assert len(line) == len(waiting)


def test_the_bytes_of_what_waits_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line_module, "MOST_BYTES", 100_000)
    line = Line(1_000_000)
    long = Proof(jwt="x" * 8000)
    for number in range(1000):
        line.add(Try(number, f"192.0.2.{number % 7}", long))
    assert 10 <= len(line) <= 13
    for number in range(1000):
        line.forget(number)
    assert (len(line), line._bytes, line.take()) == (0, 0, None)
