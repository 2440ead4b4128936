"""``mpchat user`` and ``mpchat token``: they work without a server, and show no password and no key."""

import json
import stat
import subprocess
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519
from support.harness import MPCHAT, Server
from support.terminals import Terminal, session_command
from support.waiting import eventually

from mpchat.auth.accounts import Account, Accounts
from mpchat.auth.grant import OPERATOR, Grant
from mpchat.auth.keys import load_key
from mpchat.auth.passwords import verify
from mpchat.auth.tokens import read_token

pytestmark = pytest.mark.one_python

RIGHT = "앨리스의 비밀번호"
KEY = "a secret of more than thirty-two bytes, of no one"


@pytest.fixture
def here(folder: Path) -> Server:
    server = Server(folder)
    server.environment |= {"XDG_DATA_HOME": str(folder / "자료"), "HOME": str(folder)}
    return server


def mpchat(here: Server, *words: str, typed: str | bytes = b"") -> "subprocess.CompletedProcess[str]":
    """Run a command whose standard input is a pipe with ``typed``."""
    done = subprocess.run(
        [*MPCHAT, *words],
        env=here.environment,
        cwd=here.folder,
        input=typed if isinstance(typed, bytes) else typed.encode(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert RIGHT.encode() not in done.stdout + done.stderr
    return subprocess.CompletedProcess(words, done.returncode, done.stdout.decode(), done.stderr.decode())


def added(here: Server, *words: str) -> None:
    done = mpchat(here, "user", "add", *words, typed=RIGHT + "\n")
    assert (done.returncode, done.stderr) == (0, "")


def failed(here: Server, *words: str, typed: str | bytes = b"", code: int = 1) -> str:
    done = mpchat(here, *words, typed=typed)
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    if code == 1:
        assert done.stderr.startswith("mpchat: ")
        assert done.stderr.count("\n") == 1
    return done.stderr


def known(file: Path, name: str) -> Account:
    with Accounts(file) as accounts:
        return accounts.known(name)


def test_an_account_is_made_changed_listed_and_removed(here: Server) -> None:
    done = mpchat(here, "user", "add", "앨리스", "--role", "operator", typed=RIGHT + "\n")
    assert (done.returncode, done.stdout) == (0, "앨리스 is registered, role operator\n")
    file = here.folder / "자료" / "mpchat" / "accounts.db"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    account = known(file, "앨리스")
    assert verify(account.stored, RIGHT)

    assert mpchat(here, "user", "role", "앨리스", "member").stdout == "앨리스 has the role member\n"
    done = mpchat(here, "user", "password", "앨리스", typed="another password\r\nsecond line\n")
    assert done.stdout == "앨리스 has another password\n"
    assert verify(known(file, "앨리스").stored, "another password")

    added(here, "bob")
    listed = json.loads(mpchat(here, "user", "list", "--json").stdout)["accounts"]
    assert [(each["name"], each["role"]) for each in listed] == [("bob", "member"), ("앨리스", "member")]
    assert all(account.made <= each["made"] <= each["changed"] <= time.time() for each in listed)
    assert [set(each) for each in listed] == [{"name", "role", "made", "changed"}] * 2
    shown = mpchat(here, "user", "list").stdout
    assert [line.split()[:2] for line in shown.splitlines()] == [
        ["name", "role"],
        ["bob", "member"],
        ["앨리스", "member"],
    ]

    assert mpchat(here, "user", "remove", "BOB").stdout == "bob is not registered any more\n"
    assert mpchat(here, "user", "remove", "앨리스").returncode == 0
    assert mpchat(here, "user", "list").stdout == f"no name is registered in {file}\n"


def test_what_cannot_be_done_is_one_line(here: Server) -> None:
    added(here, "alice")
    right = RIGHT + "\n"
    assert "alice is registered already" in failed(here, "user", "add", "ALICE", typed=right)
    assert "looks like alice" in failed(here, "user", "add", "аlice", typed=right)  # Cyrillic
    assert "a space" in failed(here, "user", "add", "a b", typed=right)
    assert "4 marks" in failed(here, "user", "add", "가" + "\u0301\u0302" * 3, typed=right)
    assert "first line of standard input" in failed(here, "user", "add", "bob")
    assert "8 to 256 characters, this one 0" in failed(here, "user", "add", "bob", typed="\n")
    assert "8 to 256 characters, this one 7" in failed(here, "user", "add", "bob", typed="비밀번호일곱자\n")
    assert "not in UTF-8" in failed(here, "user", "add", "bob", typed=b"caf\xe9caf\xe9caf\xe9\n")
    assert "this one many more" in failed(here, "user", "add", "bob", typed="비" * 1025 + "\n")
    for words in (["remove", "bob"], ["role", "bob", "operator"], ["password", "bob"]):
        assert "bob is not registered" in failed(here, "user", *words, typed=right)
    assert json.loads(mpchat(here, "user", "list", "--json").stdout)["accounts"][0]["name"] == "alice"


def test_wrong_words_are_refused_with_usage(here: Server) -> None:
    for words in (
        ["add"],
        ["add", "bob", "--role", "king"],
        ["role", "bob"],
        ["role", "bob", "king"],
        ["birds"],
    ):
        assert "Usage: " in failed(here, "user", *words, code=2)
    assert "Usage: " in failed(here, "token", code=2)


def test_before_the_first_account_there_is_no_file_and_none_is_made(here: Server) -> None:
    file = here.folder / "자료" / "mpchat" / "accounts.db"
    assert mpchat(here, "user", "list").stdout == f"no name is registered in {file}\n"
    assert "bob is not registered" in failed(here, "user", "remove", "bob")
    assert not file.parent.exists()


def test_the_file_is_the_one_of_the_settings(here: Server) -> None:
    (here.folder / "mpchat.toml").write_text("accounts = '하나.db'\n")
    added(here, "앨리스")
    added(here, "bob", "--accounts", "둘.db")
    here.environment["MPCHAT_ACCOUNTS"] = "셋.db"
    added(here, "carol")  # the file takes precedence over a variable
    found = {}
    for path in here.folder.glob("*.db"):
        with Accounts(path) as accounts:
            found[path.name] = [each.name for each in accounts.all()]
    assert found == {"하나.db": ["carol", "앨리스"], "둘.db": ["bob"]}


def test_a_file_that_others_may_read_is_refused(here: Server) -> None:
    added(here, "앨리스", "--accounts", "하나.db")
    (here.folder / "하나.db").chmod(0o644)
    said = failed(here, "user", "list", "--accounts", "하나.db")
    assert "others may read or write" in said
    assert "chmod 600" in said


def test_a_terminal_is_asked_twice_and_shows_nothing_of_it(here: Server) -> None:
    terminal = Terminal()
    process = subprocess.Popen(
        session_command(terminal, "leader", *MPCHAT, "user", "add", "앨리스"),
        env=here.environment,
        cwd=here.folder,
    )

    def answer(prompt: str, count: int, line: str) -> None:
        eventually(lambda: terminal.text.count(f"{prompt}: ") == count, f"{prompt} to be asked for")
        terminal.type(line)

    try:
        answer("password for 앨리스", 1, RIGHT)
        answer("once more", 1, RIGHT + "!")
        answer("password for 앨리스", 2, RIGHT)
        answer("once more", 2, RIGHT)
        assert process.wait(30) == 0, terminal.text
        assert "앨리스 is registered, role member" in terminal.text
        assert "do not match" in terminal.text
        assert RIGHT not in terminal.text
    finally:
        process.kill()
        process.wait()
        terminal.close()


@pytest.mark.parametrize("verb", ["add", "password"])
def test_a_password_that_cannot_be_read_is_one_line(here: Server, verb: str) -> None:
    """Standard input is closed, and a terminal sends bytes that are no text."""
    if verb == "password":
        added(here, "앨리스")
    words = [*MPCHAT, "user", verb, "앨리스"]
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *words],
        env=here.environment,
        cwd=here.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert closed.returncode == 1
    assert closed.stderr == "mpchat: no password: it is the first line of standard input\n"
    terminal = Terminal()
    process = subprocess.Popen(
        session_command(terminal, "leader", *words), env=here.environment, cwd=here.folder
    )
    try:
        eventually(lambda: "password for 앨리스: " in terminal.text, "the password to be asked for")
        terminal.type("caf\udce9 caf\udce9")
        assert process.wait(30) == 1
        told = terminal.text.splitlines()[-1]
        assert told == (
            "mpchat: the password cannot be read as text: it is not in UTF-8, or not as the locale says"
        )
        assert "Traceback" not in terminal.text
    finally:
        process.kill()
        process.wait()
        terminal.close()


def private(path: Path, data: str | bytes) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    path.chmod(0o600)
    return str(path)


def test_a_token_is_printed_that_a_server_takes(here: Server) -> None:
    path = private(here.folder / "열쇠", KEY + "\n")
    begin = time.time()
    done = mpchat(here, "token", "앨리스", "--jwt-key", "열쇠")
    assert (done.returncode, done.stderr) == (0, "")
    grant = read_token(load_key(KEY.encode()), done.stdout.strip(), "mpchat", time.time())
    assert (grant.name, grant.role, grant.rooms) == ("앨리스", "member", None)
    assert grant.expires is not None
    assert begin + 3600 <= grant.expires <= time.time() + 3601
    words = ["--rooms", "로비, 게임-*", "--role", "operator", "--for", "90s", "--jwt-audience", "우리 반"]
    done = mpchat(here, "token", "앨리스", *words, "--jwt-key", path)
    grant = read_token(load_key(KEY.encode()), done.stdout.strip(), "우리 반", begin)
    assert grant == Grant("앨리스", OPERATOR, ("로비", "게임-*"), grant.expires)
    assert grant.expires is not None
    assert begin + 90 <= grant.expires <= time.time() + 91
    here.environment["CHAT_KEY"] = KEY
    done = mpchat(here, "token", "앨리스", "--jwt-key", "env:CHAT_KEY")
    assert read_token(load_key(KEY.encode()), done.stdout.strip(), "mpchat", time.time()).name == "앨리스"


def test_a_token_that_cannot_be_made_is_one_line_without_the_key(here: Server) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    paths = [private(here.folder / "public.pem", public), private(here.folder / "short", "짧은 열쇠")]
    assert "public key, which only checks tokens" in failed(here, "token", "bob", "--jwt-key", paths[0])
    said = failed(here, "token", "bob", "--jwt-key", paths[1])
    assert "too short" in said
    assert "짧은 열쇠" not in said
    assert "is not there" in failed(here, "token", "bob", "--jwt-key", "missing")
    assert "jwt_key is not set" in failed(here, "token", "bob", code=2)
    key_path = private(here.folder / "key", KEY)
    assert "a space" in failed(here, "token", "a b", "--jwt-key", key_path)
    pile = "가" + "\u0301\u0302\u0303\u0304\u0306"
    assert "at most 4 marks in a row" in failed(here, "token", pile, "--jwt-key", key_path)
    assert "a space" in failed(here, "token", "bob", "--rooms", "a b", "--jwt-key", key_path)
    assert "names no room" in failed(here, "token", "bob", "--rooms", ",", "--jwt-key", key_path, code=2)
    (here.folder / "key").chmod(0o644)
    assert "others may read or change" in failed(here, "token", "bob", "--jwt-key", key_path)
    said = failed(here, "token", "bob", "--jwt-key", f"-----BEGIN PRIVATE KEY-----\n{KEY}", code=2)
    assert KEY not in said
