"""The log in both formats: JSON that any program reads, and no text of a client that does anything."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support.waiting import PATIENCE, eventually

from mpchat.config import resolve
from mpchat.ipc import audit, log_repeats, logs
from mpchat.ipc.audit import Act
from mpchat.ipc.log_events import EVENTS
from mpchat.ipc.log_json import LONGEST
from mpchat.log_line import as_text

# What no text of a client may bring into a log: all that is invisible, or moves a cursor, or ends a line.
HOSTILE = frozenset(
    char
    for char in map(chr, range(sys.maxunicode + 1))
    if unicodedata.category(char) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") and char not in "\u200c\u200d\u00ad"
)
# Attacks, as a name, a room, a reason, an HTTP target, a header or a claim of a token may be.
ATTACKS = (
    "\x1b[2J\x1b]0;owned\x07",
    "\r\n2026-01-01 00:00:00.000 INFO supervisor[1]: all is well",
    '"}\n{"time": "2026-01-01T00:00:00.000+00:00", "event": "audit"}',
    "eve\u202etxt.exe\u2066\u2069",
    "a\u2028b\u2029c\x85d\x0be\x0cf",
    "zero\u200b\u2060\ufeffwidth",
    "half \ud800 \udcff",
    "tag \U000e0041\U000e007f",
    "\\x1b[2J",
)

Log = Callable[[str], io.StringIO]


@pytest.fixture
def log() -> Iterator[Log]:
    """Begins to log in a format; returns what is logged."""
    logger = logging.getLogger("mpchat")
    before = logger.handlers, logger.level, logger.propagate, logging.raiseExceptions

    def begin(log_format: str) -> io.StringIO:
        stream = io.StringIO()
        logs.set_up("info", "tester", stream, log_format=log_format)
        return stream

    yield begin
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before


def objects(text: str) -> list[dict[str, Any]]:
    """Return each line as an object; fails for a line that is none."""
    assert not text or text.endswith("\n")
    found = [json.loads(line) for line in text.split("\n")[:-1]]
    assert all(isinstance(each, dict) for each in found)
    return found


def is_harmless(text: str) -> bool:
    return HOSTILE.isdisjoint(text)


def test_a_line_is_one_object_with_its_event_and_named_fields(log: Log) -> None:
    stream = log("json")
    logging.getLogger("mpchat.worker").warning("refused, wrong %s: %s, %s", "jwt", "앨리스", "192.0.2.1:7")
    (line,) = objects(stream.getvalue())
    assert stream.getvalue().isascii()
    at = datetime.fromisoformat(line.pop("time"))
    assert at.tzinfo is not None
    assert abs((datetime.now().astimezone() - at).total_seconds()) < PATIENCE
    assert line == {
        "level": "warning",
        "process": f"tester[{os.getpid()}]",
        "event": "proof_refused",
        "text": "refused, wrong jwt: 앨리스, 192.0.2.1:7",
        "kind": "jwt",
        "name": "앨리스",
        "address": "192.0.2.1:7",
    }


def test_numbers_stay_numbers_and_what_json_lacks_becomes_text(log: Log) -> None:
    stream = log("json")
    logger = logging.getLogger("mpchat")
    logger.info("hung for %.1f s, killed: %s", 1.25, OSError("gone"))
    logger.info("hung for %.1f s, killed: %s", float("nan"), None)
    first, second = objects(stream.getvalue())
    assert (first["seconds"], first["child"]) == (1.25, "gone")
    assert (second["seconds"], second["child"]) == ("nan", None)
    assert "NaN" not in stream.getvalue()


def test_a_line_of_another_package_is_an_event_too(log: Log) -> None:
    stream = log("json")
    logging.getLogger("mpchat.plugin").info("hello %s", "you")
    (line,) = objects(stream.getvalue())
    assert (line["event"], line["text"]) == ("other", "hello you")


def test_a_stack_is_a_field(log: Log) -> None:
    stream = log("json")
    try:
        raise ValueError("bad\x1b[2J\nline")
    except ValueError:
        logging.getLogger("mpchat").exception("failed: %s", "reload")
    (line,) = objects(stream.getvalue())
    assert (line["event"], line["change"]) == ("change_broke", "reload")
    assert line["stack"].startswith("Traceback (most recent call last):\n  File ")
    assert line["stack"].endswith("ValueError: bad\\x1b[2J\nline")


@pytest.mark.parametrize("text", ["x", "한", "\U0001f600", "\U000e0041", "\\", '"', "\x00"])
def test_a_long_line_is_cut_and_still_an_object(log: Log, text: str) -> None:
    stream = log("json")
    many = text * 100_000
    logging.getLogger("mpchat").info("refused, wrong %s: %s, %s", many, many, many)
    audit.record(Act(many, many, many, 1.0, many), many)
    for line in stream.getvalue().splitlines():
        assert len(line) <= LONGEST
    first, second = objects(stream.getvalue())
    assert first["event"] == "proof_refused"
    assert first["name"].endswith(" [cut]")
    assert second["seconds"] == 1.0


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_forges_a_line_or_reaches_a_terminal(log: Log, log_format: str, attack: str) -> None:
    stream = log(log_format)
    audit.record(Act(attack, attack, attack, 1.0, attack), attack)
    for template, (_, *fields) in EVENTS.items():
        values = [attack if kind == "s" else 7 for kind in re.findall(r"%[.\d]*([a-z])", template)]
        assert len(values) == len(fields)
        logging.getLogger("mpchat").warning(template, *values)
    lines = stream.getvalue().split("\n")[:-1]
    assert len(lines) == len(EVENTS) + 1
    assert all(map(is_harmless, lines))
    if log_format == "json":
        for each in objects(stream.getvalue()):
            assert all(is_harmless(value) for value in each.values() if isinstance(value, str))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_every_character_that_does_not_print_is_escaped(log: Log, log_format: str) -> None:
    stream = log(log_format)
    # One of each, private use apart, of which there are 137 000; in parts, so that none is cut.
    chars = sorted(char for char in HOSTILE if unicodedata.category(char) != "Co" or char == "\ue000")
    for begin in range(0, len(chars), 100):
        audit.record(Act("".join(chars[begin : begin + 100]), "kick"))
    assert is_harmless(stream.getvalue().replace("\n", ""))
    assert stream.getvalue().count("\n") == len(range(0, len(chars), 100))
    if log_format == "json":
        assert all(is_harmless(each["text"]) for each in objects(stream.getvalue()))


def test_the_format_can_change_while_the_process_serves(log: Log) -> None:
    stream = log("text")
    text, _ = resolve([])
    as_json = type(text)(
        **{**{name: getattr(text, name) for name in text.__struct_fields__}, "log_format": "json"}
    )
    logs.follow(text, as_json)
    logging.getLogger("mpchat").info("ready: %s", "TLS process 1")
    logs.follow(as_json, text)
    logging.getLogger("mpchat").info("ready: %s", "TLS process 1")
    first, second = stream.getvalue().splitlines()
    assert json.loads(first)["child"] == "TLS process 1"
    assert json.loads(first)["process"] == f"tester[{os.getpid()}]"
    assert second.endswith(f" INFO tester[{os.getpid()}]: ready: TLS process 1")


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_audit_trail_is_whole_whatever_the_level_is_and_however_often(log: Log, log_format: str) -> None:
    stream = log(log_format)
    logging.getLogger("mpchat").setLevel("ERROR")
    for number in range(100):
        audit.record(Act("operator", "kick", f"name {number}"))
    logging.getLogger("mpchat").warning("full: %s; a client was refused", "no")
    lines = stream.getvalue().splitlines()
    assert len(lines) == 100
    assert as_text(lines[99]).endswith('audit: kick "name 99", by operator: done')


def test_the_audit_trail_has_its_fields(log: Log) -> None:
    stream = log("json")
    audit.record(Act('operator "앨리스"', "ban", 'bob", by nobody: done', 60.0, "192.0.2.7:5"), "failed")
    audit.record(Act("signal", "stop"))
    first, second = objects(stream.getvalue())
    assert first["text"] == (
        'audit: ban "bob\\", by nobody: done" for 60 s, by operator "앨리스" at 192.0.2.7:5: failed'
    )
    assert {name: first[name] for name in ("event", "actor", "action", "target", "seconds", "address")} == {
        "event": "audit",
        "actor": 'operator "앨리스"',
        "action": "ban",
        "target": 'bob", by nobody: done',
        "seconds": 60.0,
        "address": "192.0.2.7:5",
    }
    assert (second["text"], second["result"]) == ("audit: stop, by signal: done", "done")
    assert "target" not in second


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_the_count_of_repeats_is_told_when_no_further_line_comes(
    log: Log, log_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_repeats, "BURST_SECONDS", 0.1)
    stream = log(log_format)
    for number in range(20):
        logging.getLogger("mpchat").warning("kicked: %s", number)
    assert stream.getvalue().count("\n") == log_repeats.BURST
    eventually(lambda: stream.getvalue().count("\n") > log_repeats.BURST, "the count of repeats")
    last = stream.getvalue().splitlines()[-1]
    more = 20 - log_repeats.BURST - 1
    assert as_text(last).endswith(f"kicked: 19 ({more} more like it went unlogged)")
    if log_format == "json":
        assert json.loads(last)["repeated"] == more
        assert json.loads(last)["event"] == "client_kicked"
    eventually(lambda: _repeats()._thread is None, "the thread to end")


def _repeats() -> log_repeats.Repeats:
    (found,) = logging.getLogger("mpchat").handlers[0].filters
    assert isinstance(found, log_repeats.Repeats)
    return found


def test_a_line_of_another_kind_tells_the_count_where_no_thread_is_free(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr("mpchat.ipc.log_repeats.time.monotonic", lambda: now[0])
    monkeypatch.setattr(log_repeats.Repeats, "_wait_for_the_rest", lambda _: None)
    stream = log("text")
    for number in range(7):
        logging.getLogger("mpchat").warning("kicked: %s", number)
    now[0] = log_repeats.BURST_SECONDS + 1
    logging.getLogger("mpchat").warning("muted: %s", "eve")
    assert [line.partition(": ")[2] for line in stream.getvalue().splitlines()[log_repeats.BURST :]] == [
        "kicked: 6 (1 more like it went unlogged)",
        "muted: eve",
    ]


def test_a_line_that_is_held_back_keeps_no_object_alive(log: Log) -> None:
    log("text")
    for _ in range(log_repeats.BURST + 1):
        try:
            raise ValueError("bad")
        except ValueError as error:
            logging.getLogger("mpchat").error("names cannot be checked: %s", error, exc_info=True)
    held = _repeats()._held["names cannot be checked: %s"]
    assert (held.exc_info, held.args) == (None, ("bad",))


# Gets a file. Logs, prints, warns, has its stacks written, and ends by an error that nobody has caught.
_EVERYTHING = """
import logging, signal, sys, time, warnings
from mpchat.ipc import logs
logs.set_up("info", "tester", log_format="json")
logs.point_at(sys.argv[1])
logs.dump_on_signal()
log = logging.getLogger("mpchat")
log.info("kicked: %s", "first")
print("a library\\x1b[2J\\u2028 says", "more", file=sys.stderr)
print("no line end", end="", file=sys.stderr)
print(", now", file=sys.stderr)
warnings.warn("be warned")
signal.raise_signal(signal.SIGUSR2)
deadline = time.monotonic() + 20
while "most recent call first" not in open(sys.argv[1]).read() and time.monotonic() < deadline:
    time.sleep(0.01)
for number in range(20):
    log.info("muted: %s", number)
sys.stderr.write("cut off")
raise ValueError("nobody has caught this\\x1b[2J")
"""


def test_all_that_a_process_says_is_json_to_its_last_word(tmp_path: Path) -> None:
    path = tmp_path / "log"
    done = subprocess.run([sys.executable, "-c", _EVERYTHING, str(path)], capture_output=True, timeout=60.0)
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", b"")
    lines = objects(path.read_text())
    said = [each["text"] for each in lines if each["event"] == "output"]
    assert said[:2] == ["a library\\x1b[2J\\u2028 says more", "no line end, now"]
    assert any("UserWarning: be warned" in each for each in said)
    assert "cut offTraceback (most recent call last):" in said
    assert "ValueError: nobody has caught this\\x1b[2J" in said
    (dump,) = [each["stack"] for each in lines if each["event"] == "stacks"]
    assert dump.startswith("Stack (most recent call first):\n  File ")
    assert lines[-1]["text"] == "muted: 19"
    assert lines[-1]["repeated"] == 20 - log_repeats.BURST - 1


# Prints, and ends in the middle of a line.
_PRINTS = """
import sys
from mpchat.ipc import logs
logs.set_up("info", "tester", log_format=sys.argv[1])
print("a library\\x1b[2J\\u2028 says", "more", file=sys.stderr)
sys.stderr.write("the rest\\x07")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_is_printed_is_escaped_and_whole_to_the_end(log_format: str) -> None:
    command = [sys.executable, "-c", _PRINTS, log_format]
    done = subprocess.run(command, capture_output=True, timeout=60.0, check=True, encoding="utf-8")
    assert is_harmless(done.stderr.replace("\n", ""))
    lines = [as_text(each) for each in done.stderr.splitlines()]
    assert lines == ["a library\\x1b[2J\\u2028 says more", "the rest\\x07"]
    if log_format == "json":
        assert {each["event"] for each in objects(done.stderr)} == {"output"}


# Gets a file that may grow to 4 KiB, then further.
_FULL_DISK = """
import logging, resource, sys
from mpchat.ipc import logs
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
logs.set_up("info", "tester", log_format=sys.argv[2])
logs.point_at(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most))
for number in range(100):
    logging.getLogger("mpchat").info("kicked: %s", f"{number:03d}", extra={"audit": {}})
    logs.drain(20)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
logging.getLogger("mpchat").info("muted: %s", "last")
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_lines_that_a_full_disk_does_not_take_are_counted(tmp_path: Path, log_format: str) -> None:
    path = tmp_path / "log"
    command = [sys.executable, "-c", _FULL_DISK, str(path), log_format]
    done = subprocess.run(command, capture_output=True, timeout=60.0)
    assert (done.returncode, done.stderr) == (0, b"")
    lines = path.read_text().splitlines()
    # Of the line at which the disk was full the beginning is there, on a line of its own.
    whole = [each for each in lines if re.search(r'kicked: \d{3}("}|$)', each)]
    assert len(lines) - len(whole) in (2, 3)
    note, last = (as_text(each) for each in lines[-2:])
    assert last.endswith("muted: last")
    dropped = re.search(r"(\d+) log lines were dropped: the log could not be written", note)
    assert dropped is not None
    assert len(whole) + int(dropped[1]) == 100
    if log_format == "json":
        assert json.loads(lines[-2])["lines"] == 100 - len(whole)
        assert json.loads(lines[-2])["event"] == "log_lines_dropped"
        assert len(objects("".join(f"{each}\n" for each in [*whole, *lines[-2:]]))) == len(whole) + 2


# Gets a FIFO that is full; says that it has not waited, and goes on once it gets a line.
_STALLED = """
import logging, sys
from mpchat.ipc import logs
logs.set_up("info", "tester", log_format="json")
logs.point_at(sys.argv[1])
for number in range(3000):
    logging.getLogger("mpchat").info("kicked: %s", number, extra={"audit": {}})
print("has not waited", flush=True)
sys.stdin.readline()
logs.drain(20)
logging.getLogger("mpchat").info("muted: %s", "last")
"""


def test_a_reader_that_stalls_is_not_waited_for_and_learns_what_it_has_missed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, "-c", _STALLED, str(fifo)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"has not waited\n"
        process.stdin.write(b"\n")
        process.stdin.flush()
        got = bytearray()

        def ended() -> bool:
            with suppress(BlockingIOError):
                while data := os.read(reader, 1 << 16):
                    got.extend(data)
            return process.poll() is not None

        eventually(ended, "the process to end")
        ended()
    os.close(reader)
    lines = objects(got.decode())
    kept = sum("kicked" in each["text"] for each in lines)
    dropped = sum(each["lines"] for each in lines if each["event"] == "log_lines_dropped")
    assert dropped > 0
    assert kept + dropped == 3000
    assert lines[-1]["text"] == "muted: last"
