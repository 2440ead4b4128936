"""WebSocket clients that are gone: a worker ends their connections without all that they have sent before."""

import pytest
from support.one_worker import Bench
from support.websocket_peer import Browser, ping

from mpchat.worker import budget


def test_a_client_that_is_gone_is_not_kept_until_all_its_pings_are_paid_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(listen_grace=60.0)
    try:
        browser = Browser(bench, 1)
        monkeypatch.setattr(budget, "BUDGET_RATE", 1e12)  # nobody waits here: what counts is how it ends
        browser.client.send_raw(ping(b"x" * 125) * 500)
        browser.client.reset()
        bench.until(lambda: browser.connection.closed)
        assert bench.worker.counters.ended == {"lost": 1}
        assert browser.connection.dialect.held > 0
    finally:
        bench.close()
