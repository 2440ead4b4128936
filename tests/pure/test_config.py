"""Settings: one table, one precedence, and for every mistake a line that says where and what is allowed."""

import contextlib
import re
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.config import (
    BY_NAME,
    FIXED,
    FIXED_IN_CLUSTER,
    SETTINGS,
    Config,
    Origin,
    Setting,
    check_together,
    default_workers,
    differing,
    fixed,
    format_address,
    parse_environment,
    parse_file,
    resolve,
)
from mpchat.errors import ConfigError, Exit
from mpchat.protocol.messages import message_frame
from mpchat.setting_values import FAREWELL_LENGTH, parse_duration

# For each setting: values that are taken, with what becomes of them, and values that are not.
GOOD: dict[str, list[tuple[Any, Any]]] = {
    "name": [("a", "a"), ("A.b-c_9", "A.b-c_9"), ("x" * 32, "x" * 32)],
    "runtime_dir": [("", ""), ("/tmp/한글 folder", "/tmp/한글 folder")],
    "host": [
        ("::1", ("::1",)),
        ("[::1]", ("::1",)),
        ("127.0.0.1, localhost", ("127.0.0.1", "localhost")),
        (["::", "0.0.0.0"], ("::", "0.0.0.0")),
        ("fe80::1%eth0", ("fe80::1%eth0",)),
    ],
    "port": [(0, 0), ("65535", 65535), (4000, 4000)],
    "workers": [("0", 0), (256, 256)],
    "multiplexer": [(each, each) for each in ("auto", "epoll", "kqueue", "poll", "select")],
    "log_format": [(each, each) for each in ("text", "json")],
    "log_level": [(each, each) for each in ("debug", "info", "warning", "error")],
    "log_file": [("", ""), ("x.log", "x.log")],
    "web": [("on", True), ("OFF", False), (True, True)],
    "listen_grace": [(0, 0.0), ("300ms", 0.3), ("60 s", 60.0)],
    "origins": [
        ("", ()),
        ([], ()),
        ("https://Chat.Example.com/, http://[::1]:8080", ("https://chat.example.com", "http://[::1]:8080")),
        (["*"], ("*",)),
        ("https://a:443, http://a:80, https://a:80", ("https://a", "http://a", "https://a:80")),
    ],
    "tls": [("off", "off"), ("optional", "optional"), ("required", "required")],
    "tls_cert": [("", ""), ("cert.pem", "cert.pem"), ("/a/한글.pem", "/a/한글.pem")],
    "tls_key": [("", ""), ("key.pem", "key.pem")],
    "tls_processes": [("1", 1), (64, 64)],
    "proxy_from": [
        ("", ()),
        ("192.0.2.1", ("192.0.2.1/32",)),
        ("10.0.0.0/8, 2001:db8::/32", ("10.0.0.0/8", "2001:db8::/32")),
        (["::1"], ("::1/128",)),
    ],
    "metrics_from": [("", ()), ("192.0.2.1, ::1", ("192.0.2.1/32", "::1/128"))],
    "auth": [(each, each) for each in ("open", "names", "closed")],
    "auth_timeout": [("1s", 1.0), (60, 60.0), ("1h", 3600.0)],
    "accounts": [("", ""), ("/var/lib/한글/accounts.db", "/var/lib/한글/accounts.db")],
    "jwt_key": [("", ""), ("열쇠.pem", "열쇠.pem"), ("env:CHAT_KEY", "env:CHAT_KEY")],
    "jwt_audience": [
        ("mpchat", "mpchat"),
        ("https://chat.example.com/한글", "https://chat.example.com/한글"),
    ],
    "secret": [("", ""), ("비밀.txt", "비밀.txt"), ("env:_S1", "env:_S1")],
    "notices": [("on", True), ("OFF", False), (True, True), (False, False)],
    "max_connections": [(0, 0), ("10000000", 10_000_000)],
    "max_per_address": [(0, 0), ("7", 7)],
    "connect_rate": [(0, 0), ("100000", 100_000)],
    "connect_burst": [(1, 1), ("1000000", 1_000_000)],
    "payload_limit": [(64, 64), ("60000", 60_000), ("1k", 1024), ("58 KiB", 59_392)],
    "lag_limit": [("256k", 262_144), ("8 MiB", 8 << 20), ("1GB", 1 << 30), (1 << 20, 1 << 20)],
    "answers_memory": [("1M", 1 << 20), ("64 MiB", 64 << 20), ("64g", 64 << 30), (5 << 20, 5 << 20)],
    "coalesce": [(0, 0.0), ("4ms", 0.004), ("1 s", 1.0), (0.5, 0.5)],
    "idle_timeout": [(0, 0.0), ("0", 0.0), ("2m", 120.0), ("168h", 604_800.0)],
    "frame_timeout": [("1", 1.0), ("0s", 0.0), ("1.5 S", 1.5)],
    "keepalive": [("24h", 86_400.0), (0, 0.0)],
    "hang_timeout": [("1000ms", 1.0), ("1h", 3600.0)],
    "stop_timeout": [("100 ms", 0.1), (3600, 3600.0)],
    "bans": [("", ""), ("~/bans.json", "~/bans.json")],
    "flood_burst": [(1, 1), ("10000000", 10_000_000)],
    "flood_rate": [(0, 0), ("10000000", 10_000_000)],
    "history": [("", ""), ("/tmp/한글 folder/a", "/tmp/한글 folder/a")],
    "history_messages": [(1, 1), ("1000000", 1_000_000)],
    "history_age": [(0, 0.0), ("24h", 86_400.0), ("168h", 604_800.0)],
    "name_hold": [(0, 0.0), ("90s", 90.0), ("168h", 604_800.0)],
    "max_rooms": [(1, 1), ("1000000", 1_000_000)],
    "max_rooms_per_address": [(0, 0), ("1000000", 1_000_000)],
    "max_members": [(0, 0), ("10000000", 10_000_000)],
    "farewell": [("", ""), ("안녕 👋\n[bye]", "안녕 👋\n[bye]"), ("\x01" * 1000, "\x01" * 1000)],
    "hook": [
        ("", ""),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("https://me:비밀@[::1]/chat?key=1", "https://me:비밀@[::1]/chat?key=1"),
        ("HTTPS://한글.kr/대화", "HTTPS://한글.kr/대화"),
    ],
    "hook_rooms": [
        ("*", ("*",)),
        ("lobby, 게임*,*-2", ("lobby", "게임*", "*-2")),
        (["lobby"], ("lobby",)),
    ],
    "hook_secret": [("", ""), ("비밀.txt", "비밀.txt"), ("env:_S1", "env:_S1")],
    "hook_queue": [("64k", 64 << 10), ("16 MiB", 16 << 20), ("1g", 1 << 30)],
    "cluster": [
        ("", ""),
        ("redis://127.0.0.1", "redis://127.0.0.1"),
        ("rediss://me:비밀@[::1]:7000/3", "rediss://me:비밀@[::1]:7000/3"),
        ("redis+sentinel://a,b:1,c/chat/1", "redis+sentinel://a,b:1,c/chat/1"),
    ],
    "cluster_password": [("", ""), ("env:REDIS", "env:REDIS"), ("비밀.txt", "비밀.txt")],
    "cluster_name": [
        ("x", "x"),
        ("우리반", "우리반"),
        (unicodedata.normalize("NFD", "우리반"), "우리반"),
        ("x" * 100, "x" * 100),
    ],
    "host_name": [("", ""), ("서버-1.example", "서버-1.example"), ("x" * 100, "x" * 100)],
    "cluster_lease": [("1 s", 1.0), ("10m", 600.0), (2.5, 2.5)],
}
BAD: dict[str, list[Any]] = {
    "name": ["", "-a", ".", "..", "a/b", "x" * 33, "한글", "a b", "a\n", 5, True, ["a"]],
    "runtime_dir": ["a\0b", 5, False, ["/tmp"]],
    "host": [
        "",
        ",",
        "a..b",
        "a b",
        "-a",
        "x" * 64,
        "x." * 127 + "xx",
        "::1%\0",
        "[[::1]]",
        "한글",
        5,
        [5],
        [],
        True,
        {},
    ],
    "port": ["", "-1", "65536", "4e3", "0x10", "1_000", "４０００", "9" * 5000, 4.0, True, [1], -1],
    "workers": ["-1", "257", "two", 1.5, True],
    "multiplexer": ["", "AUTO", "iocp", 5, ["auto"]],
    "log_format": ["", "JSON", "xml", 5],
    "log_level": ["", "INFO", "trace", 5],
    "log_file": ["a\0b", 5, True],
    "web": ["", "yes", 1, ["on"]],
    "listen_grace": ["61s", -1, "soon", True, None],
    "origins": [
        "chat.example.com",
        "https://a/b",
        "ftp://a",
        "https://",
        [5],
        5,
        True,
        "https://a b",
        "null",
    ],
    "tls": ["", "on", True, "Required"],
    "tls_cert": [5, "a\0b"],
    "tls_key": [5, "a\0b"],
    "tls_processes": [0, "65", "many"],
    "proxy_from": ["localhost", "10.0.0.1/8", "192.0.2.1:80", "*", 5, [5]],
    "metrics_from": ["localhost", "10.0.0.1/8", "*", 5],
    "auth": ["", "on", True, "Closed", ["open"]],
    "auth_timeout": ["0", "999ms", "61m", 0, "soon", True, None],
    "accounts": ["a\0b", 5, True],
    "jwt_key": ["a\0b", 5, "env:", "env:1A", "env:A B", "-----BEGIN PRIVATE KEY-----\nMC4C", "a\nb"],
    "jwt_audience": ["", "x" * 201, " a", "a\tb", 5, ["mpchat"], None],
    "secret": ["a\0b", 5, "env:", "env:한글", "a\nb", True, None],
    "notices": ["", "yes", "1", 1, 0, ["on"], "on "],
    "max_connections": ["-1", "10000001", "many"],
    "max_per_address": ["-1", "10000001", 0.5],
    "connect_rate": ["-1", 100_001, 0.5],
    "connect_burst": [0, 1_000_001, "all"],
    "payload_limit": ["63", "60001", "1m", "k", "1.5k", "-64", "64 bits", True, 64.0],
    "lag_limit": ["255k", "2g", "1 TiB", "9" * 400 + "g", 1],
    "answers_memory": ["1023k", "65g", "-1", "many", 1],
    "coalesce": ["1001ms", "-1", "1 min", "1e-3", "nan", float("nan"), float("inf"), 10**400, "9" * 400],
    "idle_timeout": ["0.5", "169h", "inf", float("-inf"), 0.5],
    "frame_timeout": ["999ms", "8 days"],
    "keepalive": ["25h", "0.1", True],
    "hang_timeout": ["0", "0.9", "61m", 0],
    "stop_timeout": ["0", "99ms", "2h", None],
    "bans": ["a\0b", 5, False, ["/tmp"]],
    "flood_burst": [0, -1, 10_000_001, "many", 1.5, True, None],
    "flood_rate": [-1, 10_000_001, "many", 1.5, True, None],
    "history": ["a\0b", 5, False, ["/tmp"]],
    "history_messages": [0, -1, 1_000_001, "many", 1.5, True, None],
    "history_age": ["0.5s", "169h", -1, "soon", True, None],
    "name_hold": ["169h", -1, "soon", True, None],
    "max_rooms": [0, -1, 1_000_001, "many", 1.5, True, None],
    "max_rooms_per_address": [-1, 1_000_001, "few", 0.5],
    "max_members": [-1, 10_000_001, "many", 1.5, True, None],
    "farewell": ["x" * 1001, "half \udcff", "\ud83d", 5, True, ["bye"], None],
    "hook": [
        "example.com/chat",
        "ftp://example.com",
        "https://",
        "https://a..b",
        "https://a:0/",
        "https://a:65536/",
        "https://a:port/",
        "https://[::g]/",
        "https://a/b c",
        "https://a/#b",
        "https://a/" + "x" * 2000,
        "https://a\nb",
        5,
        True,
    ],
    "hook_rooms": ["", "a,,b", ["a", 5], [], "x" * 201, "a\nb", 5, None],
    "hook_secret": ["a\0b", 5, "env:", "env:한글", "a\nb", True, None],
    "hook_queue": ["63k", "2g", "-1", "many", 1, None],
    "cluster": [
        "127.0.0.1:6379",
        "redis://",
        "redis://a,b",
        "redis://a:0",
        "redis://a:65536",
        "redis://a/b",
        "redis://a/1/2",
        "redis://@a",
        "redis://me:@a",
        "redis://[::g]",
        "redis+sentinel://a,b",
        "redis+sentinel://a,,b/chat",
        "redis+sentinel://a/chat room",
        "http://a",
        "redis://a\nb",
        5,
        True,
    ],
    "cluster_password": ["a\0b", 5, "env:", "env:한글", "a\nb", True, None],
    "cluster_name": ["", "우리 반", "a\tb", "{a}", "x" * 101, "half \udcff", 5, None],
    "host_name": ["우리 반", "a\nb", "a}", "x" * 101, 5, True, None],
    "cluster_lease": ["999ms", "601", 0, "soon", True, None],
}
EVERY_GOOD = [(name, value, becomes) for name, rows in GOOD.items() for value, becomes in rows]
EVERY_BAD = [(name, value) for name, values in BAD.items() for value in values]


def flag(name: str, value: Any) -> dict[str, Origin]:
    return {name: Origin(value, f"flag {BY_NAME[name].flag}")}


def from_variables(**variables: str) -> dict[str, Origin]:
    return parse_environment({f"MPCHAT_{name.upper()}": value for name, value in variables.items()})


def refused(*sources: dict[str, Origin]) -> str:
    with pytest.raises(ConfigError) as caught:
        resolve(sources)
    assert caught.value.exit_code is Exit.USAGE
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_table_holds_every_setting_of_config_with_its_flag_variable_and_words() -> None:
    assert tuple(BY_NAME) == Config.__struct_fields__
    assert set(GOOD) == set(BAD) == set(BY_NAME)
    for setting in SETTINGS:
        assert setting.flag == "--" + setting.name.replace("_", "-")
        assert setting.variable == "MPCHAT_" + setting.name.upper()
        assert setting.allowed
        assert setting.help.endswith(".")


_RANGE = re.compile(r"([\d.]+) ?(KiB|MiB|s)? to ([\d.]+) ?(GiB|s|h|days|bytes)?\b")
_UNITS = {
    None: 1,
    "bytes": 1,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
    "s": 1,
    "h": 3600,
    "days": 86_400,
}
RANGES = [each for each in SETTINGS if _RANGE.match(each.allowed) and each.name != "name"]


@pytest.mark.parametrize("setting", RANGES, ids=[each.name for each in RANGES])
def test_what_is_said_to_be_allowed_is_allowed_and_nothing_outside_is(setting: Setting) -> None:
    found = _RANGE.match(setting.allowed)
    assert found is not None
    low, high = float(found[1]) * _UNITS[found[2]], float(found[3]) * _UNITS[found[4]]
    step = 0.001 if isinstance(setting.default, float) else 1
    kind = type(setting.default)
    for value in (low, high):
        assert setting.parse(kind(value)) == value
    outside = [low - step, high + step]
    if "or 0 for" in setting.allowed:
        outside[0] = low / 2
        assert setting.parse(kind(0)) == 0
    for value in outside:
        with pytest.raises(ValueError):
            setting.parse(kind(value))


def test_no_range_is_left_out() -> None:
    assert {each.name for each in RANGES} == {
        each.name for each in SETTINGS if type(each.default) in (int, float)
    }


def test_every_default_is_a_value_that_its_own_check_takes() -> None:
    for setting in SETTINGS:
        assert setting.parse(setting.default) == setting.default


def test_defaults_without_any_source() -> None:
    config, places = resolve([])
    assert (config.name, config.host, config.port, config.workers) == ("default", ("127.0.0.1",), 4000, 0)
    assert set(places.values()) == {"default"}


@pytest.mark.parametrize(("name", "value", "becomes"), EVERY_GOOD)
def test_what_is_allowed_is_taken_with_its_unit(name: str, value: Any, becomes: Any) -> None:
    config, places = resolve([flag(name, value)])
    assert getattr(config, name) == becomes
    assert type(getattr(config, name)) is type(becomes)
    assert places[name] == f"flag {BY_NAME[name].flag}"


@pytest.mark.parametrize(("name", "value"), EVERY_BAD)
def test_a_wrong_flag_names_the_flag_and_what_is_allowed(name: str, value: Any) -> None:
    said = refused(flag(name, value))
    assert said.startswith(f"flag {BY_NAME[name].flag}: {name} is ")
    assert said.endswith(f"allowed: {BY_NAME[name].allowed}")
    assert len(said) < 300


@pytest.mark.parametrize("name", ["jwt_key", "secret"])
def test_a_secret_in_place_of_its_place_is_not_shown(name: str) -> None:
    said = refused(flag(name, "-----BEGIN PRIVATE KEY-----\n비밀"))
    assert "비밀" not in said
    assert "BEGIN" not in said
    assert f"{name} is a value that is not shown, allowed: a file's path or env:NAME, never the " in said


def test_the_kinds_of_proof_follow_from_the_settings() -> None:
    assert resolve([])[0].proofs == ("password",)
    assert resolve([flag("jwt_key", "열쇠")])[0].proofs == ("password", "jwt")
    assert resolve([flag("secret", "env:A")])[0].proofs == ("password", "secret")
    assert resolve([flag("secret", "a"), flag("jwt_key", "b")])[0].proofs == ("password", "jwt", "secret")


@pytest.mark.parametrize(("name", "value"), [each for each in EVERY_BAD if isinstance(each[1], str)])
def test_a_wrong_variable_names_the_variable_and_what_is_allowed(name: str, value: str) -> None:
    sources = from_variables(**{name: value})
    if not value:  # an empty variable counts as not set
        assert sources == {}
        return
    said = refused(sources)
    assert said.startswith(f"variable MPCHAT_{name.upper()}: {name} is ")
    assert BY_NAME[name].allowed in said


def toml(value: Any) -> str | None:
    """Write a value down in TOML; None for what TOML cannot say."""
    if isinstance(value, str) and "\0" not in value and "\n" not in value:
        return f"'{value}'"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) or value in ([], {}) else None


@pytest.mark.parametrize(("name", "value"), [each for each in EVERY_BAD if toml(each[1])])
def test_a_wrong_line_names_file_and_line_and_what_is_allowed(name: str, value: Any) -> None:
    key = name.replace("_", "-")
    said = refused(parse_file(f"# first\n\n{key} = {toml(value)}\n", "some/mpchat.toml"))
    assert said.startswith(f"some/mpchat.toml, line 3: {name} is ")
    assert BY_NAME[name].allowed in said


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("port = ", "not TOML"),
        ("port 5", "not TOML"),
        ("port = 5\nport = 6", "not TOML"),
        ("port = " + "9" * 5000, "not TOML"),
        ("port = " + "[" * 5000, "nested too deeply"),
        ("port = 0x" + "f" * 5000, "too long to show"),
        ("color = 1", "unknown setting 'color'"),
        ("[server]\nport = 1", "unknown setting 'server'"),
        ("port.number = 1", "port is {'number': 1}"),
        ("[port]\nx = 1", "port is {'x': 1}"),
        ("[[port]]\nx = 1", "port is [{'x': 1}]"),
        ("port = 1979-05-27", "port is datetime.date"),
        ("log-level = 'info'\nlog_level = 'debug'", "set twice"),
        ("log-level = 'wrong'\nlog_level = 'debug'", "set twice"),
    ],
)
def test_a_file_that_is_no_settings_names_the_file_and_why(line: str, why: str) -> None:
    with pytest.raises(ConfigError, match=r"^conf\.toml") as caught:
        resolve([parse_file(line, "conf.toml")])
    assert why in str(caught.value)


def test_an_unknown_key_is_told_with_those_that_are_known() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_file("\nprot = 4000", "conf.toml")
    assert str(caught.value).startswith("conf.toml, line 2: unknown setting 'prot'; allowed are name, ")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('log_file = """\nport = 5\n"""\nport = 99999', 4),
        ("log-file = 'log = 3'\n'port' = 99999", 2),
        ('\t"port"=99999', 1),
        ("runtime-dir = 'a\u2028b'\nport = 99999", 2),
        ('# none is found\n"p\\u006Frt" = 99999', 1),
        ("name = 'a'\r\nport = 99999\r\n", 2),
    ],
)
def test_the_line_is_the_one_where_the_setting_stands_not_one_that_looks_like_it(
    text: str, line: int
) -> None:
    assert refused(parse_file(text, "conf.toml")).startswith(f"conf.toml, line {line}: port is 99999")


@pytest.mark.parametrize(("length", "shown"), [(58, "'" + "x" * 58 + "'"), (59, "'" + "x" * 56 + "…")])
def test_of_a_long_value_only_the_beginning_is_shown(length: int, shown: str) -> None:
    assert refused(flag("port", "x" * length)).startswith(f"flag --port: port is {shown}, allowed: ")


@pytest.mark.parametrize("text", ["runtime-dir = 'run'\ncolour = 1", "runtime_dir = 'run'\nport = 'x'"])
def test_only_the_settings_that_are_asked_for_are_read(text: str) -> None:
    assert parse_file(text, "conf.toml", ["runtime_dir"]) == {
        "runtime_dir": Origin("run", "conf.toml, line 1")
    }
    assert parse_file(text, "conf.toml", ["name"]) == {}
    for half in ("runtime-dir = ", "runtime_dir = "):
        assert parse_file(half, "conf.toml", ["name"]) == {}
        with pytest.raises(ConfigError, match="not TOML"):
            parse_file(half, "conf.toml", ["name", "runtime_dir"])


@pytest.mark.parametrize(
    ("text", "seconds"), [("1", 1.0), ("1.5 h", 5400.0), ("90m", 5400.0), ("87600h", 315_360_000.0)]
)
def test_a_duration_is_written_like_a_setting(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "0", "999 ms", "-1", "87600.1h", "2 d", "nan", "9" * 400])
def test_a_text_that_is_no_duration_up_to_ten_years_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError):
        parse_duration(text)


def test_flag_goes_before_file_and_file_before_variable() -> None:
    file = parse_file("port = 2\nworkers = 2", "conf.toml")
    variables = from_variables(port="3", workers="3", name="three")
    config, places = resolve([flag("port", "1"), file, variables])
    assert (config.port, config.workers, config.name) == (1, 2, "three")
    assert places["port"] == "flag --port"
    assert places["workers"] == "conf.toml, line 2"
    assert places["name"] == "variable MPCHAT_NAME"
    assert places["host"] == "default"


def test_a_mistake_in_a_source_that_another_overrides_does_not_lie_in_wait() -> None:
    assert refused(flag("port", "1"), from_variables(port="wrong")).startswith("variable MPCHAT_PORT")


def test_variables_that_are_not_settings_are_left_alone() -> None:
    assert parse_environment({"MPCHAT_": "x", "MPCHAT_COLOR": "red", "PORT": "1", "mpchat_port": "1"}) == {}


@pytest.mark.parametrize("char", ["a", "\x01", "한", "👋", '"'])
def test_the_longest_farewell_fits_a_frame(char: str) -> None:
    config, _ = resolve([flag("farewell", char * FAREWELL_LENGTH)])
    assert len(message_frame(config.farewell)) < 10_000


def test_what_differs_is_named_in_the_order_of_the_table() -> None:
    old, _ = resolve([])
    new, _ = resolve([flag("farewell", ""), flag("port", "5"), flag("runtime_dir", "/tmp")])
    assert differing(old, old) == differing(new, new) == ()
    assert differing(old, new) == differing(new, old) == ("runtime_dir", "port", "farewell")


def test_what_a_running_server_cannot_change_is_a_setting_and_has_a_reason() -> None:
    of_cluster = {"cluster", "cluster_password", "cluster_name", "host_name", "cluster_lease"}
    assert set(FIXED) == {"name", "runtime_dir", "bans", "history"} | of_cluster
    assert set(FIXED) | set(FIXED_IN_CLUSTER) <= set(BY_NAME)
    assert all({**FIXED, **FIXED_IN_CLUSTER}.values())


def test_only_a_host_of_a_cluster_cannot_change_how_clients_prove_themselves_nor_get_a_webhook() -> None:
    assert {"auth", "hook"}.isdisjoint(fixed(resolve([])[0]))
    in_cluster = fixed(resolve([flag("cluster", "redis://a")])[0])
    assert set(in_cluster) - set(FIXED) == {"auth", "hook"}


def test_a_wrong_cluster_is_not_shown_for_it_may_hold_a_password() -> None:
    said = refused(flag("cluster", "redis//:비밀@a"))
    assert said.startswith(
        "flag --cluster: cluster is a value that is not shown (it does not begin with redis:// "
        "or the like), allowed: redis://host"
    )
    assert "비밀" not in said
    said = refused(flag("cluster_password", "비밀\n"))
    assert "비밀" not in said
    assert "never the password itself" in said


@pytest.mark.parametrize(
    ("name", "keeps"), [("history", "the messages of all hosts"), ("bans", "the bans and mutes of all hosts")]
)
def test_a_file_for_what_the_cluster_s_log_keeps_is_refused(name: str, keeps: str) -> None:
    alone, _ = resolve([flag(name, "파일")])
    check_together(alone)
    both, _ = resolve([flag(name, "파일"), flag("cluster", "redis://:비밀@a")])
    with pytest.raises(ConfigError) as caught:
        check_together(both)
    assert str(caught.value).startswith(f"{name} is set, and cluster too: ")
    assert keeps in str(caught.value)
    assert str(caught.value).endswith(f"; leave {name} out")


def test_a_host_of_a_cluster_has_no_webhook() -> None:
    check_together(resolve([flag("hook", "https://me:비밀@a/")])[0])
    both = resolve([flag("hook", "https://me:비밀@a/"), flag("cluster", "redis://a")])[0]
    with pytest.raises(ConfigError, match=r"^hook is set, and cluster too: .*; leave hook out") as caught:
        check_together(both)
    assert "비밀" not in str(caught.value)


def test_a_wrong_webhook_is_not_shown_for_it_may_hold_a_password() -> None:
    said = refused(flag("hook", "https://me:비밀@a..b/"))
    assert said.startswith("flag --hook: hook is a value that is not shown (its host or its port is wrong), ")
    assert "비밀" not in said


def test_a_cluster_has_one_password() -> None:
    password = flag("cluster_password", "env:REDIS")
    check_together(resolve([password, flag("cluster", "redis://me@a")])[0])
    check_together(resolve([flag("cluster", "redis://:비밀@a")])[0])
    with pytest.raises(ConfigError, match="leave the one in the URL out") as caught:
        check_together(resolve([password, flag("cluster", "redis://:비밀@a")])[0])
    assert "비밀" not in str(caught.value)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (3, 2), (64, 63)])
def test_one_core_is_left_free_but_there_is_a_worker(cores: int, workers: int) -> None:
    assert default_workers(cores) == workers


def test_an_address_is_written_as_people_write_it() -> None:
    assert format_address("127.0.0.1", 4000) == "127.0.0.1:4000"
    assert format_address("::1", 4000) == "[::1]:4000"


def either_a_config_or_a_config_error(*sources: dict[str, Origin]) -> None:
    with contextlib.suppress(ConfigError):
        config, _ = resolve(sources)
        assert isinstance(config, Config)


@given(st.sampled_from(sorted(BY_NAME)), st.text() | st.text(st.characters(categories=["Nd", "Cs", "P"])))
def test_any_text_in_a_flag_or_a_variable_is_a_setting_or_a_config_error(name: str, value: str) -> None:
    either_a_config_or_a_config_error(flag(name, value))
    either_a_config_or_a_config_error(from_variables(**{name: value}))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.datetimes(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.sampled_from(sorted(BY_NAME)), VALUES)
def test_any_value_is_a_setting_or_a_config_error(name: str, value: Any) -> None:
    either_a_config_or_a_config_error(flag(name, value))


@given(st.text())
def test_any_text_as_a_file_is_settings_or_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        either_a_config_or_a_config_error(parse_file(text, "conf.toml"))


@given(st.lists(st.tuples(st.sampled_from([*BY_NAME, "color", "'", "[", "\n"]), st.text()), max_size=5))
def test_any_text_behind_a_key_is_settings_or_a_config_error(lines: list[tuple[str, str]]) -> None:
    with contextlib.suppress(ConfigError):
        text = "\n".join(f"{key} = {value}" for key, value in lines)
        either_a_config_or_a_config_error(parse_file(text, "conf.toml"))
