"""Rooms that one client cannot use up, and the operator's commands for them."""

import json
from pathlib import Path

from support.harness import Server, running
from support.members import Member, members

# What the fault's server allows: one address may have made a hundred.
MOST_ROOMS = 110
KEPT = 1000


def test_one_client_that_makes_rooms_takes_neither_the_rooms_nor_the_history_of_others(folder: Path) -> None:
    with (
        running(folder, "--max-rooms", f"{MOST_ROOMS}") as server,
        Member(server.address, source="127.0.0.2") as alice,
        Member(server.address) as hostile,
    ):
        alice.join("앨리스", room="방")
        for number in range(KEPT):
            alice.ask(message=f"안녕 {number}")
        alice.hear_from_room(f"안녕 {KEPT - 1}")
        hostile.join("hostile")
        for number in range(150):
            hostile.ask(join={"room": f"room-{number}"})
            hostile.ask(message="x" * 1000)
        hostile.sync()
        refused = [each["error"]["code"] for each in hostile.got if "error" in each]
        assert refused == ["too_many_rooms_by_address"] * 50
        with Member(server.address, source="127.0.0.3") as bob:
            assert bob.join("밥", room="새-방")["room"] == "새-방"
            bob.ask(message="들려요?")
            assert bob.hear_from_room("들려요?")["seq"] == 1
            welcome = bob.join(room="방", after=0, epoch=alice.welcome["epoch"])
            assert (welcome["recovered"], welcome["lost"]) == (True, None)
            bob.hear_from_room(f"안녕 {KEPT - 1}")
            assert [each["seq"] for each in bob.numbered if each["room"] == "방"] == list(range(1, KEPT + 1))


def ok(server: Server, *words: str) -> str:
    done = server.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_operator_lists_rooms_and_closes_one_for_good(folder: Path) -> None:
    history = str(folder / "대화.db")
    with running(folder, "--history", history) as server:
        with members(server.address, "앨리스", "bob", room="게임-7") as (alice, bob):
            alice.ask(message="비밀")
            bob.hear_from_room("비밀")
            found = {each["room"]: each for each in json.loads(ok(server, "rooms", "--json"))["rooms"]}
            assert list(found) == ["lobby", "게임-7"]
            game = found["게임-7"]
            assert (game["members"], game["messages"], game["made_by"]) == (2, 1, "127.0.0.1")
            assert game["bytes"] > 0
            assert game["made"] <= game["active"]
            head, _, row = ok(server, "rooms").splitlines()
            assert head.split() == ["room", "members", "messages", "memory", "age", "last", "active"]
            assert row.split()[:3] == ["게임-7", "2", "1"]
            assert ok(server, "close", "게임-７") == "게임-7 is closed; 2 members put into the lobby\n"
            for each in (alice, bob):
                assert each.until("error")["code"] == "room_closed"
                assert each.until("welcome")["room"] == "lobby"
            alice.ask(message="로비에서")
            assert bob.hear_from_room("로비에서")["room"] == "lobby"
            done = server.command("close", "게임-7")
            assert (done.returncode, done.stderr) == (
                1,
                "mpchat: there is no room 게임-7; mpchat rooms lists them\n",
            )
            done = server.command("close", "lobby")
            assert done.returncode == 1
            assert "lobby cannot be closed" in done.stderr
            done = server.command("close", "\x1b[31mred")
            assert done.returncode == 1
            assert "\x1b" not in done.stderr
        assert server.status()["rooms"] == 1
    with running(folder, "--history", history) as server, Member(server.address) as back:
        assert [each["room"] for each in json.loads(ok(server, "rooms", "--json"))["rooms"]] == ["lobby"]
        assert back.join("앨리스", room="게임-7")["seq"] == 1
        back.sync()
        assert not back.numbered
