"""Claims: names that look alike, and names whose owners have a proof."""

from itertools import product

import pytest
from support.desk import by_secret, proven, unproven

from mpchat.auth.grant import Identity
from mpchat.auth.lookalikes import looks
from mpchat.errors import ProtocolError
from mpchat.hub import claims as claims_module
from mpchat.hub.claims import Claim, Claims

# The second looks like the first: its first letter is Cyrillic.
ALICE, CYRILLIC = "alice", "\N{CYRILLIC SMALL LETTER A}lice"
ADDRESS = "192.0.2.1"


def take(
    claims: Claims, name: str, identity: int, identified: Identity | None = None, shown: str | None = None
) -> tuple[Claim, int | None]:
    """Take a name at second 10; its fresh token is the connection's number."""
    return claims.take(name, identity, shown, f"token {identity}", 10.0, identified)


def similar(claims: Claims, name: str, now: float = 10.0) -> str | None:
    """Return the name that looks like this one."""
    return claims.similar(name, unproven(name), now)


def test_a_name_in_use_is_found_by_one_that_looks_like_it_and_by_no_other() -> None:
    claims = Claims()
    take(claims, ALICE, 1, unproven(ALICE))
    assert similar(claims, CYRILLIC) == ALICE
    assert similar(claims, "앨리스") is None
    assert similar(claims, "ALICE") is None, "its own name in another spelling"


def test_of_names_that_look_alike_the_same_is_told_in_each_process() -> None:
    claims, letters = Claims(), ("o", "\N{CYRILLIC SMALL LETTER O}")
    spellings = ["".join(each) for each in product(letters, repeat=6)]
    for identity, name in enumerate(reversed(spellings[:-1]), 1):
        take(claims, name, identity, unproven(name))
    assert similar(claims, spellings[-1]) == "o" * 6, "the order of a set of texts is that of the process"


def test_a_name_that_is_held_is_found_until_its_time_is_over() -> None:
    claims = Claims()
    claim, _ = take(claims, ALICE, 1, unproven(ALICE))
    claims.hold(claim, 10.0, 60.0, ADDRESS)
    assert similar(claims, CYRILLIC, 69.0) == ALICE
    assert similar(claims, CYRILLIC, 70.0) is None


def test_a_name_that_was_freed_looks_like_nothing_and_leaves_nothing() -> None:
    claims = Claims()
    claim, _ = take(claims, ALICE, 1, unproven(ALICE))
    claims.free(claim, 1.0)
    assert similar(claims, CYRILLIC) is None
    assert (claims._by_look, claims._by_key) == ({}, {})


def test_a_name_that_is_taken_after_its_time_has_the_looks_of_its_new_owner() -> None:
    claims = Claims()
    claim, _ = take(claims, ALICE, 1, unproven(ALICE))
    claims.hold(claim, 0.0, 5.0, ADDRESS)
    after, replaced = take(claims, ALICE, 2)  # in the mode open: no looks
    assert (after is claim, replaced) == (False, None)
    assert similar(claims, CYRILLIC) is None
    assert claims._by_look == {}


@pytest.mark.parametrize("forgotten", ["too old", "too many"])
def test_a_held_name_that_is_forgotten_is_found_no_more(
    forgotten: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims = Claims()
    claim, _ = take(claims, ALICE, 1, unproven(ALICE))
    claims.hold(claim, 10.0, 60.0, ADDRESS)
    other, _ = take(claims, "앨리스", 2, unproven("앨리스"))
    if forgotten == "too old":
        claims.hold(other, 80.0, 60.0, ADDRESS)
    else:
        monkeypatch.setattr(claims_module, "MOST_HELD", 1)
        claims.hold(other, 10.0, 60.0, ADDRESS)
    assert claims.get(ALICE) is None
    assert similar(claims, CYRILLIC, 11.0) is None
    assert set(claims._by_look) == set(looks("앨리스"))


def test_another_spelling_brings_its_own_looks() -> None:
    claims = Claims()
    assert set(looks("Ian")) != set(looks("ian"))
    take(claims, "ian", 1, proven("ian"))
    claim, replaced = take(claims, "Ian", 2, proven("Ian"))
    assert (claim.name, replaced) == ("Ian", 1)
    assert set(claims._by_look) == set(looks("Ian"))


def test_two_names_with_one_look_are_both_there_and_the_other_one_is_found() -> None:
    """A proof has let the second one in."""
    claims = Claims()
    first, _ = take(claims, ALICE, 1, unproven(ALICE))
    second, _ = take(claims, CYRILLIC, 2, proven(CYRILLIC))
    assert (similar(claims, ALICE), similar(claims, CYRILLIC)) == (CYRILLIC, ALICE)
    claims.free(first, 1.0)
    assert (similar(claims, ALICE), similar(claims, CYRILLIC)) == (CYRILLIC, None)
    claims.free(second, 1.0)
    assert claims._by_look == {}


def test_a_proof_takes_a_name_in_use_and_the_old_token_is_worth_nothing_then() -> None:
    claims = Claims()
    claim, _ = take(claims, "앨리스", 1)
    old = claim.token
    claim, replaced = take(claims, "앨리스", 2, proven("앨리스"))
    assert (claim.identity, replaced) == (2, 1)
    claims.hold(claim, 10.0, 60.0, ADDRESS)
    with pytest.raises(ProtocolError) as raised:
        take(claims, "앨리스", 3, shown=old)
    assert raised.value.code == "name_taken"
    assert take(claims, "앨리스", 4, shown="token 2")[0].identity == 4


def test_a_proof_takes_a_held_name_and_the_token_of_the_one_before_is_worth_nothing_then() -> None:
    claims = Claims()
    claim, _ = take(claims, "앨리스", 1)
    claims.hold(claim, 10.0, 60.0, ADDRESS)
    claim, replaced = take(claims, "앨리스", 2, proven("앨리스"))
    assert (claim.token, replaced) == ("token 2", None)


def test_an_owner_with_proof_and_token_keeps_the_token_of_its_held_name() -> None:
    claims = Claims()
    claim, _ = take(claims, "앨리스", 1, proven("앨리스"))
    claims.hold(claim, 10.0, 60.0, ADDRESS)
    claim, _ = take(claims, "앨리스", 2, proven("앨리스"), shown="token 1")
    assert claim.token == "token 1"


@pytest.mark.parametrize("identified", [None, unproven("앨리스"), by_secret("앨리스")])
@pytest.mark.parametrize("held", [False, True])
def test_without_a_proof_of_the_name_only_its_token_takes_it(identified: Identity | None, held: bool) -> None:
    claims = Claims()
    claim, _ = take(claims, "앨리스", 1, proven("앨리스"))
    if held:
        claims.hold(claim, 10.0, 60.0, ADDRESS)
    with pytest.raises(ProtocolError) as raised:
        take(claims, "앨리스", 2, identified)
    assert raised.value.code == "name_taken"
    assert claim.identity == (None if held else 1)
    assert take(claims, "앨리스", 3, identified, shown="token 1")[0].identity == 3


@pytest.mark.parametrize("now", [9.0, 11.0, 20.0])
def test_a_proof_of_an_older_connection_takes_nothing_unless_it_comes_much_later(now: float) -> None:
    claims = Claims()
    take(claims, "앨리스", 5, proven("앨리스"))
    with pytest.raises(ProtocolError) as raised:
        claims.take("앨리스", 4, None, "token 4", now, proven("앨리스"))
    assert raised.value.code == "name_taken"
    claim = claims.get("앨리스")
    assert claim is not None
    assert (claim.identity, claim.token) == (5, "token 5")
    claim, replaced = claims.take("앨리스", 4, None, "token 4", 20.1, proven("앨리스"))
    assert (claim.identity, claim.token, replaced) == (4, "token 4", 5), (
        "a later proof by an older connection"
    )


def test_of_two_proven_names_that_look_alike_the_first_stays() -> None:
    claims = Claims()
    take(claims, ALICE, 1, unproven(ALICE))
    assert claims.similar(CYRILLIC, proven(CYRILLIC), 10.0) is None
    take(claims, ALICE, 2, proven(ALICE))
    assert claims.similar(CYRILLIC, proven(CYRILLIC), 10.0) == ALICE


def test_a_free_name_is_remembered_for_a_while_where_an_older_connection_may_return(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claims = Claims()

    def leave(name: str, now: float, *, remember: bool = True) -> None:
        claim, _ = claims.take(name, 1, None, "토큰", now)
        claims.free(claim, now + 1.0, remember=remember)

    leave("앨리스", 10.0)
    assert [claims.taken_since("앨리스", since) for since in (9.0, 10.0, 11.0)] == [True, False, False]
    leave("밥", 11.0, remember=False)
    assert not claims.taken_since("밥", 5.0)
    # The name is taken anew: that counts.
    claim, _ = claims.take("앨리스", 2, None, "토큰", 30.0)
    assert claims.taken_since("앨리스", 20.0)
    claims.hold(claim, 40.0, 5.0, ADDRESS, remember=True)
    other, _ = claims.take("캐럴", 3, None, "토큰", 50.0)
    claims.hold(other, 50.0, 5.0, ADDRESS, remember=True)  # and 앨리스 is free again
    assert (claims.get("앨리스"), claims.taken_since("앨리스", 20.0)) == (None, True)
    leave("데이브", 50.0 + claims_module.REMEMBERED)
    assert not claims.taken_since("앨리스", 20.0)
    monkeypatch.setattr(claims_module, "MOST_REMEMBERED", 2)
    for name in ("이브", "프랭크"):
        leave(name, 50.0 + claims_module.REMEMBERED)
    assert [claims.taken_since(name, 0.0) for name in ("데이브", "이브", "프랭크")] == [False, True, True]
