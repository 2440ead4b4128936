"""What programs that are no members say, in the hub's order."""

from types import SimpleNamespace
from typing import Any, cast

import pytest
from support.desk import LIMITS, Desk, objects
from support.endpoints import RecordingEndpoint

from mpchat.errors import AwayError, MpchatError, ProtocolError
from mpchat.hub.effects import Effect, Say, SayInRoom, Tell
from mpchat.hub.entries import Arrived, Spoken, Told
from mpchat.hub.hosts import HostInfo, encode_info
from mpchat.hub.hub import SPOKEN_SINCE, Hub
from mpchat.hub.shared_log import VERSION
from mpchat.protocol.messages import message_frame
from mpchat.supervisor.client_commands import ClientCommands

NAME = "알림"


@pytest.fixture
def desk() -> Desk:
    made = Desk()
    made.join(1, "앨리스", room="게임-7")
    made.join(2, "밥")
    return made


def spoken(room: int, text: str = "끝") -> Spoken:
    return Spoken(1.0, 1.0, NAME, room, message_frame(text))


def rooms_of(effects: list[Effect]) -> list[int]:
    return [each.room for each in effects if isinstance(each, SayInRoom)]


def plain(effects: list[Effect]) -> list[str]:
    return [one["message"] for each in effects if isinstance(each, Say) for one in objects(each.frames)]


def test_a_room_gets_it_with_a_number_and_the_name(desk: Desk) -> None:
    room = desk.state.rooms.get("게임-7")
    assert room is not None
    desk.post(1, "먼저")
    effects = desk.apply(spoken(room.number))
    assert (rooms_of(effects), plain(effects)) == ([room.number], [])
    assert room.seq == 2
    messages, _ = room.past(room.seq + 1, 1, 1000)
    assert messages == ['{"message":"끝","from":"알림","seq":2,"at":1.000}'.encode()]


def test_in_the_lobby_plain_clients_hear_it_with_the_name(desk: Desk) -> None:
    effects = desk.apply(spoken(desk.state.rooms.lobby.number))
    assert (rooms_of(effects), plain(effects)) == ([desk.state.rooms.lobby.number], ["알림: 끝"])
    assert (desk.state.messages, desk.state.sequencer.sequence) == (1, 1)


def test_all_rooms_with_members_get_it_once_and_count_it_once(desk: Desk) -> None:
    desk.join(3, "철수", room="빈 방".replace(" ", "-"))
    desk.post(3, "안녕")
    desk.leave(3)
    before = desk.state.messages
    effects = desk.apply(spoken(0))
    lobby, game = desk.state.rooms.lobby, desk.state.rooms.get("게임-7")
    assert game is not None
    assert sorted(rooms_of(effects)) == sorted([lobby.number, game.number])
    assert plain(effects) == ["알림: 끝"]
    assert desk.state.messages == before + 1


def test_a_room_that_has_ended_gets_nothing(desk: Desk) -> None:
    assert desk.apply(spoken(99)) == []
    assert desk.state.messages == 0


def test_one_member_gets_a_private_message(desk: Desk) -> None:
    effects = desk.apply(Told(1.0, 2.5, NAME, "밥", "쉿"))
    assert [each.identity for each in effects if isinstance(each, Tell)] == [2]
    assert desk.sent[-1] == (2, {"message": "쉿", "from": NAME, "to": "밥", "at": 2.5})
    assert desk.apply(Told(1.0, 1.0, NAME, "없는이", "쉿")) == []


def test_the_hub_puts_it_in_order_among_what_clients_say() -> None:
    hub, endpoint = Hub(LIMITS), RecordingEndpoint(1)
    hub.attach(endpoint)
    hub.say_as(NAME, hub.state.rooms.lobby, "하나", 1.0)
    hub.say_as(NAME, None, "둘", 1.0)
    assert hub.state.rooms.lobby.seq == 2
    with pytest.raises(ProtocolError) as caught:
        hub.say_as(NAME, None, "x" * 65_000, 1.0)
    assert caught.value.code == "too_long"
    with pytest.raises(ProtocolError) as caught:
        hub.tell_as(NAME, "밥", "\ud800", 1.0)
    assert caught.value.code == "bad_text"


def test_while_a_host_cannot_read_it_nothing_is_said() -> None:
    assert SPOKEN_SINCE <= VERSION
    hub = Hub(LIMITS)
    for epoch, version in ((1, SPOKEN_SINCE), (2, SPOKEN_SINCE - 1)):
        info = encode_info(HostInfo(name=f"서버-{epoch}", version=version))
        hub.state.apply(Arrived(1.0, 1.0, epoch, info))
    with pytest.raises(MpchatError, match="older mpchat"):
        hub.say_as(NAME, None, "끝", 1.0)
    with pytest.raises(MpchatError, match="older mpchat"):
        hub.tell_as(NAME, "밥", "끝", 1.0)
    assert hub.state.messages == 0


def test_while_the_hosts_share_no_log_nothing_is_said() -> None:
    nothing = cast(Any, None)
    clients = ClientCommands(nothing, Hub(LIMITS), nothing, nothing, nothing, nothing)
    called: list[str] = []
    clients.cluster = cast(Any, SimpleNamespace(away="Redis is away"))
    with pytest.raises(AwayError):
        clients.speak(lambda: called.append("decided"), lambda: called.append("then"))
    clients.cluster = None
    clients.speak(lambda: called.append("decided"), lambda: called.append("then"))
    assert called == ["decided", "then"]
