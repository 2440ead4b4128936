"""Heads of HTTP requests, cut out of bytes in any pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.protocol.http import HEAD_LIMIT, HttpDialect
from mpchat.protocol.session import DialectState

HEADS = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HEAD /x HTTP/1.1\r\nHost: \xff\r\n\r\n", b"\r\n\r\n"]
LONG = b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_LIMIT


def feed(dialect: HttpDialect, pieces: list[bytes]) -> list[bytes | None]:
    heads = []
    for piece in pieces:
        assert dialect.receive_data(piece, []) == b""
        while dialect.has_more:
            heads.append(dialect.take_head())
    return heads


@given(st.lists(st.sampled_from(HEADS), max_size=4), st.lists(st.integers(1, 60), max_size=20))
def test_any_pieces_give_the_same_heads_also_when_another_process_goes_on(
    heads: list[bytes], sizes: list[int]
) -> None:
    data, pieces = b"".join(heads), []
    for size in sizes:
        pieces.append(data[:size])
        data = data[size:]
    assert feed(HttpDialect(), [*pieces, data]) == heads
    dialect, found = HttpDialect(), []
    for piece in [*pieces, data]:
        dialect = HttpDialect(1000, dialect.export())
        found += feed(dialect, [piece])
    assert found == heads
    assert not dialect.mid_frame
    assert dialect.held == 0


def test_half_a_head_waits() -> None:
    dialect = HttpDialect()
    assert feed(dialect, [b"GET / HTTP/1.1\r\n", b"\r"]) == []
    assert dialect.mid_frame
    assert dialect.take_head() is None
    assert dialect.export() == DialectState(b"GET / HTTP/1.1\r\n\r")


@pytest.mark.parametrize("data", [LONG, LONG + b"\r\n\r\n"])
def test_a_head_that_is_too_long_is_empty(data: bytes) -> None:
    dialect = HttpDialect()
    dialect.receive_data(data, [])
    assert dialect.has_more
    assert dialect.take_head() == b""


def test_what_follows_a_head_can_be_taken() -> None:
    dialect = HttpDialect()
    dialect.receive_data(HEADS[0] + b"\x81\x80", [])
    assert dialect.take_head() == HEADS[0]
    assert dialect.take_rest() == b"\x81\x80"
    assert dialect.held == 0
