"""``mpchat log`` on files: text and JSON, the end of a long log, rotation, and files that are no log."""

import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mpchat.cli import log as log_command
from mpchat.cli.commands import main
from mpchat.cli.log import Tail, Wanted, last_entries
from mpchat.errors import Exit
from mpchat.ipc import audit, logs
from mpchat.ipc.audit import Act
from mpchat.log_line import as_object, as_text, read

Written = Callable[[str], str]


@pytest.fixture
def written() -> Iterator[Written]:
    """Makes a log of a format: of each level a line, a stack, the audit trail."""
    logger = logging.getLogger("mpchat")
    before = logger.handlers, logger.level, logger.propagate, logging.raiseExceptions

    def write(log_format: str) -> str:
        stream = io.StringIO()
        logs.set_up("debug", "worker 1", stream, log_format=log_format)
        logger.debug("= joined: %s", "192.0.2.1:7")
        logger.info("kicked: %s", "192.0.2.1:7")
        logger.warning("full: %s; a client was refused", "no descriptor")
        try:
            raise ValueError("why")
        except ValueError:
            logger.exception("failed, its connection is ended: %s", "192.0.2.1:7")
        audit.record(Act("operator", "kick", "앨리스"))
        return stream.getvalue()

    yield write
    logger.handlers, logger.level, logger.propagate, logging.raiseExceptions = before


def run(*words: str) -> Result:
    return CliRunner(catch_exceptions=False).invoke(main, ["log", *words])


def texts(lines: list[str]) -> list[str]:
    """What each line says, without its head."""
    return [line.partition("]: ")[2] or line for line in lines]


@pytest.fixture(params=["text", "json"])
def path(request: pytest.FixtureRequest, tmp_path: Path, written: Written) -> Path:
    """A log."""
    (tmp_path / "log").write_text(written(request.param))
    return tmp_path / "log"


def test_json_is_shown_as_the_text_that_it_would_have_been(written: Written) -> None:
    as_it_is = written("text").splitlines()
    shown = [line for raw in written("json").splitlines() for line in as_text(raw).splitlines()]

    def timeless(lines: list[str]) -> list[str]:
        return [re.sub(r"^[\d-]+ [\d:.]+ ", "", line) for line in lines]

    assert timeless(shown) == timeless(as_it_is)
    assert all(
        re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [A-Z]+ worker 1\[", each) for each in shown[:3]
    )
    assert [as_text(each) for each in as_it_is] == as_it_is


def test_all_of_a_short_log_is_shown(path: Path) -> None:
    lines = run("--log-file", str(path)).stdout.splitlines()
    said = texts(lines)
    assert said[:3] == [
        "= joined: 192.0.2.1:7",
        "kicked: 192.0.2.1:7",
        "full: no descriptor; a client was refused",
    ]
    assert said[3:5] == ["failed, its connection is ended: 192.0.2.1:7", "Traceback (most recent call last):"]
    assert said[-2:] == ["ValueError: why", 'audit: kick "앨리스", by operator: done']


def test_a_stack_counts_as_part_of_its_line(path: Path) -> None:
    lines = run("--log-file", str(path), "-n", "2").stdout.splitlines()
    assert texts(lines)[0] == "failed, its connection is ended: 192.0.2.1:7"
    assert run("--log-file", str(path), "-n", "0").stdout == ""


@pytest.mark.parametrize(("level", "count"), [("debug", 5), ("info", 4), ("warning", 2), ("error", 1)])
def test_lines_of_a_level_and_worse_are_shown(path: Path, level: str, count: int) -> None:
    shown = run("--log-file", str(path), "--level", level).stdout
    assert len(re.findall(r"^\d{4}-", shown, re.MULTILINE)) == count
    assert "ValueError: why" in shown


def test_the_audit_trail_alone_is_shown(path: Path) -> None:
    (line,) = run("--log-file", str(path), "--audit").stdout.splitlines()
    assert line.endswith(': audit: kick "앨리스", by operator: done')
    (line,) = run("--log-file", str(path), "--audit", "--json").stdout.splitlines()
    assert json.loads(line)["event"] == "audit"
    assert json.loads(line)["text"] == 'audit: kick "앨리스", by operator: done'


def test_json_is_json_of_either_format(path: Path) -> None:
    lines = [json.loads(line) for line in run("--log-file", str(path), "--json").stdout.splitlines()]
    heads = [each for each in lines if "level" in each]
    assert [each["level"] for each in heads] == ["debug", "info", "warning", "error", "info"]
    assert {each["process"] for each in heads} == {f"worker 1[{os.getpid()}]"}
    if path.read_text().startswith("{"):
        assert heads[1]["address"] == "192.0.2.1:7"


def test_a_line_that_was_printed_is_shown_as_it_was() -> None:
    assert (
        as_text('{"time": "2026-01-01T00:00:00.000+00:00", "event": "output", "text": "  File"}') == "  File"
    )
    assert as_text("Stack (most recent call first):") == "Stack (most recent call first):"


@pytest.mark.parametrize(
    "raw",
    [
        *("", "{", "{}", "[1]", "null", '{"time": 1}', '{"time": "x", "text": ["y"]}', "{" * 100_000),
        *(
            "\x1b[2J",
            '{"time": "t\\u001b[2J", "event": "e\\u202e", "text": "\\u2028", "stack": "a\\u001b[2J\\nb"}',
        ),
    ],
)
def test_any_line_can_be_shown(raw: str) -> None:
    assert not set("\x1b\u202e\u2028\x07") & set(as_text(raw))
    assert Wanted(as_json=True).shown(raw).isascii()
    assert isinstance(as_object(raw), dict)
    read(raw)


@pytest.mark.parametrize("count", [1, 2, 7, 5000])
@pytest.mark.parametrize("length", [10, 64 << 10])
@pytest.mark.parametrize("rest", [b"", b"half a line"])
def test_the_last_lines_are_found_wherever_a_block_ends(count: int, length: int, rest: bytes) -> None:
    lines = [
        f'{{"time": "t", "level": "info", "event": "e", "text": "{number:0{length}}"}}' for number in range(9)
    ]
    data = "".join(f"{line}\n" for line in lines).encode()
    file = io.BytesIO(data + rest)
    assert last_entries(file, count, Wanted()) == lines[-count:]
    assert file.tell() == len(data)


def test_an_empty_file_and_half_a_line_are_no_lines() -> None:
    for data in (b"", b"half a line"):
        file = io.BytesIO(data)
        assert last_entries(file, 5, Wanted()) == []
        assert file.tell() == 0


def test_a_log_is_followed_over_its_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("one\n")
    tail = Tail(str(path), path.open("rb"))
    old = path.open("a")
    assert tail.look() == ["one"]
    old.write("half a ")
    old.flush()
    assert tail.look() == []
    path.rename(tmp_path / "log.1")
    assert tail.look() == []
    path.write_text("three\n")
    assert tail.look() == []
    old.write("line\n")  # a process that has not opened the new file yet
    old.close()
    looks = [tail.look() for _ in range(log_command._LOOKS_AT_OLD + 2)]
    assert [line for look in looks for line in look] == ["half a line", "three"]
    path.write_text("")  # cut off in place
    assert tail.look() == []
    path.write_text("four\n")
    assert tail.look() == ["four"]
    tail.close()


def test_a_log_that_is_no_file_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    done = run("--log-file", str(tmp_path / "fifo"))
    assert (done.exit_code, done.stdout) == (Exit.FAILED, "")
    assert done.stderr == f"mpchat: the log {tmp_path / 'fifo'} is not a plain file; read it where it leads\n"
    done = run("--log-file", str(tmp_path / "none"))
    assert done.exit_code == Exit.FAILED
    assert done.stderr.startswith(f"mpchat: no log at {tmp_path / 'none'}: ")


def test_the_log_of_the_last_server_is_where_the_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPCHAT_RUNTIME_DIR", str(tmp_path / "run"))
    done = run()
    assert done.exit_code == Exit.FAILED
    assert f"no log at {tmp_path / 'run' / 'default' / 'server.log'}" in done.stderr
    (tmp_path / "here.log").write_text("2026-01-01 00:00:00.000 INFO supervisor[1]: stopping: test\n")
    (tmp_path / "mpchat.toml").write_text('log_file = "here.log"\n')
    assert run().stdout == "2026-01-01 00:00:00.000 INFO supervisor[1]: stopping: test\n"
