"""Sign-in as a whole, at random: real accounts, tokens, checks and state beside a plain model of them.

The model says which join is let in, under which name, with which role, and which rooms a member may hear.
``MPCHAT_FUZZ=100000`` with ``--timeout 0`` runs so many examples; the test suite runs a few.
"""

import math
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.desk import LIMITS, Desk, Object, code, objects, order

from mpchat.auth import verifier as verifier_module
from mpchat.auth.accounts import Accounts
from mpchat.auth.grant import Grant
from mpchat.auth.keys import Key, load_key
from mpchat.auth.passwords import Cost, Stored, hash_password
from mpchat.auth.tokens import make_token
from mpchat.auth.verifier import Verifier
from mpchat.config import resolve
from mpchat.errors import MpchatError, ProtocolError
from mpchat.hub.effects import Effect, End, Enter, Leave, NoticeInRoom, Order, Say, SayInRoom, Tell
from mpchat.hub.entries import (
    Asked,
    CutOff,
    Denied,
    Entry,
    Left,
    Lifted,
    Moderated,
    NoticesDue,
    RoomClosed,
    Swept,
    WorkerDied,
)
from mpchat.hub.log import Prove
from mpchat.hub.moderation import BANS, MUTES, ban_target, lifted_key, mute_target
from mpchat.hub.proofs import Proofs
from mpchat.protocol.requests import Join, ListRooms, ReadHistory, Request, Who

EXAMPLES = int(os.environ.get("MPCHAT_FUZZ", "400"))
STEPS = 40
# The time of a sweep comes about once a second; nothing here happens at the moment at which something ends.
TIMES = [0.3, 1.3, 7.3, 31.7, 64.9]
HOLD = LIMITS.name_hold
CHEAP = Cost(2, 1, 1)
NAMES = ["앨리스", "밥", "alice", "Alice", "\N{CYRILLIC SMALL LETTER A}lice"]
LOOKS = {"\N{CYRILLIC SMALL LETTER A}lice": "alice"}
ROOMS = ["lobby", "방", "방-2", "비밀"]
PATTERNS: dict[tuple[str, ...] | None, list[str]] = {
    None: ROOMS,
    ("*",): ROOMS,
    ("방*",): ["방", "방-2"],
    ("lobby", "비밀"): ["lobby", "비밀"],
    ("방-2",): ["방-2"],
    (): [],
}
PASSWORDS = ["첫째 비밀번호입니다", "둘째 비밀번호입니다"]
SECRET = "교실의 비밀번호"
MODES = ["open", "names", "closed"]
ACTIONS = ["kick", "ban", "unban", "mute", "unmute", "close"]


def key_of(name: str) -> str:
    """Return the key of one of the names here."""
    return name.lower()


def look_of(key: str) -> str:
    return LOOKS.get(key, key)


ROLES = st.sampled_from(["member", "operator"])
NUMBERS = st.integers(0, 9)


# The model.


class Ticket(NamedTuple):
    """What a proof allows; ``key`` is of the proven name, "" for the secret."""

    key: str
    role: str = "member"
    rooms: tuple[str, ...] | None = None
    expires: float | None = None

    def allows(self, room: str) -> bool:
        return self.rooms in (None, ("*",)) or room in PATTERNS[self.rooms]


class Verdict(NamedTuple):
    """What a check says: a code, or a name with what its proof allows.

    ``looked``: its looks were compared. ``bound``: it is registered, and only its owner may have it.
    """

    code: str = ""
    name: str = ""
    ticket: Ticket | None = None
    looked: bool = False
    bound: bool = False


class Shown(NamedTuple):
    """The proof that a join shows, and what the model knows of it."""

    kind: str = ""
    text: str = ""
    # Of a token that is signed with the server's key for its audience: what it says, and the name in it.
    ticket: Ticket | None = None
    name: str = ""


@dataclass
class ModelAccount:
    name: str
    password: str
    role: str = "member"


@dataclass
class ModelClaim:
    """A name in use or held; see ``mpchat.hub.claims``."""

    identity: int | None
    token: str
    looked: bool
    before: str = ""
    until: float = 0.0
    proven: bool = False
    since: float = 0.0

    def is_there(self, now: float) -> bool:
        return self.identity is not None or self.until > now

    def is_shown(self, token: str | None) -> bool:
        good = {self.token} if self.identity is not None else {self.token, self.before}
        return bool(token) and token in good


@dataclass
class Seat:
    """A connection."""

    identity: int
    asked: bool = False
    key: str = ""
    name: str = ""
    room: str = ""
    ticket: Ticket | None = None
    # True when it has joined under a registered name, and the chat was never open since then.
    bound: bool = False
    ending: bool = False

    @property
    def in_a_room(self) -> bool:
        return bool(self.room) and not self.ending


@dataclass
class Model:
    """What must be so."""

    mode: str
    now: float = 1000.0
    accounts: dict[str, ModelAccount] = field(default_factory=dict)
    claims: dict[str, ModelClaim] = field(default_factory=dict)
    seats: dict[int, Seat] = field(default_factory=dict)
    bans: dict[str, float] = field(default_factory=dict)
    mutes: dict[str, float] = field(default_factory=dict)

    def members(self, room: str = "") -> list[Seat]:
        found = [each for each in self.seats.values() if each.in_a_room]
        return [each for each in found if not room or each.room == room]

    def is_over(self, ticket: Ticket) -> bool:
        return ticket.expires is not None and ticket.expires <= self.now

    # The check.

    def check(self, seat: Seat, name: str | None, shown: Shown) -> Verdict | None:
        """Return what a check says of a join; None: nothing is checked."""
        if not shown.kind and not (not seat.key and name is not None and self.mode == "names"):
            return None
        verdict = self._ticket(name, shown)
        if verdict.code:
            return verdict
        ticket = verdict.ticket
        if name is None and (ticket is None or not ticket.key):
            return Verdict("bad_request")
        wanted = shown.name if name is None else name
        if self.mode == "open":
            return Verdict("", wanted, ticket)
        key = key_of(wanted)
        if key in self.accounts:
            if ticket is None or not ticket.key:
                return Verdict("auth_required")
        elif any(look_of(each) == look_of(key) for each in self.accounts):
            return Verdict("name_taken")
        return Verdict("", wanted, ticket, looked=True, bound=key in self.accounts)

    def _ticket(self, name: str | None, shown: Shown) -> Verdict:
        if shown.kind == "jwt":
            if shown.ticket is None:
                return Verdict("bad_credentials")
            if self.is_over(shown.ticket):
                return Verdict("expired")
            if name is not None and key_of(name) != shown.ticket.key:
                return Verdict("not_allowed")
            return Verdict(ticket=shown.ticket)
        if shown.kind == "password":
            if name is None:
                return Verdict("bad_request")
            account = self.accounts.get(key_of(name))
            if account is None or account.password != shown.text:
                return Verdict("bad_credentials")
            return Verdict(ticket=Ticket(key_of(name), account.role))
        if shown.kind == "secret":
            return Verdict(ticket=Ticket("")) if shown.text == SECRET else Verdict("bad_credentials")
        return Verdict()

    # The join.

    def join(
        self,
        seat: Seat,
        name: str | None,
        room: str | None,
        token: str | None,
        verdict: Verdict | None,
        began: float,
    ) -> str:
        """Return the code of the error, or "" for a welcome. A new token is the connection's ``fresh``.

        ``began`` is when it was asked for.
        """
        seat.asked = True
        if verdict is not None and verdict.code:
            return verdict.code
        ticket = verdict.ticket if verdict is not None and verdict.ticket else seat.ticket
        if self.mode == "closed" and ticket is None:
            return "auth_required"
        if verdict is not None and ticket is not None and self.is_over(ticket):
            return "expired"
        wanted = verdict.name if verdict is not None else name
        if wanted is None and not seat.key:
            return "bad_request"
        key = key_of(wanted) if wanted is not None else seat.key
        if seat.key and key != seat.key:
            return "bad_request"
        if self.bans.get(key, 0.0) > self.now:
            return "banned"
        entered = room or seat.room or "lobby"
        if ticket is not None and not ticket.allows(entered):
            return "not_allowed"
        if not seat.key:
            assert wanted is not None
            if not self._take(key, seat, token, verdict, began):
                return "name_taken"
            seat.key, seat.name = key, wanted
            seat.bound = verdict is not None and verdict.bound
        seat.ticket, seat.room = ticket, entered
        return ""

    def _take(self, key: str, seat: Seat, token: str | None, verdict: Verdict | None, began: float) -> bool:
        proven = verdict is not None and verdict.ticket is not None and bool(verdict.ticket.key)
        looked = verdict is not None and verdict.looked
        if looked:
            for other, each in self.claims.items():
                alike = other != key and look_of(other) == look_of(key)
                if alike and each.looked and each.is_there(began) and (each.proven or not proven):
                    return False
        claim, fresh = self.claims.get(key), f"token {seat.identity}"
        if claim is None or not claim.is_there(began):
            claim = ModelClaim(None, fresh, looked)
        elif not proven and not claim.is_shown(token):
            return False
        elif claim.identity is not None:
            if claim.identity > seat.identity and not (proven and began > claim.since + 10.0):
                return False
            self.end(self.seats[claim.identity])
            claim.before, claim.token = claim.token, fresh
        if proven and not claim.is_shown(token):
            claim.before, claim.token = "", fresh
        claim.identity, claim.looked = seat.identity, looked
        claim.proven, claim.since = proven, began
        self.claims[key] = claim
        return True

    # Ends.

    def end(self, seat: Seat) -> None:
        """Close a connection; its end is still to come."""
        seat.ending, seat.room = True, ""

    def lose(self, seat: Seat, reason: str = "lost") -> None:
        """Hold the name of a connection that is lost, or free it when it is closed in order."""
        claim = self.claims.get(seat.key)
        if claim is not None and claim.identity == seat.identity:
            if reason == "closed":
                del self.claims[seat.key]
            else:
                claim.identity, claim.until = None, self.now + HOLD


# The real thing, beside the model.


class Coming(NamedTuple):
    """Which client joins, a new one or one that is there, and whether others do something first."""

    number: int
    fresh: bool
    room: str | None
    later: bool


class Allowed(NamedTuple):
    """What a token is made with; ``life`` is in seconds."""

    rooms: tuple[str, ...] | None
    role: str
    life: float


COMINGS = st.builds(
    Coming,
    st.integers(0, 9),
    st.booleans(),
    st.sampled_from([None, None, *ROOMS]),
    st.sampled_from([False, False, True]),
)


class Place(NamedTuple):
    """What all examples share: a key, another one, and files."""

    folder: Path
    key: Key
    other: Key


@dataclass
class Pending:
    """A join whose check is done, and which is served later."""

    asked: Asked
    serve: Callable[[], str]


class SignIn(RuleBasedStateMachine):
    """Accounts, tokens, joins, operators and time in any order."""

    place: Place

    @initialize(
        mode=st.sampled_from(MODES),
        registered=st.fixed_dictionaries({"앨리스": ROLES}, optional={"alice": ROLES, "밥": ROLES}),
    )
    def begin(self, mode: str, registered: dict[str, str]) -> None:
        self.model = Model(mode)
        self.desk = Desk(LIMITS._replace(auth=mode))
        path = self.place.folder / f"{secrets.token_hex(8)}.db"
        self.accounts = Accounts(path, create=True)
        config = msgspec.structs.replace(
            resolve([])[0],
            accounts=str(path),
            jwt_key=str(self.place.folder / "key"),
            secret=str(self.place.folder / "secret"),
        )
        self.verifier = Verifier(config)
        self.proofs = Proofs(cast(Any, None))
        self.proofs.gate = cast(Any, "is there")
        self.number = 0
        # What real connections hear, by the numbers of rooms, and the names of these.
        self.hears: dict[int, int] = {}
        self.room_names: dict[int, str] = {}
        self.pending: dict[int, Pending] = {}
        self.tokens: list[str] = []
        self.issued: list[Shown] = []
        for name, role in registered.items():
            self.accounts.add(name, hash_password(PASSWORDS[0], CHEAP), role)
            self.model.accounts[key_of(name)] = ModelAccount(name, PASSWORDS[0], role)

    def teardown(self) -> None:
        if hasattr(self, "accounts"):
            self.verifier.close()
            self.accounts.close()
            self.accounts.path.unlink()

    # Entries and their effects.

    def apply(self, entry: Entry) -> list[Effect]:
        """Apply an entry, and look at each effect: the model is a step ahead."""
        effects = self.desk.apply(entry)
        for effect in effects:
            if isinstance(effect, Tell | Enter):
                seat = self.model.seats[effect.identity]
                if self.model.mode == "closed" and seat.ticket is None:
                    assert all("error" in each for each in objects(effect.frames)), "a stranger hears it"
            if isinstance(effect, Enter):
                self.hears[effect.identity] = effect.room
                self.room_names[effect.room] = self.desk.state.rooms.by_number[effect.room].name
            elif isinstance(effect, Leave | End):
                self.hears.pop(effect.identity, None)
            elif isinstance(effect, SayInRoom | NoticeInRoom):
                self.may_all_hear(effect.room)
        return effects

    def may_all_hear(self, room: int) -> None:
        """See that all that hear a room may hear it."""
        for identity, number in self.hears.items():
            if number == room:
                ticket = self.model.seats[identity].ticket
                assert ticket is None or ticket.allows(self.room_names[number])

    def ask(self, seat: Seat, request: Request) -> tuple[Object, list[Effect]]:
        """Ask; return the answer and all effects."""
        seat.asked = True
        return self.answer(self.asked(seat, request))

    def asked(self, seat: Seat, request: Request) -> Asked:
        address = self.desk.address(seat.identity)
        return Asked(
            self.model.now, self.model.now, seat.identity, address, request, f"token {seat.identity}"
        )

    def answer(self, asked: Asked) -> tuple[Object, list[Effect]]:
        before = len(self.desk.sent)
        now = self.model.now
        effects = self.apply(msgspec.structs.replace(asked, now=now, at=now, began=asked.now))
        told = [each for who, each in self.desk.sent[before:] if who == asked.identity]
        return (told[0] if told else {}), effects

    def a_client(self, number: int, *, fresh: bool) -> Seat:
        """Return a connection for a join: one that may ask, or a new one."""
        seat = None if fresh else self.a_seat(number)
        if seat is None:
            self.number += 1
            seat = self.model.seats[self.number] = Seat(self.number)
        return seat

    def a_seat(self, number: int, *, ending: bool = False) -> Seat | None:
        """Return a connection that may ask now, None when there is none."""
        seats = [
            each
            for each in self.model.seats.values()
            if each.identity not in self.pending and (ending or not each.ending)
        ]
        return seats[number % len(seats)] if seats else None

    def leaves(self, seat: Seat, reason: str) -> None:
        """Let a connection end."""
        self.pending.pop(seat.identity, None)
        del self.model.seats[seat.identity]
        self.model.lose(seat, reason)
        if seat.asked:
            address = self.desk.address(seat.identity)
            self.hears.pop(seat.identity, None)
            self.apply(Left(self.model.now, [(seat.identity, address, reason)]))

    # Accounts.

    @rule(
        name=st.sampled_from(NAMES),
        password=st.sampled_from(PASSWORDS),
        role=ROLES,
    )
    def register(self, name: str, password: str, role: str) -> None:
        key = key_of(name)
        taken = any(look_of(each) == look_of(key) for each in self.model.accounts)
        try:
            self.accounts.add(name, hash_password(password, CHEAP), role)
        except MpchatError:
            assert taken
        else:
            assert not taken
            self.model.accounts[key] = ModelAccount(name, password, role)

    @rule(
        number=st.integers(0, 5),
        change=st.sampled_from(["password", "password", "member", "operator", "operator", "remove"]),
        password=st.sampled_from(PASSWORDS),
    )
    def change_account(self, number: int, change: str, password: str) -> None:
        if not self.model.accounts:
            return
        key = list(self.model.accounts)[number % len(self.model.accounts)]
        account = self.model.accounts[key]
        if change == "remove":
            self.accounts.remove(account.name)
            del self.model.accounts[key]
            for each in self.model.seats.values():
                each.bound = each.bound and each.key != key
        elif change == "password":
            self.accounts.set_password(account.name, hash_password(password, CHEAP))
            account.password = password
        else:
            self.accounts.set_role(account.name, change)
            account.role = change

    # Clients.

    def a_token(self, name: str, allowed: Allowed, how: str) -> Shown:
        """Return a token; ``how`` says what is wrong with it."""
        end = self.model.now + allowed.life
        key = self.place.other if how == "other key" else self.place.key
        audience = "another" if how == "other audience" else "mpchat"
        text = make_token(key, Grant(name, allowed.role, allowed.rooms, end), audience, self.model.now)
        if how == "changed":
            head, body, signature = text.split(".")
            text = f"{head}.{body[::-1]}.{signature}"
        ticket = Ticket(key_of(name), allowed.role, allowed.rooms, float(math.ceil(end)))
        return Shown("jwt", text, ticket if how == "right" else None, name)

    @rule(coming=COMINGS, name=st.sampled_from(NAMES), password=st.sampled_from([None] * 3 + PASSWORDS))
    def join_by_password(self, coming: Coming, name: str, password: str | None) -> None:
        """Join with a password, None: that of an account, which is another one if the name has none."""
        accounts = list(self.model.accounts.values())
        account = self.model.accounts.get(key_of(name))
        if account is None and password is None and accounts:
            account = accounts[coming.number % len(accounts)]
            name = account.name
        text = password or (account.password if account is not None else PASSWORDS[0])
        self.sign_in(coming, name, Shown("password", text), None)

    @rule(
        coming=COMINGS,
        name=st.sampled_from([None, *NAMES, *NAMES]),
        secret=st.sampled_from([None, None, SECRET, SECRET, SECRET, "틀린 비밀"]),
        resume=st.sampled_from(["", "its own", "another"]),
    )
    def join_by_secret_or_nothing(
        self, coming: Coming, name: str | None, secret: str | None, resume: str
    ) -> None:
        """Join with the secret for all or without a proof, perhaps with a token of an earlier welcome."""
        claim = self.model.claims.get(key_of(name)) if name is not None else None
        token: str | None = None
        if resume == "its own" and claim is not None:
            token = claim.token
        elif resume == "another" and self.tokens:
            token = self.tokens[coming.number % len(self.tokens)]
        self.sign_in(coming, name, Shown("secret", secret) if secret is not None else Shown(), token)

    @rule(
        coming=COMINGS,
        named=st.sampled_from(["no", "no", "yes", "another"]),
        sub=st.sampled_from(NAMES),
        allowed=st.builds(
            Allowed,
            st.sampled_from([None, None, None, *PATTERNS]),
            ROLES,
            st.sampled_from([2.0, 8.0, 40.0, 400.0]),
        ),
        how=st.sampled_from([*["right"] * 8, "other key", "other audience", "changed", "old", "old"]),
    )
    def join_by_token(self, coming: Coming, named: str, sub: str, allowed: Allowed, how: str) -> None:
        if how == "old" and self.issued:
            shown = self.issued[coming.number % len(self.issued)]
        else:
            shown = self.a_token(sub, allowed, "right" if how == "old" else how)
            self.issued.append(shown)
            if allowed.rooms and coming.number % 4:  # mostly a room that is allowed
                coming = coming._replace(room=PATTERNS[allowed.rooms][-1])
        self.sign_in(coming, {"no": None, "yes": shown.name, "another": sub}[named], shown, None)

    @precondition(lambda self: self.model.members())
    @rule(number=NUMBERS, room=st.sampled_from(ROOMS))
    def move(self, number: int, room: str) -> None:
        members = [each for each in self.model.members() if each.identity not in self.pending]
        if members:
            self.show(members[number % len(members)], Join(room=room), Shown(), later=False)

    def sign_in(self, coming: Coming, name: str | None, shown: Shown, token: str | None) -> None:
        """Let a client join with a proof."""
        proofs = dict.fromkeys(("password", "jwt", "secret")) | {shown.kind or "secret": shown.text or None}
        join = Join(name=name, room=coming.room, token=token, **proofs)
        self.show(self.a_client(coming.number, fresh=coming.fresh), join, shown, later=coming.later)

    def show(self, seat: Seat, join: Join, shown: Shown, *, later: bool) -> None:
        """Have a join checked, as the hub does, and served now or later."""
        asked = self.asked(seat, Request(join=join))
        member = self.desk.state.members.by_identity.get(seat.identity)
        new = member is None or member.claim is None
        limits = self.desk.state.members.limits
        verdict = self.model.check(seat, join.name, shown)
        prove = self.proofs.to_prove(asked, limits, new=new)
        assert isinstance(prove, Asked) == (verdict is None)
        if isinstance(prove, Prove):
            assert shown.text not in repr(prove) or not shown.text
            asked = prove.asked
            try:
                found = self.verifier.check(prove.proof, limits.auth, self.model.now)
                asked = msgspec.structs.replace(asked, identified=found)
            except ProtocolError as error:
                denied = Denied(error.code, error.text, error.proofs)
                asked = msgspec.structs.replace(asked, denied=denied)

        began = self.model.now

        def serve() -> str:
            return self.model.join(seat, join.name, join.room, join.token, verdict, began)

        if later and isinstance(prove, Prove):
            self.pending[seat.identity] = Pending(asked, serve)
        else:
            self.serve(seat, Pending(asked, serve))

    def serve(self, seat: Seat, pending: Pending) -> None:
        before = seat.room
        expected = pending.serve()
        answer, effects = self.answer(pending.asked)
        if expected:
            assert code(answer) == expected, answer
            assert not [each for each in effects if not isinstance(each, Tell)]
            if before:
                assert seat.room == before
            return
        welcome = answer["welcome"]
        ticket = seat.ticket or Ticket("")
        assert key_of(welcome["name"]) == seat.key
        assert welcome["room"] == seat.room
        assert welcome.get("role", "member") == ticket.role
        assert welcome.get("expires") == ticket.expires
        assert welcome["token"] == self.model.claims[seat.key].token
        if welcome["token"] not in self.tokens:
            self.tokens.append(welcome["token"])

    @precondition(lambda self: self.pending)
    @rule(number=NUMBERS, mode=st.sampled_from([None, None, *MODES]))
    def served_at_last(self, number: int, mode: str | None) -> None:
        """Let a join have its turn that was checked a while ago, perhaps after a reload."""
        if mode is not None:
            self.reload(mode)
        if self.pending:
            identity = list(self.pending)[number % len(self.pending)]
            pending = self.pending.pop(identity)
            seat = self.model.seats[identity]
            if not seat.ending:
                self.serve(seat, pending)
            else:
                assert self.answer(pending.asked) == ({}, [])

    @rule(number=NUMBERS, fresh=st.sampled_from([False, False, True]))
    def post(self, number: int, fresh: bool) -> None:
        seat = self.a_client(0, fresh=True) if fresh else self.a_seat(number, ending=True)
        if seat is None:
            return
        sender: int | str = seat.identity if seat.asked else self.desk.address(seat.identity)
        before = len(self.desk.effects)
        self.desk.post(sender, "안녕", at=self.model.now)
        effects = self.desk.effects[before:]
        said = {(type(each), getattr(each, "room", None)) for each in effects}
        lobby = self.desk.state.rooms.lobby.number
        if seat.ending or (self.model.mode == "closed" and not seat.room):
            assert effects == []
        elif not seat.room:
            assert said == {(Say, None), (SayInRoom, lobby)}
        elif self.model.mutes.get(seat.key, 0.0) > self.model.now:
            assert [type(each) for each in effects] == [Tell]
        else:
            room = self.hears[seat.identity]
            assert said == {
                (SayInRoom, room),
                *([(Say, None)] if room == lobby and self.model.mode != "closed" else []),
            }
        for effect in effects:
            if isinstance(effect, SayInRoom):
                self.may_all_hear(effect.room)
                assert effect.run.sender == (seat.name if seat.room else self.desk.address(seat.identity))

    @rule(number=NUMBERS, room=st.sampled_from([None, *ROOMS]))
    def question(self, number: int, room: str | None) -> None:
        seat = self.a_seat(number)
        if seat is None:
            return
        who, _ = self.ask(seat, Request(who=Who(room=room)))
        rooms, _ = self.ask(seat, Request(rooms=ListRooms()))
        history, _ = self.ask(seat, Request(history=ReadHistory()))
        if not seat.room:
            expected = "auth_required" if self.model.mode == "closed" else "not_joined"
            assert [code(each) for each in (who, rooms, history)] == [expected] * 3
            return
        allowed = seat.ticket or Ticket("")
        assert {each["room"] for each in rooms["rooms"]["rooms"]} <= set(PATTERNS[allowed.rooms])
        assert history["history"]["room"] == seat.room
        asked_for = room or seat.room
        if not allowed.allows(asked_for):
            assert code(who) == "not_allowed", "whether there is such a room or not"
        elif self.desk.state.rooms.get(asked_for) is None:
            assert code(who) == "bad_room"
        else:
            assert who["who"]["names"] == sorted(each.name for each in self.model.members(asked_for))

    @rule(number=NUMBERS, reason=st.sampled_from(["closed", "lost", "slow", "worker died"]))
    def leave(self, number: int, reason: str) -> None:
        seat = self.a_seat(number, ending=True)
        if seat is None:
            return
        if reason == "slow" and seat.asked and not seat.ending:
            self.model.lose(seat)
            self.model.end(seat)
            self.apply(CutOff(self.model.now, seat.identity, "slow consumer"))
        elif reason == "worker died" and seat.asked:
            del self.model.seats[seat.identity]
            self.model.lose(seat)
            self.hears.pop(seat.identity, None)
            self.apply(WorkerDied(self.model.now, [seat.identity], 1))
        else:
            self.leaves(seat, "closed" if reason == "closed" else "lost")

    # Operators, settings and time.

    def operators(self) -> list[Seat]:
        members = [each for each in self.model.members() if each.identity not in self.pending]
        return [each for each in members if each.ticket is not None and each.ticket.role == "operator"]

    @precondition(lambda self: self.operators())
    @rule(number=NUMBERS, action=st.sampled_from(ACTIONS), name=st.sampled_from([None, None, *NAMES]))
    def operate(self, number: int, action: str, name: str | None) -> None:
        """Let an operator order something, about a member or its room as a rule."""
        operators, members = self.operators(), self.model.members()
        other = members[-1 - number % len(members)]
        target = other.room if action == "close" else name or other.name
        self.order(operators[number % len(operators)], action, target)

    @precondition(lambda self: self.model.members())
    @rule(number=NUMBERS, action=st.sampled_from([*ACTIONS, "close"]))
    def command(self, number: int, action: str) -> None:
        """Do as a command of the shell does, about a member or its room."""
        members = self.model.members()
        other = members[number % len(members)]
        self.carry_out(action, other.room if action == "close" else other.name)

    @rule(number=NUMBERS, action=st.sampled_from(ACTIONS), aim=st.sampled_from([*NAMES, *ROOMS]))
    def presume(self, number: int, action: str, aim: str) -> None:
        """Let any client order something."""
        seat = self.a_seat(number)
        if seat is not None:
            self.order(seat, action, aim)

    def order(self, seat: Seat, action: str, target: str) -> None:
        answer, effects = self.ask(seat, order(action, target))
        if not seat.room:
            assert code(answer) == ("auth_required" if self.model.mode == "closed" else "not_joined")
        elif (
            seat.ticket is None or seat.ticket.role != "operator" or not self.may(seat.ticket, action, target)
        ):
            assert code(answer) == "not_allowed"
            assert not [each for each in effects if isinstance(each, Order)]
        else:
            assert [(type(each), getattr(each, "identity", 0)) for each in effects] == [
                (Order, seat.identity)
            ]
            self.carry_out(action, target)

    def may(self, ticket: Ticket | None, action: str, target: str) -> bool:
        """Tell whether a member with this proof may do this."""
        if ticket is None or ticket.role != "operator":
            return False
        if ticket.rooms is None:
            return True
        if action == "close":
            return ticket.allows(target)
        return action == "kick" and any(
            each.key == key_of(target) and ticket.allows(each.room) for each in self.model.members()
        )

    def carry_out(self, action: str, target: str) -> None:
        """Do what an operator wants, as the supervisor does."""
        until = self.model.now + 60.0
        key = key_of(target)
        if action == "close":
            self.close_room(target)
        elif action in ("ban", "mute"):
            table, rules = (BANS, self.model.bans) if action == "ban" else (MUTES, self.model.mutes)
            rules[key] = until
            real, spelled = (ban_target if action == "ban" else mute_target)(target)
            self.apply(Moderated(table, real, spelled, until))
        elif action in ("unban", "unmute"):
            table, rules = (BANS, self.model.bans) if action == "unban" else (MUTES, self.model.mutes)
            rules.pop(key, None)
            self.apply(Lifted(table, lifted_key(target)))
        if action in ("kick", "ban"):
            for seat in [each for each in self.model.members() if each.key == key]:
                self.leaves(seat, "kicked")

    def close_room(self, name: str) -> None:
        room = self.desk.state.rooms.get(name)
        if room is None or name == "lobby":
            return
        for seat in self.model.members(name):
            if seat.ticket is None or seat.ticket.allows("lobby"):
                seat.room = "lobby"
            else:
                self.model.lose(seat)
                self.model.end(seat)
        self.apply(RoomClosed(self.model.now, self.model.now, room.number))

    @rule(mode=st.sampled_from(MODES))
    def reload(self, mode: str) -> None:
        if mode == "closed" and self.model.mode != "closed":
            for seat in self.model.members():
                if seat.ticket is None:
                    self.model.lose(seat)
                    self.model.end(seat)
        self.model.mode = mode
        for seat in self.model.seats.values():
            seat.bound = seat.bound and mode != "open"
        before = len(self.desk.effects)
        self.desk.configure(LIMITS._replace(auth=mode), self.model.now)
        for effect in self.desk.effects[before:]:
            if isinstance(effect, Leave | End):
                self.hears.pop(effect.identity, None)

    @rule(seconds=st.sampled_from(TIMES))
    def time_passes(self, seconds: float) -> None:
        self.model.now = now = self.model.now + seconds
        for seat in self.model.members():
            if seat.ticket is not None and self.model.is_over(seat.ticket):
                self.model.lose(seat)
                self.model.end(seat)
        self.apply(Swept(now, now))
        self.apply(NoticesDue(now))

    # What holds after each step.

    @invariant()
    def the_members_are_those_of_the_model(self) -> None:
        if not hasattr(self, "model"):
            return
        real = {
            each.identity: (each.name, each.room.name, each.grant and each.grant.role)
            for each in self.desk.state.members.by_identity.values()
            if each.room is not None
        }
        assert real == {
            each.identity: (each.name, each.room, each.ticket and each.ticket.role)
            for each in self.model.members()
        }
        assert {identity: self.room_names[room] for identity, room in self.hears.items()} == {
            each.identity: each.room for each in self.model.members()
        }

    @invariant()
    def a_name_has_one_connection(self) -> None:
        if hasattr(self, "model"):
            members = self.desk.state.members.by_identity.values()
            keys = [key_of(each.name) for each in members if each.name]
            assert len(keys) == len(set(keys))

    @invariant()
    def no_member_is_there_without_the_proof_that_the_mode_asks_for(self) -> None:
        """Told by the grants of the state alone, and not by what the model has foretold."""
        if not hasattr(self, "model"):
            return
        for member in self.desk.state.members.by_identity.values():
            if member.room is None:
                continue
            assert self.model.mode != "closed" or member.grant is not None
            if member.grant is not None:
                assert member.room.name in PATTERNS[member.grant.rooms]
                assert member.grant.expires is None or member.grant.expires > self.model.now
            if self.model.seats[member.identity].bound:
                assert member.grant is not None
                assert key_of(member.grant.name) == key_of(member.name)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A folder with a key and a secret; passwords that are cheap to check."""
    texts = [secrets.token_hex(32) for _ in range(2)]
    for name, text in (("key", texts[0]), ("secret", SECRET)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    dummy = Stored(CHEAP, secrets.token_bytes(16), secrets.token_bytes(32))
    monkeypatch.setattr(verifier_module, "DUMMY", dummy)
    first, second = (load_key(each.encode()) for each in texts)
    return Place(tmp_path, first, second)


@pytest.mark.one_python
def test_any_sequence_of_sign_ins_leads_to_what_the_model_says(place: Place) -> None:
    class Here(SignIn):
        pass

    Here.place = place
    limits = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    run_state_machine_as_test(Here, settings=limits)
