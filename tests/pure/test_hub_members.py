"""Members: names, coming back, questions; what holds after every step."""

import hypothesis.strategies as st
from hypothesis import given
from support.desk import LIMITS, Desk, code

from mpchat.hub.effects import SayInRoom
from mpchat.hub.entries import Moderated
from mpchat.hub.state import HubState
from mpchat.protocol.names import name_key
from mpchat.protocol.requests import ListRooms, Request, Who


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


def test_a_banned_name_is_refused_in_every_spelling_until_the_ban_ends() -> None:
    desk = Desk()
    desk.apply(Moderated("bans", name_key("Ａlice"), "Ａlice", 10.0))
    assert code(desk.join(1, "ALICE", now=9.0)) == "banned"
    assert "welcome" in desk.join(1, "ALICE", now=10.0)


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
