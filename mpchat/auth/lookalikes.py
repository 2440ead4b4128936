"""Look-alikes: the looks of a name, by which two names that a reader may mistake are found.

The method is the skeleton of Unicode's Technical Standard 39: each character becomes its prototype, the
character that stands for all that look like it. The prototypes come from the library confusable_homoglyphs.
Looks are compared and kept, and never shown.

Not here: which names are the same (:mod:`mpchat.protocol.names`). Names that look alike are different names.
"""

import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib import metadata

from mpchat.protocol.names import LONGEST_NAME, name_key

# Marks in a row that a name may have on a letter (Unicode Technical Standard 39, section 5.4).
MOST_MARKS = 4
# The longest text of which looks are made: a key may be longer than its name. Past it the end is left out.
_MOST = LONGEST_NAME * 18
# The data has it around characters that are written from the right to the left.
_LEFT_TO_RIGHT_MARK = "\u200e"
_DATA = "confusables.json"
_LIBRARY = "confusable-homoglyphs"
# Letters for which the data has one prototype and which readers of their script tell apart: in Thai, Arabic,
# Malayalam, Tamil, Armenian and Chinese. Ordinary names differ in nothing else: ดวง and ตวง, ثریا and پریا.
_TOLD_APART = frozenset("คดตชซฆมฑทثپےںിീുൂൃെൈരറஐஜஈգզոռ鹂鹃")


def looks(name: str) -> tuple[str, ...]:
    """Return the looks of a name; two names look alike if any of their looks are equal.

    One look is that of the name as it is written. Capitals count as small letters in it, so that AIice with a
    capital I looks like alice. The others are those of the name's small and of its capital letters, as
    another client may write the name. The first call reads the library's data: 0.1 s, and 2 MB that stay.
    """
    key = name_key(name)
    found = (_skeleton(name).casefold(), _skeleton(key).casefold(), _skeleton(key.upper()))
    return tuple(dict.fromkeys(found))


def data_version() -> str:
    """Return the versions of the data that looks are made with: kept looks are worth nothing with others."""
    return f"{metadata.version(_LIBRARY)} {unicodedata.unidata_version}"


def too_many_marks(name: str) -> bool:
    """Tell whether more than 4 marks are in a row somewhere: such a pile hides the text around it."""
    row = 0
    for char in unicodedata.normalize("NFD", name):
        row = row + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if row > MOST_MARKS:
            return True
    return False


def _skeleton(text: str) -> str:
    prototypes = _prototypes()
    shown = "".join(prototypes.get(char, char) for char in _decomposed(text[:_MOST]))
    return unicodedata.normalize("NFC", "".join(_without_doubled_marks(_decomposed(shown))))


def _decomposed(text: str) -> str:
    """Return the text in NFD, but with whole Hangul syllables.

    The prototype of a double consonant is the consonant twice, so that in letters 아까 would look like 악가.
    """
    return "".join(
        char if "가" <= char <= "힣" else unicodedata.normalize("NFD", char)
        for char in unicodedata.normalize("NFC", text)
    )


def _without_doubled_marks(text: str) -> Iterable[str]:
    """Leave out a mark that follows itself: both are drawn in one place."""
    before = ""
    for char in text:
        if char != before or not unicodedata.category(char).startswith("M"):
            yield char
        before = char


@cache
def _prototypes() -> dict[str, str]:
    """Return the prototype of each character that has another one than itself."""
    from confusable_homoglyphs.utils import load  # not its functions: they keep all data, 18 MB

    # The data says of a prototype what looks like it, and of every other character its prototype.
    alike: dict[str, set[str]] = {}
    for text, others in load(_DATA).items():
        found = {each["c"].replace(_LEFT_TO_RIGHT_MARK, "") for each in others}
        alike.setdefault(text.replace(_LEFT_TO_RIGHT_MARK, ""), set()).update(found)
    first = {
        char: _decomposed(_middle(char, others, alike))
        for char, others in alike.items()
        if len(char) == 1 and char not in _TOLD_APART
    }
    # A prototype of several characters may have such in it that have prototypes of their own here.
    whole = {
        char: _decomposed("".join(first.get(each, each) for each in text)) for char, text in first.items()
    }
    return {char: text for char, text in whole.items() if text != char}


def _middle(char: str, others: set[str], alike: dict[str, set[str]]) -> str:
    """Return the prototype of a character and of those that look like it.

    Of two single characters the data does not say which of them it is; any will do, as long as it is the same
    for both.
    """
    if len(others) > 1:
        return char
    (other,) = others
    if len(other) > 1 or len(alike[other]) > 1:
        return other
    return min(char, other, key=lambda each: (-len(_decomposed(each)), each))
