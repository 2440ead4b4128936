"""The sequencer: it numbers without a gap, and leaving never floods the clients that stay."""

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.hub.sequencer import NAMED_LEAVERS, NOTICE_GATHER, Sequencer, leaving_text
from mpchat.protocol.frames import HEADER_SIZE
from mpchat.protocol.messages import message_frame

# The longest address there is, as a notice writes it.
LONGEST = "[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%interface-of-15]:65535"


def addresses(count: int) -> list[str]:
    """Return addresses of clients."""
    return [f"127.0.0.1:{50_000 + number}" for number in range(count)]


def test_one_leaver_is_told_at_once_in_the_words_of_the_lecture() -> None:
    sequencer = Sequencer()
    sequencer.leave(["127.0.0.1:51234"])
    assert sequencer.notice_due() == 0.0
    assert sequencer.take_notice(5.0) == (" Disconnect : 127.0.0.1:51234 ")
    assert sequencer.notice_due() is None


def test_leavers_right_after_a_notice_wait_and_share_the_next_one() -> None:
    sequencer = Sequencer()
    sequencer.leave(["a:1"])
    sequencer.take_notice(5.0)
    sequencer.leave(["b:2"])
    sequencer.leave(["c:3"])
    assert sequencer.notice_due() == pytest.approx(5.0 + NOTICE_GATHER)
    assert sequencer.take_notice(5.0 + NOTICE_GATHER / 2) is None
    assert sequencer.take_notice(5.0 + NOTICE_GATHER) == " Disconnect : b:2, c:3 (2 clients) "


@pytest.mark.parametrize("count", [1, 2, NAMED_LEAVERS, NAMED_LEAVERS + 1, 1000, 100_000])
def test_many_leaving_at_once_share_one_notice_that_counts_them_and_fits_a_frame(count: int) -> None:
    sequencer = Sequencer()
    sequencer.leave([LONGEST] * count)
    text = sequencer.take_notice(1.0)
    assert text is not None
    assert len(message_frame(text)) < HEADER_SIZE + 1000
    assert text.startswith(f" Disconnect : {LONGEST}")
    if count > 1:
        assert text.endswith(f"({count} clients) ")
    if count > NAMED_LEAVERS:
        assert f", {count - NAMED_LEAVERS} more (" in text


@pytest.mark.parametrize(
    ("named", "unnamed", "text"),
    [
        (0, 1, " Disconnect : 1 client "),
        (0, 500, " Disconnect : 500 clients "),
        (1, 1, " Disconnect : 127.0.0.1:50000, 1 more (2 clients) "),
        (2, 0, " Disconnect : 127.0.0.1:50000, 127.0.0.1:50001 (2 clients) "),
    ],
)
def test_clients_of_a_killed_worker_are_counted_though_nobody_knows_their_names(
    named: int, unnamed: int, text: str
) -> None:
    assert leaving_text(addresses(named), unnamed) == text


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), st.floats(0.0, 0.2)), max_size=40))
def test_however_they_leave_everybody_is_counted_once_and_notices_keep_their_distance(
    steps: list[tuple[int, int, float]],
) -> None:
    sequencer, now, counted, moments = Sequencer(), 0.0, 0, []
    for named, unnamed, pause in [*steps, (0, 0, NOTICE_GATHER)]:
        now += pause
        sequencer.leave(addresses(named), unnamed)
        if (text := sequencer.take_notice(now)) is not None:
            moments.append(now)
            clients = re.search(r"\b(\d+) client", text)
            counted += int(clients[1]) if clients else 1
    assert counted == sum(named + unnamed for named, unnamed, _ in steps)
    assert all(b - a >= NOTICE_GATHER * 0.999 for a, b in pairwise(moments))


def test_without_notices_nobody_hears_of_leavers() -> None:
    sequencer = Sequencer(notices=False)
    sequencer.leave(addresses(5), 5)
    assert sequencer.notice_due() is None
    assert sequencer.take_notice(1.0) is None
