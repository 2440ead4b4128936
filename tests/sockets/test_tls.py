"""A TLS process: handshakes, what goes through it both ways, its bounds, and what it tells the supervisor."""

import ipaddress
import logging
import socket
import ssl
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from hypothesis import given, settings
from hypothesis import strategies as st
from support.one_terminator import NAME, Peer, TlsBench, drained
from support.tls import Authority

from mpchat.config import resolve
from mpchat.ipc.items import Down, Up
from mpchat.ipc.lingering import LINGERING
from mpchat.tls import terminator
from mpchat.tunnel import CHUNK, PIECE, RECORDS, SCANT_PIECE

OTHER = "198.51.100.7"
# A TLS record holds so much, and what encryption adds to it is less than this (bytes).
RECORD, ADDED = 16 << 10, 256
ALERT = 21


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def files(authority: Authority) -> tuple[Path, Path]:
    return authority.issue(NAME)


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return authority.context()


@pytest.fixture
def bench(files: tuple[Path, Path]) -> Iterator[TlsBench]:
    made = TlsBench(files)
    yield made
    made.close()


def only(context: ssl.SSLContext, version: ssl.TLSVersion) -> ssl.SSLContext:
    """Return the context for this version alone."""
    context.minimum_version = context.maximum_version = version
    return context


def from_worker(bench: TlsBench, peer: Peer, data: bytes) -> None:
    """Have a worker send, and the client take all of it."""
    before = len(peer.got)
    bench.worker(peer).sendall(data)
    bench.until(lambda: len(peer.got) - before >= len(data), peer)
    assert peer.got[before:] == data


def to_worker(bench: TlsBench, peer: Peer, data: bytes) -> None:
    """Have a client send, and its worker take all of it."""
    got = bytearray()
    peer.write(data)

    def taken() -> bool:
        got.extend(drained(bench.worker(peer))[0])
        return len(got) >= len(data)

    bench.until(taken, peer)
    assert got == data


# Handshakes.


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_client_shakes_hands_and_what_both_sides_say_goes_through(
    bench: TlsBench, authority: Authority, version: ssl.TLSVersion
) -> None:
    peer = bench.shaken(only(authority.context(), version))
    assert peer.tls.version() == version.name.replace("_", ".")
    assert peer.tls.selected_alpn_protocol() is None
    (passed,) = bench.passed
    address = ("192.0.2.1", peer.sock.getsockname()[1])
    assert (passed.identity, passed.host, passed.port, passed.secure) == (1, *address, True)
    assert bench.worker(peer).family == socket.AF_UNIX
    to_worker(bench, peer, b"from the client")
    from_worker(bench, peer, b"from the worker")


def test_versions_before_1_2_are_refused_with_an_alert(bench: TlsBench, authority: Authority) -> None:
    old = authority.context()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        only(old, ssl.TLSVersion.TLSv1_1)
    peer = bench.connect(old)
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        bench.until(lambda: False, peer)
    assert bench.said("closed") == ["192.0.2.1"]


def test_a_client_hello_cut_anywhere_is_one(bench: TlsBench, context: ssl.SSLContext) -> None:
    hello = Peer(context)
    hello.advance()
    for cut in range(len(hello.unsent)):
        peer = bench.connect(context, first=cut)
        bench.settle(turns=1)
        bench.until(partial(bench.workers.__contains__, peer.identity), peer)
        bench.terminator._end(bench.terminator.clients[peer.identity], "the next one")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("first", [0, 1, 3, 5, 6, 100])
def test_a_handshake_may_come_byte_by_byte(
    bench: TlsBench, authority: Authority, first: int, version: ssl.TLSVersion
) -> None:
    peer = bench.connect(only(authority.context(), version), first=first)
    for _ in range(2):  # flights
        rest, peer.unsent = peer.unsent, bytearray()
        for byte in rest:
            assert peer.identity not in bench.workers
            peer.sock.send(bytes((byte,)))
            bench.turn()
        bench.until(lambda: peer.unsent or (peer.shaken and peer.identity in bench.workers), peer)
    to_worker(bench, peer, b"said")
    from_worker(bench, peer, b"answered")


def test_what_comes_with_the_last_bytes_of_the_handshake_is_passed_on(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    peer = bench.connect(context)
    while not peer.shaken:
        bench.turn()
        peer.receive()
    peer.write(b"at once")
    peer.send()
    bench.until(lambda: peer.identity in bench.workers)
    bench.settle()
    assert drained(bench.worker(peer)) == (b"at once", False)


@pytest.mark.parametrize("cut", [3, 5, 11, 40])
def test_bytes_that_only_look_like_tls_get_an_alert_and_the_end(
    bench: TlsBench, context: ssl.SSLContext, cut: int
) -> None:
    peer = bench.connect(context, raw=b"\x16\x03\x01\x00\x30\x01\x00\x00\x2c" + b"junk" * 100, first=cut)
    answer = bytearray()

    def ended() -> bool:
        with suppress(BlockingIOError):
            while data := peer.sock.recv(4096):
                answer.extend(data)
            return True
        peer.send()
        return False

    bench.until(ended)
    assert answer[0] == ALERT
    assert bench.said("closed") == ["192.0.2.1"]
    assert not [*bench.said("tunnels"), *bench.passed, *bench.terminator.clients]
    assert bench.terminator._ended == {terminator.NO_HANDSHAKE: 1}


def test_a_client_that_does_not_finish_its_handshake_is_ended_after_a_while(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    slow, done = bench.connect(context, first=100), bench.shaken(context)
    slow.unsent.clear()
    for seconds, left in ((terminator.HANDSHAKE_TIMEOUT - 1, 2), (terminator.HANDSHAKE_TIMEOUT + 1, 1)):
        bench.terminator.reactor.now = bench.terminator.clients[done.identity].began + seconds
        bench.terminator._beat()
        assert len(bench.terminator.clients) == left
    bench.until(lambda: slow.ended, slow)
    assert bench.said("closed") == ["192.0.2.1"]
    assert not bench.said("tunnels")
    from_worker(bench, done, b"still here")


def test_of_too_many_handshakes_the_oldest_of_the_address_with_most_are_ended(
    bench: TlsBench, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminator, "HANDSHAKES", 4)
    done = bench.shaken(context)
    hosts = [OTHER, "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.1", OTHER]
    peers = [bench.connect(context, host, first=50) for host in hosts]
    assert [each.identity in bench.terminator.clients for each in peers] == [
        True, False, False, True, True, True,
    ]  # fmt: skip
    bench.settle()
    assert bench.said("closed") == ["192.0.2.1"] * 2
    assert bench.terminator._ended == {terminator.TOO_MANY: 2}
    for each in (peers[0], peers[5]):
        bench.until(partial(bench.workers.__contains__, each.identity), each)
    from_worker(bench, done, b"still here")


def test_hosts_of_one_network_count_as_one_address_for_handshakes(
    bench: TlsBench, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(terminator, "HANDSHAKES", 3)
    hosts = ["2001:db8:0:1::1", "2001:db8:0:1::1", "2001:db8::1", "2001:db8::2", "2001:db8::3"]
    # The connections are IPv4 ones, whatever they are said to be.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminator, "own", lambda descriptor, host: socket.socket(fileno=descriptor))
        peers = [bench.connect(context, host, first=50) for host in hosts]
    kept = [each.identity in bench.terminator.clients for each in peers]
    assert kept == [False, True, False, True, True]


def test_the_network_of_a_client_is_worked_out_once(
    bench: TlsBench, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes 30 µs, and with 1 000 handshakes all are looked at for each client that comes."""
    monkeypatch.setattr(terminator, "HANDSHAKES", 5)
    monkeypatch.setattr(terminator, "own", lambda descriptor, host: socket.socket(fileno=descriptor))
    asked: list[Any] = []
    ip_network = ipaddress.ip_network

    def counted(*args: Any, **more: Any) -> Any:
        asked.append(args)
        return ip_network(*args, **more)

    monkeypatch.setattr(ipaddress, "ip_network", counted)
    for number in range(20):
        bench.connect(context, f"2001:db8:0:{number}::1", first=50)
        bench.turn()
    assert len(asked) == 20


# What goes through.


@settings(max_examples=40)
@given(data=st.data())
def test_whatever_both_sides_say_arrives_whole_and_in_order(
    data: st.DataObject, files: tuple[Path, Path], context: ssl.SSLContext
) -> None:
    sizes = st.lists(st.sampled_from([1, 2, 100, 5000, PIECE, RECORD - 1, RECORD + 1, CHUNK, 100_000]))
    theirs, ours = (data.draw(sizes) for _ in range(2))
    piece = data.draw(st.sampled_from([1000, 70_000, 1 << 20]))
    bench = TlsBench(files)
    try:
        peer = bench.shaken(context)
        sock = bench.worker(peer)
        said = b"".join(bytes((number % 251,)) * size for number, size in enumerate(theirs))
        to_say = b"".join(bytes((number % 241,)) * size for number, size in enumerate(ours))
        for number, size in enumerate(theirs):
            peer.write(bytes((number % 251,)) * size)
        sent, got = 0, bytearray()

        def all_there() -> bool:
            nonlocal sent
            if sent < len(to_say):
                with suppress(BlockingIOError):
                    sent += sock.send(to_say[sent : sent + piece])
            got.extend(drained(sock)[0])
            return len(got) >= len(said) and len(peer.got) >= len(to_say)

        bench.until(all_there, peer)
        assert (bytes(got), bytes(peer.got)) == (said, to_say)
        assert not bench.said("tunnels")
    finally:
        bench.close()


def test_records_of_one_byte_arrive_in_order(bench: TlsBench, context: ssl.SSLContext) -> None:
    peer = bench.shaken(context)
    said = bytes(range(256)) * 4
    for byte in said:
        peer.write(bytes((byte,)))
    got = bytearray()

    def taken() -> bool:
        got.extend(drained(bench.worker(peer))[0])
        return len(got) >= len(said)

    bench.until(taken, peer)
    assert got == said


def fill(bench: TlsBench, peer: Peer) -> bytearray:
    """Have the worker of a client that does not read send what it can; return that."""
    sent = bytearray()

    def more() -> bool:
        before = len(sent)
        with suppress(BlockingIOError):
            while True:
                block = len(sent).to_bytes(4, "big") * 1024
                sent.extend(block[: bench.worker(peer).send(block)])
        bench.turn()
        return len(sent) > before

    while any(more() for _ in range(20)):
        assert len(sent) < 4 << 20, "the worker can send for ever"
    return sent


def test_little_is_kept_for_a_client_that_does_not_read_and_all_arrives_when_it_does(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    peer = bench.shaken(context, buffer=8 << 10)
    client = bench.terminator.clients[peer.identity]
    sent = fill(bench, peer)
    assert len(client._to_network) <= CHUNK + 3 * ADDED
    assert len(sent) > CHUNK
    bench.until(lambda: len(peer.got) >= len(sent), peer)
    assert peer.got == sent
    to_worker(bench, peer, b"and still")


def test_a_client_that_does_not_read_may_speak(bench: TlsBench, context: ssl.SSLContext) -> None:
    peer = bench.shaken(context, buffer=8 << 10)
    fill(bench, peer)
    assert bench.terminator.clients[peer.identity]._to_network
    peer.write(b"said")
    peer.send()
    bench.settle()
    assert drained(bench.worker(peer)) == (b"said", False)


def test_little_is_kept_for_a_worker_that_does_not_read_and_all_arrives_when_it_does(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    peer = bench.shaken(context, buffer=32 << 10)
    client, sock = bench.terminator.clients[peer.identity], bench.worker(peer)
    assert client.near is not None
    client.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, PIECE)  # it takes parts of pieces
    said = bytearray()
    while not (peer.unsent and all(not _moves(bench, peer) for _ in range(20))):
        assert len(said) < 8 << 20, "the client can send for ever"
        if not peer.unsent:
            block = len(said).to_bytes(4, "big") * 4096
            peer.write(block)
            said += block
        assert len(client._to_near) <= PIECE + RECORD
        assert client._incoming.pending <= PIECE + RECORD
    from_worker(bench, peer, b"the other way goes on")
    got = bytearray()

    def taken() -> bool:
        got.extend(drained(sock)[0])
        return len(got) >= len(said)

    bench.until(taken, peer)
    assert got == said


def _moves(bench: TlsBench, peer: Peer) -> bool:
    before = len(peer.unsent)
    peer.send()
    bench.turn()
    return len(peer.unsent) < before


def expand(secret: bytes, label: str, length: int) -> bytes:
    """Derive from a secret of TLS 1.3 with SHA-384 (RFC 8446, section 7.1)."""
    info = struct.pack("!HB", length, 6 + len(label)) + b"tls13 " + label.encode() + b"\0"
    return HKDFExpand(hashes.SHA384(), length, info).derive(secret)


def key_updates(secret: bytes, count: int) -> bytes:
    """Return records of a client that has sent none, each with a change of keys that asks for another one."""
    sent = bytearray()
    for _ in range(count):
        message = b"\x18\x00\x00\x01\x01" + b"\x16"
        head = b"\x17\x03\x03" + struct.pack("!H", len(message) + 16)
        cipher = AESGCM(expand(secret, "key", 32))
        sent += head + cipher.encrypt(expand(secret, "iv", 12), message, head)
        secret = expand(secret, "traffic upd", 48)
    return bytes(sent)


def test_little_is_kept_for_a_client_that_changes_its_keys_all_the_time(
    bench: TlsBench, authority: Authority, tmp_path: Path
) -> None:
    context = only(authority.context(), ssl.TLSVersion.TLSv1_3)
    context.keylog_filename = str(tmp_path / "keys")
    peer = bench.shaken(context, buffer=8 << 10)
    cipher = peer.tls.cipher()
    assert cipher is not None
    assert cipher[0] == "TLS_AES_256_GCM_SHA384"
    lines = (tmp_path / "keys").read_text().splitlines()
    secrets = dict(each.split()[::2] for each in lines if not each.startswith("#"))
    peer.unsent += key_updates(bytes.fromhex(secrets["CLIENT_TRAFFIC_SECRET_0"]), 20_000)
    client = bench.terminator.clients[peer.identity]
    most = PIECE
    while any(_moves(bench, peer) for _ in range(20)):
        assert len(client._to_network) <= 3 * CHUNK
        assert client._incoming.pending <= most + RECORD
        if client._scant:  # what costs much and says nothing is taken in smaller pieces
            most = SCANT_PIECE
    assert most == SCANT_PIECE
    assert not peer.unsent
    from_worker(bench, peer, b"with the last of the keys")


# Ends.


def test_a_client_that_ends_its_stream_gets_what_the_worker_still_says(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    peer = bench.shaken(context)
    peer.write(b"last words")
    peer.say_end()
    peer.send()
    bench.settle()
    assert drained(bench.worker(peer)) == (b"last words", True)
    from_worker(bench, peer, b"owed")
    assert not bench.said("tunnels")
    bench.worker(peer).close()
    bench.until(lambda: peer.ended, peer)
    assert peer.ended_in_order
    assert bench.said("tunnels") == [peer.identity]


def test_a_client_that_ends_its_stream_without_a_word_gets_what_the_worker_still_says(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    peer = bench.shaken(context)
    peer.write(b"last words")
    peer.send()
    peer.sock.shutdown(socket.SHUT_WR)
    bench.settle()
    assert drained(bench.worker(peer)) == (b"last words", True)
    from_worker(bench, peer, b"owed")
    bench.worker(peer).close()
    bench.until(lambda: peer.ended, peer)
    assert bench.said("tunnels") == [peer.identity]


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_is_gone_is_the_end_of_the_stream_for_its_worker(
    bench: TlsBench, context: ssl.SSLContext, how: str
) -> None:
    peer = bench.shaken(context)
    if how == "reset":
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()
    bench.settle()
    assert drained(bench.worker(peer)) == (b"", True)
    bench.worker(peer).close()
    bench.settle()
    assert bench.said("tunnels") == [peer.identity]
    assert not [*bench.said("closed"), *bench.terminator.clients]


@pytest.mark.parametrize("unread", [0, 10, 1 << 20])
@pytest.mark.parametrize("how", ["close", "shutdown"])
def test_when_the_worker_closes_the_client_gets_all_and_the_end_in_order(
    bench: TlsBench, context: ssl.SSLContext, unread: int, how: str
) -> None:
    peer = bench.shaken(context)
    sock = bench.worker(peer)
    peer.write(bytes(unread))
    while any(_moves(bench, peer) for _ in range(20)):
        pass
    peer.unsent.clear()
    sock.send(b"x" * 150_000)
    if how == "close":
        sock.close()
    else:
        sock.shutdown(socket.SHUT_WR)
    bench.until(lambda: peer.ended, peer)
    assert peer.ended_in_order
    assert peer.got == b"x" * 150_000
    assert bench.said("tunnels") == [peer.identity]


def test_a_client_that_does_not_read_is_ended_some_time_after_its_worker_has_closed(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    """Else it would be nobody's: no worker has it, and it does not count for its address."""
    stuck, reading = (bench.shaken(context, buffer=8 << 10) for _ in range(2))
    for peer in (stuck, reading):
        fill(bench, peer)
    bench.worker(stuck).close()
    for seconds, left in ((0, 2), (terminator.LAST_WORDS - 1, 2), (terminator.LAST_WORDS + 1, 1)):
        bench.settle()
        bench.terminator.reactor.now += seconds
        bench.terminator._beat()
        assert len(bench.terminator.clients) == left
    assert list(bench.terminator.clients) == [reading.identity]
    bench.settle()
    assert bench.said("tunnels") == [stuck.identity]


def test_a_client_gets_all_that_was_said_before_garbage_of_it_ends_it(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    peer = bench.shaken(context)
    bench.worker(peer).send(b"to the client")
    peer.write(b"to the worker")
    peer.unsent += b"\x17\x03\x03\x00\x20" + b"garbage!" * 4
    peer.send()
    bench.settle()
    assert drained(bench.worker(peer)) == (b"to the worker", True)
    raised = []
    try:
        bench.until(lambda: peer.ended, peer)
    except ssl.SSLError as error:
        raised.append(error.reason)
    assert raised == ["SSLV3_ALERT_BAD_RECORD_MAC"]
    assert peer.got == b"to the client"
    assert bench.said("tunnels") == [peer.identity]


# Fairness.


def test_one_address_with_many_clients_that_flood_holds_up_no_other(
    bench: TlsBench, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    flooding = [bench.shaken(context) for _ in range(100)]
    other = bench.shaken(context, OTHER)
    # A round is over at once: each turn of the loop has one turn for those that wait.
    monkeypatch.setattr(terminator, "ROUND_TIME", -1.0)
    for each in flooding:
        for _ in range(1000):
            each.write(b"x")
        bench.deliver(each)
    for _ in range(5):
        bench.turn()
    assert len(list(bench.terminator.turns._lines)) == 1
    for _ in range(5):
        other.write(b"said")
        bench.deliver(other)
        for _ in range(3):
            bench.turn()
        assert drained(bench.worker(other)) == (b"said", False)
    assert bench.terminator.turns


def test_clients_of_one_address_have_their_turns_one_after_the_other(
    bench: TlsBench, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    peers = [bench.shaken(context) for _ in range(4)]
    monkeypatch.setattr(terminator, "ROUND_TIME", -1.0)
    for each in peers:
        for _ in range(5 * RECORDS):
            each.write(b"x")
        bench.deliver(each)
    for _ in range(8):
        bench.turn()
    assert {len(drained(bench.worker(each))[0]) for each in peers} == {2 * RECORDS}


# Certificates, and what the supervisor says.


def test_a_new_certificate_is_shown_to_those_that_come_and_others_go_on(
    bench: TlsBench, authority: Authority, context: ssl.SSLContext
) -> None:
    before = bench.shaken(context)
    halfway = bench.connect(context, first=100)
    bench.turn()
    renewed = authority.issue(NAME, stem="renewed")
    bench.show(renewed)
    after = bench.shaken(context)
    bench.until(lambda: halfway.identity in bench.workers, halfway)
    shown = [each.tls.getpeercert(binary_form=True) for each in (before, halfway, after)]
    expected = ssl.PEM_cert_to_DER_cert(renewed[0].read_text())
    assert shown[0] == shown[1] != expected == shown[2]
    to_worker(bench, before, b"still here")
    from_worker(bench, before, b"still here")


def test_a_certificate_that_cannot_be_used_changes_nothing(
    bench: TlsBench, authority: Authority, context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    chain, key = authority.issue(NAME, stem="mine")
    _, other_key = authority.issue(NAME, stem="other")
    bench.show((chain, other_key))
    bench.show((key, chain))
    said = [each.getMessage() for each in caplog.records if each.levelname == "ERROR"]
    assert len(said) == 2
    assert all("the one before is shown" in each for each in said)
    bench.shaken(context)


def test_it_is_ready_with_its_first_certificate_and_takes_nobody_before(
    files: tuple[Path, Path], authority: Authority, context: ssl.SSLContext
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TlsBench, "show", lambda bench, files: None)
        bench = TlsBench(files)
    try:
        early = bench.connect(context)
        bench.turn()
        assert bench.said("nacks") == [early.identity]
        assert not bench.link.readable
        for _ in range(2):
            bench.show(files)
        assert [each.kind for each in bench.link.receive()] == [Up.READY]
        bench.shaken(context)
    finally:
        bench.close()


def test_a_client_whose_connection_the_supervisor_cannot_take_is_ended(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    bench.refuses = True
    peer = bench.connect(context)
    bench.until(lambda: peer.ended, peer)
    assert bench.said("tunnels") == [peer.identity]
    assert not [*bench.terminator.clients, *bench.terminator._passed]
    assert drained(bench.worker(peer)) == (b"", True)


def test_receipts_tell_clients_that_never_shook_hands_from_others(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    done = bench.shaken(context)
    never = bench.connect(context, OTHER, first=50)
    bench.turn()
    assert bench.said("acks") == [done.identity, never.identity]
    never.sock.close()
    bench.settle()
    assert (bench.said("closed"), bench.said("tunnels")) == ([OTHER], [])
    bench.worker(done).close()
    bench.settle()
    assert (bench.said("closed"), bench.said("tunnels")) == ([OTHER], [done.identity])


def test_a_process_that_drains_takes_nobody_and_serves_on(bench: TlsBench, context: ssl.SSLContext) -> None:
    peer = bench.shaken(context)
    bench.link.receive()
    bench.terminator.take(Down.DRAIN, None)
    assert [each.kind for each in bench.link.receive()] == [Up.DRAINED]
    late = bench.connect(context)
    bench.turn()
    assert bench.said("nacks") == [late.identity]
    from_worker(bench, peer, b"owed")
    assert not bench.terminator.lifetime.finished


def test_a_process_that_closes_ends_with_its_last_client(bench: TlsBench, context: ssl.SSLContext) -> None:
    peer, never = bench.shaken(context), bench.connect(context, first=50)
    bench.terminator.take(Down.CLOSE, 60.0)
    bench.until(lambda: never.ended, never)
    assert not bench.terminator.lifetime.finished
    bench.worker(peer).send(b"the last words")
    bench.worker(peer).close()
    bench.until(lambda: peer.ended, peer)
    assert (bytes(peer.got), peer.ended_in_order) == (b"the last words", True)
    for each in (peer, never):
        each.sock.close()
    bench.until(lambda: bench.terminator.lifetime.finished)


def test_what_has_come_is_passed_on_although_the_worker_ends_its_stream_meanwhile(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    """OpenSSL fails for good where it is to end with something unread."""
    peer = bench.shaken(context)
    client = bench.terminator.clients[peer.identity]
    peer.write(b"said last")
    peer.send()
    client.receive()
    bench.worker(peer).send(b"owed")
    client.encrypt()
    bench.worker(peer).shutdown(socket.SHUT_WR)
    client.encrypt()
    assert not client.done
    client.decrypt()
    assert (client.done, client.network_ended) == (True, False)
    assert drained(bench.worker(peer)) == (b"said last", False)
    peer.receive()
    assert (bytes(peer.got), peer.ended_in_order) == (b"owed", True)


def test_what_a_client_said_before_it_was_reset_is_passed_on(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    peer = bench.shaken(context)
    client = bench.terminator.clients[peer.identity]
    peer.write(b"said last")
    peer.send()
    client.receive()
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.sock.close()
    bench.worker(peer).send(b"nobody hears this")
    client.encrypt()
    bench.terminator._go_on(client)
    bench.settle()
    assert drained(bench.worker(peer)) == (b"said last", True)
    bench.worker(peer).close()
    bench.until(lambda: peer.identity not in bench.terminator.clients)


def test_settings_hold_for_those_that_are_here_and_for_those_that_come(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    here = bench.shaken(context)
    config = msgspec.structs.replace(resolve([])[0], keepalive=1234.0, log_level="error", hang_timeout=99.0)
    level = logging.getLogger("mpchat").level
    try:
        bench.terminator.take(Down.SETTINGS, msgspec.msgpack.encode(config))
        assert logging.getLogger("mpchat").level == logging.ERROR
    finally:
        logging.getLogger("mpchat").setLevel(level)
    comes = bench.shaken(context)
    for each in (here, comes):
        sock = bench.terminator.clients[each.identity].sock
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 1234
    # The supervisor watches it as it was started.
    assert bench.terminator._config.hang_timeout == 10.0


def test_nobody_who_still_talks_is_reset_at_the_end(bench: TlsBench, context: ssl.SSLContext) -> None:
    peers = [bench.shaken(context) for _ in range(LINGERING + 8)]
    errors: list[int] = []

    def talk_on() -> None:
        for each in peers:
            each.write(b"nobody reads this")
            each.send()
        time.sleep(0.1)
        errors.extend(each.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for each in peers)
        for each in peers:
            each.receive()
            each.sock.close()

    bench.terminator.take(Down.CLOSE, 60.0)
    for each in peers:
        bench.worker(each).send(b"the last words")
        bench.worker(each).close()
    talking = threading.Timer(0.1, talk_on)
    talking.start()
    bench.until(lambda: bench.terminator.lifetime.finished)
    talking.join()
    assert errors == [0] * len(peers)
    assert {(bytes(each.got), each.ended_in_order) for each in peers} == {(b"the last words", True)}


def test_a_process_that_closes_waits_for_its_clients_no_longer_than_it_was_told(
    bench: TlsBench, context: ssl.SSLContext
) -> None:
    bench.shaken(context)
    bench.terminator.take(Down.CLOSE, 0.05)
    bench.until(lambda: bench.terminator.lifetime.finished)
    assert bench.terminator.clients


def test_the_end_of_the_supervisor_is_the_end(bench: TlsBench) -> None:
    bench.supervisor.sock.shutdown(socket.SHUT_RDWR)
    bench.terminator.reactor.turn(1.0)
    assert bench.terminator.lifetime.finished
