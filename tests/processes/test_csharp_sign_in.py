"""The client for C# in mono: proofs of its name, tokens that end, and an operator's requests.

The server does what a test tells it.
"""

import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support.csharp import DRIVER, Sharp, compiled, texts
from support.manual import blocks, page
from support.scripted_server import Connection, ScriptedServer, payload, welcome
from support.waiting import PATIENCE, eventually

# The tested code is not Python.
pytestmark = pytest.mark.one_python

# What no line of the driver may show.
HIDDEN = "비밀번호"
# Times half a second: the first wait of a client that reconnects with back-off, longer than a test waits.
SLOW_BACKOFF = "60"
# Seconds in which a client comes back that does not wait.
AT_ONCE = 10.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the driver: one compilation for all tests."""
    return compiled(tmp_path_factory.mktemp("csharp"), DRIVER)


@pytest.fixture
def sharp(program: list[str]) -> Iterator[Callable[..., Sharp]]:
    """Start chats in C#; all of them end with the test, and none has printed a proof."""
    with ExitStack() as stack:
        chats = list[Sharp]()

        def start(address: tuple[str, int], name: str, *proofs: str, drawn: str = "0.1") -> Sharp:
            chats.append(stack.enter_context(Sharp(program, address, name, "", "", drawn, *proofs)))
            return chats[-1]

        yield start
    for chat in chats:
        assert chat.events
        assert HIDDEN not in repr(chat.events)


def hello(name: str = "앨리스", **more: Any) -> dict[str, Any]:
    """Return the join that a connection begins with."""
    return {"join": {"name": name, "room": "lobby", **more}}


def error(code: str, **more: Any) -> bytes:
    return payload(error={"code": code, "text": "아니요", **more})


def numbered(seq: int, text: str, sender: str = "앨리스") -> bytes:
    return payload(message=text, room="lobby", seq=seq, at=1.5, **{"from": sender})


def seated(peer: Connection, chat: Sharp, **more: Any) -> Any:
    """Take the join of a connection and welcome the client; return the join."""
    received = peer.receive()
    peer.send(welcome(**{"name": "앨리스", **more}))
    chat.until("welcome")
    return received


def state(chat: Sharp) -> dict[str, str]:
    chat.do("state")
    return chat.until("state")


# Proofs.


@pytest.mark.parametrize("kind", ["password", "jwt", "secret", "source"])
def test_each_connection_shows_the_proof_and_a_change_of_rooms_does_not(
    sharp: Callable[..., Sharp], kind: str
) -> None:
    key = "jwt" if kind == "source" else kind
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"{kind}={HIDDEN}")
        with server.accept() as first:
            assert seated(first, chat) == hello(**{key: HIDDEN})
            chat.do("enter", "게임")
            assert first.receive() == {"join": {"room": "게임"}}
            first.send(welcome("앨리스", room="게임", seq=3))
            chat.until("welcome", room="게임")
        with server.accept() as second:
            again = {"room": "게임", "token": "t", "after": 3, "epoch": "one", key: HIDDEN}
            assert seated(second, chat, room="게임", seq=3, recovered=True) == {
                "join": {"name": "앨리스", **again}
            }


@pytest.mark.parametrize("kind", ["jwt", "source"])
def test_a_token_gives_the_name_when_the_program_gives_none(sharp: Callable[..., Sharp], kind: str) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "", f"{kind}={HIDDEN}")
        with server.accept() as first:
            assert seated(first, chat) == {"join": {"room": "lobby", "jwt": HIDDEN}}
            assert state(chat)["name"] == "앨리스"
            chat.do("say", "안녕")
            assert first.receive() == {"message": "안녕"}
        with server.accept() as second:
            received = seated(second, chat, recovered=True)
            assert received == hello(token="t", after=0, epoch="one", jwt=HIDDEN)


def test_role_and_end_are_those_of_the_last_welcome(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"jwt={HIDDEN}")
        with server.accept() as peer:
            assert "role" not in state(chat)
            peer.receive()
            peer.send(welcome("앨리스", role="operator", expires=1763900000.5))
            came = chat.until("welcome")
            assert (came["role"], came["expires"]) == ("operator", "1763900000.5")
            known = state(chat)
            assert (known["role"], known["expires"]) == ("operator", "1763900000.5")
            chat.do("enter", "게임")
            peer.receive()
            peer.send(welcome("앨리스", room="게임"))
            came = chat.until("welcome")
            assert (came["role"], "expires" in came) == ("member", False)
            known = state(chat)
            assert (known["role"], "expires" in known) == ("member", False)


@pytest.mark.parametrize(
    ("name", "proofs", "says"),
    [
        ("앨리스", ["password=" + HIDDEN, "secret=" + HIDDEN], "two proofs"),
        ("앨리스", ["jwt=" + HIDDEN, "source=" + HIDDEN], "two proofs"),
        ("", ["password=" + HIDDEN], "a name is needed"),
        ("", ["secret=" + HIDDEN], "a name is needed"),
        ("앨리스", ["password=" + HIDDEN * 2049], "8192 characters"),
    ],
)
def test_a_proof_that_cannot_be_shown_is_an_exception_without_the_proof(
    sharp: Callable[..., Sharp], name: str, proofs: list[str], says: str
) -> None:
    chat = sharp(("127.0.0.1", 1), name, *proofs)
    thrown = chat.until("thrown")
    assert thrown["type"] == "ArgumentException"
    assert says in thrown["text"]


def test_neither_a_proof_nor_a_chat_shows_what_the_proof_is(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"password={HIDDEN}")
        with server.accept() as peer:
            seated(peer, chat)
            # What can be read from outside is printed, and the fixture looks into all that was printed.
            assert state(chat)["shown"].startswith("Mpchat.Chat State=Connected Name=앨리스")
            assert chat.of("proof") == [{"shown": "Mpchat.Proof"}]


# Rejected proofs.


@pytest.mark.parametrize(
    "code", ["auth_required", "bad_credentials", "not_allowed", "expired", "try_later", "name_taken"]
)
@pytest.mark.parametrize("kind", ["password", "source"])
def test_a_first_join_that_is_rejected_is_told_and_ends_the_chat(
    sharp: Callable[..., Sharp], code: str, kind: str
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"{kind}={HIDDEN}")
        with server.accept() as peer:
            peer.receive()
            more = {"proofs": ["password", "jwt"]} if code == "auth_required" else {}
            peer.send(error(code, **more))
            told = chat.until("rejected")
            assert (told["name"], told["code"], told["retrying"]) == ("앨리스", code, "False")
            assert told.get("proofs") == ("password jwt" if code == "auth_required" else None)
            assert chat.until("disconnected")["retrying"] == "False"
            assert peer.receive() is None
        assert state(chat)["state"] == "Ended"


@pytest.mark.parametrize(
    ("code", "kind", "retrying"),
    [
        ("try_later", "password", "True"),
        ("try_later", "source", "True"),
        ("bad_credentials", "password", "False"),
        ("bad_credentials", "source", "False"),
        ("auth_required", "secret", "False"),
        ("not_allowed", "jwt", "False"),
        ("not_allowed", "source", "False"),
        ("expired", "jwt", "False"),
    ],
)
def test_a_later_join_that_is_rejected_ends_the_chat_unless_it_may_be_granted_later(
    sharp: Callable[..., Sharp], code: str, kind: str, retrying: str
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"{kind}={HIDDEN}")
        with server.accept() as first:
            seated(first, chat)
        with server.accept() as second:
            second.receive()
            second.send(error(code))
            assert chat.until("rejected", code=code)["retrying"] == retrying
            assert chat.until("disconnected")["retrying"] == retrying
        if retrying == "True":
            with server.accept() as third:
                seated(third, chat)
        else:
            assert state(chat)["state"] == "Ended"


def test_a_client_that_is_to_try_later_backs_off(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        # The first wait is a second, the second one two.
        chat = sharp(server.address, "앨리스", f"source={HIDDEN}", drawn="2")
        with server.accept() as first:
            seated(first, chat)
        with server.accept() as second:
            second.receive()
            second.send(error("try_later"))
            chat.until("rejected", code="try_later")
            begun = time.monotonic()
        with server.accept() as third:
            assert time.monotonic() - begun > 1.5
            seated(third, chat)


def test_a_client_without_a_name_hears_which_proofs_a_closed_server_takes(
    sharp: Callable[..., Sharp],
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "")
        with server.accept() as peer:
            for text in ("안녕", "아직 여기"):
                chat.do("say", text)
                assert peer.receive() == {"message": text}
                peer.send(error("auth_required", proofs=["password", "secret"]))
                assert chat.until("error", code="auth_required")["proofs"] == "password secret"
            assert state(chat)["state"] == "Connected"


# Tokens that end.


def test_a_client_whose_token_has_ended_comes_back_with_a_fresh_one_and_misses_nothing(
    sharp: Callable[..., Sharp],
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "source=하나,둘", drawn=SLOW_BACKOFF)
        with server.accept() as first:
            assert seated(first, chat, seq=7) == hello(jwt="하나")
            for text in ("가", "나", "다"):
                chat.do("say", text)
                assert first.receive() == {"message": text}
            first.send(numbered(8, "가"), error("expired"), numbered(9, "나"))
            begun = time.monotonic()
            assert chat.until("rejected")["retrying"] == "True"
            lost = chat.until("disconnected")
            assert (lost["retrying"], lost["unsure"], lost["unsent"]) == ("True", "2", "0")
            assert first.receive() is None
        with server.accept() as second:
            assert time.monotonic() - begun < AT_ONCE
            join = second.receive()
            assert join == hello(token="t", after=8, epoch="one", jwt="둘")
            chat.do("say", "라")
            second.send(welcome("앨리스", seq=9, recovered=True), numbered(9, "나"))
            assert second.receive() == {"message": "라"}
            second.send(numbered(10, "라"))
            chat.until("message", text="라")
        assert texts(chat.of("message")) == ["가", "나", "라"]
        assert chat.of("lost") == []


def test_what_is_said_after_the_token_has_ended_waits_for_the_next_connection(
    sharp: Callable[..., Sharp],
) -> None:
    # Ten large texts and 500 empty ones are more than the queue of events takes. The last of them come in one
    # read with the error. So the client knows that its token has ended, and does not go on before the program
    # polls.
    said = list[str]()

    def waits() -> bool:
        said.append(f"{len(said)} 말")
        chat.do("say", said[-1])
        threading.Event().wait(0.2)
        return chat.ask("queued")["value"] != "0"

    def numbers(first: int, last: int) -> list[bytes]:
        return [numbered(number, "", "밥") for number in range(first, last + 1)]

    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "source=하나,둘", drawn=SLOW_BACKOFF)
        with server.accept() as first:
            seated(first, chat)
            chat.do("hold")
            chat.do("renew", "둘")
            first.receive()
            first.send(*(numbered(number, "x" * 50_000, "밥") for number in range(1, 11)), *numbers(11, 490))
            # Nothing is written before this answer was read.
            first.send(error("try_later"))
            chat.do("say", "모두 읽었다")
            assert first.receive() == {"message": "모두 읽었다"}
            first.send(*numbers(491, 510), error("expired"))
            eventually(waits, "what is said to wait")
            left = int(chat.ask("queued")["value"])
            chat.do("poll")
            heard = [first.receive() for _ in said[:-left]]
            assert first.receive() is None
            assert chat.until("disconnected")["unsent"] == f"{left}"
        with server.accept() as second:
            seated(second, chat, seq=510, recovered=True)
            heard += [second.receive() for _ in range(left)]
        assert heard == [{"message": text} for text in said]
        assert len(chat.of("message")) == 510


def test_a_string_that_is_over_ends_the_chat(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"jwt={HIDDEN}")
        with server.accept() as first:
            seated(first, chat)
            first.send(error("expired"))
            assert chat.until("rejected", code="expired")["retrying"] == "False"
            assert chat.until("disconnected")["retrying"] == "False"
            assert first.receive() is None
        assert state(chat)["state"] == "Ended"
        assert chat.ask("renew", "새것") == {"value": "False"}


def test_a_source_is_asked_again_once_between_two_welcomes(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "source=1,2,3,4,5,6")
        with server.accept() as peer:
            assert seated(peer, chat)["join"]["jwt"] == "1"
        for over, fresh in (("2", "3"), ("4", "5")):
            with server.accept() as peer:
                received = peer.receive()
                assert received is not None
                assert received["join"]["jwt"] == over
                peer.send(error("expired"))
                assert chat.until("rejected")["retrying"] == "True"
            with server.accept() as peer:
                received = peer.receive()
                assert received is not None
                assert received["join"]["jwt"] == fresh
                if over == "2":
                    peer.send(welcome("앨리스", recovered=True))
                    chat.until("welcome")
                else:
                    peer.send(error("expired"))
                    assert chat.until("rejected")["retrying"] == "False"
        assert state(chat)["state"] == "Ended"


def test_tokens_that_end_at_once_make_no_busy_loop(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "source=1", drawn="2")
        begun = time.monotonic()
        for _ in range(4):
            with server.accept() as peer:
                seated(peer, chat)
                peer.send(error("expired"))
                assert chat.until("rejected")["retrying"] == "True"
        # At once, after a second, and at once.
        assert time.monotonic() - begun > 0.9


@pytest.mark.parametrize("answer", [f"throw{HIDDEN}", "none", ""])
def test_a_source_that_has_no_token_is_asked_again_later(sharp: Callable[..., Sharp], answer: str) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"source={answer},{answer},하나,{answer},둘")
        told = chat.until("disconnected")
        why = "has thrown IOException" if answer.startswith("throw") else "has returned none"
        assert (told["reason"], told["retrying"]) == (f"no token: JwtSource {why}", "True")
        with server.accept() as first:
            assert seated(first, chat)["join"]["jwt"] == "하나"
        with server.accept() as second:
            assert seated(second, chat)["join"]["jwt"] == "둘"
        # Once before the first connection, and once after the loss.
        rejections = [(each["code"], each["text"], each["retrying"]) for each in chat.of("rejected")]
        assert rejections == [("no_token", f"no token: JwtSource {why}", "True")] * 2


def test_a_source_that_fails_after_a_loss_is_told_once_and_again_for_another_reason(
    sharp: Callable[..., Sharp],
) -> None:
    failing = f"throw{HIDDEN},throw{HIDDEN},none,none"
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"source=하나,{failing},둘,{failing},셋")
        for shown in ("하나", "둘", "셋"):
            with server.accept() as peer:
                assert seated(peer, chat, recovered=shown != "하나")["join"]["jwt"] == shown
        why = ["has thrown IOException", "has returned none"]
        told = [(each["code"], each["text"], each["retrying"]) for each in chat.of("rejected")]
        assert told == [("no_token", f"no token: JwtSource {each}", "True") for each in why * 2]
        assert [(each["name"], each["room"]) for each in chat.of("rejected")] == [("앨리스", "lobby")] * 4


def test_a_source_that_takes_its_time_holds_up_neither_the_program_nor_dispose(
    sharp: Callable[..., Sharp],
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "source=slow")
        chat.until("slow")
        assert chat.ask("say", "안녕") == {"value": "True"}
        chat.do("dispose")
        chat.until("disposed")
        chat.until("ended")
        words = [word for word, _ in chat.events]
        assert words.index("taken") < words.index("disposed") < words.index("awake")
        assert chat.of("connected", "disconnected") == []


def test_a_source_whose_token_no_frame_holds_does_not_end_the_program(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"source={HIDDEN * 2049},하나")
        assert "8192 characters" in chat.until("disconnected")["reason"]
        with server.accept() as peer:
            assert seated(peer, chat)["join"]["jwt"] == "하나"


# Fresh tokens for the connection.


@pytest.mark.parametrize("kind", ["jwt", "source"])
def test_a_fresh_token_keeps_room_and_messages_and_is_that_of_the_next_connection(
    sharp: Callable[..., Sharp], kind: str
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"{kind}=하나" + (",둘,셋" if kind == "source" else ""))
        with server.accept() as first:
            seated(first, chat, seq=4, expires=1.0)
            first.send(numbered(5, "가", "밥"))
            chat.until("message")
            chat.do("say", "나")
            assert first.receive() == {"message": "나"}
            chat.do("renew", *(["둘"] if kind == "jwt" else []))
            assert first.receive() == {"join": {"jwt": "둘", "after": 5, "epoch": "one"}}
            chat.do("say", "다")
            first.send(welcome("앨리스", seq=6, recovered=True, expires=2.0))
            assert chat.until("welcome")["expires"] == "2"
            # What the client has said on this connection comes after the welcome, and is no history.
            first.send(numbered(5, "가", "밥"), numbered(6, "나"))
            assert first.receive() == {"message": "다"}
            first.send(numbered(7, "다"))
            chat.until("message", text="다")
        assert chat.until("disconnected")["unsure"] == "0"
        with server.accept() as second:
            shown = "둘" if kind == "jwt" else "셋"
            received = seated(second, chat, seq=7, recovered=True)
            assert received == hello(token="t", after=7, epoch="one", jwt=shown)
        assert texts(chat.of("message")) == ["가", "나", "다"]
        assert chat.of("lost") == []


def test_what_the_server_cannot_send_after_a_fresh_token_is_told_as_lost(
    sharp: Callable[..., Sharp],
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "jwt=하나")
        with server.accept() as peer:
            seated(peer, chat, seq=4)
            chat.do("renew", "둘")
            assert peer.receive() == {"join": {"jwt": "둘", "after": 4, "epoch": "one"}}
            peer.send(welcome("앨리스", seq=8, lost=[5, 7]), numbered(8, "가", "밥"))
            chat.until("message", text="가")
            assert chat.of("lost") == [{"room": "lobby", "first": "5", "last": "7"}]


@pytest.mark.parametrize("code", ["bad_credentials", "not_allowed", "try_later"])
def test_a_fresh_token_that_is_rejected_changes_nothing(sharp: Callable[..., Sharp], code: str) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "jwt=하나")
        with server.accept() as first:
            seated(first, chat)
            chat.do("renew", HIDDEN)
            chat.do("say", "아직 여기")
            received = first.receive()
            assert received is not None
            assert received["join"]["jwt"] == HIDDEN
            first.send(error(code))
            told = chat.until("error", code=code)
            # The room is the same one, so what was said after the Renew is said.
            assert told["unsent"] == "0"
            assert first.receive() == {"message": "아직 여기"}
        with server.accept() as second:
            received = second.receive()
            assert received is not None
            assert received["join"]["jwt"] == "하나"


@pytest.mark.parametrize("ends", [True, False], ids=["the_old_one_ends", "the_fresh_one_is_over"])
def test_a_fresh_token_that_crosses_the_end_of_the_old_one_is_not_forgotten(
    sharp: Callable[..., Sharp], ends: bool
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "jwt=하나")
        with server.accept() as first:
            seated(first, chat)
            chat.do("renew", "둘")
            received = first.receive()
            first.send(error("expired"))
            chat.until("error", code="expired")
            if not ends:  # the server has meant the fresh one: the connection goes on
                first.send(numbered(1, "가", "밥"))
                chat.until("message")
        with server.accept() as second:
            received = second.receive()
            assert received is not None
            assert received["join"]["jwt"] == ("둘" if ends else "하나")


@pytest.mark.parametrize("kind", ["jwt", "source"])
def test_a_fresh_token_that_was_not_answered_is_that_of_the_next_connection(
    sharp: Callable[..., Sharp], kind: str
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"{kind}=하나" + (",둘" if kind == "source" else ""))
        with server.accept() as first:
            seated(first, chat)
            chat.do("renew", "둘")
            first.receive()
        with server.accept() as second:
            # The join shows it, and it is not shown once more.
            assert seated(second, chat, recovered=True)["join"]["jwt"] == "둘"
            chat.do("say", "안녕")
            assert second.receive() == {"message": "안녕"}


def test_only_a_chat_with_a_token_renews_it(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"password={HIDDEN}")
        assert chat.ask("renew", HIDDEN)["type"] == "InvalidOperationException"
        chat = sharp(server.address, "앨리스", f"jwt={HIDDEN}")
        assert chat.ask("renew")["type"] == "InvalidOperationException"
        assert chat.ask("renew", HIDDEN * 2049)["type"] == "ArgumentException"
        assert chat.ask("renew", HIDDEN) == {"value": "True"}


# Operators' requests.

REQUESTS = [
    (["kick", "밥"], {"kick": {"name": "밥"}}),
    (["ban", "밥"], {"ban": {"name": "밥"}}),
    (["ban", "2001:db8::/32", "600"], {"ban": {"name": "2001:db8::/32", "for": 600}}),
    (["unban", "밥"], {"unban": {"name": "밥"}}),
    (["mute", "밥", "1"], {"mute": {"name": "밥", "for": 1}}),
    (["unmute", "밥"], {"unmute": {"name": "밥"}}),
    (["close", "게임"], {"close": {"room": "게임"}}),
]


def test_an_operators_requests_are_asked_and_answered(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"password={HIDDEN}")
        with server.accept() as peer:
            seated(peer, chat, role="operator")
            for count, (command, request) in enumerate(REQUESTS):
                assert chat.ask(*command) == {"value": "True"}
                assert peer.receive() == request
                about = {"action": command[0], "target": command[1], "count": count}
                peer.send(payload(moderated=about))
                assert chat.until("moderated") == {key: f"{value}" for key, value in about.items()}
            for command in (["ban", "밥", "0"], ["mute", "밥", "315360001"], ["mute", "밥", "-1"]):
                assert chat.ask(*command)["type"] == "ArgumentOutOfRangeException"
            assert chat.ask("kick", "x" * 81)["type"] == "ArgumentException"
            assert chat.ask("close", "x" * 129)["type"] == "ArgumentException"
        # All were answered, so none is in doubt.
        chat.until("disconnected")
        assert chat.of("error") == []


@pytest.mark.parametrize(
    "code", ["not_allowed", "no_such_name", "bad_room", "bad_name", "failed", "not_a_message"]
)
def test_a_rejected_request_of_an_operator_is_told_and_no_message_is_meant(
    sharp: Callable[..., Sharp], code: str
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스")
        with server.accept() as peer:
            seated(peer, chat)
            chat.do("say", "안녕")
            assert peer.receive() == {"message": "안녕"}
            chat.do("kick", "밥")
            assert peer.receive() == {"kick": {"name": "밥"}}
            peer.send(error(code))
            chat.until("error", code=code)
            assert state(chat)["state"] == "Connected"
        assert chat.until("disconnected")["unsure"] == "1"
        assert [each["code"] for each in chat.of("error")] == [code]


def test_a_kick_that_was_not_answered_is_told_and_not_asked_for_again(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스")
        with server.accept() as first:
            seated(first, chat)
            chat.do("kick", "밥")
            assert first.receive() == {"kick": {"name": "밥"}}
            chat.do("who")
            assert first.receive() == {"who": {}}
        told = chat.until("error")
        assert told["code"] == "unconfirmed"
        assert told["text"].startswith("kick 밥: ")
        chat.until("disconnected")
        chat.do("unban", "밥")
        with server.accept() as second:
            seated(second, chat, recovered=True)
            # A question is asked again, and what was not written waits for the connection.
            assert second.receive() == {"who": {}}
            assert second.receive() == {"unban": {"name": "밥"}}


@pytest.mark.parametrize("code", ["not_allowed", "auth_required"])
def test_a_question_that_the_proof_does_not_allow_is_not_asked_again(
    sharp: Callable[..., Sharp], code: str
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"jwt={HIDDEN}")
        with server.accept() as first:
            seated(first, chat)
            chat.do("who", "다른 방")
            assert first.receive() == {"who": {"room": "다른 방"}}
            chat.do("rooms")
            assert first.receive() == {"rooms": {}}
            first.send(error(code))
            chat.until("error", code=code)
        with server.accept() as second:
            seated(second, chat, recovered=True)
            chat.do("say", "안녕")
            # The one question without an answer is asked again, and the other one is not.
            assert second.receive() == {"rooms": {}}
            assert second.receive() == {"message": "안녕"}


def test_an_error_of_a_question_is_not_taken_for_that_of_a_later_kick(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"jwt={HIDDEN}")
        with server.accept() as peer:
            seated(peer, chat, role="operator")
            chat.do("who", "다른 방")
            assert peer.receive() == {"who": {"room": "다른 방"}}
            chat.do("kick", "밥")
            assert peer.receive() == {"kick": {"name": "밥"}}
            peer.send(error("not_allowed"))
            chat.until("error", code="not_allowed")
        chat.until("disconnected")
        assert [each["code"] for each in chat.of("error")] == ["not_allowed", "unconfirmed"]


def moderated(action: str, target: str) -> bytes:
    return payload(moderated={"action": action, "target": target, "count": 1})


def private(text: str, to: str) -> bytes:
    return payload(message=text, to=to, at=1.5, **{"from": "앨리스"})


NOBODY = error("no_such_name")
# What the client sends, what the server answers, and what is in doubt then: requests, and how many messages.
DOUBTS: dict[str, tuple[list[tuple[str, ...]], list[bytes], tuple[list[str], int]]] = {
    "the_error_is_of_the_tell": (
        [("tell", "없음", "안녕"), ("kick", "밥"), ("kick", "캐럴")],
        [NOBODY, moderated("kick", "밥")],
        (["kick 캐럴"], 0),
    ),
    "the_error_is_of_the_kick": (
        [("tell", "밥", "안녕"), ("kick", "없음"), ("kick", "캐럴")],
        [private("안녕", "밥"), NOBODY],
        (["kick 캐럴"], 0),
    ),
    "the_error_is_of_the_second_tell": (
        [("tell", "BOB", "안녕"), ("tell", "없음", "안녕"), ("kick", "캐럴")],
        # The server spells the receiver as it knows it.
        [private("안녕", "bob"), NOBODY],
        (["kick 캐럴"], 0),
    ),
    "a_later_tell_has_come_back": (
        [("tell", "밥", "안녕"), ("tell", "밥", "또"), ("kick", "없음"), ("kick", "캐럴")],
        # Tells are answered in order, so the first one is answered when the second one comes back.
        [private("또", "밥"), NOBODY],
        (["kick 캐럴"], 1),
    ),
    "no_answer": ([("tell", "밥", "안녕"), ("kick", "밥")], [], (["kick 밥"], 1)),
    "the_tell_is_muted": (
        [("tell", "밥", "안녕"), ("kick", "없음"), ("kick", "캐럴")],
        [error("muted"), NOBODY],
        (["kick 캐럴"], 0),
    ),
    "the_tell_is_too_long": (
        [("tell", "밥", "안녕"), ("kick", "없음")],
        [error("too_long"), NOBODY],
        ([], 0),
    ),
    "a_tell_behind_a_slow_kick": (
        [("kick", "밥"), ("tell", "없음", "안녕"), ("kick", "캐럴")],
        [NOBODY, moderated("kick", "밥")],
        (["kick 캐럴"], 0),
    ),
    "a_later_kick_is_answered_first": (
        [("kick", "밥"), ("kick", "캐럴"), ("mute", "캐럴")],
        [moderated("kick", "캐럴")],
        (["kick 밥", "mute 캐럴"], 0),
    ),
    "the_server_spells_the_target": (
        [("mute", "밥"), ("ban", "캐럴"), ("ban", "127.0.0.1:80"), ("close", "Game")],
        [moderated("ban", "캐럴"), moderated("close", "game"), moderated("ban", "127.0.0.1")],
        (["mute 밥"], 0),
    ),
}


@pytest.mark.parametrize("doubt", DOUBTS)
def test_an_answer_is_that_of_the_request_that_it_means(sharp: Callable[..., Sharp], doubt: str) -> None:
    commands, answers, (requests, messages) = DOUBTS[doubt]
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"password={HIDDEN}")
        with server.accept() as first:
            seated(first, chat, role="operator")
            for command in commands:
                chat.do(*command)
                assert first.receive() is not None
            first.send(*answers)
        lost = chat.until("disconnected")
        unconfirmed = [each["text"] for each in chat.of("error") if each["code"] == "unconfirmed"]
        assert [each.split(":")[0] for each in unconfirmed] == requests
        assert (lost["unsure"], lost["unsent"]) == (f"{messages}", "0")
        with server.accept() as second:
            seated(second, chat, recovered=True)
            # Neither a message nor a moderation is sent twice.
            chat.do("say", "다시")
            assert second.receive() == {"message": "다시"}


def test_a_welcome_that_is_far_too_long_is_none(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", f"jwt={HIDDEN}")
        with server.accept() as peer:
            peer.receive()
            peer.send(welcome("앨리스", token="t" * 60_000))
            assert chat.until("error", code="garbled")["text"].endswith("the welcome is too long")
            peer.send(welcome("앨리스", token="t" * 1000))
            chat.until("welcome")


# The manual's page.


def test_the_example_without_the_library_shows_the_secret_with_the_line_of_the_page(tmp_path: Path) -> None:
    example, line = blocks(page("clients"), "csharp")[0], blocks(page("clients"), "text")[0].strip()
    message = '            SendFrame(socket, "{\\"message'
    assert example.count(message) == 1
    command = compiled(tmp_path, example.replace(message, f"            {line}\n{message}"))
    with ScriptedServer() as server:
        host, port = server.address
        done = subprocess.Popen(
            [*command, host, f"{port}", "안녕", HIDDEN], stdout=subprocess.PIPE, text=True, encoding="utf-8"
        )
        try:
            with server.accept() as peer:
                assert peer.receive() == {"join": {"name": "앨리스", "secret": HIDDEN}}
                assert peer.receive() == {"message": "안녕"}
                peer.send(welcome("앨리스"))
                out, _ = done.communicate(timeout=PATIENCE)
        finally:
            done.kill()
            done.wait()
    assert out.startswith('{"welcome"')


def test_each_proof_of_the_page_is_shown(tmp_path: Path) -> None:
    lines = blocks(page("clients"), "text")[1].strip().splitlines()
    program = """
    using System;
    using System.Threading;

    class Program {
        static string FetchToken() { return "토큰"; }

        static void Main(string[] args) {
            string host = args[0], password = "비밀번호", secret = "비밀", token = "열쇠";
            int port = int.Parse(args[1]);
            CHATS
            Console.In.ReadLine();
            foreach (Mpchat.Chat chat in chats) chat.Dispose();
        }
    }
    """
    chats = "".join(f"{line.removesuffix(';')}, " for line in lines)
    command = compiled(tmp_path, program.replace("CHATS", f"Mpchat.Chat[] chats = {{ {chats} }};"))
    named = {"name": "앨리스", "room": "lobby"}
    wanted = [
        {**named, "password": "비밀번호"},
        {**named, "secret": "비밀"},
        {"room": "lobby", "jwt": "열쇠"},
        {"room": "lobby", "jwt": "토큰"},
    ]
    with ScriptedServer() as server, ExitStack() as stack:
        done = subprocess.Popen([*command, *map(str, server.address)], stdin=subprocess.PIPE)
        try:
            came = [stack.enter_context(server.accept()).receive() for _ in lines]
            done.communicate(b"\n", timeout=PATIENCE)
        finally:
            done.kill()
            done.wait()
    # The chats connect at the same time.
    assert sorted(map(repr, came)) == sorted(repr({"join": each}) for each in wanted)
    assert done.returncode == 0
