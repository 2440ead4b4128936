"""The webhook's thread and its HTTP, against a receiver that does everything wrong."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from support.events import entered, said
from support.hook_receiver import (
    OK,
    Answering,
    HookReceiver,
    drip,
    hang,
    hook_receiver,
    huge,
    with_bytes,
    with_status,
)
from support.tls import Authority
from support.waiting import PATIENCE, eventually

from mpchat.hook import hook as module
from mpchat.hook.hook import Hook
from mpchat.hook.receiver import CONNECT_TIMEOUT, HEAD_LIMIT, Answer, Receiver, ReceiverError
from mpchat.hook.rules import signature
from mpchat.hook.target import Target
from mpchat.hook_url import HookUrl, parse

# Seconds in which a test's receiver must answer.
SOON = 0.4


@pytest.fixture
def receiver() -> Iterator[HookReceiver]:
    with hook_receiver() as found:
        yield found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let retries not take long."""
    monkeypatch.setattr("mpchat.hook.rules.FIRST_RETRY", 0.02)
    monkeypatch.setattr("mpchat.hook.rules.LAST_RETRY", 0.1)


@contextmanager
def hook_to(url: str, *, timeout: float = SOON, patience: float = 5.0, **target: object) -> Iterator[Hook]:
    hook = Hook(Target(parse(url), **target), "default", receiver=Receiver(timeout=timeout))  # type: ignore[arg-type]
    try:
        yield hook
    finally:
        hook.close(patience)
        assert not hook._thread.is_alive()


def wait_until_sent(hook: Hook, count: int) -> None:
    eventually(lambda: hook.status().sent == count, f"{count} events to be accepted")


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    records = [record for record in caplog.records if record.name == "mpchat.hook"]
    for record in records:  # a log in JSON writes values as they are, and a URL has secrets
        assert isinstance(record.args, tuple)
        assert {type(each) for each in record.args} <= {str, int}
    return [record.getMessage() for record in records]


# One request.


def test_a_request_says_what_it_is_and_is_signed(receiver: HookReceiver) -> None:
    url = receiver.url.replace("http://", "http://me:p%40ss@") + "?key=1"
    before = int(time.time())
    with hook_to(url, secret="비밀".encode()) as hook:
        hook.said(said("안녕"))
        wait_until_sent(hook, 1)
        assert "p@ss" not in hook.status().url
        assert "key" not in hook.status().url
    (posted,) = receiver.requests
    assert posted.target == "/events?key=1"
    assert posted.headers["authorization"] == "Basic bWU6cEBzcw=="
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["user-agent"].startswith("mpchat/")
    assert posted.headers["x-mpchat-delivery"] == f"{posted.content['instance']}-1-1"
    at = int(posted.headers["x-mpchat-signature"].split(",")[0].removeprefix("t="))
    assert before <= at <= time.time()
    assert posted.headers["x-mpchat-signature"] == signature("비밀".encode(), at, posted.body)
    assert posted.content["events"][0]["message"] == "안녕"


def test_without_a_secret_nothing_is_signed(receiver: HookReceiver) -> None:
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        wait_until_sent(hook, 1)
    assert "x-mpchat-signature" not in receiver.requests[0].headers


def test_events_that_come_together_go_together_on_one_connection(receiver: HookReceiver) -> None:
    with hook_to(receiver.url) as hook:
        for number in range(20):
            hook.said(said(f"{number}", seq=number + 1))
            hook.moved(entered(f"m{number}"))
        wait_until_sent(hook, 40)
        hook.said(said("later"))
        wait_until_sent(hook, 41)
    assert [each["number"] for each in receiver.events] == list(range(1, 42))
    assert receiver.connections == 1
    assert len(receiver.requests) < 10


def test_only_rooms_of_the_patterns_are_sent(receiver: HookReceiver) -> None:
    with hook_to(receiver.url, rooms=("게임*",)) as hook:
        hook.said(said("no"))
        hook.moved(entered("no"))
        hook.said(said("yes", room="게임-1"))
        hook.moved(entered("밥", "게임-2"))
        wait_until_sent(hook, 2)
    assert [(each["number"], each["room"]) for each in receiver.events] == [(1, "게임-1"), (2, "게임-2")]


def test_names_of_rooms_that_clients_make_are_not_remembered_for_ever(
    receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 10)
    with hook_to(receiver.url, rooms=("x",)) as hook:
        for number in range(100):
            hook.moved(entered("a", f"r{number}"))
        assert len(hook._heard) <= 10


# Faults.

FAULTS = {
    "hangs": hang,
    "drips": drip,
    "closes": with_bytes(b""),
    "garbage": with_bytes(b"\x00\xff\x16\x03 not HTTP\r\n\r\n" * 100),
    "half an answer": with_bytes(b"HTTP/1.1 200 OK\r\nContent-Le"),
    "a long head": with_bytes(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 4 * HEAD_LIMIT + b"\r\n\r\n"),
    "only news": with_bytes(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "500": with_status(500),
    "429": with_status(429, "Retry-After: 0"),
    "503 with nonsense": with_status(503, "Retry-After: \x7fsoon"),
    "302": with_status(302, "Location: http://127.0.0.1:1/elsewhere"),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_batch_is_sent_again_as_it_was_until_it_is_accepted(
    receiver: HookReceiver, fault: Answering
) -> None:
    receiver.answers.extend([fault, fault])
    with hook_to(receiver.url) as hook:
        hook.said(said("a", "b"))
        receiver.wait_for(1)
        hook.said(said("c", seq=3))
        wait_until_sent(hook, 3)
        status = hook.status()
    assert (status.state, status.waiting, status.dropped) == ("ok", 0, 0)
    first, second, third, last = receiver.requests
    assert first.body == second.body == third.body
    assert len({each.headers["x-mpchat-delivery"] for each in (first, second, third)}) == 1
    assert (last.content["first"], last.content["last"]) == (3, 3)
    assert [each["message"] for each in receiver.events] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        (hang, f"no answer within {SOON:g} s"),
        (with_bytes(b"garbage\r\n\r\n"), "its answer is not HTTP"),
        (with_bytes(b""), "it closes connections without an answer"),
        (with_status(503), "it answers 503"),
        (with_status(301, "Location: http://a"), "it answers 301, and redirects are not followed"),
    ],
)
def test_status_and_log_say_why_it_fails_and_that_it_works_again(
    receiver: HookReceiver, fault: Answering, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.append(fault)
    before = time.time()
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        wait_until_sent(hook, 1)
        eventually(lambda: hook.status().state == "ok", "the state to be ok")
        assert before <= hook.status().since <= time.time()
    assert log_lines(caplog) == [
        f"events not delivered, failing: {why}: {receiver.url}",
        f"events delivered again, 0 dropped so far: {receiver.url}",
    ]


def test_a_receiver_that_is_not_there_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with hook_receiver() as gone:
        url = gone.url
    with hook_to(url, patience=0.3) as hook:
        hook.said(said("a", "b"))
        eventually(lambda: hook.status().state == "failing: Connection refused", "it to fail")
    assert log_lines(caplog) == [
        f"events not delivered, failing: Connection refused: {url}",
        f"not delivered, 2 events: {url}",
    ]


def test_an_answer_counts_although_its_body_never_ends(receiver: HookReceiver) -> None:
    receiver.answers.append(huge)
    with hook_to(receiver.url, timeout=60.0) as hook:
        hook.said(said("a"))
        wait_until_sent(hook, 1)
        hook.said(said("b"))
        wait_until_sent(hook, 2)
    assert len(receiver.requests) == 2


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK,
        b"HTTP/1.1 204 No Content\r\n\r\n",
    ],
)
def test_other_ways_to_accept_keep_the_connection(receiver: HookReceiver, answer: bytes) -> None:
    receiver.answers.append(with_bytes(answer, stays=True))
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        wait_until_sent(hook, 1)
        hook.said(said("b"))
        wait_until_sent(hook, 2)
    assert (receiver.connections, len(receiver.requests)) == (1, 2)


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.0 200 OK\r\n\r\nuntil the end", b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", OK]
)
def test_a_connection_that_the_receiver_closes_is_no_failure(
    receiver: HookReceiver, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.append(with_bytes(answer))
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        wait_until_sent(hook, 1)
        hook.said(said("b"))
        wait_until_sent(hook, 2)
    assert (receiver.connections, len(receiver.requests)) == (2, 2)
    assert log_lines(caplog) == []


def test_a_connection_that_ends_while_it_is_used_again_is_no_failure(
    receiver: HookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.extend([with_bytes(OK, stays=True), with_bytes(b"")])
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        wait_until_sent(hook, 1)
        hook.said(said("b"))
        wait_until_sent(hook, 2)
    assert len(receiver.requests) == 3
    assert log_lines(caplog) == []


def test_what_a_proxy_says_to_an_idle_connection_is_no_answer(
    receiver: HookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.append(with_bytes(OK + b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"))
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        wait_until_sent(hook, 1)
        hook.said(said("b"))
        wait_until_sent(hook, 2)
    assert (receiver.connections, len(receiver.requests)) == (2, 2)
    assert log_lines(caplog) == []


def test_a_receiver_may_ask_to_wait(receiver: HookReceiver) -> None:
    receiver.answers.append(with_status(429, "Retry-After: 1"))
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        receiver.wait_for(1)
        begun = time.monotonic()
        receiver.wait_for(2)
        assert time.monotonic() - begun > 0.9


def test_what_is_refused_is_dropped_and_told(
    receiver: HookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.append(with_status(422))
    with hook_to(receiver.url) as hook:
        hook.said(said("a", "b"))
        eventually(lambda: hook.status().dropped == 2, "it to be dropped")
        assert hook.status().state == "failing: it refuses events, it answers 422"
        hook.said(said("c"))
        wait_until_sent(hook, 1)
    assert receiver.requests[-1].content["events"][0] == {
        "event": "dropped",
        "number": 1,
        "last": 2,
        "count": 2,
    }
    assert f"dropped, 2 events: {receiver.url}" in log_lines(caplog)


def test_a_slow_receiver_makes_nobody_wait_and_hears_what_was_dropped(
    receiver: HookReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.append(hang)
    with hook_to(receiver.url, timeout=1.0, queue=64 << 10) as hook:
        hook.said(said("first"))
        receiver.wait_for(1)
        for number in range(5000):
            hook.said(said("x" * 100, seq=number + 1))
        assert len(receiver.requests) == 1, "none of these has waited for the receiver"
        assert hook.status().dropped > 4000
        hook.said(said("last"))
        receiver.wait_for_event(message="last")
    numbers: list[int] = []
    for each in receiver.events:
        numbers += range(each["number"], each.get("last", each["number"]) + 1)
    assert numbers == list(range(1, 5003))
    dropped = [each for each in receiver.events if each["event"] == "dropped"]
    assert sum(each["count"] for each in dropped) == hook.status().dropped
    assert any(line.startswith("dropped, ") for line in log_lines(caplog))


# Other settings.


def test_another_target_holds_from_the_next_try_on(receiver: HookReceiver) -> None:
    receiver.answers.extend([with_status(503, "Retry-After: 600")] * 2)
    with hook_receiver() as other, hook_to(receiver.url, secret=b"old") as hook:
        hook.said(said("a"))
        receiver.wait_for(1)
        eventually(lambda: "503" in hook.status().state, "the answer to be read")
        hook.follow(Target(parse(other.url), ("x",), b"new"))
        other.wait_for(1)
        hook.said(said("b"))
        hook.said(said("c", room="x"))
        other.wait_for_event(message="c")
    assert [each["message"] for each in other.events] == ["a", "c"]
    assert other.requests[0].body == receiver.requests[0].body
    at = int(other.requests[0].headers["x-mpchat-signature"].split(",")[0].removeprefix("t="))
    assert other.requests[0].headers["x-mpchat-signature"] == signature(b"new", at, other.requests[0].body)


# The end.


def test_at_the_end_what_waits_is_sent_at_once(receiver: HookReceiver) -> None:
    receiver.answers.append(with_status(503, "Retry-After: 600"))
    with hook_to(receiver.url) as hook:
        hook.said(said("a"))
        eventually(lambda: "503" in hook.status().state, "the answer to be read")
        hook.said(said("b"))
        begun = time.monotonic()
    assert time.monotonic() - begun < 5.0
    assert [each["message"] for each in receiver.events] == ["a", "b"]


@pytest.mark.parametrize("fault", [hang, drip, huge], ids=["hangs", "drips", "huge"])
def test_the_end_does_not_wait_for_a_receiver_that_hangs(
    receiver: HookReceiver, fault: Answering, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers.append(fault)
    with hook_to(receiver.url, timeout=60.0, patience=0.2) as hook:
        hook.said(said("a", "b"))
        receiver.wait_for(1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 5.0
    if fault is not huge:
        assert log_lines(caplog) == [f"not delivered, 2 events: {receiver.url}"]


def test_what_ends_at_once_waits_for_nothing(receiver: HookReceiver) -> None:
    receiver.answers.append(hang)
    with hook_to(receiver.url, timeout=60.0) as hook:
        hook.said(said("a"))
        receiver.wait_for(1)
        hook.end()
        hook._thread.join(5.0)
        assert not hook._thread.is_alive()


def test_a_bug_in_the_thread_is_told_and_memory_stays_bounded(
    receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Hook, "_try", lambda *_: 1 / 0)
    with hook_to(receiver.url, queue=64 << 10) as hook:
        for _ in range(1000):
            hook.said(said("a"))
        eventually(lambda: hook.status().state.startswith("failing: a bug"), "the bug to be told")
        assert hook.status().waiting * 300 < (64 << 10) + 500 * 300
    assert any("nothing more is sent" in line for line in log_lines(caplog))


# TLS.


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def server_context(authority: Authority, *names: str) -> ssl.SSLContext:
    chain, key = authority.issue(*names)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def trust(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    path = authority.folder / "authorities.pem"
    authority._authority.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))


def test_over_tls_the_connection_is_used_again(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    trust(authority, monkeypatch)
    with hook_receiver(tls=server_context(authority, "127.0.0.1")) as receiver:
        with hook_to(receiver.url, timeout=5.0) as hook:
            hook.said(said("a"))
            wait_until_sent(hook, 1)
            hook.said(said("b"))
            wait_until_sent(hook, 2)
        assert receiver.connections == 1


@pytest.mark.parametrize("names", [("127.0.0.1",), ("elsewhere.example",)], ids=["unknown", "another"])
def test_a_certificate_that_is_not_trusted_gets_nothing(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...]
) -> None:
    if names[0] == "elsewhere.example":
        trust(authority, monkeypatch)
    with hook_receiver(tls=server_context(authority, *names)) as receiver:
        with hook_to(receiver.url, timeout=5.0, patience=0.1) as hook:
            hook.said(said("secret"))
            eventually(
                lambda: hook.status().state.startswith("failing: its certificate is not trusted: "),
                "it to fail",
            )
        assert receiver.requests == []


def test_a_handshake_that_hangs_ends_in_time() -> None:
    with hook_receiver() as plain:  # reads the hello and says nothing
        plain.answers.append(hang)
        begun = time.monotonic()
        with pytest.raises(ReceiverError, match="no answer within"):
            Receiver(timeout=SOON).post(parse(plain.url.replace("http:", "https:")), b"{}", {})
        assert time.monotonic() - begun < 5.0


# One exchange, without the thread of a hook.


def test_an_early_answer_to_a_long_body_is_read() -> None:
    """A proxy refuses what is too long before it has read it, and closes the connection on the rest."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        early = threading.Thread(target=_answer_early, args=(listener,))
        early.start()
        url = parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
        receiver = Receiver(timeout=5.0)
        assert receiver.post(url, bytes(64 << 20), {}) == Answer(413, "Too Long", "")
        receiver.close()
        early.join()


def _answer_early(listener: socket.socket) -> None:
    sock, _ = listener.accept()
    with sock:
        sock.recv(100)
        sock.sendall(b"HTTP/1.1 413 Too Long\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@contextmanager
def full() -> Iterator[socket.socket]:
    """A listener whose queue is full: it answers no further connection."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(8):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        yield listener


def addresses(*ports: int) -> list[tuple[object, ...]]:
    """What a name server may answer."""
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]


def test_a_host_with_many_addresses_that_are_silent_takes_no_longer_than_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with full() as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: addresses(*[port] * 100))
        begun = time.monotonic()
        with pytest.raises(ReceiverError, match="no answer within"):
            Receiver(timeout=SOON).post(parse("http://many.example"), b"{}", {})
        assert time.monotonic() - begun < 5.0


def test_the_next_address_is_tried_when_one_refuses(
    receiver: HookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hook_receiver() as gone:
        pass
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **more: addresses(gone.port, receiver.port))
    sender = Receiver(timeout=5.0)
    assert sender.post(parse("http://two.example"), b"{}", {}).status == 200
    sender.close()
    assert receiver.requests[0].headers["host"] == "two.example"


def test_an_abort_ends_a_connection_that_is_being_made() -> None:
    with full() as listener:
        sender = Receiver(timeout=60.0)
        url = parse(f"http://127.0.0.1:{listener.getsockname()[1]}")
        begun = time.monotonic()
        thread = threading.Thread(target=lambda: suppressed(sender, url))
        thread.start()
        eventually(lambda: sender._sock is not None, "a connection to be begun")
        sender.abort()
        thread.join(PATIENCE)
        assert time.monotonic() - begun < CONNECT_TIMEOUT


def suppressed(sender: Receiver, url: HookUrl) -> None:
    with suppress(ReceiverError):
        sender.post(url, b"{}", {})


def test_nothing_begins_behind_an_abort(receiver: HookReceiver) -> None:
    sender = Receiver(timeout=5.0)
    sender.abort()
    with pytest.raises(ReceiverError):
        sender.post(parse(receiver.url), b"{}", {})
    assert receiver.requests == []
