"""Delivery: each member gets its room's frames once and in order, by whichever worker it has at the time."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.desk import LIMITS, Desk, Object, objects
from support.endpoints import RecordingEndpoint

from mpchat.errors import MpchatError
from mpchat.hub import delivery
from mpchat.hub.delivery import BLOB_SIZE, Delivery
from mpchat.hub.endpoint import Endpoint
from mpchat.hub.entries import Announced, CutOff, NoticesDue, Posted, RoomClosed
from mpchat.hub.history import Run
from mpchat.hub.hub import Hub
from mpchat.hub.plain_stream import PlainStream
from mpchat.ipc.channel import Item
from mpchat.ipc.items import Down, Up
from mpchat.ipc.reasons import REPLACED, SLOW
from mpchat.protocol.frames import encode_frame
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import Join, ReadHistory, Request, pack_request


class Site:
    """A state and a delivery with two workers."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.plain = PlainStream(LIMITS.lag)
        self.delivery = Delivery(self.desk.state.rooms, self.plain, LIMITS.lag, LIMITS.answers)
        self.one, self.other = RecordingEndpoint(1), RecordingEndpoint(2)
        self.delivery.endpoints += [self.one, self.other]
        self._carried = 0

    def settle(self) -> None:
        """Carry out what the desk's entries have led to."""
        effects = self.desk.effects
        self.delivery.carry_out(effects[self._carried :])
        self._carried = len(effects)
        self.delivery.flush()

    def join(self, identity: int, name: str, endpoint: Endpoint, **join: Any) -> Object:
        """Let a client of a worker join."""
        self.delivery.meet(identity, endpoint)
        answer = self.desk.join(identity, name, **join)
        self.settle()
        return answer

    def post(self, sender: int, *texts: str) -> None:
        """Let a member say something."""
        self.desk.post(sender, *texts)
        self.settle()


@pytest.fixture
def site() -> Site:
    return Site()


def texts(rooms_items: list[Any]) -> list[str]:
    """Return the texts of ROOMS items, and check their counts."""
    found = []
    for head, frames in rooms_items:
        assert sum(size for _, _, size in head) == len(frames)
        said = objects(frames)
        assert sum(count for _, count, _ in head) == len(said)
        found += [str(each["message"]) for each in said if "message" in each]
    return found


def test_a_member_gets_the_history_and_then_what_is_said(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.post(1, "a", "b")
    site.one.sent.clear()
    site.join(2, "bob", site.one, room="r")
    ((head, frames),) = site.one.take_all(Down.ENTER)
    assert [each["seq"] for each in objects(frames)[1:]] == [1, 2]
    identity, _, number, live = head
    assert (identity, number, live) == (2, 2, True)
    site.post(1, "c")
    assert texts(site.one.take_all(Down.ROOMS)) == ["c"]


def test_only_workers_with_live_members_of_a_room_hear_it(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.other, room="x")
    site.one.sent.clear()
    site.other.sent.clear()
    site.post(1, "a")
    assert texts(site.one.take_all(Down.ROOMS)) == ["a"]
    assert site.other.take_all(Down.ROOMS) == []


def test_notices_are_frames_that_count(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.desk.apply(NoticesDue(1.0))
    site.settle()
    ((head, _),) = site.one.take_all(Down.ROOMS)
    assert [count for _, count, _ in head] == [1]
    site.join(2, "bob", site.one, room="r")
    ((enter, _),) = site.one.take_all(Down.ENTER)
    assert enter[2] == 1, "the notice came before"


def test_a_member_in_transit_gets_what_it_was_told_meanwhile_and_continues_in_its_room(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.other, room="r")
    site.post(2, "before")
    site.delivery.depart(1)
    site.one.sent.clear()
    site.post(2, "on the way")
    assert texts(site.one.take_all(Down.ROOMS)) == ["on the way"], (
        "its worker holds the room until it has gone"
    )
    site.delivery.worker_died(site.one, {1})
    site.post(2, "while no worker had it")
    site.other.sent.clear()
    site.delivery.follow(site.other, 1, _room_number(site), 1)
    ((head, frames),) = site.other.take_all(Down.ENTER)
    assert [each["message"] for each in objects(frames)] == ["on the way", "while no worker had it"]
    assert head[3]
    site.post(2, "live again")
    assert texts(site.other.take_all(Down.ROOMS)) == ["live again"]


@pytest.mark.parametrize("end", ["it arrives", "it ends", "its worker dies"])
def test_a_worker_hears_the_room_of_a_member_that_is_replaced_on_its_way_until_it_has_gone(
    site: Site, end: str
) -> None:
    token = site.join(1, "alice", site.one, room="r")["welcome"]["token"]
    site.delivery.depart(1)
    site.join(2, "alice", site.other, room="r", token=token)
    site.one.sent.clear()
    site.post(2, "on the way")
    assert texts(site.one.take_all(Down.ROOMS)) == ["on the way"], (
        "a member that enters there continues after this"
    )
    if end == "it arrives":
        site.delivery.follow(site.other, 1, _room_number(site), 0)
    elif end == "it ends":
        site.desk.leave(1)
    else:
        site.delivery.worker_died(site.one, set())
    site.post(2, "after")
    assert texts(site.one.take_all(Down.ROOMS)) == []


def _room_number(site: Site) -> int:
    return site.desk.state.rooms.by_key["r"].number


def test_frames_for_a_member_in_transit_wait_for_its_next_worker(site: Site) -> None:
    site.join(1, "alice", site.one)
    site.join(2, "bob", site.other)
    site.delivery.depart(1)
    site.one.sent.clear()
    site.desk.post("1.1.1.1:1", "x")
    site.settle()
    recipient = site.delivery.recipient(1)
    assert recipient is not None
    site.desk.join(1, room="y")
    site.settle()
    assert site.one.take_all(Down.TELL) == []
    assert recipient.waiting
    site.delivery.arrive(1, site.other)
    ((identity, frames),) = site.other.take_all(Down.TELL)
    assert (identity, objects(frames)[0]["welcome"]["room"]) == (1, "y")


def test_older_messages_for_a_member_in_transit_wait_for_its_next_worker(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.post(1, "a", "b")
    site.delivery.depart(1)
    site.one.sent.clear()
    site.desk.ask(1, Request(history=ReadHistory()))
    site.settle()
    assert site.one.sent == []
    site.delivery.follow(site.other, 1, _room_number(site), 2)
    ((identity, frames),) = site.other.take_all(Down.TELL)
    (page,) = (each["history"] for each in objects(frames))
    assert (identity, page["room"], [each["seq"] for each in page["messages"]]) == (1, "r", [1, 2])


def test_a_worker_s_death_loses_its_members_and_not_those_in_transit(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.one, room="r")
    site.join(3, "carol", site.other, room="r")
    site.join(4, "dave", site.one, room="r")
    site.delivery.depart(2)
    site.delivery.depart(4)
    # Dave's connection had not left the worker yet.
    assert sorted(site.delivery.worker_died(site.one, {2})) == [1, 4]
    site.desk.kill_worker(1, 4)
    site.settle()
    site.one.sent.clear()
    site.post(3, "hello")
    assert site.one.sent == []
    assert site.delivery.recipient(1) is None
    assert site.delivery.recipient(2) is not None


def test_a_message_of_the_server_goes_to_plain_clients_and_rooms_with_members(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.one.sent.clear()
    site.desk.apply(Announced(1.0, 1.0, message_frame("공지")))
    site.settle()
    kinds = {kind for kind, _ in site.one.sent}
    assert kinds == {Down.BATCH, Down.ROOMS}
    assert {kind for kind, _ in site.other.sent} == {Down.BATCH}


def test_a_room_keeps_little_more_than_the_lag_limit_of_short_messages_under_long_names(site: Site) -> None:
    """With sender and room they become many times as long, and what was said together was kept together."""
    site.delivery.lag_limit = 1 << 14
    site.join(1, "한" * 20, site.one, room="방" * 32)
    site.desk.apply(Posted(1.0, 1.0, [(1, 4000, 4000 * len(message_frame("")))], message_frame("") * 4000))
    site.settle()
    number = site.desk.state.members.by_identity[1].room.number  # type: ignore[union-attr]
    assert site.desk.state.rooms.by_key.keys() >= {"방" * 32}
    assert 0 < site.delivery.kept_bytes(number) <= site.delivery.lag_limit + BLOB_SIZE


def test_streams_share_memory_a_small_one_stays_whole_and_an_empty_room_keeps_none(site: Site) -> None:
    site.delivery._memory.limit = memory = 1 << 20
    site.join(50, "small", site.one, room="small")
    site.post(50, "a few words")
    for number in range(50):
        site.join(number, f"n{number}", site.one, room=f"r{number}")
        for _ in range(20):
            site.post(number, "x" * 4000)
        site.one.sent.clear()
    kept = [site.delivery.kept_bytes(room.number) for room in site.desk.state.rooms]
    assert memory // 2 < sum(kept) == site.delivery._memory.used <= memory
    small = site.desk.state.rooms.by_key["small"].number
    before = site.delivery.kept_bytes(small)
    site.post(50, "more")
    assert site.delivery.kept_bytes(small) > before
    for number in range(51):
        site.desk.leave(number)
    site.settle()
    assert site.delivery._memory.used == 0
    assert sum(site.delivery.kept_bytes(room.number) for room in site.desk.state.rooms) == 0


def test_what_was_said_before_goes_out_before_what_one_member_is_told(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.one.sent.clear()
    site.desk.post("1.1.1.1:1", "to plain clients")
    site.desk.post(1, "in the room")
    site.desk.ask(1, Request(message="alone", to="alice"))
    site.settle()
    assert [kind for kind, _ in site.one.sent] == [Down.BATCH, Down.ROOMS, Down.TELL]


def test_every_run_is_handed_on_to_be_kept_whether_or_not_a_member_hears_it(site: Site) -> None:
    kept: list[Run] = []
    site.delivery.on_run = kept.append
    site.desk.post("1.1.1.1:1", "a")
    site.join(1, "alice", site.one, room="r")
    site.post(1, "b", "c")
    assert [(each.room, each.seq, each.count) for each in kept] == [("lobby", 1, 1), ("r", 1, 2)]


def test_a_member_that_asks_for_its_own_room_again_hears_it_once_and_leaves_it_once(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.other, room="r")
    for _ in range(3):
        site.join(1, "alice", site.one, room="r")
    site.one.sent.clear()
    site.post(2, "hello")
    assert texts(site.one.take_all(Down.ROOMS)) == ["hello"]
    site.desk.leave(1)
    site.post(2, "gone")
    assert site.one.take_all(Down.ROOMS) == []
    assert texts(site.other.take_all(Down.ROOMS)) == ["hello", "gone"]


def test_a_worker_hears_a_room_until_its_last_member_has_left(site: Site) -> None:
    for identity, endpoint in ((1, site.one), (2, site.one), (3, site.other)):
        site.join(identity, f"n{identity}", endpoint, room="r")
    site.desk.leave(1)
    site.settle()
    site.one.sent.clear()
    site.post(3, "one is left")
    assert texts(site.one.take_all(Down.ROOMS)) == ["one is left"]
    site.join(2, "n2", site.one, room="x")
    site.one.sent.clear()
    site.post(3, "none")
    assert site.one.take_all(Down.ROOMS) == []


def test_what_waits_for_all_members_in_transit_together_is_bounded_and_counted_to_the_byte(
    site: Site,
) -> None:
    """Each of 256 could have lag_limit waiting: two gigabytes."""
    for identity in range(1, 12):
        site.join(identity, f"n{identity}", site.one)
    for identity in range(2, 12):
        site.delivery.depart(identity)
    in_transit = [
        each for identity in range(2, 12) if (each := site.delivery.recipient(identity)) is not None
    ]

    def waiting() -> int:
        return sum(len(each.waiting or b"") for each in in_transit)

    site.delivery.answers_memory = 10_000
    for turn in range(12):
        for number in range(2, 12):
            if number == 5 or turn % 2:
                site.desk.ask(1, Request(message="x" * 200, to=f"n{number}"))
                site.settle()
                assert waiting() == site.delivery._waiting <= 10_000
    assert site.delivery.too_slow[0] == 5, "the member that most waits for"
    for identity in (2, 3):
        site.delivery.arrive(identity, site.other)
    site.desk.leave(4)
    site.settle()
    assert site.delivery._waiting == waiting() - len(in_transit[2].waiting or b"")


def test_a_member_in_transit_that_is_told_too_much_is_cut_off(site: Site) -> None:
    site.join(1, "alice", site.one)
    site.join(2, "bob", site.other)
    recipient = site.delivery.recipient(1)
    assert recipient is not None
    site.delivery.depart(1)
    site.delivery.lag_limit = 1000
    while not site.delivery.too_slow:
        assert len(recipient.waiting or b"") <= 1000
        site.desk.ask(2, Request(message="x" * 100, to="alice"))
        site.settle()
    assert site.delivery.too_slow == [1]
    assert not recipient.waiting


@pytest.mark.parametrize("told", [b"", encode_frame(b'{"lost":1}')])
def test_a_member_whose_past_is_forgotten_before_it_was_sent_is_told_so_or_cut_off(
    site: Site, told: bytes
) -> None:
    site.join(1, "앨리스", site.one, room="방")
    for _ in range(20):
        site.post(1, "가" * 2000)
    site.join(2, "밥", site.other, room="방", after=0)
    ((head, frames),) = site.other.take_all(Down.ENTER)
    assert head[3] is False  # there is more
    reached = objects(frames)[-1]["seq"]
    room = site.desk.state.rooms.get("방")
    assert room is not None
    room.history.clear()
    lost: list[tuple[int, int, tuple[int, int]]] = []

    def on_overtaken(*what: Any) -> bytes:
        lost.append(what)
        return told

    site.delivery.on_overtaken = on_overtaken
    site.delivery.replay_more(2, site.other)
    assert lost == [(2, room.number, (reached + 1, 20))]
    if told:
        ((head, frames),) = site.other.take_all(Down.ENTER)
        assert (objects(frames), head[3], site.delivery.too_slow) == ([{"lost": 1}], True, [])
    else:
        assert site.delivery.too_slow == [2]


def test_a_member_whose_place_in_the_room_is_forgotten_is_cut_off(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.other, room="r")
    site.delivery.lag_limit = 1000
    site.delivery.depart(1)
    for _ in range(30):
        site.post(2, "x" * 100)
    site.delivery.follow(site.other, 1, _room_number(site), 2)
    assert site.delivery.too_slow == [1]
    assert site.other.take_all(Down.ENTER)[1:] == []


def test_a_member_that_was_replaced_in_transit_is_closed_by_its_next_worker(site: Site) -> None:
    token = site.join(1, "alice", site.one, room="r")["welcome"]["token"]
    site.delivery.depart(1)
    site.one.sent.clear()
    site.join(2, "alice", site.other, room="r", token=token)
    assert site.one.take_all(Down.END) == []
    site.other.sent.clear()
    site.delivery.follow(site.other, 1, _room_number(site), 1)
    (told, (_, frames)), end = site.other.sent
    assert (told, objects(frames)[0]["error"]["code"]) == (Down.TELL, "taken_over")
    assert end == (Down.END, (1, REPLACED))


def test_a_member_that_was_ended_in_transit_is_closed_for_the_reason_that_there_was(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.delivery.depart(1)
    site.desk.apply(CutOff(1.0, 1, SLOW))
    site.settle()
    site.other.sent.clear()
    site.delivery.follow(site.other, 1, 1, 1)
    assert site.other.sent == [(Down.END, (1, SLOW))]


def test_a_member_that_leaves_its_room_has_what_was_said_there_before(site: Site) -> None:
    """Also when it says something and enters another room at once, and nobody else here is in the room."""
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.other, room="r")
    site.one.sent.clear()
    site.desk.post(2, "from another")
    site.desk.post(1, "own")
    site.desk.join(1, None, room="s")
    site.settle()
    assert [kind for kind, _ in site.one.sent] == [Down.ROOMS, Down.ENTER]
    assert texts(site.one.take_all(Down.ROOMS)) == ["from another", "own"]


def test_a_member_that_is_replaced_is_told_by_its_worker_and_then_closed(site: Site) -> None:
    token = site.join(1, "alice", site.one, room="r")["welcome"]["token"]
    site.one.sent.clear()
    site.join(2, "alice", site.other, room="r", token=token)
    assert [kind for kind, _ in site.one.sent] == [Down.TELL, Down.END]
    (end,) = site.one.take_all(Down.END)
    assert end == (1, REPLACED)


def test_a_moved_client_that_is_in_no_room_is_served_on(site: Site) -> None:
    site.join(1, "not a name", site.one)
    site.delivery.depart(1)
    site.desk.join(1, "not a name either")
    site.settle()
    site.other.sent.clear()
    site.delivery.follow(site.other, 1, 0, 0)
    ((identity, frames),) = [payload for _, payload in site.other.sent]
    assert (identity, objects(frames)[0]["error"]["code"]) == (1, "bad_name")
    site.delivery.arrive(99, site.other)  # which has never asked for anything
    assert site.delivery.recipient(99) is None


def test_a_member_that_went_to_another_room_in_transit_continues_there(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.one, room="x")
    site.post(2, "a")
    number = _room_number(site)
    site.delivery.depart(1)
    site.desk.join(1, room="x")
    site.settle()
    site.post(2, "b")
    site.other.sent.clear()
    site.delivery.follow(site.other, 1, number, 1)
    ((_, told),) = [payload for kind, payload in site.other.sent if kind == Down.TELL]
    assert objects(told)[0]["welcome"]["room"] == "x"
    ((head, frames),) = site.other.take_all(Down.ENTER)
    assert [each["message"] for each in objects(frames) if "message" in each] == ["a", "b"]
    assert (head[1], head[3]) == (site.desk.state.rooms.by_key["x"].number, True)


def test_only_the_worker_that_has_a_member_gets_more_of_the_past_for_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "REPLAY_SIZE", 1)
    site.join(1, "alice", site.one, room="r")
    site.post(1, "a")
    site.post(1, "b")
    site.other.sent.clear()
    site.join(2, "bob", site.other, room="r")
    ((head, frames),) = site.other.take_all(Down.ENTER)
    assert ([each.get("seq") for each in objects(frames)][1:], head[3]) == ([1], False)
    site.delivery.replay_more(2, site.one)
    site.delivery.replay_more(99, site.other)
    assert site.one.take_all(Down.ENTER)[1:] == []
    site.delivery.replay_more(2, site.other)
    ((head, frames),) = site.other.take_all(Down.ENTER)
    assert ([each["seq"] for each in objects(frames)], head[3]) == ([2], True)
    site.delivery.replay_more(2, site.other)
    assert site.other.sent == []


def test_a_message_said_just_before_a_join_is_heard_once(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.other.sent.clear()
    site.desk.post(1, "just before")
    site.join(2, "bob", site.other, room="r")
    site.post(1, "after")
    ((_, frames),) = [payload for kind, payload in site.other.sent if kind == Down.ENTER]
    assert [each["message"] for each in objects(frames) if "message" in each] == ["just before"]
    assert texts(site.other.take_all(Down.ROOMS)) == ["after"]


@pytest.mark.parametrize("how", ["asks again", "leaves", "moves"])
def test_a_member_with_a_part_of_the_past_still_to_come_is_not_counted_among_those_that_hear(
    site: Site, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(delivery, "REPLAY_SIZE", 1)
    site.join(1, "alice", site.one, room="r")
    site.post(1, "a", "b")
    site.post(1, "c")
    site.join(2, "bob", site.one, room="r")
    if how == "asks again":
        site.join(2, "bob", site.one, room="r")
    elif how == "leaves":
        site.desk.leave(2)
    else:
        site.delivery.depart(2)
        site.delivery.arrive(2, site.other)
    site.one.sent.clear()
    site.post(1, "d")
    assert texts(site.one.take_all(Down.ROOMS)) == ["d"]


def test_a_worker_whose_last_member_of_a_room_was_moved_hears_the_room_no_more(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.other, room="r")
    site.delivery.depart(1)
    site.delivery.follow(site.other, 1, _room_number(site), 0)
    site.one.sent.clear()
    site.post(2, "hello")
    assert site.one.take_all(Down.ROOMS) == []
    site.desk.leave(2)
    site.post(1, "alone")
    assert texts(site.other.take_all(Down.ROOMS)) == ["hello", "alone"]


def test_a_room_that_was_empty_for_a_moment_counts_its_frames_from_there_on(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.desk.post(1, "heard by nobody any more")
    site.desk.leave(1)
    site.settle()
    site.join(2, "bob", site.one, room="r")
    site.one.sent.clear()
    site.post(2, "a")
    site.post(2, "b")
    assert texts(site.one.take_all(Down.ROOMS)) == ["a", "b"]


def test_a_connection_whose_leaving_is_told_twice_still_ends_with_the_worker_that_has_it(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.delivery.depart(1)
    site.delivery.depart(1)
    assert site.delivery.worker_died(site.other, set()) == []
    assert site.delivery.worker_died(site.one, set()) == [1]


def test_places_stay_right_when_a_stream_is_trimmed(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.join(2, "bob", site.other, room="r")
    for number in range(20):
        site.post(1, f"{number} " + "x" * 100)
    site.delivery.depart(2)
    site.delivery._memory.limit = 1000
    site.post(1, "the last")
    site.other.sent.clear()
    site.delivery.follow(site.other, 2, _room_number(site), 18)
    ((head, frames),) = site.other.take_all(Down.ENTER)
    assert [each["seq"] for each in objects(frames)] == [19, 20, 21]
    assert head[2] == 21


def test_a_silent_room_stays_for_its_only_member_in_transit_and_ends_when_that_is_lost(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.delivery.depart(1)
    site.desk.sweep()
    site.settle()
    site.delivery.follow(site.other, 1, _room_number(site), 0)
    site.post(1, "still here")
    assert texts(site.other.take_all(Down.ROOMS)) == ["still here"]
    site.join(1, "alice", site.other, room="x")
    site.delivery.depart(1)
    site.desk.leave(1, "lost", now=2.0)
    site.desk.sweep(now=100.0)
    site.settle()
    assert site.desk.state.rooms.get("x") is None


def test_a_member_in_transit_whose_room_is_closed_arrives_in_the_lobby(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    site.post(1, "before")
    number = _room_number(site)
    site.delivery.depart(1)
    site.desk.apply(RoomClosed(1.0, 1.0, number))
    site.settle()
    site.join(2, "bob", site.one)
    site.post(2, "meanwhile")
    site.delivery.follow(site.other, 1, number, 1)
    (_, told), (kind, (head, frames)) = (
        (kind, payload) for kind, payload in site.other.sent if kind != Down.BATCH
    )
    assert [list(each) for each in objects(told[1])] == [["error"], ["welcome"]]
    assert kind == Down.ENTER
    lobby = site.desk.state.rooms.lobby.number
    assert (head[0], head[1], head[3]) == (1, lobby, True)
    assert [each["message"] for each in objects(frames) if "message" in each] == ["meanwhile"]
    site.other.sent.clear()
    site.post(2, "after")
    assert texts(site.other.take_all(Down.ROOMS)) == ["after"]


def test_of_a_room_that_is_forgotten_no_stream_is_kept(site: Site) -> None:
    for number in range(20):
        site.join(1, "alice", site.one, room=f"r{number}")
    assert len(site.delivery._streams) == 1


# What the hub does in one turn.


def asked(identity: int, request: Request) -> Item:
    """Return the item in which a worker passes a request on."""
    return Item(Up.ASK, ((identity, f"192.0.2.1:{identity}"), pack_request(request)), 0)


def said(sender: int | str, *texts: str) -> Item:
    """Return the item in which a worker passes messages of one client on."""
    frames = b"".join(map(message_frame, texts))
    return Item(Up.POSTS, ([(sender, len(texts), len(frames))], frames), 0)


@pytest.fixture
def hub() -> tuple[Hub, RecordingEndpoint]:
    """A hub with one worker, and one member there."""
    hub, endpoint = Hub(LIMITS), RecordingEndpoint(1)
    hub.attach(endpoint)
    hub.take(endpoint, asked(1, Request(join=Join(name="alice", room="x"))), 1.0)
    hub.turn(1.0)
    endpoint.sent.clear()
    return hub, endpoint


def test_older_messages_come_behind_what_was_said_before_and_then_the_request_is_answered(
    hub: tuple[Hub, RecordingEndpoint],
) -> None:
    order, endpoint = hub
    order.take(endpoint, said(1, "first"), 2.0)
    order.take(endpoint, asked(1, Request(history=ReadHistory())), 2.0)
    order.take(endpoint, said(1, "second"), 2.0)
    order.turn(2.0)
    kinds = [kind for kind, _ in endpoint.sent if kind in (Down.ROOMS, Down.TELL, Down.ANSWERED)]
    assert kinds == [Down.ROOMS, Down.TELL, Down.ANSWERED, Down.ROOMS]
    ((_, frames),) = endpoint.take_all(Down.TELL)
    assert [each["message"] for each in objects(frames)[0]["history"]["messages"]] == ["first"]


def test_a_member_hears_its_own_last_words_in_a_room_before_it_is_in_another(
    hub: tuple[Hub, RecordingEndpoint],
) -> None:
    order, endpoint = hub
    order.take(endpoint, said(1, "bye"), 2.0)
    order.take(endpoint, asked(1, Request(join=Join(room="y"))), 2.0)
    order.take(endpoint, said(1, "hello"), 2.0)
    order.turn(2.0)
    kinds = [kind for kind, _ in endpoint.sent]
    assert kinds == [Down.ROOMS, Down.ENTER, Down.ANSWERED, Down.ROOMS]
    assert texts([payload for kind, payload in endpoint.sent if kind == Down.ROOMS]) == ["bye", "hello"]


def test_a_worker_that_lets_connections_go_is_answered_behind_all_that_they_are_sent(
    hub: tuple[Hub, RecordingEndpoint],
) -> None:
    order, endpoint = hub
    order.take(endpoint, said(1, "in the room"), 2.0)
    order.take(endpoint, said("192.0.2.9:1", "to all"), 2.0)
    order.take(endpoint, Item(Up.SYNC, (0, [1]), 0), 2.0)
    order.take(endpoint, said("192.0.2.9:1", "later"), 2.0)
    order.turn(2.0)
    assert [kind for kind, _ in endpoint.sent] == [Down.BATCH, Down.ROOMS, Down.SYNCED, Down.BATCH]
    recipient = order.delivery.recipient(1)
    assert recipient is not None
    assert recipient.endpoint is None


def test_what_a_dead_worker_had_still_said_is_said(hub: tuple[Hub, RecordingEndpoint]) -> None:
    order, endpoint = hub
    other = RecordingEndpoint(2)
    order.attach(other)
    order.take(endpoint, said("192.0.2.9:1", "last words"), 2.0)
    order.take(other, said("192.0.2.9:2", "mine"), 2.0)
    order.detach(endpoint, 2.0)
    order.worker_died(endpoint, 2, set(), 2.0)
    order.turn(2.0)
    heard = b"".join(frames for _, frames in other.take_all(Down.BATCH))
    assert [each["message"] for each in objects(heard)] == ["last words", "mine", " Disconnect : 2 clients "]
    assert endpoint.sent == []


# Members that move, workers that die: what each client has got in the end.


class Client:
    """A member's connection, as its worker serves it."""

    def __init__(self, identity: int) -> None:
        self.identity = identity
        self.worker: RecordingEndpoint | None = None
        self.room = 0
        self.live = False
        # How many frames of its room came before.
        self.place = 0
        self.numbers: list[int] = []

    def take(self, frames: bytes) -> None:
        """Read frames: the numbers of messages."""
        for each in objects(frames):
            if "welcome" in each:
                self.numbers = []
            elif "seq" in each:
                self.numbers.append(each["seq"])


def test_a_member_that_a_worker_has_announced_and_not_acked_survives_that_worker(site: Site) -> None:
    site.join(1, "alice", site.one, room="r")
    room = next(each for each in site.desk.state.rooms if each.name == "r")
    site.delivery.depart(1)
    site.delivery.follow(site.other, 1, room.number, 0)
    assert site.delivery.worker_died(site.other, {1}) == []
    site.post(1, "said meanwhile")
    third = RecordingEndpoint(3)
    site.delivery.endpoints.append(third)
    site.delivery.follow(third, 1, room.number, 0)
    ((head, frames),) = third.take_all(Down.ENTER)
    assert (head[0], head[3]) == (1, True)
    assert [each["message"] for each in objects(frames) if "message" in each] == ["said meanwhile"]


def test_a_connection_is_banned_by_its_host_and_by_the_name_that_it_has() -> None:
    hub, endpoint = Hub(LIMITS), RecordingEndpoint(1)
    hub.attach(endpoint)
    asked = ((7, "192.0.2.1:7"), pack_request(Request(join=Join(name="Alice"))))
    hub.take(endpoint, Item(Up.ASK, asked, 0), 1.0)
    hub.turn(1.0)
    assert not hub.moderator.is_banned(7, "192.0.2.1")
    hub.moderator.ban("alice", None, 1.0)
    assert hub.moderator.is_banned(7, "192.0.2.1")
    assert not hub.moderator.is_banned(8, "192.0.2.1")
    hub.moderator.ban("192.0.2.0/24", None, 1.0)
    assert hub.moderator.is_banned(8, "192.0.2.1")


def test_a_room_is_not_closed_while_a_member_is_between_two_workers() -> None:
    """It is still to get what was said there, and the history would be gone."""
    hub, endpoint = Hub(LIMITS), RecordingEndpoint(1)
    hub.attach(endpoint)
    asked = ((7, "192.0.2.1:7"), pack_request(Request(join=Join(name="Alice", room="r"))))
    hub.take(endpoint, Item(Up.ASK, asked, 0), 1.0)
    hub.turn(1.0)
    hub.take(endpoint, Item(Up.SYNC, (1, [7]), 0), 1.0)
    hub.turn(1.0)
    with pytest.raises(MpchatError, match="being moved"):
        hub.close_room("r", 1.0)
    hub.transit_ended(7, endpoint)
    assert hub.close_room("r", 1.0) == ("r", 1)


class Crowd:
    """Three clients at two workers, which are read in full after each step."""

    def __init__(self) -> None:
        self.site = Site()
        self.workers = [self.site.one, self.site.other]
        self.clients = {identity: Client(identity) for identity in (1, 2, 3)}

    def step(self, what: str, identity: int, number: int) -> None:
        """Do something with a client, if it can be done."""
        client, worker = self.clients[identity], self.workers[number % 2]
        if what == "join" and client.worker is not None:
            client.live = False
            self.site.join(identity, f"n{identity}", client.worker, room="xy"[number % 2])
        elif what == "connect" and client.worker is None and not self.site.delivery.recipient(identity):
            client.worker = worker
        elif what == "post" and client.room and self.site.delivery.recipient(identity):
            self.site.post(identity, *map(str, range(number)))
        elif what == "move" and client.live:
            self.site.delivery.depart(identity)
            client.worker, client.live = None, False
        elif what == "arrive" and client.worker is None and self.site.delivery.recipient(identity):
            client.worker = worker
            self.site.delivery.follow(worker, identity, client.room, client.place)
        elif what == "die":
            self._die(worker)
        self.read()

    def _die(self, worker: RecordingEndpoint) -> None:
        in_transit = {each.identity for each in self.clients.values() if each.worker is None}
        lost = self.site.delivery.worker_died(worker, in_transit)
        here = [each.identity for each in self.clients.values() if each.worker is worker]
        assert not set(lost) & in_transit
        assert set(lost) <= set(here)
        self.site.desk.kill_worker(*lost)
        self.site.settle()
        for identity in here:
            self.clients[identity] = Client(identity)

    def read(self) -> None:
        """Let the workers do what they were sent."""
        while any(worker.sent for worker in self.workers):
            for worker in self.workers:
                sent, worker.sent = worker.sent, []
                for kind, payload in sent:
                    self._item(worker, kind, payload)

    def _item(self, worker: RecordingEndpoint, kind: int, payload: Any) -> None:
        if kind == Down.ROOMS:
            head, frames = payload
            for room, count, size in head:
                for client in self.clients.values():
                    if client.worker is worker and client.live and client.room == room:
                        client.take(frames[:size])
                        client.place += count
                frames = frames[size:]
        elif kind == Down.ENTER:
            (identity, room, place, live), frames = payload
            client = self.clients[identity]
            assert client.worker is worker
            client.take(frames)
            client.room, client.place, client.live = room, place, live
            if not live:
                self.site.delivery.replay_more(identity, worker)
        elif kind == Down.TELL:
            identity, frames = payload
            self.clients[identity].take(frames)


@given(
    st.sampled_from([1, 200, 32 << 10]),
    st.lists(
        st.tuples(
            st.sampled_from(["connect", "join", "join", "post", "post", "move", "arrive", "die"]),
            st.integers(1, 3),
            st.integers(1, 4),
        ),
        max_size=60,
    ),
)
def test_every_member_hears_its_room_without_a_gap_wherever_it_is_moved(
    size: int, steps: list[tuple[str, int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivery, "REPLAY_SIZE", size)
        crowd = Crowd()
        for step in steps:
            crowd.step(*step)
        for identity in crowd.clients:
            crowd.step("arrive", identity, identity)
    for client in crowd.clients.values():
        if client.worker is not None and client.room:
            (room,) = (each for each in crowd.site.desk.state.rooms if each.number == client.room)
            assert client.live
            first = client.numbers[0] if client.numbers else room.seq + 1
            assert client.numbers == list(range(first, room.seq + 1))
            assert room.members[client.identity] == f"n{client.identity}"
