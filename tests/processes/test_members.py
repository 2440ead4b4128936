"""Names, rooms, history and coming back, over real sockets and several workers.

Tests that share a server have names of their own: a name is held for a while.
"""

import time
from pathlib import Path

from support.changing import Stalled, reload, scale
from support.harness import Server, clients, frame, kill, raw_frame, running
from support.members import Member, Object, members
from support.waiting import eventually


def test_plain_and_named_clients_talk_to_each_other_in_one_room(shared: Server) -> None:
    with clients(shared, 1) as (plain,), members(shared.address, "앨리스", "bob") as (alice, bob):
        alice.ask(message='안녕, "모두" \\ 😀')
        heard = alice.hear_from_room('안녕, "모두" \\ 😀')
        assert bob.hear_from_room('안녕, "모두" \\ 😀') == heard
        assert plain.hear() == '앨리스: 안녕, "모두" \\ 😀'
        first = heard["seq"]
        assert (heard["from"], heard["room"]) == ("앨리스", "lobby")
        assert abs(heard["at"] - time.time()) < 60
        plain.say("from a plain one")
        heard = bob.hear_from_room("from a plain one")
        assert (heard["from"], heard["seq"]) == (plain.address, first + 1)
        assert alice.hear_from_room("from a plain one") == heard
        assert plain.hear() == "from a plain one"


def test_messages_sent_right_behind_the_join_are_the_members_own(shared: Server) -> None:
    with clients(shared, 1) as (plain,), Member(shared.address) as rita:
        plain.say("before")
        plain.hear()
        rita.send_raw(frame("as nobody") + raw_frame(b'{"join":{"name":"rita","room":"r"}}') + frame("in r"))
        assert plain.hear() == "as nobody"
        heard = rita.hear_from_room("in r")
        assert (heard["from"], heard["room"], heard["seq"]) == ("rita", "r", 1)
        assert [each.get("message") for each in rita.got if "welcome" not in each and "joined" not in each]
        plain.say("after")
        assert plain.hear() == "after"


def test_a_private_message_reaches_two_and_nobody_else(shared: Server) -> None:
    with (
        clients(shared, 1) as (plain,),
        members(shared.address, "ada", "ben", "cora") as (ada, ben, cora),
    ):
        ada.ask(message="psst", to="BEN")
        heard = ben.hear_from_room("psst")
        assert ada.hear_from_room("psst") == heard
        assert {**heard, "at": 0} == {"message": "psst", "from": "ada", "to": "ben", "at": 0}
        assert ada.refused(message="psst", to="dave") == "no_such_name"
        cora.sync()
        assert not [each for each in cora.got if each.get("message") == "psst"]
        plain.say("the first that it hears")
        assert plain.hear() == "the first that it hears"


def test_a_message_to_null_is_one_to_the_room_and_a_question_that_is_null_is_answered(shared: Server) -> None:
    with clients(shared, 1) as (plain,), members(shared.address, "nina") as (nina,):
        nina.ask(message="hi", to=None)
        first = nina.hear_from_room("hi")["seq"]
        plain.send_raw(raw_frame(b'{"message":"so do I","to":null}'))
        assert nina.hear_from_room("so do I")["seq"] == first + 1
        assert nina.refused(who=None) == "not_a_message"
        nina.ask(ping=None)
        assert nina.until("pong") is None


def test_rooms_are_apart_and_changing_them_is_one_step(server: Server) -> None:
    with members(server.address, "alice", "bob") as (alice, bob):
        welcome = bob.join(room="게임-7")
        assert (welcome["name"], welcome["room"], welcome["seq"], welcome["members"]) == (
            "bob",
            "게임-7",
            0,
            1,
        )
        left = alice.until("left")
        assert left == {"room": "lobby", "names": ["bob"], "count": 1, "members": 1, "reason": "moved"}
        bob.ask(message="in the game")
        assert bob.hear_from_room("in the game")["room"] == "게임-7"
        alice.ask(message="in the lobby")
        assert alice.hear_from_room("in the lobby")["seq"] == 1
        alice.sync()
        bob.sync()
        assert not [each for each in alice.got if each.get("message") == "in the game"]
        assert not [each for each in bob.got if each.get("message") == "in the lobby"]
        alice.ask(rooms={})
        assert alice.until("rooms") == {
            "rooms": [{"room": "lobby", "members": 1}, {"room": "게임-7", "members": 1}],
            "count": 2,
            "next": None,
        }
        alice.ask(who={"room": "게임-7"})
        assert alice.until("who")["names"] == ["bob"]


def test_who_comes_later_gets_the_last_messages_and_then_live_ones(shared: Server) -> None:
    with clients(shared, 1) as (plain,), members(shared.address, "lara") as (lara,):
        before = lara.welcome["seq"]
        for number in range(70):
            if number % 2:
                plain.say(f"{number}")
            else:
                lara.ask(message=f"{number}")
            lara.hear_from_room(f"{number}")
        with Member(shared.address) as late:
            welcome = late.join("lasse")
            assert (welcome["seq"], welcome["recovered"], welcome["lost"]) == (before + 70, False, None)
            late.sync()
            assert [each["seq"] for each in late.numbered] == list(range(before + 21, before + 71))
            assert late.numbered == lara.numbered[-50:]


def test_who_comes_back_gets_exactly_what_was_missed(shared: Server) -> None:
    with members(shared.address, "mona", room="missed") as (mona,):
        for number in range(70):
            mona.ask(message=f"{number}")
        mona.hear_from_room("69")
        for after in (0, 1, 35, 69, 70, 1000):
            with Member(shared.address) as back:
                welcome = back.join(f"m{after}", room="missed", after=after, epoch=mona.welcome["epoch"])
                assert (welcome["recovered"], welcome["lost"]) == (True, None)
                back.sync()
                assert [each["seq"] for each in back.numbered] == list(range(after + 1, 71))


def test_a_number_that_no_message_can_have_is_refused_and_harms_nobody(shared: Server) -> None:
    with members(shared.address, "nora") as (nora,):
        for after in ("9" * 4300, str(2**63), "-1"):
            with Member(shared.address) as bert:
                bert.send_raw(raw_frame(b'{"join":{"name":"bert","epoch":"x","after":%b}}' % after.encode()))
                assert bert.until("error")["code"] == "bad_request"
                nora.sync()


def test_what_is_not_kept_any_more_is_named(folder: Path) -> None:
    with (
        running(folder, "--history-messages", "10", workers=1) as server,
        members(server.address, "alice") as (alice,),
    ):
        for number in range(40):
            alice.ask(message=f"{number}")
            alice.hear_from_room(f"{number}")
        with Member(server.address) as bob:
            welcome = bob.join("bob", after=7, epoch=alice.welcome["epoch"])
            assert welcome["recovered"] is False
            first, last = welcome["lost"]
            assert first == 8
            assert last >= 20
            bob.sync()
            assert [each["seq"] for each in bob.numbered] == list(range(last + 1, 41))
            welcome = bob.join(room="lobby", after=7, epoch="of another server")
            assert (welcome["recovered"], welcome["lost"]) == (False, [8, None])


def test_a_name_is_one_persons_and_is_held_for_a_while(folder: Path) -> None:
    with running(folder, "--name-hold", "2s", workers=1) as server, Member(server.address) as alice:
        token = alice.join("Ångström")["token"]
        with Member(server.address) as other:
            assert other.refused(join={"name": "ÅNGSTRÖM"}) == "name_taken"
            assert other.refused(join={"name": "ångström", "token": "x" * 16}) == "name_taken"
            assert other.refused(join={"name": "a b"}) == "bad_name"
            assert other.refused(join={}) == "bad_request"
            assert other.refused(join={"name": "bob", "room": "-"}) == "bad_room"
            assert other.refused(who={}) == "not_joined"
            # After a refused join it is what it was.
            other.say("as a plain one")
            assert other.take()["message"] == "as a plain one"
            assert alice.hear_from_room("as a plain one")["from"] == other.address
            alice.reset()
            eventually(lambda: server.status()["connections"] == 1, "alice to be gone")
            assert other.refused(join={"name": "Ångström"}) == "name_taken"
            with Member(server.address) as back:
                assert back.join("ångström", token=token)["token"] == token
            eventually(lambda: _can_have(other, "Ångström"), "the name to be free", 10.0)


def _can_have(client: Member, name: str) -> bool:
    client.ask(join={"name": name})
    while True:
        received = client.take()
        if "error" in received or "welcome" in received:
            return "welcome" in received


def test_who_comes_back_before_it_was_missed_takes_its_name_over(shared: Server) -> None:
    with Member(shared.address) as ghost, Member(shared.address) as back:
        token = ghost.join("tom")["token"]
        assert back.join("tom", token=token)["members"] == 1
        while ghost.receive() is not None:
            pass
        back.ask(who={})
        assert back.until("who")["names"] == ["tom"]


def test_a_dead_workers_members_have_left_and_come_back_to_all_that_was_said(folder: Path) -> None:
    with (
        running(folder) as server,
        members(server.address, *(f"m{number}" for number in range(8))) as crowd,
    ):
        victim = server.worker_pids[0]
        kill(victim)
        alive = [each for each in crowd if _alive(each)]
        dead = [each for each in crowd if each not in alive]
        assert alive
        assert dead
        alive[0].ask(message="while you were away")
        alive[0].hear_from_room("while you were away")
        server.wait_until_running()
        for each in dead:
            with Member(server.address) as back:
                seen = each.numbered[-1]["seq"] if each.numbered else 0
                welcome = back.join(
                    each.welcome["name"],
                    token=each.welcome["token"],
                    after=seen,
                    epoch=each.welcome["epoch"],
                )
                assert welcome["recovered"]
                back.sync()
                assert [message["message"] for message in back.numbered] == ["while you were away"]
        lost = [each["left"] for each in alive[0].got if "left" in each]
        assert {each["reason"] for each in lost} <= {"lost"}


def _alive(member: Member) -> bool:
    """Whether a member's connection has outlived its worker's death."""
    try:
        member.sync()
    except (AssertionError, OSError):
        return False
    return True


def test_a_reload_and_scalings_take_everything_along(shared: Server) -> None:
    with (
        clients(shared, 2) as plain,
        members(shared.address, "rob", "rosa", "rudi") as crowd,
        members(shared.address, "sam", "sue", room="s") as others,
    ):
        before = crowd[0].welcome["seq"]
        for turn, change in enumerate((reload, lambda s: scale(s, 1), lambda s: scale(s, 2), reload)):
            crowd[turn % 3].ask(message=f"lobby {turn}")
            others[turn % 2].ask(message=f"s {turn}")
            half = b'\x00\x14{"message":"in half'
            crowd[0].send_raw(half[:9])
            change(shared)
            crowd[0].send_raw(half[9:].replace(b"in half", b"halves") + b'"}')
            for each in crowd:
                each.hear_from_room(f"lobby {turn}")
                each.hear_from_room("halves")
            for each in others:
                each.hear_from_room(f"s {turn}")
        for each in crowd[1:]:
            assert each.numbered == crowd[0].numbered
        said = [each["seq"] for each in crowd[0].numbered if each["seq"] > before]
        assert said == list(range(before + 1, before + 9))
        assert others[0].numbered == others[1].numbered
        assert [each["seq"] for each in others[0].numbered] == [1, 2, 3, 4]
        for client in plain:
            client.hear_until("rosa: lobby 1")
        with Member(shared.address) as other:
            assert other.refused(join={"name": "rob"}) == "name_taken"
        crowd[0].ask(who={})
        assert crowd[0].until("who")["names"] == ["rob", "rosa", "rudi"]
        assert not [each for each in crowd[0].got if "left" in each]


def test_older_messages_of_a_members_room_are_read_page_by_page_over_a_reload(shared: Server) -> None:
    with (
        members(shared.address, "olga", room="o") as (olga,),
        members(shared.address, "otto", room="p") as (otto,),
    ):
        for number in range(1, 131):
            olga.ask(message=f"o {number}")
            otto.ask(message=f"p {number}")
        olga.hear_from_room("o 130")
        otto.hear_from_room("p 130")
        pages = []
        for each, room in ((olga, "o"), (otto, "p")):
            each.ask(history={})
            pages.append(each.until("history"))
            assert (pages[-1]["room"], pages[-1]["next"]) == (room, 81)
            assert pages[-1]["messages"] == [_in_a_page(said) for said in each.numbered[-50:]]
        # The requests are on their way while the clients are moved.
        for each in (olga, otto):
            each.ask(history={"before": 81, "limit": 30})
        reload(shared)
        olga.ask(message="live")
        for each, name in ((olga, "o"), (otto, "p")):
            page = each.until("history")
            assert [said["message"] for said in page["messages"]] == [f"{name} {n}" for n in range(51, 81)]
            each.ask(history={"before": page["next"], "limit": 100})
            page = each.until("history")
            assert page["messages"] == [_in_a_page(said) for said in each.numbered[:50]]
            assert page["next"] is None
            assert each.refused(history={"before": 5, "limit": 0}) == "bad_request"
        with Member(shared.address) as other:
            assert other.refused(history={"before": 5}) == "not_joined"


def _in_a_page(said: Object) -> Object:
    """Return a message as it stands in a page of history, which names the room once."""
    return {key: value for key, value in said.items() if key != "room"}


class StalledMember(Member, Stalled):
    """A member that has little room for what it does not read."""

    def __init__(self, address: tuple[str, int]) -> None:
        Stalled.__init__(self, address)
        self.got, self.welcome = [], {}


def test_history_that_somebody_reads_slowly_goes_on_over_a_reload_and_is_no_lag(folder: Path) -> None:
    """The past is as much as a socket takes many times over, and the room goes on meanwhile."""
    with (
        running(folder, "--lag-limit", "6M") as server,
        members(server.address, "alice", "carol") as (alice, carol),
    ):
        for number in range(400):
            alice.ask(message=f"{number} " + "가" * 4000)
            carol.take()
            alice.take()  # moved with more than its socket takes, it would not be read from either
        epoch = alice.welcome["epoch"]
        with StalledMember(server.address) as slow:
            slow.ask(join={"name": "밥", "after": 0, "epoch": epoch})
            carol.until("joined")
            alice.until("joined")
            for number in range(400, 600):
                alice.ask(message=f"{number} " + "나" * 1000)
                carol.take()
                alice.take()
                if number in (450, 550):
                    reload(server)
            slow.until("welcome")
            while not slow.numbered or slow.numbered[-1]["seq"] < 600:
                slow.take()
            assert [each["seq"] for each in slow.numbered] == list(range(1, 601))
            assert [each["message"].split()[0] for each in slow.numbered] == [f"{n}" for n in range(600)]
        assert "slow consumer" not in server.log


def test_the_status_counts_what_members_get_and_who_of_them_is_late(folder: Path) -> None:
    def figures(server: Server) -> tuple[int, int, int]:
        (worker,) = server.status()["workers"]
        return worker["messages_in"], worker["messages_out"], worker["late"]

    with (
        running(folder, "--lag-limit", "64M", workers=1) as server,
        members(server.address, "alice", "bob", room="r") as (alice, bob),
        StalledMember(server.address) as stalled,
    ):
        stalled.join("carol", room="r")
        alice.ask(message="hello")
        for each in (alice, bob, stalled):
            each.hear_from_room("hello")
        # Beside the message, notices about those that came later.
        eventually(lambda: figures(server) >= (1, 3, 0), "what three members got of a message to be counted")
        for number in range(100):
            alice.ask(message=f"{number} " + "x" * 50_000)
            alice.hear_from_room(f"{number} " + "x" * 50_000)
            bob.hear_from_room(f"{number} " + "x" * 50_000)
        eventually(lambda: figures(server)[2] == 1, "the member that does not read to be late")
        eventually(lambda: figures(server)[:2] >= (101, 202), "what the others got to be counted")
