"""How far the hub goes on without a worker that takes nothing."""

import pytest
from support.desk import LIMITS

from mpchat.hub.endpoint import PROMPT_BACKLOG, STUCK_AFTER, Endpoint
from mpchat.hub.hub import Hub
from mpchat.ipc.channel import Link, make_queue


@pytest.mark.parametrize("lag", [256 << 10, 8 << 20])
def test_the_clients_of_a_worker_that_was_stuck_have_half_of_the_lag_limit_left(lag: int) -> None:
    down, window = make_queue()
    up, _ = make_queue()
    hub, endpoint = Hub(LIMITS._replace(lag=lag)), Endpoint(1, Link(up, down, window))
    try:
        hub.attach(endpoint)
        endpoint.ready = True
        hub.turn(0.0)
        while endpoint.link.backlog_size <= PROMPT_BACKLOG:
            hub.announce("x" * 4_000, 0.0)
            hub.turn(0.0)
        assert hub.waits(0.0), "a worker that is busy is waited for"
        now = 2 * STUCK_AFTER
        while not hub.waits(now):
            hub.announce("x" * 4_000, now)
            hub.turn(now)
        assert lag // 2 < endpoint.link.backlog_size < lag // 2 + 10_000
    finally:
        endpoint.link.close()
