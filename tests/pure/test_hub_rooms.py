"""Rooms: their numbers and limits, their share of the memory, and notices of comers and leavers."""

from itertools import pairwise

import pytest
from msgspec.structs import replace
from support.desk import KEPT, LIMITS, Desk, code, objects, run

from mpchat.hub import rooms
from mpchat.hub.effects import ForgetHistory, ForgetRoom
from mpchat.hub.entries import Configured, CutOff, RoomClosed
from mpchat.hub.past import Past
from mpchat.hub.rooms import Room
from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.ipc.stream_buffer import StreamBuffer
from mpchat.protocol.messages import message_frame


def test_comers_and_leavers_are_told_at_once_and_then_together() -> None:
    room = Room(1, "r")
    room.enter(1, "watcher")
    assert len(room.take_notices(0.0)) == 1
    for number in range(20):
        room.enter(10 + number, f"n{number}")
    assert room.take_notices(NOTICE_GATHER / 2) == []
    for number in range(15):
        room.leave(10 + number, "closed")
    room.enter(50, "late")
    assert room.notice_due() == NOTICE_GATHER
    frames = b"".join(room.take_notices(NOTICE_GATHER * 2))
    # A member that came and went in between was never there; of many the first eight are named.
    names = [*(f"n{number}" for number in range(15, 20)), "late"]
    assert objects(frames) == [{"joined": {"room": "r", "names": names, "count": 6, "members": 7}}]
    for number in range(15, 20):
        room.leave(10 + number, "closed" if number % 2 else "lost")
    frames = b"".join(room.take_notices(NOTICE_GATHER * 4))
    assert [each["left"]["reason"] for each in objects(frames)] == ["closed", "lost"]


def test_a_member_that_is_back_before_its_leaving_was_told_has_never_left() -> None:
    room = Room(1, "r")
    room.enter(1, "watcher")
    room.enter(2, "alice")
    room.take_notices(0.0)
    room.leave(2, "lost")
    room.enter(3, "alice")
    assert room.notice_due() is None
    assert room.take_notices(10.0) == []
    room.leave(3, "lost")
    (left,) = objects(b"".join(room.take_notices(20.0)))
    assert left == {"left": {"room": "r", "names": ["alice"], "count": 1, "members": 1, "reason": "lost"}}


def test_an_empty_room_has_no_notices() -> None:
    room = Room(1, "r")
    room.enter(1, "alice")
    room.take_notices(0.0)
    room.leave(1, "closed")
    assert room.notice_due() is None
    room.enter(2, "alice")
    assert [each["joined"]["names"] for each in objects(b"".join(room.take_notices(1.0)))] == [["alice"]]


def test_limits_on_rooms_and_members() -> None:
    desk = Desk(LIMITS._replace(rooms=2, members=2))
    assert "welcome" in desk.join(1, "a", room="x")
    assert code(desk.join(2, "b", room="y")) == "too_many_rooms"
    assert "welcome" in desk.join(2, "b", room="X")
    assert code(desk.join(3, "c", room="x")) == "room_full"
    # A refused join has not taken the name.
    assert "welcome" in desk.join(4, "c")
    desk.leave(1)
    desk.leave(2)
    assert [room.name for room in desk.state.rooms] == ["lobby"]
    assert len([each for each in desk.effects if isinstance(each, ForgetRoom)]) == 1
    assert "welcome" in desk.join(4, room="y")


def names_of_rooms(desk: Desk) -> list[str]:
    """Return the rooms that exist, in the order of their making."""
    return [room.name for room in desk.state.rooms]


@pytest.mark.parametrize("how", ["closes", "moves", "is replaced", "is cut off"])
def test_a_room_in_which_nothing_was_said_ends_with_its_last_member(how: str) -> None:
    desk = Desk(LIMITS._replace(name_hold=0.0))
    token = desk.join(1, "앨리스", room="방")["welcome"]["token"]
    desk.join(2, "bob", room="방")
    desk.leave(2)
    assert names_of_rooms(desk) == ["lobby", "방"]
    number = desk.state.rooms.by_key["방"].number
    if how == "closes":
        desk.leave(1)
    elif how == "moves":
        desk.join(1)
        desk.join(1, room="lobby")
    elif how == "is replaced":
        desk.join(3, "앨리스", token=token)
    else:
        desk.apply(CutOff(1.0, 1, "slow consumer"))
    assert names_of_rooms(desk) == ["lobby"]
    assert desk.effects[-1] == ForgetRoom(number)
    assert (len(desk.state.rooms.by_number), desk.state.rooms.names) == (1, ["lobby"])


def test_a_client_that_goes_from_room_to_room_leaves_no_room_behind() -> None:
    desk = Desk(LIMITS._replace(rooms=2))
    for number in range(1000):
        assert "welcome" in desk.join(1, "a", room=f"r{number}")
    assert names_of_rooms(desk) == ["lobby", "r999"]
    assert code(desk.join(2, "b", room="mine")) == "too_many_rooms"


def test_a_member_that_replaces_the_only_one_of_its_room_finds_the_room_as_it_was() -> None:
    desk = Desk()
    token = desk.join(1, "a", room="x")["welcome"]["token"]
    number = desk.state.rooms.by_key["x"].number
    assert desk.join(2, "a", room="x", token=token)["welcome"]["members"] == 1
    assert desk.state.rooms.by_key["x"].number == number
    assert not [each for each in desk.effects if isinstance(each, ForgetRoom)]


def test_a_silent_room_waits_for_a_member_whose_name_is_held() -> None:
    desk = Desk(LIMITS._replace(rooms=2, name_hold=60.0))
    welcome = desk.join(1, "a", room="x")["welcome"]
    desk.leave(1, "lost", now=10.0)
    desk.sweep(now=69.0)
    assert code(desk.join(2, "b", room="y", now=69.0)) == "too_many_rooms"
    back = {"room": "x", "token": welcome["token"], "epoch": welcome["epoch"], "after": welcome["seq"]}
    assert desk.join(3, "a", now=69.0, **back)["welcome"]["recovered"]
    desk.leave(3, "lost", now=70.0)
    desk.sweep(now=129.0)
    assert names_of_rooms(desk) == ["lobby", "x"]
    desk.sweep(now=130.0)
    assert names_of_rooms(desk) == ["lobby"]


def test_a_room_waits_for_the_name_that_is_held_longest_whatever_a_reload_has_changed() -> None:
    desk = Desk(LIMITS._replace(name_hold=60.0))
    welcome = desk.join(1, "a", room="x")["welcome"]
    desk.join(2, "b", room="x")
    desk.leave(1, "lost", now=10.0)
    desk.apply(Configured(LIMITS._replace(name_hold=5.0), True))
    desk.leave(2, "lost", now=12.0)
    desk.sweep(now=18.0)
    back = {"room": "x", "token": welcome["token"], "epoch": welcome["epoch"], "after": welcome["seq"]}
    assert "x" in names_of_rooms(desk)
    assert desk.join(3, "a", now=20.0, **back)["welcome"]["recovered"]


def test_one_address_makes_no_more_rooms_than_it_may_and_others_do() -> None:
    desk = Desk(LIMITS._replace(rooms_per_address=2))
    desk.hosts = {5: "192.0.2.5"}
    for number in (1, 2):
        assert "welcome" in desk.join(number, f"n{number}", room=f"r{number}")
        desk.post(number, "hello", at=1.0)
    refused = desk.join(3, "앨리스", room="방")["error"]
    assert refused == {
        "code": "too_many_rooms_by_address",
        "text": "your address has made 2 rooms that still exist, no more are allowed; enter one that exists, "
        "or come again when one of yours has ended",
    }
    # A refused join has not taken the name; rooms of others may be entered.
    assert "welcome" in desk.join(5, "앨리스", room="방")
    assert "welcome" in desk.join(3, "c", room="방")


def test_one_network_of_64_bits_makes_rooms_as_one_address() -> None:
    desk = Desk(LIMITS._replace(rooms_per_address=1))
    desk.hosts = {1: "[2001:db8::1]", 2: "[2001:db8::ffff:2]", 3: "[2001:db8:0:1::1]"}
    assert "welcome" in desk.join(1, "a", room="x")
    assert code(desk.join(2, "b", room="y")) == "too_many_rooms_by_address"
    assert "welcome" in desk.join(3, "c", room="y")


def test_a_room_counts_for_the_address_that_made_it_until_it_ends_whatever_client_is_in_it() -> None:
    desk = Desk(LIMITS._replace(rooms_per_address=1, kept=KEPT._replace(age=10.0)))
    desk.hosts = {2: "192.0.2.2"}
    desk.join(1, "a", room="x")
    desk.join(2, "b", room="x")
    desk.post(1, "hello", at=1.0)
    desk.leave(1)
    assert code(desk.join(3, "c", room="y")) == "too_many_rooms_by_address"
    assert "welcome" in desk.join(2, room="y")
    desk.sweep(100.0)
    assert "welcome" in desk.join(3, "c", room="z")
    # Alone in a silent room, a member may change to a new one: its own ends.
    assert "welcome" in desk.join(3, room="z2")
    assert "welcome" in desk.join(3, room="lobby")
    assert desk.state.rooms.made_by == {"192.0.2.2": 1}


def test_rooms_of_an_earlier_server_count_for_no_address() -> None:
    desk = Desk(LIMITS._replace(rooms_per_address=1), past=Past("e", {"r": 20}, 0, [run(20)], {}))
    assert desk.state.rooms.get("r") is not None
    assert desk.state.rooms.made_by == {}
    assert "welcome" in desk.join(1, "a", room="x")


def test_a_closed_room_ends_and_its_members_are_told_and_are_in_the_lobby() -> None:
    desk = Desk()
    for identity, name in ((1, "앨리스"), (2, "bob"), (3, "carol")):
        desk.join(identity, name, room="방")
        desk.post(identity, f"{identity}")
    desk.join(4, "dave")
    desk.leave(3, "lost")
    room = desk.state.rooms.by_key["방"]
    desk.sent.clear()
    effects = desk.apply(RoomClosed(1.0, 1.0, room.number))
    for identity in (1, 2):
        (told, welcome) = (each for who, each in desk.sent if who == identity)
        assert told["error"]["code"] == "room_closed"
        assert told["error"]["text"] == "방 was closed by the operator; you are in lobby"
        assert (welcome["welcome"]["room"], welcome["welcome"]["seq"]) == ("lobby", 0)
    assert effects[-2:] == [ForgetHistory("방", 3), ForgetRoom(room.number)]
    assert desk.state.rooms.lobby.names == ["bob", "dave", "앨리스"]
    assert names_of_rooms(desk) == ["lobby"]
    assert desk.state.rooms.memory.used == 0
    desk.post(1, "in the lobby")
    assert desk.state.rooms.lobby.seq == 1
    assert desk.join(1, room="방")["welcome"]["seq"] == 3


def test_the_lobby_and_a_room_that_is_gone_are_not_closed() -> None:
    desk = Desk()
    desk.join(1, "a")
    assert desk.apply(RoomClosed(1.0, 1.0, desk.state.rooms.lobby.number)) == []
    assert desk.apply(RoomClosed(1.0, 1.0, 77)) == []
    assert desk.state.rooms.lobby.names == ["a"]


def test_a_room_knows_when_it_was_made_and_when_a_message_or_a_member_last_came_in() -> None:
    desk = Desk(past=Past("e", {"r": 21}, 0, [run(20, at=3.0), run(21, at=4.0)], {}))
    desk.join(1, "a", room="x", now=5.0)
    desk.post(1, "hello", at=6.0)
    room, old = desk.state.rooms.by_key["x"], desk.state.rooms.by_key["r"]
    assert (room.made_at, room.active_at) == (5.0, 6.0)
    desk.join(2, "b", room="x", now=7.0)
    desk.leave(2, now=8.0)
    assert (room.made_at, room.active_at) == (5.0, 7.0)
    assert (old.made_at, old.active_at) == (3.0, 4.0)


def test_a_room_that_comes_again_does_not_use_its_numbers_again() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(age=10.0)))
    desk.join(1, "a", room="x")
    desk.post(1, "1", "2", "3")
    desk.leave(1)
    desk.sweep(100.0)
    assert len(desk.state.rooms) == 1
    assert desk.join(2, "b", room="x")["welcome"]["seq"] == 3


def test_a_room_of_an_earlier_server_that_is_forgotten_does_not_use_its_numbers_again() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(age=10.0)), past=Past("e", {"x": 20}))
    for number in (20, 23):
        assert desk.join(1, "a", room="x")["welcome"]["seq"] == number
        desk.post(1, "1", "2", "3")
        desk.leave(1)
        desk.sweep(100.0)
        assert desk.state.rooms.get("x") is None


def test_a_room_without_a_history_is_kept_while_it_has_members() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(age=10.0)))
    desk.join(1, "a", room="x")
    desk.post(1, "hello", at=1.0)
    desk.sweep(100.0)
    room = desk.state.rooms.get("x")
    assert room is not None
    assert not room.history
    assert room.names == ["a"]


def test_an_empty_room_is_kept_while_it_has_a_history_and_the_lobby_always() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(age=10.0)))
    desk.join(1, "a", room="x")
    desk.post(1, "hello", at=1.0)
    desk.leave(1)
    desk.sweep(11.0)
    assert [room.name for room in desk.state.rooms] == ["lobby", "x"]
    desk.sweep(11.1)
    assert [room.name for room in desk.state.rooms] == ["lobby"]


def kept_of(desk: Desk, name: str) -> int:
    """Return how many messages are kept of a room."""
    return sum(each.count for each in desk.state.rooms.by_key[name].history.since(0))


def test_the_history_of_a_room_is_whole_whatever_many_rooms_with_little_in_them_exist() -> None:
    desk = Desk(LIMITS._replace(rooms=10_000, kept=KEPT._replace(messages=1000, size=8 << 20), lag=8 << 20))
    desk.join(1, "앨리스", room="방")
    for number in range(2, 10_000):
        desk.join(number, f"n{number}", room=f"r{number}")
        desk.post(number, "x")
    for number in range(1500):
        desk.post(1, f"안녕 {number} " + "x" * 100)
    assert kept_of(desk, "방") == 1000
    desk.sweep()
    welcome = desk.join(20_000, "bob", room="방", after=500, epoch="epoch")["welcome"]
    assert (welcome["recovered"], welcome["lost"]) == (True, None)


def test_past_the_memory_the_rooms_that_hold_most_forget_their_oldest_and_others_nothing() -> None:
    desk = Desk()
    desk.state.rooms.memory.limit = 1 << 20
    desk.join(1, "small", room="small")
    desk.post(1, *map(str, range(20)))
    for number in range(2, 20):
        desk.join(number, f"n{number}", room=f"r{number}")
        for _ in range(50):
            desk.post(number, "x" * 4000)
            assert (
                sum(room.history.size for room in desk.state.rooms) == desk.state.rooms.memory.used <= 1 << 20
            )
    assert kept_of(desk, "small") == 20
    sizes = [desk.state.rooms.by_key[f"r{number}"].history.size for number in range(2, 20)]
    assert min(sizes) > (1 << 20) // 20
    room = desk.state.rooms.by_key["r2"]
    assert room.history.last == room.seq == 50


def test_a_room_with_more_in_one_piece_than_its_share_keeps_nothing_and_its_numbers_go_on() -> None:
    desk = Desk()
    desk.state.rooms.memory.limit = 50_000
    desk.join(1, "a", room="x")
    desk.post(1, "x" * 60_000)
    assert not desk.state.rooms.by_key["x"].history
    desk.post(1, "short")
    welcome = desk.join(2, "b", room="x", after=0, epoch="epoch")["welcome"]
    assert (welcome["seq"], welcome["recovered"], welcome["lost"]) == (2, False, [1, 1])


def test_memory_of_histories_that_are_forgotten_is_free_again() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(age=10.0)))
    for number in range(9):
        desk.join(number, f"n{number}", room=f"r{number}")
        desk.post(number, "hello", at=1.0)
    assert desk.state.rooms.memory.used > 0
    desk.sweep(100.0)
    assert desk.state.rooms.memory.used == 0


def test_other_limits_hold_from_then_on() -> None:
    desk = Desk()
    desk.join(1, "a", room="x")
    desk.post(1, *map(str, range(50)), at=1.0)
    desk.apply(Configured(LIMITS._replace(rooms=2, kept=KEPT._replace(messages=3, age=5.0)), notices=False))
    assert code(desk.join(2, "b", room="y")) == "too_many_rooms"
    desk.post(1, *map(str, range(50, 60)), at=3.0)
    room = desk.state.rooms.by_key["x"]
    assert (room.history.first, room.history.last) == (51, 60)
    desk.sweep(9.0)
    assert not room.history


def test_a_sweep_looks_at_some_rooms_and_all_are_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "SWEPT", 3)
    monkeypatch.setattr(rooms, "SWEEPS", 5)
    desk = Desk(LIMITS._replace(kept=KEPT._replace(age=10.0)))
    for number in range(40):
        desk.join(number, f"n{number}", room=f"r{number}")
        desk.post(number, "hello", at=1.0)
        desk.leave(number)
    left = []
    for _ in range(20):
        desk.sweep(100.0)
        left.append(len(desk.state.rooms))
    assert 41 - 8 <= left[0] < 41
    assert left[-1] == 1
    assert all(before - after <= 8 for before, after in pairwise(left))


def test_a_room_that_was_spelled_in_two_ways_continues_after_its_last_number() -> None:
    runs = [replace(run(15), room="game"), replace(run(16, 5), room="Game")]
    desk = Desk(past=Past("e", {"Game": 20, "game": 15}, 0, runs, {}))
    desk.join(1, "alice", room="GAME")
    room = desk.state.rooms.by_key["game"]
    assert (room.seq, room.history.first) == (20, 15)
    assert {each.room for each in room.history.since(0)} == {room.name}


def test_a_history_whose_end_was_lost_is_not_shown() -> None:
    desk = Desk(past=Past("e", {"r": 20}, 0, [run(15, 3)], {}))
    assert not desk.state.rooms.by_key["r"].history
    assert desk.join(1, "alice", room="r")["welcome"]["seq"] == 20


def test_what_members_get_of_a_run_is_numbered_and_fits_a_stream() -> None:
    room, stream = Room(1, "r"), StreamBuffer(1 << 20)
    posted = room.post("alice", 2, message_frame("a") + message_frame("b"), (7.25, 7.25), KEPT)
    stream.append(room.numbered(posted), posted.count)
    got = objects(b"".join(map(bytes, stream.read_all(0))))
    assert [(each["seq"], each["from"], each["message"], each["at"]) for each in got] == [
        (1, "alice", "a", 7.25),
        (2, "alice", "b", 7.25),
    ]
