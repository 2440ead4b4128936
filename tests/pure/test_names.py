"""Names: which are allowed, what is said about the others, and when two are one."""

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.errors import ProtocolError
from mpchat.protocol.names import LONGEST_NAME, LONGEST_ROOM, checked_name, checked_room, name_key

BOTH = pytest.mark.parametrize("checked", [checked_name, checked_room])
# Characters of which some change when they are composed, folded or widened, and some are not allowed at all.
LIVELY = st.one_of(
    st.characters(categories=["Lu", "Ll", "Lt", "Lm", "Lo", "Nl", "Nd", "Mn", "Mc", "Me"]),
    st.sampled_from(
        "aA1_-.iIıİßẞſKﬁﬃﷺσςΣᾳᾼΐŉǰ가각ㄱㅏﾡﾢｶﾞｶ゛ガＡａ１\u0301\u0307\u0323\u0345\u1100\u1161\u11a8"
    ),
    st.characters(),
)
TEXTS = st.text(LIVELY, max_size=40)


def refusal(checked: Callable[[str], str], text: str) -> str:
    """Return what is said about a name that is not allowed."""
    with pytest.raises(ProtocolError) as caught:
        checked(text)
    assert caught.value.code == ("bad_room" if checked is checked_room else "bad_name")
    return caught.value.text


@pytest.mark.parametrize(
    "name",
    [
        "철수",
        "김철수",
        "영희_77",
        "ㅋㅋㅋ",
        "대기실-1",
        "서버.공지",
        "alice",
        "x",
        "_",
        "_bob_",
        "a.b-c",
        "7",
        "Zoë",
        "ßtraße",
        "Дмитрий",
        "Ελένη",
        "さくら",
        "ｻｸﾗ",
        "二〇二五",
        "नमस्ते",
        "สวัสดี",
        "محمد",
        "٣٤",
        "Ⅷ",
        "佐々木",  # 々 is a letter that modifies another
        "Xyz",
        "ǅuro",
        "1.2.3",
        "1.2.3.4.5",
        "가" * 20,
    ],
)
@BOTH
def test_letters_marks_and_digits_of_any_script_are_a_name(checked: Callable[[str], str], name: str) -> None:
    assert checked(name) == name


@BOTH
def test_a_name_is_returned_composed(checked: Callable[[str], str]) -> None:
    assert checked("\u1100\u1161\u11a8") == "각"
    assert checked(unicodedata.normalize("NFD", "김철수")) == "김철수"
    assert checked("Zoe\u0308") == "Zoë"


def test_the_length_is_that_of_the_composed_form() -> None:
    assert checked_name(unicodedata.normalize("NFD", "각" * 20)) == "각" * 20
    assert checked_room("방" * 32) == "방" * 32
    assert refusal(checked_name, "각" * 21) == "a name has at most 20 characters, this one 21"
    assert refusal(checked_room, "x" * 33) == "a room's name has at most 32 characters, this one 33"


def test_the_longest_spelling_of_the_longest_names_is_allowed_and_has_their_key() -> None:
    for checked, longest in ((checked_name, LONGEST_NAME), (checked_room, LONGEST_ROOM)):
        name = "ᾂ" * longest
        spelled = unicodedata.normalize("NFD", name)
        assert len(spelled) == 4 * longest
        assert checked(spelled) == name
        assert name_key(spelled) == name_key(name) != spelled


@pytest.mark.parametrize("address", ["127.0.0.1", "１２７.0.0.1", "999.1.1.1", "0.0.0.0"])
def test_an_address_is_no_name_and_may_be_a_room(address: str) -> None:
    assert refusal(checked_name, address) == "a name cannot be an IP address"
    assert checked_room(address) == address


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "a name has at least one character, this one none"),
        ("a" * 81, "a name has at most 20 characters, this one many more"),
        ("철 수", "a name cannot have a space (U+0020 SPACE) in it: only letters, digits, _ - and ."),
        ("a\u3000b", "a name cannot have a space (U+3000 IDEOGRAPHIC SPACE) in it: "),
        ("\u3164", "a name cannot have an invisible character (U+3164 HANGUL FILLER) in it: "),
        ("a\uffa0", "a name cannot have an invisible character (U+FFA0 HALFWIDTH HANGUL FILLER) in it: "),
        ("가\u1160", "a name cannot have an invisible character (U+1160 HANGUL JUNGSEONG FILLER) in it: "),
        ("a\u200db", "a name cannot have an invisible character (U+200D ZERO WIDTH JOINER) in it: "),
        ("a\u200b", "a name cannot have an invisible character (U+200B ZERO WIDTH SPACE) in it: "),
        ("\u202ebob", "a name cannot have an invisible character (U+202E RIGHT-TO-LEFT OVERRIDE) in it: "),
        ("a\u00adb", "a name cannot have an invisible character (U+00AD SOFT HYPHEN) in it: "),
        ("葛\U000e0100", "a name cannot have an invisible character (U+E0100 VARIATION SELECTOR-17) in it: "),
        ("a\nb", "a name cannot have a control character (U+000A) in it: "),
        ("\x1b[2J", "a name cannot have a control character (U+001B) in it: "),
        ("a\0", "a name cannot have a control character (U+0000) in it: "),
        ("a\u2028b", "a name cannot have a line break (U+2028 LINE SEPARATOR) in it: "),
        ("a\u2029b", "a name cannot have a line break (U+2029 PARAGRAPH SEPARATOR) in it: "),
        ("\ue000", "a name cannot have a private character (U+E000) in it: "),
        ("a\ufffe", "a name cannot have a character that does not exist (U+FFFE) in it: "),
        ("a\U000e0fff", "a name cannot have a character that does not exist (U+E0FFF) in it: "),
        ("\ud800", "a name cannot have half of a surrogate pair (U+D800) in it: "),
        ("철수😀", "a name cannot have U+1F600 GRINNING FACE in it: "),
        ("127.0.0.1:80", "a name cannot have U+003A COLON in it: "),
        ("a/b", "a name cannot have U+002F SOLIDUS in it: "),
        ("½", "a name cannot have U+00BD VULGAR FRACTION ONE HALF in it: "),
        (
            "\u0301a",
            "a name cannot begin with a mark that belongs on a letter: U+0301 COMBINING ACUTE ACCENT",
        ),
        (".a", 'a name cannot begin with "."'),
        ("-a", 'a name cannot begin with "-"'),
        ("a.", 'a name cannot end with "."'),
        ("철수-", 'a name cannot end with "-"'),
        ("-", 'a name cannot begin with "-"'),
    ],
)
def test_what_is_no_name_is_refused_with_the_reason(text: str, reason: str) -> None:
    assert refusal(checked_name, text).startswith(reason)
    if len(text) < LONGEST_ROOM:
        assert refusal(checked_room, text).startswith(reason.replace("a name", "a room's name"))


@BOTH
def test_a_frame_full_of_marks_is_not_composed_before_it_is_refused(checked: Callable[[str], str]) -> None:
    hostile = "a" + "\u0301\u0323" * 10_000  # 0.7 s to compose, and four times that for twice as many
    assert "this one many more" in refusal(checked, hostile)
    assert name_key(hostile) is hostile


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("각", "\u1100\u1161\u11a8"),  # jamo
        ("ㄱ", "ﾡ"),  # half-width jamo
        ("가ㄱ", "가ﾡ"),
        ("철수A", "철수ａ"),
        ("alice", "ALICE"),
        ("alice", "Ａｌｉｃｅ"),
        ("bob_1", "ＢＯＢ＿１"),
        ("ガ", "ｶﾞ"),
        ("ガ", "カ\u3099"),
        ("パン", "ﾊﾟﾝ"),
        ("Zoë", "ZOE\u0308"),
        ("straße", "STRASSE"),
        ("STRAẞE", "strasse"),
        ("ΟΔΥΣΣΕΥΣ", "οδυσσευς"),  # the last sigma has a form of its own
        ("οδυσσευς", "οδυσσευσ"),
        ("istanbul", "ISTANBUL"),
        ("istanbul", "İSTANBUL"),
        ("ışık", "IŞIK"),
        ("ali", "ali\u0307"),  # a dot upon the dot
        ("ﬁlip", "FILIP"),
        ("ℌans", "hans"),
        ("Ⅷ", "viii"),
        ("ſara", "Sara"),
        ("ᾳ", "ΑΙ"),
    ],
)
def test_spellings_of_one_name_have_one_key(one: str, other: str) -> None:
    assert name_key(one) == name_key(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("철수", "철희"),
        ("가", "각"),
        ("カ", "ガ"),
        ("さくら", "サクラ"),
        ("zoe", "zoë"),
        ("a", "а"),  # Cyrillic
        ("a-b", "a_b"),
        ("a", "aa"),
        ("o", "0"),
    ],
)
def test_different_names_have_different_keys(one: str, other: str) -> None:
    assert name_key(one) != name_key(other)


def test_a_key_may_be_far_longer_than_a_name() -> None:
    name = "ﷺ" * LONGEST_NAME
    assert checked_name(name) == name
    assert len(name_key(name)) == 18 * LONGEST_NAME
    assert name_key(name_key(name)) == name_key(name)


@given(TEXTS)
def test_what_is_allowed_is_composed_short_and_visible_and_stays_as_it_is(text: str) -> None:
    try:
        name = checked_name(text)
    except ProtocolError:
        assert refusal(checked_name, text).isprintable()
        return
    assert name == unicodedata.normalize("NFC", text) == checked_name(name) == checked_room(text)
    assert 1 <= len(name) <= LONGEST_NAME
    assert name.isprintable()
    assert name.strip(" -.") == name
    assert not unicodedata.combining(name[0])


@given(TEXTS)
def test_a_key_stays_and_does_not_depend_on_how_the_text_is_composed(text: str) -> None:
    key = name_key(text)
    assert name_key(key) == key == unicodedata.normalize("NFKC", key)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        other = unicodedata.normalize(form, text)
        if max(len(text), len(other)) <= LONGEST_ROOM * 4:
            assert name_key(other) == key


def test_every_character_has_the_key_of_its_other_cases_and_forms() -> None:
    for number in range(0x110000):
        char = chr(number)
        if not char.isalpha() and not unicodedata.combining(char):
            continue
        key = name_key(char)
        others = {
            char.upper(),
            char.lower(),
            char.title(),
            char.casefold(),
            unicodedata.normalize("NFKD", char),
        }
        assert {name_key(other) for other in others} == {key}, f"U+{number:04X}"


@given(TEXTS)
def test_the_key_is_that_of_the_name_in_capitals_and_in_small_letters(text: str) -> None:
    for other in (text.upper(), text.lower(), text.casefold()):
        if len(other) <= LONGEST_ROOM * 4:
            assert name_key(other) == name_key(text)
