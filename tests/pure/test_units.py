"""The text of systemd's unit files: what is escaped, and what a unit says."""

import shlex

import pytest

from mpchat.cli.units import STOP_MARGIN, Service, escaped, service_unit, socket_unit

PLAIN = Service(
    stem="mpchat",
    command=["/opt/my chat/bin/python", "-m", "mpchat"],
    options=["--port=4001"],
    reload=["/opt/my chat/bin/python", "reload", "--name=50%"],
    variables=["MPCHAT_BANS=%S/mpchat/bans.json"],
    credentials={"secret": "/etc/a b/50%"},
    writable=["/srv/a b"],
    environment_file="/etc/mpchat.env",
    notes=["look\nExecStart=/bin/evil"],
    stop_timeout=10.0,
    max_connections=0,
    low_port=False,
    user=False,
)


def lines(unit: str, key: str) -> list[str]:
    return [each.removeprefix(f"{key}=") for each in unit.splitlines() if each.startswith(f"{key}=")]


@pytest.mark.parametrize(
    "text",
    ["", "plain-1", "a b", "50%", "$HOME", '"', "\\", "\\n", "'", ";", "#", "가나", "~", "a=b", "a\tb"],
)
def test_a_word_is_one_word_and_says_what_it_said(text: str) -> None:
    assert [each.replace("%%", "%").replace("\\x09", "\t") for each in shlex.split(escaped(text))] == [text]


def test_no_character_ends_the_line() -> None:
    assert escaped("a\nExecStart=/bin/evil\r\x7f") == '"a\\x0aExecStart=/bin/evil\\x0d\\x7f"'
    unit = service_unit(PLAIN, notify_reload=True)
    assert "# Note: look\\nExecStart=/bin/evil\n" in unit
    assert len(lines(unit, "ExecStart")) == 1


def test_a_unit_of_the_system() -> None:
    unit = service_unit(PLAIN, notify_reload=True)
    assert lines(unit, "ExecStart") == [':"/opt/my chat/bin/python" -m mpchat start --foreground --port=4001']
    assert lines(unit, "Type") == ["notify-reload"]
    assert lines(unit, "ExecReload") == []
    assert lines(unit, "RestartPreventExitStatus") == ["2 4"]
    assert lines(unit, "TimeoutStopSec") == [str(11 + STOP_MARGIN)]
    assert lines(unit, "Environment") == ["MPCHAT_BANS=%S/mpchat/bans.json"]
    assert lines(unit, "LoadCredential") == ["secret:/etc/a b/50%%"]
    assert lines(unit, "ReadWritePaths") == ['"/srv/a b"']
    assert lines(unit, "CapabilityBoundingSet") == [""]
    assert lines(unit, "DynamicUser") == ["yes"]
    assert lines(unit, "WantedBy") == ["multi-user.target"]


def test_an_older_systemd_is_told_how_to_reload() -> None:
    unit = service_unit(PLAIN, notify_reload=False)
    assert lines(unit, "Type") == ["notify"]
    assert lines(unit, "ExecReload") == [':"/opt/my chat/bin/python" reload --name=50%%']


def test_a_unit_of_the_user_needs_no_rights() -> None:
    unit = service_unit(PLAIN._replace(user=True), notify_reload=True)
    for key in ("DynamicUser", "ProtectSystem", "RuntimeDirectory", "CapabilityBoundingSet", "PrivateTmp"):
        assert lines(unit, key) == [], key
    assert lines(unit, "NoNewPrivileges") == ["yes"]
    assert lines(unit, "WantedBy") == ["default.target"]


def test_a_low_port_and_many_clients_get_what_they_need() -> None:
    unit = service_unit(PLAIN._replace(low_port=True, max_connections=200_000), notify_reload=True)
    assert lines(unit, "AmbientCapabilities") == lines(unit, "CapabilityBoundingSet")
    assert lines(unit, "AmbientCapabilities") == ["CAP_NET_BIND_SERVICE"]
    assert int(lines(unit, "LimitNOFILE")[0]) > 200_000


def test_a_socket_unit() -> None:
    unit = socket_unit("mpchat", ["[::]:4000", "127.0.0.1:4000"], 4096, both=False, user=False)
    assert lines(unit, "ListenStream") == ["[::]:4000", "127.0.0.1:4000"]
    assert lines(unit, "BindIPv6Only") == ["ipv6-only"]
    assert lines(socket_unit("m", ["[::]:4000"], 1, both=True, user=True), "BindIPv6Only") == ["both"]
