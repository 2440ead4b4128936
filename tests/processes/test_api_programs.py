"""The HTTP API at a real server: the manual's examples, hostile requests, and reloads in the middle of it."""

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from support.api_program import Program
from support.harness import Client, Server, assert_nothing_left, kill, running
from support.manual import page
from support.members import Member
from support.programs import require
from support.sign_in import BOB, BOBS, Registry
from support.waiting import PATIENCE, eventually

from mpchat.auth.grant import SERVICE, Grant
from mpchat.auth.keys import load_key
from mpchat.auth.tokens import make_token

pytestmark = pytest.mark.one_python

PAGE = page("api")
# A command of the page and, where one follows, the answer below it.
EXAMPLES = re.findall(r"^```sh\n(.*?)^```\n(?:\n```json\n(.*?)^```\n)?", PAGE, re.MULTILINE | re.DOTALL)
ROOM, NAME = "게임-7", "알림"
ROOM_PATH = "/api/rooms/%EA%B2%8C%EC%9E%84-7"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, registry: Registry) -> Iterator[Server]:
    """A server for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("api")
    with running(folder, "--jwt-key", str(registry.key), "--accounts", str(registry.accounts)) as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture(scope="module")
def token(shared: Server, registry: Registry) -> str:
    """A token as the manual has it made."""
    done = shared.run("token", NAME, "--role", "service", "--for", "24h", "--jwt-key", str(registry.key))
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def program(shared: Server, token: str) -> Iterator[Program]:
    made = Program(shared, token)
    yield made
    made.close()


def code(answer: Any) -> str:
    return str(answer["error"]["code"])


# The manual.


def test_the_examples_of_the_manual(shared: Server, token: str, tmp_path: Path) -> None:
    require("curl", "sh")
    host, port = shared.address
    commands = [(each.replace("127.0.0.1:4000", f"{host}:{port}"), shown) for each, shown in EXAMPLES]
    assert len(commands) == 13
    with Member(shared.address) as alice, Member(shared.address) as bob:
        alice.join("앨리스", room=ROOM)
        bob.join("bob")
        for command, shown in commands:
            done = subprocess.run(
                ["sh", "-c", command],
                env={**os.environ, "TOKEN": token},
                cwd=tmp_path,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            got = json.loads(done.stdout)
            assert "error" not in got, (command, got)
            if shown:
                assert like(got, json.loads(shown)), (command, got)
        assert alice.hear_from_room("다섯 판이 끝났습니다")["from"] == NAME
        told = alice.hear_from_room("네 차례야")
        assert (told["from"], told["to"]) == (NAME, "앨리스")
        assert alice.until("welcome")["room"] == "lobby"
        with pytest.raises(AssertionError, match="ended"):
            bob.until("nothing")


def like(got: Any, shown: Any) -> bool:
    """Tell whether an answer is like the one that the page shows: moments and counts may differ."""
    if isinstance(shown, dict):
        return got.keys() == shown.keys() and all(like(got[key], shown[key]) for key in shown)
    if isinstance(shown, list):
        return len(got) == len(shown) and all(map(like, got, shown))
    if isinstance(shown, str) and not re.fullmatch(r"[\w-]{12}", shown):
        return bool(got == shown)
    return type(got) is type(shown) or {type(got), type(shown)} <= {int, float, type(None)}


# Tokens.


def test_tokens_that_do_not_do(shared: Server, registry: Registry) -> None:
    grant = Grant(NAME, SERVICE, expires=time.time() + 60)
    foreign = make_token(load_key(b"another key of 32 bytes or more .."), grant, "mpchat", time.time())
    for shown, status, said in [
        ("", 401, "auth_required"),
        ("nonsense", 401, "bad_credentials"),
        (foreign, 401, "bad_credentials"),
        (registry.token(NAME, -5, role="service"), 401, "expired"),
        (registry.token(NAME), 403, "not_allowed"),
        (registry.token(NAME, role="operator"), 403, "not_allowed"),
        (registry.token(NAME, role="service", rooms=["다른-*"]), 403, "not_allowed"),
    ]:
        program = Program(shared, shown)
        found, answer = program.ask("GET", "/api/rooms/lobby")
        assert (found, code(answer)) == (status, said)
        assert program.headers.get("www-authenticate", "").startswith("Bearer") == (status == 401)
        program.close()


def test_a_token_of_a_program_lets_no_client_in(shared: Server, token: str) -> None:
    with Member(shared.address) as member:
        assert member.refused(join={"jwt": token}) == "not_allowed"


def test_a_server_without_a_key_says_which_setting_is_missing(folder: Path) -> None:
    with running(folder, workers=1) as server:
        program = Program(server, "x")
        status, answer = program.ask("GET", "/api/rooms")
        assert (status, code(answer)) == (503, "no_key")
        assert "jwt_key" in answer["error"]["text"]
        assert program.ask("GET", "/api")[1]["openapi"].startswith("3.1")
        program.close()


# What all get.


def test_members_on_all_workers_and_plain_clients_get_what_a_program_says_in_one_order(
    shared: Server, program: Program
) -> None:
    with Member(shared.address) as first, Member(shared.address) as second, Client(shared.address) as plain:
        plain.say("나도")
        first.join("첫째")
        second.join("둘째")
        numbers = []
        for each in range(3):
            first.ask(message=f"사람 {each}")
            numbers.append(program.say(f"프로그램 {each}", "lobby"))
        assert numbers == sorted(numbers)
        program.ask("POST", "/api/say", {"message": "모두에게"})
        heard = []
        for member in (first, second):
            while not {"모두에게", "사람 2"} <= {each["message"] for each in member.numbered}:
                member.take()
            said = [each for each in member.numbered if each["message"][:2] in ("사람", "프로")]
            heard.append([(each["seq"], each["from"], each["message"]) for each in said])
        assert heard[0] == heard[1]
        assert len(heard[0]) == 6
        assert [number for number, sender, _ in heard[0] if sender == NAME] == numbers
        assert f"{NAME}: 모두에게" in plain.hear_until(f"{NAME}: 모두에게")


def test_a_muted_and_a_banned_name(shared: Server, program: Program) -> None:
    assert shared.command("mute", NAME).returncode == 0
    status, answer = program.ask("POST", "/api/say", {"message": "들려요?", "room": "lobby"})
    assert (status, code(answer)) == (403, "muted")
    assert shared.command("unmute", NAME).returncode == 0
    assert shared.command("ban", NAME).returncode == 0
    assert program.ask("GET", "/api/rooms")[0] == 403
    assert shared.command("unban", NAME).returncode == 0
    assert program.ask("GET", "/api/rooms")[0] == 200


def test_the_log_has_what_a_program_has_done_and_never_its_token(
    shared: Server, program: Program, token: str
) -> None:
    program.ask("POST", "/api/mute", {"name": "훼방꾼", "for": 1})
    assert f'audit: mute "훼방꾼" for 1 s, by service "{NAME}" at 127.0.0.1: done' in shared.log
    assert token not in shared.log


# Requests in pieces, big answers, and those that wait.


def post(body: bytes, path: str = "/api/say", **headers: str) -> bytes:
    fields = {"Host": "a", "Content-Type": "application/json", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_half_a_body_is_told_that_it_is_late(registry: Registry, token: str, folder: Path) -> None:
    with running(folder, "--jwt-key", str(registry.key), "--frame-timeout", "1s", workers=1) as server:
        with Client(server.address) as client:
            client.send_raw(post(b'{"mess', Content_Length="100", Authorization=f"Bearer {token}"))
            answer = b""
            while data := client.sock.recv(4096):
                answer += data
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"too_slow"' in answer


def test_a_client_that_reads_no_big_answers_and_slow_ones_hold_up_nobody(
    shared: Server, program: Program, token: str
) -> None:
    program.ask("GET", "/api/rooms")
    slow = [Client(shared.address) for _ in range(20)]
    for each in slow:
        each.send_raw(post(b"{", Content_Length="50", Authorization=f"Bearer {token}"))
    greedy = Client(shared.address)
    greedy.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    greedy.send_raw(b"GET /api HTTP/1.1\r\nHost: a\r\n\r\n" * 200)
    with Member(shared.address) as member:
        member.join("빠른이")
        program.say("그래도 들린다", "lobby")
        member.hear_from_room("그래도 들린다")
    for each in (*slow, greedy):
        each.close()


# Workers that are replaced, and that die.


def test_no_request_is_lost_while_workers_are_replaced(shared: Server, token: str) -> None:
    """Each program asks without a pause over its own connection. None of these may end."""
    stop, said, failed = threading.Event(), [0] * 4, list[Exception]()

    def talk(number: int) -> None:
        program = Program(shared, token)
        try:
            while not stop.is_set():
                program.say(f"{number}/{said[number]}", ROOM)
                said[number] += 1
        except Exception as error:  # noqa: BLE001 (the test shows it)
            failed.append(error)
        finally:
            program.close()

    with Member(shared.address) as member:
        member.join("듣는이", room=ROOM)
        talkers = [threading.Thread(target=talk, args=(number,)) for number in range(len(said))]
        for each in talkers:
            each.start()
        try:
            for words in (("reload",), ("scale", "3"), ("scale", "2")):
                done = shared.command(*words)
                assert done.returncode == 0, done.stderr
            eventually(lambda: failed or min(said) > 5, "each program to have said something")
        finally:
            stop.set()
            for each in talkers:
                each.join(PATIENCE)
        assert failed == []
        expected = [f"{number}/{each}" for number, count in enumerate(said) for each in range(count)]
        while len(heard := [each["message"] for each in member.numbered]) < len(expected):
            member.take()
        assert in_each_order(heard, len(said)) == expected


def in_each_order(heard: Sequence[str], programs: int) -> list[str]:
    """Return what was heard, program by program."""
    return [each for number in range(programs) for each in heard if each.startswith(f"{number}/")]


def test_a_worker_that_dies_takes_its_requests_along_and_no_other(shared: Server, token: str) -> None:
    shared.wait_for_connections(0)
    programs = [Program(shared, token) for _ in range(4)]
    for each in programs:
        assert each.ask("GET", "/api/rooms")[0] == 200
    pids = {worker["pid"] for worker in shared.status()["workers"]}
    assert len(pids) == 2
    kill(pids.pop())
    left = 0
    for each in programs:
        with suppress(OSError):
            left += each.ask("GET", "/api/rooms")[0] == 200
        each.close()
    assert left == 2
    shared.wait_until_running()


def test_members_with_a_password_are_told_by_the_name_that_they_have(
    shared: Server, program: Program
) -> None:
    with Member(shared.address) as bob:
        bob.join(BOB, password=BOBS)
        assert program.ask("POST", "/api/tell", {"message": "안녕", "to": "BOB"}) == (200, {"to": BOB})
        assert bob.hear_from_room("안녕")["to"] == BOB
