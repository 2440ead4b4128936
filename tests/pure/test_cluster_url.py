"""Cluster URLs: their parts, and no text with a password in it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.cluster_url import ClusterUrl, Server, parse, without_password

PARTS = [
    ("redis://a", ClusterUrl("redis", (Server("a", 6379),))),
    ("REDISS://a/", ClusterUrl("rediss", (Server("a", 6379),))),
    ("redis://:비밀@a", ClusterUrl("redis", (Server("a", 6379),), password="비밀")),
    ("redis://me@a:1", ClusterUrl("redis", (Server("a", 1),), user="me")),
    (
        "rediss://%EB%82%98:a%40b:c/d@[0::1]:7000/12",
        ClusterUrl("rediss", (Server("::1", 7000),), user="나", password="a@b:c/d", database=12),
    ),
    (
        "redis+sentinel://a,b.example:5,[::1]/chat",
        ClusterUrl(
            "redis+sentinel",
            (Server("a", 26379), Server("b.example", 5), Server("::1", 26379)),
            service="chat",
        ),
    ),
    (
        "redis+sentinel://me:비밀@a/chat/2",
        ClusterUrl(
            "redis+sentinel", (Server("a", 26379),), user="me", password="비밀", service="chat", database=2
        ),
    ),
]
SHOWN = [
    "redis://a",
    "rediss://a",
    "redis://:***@a",
    "redis://me@a:1",
    "rediss://%EB%82%98:***@[::1]:7000/12",
    "redis+sentinel://a,b.example:5,[::1]/chat",
    "redis+sentinel://me:***@a/chat/2",
]


@pytest.mark.parametrize(("text", "parts"), PARTS, ids=[text for text, _ in PARTS])
def test_the_parts_of_a_url(text: str, parts: ClusterUrl) -> None:
    assert parse(text) == parts


@pytest.mark.parametrize(("text", "shown"), list(zip([text for text, _ in PARTS], SHOWN, strict=True)))
def test_a_url_is_shown_without_its_password(text: str, shown: str) -> None:
    assert str(parse(text)) == without_password(text) == shown
    assert repr(parse(text)) == f"ClusterUrl({shown!r})"
    assert parse(shown)._replace(password="") == parse(text)._replace(password="")


def test_of_what_is_no_url_nothing_is_shown() -> None:
    assert without_password("") == ""
    assert without_password("redis:/비밀@a") == "***"


@given(st.text(st.characters(categories=("L", "N"), include_characters=":@/%-_ ?#")))
def test_no_password_is_ever_shown(password: str) -> None:
    text = f"redis://me:비밀{password}@a"
    assert "비밀" not in without_password(text)
    with suppress(ValueError):
        assert parse(text).servers == (Server("a", 6379),)


@pytest.mark.parametrize("text", ["비밀", "redis://비밀:@a", "redis://:비밀@a/b", "redis+sentinel://:비밀@a"])
def test_an_error_shows_no_part_of_the_text(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert "비밀" not in str(caught.value)
