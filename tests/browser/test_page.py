"""The page in a real Chromium: rooms with other clients in them, writing, older messages, hostile texts."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from support.browsers import LOOK, Desk, Window, chromium, room_path
from support.csharp import DRIVER, Sharp, compiled
from support.harness import MPCHAT, Client, Server, assert_nothing_left, raw_frame, running, settle
from support.members import members
from support.screens import Screen
from support.waiting import PATIENCE, eventually

from mpchat.text import visible

pytestmark = pytest.mark.one_python

# Rows in the document at most; see log.js.
MOST_ROWS = 200
# Milliseconds of work for a frame while the log scrolls: the median, and in nineteen frames of twenty. The
# page takes 6 and 30; beside three busy programs on two cores, 20 and 125. With all rows in the document, the
# median is over 50 on a machine that does nothing else.
USUAL_WORK = 40.0
MOST_WORK = 250.0


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that holds no name: a browser may reset the connection of a page that it leaves."""
    folder = tmp_path_factory.mktemp("lasting")
    with running(folder, "--name-hold", "0") as started:
        yield started
    assert_nothing_left(folder)


@pytest.fixture
def desk(browser: webdriver.Chrome, lasting: Server) -> Iterator[Desk]:
    """Windows on the file's server."""
    with Desk(browser, lasting.address) as made:
        yield made


def messages(window: Window) -> list[tuple[str, str, bool]]:
    return [(row["from"], row["text"], row["mine"]) for row in window.rows()]


def _without_time(line: str) -> str:
    """Return a terminal's line without the time of day before it."""
    return re.sub(r"^\d\d:\d\d ", "", line)


@pytest.fixture(scope="module")
def csharp(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a chat in C#."""
    return compiled(tmp_path_factory.mktemp("csharp"), DRIVER)


def test_two_browsers_a_terminal_a_program_in_csharp_and_a_plain_client_are_in_one_room(
    desk: Desk, csharp: list[str]
) -> None:
    host, port = desk.address
    chat = [*MPCHAT, "chat", "--name", "carol", host, str(port)]
    with (
        chromium() as other_browser,
        Desk(other_browser, desk.address) as other_desk,
        Client(desk.address) as plain,
        ExitStack() as stack,
    ):
        settle([plain])
        alice = desk.window("alice")
        terminal = stack.enter_context(Screen(chat))
        program = stack.enter_context(Sharp(csharp, desk.address, "dave"))
        phone = other_desk.window()
        phone.settings(width=360, height=640)
        phone.enter("밥")
        terminal.shows("* you are carol in lobby")
        program.until("welcome", name="dave", room="lobby")
        for window in (alice, phone):
            window.until("document.getElementById('people-count').textContent === '4'", "four members")
        came = alice.notes_until("dave")[0]
        assert set(came.removesuffix(" joined").split(", ")) == {"밥", "carol", "dave"}
        alice.say("hello")
        phone.hears("hello")
        phone.say("안녕")
        alice.hears("안녕")
        terminal.say("from a terminal")
        alice.hears("from a terminal")
        program.do("say", "from C#")
        alice.hears("from C#")
        plain.say("plain")
        said = [
            ("alice", "hello"),
            ("밥", "안녕"),
            ("carol", "from a terminal"),
            ("dave", "from C#"),
            (plain.address, "plain"),
        ]
        for window, name in ((alice, "alice"), (phone, "밥")):
            window.hears("plain")
            assert messages(window) == [(sender, text, sender == name) for sender, text in said]
        assert plain.hear_until("plain") == [*(f"{sender}: {text}" for sender, text in said[:-1]), "plain"]
        program.until("message", text="plain")
        assert [(each["sender"], each["text"]) for each in program.of("message")] == said
        terminal.shows("plain")
        lines = [f"{sender}: {text}" for sender, text in said]
        assert [line for line in map(_without_time, terminal.lines) if line in lines] == lines
        # All of it is in sight on the phone.
        assert phone.find("document.documentElement.scrollWidth") == 360
        bottom = "[...document.querySelectorAll('#list .body')].at(-1).getBoundingClientRect().bottom"
        assert phone.find(f"{bottom} <= document.getElementById('composer').getBoundingClientRect().top")
        terminal.say("/quit")
        assert terminal.exit_code() == 0
        alice.notes_until("carol left")
    people = "[...document.querySelectorAll('#people .label')].map((e) => e.textContent)"
    alice.until(f"({people}).join() === 'alice'", "the names beside the messages")


LOOKS = """
const looks = (element, property) => getComputedStyle(element)[property];
return [...document.querySelectorAll('#list .message')].map((row) => ({
  from: row.querySelector('.name').textContent,
  name: looks(row.querySelector('.name'), 'color'),
  disc: looks(row.querySelector('.disc'), 'backgroundColor'),
  moment: row.querySelector('time').dateTime,
  time: row.querySelector('time').textContent,
  seen: row.querySelector('time').getClientRects().length,
}));
"""
BESIDE = """
return Object.fromEntries([...document.querySelectorAll('#people button')].map((row) => [
  row.querySelector('.label').textContent, getComputedStyle(row.querySelector('.disc')).backgroundColor]));
"""


def test_a_message_has_its_time_and_a_name_its_colour(desk: Desk) -> None:
    alice = desk.window("alice", "looks")
    wanted = ("bob16", "carol", "erin", "밥")
    with members(desk.address, *wanted, room="looks") as joined:
        moments = []
        for turn in ("first", "second"):
            for name, member in zip(wanted, joined, strict=True):
                member.ask(message=f"{turn} of {name}")
                moments.append(member.hear_from_room(f"{turn} of {name}")["at"])
        alice.until(f"document.querySelectorAll('.message').length === {2 * len(wanted)}", "all messages")
        alice.until("document.querySelectorAll('#people .label').length === 5", "all names")
        found = alice.run(LOOKS)
        for each, at in zip(found, moments, strict=True):
            assert abs(datetime.fromisoformat(each["moment"]).timestamp() - at) < 0.002
            hour, minute = map(int, re.findall(r"\d+", each["time"]))
            there = datetime.fromtimestamp(at, UTC).astimezone()
            assert (hour % 12, minute) == (there.hour % 12, there.minute)
            assert ("PM" in each["time"]) == (there.hour >= 12)
            assert each["seen"] == 1
        colours: dict[str, str] = alice.run(BESIDE)
        assert {each["from"] for each in found} == set(wanted) < set(colours)
        for each in found:
            assert each["name"] == each["disc"] == colours[each["from"]]
        # Two of these names could have the same one of ten colours, but have not.
        assert len({colours[name] for name in wanted}) == len(wanted)


def rooms(window: Window) -> dict[str, str]:
    """Return the rooms beside the messages, with the number of people in each."""
    shown: list[list[str]] = window.find(
        "[...document.querySelectorAll('#rooms button')]"
        ".map((row) => [...row.children].map((each) => each.textContent))"
    )
    return dict(shown)


@contextmanager
def hurried(window: Window, times: int) -> Iterator[None]:
    """Let what the page does again and again come so many times as often, from its next load on."""
    source = f"const every = setInterval; window.setInterval = (turn, pause) => every(turn, pause / {times});"
    script = window.cdp("Page.addScriptToEvaluateOnNewDocument", source=source)
    try:
        yield
    finally:
        window.cdp("Page.removeScriptToEvaluateOnNewDocument", **script)


def test_the_numbers_of_people_in_other_rooms_are_those_of_now(desk: Desk) -> None:
    alice = desk.window()
    with hurried(alice, 10):
        alice.front().refresh()
    alice.enter("alice", "here-1")
    count = "Number(document.getElementById('rooms-count').textContent)"
    # Empty rooms of other tests are among them: the server keeps what was said there.
    eventually(lambda: len(rooms(alice)) > 1, "the list of rooms", pause=LOOK)
    before = rooms(alice)
    assert before["here-1"] == "1"
    assert "there-1" not in before
    assert alice.find(count) == len(before)
    with members(desk.address, "bob17", room="there-1") as [bob]:
        eventually(lambda: rooms(alice) == {**before, "there-1": "1"}, "another room", pause=LOOK)
        assert alice.find(count) == len(before) + 1
        with members(desk.address, "carol", room="there-1"):
            eventually(lambda: rooms(alice)["there-1"] == "2", "two people there", pause=LOOK)
        eventually(lambda: rooms(alice)["there-1"] == "1", "one of them left", pause=LOOK)
        bob.join("bob17", room="here-1")
        eventually(lambda: rooms(alice) == {**before, "here-1": "2"}, "the other room to go", pause=LOOK)
        assert alice.find(count) == len(before)


def test_a_click_that_has_begun_outlives_a_change_of_the_list(desk: Desk) -> None:
    alice = desk.window("alice", "click")
    with members(desk.address, "bob", room="click"):
        people = "[...document.querySelectorAll('#people button')]"
        alice.until(f"{people}.length === 2", "bob's name")
        box = alice.find(f"{people}[1].getBoundingClientRect().toJSON()")
        spot = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        button = {"button": "left", "buttons": 1, "clickCount": 1, **spot}
        alice.cdp("Input.dispatchMouseEvent", type="mousePressed", **button)
        with members(desk.address, "carol", room="click"):
            alice.until(f"{people}.length === 3", "carol's name")
            alice.cdp("Input.dispatchMouseEvent", type="mouseReleased", **button)
            alice.until("document.getElementById('text').value === '/msg bob '", "a message to bob begun")


def test_commands_are_those_of_the_terminal(desk: Desk) -> None:
    alice = desk.window("alice", "commands")
    with members(desk.address, "bob1", room="commands") as [bob]:
        alice.say("/msg bob1 psst")
        assert str(bob.until("to")) == "bob1"
        bob.ask(message="what?", to="alice")
        alice.hears("what?")
        assert [(row["text"], row["secret"]) for row in alice.rows()] == [
            ("psst", "only to bob1"),
            ("what?", "only to you"),
        ]
        alice.say("/me waves")
        alice.hears("waves")
        assert bob.hear_from_room("/me waves")["from"] == "alice"
        alice.say("//me")
        alice.hears("/me")
        alice.say("/who")
        assert "commands, 2 people: alice, bob1" in alice.notes_until("2 people")
        alice.say("/nick x")
        alice.notes_until("There is no /nick")
        alice.say("/msg bob1")
        alice.notes_until("Write it as: /msg NAME TEXT")
        alice.say("/help")
        alice.notes_until("/join ROOM")
        alice.say("/msg nobody x")
        alice.shows("#outbox .why", "Nobody has this name now.")
        alice.say("/join -")
        alice.notes_until("This is no name for a room")
        alice.say("/join 게임방")
        alice.shows("#room", "게임방")
        assert bob.until("left")["names"] == ["alice"]
        assert alice.find("decodeURIComponent(location.hash)") == "#게임방"
        assert alice.rows() == []
        alice.say("/rooms")
        alice.notes_until("게임방 (1)")
        alice.run("history.back()")
        alice.shows("#room", "commands")
        alice.hears("/me")
        alice.until("document.querySelector('#people button:not(:disabled)')", "bob's name")
        alice.click("#people button:not(:disabled)")
        assert alice.find("document.getElementById('text').value") == "/msg bob1 "
        alice.run("document.getElementById('text').value = ''")
        alice.say("/quit")
        alice.until("!document.getElementById('entrance').hidden", "the entrance")
        assert bob.until("left")["names"] == ["alice"]


def test_name_and_room_are_remembered_and_a_reload_keeps_the_draft(desk: Desk) -> None:
    alice = desk.window("앨리스", path=room_path("방-1"))
    alice.say("said")
    alice.hears("said")
    alice.write("not sent yet")
    alice.front().refresh()
    alice.until_online()
    alice.hears("said")
    assert alice.text("#room") == "방-1"
    assert alice.find("document.getElementById('text').value") == "not sent yet"
    other = desk.window(new=False)
    form = [other.find(f"document.getElementById('{each}').value") for each in ("name", "first-room")]
    assert form == ["앨리스", "방-1"]
    other.click("#enter")
    other.shows("#refusal", "Somebody has this name.")
    assert alice.texts() == ["said"]


def test_each_window_reloads_with_its_own_name_and_room(desk: Desk) -> None:
    with members(desk.address, "bob8", room="tab-b") as [bob]:
        alice = desk.window("alice", "tab-a")
        carol = desk.window("carol", "tab-b", new=False)
        # Without a room in its address, only what the window has kept names one.
        alice.run("history.replaceState(null, '', '/')")
        alice.front().refresh()
        alice.until_online()
        assert alice.text("#room") == "tab-a"
        alice.say("alice again")
        alice.hears("alice again")
        assert messages(alice) == [("alice", "alice again", True)]
        carol.say("still in")
        assert bob.hear_from_room("still in")["from"] == "carol"


def test_enter_that_ends_a_composition_sends_nothing(desk: Desk) -> None:
    alice = desk.window("alice", "ime")
    alice.click("#text")
    for so_far in ("ㅎ", "하", "한"):
        alice.cdp("Input.imeSetComposition", text=so_far, selectionStart=1, selectionEnd=1)
    assert alice.find("document.getElementById('text').value") == "한"
    press = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
    alice.run("window.seen = []; addEventListener('keydown', (e) => seen.push([e.key, e.isComposing]), true)")
    alice.cdp("Input.dispatchKeyEvent", type="rawKeyDown", **press)
    alice.cdp("Input.dispatchKeyEvent", type="keyUp", **press)
    assert alice.find("seen") == [["Enter", True]]
    # Safari ends the composition first, and then gives the key the code 229.
    alice.run(
        "document.getElementById('text').dispatchEvent("
        "new KeyboardEvent('keydown', {key: 'Enter', keyCode: 229, bubbles: true, cancelable: true}))"
    )
    alice.cdp("Input.insertText", text="한글")
    assert alice.find("document.getElementById('text').value") == "한글"
    alice.type_in("#text", Keys.ENTER)
    alice.hears("한글")
    assert alice.texts() == ["한글"]
    assert alice.find("document.getElementById('text').value") == ""


EVIL = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror='window.hit = 1'>",
    "<style>*{display:none}</style><b class=mine style='position:fixed'>b</b>",
    "&lt;b&gt; &amp;",
    "javascript:window.hit=1",
    "${window.hit = 1} {{window.hit = 1}}",
    "\u202eright to left\u202c \u2066isolated",
    "\x00\x07\x1b[2J\x9b",
    "x" * 3000,
    "-".join(["word"] * 800),
    "\n" * 60 + "far below",
    "z" + "\u0335\u0327\u0322\u031b\u034e" * 80 + "algo",
    "שלום עולם abc",
    "\ufeff\u200b\u2060",
    "\U000e0041\U000e0042",
    "</li></ol></div><h1>out</h1>",
    "__proto__",
]


def test_what_others_write_has_no_effect(desk: Desk) -> None:
    alice = desk.window("alice", "evil")
    tags = "[...new Set([...document.querySelectorAll('#list *')].map((e) => e.localName))].sort()"
    with members(desk.address, "bob2", room="evil") as [bob]:
        bob.ask(message="harmless")
        alice.hears("harmless")
        alice.until("document.querySelector('#list p')?.textContent.includes('bob2')", "the notice of bob2")
        outer = "document.body.querySelectorAll(':not(#list *, #announcer *, #side *)').length"
        before = alice.find(tags), alice.find(outer)
        for text in EVIL:
            bob.ask(message=text)
        bob.ask(message="the end")
        alice.hears("the end")
        # Hidden characters are an escape in a span of its own, and long texts have a button.
        assert set(alice.find(tags)) <= {*before[0], "span", "button"}
        assert alice.find(outer) == before[1]
        assert alice.find("window.hit ?? null") is None
        shown = alice.texts()[1:-1]
        assert shown[:6] == EVIL[:6]
        assert shown[6:8] == ["\\u202eright to left\\u202c \\u2066isolated", "\\x00\\x07\\x1b[2J\\x9b"]
        assert shown[8:12] == EVIL[8:12]
        assert shown[13:15] == ["\\ufeff\\u200b\\u2060", "\\U000e0041\\U000e0042"]
        all_of = "[...document.querySelectorAll('#list {}')].every((e) => {})"
        inside = "e.getBoundingClientRect().right <= innerWidth"
        assert alice.find(all_of.format(".body", inside))
        assert alice.find("document.documentElement.scrollWidth <= innerWidth")
        # Nothing is cut off at a side: long words are broken.
        assert alice.find(all_of.format(".body, #list .text.long", "e.scrollWidth <= e.clientWidth"))
        assert alice.find(all_of.format(".body", "e.offsetHeight < 500"))
        for selector in (".text", ".name"):
            assert alice.find(all_of.format(selector, "getComputedStyle(e).unicodeBidi === 'isolate'"))
        assert alice.find(all_of.format(".body", "getComputedStyle(e).overflow === 'clip'"))


def test_one_message_fills_no_page(desk: Desk) -> None:
    alice = desk.window("alice", "filled")
    whole = "a\x7f" * 29_000
    with members(desk.address, "bob12", room="filled") as [bob]:
        bob.ask(message=whole)
        bob.ask(message="the end")
        alice.hears("the end")
        assert alice.find("document.querySelectorAll('#list *').length") < 1000
        assert len(alice.texts()[0]) < 20_000
        alice.click("#list .text.long + button")
        assert alice.texts()[0] == whole.replace("\x7f", r"\x7f")
        assert alice.find("document.querySelectorAll('#list *').length") < 1000
        assert alice.find("document.activeElement.className") == "text"


def test_a_long_message_at_the_end_is_shown_from_its_beginning(desk: Desk) -> None:
    alice = desk.window("alice", "long")
    with members(desk.address, "bob13", room="long") as [bob]:
        for number in range(50):
            bob.ask(message=f"before {number}")
        bob.ask(message="word " * 2_000)
        alice.until("document.querySelector('#list .text.long')", "the long message")
        drawn = "requestAnimationFrame(() => requestAnimationFrame(arguments[0]))"
        alice.front().execute_async_script(drawn)
        top = "document.getElementById('log').scrollTop"
        before = alice.find(top)
        assert before > 0
        alice.click("#list .text.long + button")
        alice.front().execute_async_script(drawn)
        assert alice.find(top) == before


def test_a_day_begins_with_its_date_whatever_stands_above_its_first_message(desk: Desk) -> None:
    alice = desk.window("alice", "days")
    alice.run(
        "window.shift = 0; const parse = JSON.parse;"
        "JSON.parse = (text) => { const made = parse(text); if (made?.at) made.at += shift; return made; }"
    )
    with members(desk.address, "bob14", room="days") as [bob]:
        bob.ask(message="one")
        alice.hears("one")
        with members(desk.address, "carol", room="days"):
            alice.notes_until("carol joined")
        alice.notes_until("carol left")
        alice.run("window.shift = 86_400")
        bob.ask(message="two")
        alice.hears("two")
        dated = "[...document.querySelectorAll('#list .day')].map((e) => e.parentNode.querySelector('.text'))"
        assert alice.find(f"{dated}.map((e) => e?.textContent)") == ["one", "two"]


NAMES = """
const done = arguments[arguments.length - 1];
import('/rows.js').then(({ row }) => {
  const list = document.getElementById('list');
  for (const from of arguments[0]) {
    list.append(row({ type: 'message', from, text: from, at: 5, room: 'evil', seq: 1 }));
    list.append(row({ type: 'message', from, to: from, mine: true, text: from, at: 5 }));
  }
  done([...list.querySelectorAll('bdi.name')].map((e) => [e.textContent, e.childElementCount]));
}, (error) => done(String(error)));
"""


def test_a_name_that_no_server_should_allow_has_no_effect_either(desk: Desk) -> None:
    alice = desk.window("alice", "names")
    found = alice.front().execute_async_script(NAMES, EVIL)
    assert isinstance(found, list), found
    assert all(children == 0 for _, children in found)
    shown = [text for text, _ in found[::2]]
    assert shown[0] == EVIL[0]
    assert shown[6].startswith("\\u202eright")
    assert shown[10].startswith("\\n\\n")
    assert alice.find("window.hit ?? null") is None
    assert alice.find("document.documentElement.scrollWidth <= innerWidth")
    assert (
        alice.find("document.querySelectorAll('#list script, #list img, #list style, #list h1').length") == 0
    )


# Gives each name "evil0", "evil1" and so on that comes from the server another form.
DISGUISE = r"""
window.evil = arguments[0];
const parse = JSON.parse;
JSON.parse = (text) => parse(text, (key, value) => {
  const number = typeof value === 'string' ? /^evil(\d+)$/.exec(value)?.[1] : undefined;
  return number === undefined ? value : evil[number];
});
"""
# The kinds of elements, and the texts and attributes with a character that is hidden or reorders others.
FOUND = r"""
const all = [document.documentElement, ...document.documentElement.querySelectorAll('*')];
const texts = [document.title];
for (const each of all) {
  // Attributes for data are for the page's own code, which compares them with names.
  const shown = [...each.attributes].filter((attribute) => !attribute.name.startsWith('data-'));
  texts.push(...shown.map((attribute) => attribute.value));
  const nodes = [...each.childNodes].filter((node) => node.nodeType === Node.TEXT_NODE);
  texts.push(...nodes.map((node) => node.data));
}
const hidden = /(?![\u200c\u200d\u00ad])[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Zl}\p{Zp}]/u;
return [
  [...new Set(all.map((each) => each.localName))].sort(),
  texts.filter((text) => hidden.test(text.replaceAll('\n', '')) || (text.includes('\n') && text.trim())),
];
"""


def test_no_name_has_an_effect_on_the_lists_the_notices_or_the_title(desk: Desk) -> None:
    named = [f"evil{number}" for number in range(len(EVIL))]
    rtl = EVIL.index("\u202eright to left\u202c \u2066isolated")
    alice = desk.window()
    alice.run(DISGUISE, EVIL)
    tags = alice.run(FOUND)[0]
    # The own name and the own room have such forms too.
    alice.enter("evil0", f"evil{rtl}")
    # A notice has eight names at most.
    with (
        members(desk.address, *named[1:9], room=f"evil{rtl}"),
        members(desk.address, *named[9:], room=f"evil{rtl}"),
        members(desk.address, "bob18", room="evil0"),
    ):
        alice.until(f"document.querySelectorAll('#people .label').length === {len(EVIL)}", "all names")
        alice.run("document.dispatchEvent(new Event('visibilitychange'))")
        alice.shows("#rooms", visible(EVIL[0]))
        labels = "[...document.querySelectorAll('#{} .label')].map((e) => e.textContent)"
        people = alice.find(labels.format("people"))
        assert people[0] == visible(EVIL[0]) == alice.text("#my-name")
        assert sorted(people) == sorted(map(visible, EVIL))
        assert alice.find(labels.format("rooms"))[0] == visible(EVIL[rtl])
        assert alice.text("#room") == visible(EVIL[rtl])
        assert alice.find("document.title") == f"{visible(EVIL[rtl])} · mpchat"
        come = alice.find("document.querySelector('#list .joined').textContent")
        assert come.endswith("joined")
        assert_harmless(alice, tags)
    alice.until("document.querySelector('#list .left')", "the notice of those who left")
    gone = alice.find("document.querySelector('#list .left').textContent")
    assert any(visible(text) in gone for text in EVIL[1:])
    assert_harmless(alice, tags)


def assert_harmless(window: Window, tags: list[str]) -> None:
    """Look at a page with hostile names in it."""
    found, texts = window.run(FOUND)
    # What the page itself makes for people, rooms, days and notices.
    assert set(found) <= {*tags, "bdi", "button", "li", "p", "span"}
    assert texts == []
    assert window.find("window.hit ?? null") is None
    assert window.find("document.documentElement.scrollWidth <= innerWidth")
    names = "[...document.querySelectorAll('#side .label, #my-name, #room')]"
    assert window.find(f"{names}.every((e) => getComputedStyle(e).unicodeBidi.startsWith('isolate'))")
    inside = "e.getBoundingClientRect().right <= innerWidth && e.scrollWidth <= e.clientWidth"
    notes = "[...document.querySelectorAll('#list .note')]"
    assert window.find(f"{notes}.every((e) => {inside})")


def seqs(window: Window) -> list[int]:
    return [row["seq"] for row in window.rows() if row["seq"] is not None]


SCROLL = """
const done = arguments[arguments.length - 1];
const log = document.getElementById('log');
const seen = new Set();
let most = 0;
const look = () => {
  const rows = [...document.querySelectorAll('#list [data-seq]')];
  most = Math.max(most, document.querySelectorAll('#list > li').length);
  const seqs = rows.map((row) => Number(row.dataset.seq));
  seqs.forEach((seq, at) => {
    seen.add(seq);
    if (at && seq !== seqs[at - 1] + 1) done(`after ${seqs[at - 1]} comes ${seq}`);
  });
  return seqs;
};
let turns = 0;
const turn = () => {
  const rows = look();
  const end = arguments[0] === 'up' ? rows[0] <= arguments[1] : rows.at(-1) === arguments[1];
  turns += 1;
  if (end || turns > 20000) { done({ seen: seen.size, most, end, turns }); return; }
  log.scrollTop = arguments[0] === 'up' ? 0 : log.scrollHeight;
  // The page adds rows in a frame, before this.
  requestAnimationFrame(turn);
};
turn();
"""


def test_scrolling_up_loads_what_was_said_before_in_order_and_without_a_gap(desk: Desk) -> None:
    with members(desk.address, "bob3", room="old") as [bob]:
        for number in range(1, 401):
            bob.ask(message=f"m{number}")
        while bob.take().get("message") != "m400":
            pass
        alice = desk.window("alice", "old")
        alice.hears("m400")
        assert seqs(alice) == list(range(351, 401))
        # The message that is read stays where it is when older ones come.
        place = "document.querySelector('[data-seq=\"355\"]').getBoundingClientRect().top"
        alice.run("document.getElementById('log').scrollTop = 100")
        before = alice.find(place)
        alice.until("document.querySelector('[data-seq=\"325\"]') !== null", "older messages")
        assert abs(alice.find(place) - before) < 2
        found = alice.front().execute_async_script(SCROLL, "up", 1)
        assert found["end"], found
        assert found["seen"] >= 350
        assert found["most"] <= MOST_ROWS
        alice.until(
            "document.getElementById('top').textContent === 'There is nothing older.'", "the beginning"
        )
        assert alice.texts()[0] == "m1"
        # A message that comes meanwhile waits below, and a click is enough to see it.
        bob.ask(message="m401")
        alice.until("document.title === '(1) old · mpchat'", "the count in the title")
        alice.shows("#jump-text", "1 new message")
        alice.click("#jump")
        alice.hears("m401")
        assert seqs(alice)[-1] == 401
        alice.until("document.title === 'old · mpchat'", "no count in the title")
        assert alice.find("document.querySelectorAll('.unread').length") == 1
        assert alice.find("document.getElementById('jump').hidden")


# Scrolls by so many pixels a frame until a message is in the middle or at the end. Measures two things, in
# milliseconds: the work for a frame, from the first listener of the scroll to the task after styles, layout
# and painting; and the pauses between frames.
SMOOTH = """
const done = arguments[arguments.length - 1];
const [pixels, goal] = arguments;
const log = document.getElementById('log');
const { left, top, width, height } = log.getBoundingClientRect();
const work = [], pauses = [];
let begun = 0, last = 0;
const begin = () => { begun = performance.now(); };
addEventListener('scroll', begin, { capture: true, passive: true });
const painted = new MessageChannel();
painted.port1.onmessage = () => work.push(performance.now() - begun);
const figures = (numbers) => {
  numbers.sort((a, b) => a - b);
  const at = (part) => Math.round(numbers[Math.floor(part * (numbers.length - 1))] * 10) / 10;
  return { count: numbers.length, p50: at(0.5), p95: at(0.95), most: at(1) };
};
const inMiddle = () => {
  const row = document.elementFromPoint(left + width / 2, top + height / 2).closest('[data-seq]');
  return row ? Number(row.dataset.seq) : Infinity;
};
const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 2
  && Number(document.querySelector('#list > :last-child').dataset.seq) === goal;
const turn = (now) => {
  if (last) pauses.push(now - last);
  last = now;
  if (begun) painted.port2.postMessage('');
  const there = pixels < 0 ? inMiddle() <= goal : atEnd();
  if (there || pauses.length > 3000) {
    removeEventListener('scroll', begin, { capture: true });
    done({ there, work: figures(work), pauses: figures(pauses) });
    return;
  }
  log.scrollTop += pixels;
  requestAnimationFrame(turn);
};
requestAnimationFrame(turn);
"""


def numbered(number: int) -> str:
    """Return one of many messages; they differ in length."""
    return f"m{number} 안녕" + " word" * (number % 20)


def test_ten_thousand_messages_are_some_hundred_rows_and_scroll_smoothly(desk: Desk) -> None:
    alice = desk.window("alice", "many")
    with members(desk.address, "bob4", room="many") as [bob]:
        # The first ones come a few in a frame, the others more in a frame than there may be rows.
        for number in range(1, 501):
            bob.ask(message=numbered(number))
        for begin in range(501, 10_001, 500):
            alice.hears(numbered(begin - 1))
            assert alice.find("document.querySelectorAll('#list > li').length") <= MOST_ROWS
            requests = [json.dumps({"message": numbered(number)}) for number in range(begin, begin + 500)]
            bob.send_raw(b"".join(raw_frame(request.encode()) for request in requests))
        alice.hears(numbered(10_000))
        assert alice.find("document.querySelectorAll('#list > li').length") <= MOST_ROWS
        up = alice.front().execute_async_script(SCROLL, "up", 8_500)
        down = alice.front().execute_async_script(SCROLL, "down", 10_000)
        for found in (up, down):
            assert found["end"], found
            assert found["seen"] >= 1_500
            assert found["most"] <= MOST_ROWS
        alice.front().set_script_timeout(4 * PATIENCE)
        for pixels, goal in ((-500, 4_900), (500, 10_000)):
            found = alice.front().execute_async_script(SMOOTH, pixels, goal)
            print(f"{pixels} pixels a frame: {found}")
            assert found["there"], found
            assert found["work"]["p50"] < USUAL_WORK, found
            assert found["work"]["p95"] < MOST_WORK, found


def test_what_was_not_seen_is_marked_and_counted(desk: Desk) -> None:
    alice = desk.window("alice", "unread")
    with members(desk.address, "bob5", room="unread") as [bob]:
        bob.ask(message="seen")
        alice.hears("seen")
        alice.cdp("Emulation.setFocusEmulationEnabled", enabled=False)
        away = desk.window()
        alice.run("window.hasFocus = document.hasFocus; document.hasFocus = () => false")
        bob.ask(message="one")
        bob.ask(message="two")
        alice.until("document.title === '(2) unread · mpchat'", "the count in the title")
        alice.run("document.hasFocus = () => true; window.dispatchEvent(new Event('focus'))")
        alice.until("document.title === 'unread · mpchat'", "no count in the title")
        marked = "[...document.querySelectorAll('#list li')].filter((e) => e.querySelector('.unread'))"
        assert alice.find(f"{marked}.map((e) => e.querySelector('.text').textContent)") == ["one"]
        assert away.find("document.title") == "mpchat"


def test_the_own_message_ends_the_count_in_the_title(desk: Desk) -> None:
    alice = desk.window("alice", "counted")
    with members(desk.address, "bob9", room="counted") as [bob]:
        alice.run("document.hasFocus = () => false")
        bob.ask(message="one")
        bob.ask(message="two")
        alice.until("document.title === '(2) counted · mpchat'", "the count in the title")
        alice.say("read")
        alice.hears("read")
        assert alice.find("document.title") == "counted · mpchat"


def test_a_closed_room_is_told_and_a_private_message_that_was_not_seen_stays(
    desk: Desk, lasting: Server
) -> None:
    alice = desk.window("alice", "closing")
    with members(desk.address, "bob10", room="closing") as [bob]:
        bob.ask(message="to the room")
        alice.hears("to the room")
        alice.run("document.hasFocus = () => false")
        bob.ask(message="psst", to="alice")
        alice.until("document.title === '(1) closing · mpchat'", "the count in the title")
        assert lasting.command("close", "closing").returncode == 0
        alice.shows("#room", "lobby")
        alice.notes_until("The operator has closed the room.")
        assert alice.texts()[0] == "psst"
        assert alice.find("document.title") == "(1) lobby · mpchat"
        alice.run("document.hasFocus = () => true; window.dispatchEvent(new Event('focus'))")
        alice.until("document.title === 'lobby · mpchat'", "all to be seen")
        # The next thing that is not seen makes nothing of before unseen.
        alice.run("document.hasFocus = () => false")
        bob.ask(message="to the lobby")
        alice.until("document.title === '(1) lobby · mpchat'", "the count in the title")
        alice.run("location.hash = '#other'")
        alice.shows("#room", "other")
        assert alice.rows() == []


def test_the_address_names_the_room_that_the_member_is_in(desk: Desk) -> None:
    alice = desk.window("alice", "address")
    alice.run("location.hash = '#a b'")
    alice.notes_until("This is no name for a room")
    assert alice.find("location.hash") == "#address"
    with members(desk.address, "bob15", room="games"):
        late = desk.window(path="/#Games")
        late.enter("carol")
        assert late.find("location.hash") == "#games"
        entries = late.find("history.length")
        for room in ("second", "third"):
            late.say(f"/join {room}")
            late.shows("#room", room)
        assert late.find("history.length") == entries + 2
        # A step that is asked for before the one before it has ended may be none for the browser.
        for room in ("second", "games"):
            late.run("history.back()")
            late.until(f"location.hash === '#{room}'", "a step back")
        late.shows("#room", "games")
        late.until("location.hash === '#games'", "the address of the first room")
        assert late.find("history.length") == entries + 2


def test_what_is_written_on_the_way_to_another_room_stays_in_the_composer(desk: Desk) -> None:
    alice = desk.window("alice", "here")
    alice.run(
        "const text = document.getElementById('text'), enter = () => text.form.requestSubmit();"
        "text.value = '/join there'; enter(); text.value = 'for there'; enter()"
    )
    alice.shows("#room", "there")
    assert alice.find("document.getElementById('text').value") == "for there"
    alice.run("document.getElementById('text').form.requestSubmit()")
    alice.hears("for there")


def test_a_page_that_is_hidden_before_its_next_frame_goes_on(desk: Desk) -> None:
    alice = desk.window("alice", "frames")
    with members(desk.address, "bob11", room="frames") as [bob]:
        alice.run("window.requestAnimationFrame = () => 0")
        bob.ask(message="no frame comes")
        alice.hears("no frame comes")


def test_on_a_phone_people_and_rooms_are_a_drawer(desk: Desk) -> None:
    alice = desk.window("alice", "phone")
    alice.settings(width=320, height=640)
    alice.say("a word that is not at all short " * 5)
    alice.until("document.querySelectorAll('.message').length === 1", "the message")
    assert alice.find("document.documentElement.scrollWidth") == 320
    inside = "document.getElementById('side').getBoundingClientRect().left < innerWidth"
    alice.until(f"!({inside})", "the drawer out of sight")
    alice.click("#open-side")
    alice.until("document.activeElement.id === 'close-side'", "the focus in the drawer")
    alice.until(
        "document.getElementById('side').getBoundingClientRect().right <= innerWidth + 1", "the drawer"
    )
    assert alice.find("document.getElementById('open-side').getAttribute('aria-expanded')") == "true"
    # A connection that is lost meanwhile has a button, which lies under the shade with the rest.
    alice.run(
        "document.getElementById('trouble').hidden = false; document.getElementById('try').hidden = false"
    )
    reached: list[str] = []
    where = "document.activeElement.closest('#side, body > *')?.id + ' ' + document.activeElement.id"
    # Each room of an earlier test has a button.
    while "side close-side" not in reached and len(reached) < 100:
        # Not to an element: those beside the log are drawn anew when somebody leaves.
        ActionChains(alice.front()).send_keys(Keys.TAB).perform()
        reached.append(alice.find(where))
    # At the end of the page the browser itself has the focus for a moment.
    assert {each.split()[0] for each in reached} <= {"side", "undefined"}, reached
    assert {"side other-room", "side leave", "side close-side"} <= set(reached)
    alice.type_in("#close-side", Keys.ESCAPE)
    alice.until(f"!({inside})", "no drawer")
    assert alice.find("document.activeElement.id") == "open-side"
    behind = (
        "['open-side', 'trouble', 'middle', 'composer'].filter((id) => document.getElementById(id).inert)"
    )
    assert alice.find(behind) == []
    alice.run("document.getElementById('trouble').hidden = true")
    for selector in ("#text", "#send", "#open-side"):
        box = alice.find(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
        assert box["left"] >= 0
        assert box["right"] <= 320
        assert box["bottom"] <= 640
        assert box["height"] >= 40


# The lists beside the messages, with a chat that gives each page of names when the test says so.
PAGES = """
const done = arguments[arguments.length - 1];
import('/side.js').then(async ({ Side }) => {
  const side = new Side({ tell() {}, enter() {} });
  const asked = [];
  const chat = (room) => ({
    name: 'me', room, state: 'online',
    who: (after) => new Promise((answer) => asked.push({ after, answer })),
    rooms: async () => ({ rooms: [], count: 1 }),
  });
  const names = (letter) => Array.from({ length: 100 }, (_, at) => `${letter}${String(at).padStart(2, '0')}`);
  const page = async (room, letter, next, members) => {
    const { after, answer } = asked.shift();
    answer({ room, names: names(letter), next, members });
    await new Promise(setTimeout);
    return after ?? null;
  };
  const notice = (...names) => ({ names, count: names.length, members: 201 });
  const shown = () => new Promise((later) => setTimeout(later, 700)).then(() =>
    [...document.querySelectorAll('#people .label')].map((each) => each.textContent));

  side.entered(chat('one'), 201);
  const afters = [await page('one', 'a', 'a99', 201)];
  side.left(notice('a07', 'b08'));
  side.joined(notice('a05x', 'gone'));
  side.left(notice('gone'));
  // This page was made before they left.
  afters.push(await page('one', 'b', null, 201));
  const first = await shown();

  // A list that was asked for in the same room, but two rooms ago.
  side.entered(chat('one'), 201);
  await page('one', 'c', 'c99', 201);
  const [late] = asked.splice(0);
  side.entered(chat('two'), 101);
  await page('two', 'e', null, 101);
  side.entered(chat('one'), 101);
  await page('one', 'd', null, 101);
  late.answer({ room: 'one', names: ['late'], next: null, members: 1 });
  done({ afters, first, second: await shown() });
}).catch((error) => done(String(error)));
"""


def test_changes_while_long_lists_of_names_are_awaited_are_in_the_list(desk: Desk) -> None:
    window = desk.window()
    found: Any = window.front().execute_async_script(PAGES)
    assert isinstance(found, dict), found
    assert found["afters"] == [None, "a99"]
    names = {f"{letter}{number:02}" for letter in "ab" for number in range(100)}
    assert found["first"] == ["me", *sorted(names - {"a07", "b08"} | {"a05x"})]
    assert found["second"] == ["me", *(f"d{number:02}" for number in range(100))]


def test_it_speaks_to_a_screen_reader_and_obeys_a_keyboard(desk: Desk) -> None:
    alice = desk.window()
    # A field is seen by its border, which has a colour with more contrast than other lines.
    # A radio button is invisible above what is drawn for it.
    fields = "[...document.querySelectorAll('input:not([type=radio]), input[type=radio] + span, textarea')]"
    borders = alice.find(f"{fields}.map((e) => getComputedStyle(e).borderTopColor)")
    colour = alice.find("getComputedStyle(document.documentElement).getPropertyValue('--field')")
    red, green, blue = bytes.fromhex(colour.strip().removeprefix("#"))
    assert borders == [f"rgb({red}, {green}, {blue})"] * 8
    # From the name to the room to the button, with the keyboard alone.
    assert alice.find("document.activeElement.id") == "name"
    alice.type_in("#name", "-" + Keys.ENTER)
    alice.shows("#refusal", "This name cannot be used")
    assert alice.find("document.getElementById('name').getAttribute('aria-invalid')") == "true"
    assert alice.find("document.getElementById('name').value") == "-"
    alice.run("document.getElementById('name').value = ''")
    alice.type_in("#name", "alice" + Keys.TAB + Keys.CONTROL + "a" + Keys.NULL + "reader" + Keys.TAB)
    assert alice.find("document.activeElement.id") == "enter"
    alice.type_in("#enter", Keys.SPACE)
    alice.until_online()
    assert alice.find("document.activeElement.id") == "text"
    with members(desk.address, "bob6", room="reader") as [bob]:
        bob.ask(message="hear me")
        alice.shows("#announcer", "bob6: hear me")
        bob.ask(message="two\nlines")
        alice.shows("#announcer", "two\nlines")
        bob.ask(message="psst", to="alice")
        alice.shows("#announcer", "bob6 (only to you): psst")
        alice.say("/who")
        alice.shows("#announcer", "reader, 2 people")
        alice.say("/nick x")
        alice.shows("#announcer", "There is no /nick")
    assert alice.find("document.getElementById('announcer').ariaLive") == "polite"
    assert alice.find("document.getElementById('state').role") == "status"
    named = """[...document.querySelectorAll('button, input, textarea, [role=log], aside')].filter((e) =>
      !(e.ariaLabel || e.textContent.trim() || e.labels?.length || e.title)).map((e) => e.id)"""
    # It has no text before there is trouble. That of another one comes with what is drawn next.
    alice.until(f"({named}).join() === 'try'", "names of all that can be used but the one")
    alice.shows("#rooms [aria-current]", "reader")
    order: list[str] = []
    while not order or order[-1] not in ("leave", ""):
        # Not to an element: those beside the log are drawn anew when somebody leaves.
        ActionChains(alice.front()).send_keys(Keys.TAB).perform()
        order.append(alice.find("document.activeElement.id || document.activeElement.dataset.key"))
    assert {"send", "other-room", "leave", "reader"} <= set(order)


def test_it_speaks_korean_to_a_korean_browser(desk: Desk) -> None:
    alice = desk.window()
    alice.settings(width=1100, height=700, dark=True, language="ko-KR")
    alice.front().refresh()
    alice.shows("#enter", "들어가기")
    assert alice.find("document.documentElement.lang") == "ko"
    alice.enter("앨리스", "한국어")
    alice.shows("#state-text", "연결됨")
    with members(desk.address, "bob7", room="한국어") as [bob]:
        alice.notes_until("bob7 님이 들어왔습니다")
        bob.ask(message="hi")
        alice.hears("hi")
        assert alice.find("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 26)"
    odd = "[...document.body.querySelectorAll('*')].filter((e) => e.textContent.includes('undefined')).length"
    assert alice.find(odd) == 0
