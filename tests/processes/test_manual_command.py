"""``mpchat manual``, without a terminal: a list, a page as it is, and one clear word for everything else."""

import shlex
import subprocess
from pathlib import Path

import pytest
from support.harness import MPCHAT, Server
from support.manual import page

from mpchat.cli.manual import SUBJECTS, summary

pytestmark = pytest.mark.usefixtures("commands_apart")


@pytest.fixture
def here(folder: Path) -> Server:
    return Server(folder)


def test_without_a_subject_it_lists_all_with_a_line_each(here: Server) -> None:
    done = here.run("manual")
    assert (done.returncode, done.stderr) == (0, "")
    words = [line.split(None, 1) for line in done.stdout.splitlines()]
    assert words == [[each, summary(page(each))] for each in SUBJECTS]
    assert max(map(len, done.stdout.splitlines())) <= 100


@pytest.mark.parametrize("subject", ["speed", "members-and-rooms"])
def test_a_page_that_is_not_shown_on_a_terminal_is_plain_markdown(here: Server, subject: str) -> None:
    done = here.run("manual", subject, env={**here.environment, "COLUMNS": "40"})
    assert (done.returncode, done.stdout, done.stderr) == (0, page(subject), "")


def test_an_unknown_subject_is_wrong_usage_with_the_list(here: Server) -> None:
    done = here.run("manual", "sp\x1b[2Jeed")
    assert (done.returncode, done.stdout) == (2, "")
    assert "the manual has no page 'sp\\\\x1b[2Jeed'" in done.stderr
    assert all(f"  {subject} " in done.stderr for subject in SUBJECTS)


@pytest.mark.parametrize(
    "language",
    [{"LANG": "C"}, {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    ids=["LANG=C", "strictly_ascii"],
)
def test_without_a_language_what_cannot_be_shown_is_escaped(here: Server, language: dict[str, str]) -> None:
    done = here.run("manual", "chat", env={**here.environment, **language}, encoding="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in (page("chat"), page("chat").encode("ascii", "backslashreplace").decode())


@pytest.mark.parametrize("closing", [">&-", "<&- >&- 2>&-", "2>&-"])
def test_with_standard_streams_closed_it_ends_in_order(here: Server, closing: str) -> None:
    for words in ("manual", "manual wire"):
        command = f"exec {shlex.join(MPCHAT)} {words} {closing}"
        done = subprocess.run(
            ["sh", "-c", command], env=here.environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, ""), words


def test_output_that_cannot_be_written_is_one_line(here: Server) -> None:
    with open("/dev/full", "w") as full:
        done = here.run("manual", "wire", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, "mpchat: No space left on device\n")
