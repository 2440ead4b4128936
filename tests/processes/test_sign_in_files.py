"""The files that proofs are checked with: at the start, at a reload, and while the server runs."""

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.changing import configured, reload, write_settings
from support.harness import Client, Server
from support.said import NOT_STARTED, one_line
from support.signing_in import join, sign_in
from support.waiting import eventually

from scripts.common.sign_in import Proofs

pytestmark = pytest.mark.one_python

NOBODY = 65534
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
# What a private key of another kind looks like: one for ssh.
SSH = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEA\n-----END OPENSSH PRIVATE KEY-----\n"


@pytest.fixture
def place(folder: Path) -> Path:
    """The folder with the files."""
    place = folder / "파일"
    place.mkdir(mode=0o700)
    return place


@pytest.fixture
def proofs(place: Path) -> Proofs:
    return Proofs(place, "앨리스")


@pytest.fixture
def server(folder: Path, proofs: Proofs) -> Iterator[Server]:
    with configured(folder, workers=1, auth="closed", **proofs.settings) as started:
        yield started


# What is done to the files, and what the server says of it.


def readable_accounts(place: Path) -> str:
    (place / "accounts.db").chmod(0o644)
    return f"accounts: others may read or write {place}/accounts.db; close it with: chmod 600"


def accounts_in_an_open_folder(place: Path) -> str:
    place.chmod(0o777)  # the keys are in it too, and are read first
    return f"others may write the folder {place}; close it with: chmod go-w {place}"


def linked_accounts_in_an_open_folder(place: Path) -> str:
    target = place.parent / "open" / "target.db"
    target.parent.mkdir()
    (place / "accounts.db").rename(target)
    (place / "accounts.db").symlink_to(target)
    target.parent.chmod(0o777)
    return f"accounts: others may write the folder {target.parent}"


def accounts_that_are_a_folder(place: Path) -> str:
    (place / "accounts.db").unlink()
    (place / "accounts.db").mkdir()
    return f"accounts: {place}/accounts.db is not a plain file"


def damaged_accounts(place: Path) -> str:
    (place / "accounts.db").write_bytes(b"\0" * 5000)
    return f"accounts: cannot use the accounts in {place}/accounts.db: file is not a database"


def accounts_of_another_program(place: Path) -> str:
    with changed(place) as db:
        db.execute("PRAGMA application_id = 1")
    return f"accounts: {place}/accounts.db is another program's database; choose another file"


def accounts_of_a_newer_version(place: Path) -> str:
    with changed(place) as db:
        db.execute("PRAGMA user_version = 1000")
    return f"accounts: the format of {place}/accounts.db is 1000"


def accounts_of_another_user(place: Path) -> str:
    os.chown(place / "accounts.db", NOBODY, NOBODY)
    return f"accounts: {place}/accounts.db belongs to another user"


def accounts_in_a_folder_of_another_user(place: Path) -> str:
    os.chown(place, NOBODY, NOBODY)
    return f"the folder {place} belongs to another user"


def accounts_behind_a_link_of_another_user(place: Path) -> str:
    (place / "accounts.db").rename(place / "target.db")
    (place / "accounts.db").symlink_to("target.db")
    os.chown(place / "accounts.db", NOBODY, NOBODY, follow_symlinks=False)
    return f"accounts: {place}/accounts.db belongs to another user"


@contextmanager
def changed(place: Path) -> Iterator[sqlite3.Connection]:
    """Put a copy of the accounts in their place, changed as any program may change it."""
    path = place / "copy.db"
    put(path, (place / "accounts.db").read_bytes())
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        yield db
    path.rename(place / "accounts.db")


def readable_key(place: Path) -> str:
    (place / "jwt.pem").chmod(0o644)
    return f"jwt_key: others may read or change {place}/jwt.pem; chmod 640 it"


def no_key(place: Path) -> str:
    (place / "jwt.pem").unlink()
    return "jwt_key: the file that this setting names is not there; allowed: the path of a file, or env:NAME"


def damaged_key(place: Path) -> str:
    text = (place / "jwt.pem").read_text()
    (place / "jwt.pem").write_text(text[:60] + text[90:])
    return "jwt_key: there is no key in it that can be used; allowed: "


def key_of_another_program(place: Path) -> str:
    (place / "jwt.pem").write_text(SSH)
    return "jwt_key: it is a key of ssh; allowed: "


def key_of_another_user(place: Path) -> str:
    os.chown(place / "jwt.pem", NOBODY, NOBODY)
    return f"jwt_key: {place}/jwt.pem belongs to another user"


def key_behind_a_link_to_a_file_of_another_user(place: Path) -> str:
    (place / "jwt.pem").rename(place / "target")
    (place / "jwt.pem").symlink_to("target")
    os.chown(place / "target", NOBODY, NOBODY)
    return f"jwt_key: {place}/jwt.pem belongs to another user"


def key_behind_a_link_of_another_user(place: Path) -> str:
    (place / "jwt.pem").rename(place / "target")
    (place / "jwt.pem").symlink_to("target")
    os.chown(place / "jwt.pem", NOBODY, NOBODY, follow_symlinks=False)
    return f"jwt_key: {place}/jwt.pem belongs to another user"


def linked_key_in_an_open_folder(place: Path) -> str:
    target = place.parent / "open" / "target.pem"
    target.parent.mkdir(exist_ok=True)
    target.parent.chmod(0o777)
    (place / "jwt.pem").rename(target)
    (place / "jwt.pem").symlink_to(target)
    return f"jwt_key: others may write the folder {target.parent}; close it with: chmod go-w {target.parent}"


def writable_secret(place: Path) -> str:
    (place / "secret").chmod(0o622)
    return f"secret: others may read or change {place}/secret; chmod 640 it"


def empty_secret(place: Path) -> str:
    (place / "secret").write_text("\n")
    return f"secret: {place}/secret is empty"


def secret_that_is_a_pipe(place: Path) -> str:
    (place / "secret").unlink()
    os.mkfifo(place / "secret", 0o600)
    return f"secret: {place}/secret is no file with a key or a secret"


def secret_that_is_a_link_to_nothing(place: Path) -> str:
    (place / "secret").unlink()
    (place / "secret").symlink_to("nowhere")
    return "secret: the file that this setting names is not there; allowed: the path of a file, or env:NAME"


Spoil = Callable[[Path], str]
OF_ACCOUNTS: list[Spoil] = [
    readable_accounts,
    accounts_in_an_open_folder,
    linked_accounts_in_an_open_folder,
    accounts_that_are_a_folder,
    damaged_accounts,
    accounts_of_another_program,
    accounts_of_a_newer_version,
]
OF_ACCOUNTS_AS_ROOT: list[Spoil] = [
    accounts_of_another_user,
    accounts_in_a_folder_of_another_user,
    accounts_behind_a_link_of_another_user,
]
OF_KEYS: list[Spoil] = [
    readable_key,
    no_key,
    damaged_key,
    linked_key_in_an_open_folder,
    key_of_another_program,
    writable_secret,
    empty_secret,
    secret_that_is_a_pipe,
    secret_that_is_a_link_to_nothing,
]
OF_KEYS_AS_ROOT: list[Spoil] = [
    key_of_another_user,
    key_behind_a_link_to_a_file_of_another_user,
    key_behind_a_link_of_another_user,
]


def cases(plain: list[Spoil], as_root: list[Spoil]) -> list[Any]:
    """Return parameters: what can be done to files, and what root alone can do."""
    return [pytest.param(each, id=each.__name__) for each in plain] + [
        pytest.param(each, id=each.__name__, marks=root) for each in as_root
    ]


ACCOUNTS = cases(OF_ACCOUNTS, OF_ACCOUNTS_AS_ROOT)
ALL = [*ACCOUNTS, *cases(OF_KEYS, OF_KEYS_AS_ROOT)]


@pytest.mark.parametrize("spoil", ALL)
def test_a_start_with_a_file_that_is_wrong_says_what_is(
    folder: Path, place: Path, proofs: Proofs, spoil: Spoil
) -> None:
    said = spoil(place)
    server = Server(folder)
    write_settings(server, port=0, workers=1, auth="closed", **proofs.settings)
    try:
        told = one_line(server.run("start"), NOT_STARTED)
    finally:
        server.end()
    assert said in told
    assert not shows_a_secret(told, place)
    assert not (server.instance_folder / "control.sock").exists()


def test_a_start_without_the_accounts_file_begins_with_no_names(
    folder: Path, place: Path, proofs: Proofs
) -> None:
    """The first account may be made when the server runs."""
    kept = (place / "accounts.db").read_bytes()
    (place / "accounts.db").unlink()
    with configured(folder, workers=1, auth="closed", **proofs.settings) as server:
        right = {"name": "앨리스", "password": proofs.password}
        assert sign_in(server, **right) == "bad_credentials"
        put(place / "accounts.db", kept)
        assert sign_in(server, **right) == ""


def test_a_reload_with_a_file_that_is_wrong_changes_nothing(
    server: Server, place: Path, proofs: Proofs
) -> None:
    """The keys and the secret are those of the start; for the accounts see the next test."""
    token, secret = proofs.tokens(["밥"])["밥"], (place / "secret").read_text()
    files = {each: each.read_bytes() for each in (place / "jwt.pem", place / "secret")}
    with Client(server.address) as stays:
        assert "welcome" in join(stays, jwt=token)
        for spoil in (*OF_KEYS, *(OF_KEYS_AS_ROOT if os.geteuid() == 0 else ())):
            said = spoil(place)
            told = one_line(server.command("reload"), NOT_STARTED)
            assert said in told
            assert "nothing has changed" in told
            assert not shows_a_secret(told, place)
            assert sign_in(server, jwt=token, name="밥") == ""
            assert sign_in(server, name="손님", secret=secret) == ""
            for path, data in files.items():
                put(path, data)
            reload(server)
    assert server.status()["generation"] > 1
    assert not shows_a_secret(server.log, place)


@pytest.mark.parametrize("spoil", [*ACCOUNTS, pytest.param(lambda place: gone(place), id="gone")])
def test_names_are_checked_again_when_the_accounts_are_right_again(
    server: Server, place: Path, proofs: Proofs, spoil: Spoil
) -> None:
    right = {"name": "앨리스", "password": proofs.password}
    secret = (place / "secret").read_text()
    kept = (place / "accounts.db").read_bytes()
    with Client(server.address) as stays:
        assert "welcome" in join(stays, **right)
        assert sign_in(server, name="손님", secret=secret) == ""
        said = spoil(place).removeprefix("accounts: ")
        # Nobody gets in by a name that cannot be checked, also not by one that was free.
        for proof in (right, {"name": "앨리스", "secret": secret}, {"name": "손님", "secret": secret}):
            with Client(server.address) as client:
                told = join(client, **proof)["error"]
            assert told["code"] == "try_later"
            assert told["text"] == "the server cannot check names just now; try again later"
        eventually(lambda: f"names cannot be checked: {said}" in server.log, "the log to say what is wrong")
        told_of_reload = one_line(server.command("reload"), NOT_STARTED)
        assert said in told_of_reload
        assert "nothing has changed" in told_of_reload
        put(place / "accounts.db", kept)
        place.chmod(0o700)
        os.chown(place, os.geteuid(), -1)
        assert sign_in(server, name="손님", secret=secret) == ""
        assert sign_in(server, **right) == ""
    assert not shows_a_secret(server.log, place)
    assert proofs.password not in server.log


def test_a_reload_frees_no_name_when_the_accounts_are_missing(
    server: Server, place: Path, proofs: Proofs
) -> None:
    """Not by a path to nowhere either, nor by way of a mode that needs no accounts."""
    secret = (place / "secret").read_text()
    nobody = {"name": "앨리스", "secret": secret}
    settings: dict[str, Any] = {"port": 0, "workers": 1, **proofs.settings}
    write_settings(server, auth="closed", **{**settings, "accounts": str(place / "없음.db")})
    told = one_line(server.command("reload"), NOT_STARTED)
    assert f"accounts: the accounts are gone: {place}/없음.db; nothing has changed" in told
    assert sign_in(server, **nobody) == "auth_required"
    write_settings(server, port=0, workers=1, auth="open")
    reload(server)
    kept = (place / "accounts.db").read_bytes()
    gone(place)
    write_settings(server, auth="closed", **settings)
    told = one_line(server.command("reload"), NOT_STARTED)
    assert f"accounts: the accounts are gone: {place}/accounts.db; nothing has changed" in told
    put(place / "accounts.db", kept)
    reload(server)
    assert sign_in(server, **nobody) == "auth_required"
    assert sign_in(server, name="앨리스", password=proofs.password) == ""


def test_a_reload_while_the_accounts_are_locked_says_so(server: Server, place: Path, proofs: Proofs) -> None:
    with closing(sqlite3.connect(place / "accounts.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        told = one_line(server.command("reload"), NOT_STARTED)
    locked = f"accounts: cannot use the accounts in {place}/accounts.db: database is locked"
    assert f"{locked}; nothing has changed" in told
    assert sign_in(server, name="앨리스", password=proofs.password) == ""


def gone(place: Path) -> str:
    (place / "accounts.db").unlink()
    return f"accounts: the accounts are gone: {place}/accounts.db"


def test_accounts_that_were_replaced_in_one_move_count_at_once(
    server: Server, folder: Path, place: Path, proofs: Proofs
) -> None:
    """As an operator puts back a copy of the file."""
    with Client(server.address) as stays:
        assert "welcome" in join(stays, name="앨리스", password=proofs.password)
    other = folder / "다른"
    other.mkdir(mode=0o700)
    another = Proofs(other, "앨리스")
    (other / "accounts.db").rename(place / "accounts.db")
    assert sign_in(server, name="앨리스", password=proofs.password) == "bad_credentials"
    assert sign_in(server, name="앨리스", password=another.password) == ""


def put(path: Path, data: bytes) -> None:
    """Put a file in place of whatever is there, for its user only."""
    if path.is_dir():
        path.rmdir()
    fresh = path.with_suffix(".new")
    fresh.touch(0o600)
    fresh.write_bytes(data)
    fresh.rename(path)


def shows_a_secret(text: str, place: Path) -> bool:
    """Tell whether a text has anything of the key or the secret, if they are there."""
    for name in ("jwt.pem", "secret"):
        path = place / name
        lines = path.read_text().split() if path.is_file() else []
        if any(line in text for line in lines if len(line) > 20):
            return True
    return False
