"""The channel over real pipes: in order, within the window, never blocking, whole whoever is killed."""

import array
import fcntl
import os
import random
import re
import select
import signal
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.waiting import PATIENCE, eventually

import mpchat
from mpchat.ipc.channel import (
    FIRST_KIND,
    ITEM_COST,
    ITEM_SIZE,
    WINDOW_SHARE,
    Item,
    Link,
    Queue,
    make_queue,
)
from mpchat.ipc.link_watch import LinkWatch
from mpchat.reactor import Reactor

FRAMES, OTHER, STOP = FIRST_KIND, FIRST_KIND + 1, FIRST_KIND + 2


@contextmanager
def links(window: int | None = None) -> Iterator[tuple[Link, Link]]:
    """Both ends of a channel in this process."""
    up, size = make_queue()
    down, _ = make_queue()
    near, far = Link(up, down, window or size), Link(down, up, window or size)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


def readable(link: Link) -> bool:
    return bool(select.select([link], [], [], 0)[0])


def on_its_way(link: Link) -> int:
    """Bytes in the pipe that this link reads from."""
    size = array.array("i", [0])
    fcntl.ioctl(link.fileno(), termios.FIONREAD, size)
    return size[0]


def receive_all(link: Link) -> list[Item]:
    """Take all there is."""
    items = []
    while readable(link):
        for item in link.receive():
            link.take(item.cost)
            items.append(item)
    return items


def taken_of(link: Link) -> list[Item]:
    """Wait for something and take it."""
    items = link.receive()
    for item in items:
        link.take(item.cost)
    return items


def exchange(*ends: Link) -> list[list[Item]]:
    """Let all ends read until nothing is on its way any more; returns what each got."""
    got: list[list[Item]] = [[] for _ in ends]
    while any(map(readable, ends)):
        for items, link in zip(got, ends, strict=True):
            items += receive_all(link)
    return got


def test_items_arrive_in_order_both_ways() -> None:
    chance = random.Random(1)
    with links() as (near, far):
        sent: tuple[list[Any], list[Any]] = ([], [])
        got: tuple[list[Any], list[Any]] = ([], [])
        for number in range(3000):
            side = chance.randrange(2)
            data = bytes(chance.randrange(200))
            (near, far)[side].send(OTHER, (number, data), len(data))
            sent[side].append((number, data))
            if chance.random() < 0.1:
                got[0].extend(item.payload for item in receive_all(far))
                got[1].extend(item.payload for item in receive_all(near))
        at_near, at_far = exchange(near, far)
        got[0].extend(item.payload for item in at_far)
        got[1].extend(item.payload for item in at_near)
        assert got == sent


@pytest.mark.parametrize("size", [0, 1, 100, 2_000, 2_100, 4_000, 4_100, 8_200, ITEM_SIZE])
def test_a_peer_that_takes_nothing_makes_nobody_wait_and_loses_nothing(size: int) -> None:
    """The window is full, beats go past it, and still there is room in the pipe: nothing here blocks."""
    with links() as (near, far):
        count = 0
        while not near.congested:
            near.send(OTHER, bytes(size), size)
            count += 1
        near.send(OTHER, b"waits", 5)
        for _ in range(500):
            near.send_now(OTHER, None)
        assert on_its_way(far) <= near.window + ITEM_SIZE + count * ITEM_COST + 500 * ITEM_COST
        assert near.backlog_size == ITEM_COST * 2 + size + 5
        _, got = exchange(near, far)
        payloads = [item.payload for item in got if item.cost]
        assert payloads == [bytes(size)] * count + [b"waits"]
        assert near.backlog_size == 0
        assert not near.congested


def test_the_window_counts_what_was_received_and_not_yet_taken() -> None:
    with links() as (near, far):
        while not near.congested:
            near.send(OTHER, bytes(10_000), 10_000)
        held = []
        while readable(far):
            held += far.receive()
        assert not readable(near)
        assert near.congested
        for item in held:
            far.take(item.cost)
        assert near.receive() == []
        assert not near.congested


@pytest.mark.parametrize("window", [200, 2_048, 20_000, 256 << 10])
@pytest.mark.parametrize("size", [0, 1, ITEM_SIZE - 1, ITEM_SIZE, ITEM_SIZE + 1, 3 * ITEM_SIZE, 200_000])
def test_frames_of_any_size_come_whole_through_any_window(window: int, size: int) -> None:
    frames = random.Random(size).randbytes(size)
    with links(window) as (near, far):
        for count in range(5):
            near.send_frames(FRAMES, count, frames)
            near.send(OTHER, count)
        _, got = exchange(near, far)
        expected: list[Any] = []
        for count in range(5):
            expected += [(count, frames), count]
        assert [item.payload for item in got] == expected


def test_what_overtakes_the_backlog_between_two_pieces_of_a_frame_is_not_taken_for_its_end() -> None:
    with links(ITEM_SIZE) as (near, far):
        near.send_frames(FRAMES, 1, bytes(5 * ITEM_SIZE))
        near.send_now(OTHER, ("a", "beat"))
        _, got = exchange(near, far)
        assert [item.payload for item in got] == [("a", "beat"), (1, bytes(5 * ITEM_SIZE))]


def test_a_link_knows_what_is_under_way_and_tells_the_peer_what_it_has_taken_past_an_eighth() -> None:
    with links(8000) as (near, far):
        near.send_frames(FRAMES, ["a head"], b"abc", head_size=997 - ITEM_COST)
        assert (near.under_way, near.backlog_size, near.congested) == (1000, 0, False)
        for _ in range(9):
            near.send(OTHER, None, 1000 - ITEM_COST)
        assert (near.under_way, near.backlog_size, near.congested) == (10_000, 2000, True)
        first, second, *rest = far.receive()
        far.take(first.cost)
        assert not readable(near), "an eighth is not worth an item"
        far.take(second.cost)
        assert near.receive() == []
        assert (near.acknowledged, near.under_way, near.congested) == (2000, 8000, False)
        for item in rest + receive_all(far):
            far.take(item.cost)
        exchange(near, far)
        assert near.under_way <= 8000 // 8


def test_a_peer_that_closed_is_the_end_after_all_that_it_had_sent_although_a_backlog_waits_for_it() -> None:
    with links() as (near, far):
        while not near.congested:
            near.send(OTHER, bytes(10_000), 10_000)
        receive_all(far)  # which acknowledges: at the next look the backlog would go, to nobody
        for number in range(10):
            far.send(OTHER, number)
        far.send_frames(FRAMES, 1, bytes(3 * ITEM_SIZE))
        far.close()
        got = receive_until_the_end(near)
        assert [item.payload for item in got] == [*range(10), (1, bytes(3 * ITEM_SIZE))]


def receive_until_the_end(link: Link) -> list[Item]:
    items: list[Item] = []
    try:
        while True:
            items += link.receive()
    except EOFError:
        return items


def test_sending_to_a_peer_that_closed_is_an_error() -> None:
    with links() as (near, far):
        far.close()
        with pytest.raises(BrokenPipeError):
            near.send(OTHER, None)


# Through pipes as small as they get for a user whose pipes take too much (pipe-user-pages-soft).


@contextmanager
def small_links() -> Iterator[tuple[Link, Link]]:
    """Both ends of a channel whose pipes hold one page."""
    up, _ = make_queue()
    down, _ = make_queue()
    for queue in (up, down):
        size = fcntl.fcntl(queue._writer.fileno(), fcntl.F_SETPIPE_SZ, 4096)  # type: ignore[attr-defined]
    near, far = Link(down, up, size // WINDOW_SHARE), Link(up, down, size // WINDOW_SHARE)
    try:
        yield near, far
    finally:
        near.close()
        far.close()


@contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Fail what waits for longer, and not at all by accident: the signal interrupts system calls."""

    def give_up(number: int, frame: object) -> None:
        raise TimeoutError(f"still waiting after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


needs_small_pipes = pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="only Linux resizes pipes")


@needs_small_pipes
@pytest.mark.parametrize("size", [900, 4_000, 4_096, 60_000])
def test_items_larger_than_the_pipe_block_neither_end_and_come_whole(size: int) -> None:
    chance = random.Random(size)
    reactor = Reactor()
    sent = [chance.randbytes(size) for _ in range(6)]
    got: dict[Link, list[Any]] = {}
    with small_links() as ends, alarm(PATIENCE):
        watches = []
        for link in ends:
            got[link] = []
            watches.append(LinkWatch(reactor, link, partial(take_into, got[link], link)))
        for link in ends:  # both have sent more than fits before either reads
            for number, data in enumerate(sent):
                link.send(OTHER, (number, data), len(data))
                link.send_now(OTHER, "beat")
        while any(len(each) < 2 * len(sent) for each in got.values()):
            reactor.turn()
        for items in got.values():
            assert [each for each in items if each != "beat"] == list(enumerate(sent))
        for each in watches:
            each.close()
        for link in ends:
            assert not link.full
            assert not link.congested
    reactor.close()


def take_into(payloads: list[Any], link: Link, mask: int) -> None:
    """Take what has come."""
    for item in link.receive():
        link.take(item.cost)
        payloads.append(item.payload)


@needs_small_pipes
def test_a_signal_in_the_middle_of_a_write_tears_no_item() -> None:
    """A write that waits for room returns early for a signal with a handler, and has written a part."""
    with small_links() as (near, far), alarm(PATIENCE):
        seen: list[int] = []
        signal.signal(signal.SIGALRM, lambda number, frame: seen.append(number))
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        near.send(OTHER, bytes(10_000), 10_000)
        eventually(lambda: seen, "the signal")
        got: list[Item] = []
        while not got:
            got = far.receive()
            far.take(sum(each.cost for each in got))
            near.write_on()
        assert [each.payload for each in got] == [bytes(10_000)]


@needs_small_pipes
def test_a_peer_that_dies_while_the_pipe_is_full_is_no_busy_loop() -> None:
    with small_links() as (near, far), alarm(PATIENCE):
        reactor = Reactor()
        ended: list[bool] = []

        def on_items(mask: int) -> None:
            try:
                near.receive()
            except EOFError:
                ended.append(True)
                watch.close()

        watch = LinkWatch(reactor, near, on_items)
        near.send(OTHER, bytes(10_000), 10_000)
        assert near.full
        far.close()
        while not ended:
            reactor.turn()
        reactor.call_later(0.0, lambda: None)
        reactor.turn()  # nothing but the timer is left to be waited for
        reactor.close()


# With a real process at the other end.


def echo(incoming: Queue, outgoing: Queue, window: int) -> None:
    """Send back whatever comes, until told to stop."""
    link = Link(incoming, outgoing, window)
    link.close_far_ends()
    while True:
        for item in link.receive():
            link.take(item.cost)
            if item.kind == STOP:
                return
            link.send_frames(FRAMES, *item.payload)


def write_for_ever(incoming: Queue, outgoing: Queue, window: int) -> None:
    """Send numbered frames of many pieces as fast as they are taken."""
    link = Link(incoming, outgoing, window)
    link.close_far_ends()
    number = 0
    while True:
        while not link.congested:
            link.send_frames(FRAMES, number, bytes([number % 256]) * 50_000)
            number += 1
        link.receive()


@contextmanager
def process(target: Callable[[Queue, Queue, int], None]) -> Iterator[tuple[Link, SpawnProcess]]:
    up, window = make_queue()
    down, _ = make_queue()
    child = get_context("spawn").Process(target=target, args=(down, up, window))
    child.start()
    link = Link(up, down, window)
    link.close_far_ends()
    try:
        yield link, child
    finally:
        child.kill()
        child.join()
        child.close()
        link.close()


def test_a_process_echoes_frames_of_all_sizes_and_its_end_is_the_end() -> None:
    chance = random.Random(2)
    sent = [(number, chance.randbytes(chance.choice([10, 1_000, 40_000]))) for number in range(300)]
    with process(echo) as (link, child):
        for each in sent:
            link.send_frames(FRAMES, *each)
        got: list[Any] = []
        while len(got) < len(sent):
            got += [item.payload for item in taken_of(link)]
        assert got == sent
        link.send(STOP, None)
        assert receive_until_the_end(link) == []
        child.join()
        assert child.exitcode == 0


@pytest.mark.parametrize("taken", [0, 1, 7, 50])
def test_a_killed_writer_is_the_end_after_whole_items(taken: int) -> None:
    with process(write_for_ever) as (link, child):
        got: list[Any] = []
        while len(got) <= taken:
            got += [item.payload for item in taken_of(link)]
        assert child.pid is not None
        psutil.Process(child.pid).kill()
        got += [item.payload for item in receive_until_the_end(link)]
        assert got == [(number, bytes([number % 256]) * 50_000) for number in range(len(got))]


# What it is made of.


def test_no_semaphore_is_made() -> None:
    """A killed process could hold it, and it could outlive everybody. One that is made shows as a mapping."""

    def semaphores() -> int:
        return Path("/proc/self/maps").read_text().count("/dev/shm/sem.")

    before = semaphores()
    with links():
        assert semaphores() == before
    lock = get_context("spawn").Lock()
    assert semaphores() > before, "this look would not find a semaphore"
    del lock


def test_the_two_private_attributes_of_the_queue_exist() -> None:
    queue: SimpleQueue[Any] = SimpleQueue(ctx=get_context("spawn"))
    reader, writer = (getattr(queue, name) for name in ("_reader", "_writer"))
    queue.put(1)
    assert select.select([reader], [writer], [], 0) == ([reader], [writer], [])
    assert queue.get() == 1
    queue.close()
    with pytest.raises(OSError):
        os.fstat(reader.fileno())


def test_only_the_channel_touches_the_private_attributes() -> None:
    package = Path(mpchat.__file__).parent
    sources = package.rglob("*.py")
    touching = [each.name for each in sources if re.search(r"\._(reader|writer)\b", each.read_text())]
    assert touching == ["channel.py"]
