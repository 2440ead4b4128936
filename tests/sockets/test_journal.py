"""Log lines for the journal: marked with their level, while standard error is the journal."""

import json
import os
import subprocess
import sys
from pathlib import Path

# Standard error is a pipe, and the variable says whether it is the journal.
LOGGING = """
import logging, os, sys
from mpchat.ipc import logs
status = os.fstat(2)
if sys.argv[1] != "none":
    os.environ["JOURNAL_STREAM"] = f"{status.st_dev}:{status.st_ino + (sys.argv[1] == 'other')}"
logs.set_up("debug", "tester", log_format=os.environ.get("FORMAT", "text"))
log = logging.getLogger("mpchat.door")
log.debug("opened: %s", "a\\n<0>forged")
log.info("came: me")
log.warning("full: me")
log.error("failed: me")
try:
    raise ValueError("bad\\n<0>forged")
except ValueError:
    log.exception("died: me")
logs.drain(5.0)
if len(sys.argv) > 2:
    logs.point_at(sys.argv[2])
    log.warning("moved: me")
    logs.drain(5.0)
"""


def logged(journal: str, *more: str, log_format: str = "text") -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, journal, *more],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FORMAT": log_format},
    )
    return done.stderr.splitlines()


def test_json_in_the_journal_is_marked_too() -> None:
    lines = logged("this", log_format="json")
    assert [each[:3] for each in lines] == ["<7>", "<6>", "<4>", "<3>", "<3>"]
    assert [json.loads(each[3:])["level"] for each in lines] == ["debug", "info", "warning", "error", "error"]


def test_each_line_begins_with_its_level_and_has_no_time_of_its_own() -> None:
    lines = logged("this")
    assert [each.partition(">")[0] + ">" for each in lines[:4]] == ["<7>", "<6>", "<4>", "<3>"]
    assert lines[0].startswith("<7>tester[")
    assert lines[0].endswith("]: opened: a\\n<0>forged")
    assert lines[3].endswith("]: failed: me")


def test_a_stack_is_marked_line_by_line() -> None:
    stack = logged("this")[4:]
    assert len(stack) > 3
    assert all(each.startswith("<3>") for each in stack)
    assert stack[1] == "<3>Traceback (most recent call last):"


def test_standard_error_that_is_no_journal_gets_the_usual_lines() -> None:
    for journal in ("none", "other"):
        lines = logged(journal)
        assert lines[1].endswith("]: came: me")
        assert " INFO tester[" in lines[1]
        assert lines[1].startswith("20")


def test_a_log_file_that_takes_the_journals_place_gets_the_usual_lines(tmp_path: Path) -> None:
    logged("this", str(tmp_path / "log"))
    line = (tmp_path / "log").read_text()
    assert line.startswith("20")
    assert " WARNING tester[" in line
