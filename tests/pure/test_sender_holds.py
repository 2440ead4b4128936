"""Senders wait in a room that is too fast, and in no other; as the hub decides it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.endpoints import RecordingEndpoint
from support.hub_limits import limits

from mpchat.hub.hub import Hub
from mpchat.hub.sender_holds import SenderHolds, Strain
from mpchat.ipc.channel import Item
from mpchat.ipc.items import PLAIN, Down, Up
from mpchat.protocol.requests import Join, Request, pack_request

LIMITS = limits(1 << 20)
ROOM = 7


def test_a_worker_that_is_behind_is_enough() -> None:
    holds = SenderHolds()
    holds.report(ROOM, ("one", ROOM), Strain(True, 0, 1.0))
    assert holds.judge(ROOM, 1000)
    assert holds.held == {ROOM}
    assert not holds.judge(ROOM, 1000), "nothing has changed"
    holds.report(ROOM, ("one", ROOM), Strain(False, 0, 1.0))
    assert holds.judge(ROOM, 1000)
    assert holds.held == set()


def test_struggling_clients_count_on_all_workers_and_a_minority_holds_nobody() -> None:
    holds = SenderHolds()
    holds.report(ROOM, ("one", ROOM), Strain(False, 3, 1.0))
    assert not holds.judge(ROOM, 10)
    holds.report(ROOM, ("two", ROOM), Strain(False, 2, 1.0))
    assert not holds.judge(ROOM, 10), "half of them are not most of them"
    holds.report(ROOM, ("two", ROOM), Strain(False, 3, 1.0))
    assert holds.judge(ROOM, 10)
    assert holds.forget("two") == [ROOM]
    assert holds.judge(ROOM, 10)
    assert holds.held == set()


def test_what_a_worker_said_too_long_ago_counts_no_more() -> None:
    holds = SenderHolds()
    holds.report(ROOM, ("one", ROOM), Strain(True, 0, 1.0))
    holds.judge(ROOM, 10)
    assert holds.expire(1.0) == []
    assert holds.expire(1.5) == [ROOM]
    assert holds.judge(ROOM, 10)
    assert holds.held == set()


reports = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["one", "two"]), st.booleans(), st.integers(0, 9)),
    max_size=30,
)


@given(reports, st.integers(0, 20))
def test_what_is_held_follows_from_the_last_reports(
    said: list[tuple[int, str, bool, int]], clients: int
) -> None:
    holds, last = SenderHolds(), dict[tuple[int, str], tuple[bool, int]]()
    for room, worker, behind, struggling in said:
        holds.report(room, (worker, room), Strain(behind, struggling, 1.0))
        holds.judge(room, clients)
        last[room, worker] = (behind, struggling)
    for room in range(4):
        mine = [value for (each, _), value in last.items() if each == room]
        expected = any(behind for behind, _ in mine) or 2 * sum(count for _, count in mine) > clients
        nobody = not any(count for _, count in mine) and not any(behind for behind, _ in mine)
        assert (room in holds.held) is (expected and not nobody)
    for worker in ("one", "two"):
        for room in holds.forget(worker):
            holds.judge(room, clients)
    assert holds.held == set()


# The hub tells the workers.


@pytest.fixture
def endpoints() -> list[RecordingEndpoint]:
    return [RecordingEndpoint(1), RecordingEndpoint(2)]


def make_hub(endpoints: list[RecordingEndpoint], connections: int = 10) -> Hub:
    hub = Hub(LIMITS, connections=lambda: connections)
    for each in endpoints:
        hub.attach(each)
    return hub


def strained(hub: Hub, endpoint: RecordingEndpoint, room: int, *, behind: bool, struggling: int = 0) -> None:
    hub.take(endpoint, Item(Up.STRAINED, (room, behind, struggling), 0), 1.0)


def test_every_worker_is_told_of_a_room_and_again_when_it_goes_on(endpoints: list[RecordingEndpoint]) -> None:
    hub = make_hub(endpoints)
    strained(hub, endpoints[0], ROOM, behind=True)
    strained(hub, endpoints[1], ROOM, behind=True)
    assert [each.take_all(Down.HOLD) for each in endpoints] == [[(ROOM, True)]] * 2
    strained(hub, endpoints[0], ROOM, behind=False)
    assert [each.take_all(Down.HOLD) for each in endpoints] == [[]] * 2, "the other one is still behind"
    strained(hub, endpoints[1], ROOM, behind=False)
    assert [each.take_all(Down.HOLD) for each in endpoints] == [[(ROOM, False)]] * 2


def test_in_the_lobby_plain_clients_wait_with_the_members(endpoints: list[RecordingEndpoint]) -> None:
    hub = make_hub(endpoints)
    lobby = hub.state.rooms.lobby.number
    for stream in (PLAIN, lobby):
        strained(hub, endpoints[0], stream, behind=True)
        assert endpoints[1].take_all(Down.HOLD) == [(PLAIN, True), (lobby, True)]
        strained(hub, endpoints[0], stream, behind=False)
        assert endpoints[1].take_all(Down.HOLD) == [(PLAIN, False), (lobby, False)]


def test_most_clients_of_the_lobby_are_most_of_those_without_a_room_too(
    endpoints: list[RecordingEndpoint],
) -> None:
    hub = make_hub(endpoints, connections=10)
    hub.take(
        endpoints[0],
        Item(Up.ASK, ((1, "192.0.2.1:1"), pack_request(Request(join=Join(name="a", room="x")))), 0),
        1.0,
    )
    hub.turn(1.0)
    strained(hub, endpoints[0], PLAIN, behind=False, struggling=4)
    assert endpoints[0].take_all(Down.HOLD) == [], "four of nine"
    strained(hub, endpoints[0], PLAIN, behind=False, struggling=5)
    assert endpoints[0].take_all(Down.HOLD) == [(PLAIN, True), (hub.state.rooms.lobby.number, True)]
    room = hub.state.members.by_identity[1].room
    assert room is not None
    strained(hub, endpoints[0], room.number, behind=False, struggling=1)
    assert endpoints[0].take_all(Down.HOLD) == [(room.number, True)], "one of one"


def test_nobody_waits_for_a_worker_that_is_stuck(endpoints: list[RecordingEndpoint]) -> None:
    hub = make_hub(endpoints)
    strained(hub, endpoints[0], ROOM, behind=True)
    endpoints[1].take_all(Down.HOLD)
    hub.sweep(1.5)
    assert endpoints[1].take_all(Down.HOLD) == []
    hub.sweep(2.5)
    assert endpoints[1].take_all(Down.HOLD) == [(ROOM, False)]


def test_the_death_of_a_worker_lets_the_senders_go_on(endpoints: list[RecordingEndpoint]) -> None:
    hub = make_hub(endpoints)
    strained(hub, endpoints[0], ROOM, behind=True)
    endpoints[1].take_all(Down.HOLD)
    hub.detach(endpoints[0], 2.0)
    hub.worker_died(endpoints[0], 0, set(), 2.0)
    assert endpoints[1].take_all(Down.HOLD) == [(ROOM, False)]
