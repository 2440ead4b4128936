"""When a worker waits for its clients."""

import pytest

from mpchat.ipc.limits import most_struggle
from mpchat.worker.late_clients import BRISK, BRISK_GRACE, is_brisk


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
    assert most_struggle(behind, connections) is hold
