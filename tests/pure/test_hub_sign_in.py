"""Sign-in: what a proof lets a member do, in the hub's state; the check itself is elsewhere."""

import pytest
from support.desk import LIMITS, Desk, Object, by_secret, code, order, proven, unproven

from mpchat.auth.grant import OPERATOR, Identity
from mpchat.hub import members
from mpchat.hub.effects import Effect, End, Enter, ForgetRoom, Leave, Order, Say, SayInRoom
from mpchat.hub.entries import CutOff, Denied, Left, NoticesDue, RoomClosed, Swept
from mpchat.hub.limits import Limits
from mpchat.ipc.reasons import CLOSED_ROOM, EXPIRED, REPLACED, UNPROVEN
from mpchat.protocol.requests import (
    OPERATORS_REQUESTS,
    ListRooms,
    ReadHistory,
    Request,
    Target,
    Who,
)

NAMES = LIMITS._replace(auth="names", proofs=("password",))
CLOSED = LIMITS._replace(auth="closed", proofs=("password", "jwt"))
# The second looks like the first: its first letter is Cyrillic.
ALICE, CYRILLIC = "alice", "\N{CYRILLIC SMALL LETTER A}lice"
REQUESTS = [
    Request(message="안녕", to="앨리스"),
    Request(who=Who()),
    Request(rooms=ListRooms()),
    Request(history=ReadHistory()),
    Request(kick=Target("앨리스")),
]


def sent_to(desk: Desk, identity: int) -> list[Object]:
    """Return all that a connection was sent alone."""
    return [each for who, each in desk.sent if who == identity]


def ends(desk: Desk) -> list[End]:
    return [each for each in desk.effects if isinstance(each, End)]


# A closed chat.


def test_in_a_closed_chat_no_request_is_served_without_a_proof() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스"))
    for request in [*REQUESTS, Request(join=None, who=Who(room="lobby"))]:
        answer = desk.ask(2, request)
        assert code(answer) == "auth_required"
        assert answer["error"]["proofs"] == ["password", "jwt"]
    assert code(desk.join(2, "밥")) == "auth_required"
    assert [name for room in desk.state.rooms for name in room.names] == ["앨리스"]
    assert not [each for each in desk.effects if isinstance(each, Order)]


def test_a_check_that_found_no_proof_to_be_needed_lets_no_client_into_a_chat_closed_by_now() -> None:
    """A join waits for its check, and the chat is closed meanwhile."""
    desk = Desk(NAMES)
    desk.configure(CLOSED)
    answer = desk.join(1, "앨리스", identified=unproven("앨리스"))
    assert code(answer) == "auth_required"
    assert answer["error"]["proofs"] == ["password", "jwt"]
    assert desk.state.members.named("앨리스") is None
    assert "welcome" in desk.join(1, "앨리스", identified=proven("앨리스"))


@pytest.mark.parametrize("identified", [proven("앨리스"), by_secret("앨리스")])
def test_a_proof_lets_a_client_in_and_later_joins_need_none(identified: Identity) -> None:
    desk = Desk(CLOSED)
    assert "welcome" in desk.join(1, "앨리스", identified=identified)
    assert desk.join(1, room="방")["welcome"]["room"] == "방"
    assert "who" in desk.ask(1, Request(who=Who()))


def test_a_proof_that_was_not_accepted_is_answered_with_the_reason_and_changes_nothing() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스"))
    before = len(desk.effects)
    answer = desk.join(2, "앨리스", denied=Denied("auth_required", "무엇", ("jwt",)))
    assert answer == {"error": {"code": "auth_required", "text": "무엇", "proofs": ["jwt"]}}
    answer = desk.join(1, room="방", denied=Denied("bad_credentials", "틀림"))
    assert answer == {"error": {"code": "bad_credentials", "text": "틀림"}}
    assert len(desk.effects) == before + 2
    assert desk.state.members.by_identity[1].room is desk.state.rooms.lobby


def test_what_clients_without_a_proof_say_is_dropped_in_a_closed_chat() -> None:
    desk = Desk(CLOSED)
    assert desk.post("192.0.2.9:1", "안녕") == []
    desk.ask(2, Request(who=Who()))  # has asked, and was refused
    assert desk.post("192.0.2.9:1", "안녕") == []
    assert desk.post(2, "안녕") == []
    desk.join(1, "앨리스", identified=proven("앨리스"))
    assert desk.post("192.0.2.9:1", "안녕") == []
    assert desk.post(2, "안녕") == []
    assert (desk.state.rooms.lobby.seq, desk.state.messages) == (0, 0)
    said = desk.post(1, "안녕")
    assert [type(each) for each in said] == [SayInRoom], "nothing for plain clients, whoever serves them"
    assert desk.state.messages == 1


def test_members_without_a_proof_are_dismissed_when_the_chat_closes_and_their_names_are_held() -> None:
    desk = Desk()
    token = desk.join(1, "앨리스")["welcome"]["token"]
    desk.join(2, "밥", identified=proven("밥"), room="방")
    desk.join(3, "carol", identified=by_secret("carol"))
    desk.join(4, "dave", room="방")
    desk.ask(5, Request(who=Who()))
    desk.configure(CLOSED)
    assert ends(desk) == [End(1, UNPROVEN), End(4, UNPROVEN)]
    assert set(desk.state.members.by_identity) == {2, 3, 5}
    for identity in (1, 4):
        told = sent_to(desk, identity)[-1]
        assert (code(told), told["error"]["proofs"]) == ("auth_required", ["password", "jwt"])
    assert desk.post(1, "안녕") == []
    assert code(desk.join(6, "앨리스", identified=by_secret("앨리스"))) == "name_taken"
    again = desk.join(7, "앨리스", identified=by_secret("앨리스"), token=token)
    assert again["welcome"]["name"] == "앨리스"


def test_a_chat_that_stays_closed_dismisses_nobody() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스"))
    desk.ask(2, Request(who=Who()))
    desk.configure(CLOSED._replace(members=7))
    desk.configure(NAMES)
    desk.configure(LIMITS)
    assert ends(desk) == []


# Rooms.


def test_a_token_for_some_rooms_lets_its_owner_into_these_alone() -> None:
    desk = Desk(CLOSED)
    some = proven("앨리스", rooms=("방-*", "Café"))
    assert code(desk.join(1, "앨리스", identified=some)) == "not_allowed"  # the lobby
    assert desk.state.members.named("앨리스") is None
    for room in ("방-1", "방-2층", "cafe\N{COMBINING ACUTE ACCENT}"):
        assert desk.join(1, "앨리스", identified=some, room=room).get("welcome"), room
        assert desk.join(1, room="방-2")["welcome"]["room"] == "방-2"
        for other in ("lobby", "방", "cafe", "x방-1"):
            assert code(desk.join(1, room=other)) == "not_allowed"
        assert [room.name for room in desk.state.rooms if room.members] == ["방-2"]
        desk.leave(1)


def test_a_token_for_no_room_is_for_none() -> None:
    desk = Desk(CLOSED)
    for room in (None, "방"):
        assert code(desk.join(1, "앨리스", identified=proven("앨리스", rooms=()), room=room)) == "not_allowed"


def test_rooms_that_a_token_does_not_name_are_not_shown() -> None:
    desk = Desk(CLOSED)
    for number, room in enumerate(["방-1", "방-2", "비밀"], 1):
        desk.join(number, f"이름{number}", identified=proven(f"이름{number}"), room=room)
    desk.join(9, "앨리스", identified=proven("앨리스", rooms=("방-*",)), room="방-1")
    found = desk.ask(9, Request(rooms=ListRooms()))["rooms"]["rooms"]
    assert found == [{"room": "방-1", "members": 2}, {"room": "방-2", "members": 1}]
    assert desk.ask(9, Request(who=Who(room="방-2")))["who"]["names"] == ["이름2"]
    assert code(desk.ask(9, Request(who=Who(room="비밀")))) == "not_allowed"
    assert len(desk.ask(1, Request(rooms=ListRooms()))["rooms"]["rooms"]) == 4


def test_members_of_a_room_that_is_closed_go_into_the_lobby_or_leave_if_that_is_not_theirs() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스", rooms=("방",)), room="방")
    desk.join(2, "밥", identified=proven("밥"), room="방")
    desk.post(2, "안녕")
    desk.apply(RoomClosed(1.0, 1.0, desk.state.rooms.by_key["방"].number))
    assert ends(desk) == [End(1, CLOSED_ROOM)]
    assert code(sent_to(desk, 1)[-1]) == "room_closed"
    assert "lobby" not in sent_to(desk, 1)[-1]["error"]["text"]
    assert desk.state.rooms.lobby.names == ["밥"]
    assert "방" not in desk.state.rooms.by_key
    # Its name is held, and its owner comes back with a proof.
    assert code(desk.join(3, "앨리스", identified=by_secret("앨리스"))) == "name_taken"
    assert "welcome" in desk.join(4, "앨리스", identified=proven("앨리스"))


# Names.


@pytest.mark.parametrize("limits", [LIMITS, NAMES, CLOSED])
@pytest.mark.parametrize("held", [False, True])
def test_a_proof_takes_a_name_over_and_the_earlier_connection_is_told(limits: Limits, held: bool) -> None:
    desk = Desk(limits)
    token = desk.join(1, "앨리스", identified=by_secret("앨리스"), room="방")["welcome"]["token"]
    if held:
        desk.leave(1, "lost")
    welcome = desk.join(2, "앨리스", identified=proven("앨리스"), room="방")["welcome"]
    assert (welcome["members"], welcome["token"] == token) == (1, False)
    assert ends(desk) == ([] if held else [End(1, REPLACED)])
    if not held:
        assert code(sent_to(desk, 1)[-1]) == "taken_over"
    desk.leave(2, "lost")
    again = desk.join(3, "앨리스", identified=by_secret("앨리스"), token=token)
    assert code(again) == "name_taken", "it may be a stranger's token"


def test_a_secret_for_all_takes_no_name_over() -> None:
    desk = Desk(CLOSED)
    token = desk.join(1, "앨리스", identified=by_secret("앨리스"))["welcome"]["token"]
    assert code(desk.join(2, "앨리스", identified=by_secret("앨리스"))) == "name_taken"
    assert ends(desk) == []
    assert "welcome" in desk.join(3, "앨리스", identified=by_secret("앨리스"), token=token)
    assert ends(desk) == [End(1, REPLACED)]


def test_a_proof_finds_a_place_in_the_full_room_of_the_connection_that_it_replaces() -> None:
    desk = Desk(CLOSED._replace(members=1))
    desk.join(1, "앨리스", identified=proven("앨리스"), room="방")
    assert code(desk.join(2, "밥", identified=proven("밥"), room="방")) == "room_full"
    assert code(desk.join(2, "앨리스", identified=by_secret("앨리스"), room="방")) == "room_full"
    assert "welcome" in desk.join(3, "앨리스", identified=proven("앨리스"), room="방")


def test_a_proof_that_was_checked_too_late_does_not_end_the_later_connection() -> None:
    desk = Desk(CLOSED)
    token = desk.join(5, "앨리스", identified=proven("앨리스"))["welcome"]["token"]
    assert code(desk.join(4, "앨리스", identified=proven("앨리스"))) == "name_taken"
    assert ends(desk) == []
    desk.leave(5, "lost")
    assert desk.join(6, "앨리스", identified=proven("앨리스"), token=token)["welcome"]["token"] == token


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("identified", [unproven(CYRILLIC), by_secret(CYRILLIC)])
def test_a_name_that_looks_like_one_that_is_there_is_taken(held: bool, identified: Identity) -> None:
    desk = Desk(NAMES)
    desk.join(1, ALICE, identified=unproven(ALICE))
    if held:
        desk.leave(1, "lost")
    assert code(desk.join(2, CYRILLIC, identified=identified)) == "name_taken"
    assert "welcome" in desk.join(2, CYRILLIC, now=62.0 if held else 1.0, identified=proven(CYRILLIC))


def test_a_member_comes_back_to_its_own_name_in_another_spelling() -> None:
    desk = Desk(NAMES)
    token = desk.join(1, ALICE, identified=unproven(ALICE))["welcome"]["token"]
    desk.leave(1, "lost")
    assert "welcome" in desk.join(2, "Alice", identified=unproven("Alice"), token=token)


def test_the_name_of_a_token_is_the_name_of_a_join_without_one_and_no_other_later() -> None:
    desk = Desk(CLOSED)
    assert desk.join(1, identified=proven("앨리스"))["welcome"]["name"] == "앨리스"
    assert code(desk.join(1, identified=proven("밥"))) == "bad_request"
    assert code(desk.join(1, "밥")) == "bad_request"
    assert desk.state.members.by_identity[1].name == "앨리스"


# The end of a token.


def test_the_welcome_names_the_role_and_the_end_where_they_are_not_the_usual_ones() -> None:
    desk = Desk(CLOSED)
    usual = desk.join(1, "앨리스", identified=proven("앨리스"))["welcome"]
    assert not {"role", "expires"} & usual.keys()
    welcome = desk.join(2, "밥", identified=proven("밥", role=OPERATOR, expires=100.0))["welcome"]
    assert (welcome["role"], welcome["expires"]) == ("operator", 100.0)
    welcome = desk.join(2, room="방")["welcome"]
    assert (welcome["role"], welcome["expires"]) == ("operator", 100.0)


def test_a_connection_ends_with_its_token_and_the_name_waits_for_a_fresh_one() -> None:
    desk = Desk(CLOSED)
    welcome = desk.join(1, "앨리스", identified=proven("앨리스", expires=100.0), room="방")["welcome"]
    desk.join(2, "밥", identified=proven("밥"), room="방")
    desk.post(2, "하나")
    desk.sweep(99.9)
    assert ends(desk) == []
    desk.sweep(100.0)
    assert ends(desk) == [End(1, EXPIRED)]
    assert code(sent_to(desk, 1)[-1]) == "expired"
    desk.post(2, "둘", at=101.0)
    assert code(desk.join(3, "앨리스", 110.0, identified=by_secret("앨리스"), room="방")) == "name_taken"
    back = desk.join(
        4,
        "앨리스",
        120.0,
        identified=proven("앨리스", expires=200.0),
        room="방",
        token=welcome["token"],
        epoch=welcome["epoch"],
        after=1,
    )
    assert (back["welcome"]["recovered"], back["welcome"]["seq"]) == (True, 2)
    desk.sweep(199.0)
    assert ends(desk) == [End(1, EXPIRED)]
    desk.sweep(200.0)
    assert ends(desk) == [End(1, EXPIRED), End(4, EXPIRED)]


def test_a_token_that_has_ended_since_its_check_lets_no_client_in() -> None:
    desk = Desk(CLOSED)
    assert code(desk.join(1, "앨리스", 100.0, identified=proven("앨리스", expires=100.0))) == "expired"
    assert desk.state.members.named("앨리스") is None
    assert "welcome" in desk.join(1, "앨리스", 100.0, identified=proven("앨리스", expires=100.1))


def test_a_fresh_token_prolongs_the_time_and_its_owner_keeps_place_and_stream() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스", expires=100.0), room="방")
    desk.post(1, "하나", "둘")
    before, told = len(desk.effects), len(desk.sent)
    answer = desk.join(1, now=50.0, identified=proven("앨리스", expires=150.0))
    assert (answer["welcome"]["expires"], answer["welcome"]["room"]) == (150.0, "방")
    assert len(desk.sent) == told + 1, "no history"
    assert not [each for each in desk.effects[before:] if isinstance(each, Enter | Leave)]
    desk.sweep(149.0)
    assert ends(desk) == []
    desk.sweep(150.0)
    assert ends(desk) == [End(1, EXPIRED)]


def test_a_fresh_token_with_another_room_is_a_move() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스", expires=100.0), room="방")
    welcome = desk.join(1, now=50.0, identified=proven("앨리스", expires=150.0), room="다른-방")["welcome"]
    assert (welcome["expires"], welcome["room"]) == (150.0, "다른-방")


def test_a_fresh_token_that_is_not_for_the_room_changes_nothing() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스", expires=100.0), room="방")
    assert code(desk.join(1, identified=proven("앨리스", rooms=("x",), expires=900.0))) == "not_allowed"
    assert desk.join(1, room="방")["welcome"]["expires"] == 100.0


@pytest.mark.parametrize("end", ["leaves", "cut off", "taken over", "worker dies", "a proof without end"])
def test_a_connection_that_is_gone_or_has_another_proof_does_not_expire(end: str) -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스", expires=100.0))
    if end == "leaves":
        desk.leave(1)
    elif end == "cut off":
        desk.apply(CutOff(1.0, 1, "slow consumer"))
    elif end == "taken over":
        desk.join(2, "앨리스", identified=proven("앨리스"))
    elif end == "worker dies":
        desk.kill_worker(1)
    else:
        desk.join(1, identified=proven("앨리스"))
    assert desk.state.members.expiring == {}
    before = len(ends(desk))
    desk.sweep(1000.0)
    assert len(ends(desk)) == before


# Operators.


def orders(effects: list[Effect]) -> list[Order]:
    return [each for each in effects if isinstance(each, Order)]


@pytest.mark.parametrize("action", OPERATORS_REQUESTS)
def test_an_operator_orders_and_a_member_does_not(action: str) -> None:
    desk = Desk()
    desk.join(1, "앨리스", identified=proven("앨리스", role=OPERATOR))
    desk.join(2, "밥", identified=proven("밥"))
    desk.join(3, "carol")
    for identity in (2, 3):
        assert code(desk.ask(identity, order(action, "앨리스"))) == "not_allowed"
    assert code(desk.ask(4, order(action, "앨리스"))) == "not_joined"
    assert orders(desk.effects) == []
    assert desk.ask(1, order(action, "밥")) == {}, "it is answered when it was carried out"
    seconds = 60.0 if action in ("ban", "mute") else None
    assert orders(desk.effects) == [Order(1, "앨리스", action, "밥", seconds)]


def test_an_operator_of_some_rooms_orders_within_these() -> None:
    desk = Desk()
    desk.join(1, "앨리스", identified=proven("앨리스", role=OPERATOR, rooms=("방-*",)), room="방-1")
    desk.join(2, "밥", room="방-2")
    desk.join(3, "carol", room="비밀")
    assert desk.ask(1, order("close", "방-2")) == {}
    assert desk.ask(1, order("kick", "밥")) == {}
    assert len(orders(desk.effects)) == 2
    outside = [("close", "비밀"), ("kick", "carol"), ("kick", "nobody"), ("kick", desk.address(2))]
    everywhere = [(action, "밥") for action in ("ban", "unban", "mute", "unmute")]
    for action, target in [*outside, *everywhere]:
        assert code(desk.ask(1, order(action, target))) == "not_allowed"
    assert len(orders(desk.effects)) == 2


def test_a_role_ends_with_the_proof_that_gave_it() -> None:
    desk = Desk()
    desk.join(1, "앨리스", identified=proven("앨리스", role=OPERATOR))
    desk.join(1, room="방")
    assert desk.ask(1, order("kick", "밥")) == {}
    desk.join(1, identified=proven("앨리스"))
    assert code(desk.ask(1, order("kick", "밥"))) == "not_allowed"


def test_a_long_target_is_none() -> None:
    desk = Desk()
    desk.join(1, "앨리스", identified=proven("앨리스", role=OPERATOR))
    assert code(desk.ask(1, order("ban", "가" * 129))) == "bad_name"
    assert desk.ask(1, order("ban", "가" * 128)) == {}


def test_a_member_that_is_just_showing_a_fresh_token_is_not_ended() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스", expires=100.0))
    desk.apply(Swept(101.0, 101.0, (1,)))
    assert ends(desk) == []
    desk.join(1, now=102.0, identified=proven("앨리스", expires=200.0))
    desk.sweep(199.0)
    assert ends(desk) == []
    desk.sweep(200.0)
    assert ends(desk) == [End(1, EXPIRED)]


# What may be known of other rooms.


def test_a_token_for_some_rooms_learns_nothing_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "PAGE", 2)
    desk = Desk(CLOSED._replace(rooms=1000))
    rooms = [f"방-{number}" for number in range(9)]
    for number, room in enumerate(["비밀-1", "가-비밀", *rooms, "하-비밀"]):
        desk.join(100 + number, f"이름{number}", identified=proven(f"이름{number}"), room=room)
    desk.join(1, "앨리스", identified=proven("앨리스", rooms=("방-*",)), room="방-0")
    found, after = [], None
    while True:
        page = desk.ask(1, Request(rooms=ListRooms(after)))["rooms"]
        assert page["count"] == len(rooms)
        found += [each["room"] for each in page["rooms"]]
        assert len(page["rooms"]) == 2 or page["next"] is None
        if (after := page["next"]) is None:
            break
        assert after in rooms
    assert found == rooms
    for room in ("비밀-1", "비밀-2"):
        assert code(desk.ask(1, Request(who=Who(room=room)))) == "not_allowed", "there or not"


def test_a_room_ends_with_the_proof_of_its_last_member_where_no_names_are_held() -> None:
    desk = Desk(CLOSED._replace(name_hold=0.0))
    desk.join(1, "앨리스", identified=proven("앨리스", expires=100.0), room="방")
    room = desk.state.rooms.by_key["방"].number
    effects = desk.apply(Swept(100.0, 100.0))
    assert [each for each in effects if isinstance(each, ForgetRoom)] == [ForgetRoom(room)]
    assert [each.name for each in desk.state.rooms] == ["lobby"]


def test_the_rooms_that_a_token_allows_are_looked_for_now_and_then() -> None:
    desk = Desk(CLOSED)
    desk.join(1, "앨리스", identified=proven("앨리스", rooms=("방-*",)), room="방-0")
    assert desk.ask(1, Request(rooms=ListRooms()), 10.0)["rooms"]["count"] == 1
    desk.join(2, "밥", identified=proven("밥"), room="방-1")
    assert desk.ask(1, Request(rooms=ListRooms()), 14.0)["rooms"]["count"] == 1
    assert desk.ask(1, Request(rooms=ListRooms()), 15.1)["rooms"]["count"] == 2


def test_a_client_that_leaves_while_its_first_proof_is_checked_is_told_of_as_a_plain_one() -> None:
    desk = Desk(NAMES)
    desk.apply(Left(1.0, [(7, "192.0.2.9:7", "closed")]))
    said = desk.apply(NoticesDue(100.0))
    assert [each for each in said if isinstance(each, Say)]
    assert b"192.0.2.9:7" in b"".join(each.frames for each in said if isinstance(each, Say))
