"""The archive: what it keeps, what a crash takes, and that nothing wrong with its file stops the server.

The faults are real ones: killed processes, a limit on what a file may take, overwritten and removed files,
locks of others.
"""

import os
import random
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest
from msgspec.structs import replace
from support.archive_writer import MOST_UNSAID, ROOMS, run, text_of
from support.desk import LIMITS, Desk
from support.waiting import eventually

from mpchat.errors import StartError
from mpchat.hub import archive
from mpchat.hub.archive import Archive
from mpchat.hub.effects import Enter, ForgetHistory, RoomNumbered, SayInRoom
from mpchat.hub.entries import RoomClosed
from mpchat.hub.history import Run, size_of
from mpchat.hub.history_file import EARLIER_KEPT, HistoryFile
from mpchat.hub.past import Past
from mpchat.protocol.frames import FrameDecoder

TESTS = Path(__file__).parents[1]
WRITER = [sys.executable, "-m", "support.archive_writer"]
# More messages than any room has.
ALL = 10**9


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "history.db"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed is tried again at once."""
    monkeypatch.setattr(archive, "FIRST_RETRY", 0.05)
    monkeypatch.setattr(archive, "LAST_RETRY", 0.1)


@contextmanager
def opened(
    path: Path, *, messages: int = ALL, age: float = 0, rooms: int = 1000, ends_well: bool = True
) -> Iterator[tuple[Archive, Past]]:
    """An archive that serves; at the end it is closed in order, or, if told so, cannot be."""
    store = Archive(path, messages=messages, age=age, rooms=rooms)
    loaded = store.open()
    try:
        yield store, loaded
    finally:
        closed = store.close(20.0)
    assert closed == ends_well


def load(path: Path, *, messages: int = ALL, age: float = 0) -> Past:
    with opened(path, messages=messages, age=age) as (_, loaded):
        return loaded


def written(store: Archive) -> None:
    eventually(lambda: store.status().state == "ok" and not store.status().waiting, "all to be written")


def failing(store: Archive) -> str:
    """Wait until the writing fails; return why."""
    state = eventually(lambda: store.status().state.removeprefix("ok"), "the writing to fail")
    assert state.startswith("failing: ")
    return state.removeprefix("failing: ")


def numbers(loaded: Past, room: str) -> list[int]:
    """Return the numbers that are kept of a room, after a look at what each of those messages says."""
    found: list[int] = []
    for each in loaded.runs:
        if each.room == room:
            texts = [msgspec.json.decode(frame)["message"] for frame in frames(each)]
            assert texts == [text_of(room, number) for number in range(each.seq, each.last + 1)]
            found += range(each.seq, each.last + 1)
    return found


def frames(each: Run) -> list[bytes]:
    decoder = FrameDecoder()
    found = [frame for frame in decoder.feed(each.frames) if isinstance(frame, bytes)]
    assert len(found) == each.count
    assert not decoder.mid_frame
    return found


def log_lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "mpchat.archive"]


def only_file(path: Path) -> bytes:
    """Return the file's bytes; there is no log beside it."""
    assert not Path(f"{path}-wal").exists()
    return path.read_bytes()


# What is kept.


def test_what_was_saved_is_there_at_the_next_start_in_its_order(path: Path) -> None:
    said = [
        run("로비", 1, 2, at=1000.25, sender="김철수"),
        run("game-7", 1, at=1000.5, sender="127.0.0.1:5123"),
        run("로비", 3, at=1001.0, sender=""),
    ]
    with opened(path) as (store, first):
        assert (first.last, first.floor, first.runs, first.earlier) == ({}, 0, [], {})
        for each in said:
            store.save(each)
        written(store)
        status = store.status()
        assert status == (str(path), "ok", 0, 4, 0)
    again = load(path)
    assert [each.taken for each in again.runs] == pytest.approx([each.taken for each in said], abs=5.0)
    assert [replace(each, taken=0.0) for each in again.runs] == [replace(each, taken=0.0) for each in said]
    assert again.last == {"로비": 3, "game-7": 1}
    assert (again.epoch, again.floor, again.earlier) == (first.epoch, 0, {})


def test_what_waits_when_it_is_closed_is_written(path: Path) -> None:
    with opened(path) as (store, _):
        for number in range(1, 2001):
            store.save(run("로비", number))
    assert numbers(load(path), "로비") == list(range(1, 2001))


def test_a_close_in_the_moment_before_a_write_is_not_missed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the server waits for its history until the next sweep, and takes it for not closed."""
    with opened(path) as (store, _):
        clear = store._wake.clear

        def close_then_clear() -> None:
            store._closing.set()
            store._wake.set()
            clear()

        monkeypatch.setattr(store._wake, "clear", close_then_clear)
        store.save(run("로비", 1))
        store._thread.join(10.0)
        assert not store._thread.is_alive()


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    with opened(path) as (store, _):
        store.save(run("로비", 1))
        written(store)
        for each in path.parent.iterdir():
            assert stat.S_IMODE(each.stat().st_mode) == 0o600, each


def test_an_epoch_is_random_and_fits_a_url(tmp_path: Path) -> None:
    epochs = {load(tmp_path / f"{number}.db").epoch for number in range(5)}
    assert len(epochs) == 5
    assert all(re.fullmatch(r"[A-Za-z0-9_-]{12}", each) for each in epochs)


def test_of_each_room_the_last_messages_are_kept_to_the_number(path: Path) -> None:
    with opened(path, messages=10) as (store, _):
        for seq in range(1, 100, 7):
            store.save(run("로비", seq, 7))
            written(store)
        store.save(run("game-7", 1, 3))
    with closing(sqlite3.connect(path)) as db:  # whole runs, of which none is there for nothing
        assert db.execute("SELECT seq, count FROM runs ORDER BY id").fetchall() == [(92, 7), (99, 7), (1, 3)]
    loaded = load(path, messages=10)
    assert numbers(loaded, "로비") == list(range(96, 106))
    assert numbers(loaded, "game-7") == [1, 2, 3]
    assert numbers(load(path, messages=1), "로비") == [105]
    assert numbers(load(path, messages=1000), "로비") == list(range(92, 106))


def test_limits_that_change_while_it_writes_hold_for_the_file_at_once(path: Path) -> None:
    with opened(path, messages=10) as (store, _):
        store.save(run("로비", 1, 5))
        store.save(run("quiet", 1, 5))
        store.change_limits(messages=100, age=0)
        for seq in range(6, 56):
            store.save(run("로비", seq))
    assert numbers(load(path, messages=100), "로비") == list(range(1, 56))
    with opened(path, messages=100) as (store, _):
        store.change_limits(messages=3, age=0)
        with closing(sqlite3.connect(path)) as db:
            count = "SELECT count(*) FROM runs"
            eventually(lambda: db.execute(count).fetchone() == (4,), "a file with less in it")
    assert numbers(load(path, messages=100), "로비") == [53, 54, 55]
    assert numbers(load(path, messages=3), "quiet") == [3, 4, 5]
    with opened(path) as (store, _):
        store.save(run("old", 1, at=time.time() - 3600))
        written(store)
        store.change_limits(messages=100, age=60)
    assert numbers(load(path), "old") == []


def test_no_more_is_loaded_than_there_is_memory_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(path) as (store, _):
        for seq in range(1, 101):
            for room in ("a", "b"):
                store.save(run(room, seq))
    newest = [run(room, seq) for seq in range(96, 101) for room in ("a", "b")]
    monkeypatch.setattr(archive, "HISTORY_MEMORY", sum(map(size_of, newest)))
    loaded = load(path)
    assert (loaded.last, len(loaded.runs)) == ({"a": 100, "b": 100}, len(newest))
    assert numbers(loaded, "b") == [96, 97, 98, 99, 100]


def test_a_quiet_room_is_loaded_whole_whatever_was_said_in_another_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(path) as (store, _):
        for seq in range(1, 11):
            store.save(run("조용한 방", seq))
        for seq in range(1, 101):
            store.save(run("loud", seq))
    monkeypatch.setattr(archive, "HISTORY_MEMORY", 30 * size_of(run("조용한 방", 10)))
    loaded = load(path)
    assert numbers(loaded, "조용한 방") == list(range(1, 11))
    loud = numbers(loaded, "loud")
    assert 15 <= len(loud) <= 20
    assert loud[-1] == 100


def test_messages_of_a_closed_room_leave_the_file_and_later_ones_stay_with_their_numbers(path: Path) -> None:
    with opened(path) as (store, _):
        store.save(run("방", 1, 5))
        store.save(run("Game", 1, 5))
        written(store)
        store.save(run("game", 6, 5))
        store.save(run("방", 6, 5))
        store.forget("GAME", 10)
        store.save(run("game", 11, 2))
    loaded = load(path)
    assert numbers(loaded, "game") == [11, 12]
    assert numbers(loaded, "Game") == []
    assert numbers(loaded, "방") == list(range(1, 11))
    with opened(path) as (store, _):
        store.forget("game", 12)
    loaded = load(path)
    assert numbers(loaded, "game") == []
    assert (loaded.last["game"], loaded.epoch) == (12, load(path).epoch)


def test_messages_of_a_closed_room_leave_the_file_once_it_can_be_written_again(path: Path) -> None:
    with opened(path) as (store, _):
        store.save(run("방", 1, 5))
        written(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            store.forget("방", 5)
            eventually(lambda: store.status().state != "ok", "the write to fail")
            other.execute("ROLLBACK")
        eventually(lambda: store.status().state == "ok", "the write to be tried again")
    assert numbers(load(path), "방") == []


def test_messages_of_a_closed_room_are_removed_by_its_highest_number_however_it_is_spelled(
    path: Path,
) -> None:
    load(path)  # makes the file
    with closing(HistoryFile(path)) as file:
        runs = [run("r", 1), run("R", 2), run("r", 3)]
        file.write(runs, {"r": (3, 1.0), "R": (2, 1.0)}, 100)
        file.forget({"r": 3, "R": 2})
    assert not load(path).runs


class Kept:
    """A hub's state, and the archive that its effects are kept in."""

    def __init__(self, path: Path) -> None:
        self.archive = Archive(path, messages=1000, age=0)
        self.past = self.archive.open()
        kept = LIMITS.kept._replace(messages=1000)
        self.desk = Desk(LIMITS._replace(kept=kept), past=self.past)

    def close(self) -> None:
        for effect in self.desk.effects:
            if isinstance(effect, SayInRoom):
                self.archive.save(effect.run)
            elif isinstance(effect, ForgetHistory):
                self.archive.forget(effect.room, effect.last)
            elif isinstance(effect, RoomNumbered):
                self.archive.number(*effect)
        assert self.archive.close(20)


@pytest.mark.parametrize("said_before", [0, 5])
def test_a_number_that_a_member_was_told_is_not_given_again_after_a_restart(
    path: Path, said_before: int
) -> None:
    """A new room's numbers begin after those of a forgotten one. Nothing need be said before the stop."""
    first = Kept(path)
    if said_before:
        first.desk.join(9, "eve", room="x")
        first.desk.post(9, *["old"] * said_before)
    first.desk.join(1, "alice", room="r")
    first.desk.post(1, *["m"] * 100)
    for name in ("r", "x") if said_before else ("r",):
        room = first.desk.state.rooms.get(name)
        assert room is not None
        first.desk.apply(RoomClosed(1.0, 1.0, room.number))
    welcome = first.desk.join(2, "carol", room="x")["welcome"]
    assert welcome["seq"] == 100
    first.close()
    second = Kept(path)
    assert second.past.epoch == first.past.epoch
    second.desk.join(3, "dave", room="x")
    second.desk.post(3, *["new"] * 150)
    answer = second.desk.join(4, "carol", room="x", after=100, epoch=welcome["epoch"])["welcome"]
    entered = [each for each in second.desk.effects if isinstance(each, Enter)][-1]
    assert (answer["recovered"], entered.first, entered.last) == (True, 101, 250)
    second.close()


def test_what_is_too_old_is_not_loaded_and_the_numbers_go_on(path: Path) -> None:
    with opened(path, age=60) as (store, first):
        store.save(run("로비", 1, 5, at=time.time() - 3600))
        store.save(run("game-7", 1, at=time.time() - 3600))
        store.save(run("game-7", 2))
    loaded = load(path, age=60)
    assert [each.seq for each in loaded.runs] == [2]
    assert loaded.last == {"로비": 5, "game-7": 2}
    assert loaded.epoch == first.epoch


def test_what_gets_too_old_leaves_the_file_though_nobody_says_anything(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SWEEP", 0.05)
    with opened(path, age=0.5) as (store, _):
        store.save(run("로비", 1, 3))
        written(store)
        with closing(sqlite3.connect(path)) as db:
            eventually(lambda: db.execute("SELECT count(*) FROM runs").fetchone() == (0,), "an empty file")
    assert load(path).last == {"로비": 3}


class SteppedClock:
    """The wall clock of this process; ``ahead`` is by how many seconds it has been stepped."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead = 0.0
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + self.ahead)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SteppedClock:
    return SteppedClock(monkeypatch)


DAY = 86_400.0


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_step_of_the_clock_takes_no_message_out_of_the_file(
    path: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    monkeypatch.setattr(archive, "SWEEP", 0.0)  # with every write
    with opened(path, age=3600) as (store, _):
        store.save(run("로비", 1, 3))
        written(store)
        clock.ahead = step
        for seq in (4, 5):
            store.save(run("로비", seq))
            written(store)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT seq FROM runs ORDER BY id").fetchall() == [(1,), (4,), (5,)]


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_after_a_step_of_the_clock_messages_leave_the_file_in_time(
    path: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    monkeypatch.setattr(archive, "SWEEP", 0.05)
    with opened(path, age=0.5) as (store, _):
        store.save(run("로비", 1, 3))
        written(store)
        clock.ahead = step
        store.save(run("로비", 4))
        written(store)
        with closing(sqlite3.connect(path)) as db:
            eventually(lambda: db.execute("SELECT count(*) FROM runs").fetchone() == (0,), "an empty file")


def test_a_message_from_the_future_is_loaded_as_of_now_and_leaves_the_file_in_time(
    path: Path, clock: SteppedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SWEEP", 0.05)
    clock.ahead = DAY
    with opened(path, age=1.0) as (store, _):
        store.save(run("로비", 1, 3))
    clock.ahead = 0.0
    with opened(path, age=1.0) as (store, loaded):
        assert numbers(loaded, "로비") == [1, 2, 3]
        assert loaded.runs[0].taken == pytest.approx(time.monotonic(), abs=5.0)
        with closing(sqlite3.connect(path)) as db:
            eventually(lambda: db.execute("SELECT count(*) FROM runs").fetchone() == (0,), "an empty file")


def test_of_too_many_rooms_the_last_used_are_remembered_and_no_number_comes_twice(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SWEEP", 0.01)
    with opened(path, rooms=3) as (store, first):
        for number, room in enumerate(("a", "b", "c", "d", "e")):
            store.save(run(room, 1, 10 - number, at=1000.0 + number))
            written(store)
        with closing(sqlite3.connect(path)) as db:
            eventually(lambda: db.execute("SELECT count(*) FROM rooms").fetchone() == (3,), "three rooms")
    loaded = load(path)
    assert loaded.last == {"c": 8, "d": 7, "e": 6}
    assert {each.room for each in loaded.runs} == {"c", "d", "e"}
    assert loaded.floor == 10
    assert loaded.epoch == first.epoch


def test_a_room_that_is_used_again_is_remembered_for_longer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SWEEP", 0.01)
    with opened(path, rooms=2) as (store, _):
        for seq, room, at in ((1, "a", 1000.0), (1, "b", 1001.0), (2, "a", 1002.0), (1, "c", 1003.0)):
            store.save(run(room, seq, at=at))
            written(store)
        with closing(sqlite3.connect(path)) as db:
            eventually(lambda: db.execute("SELECT count(*) FROM rooms").fetchone() == (2,), "two rooms")
    loaded = load(path)
    assert loaded.last == {"a": 2, "c": 1}
    assert numbers(loaded, "a") == [1, 2]


# Crashes, and what numbers mean afterwards.


def killed_writer(path: Path, lines: int) -> tuple[str, dict[str, int], int]:
    """Let a process write and kill it; return its epoch, how many messages it gave, how many were written."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.archive_writer", "write", path],
        cwd=TESTS,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout as output:
        epoch = output.readline().strip()
        said = [output.readline() for _ in range(lines)]
        process.kill()
        said += [line for line in output if line.endswith("\n")]
    process.wait(10.0)
    *given, saved = map(int, said[-1].split())
    # What it gave after the last line is not known, but that is no more than this.
    return epoch, {room: last + MOST_UNSAID for room, last in zip(ROOMS, given, strict=True)}, saved


def test_kill_9_at_any_moment_takes_the_last_messages_at_most(path: Path) -> None:
    dice = random.Random(5)
    epochs: dict[str, dict[str, int]] = {}
    for _ in range(6):
        epoch, given, saved = killed_writer(path, dice.randrange(1, 60))
        loaded = load(path)
        for room in ROOMS:
            last = loaded.last.get(room, 0)
            assert last <= given[room]
            assert numbers(loaded, room) == list(range(1, last + 1))
            assert loaded.knows(epoch, room, last)
            assert not loaded.knows(epoch, room, last + 1)
        assert sum(loaded.last.values()) >= saved
        epochs[epoch] = dict(loaded.last)
        assert loaded.epoch not in epochs
        assert loaded.earlier == epochs
    assert loaded.runs


def test_after_a_crash_a_number_that_the_file_lacks_is_given_in_another_epoch(path: Path) -> None:
    before = Archive(path, messages=ALL, age=0)
    seen = before.open()
    before.save(run("로비", 1, 5))
    written(before)
    copy = path.with_name("crashed.db")  # what the file would be if it all ended now
    shutil.copy(path, copy)
    shutil.copy(f"{path}-wal", f"{copy}-wal")
    before.save(run("로비", 6, 5))
    assert before.close(20.0)

    after = load(copy)
    assert numbers(after, "로비") == [1, 2, 3, 4, 5]
    assert after.epoch != seen.epoch
    assert [after.knows(seen.epoch, "로비", number) for number in (0, 5, 6, 10)] == [True, True, False, False]
    assert not after.knows(seen.epoch, "another", 1)
    assert after.knows(seen.epoch, "another", 0)
    assert not after.knows("unheard", "로비", 0)
    assert after.knows(after.epoch, "로비", 11)
    assert load(copy).epoch == after.epoch  # it was closed in order


def test_epochs_before_too_many_crashes_are_forgotten(path: Path) -> None:
    epochs = []
    for _ in range(EARLIER_KEPT + 2):
        with opened(path) as (_, loaded):
            epochs.append(loaded.epoch)
        with closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE numbering SET clean = 0")
    assert list(load(path).earlier) == epochs[-EARLIER_KEPT:]


def test_a_run_is_not_doubled_by_a_commit_that_was_said_to_have_failed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = HistoryFile.write
    faults = [sqlite3.OperationalError("disk I/O error")]

    def write_and_fail(self: HistoryFile, *given: object) -> None:
        write(self, *given)  # type: ignore[arg-type]
        if faults:
            raise faults.pop()

    monkeypatch.setattr(HistoryFile, "write", write_and_fail)
    with opened(path) as (store, first):
        store.save(run("로비", 1, 5))
        eventually(lambda: not faults, "the fault")
        store.save(run("로비", 6))
    loaded = load(path)
    assert numbers(loaded, "로비") == [1, 2, 3, 4, 5, 6]
    assert loaded.epoch == first.epoch


def test_a_number_given_while_a_write_fails_is_the_last_one_in_the_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = HistoryFile.write
    later = [run("로비", 6, 4), run("로비", 4, 2)]

    def fail_while_the_room_goes_on(self: HistoryFile, *given: object) -> None:
        if later:
            store.save(later.pop())
            raise sqlite3.OperationalError("disk I/O error")
        write(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(HistoryFile, "write", fail_while_the_room_goes_on)
    with opened(path) as (store, _):
        store.save(run("로비", 1, 3))
        eventually(lambda: not later, "both faults")
        written(store)
    loaded = load(path)
    assert loaded.last == {"로비": 9}
    assert numbers(loaded, "로비") == list(range(1, 10))


# A full disk: no file may grow. SQLite's write fails as it does there, without a right to mount anything.


def on_a_full_disk(path: Path) -> tuple[list[str], list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "support.archive_writer", "full", path],
        cwd=TESTS,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def test_on_a_full_disk_messages_wait_and_are_written_when_there_is_room(path: Path) -> None:
    (_, state, end), log = on_a_full_disk(path)
    assert state.startswith("failing: disk I/O error") or state == "failing: database or disk is full"
    number, dropped, closed = end.split()
    assert (dropped, closed) == ("0", "True")
    assert numbers(load(path), "로비") == list(range(1, int(number) + 1))
    # One line when it begins to fail, and one when that is over; a small batch may still find room meanwhile.
    failures, ends = log[0::2], log[1::2]
    assert len(failures) == len(ends) < 5, log
    assert all(line.startswith("history not written, failing: ") for line in failures)
    assert all(line.startswith("history written again, 0 messages dropped so far: ") for line in ends)


def test_started_on_a_full_disk_it_has_the_history_and_writes_later(path: Path) -> None:
    with opened(path) as (store, before):
        store.save(run("로비", 1, 50))
    (start, state, end), _ = on_a_full_disk(path)
    epoch, last, kept = start.split()
    assert (last, kept) == ("50", "50")
    assert epoch != before.epoch  # the file could not be told that its epoch goes on
    assert state.startswith("failing: ")
    loaded = load(path)
    assert numbers(loaded, "로비") == list(range(1, int(end.split()[0]) + 1))
    assert loaded.epoch == epoch
    assert loaded.knows(before.epoch, "로비", 50)
    assert not loaded.knows(before.epoch, "로비", 51)


# Files that cannot be used. None of them may be changed.


def text_file(path: Path) -> None:
    path.write_text("메모: 우유를 살 것\n" * 1000)


def another_program_s(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")


def another_program_s_with_an_id(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA application_id = 7")


def of_another_format(path: Path) -> None:
    load(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 99")


def without_its_numbers(path: Path) -> None:
    load(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("INSERT INTO earlier (epoch, last) VALUES ('x', '[1, 2]')")


def overwritten(path: Path) -> None:
    """Every page but the first is garbage."""
    with opened(path) as (store, _):
        store.save(run("로비", 1, 1000))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(size - 4096))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (text_file, "file is not a database; move it away and a new one is begun"),
        (another_program_s, "it is another program's database; choose another file"),
        (another_program_s_with_an_id, "it is another program's database; choose another file"),
        (of_another_format, "its format is 99 and this mpchat writes 1; choose another file"),
        (without_its_numbers, "its numbers are damaged; move it away and a new one is begun"),
        (overwritten, "database disk image is malformed; move it away and a new one is begun"),
    ],
)
def test_a_file_that_is_broken_or_not_ours_is_left_alone_until_it_is_moved_away(
    path: Path, spoil: Callable[[Path], None], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(path)
    before = only_file(path)
    with opened(path) as (store, loaded):
        assert (loaded.last, loaded.runs, loaded.floor) == ({}, [], 0)
        assert store.status().state == f"failing: {reason}"
        store.save(run("로비", 1, 5))
        eventually(lambda: store.status().waiting, "what cannot be written to wait")
        assert only_file(path) == before
        path.rename(path.with_suffix(".old"))
        written(store)
        store.save(run("로비", 6))
    assert path.with_suffix(".old").read_bytes() == before
    again = load(path)
    assert numbers(again, "로비") == [1, 2, 3, 4, 5, 6]
    assert again.epoch == loaded.epoch
    assert log_lines(caplog) == [
        f"history not written, failing: {reason}: {path}",
        f"history written again, 0 messages dropped so far: {path}",
    ]


def test_a_broken_file_that_stays_is_left_alone_and_closing_says_that_not_all_is_written(path: Path) -> None:
    text_file(path)
    before = only_file(path)
    with opened(path, ends_well=False) as (store, _):
        store.save(run("로비", 1))
    assert only_file(path) == before


def test_a_damaged_message_is_left_out_and_the_numbers_say_so(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(path) as (store, before):
        for number in range(1, 10):
            store.save(run("로비", number))
    content = only_file(path)
    assert content.count(text_of("로비", 5).encode()) == 1
    path.write_bytes(content.replace(text_of("로비", 5).encode(), text_of("로비", 6).encode()))
    with opened(path) as (store, after):
        assert numbers(after, "로비") == [1, 2, 3, 4, 6, 7, 8, 9]
        assert after.last == {"로비": 9}
        # What else is damaged nobody knows, so nothing of the old numbering is relied on.
        assert after.epoch != before.epoch
        assert after.earlier == {}
        store.save(run("로비", 10))
    assert numbers(load(path), "로비") == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert f"history damaged, 1 runs of messages are left out: {path}" in log_lines(caplog)


def test_a_folder_that_is_missing_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "later" / "history.db"
    with opened(path) as (store, loaded):
        assert store.status().state == "failing: No such file or directory"
        store.save(run("로비", 1))
        path.parent.mkdir()
    assert load(path).epoch == loaded.epoch


def test_a_path_that_is_a_folder_is_a_reason(path: Path) -> None:
    path.mkdir()
    with opened(path, ends_well=False) as (store, _):
        assert store.status().state == "failing: unable to open database file"


def test_a_history_that_comes_back_while_the_server_runs_is_not_mixed_with_its_own(path: Path) -> None:
    with opened(path) as (store, _):
        store.save(run("로비", 1, 5))
    away = path.with_suffix(".away")
    path.rename(away)
    text_file(path)
    with opened(path, ends_well=False) as (store, _):
        store.save(run("로비", 1, 3))
        failing(store)
        away.rename(path)
        eventually(lambda: "another history" in store.status().state, "the other history to be noticed")
    assert numbers(load(path), "로비") == [1, 2, 3, 4, 5]


# While it runs.


def test_a_file_that_is_removed_is_begun_anew(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with opened(path) as (store, before):
        store.save(run("로비", 1, 5))
        store.save(run("game-7", 1, 5))
        written(store)
        path.unlink()
        store.save(run("로비", 6, 5))
        written(store)
        assert path.exists()
    loaded = load(path)
    assert numbers(loaded, "로비") == [6, 7, 8, 9, 10]
    assert loaded.last == {"로비": 10}
    # It does not know the other room's numbers, so they mean something else from now on.
    assert loaded.epoch != before.epoch
    assert loaded.knows(before.epoch, "로비", 10)
    assert not loaded.knows(before.epoch, "game-7", 5)
    assert log_lines(caplog) == [f"history begun anew, its file was removed: {path}"]


def test_a_log_that_is_removed_takes_nothing_with_it(path: Path) -> None:
    with opened(path) as (store, before):
        store.save(run("로비", 1, 5))
        written(store)
        os.unlink(f"{path}-wal")
        store.save(run("로비", 6, 5))
    loaded = load(path)
    assert numbers(loaded, "로비") == list(range(1, 11))
    assert loaded.epoch == before.epoch


def test_a_folder_that_is_removed_is_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "history.db"
    path.parent.mkdir()
    with opened(path) as (store, _):
        store.save(run("로비", 1))
        written(store)
        shutil.rmtree(path.parent)
        store.save(run("로비", 2))
        assert failing(store) == "No such file or directory"
        path.parent.mkdir()
        written(store)
        store.save(run("로비", 3))
    assert numbers(load(path), "로비") == [2, 3]


def test_a_file_that_is_overwritten_while_it_is_used_is_noticed_at_the_latest_at_the_next_start(
    path: Path,
) -> None:
    store = Archive(path, messages=ALL, age=0)
    store.open()
    for seq in range(1, 100_001, 100):
        store.save(run("로비", seq, 100))
    written(store)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    store.save(run("로비", 100_001))
    store.close(20.0)  # what SQLite has in memory may be enough for that, and may not
    with opened(path, ends_well=False) as (store, loaded):
        assert "move it away" in failing(store)
        assert loaded.runs == []


def test_somebody_s_lock_is_waited_for_and_the_queue_has_a_limit(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 1 << 20
    monkeypatch.setattr(archive, "QUEUE_LIMIT", limit)
    with opened(path) as (store, first):
        store.save(run("로비", 1, 10))
        written(store)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            number = 11
            for _ in range(2 * limit // len(run("로비", 1, 100).frames)):
                store.save(run("로비", number, 100))
                number += 100
                assert store.status().waiting <= limit
            assert failing(store) == "database is locked"
            dropped = store.status().dropped
        written(store)
        assert store.status().saved == number - 1 - dropped
    loaded = load(path)
    kept = numbers(loaded, "로비")
    # The newest are there, and between them and the oldest is a hole of what was dropped.
    assert kept == [*range(1, 11), *range(11 + dropped, number)]
    assert dropped
    assert loaded.last == {"로비": number - 1}
    assert loaded.epoch == first.epoch
    assert log_lines(caplog) == [
        f"history not written, failing: database is locked: {path}",
        f"history written again, {dropped} messages dropped so far: {path}",
    ]


def test_what_is_dropped_while_it_is_being_written_is_not_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = HistoryFile.write
    later = [run("로비", number) for number in range(4, 7)]

    def write_while_the_queue_overflows(self: HistoryFile, *given: object) -> None:
        while later:
            store.save(later.pop(0))
        write(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(HistoryFile, "write", write_while_the_queue_overflows)
    monkeypatch.setattr(archive, "QUEUE_LIMIT", 4 * size_of(run("로비", 1)))
    with opened(path) as (store, _):
        for number in range(1, 4):
            store.save(run("로비", number))
        eventually(lambda: not later, "a write")
        written(store)
        assert (store.status().saved, store.status().dropped) == (6, 0)
    assert numbers(load(path), "로비") == [1, 2, 3, 4, 5, 6]


def test_the_floor_under_forgotten_rooms_stays_when_the_file_is_opened_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "SWEEP", 0.01)
    with opened(path, rooms=1) as (store, before):
        store.save(run("a", 1, 10, at=1000.0))
        written(store)
        store.save(run("b", 1, 3, at=1001.0))
        written(store)
        with closing(sqlite3.connect(path)) as db:
            eventually(lambda: db.execute("SELECT floor FROM numbering").fetchone() == (10,), "a floor of 10")
        os.unlink(f"{path}-wal")  # so it is opened again
        store.save(run("b", 4, at=1002.0))
        written(store)
    after = load(path)
    assert (after.floor, after.last, after.epoch) == (10, {"b": 4}, before.epoch)


def test_the_number_of_a_dropped_message_is_not_given_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "QUEUE_LIMIT", 100)  # bytes: nothing fits
    with opened(path) as (store, first):
        store.save(run("로비", 1, 10))
    assert store.status().dropped == 10
    loaded = load(path)
    assert loaded.runs == []
    assert loaded.last == {"로비": 10}
    assert loaded.epoch == first.epoch


def test_numbers_of_more_rooms_than_can_be_remembered_are_not_given_again(path: Path) -> None:
    with opened(path, rooms=2) as (store, first):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            for room in ("a", "b", "c"):
                store.save(run(room, 1, 10))
            failing(store)
        written(store)
    assert load(path).epoch != first.epoch


def test_closing_does_not_wait_longer_than_it_may(path: Path) -> None:
    with opened(path, ends_well=True) as (store, _):
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            store.save(run("로비", 1))
            assert not store.close(0.1)
        # The thread has its last try still before it.


def test_a_bug_does_not_pass_for_a_history_that_is_written(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stumble(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(HistoryFile, "write", stumble)
    with opened(path, ends_well=False) as (store, _):
        store.save(run("로비", 1))
        assert failing(store) == "a bug, see the log; nothing more is written"
    load(path)  # nobody has it open or locked any more
    assert log_lines(caplog) == [f"history not written any more: {path}"]


# Two servers, one file.


def test_a_second_server_is_told_who_uses_the_file(path: Path) -> None:
    with opened(path) as (store, _):
        store.save(run("로비", 1))
        link = path.with_name("link.db")
        link.symlink_to(path)
        for name in (path, link):
            with pytest.raises(StartError, match=f"is used by another server, pid {os.getpid()}; stop that"):
                Archive(name, messages=1, age=0).open()
        store.save(run("로비", 2))
    assert numbers(load(path), "로비") == [1, 2]


def test_a_killed_server_s_file_is_free_at_once(path: Path) -> None:
    epoch, _, _ = killed_writer(path, 1)
    assert epoch in load(path).earlier


def test_a_person_may_read_the_file_while_it_is_written(path: Path) -> None:
    with opened(path) as (store, _):
        store.save(run("로비", 1))
        written(store)
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT sender, count FROM runs").fetchall() == [("철수", 1)]
            store.save(run("로비", 2))
            written(store)


def test_no_descriptor_is_left(path: Path) -> None:
    with opened(path) as (store, _):
        store.save(run("로비", 1))
    assert [each.path for each in psutil.Process().open_files() if str(path) in each.path] == []
