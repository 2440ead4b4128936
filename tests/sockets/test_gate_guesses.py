"""The gate: proofs that wait, and what failures of strangers cost a member with the same address."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.waiting import eventually

from mpchat.auth.grant import Grant, Identity, Proof
from mpchat.auth.keys import load_key
from mpchat.auth.throttle import FREE
from mpchat.auth.tokens import claimed_name, make_token
from mpchat.config import resolve
from mpchat.errors import ProtocolError
from mpchat.reactor import Reactor
from mpchat.supervisor.gate import Gate, Outcome, make_verifiers

HOME, ELSEWHERE = "192.0.2.1", "198.51.100.7"
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


class Desk:
    """A gate for tokens, and what has come of proofs."""

    def __init__(self, folder: Path) -> None:
        key = folder / "key"
        key.touch(0o600)
        key.write_bytes(KEY)
        config = msgspec.structs.replace(
            resolve([])[0], auth="closed", jwt_key=str(key), accounts=str(folder / "none")
        )
        self.reactor = Reactor()
        self.gate = Gate(self.reactor, config, make_verifiers(config))
        self.gate.on_checked = self._on_checked
        self._outcomes: dict[int, Outcome] = {}
        self._asked = 0

    def _on_checked(self, identity: int, outcome: Outcome) -> None:
        self._outcomes[identity] = outcome

    def code(self, proof: Proof, address: str = HOME) -> str:
        """Return the code of the error that a proof leads to; "" without one."""
        self._asked += 1
        self.gate.ask(self._asked, address, proof)

        def answered() -> bool:
            self.reactor.turn(0.01)
            return self._asked in self._outcomes

        eventually(answered, "an outcome")
        outcome = self._outcomes[self._asked]
        assert isinstance(outcome, Identity | ProtocolError)
        return outcome.code if isinstance(outcome, ProtocolError) else ""

    def close(self) -> None:
        self.gate.close()
        self.reactor.close()


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr("mpchat.auth.throttle.FIRST_WAIT", 60.0)  # no test takes that long
    desk = Desk(tmp_path)
    yield desk
    desk.close()


def token(name: str, key: bytes = KEY) -> Proof:
    now = time.time()
    return Proof(jwt=make_token(load_key(key), Grant(name, expires=now + 600), "mpchat", now))


def test_forged_tokens_hold_up_nobody_because_no_signature_can_be_guessed(desk: Desk) -> None:
    for name in ("밥", "앨리스"):
        assert [desk.code(token(name, OTHER_KEY)) for _ in range(2 * FREE)] == ["bad_credentials"] * 2 * FREE
    assert desk.code(token("앨리스")) == desk.code(token("밥")) == ""
    assert desk.code(token("앨리스"), ELSEWHERE) == ""


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (token("앨리스", OTHER_KEY).jwt, "앨리스"),
        ("a.bm8.c", ""),
        ("a.eyJzdWIiOjF9.c", ""),  # {"sub":1}
        ("a.W10.c", ""),  # []
        ("앨.리.스", ""),
        ("a." + "WwWw" * 2000 + ".c", ""),
        (".", ""),
        ("", ""),
        ("x" * 60_000, ""),
    ],
)
def test_what_a_token_says_of_its_name_is_read_whatever_it_is(text: str, name: str) -> None:
    assert claimed_name(text) == name
