"""The two lines of tries: names that their addresses have proven before need not wait for all strangers."""

from mpchat.auth.grant import Proof
from mpchat.auth.line import MOST_WAITING, Lines, Try

STRANGERS = [Try(number, f"192.0.2.{number}", Proof("앨리스", password="guess")) for number in range(256)]
OWNER = Try(1000, "198.51.100.7", Proof("앨리스", password="right"))


def full() -> Lines:
    lines = Lines(MOST_WAITING)
    for each in STRANGERS:
        assert lines.add(each, proven=False) is None
    return lines


def test_a_proven_name_waits_for_at_most_one_stranger() -> None:
    assert len(STRANGERS) == MOST_WAITING
    lines = full()
    assert lines.take() is STRANGERS[0]
    assert lines.add(OWNER, proven=True) is None
    assert lines.add(OWNER._replace(identity=1001), proven=True) is None
    taken = [lines.take() for _ in range(4)]
    assert OWNER in taken[:2]
    assert [each.identity for each in taken if each] in ([1, 1000, 2, 1001], [1000, 1, 1001, 2])


def test_a_full_line_of_strangers_turns_away_strangers_alone() -> None:
    lines = full()
    late = Try(2000, STRANGERS[0].address, Proof("앨리스", password="late"))
    assert lines.add(late, proven=False) is late
    assert lines.add(OWNER, proven=True) is None


def test_strangers_have_every_second_turn_beside_a_member_with_any_number_of_tries() -> None:
    lines = full()
    for number in range(100):
        lines.add(OWNER._replace(identity=1000 + number), proven=True)
    taken = [lines.take() for _ in range(100)]
    assert sum(each in STRANGERS for each in taken) == 50


def test_all_that_wait_are_taken_and_none_that_has_ended() -> None:
    lines = full()
    lines.add(OWNER, proven=True)
    lines.forget(OWNER.identity)
    lines.forget(7)
    taken = []
    while (each := lines.take()) is not None:
        taken.append(each)
    assert taken == [each for each in STRANGERS if each.identity != 7]
