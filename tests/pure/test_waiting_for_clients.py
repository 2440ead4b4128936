"""When the senders of a room wait for those that read it."""

import pytest

from mpchat.hub.sender_holds import most_struggle
from mpchat.worker.late_clients import BRISK, BRISK_GRACE, LEAST_SHARE, ON_ITS_WAY, far_behind, is_brisk


def test_a_client_is_waited_for_while_it_reads_fast_enough() -> None:
    assert is_brisk(0, BRISK_GRACE / 2)
    assert is_brisk(BRISK * 2, 2.0)
    assert not is_brisk(BRISK * 2 - 1, 2.0)
    assert not is_brisk(0, BRISK_GRACE)


def test_senders_wait_while_there_is_room_for_what_is_on_its_way() -> None:
    for limit in (2 * ON_ITS_WAY, 3 * ON_ITS_WAY // 2):
        assert limit - far_behind(limit) == ON_ITS_WAY
    assert far_behind(1 << 30) == 1 << 29, "a client that owes half is far behind, however long the stream is"
    assert far_behind(1 << 20) == (1 << 20) // LEAST_SHARE


@pytest.mark.parametrize(
    ("behind", "connections", "hold"),
    [(0, 0, False), (0, 10, False), (5, 10, False), (6, 10, True), (1, 1, True)],
)
def test_only_more_than_half_of_the_room_makes_the_rest_wait(
    behind: int, connections: int, hold: bool
) -> None:
    assert most_struggle(behind, connections) is hold
