"""The setting ``cluster``: what its URLs mean, and what is said of wrong ones."""

import pytest

from mpchat.cluster.address import Address, parse_address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://h", Address((("h", 6379),))),
        ("redis://h/", Address((("h", 6379),))),
        ("redis://h:7000/3", Address((("h", 7000),), db=3)),
        ("redis://10.0.0.1:7000", Address((("10.0.0.1", 7000),))),
        ("redis://redis_1.example.com", Address((("redis_1.example.com", 6379),))),
        ("redis://레디스.example", Address((("레디스.example", 6379),))),
        ("redis://[::1]", Address((("::1", 6379),))),
        ("redis://[fe80::1]:7000/1", Address((("fe80::1", 7000),), db=1)),
        ("redis://:p@h", Address((("h", 6379),), password="p")),
        ("redis://u:p@h", Address((("h", 6379),), user="u", password="p")),
        ("redis://u@h", Address((("h", 6379),), user="u")),
        ("redis://u:%40%3A%2F%23@h/2", Address((("h", 6379),), user="u", password="@:/#", db=2)),
        ("redis://u:a@b:c@h", Address((("h", 6379),), user="u", password="a@b:c")),
        ("redis://:비밀@h", Address((("h", 6379),), password="비밀")),
        ("rediss://h", Address((("h", 6379),), tls=True)),
        ("redis+sentinel://a/mymaster", Address((("a", 26379),), service="mymaster")),
        (
            "redis+sentinel://u:p@a:7000,b,[::1]:7001,[::2]/채팅/4",
            Address(
                (("a", 7000), ("b", 26379), ("::1", 7001), ("::2", 26379)),
                service="채팅",
                db=4,
                user="u",
                password="p",
            ),
        ),
    ],
)
def test_a_url_is_understood(url: str, address: Address) -> None:
    assert parse_address(url) == address


def test_a_password_from_outside_is_used() -> None:
    assert parse_address("redis://u@h", "비밀") == Address((("h", 6379),), user="u", password="비밀")
    assert parse_address("redis://h", "비밀").password == "비밀"
    with pytest.raises(ValueError, match="cluster_password"):
        parse_address("redis://:p@h", "비밀")


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "begin with redis://"),
        ("h:6379", "begin with redis://"),
        ("http://h", "begin with redis://"),
        ("unix:///run/redis.sock", "begin with redis://"),
        ("redis://", "a host's name or address, not ''"),
        ("redis:///0", "a host's name or address, not ''"),
        ("redis://:hunter2@", "a host's name or address, not ''"),
        ("redis://a b", "not 'a b'"),
        ("redis://" + "a" * 64, "a host's name or address"),
        ("redis://-", "a host's name or address"),
        ("redis://h\n", "a host's name or address"),
        ("redis://h:", "a port from 1 to 65535 after 'h'"),
        ("redis://h:0", "a port from 1 to 65535"),
        ("redis://h:65536", "a port from 1 to 65535"),
        ("redis://h:x", "a port from 1 to 65535"),
        ("redis://h:-1", "a port from 1 to 65535"),
        ("redis://h:١", "a port from 1 to 65535"),
        ("redis://h:" + "1" * 5000, "a port from 1 to 65535"),
        ("redis://::1", r"in brackets, as in \[::1\]"),
        ("redis://::1:6379", r"in brackets, as in \[::1\]"),
        ("redis://[::1", r"\[::1\]:6379"),
        ("redis://[::1]6379", r"\[::1\]:6379"),
        ("redis://[h]", "not 'h'"),
        ("redis://[::1]:", "a port"),
        ("redis://a,b", "Sentinels"),
        ("redis://h/x", "number of a database"),
        ("redis://h/-1", "number of a database"),
        ("redis://h/1/2", "number of a database"),
        ("redis://h/1/", "number of a database"),
        ("redis://h?db=1", "nothing after"),
        ("redis://h/0#x", "nothing after"),
        ("redis+sentinel://a,b", "name the master"),
        ("redis+sentinel://a,b/", "name the master"),
        ("redis+sentinel://a,,b/s", "not ''"),
        ("redis+sentinel://a/s/x", "number of a database"),
    ],
)
def test_a_wrong_url_is_explained(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        parse_address(url)
    assert str(caught.value).startswith("must ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://u:hunter2@h",
        "redis://u:hunter2@h:x",
        "redis://u:hunter2@[::1",
        "redis://u:hunter2@h/x?y",
        "redis://u:hunter2@a b",
        "redis+sentinel://u:hunter2@a,b",
    ],
)
def test_no_error_shows_the_password(url: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_address(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u%40:hunter2@h", "redis://u%40@h:6379"),
        ("rediss://:hunter2@[::1]:7000/3", "rediss://[::1]:7000/3"),
        ("redis+sentinel://hunter:hunter2@a,b:1/s", "redis+sentinel://hunter@a:26379,b:1/s"),
    ],
)
def test_an_address_shows_all_but_its_password(url: str, shown: str) -> None:
    address = parse_address(url)
    assert str(address) == shown
    assert "hunter2" not in repr(address)
    assert "hunter2" not in f"{address}"
    assert parse_address(shown, "hunter2") == address
