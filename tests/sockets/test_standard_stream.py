"""A standard stream that stalls, is full or is gone: writers go on, and readers are told what is missing."""

import errno
import fcntl
import os
import re
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from support.waiting import PATIENCE, eventually

from mpchat.ipc import standard_stream
from mpchat.ipc.standard_stream import WAITING, StandardStream

# Seconds within which a program has written to a stream that takes nothing, on a busy machine.
AT_ONCE = 5.0


def note(count: int) -> str:
    return f"- {count} missing -\n"


@contextmanager
def stalled_pipe() -> Iterator[tuple[int, int]]:
    """A pipe that is full: its reading and its writing end."""
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        try:
            while True:
                os.write(writer, b"." * 4096)
        except BlockingIOError:
            os.set_blocking(writer, True)
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def read_until(reader: int, end: str) -> str:
    """Read until the text ends so, without what had made the pipe full."""
    os.set_blocking(reader, False)
    data = bytearray()

    def ended() -> bool:
        with suppress(BlockingIOError):
            data.extend(os.read(reader, 1 << 20))
        return data.endswith(end.encode())

    eventually(ended, f"the text to end with {end!r}")
    return data.decode().lstrip(".")


def test_a_reader_that_stalls_blocks_nobody_and_is_told_later_what_is_missing() -> None:
    with stalled_pipe() as (reader, writer):
        stream = StandardStream(writer, note)
        began = time.monotonic()
        for number in range(3 * WAITING):
            stream.write(f"{number} 안녕하세요\n")
        assert time.monotonic() - began < AT_ONCE
        assert not fcntl.fcntl(writer, fcntl.F_GETFL) & os.O_NONBLOCK, "others write to it too"
        text = read_until(reader, "missing -\n")  # without a further line
        stream.write("again\n")
        text += read_until(reader, "again\n")
    assert text.endswith("missing -\nagain\n")
    # The thread may take the first line when some were dropped already: then there is room for one more.
    following, kept = 0, 0
    for line in text.splitlines()[:-1]:
        if line.startswith("- "):
            following += int(line.split()[1])
        else:
            assert line == f"{following} 안녕하세요"
            following, kept = following + 1, kept + 1
    assert following == 3 * WAITING, "each line is there, or counted where it is missing"
    assert WAITING <= kept <= WAITING + 1
    assert stream.dropped == 3 * WAITING - kept


def test_what_is_dropped_is_counted_and_never_goes_back(tmp_path: Path) -> None:
    with stalled_pipe() as (_, writer):
        stream = StandardStream(writer, note)
        for _ in range(2 * WAITING):
            stream.write("to the pipe\n")
        first = stream.dropped
        assert first >= WAITING - 1
        with open(tmp_path / "log", "wb") as file:
            os.dup2(file.fileno(), writer)
        stream.renew()
        assert stream.dropped == first
        stream.write("to the file\n")
        eventually(lambda: (tmp_path / "log").read_text().endswith("to the file\n"), "the line in the file")
        assert stream.dropped == first
        stream.renew()


def test_lines_that_a_full_disk_does_not_take_are_counted() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        stream = StandardStream(full, note)
        stream.write("one\n")
        stream.write("two\n")
        stream.drain(PATIENCE)
        eventually(lambda: stream.dropped == 2, "two lines to be counted")
        stream.renew()
    finally:
        os.close(full)


def test_lines_of_two_writers_to_one_pipe_stay_whole_when_its_reader_is_slow() -> None:
    """As those of two workers. Each has far more than the pipe takes at once."""
    lines = [f"{who} {number} {'안녕' * 20}\n" for who in "ab" for number in range(WAITING - 1)]
    with stalled_pipe() as (reader, writer):
        streams = {who: StandardStream(writer, note) for who in "ab"}
        for line in lines:
            streams[line[0]].write(line)
        os.set_blocking(reader, False)
        data = bytearray()

        def all_read() -> bool:
            with suppress(BlockingIOError):
                for _ in range(100):
                    data.extend(os.read(reader, 5000))
            return data.count(b"\n") == len(lines)

        eventually(all_read, "all lines")
    read = data.decode(errors="replace").lstrip(".").splitlines(keepends=True)
    assert sorted(read) == sorted(lines)
    assert [each for each in read if each[0] == "a"] == lines[: WAITING - 1]


def test_of_a_long_text_only_the_beginning_waits() -> None:
    with stalled_pipe() as (reader, writer):
        stream = StandardStream(writer, note)
        stream.write("x" * 10_000_000)
        assert len(read_until(reader, "[cut]\n")) < 2 * standard_stream.LONGEST


def test_a_drain_waits_for_a_slow_reader_and_not_for_a_stalled_one() -> None:
    with stalled_pipe() as (reader, writer):
        stream = StandardStream(writer, note)
        stream.write("last\n")
        began = time.monotonic()
        stream.drain(0.05)
        assert time.monotonic() - began < AT_ONCE
        read_until(reader, "last\n")
        stream.write("very last\n")
        stream.drain(PATIENCE)
        assert read_until(reader, "very last\n") == "very last\n"


def test_a_stream_that_follows_its_descriptor_leaves_no_thread_and_no_descriptor(tmp_path: Path) -> None:
    with stalled_pipe() as (reader, writer):
        stream = StandardStream(writer, note)
        stream.write("to the pipe\n")
        before = os.dup(writer)
        with open(tmp_path / "log", "wb") as file:
            os.dup2(file.fileno(), writer)
        stream.renew()
        stream.write("to the file\n")
        eventually(
            lambda: (tmp_path / "log").read_text() == "to the file\n", "the text, without that in the pipe"
        )
        assert read_until(reader, "to the pipe\n") == "to the pipe\n"
        os.close(before)
        eventually(lambda: os.read(reader, 1) == b"", "every writing end to be closed")


def test_a_reader_that_has_gone_and_a_descriptor_that_is_closed_are_no_errors() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = StandardStream(writer, note)
    stream.write("nobody\n")
    stream.drain(PATIENCE)
    os.close(writer)
    StandardStream(writer, note).write("nowhere\n")


def test_lines_that_a_full_disk_did_not_take_are_counted(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with open(tmp_path / "log", "ab") as file:
        stream = StandardStream(file.fileno(), note)
        stream.write("first\n")
        stream.drain(PATIENCE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (6, hard))
        try:
            for number in range(10):
                stream.write(f"{number}\n")
            stream.drain(PATIENCE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        stream.write("last\n")
        stream.write("really\n")
        stream.drain(PATIENCE)
    assert re.fullmatch(r"first\n- 10 missing -\nlast\nreally\n", (tmp_path / "log").read_text())


def opened(errors: list[OSError | None]) -> OSError | None:
    """Wait until a stream has told what became of the file that it was to open."""
    eventually(lambda: errors, "the file to be opened")
    return errors[0]


def test_a_file_that_a_thread_opens_takes_the_text_of_from_then_on(tmp_path: Path) -> None:
    errors = list[OSError | None]()
    with open(tmp_path / "old", "wb") as file:
        stream = StandardStream(file.fileno(), note)
        stream.write("before\n")
        stream.reopen(str(tmp_path / "new"), errors.append)
        stream.write("after\n")
        assert opened(errors) is None
        stream.drain(PATIENCE)
        assert os.path.samestat(os.fstat(file.fileno()), os.stat(tmp_path / "new"))
        stream.renew()
    assert (tmp_path / "old").read_text() == "before\n"
    assert (tmp_path / "new").read_text() == "after\n"


def test_a_file_that_cannot_be_opened_leaves_text_where_it_went_before(tmp_path: Path) -> None:
    errors = list[OSError | None]()
    with open(tmp_path / "old", "wb") as file:
        stream = StandardStream(file.fileno(), note)
        stream.write("before\n")
        stream.reopen(str(tmp_path / "nowhere" / "new"), errors.append)
        stream.write("after\n")
        assert isinstance(opened(errors), FileNotFoundError)
        stream.drain(PATIENCE)
        stream.renew()
    assert (tmp_path / "old").read_text() == "before\nafter\n"


def test_text_keeps_its_order_although_the_thread_of_the_first_comes_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, late, errors = standard_stream._Writer._run, threading.Event(), list[OSError | None]()

    def run_late(writer: standard_stream._Writer) -> None:
        assert writer.opening or late.wait(PATIENCE)
        run(writer)

    monkeypatch.setattr(standard_stream._Writer, "_run", run_late)
    with open(tmp_path / "old", "wb") as file:
        stream = StandardStream(file.fileno(), note)
        stream.write("before\n")
        stream.reopen(str(tmp_path / "nowhere" / "new"), errors.append)
        stream.write("after\n")
        assert isinstance(opened(errors), FileNotFoundError)
        time.sleep(0.05)  # for a thread that does not wait
        late.set()
        stream.drain(PATIENCE)
        stream.renew()
    assert (tmp_path / "old").read_text() == "before\nafter\n"


class HungWrites:
    """A disk of which the first write hangs until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.met, self.released = threading.Event(), threading.Event()
        self.writes: list[bytes] = []
        self._real = os.write
        monkeypatch.setattr(os, "write", self._write)

    def _write(self, descriptor: int, data: bytes) -> int:
        self.writes.append(data)
        first = not self.met.is_set()
        self.met.set()
        assert not first or self.released.wait(PATIENCE)
        return self._real(descriptor, data)


def test_lines_keep_their_order_when_the_same_file_is_opened_anew_while_its_disk_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, errors = tmp_path / "log", list[OSError | None]()
    with open(path, "ab") as file, monkeypatch.context() as patch:
        disk = HungWrites(patch)
        stream = StandardStream(file.fileno(), note)
        for number in range(20):
            stream.write(f"{number}\n")
            if number == 5:
                assert disk.met.wait(PATIENCE)
                stream.reopen(str(path), errors.append)
                assert opened(errors) is None
            if number == 10:
                stream.reopen(str(path), errors.append)
        stream.drain(0.2)  # the threads that need not wait get their turn
        disk.released.set()
        stream.drain(PATIENCE)
        stream.renew()
    assert path.read_text() == "".join(f"{number}\n" for number in range(20))


def test_while_a_file_is_being_opened_it_is_not_opened_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors, tries, released = list[OSError | None](), list[str](), threading.Event()
    real = standard_stream.open_file

    def slow(path: str) -> int:
        tries.append(path)
        assert released.wait(PATIENCE)
        return real(path)

    monkeypatch.setattr(standard_stream, "open_file", slow)
    with open(tmp_path / "old", "wb") as file:
        stream = StandardStream(file.fileno(), note)
        for _ in range(10):
            stream.reopen(str(tmp_path / "new"), errors.append)
            stream.write("after\n")
        released.set()
        stream.drain(PATIENCE)
        stream.renew()
    assert (tries, errors) == ([str(tmp_path / "new")], [None])
    assert (tmp_path / "new").read_text() == "after\n" * 10


def test_lines_that_a_file_did_not_take_are_told_in_the_file_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = list[OSError | None]()

    def full(descriptor: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with open(tmp_path / "old", "wb") as file:
        stream = StandardStream(file.fileno(), note)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            stream.write("one\ntwo\n")
            stream.drain(PATIENCE)
            stream.reopen(str(tmp_path / "new"), errors.append)
            stream.drain(PATIENCE)
        stream.write("last\n")
        stream.drain(PATIENCE)
        stream.renew()
    assert (tmp_path / "new").read_text() == "- 2 missing -\nlast\n"


def test_all_lines_that_wait_are_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy loop leaves the thread a short turn now and then: it would fall behind with a line each."""
    lines = "".join(f"{number}\n" for number in range(WAITING - 1))
    with open(tmp_path / "log", "wb") as file, monkeypatch.context() as patch:
        disk = HungWrites(patch)
        stream = StandardStream(file.fileno(), note)
        stream.write("first\n")
        assert disk.met.wait(PATIENCE)
        for line in lines.splitlines(keepends=True):
            stream.write(line)
        disk.released.set()
        stream.drain(PATIENCE)
        stream.renew()
    assert disk.writes == [b"first\n", lines.encode()]
