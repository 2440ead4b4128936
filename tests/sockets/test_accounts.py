"""The accounts' file: shared by processes, whole after a crash, private, and never one of another program."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
from support.accounts_writer import ROWS, stored

from mpchat.auth import accounts as module
from mpchat.auth.accounts import APPLICATION_ID, FORMAT, Account, Accounts, default_path
from mpchat.auth.grant import MEMBER, OPERATOR
from mpchat.auth.lookalikes import looks
from mpchat.auth.passwords import verify
from mpchat.errors import MpchatError
from mpchat.protocol.names import name_key

TESTS = Path(__file__).parents[1]
NOBODY = 54321
RIGHT = "비밀번호 여덟자"
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "한글 폴더" / "accounts.db"


def made(path: Path, *names: str) -> Accounts:
    accounts = Accounts(path, create=True)
    for name in names:
        accounts.add(name, stored())
    return accounts


def refused(work: Callable[[], object]) -> str:
    with pytest.raises(MpchatError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def writer(*words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "support.accounts_writer", *words],
        cwd=TESTS,
        stdin=PIPE,
        stdout=PIPE,
        text=True,
    )


def names(path: Path) -> list[str]:
    with Accounts(path) as accounts:
        return [each.name for each in accounts.all()]


# What it keeps.


def test_an_account_is_found_by_each_spelling_of_its_name(path: Path) -> None:
    with made(path) as accounts:
        accounts.add("앨리스", stored(), OPERATOR)
        accounts.add("Bob", stored())
        for spelling in ("앨리스", "\u110b\u1162\u11af\u1105\u1175\u1109\u1173"):
            found = accounts.get(spelling)
            assert found is not None
            assert (found.name, found.role) == ("앨리스", OPERATOR)
            assert verify(found.stored, RIGHT)
        bob = accounts.get("BOB")
        assert bob is not None
        assert (bob.name, bob.role) == ("Bob", MEMBER)
        assert accounts.get("carol") is None


def test_accounts_change_and_go(path: Path) -> None:
    with made(path, "앨리스", "bob") as accounts:
        before = accounts.known("앨리스")
        other = stored()
        accounts.set_password("앨리스", other)
        accounts.set_role("앨리스", OPERATOR)
        after = accounts.known("앨리스")
        assert (after.stored, after.role, after.made) == (other, OPERATOR, before.made)
        assert after.changed > before.changed
        accounts.remove("앨리스")
        assert accounts.get("앨리스") is None
        assert accounts.similar(looks("앨리스")) is None
        accounts.add("앨리스", stored())
        assert [each.name for each in accounts.all()] == ["bob", "앨리스"]


def test_names_that_exist_or_do_not_are_told(path: Path) -> None:
    with made(path, "앨리스", "alice") as accounts:
        assert refused(lambda: accounts.add("앨리스", stored())) == "앨리스 is registered already"
        assert refused(lambda: accounts.add("ALICE", stored())) == "alice is registered already"
        said = refused(lambda: accounts.add("аlice", stored()))  # Cyrillic
        assert said == "аlice looks like alice, which is registered; choose another name"
        for work in (
            lambda: accounts.remove("밥"),
            lambda: accounts.set_role("밥", OPERATOR),
            lambda: accounts.set_password("밥", stored()),
            lambda: accounts.known("밥"),
        ):
            assert refused(work) == "밥 is not registered"
        assert [each.name for each in accounts.all()] == ["alice", "앨리스"]


def test_a_similar_name_is_found_and_a_name_is_not_similar_to_itself(path: Path) -> None:
    with made(path, "alice") as accounts:
        assert accounts.similar(looks("аlice"), "аlice") == "alice"
        assert accounts.similar(looks("AIice"), "AIice") == "alice"
        assert accounts.similar(looks("alice"), "alice") is None
        assert accounts.similar(looks("앨리스"), "앨리스") is None


def test_a_file_that_is_missing_has_no_accounts_and_is_not_made_and_may_come_later(path: Path) -> None:
    with Accounts(path) as accounts:
        assert accounts.get("앨리스") is None
        assert accounts.all() == []
        assert accounts.similar(looks("앨리스")) is None
        assert "does not exist" in refused(lambda: accounts.add("앨리스", stored()))
        assert not path.parent.exists()
        made(path, "앨리스").close()
        assert accounts.get("앨리스") is not None


def looks_of_before(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """Make a file as a version did that knew no look-alikes."""
    with monkeypatch.context() as before:
        before.setattr(module, "looks", lambda name: (name_key(name),))
        before.setattr(module, "data_version", lambda: "3.2.0 12.1.0")
        made(path, "alice", "앨리스").close()


def kept_looks(path: Path) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(path)) as db:
        return db.execute("SELECT look, key FROM looks ORDER BY look, key").fetchall()


def test_looks_are_made_anew_when_their_data_is_another(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks_of_before(monkeypatch, path)
    before = path.read_bytes()
    with Accounts(path) as accounts:
        assert accounts.similar(looks("аlice"), "аlice") == "alice"  # Cyrillic
        assert accounts.similar(looks("앨리스"), "앨리스") is None
    assert kept_looks(path) == sorted((look, name) for name in ("alice", "앨리스") for look in looks(name))
    after = path.read_bytes()
    assert after != before
    Accounts(path).close()
    assert path.read_bytes() == after
    made(path.with_name("other.db"), "alice").close()
    monkeypatch.setattr(module, "looks", None)  # not again for a new file
    Accounts(path.with_name("other.db")).close()


def test_looks_that_cannot_be_made_anew_are_used_as_they_are(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks_of_before(monkeypatch, path)
    before = kept_looks(path)
    real = sqlite3.connect

    def read_only(where: str, **how: Any) -> sqlite3.Connection:
        db: sqlite3.Connection = real(where, **how)
        db.execute("PRAGMA query_only = 1")
        return db

    with monkeypatch.context() as here:
        here.setattr(sqlite3, "connect", read_only)
        with Accounts(path) as accounts:
            assert accounts.known("앨리스").role == MEMBER
    assert caplog.messages == [
        f"look-alikes of the data of another version are found, attempt to write a readonly database: {path}"
    ]
    assert kept_looks(path) == before


def test_a_process_that_fails_in_the_middle_of_new_looks_leaves_those_of_before(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks_of_before(monkeypatch, path)
    before = kept_looks(path)

    def fail(name: str) -> tuple[str, ...]:
        if name == "앨리스":
            raise KeyboardInterrupt
        return looks(name)

    with monkeypatch.context() as here:
        here.setattr(module, "looks", fail)
        with pytest.raises(KeyboardInterrupt):
            Accounts(path)
    assert kept_looks(path) == before
    with Accounts(path) as accounts:
        assert accounts.similar(looks("аlice"), "аlice") == "alice"


# Several processes.


def test_each_look_sees_what_another_process_has_written(path: Path) -> None:
    with made(path) as one, Accounts(path) as other:
        one.add("앨리스", stored())
        assert other.get("앨리스") is not None
        other.set_role("앨리스", OPERATOR)
        assert one.known("앨리스").role == OPERATOR
        other.remove("앨리스")
        assert one.get("앨리스") is None


def test_two_processes_add_at_once_and_no_account_is_lost(path: Path) -> None:
    writers = [writer("add", str(path), prefix, "50") for prefix in ("하나", "둘")]
    assert [each.communicate(timeout=60)[0].count("\n") for each in writers] == [50, 50]
    assert [each.returncode for each in writers] == [0, 0]
    assert set(names(path)) == {f"{prefix}-{number}" for prefix in ("하나", "둘") for number in range(50)}
    assert os.listdir(path.parent) == [path.name]


def test_two_processes_that_add_one_name_do_not_both_succeed(path: Path) -> None:
    writers = [writer("add", str(path), "하나", "20") for _ in range(2)]
    added = [each.communicate(timeout=60)[0].split() for each in writers]
    assert sorted(each.returncode for each in writers) == [0, 1]
    assert len(set(added[0]) & set(added[1])) == 0
    assert len(names(path)) == 20


def test_a_process_killed_while_it_adds_leaves_all_that_it_has_reported(path: Path) -> None:
    reported = set()
    for number in range(3):
        process = writer("add", str(path), f"이름{number}", "10000")
        assert process.stdout is not None
        reported |= {process.stdout.readline().strip() for _ in range(20)}
        process.kill()
        process.communicate(timeout=60)
        found = set(names(path))
        assert reported <= found
        assert len(found) < 10_000


def test_a_process_killed_in_the_middle_of_a_change_has_changed_nothing(path: Path) -> None:
    made(path, "앨리스", "밥").close()
    process = writer("half", str(path))
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    process.kill()
    process.communicate(timeout=60)
    journal = path.with_name(path.name + "-journal")
    assert journal.stat().st_size > 1000, "the change has not reached the disk"
    assert stat.S_IMODE(journal.stat().st_mode) == 0o600
    assert path.stat().st_size > 100 * ROWS
    assert names(path) == ["밥", "앨리스"]
    assert not journal.exists()


def test_a_file_that_is_locked_for_long_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_PATIENCE", 0.05)
    with made(path, "앨리스") as accounts, closing(sqlite3.connect(path)) as other:
        other.execute("BEGIN EXCLUSIVE")
        said = refused(lambda: accounts.get("앨리스"))
        assert said == f"cannot use the accounts in {path}: database is locked"
        other.execute("ROLLBACK")
        assert accounts.get("앨리스") is not None


def test_a_file_that_was_replaced_is_opened_again(path: Path, tmp_path: Path) -> None:
    made(tmp_path / "other.db", "밥").close()
    with made(path, "앨리스") as accounts:
        os.replace(tmp_path / "other.db", path)
        assert accounts.get("앨리스") is None
        assert accounts.get("밥") is not None


def test_a_file_that_was_removed_frees_no_name(path: Path) -> None:
    with made(path, "앨리스") as accounts:
        path.unlink()
        assert refused(lambda: accounts.get("앨리스")) == f"the accounts are gone: {path}"
        assert not path.exists()
        made(path, "밥").close()
        assert accounts.get("밥") is not None


# Other files.


def test_a_file_of_another_program_is_told_and_left_alone(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE birds (name TEXT)")
        other.commit()
    path.chmod(0o600)
    before = path.read_bytes()
    for create in (False, True):
        said = refused(lambda create=create: Accounts(path, create=create))  # type: ignore[misc]
        assert said == f"{path} is another program's database; choose another file"
    assert path.read_bytes() == before


def test_a_file_of_a_newer_version_is_told_and_left_alone(path: Path) -> None:
    made(path, "앨리스").close()
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA user_version = {FORMAT + 1}")
    before = path.read_bytes()
    assert f"the format of {path} is {FORMAT + 1}" in refused(lambda: Accounts(path, create=True))
    assert path.read_bytes() == before


def test_a_file_that_is_no_database_is_told_and_left_alone(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_text("이름 = 비밀번호\n" * 100)
    path.chmod(0o600)
    before = path.read_bytes()
    said = refused(lambda: Accounts(path, create=True))
    assert said == f"cannot use the accounts in {path}: file is not a database"
    assert path.read_bytes() == before


def test_a_damaged_file_is_told_and_left_alone(path: Path) -> None:
    with made(path) as accounts:
        for number in range(100):
            accounts.add(f"이름-{number}", stored())
    data = bytearray(path.read_bytes())
    data[4096:8192] = os.urandom(4096)
    path.write_bytes(data)
    said = refused(lambda: Accounts(path))
    assert str(path) in said
    assert "malformed" in said or "damaged" in said
    assert path.read_bytes() == bytes(data)


def test_a_damaged_account_is_told_without_its_hash(path: Path) -> None:
    with made(path, "앨리스", "밥") as accounts:
        with closing(sqlite3.connect(path)) as other:
            other.execute("UPDATE accounts SET password = 'scrypt:비밀' WHERE name = '앨리스'")
            other.commit()
        assert refused(lambda: accounts.get("앨리스")) == f"the accounts in {path} are damaged, at '앨리스'"
        assert accounts.get("밥") is not None


def test_the_header_tells_what_the_file_is(path: Path) -> None:
    made(path).close()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        assert other.execute("PRAGMA user_version").fetchone() == (FORMAT,)
        assert other.execute("PRAGMA journal_mode").fetchone() == ("delete",)


# Modes and owners.


def test_a_new_file_and_its_folder_are_for_their_user_only_whatever_the_umask(path: Path) -> None:
    before = os.umask(0)
    try:
        made(path, "앨리스").close()
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o666, 0o610])
def test_a_file_that_others_may_read_or_write_is_refused(path: Path, mode: int) -> None:
    with made(path, "앨리스") as accounts:
        path.chmod(mode)
        for work in (lambda: Accounts(path), lambda: accounts.get("앨리스")):
            said = refused(work)
            assert said == f"others may read or write {path}; close it with: chmod 600 {path}"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_a_file_in_a_folder_that_others_may_write_is_refused(path: Path, mode: int) -> None:
    made(path, "앨리스").close()
    path.parent.chmod(mode)
    for create in (False, True):
        said = refused(lambda create=create: Accounts(path, create=create))  # type: ignore[misc]
        step = "choose another folder" if mode == 0o1777 else f"close it with: chmod go-w {path.parent}"
        assert said == f"others may write the folder {path.parent}; {step}"


def test_no_file_is_made_in_a_folder_that_others_may_write(path: Path) -> None:
    path.parent.mkdir()
    path.parent.chmod(0o777)
    refused(lambda: Accounts(path, create=True))
    assert os.listdir(path.parent) == []


def test_what_is_no_plain_file_is_refused(path: Path) -> None:
    path.mkdir(parents=True)
    assert refused(lambda: Accounts(path)) == f"{path} is not a plain file"
    path.rmdir()
    os.mkfifo(path, 0o600)
    assert refused(lambda: Accounts(path, create=True)) == f"{path} is not a plain file"


@root
def test_a_file_of_another_user_is_refused(path: Path) -> None:
    made(path, "앨리스").close()
    os.chown(path, NOBODY, NOBODY)
    assert refused(lambda: Accounts(path)) == f"{path} belongs to another user, user {NOBODY}"


@root
def test_a_file_in_a_folder_of_another_user_is_refused(path: Path) -> None:
    made(path, "앨리스").close()
    os.chown(path.parent, NOBODY, NOBODY)
    assert refused(lambda: Accounts(path)).startswith(f"the folder {path.parent} belongs to another user")


def test_a_link_of_ones_own_is_followed_and_what_it_leads_to_is_checked_too(
    path: Path, tmp_path: Path
) -> None:
    made(path, "앨리스").close()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    assert names(link) == ["앨리스"]
    path.parent.chmod(0o777)
    assert refused(lambda: Accounts(link)).startswith(f"others may write the folder {path.parent}")


@root
def test_a_link_of_another_user_is_refused(path: Path, tmp_path: Path) -> None:
    made(path, "앨리스").close()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    assert refused(lambda: Accounts(link)) == f"{link} belongs to another user, user {NOBODY}"


@root
def test_a_link_of_ones_own_to_a_file_of_another_user_is_refused(path: Path, tmp_path: Path) -> None:
    made(path, "앨리스").close()
    link = tmp_path / "link.db"
    link.symlink_to(path)
    os.chown(path, NOBODY, NOBODY)
    assert refused(lambda: Accounts(link)) == f"{link} belongs to another user, user {NOBODY}"


def test_a_copy_of_the_file_is_as_good(path: Path, tmp_path: Path) -> None:
    made(path, "앨리스").close()
    shutil.copy(path, tmp_path / "copy.db")
    (tmp_path / "copy.db").chmod(0o600)
    assert names(tmp_path / "copy.db") == ["앨리스"]


def test_the_default_place_is_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/자료")
    assert default_path() == Path("/자료/mpchat/accounts.db")


def test_an_account_shows_no_hash(path: Path) -> None:
    with made(path, "앨리스") as accounts:
        account = accounts.known("앨리스")
        assert isinstance(account, Account)
        assert account.stored.encode().split(":")[-1] not in f"{account!r} {account}"
