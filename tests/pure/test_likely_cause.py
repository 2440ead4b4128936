"""What bytes look like that make no frame: the text names what came and the likely cause."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.protocol.frames import FrameDecoder, encode_frame
from mpchat.protocol.likely_cause import (
    HEAD_SIZE,
    foreign,
    foreign_text,
    half_frame_text,
    shown,
    too_long_hint,
)
from mpchat.protocol.plain_dialect import PlainDialect

HELLO = '{"message":"안녕하세요"}'.encode()
LONG = (300).to_bytes(2, "little") + HELLO
TLS = bytes.fromhex("16030102000100") + bytes(100)


def text_for(data: bytes) -> str:
    """Return what a client is told that sends these bytes and no more."""
    decoder = FrameDecoder()
    decoder.feed(data)
    half = decoder.half_frame()
    assert half is not None
    return half_frame_text(half)


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (len(HELLO).to_bytes(2, "little") + HELLO, f"little-endian: read so it is {len(HELLO)}"),
        (LONG[:2] + LONG[2:].ljust(300), "little-endian: read so it is 300"),
        (len(HELLO).to_bytes(4, "little") + HELLO, "four little-endian bytes"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "this looks like HTTP: "),
        (b"PRI * HTTP/2.0\r\n", "this looks like HTTP/2: "),
        (TLS, "this looks like TLS: "),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "this looks like SSH: "),
        (HELLO, "this looks like JSON without a length: "),
        (b'{ "message": "a" }', "this looks like JSON without a length: "),
        (b'{\n    "message": "a"\n}\n', "this looks like JSON without a length: "),
        ("안녕하세요\n".encode()[1:], "text without a length"),
        (b"hello\n", "text without a length"),
        ('녕"}'.encode()[1:], "count bytes, not characters"),
        (b"a" * 61 + b'"}\n', "count bytes, not characters"),
        # Not all of it is looked at, and what is looked at ends so by chance.
        (b"a" * (HEAD_SIZE - 1) + b"}a", "text without a length"),
    ],
)
def test_the_likely_cause_is_named(data: bytes, cause: str) -> None:
    assert cause in text_for(data)


def test_the_text_says_how_many_bytes_of_how_many_came() -> None:
    assert text_for(b"\x1c\x00" + b'{"message":"twenty eight..."}'[:28]) == (
        'a frame of 7168 bytes was announced and 28 came: \\x1c\\x00{"message":"twenty eig…; the length '
        "looks little-endian: read so it is 28; two bytes of length, the high byte first, come before "
        "each payload"
    )
    assert text_for(b"\x00\x05") == "a frame of 5 bytes was announced and 0 came: \\x00\\x05"
    assert text_for(b"\x01") == "one byte of a length came, and no second one: \\x01"
    assert text_for(encode_frame(HELLO)[:9]) == (
        f'a frame of {len(HELLO)} bytes was announced and 7 came: \\x00\\x1d{{"messa'
    )
    assert text_for(b"\xff\xff" + bytes(535)) == "65000 bytes of a payload over the limit did not come"


def test_the_text_for_another_protocol_names_it_and_shows_how_it_began() -> None:
    assert foreign_text("SSH", b"SSH-2.0-x\r\n") == (
        "this looks like SSH: SSH-2.0-x\\x0d\\x0a; two bytes of length, the high byte first, come before "
        "each payload"
    )


def test_no_frame_with_a_json_object_is_taken_for_another_protocol() -> None:
    """Of every length, with every white space before the object, whatever the first key is."""
    for length in range(2, 60_001):
        head = length.to_bytes(2, "big")
        for begin in (b'{"GET / HTTP/1.1', b'{"a":', b' {"m', b'\n  {"m', b'\t"m'[:1] + b'{"', b"{}"):
            assert not foreign(head + begin), (length, begin)


@given(st.binary(max_size=80))
def test_whatever_came_the_text_is_short_and_printable(data: bytes) -> None:
    dialect = PlainDialect()
    dialect.receive_data(data, [])
    half = dialect.half_frame()
    assert (half is not None) == dialect.mid_frame
    if half is not None:
        text = half_frame_text(half)
        assert len(text) < 350
        assert all(each.isprintable() for each in text)
    assert len(shown(data)) <= 24 * 4 + 1


def test_a_length_over_the_limit_that_is_little_endian_is_told() -> None:
    replies = PlainDialect().receive_data((235).to_bytes(2, "little") + b"{", [])
    assert b"if the length is little-endian, it is 235" in replies


@pytest.mark.parametrize(("size", "hint"), [(60_160, "it is 235"), (60_001, ""), (60_161, ""), (65_535, "")])
def test_only_a_length_whose_low_byte_is_zero_may_be_little_endian(size: int, hint: str) -> None:
    assert hint in too_long_hint(size)
    assert bool(hint) == bool(too_long_hint(size))


def test_the_first_bytes_are_shown_and_all_but_printable_ascii_is_escaped() -> None:
    assert shown(b"a" * 24) == "a" * 24
    assert shown(b"a" * 25) == "a" * 24 + "…"
    assert shown(b" ~\\\x7f\x1f") == " ~\\x5c\\x7f\\x1f"
