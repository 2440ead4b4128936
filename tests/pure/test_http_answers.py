"""What requests are answered with: statuses, headers, what comes after."""

import h11
import pytest

from mpchat.protocol.http import HEAD_LIMIT, bare_answer
from mpchat.worker.http_answers import MOST_LINES, Answer, Site, answer, too_slow
from mpchat.worker.site import File, load_site

# Unix seconds: 8 November 1994, 12:45:26 UTC.
NOW = 784_298_726.0
SITE = Site({"/": File(b"<p>hello", "text/html; charset=utf-8", '"tag"')}, ("https://other.example",))


def head(line: str, **headers: str) -> bytes:
    fields = {
        "Host": "chat.example:4000",
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return "\r\n".join([f"{line} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items()), "", ""]).encode()


def read(given: Answer, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Return status, headers and body as a client of its own kind reads them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(given.data)
    response = client.next_event()
    assert isinstance(response, h11.Response | h11.InformationalResponse)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    return response.status_code, {k.decode(): v.decode() for k, v in response.headers}, body


def ask(line: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    given = answer(head(line, **headers), SITE, NOW)
    return read(given, line.partition(" ")[0])


def test_a_file_comes_with_its_type_its_tag_and_what_keeps_strangers_code_out() -> None:
    status, headers, body = ask("GET /?x=1")
    assert (status, body) == (200, b"<p>hello")
    assert headers["content-type"] == "text/html; charset=utf-8"
    assert headers["etag"] == '"tag"'
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("http://chat.example:4000/", 200),
        ("HTTP://elsewhere.example", 200),
        ("https://chat.example/?x=1", 200),
        ("http://chat.example/x", 404),
        ("http://[/", 404),
        ("ftp://chat.example/", 404),
        ("*", 404),
    ],
)
def test_a_target_may_name_the_server(target: str, status: int) -> None:
    assert ask(f"GET {target}")[0] == status


def test_head_has_the_size_and_no_body() -> None:
    status, headers, body = ask("HEAD /")
    assert (status, headers["content-length"], body) == (200, "8", b"")


@pytest.mark.parametrize("tags", ['"tag"', 'W/"tag"', '"a", "tag"', "*"])
def test_a_file_that_the_browser_has_is_not_sent_again(tags: str) -> None:
    status, headers, body = ask("GET /", If_None_Match=tags)
    assert (status, headers["etag"], body) == (304, '"tag"', b"")
    assert ask("GET /", If_None_Match='"old"')[0] == 200


@pytest.mark.parametrize("path", ["/nothing", "/../pyproject.toml", "/%2e%2e/x", "//", "*", "/index.html/"])
def test_other_paths_are_nothing(path: str) -> None:
    status, _, body = ask(f"GET {path}")
    assert status == 404
    assert b"the chat's page is /" in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"])
def test_other_methods_are_not_allowed(method: str) -> None:
    status, headers, _ = ask(f"{method} /")
    assert status == 405
    assert headers["allow"] == "GET, HEAD"


def test_whether_it_lives_and_whether_it_takes_clients() -> None:
    assert ask("GET /healthz")[0] == 200
    assert ask("GET /readyz")[0] == 200


def test_who_asks_again_whether_clients_are_accepted_connects_again() -> None:
    assert ask("GET /readyz")[1]["connection"] == "close"
    assert "connection" not in ask("GET /healthz")[1]


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"", 431),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no host
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        (b"\x00\r\n\r\n", 400),
    ],
)
def test_what_is_no_request_is_told_and_ends_the_connection(sent: bytes, status: int) -> None:
    given = answer(sent, SITE, NOW)
    assert given.last
    found, headers, body = read(given)
    assert found == status
    assert headers["connection"] == "close"
    assert body.endswith(b"\n")
    if not sent:
        assert f"{HEAD_LIMIT}".encode() in body


def test_a_slow_request_is_told_how_slow_it_may_be() -> None:
    status, _, body = read(Answer(too_slow(2.5, NOW), last=True))
    assert status == 408
    assert b"2.5 seconds" in body


def test_a_connection_goes_on_unless_a_body_follows_or_one_of_both_wants_the_end() -> None:
    assert not answer(head("GET /"), SITE, NOW).last
    assert not answer(head("POST /"), SITE, NOW).last
    for line, more in (("POST /", {"Content_Length": "3"}), ("GET /", {"Transfer_Encoding": "chunked"})):
        given = answer(head(line, **more), SITE, NOW)
        assert given.last
        assert read(given)[1]["connection"] == "close", "the client is told that it ends"
    assert answer(head("GET /", Connection="close"), SITE, NOW).last
    assert answer(head("GET /").replace(b"1.1", b"1.0"), SITE, NOW).last


# WebSocket handshakes.

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
WANTED = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec_WebSocket_Key": KEY,
    "Sec_WebSocket_Version": "13",
}


def shake(**more: str) -> Answer:
    fields = {key: value for key, value in (WANTED | more).items() if value}
    return answer(head("GET /ws", **fields), SITE, NOW)


def test_the_handshake_of_the_standard_is_answered_as_the_standard_says() -> None:
    given = shake()
    assert given.upgraded
    assert given.data.startswith(b"HTTP/1.1 101 ")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in given.data
    assert b"Sec-WebSocket-Protocol" not in given.data


@pytest.mark.parametrize(("offered", "chosen"), [("mpchat", True), ("chat, mpchat", True), ("chat", False)])
def test_the_subprotocol_is_taken_if_it_is_offered(offered: str, *, chosen: bool) -> None:
    given = shake(Sec_WebSocket_Protocol=offered)
    assert given.upgraded
    assert (b"Sec-WebSocket-Protocol: mpchat\r\n" in given.data) is chosen


@pytest.mark.parametrize(
    "origin", ["http://chat.example:4000", "https://CHAT.example:4000", "https://other.example", ""]
)
def test_the_own_page_listed_ones_and_programs_may_connect(origin: str) -> None:
    assert shake(Origin=origin).upgraded


@pytest.mark.parametrize(
    "origin",
    ["http://chat.example", "https://evil.example", "null", "http://chat.example:4000.evil.example", "x"],
)
def test_pages_from_elsewhere_may_not_connect(origin: str) -> None:
    given = shake(Origin=origin)
    assert not given.upgraded
    status, _, body = read(given)
    assert status == 403
    assert b"origins" in body


@pytest.mark.parametrize(
    ("host", "origin", "allowed"),
    [
        ("chat.example:443", "https://chat.example", True),
        ("chat.example", "https://chat.example", True),
        ("chat.example:80", "http://chat.example", True),
        ("chat.example:80", "https://chat.example", False),
        ("chat.example", "https://chat.example:444", False),
        ("chat.example:80", "http://chat.example:80", True),
        ("chat.example", "https://other.example:443", True),
    ],
)
def test_the_port_of_a_scheme_may_be_left_out(host: str, origin: str, *, allowed: bool) -> None:
    assert shake(Host=host, Origin=origin).upgraded is allowed


def test_all_origins_may_be_allowed() -> None:
    fields = WANTED | {"Origin": "https://evil.example"}
    assert answer(head("GET /ws", **fields), Site({}, ("*",)), NOW).upgraded


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"Upgrade": ""}, 426),
        ({"Upgrade": "h2c"}, 426),
        ({"Sec_WebSocket_Version": "8"}, 426),
        ({"Sec_WebSocket_Version": "8, 13"}, 426),
        ({"Sec_WebSocket_Version": ""}, 400),
        ({"Sec_WebSocket_Key": ""}, 400),
        ({"Sec_WebSocket_Key": "short"}, 400),
        ({"Connection": "keep-alive"}, 426),
    ],
)
def test_half_a_handshake_is_refused(more: dict[str, str], status: int) -> None:
    given = shake(**more)
    assert not given.upgraded
    found, headers, _ = read(given)
    assert found == status
    if status == 426:  # RFC 9110, section 15.5.22, and RFC 6455, section 4.2.2
        assert (headers["upgrade"], headers["connection"]) == ("websocket", "Upgrade")
        assert headers["sec-websocket-version"] == "13"


def test_the_package_has_the_page() -> None:
    site = load_site()
    assert site["/"] is site["/index.html"]
    assert site["/"].body.startswith(b"<!doctype html>")
    assert all(path.count("/") == 1 for path in site)


@pytest.mark.parametrize("lines", [MOST_LINES - 1, MOST_LINES, 2000])
def test_a_head_has_no_more_lines_than_are_cheap_to_read(lines: int) -> None:
    """A request line, Host and an empty line are among them; h11 takes bare line feeds too."""
    for end in (b"\r\n", b"\n"):
        sent = b"GET / HTTP/1.1\r\nHost: a\r\n" + (b"a:" + end) * (lines - 3) + b"\r\n"
        given = answer(sent, SITE, NOW)
        assert (read(given)[0] == 431) is (lines > MOST_LINES)
        assert given.last is (lines > MOST_LINES)


def test_a_second_request_behind_bare_line_feeds_is_not_swallowed() -> None:
    given = answer(b"GET / HTTP/1.1\nHost: a\n\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n", SITE, NOW)
    assert (read(given)[0], given.last) == (400, True)


def test_each_answer_has_its_date() -> None:
    sent = [
        head("GET /"),
        head("HEAD /"),
        head("POST /"),
        head("GET /none"),
        head("GET /ws"),
        b"",
        b"x\r\n\r\n",
    ]
    sent.append(head("GET /", If_None_Match='"tag"'))
    answers = [answer(each, SITE, NOW).data for each in sent]
    for each in (*answers, too_slow(1.0, NOW), bare_answer(b"", "403 Forbidden", "no", NOW)):
        assert b"\r\ndate: tue, 08 nov 1994 12:45:26 gmt\r\n" in each.lower()


@pytest.mark.parametrize(("method", "body"), [("GET", b"no\n"), ("HEAD", b"")])
def test_an_answer_without_a_library_is_like_the_others(method: str, body: bytes) -> None:
    bare = Answer(bare_answer(head(f"{method} /"), "403 Forbidden", "no", NOW), last=True)
    status, headers, got = read(bare, method)
    assert (status, headers["content-length"], headers["connection"], got) == (403, "3", "close", body)
    assert bare.data.endswith(b"\r\n\r\n" + body)
    like = ask("GET /none")[1]
    assert headers == like | {"content-length": "3", "connection": "close"}
