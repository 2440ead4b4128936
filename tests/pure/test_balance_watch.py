"""When uneven workers are evened out unasked, with a clock as an argument."""

import pytest

from mpchat.supervisor.balance_policy import UNEVEN_FOR
from mpchat.supervisor.rebalance import BalanceWatch

UNEVEN, EVEN = [100, 0], [50, 50]


def test_workers_must_be_uneven_for_a_while() -> None:
    watch = BalanceWatch()
    assert not watch.is_due(UNEVEN, 100.0)
    assert not watch.is_due(UNEVEN, 100.0 + UNEVEN_FOR - 0.01)
    assert watch.is_due(UNEVEN, 100.0 + UNEVEN_FOR)


@pytest.mark.parametrize("how", ["even in between", "reset in between"])
def test_the_while_begins_anew(how: str) -> None:
    watch = BalanceWatch()
    assert not watch.is_due(UNEVEN, 100.0)
    if how == "reset in between":
        watch.reset()
    else:
        assert not watch.is_due(EVEN, 101.0)
    assert not watch.is_due(UNEVEN, 100.0 + UNEVEN_FOR)
    assert watch.is_due(UNEVEN, 100.0 + 2 * UNEVEN_FOR)


def test_even_workers_are_left_alone_however_long() -> None:
    watch = BalanceWatch()
    assert not any(watch.is_due(EVEN, moment) for moment in range(1000))
