"""The file of bans and mutes: when it is read and written, what is waited for, and what is logged."""

import errno
import fcntl
import logging
import os
import re
import time
from functools import partial
from pathlib import Path

import pytest

from mpchat.errors import MpchatError, StartError
from mpchat.hub import moderation_file
from mpchat.hub.moderation import BANS, MUTES, Moderation, Rule
from mpchat.hub.moderation_file import ModerationFile, read_moderation
from mpchat.instance.trusted_file import check_own_file

TROLL = Rule("troll", None)


def with_rule(table: str = BANS) -> Moderation:
    rules = Moderation()
    rules.put(table, "troll", TROLL)
    return rules


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "moderation.json"


def test_a_file_that_has_not_changed_is_neither_read_nor_written(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, mine = ModerationFile(path), with_rule()
    file.change({(BANS, "troll"): TROLL}, mine)
    assert file.look({}, mine) == mine
    before = path.stat()
    assert file.look({}, mine) is None
    assert path.stat() == before
    assert caplog.records == []


@pytest.mark.parametrize("table", [BANS, MUTES])
def test_a_file_that_is_gone_is_written_again_and_read_no_more(
    path: Path, caplog: pytest.LogCaptureFixture, table: str
) -> None:
    file, mine = ModerationFile(path), with_rule(table)
    file.change({(table, "troll"): TROLL}, mine)
    path.unlink()
    assert file.look({}, mine) == mine == read_moderation(path)
    assert file.look({}, mine) is None
    assert caplog.messages == [f"written again, with all bans and mutes: {path}"]


def test_without_rules_no_file_is_made(path: Path) -> None:
    assert ModerationFile(path).look({}, Moderation()) is None
    assert not path.exists()


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
    caplog.clear()
    return found


def test_why_the_file_cannot_be_read_is_logged_once_until_it_could_be(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file, mine = ModerationFile(path), with_rule()
    path.write_text("{")
    assert file.look({}, mine) is None
    (first,) = complaints(caplog)
    assert first.startswith("bans neither read nor written, those of before hold, Input data was truncated")
    assert first.endswith(f": {path}")
    path.write_text("{ ")
    assert file.look({}, mine) is None
    assert complaints(caplog) == []
    path.write_text("{}")
    assert file.look({}, mine) == Moderation()
    path.write_text("{")
    assert file.look({}, mine) is None
    assert complaints(caplog) == [first]
    path.unlink()
    file.change({}, mine)  # could be read and written
    path.write_text("{")
    assert file.look({}, mine) is None
    assert complaints(caplog) == [first]


def test_a_file_that_others_may_write_is_neither_followed_nor_written(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check = partial(check_own_file, path, public=True)
    path.parent.chmod(0o700)
    file, mine = ModerationFile(path, check), with_rule()
    file.change({(BANS, "troll"): TROLL}, mine)
    assert file.look({}, mine) == mine
    path.chmod(0o644)
    assert read_moderation(path, check) == mine
    for _ in range(2):  # it may be mended and be spoilt again
        path.chmod(0o666)
        why = f"others may write {path}; close it with: chmod go-w {path}"
        with pytest.raises(StartError, match=re.escape(f"bans: {why}")):
            read_moderation(path, check)
        path.write_text("{}")
        assert file.look({}, mine) is None
        assert file.look({}, mine) is None
        (said,) = complaints(caplog)
        assert said == f"bans neither read nor written, those of before hold, {why}: {path}"
        with pytest.raises(MpchatError, match=re.escape(why)):
            file.change({(MUTES, "troll"): TROLL}, mine)
        assert path.read_text() == "{}"
        path.unlink()
        path.parent.chmod(0o777)
        assert file.look({}, mine) is None
        assert f"others may write the folder {path.parent}" in complaints(caplog)[0]
        assert not path.exists()
        path.parent.chmod(0o700)
        assert file.look({}, mine) == mine
        assert complaints(caplog) == []
        path.chmod(0o666)
        assert file.look({}, mine) is None
        assert len(complaints(caplog)) == 1
        path.chmod(0o600)  # as it was, so that nothing is read
        assert file.look({}, mine) is None


def test_the_reason_is_that_of_the_system_or_of_the_file_s_content(path: Path) -> None:
    file, mine = ModerationFile(path), with_rule()
    path.write_text("{")
    with pytest.raises(MpchatError, match=r"could not be written to .*\.json: Input data was truncated$"):
        file.change({}, mine)
    path.unlink()
    path.mkdir()
    with pytest.raises(MpchatError, match=r"could not be written to .*\.json: Is a directory$"):
        file.change({}, mine)


def test_a_rule_that_has_ended_leaves_the_file_with_the_next_change(path: Path) -> None:
    over = Moderation()
    over.put(BANS, "over", Rule("over", time.time() - 1))
    ModerationFile(path).change({}, over)
    assert list(read_moderation(path).bans) == ["over"]
    ModerationFile(path).change({(BANS, "troll"): TROLL}, with_rule())
    assert list(read_moderation(path).bans) == ["troll"]


def test_a_change_waits_for_the_lock_and_a_look_does_not(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, mine = ModerationFile(path), with_rule()
    folder = os.open(path.parent, os.O_RDONLY)
    slept: list[float] = []

    def let_go(seconds: float) -> None:
        slept.append(seconds)
        fcntl.flock(folder, fcntl.LOCK_UN)

    monkeypatch.setattr(moderation_file, "LOCK_PATIENCE", 10.0)
    monkeypatch.setattr(time, "sleep", let_go)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        assert file.look({}, mine) is None
        assert slept == []
        file.change({}, mine)
        assert len(slept) == 1
    finally:
        os.close(folder)
    assert read_moderation(path) == mine


def test_all_of_the_file_is_on_the_disk_before_it_takes_its_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        real_sync(descriptor)
        done.append(f"{os.fstat(descriptor).st_size} bytes")

    def replace(fresh: Path, place: Path) -> None:
        real_replace(fresh, place)
        done.append("in its place")

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    ModerationFile(path).change({}, with_rule())
    assert done == [f"{path.stat().st_size} bytes", "in its place"]


def test_a_file_that_cannot_take_its_place_is_not_left_beside_it(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fresh: Path, place: Path) -> None:
        assert fresh.exists()
        raise OSError(errno.EIO, "Input/output error")

    ModerationFile(path).change({}, with_rule())
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(MpchatError, match=r"Input/output error$"):
        ModerationFile(path).change({}, Moderation())
    assert os.listdir(path.parent) == [path.name]
    assert read_moderation(path) == with_rule()
