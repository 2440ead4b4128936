"""Moderation: what a ban or mute is of, how long it holds, and what a restart or a fault leaves of it."""

import fcntl
import json
import os
import stat
import time
from pathlib import Path

import pytest
from support.desk import LIMITS

from mpchat.errors import MpchatError, StartError
from mpchat.hub.hub import Hub
from mpchat.hub.moderation import Moderation, as_host, kick_target
from mpchat.hub.moderation_file import LOCK_PATIENCE, read_moderation
from mpchat.hub.moderation_keeper import ModerationKeeper

NOW = 1000.0
EVER = 1e12


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "moderation.json"


class Operator:
    """Commands of an operator, at a hub without workers, and what the hub's state makes of them."""

    def __init__(self, path: Path) -> None:
        """Start the server that keeps its moderation at ``path``."""
        self._hub = Hub(LIMITS, moderation=ModerationKeeper(path))

    def ban(self, target: str, until: float | None = None) -> str:
        banned = self._hub.moderator.ban(target, until, 0.0)
        self._hub.moderator.write()()
        return banned

    def mute(self, name: str, until: float | None = None) -> str:
        muted = self._hub.moderator.mute(name, until, 0.0)
        self._hub.moderator.write()()
        return muted

    def lift(self, table: str, target: str) -> None:
        self._hub.moderator.lift(table, target, 0.0)
        self._hub.moderator.write()()

    def sweep(self) -> None:
        self._hub.sweep(0.0)

    def follow(self) -> list[str]:
        look = self._hub.moderator.look()
        look()
        return self._hub.moderator.follow_file(look, 0.0)

    @property
    def kept(self) -> Moderation:
        return self._hub.state.moderation


# What it is of.


def test_a_banned_name_is_banned_in_every_spelling_and_no_other_name_is(path: Path) -> None:
    operator = Operator(path)
    assert operator.ban("Trölł") == "Trölł"
    assert [operator.kept.banned_name(name, NOW) for name in ("Trölł", "TRÖLŁ", "tro\u0308lł")] == [True] * 3
    assert not operator.kept.banned_name("trol", NOW)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4000", "192.0.2.7"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4000", "2001:db8::7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::ffff:192.0.2.7]:4000", "192.0.2.7"),
    ],
)
def test_a_banned_address_is_banned_with_every_port(path: Path, target: str, host: str) -> None:
    operator = Operator(path)
    assert operator.ban(target) == as_host(target) == host
    assert operator.kept.banned_host(host, NOW)
    assert not operator.kept.banned_host("192.0.2.8", NOW)
    operator.lift("bans", target)
    assert not operator.kept.banned_host(host, NOW)


@pytest.mark.parametrize(
    ("target", "network", "inside", "outside"),
    [
        ("192.0.2.0/24", "192.0.2.0/24", "192.0.2.255", "192.0.3.1"),
        ("192.0.2.77/24", "192.0.2.0/24", "192.0.2.1", "192.0.1.255"),
        ("2001:DB8::/48", "2001:db8::/48", "2001:db8:0:1::1", "2001:db8:1::1"),
    ],
)
def test_a_banned_network_is_banned_with_all_its_hosts(
    path: Path, target: str, network: str, inside: str, outside: str
) -> None:
    operator = Operator(path)
    assert operator.ban(target) == network
    assert operator.kept.banned_host(inside, NOW)
    assert not operator.kept.banned_host(outside, NOW)
    assert read_moderation(path).banned_host(inside, NOW)
    operator.lift("bans", target)
    assert not operator.kept.banned_host(inside, NOW)


@pytest.mark.parametrize("name", ["1.2.3.4/99", "a/b", "alice", "1.2.3", "a.b", "192.0.2.7.8", "alice:4000"])
def test_what_is_no_address_is_a_name(name: str) -> None:
    assert as_host(name) is None


@pytest.mark.parametrize(
    ("target", "compared"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("192.0.2.7:4000", "192.0.2.7:4000"),
        ("192.0.2.7:04000", "192.0.2.7:4000"),
        ("[::1]", "::1"),
        ("[::1]:4000", "[::1]:4000"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("[0:0:0:0:0:0:0:1]:4000", "[::1]:4000"),
        ("2001:DB8::7", "2001:db8::7"),
        ("[2001:DB8::7]:4000", "[2001:db8::7]:4000"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("[::FFFF:192.0.2.7]:4000", "192.0.2.7:4000"),
        ("192.0.2.7/24", "192.0.2.0/24"),
        ("2001:DB8::7/48", "2001:db8::/48"),
        ("::ffff:192.0.2.7/120", "192.0.2.0/24"),
        # Neither an address nor a network: a name, or nobody.
        *(
            (each, each)
            for each in ("alice", "Trölł", "alice:4000", "a/b", "1.2.3.4/99", "", "[::1]:x", "1.2.3.4:")
        ),
        ("192.0.2.7:" + "9" * 5000, "192.0.2.7:" + "9" * 5000),
    ],
)
def test_a_kick_means_the_same_address_in_every_notation(target: str, compared: str) -> None:
    assert kick_target(target) == compared
    assert kick_target(compared) == compared


def test_a_ban_is_no_mute_and_a_mute_is_no_ban(path: Path) -> None:
    operator = Operator(path)
    operator.ban("troll")
    assert operator.mute("Loud") == "Loud"
    assert (operator.kept.banned_name("troll", NOW), operator.kept.muted("troll", NOW)) == (True, False)
    assert (operator.kept.banned_name("loud", NOW), operator.kept.muted("loud", NOW)) == (False, True)
    assert not operator.kept.banned_host("troll-host", NOW)


def test_what_can_be_no_name_is_refused_and_nothing_is_kept(path: Path) -> None:
    operator = Operator(path)
    with pytest.raises(
        MpchatError, match=r"'a b' is neither an address nor a name: a name cannot have a space"
    ):
        operator.ban("a b")
    with pytest.raises(MpchatError, match=r"'' is no name: a name has at least one character"):
        operator.mute("")
    assert operator.kept.listing(NOW) == {"bans": [], "mutes": []}
    assert not path.exists()


# How long it holds.


@pytest.mark.parametrize("until", [NOW, None])
def test_a_ban_and_a_mute_hold_until_their_moment_or_for_good(path: Path, until: float | None) -> None:
    operator = Operator(path)
    operator.ban("troll", until)
    operator.ban("192.0.2.7", until)
    operator.mute("loud", until)
    for at, holds in ((NOW - 0.001, True), (NOW, until is None), (EVER, until is None)):
        assert operator.kept.banned_name("troll", at) is holds
        assert operator.kept.banned_host("192.0.2.7", at) is holds
        assert operator.kept.muted("loud", at) is holds


def test_a_ban_that_is_said_again_holds_as_long_as_was_said_last(path: Path) -> None:
    operator = Operator(path)
    operator.ban("troll", NOW)
    operator.ban("TROLL", NOW + 10)
    assert operator.kept.listing(0.0)["bans"] == [{"target": "TROLL", "until": NOW + 10}]
    operator.ban("troll", NOW - 10)
    assert not operator.kept.banned_name("troll", NOW - 10)


def test_what_has_ended_is_not_listed_and_what_holds_is(path: Path) -> None:
    operator = Operator(path)
    for name, until in (("over", NOW), ("still", NOW + 1), ("always", None)):
        operator.ban(name, until)
        operator.mute(name, until)
    expected = [{"target": "still", "until": NOW + 1}, {"target": "always", "until": None}]
    assert operator.kept.listing(NOW) == {"bans": expected, "mutes": expected}


def test_a_rule_that_has_ended_is_forgotten_and_need_not_be_lifted(path: Path) -> None:
    operator = Operator(path)
    operator.ban("over", time.time() - 1)
    operator.ban("still", time.time() + 3600)
    operator.sweep()
    with pytest.raises(MpchatError, match=r"^over is not banned$"):
        operator.lift("bans", "over")
    operator.lift("bans", "still")


def test_lifting_ends_the_one_that_is_named_and_nothing_else(path: Path) -> None:
    operator = Operator(path)
    for name in ("alice", "bob"):
        operator.ban(name)
        operator.mute(name)
    operator.lift("bans", "ALICE")
    operator.lift("mutes", "Bob")
    assert [operator.kept.banned_name(name, NOW) for name in ("alice", "bob")] == [False, True]
    assert [operator.kept.muted(name, NOW) for name in ("alice", "bob")] == [True, False]
    with pytest.raises(MpchatError, match=r"^alice is not banned$"):
        operator.lift("bans", "alice")
    with pytest.raises(MpchatError, match=r"^Bob is not muted$"):
        operator.lift("mutes", "Bob")


# Over restarts and faults.


def test_a_restart_changes_nothing(path: Path) -> None:
    operator = Operator(path)
    operator.ban("troll")
    operator.ban("192.0.2.7", NOW + 10)
    operator.mute("loud", NOW + 20)
    operator.mute("quiet")
    operator.lift("mutes", "quiet")
    again = Operator(path)
    assert again.kept.listing(NOW) == operator.kept.listing(NOW)
    assert again.kept.banned_name("TROLL", NOW)
    assert again.kept.banned_host("192.0.2.7", NOW)
    assert [again.kept.muted(name, NOW) for name in ("loud", "quiet")] == [True, False]


def test_the_file_is_for_its_owner_only_and_for_people_to_read(path: Path) -> None:
    Operator(path).ban("철수")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_bytes()) == {"bans": {"철수": {"target": "철수"}}, "mutes": {}}
    assert len(path.read_text().splitlines()) > 3
    assert os.listdir(path.parent) == [path.name]


def test_without_a_file_nobody_is_banned_and_with_a_broken_one_no_server_starts(path: Path) -> None:
    assert read_moderation(path).listing(NOW) == {"bans": [], "mutes": []}
    for content in (b"", b"{", b'{"bans": {"a": 5}}', b'{"bans": {"\xff": {"target": "a"}}}'):
        path.write_bytes(content)
        with pytest.raises(
            StartError, match=r"cannot read the bans in .*moderation\.json: .*; mend the file"
        ):
            read_moderation(path)
        assert path.read_bytes() == content


def test_a_ban_that_cannot_be_written_holds_and_comes_into_the_file_with_the_next_one(path: Path) -> None:
    operator = Operator(path)
    operator.ban("first")
    before = path.read_bytes()
    blocker = path.with_name(f"{path.name}.new")
    blocker.mkdir()  # no file can be written there
    with pytest.raises(MpchatError, match="it holds until the server stops, but could not be written to"):
        operator.ban("second")
    assert operator.kept.banned_name("second", NOW)
    with pytest.raises(MpchatError, match="it holds until the server stops"):
        operator.lift("bans", "first")
    assert not operator.kept.banned_name("first", NOW)
    assert path.read_bytes() == before
    blocker.rmdir()
    operator.mute("third")
    assert read_moderation(path).listing(NOW) == operator.kept.listing(NOW)


# A file that others change.


def test_a_ban_in_the_notation_of_an_older_version_holds_and_can_be_lifted(path: Path) -> None:
    old = {
        "::ffff:192.0.2.7": {"target": "::ffff:192.0.2.7"},
        "::ffff:192.0.2.8": {"target": "::ffff:192.0.2.8"},
        "192.0.2.8": {"target": "192.0.2.8", "until": EVER},
        "::ffff:c000:300/120": {"target": "::ffff:192.0.3.0/120"},
        "철수": {"target": "철수"},
    }
    path.write_text(json.dumps({"bans": old, "mutes": {}}))
    operator = Operator(path)
    for host in ("192.0.2.7", "192.0.2.8", "192.0.3.9"):
        assert operator.kept.banned_host(host, NOW)
    assert operator.kept.banned_host("192.0.2.8", EVER), "of two bans the longer one holds"
    for target in ("::ffff:192.0.2.7", "192.0.2.8", "192.0.3.0/24", "철수"):
        operator.lift("bans", target)
    assert read_moderation(path) == operator.kept == Moderation()


def test_two_servers_with_one_file_lose_none_of_each_other_s_rules(path: Path) -> None:
    one, two = Operator(path), Operator(path)
    one.ban("하나")
    two.ban("둘")
    two.mute("셋")
    one.ban("넷")
    assert two.follow() == ["하나", "넷"]
    two.lift("bans", "하나")
    assert one.follow() == ["둘"]
    assert one.kept == two.kept == read_moderation(path)
    assert sorted(one.kept.bans) == sorted(["둘", "넷"])
    assert one.follow() == two.follow() == []


def test_a_file_that_another_server_is_writing_is_waited_for_and_then_written_later(path: Path) -> None:
    operator = Operator(path)
    operator.ban("하나")
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX)
    began = time.monotonic()
    with pytest.raises(MpchatError, match="it holds until the server stops, but could not be written"):
        operator.ban("둘")
    operator.follow()
    assert time.monotonic() - began < 10 * LOCK_PATIENCE
    assert list(read_moderation(path).bans) == ["하나"]
    os.close(folder)
    operator.follow()
    assert read_moderation(path) == operator.kept
    assert len(operator.kept.bans) == 2


def test_a_file_that_is_gone_is_written_again_and_one_that_is_broken_changes_nothing(path: Path) -> None:
    operator = Operator(path)
    operator.ban("하나")
    operator.mute("둘")
    before = operator.kept.listing(NOW)
    path.unlink()
    assert operator.follow() == []
    assert read_moderation(path).listing(NOW) == before
    path.write_text("{")
    assert operator.follow() == []
    assert operator.kept.listing(NOW) == before
    with pytest.raises(MpchatError, match="could not be written"):
        operator.ban("셋")
    assert path.read_text() == "{", "what a person was writing stays"
    path.write_text('{"bans": {"넷": {"target": "넷"}}}')
    operator.follow()  # writes the ban that waits
    operator.follow()
    assert sorted(operator.kept.bans) == sorted(["셋", "넷"])
    assert operator.kept.mutes == {}


# A wall clock that is stepped.

DAY = 86_400.0
HOUR = 3600.0


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_step_of_the_clock_ends_no_ban_and_prolongs_none(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: float
) -> None:
    real, ahead = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    one, two = Operator(path), Operator(path)
    one.ban("철수", time.time() + HOUR)
    one.mute("영희", time.time() + HOUR)
    one.ban("192.0.2.7")
    two.follow()
    ahead = step
    for each in (one, two, one, two):  # each shifts once, whatever the other one has written
        each.sweep()
        each.follow()
    for kept in (one.kept, two.kept, Operator(path).kept):
        for left, holds in ((HOUR - 60, True), (HOUR + 60, False)):
            at = time.time() + left
            assert kept.banned_name("철수", at) == kept.muted("영희", at) == holds
        assert kept.banned_host("192.0.2.7", EVER)


def test_a_ban_made_right_after_a_step_lasts_as_long_as_was_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, ahead = time.time, 0.0
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    operator = Operator(path)
    ahead = DAY
    operator.ban("철수", time.time() + HOUR)
    operator.sweep()
    assert operator.kept.bans["철수"].until == pytest.approx(time.time() + HOUR, abs=60)
