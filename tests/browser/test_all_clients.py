"""All kinds of clients together at a real server that asks for proofs: they sign in, speak, and come back.

They are the page in a real Chromium, the terminal, the library (asyncio and blocking), mpchat.js in Node,
Mpchat.cs in mono, and a plain client of the lecture.
"""

import asyncio
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from selenium import webdriver
from selenium.webdriver.common.keys import Keys
from support.browsers import LOOK, Desk, Window, chromium
from support.changing import configured, reload, server_address, write_settings
from support.csharp import DRIVER, SLOW, Sharp, compiled
from support.harness import MPCHAT, Client, Server, raw_frame, running
from support.node_chat import Program, command, driver_with, program
from support.screens import Screen
from support.sign_in import ALICE, ALICES, BOB, BOBS, SECRET, Registry
from support.waiting import PATIENCE, eventually

from mpchat import RefusedError, connect, connect_blocking
from mpchat.auth.grant import OPERATOR
from mpchat.client.blocking import BlockingChat
from mpchat.client.core import Connected, Disconnected, Event, Lost, Message, Rejected

pytestmark = pytest.mark.one_python

SHARP, SHARPS = "샤프", "샤프의 비밀번호"
TERM, TERMS = "단말", "단말의 비밀번호"
WRONG = "틀린 비밀번호"
# Rows of a terminal, enough for all that a test has said.
TALL = 200
# Seconds between two tokens; and for which each holds, up to one more: a token's end is a whole second.
RENEWAL, LIFE = 0.3, 1.5


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture(scope="module")
def csharp(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of a chat in C#."""
    return compiled(tmp_path_factory.mktemp("csharp"), DRIVER)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    """Accounts of two members and three operators, one operator for each client that moderates."""
    made = Registry(tmp_path_factory.mktemp("registry"))
    made.add(SHARP, SHARPS, OPERATOR)
    made.add(TERM, TERMS, OPERATOR)
    return made


@pytest.fixture
def closed(folder: Path, registry: Registry) -> Iterator[Server]:
    """A closed chat of the test's own: it has seen no wrong proof from this address."""
    with running(folder, "--auth", "closed", *registry.flags) as server:
        yield server


@pytest.fixture
def desk(browser: webdriver.Chrome, closed: Server) -> Iterator[Desk]:
    with Desk(browser, closed.address) as made:
        yield made


# Each client, as its user signs in.


def ask_to_enter(window: Window, name: str) -> None:
    """Give a name alone, and have the page ask for a password."""
    window.run("document.getElementById('name').value = ''")
    window.put("#name", name)
    window.press_enter()
    window.until("document.activeElement.id === 'proof'", "the focus in the field for a proof")


def show(window: Window, text: str) -> None:
    """Type a password over what is in the field."""
    window.type_in("#proof", text + Keys.ENTER)


def chat_command(server: Server, *options: str) -> list[str]:
    host, port = server.address
    return [*MPCHAT, "chat", host, str(port), *options]


def typed(screen: Screen, secret: str) -> None:
    """Answer the question for a password."""
    screen.shows("password:")
    screen.say(secret)


def write_token(path: Path, token: str) -> None:
    """Replace a token's file: no reader sees half of it."""
    fresh = path.with_suffix(".fresh")
    fresh.touch(0o600)
    fresh.write_text(f"{token}\n")
    fresh.replace(path)


def in_node(folder: Path, options: str) -> list[str]:
    """Return the command of a chat in Node, in a folder of its own."""
    folder.mkdir()
    return command(
        folder, driver_with(f"import {{ readFileSync }} from 'node:fs'; const OPTIONS = {options};")
    )


def reading(path: Path) -> str:
    """Return the options of a chat in Node whose token is in a file."""
    return f"{{ name: undefined, room: 'lobby', jwt: () => readFileSync('{path}', 'utf8').trim() }}"


def as_it_is_told(client: Client, name: str) -> None:
    """Join as the server's answer to a message says, with the secret."""
    client.say("안녕?")
    received = client.receive()
    assert received is not None
    assert received["error"]["code"] == "auth_required"
    joins = re.findall(r'\{"join": \{.*?\}\}', received["error"]["text"])
    [join] = [json.loads(each) for each in joins if "secret" in each]
    join["join"].update(name=name, secret=SECRET)
    client.send_raw(raw_frame(json.dumps(join, ensure_ascii=False).encode()))


class Library:
    """A chat of the asyncio library, in a loop that always runs. ``events`` is all that it has told."""

    def __init__(self, address: tuple[str, int], **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.events: list[Event] = []
        self._thread.start()
        try:
            self.chat = self._run(self._opened(address, options))
        except BaseException:
            self._end_loop()
            raise
        self._reading = asyncio.run_coroutine_threadsafe(self._read(), self._loop)

    def say(self, text: str) -> None:
        self._run(self.chat.send(text))

    def heard(self) -> list[tuple[str, str]]:
        return [(str(each.sender), each.text) for each in self.of(Message)]

    def of(self, *kinds: type[Any]) -> list[Any]:
        return [each for each in list(self.events) if isinstance(each, kinds)]

    async def _opened(self, address: tuple[str, int], options: dict[str, Any]) -> Any:
        return await connect(*address, **options)

    async def _read(self) -> None:
        async for event in self.chat.events():
            self.events.append(event)

    def _run(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(PATIENCE)

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self.chat.close())
        self._reading.result(PATIENCE)
        self._end_loop()


# What each client has heard, as (sender, text).


def heard_on(screen: Screen, senders: set[str]) -> list[tuple[str, str]]:
    found = (re.match(r"^\d\d:\d\d (\S+): (.*)$", line) for line in screen.lines)
    return [(each[1], each[2]) for each in found if each and each[1] in senders]


def heard_by_node(node: Program) -> list[tuple[str, str]]:
    return [(each["from"], each["text"]) for each in node.got if each["type"] == "message"]


def heard_by_sharp(sharp: Sharp) -> list[tuple[str, str]]:
    return [(each["sender"], each["text"]) for each in sharp.of("message")]


def heard_by_blocking(chat: BlockingChat, last: str) -> list[tuple[str, str]]:
    heard = list[tuple[str, str]]()
    while not heard or heard[-1][1] != last:
        message = chat.recv(PATIENCE)
        heard.append((str(message.sender), message.text))
    return heard


def heard_by_plain(client: Client, last: str) -> list[tuple[str, str]]:
    heard = list[tuple[str, str]]()
    while not heard or heard[-1][1] != last:
        received = client.receive()
        assert received is not None
        assert "error" not in received, received
        if "message" in received:
            heard.append((received["from"], received["message"]))
    return heard


def all_on_the_page(page: Window, count: int) -> list[tuple[str, str]]:
    """Wait until the page shows so many messages, and return them."""
    eventually(lambda: len(page.rows()) >= count, f"{count} messages on the page", pause=LOOK)
    return [(row["from"], row["text"]) for row in page.rows()]


def people_on(page: Window, count: int) -> None:
    page.until(f"document.getElementById('people-count').textContent === '{count}'", f"{count} people")


def test_all_kinds_of_clients_hear_each_other_in_one_order_and_stay_through_a_reload(
    desk: Desk, closed: Server, csharp: list[str], registry: Registry, tmp_path: Path
) -> None:
    token_file = tmp_path / "token"
    write_token(token_file, registry.token("파일"))
    node_file = tmp_path / "node.token"
    write_token(node_file, registry.token("노드"))
    host, port = closed.address
    people = [ALICE, TERM, "파일", "파이", "단순", "노드", SHARP, "강의"]
    with (
        Screen(chat_command(closed, "--name", TERM, "--password"), columns=120, rows=TALL) as terminal,
        Screen(chat_command(closed, "--token", str(token_file)), columns=120, rows=TALL) as with_token,
        connect_blocking(host, port, name="단순", secret=SECRET) as blocking,
        program(in_node(tmp_path / "node", reading(node_file)), closed) as node,
        Sharp(csharp, closed.address, SHARP, "", "", "0.1", f"password={SHARPS}") as sharp,
        Client(closed.address) as plain,
        ExitStack() as stack,
    ):
        page = desk.window()
        ask_to_enter(page, ALICE)
        show(page, ALICES)
        page.until_online()
        typed(terminal, TERMS)
        terminal.shows(f"* you are {TERM} in lobby")
        with_token.shows("* you are 파일 in lobby")
        library = stack.enter_context(Library(closed.address, jwt=registry.token("파이")))
        sharp.until("welcome", name=SHARP, role=OPERATOR)
        as_it_is_told(plain, "강의")
        people_on(page, len(people))

        def say(text: str) -> None:
            """Have all speak, without waiting for each other."""
            page.say(f"{text} 쪽")
            terminal.say(f"{text} 단말")
            with_token.say(f"{text} 파일")
            library.say(f"{text} 파이")
            blocking.send(f"{text} 단순")
            node.call("say", f"{text} 노드")
            sharp.do("say", f"{text} 샤프")
            plain.say(f"{text} 강의")

        say("하나")
        first = all_on_the_page(page, len(people))
        reload(closed)
        say("둘")
        order = all_on_the_page(page, 2 * len(people))
        assert order[: len(people)] == first
        assert sorted(sender for sender, _ in order) == sorted(2 * people)
        blocking.send("끝")
        page.hears("끝")
        order.append(("단순", "끝"))
        for screen in (terminal, with_token):
            screen.shows("단순: 끝")
            assert heard_on(screen, set(people)) == order
        eventually(lambda: ("단순", "끝") in library.heard(), "the library to hear all")
        assert library.heard() == order
        assert heard_by_blocking(blocking, "끝") == order
        node.until(type="message", text="끝")
        assert heard_by_node(node) == order
        sharp.until("message", text="끝")
        assert heard_by_sharp(sharp) == order
        assert heard_by_plain(plain, "끝") == order
        # No client has noticed the reload.
        assert not [note for note in page.notes() if "again" in note]
        assert "again" not in terminal.text + with_token.text
        assert library.of(Disconnected) == sharp.of("disconnected") == []
        assert not [each for each in node.got if each["type"] == "disconnected"]

        # Three operators, each in another client and with another member.
        page.say("/kick 강의")
        page.notes_until("강의 was kicked (1 connection ended).")
        assert ended_with(plain) == "kicked"
        terminal.say("/kick 파이")
        terminal.shows("* 파이: 1 connection ended")
        eventually(lambda: library.of(Rejected), "the library to be told")
        assert [each.code for each in library.of(Rejected)] == ["kicked"]
        sharp.do("kick", "노드")
        assert sharp.until("moderated") == {"action": "kick", "target": "노드", "count": "1"}
        assert node.until(type="rejected")["code"] == "kicked"
        node.finish()
        with_token.say(f"/kick {ALICE}")
        with_token.shows("only operators may do this (not_allowed)")
        people_on(page, len(people) - 3)


def ended_with(client: Client) -> str:
    """Return the code of the last error before the connection's end."""
    code = ""
    while (received := client.receive()) is not None:
        code = received.get("error", {}).get("code", code)
    return code


def test_a_wrong_password_is_told_by_each_client_and_the_right_one_lets_in(
    desk: Desk, closed: Server, csharp: list[str], tmp_path: Path
) -> None:
    page = desk.window()
    ask_to_enter(page, ALICE)
    show(page, WRONG)
    page.shows("#refusal", "Name and sign-in do not fit.")
    page.until("document.activeElement.id === 'proof'", "the focus in the field again")
    # The wrong one is selected.
    show(page, ALICES)
    page.until_online()

    as_term = chat_command(closed, "--name", TERM, "--password")
    with Screen(as_term) as screen:
        typed(screen, WRONG)
        screen.shows("the proof is wrong: check the name and the password")
        assert screen.exit_code() == 1
    with Screen(as_term) as screen:
        typed(screen, TERMS)
        screen.shows(f"* you are {TERM} in lobby")
        page.notes_until(f"{TERM} joined")
        screen.say("/quit")
        assert screen.exit_code() == 0

    with pytest.raises(RefusedError) as refused:
        Library(closed.address, name=BOB, password=WRONG)
    assert refused.value.code == "bad_credentials"
    assert WRONG not in f"{refused.value!r} {refused.value}"
    with Library(closed.address, name=BOB, password=BOBS):
        page.notes_until("bob joined")

    options = json.dumps({"name": "노드", "room": "lobby", "secret": WRONG}, ensure_ascii=False)
    with program(in_node(tmp_path / "wrong", options), closed, first="not let in") as node:
        assert node.got[-1]["code"] == "bad_credentials"
        assert WRONG not in str(node.got)
    options = options.replace(WRONG, SECRET)
    with program(in_node(tmp_path / "right", options), closed):
        page.notes_until("노드 joined")

    def sharp(password: str) -> Sharp:
        return Sharp(csharp, closed.address, SHARP, "", "", "0.1", f"password={password}")

    with sharp(WRONG) as chat:
        told = chat.until("rejected")
        assert (told["code"], told["retrying"]) == ("bad_credentials", "False")
    # After five wrong ones from this address the next has to wait, for a second and then for longer.
    other = desk.window()
    ask_to_enter(other, SHARP)

    def slowed() -> bool:
        show(other, WRONG)
        other.until("document.getElementById('refusal').textContent", "an answer")
        return "Too many attempts. Try again in" in other.text("#refusal")

    eventually(slowed, "the page to say that there were too many attempts")

    def let_in() -> bool:
        with sharp(SHARPS) as chat:
            eventually(lambda: chat.of("welcome", "rejected"), "an answer", SLOW)
            assert {each["code"] for each in chat.of("rejected")} <= {"try_later"}
            return bool(chat.of("welcome"))

    eventually(let_in, "the right password to be taken", SLOW)
    page.notes_until(f"{SHARP} joined")


@contextmanager
def renewed(path: Path, registry: Registry, name: str) -> Iterator[None]:
    """Keep a fresh token, which ends soon, in a file."""
    over = threading.Event()

    def renew() -> None:
        while not over.is_set():
            write_token(path, registry.token(name, LIFE))
            over.wait(RENEWAL)

    write_token(path, registry.token(name, LIFE))
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_tokens_that_end_while_messages_are_said_lose_and_double_nothing(
    closed: Server, csharp: list[str], registry: Registry, tmp_path: Path
) -> None:
    files = {name: tmp_path / name for name in ("파일", "파이", "노드", "샤픈")}
    host, port = closed.address
    sent = [f"{number}번째 말" for number in range(160)]
    with ExitStack() as stack:
        for name, path in files.items():
            stack.enter_context(renewed(path, registry, name))
        bob = stack.enter_context(connect_blocking(host, port, name=BOB, password=BOBS))
        in_terminal = chat_command(closed, "--token", str(files["파일"]))
        screen = stack.enter_context(Screen(in_terminal, columns=100, rows=TALL * 2))
        node = stack.enter_context(program(in_node(tmp_path / "node", reading(files["노드"])), closed))
        sharp = stack.enter_context(Sharp(csharp, closed.address, "", "", "", "0.1", f"file={files['샤픈']}"))
        library = stack.enter_context(Library(closed.address, jwt=lambda: files["파이"].read_text().strip()))
        screen.shows("* you are 파일 in lobby")
        sharp.until("welcome", name="샤픈")
        pause = threading.Event()
        for number, text in enumerate(sent):
            bob.send(text)
            if number % 10 == 5:
                # Also by those whose tokens end: the terminal and the library wait for the connection.
                screen.say(f"파일 {number}")
                library.say(f"파이 {number}")
                sharp.do("say", f"샤픈 {number}")
            pause.wait(0.05)
        bob.send("끝")
        order = heard_by_blocking(bob, "끝")
        assert [text for sender, text in order if sender == BOB] == [*sent, "끝"]
        assert len(set(order)) == len(order)
        ends: dict[str, Callable[[], list[tuple[str, str]]]] = {
            "the library": library.heard,
            "C#": partial(heard_by_sharp, sharp),
            "the terminal": partial(heard_on, screen, {*files, BOB}),
        }
        for which, heard in ends.items():
            eventually(partial(_has_ended, heard), f"{which} to hear the end", SLOW)
            # What waited for a connection may come after the end.
            assert heard()[: len(order)] == order, which
        node.until(type="message", text="끝")
        assert heard_by_node(node) == order
        # Each has come back more than once, and was told of no gap.
        assert len([each for each in library.of(Connected) if each.again]) > 1
        assert library.of(Lost) == sharp.of("lost") == []
        assert not [each for each in node.got if each["type"] == "lost"]
        assert len([each for each in node.got if each["type"] == "welcome"]) > 2
        assert len(sharp.of("welcome")) > 2
        assert screen.text.count("* connected again") > 1
        assert "* lost" not in screen.text


def _has_ended(heard: Callable[[], list[tuple[str, str]]]) -> bool:
    return (BOB, "끝") in heard()


@pytest.fixture
def changeable(folder: Path, registry: Registry) -> Iterator[Server]:
    """An open chat whose settings stand in a file."""
    with configured(folder, **settings_of(registry)) as server:
        yield server


def settings_of(registry: Registry) -> dict[str, Any]:
    return {
        "accounts": str(registry.accounts),
        "jwt_key": str(registry.key),
        "secret": str(registry.secret),
    }


def close_the_chat(server: Server, registry: Registry) -> None:
    write_settings(server, auth="closed", port=0, workers=2, **settings_of(registry))
    reload(server)


def test_a_chat_that_is_closed_by_a_reload_has_the_page_and_the_terminal_sign_in(
    browser: webdriver.Chrome, changeable: Server, registry: Registry
) -> None:
    address = server_address(changeable)
    options = [*MPCHAT, "chat", address[0], str(address[1]), "--name", TERM]
    with (
        Desk(browser, address) as desk,
        Screen(options, columns=120) as screen,
        Screen([*MPCHAT, "chat", address[0], str(address[1])], columns=120) as nameless,
    ):
        page = desk.window(ALICE)
        screen.shows(f"* you are {TERM} in lobby")
        nameless.shows("* connected to")
        page.write("쓰던 글")
        close_the_chat(changeable, registry)
        assert [note for note in page.notes_until("Sign in to go on.") if "Sign in" in note] == [
            "Sign in to go on."
        ]
        page.shows("#try", "Sign in")
        page.click("#try")
        page.until("document.activeElement.id === 'proof'", "the focus in the field for a password")
        show(page, ALICES)
        page.until_online()
        assert page.find("document.getElementById('text').value") == "쓰던 글"
        screen.shows("try mpchat chat --name NAME --password")
        assert screen.exit_code() == 1
        nameless.say("안녕")
        nameless.shows("try mpchat chat --name NAME --password")
        with Screen([*options, "--password"]) as again:
            typed(again, TERMS)
            again.shows(f"* you are {TERM} in lobby")
            page.notes_until(f"{TERM} joined")
        # A page that is loaded again has forgotten the password.
        page.front().refresh()
        page.until("document.activeElement.id === 'proof'", "the focus in the field for a password")
        assert page.find("document.getElementById('proof').value") == ""
        show(page, ALICES)
        page.until_online()


def test_a_registered_name_without_its_password_is_told_and_another_name_is_let_in(
    browser: webdriver.Chrome, folder: Path, registry: Registry
) -> None:
    with (
        running(folder, "--auth", "names", *registry.flags) as server,
        Desk(browser, server.address) as desk,
        Screen(chat_command(server, "--name", TERM)) as refused,
        Screen(chat_command(server, "--name", "손님")) as guest,
    ):
        page = desk.window()
        ask_to_enter(page, ALICE)
        page.shows("#refusal", "Sign in to enter with this name.")
        refused.shows("--password")
        assert refused.exit_code() == 1
        guest.shows("* you are 손님 in lobby")
        # Another name needs no password, and the first one its own.
        page.run("document.getElementById('name').value = ''")
        page.put("#name", "나그네")
        page.press_enter()
        page.until_online()
        page.say("안녕")
        guest.shows("나그네: 안녕")
        page.say("/quit")
        ask_to_enter(page, ALICE)
        show(page, ALICES)
        page.until_online()
        with Screen(chat_command(server, "--name", TERM, "--password")) as screen:
            typed(screen, TERMS)
            screen.shows(f"* you are {TERM} in lobby")
            page.notes_until(f"{TERM} joined")
