"""The page in a real Chromium with a server that asks for a proof, and for an operator."""

from collections.abc import Iterator
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from support.browsers import Desk, Window, chromium, room_path
from support.scripted_site import ScriptedSite, Talk, refusal, welcome

pytestmark = pytest.mark.one_python

ALL = ["password", "jwt", "secret"]
PASSWORD = "비밀번호 하나"
# All that the page keeps, and all that its document says.
TRACES = """JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, location.href,
  document.title, document.documentElement.outerHTML,
  [...document.querySelectorAll('input, textarea')].map((each) => each.value)])"""


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def site() -> Iterator[ScriptedSite]:
    with ScriptedSite() as made:
        yield made


@pytest.fixture
def desk(browser: webdriver.Chrome, site: ScriptedSite) -> Iterator[Desk]:
    with Desk(browser, site.address) as made:
        yield made


def fill(window: Window, **fields: str) -> None:
    """Write into fields of the form at the entrance, instead of what is there."""
    for field, text in fields.items():
        window.run(f"document.getElementById('{field.replace('_', '-')}').value = ''")
        window.put(f"#{field.replace('_', '-')}", text)


def boxes(window: Window, selector: str) -> list[dict[str, float]]:
    """Return where elements are on the screen, and how large."""
    all_of = f"[...document.querySelectorAll('{selector}')]"
    found: list[dict[str, float]] = window.find(
        f"{all_of}.map((each) => each.getBoundingClientRect().toJSON())"
    )
    return found


def choose(window: Window, kind: str) -> None:
    window.click(f"#kinds input[value={kind}]")


def signed_in(
    desk: Desk, site: ScriptedSite, *, role: str = "operator", path: str = "/"
) -> tuple[Window, Talk, dict[str, Any]]:
    """Let 앨리스 in by a password after the server has asked for one; returns the last join too."""
    window = desk.window(path=path)
    fill(window, name="앨리스")
    window.press_enter()
    talk, join = site.join()
    assert not {"password", "jwt", "secret"} & set(join)
    talk.send(refusal("auth_required", proofs=["password"]))
    window.until("document.activeElement.id === 'proof'", "the focus in the field for a password")
    window.put("#proof", PASSWORD)
    window.press_enter()
    talk, join = site.join()
    talk.send(welcome(role=role, room=join["room"], members=len(site.names)))
    window.until_online()
    return window, talk, join


def test_the_form_asks_for_a_password_only_when_the_server_does(desk: Desk, site: ScriptedSite) -> None:
    alice = desk.window(path=room_path("놀이방"))
    assert alice.find("document.getElementById('proof').getClientRects().length") == 0
    fill(alice, name="앨리스")
    alice.press_enter()
    talk, join = site.join()
    assert join == {"name": "앨리스", "room": "놀이방"}
    talk.send(refusal("auth_required", proofs=["password"]))
    alice.shows("#refusal", "Sign in to enter with this name.")
    alice.until("document.activeElement.id === 'proof'", "the focus in the field for a password")
    look = """(() => { const field = document.getElementById('proof'), name = document.getElementById('name');
      return [field.type, field.autocomplete, name.autocomplete, field.labels[0].textContent,
        document.getElementById(field.getAttribute('aria-describedby')).role,
        field.getAttribute('aria-invalid'), document.getElementById('kinds').getClientRects().length,
        !field.closest('[autocomplete=off]')]; })()"""
    assert alice.find(look) == [
        "password", "current-password", "username", "Password", "alert", "false", 0, True,
    ]  # fmt: skip
    alice.put("#proof", "falsch")
    alice.press_enter()
    talk, join = site.join()
    assert join == {"name": "앨리스", "room": "놀이방", "password": "falsch"}
    talk.send(refusal("bad_credentials"))
    alice.shows("#refusal", "Name and sign-in do not fit.")
    assert alice.find("document.getElementById('proof').getAttribute('aria-invalid')") == "true"
    alice.until("document.activeElement.id === 'proof'", "the focus in the field again")
    # What was wrong is selected: typing replaces it.
    alice.type_in("#proof", PASSWORD + Keys.ENTER)
    talk, join = site.join()
    assert join["password"] == PASSWORD
    talk.send(refusal("try_later", "too many failed sign-ins; try again in 12 s"))
    alice.shows("#refusal", "Too many attempts. Try again in 12 s.")
    alice.press_enter()
    talk, join = site.join()
    assert join["password"] == PASSWORD
    talk.send(welcome(room="놀이방"))
    alice.until_online()
    assert alice.text("#room") == "놀이방"
    assert PASSWORD not in alice.find(TRACES)


def test_the_kinds_of_proof_are_a_choice(desk: Desk, site: ScriptedSite) -> None:
    bob = desk.window("", "")
    fill(bob, name="밥")
    bob.press_enter()
    talk, _ = site.join()
    talk.send(refusal("auth_required", proofs=ALL))
    bob.until("document.activeElement.id === 'proof'", "the focus in the field")
    labels = "[...document.querySelectorAll('#kinds label')].filter((each) => each.offsetWidth)"
    assert bob.find(f"{labels}.map((each) => each.textContent)") == ["Password", "Class secret", "Token"]
    # By keyboard: back to the choice, and along it.
    bob.type_in("#proof", "not for a class")
    ActionChains(bob.front()).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert bob.find("document.activeElement.value") == "password"
    ActionChains(bob.front()).send_keys(Keys.ARROW_RIGHT).perform()
    label = "document.getElementById('proof').labels[0].textContent"
    field = "(({ value, autocomplete }) => [value, autocomplete])(document.getElementById('proof'))"
    assert (bob.find(label), bob.find(field)) == ("Class secret", ["", "off"])
    bob.put("#proof", "우리 반")
    bob.press_enter()
    talk, join = site.join()
    assert join == {"name": "밥", "room": "lobby", "secret": "우리 반"}
    # A registered name: the secret does not do.
    talk.send(refusal("auth_required", proofs=ALL))
    bob.until(f"{label} === 'Password'", "the field for a password")
    assert bob.find(field) == ["", "current-password"]
    choose(bob, "jwt")
    assert bob.find(label) == "Token"
    bob.run("document.getElementById('name').value = ''")
    bob.put("#proof", "e.y.J")
    bob.press_enter()
    talk, join = site.join()
    assert join == {"room": "lobby", "jwt": "e.y.J"}
    # A good token that does not name this room: it stays, and the room is what to change.
    talk.send(refusal("not_allowed"))
    bob.shows("#refusal", "Your sign-in does not allow this name or this room.")
    assert bob.find("document.activeElement.id") == "first-room"
    fill(bob, first_room="놀이방")
    bob.press_enter()
    talk, join = site.join()
    assert join == {"room": "놀이방", "jwt": "e.y.J"}
    talk.send(welcome("밥", room="놀이방", expires=9e9))
    bob.until_online()
    assert bob.text("#my-name") == "밥"
    # The next one is asked for what was good the last time.
    assert bob.find("localStorage.getItem('mpchat.kind')") == "jwt"
    # A token that ends: the page asks for another one, in the same room and with the same draft.
    bob.write("쓰던 글")
    talk.send(refusal("expired"))
    bob.shows("#trouble-text", "Disconnected")
    assert "Your token has ended. Sign in with a fresh one." in bob.notes_until("Your token has ended.")
    bob.shows("#try", "Sign in")
    bob.click("#try")
    bob.shows("#refusal", "Your token has ended.")
    assert bob.find(f"[{label}, document.activeElement.id]") == ["Token", "proof"]
    bob.put("#proof", "fresh")
    bob.press_enter()
    talk, join = site.join()
    assert join == {"jwt": "fresh", "name": "밥", "token": "t", "room": "놀이방"}
    talk.send(welcome("밥"))
    bob.until_online()
    assert bob.find("document.getElementById('text').value") == "쓰던 글"


INVALID = "[...document.querySelectorAll('[aria-invalid=true]')].map((each) => each.id)"


def test_a_token_that_does_not_fit_leads_to_the_name_and_to_the_room(desk: Desk, site: ScriptedSite) -> None:
    alice = desk.window(path=room_path("놀이방"))
    fill(alice, name="밥")
    alice.press_enter()
    talk, _ = site.join()
    talk.send(refusal("auth_required", proofs=ALL))
    alice.until("document.activeElement.id === 'proof'", "the focus in the field")
    choose(alice, "jwt")
    alice.put("#proof", "e.y.J")
    alice.press_enter()
    talk, join = site.join()
    assert join == {"name": "밥", "room": "놀이방", "jwt": "e.y.J"}
    # The token is for 앨리스, or not for this room: the error says neither.
    talk.send(refusal("not_allowed", "the token is for another name"))
    alice.shows("#refusal", "Your sign-in does not allow this name or this room.")
    assert alice.find(f"[{INVALID}, document.activeElement.id]") == [["name", "first-room"], "name"]
    alice.run("document.getElementById('name').value = ''")
    alice.press_enter()
    talk, join = site.join()
    assert join == {"room": "놀이방", "jwt": "e.y.J"}
    # Without a name it is the room.
    talk.send(refusal("not_allowed", "the token is not for this room"))
    alice.until(f"{INVALID}.join() === 'first-room'", "the mark at the room alone")
    assert alice.find("document.activeElement.id") == "first-room"


def test_only_an_error_that_names_seconds_is_one_of_too_many_attempts(desk: Desk, site: ScriptedSite) -> None:
    for language, many, unchecked in [
        ("en-US", "Too many attempts. Try again in 12 s.", "Try again later."),
        ("ko-KR", "너무 여러 번 시도했습니다. 12초 뒤에 다시 해 보세요.", "나중에 다시 해 보세요."),
    ]:
        alice = desk.window()
        alice.settings(width=1100, height=700, language=language)
        alice.front().refresh()
        alice.until("!document.getElementById('entrance').hidden", "the entrance")
        fill(alice, name="앨리스")
        alice.press_enter()
        talk, _ = site.join()
        talk.send(refusal("auth_required", proofs=["password"]))
        alice.until("document.activeElement.id === 'proof'", "the focus in the field for a password")
        alice.put("#proof", PASSWORD)
        for text, shown in [
            ("too many failed sign-ins for this name; try again in 12 s", many),
            ("the server cannot check names just now; try again later", unchecked),
        ]:
            alice.press_enter()
            talk, join = site.join()
            assert join["password"] == PASSWORD
            talk.send(refusal("try_later", text))
            alice.until(f"document.getElementById('refusal').textContent === '{shown}'", shown)
            # The proof was not looked at, so it is not what is wrong.
            assert alice.find(f"[{INVALID}, document.activeElement.id]") == [[], "proof"]


def test_the_chosen_kind_of_proof_shows_in_forced_colours(desk: Desk, site: ScriptedSite) -> None:
    alice = desk.window("", "")
    alice.settings(width=1100, height=700)
    for scheme in ("light", "dark"):
        colours = [
            {"name": "forced-colors", "value": "active"},
            {"name": "prefers-color-scheme", "value": scheme},
        ]
        alice.cdp("Emulation.setEmulatedMedia", features=colours)
        alice.front().refresh()
        alice.until("!document.getElementById('entrance').hidden", "the entrance")
        assert alice.find("matchMedia('(forced-colors: active)').matches")
        fill(alice, name="앨리스")
        alice.press_enter()
        talk, _ = site.join()
        talk.send(refusal("auth_required", proofs=ALL))
        alice.until("document.activeElement.id === 'proof'", "the focus in the field")
        choose(alice, "secret")
        alice.run("""const probe = document.createElement('div');
            probe.id = 'probe';
            document.body.append(probe);
            probe.style.backgroundColor = 'Highlight';
            probe.style.color = 'HighlightText';
            probe.style.forcedColorAdjust = 'none';""")
        look = "['backgroundColor', 'color'].map((each) => getComputedStyle(%s)[each])"
        chosen, other, probe = (
            alice.find(look % f"document.querySelector('{where}')")
            for where in ("#kinds input:checked + span", "#kinds input:not(:checked) + span", "#probe")
        )
        assert chosen == probe
        assert chosen[0] != other[0]


def test_after_a_reload_of_the_page_the_sign_in_is_asked_for_again(desk: Desk, site: ScriptedSite) -> None:
    alice, talk, join = signed_in(desk, site, path=room_path("놀이방"))
    assert join["password"] == PASSWORD
    alice.write("쓰던 글")
    # A lost connection comes back by itself.
    talk.close(1001)
    talk, join = site.join()
    assert (join["password"], join["token"]) == (PASSWORD, "t")
    talk.send(welcome(room="놀이방", recovered=True))
    alice.notes_until("Connected again.")
    assert PASSWORD not in alice.find(TRACES)
    alice.front().refresh()
    talk, join = site.join()
    # The token of the name is shown, but a closed server wants more.
    assert (join["token"], "password" in join) == ("t", False)
    talk.send(refusal("auth_required", proofs=["password"]))
    alice.until("document.activeElement.id === 'proof'", "the focus in the field for a password")
    form = [
        alice.find(f"document.getElementById('{each}').value") for each in ("name", "first-room", "proof")
    ]
    assert form == ["앨리스", "놀이방", ""]
    alice.put("#proof", PASSWORD)
    alice.press_enter()
    talk, join = site.join()
    assert (join["password"], join["room"]) == (PASSWORD, "놀이방")
    talk.send(welcome(room="놀이방"))
    alice.until_online()
    assert alice.find("document.getElementById('text').value") == "쓰던 글"


def test_entering_again_after_a_kick_shows_the_password_and_leaving_forgets_it(
    desk: Desk, site: ScriptedSite
) -> None:
    alice, talk, _ = signed_in(desk, site)
    talk.send(refusal("kicked"))
    alice.shows("#try", "Enter again")
    assert "The operator has ended your connection." in alice.notes()
    alice.click("#try")
    talk, join = site.join()
    assert join["password"] == PASSWORD
    talk.send(welcome())
    alice.until_online()
    # One that counts no more is not shown again.
    talk.close(1001)
    talk, join = site.join()
    talk.send(refusal("bad_credentials"))
    alice.shows("#try", "Sign in")
    alice.click("#try")
    alice.shows("#refusal", "Name and sign-in do not fit.")
    assert alice.find("document.getElementById('proof').value") == ""
    alice.put("#proof", "neu")
    alice.press_enter()
    talk, join = site.join()
    assert join["password"] == "neu"
    talk.send(welcome())
    alice.until_online()
    alice.say("/quit")
    alice.until("!document.getElementById('entrance').hidden", "the entrance")
    alice.press_enter()
    talk, join = site.join()
    assert join == {"name": "앨리스", "room": "lobby"}


def test_an_operator_has_commands_and_quiet_answers(desk: Desk, site: ScriptedSite) -> None:
    alice, talk, _ = signed_in(desk, site)
    for line, asked, answer, note in [
        ("/kick 밥", {"kick": {"name": "밥"}}, ("kick", "밥", 2), "밥 was kicked (2 connections ended)."),
        (
            "/ban 밥 for 10m",
            {"ban": {"name": "밥", "for": 600}},
            ("ban", "밥", 1),
            "밥 is banned (1 connection",
        ),
        (
            "/ban 192.0.2.0/24",
            {"ban": {"name": "192.0.2.0/24"}},
            ("ban", "192.0.2.0/24", 0),
            "192.0.2.0/24 is",
        ),
        ("/unban 밥", {"unban": {"name": "밥"}}, ("unban", "밥", 0), "밥 is not banned any more."),
        ("/mute 밥 for 30s", {"mute": {"name": "밥", "for": 30}}, ("mute", "밥", 0), "밥 is muted."),
        ("/unmute 밥", {"unmute": {"name": "밥"}}, ("unmute", "밥", 0), "밥 is not muted any more."),
        (
            "/close 놀이방",
            {"close": {"room": "놀이방"}},
            ("close", "놀이방", 3),
            "놀이방 is closed: 3 people moved",
        ),
    ]:
        alice.say(line)
        assert talk.receive() == asked
        talk.send({"moderated": dict(zip(("action", "target", "count"), answer, strict=True))})
        alice.notes_until(note)
        alice.shows("#announcer", note)
    for code, note in [
        ("not_allowed", "Only an operator may do this."),
        ("bad_name", "This is neither a name nor an address."),
        ("bad_room", "There is no such room"),
        ("failed", "the file is \\u202eon fire"),
    ]:
        alice.say("/close 놀이방")
        talk.receive()
        talk.send(refusal(code, "the file is \u202eon fire"))
        alice.notes_until(note)
    # Addresses are banned, and not muted.
    alice.say("/mute 192.0.2.7")
    assert talk.receive() == {"mute": {"name": "192.0.2.7"}}
    talk.send(refusal("bad_name"))
    alice.notes_until("Only a name can be muted.")
    alice.say("/kick 없다")
    talk.receive()
    talk.send(refusal("no_such_name"))
    alice.notes_until("Nobody has this name now.")
    alice.say("/ban 밥 forever")
    alice.notes_until("Write it as: /ban NAME [for 10m]")
    alice.say("/help")
    alice.notes_until("/unmute NAME")
    talk.send(welcome(role="member"))
    alice.say("/help")
    help_lines = "document.querySelector('#list .help:last-child')?.textContent"
    alice.until(f"{help_lines} && !{help_lines}.includes('/kick')", "the help of a member")


PEOPLE = "[...document.querySelectorAll('#people .label')].map((e) => e.textContent).join()"
MORE = '#people button[data-key="more 밥"]'


def test_an_operator_moderates_from_the_list_of_people(desk: Desk, site: ScriptedSite) -> None:
    site.names = ["앨리스", "밥", "캐럴"]
    alice, talk, _ = signed_in(desk, site)
    alice.until(f"{PEOPLE} === '앨리스,밥,캐럴'", "the names")
    assert alice.find("document.querySelectorAll('#people .more').length") == 2
    expanded = f"document.querySelector('{MORE}').getAttribute('aria-expanded')"
    assert alice.find(f"document.querySelector('{MORE}').ariaLabel") == "What to do with 밥"
    assert alice.find(expanded) == "false"
    # By keyboard alone.
    alice.type_in(MORE, Keys.ENTER)
    assert alice.find(f"[{expanded}, document.activeElement.dataset.key]") == ["true", "more 밥"]
    ActionChains(alice.front()).send_keys(Keys.TAB, Keys.SPACE).perform()
    assert talk.receive() == {"mute": {"name": "밥"}}
    talk.send({"moderated": {"action": "mute", "target": "밥", "count": 0}})
    alice.notes_until("밥 is muted.")
    assert alice.find(f"[{expanded}, document.activeElement.dataset.key]") == ["false", "more 밥"]
    # What others do keeps the menu and the focus.
    alice.type_in(MORE, Keys.ENTER)
    ActionChains(alice.front()).send_keys(Keys.TAB, Keys.TAB).perform()
    talk.send({"joined": {"room": "lobby", "names": ["데이브"], "count": 1, "members": 4}})
    alice.until(f"{PEOPLE}.includes('데이브')", "another name")
    assert alice.find("document.activeElement.dataset.key") == "kick 밥"
    ActionChains(alice.front()).send_keys(Keys.ESCAPE).perform()
    assert alice.find(f"[{expanded}, document.activeElement.dataset.key]") == ["false", "more 밥"]
    # A ban asks first, and the answer is no until it is chosen.
    question = "document.getElementById('question').open"
    ban = '#people button[data-key="ban 밥"]'
    for key in (Keys.ESCAPE, Keys.ENTER):
        alice.click(MORE) if not alice.find(f"{expanded} === 'true'") else None
        alice.click(ban)
        alice.shows("#question-title", "Ban 밥?")
        assert alice.find(f"[{question}, document.activeElement.id]") == [True, "question-no"]
        ActionChains(alice.front()).send_keys(key).perform()
        alice.until(f"!{question}", "no question")
    alice.click(ban)
    alice.click("#question-yes")
    assert talk.receive() == {"ban": {"name": "밥"}}
    talk.send({"moderated": {"action": "ban", "target": "밥", "count": 1}})
    talk.send({"left": {"room": "lobby", "names": ["밥"], "count": 1, "members": 3, "reason": "kicked"}})
    alice.notes_until("밥 is banned")
    alice.until(f"!{PEOPLE}.includes('밥')", "the name to go")
    alice.until("document.activeElement.id === 'text'", "the focus in the composer")


def test_a_member_has_no_such_buttons(desk: Desk, site: ScriptedSite) -> None:
    site.names = ["앨리스", "밥"]
    alice, _, _ = signed_in(desk, site, role="member")
    alice.until(f"{PEOPLE} === '앨리스,밥'", "the names")
    assert alice.find("document.querySelectorAll('#people .more, .deeds').length") == 0


def test_on_a_phone_the_sign_in_fits_and_a_finger_moderates(desk: Desk, site: ScriptedSite) -> None:
    site.names = ["앨리스", "밥"]
    alice = desk.window()
    alice.settings(width=390, height=700, language="ko-KR")
    alice.front().refresh()
    alice.shows("#enter", "들어가기")
    fill(alice, name="앨리스")
    alice.press_enter()
    talk, _ = site.join()
    talk.send(refusal("auth_required", proofs=ALL))
    alice.shows("#refusal", "로그인하세요")
    assert alice.find("document.documentElement.scrollWidth") == 390
    found = boxes(alice, "#kinds label, #proof, #enter")
    assert len(found) == 5
    assert all(box["height"] >= 40 and box["left"] >= 0 and box["right"] <= 390 for box in found)
    choose(alice, "secret")
    alice.put("#proof", "우리 반")
    alice.press_enter()
    talk, join = site.join()
    assert join["secret"] == "우리 반"
    talk.send(welcome(role="operator", members=2))
    alice.until_online()
    alice.click("#open-side")
    alice.until(
        "document.getElementById('side').getBoundingClientRect().right <= innerWidth + 1", "the drawer"
    )
    alice.until(f"document.querySelector('{MORE}')", "the button beside the name")
    alice.click(MORE)
    found = boxes(alice, ".more, .deeds button")
    assert len(found) == 4
    assert all(box["height"] >= 40 and box["width"] >= 40 and box["right"] <= 390 for box in found)
    alice.click('#people button[data-key="ban 밥"]')
    alice.shows("#question-title", "밥 님을 차단할까요?")
    alice.click("#question-yes")
    assert talk.receive() == {"ban": {"name": "밥"}}
    talk.send({"moderated": {"action": "ban", "target": "밥", "count": 1}})
    alice.notes_until("밥 님을 차단했습니다")
    alice.until("!document.getElementById('side').classList.contains('open')", "no drawer")
