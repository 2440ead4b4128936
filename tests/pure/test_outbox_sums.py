"""Outboxes: when they are over their limit, which clients go, and how bytes are appended."""

import pytest

from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.worker.connection import Connection
from mpchat.worker.outboxes import MADE_FREE, Outboxes, charge


def holder(outboxes: Outboxes, size: int) -> Connection:
    connection = Connection(1, None, "", 0, PlainDialect())  # type: ignore[arg-type]
    outboxes.put(connection, bytes(size))
    return connection


def test_what_fills_the_limit_is_not_over_it() -> None:
    outboxes = Outboxes(charge(1000))
    holder(outboxes, 1000)
    assert not outboxes.over
    holder(outboxes, 1)
    assert outboxes.over


@pytest.mark.parametrize(("more", "count"), [(0, 1), (1, 2)])
def test_as_many_go_as_make_room_and_no_more(more: int, count: int) -> None:
    outboxes = Outboxes(MADE_FREE * 1000)
    holders = [holder(outboxes, 1000) for _ in range(3)]
    outboxes.held = (MADE_FREE - 1) * 1000 + charge(1000) + more
    assert outboxes.largest(holders) == holders[:count]


def test_one_answer_is_kept_as_it_is_and_further_ones_are_appended_in_place() -> None:
    outboxes = Outboxes(1000)
    connection = Connection(1, None, "", 0, PlainDialect())  # type: ignore[arg-type]
    answer = b"one answer"
    outboxes.put(connection, answer)
    assert connection.outbox is answer
    outboxes.put(connection, b", two")
    appended = connection.outbox
    outboxes.put(connection, b", three")
    assert connection.outbox is appended
    assert connection.outbox == b"one answer, two, three"
