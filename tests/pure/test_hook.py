"""The webhook without I/O: what events are, which batch has which, what is dropped and told, the rules."""

import hashlib
import hmac
import json
import subprocess
import sys
import unicodedata
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.desk import Desk
from support.events import entered, said

from mpchat.hook import backlog as module
from mpchat.hook.backlog import Backlog, Batch
from mpchat.hook.events import Event, Moved, count_of, encoded, memory_of
from mpchat.hook.rules import (
    FIRST_RETRY,
    LAST_RETRY,
    LONGEST_RETRY_AFTER,
    Verdict,
    pause,
    retry_after,
    signature,
    verdict,
)
from mpchat.hook.target import Target
from mpchat.hook_url import parse
from mpchat.hub.effects import Presence
from mpchat.hub.entries import Left, Posted, RoomClosed
from mpchat.ipc.reasons import LOST
from mpchat.protocol.messages import message_frame

MIB = 1 << 20


def events_of(event: Event, number: int = 1) -> list[dict[str, Any]]:
    return [json.loads(each) for each in encoded(event, number)]


def body_of(batch: Batch | None) -> dict[str, Any]:
    assert batch is not None
    body: dict[str, Any] = json.loads(batch.body("series", "default"))
    return body


# What an event is.


def test_a_message_is_as_on_the_wire_with_a_number() -> None:
    assert events_of(said('"안녕"\n', "", room="게임", sender="밥", seq=7), 3) == [
        {
            "event": "said",
            "number": 3,
            "room": "게임",
            "message": '"안녕"\n',
            "from": "밥",
            "seq": 7,
            "at": 1.5,
        },
        {"event": "said", "number": 4, "room": "게임", "message": "", "from": "밥", "seq": 8, "at": 1.5},
    ]


def test_a_message_of_the_server_is_from_nobody() -> None:
    (event,) = events_of(said("bye", sender=""))
    assert "from" not in event


def test_coming_and_going_have_their_time_and_how_many_members_there_are() -> None:
    assert events_of(Moved(entered("밥", "게임", 2), 1.23456), 5) == [
        {"event": "joined", "number": 5, "room": "게임", "name": "밥", "members": 2, "at": 1.235}
    ]
    assert events_of(Moved(Presence("게임", "밥", 1, "lost"), 2.0)) == [
        {
            "event": "left",
            "number": 1,
            "room": "게임",
            "name": "밥",
            "reason": "lost",
            "members": 1,
            "at": 2.0,
        }
    ]


# What the hub tells.


def told(desk: Desk) -> list[Presence]:
    return [each for each in desk.effects if isinstance(each, Presence)]


def test_a_watched_state_tells_of_each_member_that_enters_moves_and_leaves() -> None:
    desk = Desk()
    desk.join(1, "nobody", room="방")
    assert told(desk) == []
    desk.state.members.watched = True
    desk.join(2, "밥", room="방")
    desk.join(2, room="게임")
    desk.leave(2, LOST)
    assert told(desk) == [
        Presence("방", "밥", 2),
        Presence("방", "밥", 1, "moved"),
        Presence("게임", "밥", 1),
        Presence("게임", "밥", 0, "lost"),
    ]


def test_a_replaced_member_leaves_before_its_client_enters_again() -> None:
    desk = Desk()
    desk.state.members.watched = True
    token = desk.join(1, "alice")["welcome"]["token"]
    desk.join(2, "alice", token=token)
    assert [(each.members, each.reason) for each in told(desk)] == [(1, ""), (0, "replaced"), (1, "")]


def test_members_of_a_closed_room_are_told_to_have_moved_into_the_lobby() -> None:
    desk = Desk()
    desk.state.members.watched = True
    desk.join(1, "alice", room="x")
    desk.apply(RoomClosed(1.0, 1.0, desk.state.rooms.by_key["x"].number))
    assert [(each.room, each.reason) for each in told(desk)] == [("x", ""), ("x", "closed"), ("lobby", "")]


def test_what_plain_clients_say_is_told_to_a_watcher_also_without_members() -> None:
    desk = Desk()
    state, posted = desk.state, Posted(1.0, 1.0, [("127.0.0.1:5", 1, 15)], message_frame("a"))
    state._archived = False
    assert [type(each).__name__ for each in desk.apply(posted)] == ["Say"]
    state.members.watched = True
    assert [type(each).__name__ for each in desk.apply(posted)] == ["SayInRoom", "Say"]
    assert desk.apply(Left(1.0, ["127.0.0.1:5"])) == []


# Which rooms.


def target(*rooms: str) -> Target:
    return Target(parse("http://a"), rooms or None)


def test_patterns_are_of_rooms_however_they_are_spelled() -> None:
    jamo = unicodedata.normalize("NFD", "게임-1")
    assert target("게임*").hears("게임-1")
    assert target("게임*").hears(jamo)
    assert target(unicodedata.normalize("NFD", "게임*")).hears("게임-1")
    assert target("LOBBY").hears("lobby")
    assert target("*-1", "lobby").hears("게임-1")
    assert not target("게임*").hears("우리게임")
    assert not target("게임?").hears("게임1"), "only the star stands for others"
    assert target().hears("whatever")


# Batches.


def test_a_batch_goes_on_where_the_one_before_ended() -> None:
    backlog = Backlog(MIB)
    backlog.add(said("a", "b"))
    backlog.add(Moved(entered("밥"), 1.0))
    first = body_of(backlog.take())
    assert (first["instance"], first["server"]) == ("series", "default")
    assert (first["first"], first["last"]) == (1, 3)
    assert [each["number"] for each in first["events"]] == [1, 2, 3]
    backlog.add(said("c"))
    assert body_of(backlog.take()) == first, "it is not settled yet"
    assert (backlog.waiting, backlog.sent) == (4, 0)
    backlog.accepted()
    assert (backlog.waiting, backlog.sent) == (1, 3)
    second = body_of(backlog.take())
    assert (second["first"], second["last"], second["events"][0]["message"]) == (4, 4, "c")
    backlog.accepted()
    assert backlog.take() is None


def test_a_long_run_is_cut_into_batches_of_bounded_length() -> None:
    backlog = Backlog(MIB)
    texts = [f"{number}" for number in range(2 * module.MOST_EVENTS + 1)]
    backlog.add(said(*texts))
    assert backlog.has_batch
    heard: list[dict[str, Any]] = []
    counts = []
    while (batch := backlog.take()) is not None:
        counts.append(batch.count)
        heard += body_of(batch)["events"]
        backlog.accepted()
    assert counts == [module.MOST_EVENTS, module.MOST_EVENTS, 1]
    assert [each["message"] for each in heard] == texts
    assert [each["seq"] for each in heard] == [each["number"] for each in heard] == list(range(1, 1002))


def test_a_batch_is_bounded_in_bytes_and_takes_the_longest_message() -> None:
    backlog = Backlog(64 * MIB)
    for number in range(20):
        backlog.add(said("한" * 19_000, seq=number + 1))
    sizes = []
    while (batch := backlog.take()) is not None:
        sizes.append(len(batch.body("series", "default")))
        backlog.accepted()
    assert max(sizes) <= module.MOST_BYTES
    assert len(sizes) == 5


def test_what_is_too_much_is_dropped_and_told_in_the_next_batch() -> None:
    event = said("a", "b")
    backlog = Backlog(3 * memory_of(event))
    backlog.add(event)
    taken = body_of(backlog.take())
    for _ in range(5):
        backlog.add(event)
    assert (backlog.dropped, backlog.waiting) == (4, 8)
    assert body_of(backlog.take()) == taken, "what is being sent is not dropped"
    backlog.accepted()
    body = body_of(backlog.take())
    assert (body["first"], body["last"]) == (3, 12)
    assert body["events"][0] == {"event": "dropped", "number": 3, "last": 6, "count": 4}
    assert [each["number"] for each in body["events"][1:]] == list(range(7, 13))


def test_a_refused_batch_is_told_as_dropped_together_with_what_was_dropped_behind_it() -> None:
    event = said("a")
    backlog = Backlog(2 * memory_of(event))
    backlog.add(event)
    backlog.take()
    for _ in range(3):
        backlog.add(event)
    backlog.refused()
    assert (backlog.dropped, backlog.waiting) == (2, 2)
    body = body_of(backlog.take())
    assert body["events"][0] == {"event": "dropped", "number": 1, "last": 2, "count": 2}
    backlog.refused()
    assert backlog.take() is None, "a receiver that refuses all is not asked again for that alone"
    backlog.add(event)
    assert body_of(backlog.take())["events"][0] == {"event": "dropped", "number": 1, "last": 4, "count": 4}


def test_a_smaller_limit_holds_at_once() -> None:
    backlog = Backlog(MIB)
    for _ in range(10):
        backlog.add(said("a"))
    backlog.limit = 2 * memory_of(said("a"))
    backlog.keep_to_limit()
    assert (backlog.waiting, backlog.dropped) == (2, 8)


STEPS = st.one_of(
    st.tuples(st.just("said"), st.integers(1, 9)),
    st.tuples(st.just("moved"), st.just(0)),
    st.tuples(st.just("accepted"), st.just(0)),
    st.tuples(st.just("refused"), st.just(0)),
    st.tuples(st.just("sent again"), st.just(0)),
)


@given(st.lists(STEPS, max_size=60), st.integers(400, 4000))
def test_whatever_the_receiver_does_what_it_accepts_has_no_gap_but_what_is_told(
    steps: list[tuple[str, int]], limit: int
) -> None:
    backlog = Backlog(limit)
    accepted: list[int] = []
    told_dropped = added = 0
    for step, count in steps:
        if step == "said":
            backlog.add(said(*[f"{added + number}" for number in range(1, count + 1)]))
            added += count
        elif step == "moved":
            backlog.add(Moved(entered("밥"), 1.0))
            added += 1
        elif (batch := backlog.take()) is not None:
            body = body_of(batch)
            if step == "refused":
                backlog.refused()
            elif step == "accepted":
                assert body["first"] == len(accepted) + 1, "it follows the batch that was accepted before"
                for each in body["events"]:
                    numbers = range(each["number"], each.get("last", each["number"]) + 1)
                    told_dropped += len(numbers) if each["event"] == "dropped" else 0
                    assert each.get("message", f"{each['number']}") == f"{each['number']}"
                    accepted += numbers
                assert body["last"] == len(accepted)
                backlog.accepted()
        assert accepted == list(range(1, len(accepted) + 1))
        assert backlog.sent + backlog.dropped + backlog.waiting == added
        assert backlog.sent == len(accepted) - told_dropped


# Rules.


def test_the_signature_is_over_the_time_and_the_body() -> None:
    expected = hmac.new("비밀".encode(), b'1700000000.{"a":1}', hashlib.sha256).hexdigest()
    assert signature("비밀".encode(), 1_700_000_000, b'{"a":1}') == f"t=1700000000,v1={expected}"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ((200, 201, 202, 204, 299), Verdict.ACCEPTED),
        ((400, 401, 403, 404, 410, 413, 422, 499), Verdict.REFUSED),
        ((301, 302, 307, 308, 408, 429, 500, 502, 503, 504, 599), Verdict.LATER),
    ],
)
def test_a_verdict_follows_from_the_status(statuses: tuple[int, ...], expected: Verdict) -> None:
    assert {verdict(each) for each in statuses} == {expected}


def test_retries_come_later_and_later_and_not_all_servers_at_once() -> None:
    longest = [pause(failures, 1.0) for failures in range(1, 12)]
    assert longest[:4] == [FIRST_RETRY, 2 * FIRST_RETRY, 4 * FIRST_RETRY, 8 * FIRST_RETRY]
    assert longest == sorted(longest)
    assert longest[-1] == pause(10**6, 1.0) == LAST_RETRY
    assert pause(3, 0.0) == pause(3, 1.0) / 2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("999999999999999999999999", LONGEST_RETRY_AFTER),
        ("Sat, 29 Nov 2025 00:01:00 GMT", 60.0),
        ("Sat, 29 Nov 2025 00:00:00 GMT", 0.0),
        ("Fri, 28 Nov 2025 00:00:00 GMT", 0.0),
        ("Sat, 29 Nov 9025 00:00:00 GMT", LONGEST_RETRY_AFTER),
        ("", 0.0),
        ("-5", 0.0),
        ("٣", 0.0),
        ("soon", 0.0),
        ("Sat, 99 Nov 2025 00:00:00 GMT", 0.0),
    ],
)
def test_what_a_receiver_asks_for_is_read_and_bounded(value: str, seconds: float) -> None:
    assert retry_after(value, 1_764_374_400.0) == seconds


def test_every_event_counts_what_it_takes() -> None:
    assert count_of(said("a", "b")) == 2
    assert count_of(Moved(entered("밥"), 0.0)) == 1


def test_a_server_without_a_webhook_does_not_load_what_sends() -> None:
    code = "import sys, mpchat.supervisor.supervisor; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"mpchat.hook.hook", "mpchat.hook.receiver"}.isdisjoint(done.stdout.split())
