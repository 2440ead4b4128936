"""A standard stream: what is written and waited for, and what is counted where nothing could be written."""

import errno
import io
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support.waiting import PATIENCE, eventually

from mpchat.ipc.standard_stream import LONGEST, StandardStream


def note(count: int) -> str:
    return f"- {count} missing -\n"


def finish(stream: StandardStream) -> None:
    """Wait until all text is written, and end the thread."""
    stream.drain(PATIENCE)
    stream.renew()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def descriptor(path: Path) -> Iterator[int]:
    with open(path, "wb") as file:
        yield file.fileno()


@pytest.mark.parametrize(
    ("encoding", "written"), [("ascii", b"\\xe9\n"), ("latin-1", b"\xe9\n"), ("utf-8", "é\n".encode())]
)
def test_text_is_in_the_encoding_of_standard_error(
    path: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch, encoding: str, written: bytes
) -> None:
    monkeypatch.setattr(sys, "__stderr__", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    stream = StandardStream(descriptor, note)
    assert stream.write("é\n") == 2
    finish(stream)
    assert path.read_bytes() == written


def test_without_a_standard_error_text_is_in_utf_8(
    path: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "__stderr__", None)
    stream = StandardStream(descriptor, note)
    stream.write("안녕\n")
    finish(stream)
    assert path.read_text("utf-8") == "안녕\n"


def test_half_a_surrogate_pair_is_escaped(path: Path, descriptor: int) -> None:
    stream = StandardStream(descriptor, note)
    stream.write("\udcff\n")
    finish(stream)
    assert path.read_bytes() == b"\\udcff\n"


def test_it_can_be_written_to_and_says_where(descriptor: int) -> None:
    stream = StandardStream(descriptor, note)
    assert stream.fileno() == descriptor
    assert stream.writable()
    stream.drain(0.0)  # nothing waits, and nothing was begun for it


def test_each_line_that_a_file_does_not_take_is_counted_once(
    path: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = StandardStream(descriptor, note)

    def full(number: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        for text in ("one\n", "two\nthree\n", "half a ", "line\n"):
            assert stream.write(text) == len(text)
        stream.drain(PATIENCE)
    stream.write("last\n")
    stream.write("really\n")
    finish(stream)
    assert path.read_text() == "- 4 missing -\nlast\nreally\n"


def test_after_the_beginning_of_a_line_the_next_one_begins_a_line_of_its_own(
    path: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.write, [len("one\nthe begin")]
    stream = StandardStream(descriptor, note)

    def filling(number: int, data: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = real(number, data[: room[0]])
        room[0] -= taken
        return taken

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", filling)
        for text in ("one\n", "the beginning\n", "nothing\n"):
            stream.write(text)
            stream.drain(PATIENCE)
    stream.write("last\n")
    stream.write("really\n")
    finish(stream)
    assert path.read_text() == "one\nthe begin\n- 2 missing -\nlast\nreally\n"


def test_text_of_which_a_file_takes_a_part_at_a_time_is_written_whole(
    path: Path, descriptor: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda number, data: real(number, data[:3]))
    stream = StandardStream(descriptor, note)
    stream.write("more than three\n")
    finish(stream)
    assert path.read_text() == "more than three\n"


@pytest.mark.parametrize("text", ["one\n", "one\ntwo\n"])
def test_without_a_descriptor_for_a_thread_lines_are_counted(
    path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    reader, writer = os.pipe()

    def none_free(number: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    stream = StandardStream(writer, note)
    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", none_free)
        stream.write(text)
        stream.write(text)
    with open(path, "wb") as file:
        os.dup2(file.fileno(), writer)
    os.close(reader)
    stream.write("last\n")
    finish(stream)
    os.close(writer)
    assert path.read_text() == f"- {2 * text.count(chr(10))} missing -\nlast\n"


def test_a_thread_that_cannot_be_begun_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    copies: list[int] = []
    real = os.dup

    def dup(number: int) -> int:
        copies.append(real(number))
        return copies[-1]

    def no_room(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "dup", dup)
    monkeypatch.setattr(threading.Thread, "start", no_room)
    assert StandardStream(writer, note).write("one\n") == 4
    assert len(copies) == 1
    with pytest.raises(OSError):
        os.fstat(copies[0])
    os.close(reader)
    os.close(writer)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_after_a_drain_all_text_is_written(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = pipe
    real = os.write

    def slow(number: int, data: bytes) -> int:
        time.sleep(0.05)
        return real(number, data)

    monkeypatch.setattr(os, "write", slow)
    stream = StandardStream(writer, note)
    stream.write("to the pipe\n")
    stream.drain(threading.TIMEOUT_MAX)
    assert os.read(reader, 100) == b"to the pipe\n"
    stream.renew()


def test_the_thread_keeps_no_process_from_its_end(pipe: tuple[int, int]) -> None:
    stream = StandardStream(pipe[1], note)
    before = set(threading.enumerate())
    stream.write("one\n")
    stream.write("two\n")
    assert [each.daemon for each in threading.enumerate() if each not in before] == [True]
    stream.renew()


@pytest.mark.parametrize(("length", "cut"), [(LONGEST, ""), (LONGEST + 1, " [cut]\n")])
def test_only_what_is_longer_than_the_longest_text_is_cut(
    pipe: tuple[int, int], length: int, cut: str
) -> None:
    reader, writer = pipe
    stream = StandardStream(writer, note)
    stream.write("x" * length)
    stream.drain(threading.TIMEOUT_MAX)
    assert os.read(reader, 1 << 20).decode() == "x" * LONGEST + cut
    stream.renew()


def test_lines_that_a_descriptor_did_not_take_are_told_of_once(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    stream = StandardStream(writer, note)

    def fail(number: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        for text in ("one\n", "two\nthree\n"):
            stream.write(text)
            stream.drain(threading.TIMEOUT_MAX)
    for text in ("last\n", "really\n"):
        stream.write(text)
        stream.drain(threading.TIMEOUT_MAX)
    assert os.read(reader, 100) == b"- 3 missing -\nlast\nreally\n"
    stream.renew()


def test_what_cannot_be_encoded_is_escaped_for_a_pipe_too(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    stream = StandardStream(writer, note)
    stream.write("\udcff\n")
    stream.drain(PATIENCE)
    assert os.read(reader, 100) == b"\\udcff\n"
    stream.renew()


def test_a_pipe_that_another_program_has_made_non_blocking_gets_all_the_same(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)
    stream = StandardStream(writer, note)
    sent = ["x" * LONGEST] * 100  # more than a pipe takes
    for text in sent:
        stream.write(text)
    got = bytearray()

    def all_came() -> bool:
        with suppress(BlockingIOError):
            got.extend(os.read(reader, 1 << 16))
        return len(got) == sum(map(len, sent))

    eventually(all_came, "all of the text")
    stream.renew()
