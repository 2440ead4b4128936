"""Names of members and rooms: which are allowed, and when two are the same. Pure.

A name appears on every screen, so no character in it may be invisible, reorder the text beside it, or
control a terminal. It is kept and shown as it was chosen, in Unicode's composed form (NFC): Korean letters
(jamo) from one system and syllables from another make one name. Names are *compared* by :func:`name_key`,
which is never shown.

Not here: whether a name is taken. Letters of different scripts that look alike (Latin a, Cyrillic а) are
different letters here; a program that shows names may mark them.
"""

import re
import unicodedata

from mpchat.errors import ProtocolError

# Lengths in code points of the NFC form. A Korean syllable is one, and so are most letters with accents. In
# scripts that write vowels as marks (Hindi, Thai) each mark is one more.
LONGEST_NAME = 20
LONGEST_ROOM = 32
# The longest canonical decomposition of a code point. A text longer than this many times the limit is too
# long however it is composed. This is checked first: to compose 40 000 hostile marks takes two seconds.
_LONGEST_DECOMPOSITION = 4
# Code points of the longest spelling of any name.
_LONGEST_SPELLING = LONGEST_ROOM * _LONGEST_DECOMPOSITION

_SIGNS = frozenset("_-.")
# Letters and letter-like numbers (the 〇 of Chinese dates, Roman numerals), marks, and digits.
_CATEGORIES = frozenset({"Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Mn", "Mc", "Me", "Nd"})
# Letters and marks that are invisible: Unicode's default ignorable ones (DerivedCoreProperties.txt). In
# games, "empty" names are made of the Hangul fillers.
_INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0").union(
    map(chr, range(0xFE00, 0xFE10)), map(chr, range(0xE0100, 0xE01F0))
)
_WHAT = {
    "Cc": "a control character",
    "Cf": "an invisible character",
    "Cn": "a character that does not exist",
    "Co": "a private character",
    "Cs": "half of a surrogate pair",
    "Zl": "a line break",
    "Zp": "a line break",
    "Zs": "a space",
}
_DOTTED_I = re.compile("i\u0307+")
_ADDRESS = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3}){3}")


def checked_name(text: str) -> str:
    """Return a member's name in NFC. Raises :class:`ProtocolError` ``bad_name``, whose text says why.

    1 to 20 code points: letters, marks and digits of any script, ``_``, and inside ``-`` and ``.``. An IP
    address is not a name: an operator who kicks or bans one means the address.
    """
    name = _checked(text, LONGEST_NAME, "bad_name", "a name")
    if _ADDRESS.fullmatch(name_key(name)):
        raise ProtocolError("bad_name", "a name cannot be an IP address")
    return name


def checked_room(text: str) -> str:
    """Return a room's name in NFC. Raises :class:`ProtocolError` ``bad_room``.

    The rules are those of :func:`checked_name`, with up to 32 code points, and an IP address is allowed.
    """
    return _checked(text, LONGEST_ROOM, "bad_room", "a room's name")


def check_lengths(*, name: str | None = None, room: str | None = None) -> None:
    """Raise :class:`ProtocolError` for a text that is too long for a name, however it is composed.

    For clients: the server's answer to a request over its ``payload_limit`` names no request.
    """
    if name is not None:
        _check_length(name, LONGEST_NAME, "bad_name", "a name")
    if room is not None:
        _check_length(room, LONGEST_ROOM, "bad_room", "a room's name")


def _check_length(text: str, longest: int, code: str, what: str) -> None:
    if len(text) > longest * _LONGEST_DECOMPOSITION:
        raise ProtocolError(code, f"{what} has at most {longest} characters, this one many more")


def _checked(text: str, longest: int, code: str, what: str) -> str:
    _check_length(text, longest, code, what)
    name = unicodedata.normalize("NFC", text)
    if not name:
        raise ProtocolError(code, f"{what} has at least one character, this one none")
    if len(name) > longest:
        raise ProtocolError(code, f"{what} has at most {longest} characters, this one {len(name)}")
    for char in name:
        if char not in _SIGNS and (unicodedata.category(char) not in _CATEGORIES or char in _INVISIBLE):
            raise ProtocolError(
                code, f"{what} cannot have {_described(char)} in it: only letters, digits, _ - and ."
            )
    if unicodedata.category(name[0]).startswith("M"):
        raise ProtocolError(
            code, f"{what} cannot begin with a mark that belongs on a letter: {_described(name[0])}"
        )
    for char, where in ((name[0], "begin"), (name[-1], "end")):
        if char in "-.":
            raise ProtocolError(code, f'{what} cannot {where} with "{char}"')
    return name


def _described(char: str) -> str:
    """Describe a character without using it: it may control a screen."""
    category = "Cf" if char in _INVISIBLE else unicodedata.category(char)
    known = " ".join(filter(None, [f"U+{ord(char):04X}", unicodedata.name(char, "")]))
    return f"{_WHAT[category]} ({known})" if category in _WHAT else known


def name_key(text: str) -> str:
    """Return the key of a name: two names are the same when their keys are equal.

    Spellings have one key when they differ only in composition (jamo and syllables), in case, also where case
    changes the length (ß and SS, the two small sigmas), in width (half-width Katakana and jamo, full-width
    Latin), or in Unicode's compatibility forms of a letter (ﬁ, ℌ). Case is ignored in Turkish as well as in
    English, so I, İ, i and ı are all the same. A key's key is the key. A key is only compared, so it may be
    longer than the name, up to 18 times (ﷺ).

    Meant for a result of :func:`checked_name` or :func:`checked_room`. Every other text has a key too, at low
    cost: a text longer than 128 code points, longer than any spelling of a name, is its own key.
    """
    if len(text) > _LONGEST_SPELLING:
        return text
    # Unicode's compatibility caseless match (The Unicode Standard, D146): twice, because to decompose can
    # uncover capitals (ℌ), and to fold their case can uncover what decomposes again.
    folded = unicodedata.normalize("NFD", text).casefold()
    folded = unicodedata.normalize("NFKD", folded).casefold()
    folded = unicodedata.normalize("NFKD", folded)
    # A dot above an i is invisible, and a small İ leaves one.
    folded = _DOTTED_I.sub("i", folded.replace("ı", "i"))
    return unicodedata.normalize("NFKC", folded)
