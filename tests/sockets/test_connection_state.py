"""Everything that a connection consists of survives a move; what does not is named here."""

from collections.abc import Iterator

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from support.harness import raw_frame
from support.one_worker import Bench

from mpchat.ipc.connection_state import ConnectionState
from mpchat.ipc.items import PLAIN, Down
from mpchat.ipc.stream_buffer import Place
from mpchat.protocol.session import DialectState
from mpchat.worker.connection import Connection

# Fields of a connection that its state holds, some of them under another name; the peer's address, the
# identity, the socket and whether the client is a speaker travel beside it.
MOVED = {
    "allowance",
    "asking",  # only while a join's proof is being checked: else all that was asked for was served
    "barred",
    "budget",
    "cursor",
    "dialect",
    "fanout",
    "half_closed",
    "heard",
    "outbox",
    "outbox_open",
    "since",
    "spoke",
    "undecided",
}
BESIDE = {"host", "identity", "port", "proxied", "secure", "sock", "speaker"}
# What the next worker makes anew, because it follows from the rest or begins again there.
MADE_ANEW = {
    "closed",
    "interest",
    "late_from",
    "late_messages",
    "late_since",
    "leaving",
    "light",
    "on_event",
    "quiet_until",  # from the allowance
    "replaying",  # the hub begins again
    "more_asked",
}

SAID = [b"one", b"", b"three", b"four"]

STATES = st.builds(
    ConnectionState,
    dialect=st.just("plain"),
    dialect_state=st.one_of(
        st.builds(DialectState, st.binary(min_size=1, max_size=1), st.just(0), st.booleans()),
        st.builds(DialectState, st.just(b""), st.integers(0, 60_000), st.booleans()),
    ),
    room=st.just(PLAIN),
    place=st.builds(Place, st.integers(0, 3), st.integers(0, 1)) | st.just(Place(4)) | st.just(Place(9, 1)),
    outbox=st.binary(max_size=80),
    outbox_open=st.booleans(),
    heard=st.floats(0, 1e9),
    half_since=st.none() | st.floats(0, 1e9),
    left_at=st.floats(0, 1e9),
    allowance=st.floats(-1e3, 1e9),
    budget=st.floats(-1e3, 1e9),
    spoke=st.booleans(),
    half_closed=st.booleans(),
    asking=st.booleans(),
    since=st.floats(0, 1e9),
)


def test_each_field_of_a_connection_is_moved_or_made_anew() -> None:
    assert set(Connection.__slots__) == MOVED | BESIDE | MADE_ANEW
    assert not MOVED & MADE_ANEW


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    made = Bench()
    made.order(Down.FILL, (len(SAID), b"".join(map(raw_frame, SAID))))
    yield made
    made.close()


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(STATES)
def test_a_state_that_is_imported_is_exported_as_it_was(bench: Bench, state: ConnectionState) -> None:
    _, connection = bench.connect(1, state)
    exported = bench.worker.migration.export_state(connection)
    connection.sock.close()
    bench.clients.pop().close()
    # When it was last read from is of each move.
    assert msgspec.structs.replace(exported, left_at=state.left_at) == state
