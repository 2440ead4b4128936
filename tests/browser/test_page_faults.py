"""The page in a real Chromium when something breaks: each message once, or a line that names what is lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from support.browsers import Desk, Window, chromium
from support.dead_network import DeadNetwork
from support.harness import Server, kill, running
from support.members import members
from support.scripted_site import ScriptedSite, welcome

from mpchat import connect_blocking

pytestmark = pytest.mark.one_python

# Messages while a page is away.
MISSED = 70
# Messages that a server keeps which cannot give all of them.
KEPT = 10
LOST = "The server has begun anew: messages from before may be lost."
# Writes down each state that is shown from now on.
WATCH = """
window.states = [];
const shown = document.getElementById('state-text');
new MutationObserver(() => states.push(shown.textContent)).observe(shown, { childList: true });
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with running(folder) as started:
        yield started


def numbers(window: Window) -> list[int]:
    return [row["seq"] for row in window.rows()]


def kill_workers(server: Server) -> None:
    for worker in server.wait_until_running()["workers"]:
        kill(worker["pid"])


def test_a_reload_is_not_noticed_and_dead_workers_only_for_a_moment(
    browser: webdriver.Chrome, server: Server
) -> None:
    with Desk(browser, server.address) as desk, connect_blocking(*server.address, name="bob") as bob:
        alice = desk.window("alice")
        bob.send("1")
        alice.hears("1")
        alice.run(WATCH)
        assert server.command("reload").returncode == 0
        bob.send("2")
        alice.hears("2")
        alice.say("3")
        alice.hears("3")
        assert alice.find("states") == []

        kill_workers(server)
        # A connection of now: what is written to one whose worker has just died is gone.
        with connect_blocking(*server.address, name="carol") as carol:
            carol.send("4")
            alice.notes_until("Connected again.")
            carol.send("5")
            alice.hears("4", "5")
        alice.say("6")
        alice.hears("6")
        assert alice.texts() == ["1", "2", "3", "4", "5", "6"]
        assert numbers(alice) == [1, 2, 3, 4, 5, 6]
        states = alice.find("states")
        assert "Connecting…" in states
        assert states[-1] == "Connected"
        assert not any("Lost" in note for note in alice.notes())


def test_a_restart_is_told_and_what_was_being_written_is_not_lost(
    browser: webdriver.Chrome, server: Server
) -> None:
    address = server.address
    with Desk(browser, address) as desk:
        alice = desk.window("alice")
        alice.say("before")
        alice.hears("before")
        assert server.command("stop").returncode == 0
        alice.until("!document.getElementById('trouble').hidden", "the line about the connection")
        alice.shows("#trouble-text", "Connection lost.")
        assert alice.find("document.getElementById('send').disabled")
        alice.say("kept")
        alice.notes_until("Your text stays here")
        server.start(port=address[1])
        alice.run("document.getElementById('try').click()")
        alice.until_online()
        alice.notes_until("The server has begun anew")
        assert alice.find("document.getElementById('trouble').hidden")
        assert alice.find("document.getElementById('text').value") == "kept"
        alice.click("#send")
        alice.hears("kept")
        said = [(row["text"], row["seq"]) for row in alice.rows()]
        assert said == [("before", 1), ("The server is stopping.", 2), ("kept", 1)]


def test_after_a_restart_that_numbers_anew_messages_are_counted_and_announced(
    browser: webdriver.Chrome, server: Server
) -> None:
    address = server.address
    with Desk(browser, address) as desk:
        alice = desk.window("alice")
        with connect_blocking(*address, name="bob") as bob:
            for number in range(5):
                bob.send(f"before {number}")
            alice.hears("before 4")
        # These five are history now.
        alice.front().refresh()
        alice.until_online()
        alice.hears("before 4")
        assert server.command("stop").returncode == 0
        alice.until("!document.getElementById('trouble').hidden", "the line about the connection")
        server.start(port=address[1])
        alice.run("document.getElementById('try').click()")
        alice.until_online()
        alice.notes_until("The server has begun anew")
        alice.run("document.hasFocus = () => false")
        with connect_blocking(*address, name="bob") as bob:
            bob.send("one")
            bob.send("two")
            alice.hears("one", "two")
        assert alice.find("document.title") == "(2) lobby · mpchat"
        alice.shows("#announcer", "bob: two")


def test_with_history_a_restart_loses_nothing(browser: webdriver.Chrome, folder: Path) -> None:
    history = ["--history", str(folder / "history.db")]
    with running(folder, *history) as server, Desk(browser, server.address) as desk:
        port = server.address[1]
        alice = desk.window("alice")
        alice.say("before")
        alice.hears("before")
        assert server.command("stop").returncode == 0
        alice.until("!document.getElementById('trouble').hidden", "the line about the connection")
        server.start(*history, port=port)
        with connect_blocking(*server.address, name="bob") as bob:
            bob.send("while she was away, or just after")
            alice.notes_until("Connected again.")
            bob.send("after")
            alice.hears("after")
        assert numbers(alice) == [1, 2, 3, 4]  # the second is the server's farewell
        assert not any("begun anew" in note or "Lost" in note for note in alice.notes())


def test_a_network_that_goes_dead_is_noticed_and_what_was_missed_comes_once(
    browser: webdriver.Chrome, server: Server
) -> None:
    with (
        DeadNetwork(server.address) as network,
        Desk(browser, network.address) as desk,
        connect_blocking(*server.address, name="bob") as bob,
    ):
        alice = desk.window("alice")
        alice.say("before")
        alice.hears("before")
        network.die()
        alice.say("into the void")
        # More than a member gets that does not say where it was.
        for number in range(MISSED):
            bob.send(f"missed {number}")
        # What a browser says of a computer that has lost its network, or wakes up.
        alice.run("window.dispatchEvent(new Event('offline'))")
        alice.until("!document.getElementById('trouble').hidden", "the line about the connection", 60.0)
        network.revive()
        alice.until_online(60.0)
        bob.send("after")
        alice.hears("after")
        assert alice.texts() == ["before", *(f"missed {number}" for number in range(MISSED)), "after"]
        assert numbers(alice) == list(range(1, MISSED + 3))
        assert not any("Lost" in note for note in alice.notes())
        # Nothing is sent twice by itself: whether to send it again is for the writer to say.
        alice.shows("#outbox .why", "most likely not sent")
        # It was for this room: it is offered in no other, and to nobody else.
        outbox = "document.querySelectorAll('#outbox li:not([hidden])').length"
        assert alice.find(outbox) == 1
        alice.say("/join b")
        alice.shows("#room", "b")
        alice.until(f"{outbox} === 0", "what was for the room before to be hidden")
        alice.say("/join lobby")
        alice.shows("#room", "lobby")
        alice.until(f"{outbox} === 1", "what was for this room to be shown")
        alice.click("#outbox .why button")
        alice.hears("into the void")
        assert alice.find("document.getElementById('outbox').childElementCount") == 0
        alice.say("/msg nobody x")
        alice.shows("#outbox .why", "Nobody has this name now.")
        alice.say("/quit")
        alice.until("!document.getElementById('entrance').hidden", "the entrance")
        assert alice.find("document.getElementById('outbox').childElementCount") == 0


def test_a_line_names_what_the_server_has_not_kept_and_the_rest_comes_once(
    browser: webdriver.Chrome, folder: Path
) -> None:
    with (
        running(folder, "--history-messages", str(KEPT)) as server,
        DeadNetwork(server.address) as network,
        Desk(browser, network.address) as desk,
        members(server.address, "bob") as [bob],
    ):
        alice = desk.window("alice")
        alice.say("before")
        alice.hears("before")
        network.die()
        for number in range(MISSED):
            bob.ask(message=f"missed {number}")
        # From here on the room has no more than the newest of them.
        bob.hear_from_room(f"missed {MISSED - 1}")
        alice.run("window.dispatchEvent(new Event('offline'))")
        alice.until("!document.getElementById('trouble').hidden", "the line about the connection", 60.0)
        network.revive()
        alice.until_online(60.0)
        bob.ask(message="after")
        alice.hears("after")
        # "before" has the number 1, and the first missed message the number 2.
        last_lost = MISSED + 1 - KEPT
        line = f"Lost: messages 2 to {last_lost}."
        assert [note for note in alice.notes() if "Lost" in note] == [line]
        rest = [f"missed {number}" for number in range(MISSED - KEPT, MISSED)]
        assert alice.texts() == ["before", *rest, "after"]
        assert numbers(alice) == [1, *range(last_lost + 1, MISSED + 3)]
        # It stands where the messages would stand.
        lines = alice.find(
            "[...document.querySelectorAll('#list .text, #list .lost')].map((e) => e.textContent)"
        )
        assert lines == ["before", line, *rest, "after"]


def test_another_window_with_the_same_name_takes_it_over(browser: webdriver.Chrome, server: Server) -> None:
    with Desk(browser, server.address) as desk:
        alice = desk.window("alice")
        kept = alice.find("['token', 'name', 'room'].map((key) => sessionStorage.getItem(`mpchat.${key}`))")
        again = desk.window()
        # A window that is duplicated begins with the same name, room and token.
        again.run(
            "sessionStorage.setItem('mpchat.token', arguments[0]);"
            "sessionStorage.setItem('mpchat.name', arguments[1]);"
            "sessionStorage.setItem('mpchat.room', arguments[2]);"
            "sessionStorage.setItem('mpchat.inside', 'yes')",
            *kept,
        )
        again.front().refresh()
        again.until_online()
        alice.notes_until("You have entered with this name in another window.")
        alice.shows("#trouble-text", "Disconnected")
        # Its token is not the name's any more.
        alice.click("#try")
        alice.shows("#refusal", "Somebody has this name.")
        assert server.command("kick", "alice").returncode == 0
        again.notes_until("The operator has ended your connection.")
        again.shows("#try", "Enter again")


def test_hosts_that_have_lost_their_log_are_one_calm_line_and_a_farewell_is_the_servers(
    browser: webdriver.Chrome,
) -> None:
    with ScriptedSite() as site, Desk(browser, site.address) as desk:
        window = desk.window(path="/")
        window.put("#name", "앨리스")
        window.press_enter()
        talk, _ = site.join()
        talk.send(welcome(), *(said(seq, "전") for seq in (1, 2, 3)))
        window.hears("전", "전", "전")
        talk.send(welcome(seq=3, epoch="two", recovered=True, again=True), said(4, "복구됨"))
        window.hears("복구됨")
        assert window.notes() == []
        talk.send(welcome(seq=4, epoch="three", lost=[3, None], again=True))
        talk.send(*(said(seq, "새 번호") for seq in (3, 4, 5)), {"message": "안녕히 계세요"})
        window.hears("안녕히 계세요")
        assert window.notes() == [LOST]
        rows = window.rows()
        assert [row["seq"] for row in rows] == [1, 2, 3, 4, 3, 4, 5, None]
        assert (rows[-1]["from"], rows[-1]["mine"]) == ("Operator", False)
        assert window.find("document.getElementById('trouble').hidden")


def said(seq: int, text: str) -> dict[str, Any]:
    """Return a message of another member."""
    return {"message": text, "from": "밥", "room": "lobby", "seq": seq, "at": 1763900000 + seq}
