"""How much memory a server takes at most: the sum of the bounds of all that it keeps."""

import gc
import secrets
import tracemalloc
from collections.abc import Callable

import msgspec
import pytest

from mpchat import memory
from mpchat.config import BY_NAME, resolve
from mpchat.hook import backlog
from mpchat.hub import archive, claims, delivery, history, history_file
from mpchat.hub.claims import Claims
from mpchat.ipc import shares
from mpchat.ipc.stream_buffer import StreamBuffer
from mpchat.memory import bounds, total
from mpchat.protocol import session
from mpchat.protocol.frames import HEADER_SIZE, MAX_PAYLOAD
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import numbered_frames, room_field
from mpchat.supervisor import connect_rates, move_out
from mpchat.supervisor.connect_rates import ConnectRates, Rate
from mpchat.worker import downlink, fanout, migration, reading, rooms

CONFIG = resolve([])[0]
# What is smaller in the small one than in the large one, by the settings that it follows from.
LARGER = {
    "max_connections": 1000,
    "max_rooms": 20,
    "lag_limit": 2 << 20,
    "answers_memory": 256 << 20,
    "history": "history.db",
}
KIB, MIB = 1 << 10, 1 << 20


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (memory.READ_SIZE, reading.READ_SIZE),
        (memory.UNDER_WAY, reading.UNDER_WAY),
        (memory.UNDER_WAY_OF_LIGHT, reading.UNDER_WAY_OF_LIGHT),
        (memory.ENOUGH, fanout.ENOUGH),
        (memory.SWAMPED_TOGETHER, rooms.SWAMPED_TOGETHER),
        (memory.HISTORY_MEMORY, shares.HISTORY_MEMORY),
        (memory.STREAM_MEMORY, shares.STREAM_MEMORY),
        (memory.STATE_LIMIT, migration.STATE_LIMIT),
        (memory.MUCH, downlink.MUCH),
        (memory.LONGEST_RUN, max(session.RUN_SIZE, HEADER_SIZE + MAX_PAYLOAD)),
        (memory.RUN_OVERHEAD, history.RUN_OVERHEAD),
        (memory.BLOB_SIZE, delivery.BLOB_SIZE),
        (memory.MOST_CONNECTING, connect_rates.MOST),
        (memory.MOST_HELD, claims.MOST_HELD),
        (memory.QUEUE_LIMIT, archive.QUEUE_LIMIT),
        (memory.REMEMBERED_ROOMS, archive.ROOMS),
        (memory.EARLIER_KEPT, history_file.EARLIER_KEPT),
        (memory.MOST_BYTES, backlog.MOST_BYTES),
        (memory.SHORTEST_PLAIN, len(message_frame(""))),
    ],
)
def test_a_size_is_that_of_the_module_that_it_belongs_to(here: int, there: int) -> None:
    assert here == there


def test_no_frame_of_a_member_is_shorter_than_the_shortest() -> None:
    shortest = numbered_frames(message_frame(""), "a", room_field("r"), 1, 1e9)
    assert len(shortest) >= memory.SHORTEST_NUMBERED


def test_two_batches_are_in_transit_at_most() -> None:
    assert move_out.BATCH * (memory.READ_SIZE + 60_000) > memory.STATE_LIMIT, "a batch is bounded in bytes"


def test_each_row_names_settings_that_exist_and_grows_with_each_of_them() -> None:
    small = msgspec.structs.replace(CONFIG, max_rooms=10, lag_limit=1 << 20, tls_cert="chain.pem")
    assert {name for row in bounds(small, 2, 1000) for name in row.settings} <= set(BY_NAME)
    for name, value in LARGER.items():
        larger = msgspec.structs.replace(small, **{name: value})
        connections = 5 if name == "max_connections" else 1000
        before_all, more = bounds(small, 2, connections), bounds(larger, 2, 1000)
        for before, after in zip(before_all, more, strict=True):
            if name in before.settings:
                assert after.size > before.size, (name, before.what)
            elif before.settings:
                assert after.size == before.size, (name, before.what)


def test_each_worker_takes_its_part_and_one_more_is_there_during_a_reload() -> None:
    one, two, three = ({row.what: row.size for row in bounds(CONFIG, workers, 1000)} for workers in (1, 2, 3))
    for row in bounds(CONFIG, 1, 1000):
        if "workers" in row.settings:
            assert three[row.what] - two[row.what] == two[row.what] - one[row.what] > 0
    assert one["programs"] == 3 * memory.PROCESS_COST


def test_without_held_names_a_file_and_tls_their_rows_are_nothing() -> None:
    rows = {row.what: row.size for row in bounds(msgspec.structs.replace(CONFIG, name_hold=0.0), 1, 100)}
    assert rows["names that are held"] == rows["the history file"] == rows["encryption of connections"] == 0


def test_a_webhook_takes_its_queue_and_what_is_being_sent() -> None:
    rows = sizes(1, 100, hook="https://a/", hook_queue=5 * MIB)
    assert rows["events that wait for the webhook's receiver"] == 5 * MIB + 8 * 256 * KIB


def test_each_tls_process_takes_its_part() -> None:
    none, two = (
        {row.what: row.size for row in bounds(msgspec.structs.replace(CONFIG, **settings), 1, 100)}
        for settings in ({"tls_processes": 2}, {"tls_processes": 2, "tls_cert": "chain.pem"})
    )
    assert two["programs"] - none["programs"] == 2 * memory.PROCESS_COST
    assert two["encryption of connections"] == 100 * memory.TLS_COST


def test_a_small_machine_has_room_for_a_small_server() -> None:
    """The values that the manual gives for a machine with 1 GiB."""
    small = msgspec.structs.replace(
        CONFIG, max_rooms=20, lag_limit=512 << 10, answers_memory=16 << 20, name_hold=0.0
    )
    assert total(bounds(small, 1, 500)) < 768 << 20


def sizes(workers: int, connections: int, **settings: object) -> dict[str, int]:
    config = msgspec.structs.replace(CONFIG, payload_limit=1000, answers_memory=4 * MIB, **settings)
    return {row.what: row.size for row in bounds(config, workers, connections)}


def test_each_row_is_what_the_limits_add_up_to() -> None:
    """Two workers and one more during a reload, and ten rooms that do not fill the memory of all rooms."""
    rows = sizes(
        2, 1000, max_rooms=10, lag_limit=MIB, connect_rate=1, history="history.db", tls_cert="chain.pem"
    )
    programs = rows.pop("programs")
    holes = rows.pop("holes that freed memory leaves")
    assert programs == 5 * 40 * MIB
    assert rows == {
        "connections and members": 1000 * 8 * KIB,
        # What is read at a time and a payload, and an eighth to spare.
        "frames that are not whole, posts that wait for their turn": 1000 * (123_880 + 15_485),
        "answers and private messages that are not sent yet": 3 * (4 + 3) * MIB,
        # Two batches, six copies of each.
        "members in transit between two workers": 4608 * KIB + 2 * 6 * ((256 + 1024 + 120) * KIB + 1000),
        # In the hub and three workers; each 16 bytes take 160 more.
        "the stream of plain clients": 4 * (MIB + 130_000 + 73_661 * 160),
        # In three workers and in the hub; each 64 bytes take 160 more.
        "streams of rooms": 3 * (10 * MIB + 163_840 * 160 + 10 * 130_000)
        + (10 * MIB + 163_840 * 160 + 10 * 66 * KIB),
        # One run of one room may be over while it is added.
        "history of rooms": 10 * (MIB + 65_537 + 300) + 65_537 + 300,
        "rooms themselves": 10 * 8 * KIB + 3 * 10 * 4 * KIB,
        "names that are held": 100_000 * 3 * KIB,
        "addresses that connected a moment ago": 100_000 * 400,
        "on the way between processes": 3 * (4 * (192 + 96 + 2 * 120) * KIB + 2 * (1 + 4 + 2) * MIB),
        "encryption of connections": 1000 * 128 * KIB,
        "events that wait for the webhook's receiver": 0,
        "the history file": 2 * 32 * MIB + 10_000 * (8 + 2) * 400,
    }
    assert holes == sum(rows.values()) // 8


@pytest.mark.parametrize(("connections", "with_members"), [(5000, 2000), (100, 100)])
def test_many_rooms_share_their_memory_and_no_more_of_them_have_members_than_there_are_clients(
    connections: int, with_members: int
) -> None:
    rows = sizes(1, connections, max_rooms=2000, lag_limit=8 * MIB)
    worker = 128 * MIB
    hub = 128 * MIB
    assert rows["streams of rooms"] == (
        2 * (worker + worker // 64 * 160 + with_members * 130_000)
        + (hub + hub // 64 * 160 + with_members * 66 * KIB)
    )
    assert rows["history of rooms"] == 128 * MIB + 65_537 + 300
    assert rows["rooms themselves"] == 2000 * 8 * KIB + 2 * with_members * 4 * KIB
    assert rows["answers and private messages that are not sent yet"] == 2 * (4 + 3 * 4) * MIB
    assert rows["addresses that connected a moment ago"] == rows["the history file"] == 0


def test_the_total_is_the_sum_of_all_rows() -> None:
    rows = bounds(CONFIG, 2, 1000)
    assert total(rows) == sum(row.size for row in rows)
    assert rows[0].what == "programs"


def taken(fill: Callable[[], object]) -> int:
    """Return the bytes of memory that Python's objects take which ``fill`` returns."""
    gc.collect()
    tracemalloc.start()
    try:
        kept = fill()
        size = tracemalloc.get_traced_memory()[0]
        del kept
        return size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("shortest", [memory.SHORTEST_PLAIN, memory.SHORTEST_NUMBERED])
@pytest.mark.parametrize("filled", [1.0, 1.9, 2.5, 2.9])
def test_a_stream_with_a_blob_for_each_shortest_frame_takes_what_is_counted(
    shortest: int, filled: float
) -> None:
    """``filled`` is how often it is filled: what it has forgotten must leave nothing that is not counted."""
    limit = 64 * KIB

    def fill() -> StreamBuffer:
        stream = StreamBuffer(limit)
        for _ in range(int(filled * limit / shortest)):
            stream.append(bytes(shortest), 1)
        assert stream.size == limit
        return stream

    counted = memory._stream(limit, shortest)
    assert 0.6 * counted < taken(fill) <= counted


def test_a_stream_that_was_cut_down_keeps_nothing_of_what_it_has_forgotten() -> None:
    def fill() -> StreamBuffer:
        stream = StreamBuffer(64 * KIB)
        for _ in range(4096):
            stream.append(bytes(16), 1)
        stream.trim(1600)
        return stream

    assert taken(fill) <= 100 * (16 + memory.BLOB_COST)


def test_no_more_names_are_held_than_the_most_and_each_takes_what_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the worst script; each name was held by a client of another IPv6 network."""
    most = 1000
    monkeypatch.setattr(claims, "MOST_HELD", most)

    def fill() -> Claims:
        names = Claims()
        for number in range(most + 100):
            name = "\ufdfa" * 16 + f"{number:04}"
            claim, _ = names.take(name, number, None, secrets.token_urlsafe(16), 1.0)
            names.hold(claim, 1.0, 60.0, f"2001:db8:{number:x}::/64")
        assert len(names._held) == len(names._by_key) == most
        return names

    assert 0.5 * most * memory.NAME_COST < taken(fill) <= most * memory.NAME_COST


def test_no_more_addresses_are_remembered_than_the_most_and_each_takes_what_is_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    most = 2000
    monkeypatch.setattr(connect_rates, "MOST", most)

    def fill() -> ConnectRates:
        rates = ConnectRates()
        for number in range(3 * most):
            assert rates.admit(f"2001:db8:{number:x}:ffff::/64", Rate(1, 1), 100_000.0)
        assert len(rates) == most
        return rates

    assert taken(fill) <= most * memory.ADDRESS_COST
