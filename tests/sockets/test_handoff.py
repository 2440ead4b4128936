"""Messages over a real socket pair: descriptors and bytes come together, in order, and none is left over."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.waiting import eventually

from mpchat.ipc.connection_state import FRESH, ConnectionState, decode_state, encode_state
from mpchat.ipc.handoff import (
    MAX_DESCRIPTORS,
    ConnectionInTransit,
    Handoff,
    HandoffMessage,
    HandoffSocket,
    Receipt,
    close_all,
    read_message,
)
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.session import DialectState


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """No test here may leave a descriptor open."""
    before = open_descriptors()
    yield
    assert open_descriptors() == before


@contextmanager
def handoff_sockets(buffer: int = 0) -> Iterator[tuple[HandoffSocket, HandoffSocket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    if buffer:
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    sender, receiver = HandoffSocket(near), HandoffSocket(far)
    try:
        yield sender, receiver
    finally:
        sender.close()
        receiver.close()


@contextmanager
def files(count: int) -> Iterator[list[int]]:
    """So many descriptors, each of a pipe of its own that holds its place in the list."""
    opened = []
    try:
        for number in range(count):
            reader, writer = os.pipe()
            opened.append(reader)
            os.write(writer, str(number).encode())
            os.close(writer)
        yield opened
    finally:
        close_all(opened)


def receive_all(sender: HandoffSocket, receiver: HandoffSocket, count: int) -> list[HandoffMessage]:
    """Let both ends do what they can until ``count`` messages are there."""
    messages: list[HandoffMessage] = []

    def step() -> bool:
        sender.pump()
        messages.extend(receiver.receive())
        return len(messages) >= count

    eventually(step, f"{count} messages")
    return messages


def contents(message: HandoffMessage) -> list[int]:
    """What the received descriptors hold; closes them."""
    assert message.descriptors is not None
    try:
        return [int(os.read(each, 10)) for each in message.descriptors]
    finally:
        close_all(message.descriptors)


def read_to_the_end(receiver: HandoffSocket) -> list[bytes]:
    """The messages that came before the end; none of them has descriptors."""
    messages: list[bytes] = []
    try:
        while True:
            messages += [each.message for each in receiver.receive()]
    except EOFError:
        return messages


@pytest.mark.parametrize("count", [0, 1, 2, MAX_DESCRIPTORS])
def test_descriptors_arrive_with_their_message_and_close_on_exec(count: int) -> None:
    with handoff_sockets() as (sender, receiver), files(count) as sent:
        sender.send(b"message", sent)
        (message,) = receive_all(sender, receiver, 1)
        assert message.message == b"message"
        assert message.descriptors is not None
        assert not any(map(os.get_inheritable, message.descriptors))
        assert contents(message) == list(range(count))


def test_one_descriptor_more_than_a_message_takes_is_refused() -> None:
    with handoff_sockets() as (sender, _), files(MAX_DESCRIPTORS + 1) as sent:
        with pytest.raises(OSError):
            sender.send(b"message", sent)


def test_messages_with_and_without_descriptors_keep_their_order() -> None:
    counts = [0, 1, 0, 0, 3, 2, 0, 1]
    with handoff_sockets() as (sender, receiver), files(sum(counts)) as sent:
        left = iter(range(sum(counts)))
        groups = [list(islice(left, count)) for count in counts]
        for group in groups:
            sender.send(str(group).encode(), [sent[number] for number in group])
        messages = receive_all(sender, receiver, len(counts))
        assert [each.message for each in messages] == [str(group).encode() for group in groups]
        assert [contents(each) for each in messages] == groups


def test_messages_longer_than_a_small_send_buffer_go_in_parts_with_their_descriptors() -> None:
    with handoff_sockets(buffer=4096) as (sender, receiver), files(20) as sent:
        messages = [os.urandom(50_000 + number) for number in range(20)]
        for number, message in enumerate(messages):
            sender.send(message, sent[number : number + 1])
        assert sender.unsent
        arrived = receive_all(sender, receiver, len(messages))
        assert [each.message for each in arrived] == messages
        assert [contents(each) for each in arrived] == [[number] for number in range(20)]
        assert not sender.unsent


def test_nothing_there_is_an_empty_list() -> None:
    with handoff_sockets() as (_, receiver):
        assert receiver.receive() == []


def test_a_peer_that_is_gone_ends_receiving_after_what_it_had_sent() -> None:
    with handoff_sockets() as (sender, receiver), files(1) as sent:
        sender.send(b"last", sent)
        sender.close()
        (message,) = receiver.receive()
        assert contents(message) == [0]
        with pytest.raises(EOFError):
            receiver.receive()


def test_a_peer_that_is_gone_with_unread_messages_ends_receiving() -> None:
    with handoff_sockets() as (sender, receiver), files(1) as sent:
        sender.send(b"never read", sent)
        receiver.send(b"last", [])
        receiver.close()
        read_to_the_end(sender)


def test_sending_to_a_peer_that_is_gone_is_an_error() -> None:
    with handoff_sockets() as (sender, receiver), files(1) as sent:
        receiver.close()
        with pytest.raises(OSError):
            sender.send(b"message", sent)


def test_a_message_cut_short_by_its_sender_leaves_no_descriptor_when_the_receiver_closes() -> None:
    with handoff_sockets(buffer=4096) as (sender, receiver), files(1) as sent:
        sender.send(b"x" * 100_000, sent)
        sender.close()
        assert read_to_the_end(receiver) == []


class Scarce(socket.socket):
    """A socket to which the system refuses descriptors for a while."""

    error: int = 0

    def sendmsg(self, data: Any, rights: Any = (), *more: Any) -> int:
        if rights and self.error:
            raise OSError(self.error, os.strerror(self.error))
        return super().sendmsg(data, rights, *more)


@pytest.mark.parametrize("reason", [errno.ETOOMANYREFS, errno.ENOMEM, errno.ENOBUFS])
def test_what_cannot_be_sent_for_a_moment_rests_and_goes_in_order_afterwards(reason: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    scarce = Scarce(fileno=near.detach())
    sender, receiver = HandoffSocket(scarce), HandoffSocket(far)
    with closing(sender), closing(receiver), files(1) as sent:
        scarce.error = reason
        sender.send(b"first", sent)
        sender.send(b"second", [])
        assert sender.resting is not None
        assert sender.resting.errno == reason
        assert not sender.unsent, "it is writable all the time, and waiting for that would be spinning"
        sender.pump()
        assert receiver.receive() == []
        scarce.error = 0
        first, second = receive_all(sender, receiver, 2)
        assert (first.message, contents(first), second.message) == (b"first", [0], b"second")
        assert sender.resting is None
        scarce.error = errno.EPIPE
        with pytest.raises(BrokenPipeError):
            sender.send(b"third", sent)


# Runs in a process of its own, which has room for only a few more descriptors: told which socket to read, it
# says what it got and how many descriptors it had before and after.
_SHORT_RECEIVER = """
import os, resource, socket, sys
from mpchat.ipc.handoff import HandoffSocket, close_all
receiver = HandoffSocket(socket.socket(fileno=int(sys.argv[1])))
free = int(sys.argv[2])
def in_use():
    listing = os.listdir("/proc/self/fd")  # one of them is the listing's own
    return {int(each) for each in listing if os.path.exists("/proc/self/fd/" + each)}
before = in_use()
unused = [number for number in range(4096) if number not in before]
resource.setrlimit(resource.RLIMIT_NOFILE, (unused[free], 4096))
messages = []
while len(messages) < 3:
    messages += receiver.receive()
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
for message in messages:
    print(message.message.decode(), message.descriptors is not None and len(message.descriptors))
    close_all(message.descriptors or [])
print(in_use() == before)
"""


@pytest.mark.parametrize("free", [0, 1, 4])
def test_a_receiver_short_of_descriptors_gets_none_of_them_and_keeps_none(free: int) -> None:
    """Some would fit: MSG_CTRUNC. The messages before and after it are not touched by that."""
    with handoff_sockets() as (sender, receiver), files(8) as sent:
        child = subprocess.Popen(
            [sys.executable, "-c", _SHORT_RECEIVER, str(receiver.fileno()), str(free)],
            pass_fds=[receiver.fileno()],
            stdout=subprocess.PIPE,
            text=True,
        )
        sender.send(b"before", [])
        sender.send(b"short", sent)
        sender.send(b"after", [])
        said, _ = child.communicate(timeout=30)
        assert said.splitlines() == ["before 0", "short False", "after 0", "True"]


# What messages say.

STATES = st.builds(
    ConnectionState,
    dialect=st.text(max_size=8),
    dialect_state=st.builds(DialectState, st.binary(max_size=80), st.integers(0, 65_535), st.booleans()),
    room=st.integers(-1, 1 << 40),
    place=st.builds(Place, st.integers(0, 1 << 62), st.integers(0, 1 << 17)),
    outbox=st.binary(max_size=80),
    outbox_open=st.booleans(),
    heard=st.floats(0, 1e9),
    half_since=st.none() | st.floats(0, 1e9),
    left_at=st.floats(0, 1e9),
    allowance=st.floats(-1e9, 1e9),
    budget=st.floats(-1e9, 1e9),
)


@given(STATES)
def test_a_state_is_passed_on_unread_and_comes_out_as_it_was(state: ConnectionState) -> None:
    handoff = Handoff(
        [ConnectionInTransit(1, "::1", 5, encode_state(state)), ConnectionInTransit(2, "192.0.2.1", 6)]
    )
    arrived = read_message(msgspec.msgpack.encode(handoff))
    assert isinstance(arrived, Handoff)
    moved, fresh = arrived.connections
    again = Handoff([ConnectionInTransit(moved.identity, moved.host, moved.port, moved.state)])
    (passed_on,) = read_message(msgspec.msgpack.encode(again)).connections  # type: ignore[union-attr]
    assert decode_state(passed_on.state) == state
    assert decode_state(fresh.state) is None
    assert bytes(fresh.state) == bytes(FRESH)


def test_a_receipt_comes_out_as_it_was_and_counts_when_it_says_anything() -> None:
    receipt = Receipt([1, 2], [3], ["::1", "::1"], [0.5])
    assert read_message(msgspec.msgpack.encode(receipt)) == receipt
    assert not Receipt([], [], [], [])
    assert Receipt([], [], ["::1"], [])
