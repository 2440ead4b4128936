"""Gate: has what joins show checked, in threads, in a fair order, and no faster than a guesser may guess.

Passwords are checked in a thread of their own: each takes 0.2 s of CPU, and tokens must not wait for that. A
thread has one check at a time, so that a failure counts before the next try is looked at.
"""

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from mpchat.auth.grant import Identity, Proof
from mpchat.auth.line import MOST_WAITING, Lines, Try
from mpchat.auth.throttle import Key, Throttle
from mpchat.auth.tokens import claimed_name
from mpchat.auth.verifier import Verifier
from mpchat.config import Config
from mpchat.errors import MpchatError, ProtocolError, StartError
from mpchat.protocol.names import name_key
from mpchat.protocol.sign_in import BAD_CREDENTIALS, TRY_LATER, UNCHECKED
from mpchat.reactor import Reactor
from mpchat.supervisor.job_thread import JobThread
from mpchat.text import visible

# Tries that wait in a line of what is checked fast; their bytes are bounded too.
MOST_CHEAP = 20_000
# Code points of a name's key that failures are counted by: a hostile name may be 60 KB long.
KEY_LENGTH = 128
# Code points of a name that a log line shows.
SHOWN_LENGTH = 40
# How nice the thread that checks passwords is, where the system has that for threads: it takes the CPU time
# that loops leave.
NICE = 10
# The name of that thread.
PASSWORDS = "passwords"
# For so many times as long as a token's check took its thread rests: the loop, which needs the interpreter
# too, has most of it, however many tokens wait.
REST = 3.0
# Seconds that the threads get at the end.
PATIENCE = 1.0

Outcome = Identity | ProtocolError
# Gets the identity of a connection, and what has come of its proof.
OnChecked = Callable[[int, Outcome], None]

log = logging.getLogger("mpchat.supervisor")


class Gate:
    """Checks what joins show."""

    def __init__(self, reactor: Reactor, config: Config, verifiers: "Verifiers | None") -> None:
        """Begin; ``verifiers`` is None where no setting asks for a proof: they are made when one is shown."""
        self.on_checked: OnChecked = _nobody
        # What to call with the outcome of a token that came with an HTTP request, by the number of its try.
        self._calls: dict[int, Callable[[Outcome], None]] = {}
        self._call_numbers = count(-1, -1)
        self._throttle = Throttle()
        passwords, others = verifiers or (None, None)
        self._passwords = _Lane(reactor, self, config, passwords, PASSWORDS)
        self._others = _Lane(reactor, self, config, others, "tokens")

    def ask(self, identity: int, address: str, proof: Proof) -> None:
        """Have a proof checked. ``address`` is what counts as one address; :attr:`on_checked` is called."""
        lane = self._passwords if proof.password is not None else self._others
        lane.add(Try(identity, address, proof, _name_of(proof)))

    def check_service(self, token: str, address: str, then: Callable[[Outcome], None]) -> None:
        """Have the token of an HTTP request checked; ``then`` is called with what has come of that."""
        number = next(self._call_numbers)  # below all identities of connections
        self._calls[number] = then
        self.ask(number, address, Proof(jwt=token, service=True))

    def tell(self, identity: int, outcome: Outcome) -> None:
        """Pass on what has come of a try."""
        if identity < 0:
            self._calls.pop(identity)(outcome)
        else:
            self.on_checked(identity, outcome)

    def forget(self, identity: int) -> None:
        """Forget the proof of a connection that has ended, unless it is just being checked."""
        self._passwords.forget(identity)
        self._others.forget(identity)

    @property
    def had_accounts(self) -> bool:
        """True when names have been registered: their file must not be missing from now on."""
        return self._passwords.had_accounts or self._others.had_accounts

    def follow(self, config: Config, verifiers: "Verifiers | None") -> None:
        """Check by other settings from now on."""
        passwords, others = verifiers or (None, None)
        self._passwords.follow(config, passwords)
        self._others.follow(config, others)

    def close(self) -> None:
        """End the threads; the loop does not turn any more."""
        self._passwords.close()
        self._others.close()

    # What the lanes need.

    def keys(self, tried: Try) -> tuple[list[Key], list[Key]]:
        """Return what a try waits for, and what its failure counts for; nothing where nothing can be guessed.

        A signature cannot be guessed: forged tokens hold up nobody who shares their sender's address.
        """
        proof = tried.proof
        if proof.password is None and proof.secret is None:
            return [], []
        return self._throttle.keys(tried.name, tried.address)

    def is_proven(self, tried: Try) -> bool:
        """Tell whether an address has proven before the name that its try is for."""
        return bool(tried.name) and self._throttle.is_proven(tried.name, tried.address)

    def wait(self, keys: list[Key]) -> float:
        """Return for how many seconds a try must wait because of failures."""
        return self._throttle.wait(keys, time.monotonic())

    def checked(self, tried: Try, keys: list[Key], outcome: Outcome) -> None:
        """Take what has come of a try."""
        kinds = ", ".join(tried.proof.kinds)
        if isinstance(outcome, ProtocolError):
            if outcome.code == BAD_CREDENTIALS:
                self._throttle.fail(keys, time.monotonic())
                name = visible((tried.proof.name or "")[:SHOWN_LENGTH])
                log.warning("refused, wrong %s: %s, %s", kinds, name or "no name", tried.address)
        elif outcome.proves_name:
            self._throttle.prove(name_key(outcome.name)[:KEY_LENGTH], tried.address)
        self.tell(tried.identity, outcome)


# One for each thread: that of passwords, and that of all else.
Verifiers = tuple[Verifier, Verifier]


def make_verifiers(config: Config, *, had_accounts: bool = False) -> Verifiers | None:
    """Read what proofs are checked with; None: no setting asks for that.

    ``had_accounts`` is what the running gate says: the accounts' file must be there. Takes as long as the
    disk takes. Raise :class:`StartError` for what cannot be used.
    """
    if not config.auth_on:
        return None
    verifiers = Verifier(config), Verifier(config)
    try:
        if had_accounts:
            verifiers[0].require_accounts()
        if config.auth == "closed" and verifiers[0].lets_nobody_in:
            log.warning("auth is closed, and nobody can come in: no account, no jwt_key, no secret")
    except StartError:
        close_verifiers(verifiers)
        raise
    return verifiers


def close_verifiers(verifiers: Verifiers | None) -> None:
    """Close what no proof will be checked with."""
    for each in verifiers or ():
        each.close()


class _Lane:
    """One thread, which begins with the first try, and the tries that wait for it."""

    def __init__(
        self, reactor: Reactor, gate: Gate, config: Config, verifier: Verifier | None, name: str
    ) -> None:
        self._gate = gate
        self._checker = _Checker(config, verifier)
        self._reactor = reactor
        self._name = name
        self._thread: JobThread | None = None
        self._lines = Lines(MOST_WAITING if name == PASSWORDS else MOST_CHEAP)
        self._busy = False
        self._had_accounts = False

    def add(self, tried: Try) -> None:
        """Check a try when its turn comes, or say that there are too many."""
        out = self._lines.add(tried, proven=self._gate.is_proven(tried))
        if out is not None:
            busy = "too many clients sign in at the same time; try again in a moment"
            self._gate.tell(out.identity, ProtocolError(TRY_LATER, busy))
        self._go_on()

    def forget(self, identity: int) -> None:
        self._lines.forget(identity)

    @property
    def had_accounts(self) -> bool:
        verifier = self._checker.verifier
        return self._had_accounts or (verifier is not None and verifier.had_accounts)

    def follow(self, config: Config, verifier: Verifier | None) -> None:
        self._had_accounts = self.had_accounts  # a mode without verifiers may come in between
        before, self._checker = self._checker, _Checker(config, verifier)
        self._end(before)

    def close(self) -> None:
        self._end(self._checker)
        if self._thread is not None:
            self._thread.close(PATIENCE)

    def _end(self, checker: "_Checker") -> None:
        """Close what checks nothing any more, after its last check."""
        if self._thread is not None or checker.verifier is not None:
            self._begin().do(checker.close)

    def _begin(self) -> JobThread:
        """Return the thread."""
        if self._thread is None:
            self._thread = JobThread(self._reactor, self._name)
            if self._name == PASSWORDS:
                self._thread.do(_be_nice)
        return self._thread

    def _go_on(self) -> None:
        """Have the next try checked that need not wait."""
        while not self._busy and (tried := self._lines.take()) is not None:
            waits_for, counts_for = self._gate.keys(tried)
            wait = self._gate.wait(waits_for)
            if wait:
                seconds = f"try again in {math.ceil(wait)} s"
                slow = f"too many wrong proofs for this name or from your address; {seconds}"
                self._gate.tell(tried.identity, ProtocolError(TRY_LATER, slow))
            else:
                self._check(tried, counts_for)

    def _check(self, tried: Try, keys: list[Key]) -> None:
        self._busy = True
        checker = self._checker
        outcomes: list[Outcome] = []

        def check() -> None:
            begun = time.perf_counter()
            outcomes.append(checker.outcome(tried.proof))
            if self._name != PASSWORDS:
                time.sleep(REST * (time.perf_counter() - begun))

        def on_done(_: Exception | None) -> None:
            self._busy = False
            self._gate.checked(tried, keys, outcomes[0] if outcomes else _unchecked())
            self._go_on()

        self._begin().do(check, on_done)


class _Checker:
    """Settings and what proofs are checked with by them: if need be it is made for the first proof.

    One object: a reload in the middle of a check replaces both together.
    """

    def __init__(self, config: Config, verifier: Verifier | None) -> None:
        self.verifier = verifier
        self._config = config

    def outcome(self, proof: Proof) -> Outcome:
        """Check a proof; in the thread."""
        try:
            if self.verifier is None:
                self.verifier = Verifier(self._config)
            return self.verifier.check(proof, self._config.auth, time.time())
        except ProtocolError as error:
            return error
        except MpchatError as error:
            log.error("no proof can be checked: %s", error)
        except Exception:  # what one client shows must not end the thread that checks for all
            log.exception("a proof could not be checked")
        return _unchecked()

    def close(self) -> None:
        """Close the verifier, if one was made; in the thread."""
        if self.verifier is not None:
            self.verifier.close()


def _name_of(proof: Proof) -> str:
    """Return the key of the name that a proof is for, as its client says; "": it proves no name."""
    if proof.jwt is not None:
        return name_key(claimed_name(proof.jwt))[:KEY_LENGTH]
    return name_key(proof.name or "")[:KEY_LENGTH] if proof.password is not None else ""


def _unchecked() -> ProtocolError:
    return ProtocolError(TRY_LATER, UNCHECKED)


def _be_nice() -> None:
    if sys.platform == "linux":  # elsewhere this is for the whole process
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


def _nobody(identity: int, outcome: Outcome) -> None:
    raise AssertionError("a proof was checked before the hub was there")
