"""Passwords: the right one is known again, no other one, and nothing of it is shown."""

import unicodedata

import pytest

from mpchat.auth import passwords
from mpchat.auth.passwords import COST, DUMMY, Cost, Stored, hash_password, verify
from mpchat.errors import MpchatError

QUICK = Cost(2**4, 1, 1)
RIGHT = "비밀번호 열두글자 🔑"


def test_the_right_password_is_known_again_and_no_other_one() -> None:
    stored = hash_password(RIGHT, QUICK)
    assert verify(stored, RIGHT)
    for wrong in ("", RIGHT + " ", RIGHT[:-1], RIGHT.replace(" ", ""), "\ud83d", "x" * 10_000):
        assert not verify(stored, wrong)


def test_letters_that_a_mac_decomposes_are_the_same_password() -> None:
    stored = hash_password(RIGHT, QUICK)
    assert verify(stored, unicodedata.normalize("NFD", RIGHT))
    assert not verify(stored, unicodedata.normalize("NFKC", RIGHT.replace("1", "１")) + "１")


def test_two_hashes_of_a_password_differ() -> None:
    one, other = hash_password(RIGHT, QUICK), hash_password(RIGHT, QUICK)
    assert one.salt != other.salt
    assert one.hash != other.hash
    assert (len(one.salt), len(one.hash)) == (16, 32)


def test_what_is_kept_can_be_written_and_read() -> None:
    stored = hash_password(RIGHT, QUICK)
    assert Stored.decode(stored.encode()) == stored
    assert verify(Stored.decode(stored.encode()), RIGHT)
    assert stored.encode().startswith("scrypt:16:1:1:")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "scrypt",
        "plain:16:1:1:AAAA:AAAA",
        "scrypt:15:1:1:AAAA:{hash}",
        "scrypt:0:1:1:AAAA:{hash}",
        "scrypt:16:1:65:AAAA:{hash}",
        "scrypt:16:1:-1:AAAA:{hash}",
        "scrypt:16:0:1:AAAA:{hash}",
        "scrypt:1048576:8:1:AAAA:{hash}",
        "scrypt:16:1:1:AAAA:AAAA",
        "scrypt:16:1:1:AAAA:!",
        "scrypt:x:1:1:AAAA:{hash}",
    ],
)
def test_a_damaged_hash_is_an_error_and_takes_no_memory(text: str) -> None:
    with pytest.raises(ValueError):
        Stored.decode(text.format(hash="A" * 43 + "="))


def test_new_hashes_cost_as_much_as_they_should() -> None:
    assert Cost(2**14, 8, 5) == COST == DUMMY.cost
    assert 16 << 20 <= COST.memory < 17 << 20


@pytest.mark.parametrize(
    ("length", "good"), [(7, False), (8, True), (256, True), (257, False), (100_000, False)]
)
def test_a_new_password_has_8_to_256_characters(length: int, good: bool) -> None:
    if good:
        hash_password("비" * length, QUICK)
        return
    with pytest.raises(MpchatError, match="8 to 256 characters"):
        hash_password("비" * length, QUICK)


def test_the_length_is_that_of_the_composed_form() -> None:
    hash_password(unicodedata.normalize("NFD", "각" * 256), QUICK)
    with pytest.raises(MpchatError):
        hash_password(unicodedata.normalize("NFD", "각" * 7), QUICK)


def test_nothing_of_a_password_or_its_hash_is_shown() -> None:
    stored = hash_password(RIGHT, QUICK)
    shown = f"{stored!r} {stored} {[stored]} {stored.__rich_repr__()}"
    assert stored.encode().split(":")[-1] not in shown
    assert repr(stored.hash) not in shown


def test_a_text_that_is_too_long_is_wrong_and_costs_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[int] = []
    scrypt = passwords._scrypt

    def counted(text: str, salt: bytes, cost: Cost) -> bytes:
        hashed.append(len(text))
        return scrypt(text, salt, cost)

    stored = hash_password("too long", QUICK)  # the text that is hashed in its place
    monkeypatch.setattr(passwords, "_scrypt", counted)
    assert not verify(stored, "x" * 1025)
    assert not verify(stored, "too long" + "x" * 2000)
    assert hashed == [8, 8]
    assert verify(stored, "too long")
