"""The client for C# in mono, against real servers, and against one that does what a test tells it."""

import math
import re
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.csharp import DRIVER, Sharp, compiled, texts
from support.harness import Client, Server, frame, kill, raw_frame, running, settle
from support.keepalive import probed_in
from support.manual import blocks, page
from support.members import Member
from support.scripted_server import Connection, ScriptedServer, payload, welcome
from support.waiting import PATIENCE, eventually

from mpchat import connect_blocking
from mpchat.client.conversation import STEADY, Backoff
from mpchat.client.sockets import SILENCE

ODD = '안녕, "모두" \\ 😀 𝄞\t\x01\n\u2028끝'


# The tested code is not Python.
pytestmark = pytest.mark.one_python


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the driver: one compilation for all tests."""
    return compiled(tmp_path_factory.mktemp("csharp"), DRIVER)


@pytest.fixture
def sharp(program: list[str]) -> Iterator[Callable[..., Sharp]]:
    """Start chats in C#; all of them end with the test."""
    with ExitStack() as stack:
        yield lambda address, *seat: stack.enter_context(Sharp(program, address, *seat))


# Without a name.


def test_a_client_without_a_name_says_and_hears_every_text(
    shared: Server, sharp: Callable[..., Sharp]
) -> None:
    with Client(shared.address) as other:
        settle([other])
        chat = sharp(shared.address)
        assert chat.until("connected")["again"] == "False"
        chat.do("say", ODD)
        assert other.hear() == ODD
        assert chat.until("message") == {"text": ODD}
        long = "긴 글 😀" + "x" * (60_000 - len('{"message":"긴 글 😀"}'.encode()))
        chat.do("say", long)
        assert other.hear() == long
        other.say("and back")
        chat.until("message", text="and back")
        assert texts(chat.of("message")) == [ODD, long, "and back"]


def test_what_no_frame_can_hold_is_an_exception_and_what_the_server_rejects_an_event(
    shared: Server, sharp: Callable[..., Sharp]
) -> None:
    chat = sharp(("localhost", shared.address[1]))
    chat.until("connected")
    assert chat.ask("half")["type"] == "ArgumentException"
    assert "65535" in chat.ask("say", "x" * 66_000)["text"]
    assert chat.ask("tell", "bob", "psst")["type"] == "InvalidOperationException"
    assert chat.ask("say", "y" * 60_001) == {"value": "True"}
    assert chat.until("error")["code"] == "too_long"
    chat.do("say", "still here")
    chat.until("message", text="still here")


def test_a_server_that_says_nothing_is_probed_long_before_two_hours(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address)
        chat.until("connected")
        seconds = probed_in(server.address[1])
        assert seconds is not None
        assert 0 < seconds <= SILENCE


# With a name.


def test_a_member_has_rooms_private_messages_and_lists(shared: Server, sharp: Callable[..., Sharp]) -> None:
    with Member(shared.address) as bob:
        bob.join("bob", room="게임")
        for number in range(3):
            bob.ask(message=f"before {number}")
        bob.sync()
        alice = sharp(shared.address, "앨리스", "게임")
        came = alice.until("welcome")
        assert (came["name"], came["room"], came["members"]) == ("앨리스", "게임", "2")
        assert bob.until("joined")["names"] == ["앨리스"]
        alice.do("say", ODD)
        heard = bob.hear_from_room(ODD)
        mine = alice.until("message", text=ODD)
        assert (mine["sender"], mine["room"], mine["seq"]) == ("앨리스", "게임", str(heard["seq"]))
        assert math.isclose(float(mine["at"]), heard["at"], abs_tol=0.001)
        assert texts(alice.of("message")) == [*(f"before {number}" for number in range(3)), ODD]

        alice.do("tell", "BOB", "psst")
        assert bob.hear_from_room("psst")["to"] == "bob"
        assert alice.until("private")["to"] == "bob"
        bob.ask(message="psst yourself", to="앨리스")
        assert alice.until("private")["sender"] == "bob"
        alice.do("tell", "nobody", "psst")
        assert alice.until("error")["code"] == "no_such_name"

        alice.do("who")
        assert alice.until("who")["names"] == "bob 앨리스"
        alice.do("enter", "other")
        assert alice.until("welcome")["room"] == "other"
        assert bob.until("left")["names"] == ["앨리스"]
        alice.do("rooms")
        listed = alice.until("rooms")["rooms"].split()
        assert {"other:1", "게임:1"} <= set(listed)
        bob.join(room="other")
        assert alice.until("joined")["names"] == "bob"
        bob.join(room="게임")
        left = alice.until("left")
        assert (left["names"], left["reason"], left["members"]) == ("bob", "moved", "1")
        alice.do("state")
        state = alice.until("state")
        assert (state["state"], state["name"], state["room"]) == ("Connected", "앨리스", "other")


def test_two_in_csharp_and_one_in_python_hear_the_same_order(
    shared: Server, sharp: Callable[..., Sharp]
) -> None:
    each, host_port = 200, shared.address
    with connect_blocking(*host_port, name="order3", room="order") as third:
        chats = [sharp(host_port, f"order{number}", "order") for number in (1, 2)]
        for chat in chats:
            chat.until("welcome")
        for number in range(each):
            for chat in chats:
                chat.do("say", f"{number} 안녕")
            third.send(f"{number} 안녕")
        heard = [third.recv(PATIENCE) for _ in range(3 * each)]
        for chat in chats:
            eventually(lambda chat=chat: len(chat.of("message")) == 3 * each, "all messages")  # type: ignore[misc]
    expected = [(str(one.seq), one.sender, one.text) for one in heard]
    assert [int(seq) for seq, _, _ in expected] == list(range(1, 3 * each + 1))
    for chat in chats:
        assert [(one["seq"], one["sender"], one["text"]) for one in chat.of("message")] == expected


def test_a_taken_name_is_told_and_the_token_takes_it_back(
    shared: Server, sharp: Callable[..., Sharp]
) -> None:
    first = sharp(shared.address, "taken", "names")
    token = first.until("welcome")["token"]
    second = sharp(shared.address, "TAKEN", "names")
    assert second.until("rejected") == {
        "name": "TAKEN",
        "room": "names",
        "code": "name_taken",
        "text": "taken is in use; its owner comes back with the token",
        "retrying": "False",
    }
    assert second.until("disconnected")["retrying"] == "False"
    second.do("state")
    assert second.until("state")["state"] == "Ended"
    assert second.ask("say", "to nobody") == {"value": "False"}

    third = sharp(shared.address, "taken", "names", token)
    assert third.until("welcome")["name"] == "taken"
    assert first.until("rejected")["code"] == "taken_over"
    assert first.until("disconnected")["retrying"] == "False"
    third.do("say", "mine")
    third.until("message", text="mine")


def test_after_dispose_the_last_message_has_come_and_the_name_is_free(
    shared: Server, sharp: Callable[..., Sharp]
) -> None:
    with Member(shared.address) as bob:
        bob.join("stays", room="ends")
        leaves = sharp(shared.address, "leaves", "ends")
        leaves.until("welcome")
        for number in range(100):
            leaves.do("say", f"{number} " + "x" * 5000)
        leaves.do("dispose")
        leaves.until("ended")
        assert bob.hear_from_room("99 " + "x" * 5000)["from"] == "leaves"
        with Member(shared.address) as other:
            eventually(lambda: joined(other, "leaves"), "the name to be free", 10.0)
        assert leaves.ask("say", "too late") == {"value": "False"}


def joined(member: Member, name: str) -> bool:
    member.ask(join={"name": name, "room": "ends"})
    while True:
        received = member.take()
        if "error" in received or "welcome" in received:
            return "welcome" in received


# Coming back.


def test_a_killed_worker_costs_no_message_and_doubles_none(folder: Path, sharp: Callable[..., Sharp]) -> None:
    with running(folder) as server, connect_blocking(*server.address, name="talker", room="r") as talker:
        chats = [sharp(server.address, name, "r") for name in ("one", "two")]
        for chat in chats:
            chat.until("welcome")
        talker.send("first")
        for chat in chats:
            chat.until("message", text="first")
        stop = threading.Event()

        def talk() -> None:
            number = 0
            while not stop.wait(0.01):
                talker.send(f"{number}")
                number += 1

        talking = threading.Thread(target=talk)
        talking.start()
        try:
            for pid in server.worker_pids:
                kill(pid)
                server.wait_until_running()
            for chat in chats:
                chat.until("welcome")
        finally:
            stop.set()
            talking.join()
        talker.send("last")
        for chat in chats:
            chat.until("message", text="last")
        # Before the server's farewell, which may have come to one of them alone.
        first, second = (chat.of("message") for chat in chats)
    assert first == second
    assert [int(each["seq"]) for each in first] == list(range(1, len(first) + 1))
    for chat in chats:
        assert chat.of("lost") == []
        assert [each["recovered"] for each in chat.of("welcome")][1:] == ["True"] * (
            len(chat.of("welcome")) - 1
        )
        assert chat.of("disconnected")[0]["retrying"] == "True"


@pytest.mark.parametrize("kept", [True, False], ids=["with_a_history_file", "without"])
def test_a_restarted_server_gives_the_name_back_and_what_is_lost_is_named(
    folder: Path, sharp: Callable[..., Sharp], kept: bool
) -> None:
    history = ["--history", str(folder / "history.db")] if kept else []
    with running(folder, *history, workers=1) as server:
        address = server.address
        chat = sharp(address, "앨리스", "r")
        chat.until("welcome")
        for number in range(5):
            chat.do("say", f"{number}")
        chat.until("message", text="4")
        server.stop()
        lost = chat.until("disconnected")
        assert (lost["retrying"], lost["unsure"], lost["unsent"]) == ("True", "0", "0")
        chat.do("say", "said meanwhile")
        server.start(*history, workers=1, port=address[1])
        again = chat.until("welcome")
        assert (again["name"], again["room"], again["recovered"]) == ("앨리스", "r", str(kept))
        heard = chat.until("message", text="said meanwhile")
    assert texts(chat.of("message")).count("said meanwhile") == 1
    numbers = [int(each["seq"]) for each in chat.of("message") if "seq" in each]
    if kept:
        assert chat.of("lost") == []
        assert numbers == list(range(1, len(numbers) + 1))
    else:
        # The farewell has a number too, and may have come.
        assert [each for each in chat.of("lost") if "last" not in each and int(each["first"]) in (6, 7)]
        assert heard["seq"] == "1"


def test_each_wait_is_longer_than_the_one_before_until_a_connection_lasts(
    sharp: Callable[..., Sharp],
) -> None:
    drawn, attempts = 0.1, 6
    backoff = Backoff(draw=lambda: drawn)

    def next_after(connection: Connection) -> tuple[Connection, float]:
        """End a connection; return the next one, and the seconds until it came."""
        begun = time.monotonic()
        connection.close()
        return server.accept(), time.monotonic() - begun

    with ScriptedServer() as server:
        sharp(server.address, "", "", "", str(drawn))
        connection, waits = server.accept(), list[float]()
        # A connection that the server accepts and closes is not steady.
        for _ in range(attempts):
            connection, wait = next_after(connection)
            waits.append(wait)
        # The client waits in whole milliseconds.
        assert all(wait > backoff.delay(number) - 0.002 for number, wait in enumerate(waits)), waits
        threading.Event().wait(STEADY + 0.2)
        connection, wait = next_after(connection)
        connection.close()
        assert wait < backoff.delay(attempts) - 0.3, (wait, waits)


def test_a_message_is_not_said_twice_and_a_doubtful_one_is_counted(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with server.accept() as first:
            assert first.receive() == {"join": {"name": "alice", "room": "lobby"}}
            chat.do("say", "waits for the welcome")
            first.send(welcome(seq=7))
            assert first.receive() == {"message": "waits for the welcome"}
            chat.do("say", "seen by the server alone")
            assert first.receive() == {"message": "seen by the server alone"}
            first.send(numbered(8, "waits for the welcome"))
            chat.do("who", "lobby")
            assert first.receive() == {"who": {"room": "lobby"}}
            first.send(numbered(10, "of another member", sender="bob"))
        lost = chat.until("disconnected")
        assert (lost["unsure"], lost["unsent"]) == ("1", "0")
        chat.do("say", "said while away")
        with server.accept() as second:
            join = {"name": "alice", "room": "lobby", "token": "t", "after": 10, "epoch": "one"}
            assert second.receive() == {"join": join}
            second.send(payload(message="of nobody"), welcome(seq=12, recovered=True))
            second.send(numbered(10, "again"), numbered(11, "seen by the server alone"))
            # A question without an answer is asked again, a message is not.
            assert second.receive() == {"who": {"room": "lobby"}}
            assert second.receive() == {"message": "said while away"}
            second.send(numbered(12, "missed", sender="bob"), numbered(13, "said while away"))
            chat.until("message", text="said while away")
            # An error about a message answers it, another one does not.
            for text in ("muted", "without an answer"):
                chat.do("say", text)
                assert second.receive() == {"message": text}
            for code in ("muted", "room_closed"):
                second.send(error(code))
                chat.until("error", code=code)
        # What was said on the first connection comes as history, and is not counted for the second.
        assert chat.until("disconnected")["unsure"] == "1"
        assert [int(each["seq"]) for each in chat.of("message")] == [8, 10, 11, 12, 13]
        assert chat.of("lost") == [{"room": "lobby", "first": "9", "last": "9"}]


def numbered(seq: int, text: str, sender: str = "alice", room: str = "lobby") -> bytes:
    return payload(message=text, room=room, seq=seq, at=1.5, **{"from": sender})


def error(code: str) -> bytes:
    return payload(error={"code": code, "text": "no"})


def test_an_unasked_welcome_goes_on_in_the_room_and_answers_no_enter(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스", "게임방")
        with server.accept() as first:
            first.receive()
            first.send(welcome("앨리스", room="게임방"))
            first.send(*(numbered(seq, "전", sender="밥", room="게임방") for seq in (1, 2, 3)))
            chat.do("enter", "다른방")
            chat.do("say", "다른방에서")
            assert first.receive() == {"join": {"room": "다른방"}}
            # All is there, and goes on; then all from number 3 on is uncertain.
            again: dict[str, Any] = {"room": "게임방", "again": True, "token": "새것"}
            first.send(welcome("앨리스", **again, seq=4, epoch="two", recovered=True))
            first.send(*(numbered(seq, "둘", sender="밥", room="게임방") for seq in (4, 5)))
            first.send(welcome("앨리스", **again, seq=3, epoch="three", lost=[3, None]))
            first.send(*(numbered(seq, "셋", sender="밥", room="게임방") for seq in (3, 4)))
            first.send(payload(message="안녕히 계세요"))
            chat.until("message", text="안녕히 계세요")
            assert [each.get("seq") for each in chat.of("message")] == [*"1234534", None]
            assert chat.of("lost") == [{"room": "게임방", "first": "3"}]
            # Only its own welcome answers the Enter, and then the text is said.
            first.send(welcome("앨리스", room="다른방", epoch="three", token="새것"))
            assert first.receive() == {"message": "다른방에서"}
            chat.until("welcome", room="다른방")
        join = {"name": "앨리스", "room": "다른방", "token": "새것", "after": 0, "epoch": "three"}
        assert chat.until("disconnected")["unsure"] == "1"
        with server.accept() as second:
            assert second.receive() == {"join": join}
            # Another host has entered the member already: this is all that answers the join.
            second.send(welcome("앨리스", room="다른방", epoch="four", recovered=True, again=True))
            chat.until("welcome", room="다른방")
            chat.do("enter", "게임방")
            assert second.receive() == {"join": {"room": "게임방"}}


def test_what_comes_again_under_another_number_is_no_longer_in_doubt(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "앨리스")
        with server.accept() as first:
            first.receive()
            first.send(welcome("앨리스", seq=7))
            for text in ("하나", "둘", "셋"):
                chat.do("say", text)
                assert first.receive() == {"message": text}
            first.send(numbered(8, "하나", sender="앨리스"), payload(message="둘"))
            first.send(welcome("앨리스", seq=6, epoch="two", lost=[5, None], again=True))
            first.send(numbered(5, "전", sender="밥"), numbered(6, "둘", sender="앨리스"))
            chat.until("message", seq="6")
        assert chat.until("disconnected")["unsure"] == "1"


@pytest.mark.parametrize(
    "before", [(), (error("room_closed"), welcome())], ids=["alone", "after_a_closed_room"]
)
def test_what_was_for_a_room_that_rejects_the_client_is_not_said_elsewhere(
    sharp: Callable[..., Sharp], before: tuple[bytes, ...]
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with server.accept() as peer:
            peer.receive()
            peer.send(welcome())
            chat.until("welcome")
            chat.do("enter", "team")
            chat.do("say", "for the team alone")
            assert chat.ask("tell", "bob", "psst") == {"value": "True"}
            assert peer.receive() == {"join": {"room": "team"}}
            peer.send(*before, error("room_full"))
            assert peer.receive() == {"message": "psst", "to": "bob"}
            assert chat.until("error", code="room_full")["unsent"] == "1"
            chat.do("enter", "other")
            chat.do("say", "for the others")
            assert peer.receive() == {"join": {"room": "other"}}
            peer.send(welcome(room="other"))
            assert peer.receive() == {"message": "for the others"}


def test_a_name_that_is_far_too_long_is_not_sent(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with server.accept() as peer:
            peer.receive()
            peer.send(welcome())
            chat.until("welcome")
            for command in ("enter", "who"):
                thrown = chat.ask(command, "x" * 129)
                assert thrown["type"] == "ArgumentException"
                assert "at most 32 characters" in thrown["text"]
            # A code point outside the basic plane is one character.
            chat.do("enter", "𝄞" * 128)
            assert peer.receive() == {"join": {"room": "𝄞" * 128}}
            peer.send(error("bad_room"))
            chat.until("error")  # what was said before it was for the other room, and is not sent
            chat.do("say", "still here")
            assert peer.receive() == {"message": "still here"}


def test_a_room_closed_at_the_loss_of_the_connection(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice", "closing")
        with server.accept() as first:
            first.receive()
            first.send(welcome(room="closing"), error("room_closed"))
            chat.until("error", code="room_closed")
        with server.accept() as second:
            second.receive()
            second.send(welcome(room="closing"))
            # The welcome has answered the join of the second connection.
            chat.do("say", "and on")
            assert second.receive() == {"message": "and on"}


def test_a_kick_ends_the_chat_of_a_member_and_the_program_may_begin_another(
    shared: Server, sharp: Callable[..., Sharp]
) -> None:
    kicked, plain = sharp(shared.address, "kicked", "kicks"), sharp(shared.address)
    token = kicked.until("welcome")["token"]
    plain.until("connected")
    assert shared.command("kick", "kicked").returncode == 0
    told = kicked.until("rejected")
    assert (told["code"], told["retrying"]) == ("kicked", "False")
    assert kicked.until("disconnected")["retrying"] == "False"
    kicked.do("state")
    assert kicked.until("state")["state"] == "Ended"
    assert kicked.ask("say", "to nobody") == {"value": "False"}
    assert sharp(shared.address, "kicked", "kicks", token).until("welcome")["name"] == "kicked"
    # A client without a name is not told, so it comes back as after a loss.
    shared.wait_for_connections(2)
    assert shared.command("kick", "127.0.0.1").returncode == 0
    assert plain.until("disconnected")["retrying"] == "True"
    assert plain.until("connected")["again"] == "True"


@pytest.mark.parametrize(
    ("code", "retrying"),
    [("name_taken", "True"), ("banned", "False"), ("kicked", "False"), ("taken_over", "False")],
)
def test_a_client_that_may_not_come_back_is_told(
    sharp: Callable[..., Sharp], code: str, retrying: str
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with server.accept() as first:
            first.send(welcome())
            chat.until("welcome")
        with server.accept() as second:
            second.receive()
            second.send(error(code))
            assert chat.until("rejected")["retrying"] == retrying
            assert chat.until("disconnected")["retrying"] == retrying
        if retrying == "True":
            with server.accept() as third:
                assert third.receive() is not None
                third.send(welcome())
                chat.until("welcome")
        chat.do("state")
        state = "Connected" if retrying == "True" else "Ended"
        assert chat.until("state")["state"] in (state, "Disconnected" if retrying == "True" else state)


def test_an_answer_is_that_of_the_command_that_asked(shared: Server, sharp: Callable[..., Sharp]) -> None:
    chat = sharp(shared.address)
    for number in range(50):
        chat.do("say", f"{number}")
    assert chat.ask("half")["type"] == "ArgumentException"


def test_what_is_said_before_the_program_hears_of_a_rejected_enter_is_not_said_elsewhere(
    sharp: Callable[..., Sharp],
) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with server.accept() as peer:
            peer.receive()
            peer.send(welcome())
            chat.until("welcome")
            chat.do("hold")
            for room in ("team", "club"):
                chat.do("enter", room)
                chat.do("tell", "bob", "psst")
                assert peer.receive() == {"join": {"room": room}}
                peer.send(error("room_full"))
                # The client has read the error, and the program has not polled it.
                assert peer.receive() == {"message": "psst", "to": "bob"}
                assert chat.ask("say", f"for the {room} alone") == {"value": "True"}
                chat.do("tell", "bob", "and psst")
                assert peer.receive() == {"message": "and psst", "to": "bob"}
            chat.do("enter", "other")
            chat.do("say", "for the others")
            assert peer.receive() == {"join": {"room": "other"}}
            peer.send(welcome(room="other"))
            assert peer.receive() == {"message": "for the others"}
            chat.do("enter", "last")
            assert peer.receive() == {"join": {"room": "last"}}
            peer.send(error("room_full"))
            chat.do("poll")
            assert [chat.until("error")["unsent"] for _ in range(3)] == ["1", "1", "0"]
            chat.do("say", "for the others again")
            assert peer.receive() == {"message": "for the others again"}


# Frames.


def test_frames_in_any_pieces_and_of_any_length_come_whole(sharp: Callable[..., Sharp]) -> None:
    long, longest = "가" * 20_000, "y" * (65_535 - len('{"message":""}'))
    exact = raw_frame(b'{"message":"%b"}' % longest.encode())
    assert exact[:2] == b"\xff\xff"
    with ScriptedServer() as server:
        chat = sharp(server.address)
        with server.accept() as peer:
            for byte in frame("한 글자씩 😀") + frame(""):
                peer.send(bytes([byte]))
            half = frame(long)
            peer.send(half[:1])
            chat.until("message", text="")
            peer.send(half[1:40_000])
            peer.send(half[40_000:] + exact + frame("a") + frame("b") + frame("c")[:5])
            chat.until("message", text="b")
        lost = chat.until("disconnected")
        assert "inside a frame" in lost["reason"]
        assert "unsure" not in lost
        assert texts(chat.of("message")) == ["한 글자씩 😀", "", long, longest, "a", "b"]


def test_what_is_not_of_the_protocol_is_told_and_the_next_message_comes(
    sharp: Callable[..., Sharp],
) -> None:
    wrong = [b"", b"[]", b"\xff\xfe", b'{"message":7}', b'{"message":"\\ud800"}', b"[" * 50_000]
    with ScriptedServer() as server:
        chat = sharp(server.address)
        with server.accept() as peer:
            peer.send(*map(raw_frame, wrong), payload(of_later="versions"), payload(message="next"))
            chat.until("message", text="next")
            assert [each["code"] for each in chat.of("error")] == ["garbled"] * len(wrong)
            peer.send(payload(error={"code": "not_json", "text": "no", "times": 2**62}))
            assert chat.until("error")["times"] == str(2**62)


# Threads.


def test_events_wait_for_poll_and_the_socket_is_not_read_for_ever(sharp: Callable[..., Sharp]) -> None:
    count, text = 640, "x" * 50_000
    with ScriptedServer() as server:
        chat = sharp(server.address)
        chat.until("connected")
        chat.do("hold")
        chat.do("state")
        chat.until("state")
        with server.accept() as peer:
            sent = list[int]()

            def send() -> None:
                for number in range(count):
                    peer.send(payload(message=f"{number} {text}"))
                    sent.append(number)

            sending = threading.Thread(target=send)
            sending.start()
            try:
                # It stops at what the kernel and the client hold together, far below all.
                eventually(lambda: stands_still(peer.sock, sent), "the sender to wait")
                assert len(sent) < count
                assert chat.of("message") == []
            finally:
                chat.do("poll")
                sending.join()
            chat.until("message", text=f"{count - 1} {text}")
        assert [int(each.split()[0]) for each in texts(chat.of("message"))] == list(range(count))


def stands_still(sock: socket.socket, sent: list[int]) -> bool:
    """Whether the kernel takes nothing more from a sender for half a second."""
    before = len(sent)
    threading.Event().wait(0.5)
    return 0 < before == len(sent)


def test_a_full_queue_is_told_and_nothing_of_it_is_lost(sharp: Callable[..., Sharp]) -> None:
    text = "x" * 50_000
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with server.accept() as peer:
            peer.receive()
            # Not yet welcome, so everything waits.
            chat.do("fill", text)
            count = int(chat.until("filled")["count"])
            assert 1 <= count <= (1 << 20) // 50_000
            peer.send(welcome())
            assert [peer.receive() for _ in range(count)] == [{"message": f"{n}{text}"} for n in range(count)]
            eventually(lambda: chat.ask("say", "room again") == {"value": "True"}, "room in the queue")
            assert peer.receive() == {"message": "room again"}


@contextmanager
def stuck_in_a_write(server: ScriptedServer, chat: Sharp) -> Iterator[int]:
    """A server that reads nothing more than the join; yields how many numbered texts were taken."""
    counts = [-1]

    def full() -> bool:
        chat.do("fill", " " + "x" * 50_000)
        counts.append(int(chat.until("filled")["count"]))
        threading.Event().wait(0.2)
        return counts[-1] == counts[-2]

    with server.accept() as peer:
        peer.receive()
        peer.send(welcome())
        chat.until("welcome")
        eventually(full, "the kernel to take nothing more")
        yield counts[-1]


def test_a_write_that_a_loss_cuts_is_done_again_and_no_other(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with stuck_in_a_write(server, chat) as count:
            pass
        lost = chat.until("disconnected")
        written, unsent = int(lost["unsure"]), int(lost["unsent"])
        assert written + unsent == count
        assert written > 0
        with server.accept() as second:
            second.receive()
            second.send(welcome(recovered=True))
            for number in range(written, count):
                received = second.receive()
                assert received is not None
                assert received["message"].split()[0] == f"{number}"


def test_dispose_ends_a_write_that_does_not_end(sharp: Callable[..., Sharp]) -> None:
    with ScriptedServer() as server:
        chat = sharp(server.address, "alice")
        with stuck_in_a_write(server, chat):
            chat.do("dispose")
            assert int(chat.until("ended")["ms"]) < 6000


@contextmanager
def port_without_an_answer() -> Iterator[tuple[str, int]]:
    """A port whose queue of connections is full: the kernel drops every further SYN."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        host, port = listener.getsockname()
        yield host, port


@contextmanager
def port_that_rejects() -> Iterator[tuple[str, int]]:
    """A port that is bound and does not listen."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        host, port = bound.getsockname()
        yield host, port


@contextmanager
def server_that_hangs() -> Iterator[tuple[str, int]]:
    """A port that accepts by the kernel alone: nothing is read, nothing is closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        yield host, port


@pytest.mark.parametrize(
    ("place", "first"),
    [
        (port_without_an_answer, None),
        (port_that_rejects, "disconnected"),
        (server_that_hangs, "connected"),
    ],
)
def test_dispose_ends_both_threads_wherever_they_are(
    sharp: Callable[..., Sharp], place: Callable[[], Any], first: str | None
) -> None:
    with place() as address:
        chat = sharp(address, "alice")
        if first is not None:
            chat.until(first)
        chat.do("say", "never sent")
        chat.do("dispose")
        assert chat.until("disposed")["events"] == "0"
        # A second, and time for a busy machine; far below the 10 s of an attempt to connect, or of a welcome.
        assert int(chat.until("ended")["ms"]) < 6000
        if first is None:
            assert chat.of("connected", "disconnected") == []


# The manual's page.


def test_the_example_of_the_page_talks_and_is_ten_lines(shared: Server, tmp_path: Path) -> None:
    example = blocks(page("clients"), "csharp")[1]
    with Member(shared.address) as carol:
        carol.join("carol")
        done = subprocess.Popen(
            [*compiled(tmp_path, example), *map(str, shared.address), "alice"],
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
        )
        try:
            assert carol.hear_from_room("hello")["from"] == "alice"
            carol.ask(message="bye, 안녕")
            out, _ = done.communicate(timeout=PATIENCE)
        finally:
            done.kill()
            done.wait()
    assert "alice: hello\ncarol: bye, 안녕\n" in out
    body = re.search(r"Main\(string\[\] args\) \{\n(.*?)^    \}\n", example, re.MULTILINE | re.DOTALL)
    assert body is not None
    assert len(body[1].splitlines()) <= 10
