"""The webhook's URL: its parts, and that no text shows what may be secret."""

import pytest

from mpchat.hook_url import HookUrl, WrongHookError, parse, without_secrets


@pytest.mark.parametrize(
    ("text", "parts", "shown"),
    [
        ("http://a", ("http", "a", 80, "/", "", "", ""), "http://a/"),
        ("https://a:443/x", ("https", "a", 443, "/x", "", "", ""), "https://a/x"),
        ("https://a:8443/x/", ("https", "a", 8443, "/x/", "", "", ""), "https://a:8443/x/"),
        ("http://[::1]:80/", ("http", "::1", 80, "/", "", "", ""), "http://[::1]/"),
        ("http://a?key=1", ("http", "a", 80, "/", "key=1", "", ""), "http://a/?***"),
        ("https://me:p%40ss@a/", ("https", "a", 443, "/", "", "me", "p@ss"), "https://***@a/"),
        ("https://me@a/", ("https", "a", 443, "/", "", "me", ""), "https://***@a/"),
        (
            "https://한글.kr/대화?방=1",
            ("https", "xn--bj0bj06e.kr", 443, "/%EB%8C%80%ED%99%94", "%EB%B0%A9=1", "", ""),
            "https://xn--bj0bj06e.kr/%EB%8C%80%ED%99%94?***",
        ),
    ],
)
def test_a_url_has_parts_and_is_shown_without_secrets(
    text: str, parts: tuple[object, ...], shown: str
) -> None:
    url = parse(text)
    assert url == HookUrl(*parts)  # type: ignore[arg-type]
    assert (str(url), without_secrets(text)) == (shown, shown)
    assert "p@ss" not in repr(url)


def test_a_request_names_path_query_and_host() -> None:
    url = parse("https://me:secret@a:8443/x?key=1")
    assert (url.target, url.authority) == ("/x?key=1", "a:8443")
    assert (parse("http://a").target, parse("http://[::1]:1").authority) == ("/", "[::1]:1")


@pytest.mark.parametrize("text", ["secret", "https://me:secret@", "https://a:secret/", "https://a/#secret"])
def test_what_is_no_url_is_not_shown(text: str) -> None:
    with pytest.raises(WrongHookError) as caught:
        parse(text)
    assert "secret" not in str(caught.value)
    assert without_secrets(text) == "***"
    assert without_secrets("") == ""
