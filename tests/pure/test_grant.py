"""Grants: which rooms a proof allows, and that a proof shows nothing of itself."""

import time

import msgspec
import pytest

from mpchat.auth.grant import OPERATOR, Grant, Identity, Proof, matches


@pytest.mark.parametrize(
    ("pattern", "room", "match"),
    [
        ("로비", "로비", True),
        ("로비", "로비2", False),
        ("게임-*", "게임-7", True),
        ("게임-*", "게임-", True),
        ("게임-*", "게임", False),
        ("*", "로비", True),
        ("**", "로비", True),
        ("*방", "큰방", True),
        ("*방", "방문", False),
        ("가*나*다", "가가나나다다", True),
        ("가*나*다", "가다나", False),
        ("가*가", "가", False),  # the ends do not overlap
        ("가나*나다", "가나다", False),
        ("*나*나*", "가나다", False),
        ("LOBBY", "lobby", True),
        ("ＬＯＢ*", "lobby", True),
        ("lob＊", "lobby", False),  # a full-width star is no star
        ("\u1105\u1169\u1107\u1175", "로비", True),  # decomposed, as from a Mac
        ("", "로비", False),
        ("a.c", "abc", False),
        ("a?c", "abc", False),
        ("[a]", "a", False),
    ],
)
def test_a_pattern_stands_for_rooms(pattern: str, room: str, match: bool) -> None:
    assert matches(pattern, room) is match
    assert Grant("앨리스", rooms=("딴방", pattern)).allows(room) is match


def test_without_rooms_all_are_allowed_and_with_none_no_room() -> None:
    assert Grant("앨리스").allows("로비")
    assert not Grant("앨리스", rooms=()).allows("로비")


def test_a_hostile_pattern_takes_no_longer_than_another() -> None:
    begin = time.thread_time()
    assert not matches("*a" * 32 + "b", "a" * 32)
    for _ in range(100):
        assert not matches("a*" * 5000 + "b", "a" * 128)
    assert time.thread_time() - begin < 2.0


def test_a_proof_shows_nothing_of_itself() -> None:
    for kind in ("password", "jwt", "secret"):
        proof = msgspec.convert({"name": "앨리스", kind: "비밀번호"}, Proof)
        assert proof.kinds == (kind,)
        for text in (repr(proof), str(proof), f"{proof}", repr([proof]), repr(proof.__rich_repr__())):
            assert "비밀번호" not in text
            assert kind in text
            assert "앨리스" in text


def test_an_identity_goes_through_a_channel_and_back() -> None:
    identity = Identity("앨리스", Grant("앨리스", OPERATOR, ("로비", "게임-*"), 1.5e9), ("앨리스",))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(identity), type=Identity) == identity
