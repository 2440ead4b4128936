"""The page's modules in Node: the client with a socket that the test plays, lines, colours and texts."""

import itertools
import json
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from support.javascript import WEB, evaluate, modules
from support.manual import ROOT
from support.programs import require

from mpchat.client.conversation import (
    _NOT_MODERATED,
    _WRONG_JOIN,
    _WRONG_PROOF,
    _WRONG_QUESTION,
    FINAL,
    PASSING,
)
from mpchat.client.lines import Command, Enter, Incomplete, Moderate, Say, Tell, Unknown, parse
from mpchat.client.resume import Track
from mpchat.text import visible
from mpchat.worker.http_answers import _POLICY

# Contrast that WCAG asks for at level AA: of text (1.4.3), and of what shows where a field is (1.4.11).
AA = 4.5
AA_BORDER = 3.0


def test_the_client_with_a_socket_that_the_test_plays(folder: Path) -> None:
    require("node")
    # Elsewhere, since an older Node takes the files for modules only with a word beside them.
    copied = folder / "tests" / "browser" / "client.test.mjs"
    copied.parent.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "browser" / "client.test.mjs", copied)
    (folder / "mpchat").mkdir()
    modules(folder / "mpchat")
    done = subprocess.run(["node", "--test", str(copied)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"^. pass (\d+)$", done.stdout, re.MULTILINE)[0]) >= 20


def test_the_error_codes_are_those_of_the_other_clients() -> None:
    source = (WEB / "mpchat.js").read_text(encoding="utf-8")
    assert _codes(source, "PASSING") == PASSING
    assert _codes(source, "FINAL") == FINAL
    assert _codes(source, "WRONG_JOIN") | PASSING == _WRONG_JOIN
    assert _codes(source, "WRONG_PROOF") == _WRONG_PROOF
    assert _codes(source, "WRONG_QUESTION") == _WRONG_QUESTION
    about_proof = _codes(source, "NOT_ANSWERED")
    assert about_proof == {"not_allowed", "auth_required"}
    assert _codes(source, "NOT_MODERATED") | about_proof == _NOT_MODERATED | about_proof


def _codes(source: str, name: str) -> set[str]:
    found = re.search(rf"const {name} = new Set\(\[(.*?)\]\)", source, re.DOTALL)
    assert found is not None
    return set(re.findall(r"'(\w+)'", found[1]))


RESUMING = """
import { readFileSync } from 'node:fs';
import { Track } from './web/mpchat.js';
const cases = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(cases.map(({ seq, taken, resumed, then }) => {
  const track = new Track('one', seq);
  const take = (number) => Object.values(track.take(number));
  const takes = (numbers) => numbers.map(take);
  return [takes(taken), track.after, track.resume(resumed), takes(then), track.after];
})));
"""


def test_it_resumes_as_the_other_clients_do(folder: Path) -> None:
    cases = [
        {
            "seq": seq,
            "taken": taken,
            "resumed": {"epoch": epoch, "seq": now, "recovered": recovered, "lost": lost},
            "then": then,
        }
        for seq, taken, epoch, now, (recovered, lost), then in itertools.product(
            (0, 3),
            ([], [2, 3, 4], [4, 7, 5]),
            ("one", "two"),
            (1, 4, 9),
            ((True, None), (False, [5, 6]), (False, [5, None]), (False, [1, 2])),
            ([1, 2], [5, 7, 8]),
        )
    ]
    expected = []
    for case in cases:
        track = Track()
        track.join("one", case["seq"])  # type: ignore[arg-type]
        taken = [track.take(seq) for seq in case["taken"]]  # type: ignore[attr-defined]
        after = track.after
        lost = case["resumed"]["lost"]  # type: ignore[index]
        gap = track.resume(**{**case["resumed"], "lost": tuple(lost) if lost else None})  # type: ignore[arg-type, dict-item]
        then = [track.take(seq) for seq in case["then"]]  # type: ignore[attr-defined]
        expected.append([taken, after, gap, then, track.after])
    assert evaluate(folder, RESUMING, cases) == json.loads(json.dumps(expected))


PARSING = """
import { readFileSync } from 'node:fs';
import { parse } from './web/lines.js';
console.log(JSON.stringify(JSON.parse(readFileSync(0, 'utf8')).map(parse)));
"""
LINES = [
    "안녕",
    "//join x",
    "/join 게임방 ",
    "/join",
    "/msg 밥 지금 어디 ",
    "/msg 밥",
    "/msg 밥  ",
    "/me  손을 흔든다",
    "/me",
    "/who",
    "/who x",
    "/rooms",
    "/help",
    "/quit",
    "/nick x",
    "  ",
    "",
    "/",
    "//",
    " /who",
    "a /who",
    "/msg",
    "/me\ta",
]


def _as_object(line: str) -> object:
    match parse(line, named=True):
        case None:
            return None
        case Say(text):
            return {"what": "say", "text": text}
        case Tell(name, text):
            return {"what": "tell", "name": name, "text": text}
        case Enter(room):
            return {"what": "enter", "room": room}
        case Incomplete(word):
            return {"what": "incomplete", "word": word}
        case Unknown(word):
            return {"what": "unknown", "word": word}
        case Moderate(action, target, seconds):
            return {"what": "moderate", "action": action, "target": target, "seconds": seconds}
        case Command() as command:
            return {"what": command.value[1:]}


def test_a_typed_line_means_what_it_means_in_the_terminal(folder: Path) -> None:
    assert evaluate(folder, PARSING, LINES) == [_as_object(line) for line in LINES]


# How an operator's line is written, and what it asks for. None: incomplete.
OPERATORS_LINES: list[tuple[str, tuple[str, str, float | None] | None]] = [
    ("/kick 밥", ("kick", "밥", None)),
    ("/kick 192.0.2.0/24 ", ("kick", "192.0.2.0/24", None)),
    ("/kick", None),
    ("/kick 밥 그만", None),
    ("/unban 밥", ("unban", "밥", None)),
    ("/unmute 밥", ("unmute", "밥", None)),
    ("/close 놀이방", ("close", "놀이방", None)),
    ("/close", None),
    ("/ban 밥", ("ban", "밥", None)),
    ("/ban 밥 for 10m", ("ban", "밥", 600.0)),
    ("/mute  밥  for  1.5 h", ("mute", "밥", 5400.0)),
    ("/mute 밥 for 30", ("mute", "밥", 30.0)),
    ("/mute 밥 for 2000MS", ("mute", "밥", 2.0)),
    ("/mute 밥 for 0.5s", None),
    ("/mute 밥 for 87601h", None),
    ("/mute 밥 for 5 days", None),
    ("/ban", None),
    ("/ban 밥 for", None),
    ("/ban 밥 10m", None),
    ("/ban 밥 for ever", None),
    ("/ban for 10m", None),
]


def test_an_operators_line_names_a_target_and_maybe_for_how_long(folder: Path) -> None:
    found = evaluate(folder, PARSING, [line for line, _ in OPERATORS_LINES])
    expected: list[dict[str, object]] = []
    for line, wanted in OPERATORS_LINES:
        if wanted is None:
            expected.append({"what": "incomplete", "word": line.split()[0]})
        else:
            action, target, seconds = wanted
            asked: dict[str, object] = {"what": "moderate", "action": action, "target": target}
            expected.append(asked if seconds is None else {**asked, "seconds": seconds})
    assert found == expected


SHOWING = """
import { visible, pieces } from './web/lines.js';
const found = {};
const whole = [];
for (let code = 0; code <= 0x10ffff; code += 1) {
  const char = String.fromCodePoint(code);
  if (/\\p{Cn}/u.test(char)) continue;
  if (visible(char) !== char) found[code] = visible(char);
  if (pieces(char).some((piece) => piece.hidden)) whole.push(code);
}
console.log(JSON.stringify([found, whole, pieces('a\\r\\nb\\u202e\\u0007c')]));
"""


def test_what_does_not_print_is_escaped_as_in_the_terminal_but_for_line_breaks_and_tabs(folder: Path) -> None:
    shown, hidden, pieces = evaluate(folder, SHOWING, None)
    # A character that one of the two does not know yet is left out.
    known = {
        code for code in map(int, shown) if unicodedata.category(chr(code)) != "Cn"
    }  # Node knows as many characters, or more
    expected = {
        code: visible(chr(code)) for code in range(sys.maxunicode + 1) if visible(chr(code)) != chr(code)
    }
    expected = {code: text for code, text in expected.items() if unicodedata.category(chr(code)) != "Cn"}
    assert {code: shown[str(code)] for code in known} == expected
    assert set(map(int, shown)) - set(hidden) == {ord("\n"), ord("\t")}
    assert pieces == [
        {"text": "a\nb", "hidden": False},
        {"text": "\\u202e\\x07", "hidden": True},
        {"text": "c", "hidden": False},
    ]


# Colours


def _variables(css: str) -> tuple[dict[str, str], dict[str, str]]:
    light, dark = css.split("@media (prefers-color-scheme: dark)")[:2]
    each = [dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", part.split("\n\n")[0])) for part in (light, dark)]
    whole = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))
    return whole, whole | each[1]


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


NAMES = [f"name-{number}" for number in range(10)]
PAIRS = [
    *itertools.product(("text", "soft"), ("page", "surface", "bubble", "own", "secret", "hover")),
    # Names above messages, private ones too, in an action on the page itself; the letter on the disc.
    *itertools.product(NAMES, ("page", "surface", "bubble", "secret")),
    *itertools.product(("bad", "accent"), ("page", "surface", "bubble")),
    ("on-accent", "accent"),
    ("on-accent", "accent-hover"),
    ("on-trouble", "trouble"),
]


# The border of a field on the ground inside it and on that around it; the dot of the connection's state.
BORDERS = [
    *itertools.product(("field",), ("page", "surface")),
    *itertools.product(("good", "wait", "bad"), ("surface",)),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("pairs", "least"), [(PAIRS, AA), (BORDERS, AA_BORDER)], ids=["text", "borders"])
def test_colours_have_contrast(scheme: str, pairs: list[tuple[str, str]], least: float) -> None:
    colours = _variables((WEB / "style.css").read_text(encoding="utf-8"))[scheme == "dark"]
    weak = {
        pair: ratio
        for pair in pairs
        if (ratio := round(contrast(colours[pair[0]], colours[pair[1]]), 2)) < least
    }
    assert not weak


# Files


def test_the_page_loads_nothing_from_elsewhere_and_has_no_code_or_style_in_its_markup() -> None:
    assert "'unsafe" not in _POLICY
    page = (WEB / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", page)
    for path in WEB.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|@import|url\(|innerHTML|insertAdjacentHTML|\beval\b", text), (
            path.name
        )


def test_both_languages_have_the_same_texts(folder: Path) -> None:
    program = """
    const all = {};
    for (const language of ['en-GB', 'ko-KR']) {
      Object.defineProperty(globalThis, 'navigator', { value: { language }, configurable: true });
      const { WORDS } = await import(`./web/words.js?${language}`);
      const { help, helpForOperators, ...rest } = WORDS;
      const tables = Object.values(rest).filter((each) => typeof each === 'object').map(Object.keys);
      all[language] = [Object.keys(WORDS), tables, help.length, helpForOperators.length];
    }
    console.log(JSON.stringify(all));
    """
    found = evaluate(folder, program, None)
    assert found["en-GB"] == found["ko-KR"]
    used = "WORDS.errors" + "".join(
        each.read_text(encoding="utf-8") for each in WEB.iterdir() if each.name != "words.js"
    )
    assert [word for word in found["en-GB"][0] if not re.search(rf"\b{word}\b", used)] == []
