"""Members: names, coming back, questions; what holds after every step."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.desk import KEPT, LIMITS, Desk, Object, code, run

from mpchat.hub import claims
from mpchat.hub.effects import End, Enter, Forget, Leave, SayInRoom, Tell
from mpchat.hub.entries import CutOff, Moderated, NoticesDue, RoomClosed
from mpchat.hub.members import HISTORY_PAGE, HISTORY_SIZE
from mpchat.hub.past import Past, by_key
from mpchat.hub.state import HubState
from mpchat.protocol.messages import message_frame
from mpchat.protocol.names import name_key
from mpchat.protocol.requests import LOBBY, MOST_HISTORY, ListRooms, ReadHistory, Request, Who, history_frame
from mpchat.protocol.session import MOST_TIMES


def test_a_client_that_comes_back_to_a_full_room_finds_its_own_place() -> None:
    desk = Desk(LIMITS._replace(members=2))
    token = desk.join(1, "alice", room="x")["welcome"]["token"]
    desk.join(2, "bob", room="x")
    assert code(desk.join(3, "alice", room="x", token="")) == "room_full"
    assert "welcome" in desk.join(3, "alice", room="x", token=token)
    assert (desk.ended, desk.state.rooms.by_key["x"].names) == ([1], ["alice", "bob"])


def test_a_client_that_is_cut_off_in_a_takeover_comes_back_with_the_token_that_it_has() -> None:
    desk = Desk()
    first = desk.join(1, "alice")["welcome"]
    second = desk.join(2, "alice", token=first["token"])["welcome"]
    assert (desk.ended, second["token"] == first["token"]) == ([1], False)
    # The replaced connection does not take the name back while the other one is there.
    assert code(desk.join(3, "alice", token=first["token"])) == "name_taken"
    desk.leave(2, "lost")
    assert code(desk.join(4, "alice", token="")) == "name_taken"
    assert "welcome" in desk.join(5, "alice", token=first["token"])


@pytest.mark.parametrize(
    "spelled", [{"Lounge": 20}, {"Lounge": 5, "lounge": 20}, {"lounge": 20, "Lounge": 5}]
)
@pytest.mark.parametrize("room", ["lounge", "Lounge"])
def test_a_resume_after_a_crash_does_not_depend_on_the_spelling_of_the_room(
    room: str, spelled: dict[str, int]
) -> None:
    desk = Desk(past=Past("epoch", spelled, 0, (), {"earlier": by_key(spelled)}))
    desk.join(1, "bob", room="lounge")
    welcome = desk.join(2, "alice", room=room, after=20, epoch="earlier")["welcome"]
    assert (welcome["seq"], welcome["recovered"], welcome["lost"]) == (20, True, None)


def test_a_client_that_comes_back_by_an_earlier_connection_than_the_one_it_has_is_refused() -> None:
    """Its join was longer on its way, and that connection is gone."""
    desk = Desk()
    token = desk.join(5, "alice")["welcome"]["token"]
    assert code(desk.join(4, "alice", token=token)) == "name_taken"
    assert desk.ended == []
    assert "welcome" in desk.join(6, "alice", token=token)


def test_a_replaced_connection_is_told_leaves_its_room_and_is_closed() -> None:
    desk = Desk()
    token = desk.join(1, "alice", room="x")["welcome"]["token"]
    desk.effects.clear()
    desk.join(2, "Alice", room="y", token=token)
    found = [each for each in desk.effects if isinstance(each, Leave | Tell | End | Enter)]
    assert [(type(each), each.identity) for each in found] == [(Leave, 1), (Tell, 1), (End, 1), (Enter, 2)]
    assert [each["error"]["code"] for identity, each in desk.sent if identity == 1 and "error" in each] == [
        "taken_over"
    ]
    assert "x" not in desk.state.rooms.by_key
    assert desk.state.rooms.by_key["y"].names == ["Alice"]


def test_the_end_of_a_replaced_connection_leaves_the_name_to_the_later_one() -> None:
    desk = Desk()
    token = desk.join(1, "alice")["welcome"]["token"]
    desk.join(2, "alice", token=token)
    desk.leave(1, "closed")
    assert desk.join(3, "Alice")["error"] == {
        "code": "name_taken",
        "text": "alice is in use; its owner comes back with the token",
    }
    assert desk.state.members.named("ALICE") is desk.state.members.by_identity[2]


@pytest.mark.parametrize("token", [None, "", "wrong", "토큰"])
def test_a_held_name_is_given_back_for_its_token_only(token: str | None) -> None:
    desk = Desk()
    right = desk.join(1, "alice")["welcome"]["token"]
    desk.leave(1, "lost", now=2.0)
    refused = desk.join(2, "alice", now=12.0, token=token)
    assert refused["error"] == {
        "code": "name_taken",
        "text": "alice is held for 50 s more; its owner comes back with the token",
    }
    assert desk.join(3, "ALICE", now=12.0, token=right)["welcome"]["name"] == "ALICE"
    assert desk.state.rooms.lobby.names == ["ALICE"]


def test_past_the_limit_the_name_that_was_lost_longest_ago_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "MOST_HELD", 2)
    desk = Desk()
    tokens = {}
    for identity, name in enumerate("abc"):
        tokens[name] = desk.join(identity, name)["welcome"]["token"]
    desk.leave(0, "lost")
    desk.leave(1, "lost")
    desk.join(10, "a", token=tokens["a"])
    desk.leave(10, "lost")
    desk.leave(2, "lost")  # now b was lost first
    assert [code(desk.join(20, name)) for name in "ac"] == ["name_taken"] * 2
    assert "welcome" in desk.join(20, "b")


def test_held_names_of_one_address_push_out_their_own_oldest_and_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(claims, "MOST_HELD", 10)
    desk = Desk()
    desk.hosts = {1: "192.0.2.77", 2: "[2001:db8::1]"}
    for identity, name in ((1, "앨리스"), (2, "bob")):
        desk.join(identity, name)
        desk.leave(identity, "lost")
    for identity in range(100, 150):
        desk.join(identity, f"n{identity}")
        desk.leave(identity, "lost")
    held = ["앨리스", "bob", *(f"n{identity}" for identity in range(142, 150))]
    assert [code(desk.join(20, name)) for name in held] == ["name_taken"] * 10
    assert desk.state.members.claims.get("n141") is None
    # A new address is held in place of the address that holds most, and not in place of the oldest.
    desk.hosts[3] = "192.0.2.78"
    desk.join(3, "carol")
    desk.leave(3, "lost")
    held = ["앨리스", "bob", "carol", *(f"n{identity}" for identity in range(143, 150))]
    assert [code(desk.join(20, name)) for name in held] == ["name_taken"] * 10
    assert "welcome" in desk.join(20, "n142")


def test_a_name_that_was_held_long_enough_is_new_to_its_former_owner() -> None:
    desk = Desk()
    first = desk.join(1, "alice", now=1.0)["welcome"]["token"]
    desk.leave(1, "lost", now=2.0)
    desk.join(2, "bob", now=100.0)
    desk.leave(2, "lost", now=100.0)
    assert desk.state.members.claims.get("alice") is None
    second = desk.join(3, "alice", now=100.0, token=first)["welcome"]["token"]
    assert second != first
    assert desk.state.members.claims.get("bob") is not None
    assert code(desk.join(4, "alice", now=100.0, token=first)) == "name_taken"


def test_a_name_is_held_after_a_loss_for_as_long_as_the_setting_says() -> None:
    desk = Desk()
    desk.join(1, "alice", now=1.0)
    desk.leave(1, "lost", now=2.0)
    assert code(desk.join(2, "ALICE", now=61.9)) == "name_taken"
    assert "welcome" in desk.join(3, "ALICE", now=62.0)


def test_a_name_is_free_at_once_after_an_orderly_end() -> None:
    desk = Desk()
    desk.join(1, "alice")
    desk.leave(1, "closed")
    assert "welcome" in desk.join(2, "alice")


def test_members_of_a_dead_worker_leave_their_rooms_and_their_names_are_held() -> None:
    desk = Desk()
    token = desk.join(1, "alice", room="x")["welcome"]["token"]
    desk.join(2, "bob", room="x")
    desk.kill_worker(1)
    assert desk.state.rooms.by_key["x"].names == ["bob"]
    assert code(desk.join(3, "alice")) == "name_taken"
    assert "welcome" in desk.join(3, "alice", token=token)


def test_a_muted_member_is_told_so_and_reaches_no_room_and_no_name() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.join(2, "bob", room="x")
    desk.apply(Moderated("mutes", name_key("Alice"), "Alice", 10.0))
    effects = desk.post(1, "hello", at=9.0)
    assert not [each for each in effects if isinstance(each, SayInRoom)]
    assert code(desk.sent[-1][1]) == "muted"
    assert code(desk.ask(1, Request(message="psst", to="bob"), now=9.0)) == "muted"
    assert [each for each in desk.post(1, "hello", at=10.0) if isinstance(each, SayInRoom)]


@pytest.mark.parametrize("count", [1, 3, 2 * MOST_TIMES + 1])
def test_each_message_of_a_muted_member_s_run_is_refused(count: int) -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.apply(Moderated("mutes", name_key("alice"), "alice", 10.0))
    desk.post(1, *["hello"] * count, at=9.0)
    times = [error.get("times", 1) for _, answer in desk.sent if (error := answer.get("error"))]
    assert sum(times) == count
    assert max(times) <= MOST_TIMES


def test_a_banned_name_is_refused_in_every_spelling_until_the_ban_ends() -> None:
    desk = Desk()
    desk.apply(Moderated("bans", name_key("Ａlice"), "Ａlice", 10.0))
    assert code(desk.join(1, "ALICE", now=9.0)) == "banned"
    assert "welcome" in desk.join(1, "ALICE", now=10.0)


def test_a_muted_member_s_messages_are_not_counted_and_others_are_heard() -> None:
    desk = Desk()
    desk.join(1, "alice")
    desk.join(2, "bob")
    desk.apply(Moderated("mutes", name_key("alice"), "alice", None))
    desk.post(1, "no")
    assert [each.run.sender for each in desk.post(2, "yes") if isinstance(each, SayInRoom)] == ["bob"]
    assert desk.state.messages == 1


# Joining and questions.


def test_a_client_without_a_name_can_ask_nothing() -> None:
    desk = Desk()
    for request in (
        Request(who=Who()),
        Request(rooms=ListRooms()),
        Request(history=ReadHistory()),
        Request(message="psst", to="bob"),
    ):
        assert code(desk.ask(1, request)) == "not_joined"
    assert code(desk.join(1)) == "bad_request"
    assert code(desk.join(1, "not a name")) == "bad_name"
    assert code(desk.join(1, "alice", room="not a room")) == "bad_room"
    assert "welcome" in desk.join(1, "alice")


def test_a_member_keeps_its_name_and_may_spell_it_or_leave_it_out() -> None:
    desk = Desk()
    desk.join(1, "alice")
    assert code(desk.join(1, "bob")) == "bad_request"
    assert desk.join(1, "ALICE", room="x")["welcome"]["name"] == "alice"
    assert desk.join(1, room="y")["welcome"]["name"] == "alice"
    assert "welcome" in desk.join(2, "bob")


def test_a_member_is_in_one_room_at_a_time() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.join(2, "bob", room="x")
    desk.effects.clear()
    welcome = desk.join(1, room="Y")["welcome"]
    assert (welcome["room"], welcome["members"]) == ("Y", 1)
    assert [type(each) for each in desk.effects] == [Leave, Enter]
    assert [room.names for room in desk.state.rooms] == [[], ["bob"], ["alice"]]


def test_a_member_that_asks_for_its_own_room_again_gets_its_past_and_stays() -> None:
    desk = Desk(LIMITS._replace(members=1))
    desk.join(1, "alice", room="x")
    desk.post(1, "a", "b")
    desk.apply(NoticesDue(1.0))
    desk.effects.clear()
    for room in ("x", "X", None):
        assert desk.join(1, room=room, after=1, epoch="epoch")["welcome"]["recovered"] is True
    assert [(type(each), each.first, each.last) for each in desk.effects if isinstance(each, Enter)] == [
        (Enter, 2, 2)
    ] * 3
    assert not [each for each in desk.effects if isinstance(each, Leave)]
    assert desk.state.notice_due() is None


# What a join gets of the past: said are 100 messages, of which the last 90 are kept.
KNOWN, UNKNOWN = "epoch", "another"


@pytest.mark.parametrize(
    ("after", "epoch", "first", "recovered", "lost"),
    [
        (None, None, 51, False, None),
        (None, KNOWN, 51, False, None),
        (100, KNOWN, 101, True, None),
        (99, KNOWN, 100, True, None),
        (10, KNOWN, 11, True, None),
        (9, KNOWN, 11, False, [10, 10]),
        (0, KNOWN, 11, False, [1, 10]),
        (200, KNOWN, 101, True, None),  # more than there are; the number in the welcome tells
        (20, UNKNOWN, 51, False, [21, None]),
        (20, None, 51, False, [21, None]),
        # What an epoch before a crash had in common with this one: 30 messages of the room.
        (30, "earlier", 31, True, None),
        (31, "earlier", 31, False, [31, None]),
    ],
)
def test_a_join_gets_what_it_missed_as_far_as_it_is_kept(
    after: int | None, epoch: str | None, first: int, recovered: bool, lost: list[int | None] | None
) -> None:
    past = Past("epoch", {"r": 100}, 0, [run(11, 90)], {"earlier": {"r": 30}})
    desk = Desk(past=past)
    welcome = desk.join(1, "alice", room="r", after=after, epoch=epoch)["welcome"]
    assert (welcome["seq"], welcome["recovered"], welcome["lost"]) == (100, recovered, lost)
    (enter,) = (each for each in desk.effects if isinstance(each, Enter))
    assert (enter.first, enter.last) == (first, 100)


@pytest.mark.parametrize(
    ("after", "recovered", "lost"), [(None, False, None), (20, True, None), (18, False, [19, 20])]
)
def test_a_join_to_a_room_whose_history_is_gone_begins_with_the_next_message(
    after: int | None, recovered: bool, lost: list[int] | None
) -> None:
    desk = Desk(past=Past("epoch", {"r": 20}))
    welcome = desk.join(1, "alice", room="r", after=after, epoch="epoch")["welcome"]
    assert (welcome["seq"], welcome["recovered"], welcome["lost"]) == (20, recovered, lost)
    (enter,) = (each for each in desk.effects if isinstance(each, Enter))
    assert (enter.first, enter.last) == (21, 20)


def test_a_private_message_reaches_both_and_one_to_oneself_comes_once() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.join(2, "Bob", room="y")
    desk.sent.clear()
    desk.ask(1, Request(message="psst", to="BOB"), now=7.0)
    said = {"message": "psst", "from": "alice", "to": "Bob", "at": 7.0}
    assert desk.sent == [(2, said), (1, said)]
    desk.sent.clear()
    desk.ask(1, Request(message="note", to="alice"))
    assert [(identity, each["message"]) for identity, each in desk.sent] == [(1, "note")]


def test_a_private_message_to_nobody_is_refused() -> None:
    desk = Desk()
    desk.join(1, "alice")
    desk.join(2, "bob")
    desk.leave(2, "lost")
    for name in ("carol", "bob"):
        refused = desk.ask(1, Request(message="psst", to=name))
        assert refused["error"] == {"code": "no_such_name", "text": f"nobody here is called '{name}'"}
    refused = desk.ask(1, Request(message="psst", to="c" * 50_000))
    assert len(refused["error"]["text"]) < 100


def test_names_and_rooms_are_told_of_any_room_in_any_spelling() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.join(2, "bob")
    who: Object = {"room": "x", "names": ["alice"], "members": 1, "next": None}
    assert desk.ask(1, Request(who=Who()))["who"] == who
    assert desk.ask(2, Request(who=Who(room="X")))["who"] == who
    assert desk.ask(2, Request(who=Who()))["who"]["names"] == ["bob"]
    assert code(desk.ask(1, Request(who=Who(room="nowhere")))) == "bad_room"
    assert desk.ask(1, Request(rooms=ListRooms()))["rooms"] == {
        "rooms": [{"room": "lobby", "members": 1}, {"room": "x", "members": 1}],
        "count": 2,
        "next": None,
    }


def test_a_page_that_ends_with_the_last_name_is_the_last() -> None:
    desk = Desk()
    for number in range(100):
        desk.join(number, f"n{number:03}")
    page = desk.ask(0, Request(who=Who()))["who"]
    assert (len(page["names"]), page["members"], page["next"]) == (100, 100, None)
    desk.join(100, "n100")
    page = desk.ask(0, Request(who=Who()))["who"]
    assert (len(page["names"]), page["members"], page["next"]) == (100, 101, "n099")
    assert desk.ask(0, Request(who=Who(after="n099")))["who"]["names"] == ["n100"]


# Older messages.


def read(desk: Desk, identity: int, before: int | None = None, limit: int | None = None) -> Object:
    """Ask for history; return the page."""
    page: Object = desk.ask(identity, Request(history=ReadHistory(before, limit)))["history"]
    return page


def numbers(page: Object) -> list[int]:
    return [each["seq"] for each in page["messages"]]


def test_a_member_reads_older_messages_of_its_room_oldest_first() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    for number in range(1, 8):
        desk.post(1, f"{number}", at=float(number))
    assert read(desk, 1, before=6, limit=2) == {
        "room": "x",
        "messages": [
            {"message": "4", "from": "alice", "seq": 4, "at": 4.0},
            {"message": "5", "from": "alice", "seq": 5, "at": 5.0},
        ],
        "next": 4,
    }
    assert read(desk, 1, before=4, limit=3)["next"] is None
    assert numbers(read(desk, 1, before=4, limit=2)) == [2, 3]
    assert numbers(read(desk, 1)) == numbers(read(desk, 1, before=2**63 - 1)) == [1, 2, 3, 4, 5, 6, 7]
    for far in (8, 9, 2**63 - 1):
        assert (numbers(read(desk, 1, far, 2)), read(desk, 1, far, 2)["next"]) == ([6, 7], 6)
    for before in (0, 1):
        assert read(desk, 1, before) == {"room": "x", "messages": [], "next": None}


def test_without_a_limit_a_page_has_a_screen_or_two() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(messages=1000)))
    desk.join(1, "alice")
    desk.post(1, *("x" for _ in range(300)))
    assert numbers(read(desk, 1)) == list(range(301 - HISTORY_PAGE, 301))
    assert numbers(read(desk, 1, 200, MOST_HISTORY)) == list(range(100, 200))


def test_a_member_reads_no_other_room_and_nothing_private() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.join(2, "bob", room="y")
    desk.post(1, "in x")
    desk.post(2, "in y")
    desk.post("127.0.0.1:9", "in the lobby")
    desk.ask(1, Request(message="psst", to="bob"))
    said = [(page["room"], [each["message"] for each in page["messages"]]) for page in _both(desk)]
    assert said == [("x", ["in x"]), ("y", ["in y"])]
    desk.join(2, room="x")
    assert [each["message"] for each in read(desk, 2)["messages"]] == ["in x"]
    desk.join(2, room=LOBBY)
    assert read(desk, 2)["messages"] == [
        {"message": "in the lobby", "from": "127.0.0.1:9", "seq": 1, "at": 1.0}
    ]


def _both(desk: Desk) -> list[Object]:
    return [read(desk, identity) for identity in (1, 2)]


def test_a_page_ends_where_the_history_begins_that_is_kept() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(messages=5)))
    desk.join(1, "alice")
    for number in range(20):
        desk.post(1, f"{number}")
    assert (numbers(read(desk, 1)), read(desk, 1)["next"]) == ([16, 17, 18, 19, 20], None)
    assert (numbers(read(desk, 1, 18)), read(desk, 1, 18)["next"]) == ([16, 17], None)
    assert (numbers(read(desk, 1, 18, 1)), read(desk, 1, 18, 1)["next"]) == ([17], 17)
    assert read(desk, 1, 16)["messages"] == []


def test_a_member_of_a_closed_room_reads_the_lobby() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.post(1, "in x")
    desk.apply(RoomClosed(1.0, 1.0, desk.state.rooms.by_key["x"].number))
    assert read(desk, 1, before=2) == {"room": "lobby", "messages": [], "next": None}


@given(
    st.lists(st.lists(st.integers(0, 20_000), min_size=1, max_size=6), min_size=1, max_size=12),
    st.integers(1, MOST_HISTORY),
    st.integers(1, 40),
)
def test_pages_from_the_newest_on_give_every_message_that_is_kept_once(
    runs: list[list[int]], limit: int, kept: int
) -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(messages=kept, size=1 << 30)))
    desk.join(1, "alice")
    said = [size for sizes in runs for size in sizes]
    for sizes in runs:
        desk.post(1, *("x" * size for size in sizes))
    history = desk.state.rooms.lobby.history
    first = history.first
    assert first is not None
    expected = list(range(first, len(said) + 1))
    found: list[int] = []
    before: int | None = None
    while not found or before is not None:
        page = read(desk, 1, before, limit)
        assert 1 <= len(page["messages"]) <= limit
        assert [len(each["message"]) for each in page["messages"]] == [said[seq - 1] for seq in numbers(page)]
        found = numbers(page) + found
        before = page["next"]
        assert before is None or before == found[0]
    assert found == expected


def test_a_page_is_bounded_in_bytes_and_has_one_message_at_least() -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(size=1 << 30)))
    desk.join(1, "alice")
    around = len(history_frame(LOBBY, [], 99))
    desk.post(1, *("x" * 1000 for _ in range(60)))
    desk.post(1, "y" * 59_000, "z")
    page = read(desk, 1, 61, 60)
    sizes = [len(message_frame(each["message"])) for each in page["messages"]]
    assert 20 < len(sizes) < 60
    assert page["next"] == numbers(page)[0]
    last = desk.effects[-1]
    assert isinstance(last, Tell)
    assert HISTORY_SIZE - 2000 < len(last.frames) < HISTORY_SIZE + around + len(sizes)
    assert numbers(read(desk, 1, 63, 60)) == [62]
    assert numbers(read(desk, 1, 62, 60)) == [61]


# Ends.


def test_a_member_that_is_cut_off_is_out_at_once_and_its_name_is_held() -> None:
    desk = Desk()
    token = desk.join(1, "alice", room="x")["welcome"]["token"]
    desk.join(2, "bob", room="x")
    assert desk.apply(CutOff(1.0, 1, "slow consumer")) == [Leave(1), End(1, "slow consumer")]
    assert desk.state.rooms.by_key["x"].names == ["bob"]
    # What it has still on its way is dropped, and its end is told once.
    assert desk.post(1, "late") == []
    assert desk.ask(1, Request(who=Who())) == {}
    assert desk.apply(CutOff(1.0, 1, "slow consumer")) == []
    desk.effects.clear()
    desk.leave(1, "slow consumer")
    assert desk.effects == [Forget(1)]
    assert not desk.state.members.ending
    assert code(desk.join(3, "alice")) == "name_taken"
    assert "welcome" in desk.join(3, "alice", token=token)


def test_names_are_paged() -> None:
    desk = Desk()
    names = sorted(f"n{number:03}" for number in range(250))
    for identity, name in enumerate(names):
        desk.join(identity, name)
    found: list[str] = []
    after: str | None = None
    pages = 0
    while pages == 0 or after is not None:
        page = desk.ask(0, Request(who=Who(after=after)))["who"]
        found += page["names"]
        after, pages = page["next"], pages + 1
    assert (found, pages) == (names, 3)


def test_a_page_begins_after_any_text_and_takes_no_time_for_it() -> None:
    """Composing this text takes a second; a thousand times that is more than any test may take."""
    desk = Desk()
    desk.join(1, "alice", room="가")
    after = "A" + "\u0300\u0316" * 10_000
    for _ in range(1000):
        assert desk.ask(1, Request(who=Who(after=after)))["who"]["names"] == ["alice"]
        assert desk.ask(1, Request(rooms=ListRooms(after=after)))["rooms"]["count"] == 2


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "closed", "lost", "worker died", "later"]),
        st.integers(0, 5),
        st.sampled_from(["a", "A", "b", "Ｂ", "가", "bad name"]),
        st.sampled_from(["x", "X", "y", "lobby"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_names_are_unique_and_rooms_hold_exactly_their_members(
    steps: list[tuple[str, int, str, str]],
) -> None:
    desk, now = Desk(), 1.0
    tokens: dict[str, str] = {}
    for what, identity, name, room in steps:
        if what == "join":
            known = desk.state.members.by_identity.get(identity)
            own = known.name if known is not None and known.name else name
            welcome = desk.join(identity, own, now, room=room, token=_token(tokens, own)).get("welcome")
            if welcome is not None:
                tokens[name_key(welcome["name"])] = welcome["token"]
        elif what in ("closed", "lost"):
            desk.leave(identity, what, now)
        elif what == "worker died":
            desk.kill_worker(identity, now=now)
        else:
            now += 40.0
        check(desk.state)


def _token(tokens: dict[str, str], name: str) -> str | None:
    """Half of the time a client has the right token."""
    return tokens.get(name_key(name)) if len(tokens) % 2 else None


def check(state: HubState) -> None:
    """Fail unless names are unique, and rooms and members agree about each other."""
    named = [member for member in state.members.by_identity.values() if member.claim is not None]
    keys = [name_key(member.name) for member in named]
    assert len(keys) == len(set(keys)), "two members have one name"
    for member in named:
        assert state.members.named(member.name) is member
    for room in state.rooms:
        inside = {member.identity: member.name for member in named if member.room is room}
        assert room.members == inside
        assert room.names == sorted(inside.values())
    assert state.rooms.names == sorted(room.name for room in state.rooms)
