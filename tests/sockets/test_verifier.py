"""Proofs: what each proof is worth in each mode, what a wrong one costs, and what is said of it."""

import logging
import os
import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mpchat.auth import accounts as accounts_module
from mpchat.auth import passwords, verifier
from mpchat.auth.accounts import Accounts
from mpchat.auth.grant import MEMBER, OPERATOR, SERVICE, Grant, Identity, Proof
from mpchat.auth.keys import load_key, read_secret
from mpchat.auth.passwords import Cost, Stored, hash_password
from mpchat.auth.tokens import make_token
from mpchat.auth.verifier import Verifier
from mpchat.config import AUTH_MODES, Config, resolve
from mpchat.errors import ProtocolError, StartError
from mpchat.protocol.sign_in import BAD, FOR_THE_API, OTHER_ROLE, REGISTERED

NOW = 1_800_000_000.0
QUICK = Cost(16, 1, 1)
RIGHT = "앨리스의 비밀번호"
SECRET = "우리 반의 비밀"
KEY = "a secret of more than thirty-two bytes, of no one"
UNTIL = NOW + 60


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown names cost as little as the accounts of these tests."""
    monkeypatch.setattr(verifier, "DUMMY", hash_password("nobody knows", QUICK))


def private(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    with Accounts(tmp_path / "accounts.db", create=True) as accounts:
        accounts.add("앨리스", hash_password(RIGHT, QUICK), OPERATOR)
        accounts.add("bob", hash_password("the password of bob", QUICK))
    return msgspec.structs.replace(
        resolve([])[0],
        accounts=str(tmp_path / "accounts.db"),
        jwt_key=private(tmp_path / "key", KEY + "\n"),
        secret=private(tmp_path / "secret", SECRET + "\n"),
    )


@pytest.fixture
def checks(config: Config) -> Iterator[Verifier]:
    with closing(Verifier(config)) as made:
        yield made


def token(name: str, role: str = MEMBER, rooms: tuple[str, ...] | None = None, until: float = UNTIL) -> str:
    return make_token(load_key(KEY.encode()), Grant(name, role, rooms, until), "mpchat", NOW)


def check(checks: Verifier, mode: str, **proof: Any) -> Identity:
    return checks.check(Proof(**proof), mode, NOW)


def code(checks: Verifier, mode: str, **proof: Any) -> str:
    with pytest.raises(ProtocolError) as caught:
        check(checks, mode, **proof)
    if caught.value.code == "bad_credentials":
        assert caught.value.text == BAD
    assert "\n" not in caught.value.text
    return caught.value.code


@pytest.mark.parametrize("mode", AUTH_MODES)
def test_a_right_password_gives_the_account(checks: Verifier, mode: str) -> None:
    for spelling in ("앨리스", "\u110b\u1162\u11af\u1105\u1175\u1109\u1173"):
        found = check(checks, mode, name=spelling, password=RIGHT)
        assert (found.name, found.grant) == ("앨리스", Grant("앨리스", OPERATOR))
    found = check(checks, mode, name="BOB", password="the password of bob")
    assert (found.name, found.grant) == ("BOB", Grant("bob"))


@pytest.mark.parametrize("mode", AUTH_MODES)
@pytest.mark.parametrize("name", ["앨리스", "밥"])
@pytest.mark.parametrize("password", ["", RIGHT + "!", "the password of bob", "x" * 5000])
def test_a_wrong_password_is_told_no_more_than_an_unknown_name(
    checks: Verifier, mode: str, name: str, password: str
) -> None:
    assert code(checks, mode, name=name, password=password) == "bad_credentials"


@pytest.mark.parametrize("mode", AUTH_MODES)
def test_a_token_gives_its_name_role_and_rooms(checks: Verifier, mode: str) -> None:
    for proof in (
        {"jwt": token("철수", OPERATOR, ("로비",))},
        {"name": "철수", "jwt": token("철수", OPERATOR, ("로비",))},
    ):
        found = check(checks, mode, **proof)
        assert (found.name, found.grant) == ("철수", Grant("철수", OPERATOR, ("로비",), UNTIL))
    # For a registered name too: the signer says whose name it is.
    assert check(checks, mode, name="BOB", jwt=token("bob")).name == "BOB"
    assert code(checks, mode, name="영희", jwt=token("철수")) == "not_allowed"
    assert code(checks, mode, name="a b", jwt=token("철수")) == "bad_name"
    assert code(checks, mode, jwt=token("철수", until=NOW)) == "expired"
    assert code(checks, mode, jwt=token("철수")[:-2]) == "bad_credentials"


@pytest.mark.parametrize("mode", AUTH_MODES)
def test_a_programs_token_is_for_the_api_and_the_api_for_such_tokens(checks: Verifier, mode: str) -> None:
    for name in ("알림", "앨리스", "bоb"):  # the last has a Cyrillic o
        identity = check(checks, mode, jwt=token(name, SERVICE, ("방-*",)), service=True)
        assert identity == Identity(name, Grant(name, SERVICE, ("방-*",), UNTIL))
    for proof, text in (
        ({"jwt": token("알림", SERVICE)}, FOR_THE_API),
        ({"jwt": token("알림", MEMBER), "service": True}, OTHER_ROLE),
        ({"jwt": token("앨리스", OPERATOR), "service": True}, OTHER_ROLE),
    ):
        with pytest.raises(ProtocolError) as caught:
            check(checks, mode, **proof)
        assert (caught.value.code, caught.value.text) == ("not_allowed", text)
    assert code(checks, mode, jwt="nonsense", service=True) == "bad_credentials"
    assert code(checks, mode, jwt=token("알림", SERVICE, until=NOW), service=True) == "expired"


@pytest.mark.parametrize("mode", AUTH_MODES)
def test_the_secret_lets_in_and_proves_no_name(checks: Verifier, mode: str) -> None:
    found = check(checks, mode, name="철수", secret=SECRET)
    assert (found.name, found.grant) == ("철수", Grant(""))
    for wrong in ("", SECRET + "\n", SECRET + " ", SECRET[:-1], "x" * 10_000):
        assert code(checks, mode, name="철수", secret=wrong) == "bad_credentials"
    if mode == "open":  # where the name is free without any proof
        assert check(checks, mode, name="bob", secret=SECRET).grant == Grant("")
    else:
        assert code(checks, mode, name="bob", secret=SECRET) == "auth_required"


def test_without_a_proof_the_mode_decides(checks: Verifier) -> None:
    assert check(checks, "open", name="앨리스") == Identity("앨리스", None)
    assert check(checks, "open", name="철수") == Identity("철수", None)
    assert check(checks, "names", name="철수") == Identity("철수", None, ("철수",))
    with pytest.raises(ProtocolError) as caught:
        check(checks, "names", name="BOB")
    assert (caught.value.code, caught.value.text) == ("auth_required", REGISTERED)
    for name in ("앨리스", "철수", "a b"):
        assert code(checks, "closed", name=name) == "auth_required"


@pytest.mark.parametrize("mode", AUTH_MODES)
def test_a_proof_that_the_server_does_not_take_is_wrong(config: Config, mode: str) -> None:
    plain = msgspec.structs.replace(config, jwt_key="", secret="")
    with closing(Verifier(plain)) as checks:
        assert checks.proofs == ("password",)
        assert code(checks, mode, jwt=token("철수")) == "bad_credentials"
        assert code(checks, mode, name="철수", secret="") == "bad_credentials"
    assert config.proofs == ("password", "jwt", "secret")


@pytest.mark.parametrize("mode", AUTH_MODES)
def test_two_proofs_or_no_name_are_a_bad_request(checks: Verifier, mode: str) -> None:
    assert code(checks, mode, name="앨리스", password=RIGHT, secret=SECRET) == "bad_request"
    assert code(checks, mode, password=RIGHT) == "bad_request"
    assert code(checks, mode, secret=SECRET) == "bad_request"
    assert code(checks, mode) == ("auth_required" if mode == "closed" else "bad_request")
    assert code(checks, mode, name="a b", password=RIGHT) == "bad_name"


@pytest.mark.parametrize("name", ["b0b", "bоb"])
def test_a_new_name_that_looks_like_an_account_is_taken(checks: Verifier, name: str) -> None:
    assert check(checks, "open", name=name).looks == ()
    assert code(checks, "names", name=name) == "name_taken"
    for mode in ("names", "closed"):
        assert code(checks, mode, name=name, secret=SECRET) == "name_taken"
        assert code(checks, mode, jwt=token(name)) == "name_taken"
        assert code(checks, mode, name=name, password="wrong password") == "bad_credentials"
    # The account itself is no look-alike.
    found = check(checks, "names", name="bob", password="the password of bob")
    assert "bob" in found.looks


@pytest.mark.parametrize("mode", ["names", "closed"])
def test_a_pile_of_marks_is_no_name(checks: Verifier, mode: str) -> None:
    name = "가" + "\u0301\u0302\u0303\u0304\u0306"
    assert code(checks, mode, name=name, secret=SECRET) == "bad_name"
    assert check(checks, mode, name=name[:-1], secret=SECRET).grant == Grant("")


def test_accounts_that_change_are_followed_at_once(checks: Verifier, config: Config) -> None:
    with Accounts(Path(config.accounts)) as accounts:
        check(checks, "names", name="앨리스", password=RIGHT)
        accounts.set_role("앨리스", MEMBER)
        assert check(checks, "names", name="앨리스", password=RIGHT).grant == Grant("앨리스")
        accounts.set_password("앨리스", hash_password("another password", QUICK))
        assert code(checks, "names", name="앨리스", password=RIGHT) == "bad_credentials"
        check(checks, "names", name="앨리스", password="another password")
        accounts.remove("앨리스")
        assert code(checks, "names", name="앨리스", password="another password") == "bad_credentials"
        assert check(checks, "names", name="앨리스").grant is None


def test_it_is_made_in_one_thread_and_used_in_another(config: Config) -> None:
    made: list[Verifier] = []
    maker = threading.Thread(target=lambda: made.append(Verifier(config)))
    maker.start()
    maker.join(30)
    with closing(made[0]) as checks:
        assert check(checks, "names", name="앨리스", password=RIGHT).name == "앨리스"


# What a check costs.


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Stored]:
    """Every hash that is computed."""
    found: list[Stored] = []

    def verify(stored: Stored, text: str) -> bool:
        found.append(stored)
        return passwords.verify(stored, text)

    monkeypatch.setattr(verifier, "verify", verify)
    return found


def test_a_right_password_is_hashed_once_and_a_wrong_one_each_time(
    checks: Verifier, hashed: list[Stored]
) -> None:
    for _ in range(3):
        check(checks, "names", name="앨리스", password=RIGHT)
    assert len(hashed) == 1
    for count in (2, 3):
        assert code(checks, "names", name="앨리스", password="wrong password") == "bad_credentials"
        assert len(hashed) == count
    check(checks, "names", name="앨리스", password=RIGHT)
    assert len(hashed) == 3
    assert code(checks, "names", name="bob", password=RIGHT) == "bad_credentials"
    assert len(hashed) == 4


def test_what_is_remembered_is_bounded_and_is_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "MOST_REMEMBERED", 3)
    remembered = verifier._Remembered()
    for number in range(5):
        remembered.add(f"이름{number}", "hash", RIGHT)
    assert [remembered.has(f"이름{number}", "hash", RIGHT) for number in range(5)] == [False] * 2 + [True] * 3
    assert not remembered.has("이름4", "other hash", RIGHT)
    assert not remembered.has("이름4", "hash", RIGHT + "!")
    assert len({*remembered._digests.values()}) == 1
    assert RIGHT not in repr(remembered._digests)
    assert verifier._Remembered()._digest("hash", RIGHT) != remembered._digest("hash", RIGHT)


def test_an_unknown_name_takes_as_much_cpu_as_a_wrong_password(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cost = Cost(2**11, 8, 5)  # an eighth of the real one, whose parts are the same: see test_passwords
    monkeypatch.setattr(verifier, "DUMMY", hash_password("nobody knows", cost))
    with Accounts(Path(config.accounts)) as accounts:
        accounts.add("철수", hash_password("right password", cost))
    spent: dict[tuple[str, str], list[float]] = {}
    with closing(Verifier(config)) as checks:
        code(checks, "names", name="철수", password="warm up")
        for _ in range(9):
            for name in ("철수", "영희"):
                for password in ("wrong password", "x" * 5000):
                    begin = time.thread_time()
                    assert code(checks, "names", name=name, password=password) == "bad_credentials"
                    spent.setdefault((name, password), []).append(time.thread_time() - begin)
    medians = sorted(map(statistics.median, spent.values()))
    assert medians[-1] < 1.3 * medians[0], medians


# What is said of what cannot be read.


def test_accounts_that_cannot_be_read_are_logged_and_told(
    checks: Verifier, config: Config, caplog: pytest.LogCaptureFixture
) -> None:
    Path(config.accounts).chmod(0o666)
    with caplog.at_level(logging.DEBUG):
        assert code(checks, "names", name="앨리스", password=RIGHT) == "try_later"
        assert code(checks, "names", name="철수") == "try_later"
    assert check(checks, "open", name="철수").grant is None
    assert "names cannot be checked: others may read or write" in caplog.text
    assert [each.levelname for each in caplog.records] == ["ERROR", "ERROR"]
    assert RIGHT not in caplog.text


def test_no_proof_is_logged(checks: Verifier, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        check(checks, "closed", name="앨리스", password=RIGHT)
        check(checks, "closed", name="철수", secret=SECRET)
        check(checks, "closed", jwt=token("철수"))
        code(checks, "closed", name="앨리스", password="wrong password")
    assert caplog.text == ""


def told(config: Config, **changes: Any) -> str:
    with pytest.raises(StartError) as caught:
        Verifier(msgspec.structs.replace(config, **changes))
    assert "\n" not in str(caught.value)
    assert KEY not in str(caught.value)
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_used_at_the_start_names_the_setting(config: Config, tmp_path: Path) -> None:
    # The setting may have the secret itself, which is not told, also when it can be no path.
    for place in (str(tmp_path / "없음"), str(tmp_path / "key" / "없음"), str(tmp_path / ("없" * 300)), "\0"):
        for setting in ("jwt_key", "secret"):
            assert told(config, **{setting: place}) == (
                f"{setting}: the file that this setting names is not there; "
                "allowed: the path of a file, or env:NAME"
            )
    assert told(config, secret="env:MPCHAT_NONE") == "secret: the environment has no MPCHAT_NONE"
    assert told(config, jwt_key=private(tmp_path / "short", "짧다")).startswith(
        "jwt_key: a secret of 6 bytes"
    )
    empty = private(tmp_path / "empty", "\n")
    assert told(config, secret=empty) == f"secret: {empty} is empty"
    (tmp_path / "latin").write_bytes(b"caf\xe9")
    (tmp_path / "latin").chmod(0o600)
    assert "not UTF-8" in told(config, secret=str(tmp_path / "latin"))
    no_database = private(tmp_path / "text", "이름" * 5000)
    assert told(config, accounts=no_database).startswith("accounts: cannot use the accounts in")
    assert told(config, accounts=str(tmp_path)) == f"accounts: {tmp_path} is not a plain file"


@pytest.mark.parametrize("setting", ["jwt_key", "secret"])
def test_a_secret_that_others_may_read_is_refused(config: Config, setting: str) -> None:
    path = getattr(config, setting)
    os.chmod(path, 0o644)
    assert told(config) == f"{setting}: others may read or change {path}; chmod 640 it"
    os.chmod(path, 0o640)
    Verifier(config).close()


def test_whether_nobody_can_come_in_is_asked_without_looking_at_an_account(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One damaged account must not keep a server from its start, and an unreadable file is told as such."""
    alone = msgspec.structs.replace(config, jwt_key="", secret="")
    with closing(sqlite3.connect(config.accounts)) as db:
        db.execute("UPDATE accounts SET password = 'scrypt:비밀'")
        db.commit()
    with closing(Verifier(alone)) as checks:
        assert not checks.lets_nobody_in
        monkeypatch.setattr(accounts_module, "BUSY_PATIENCE", 0.05)
        with closing(Verifier(alone)) as hurried, closing(sqlite3.connect(config.accounts)) as other:
            other.execute("BEGIN EXCLUSIVE")
            with pytest.raises(
                StartError, match=r"accounts: cannot use the accounts in .*: database is locked"
            ):
                hurried.lets_nobody_in  # noqa: B018
        with Accounts(Path(config.accounts)) as accounts:
            accounts.remove("앨리스")
            accounts.remove("bob")
        assert checks.lets_nobody_in


def test_a_key_of_a_wrong_kind_is_told_before_its_mode(config: Config, tmp_path: Path) -> None:
    rsa = "-----BEGIN RSA PUBLIC KEY-----\nAAAA\n-----END RSA PUBLIC KEY-----\n"
    certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
    for text, why in ((certificate, "it is a certificate"), (rsa, "there is no key in it")):
        path = private(tmp_path / "wrong", text)
        os.chmod(path, 0o644)
        assert told(config, jwt_key=path).startswith(f"jwt_key: {why}")


def test_a_public_key_may_be_read_by_others_and_not_written(tmp_path: Path) -> None:
    pem = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"
    path = private(tmp_path / "public.pem", pem)
    os.chmod(path, 0o644)
    assert read_secret("jwt_key", path) == pem.encode()
    os.chmod(path, 0o646)
    with pytest.raises(StartError, match=f"jwt_key: others may change {path}"):
        read_secret("jwt_key", path)
    both = private(
        tmp_path / "both.pem", pem + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"
    )
    os.chmod(both, 0o644)
    with pytest.raises(StartError, match="others may read or change"):
        read_secret("jwt_key", both)


def test_secrets_from_the_environment(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_KEY", KEY)
    monkeypatch.setenv("CHAT_SECRET", SECRET)
    here = msgspec.structs.replace(config, jwt_key="env:CHAT_KEY", secret="env:CHAT_SECRET")
    with closing(Verifier(here)) as checks:
        assert check(checks, "closed", jwt=token("철수")).name == "철수"
        assert check(checks, "closed", name="철수", secret=SECRET).name == "철수"


def test_without_any_accounts_names_are_free_and_no_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with closing(Verifier(resolve([])[0])) as checks:
        assert check(checks, "names", name="앨리스").grant is None
        assert code(checks, "names", name="앨리스", password=RIGHT) == "bad_credentials"
    assert os.listdir(tmp_path) == []
