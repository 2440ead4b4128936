"""The README and the manual say the same as the code, and lead to each other."""

import ast
import re

import pytest
from support.manual import MANUAL, README, ROOT, blocks, page
from test_layers import LADDER

from mpchat import __version__
from mpchat.cli.commands import main
from mpchat.cli.manual import SUBJECTS, contents, summary
from mpchat.cli.page import rendered
from mpchat.config import BY_NAME, SETTINGS, parse_file, resolve
from mpchat.errors import Exit
from scripts import manual

# The pages are the same on each Python.
pytestmark = pytest.mark.one_python

TEXTS = {"README.md": README} | {f"{subject}.md": page(subject) for subject in SUBJECTS}
LONGEST_SUMMARY = 76


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_every_page_has_a_subject_and_every_subject_a_page() -> None:
    assert {path.stem for path in MANUAL.glob("*.md")} == set(SUBJECTS)


@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_page_begins_with_a_title_and_a_line_that_the_readme_has_too(subject: str) -> None:
    title, blank, line, *_ = page(subject).splitlines()
    words = subject.replace("-", " ")
    assert (title, blank) in ((f"# {words.capitalize()}", ""), (f"# {words.upper()}", ""))
    assert line == summary(page(subject))
    assert line.endswith(".")
    assert len(line) <= LONGEST_SUMMARY
    assert f"| [{subject}](mpchat/manual/{subject}.md) | {line} |" in README


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_somewhere(name: str) -> None:
    folder = ROOT if name == "README.md" else MANUAL
    targets = re.findall(r"\]\(([^)]+)\)", TEXTS[name])
    assert [each for each in targets if not (folder / each).exists()] == []


@pytest.mark.parametrize("name", TEXTS)
def test_every_script_that_a_page_names_is_there(name: str) -> None:
    named = re.findall(r"\bscripts/[a-z_/]+\.py", TEXTS[name])
    named += [f"{each.replace('.', '/')}" for each in re.findall(r"-m (scripts\.[a-z_.]+)", TEXTS[name])]
    missing = [each for each in named if not (ROOT / each).exists() and not (ROOT / f"{each}.py").exists()]
    assert missing == []


@pytest.mark.parametrize("name", manual.PAGES)
def test_a_generated_page_is_as_it_would_be_generated_now(name: str) -> None:
    assert TEXTS[name] == manual.PAGES[name](), "run: python -m scripts.manual"


def test_the_settings_page_has_every_setting() -> None:
    for setting in SETTINGS:
        row = next(line for line in page("settings").splitlines() if f"| `{setting.name}` |" in line)
        assert setting.allowed in row, setting.name
        assert setting.help in row, setting.name


def test_every_setting_that_the_security_page_names_exists() -> None:
    table = page("security").split("## What a client can cost")[1].split("\n## ")[0]
    named = re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)))
    assert len(named) > 10
    assert set(named) <= set(BY_NAME)


def test_the_settings_file_on_the_page_is_right() -> None:
    config, _ = resolve([parse_file(blocks(page("settings"), "toml")[0], "mpchat.toml")])
    assert (config.host, config.idle_timeout, config.notices) == (("127.0.0.1", "::1"), 3600.0, False)


def test_the_commands_page_has_every_command_option_and_exit_code() -> None:
    text = page("commands")
    for command in main.commands.values():
        assert f"## mpchat {command.name}\n" in text
    for option in ("--foreground", "--kill", "--watch", "--plain", "--for DURATION", "--check FILE"):
        assert f"| `{option}" in text
    assert all(f"| {int(code)} | " in text for code in Exit)


def test_the_readme_names_every_command() -> None:
    table = README.split("## Commands")[1].split("\n## ")[0]
    for command in set(main.commands) - {"unban", "unmute", "bans"}:
        assert re.search(rf"`(mpchat )?{command}\b", table), command


def error_codes() -> set[str]:
    """Every literal code that the server answers with, from its source."""
    found = set()
    for path in (ROOT / "mpchat").rglob("*.py"):
        if "client" not in path.parts:
            found |= {code for node in ast.walk(ast.parse(path.read_text())) for code in _codes(node)}
    return found


def _codes(node: ast.AST) -> list[str]:
    """The first argument of what makes an error, and every ``code="…"``."""
    if not isinstance(node, ast.Call):
        return []
    name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
    given = [each.value for each in node.keywords if each.arg == "code"]
    if name in ("ProtocolError", "error_frame"):
        given += node.args[:1]
    return [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]


def test_the_wire_page_has_every_error_code() -> None:
    codes = error_codes()
    assert {"not_json", "banned", "muted", "kicked", "room_full"} <= codes
    listed = set(re.findall(r"^\| `([a-z0-9_]+)` \|", page("wire").split("## Errors")[1], re.MULTILINE))
    assert codes - {"bad_text"} <= listed
    assert {"full", "bad_name", "bad_room", "too_many_rooms"} <= listed


@pytest.mark.parametrize("columns", [40, 80, 120])
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_page_fits_a_terminal_and_loses_no_word(subject: str, columns: int) -> None:
    shown = plain(rendered(page(subject), columns))
    assert max(map(len, shown.splitlines())) <= columns
    assert "…" not in shown.replace("…", "", page(subject).count("…"))
    # A word that is longer than a line is broken; no letter is lost, wherever a line ends.
    letters = re.sub(r"\W", "", shown)
    for word in re.findall(r"`(\w{4,})`", page(subject)):
        assert word in letters, word


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_a_table_in_a_narrow_terminal_is_a_paragraph_for_each_row() -> None:
    table = (
        "| setting | default | meaning |\n|---|---|---|\n| `history_messages` | `1000` | kept by rooms |\n"
    )
    assert "default: 1000" in plain(rendered(table, 30))
    assert "default: " not in plain(rendered(table, 80))


@pytest.mark.parametrize("columns", [40, 59, 60, 80])
def test_the_list_of_subjects_fits_a_terminal(columns: int) -> None:
    listed = contents(columns)
    assert max(map(len, listed.splitlines())) <= columns
    words = " ".join(f"{subject} {summary(page(subject))}" for subject in SUBJECTS).split()
    assert listed.split() == words


def test_a_link_to_a_page_is_shown_as_its_subject() -> None:
    assert plain(rendered("see [how it is read](settings.md).\n", 40)).strip() == "see settings."


def test_the_map_of_the_code_has_every_part_in_the_order_of_the_ladder() -> None:
    table = page("internals").split("## How to read the code")[1].split("\n\nWhere to look")[0]
    mapped = [each for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for each in row.split(", ")]
    parts = [each.strip("`") for each in mapped]
    package = ROOT / "mpchat"
    folders = {path.name for path in package.iterdir() if path.is_dir() and path.name != "__pycache__"}
    modules = {path.stem for path in package.glob("*.py") if not path.name.startswith("__")}
    assert sorted(parts) == sorted(folders | modules)
    ladder = [part for line in LADDER.split("\n") for part in line.split()]
    assert [each for each in parts if each not in ("web", "manual")] == [
        each for each in ladder if each in parts
    ]


def test_every_module_that_the_manual_names_is_there() -> None:
    named = {each for text in TEXTS.values() for each in re.findall(r"`([a-z_]+(?:/[a-z_]+)*\.py)`", text)}
    assert "hub/state.py" in named
    missing = [each for each in named if not (ROOT / "mpchat" / each).exists() and not (ROOT / each).exists()]
    assert missing == []


def test_the_changelog_ends_with_the_version_that_is_next_or_with_this_one() -> None:
    newest = re.findall(r"^## (\S+)", page("changelog"), re.MULTILINE)
    assert newest[0] in ("Unreleased", __version__)
    assert newest[newest[0] == "Unreleased"] == __version__
