"""Delivery: each member gets its room's frames once and in order, by whichever worker it has at the time."""

from typing import Any, cast

import pytest
from support.desk import LIMITS, Desk, Object, objects

from mpchat.hub import rooms
from mpchat.hub.delivery import Delivery
from mpchat.hub.endpoint import Endpoint
from mpchat.hub.entries import Announced, NoticesDue
from mpchat.hub.plain_stream import PlainStream
from mpchat.ipc.channel import Link
from mpchat.ipc.items import Down
from mpchat.protocol.messages import message_frame


class RecordingEndpoint(Endpoint):
    """An endpoint without a channel: it keeps what it is to send."""

    def __init__(self, slot: int) -> None:
        super().__init__(slot, cast(Link, None))
        self.ready = True
        self.sent: list[tuple[int, Any]] = []

    def send(self, kind: int, payload: Any = None) -> None:
        self.sent.append((kind, payload))

    def send_frames(self, kind: int, head: Any, frames: bytes, head_size: int = 0) -> None:
        self.sent.append((kind, (head, frames)))

    def take_all(self, kind: int) -> list[Any]:
        """Return the payloads of this kind that came since the last call, and forget all others."""
        sent, self.sent = self.sent, []
        return [payload for each, payload in sent if each == kind]


class Site:
    """A state and a delivery with two workers."""

    def __init__(self) -> None:
        self.desk = Desk()
        self.plain = PlainStream(LIMITS.lag)
        self.delivery = Delivery(self.desk.state.rooms, self.plain, LIMITS.lag)
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
    site.desk.apply(Announced(1.0, message_frame("공지")))
    site.settle()
    kinds = {kind for kind, _ in site.one.sent}
    assert kinds == {Down.BATCH, Down.ROOMS}
    assert {kind for kind, _ in site.other.sent} == {Down.BATCH}


def test_streams_keep_to_their_rooms_share_and_an_empty_room_keeps_none(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "ROOMS_MEMORY", 1 << 20)
    monkeypatch.setattr(rooms, "LEAST_SHARE", 1 << 10)
    for number in range(50):
        site.join(number, f"n{number}", site.one, room=f"r{number}")
        for _ in range(2 * site.desk.state.rooms.share // 4000 + 2):
            site.post(number, "x" * 4000)
        site.one.sent.clear()
    site.delivery.keep_to_share()
    kept = [site.delivery.kept_bytes(room.number) for room in site.desk.state.rooms]
    assert 0 < sum(kept) <= rooms.ROOMS_MEMORY // 2 + 2 * 4000 * len(kept)
    for number in range(50):
        site.desk.leave(number)
    site.settle()
    assert sum(site.delivery.kept_bytes(room.number) for room in site.desk.state.rooms) == 0
