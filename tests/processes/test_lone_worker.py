"""What a worker process promises to its hub and its supervisor, where a whole server would hide a mistake."""

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.changing import Stalled
from support.crowd import payloads
from support.harness import Client, frame, raw_frame
from support.lone_worker import LoneWorker, lone_worker
from support.waiting import eventually

from mpchat.ipc.handoff import Receipt
from mpchat.ipc.items import Down, Up
from mpchat.protocol.messages import message_frame
from mpchat.worker.request_line import AT_A_TIME

FIRST_ROOM, SECOND_ROOM = 7, 8
# Messages that a client may send at once, and then each second.
BURST, RATE = 5, 20
# More messages than that, and the seconds for which a client that has sent them is not read from.
MANY = 25
PAUSE = (MANY - BURST) / RATE
# More bytes than the system takes for a client that does not read.
MUCH = 6 << 20


@pytest.fixture
def worker(folder: Path) -> Iterator[LoneWorker]:
    """A worker that gathers posts for nearly a second, and lets clients say little."""
    with lone_worker(folder, coalesce=1.0, hang_timeout=1.0, flood_burst=BURST, flood_rate=RATE) as started:
        yield started


def has_read_everything(client: Client) -> None:
    """Wait until the worker has read all that this client has sent: its answer to no message says so."""
    client.send_raw(raw_frame(b""))
    while "error" not in (client.receive() or {}):
        pass


def test_posts_that_are_gathered_go_up_before_the_hub_is_asked_whether_it_has_them(
    worker: LoneWorker,
) -> None:
    client = worker.connect(1)
    client.say("at once")
    worker.until(Up.POSTS)
    client.say("gathered")
    has_read_everything(client)
    worker.tell(Down.MOVE, 1)
    worker.until(Up.SYNC)
    (posted,) = [payload for kind, payload in worker.said if kind == Up.POSTS]
    assert posted[1] == message_frame("gathered")


def member(worker: LoneWorker) -> Stalled:
    """A client with the identity 1 that is live in the first room, and reads nothing from here on."""
    client = worker.connect(1, Stalled)
    assert isinstance(client, Stalled)
    client.send_raw(raw_frame(b'{"join":{"name":"alice"}}'))
    worker.until(Up.ASK)
    worker.tell_frames(Down.ENTER, (1, FIRST_ROOM, 0, True), frame("welcome"))
    assert client.hear() == "welcome"
    return client


def test_a_member_that_has_been_sent_half_of_an_answer_gets_the_rest_before_its_room(
    worker: LoneWorker,
) -> None:
    client = member(worker)
    answer = raw_frame(b"a" * 60_000) * (MUCH // 60_000)
    worker.tell_frames(Down.TELL, 1, answer)
    worker.publish(FIRST_ROOM, frame("the room"))
    worker.tell_frames(Down.ENTER, (1, SECOND_ROOM, 0, True), frame("entered"))
    worker.publish(SECOND_ROOM, frame("another room"))
    worker.has_done_all()
    expected = answer + frame("the room") + frame("entered") + frame("another room")
    assert everything(client, expected) == list(payloads(expected))


def test_a_member_that_has_been_sent_half_of_its_room_gets_the_rest_before_an_answer(
    worker: LoneWorker,
) -> None:
    client = member(worker)
    said = raw_frame(b"a" * 60_000) * (MUCH // 60_000)
    worker.publish(FIRST_ROOM, said, MUCH // 60_000)
    eventually(lambda: worker.beat().late == 1, "the member to be behind")
    worker.tell_frames(Down.TELL, 1, frame("the answer"))
    worker.tell_frames(Down.ENTER, (1, SECOND_ROOM, 0, True), frame("entered"))
    worker.publish(SECOND_ROOM, frame("another room"))
    worker.has_done_all()
    expected = said + frame("the answer") + frame("entered") + frame("another room")
    received = everything(client, expected)
    # The answer stands behind the frame that the member had been sent a part of.
    assert sorted(received) == sorted(payloads(expected))
    assert received[-2:] == list(payloads(frame("entered") + frame("another room")))


def everything(client: Stalled, expected: bytes) -> list[bytes]:
    """Read as many bytes as ``expected`` has, and cut them into whole frames."""
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # it was small to be behind
    received = b""
    while len(received) < len(expected):
        data = client.sock.recv(1 << 16)
        assert data, "the connection ended"
        received += data
    return list(payloads(received))


REQUESTS = [b'{"who":{}}', b'{"rooms":{}}', b'{"message":"psst","to":"bob"}', b'{"join":{"room":"r"}}']


@pytest.mark.parametrize("request_", REQUESTS, ids=["who", "rooms", "private", "join"])
def test_requests_count_as_messages_do_for_how_much_a_client_may_send(folder: Path, request_: bytes) -> None:
    with lone_worker(folder, flood_burst=BURST, flood_rate=RATE) as worker:
        client = worker.connect(1)
        began = time.monotonic()
        client.send_raw(raw_frame(b'{"join":{"name":"alice"}}') + raw_frame(request_) * (MANY - 1))
        for _ in range(MANY):  # one after the other
            worker.until(Up.ASK)
        client.say("after")
        worker.until(Up.POSTS)
        assert time.monotonic() - began >= PAUSE


def moved(worker: LoneWorker) -> None:
    """Let the connection go, and come again."""
    connection, descriptor = worker.ask_to_move()
    worker.send(Receipt(acks=[1]))
    worker.hand_over(connection, descriptor)


def given_back(worker: LoneWorker) -> None:
    """Refuse the connection that was to be moved."""
    worker.ask_to_move()
    worker.send(Receipt(nacks=[1]))


@pytest.mark.parametrize("change", [moved, given_back])
def test_a_client_that_has_said_too_much_waits_as_long_though_it_is_moved(
    worker: LoneWorker, change: Callable[[LoneWorker], None]
) -> None:
    client = worker.connect(1)
    began = time.monotonic()
    client.send_raw(frame("x") * MANY)
    worker.until(Up.POSTS)
    change(worker)
    client.say("after")
    worker.until(Up.POSTS)
    assert time.monotonic() - began >= PAUSE


# Speakers: the supervisor tells others of the loss of these clients when the worker dies.


def until_speakers(worker: LoneWorker, count: int) -> None:
    """Wait until the worker has said that there are so many speakers."""
    eventually(lambda: worker.beat() and worker.speakers == count, f"{count} speakers")


@pytest.mark.parametrize(
    "said", [frame("x"), raw_frame(b'{"join":{"name":"alice"}}'), frame("x") + raw_frame(b'{"join":{}}')]
)
def test_a_client_is_a_speaker_from_its_first_message_or_request_to_its_end(
    worker: LoneWorker, said: bytes
) -> None:
    client, silent = worker.connect(1), worker.connect(2)
    has_read_everything(silent)  # what it has sent is no message
    worker.has_done_all()
    assert worker.speakers == 0
    for _ in range(2):
        client.send_raw(said)
        if b"join" in said:
            worker.until(Up.ASK)
        until_speakers(worker, 1)
    silent.reset()
    worker.message()
    worker.has_done_all()
    assert worker.speakers == 1
    worker.tell(Down.END, (1, "kicked"))
    until_speakers(worker, 0)


def test_a_moved_client_stays_a_speaker_or_silent(worker: LoneWorker) -> None:
    """It goes with the connection: the worker says nothing of it until the client speaks first, or ends."""
    client = worker.connect(1)
    connection, descriptor = worker.ask_to_move()
    assert not connection.speaker
    worker.send(Receipt(acks=[1]))
    worker.hand_over(connection, descriptor)
    client.say("first")
    until_speakers(worker, 1)
    connection, descriptor = worker.ask_to_move()
    assert connection.speaker
    worker.send(Receipt(acks=[1]))
    worker.hand_over(connection, descriptor)
    client.say("second")
    has_read_everything(client)
    worker.has_done_all()
    assert worker.speakers == 1
    worker.tell(Down.END, (1, "kicked"))
    until_speakers(worker, 0)


def test_a_client_that_is_given_back_is_still_a_speaker(worker: LoneWorker) -> None:
    client = worker.connect(1)
    client.say("first")
    until_speakers(worker, 1)
    given_back(worker)
    client.say("second")
    has_read_everything(client)
    worker.has_done_all()
    assert worker.speakers == 1
    worker.tell(Down.END, (1, "kicked"))
    until_speakers(worker, 0)


# Requests go up a few at a time.


def joins(worker: LoneWorker, count: int) -> None:
    """Let so many clients ask to join, and wait until the worker has read what they ask."""
    clients = [worker.connect(each) for each in range(1, count + 1)]
    for number, each in enumerate(clients):
        each.send_raw(raw_frame(b'{"join":{"name":"client%d"}}' % number))
    has_read_everything(worker.connect(count + 1))
    worker.has_done_all()


def asked(worker: LoneWorker) -> list[int]:
    """The clients whose requests have come up, in order."""
    worker.has_done_all()
    return [payload[0][0] for kind, payload in worker.said if kind == Up.ASK]


def test_many_requests_go_up_a_few_at_a_time_each_when_another_one_was_served(folder: Path) -> None:
    with lone_worker(folder) as worker:
        joins(worker, AT_A_TIME + 3)
        assert len(asked(worker)) == AT_A_TIME
        served: set[int] = set()
        while len(served) < AT_A_TIME + 3:
            (identity, _), _ = worker.until(Up.ASK)  # which serves it
            served.add(identity)
            worker.has_done_all()
            assert len(asked(worker)) <= AT_A_TIME
        assert served == set(range(1, AT_A_TIME + 4))


def test_a_client_that_has_gone_makes_room_for_another_request(folder: Path) -> None:
    with lone_worker(folder) as worker:
        joins(worker, AT_A_TIME + 1)
        before = asked(worker)
        worker.tell(Down.END, (before[0], "kicked"))
        eventually(lambda: len(asked(worker)) == AT_A_TIME + 1, "the last request to come up")


@pytest.mark.parametrize(("order", "done"), [(Down.MOVE, Up.SYNC), (Down.DRAIN, Up.DRAINED)])
def test_requests_that_wait_go_up_before_the_worker_says_that_all_is_said(
    folder: Path, order: Down, done: Up
) -> None:
    with lone_worker(folder) as worker:
        joins(worker, AT_A_TIME + 3)
        worker.tell(order, AT_A_TIME + 4 if order == Down.MOVE else None)
        eventually(lambda: worker.beat() and any(kind == done for kind, _ in worker.said), done.name)
        kinds = [kind for kind, _ in worker.said]
        assert kinds[: kinds.index(done)].count(Up.ASK) == AT_A_TIME + 3


def test_parts_of_the_past_take_their_turns_with_requests(folder: Path) -> None:
    with lone_worker(folder) as worker:
        reader = worker.connect(100)
        reader.send_raw(raw_frame(b'{"join":{"name":"reader"}}'))
        worker.until(Up.ASK)
        joins(worker, AT_A_TIME + 1)
        worker.tell_frames(Down.ENTER, (100, FIRST_ROOM, 0, False), frame("a part"))
        assert reader.hear() == "a part"
        worker.has_done_all()
        assert not any(kind == Up.MORE for kind, _ in worker.said)
        worker.until(Up.ASK)
        worker.until(Up.ASK)
        worker.until(Up.MORE)
