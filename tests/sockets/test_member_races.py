"""What crosses on its way between workers and the hub: here everything arrives in the order it is sent in.

The hub is real, and so are its channels; the workers' ends are held by the test.
"""

import json
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest
from support.harness import raw_frame
from support.hub_limits import limits

from mpchat.hub.endpoint import Endpoint
from mpchat.hub.hub import Hub
from mpchat.hub.members import Members
from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.ipc.channel import Link, make_queue
from mpchat.ipc.items import Down, Up
from mpchat.protocol.requests import Join, Request, Who, pack_request

Object = dict[str, Any]
WHO = pack_request(Request(who=Who()))


class Far:
    """A worker's end: what it says, and what its clients are to get."""

    def __init__(self, hub: Hub, slot: int, stack: ExitStack) -> None:
        up, window = make_queue()
        down, _ = make_queue()
        self.hub = hub
        self.port = Endpoint(slot, Link(up, down, window))
        self.link = Link(down, up, window)
        stack.callback(self.port.link.close)
        stack.callback(self.link.close)
        hub.attach(self.port)
        self.got: list[tuple[int, Any]] = []
        self.say(Up.STARTED)

    def say(self, kind: Up, payload: Any = None) -> None:
        self.link.send(kind, payload)
        assert select.select([self.port.link], [], [], 10)[0], "waited 10 s for the channel"
        self.receive()
        self.hub.turn(1.0)

    def receive(self) -> None:
        """Let the hub have what the worker has written."""
        for item in self.port.receive(1.0):
            self.hub.take(self.port, item, 1.0)

    def join(self, identity: int, **join: Any) -> None:
        self.say(Up.ASK, ((identity, f"127.0.0.1:{identity}"), pack_request(Request(join=Join(**join)))))

    def post(self, identity: int, text: str) -> None:
        said = raw_frame(b'{"message":"%s"}' % text.encode())
        self.say(Up.POSTS, ([(identity, 1, len(said))], said))

    def take(self, kind: Down) -> list[Any]:
        """Return the payloads of this kind that have come, the last ones last."""
        while select.select([self.link], [], [], 0)[0]:
            for item in self.link.receive():
                self.got.append((item.kind, item.payload))
                self.link.take(item.cost)
        return [payload for each, payload in self.got if each == kind]

    def objects(self) -> list[Object]:
        """Return everything that clients here are to get, in the order of its kinds."""
        payloads = [self.take(kind) for kind in (Down.ENTER, Down.TELL, Down.ROOMS, Down.BATCH)]
        return [each for kind in payloads for _, frames in kind for each in cut(frames)]

    def token(self, identity: int) -> str:
        """Return the token of the last welcome of this connection."""
        welcomes = [
            cut(frames)[0]["welcome"] for head, frames in self.take(Down.ENTER) if head[0] == identity
        ]
        return str(welcomes[-1]["token"])


def cut(frames: bytes) -> list[Object]:
    found = []
    while frames:
        size = int.from_bytes(frames[:2], "big")
        found.append(json.loads(frames[2 : 2 + size]))
        frames = frames[2 + size :]
    return found


@pytest.fixture
def ends() -> Iterator[Sequence[Far]]:
    """A hub's two workers."""
    with ExitStack() as stack:
        hub = Hub(limits(1 << 20))
        yield [Far(hub, slot, stack) for slot in (1, 2)]


def test_what_a_replaced_connection_had_still_to_say_is_said_by_nobody(ends: Sequence[Far]) -> None:
    slow, quick = ends
    slow.join(1, name="alice", room="r")
    slow.join(9, name="bob")
    quick.join(2, name="alice", room="r", token=slow.token(1))
    assert slow.take(Down.END) == [(1, "replaced")]
    slow.post(1, "too late")
    quick.post(2, "in time")
    said = [each for end in ends for each in end.objects() if "message" in each]
    assert [(each["message"], each["from"], each["seq"]) for each in said] == [("in time", "alice", 1)]


def test_who_is_about_to_be_moved_and_breaks_may_still_have_asked_for_something(ends: Sequence[Far]) -> None:
    first, second = ends
    first.join(1, name="alice")
    second.join(2, name="bob")
    first.say(Up.SYNC, (0, [1]))
    # It could not be sent anything any more, so it was not given away, and its last words were read.
    first.join(1, room="r")
    first.post(1, "last words")
    first.say(Up.LEFT, [(1, "127.0.0.1:1", "Connection reset by peer")])
    second.join(2, room="r")
    second.post(2, "hello")
    assert [each["message"] for each in second.objects() if "seq" in each] == ["last words", "hello"]
    second.say(Up.ASK, ((2, ""), WHO))
    assert [each["who"]["names"] for each in second.objects() if "who" in each] == [["bob"]]


def test_a_worker_goes_on_hearing_a_room_until_it_has_given_its_members_away(ends: Sequence[Far]) -> None:
    first, second = ends
    first.join(1, name="alice", room="r")
    second.join(2, name="bob", room="r")
    first.say(Up.SYNC, (0, [1]))
    # Alice is still there, and with her what her worker holds of the room.
    second.post(2, "meanwhile")
    first.join(3, name="carol", room="r")
    (begin, _), (place, _) = ((head[2], head) for head, _ in first.take(Down.ENTER))
    heard = sum(count for head, _ in first.take(Down.ROOMS) for _, count, _ in head)
    assert begin + heard == place
    # Once she is elsewhere and nobody is left, it hears nothing more.
    second.say(Up.FOLLOW, (1, first.take(Down.ENTER)[0][0][1], place))
    first.say(Up.LEFT, [(3, "127.0.0.1:3", "closed")])
    before = len(first.take(Down.ROOMS))
    second.post(2, "later")
    assert len(first.take(Down.ROOMS)) == before
    assert [each["message"] for each in second.objects() if "seq" in each][-1] == "later"


def test_a_join_that_was_long_on_its_way_does_not_end_the_connection_that_came_later(
    ends: Sequence[Far],
) -> None:
    slow, quick = ends
    quick.join(1, name="alice")
    token = quick.token(1)
    quick.say(Up.LEFT, [(1, "127.0.0.1:1", "closed")])
    # The second connection joined and broke at once; the third is faster through another worker.
    quick.join(3, name="alice", token=token)
    slow.join(2, name="alice", token=token)
    slow.say(Up.LEFT, [(2, "127.0.0.1:2", "closed")])
    assert quick.take(Down.END) == []
    quick.post(3, "still here")
    assert [each["from"] for each in quick.objects() if each.get("message") == "still here"] == ["alice"]


def test_a_replaced_connection_does_not_come_back_by_a_join_that_was_on_its_way(ends: Sequence[Far]) -> None:
    slow, quick = ends
    slow.join(1, name="alice")
    token = slow.token(1)
    quick.join(2, name="alice", token=token)
    slow.join(1, name="alice", token=token, room="r")
    assert quick.take(Down.END) == []
    assert slow.take(Down.END) == [(1, "replaced")]


def test_what_a_replaced_connection_asks_does_not_make_it_a_plain_one(ends: Sequence[Far]) -> None:
    slow, quick = ends
    slow.join(1, name="alice", room="r")
    quick.join(2, name="alice", room="r", token=slow.token(1))
    slow.say(Up.ASK, ((1, "127.0.0.1:1"), WHO))
    slow.post(1, "to the room r")
    assert not [each for end in ends for each in end.objects() if "message" in each]
    slow.say(Up.LEFT, [(1, "127.0.0.1:1", "replaced")])
    slow.say(Up.ASK, ((1, "127.0.0.1:1"), WHO))
    assert [each["error"]["code"] for each in slow.objects() if "error" in each][-1] == "not_joined"


def test_a_join_that_a_worker_had_still_sent_when_it_died_leaves_nobody_behind(ends: Sequence[Far]) -> None:
    dead, other = ends
    other.join(2, name="bob", room="r")
    # It has come, and waits for its place in the order, when the death is noticed.
    join = pack_request(Request(join=Join("alice", "r")))
    said = raw_frame(b'{"message":"last words"}')
    dead.link.send(Up.ASK, ((1, "127.0.0.1:1"), join))
    dead.link.send_frames(Up.POSTS, [(1, 1, len(said))], said)
    dead.link.close()
    while not dead.port.ended:
        dead.receive()
    dead.hub.detach(dead.port, 1.0)
    dead.hub.worker_died(dead.port, 1, set(), 1.0)
    dead.hub.turn(1.0)
    other.say(Up.ASK, ((2, "127.0.0.1:2"), WHO))
    assert [each["who"]["names"] for each in other.objects() if "who" in each] == [["bob"]]
    assert [each["from"] for each in other.objects() if each.get("message") == "last words"] == ["alice"]


def test_a_worker_that_dies_takes_no_member_along_that_it_had_let_go(ends: Sequence[Far]) -> None:
    first, second = ends
    first.join(1, name="alice", room="r")
    first.join(2, name="carol", room="r")
    second.join(3, name="bob", room="r")
    hub = first.hub
    hub.turn(2.0)  # everybody is told of everybody
    first.say(Up.SYNC, (0, [1, 2]))
    hub.transit_began(first.port, [1])
    hub.detach(first.port, 2.0)
    hub.worker_died(first.port, 1, {1}, 2.0)
    hub.turn(3.0)
    second.post(3, "meanwhile")
    hub.transit_ended(1, second.port)
    (number,) = {head[1] for head, _ in second.take(Down.ENTER)}
    second.say(Up.FOLLOW, (1, number, 0))
    second.post(1, "still here")
    second.say(Up.ASK, ((1, ""), WHO))
    objects = second.objects()
    assert {name for each in objects if "left" in each for name in each["left"]["names"]} == {"carol"}
    assert [each["who"]["names"] for each in objects if "who" in each] == [["alice", "bob"]]
    assert ("still here", "alice") in [(each["message"], each["from"]) for each in objects if "seq" in each]


def test_who_is_long_on_the_way_and_is_told_more_than_he_may_be_behind_is_cut_off(
    ends: Sequence[Far],
) -> None:
    first, second = ends
    first.join(1, name="alice")
    second.join(2, name="bob")
    alice = first.hub.delivery.recipient(1)
    assert alice is not None
    first.say(Up.SYNC, (0, [1]))
    told = pack_request(Request(message="x" * 50_000, to="alice"))
    for _ in range(40):
        second.say(Up.ASK, ((2, ""), told))
        second.take(Down.TELL)
        assert len(alice.waiting or b"") <= 1 << 20
    assert [each for each in second.objects() if "error" in each][-1]["error"]["code"] == "no_such_name"
    second.say(Up.FOLLOW, (1, -1, 0))
    assert second.take(Down.END) == [(1, "slow consumer")]
    second.hub.turn(time.monotonic() + NOTICE_GATHER)
    gone = [each for each in second.objects() if each.get("message") == " Disconnect : alice "]
    assert len(gone) == 1  # plain clients are told too


def test_a_request_over_which_the_server_stumbles_ends_one_connection_and_not_the_server(
    ends: Sequence[Far], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = ends
    first.join(1, name="alice", room="r")
    second.join(2, name="bob", room="r")

    def stumble(*_: object) -> None:
        raise ValueError("injected")

    with monkeypatch.context() as patch:
        patch.setattr(Members, "_who", stumble)
        first.say(Up.ASK, ((1, "127.0.0.1:1"), WHO))
    assert first.take(Down.END) == [(1, "internal error")]
    assert "127.0.0.1:1" in caplog.text
    assert "injected" in caplog.text
    first.say(Up.ASK, ((1, "127.0.0.1:1"), WHO))  # still on its way when it was ended
    first.say(Up.LEFT, [(1, "127.0.0.1:1", "internal error")])
    second.say(Up.ASK, ((2, "127.0.0.1:2"), WHO))
    assert [each["who"]["names"] for each in second.objects() if "who" in each] == [["bob"]]
    second.hub.turn(time.monotonic() + NOTICE_GATHER)
    assert [each["left"]["reason"] for each in second.objects() if "left" in each] == ["internal error"]
