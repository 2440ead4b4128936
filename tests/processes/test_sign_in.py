"""Sign-in at real servers: what a client may do before it, with it, and after it has ended."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from support.changing import InBackground, reload, scale
from support.crowd import worker_pids
from support.harness import Client, Server, assert_nothing_left, kill, raw_frame, running
from support.members import Member
from support.sign_in import ALICE, ALICES, BOB, BOBS, DEAR, SECRET, SLOW, SLOWS, Registry, write_settings
from support.tls import Authority
from support.tls_peer import TlsMember
from support.waiting import eventually
from support.web_crowd import shake_hands

from mpchat.auth.grant import MEMBER, OPERATOR
from mpchat.hub.members import MUTED

pytestmark = pytest.mark.one_python

NEW, NEWS = "새로", "새로운 비밀번호"
PROOFS = ["password", "jwt", "secret"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    return Registry(tmp_path_factory.mktemp("registry"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, registry: Registry, authority: Authority
) -> Iterator[Server]:
    """A closed chat, for all tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("closed")
    chain, key = authority.issue("localhost", "127.0.0.1")
    tls = ["--tls-cert", str(chain), "--tls-key", str(key)]
    # Failures are counted for addresses, so each test of wrong proofs comes from one of its own.
    with running(folder, "--auth", "closed", *registry.flags, *tls, "--log-level", "debug") as started:
        yield started
    assert_nothing_left(folder)


def error_of(client: Client) -> dict[str, Any]:
    """Return the error that a client is sent next."""
    received = client.receive()
    assert received is not None, "the connection ended, an error was expected"
    error: dict[str, Any] = received["error"]
    return error


def ends(client: Client) -> None:
    while client.receive() is not None:
        pass


# Before.

# All that a client can send, and the code of what it gets for that in a closed chat; None: it gets no error.
BEFORE_A_PROOF: dict[str, tuple[bytes, str | None]] = {
    "a message": (b'{"message":"hello"}', "auth_required"),
    "an empty message": (b'{"message":""}', "auth_required"),
    "a message with other keys": (b'{"message":"hello","from":"bob","room":"lobby"}', "auth_required"),
    "a private message": (b'{"message":"psst","to":"bob"}', "auth_required"),
    "a join": (b'{"join":{"name":"eve"}}', "auth_required"),
    "a join of a registered name": (b'{"join":{"name":"bob"}}', "auth_required"),
    "a join into a room": (b'{"join":{"name":"eve","room":"games"}}', "auth_required"),
    "a join without a name": (b'{"join":{}}', "auth_required"),
    "a join with a made-up token of a name": (b'{"join":{"name":"bob","token":"x"}}', "auth_required"),
    "a join for the past": (b'{"join":{"name":"eve","after":0,"epoch":"x"}}', "auth_required"),
    "an empty password": (b'{"join":{"name":"bob","password":""}}', "bad_credentials"),
    "a wrong password": (b'{"join":{"name":"bob","password":"wrong horse"}}', "bad_credentials"),
    "a password of nobody": (b'{"join":{"name":"nobody","password":"wrong horse"}}', "bad_credentials"),
    "a wrong secret": (b'{"join":{"name":"eve","secret":"no secret"}}', "bad_credentials"),
    "no token": (b'{"join":{"jwt":"x.y.z"}}', "bad_credentials"),
    "an empty token": (b'{"join":{"name":"eve","jwt":""}}', "bad_credentials"),
    "two proofs": (b'{"join":{"name":"bob","password":"x","secret":"y"}}', "bad_request"),
    "a password that is a number": (b'{"join":{"name":"bob","password":1}}', "bad_request"),
    "a password without a name": (b'{"join":{"password":"correct horse battery"}}', "bad_request"),
    "who is there": (b'{"who":{}}', "auth_required"),
    "who is in a room": (b'{"who":{"room":"lobby"}}', "auth_required"),
    "which rooms there are": (b'{"rooms":{}}', "auth_required"),
    "the history": (b'{"history":{}}', "auth_required"),
    "a kick": (b'{"kick":{"name":"bob"}}', "auth_required"),
    "a ban": (b'{"ban":{"name":"bob"}}', "auth_required"),
    "an unban": (b'{"unban":{"name":"bob"}}', "auth_required"),
    "a mute": (b'{"mute":{"name":"bob"}}', "auth_required"),
    "an unmute": (b'{"unmute":{"name":"bob"}}', "auth_required"),
    "a closed room": (b'{"close":{"room":"lobby"}}', "auth_required"),
    "a ping": (b'{"ping":1}', None),
    "an unknown request": (b'{"shutdown":{}}', "not_a_message"),
    "nothing": (b"", "not_json"),
    "no JSON": (b"{", "not_json"),
    "no UTF-8": (b'{"message":"\xff"}', "not_utf8"),
}


@pytest.mark.parametrize("sent", BEFORE_A_PROOF)
@pytest.mark.parametrize("asked", [False, True], ids=["at first", "after a refused join"])
def test_what_a_client_without_a_proof_sends_is_refused_and_reaches_nobody(
    shared: Server, sent: str, asked: bool, request: pytest.FixtureRequest
) -> None:
    payload, code = BEFORE_A_PROOF[sent]
    source = f"127.1.{len(sent)}.{1 + asked + 2 * list(BEFORE_A_PROOF).index(sent)}"
    with Member(shared.address) as bob, Client(shared.address, source=source) as client:
        room = f"lobby-{source}"  # of its own: the lobby's past would come too
        bob.join(BOB, password=BOBS, room=room)
        if asked:
            client.send_raw(raw_frame(b'{"join":{"name":"eve"}}'))
            assert error_of(client)["code"] == "auth_required"
        client.send_raw(raw_frame(payload) + raw_frame(b'{"ping":"end"}'))
        bob.ask(message="only members hear this")
        got = [client.receive()]
        while got[-1] != {"pong": "end"}:
            got.append(client.receive())
        assert [each["error"]["code"] for each in got if each and "error" in each] == ([code] if code else [])
        assert len(got) == 2
        for each in got:
            if each and each.get("error", {}).get("code") == "auth_required":
                assert each["error"]["proofs"] == PROOFS
        bob.sync()
        assert [each["message"] for each in bob.numbered if "message" in each] == ["only members hear this"]
        assert not [each for each in bob.got if "joined" in each and each["joined"]["names"] != [BOB]]
        assert [each for each in bob.got if "private" in each or each.get("from") not in (None, BOB)] == []


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "talking"])
def test_a_client_without_a_proof_hears_nothing(shared: Server, silent: bool) -> None:
    with Client(shared.address) as client, Member(shared.address) as bob:
        bob.join(BOB, password=BOBS)
        if not silent:
            client.say("hello?")
            assert error_of(client)["code"] == "auth_required"
        for number in range(3):
            bob.ask(message=f"a secret {number}")
            bob.hear_from_room(f"a secret {number}")
            time.sleep(0.2)  # longer than listen_grace in all
        client.send_raw(raw_frame(b'{"ping":1}'))
        assert client.receive() == {"pong": 1}


def test_the_error_says_what_to_send_and_that_is_let_in(shared: Server) -> None:
    with Client(shared.address) as client:
        client.say("hello")
        text = error_of(client)["text"]
        joins = [json.loads(each) for each in re.findall(r'\{"join": \{.*?\}\}', text)]
        assert [sorted(each["join"]) for each in joins] == [["name", "password"], ["jwt"], ["name", "secret"]]
        joins[0]["join"].update(name=BOB, password=BOBS)
        client.send_raw(raw_frame(json.dumps(joins[0]).encode()))
        received = client.receive()
        assert received is not None
        assert received["welcome"]["name"] == BOB


def test_a_web_socket_client_without_a_proof_is_told_and_hears_nothing(shared: Server) -> None:
    with Member(shared.address) as bob, shake_hands(shared.address) as web:
        bob.join(BOB, password=BOBS)
        web.send('{"message":"hello"}')
        assert json.loads(web.recv(20))["error"]["code"] == "auth_required"
        bob.ask(message="only members hear this")
        bob.hear_from_room("only members hear this")
        web.send(json.dumps({"join": {"name": "cora", "secret": SECRET}}))
        assert json.loads(web.recv(20))["welcome"]["name"] == "cora"
        bob.ask(message="all hear this")
        texts = []
        while "all hear this" not in texts:
            texts.append(json.loads(web.recv(20)).get("message"))


def test_a_client_is_given_time_to_show_a_proof_and_is_told_why_it_ends(
    folder: Path, registry: Registry
) -> None:
    flags = ["--auth", "closed", *registry.flags, "--auth-timeout", "1", "--hang-timeout", "1"]
    with (
        running(folder, *flags) as server,
        Client(server.address) as silent,
        Client(server.address) as talking,
        shake_hands(server.address) as web,
        Member(server.address) as bob,
    ):
        bob.join(BOB, password=BOBS)
        talking.say("hello")
        for client in (silent, talking):
            last = client.receive()
            while (following := client.receive()) is not None:
                last = following
            assert last is not None
            assert last["error"]["code"] == "auth_required"
        assert json.loads(web.recv(20))["error"]["code"] == "auth_required"
        bob.ask(message="still here")
        bob.hear_from_room("still here")
        eventually(
            lambda: sum(each["ended"].get("no proof", 0) for each in server.status()["workers"]) == 3,
            "three ends for want of a proof",
        )


# With.


def test_each_kind_of_proof_lets_a_client_in(shared: Server, registry: Registry) -> None:
    with (
        Member(shared.address) as alice,
        Member(shared.address) as bob,
        Member(shared.address) as cora,
        Member(shared.address) as dan,
    ):
        assert alice.join("앨리스", password=ALICES)["role"] == OPERATOR
        assert "role" not in bob.join("BOB", password=BOBS)
        cora.join("cora", secret=SECRET)
        welcome = dan.join(jwt=registry.token("단", 600, role=OPERATOR, rooms=["lobby", "game-*"]))
        assert (welcome["name"], welcome["role"]) == ("단", OPERATOR)
        assert 590 < welcome["expires"] - time.time() < 602
        dan.ask(message="모두 안녕")
        for each in (alice, bob, cora):
            assert each.hear_from_room("모두 안녕")["from"] == "단"


def test_a_decomposed_password_of_a_mac_is_the_same_password(shared: Server) -> None:
    import unicodedata

    with Member(shared.address) as alice:
        alice.join(unicodedata.normalize("NFD", ALICE), password=unicodedata.normalize("NFD", ALICES))


def test_a_name_needs_its_own_proof(shared: Server, registry: Registry) -> None:
    with Member(shared.address, source="127.2.0.1") as eve, Member(shared.address) as pupil:
        assert eve.refused(join={"name": BOB, "secret": SECRET}) == "auth_required"
        assert eve.refused(join={"name": BOB, "password": ALICES}) == "bad_credentials"
        assert eve.refused(join={"name": BOB, "jwt": registry.token("eve")}) == "not_allowed"
        assert eve.refused(join={"name": "b\u043eb", "secret": SECRET}) == "name_taken"
        pupil.join("pupil", secret=SECRET)
        assert eve.refused(join={"name": "pup\u0456l", "secret": SECRET}) == "name_taken"
        assert eve.refused(join={"name": "e\u0301\u0302\u0303\u0304\u0305ve", "secret": SECRET}) == "bad_name"
        eve.join("eve", secret=SECRET)


def test_a_token_is_for_its_rooms(shared: Server, registry: Registry) -> None:
    with Member(shared.address) as dan, Member(shared.address) as bob:
        token = registry.token("dan", rooms=["game-*"])
        assert dan.refused(join={"jwt": token}) == "not_allowed"
        dan.join(jwt=token, room="game-7")
        assert dan.refused(join={"room": "games"}) == "not_allowed"
        dan.join(room="GAME-8")
        bob.join(BOB, password=BOBS, room="staff")
        assert dan.refused(who={"room": "staff"}) == "not_allowed"
        dan.ask(rooms={})
        assert [each["room"] for each in dan.until("rooms")["rooms"]] == ["GAME-8"]
        dan.ask(who={})
        assert dan.until("who")["names"] == ["dan"]


def test_the_owner_takes_its_name_back_and_a_stranger_does_not(shared: Server) -> None:
    with Member(shared.address) as first, Member(shared.address) as second:
        token = first.join(BOB, password=BOBS)["token"]
        with Member(shared.address) as third:
            assert third.refused(join={"name": BOB, "token": token}) == "auth_required"
        second.join(BOB, password=BOBS)
        assert first.until("error")["code"] == "taken_over"
        ends(first)


def test_a_member_that_was_lost_resumes_with_token_and_proof(shared: Server) -> None:
    with Member(shared.address) as alice, Member(shared.address) as bob:
        alice.join(ALICE, password=ALICES)
        welcome = bob.join(BOB, password=BOBS)
        bob.reset()
        alice.ask(message="while you were away")
        seq = alice.hear_from_room("while you were away")["seq"]
        with Member(shared.address) as again:
            resumed = again.join(
                BOB, password=BOBS, token=welcome["token"], after=seq - 1, epoch=welcome["epoch"]
            )
            assert resumed["recovered"] is True
            assert again.hear_from_room("while you were away")["seq"] == seq


def test_failures_slow_the_next_tries_and_not_the_owner(shared: Server, registry: Registry) -> None:
    registry.add(NEW, NEWS)
    home, thief, other = "127.3.0.1", "127.3.0.2", "127.3.0.3"
    with Member(shared.address, source=home) as new:
        new.join(NEW, password=NEWS)
    with Member(shared.address, source=thief) as eve:
        codes = [eve.refused(join={"name": NEW, "password": f"guess {number}"}) for number in range(5)]
        assert codes == ["bad_credentials"] * 5
    guess_until_the_wait_is(4, shared, thief)
    # The thief's address waits with any name, and any address with this name; but not its owner's.
    with Member(shared.address, source=thief) as eve:
        assert eve.refused(join={"name": ALICE, "password": ALICES}) == "try_later"
    with Member(shared.address, source=other) as stranger:
        assert stranger.refused(join={"name": NEW, "password": NEWS}) == "try_later"
        stranger.join(ALICE, password=ALICES)
    with Member(shared.address, source=home) as new:
        new.join(NEW, password=NEWS)


def guess_until_the_wait_is(seconds: int, server: Server, source: str) -> None:
    """Guess a password until the next guess must wait so long; each client may only make a few at once."""
    wait = 0
    while wait < seconds:
        with Member(server.address, source=source) as eve:
            eve.ask(join={"name": NEW, "password": "one more guess"})
            error = eve.until("error")
        if error["code"] == "try_later":
            found = re.search(r"try again in (\d+) s", error["text"])
            assert found is not None
            wait = int(found[1])
            time.sleep(0.05 if wait < seconds else 0.0)


# Its end.


def test_a_connection_ends_with_its_token_unless_it_shows_a_fresh_one(
    folder: Path, registry: Registry
) -> None:
    flags = ["--auth", "closed", *registry.flags, "--hang-timeout", "1"]
    with (
        running(folder, *flags) as server,
        Member(server.address) as dan,
        Member(server.address) as eva,
        Member(server.address) as bob,
    ):
        bob.join(BOB, password=BOBS)
        dan.join(jwt=registry.token("dan", 1))
        eva.join(jwt=registry.token("eva", 1))
        bob.ask(message="one")
        eva.hear_from_room("one")
        renewed = eva.join(jwt=registry.token("eva", 600))
        assert renewed["expires"] > time.time() + 500
        assert dan.until("error")["code"] == "expired"
        ends(dan)
        assert bob.refused(join={"name": "dan", "secret": SECRET}) == "bad_request"
        with Member(server.address) as thief:  # the name is held for its owner
            assert thief.refused(join={"name": "dan", "secret": SECRET}) == "name_taken"
        with Member(server.address) as again:
            again.join(jwt=registry.token("dan", 600))
        reload(server)
        bob.ask(message="two")
        eva.hear_from_room("two")
        assert [each["message"] for each in eva.numbered] == ["one", "two"]


def test_accounts_change_for_all_servers_on_the_file_from_the_next_join_on(
    folder: Path, tmp_path: Path
) -> None:
    registry = Registry(tmp_path)
    flags = ["--auth", "closed", *registry.flags]
    with (
        running(folder, *flags) as one,
        running(folder, *flags, name="other") as other,
        Member(one.address) as bob,
    ):
        bob.join(BOB, password=BOBS)
        for server in (one, other):
            with Member(server.address) as nobody:
                assert nobody.refused(join={"name": NEW, "password": NEWS}) == "bad_credentials"
        registry.add(NEW, NEWS)
        accounts = registry.open()
        accounts.set_role(NEW, OPERATOR)
        accounts.remove(BOB)
        accounts.close()
        for server in (one, other):
            with Member(server.address) as joined, Member(server.address) as gone:
                assert joined.join(NEW, password=NEWS)["role"] == OPERATOR
                assert gone.refused(join={"name": BOB, "password": BOBS}) == "bad_credentials"
        bob.ask(message="still here")
        bob.hear_from_room("still here")


# Operators.


def test_an_operator_moderates_from_a_client(shared: Server) -> None:
    with (
        Member(shared.address) as alice,
        Member(shared.address) as bob,
        Member(shared.address) as nora,
    ):
        alice.join(ALICE, password=ALICES)
        bob.join(BOB, password=BOBS)
        nora.join("nora", secret=SECRET, room="games")

        def order(**request: Any) -> dict[str, Any]:
            alice.ask(**request)
            done: dict[str, Any] = alice.until("moderated")
            return done

        assert order(mute={"name": BOB, "for": 600}) == {"action": "mute", "target": BOB, "count": 0}
        bob.ask(message="can you hear me?")
        assert bob.until("error") == {"code": "muted", "text": MUTED}
        assert order(unmute={"name": BOB})["action"] == "unmute"
        assert alice.refused(unmute={"name": BOB}) == "no_such_name"
        bob.ask(message="and now?")
        alice.hear_from_room("and now?")
        assert order(close={"room": "games"}) == {"action": "close", "target": "games", "count": 1}
        assert nora.until("error")["code"] == "room_closed"
        assert alice.refused(close={"room": "games"}) == "bad_room"
        assert alice.refused(close={"room": "lobby"}) == "bad_room"
        assert order(kick={"name": "NORA"}) == {"action": "kick", "target": "NORA", "count": 1}
        assert nora.until("error")["code"] == "kicked"
        ends(nora)
        assert alice.refused(kick={"name": "nora"}) == "no_such_name"
        assert order(ban={"name": BOB, "for": 600}) == {"action": "ban", "target": BOB, "count": 1}
        ends(bob)
        with Member(shared.address) as again:
            assert again.refused(join={"name": BOB, "password": BOBS}) == "banned"
        assert order(unban={"name": BOB})["action"] == "unban"
        with Member(shared.address) as again:
            again.join(BOB, password=BOBS)
        alice.ask(mute={"name": "nobody"})
        alice.ask(who={})
        alice.ask(unmute={"name": "nobody"})
        alice.ask(ping="last")
        answers = ("moderated", "who", "pong")
        got: list[str] = []
        while not got or got[-1] != "pong":
            got += [each for each in alice.take() if each in answers]
        assert got == ["moderated", "who", "moderated", "pong"]
        assert alice.refused(ban={"name": "no name\u202e"}) == "bad_name"
        assert alice.refused(ban={"name": BOB, "for": -1}) == "bad_request"
        assert alice.refused(ban={"name": "x" * 50_000}) == "bad_name"
    for what in ('kick "NORA"', f'ban "{BOB}" for 600 s', f'unban "{BOB}"', 'mute "nobody"'):
        line = f'audit: {what}, by operator "{ALICE}" at 127.0.0.1:'
        eventually(partial(_logged, shared, line), f"the log to say {line}")


def _logged(server: Server, line: str) -> bool:
    return line in server.log


def test_a_member_moderates_nobody(shared: Server, registry: Registry) -> None:
    with Member(shared.address) as bob, Member(shared.address) as dan, Member(shared.address) as lena:
        bob.join(BOB, password=BOBS)
        lena.join("lena", secret=SECRET)
        dan.join(jwt=registry.token("leo", role=OPERATOR, rooms=["game-*"]), room="game-1")
        for what in ("kick", "ban", "unban", "mute", "unmute"):
            assert bob.refused(**{what: {"name": "lena"}}) == "not_allowed"
            assert dan.refused(**{what: {"name": "lena"}}) == "not_allowed"
        assert bob.refused(close={"room": "lobby"}) == "not_allowed"
        lena.join(room="game-1")
        dan.ask(kick={"name": "lena"})
        assert dan.until("moderated")["count"] == 1


# While the server changes.


def test_a_join_whose_proof_is_being_checked_is_moved_and_answered(folder: Path, registry: Registry) -> None:
    with (
        running(folder, "--auth", "closed", *registry.flags) as server,
        Member(server.address) as slow,
        Member(server.address) as bob,
    ):
        bob.join(BOB, password=BOBS)
        before = worker_pids(server)
        slow.ask(join={"name": SLOW, "password": SLOWS})
        slow.ask(message="right behind")
        slow.ask(message="and then")
        assert reload(server)["moved"] == 2
        assert set(worker_pids(server)).isdisjoint(before)
        assert slow.until("welcome")["name"] == SLOW
        assert bob.hear_from_room("right behind")["from"] == SLOW
        slow.hear_from_room("and then")
        assert [each["message"] for each in slow.numbered] == ["right behind", "and then"]


def test_a_join_whose_proof_is_being_checked_ends_with_its_worker_and_the_next_is_served(
    folder: Path, registry: Registry
) -> None:
    with running(folder, "--auth", "closed", *registry.flags, workers=1) as server:
        threads = psutil.Process(server.pid).num_threads
        with Member(server.address) as slow:
            before = threads()
            slow.ask(join={"name": SLOW, "password": SLOWS})
            eventually(lambda: threads() > before, "the check to begin")
            kill(worker_pids(server)[0])
            with suppress(ConnectionResetError):
                ends(slow)
        server.wait_until_running()
        with Member(server.address) as again:
            again.join(SLOW, password=SLOWS)


def test_a_client_that_leaves_while_its_proof_is_checked_leaves_nothing(shared: Server) -> None:
    for _ in range(5):
        with Client(shared.address, source="127.4.0.1") as client:
            join = {"join": {"name": SLOW, "password": SLOWS}}
            client.send_raw(raw_frame(json.dumps(join, ensure_ascii=False).encode()))
            client.reset()
    with Member(shared.address) as slow:
        slow.join(SLOW, password=SLOWS)
        slow.ask(who={})
        assert slow.until("who")["names"] == [SLOW]
    shared.wait_for_connections(0)


def test_others_are_served_while_passwords_are_checked(shared: Server, registry: Registry) -> None:
    with Member(shared.address) as bob, Member(shared.address, source="127.4.0.2") as slow:
        bob.join(BOB, password=BOBS)
        accounts = registry.open()
        accounts.remove(SLOW)
        accounts.close()
        registry.add(SLOW, SLOWS, cost=DEAR)  # else the password is remembered
        slow.ask(join={"name": SLOW, "password": SLOWS})
        with Member(shared.address) as dan:
            dan.join(jwt=registry.token("dan"))
            for number in range(20):
                dan.ask(message=f"{number}")
                bob.hear_from_room(f"{number}")
                dan.ask(who={})
                assert SLOW not in dan.until("who")["names"]
        slow.until("welcome")


def test_a_chat_that_is_closed_by_a_reload_and_opened_by_the_next(folder: Path, registry: Registry) -> None:
    files = {
        "accounts": str(registry.accounts),
        "jwt_key": str(registry.key),
        "secret": str(registry.secret),
        "port": 0,
        "workers": 2,
    }
    write_settings(folder, **files)
    server = Server(folder)
    try:
        server.start_as_configured()
        with (
            Client(server.address) as plain,
            Member(server.address) as guest,
            Member(server.address) as bob,
            shake_hands(server.address) as web,
        ):
            plain.say("open")
            assert plain.hear() == "open"
            web.send('{"message":"open too"}')
            assert plain.hear() == "open too"
            guest.join("guest")
            bob.join(BOB, password=BOBS)
            write_settings(folder, auth="closed", **files)
            reload(server)
            assert guest.until("error")["code"] == "auth_required"
            ends(guest)
            bob.ask(message="among us")
            bob.hear_from_room("among us")
            plain.say("and me?")
            heard = plain.receive()
            while heard is not None and "message" in heard:
                assert "among us" not in heard["message"]
                heard = plain.receive()
            assert heard is not None
            assert heard["error"]["code"] == "auth_required"
            write_settings(folder, **files)
            reload(server)
            plain.say("open again")
            while plain.hear() != "open again":
                pass
            texts = []
            while "open again" not in texts:
                texts.append(json.loads(web.recv(20)).get("message"))
            assert "among us" not in texts
            assert f"{BOB}: among us" not in texts
    finally:
        server.end()


def test_a_wrong_setting_changes_nothing_at_a_reload(folder: Path, tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    files = {"auth": "closed", "accounts": str(registry.accounts), "port": 0, "workers": 1}
    write_settings(folder, **files)
    server = Server(folder)
    try:
        server.start_as_configured()
        with Member(server.address) as bob:
            bob.join(BOB, password=BOBS)
            registry.key.chmod(0o644)
            write_settings(folder, jwt_key=str(registry.key), **{**files, "auth": "open"})
            done = server.command("reload")
            assert done.returncode == 5
            assert "jwt_key" in done.stderr
            with Client(server.address) as client:
                client.say("is it open?")
                assert error_of(client)["code"] == "auth_required"
            bob.ask(message="still here")
            bob.hear_from_room("still here")
    finally:
        server.end()


def test_registered_names_only(folder: Path, registry: Registry) -> None:
    with (
        running(folder, "--auth", "names", *registry.flags) as server,
        Client(server.address) as plain,
        Member(server.address) as guest,
        Member(server.address, source="127.2.0.9") as eve,
        Member(server.address) as bob,
    ):
        plain.say("hello")
        assert plain.hear() == "hello"
        guest.join("guest")
        assert eve.refused(join={"name": BOB}) == "auth_required"
        assert eve.refused(join={"name": "B\u041eB"}) == "name_taken"
        assert eve.refused(join={"name": "guest"}) == "name_taken"
        assert eve.refused(join={"name": "gu\u0435st"}) == "name_taken"
        eve.ask(message="I am still a plain client")
        assert guest.hear_from_room("I am still a plain client")["from"].startswith("127.2.0.9")
        bob.join(BOB, password=BOBS)
        registry_after = registry.open()
        assert registry_after.get(BOB) is not None
        registry_after.close()


def test_in_an_open_chat_a_proof_that_is_shown_is_checked(folder: Path, registry: Registry) -> None:
    with running(folder, *registry.flags) as server:
        with Member(server.address) as alice, Member(server.address) as guest:
            guest.join(BOB)
            assert alice.refused(join={"name": ALICE, "password": "wrong password"}) == "bad_credentials"
            assert alice.join(ALICE, password=ALICES)["role"] == OPERATOR
            alice.ask(kick={"name": BOB})
            assert alice.until("moderated")["count"] == 1
    with running(folder, "--accounts", str(folder / "none.db")) as server, Member(server.address) as guest:
        assert guest.refused(join={"name": "guest", "password": "a password"}) == "bad_credentials"
        assert guest.join("guest").get("role", MEMBER) == MEMBER


def test_without_any_of_it_no_thread_checks_proofs(folder: Path) -> None:
    with running(folder) as server, Member(server.address) as guest:
        before = psutil.Process(server.pid).num_threads()
        guest.join("guest")
        assert psutil.Process(server.pid).num_threads() == before
        # What is loaded for accounts and tokens takes megabytes.
        assert "cryptography" not in Path(f"/proc/{server.pid}/maps").read_text()
        assert guest.refused(join={"password": "a password"}) == "bad_request"
        assert psutil.Process(server.pid).num_threads() == before + 1


def test_over_tls_a_proof_is_shown_as_everywhere(shared: Server, authority: Authority) -> None:
    with TlsMember(shared.address, authority) as alice, Member(shared.address) as bob:
        alice.ask(message="without a proof")
        assert alice.until("error")["code"] == "auth_required"
        alice.join(ALICE, password=ALICES)
        bob.join(BOB, password=BOBS)
        bob.ask(message="over TLS")
        assert alice.hear_from_room("over TLS")["from"] == BOB


def test_no_secret_is_shown_anywhere(shared: Server, registry: Registry) -> None:
    token = registry.token("max")
    with Member(shared.address) as alice, Member(shared.address) as dan, Member(shared.address) as mina:
        alice.join(ALICE, password=ALICES)
        dan.join(jwt=token)
        mina.join("mina", secret=SECRET)
        scale(shared, 3)
        scale(shared, 2)
        shown = [shared.log, json.dumps(shared.status(), ensure_ascii=False)]
        shown += [shared.command("status").stdout, shared.command("config").stdout]
        for process in shared.processes():
            shown.append(" ".join(process.cmdline()))
            shown.append("\n".join(process.environ().values()))
        for path in shared.instance_folder.iterdir():
            if path.is_file():
                shown.append(path.read_bytes().decode(errors="replace"))
        mina.ask(message="안녕, 민아야")
        alice.hear_from_room("안녕, 민아야")
        alice.ask(history={})
        shown.append(json.dumps(alice.until("history"), ensure_ascii=False))
    everything = "\n".join(shown)
    assert "안녕, 민아야" in everything
    for hidden in [*registry.hidden, token, *token.split(".")[1:]]:
        assert hidden not in everything


HOSTILE = "a" + "\u0301" * 14_000 + "\u0316" * 14_000  # to compose it takes seconds


@pytest.mark.parametrize("kind", ["secret", "password"])
def test_a_hostile_proof_stops_nobody(shared: Server, kind: str) -> None:
    with Member(shared.address) as bob, Member(shared.address, source="127.5.0.1") as eve:
        bob.join(BOB, password=BOBS)
        for _ in range(3):
            eve.ask(join={"name": BOB, kind: HOSTILE})
        longest = 0.0
        for number in range(100):
            begun = time.monotonic()
            bob.ask(message=f"{number}")
            bob.hear_from_room(f"{number}")
            longest = max(longest, time.monotonic() - begun)
        assert longest < 0.5
        assert eve.until("error")["code"] == "bad_request"


def test_a_chat_that_a_reload_has_closed_on_some_workers_alone_is_closed(
    folder: Path, registry: Registry
) -> None:
    """The settings of a worker that was not replaced say that the chat is open; the hub's count."""
    files = {"accounts": str(registry.accounts), "port": 0, "workers": 2}
    write_settings(folder, **files)
    server = Server(folder)
    try:
        server.start_as_configured()
        with Member(server.address) as bob:
            bob.join(BOB, password=BOBS)
            write_settings(folder, auth="closed", **files)
            background = InBackground(server, "reload")
            kill_the_next_worker(server)
            assert background.answer().exit in (0, 5)
            with ExitStack() as stack:
                strangers = [stack.enter_context(Client(server.address)) for _ in range(8)]
                time.sleep(0.5)  # longer than listen_grace
                bob.ask(message="for members only")
                bob.hear_from_room("for members only")
                for each in strangers:
                    each.send_raw(raw_frame(b'{"ping":1}'))
                    assert each.receive() == {"pong": 1}
    finally:
        server.end()


def kill_the_next_worker(server: Server) -> None:
    """Kill the worker that a reload starts second, as soon as it is there."""
    before = set(worker_pids(server))
    parent = psutil.Process(server.pid)

    def second() -> psutil.Process | None:
        new = [
            each
            for each in parent.children()
            if each.pid not in before and "spawn_main" in " ".join(each.cmdline())
        ]
        return new[-1] if len({each.pid for each in new}) > 1 else None

    with suppress(AssertionError, psutil.Error):
        eventually(second, "a second new worker", 3.0, pause=0.001).kill()
