"""Connect rates: a burst, a rate, and a table that forgets."""

import pytest

from mpchat.supervisor import connect_rates
from mpchat.supervisor.connect_rates import ConnectRates, Rate

RATE = Rate(per_second=10, burst=5)


def admitted(rates: ConnectRates, owner: str, now: float, attempts: int = 100, rate: Rate = RATE) -> int:
    """Return how many of so many connections may come in."""
    return sum(rates.admit(owner, rate, now) for _ in range(attempts))


def test_an_address_has_a_burst_and_then_its_rate_and_others_have_their_own() -> None:
    rates = ConnectRates()
    assert admitted(rates, "a", 100.0) == 5
    assert admitted(rates, "b", 100.0) == 5
    assert admitted(rates, "a", 100.05) == 0
    assert admitted(rates, "a", 100.25) == 2
    assert admitted(rates, "a", 1000.0) == 5


def test_refused_connections_cost_an_address_nothing() -> None:
    rates = ConnectRates()
    assert [admitted(rates, "a", 100.0 + tenth / 10, 1000) for tenth in range(10)] == [5, *[1] * 9]


@pytest.mark.parametrize("rate", [Rate(1, 1), Rate(10_000, 1), Rate(3, 1000), Rate(7, 7)])
def test_a_burst_is_never_one_short(rate: Rate) -> None:
    assert admitted(ConnectRates(), "a", 123_456.789, 2000, rate) == rate.burst


def test_addresses_with_a_whole_burst_are_forgotten() -> None:
    rates = ConnectRates()
    for number in range(1000):
        rates.admit(f"{number}", RATE, 100.0)
    for step in range(1000):
        rates.admit("a", RATE, 200.0 + step)
    assert len(rates) == 1


def test_the_table_shrinks_although_each_connection_is_of_another_address() -> None:
    rates = ConnectRates()
    for number in range(1000):
        rates.admit(f"{number}", RATE, 100.0)
    for number in range(500):
        rates.admit(f"later {number}", RATE, 200.0)
    assert len(rates) == 500


def test_no_more_addresses_are_remembered_than_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_rates, "MOST", 100)
    rates = ConnectRates()
    assert admitted(rates, "first", 100.0) == 5
    for number in range(1000):
        assert rates.admit(f"{number}", RATE, 100.0)
        assert len(rates) <= 100
    assert len(rates) == 100
    assert admitted(rates, "999", 100.0) == 4


def test_an_address_that_goes_on_connecting_is_not_pushed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connect_rates, "MOST", 2)
    rates = ConnectRates()
    for owner in ("a", "b", "a", "c"):
        assert rates.admit(owner, RATE, 100.0)
    assert admitted(rates, "a", 100.0) == 3


def test_without_a_rate_every_connection_may_come_in_and_nothing_is_remembered() -> None:
    rates = ConnectRates()
    admitted(rates, "a", 100.0)
    assert admitted(rates, "a", 100.0, rate=Rate(0, 5)) == 100
    assert len(rates) == 0
