"""Proofs: joins that wait for a check in the hub, while others are served, workers change and clients go."""

from typing import Any

import pytest
from support.desk import LIMITS, Object, code, objects, proven, unproven
from support.endpoints import RecordingEndpoint

from mpchat.auth.grant import Identity, Proof
from mpchat.errors import ProtocolError
from mpchat.hub.effects import Effect
from mpchat.hub.entries import Asked, Entry
from mpchat.hub.hub import Hub
from mpchat.hub.limits import Limits
from mpchat.hub.proofs import Proofs
from mpchat.ipc.channel import Item
from mpchat.ipc.items import Down, Up
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import Join, Request, Who, pack_request
from mpchat.protocol.sign_in import auth_required, bad_credentials

NAMES = LIMITS._replace(auth="names", proofs=("password",))
CLOSED = LIMITS._replace(auth="closed", proofs=("password", "jwt"))
PASSWORD = "아주 비밀스러운 것"


class Gate:
    """A gate that checks nothing by itself: it keeps what it was asked, and what it was told to forget."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, str, Proof]] = []
        self.forgotten: list[int] = []

    def ask(self, identity: int, address: str, proof: Proof) -> None:
        """Keep a proof."""
        self.asked.append((identity, address, proof))

    def forget(self, identity: int) -> None:
        """Note that a proof is forgotten."""
        self.forgotten.append(identity)


class Site:
    """A hub with two workers and a gate."""

    def __init__(self, limits: Limits = CLOSED) -> None:
        self.hub = Hub(limits)
        self.gate = self.hub.proofs.gate = Gate()
        self.one, self.other = RecordingEndpoint(1), RecordingEndpoint(2)
        self.hub.attach(self.one)
        self.hub.attach(self.other)
        self.hub.turn(1.0)

    def take(self, kind: Up, payload: object, endpoint: RecordingEndpoint | None = None) -> None:
        """Take an item of the first worker, or of another; nothing is put in order yet."""
        self.hub.take(endpoint or self.one, Item(kind, payload, 0), 1.0)

    def ask(self, identity: int, request: Request) -> None:
        """Let a client of the first worker ask."""
        self.take(Up.ASK, ((identity, f"192.0.2.1:{identity}"), pack_request(request)))
        self.hub.turn(1.0)

    def join(self, identity: int, name: str | None = "앨리스", **join: Any) -> None:
        """Let a client of the first worker ask to join."""
        self.ask(identity, Request(join=Join(name=name, **join)))

    def checked(self, identity: int, outcome: Identity | ProtocolError) -> None:
        """Let a check end."""
        self.hub.proved(identity, outcome)
        self.hub.turn(1.0)

    def leave_worker(self, identity: int) -> None:
        """Let a connection leave the first worker."""
        self.take(Up.SYNC, (1, [identity]))
        self.hub.turn(1.0)

    def arrive(self, identity: int, endpoint: RecordingEndpoint) -> None:
        """Let a connection arrive at a worker."""
        self.hub.transit_ended(identity, endpoint)
        self.take(Up.FOLLOW, (identity, 0, 0), endpoint)
        self.hub.turn(1.0)

    def reload(self, limits: Limits) -> None:
        """Let other limits hold."""
        self.hub.change_limits(limits, notices=True, now=1.0)

    def members(self) -> list[str]:
        return [name for room in self.hub.state.rooms for name in room.names]


def kinds(endpoint: RecordingEndpoint) -> list[int]:
    """Return the kinds of what a worker was sent for single clients, and forget that."""
    told = (Down.CHECKING, Down.ENTER, Down.TELL, Down.ANSWERED, Down.END)
    sent, endpoint.sent = endpoint.sent, []
    return [kind for kind, _ in sent if kind in told]


def told(endpoint: RecordingEndpoint) -> list[Object]:
    """Return the objects that single clients of a worker were told."""
    found = []
    for kind, payload in endpoint.sent:
        if kind in (Down.TELL, Down.ENTER):
            found += objects(payload[1])
    return found


def nothing_waits(hub: Hub) -> bool:
    """Tell whether no join waits, and no client to be read from."""
    before, now = dict(vars(Proofs(hub.delivery))), dict(vars(hub.proofs))
    before.pop("gate")
    now.pop("gate")
    return before == now


def test_a_join_with_a_proof_is_served_when_that_was_checked_and_others_are_meanwhile() -> None:
    site = Site()
    site.join(1, password=PASSWORD, room="방")
    assert kinds(site.one) == [Down.CHECKING]
    assert site.gate.asked == [(1, "192.0.2.1", Proof("앨리스", password=PASSWORD))]
    site.ask(2, Request(who=Who()))
    assert [code(each) for each in told(site.one)] == ["auth_required"]
    assert kinds(site.one) == [Down.TELL, Down.ANSWERED]
    assert site.members() == []
    site.checked(1, proven("앨리스"))
    assert kinds(site.one) == [Down.ENTER, Down.ANSWERED]
    assert site.members() == ["앨리스"]
    assert nothing_waits(site.hub)


def test_a_wrong_proof_is_answered_and_its_client_may_try_again() -> None:
    site = Site()
    for number in range(2):
        site.join(1, password=PASSWORD)
        assert len(site.gate.asked) == number + 1
        site.one.sent.clear()
        site.checked(1, bad_credentials())
        assert [code(each) for each in told(site.one)] == ["bad_credentials"]
        assert kinds(site.one) == [Down.TELL, Down.ANSWERED]
    site.join(1)
    assert [each["error"]["proofs"] for each in told(site.one)] == [["password", "jwt"]]
    assert site.members() == []


def test_what_is_in_order_holds_no_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    entries: list[Entry] = []
    apply = site.hub.state.apply

    def note(entry: Entry) -> list[Effect]:
        entries.append(entry)
        return apply(entry)

    monkeypatch.setattr(site.hub.state, "apply", note)
    site.join(1, password=PASSWORD, token="앞의 표")
    site.checked(1, proven("앨리스"))
    (asked,) = [each for each in entries if isinstance(each, Asked)]
    assert (join := asked.request.join) is not None
    assert (join.name, join.token) == ("앨리스", "앞의 표")
    assert (join.password, join.jwt, join.secret) == (None, None, None)


@pytest.mark.parametrize("limits", [LIMITS, NAMES, CLOSED])
def test_a_join_without_a_proof_is_checked_where_names_need_one_and_only_the_first_of_a_client(
    limits: Limits,
) -> None:
    site = Site(limits)
    site.join(1)
    assert [each[0] for each in site.gate.asked] == ([1] if limits is NAMES else [])
    if limits is NAMES:
        site.checked(1, auth_required(("password",)))
        site.join(1, "밥")
        site.checked(1, unproven("밥"))
        assert site.members() == ["밥"]
        site.join(1, None, room="방")
        site.join(1, "밥", room="다른-방")
        assert len(site.gate.asked) == 2
        site.join(1, None, jwt="표")
        assert len(site.gate.asked) == 3
    else:
        assert site.members() == (["앨리스"] if limits is LIMITS else [])


@pytest.mark.parametrize("end", ["leaves", "its worker dies", "leaves before the outcome has its turn"])
def test_a_connection_that_ends_while_its_proof_is_checked_leaves_nothing(end: str) -> None:
    site = Site()
    site.join(1, password=PASSWORD)
    if end == "leaves before the outcome has its turn":
        site.take(Up.LEFT, [(1, "192.0.2.1:1", "lost")])
        site.checked(1, proven("앨리스"))
    elif end == "leaves":
        site.take(Up.LEFT, [(1, "192.0.2.1:1", "lost")])
        site.hub.turn(1.0)
        assert site.gate.forgotten == [1]
        site.checked(1, proven("앨리스"))
    else:
        site.hub.detach(site.one, 1.0)
        site.hub.worker_died(site.one, 1, set(), 1.0)
        assert site.gate.forgotten == [1]
        site.checked(1, proven("앨리스"))
    assert site.members() == []
    assert site.hub.delivery.recipient(1) is None
    assert site.hub.state.members.by_identity == {}
    assert nothing_waits(site.hub)
    assert site.hub.empty


@pytest.mark.parametrize("outcome", ["right", "wrong"])
@pytest.mark.parametrize("arrives", ["before the outcome", "after the outcome"])
@pytest.mark.parametrize("back", [False, True], ids=["at another worker", "where it was"])
def test_a_connection_moved_while_its_proof_is_checked_is_answered_where_it_is(
    outcome: str, arrives: str, back: bool
) -> None:
    site = Site()
    site.join(1, password=PASSWORD)
    site.leave_worker(1)
    destination = site.one if back else site.other
    assert kinds(site.one) == [Down.CHECKING]
    if arrives == "before the outcome":
        site.arrive(1, destination)
        assert kinds(destination) == []
    site.checked(1, proven("앨리스") if outcome == "right" else bad_credentials())
    if arrives == "after the outcome":
        assert kinds(site.one) == kinds(site.other) == []
        site.arrive(1, destination)
    answer = told(destination)[0]
    assert ("welcome" in answer) == (outcome == "right")
    sent = kinds(destination)
    assert (Down.ENTER in sent) == (outcome == "right")
    assert sent.index(Down.ANSWERED) == len(sent) - 1
    assert kinds(site.one) == kinds(site.other) == []
    assert site.members() == (["앨리스"] if outcome == "right" else [])
    assert nothing_waits(site.hub)
    site.arrive(1, site.one)
    assert Down.ANSWERED not in kinds(site.one), "a later move has nothing to do with it"


def test_a_connection_that_was_answered_on_its_way_and_ends_there_leaves_nothing() -> None:
    site = Site()
    site.join(1, password=PASSWORD)
    site.leave_worker(1)
    site.checked(1, proven("앨리스"))
    assert not nothing_waits(site.hub)
    site.hub.detach(site.one, 1.0)
    site.hub.worker_died(site.one, 1, set(), 1.0)
    assert site.members() == []
    assert nothing_waits(site.hub)


def test_a_connection_in_transit_whose_worker_dies_is_answered_where_it_arrives() -> None:
    site = Site()
    site.join(1, password=PASSWORD)
    site.leave_worker(1)
    site.hub.detach(site.one, 1.0)
    site.hub.worker_died(site.one, 1, {1}, 1.0)
    site.checked(1, proven("앨리스"))
    site.arrive(1, site.other)
    assert "welcome" in told(site.other)[0]
    assert kinds(site.other)[-2:] == [Down.ENTER, Down.ANSWERED]


def test_messages_that_came_before_a_join_are_said_before_it_is_checked() -> None:
    site = Site(NAMES)
    frame = message_frame("먼저")
    site.take(Up.POSTS, ([("192.0.2.1:1", 1, len(frame))], frame))
    site.join(1, password=PASSWORD)
    sent = [kind for kind, _ in site.one.sent if kind in (Down.BATCH, Down.CHECKING)]
    assert sent == [Down.BATCH, Down.CHECKING]


def test_of_the_members_of_a_closed_room_those_count_that_may_be_in_the_lobby() -> None:
    site = Site()
    for identity, rooms in ((1, None), (2, ("방",)), (3, ("방", "lobby"))):
        site.join(identity, None, room="방", jwt="표")
        site.checked(identity, proven(f"이름{identity}", rooms=rooms))
    assert site.hub.close_room("방", 1.0) == ("방", 2)
    assert site.members() == ["이름1", "이름3"]


# Reloads.


@pytest.mark.parametrize("late", [False, True], ids=["before the outcome", "before its turn"])
def test_a_join_is_checked_once_more_if_another_mode_holds_by_now(late: bool) -> None:
    """By a check from before, a secret or nothing at all may do for a name that is registered."""
    site = Site(LIMITS)
    site.join(1, secret="모두의 비밀", room="방")
    if not late:
        site.reload(NAMES)
    site.hub.proved(1, proven("앨리스"))
    if late:
        site.reload(NAMES)
    site.hub.turn(1.0)
    assert site.gate.asked == [(1, "192.0.2.1", Proof("앨리스", secret="모두의 비밀"))] * 2
    assert site.members() == []
    assert kinds(site.one) == [Down.CHECKING]
    site.checked(1, auth_required(("password",)))
    (answer,) = told(site.one)
    assert (code(answer), answer["error"]["proofs"]) == ("auth_required", ["password"])
    assert kinds(site.one) == [Down.TELL, Down.ANSWERED]
    assert nothing_waits(site.hub)


def test_a_join_that_waits_for_its_turn_is_checked_if_names_need_a_proof_by_then() -> None:
    site = Site(LIMITS)
    site.take(Up.ASK, ((1, "192.0.2.1:1"), pack_request(Request(join=Join(name="앨리스")))))
    site.reload(NAMES)
    site.hub.turn(1.0)
    assert site.members() == []
    assert kinds(site.one) == [Down.CHECKING]
    site.checked(1, unproven("앨리스"))
    assert kinds(site.one) == [Down.ENTER, Down.ANSWERED]


def test_other_changes_of_the_limits_let_a_check_be() -> None:
    site = Site()
    site.join(1, password=PASSWORD)
    site.reload(CLOSED._replace(members=7))
    site.checked(1, proven("앨리스"))
    assert (len(site.gate.asked), site.members()) == (1, ["앨리스"])


def test_a_join_that_is_checked_in_transit_waits_for_the_arrival() -> None:
    site = Site()
    site.join(1, password=PASSWORD)
    site.leave_worker(1)
    site.checked(1, proven("앨리스"))
    assert site.members() == []
    assert told(site.one) == told(site.other) == []
    site.arrive(1, site.other)
    assert site.members() == ["앨리스"]
    assert kinds(site.other) == [Down.ENTER, Down.ANSWERED]
    assert nothing_waits(site.hub)


def test_a_join_that_was_checked_in_transit_ends_with_its_connection() -> None:
    site = Site()
    site.join(1, password=PASSWORD)
    site.leave_worker(1)
    site.checked(1, proven("앨리스"))
    site.take(Up.LEFT, [(1, "192.0.2.1:1", "lost")])
    site.hub.turn(1.0)
    assert site.members() == []
    assert nothing_waits(site.hub)


@pytest.mark.parametrize(
    ("join", "expected"), [({"name": "x" * 200}, "bad_name"), ({"room": "x" * 200}, "bad_room")]
)
def test_a_join_with_a_name_that_is_too_long_is_not_kept_for_a_check(
    join: dict[str, Any], expected: str
) -> None:
    site = Site()
    site.join(1, password=PASSWORD, **join)
    assert site.gate.asked == []
    assert [code(each) for each in told(site.one)] == [expected]
    assert kinds(site.one) == [Down.TELL, Down.ANSWERED]
    assert nothing_waits(site.hub)
