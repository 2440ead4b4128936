"""The log: one line for each thing, whatever is in it, and what comes again and again is counted."""

import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from mpchat.ipc import logs
from mpchat.ipc.log_repeats import BURST, BURST_SECONDS


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What is logged."""
    stream = io.StringIO()
    logger = logging.getLogger("mpchat")
    before = logger.handlers, logger.level, logger.propagate, logging.raiseExceptions
    logs.set_up("info", "tester", stream)
    yield stream
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before


def test_a_line_break_or_an_escape_in_a_name_forges_no_line_and_reaches_no_terminal(
    written: io.StringIO,
) -> None:
    logging.getLogger("mpchat").info("kicked: %s", "evil\n2026-01-01 INFO all is well\x1b[2J\u202e")
    assert written.getvalue().count("\n") == 1
    assert "kicked: evil\\n2026-01-01 INFO all is well\\x1b[2J\\u202e" in written.getvalue()


def test_a_stack_keeps_its_lines_and_hides_nothing(written: io.StringIO) -> None:
    try:
        raise ValueError("bad\x1b[2J")
    except ValueError:
        logging.getLogger("mpchat").exception("failed: somebody")
    lines = written.getvalue().splitlines()
    assert lines[0].endswith(": failed: somebody")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: bad\\x1b[2J"


def test_a_line_says_when_how_bad_who_and_what(written: io.StringIO) -> None:
    logging.getLogger("mpchat.door").warning("full: %s", "me")
    assert " WARNING tester[" in written.getvalue()
    assert written.getvalue().endswith("]: full: me\n")
    logging.getLogger("mpchat.door").debug("not said")
    assert "not said" not in written.getvalue()


def test_what_comes_again_and_again_is_counted_instead(
    written: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger = logging.getLogger("mpchat.door")
    now = [0.0]
    monkeypatch.setattr("mpchat.ipc.log_repeats.time.monotonic", lambda: now[0])
    for number in range(1000):
        logger.warning("full: client %d", number)
    logger.warning("another kind")
    assert written.getvalue().count("full: ") == BURST
    assert written.getvalue().count("another kind") == 1
    now[0] = BURST_SECONDS + 1
    logger.warning("full: client %d", 1000)
    last = written.getvalue().splitlines()[-1]
    assert last.endswith(f"full: client 1000 ({1000 - BURST} more like it went unlogged)")
    for number in range(10):
        logger.warning("full: client %d", number)
    assert written.getvalue().count("full: ") == 2 * BURST


def test_a_log_that_is_a_fifo_without_a_reader_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="No such device"):
        logs.point_at(str(tmp_path / "log"))


# Gets a plain file and a FIFO that is full. Has its stacks written after the log went from one to the other.
_DUMPS_TO_A_FULL_FIFO = """
import signal, sys
from mpchat.ipc import logs
logs.set_up("info", "tester")
logs.point_at(sys.argv[1])
logs.dump_on_signal()
signal.raise_signal(signal.SIGUSR2)
logs.point_at(sys.argv[2])
signal.raise_signal(signal.SIGUSR2)
print("goes on")
"""


def test_stacks_follow_the_log_and_do_not_wait_for_a_fifo_that_nobody_reads(tmp_path: Path) -> None:
    file, fifo = tmp_path / "log", tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    try:
        with suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 4096)
        command = [sys.executable, "-c", _DUMPS_TO_A_FULL_FIFO, str(file), str(fifo)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60.0)
    finally:
        os.close(reader)
        os.close(writer)
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert file.read_text().count("most recent call first") == 1


# Logs to a disk that is full, and says on standard output how many lines were dropped.
_FULL_DISK = """
import logging
from mpchat.ipc import logs
print(logs.dropped())
logs.set_up("info", "tester")
logs.point_at("/dev/full")
logging.getLogger("mpchat").info("one")
logging.getLogger("mpchat").info("two")
logs.drain(30)
print(logs.dropped())
"""


def test_lines_that_the_disk_does_not_take_are_counted() -> None:
    done = subprocess.run([sys.executable, "-c", _FULL_DISK], stdout=subprocess.PIPE, text=True, timeout=60.0)
    assert (done.returncode, done.stdout) == (0, "0\n2\n")


# Ends by an error that nobody has caught, right after it has logged; the log is opened by a thread.
_CRASH = """
import logging, sys
from mpchat.ipc import logs
logs.set_up("info", "tester")
logs.point_later_at(sys.argv[1])
for number in range(100):
    logging.getLogger("mpchat").info("line %d of %s", number, sys.argv[1][-3:])
    logging.getLogger("mpchat").handlers[0].filters[0]._kinds.clear()
raise ValueError("nobody has caught this")
"""


def test_what_was_logged_before_a_crash_and_its_traceback_are_in_the_file(tmp_path: Path) -> None:
    log = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", _CRASH, str(log)], capture_output=True, timeout=60.0)
    assert (done.returncode, done.stderr) == (1, b"")
    lines = log.read_text().splitlines()
    assert [line.partition(": ")[2] for line in lines[:100]] == [
        f"line {number} of log" for number in range(100)
    ]
    assert lines[100] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: nobody has caught this"


def test_a_log_that_cannot_be_opened_anew_goes_on_where_it_was(tmp_path: Path) -> None:
    before = tmp_path / "before"
    with open(before, "wb") as file:
        command = [sys.executable, "-c", _CRASH, str(tmp_path / "nowhere" / "log")]
        subprocess.run(command, stderr=file, check=False, timeout=60.0)
    said = before.read_text()
    assert said.count(" of log\n") == 100
    assert said.count("log not opened anew: No such file or directory") == 1
