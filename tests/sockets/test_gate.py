"""Gate: proofs are checked in threads, one at a time in each, in a fair order; guessers must wait."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import cast

import msgspec
import pytest
from support.leftovers import nothing_left_behind
from support.waiting import PATIENCE, eventually

from mpchat.auth.grant import Grant, Identity, Proof
from mpchat.auth.line import Lines
from mpchat.auth.throttle import FREE
from mpchat.auth.verifier import Verifier
from mpchat.config import Config, resolve
from mpchat.errors import ProtocolError, StartError
from mpchat.protocol.sign_in import bad_credentials
from mpchat.reactor import Reactor
from mpchat.supervisor import gate as gate_module
from mpchat.supervisor.gate import PASSWORDS, Gate, Outcome, close_verifiers, make_verifiers

HERE, ELSEWHERE = "192.0.2.1", "198.51.100.1"
RIGHT, WRONG = "맞는 비밀번호", "틀린 비밀번호"


class Scripted:
    """A verifier that knows one password and one token, and waits where the test wants it to."""

    # What it says of its accounts, its key and its secret.
    had_accounts, lets_nobody_in = False, False

    def __init__(self, mark: str = "") -> None:
        """``mark`` is the role in each grant: it shows which verifier has checked a proof."""
        self.mark = mark
        self.checked: list[str] = []
        self.modes: list[str] = []
        self.closed_in: list[str] = []
        # Names whose check waits for the event.
        self.waits: dict[str, threading.Event] = {}
        # Names whose check raises.
        self.fails: dict[str, Exception] = {}
        self.at_once = 0
        self.most_at_once = 0

    def check(self, proof: Proof, mode: str, at: float) -> Identity:
        """Check a proof: in the lane's thread."""
        assert abs(at - time.time()) < PATIENCE
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            return self._check(proof, mode)
        finally:
            self.at_once -= 1

    def _check(self, proof: Proof, mode: str) -> Identity:
        name = str(proof.name)
        self.checked.append(name)
        self.modes.append(mode)
        if name in self.waits:
            assert self.waits[name].wait(PATIENCE)
        if name in self.fails:
            raise self.fails[name]
        if proof.kinds and RIGHT not in (proof.password, proof.jwt, proof.secret):
            raise bad_credentials()
        return Identity(name, Grant(name, self.mark or "member"))

    def close(self) -> None:
        """Take note in which thread."""
        self.closed_in.append(threading.current_thread().name)


def threads() -> list[str]:
    """Return the names of the threads that check proofs."""
    return [each.name for each in threading.enumerate() if each.name in (PASSWORDS, "tokens")]


def pair(*verifiers: Scripted) -> tuple[Verifier, Verifier]:
    first, second = verifiers
    return cast(Verifier, first), cast(Verifier, second)


class Desk:
    """A gate with its loop, and what comes of the proofs."""

    def __init__(self, config: Config, verifiers: tuple[Verifier, Verifier] | None) -> None:
        self.reactor = Reactor()
        self.gate = Gate(self.reactor, config, verifiers)
        self.gate.on_checked = self._take
        self.outcomes: list[tuple[int, Outcome]] = []
        self._number = 0

    def _take(self, identity: int, outcome: Outcome) -> None:
        assert threading.current_thread() is threading.main_thread()
        self.outcomes.append((identity, outcome))

    def ask(self, name: str, address: str = HERE, *, password: str | None = RIGHT) -> int:
        """Have a password checked; return the connection."""
        return self.show(Proof(name, password=password), address)

    def ask_by_token(self, name: str, address: str = HERE, token: str = RIGHT) -> int:
        """Have a token checked."""
        return self.show(Proof(name, jwt=token), address)

    def show(self, proof: Proof, address: str = HERE) -> int:
        self._number += 1
        self.gate.ask(self._number, address, proof)
        return self._number

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Let the loop turn until something is so."""
        deadline = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < deadline, f"waited for {what}"
            self.reactor.turn(0.01)

    def outcome(self, identity: int) -> Outcome:
        """Wait for what comes of a proof."""
        self.until(lambda: identity in dict(self.outcomes), "the outcome of a check")
        return dict(self.outcomes)[identity]

    def code(self, identity: int) -> str:
        """Wait for a refusal, and return its code; "" for a proof that was accepted."""
        found = self.outcome(identity)
        return found.code if isinstance(found, ProtocolError) else ""

    def fail(self, name: str, address: str = HERE, times: int = FREE) -> None:
        """Guess wrongly so many times."""
        for _ in range(times):
            assert self.code(self.ask(name, address, password=WRONG)) == "bad_credentials"

    def close(self) -> None:
        self.gate.close()
        self.reactor.close()


@pytest.fixture
def config() -> Config:
    return msgspec.structs.replace(resolve([])[0], auth="closed")


@pytest.fixture
def passwords() -> Scripted:
    return Scripted()


@pytest.fixture
def tokens() -> Scripted:
    return Scripted()


@pytest.fixture
def desk(config: Config, passwords: Scripted, tokens: Scripted) -> Iterator[Desk]:
    with nothing_left_behind():
        made = Desk(config, pair(passwords, tokens))
        yield made
        for each in (*passwords.waits.values(), *tokens.waits.values()):
            each.set()
        made.close()


def held(verifier: Scripted, name: str) -> threading.Event:
    """Let the check of a name wait."""
    return verifier.waits.setdefault(name, threading.Event())


def test_a_proof_gets_its_outcome_in_the_loop(desk: Desk, passwords: Scripted) -> None:
    right, wrong = desk.ask("앨리스"), desk.ask("밥", password=WRONG)
    assert desk.outcome(right) == Identity("앨리스", Grant("앨리스"))
    assert desk.code(wrong) == "bad_credentials"
    assert passwords.modes == ["closed", "closed"]


def test_one_proof_is_checked_at_a_time_and_addresses_take_turns(desk: Desk, passwords: Scripted) -> None:
    go_on = held(passwords, "처음")
    first = desk.ask("처음")
    eventually(lambda: passwords.checked, "the first check")
    many = [desk.ask(f"많음{number}") for number in range(4)]
    few = [desk.ask("하나", ELSEWHERE), desk.ask("둘", ELSEWHERE)]
    go_on.set()
    for identity in (first, *many, *few):
        assert desk.code(identity) == ""
    assert passwords.checked == ["처음", "많음0", "하나", "많음1", "둘", "많음2", "많음3"]
    assert passwords.most_at_once == 1


def test_a_password_that_takes_long_does_not_hold_up_tokens(desk: Desk, passwords: Scripted) -> None:
    go_on = held(passwords, "느림")
    slow = desk.ask("느림")
    behind = desk.ask("뒤")
    assert desk.code(desk.ask_by_token("앨리스")) == ""
    assert desk.code(desk.show(Proof("밥", secret=RIGHT))) == ""
    assert desk.code(desk.show(Proof("이름"))) == ""
    assert not {slow, behind} & dict(desk.outcomes).keys()
    go_on.set()
    assert [desk.code(each) for each in (slow, behind)] == ["", ""]
    assert passwords.checked == ["느림", "뒤"]


def test_a_guesser_is_told_in_how_many_seconds_to_try_again(desk: Desk, passwords: Scripted) -> None:
    desk.fail("앨리스")
    late = desk.ask("앨리스")
    refused = desk.outcome(late)
    assert isinstance(refused, ProtocolError)
    assert (refused.code, refused.text.endswith("try again in 1 s")) == ("try_later", True)
    assert passwords.checked == ["앨리스"] * FREE, "a right password is not even looked at"
    assert desk.code(desk.ask("앨리스", ELSEWHERE)) == "try_later", "whatever the address"
    assert desk.code(desk.ask("밥")) == "try_later", "whatever the name"
    assert desk.code(desk.ask("밥", ELSEWHERE)) == ""


def test_failures_that_were_in_line_count_before_the_next_is_looked_at(
    desk: Desk, passwords: Scripted
) -> None:
    go_on = held(passwords, "처음")
    desk.ask("처음", ELSEWHERE)
    guesses = [desk.ask("앨리스", password=WRONG) for _ in range(100)]
    go_on.set()
    codes = [desk.code(each) for each in guesses]
    assert codes == ["bad_credentials"] * FREE + ["try_later"] * (100 - FREE)


def test_a_spelling_of_a_name_counts_for_the_name(desk: Desk) -> None:
    for number, name in enumerate(["Alice", "ALICE", "alice", "\uff41lice", "aLICE"]):
        desk.fail(name, f"203.0.113.{number}", times=1)
    assert desk.code(desk.ask("alice", ELSEWHERE)) == "try_later"


def test_a_wrong_secret_counts_for_the_address_alone_and_a_wrong_token_for_nothing(
    desk: Desk, tokens: Scripted
) -> None:
    for _ in range(2 * FREE):
        assert desk.code(desk.ask_by_token("앨리스", token=WRONG)) == "bad_credentials"
    tokens.fails["앨리스"] = bad_credentials()
    for _ in range(FREE):
        assert desk.code(desk.show(Proof("앨리스", secret=WRONG))) == "bad_credentials"
    tokens.fails.clear()
    assert desk.code(desk.show(Proof("밥", secret=RIGHT))) == "try_later"
    assert desk.code(desk.ask("밥")) == "try_later"
    assert desk.code(desk.ask_by_token("앨리스")) == ""
    assert desk.code(desk.ask("앨리스", ELSEWHERE)) == ""


def test_a_join_without_a_proof_is_never_held_up(desk: Desk, tokens: Scripted) -> None:
    desk.fail("앨리스")
    tokens.fails["밥"] = ProtocolError("auth_required", "무엇", ("password",))
    for _ in range(2 * FREE):
        assert desk.code(desk.show(Proof("밥"))) == "auth_required"
    assert desk.code(desk.show(Proof("이름"))) == ""


def test_a_member_signs_in_where_it_has_before_whatever_strangers_try(desk: Desk) -> None:
    assert desk.code(desk.ask("앨리스")) == ""
    desk.fail("앨리스", ELSEWHERE)
    assert desk.code(desk.ask("앨리스", ELSEWHERE)) == "try_later"
    assert desk.code(desk.ask("앨리스")) == ""


def test_with_too_many_in_line_the_newest_of_the_greatest_crowd_is_sent_away(
    desk: Desk, passwords: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(desk.gate._passwords, "_lines", Lines(4))
    go_on = held(passwords, "처음")
    desk.ask("처음")
    crowd = [desk.ask(f"많음{number}") for number in range(5)]
    other = desk.ask("하나", ELSEWHERE)
    sent_away = dict(desk.outcomes)
    assert set(sent_away) == {crowd[4], crowd[3]}
    assert {each.code for each in sent_away.values() if isinstance(each, ProtocolError)} == {"try_later"}
    go_on.set()
    assert [desk.code(each) for each in (*crowd[:3], other)] == [""] * 4
    assert len(desk.outcomes) == 7


def test_a_connection_that_has_ended_is_not_checked_and_its_place_goes_to_another(
    desk: Desk, passwords: Scripted, tokens: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    for lane in (desk.gate._passwords, desk.gate._others):
        monkeypatch.setattr(lane, "_lines", Lines(1))
    events = [held(passwords, "처음"), held(tokens, "처음")]
    desk.ask("처음")
    desk.ask_by_token("처음")
    gone = [desk.ask("간 사람"), desk.ask_by_token("간 사람")]
    for identity in gone:
        desk.gate.forget(identity)
    there = [desk.ask("앨리스"), desk.ask_by_token("앨리스")]
    for each in events:
        each.set()
    assert [desk.code(each) for each in there] == ["", ""]
    assert passwords.checked == tokens.checked == ["처음", "앨리스"]
    assert not set(gone) & dict(desk.outcomes).keys()


@pytest.mark.parametrize("error", [ValueError("보인 것"), StartError("the accounts are gone")], ids=repr)
def test_a_check_that_fails_is_no_wrong_proof_and_the_next_one_is_served(
    desk: Desk, passwords: Scripted, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    passwords.fails["앨리스"] = error
    for _ in range(2 * FREE):
        assert desk.code(desk.ask("앨리스")) == "try_later"
    assert passwords.checked == ["앨리스"] * 2 * FREE
    assert desk.code(desk.ask("밥")) == ""
    assert RIGHT not in caplog.text
    assert any(each.levelname == "ERROR" for each in caplog.records)


def test_wrong_proofs_are_logged_without_what_was_shown(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    desk.fail("앨\x1b리스", times=1)
    assert desk.code(desk.ask_by_token("밥", token=WRONG)) == "bad_credentials"
    first, second = (each.getMessage() for each in caplog.records)
    assert "wrong password" in first
    assert HERE in first
    assert "\x1b" not in first
    assert "wrong jwt" in second
    assert WRONG not in caplog.text


# Reloads.


def test_a_reload_closes_the_verifiers_in_their_threads_after_the_check_that_runs(
    desk: Desk, config: Config, passwords: Scripted, tokens: Scripted
) -> None:
    go_on = held(passwords, "느림")
    slow = desk.ask("느림")
    assert desk.code(desk.ask_by_token("앨리스")) == ""
    eventually(lambda: passwords.checked, "the slow check")
    new = Scripted("operator"), Scripted("operator")
    desk.gate.follow(msgspec.structs.replace(config, auth="names"), pair(*new))
    behind = desk.ask("밥")
    assert passwords.closed_in == []
    go_on.set()
    assert desk.outcome(slow) == Identity("느림", Grant("느림"))
    assert desk.outcome(behind) == Identity("밥", Grant("밥", "operator"))
    assert desk.outcome(desk.ask_by_token("앨리스")) == Identity("앨리스", Grant("앨리스", "operator"))
    assert (passwords.closed_in, tokens.closed_in) == ([PASSWORDS], ["tokens"])
    assert new[0].modes == new[1].modes == ["names"]
    assert new[0].closed_in == new[1].closed_in == []


class Made(Scripted):
    """A verifier that is made of settings, which takes until the test lets it."""

    made: list["Made"]
    go_on: threading.Event
    lets_nobody_in = False

    def __init__(self, config: Config) -> None:
        super().__init__(config.auth)
        self.made.append(self)
        assert self.go_on.wait(PATIENCE)


@pytest.fixture
def making(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Made]]:
    monkeypatch.setattr(Made, "made", [], raising=False)
    monkeypatch.setattr(Made, "go_on", threading.Event(), raising=False)
    monkeypatch.setattr(gate_module, "Verifier", Made)
    yield Made
    Made.go_on.set()


def test_a_reload_while_the_first_verifier_is_made_holds_all_the_same(
    config: Config, making: type[Made]
) -> None:
    desk = Desk(msgspec.structs.replace(config, auth="open"), None)
    first = desk.ask("앨리스")
    eventually(lambda: making.made, "the verifier")
    new = Scripted("operator"), Scripted("operator")
    desk.gate.follow(config, pair(*new))
    making.go_on.set()
    assert desk.outcome(first) == Identity("앨리스", Grant("앨리스", "open"))
    assert desk.outcome(desk.ask("밥")) == Identity("밥", Grant("밥", "operator"))
    assert new[0].modes == ["closed"]
    assert making.made[0].closed_in == [PASSWORDS]
    desk.close()


# What it costs where nothing asks for it.


def test_where_no_setting_asks_for_proofs_there_is_no_thread_and_no_verifier_until_one_is_shown(
    making: type[Made],
) -> None:
    making.go_on.set()
    config = resolve([])[0]
    assert make_verifiers(config) is None
    with nothing_left_behind():
        desk = Desk(config, None)
        before = threading.active_count()
        desk.gate.forget(1)
        desk.gate.follow(config, None)
        assert (threading.active_count(), making.made) == (before, [])
        assert desk.code(desk.ask_by_token("앨리스")) == ""
        assert threads() == ["tokens"]
        assert [each.mark for each in making.made] == ["open"]
        assert desk.code(desk.ask("앨리스")) == ""
        assert sorted(threads()) == [PASSWORDS, "tokens"]
        desk.close()
        assert [each.closed_in for each in making.made] == [["tokens"], [PASSWORDS]]


def test_a_gate_that_was_never_asked_closes_what_it_was_given(config: Config, making: type[Made]) -> None:
    making.go_on.set()
    with nothing_left_behind():
        desk = Desk(config, make_verifiers(config))
        assert threads() == []
        desk.close()
        assert [each.closed_in for each in making.made] == [[PASSWORDS], ["tokens"]]
        close_verifiers(make_verifiers(config))
        assert [len(each.closed_in) for each in making.made[2:]] == [1, 1]
        close_verifiers(None)


def test_a_token_of_an_http_request_is_checked_beside_those_of_joins(desk: Desk) -> None:
    outcomes: list[Outcome] = []
    for shown in (RIGHT, WRONG):
        desk.gate.check_service(shown, HERE, outcomes.append)
    joined = desk.ask_by_token("앨리스")
    assert desk.code(joined) == ""
    desk.until(lambda: len(outcomes) == 2, "the outcomes of both tokens")
    assert [isinstance(each, Identity) for each in outcomes] == [True, False]
    assert [identity for identity, _ in desk.outcomes] == [joined]
