"""What a connection speaks, by its first bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.protocol.first_bytes import Speaks, speaks
from mpchat.protocol.frames import encode_frame

BEGINNINGS = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"CONNECT a:1",
        b"\x16\x03\x01\x02\0\x01",
        b"PROXY TCP4 ",
        b"\r\n\r\n\0\r\nQUIT\n",
        b"\0\x02{}",
    ]
)
# What looks like the beginning of a protocol, cut and changed, and anything.
HEADS = st.binary(max_size=20) | st.builds(
    lambda begin, cut, rest: begin[:cut] + rest, BEGINNINGS, st.integers(0, 15), st.binary(max_size=8)
)
METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE", b"CONNECT"]


@pytest.mark.parametrize("method", METHODS)
def test_a_request_is_known_with_the_space_after_its_method_and_unknown_before(method: bytes) -> None:
    line = method + b" / HTTP/1.1\r\n"
    for size in range(1, len(line)):
        assert speaks(line[:size]) is (Speaks.HTTP if size > len(method) else Speaks.UNKNOWN)


@given(st.integers(0, 0xFFFF), st.sampled_from([b"{", b" ", b"\t", b"\r", b"\n"]), st.binary(max_size=10))
def test_a_frame_of_json_is_plain_from_its_third_byte_on_whatever_its_length(
    length: int, begin: bytes, more: bytes
) -> None:
    head = length.to_bytes(2, "big") + begin + more
    assert speaks(head[:3]) is Speaks.PLAIN
    assert speaks(head) is Speaks.PLAIN
    assert speaks(head[:1]) is not Speaks.HTTP
    assert speaks(head[:2]) is not Speaks.HTTP


@given(HEADS, st.binary(max_size=20))
def test_what_is_decided_stays_whatever_follows(head: bytes, more: bytes) -> None:
    if speaks(head) is not Speaks.UNKNOWN:
        assert speaks(head + more) is speaks(head)
    elif len(head) > len("CONNECT "):
        raise AssertionError("so many bytes must be enough")


@given(st.binary(max_size=300))
def test_short_frames_are_plain_with_their_first_byte(payload: bytes) -> None:
    assert speaks(encode_frame(payload)[:1]) is Speaks.PLAIN


@pytest.mark.parametrize("minor", range(5))
def test_a_handshake_of_tls_is_known_by_its_third_byte(minor: int) -> None:
    record = bytes((22, 3, minor)) + bytes.fromhex("0200010001fc")
    assert [speaks(record[:size]) for size in (1, 2)] == [Speaks.UNKNOWN] * 2
    assert {speaks(record[:size]) for size in range(3, len(record) + 1)} == {Speaks.TLS}


@pytest.mark.parametrize(
    "head", [b"get / ", b"GETX", b"PU{", b"HEADS", b"\x16\x03\x05", b"\x16\x02\x01", b"PRI * HTTP/2.0"]
)
def test_what_only_looks_like_a_method_is_plain(head: bytes) -> None:
    assert speaks(head) is Speaks.PLAIN
