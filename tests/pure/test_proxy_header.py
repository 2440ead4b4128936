"""PROXY headers and X-Forwarded-For: whose connection it is."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.protocol.first_bytes import Speaks, speaks
from mpchat.protocol.proxy_header import ProxyHeader, forwarded_for, read_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TRUSTED = ["10.0.0.0/8", "fd00::/8"]


def second(host: str, port: int = 4711, *, command: int = 0x21, more: bytes = b"") -> bytes:
    """Return a header of version 2."""
    address = ipaddress.ip_address(host)
    family, kind = (0x11, socket.AF_INET) if address.version == 4 else (0x21, socket.AF_INET6)
    packed = socket.inet_pton(kind, host)
    body = packed + packed + port.to_bytes(2) + b"\x0f\xa0" + more
    return SIGNATURE + bytes((command, family)) + len(body).to_bytes(2) + body


HEADERS = [
    (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 4000\r\n", "192.0.2.7", 4711),
    (b"PROXY TCP6 2001:db8::7 2001:db8::1 1 65535\r\n", "2001:db8::7", 1),
    (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n", "192.0.2.7", 1),
    (b"PROXY UNKNOWN\r\n", "", 0),
    (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", "", 0),
    (second("192.0.2.7"), "192.0.2.7", 4711),
    (second("2001:db8::7"), "2001:db8::7", 4711),
    (second("::ffff:192.0.2.7"), "192.0.2.7", 4711),
    (second("192.0.2.7", more=b"\x04\x00\x01x"), "192.0.2.7", 4711),
    (second("192.0.2.7", command=0x20), "", 0),
    (SIGNATURE + b"\x20\x00\0\0", "", 0),
    (SIGNATURE + b"\x21\x31\0\xd8" + bytes(216), "", 0),
]


@pytest.mark.parametrize(("header", "host", "port"), HEADERS)
@pytest.mark.parametrize("rest", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1", b"\r\n\r\n\0"])
def test_a_header_is_read_whole_and_nothing_behind_it(
    header: bytes, host: str, port: int, rest: bytes
) -> None:
    assert read_header(header + rest) == ProxyHeader(host, port, len(header))
    for cut in range(len(header)):
        assert read_header(header[:cut]) is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\0\5{}", "no PROXY header"),
        (b"PROXYTCP4", "no PROXY header"),
        (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "no PROXY header"),
        (b"PROXY " + b"x" * 200, "more than 107 bytes"),
        (b"PROXY TCP4 " + b"1" * 96 + b"\r\n", "more than 107 bytes"),
        (b"PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n", "neither TCP4"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "neither TCP4"),
        (b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n", "neither TCP4"),
        (b"PROXY TCP4 ::1 ::1 1 2\r\n", "none of TCP4"),
        (b"PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n", "does not appear"),
        (b"PROXY TCP4 \xff 1.2.3.4 1 2\r\n", "does not appear"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "wrong port"),
        (b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n", "wrong port"),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 ١ 2\r\n".encode(), "wrong port"),
        (SIGNATURE + b"\x11\x11\0\x0c" + bytes(12), "another version"),
        (SIGNATURE + b"\x22\x11\0\x0c" + bytes(12), "another version"),
        (SIGNATURE + b"\x21\x11\x10\x01", "more than 4 KiB"),
        (SIGNATURE + b"\x21\x21\0\x0c" + bytes(12), "too short"),
    ],
)
def test_what_is_no_header_is_said_to_be_none(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_header(data)


@given(st.binary(max_size=300) | st.builds(bytes.__add__, st.just(SIGNATURE), st.binary(max_size=100)))
def test_any_bytes_are_a_header_or_not_yet_or_none(data: bytes) -> None:
    try:
        header = read_header(data)
    except ValueError:
        return
    if header is not None:
        assert 0 < header.size <= len(data)
        assert 0 <= header.port <= 0xFFFF
        if header.host:
            ipaddress.ip_address(header.host)


@pytest.mark.parametrize("header", [header for header, _, _ in HEADERS])
def test_a_header_is_taken_for_no_other_protocol(header: bytes) -> None:
    assert {speaks(header[:size]) for size in range(1, len(header))} <= {Speaks.PLAIN, Speaks.UNKNOWN}
    assert speaks(header) is Speaks.PLAIN


@pytest.mark.parametrize(
    ("lines", "client"),
    [
        ([], ""),
        (["X-Forwarded-For: 192.0.2.7"], "192.0.2.7"),
        (["x-forwarded-FOR : 192.0.2.7 "], "192.0.2.7"),
        # What the client has sent stands first: the last that is no proxy's is the truth.
        (["X-Forwarded-For: 203.0.113.9, 192.0.2.7, 10.1.2.3"], "192.0.2.7"),
        (["X-Forwarded-For: 203.0.113.9", "X-Forwarded-For: 192.0.2.7, 10.1.2.3"], "192.0.2.7"),
        (["X-Forwarded-For: [2001:db8::7], fd00::1"], "2001:db8::7"),
        (["X-Forwarded-For: ::ffff:192.0.2.7"], "192.0.2.7"),
        (["X-Forwarded-For: 10.1.2.3"], ""),
        (["X-Forwarded-For: 192.0.2.7, unknown"], ""),
        (["X-Forwarded-For: 192.0.2.7, <script>"], ""),
        (["X-Forwarded-For: 192.0.2.7, \xff"], ""),
        (["X-Forwarded-For:"], ""),
        (["Forwarded: for=192.0.2.7", "X-Real-IP: 192.0.2.7"], ""),
    ],
)
def test_the_last_address_that_is_no_proxy_s_is_the_client(lines: list[str], client: str) -> None:
    head = "\r\n".join(["POST /ws HTTP/1.1", "Host: a", *lines, "", ""]).encode("latin-1")
    assert forwarded_for(head, TRUSTED) == client
    # A body is what the client likes.
    assert forwarded_for(head + b"\r\nX-Forwarded-For: 198.51.100.7\r\n", TRUSTED) == client
