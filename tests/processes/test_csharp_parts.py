"""Parts of the client for C#, in mono, against those of Python: JSON, frames, numbers that came, waits."""

import json
import math
import struct
import subprocess
from base64 import b64decode, b64encode
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.csharp import DRIVER, compiled
from support.waiting import PATIENCE

from mpchat.client.conversation import Backoff
from mpchat.client.resume import Track

# The tested code is not Python.
pytestmark = pytest.mark.one_python


class Parts:
    """A running program that reads, writes and follows numbers, a line each."""

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(
            [*command, "parts"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )

    def ask(self, *words: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(" ".join(words) + "\n")
        return self.process.stdout.readline().rstrip("\n")


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """The program of all tests: one compilation, one process."""
    each = Parts(compiled(tmp_path_factory.mktemp("csharp"), DRIVER))
    yield each
    each.process.communicate("", timeout=PATIENCE)
    assert each.process.returncode == 0


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=10,
)
# Values, and what becomes of their text when a byte is put in or left out.
PIECES = [*'"\\,]}-', "\\ud83d\\ude00", "\\ud83d", "\\ude00", "01", "1.", ".5", "1e5", "+1", "tru"]
PAYLOADS = st.one_of(
    st.tuples(JSON, st.booleans()).map(lambda pair: json.dumps(pair[0], ensure_ascii=pair[1]).encode()),
    st.tuples(JSON, st.sampled_from([None, 1]), st.integers(0, 200), st.sampled_from([*PIECES, ""])).map(
        lambda four: _mutated(json.dumps(four[0], indent=four[1], ensure_ascii=False), four[2], four[3])
    ),
    st.binary(max_size=6),
)


def _mutated(text: str, place: int, piece: str) -> bytes:
    at = place % (len(text) + 1)
    return (text[:at] + piece + text[at + (not piece) :]).encode()


@settings(max_examples=200)
@given(PAYLOADS)
@example(b"\xef\xbb\xbf{}")
@example(b"\xed\xa0\x80")
@example(b'"\xed\xa0\x80"')
@example(b'{"a":1,"a":2}')
@example(b'"\\u00e9\\/\\b\\f\\n\\r\\t"')
@example(b'"\\ude00"')
@example(b'"\\ud83d"')
@example(b'"\\ud83dx"')
@example(b'"\\ud83d\\u0041"')
@example(b'"\x00"')
@example(b"{}\x00")
@example(b"[1,]")
@example(b"1e999")
@example(b"-0")
@example(b"9223372036854775807")
@example(b"9223372036854775901")
@example(b"-9223372036854775809")
@example(b"9" * 400)
@example(b"0.14285714285714285")
@example(b"[" * 64 + b"]" * 64)
@example(b"[" * 66 + b"]" * 66)
def test_json_is_read_as_python_reads_it(parts: Parts, data: bytes) -> None:
    answer = b64decode(parts.ask("json", b64encode(data).decode())).decode()
    wanted = _strictly(data)
    if wanted is None:
        assert answer == "wrong"
    else:
        assert answer != "wrong"
        assert _close(json.loads(answer), wanted[0])


def _strictly(data: bytes) -> tuple[Any] | None:
    """The value in a tuple; None when it is wrong: Python is lenient with NaN, infinities and half pairs."""
    try:
        value = json.loads(data.decode("utf-8"), parse_constant=_reject, parse_int=_integer)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, UnicodeError):
        return None
    return (value,) if _depth(value) <= 65 else None


def _reject(word: str) -> None:
    raise ValueError(word)


def _integer(digits: str) -> int | float:
    """As the client reads it: a double when it does not fit into 64 bits."""
    number = int(digits)
    return number if -(2**63) <= number < 2**63 else float(digits)


def _close(read: Any, wanted: Any) -> bool:
    """Whether both are equal, doubles to 15 digits: mono does not write every double back as it was read."""
    if isinstance(read, dict) and isinstance(wanted, dict):
        return read.keys() == wanted.keys() and all(_close(read[key], wanted[key]) for key in read)
    if isinstance(read, list) and isinstance(wanted, list):
        return len(read) == len(wanted) and all(map(_close, read, wanted))
    if isinstance(wanted, float):
        return isinstance(read, int | float) and math.isclose(read, wanted, rel_tol=1e-15, abs_tol=1e-320)
    return bool(read == wanted)


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, inner), default=0)


@given(st.text(st.characters(codec="utf-8")))
def test_a_frame_is_written_as_python_reads_it(parts: Parts, text: str) -> None:
    written = b64decode(parts.ask("frame", b64encode(text.encode()).decode()))
    assert struct.unpack(">H", written[:2])[0] == len(written) - 2
    assert json.loads(written[2:]) == {"message": text}


SEQ = st.integers(0, 12)
STEPS = st.one_of(
    st.tuples(st.just("take"), SEQ),
    st.tuples(st.just("join"), st.sampled_from("ab"), SEQ),
    st.tuples(st.just("resume"), st.sampled_from("ab"), SEQ, st.booleans(), st.none()),
    st.tuples(st.just("resume"), st.sampled_from("ab"), SEQ, st.just(False), st.tuples(SEQ, st.none() | SEQ)),
)


@settings(max_examples=200)
@given(st.lists(STEPS, min_size=1, max_size=12))
def test_numbers_are_followed_as_in_python(parts: Parts, steps: list[tuple[Any, ...]]) -> None:
    track, words, expected = Track(), list[str](), list[str]()
    for step in steps:
        match step:
            case ("take", seq):
                new, gap = track.take(seq)
                words.append(f"take,{seq}")
                expected.append(f"{new}" + (f",{gap[0]},{gap[1]}" if gap else ""))
            case ("join", epoch, seq):
                track.join(epoch, seq)
                words.append(f"join,{epoch},{seq}")
                expected.append("joined")
            case (_, epoch, seq, recovered, lost):
                gap = track.resume(epoch, seq, recovered, lost)
                first, last = ("-", "-") if lost is None else lost
                words.append(f"resume,{epoch},{seq},{recovered},{first},{'-' if last is None else last}")
                expected.append(f"{gap[0]},{gap[1]}" if gap else "None")
        expected += [f"{track.after}", track.epoch]
    assert parts.ask("track", *words) == " ".join(expected)


@given(st.integers(0, 12) | st.integers(0, 2**31 - 1), st.floats(0, 1, exclude_max=True))
@example(0, 0.0)
@example(5, 0.999)
@example(6, 0.999)
@example(2**31 - 1, 0.999)
def test_the_wait_before_an_attempt_is_that_of_python(parts: Parts, attempt: int, drawn: float) -> None:
    wanted = Backoff(draw=lambda: drawn).delay(attempt)
    assert math.isclose(float(parts.ask("delay", f"{attempt}", f"{drawn!r}")), wanted, rel_tol=1e-12)
