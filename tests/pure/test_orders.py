"""What operators ask for from clients while it cannot be done."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.desk import Object, objects

from mpchat.hub.effects import Order
from mpchat.supervisor.client_commands import ClientCommands
from mpchat.supervisor.orders import Orders

OPERATOR = 7
AWAY = "Redis at 127.0.0.1:6379 cannot be reached: 연결 거부"


class Hub:
    """A hub that nothing may be asked of, but to answer."""

    def __init__(self) -> None:
        self.told: list[tuple[int, Object]] = []

    def address_at(self, identity: int) -> str:
        return "192.0.2.7:5"

    def tell(self, identity: int, frame: bytes) -> None:
        self.told += [(identity, each) for each in objects(frame)]


@pytest.mark.parametrize("action", ["kick", "ban", "unban", "mute", "unmute", "close"])
def test_while_the_hosts_share_no_log_an_operator_is_told_that_it_failed(action: str) -> None:
    """The target is not to blame, whatever it is: the operator may ask again."""
    hub = Hub()
    nothing = cast(Any, None)
    clients = ClientCommands(nothing, cast(Any, hub), nothing, nothing, nothing, nothing)
    clients.cluster = cast(Any, SimpleNamespace(away=AWAY))
    Orders(cast(Any, hub), clients).obey(Order(OPERATOR, "앨리스", action, "훼방꾼", 60.0))
    text = f"not done, since the other hosts cannot be told: {AWAY}; try again"
    assert hub.told == [(OPERATOR, {"error": {"code": "failed", "text": text}})]
