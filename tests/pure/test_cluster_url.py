"""Cluster URLs: their parts, and no text with a password in it."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.cluster_url import ClusterUrl, Server, WrongUrlError, parse, shown, without_password

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
    ("redis://레디스.example:7000/3", ClusterUrl("redis", (Server("레디스.example", 7000),), database=3)),
    ("redis://redis_1.example.com", ClusterUrl("redis", (Server("redis_1.example.com", 6379),))),
    ("redis://10.0.0.1", ClusterUrl("redis", (Server("10.0.0.1", 6379),))),
    (
        "redis://u:%40%3A%2F%23@[fe80::1]:7000/1",
        ClusterUrl("redis", (Server("fe80::1", 7000),), user="u", password="@:/#", database=1),
    ),
    ("redis://u:a@b:c@h", ClusterUrl("redis", (Server("h", 6379),), user="u", password="a@b:c")),
    (
        "rediss+sentinel://u:p@a:7000,[::2]/%EC%B1%84%ED%8C%85",
        ClusterUrl(
            "rediss+sentinel",
            (Server("a", 7000), Server("::2", 26379)),
            user="u",
            password="p",
            service="채팅",
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
    "redis://레디스.example:7000/3",
    "redis://redis_1.example.com",
    "redis://10.0.0.1",
    "redis://u:***@[fe80::1]:7000/1",
    "redis://u:***@h",
    "rediss+sentinel://u:***@a:7000,[::2]/채팅",
]
WRONG = [
    "",
    "h:6379",
    "http://h",
    "unix:///run/redis.sock",
    "redis://",
    "redis:///0",
    "redis://:hunter2@",
    "redis://a b",
    "redis://" + "a" * 64,
    "redis://" + "가" * 64,
    "redis://\udc80",
    "redis://-",
    "redis://h\n",
    "redis://h:",
    "redis://h:0",
    "redis://h:65536",
    "redis://h:x",
    "redis://h:-1",
    "redis://h:١",
    "redis://h:" + "1" * 5000,
    "redis://::1",
    "redis://::1:6379",
    "redis://[::1",
    "redis://[::1]6379",
    "redis://[h]",
    "redis://[::1]:",
    "redis://a,b",
    "redis://h/x",
    "redis://h/-1",
    "redis://h/1/2",
    "redis://h?db=1",
    "redis://h/0#x",
    "redis+sentinel://a,b",
    "redis+sentinel://a,b/",
    "redis+sentinel://a,,b/s",
    "redis+sentinel://a/s/x",
    "redis+sentinel://a/%2F",
    "redis+sentinel://a/%ff",
]


@pytest.mark.parametrize(("text", "parts"), PARTS, ids=[text for text, _ in PARTS])
def test_the_parts_of_a_url(text: str, parts: ClusterUrl) -> None:
    assert parse(text) == parts


@pytest.mark.parametrize(("text", "shown"), list(zip([text for text, _ in PARTS], SHOWN, strict=True)))
def test_a_url_is_shown_without_its_password(text: str, shown: str) -> None:
    assert str(parse(text)) == without_password(text) == shown
    assert repr(parse(text)) == f"ClusterUrl({shown!r})"
    assert parse(shown)._replace(password="") == parse(text)._replace(password="")


@pytest.mark.parametrize(
    ("scheme", "is_tls"),
    [("redis", False), ("rediss", True), ("redis+sentinel", False), ("REDISS+Sentinel", True)],
)
def test_some_urls_ask_for_tls(scheme: str, *, is_tls: bool) -> None:
    assert parse(f"{scheme}://a/{'s' if 'entinel' in scheme else ''}").is_tls is is_tls


def test_a_server_is_shown_in_the_way_of_urls() -> None:
    found = [shown(each) for each in parse("redis+sentinel://레디스,[::1]:5/s").servers]
    assert found == ["레디스:26379", "[::1]:5"]


@pytest.mark.parametrize("text", WRONG)
def test_another_text_is_an_error_in_one_line(text: str) -> None:
    with pytest.raises(WrongUrlError) as caught:
        parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("redis+sentinel://127.0.0.1", "no service behind the last"),
        ("redis://a,b", "several servers"),
        ("redis://a/채팅", "no number of a database"),
        ("redis://127.0.0.1?x=1", "a server has no right host name"),
        ("redis://a:0", "a port is not 1 to 65535"),
        ("redis://:%ff@a", "not UTF-8"),
        ("redis://[::1::2]", "not an IPv6 address"),
    ],
)
def test_an_error_says_what_is_wrong(text: str, why: str) -> None:
    with pytest.raises(WrongUrlError, match=why) as caught:
        parse(text)
    assert "::" not in str(caught.value)


def test_of_what_is_no_url_nothing_is_shown() -> None:
    assert without_password("") == ""
    assert without_password("redis:/비밀@a") == "***"


@given(st.text(st.characters(categories=("L", "N"), include_characters=":@/%-_ ?#")))
def test_no_password_is_ever_shown(password: str) -> None:
    text = f"redis://me:비밀{password}@a"
    assert "비밀" not in without_password(text)
    with suppress(ValueError):
        assert parse(text).servers == (Server("a", 6379),)


@pytest.mark.parametrize(
    "text",
    ["비밀", "redis://비밀:@a", "redis://:비밀@a/b", "redis+sentinel://:비밀@a", "redis://" + "비밀" * 60],
)
def test_an_error_shows_no_part_of_the_text(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert "비밀" not in str(caught.value)
