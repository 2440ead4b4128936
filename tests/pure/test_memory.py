"""How much memory a server takes at most: the sum of the bounds of all that it keeps."""

import msgspec
import pytest

from mpchat import memory
from mpchat.config import BY_NAME, resolve
from mpchat.hub import archive, claims, delivery, history, history_file, shares
from mpchat.memory import bounds, total
from mpchat.protocol import session
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import numbered_frames, room_field
from mpchat.supervisor import connect_rates, move_out
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


@pytest.mark.parametrize(
    ("here", "there"),
    [
        (memory.READ_SIZE, reading.READ_SIZE),
        (memory.UNDER_WAY, reading.UNDER_WAY),
        (memory.UNDER_WAY_OF_LIGHT, reading.UNDER_WAY_OF_LIGHT),
        (memory.ENOUGH, fanout.ENOUGH),
        (memory.SWAMPED_TOGETHER, rooms.SWAMPED_TOGETHER),
        (memory.STREAMS_MEMORY, rooms.STREAMS_MEMORY),
        (memory.LEAST_SHARE, rooms.LEAST_SHARE),
        (memory.HISTORY_MEMORY, shares.HISTORY_MEMORY),
        (memory.STREAM_MEMORY, shares.STREAM_MEMORY),
        (memory.STATE_LIMIT, migration.STATE_LIMIT),
        (memory.MUCH, downlink.MUCH),
        (memory.RUN_SIZE, session.RUN_SIZE),
        (memory.RUN_OVERHEAD, history.RUN_OVERHEAD),
        (memory.BLOB_SIZE, delivery.BLOB_SIZE),
        (memory.MOST_CONNECTING, connect_rates.MOST),
        (memory.MOST_HELD, claims.MOST_HELD),
        (memory.QUEUE_LIMIT, archive.QUEUE_LIMIT),
        (memory.REMEMBERED_ROOMS, archive.ROOMS),
        (memory.EARLIER_KEPT, history_file.EARLIER_KEPT),
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
    small = msgspec.structs.replace(CONFIG, max_rooms=10, lag_limit=1 << 20)
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


def test_without_held_names_and_a_file_their_rows_are_nothing() -> None:
    rows = {row.what: row.size for row in bounds(msgspec.structs.replace(CONFIG, name_hold=0.0), 1, 100)}
    assert rows["names that are held"] == rows["the history file"] == 0


def test_a_small_machine_has_room_for_a_small_server() -> None:
    """The values that the manual gives for a machine with 1 GiB."""
    small = msgspec.structs.replace(
        CONFIG, max_rooms=20, lag_limit=512 << 10, answers_memory=16 << 20, name_hold=0.0
    )
    assert total(bounds(small, 1, 500)) < 768 << 20
