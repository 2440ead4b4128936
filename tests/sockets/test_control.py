"""The control socket: a real one, in a loop of its own, and peers that do what no command would do."""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.reactors import LimitedReactor
from support.stubs import serving
from support.waiting import PATIENCE, eventually

from mpchat.control.client import ask
from mpchat.control.messages import (
    REQUEST_LIMIT,
    Answer,
    Reply,
    decode_answer,
    decode_request,
    encode_request,
)
from mpchat.control.requests import BY_COMMAND, Ban, Lift, Reload, Request, Scale, Status
from mpchat.control.server import CONNECTIONS, PROGRESS_LIMIT, Server
from mpchat.errors import ConfigError, Exit, MpchatError, NotRunningError, TimedOutError


class Loop:
    """A control server whose loop the test turns itself; ``asked`` is what it was asked, with the replies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reactor = LimitedReactor()
        self.asked: list[tuple[Request, Reply]] = []
        self.server = Server(self.reactor, path, lambda *asked: self.asked.append(asked[:2]))

    def peer(self, *requests: str) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(str(self.path))
        self.reactor.turn(PATIENCE)
        if requests:
            sock.sendall(lines(*requests))
            self.until(len(self.asked) + 1)
        return sock

    def until(self, count: int) -> None:
        """Turn until so many requests came in all."""
        for _ in range(100):
            if len(self.asked) >= count:
                return
            self.reactor.turn(0.1)
        raise AssertionError(f"{len(self.asked)} of {count} requests came")

    def settle(self) -> int:
        """Turn until nothing is left to do; returns how many turns had something."""
        turns = 0
        while turns < 1000:
            before = time.monotonic()
            self.reactor.turn(0.05)
            if time.monotonic() - before >= 0.05:
                return turns
            turns += 1
        raise AssertionError("it spins")

    @property
    def peers(self) -> int:
        return len(self.server._peers)

    def close(self) -> None:
        self.server.close()
        self.reactor.close()


def lines(*commands: str) -> bytes:
    return b"".join(encode_request(BY_COMMAND[each]()) for each in commands)


def progress(number: int, size: int = 0) -> Answer[dict[str, Any]]:
    return Answer({"number": number, "filling": "x" * size}, final=False)


def heard(sock: socket.socket) -> list[dict[str, Any]]:
    """Everything that is there to be read now."""
    data = bytearray()
    sock.setblocking(False)
    with suppress(BlockingIOError):
        while more := sock.recv(1 << 20):
            data += more
    assert not data or data.endswith(b"\n")
    return [json.loads(line) for line in data.splitlines()]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Loop]:
    loop = Loop(tmp_path / "control.sock")
    yield loop
    loop.close()


# Progress.


def test_answers_that_come_before_the_first_is_written_are_all_sent_in_order(loop: Loop) -> None:
    with loop.peer("reload") as sock:
        _, reply = loop.asked[0]
        for number in range(10):
            reply(progress(number))
        reply(Answer({"number": 10}))
        loop.settle()
        answers = heard(sock)
    assert [each["result"]["number"] for each in answers] == list(range(11))
    assert [each["final"] for each in answers] == [False] * 10 + [True]


def test_after_the_final_answer_nothing_more_is_said(loop: Loop) -> None:
    with loop.peer("reload") as sock:
        _, reply = loop.asked[0]
        reply(Answer({"number": 1}))
        reply(progress(2))
        reply(Answer({"number": 3}))
        loop.settle()
        reply(Answer({"number": 4}))
        loop.settle()
        assert [each["result"]["number"] for each in heard(sock)] == [1]


def test_a_peer_that_does_not_read_costs_a_bounded_amount_and_gets_its_final_answer(loop: Loop) -> None:
    with loop.peer("reload") as sock:
        _, reply = loop.asked[0]
        for number in range(3000):
            reply(progress(number, 1000))
            loop.reactor.turn(0)
            (peer,) = loop.server._peers
            assert len(peer._unsent) <= PROGRESS_LIMIT
        reply(Answer({"number": "last", "filling": "x" * 2 * PROGRESS_LIMIT}))
        assert len(peer._unsent) < 4 * PROGRESS_LIMIT
        answers: list[dict[str, Any]] = []
        while not answers or not answers[-1]["final"]:
            loop.reactor.turn(0.1)
            data = b""
            sock.settimeout(PATIENCE)
            while not data.endswith(b"\n"):
                data += sock.recv(1 << 20)
                loop.reactor.turn(0)
            answers += [json.loads(line) for line in data.splitlines()]
    numbers = [each["result"]["number"] for each in answers]
    assert numbers[-1] == "last"
    assert numbers[:-1] == sorted(numbers[:-1])
    assert 10 < len(numbers) < 3000


def test_a_line_of_progress_that_is_too_long_by_itself_is_left_out(loop: Loop) -> None:
    with loop.peer("reload") as sock:
        _, reply = loop.asked[0]
        reply(progress(1, PROGRESS_LIMIT))
        reply(progress(2))
        loop.settle()
        assert [each["result"]["number"] for each in heard(sock)] == [2]


def test_an_answer_given_just_before_the_server_closes_is_sent(loop: Loop) -> None:
    with loop.peer("stop") as sock, loop.peer() as silent:
        loop.asked[0][1](Answer({"stopped": True}))
        loop.server.close()
        assert [each["result"] for each in heard(sock)] == [{"stopped": True}]
        assert heard(silent) == []
        loop.server = Server(loop.reactor, loop.path, lambda *asked: None)


def test_the_next_request_is_looked_at_after_the_final_answer(loop: Loop) -> None:
    with loop.peer("reload", "status", "bans") as sock:
        loop.settle()
        assert len(loop.asked) == 1
        _, reply = loop.asked[0]
        reply(progress(1))
        loop.settle()
        assert len(loop.asked) == 1
        reply(Answer({"number": 2}))
        loop.until(2)
        loop.settle()
        assert [request.command() for request, _ in loop.asked] == ["reload", "status"]
        loop.asked[1][1](Answer({"number": 3}))
        loop.until(3)
        assert [each["result"]["number"] for each in heard(sock)] == [1, 2, 3]


def test_requests_without_end_behind_one_that_takes_long_end_the_connection(loop: Loop) -> None:
    with loop.peer("reload") as sock:
        sock.setblocking(False)
        sent = 0
        while loop.peers and sent < 10 * REQUEST_LIMIT:
            with suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
                sent += sock.send(lines("status") * 20)
            loop.reactor.turn(0)
        assert loop.peers == 0
        loop.asked[0][1](Answer({}))


# Peers that go.


@pytest.mark.parametrize("before", ["anything", "progress", "reading_it"])
def test_a_peer_that_goes_while_it_waits_is_noticed_at_once_and_its_answer_costs_nothing(
    loop: Loop, before: str
) -> None:
    sock = loop.peer("reload")
    _, reply = loop.asked[0]
    if before != "anything":
        reply(progress(1))
    if before == "reading_it":
        loop.settle()
        assert heard(sock)
    sock.close()
    loop.settle()
    assert loop.peers == 0
    reply(progress(2))
    reply(Answer({}))
    assert loop.settle() == 0


def test_a_peer_that_goes_with_its_progress_unread_is_noticed(loop: Loop) -> None:
    sock = loop.peer("reload")
    _, reply = loop.asked[0]
    for number in range(3000):
        reply(progress(number, 1000))
        loop.reactor.turn(0)
    sock.close()
    loop.settle()
    assert loop.peers == 0


def test_a_peer_that_waits_costs_no_turns(loop: Loop) -> None:
    with loop.peer("reload") as sock:
        assert loop.settle() == 0
        loop.asked[0][1](progress(1))
        assert loop.settle() <= 2
        assert loop.settle() == 0
        assert heard(sock)


def test_connections_that_ask_nothing_are_dropped_before_one_that_waits(loop: Loop) -> None:
    with loop.peer("reload") as sock:
        others = [loop.peer() for _ in range(CONNECTIONS + 5)]
        assert loop.peers == CONNECTIONS
        loop.asked[0][1](Answer({"number": 1}))
        loop.settle()
        assert heard(sock)[0]["final"]
        for each in others:
            each.close()


def test_a_peer_that_is_dropped_in_the_turn_in_which_it_speaks_harms_nobody(loop: Loop) -> None:
    peers = [loop.peer() for _ in range(CONNECTIONS)]
    newest = socket.socket(socket.AF_UNIX)
    newest.connect(str(loop.path))
    for each in peers:
        each.sendall(lines("status"))
    for _ in range(5):
        loop.reactor.turn(0.1)
    assert len(loop.asked) == CONNECTIONS - 1
    for each in (newest, *peers):
        each.close()


@pytest.mark.parametrize("answer", [Answer({"path": "\udcff"}), Answer({}, 5, "in \udcff: wrong")])
def test_an_answer_that_is_no_text_is_sent_as_text(loop: Loop, answer: Answer[object]) -> None:
    with loop.peer("reload") as sock:
        _, reply = loop.asked[0]
        reply(Answer({"path": "\udcff"}, final=False))
        reply(answer)
        loop.settle()
        first, last = heard(sock)
        assert (first["exit"], first["final"]) == (0, False)
        assert last["exit"] == (answer.exit or Exit.FAILED)
        assert last["text"].replace("\\", "") in (
            "in udcff: wrong",
            "the answer is not text: it holds bytes that are not UTF-8",
        )


# The side of the command.


def test_ask_passes_progress_on_and_returns_the_final_answer(tmp_path: Path) -> None:
    def handle(request: Request, reply: Reply) -> None:
        for number in range(100):
            reply(progress(number))
        assert isinstance(request, Scale)
        reply(Answer({"asked": request.workers}))

    seen: list[int] = []
    with serving(tmp_path / "s", handle):
        request = Scale(3)
        answer = ask(tmp_path / "s", request, PATIENCE, lambda facts: seen.append(facts["number"]))
        assert answer.result == {"asked": 3}
        assert seen == list(range(100))
        assert ask(tmp_path / "s", request, PATIENCE) == answer


def test_the_timeout_is_the_longest_silence_not_the_whole_time(tmp_path: Path) -> None:
    reactors: list[Any] = []

    def handle(request: Request, reply: Reply) -> None:
        for number in range(8):
            reactors[0].call_later(0.2 * number, lambda: reply(progress(1)))
        if isinstance(request, Reload):
            reactors[0].call_later(1.6, lambda: reply(Answer({"done": True})))

    with serving(tmp_path / "s", handle) as thread:
        reactors.append(thread.reactor)
        began = time.monotonic()
        assert ask(tmp_path / "s", Reload(), 1.2).result == {"done": True}
        assert time.monotonic() - began > 1.2
        with pytest.raises(TimedOutError, match=r"no answer to status within 1\.2 s"):
            ask(tmp_path / "s", Status(), 1.2)


def test_a_command_that_ends_by_ctrl_c_in_between_is_gone_for_the_server(tmp_path: Path) -> None:
    replies: list[Reply] = []

    def handle(request: Request, reply: Reply) -> None:
        replies.append(reply)
        reply(progress(1))

    def interrupt(facts: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    with serving(tmp_path / "s", handle):
        with pytest.raises(KeyboardInterrupt):
            ask(tmp_path / "s", Reload(), PATIENCE, interrupt)
        (reply,) = replies
        peer: Any = getattr(reply, "__self__")  # noqa: B009
        eventually(lambda: peer.sock.fileno() < 0, "the server to notice")


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"", NotRunningError),
        (b'{"result": {}, "final": false}\n', NotRunningError),
        (b'{"result": {}, "final": false}\n{"result"', NotRunningError),
        (b'{"result": {}, "final": false}\n[]\n', MpchatError),
        (b'{"result": 5, "final": false}\n', MpchatError),
        (b"\xff\n", MpchatError),
    ],
)
def test_what_ends_or_is_no_answer_after_progress_is_told(
    tmp_path: Path, said: bytes, error: type[MpchatError]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "s"))
        listener.listen()

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.recv(1000)
                sock.sendall(said)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(error):
            ask(tmp_path / "s", Reload(), PATIENCE)
        thread.join()


def test_an_answer_of_a_server_that_knows_no_progress_is_final() -> None:
    assert decode_answer(b'{"result": {}, "version": 1}').final


# What a request is.


@pytest.mark.parametrize(
    ("line", "request_"),
    [
        ('{"command": "status"}', Status()),
        ('{"command": "scale", "arguments": {"workers": 3}, "version": 1}', Scale(3)),
        ('{"command": "ban", "arguments": {"target": "a", "colour": 1}, "more": 1}', Ban("a")),
        ('{"command": "ban", "arguments": {"target": "a", "seconds": 5}}', Ban("a", 5.0)),
    ],
)
def test_a_line_of_the_wire_is_a_request_also_with_fields_of_a_later_release(
    line: str, request_: Request
) -> None:
    assert decode_request(line.encode()) == request_


@pytest.mark.parametrize("request_", [Status(), Scale(3), Ban("a", 5.0), Lift("mutes", "안녕")])
def test_a_request_goes_over_the_wire(request_: Request) -> None:
    line = encode_request(request_)
    assert set(json.loads(line)) == {"command", "arguments", "version"}
    assert decode_request(line) == request_


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "not a request: "),
        (b"[]", "not a request: Expected `object`"),
        (b"{}", "not a request: Object missing required field `command`"),
        (b"\xff", "not a request: "),
        (b'{"command": "status", "arguments": ' + b"[" * 5000, "not a request: "),
        (b'{"command": "fly"}', "this server knows no 'fly'; it knows status, stop, reload, "),
        (b'{"command": "scale"}', "wrong arguments of scale: Object missing required field `workers`"),
        (b'{"command": "scale", "arguments": {"workers": "3"}}', "wrong arguments of scale: Expected `int`"),
        (b'{"command": "lift", "arguments": {"target": "a", "what": "x"}}', "wrong arguments of lift: "),
        (b'{"command": "say", "arguments": null}', "wrong arguments of say: "),
        (b'{"command": "fly", "version": 7}', "the server speaks version 1 of the control protocol, not 7"),
    ],
)
def test_what_is_no_request_is_answered_with_what_is_wrong(loop: Loop, line: bytes, why: str) -> None:
    with loop.peer() as sock:
        sock.sendall(line + b"\n")
        loop.settle()
        (answer,) = heard(sock)
        code = Exit.USAGE if why.startswith("wrong arguments") else Exit.FAILED
        assert (answer["exit"], answer["result"], answer["final"]) == (code, {}, True)
        assert answer["text"].startswith(why)
        sock.sendall(lines("status"))
        loop.until(1)


def test_where_the_system_has_no_watch_left_one_command_ends_and_the_next_is_served(loop: Loop) -> None:
    loop.reactor.refusals = 1
    with loop.peer() as sock:
        assert sock.recv(1) == b""
    assert loop.peers == 0
    with loop.peer("status"):
        assert loop.peers == 1


def test_where_the_system_has_no_watch_left_the_socket_heals_and_wakes_later(loop: Loop) -> None:
    loop.path.unlink()
    loop.reactor.refusals = 1
    with pytest.raises(OSError, match="No space left"):
        loop.server.heal()
    assert not loop.server.in_place, "else nobody would make it again"
    loop.server.heal()
    loop.server._rest()
    loop.reactor.refusals = 2
    sock = socket.socket(socket.AF_UNIX)
    with sock:
        sock.connect(str(loop.path))
        sock.sendall(lines("status"))
        loop.until(1)


def test_a_handler_that_fails_is_told_and_the_next_request_is_served(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(request: Request, reply: Reply, uid: int) -> None:
        raise ConfigError("workers is wrong") if isinstance(request, Reload) else ZeroDivisionError

    monkeypatch.setattr(loop.server, "_handle", fail)
    with loop.peer() as sock:
        sock.sendall(lines("reload", "status"))
        loop.settle()
        found = [(each["exit"], each["text"]) for each in heard(sock)]
    assert found == [
        (Exit.USAGE, "workers is wrong"),
        (Exit.FAILED, "the server failed at status, see its log"),
    ]
