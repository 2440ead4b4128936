"""Proofs of identity, without a socket: when they are shown, when a fresh one is asked for."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mpchat.client.conversation import STEADY, Backoff, Conversation, Seat, State
from mpchat.client.core import (
    Event,
    Garbled,
    History,
    Message,
    Moderated,
    Pong,
    Refused,
    Rejected,
    Rooms,
    Welcome,
    Who,
)
from mpchat.client.proof import NoTokenError, Proof, proof_of
from mpchat.errors import ProtocolError, RefusedError
from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

PASSWORD = "비밀번호 1234"


def frame(answer: dict[str, Any]) -> bytes:
    return encode_frame(msgspec.json.encode(answer))


def welcome(**more: Any) -> bytes:
    facts = {"name": "앨리스", "room": "게임방", "seq": 0, "epoch": "e", "members": 1, "token": "t"}
    return frame({"welcome": {"recovered": False, "lost": None, **facts, **more}})


def error(code: str, **more: Any) -> bytes:
    return frame({"error": {"code": code, "text": "안 됩니다", **more}})


def message(seq: int) -> bytes:
    return frame({"message": f"안녕 {seq}", "from": "밥", "room": "게임방", "seq": seq, "at": 1.5})


def who(room: str) -> bytes:
    return frame({"who": {"room": room, "names": [], "members": 0}})


def moderated(action: str, target: str) -> bytes:
    return frame({"moderated": {"action": action, "target": target, "count": 1}})


def private(to: str, text: str, sender: str = "앨리스") -> bytes:
    return frame({"message": text, "from": sender, "to": to, "at": 1.5})


def chat_with(proof: Proof | None, name: str | None = "앨리스", **options: Any) -> Conversation:
    backoff = Backoff(first=1.0, floor=0.5, draw=lambda: 0.9)
    return Conversation("h", 1, seat=Seat(name, "게임방", proof=proof), backoff=backoff, **options)


def joined(data: bytes) -> dict[str, Any]:
    """Return the join in the bytes that a connection begins with."""
    (payload,) = FrameDecoder().feed(data)
    assert not isinstance(payload, Oversized)
    join: dict[str, Any] = msgspec.json.decode(payload)["join"]
    return join


def connected(chat: Conversation, now: float = 0.0) -> dict[str, Any]:
    chat.prove()
    return joined(chat.opened(now))


def operator() -> Conversation:
    chat = chat_with(None)
    connected(chat)
    chat.received(welcome(role="operator"))
    for _ in range(2):
        chat.next_event()
    return chat


def unread(chat: Conversation) -> list[Event | None]:
    return [chat.next_event() for _ in range(len(chat.inbox))]


def rejections(chat: Conversation) -> list[tuple[str, bool]]:
    return [(each.code, each.retrying) for each in unread(chat) if isinstance(each, Rejected)]


class Tokens:
    """A function that returns another token each time."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> str:
        self.count += 1
        return f"토큰 {self.count}"


@pytest.mark.parametrize("kind", ["password", "jwt", "secret"])
def test_each_connection_shows_the_proof_and_a_change_of_rooms_does_not(kind: str) -> None:
    chat = chat_with(Proof(kind, PASSWORD))
    assert connected(chat) == {"name": "앨리스", "room": "게임방", kind: PASSWORD}
    chat.received(welcome(seq=3))
    chat.lost(1, None)
    again = {"name": "앨리스", "room": "게임방", "token": "t", "after": 3, "epoch": "e", kind: PASSWORD}
    assert connected(chat, 2) == again
    chat.received(welcome(seq=3, recovered=True))
    chat.ask(Welcome)
    chat.received(welcome(room="lobby"))
    chat.lost(3, None)
    assert connected(chat, 4)[kind] == PASSWORD


def test_the_name_of_a_token_is_the_members() -> None:
    chat = chat_with(Proof("jwt", "토큰"), name=None)
    assert connected(chat) == {"room": "게임방", "jwt": "토큰"}
    chat.received(welcome(role="operator", expires=1234.5))
    assert (chat.seat.name if chat.seat else "") == "앨리스"
    assert [chat.role, chat.expires] == ["operator", 1234.5]
    chat.received(welcome())
    assert [chat.role, chat.expires] == ["member", None]


def test_a_function_is_asked_before_each_connection() -> None:
    tokens = Tokens()
    chat = chat_with(Proof("jwt", tokens))
    assert tokens.count == 0
    assert connected(chat)["jwt"] == "토큰 1"
    chat.received(welcome())
    chat.lost(1, None)
    assert connected(chat, 2)["jwt"] == "토큰 2"


def test_an_error_at_the_first_join_says_which_proofs_the_server_takes() -> None:
    chat = chat_with(None)
    connected(chat)
    chat.received(error("auth_required", proofs=["password", "secret"]))
    assert chat.entrance is not None
    with pytest.raises(RefusedError) as refused:
        chat.entrance.result()
    assert (refused.value.code, refused.value.proofs) == ("auth_required", ("password", "secret"))


@pytest.mark.parametrize("code", ["bad_credentials", "expired", "not_allowed", "try_later"])
def test_any_error_at_the_first_join_is_the_openers(code: str) -> None:
    chat = chat_with(Proof("jwt", Tokens()))
    connected(chat)
    chat.received(error(code))
    assert chat.entrance is not None
    with pytest.raises(RefusedError, match=code):
        chat.entrance.result()
    assert rejections(chat) == []


@pytest.mark.parametrize(
    ("code", "proof", "retrying"),
    [
        ("try_later", PASSWORD, True),
        ("expired", PASSWORD, False),
        ("bad_credentials", PASSWORD, False),
        ("auth_required", PASSWORD, False),
        ("not_allowed", PASSWORD, False),
        ("expired", Tokens(), True),
        ("bad_credentials", Tokens(), False),
        ("auth_required", Tokens(), False),
        ("not_allowed", Tokens(), False),
    ],
)
@pytest.mark.parametrize("reconnect", [True, False])
def test_a_later_join_that_is_refused(
    code: str, proof: str | Callable[[], str], retrying: bool, reconnect: bool
) -> None:
    chat = chat_with(Proof("jwt", proof), reconnect=reconnect)
    connected(chat)
    chat.received(welcome())
    if reconnect:
        chat.lost(1, None)
        connected(chat, 2)
    elif code != "expired":
        return
    chat.received(error(code))
    assert rejections(chat) == [(code, retrying and reconnect)]
    chat.lost(3, None)
    assert chat.state is (State.DISCONNECTED if retrying and reconnect else State.LOST)


def test_when_a_token_ends_a_fresh_one_is_shown_at_once_and_nothing_is_lost_or_doubled() -> None:
    chat = chat_with(Proof("jwt", Tokens()))
    connected(chat)
    chat.received(welcome(seq=1) + message(1) + message(2) + error("expired") + message(3))
    chat.lost(STEADY, None)
    assert chat.state is State.DISCONNECTED
    assert chat.next_delay() == 0.0
    assert connected(chat, STEADY) == {
        "name": "앨리스",
        "room": "게임방",
        "token": "t",
        "after": 2,
        "epoch": "e",
        "jwt": "토큰 2",
    }
    chat.received(welcome(seq=3, recovered=True) + message(3))
    events = [chat.next_event() for _ in range(len(chat.inbox))]
    assert [each.seq for each in events if isinstance(each, Message)] == [1, 2, 3]


@pytest.mark.parametrize("live", [True, False])
def test_a_fresh_token_that_is_over_too_ends_the_chat(live: bool) -> None:
    chat = chat_with(Proof("jwt", Tokens()))
    connected(chat)
    chat.received(welcome())
    if not live:
        chat.lost(1, None)
        connected(chat, 2)
    chat.received(error("expired"))
    assert rejections(chat) == [("expired", True)]
    chat.lost(3, None)
    assert chat.next_delay() == 0.0
    connected(chat, 3)
    chat.received(error("expired"))
    chat.lost(3, None)
    # The application reads it although the loss before it was not read.
    assert rejections(chat) == [("expired", False)]
    assert chat.state is State.LOST


def test_a_server_that_ends_each_token_at_once_is_asked_ever_more_slowly() -> None:
    chat, delays = chat_with(Proof("jwt", Tokens())), []
    for now in (0.0, 1.0, 2.0, 2.0 + STEADY):
        connected(chat, now)
        chat.received(welcome() + error("expired"))
        chat.lost(now + (STEADY if now > STEADY else 0), None)
        delays.append(chat.next_delay())
    assert delays == [0.0, 0.9, 1.8, 0.0]


def test_a_function_that_fails_is_told_once_and_asked_again_later() -> None:
    def fails() -> str:
        raise OSError(5, f"the key server is away: {PASSWORD}")

    chat = chat_with(Proof("jwt", "토큰"))
    connected(chat)
    chat.received(welcome())
    chat.ask(Welcome, Proof("jwt", fails))
    chat.received(welcome())
    chat.lost(1, None)
    for _ in range(3):
        with pytest.raises(OSError, match="key server") as failure:
            chat.prove()
        chat.unproved(failure.value)
    chat.unproved(NoTokenError("the file is empty"))
    told = [each for each in unread(chat) if isinstance(each, Rejected)]
    assert [(each.code, each.text, each.retrying) for each in told] == [
        ("no_token", "OSError", True),
        ("no_token", "the file is empty", True),
    ]
    assert chat.state is State.DISCONNECTED


@pytest.mark.parametrize(("first", "then", "shown"), [("a", "b", "b"), (Tokens(), "b", "토큰 2")])
def test_a_renewed_token_is_shown_later_unless_a_function_returns_them(
    first: str | Callable[[], str], then: str, shown: str
) -> None:
    chat = chat_with(Proof("jwt", first))
    connected(chat)
    chat.received(welcome(expires=5.0))
    request = chat.ask(Welcome, Proof("jwt", then))
    chat.received(welcome(expires=9.0))
    assert (request.result().expires, chat.expires) == (9.0, 9.0)
    chat.lost(1, None)
    assert connected(chat, 2)["jwt"] == shown


@pytest.mark.parametrize("code", ["bad_credentials", "not_allowed", "try_later"])
def test_a_token_that_is_refused_changes_nothing(code: str) -> None:
    chat = chat_with(Proof("jwt", "a"))
    connected(chat)
    chat.received(welcome())
    request = chat.ask(Welcome, Proof("jwt", "b"))
    chat.received(error(code))
    with pytest.raises(RefusedError, match=code):
        request.result()
    assert chat.rejected is None
    chat.lost(1, None)
    assert connected(chat, 2)["jwt"] == "a"


@pytest.mark.parametrize("first", ["a", Tokens()])
def test_a_fresh_token_that_crosses_the_end_of_the_old_one_is_shown_next(
    first: str | Callable[[], str],
) -> None:
    chat = chat_with(Proof("jwt", first))
    connected(chat)
    chat.received(welcome())
    request = chat.ask(Welcome, Proof("jwt", "b"))
    chat.received(error("expired"))
    with pytest.raises(RefusedError, match="expired"):
        request.result()
    chat.lost(1, None)
    assert chat.state is State.DISCONNECTED
    assert connected(chat, 2)["jwt"] == ("b" if first == "a" else "토큰 2")


def test_a_fresh_token_that_is_over_by_itself_is_not_shown_again() -> None:
    chat = chat_with(Proof("jwt", "a"))
    connected(chat)
    chat.received(welcome())
    chat.ask(Welcome, Proof("jwt", "b"))
    chat.received(error("expired"))
    chat.received(message(1))
    chat.lost(1, None)
    assert connected(chat, 2)["jwt"] == "a"
    chat.received(welcome())
    chat.lost(3, None)
    assert connected(chat, 4)["jwt"] == "a"


def test_the_end_of_a_token_answers_no_question_and_no_change_of_rooms() -> None:
    chat = chat_with(Proof("jwt", "a"))
    connected(chat)
    chat.received(welcome())
    who, enter, kick = chat.ask(Who), chat.ask(Welcome), chat.ask(Moderated)
    chat.received(error("expired"))
    assert [who.done, enter.done, kick.done] == [False] * 3
    assert rejections(chat) == [("expired", False)]


@pytest.mark.parametrize("code", ["not_allowed", "no_such_name", "bad_room", "bad_name", "failed"])
def test_an_operators_request_that_is_refused(code: str) -> None:
    chat = chat_with(None)
    connected(chat)
    chat.received(welcome())
    who, request = chat.ask(Who), chat.ask(Moderated, order=("kick", "밥"))
    if code in ("bad_room", "not_allowed"):
        chat.received(frame({"who": {"room": "게임방", "names": [], "members": 0}}))
        assert who.done
    chat.received(error(code))
    with pytest.raises(RefusedError, match=code):
        request.result()


@pytest.mark.parametrize("kind", [Who, Rooms, History])
@pytest.mark.parametrize("code", ["not_allowed", "auth_required"])
def test_a_question_that_a_proof_does_not_allow_is_answered(kind: type[Any], code: str) -> None:
    chat = chat_with(None)
    connected(chat)
    chat.received(welcome())
    ping, refused, answered = chat.ask(Pong), chat.ask(kind), chat.ask(Who)
    chat.received(error(code) + who("게임방"))
    with pytest.raises(RefusedError, match=code):
        refused.result()
    assert (answered.done, ping.done) == (True, False)


@pytest.mark.parametrize("kind", [Welcome, Who, Rooms, History, Moderated])
def test_a_chat_that_is_closed_answers_questions_of_a_client_that_was_not_let_in(kind: type[Any]) -> None:
    chat = Conversation("h", 1)
    chat.opened(0)
    join = chat.ask(Welcome)
    chat.received(error("auth_required"))
    assert join.done
    question = chat.ask(kind)
    chat.received(error("auth_required", proofs=["jwt"]))
    with pytest.raises(RefusedError) as refused:
        question.result()
    assert (refused.value.code, refused.value.proofs) == ("auth_required", ("jwt",))


def test_a_question_without_an_answer_in_time_is_passed_over_when_a_later_one_is_answered() -> None:
    chat = chat_with(None)
    connected(chat)
    chat.received(welcome())
    late, rooms, second = chat.ask(Who), chat.ask(Rooms), chat.ask(Who)
    late.abandoned = True
    ping = chat.ask(Pong)
    chat.received(frame({"pong": 0}))
    assert ping.done
    chat.received(frame({"rooms": {"rooms": [], "count": 0, "next": None}}) + who("복도"))
    assert (rooms.done, late.done, second.result().room) == (True, False, "복도")


def test_a_late_answer_is_dropped() -> None:
    chat = chat_with(None)
    connected(chat)
    chat.received(welcome())
    late, second = chat.ask(Who), chat.ask(Who)
    late.abandoned = True
    events = len(chat.inbox)
    chat.received(who("복도") + who("게임방"))
    assert (second.result().room, len(chat.inbox)) == ("게임방", events)


@pytest.mark.parametrize("key", ["name", "room", "epoch", "token"])
def test_a_welcome_that_is_too_long_for_the_next_join_is_garbled(key: str) -> None:
    chat = chat_with(Proof("password", PASSWORD))
    connected(chat)
    chat.received(welcome(**{key: "긴" * 1024}))
    (_, garbled) = [chat.next_event() for _ in range(2)]
    assert garbled == Garbled("not_a_message", "not an mpchat server: the welcome is too long")
    chat.received(welcome(**{key: "긴" * 1000}))
    assert isinstance(chat.next_event(), Welcome)
    chat.lost(1, None)
    assert connected(chat, 2)


def test_a_proof_that_fits_no_join_with_the_name_is_found_before_a_connection() -> None:
    most = 65_535 - len('{"join":{"name":"","room":"","password":""}}')
    chat_with(Proof("password", "x" * (most - 6 - 9)), name="밥이")
    with pytest.raises(ProtocolError, match="a frame 65535"):
        chat_with(Proof("password", "x" * (most - 5 - 9)), name="밥이")


def rejected(text: str) -> bytes:
    return frame({"error": {"code": "kicked", "text": text}})


@pytest.mark.parametrize(
    "flood",
    [
        lambda text: welcome(role=text),
        rejected,
        lambda text: frame({"error": {"code": "later", "text": text}}),
        lambda text: frame({"error": {"code": text, "text": ""}}),
        lambda text: frame({"joined": {"room": text, "names": [], "count": 1, "members": 1}}),
        lambda text: frame({"left": {"room": text, "names": [], "count": 1, "members": 1}}),
        lambda text: frame({"left": {"room": "", "names": [], "count": 1, "members": 1, "reason": text}}),
        lambda text: frame({"who": {"room": text, "names": [], "members": 1}}),
        lambda text: frame({"who": {"room": "", "names": [], "members": 1, "next": text}}),
        lambda text: frame({"rooms": {"rooms": [], "count": 1, "next": text}}),
        lambda text: frame({"history": {"room": text, "messages": []}}),
        lambda text: frame({"message": "", "from": "", "to": text, "at": 1.5}),
    ],
)
def test_what_a_server_sends_counts_in_the_inbox(flood: Callable[[str], bytes]) -> None:
    chat = operator()
    before = chat.inbox.size
    chat.received(flood("x" * 50_000))
    assert chat.inbox.size > before + 50_000
    while len(chat.inbox):
        chat.next_event()
    assert chat.inbox.size == 0


def test_the_reason_of_a_loss_counts_in_the_inbox() -> None:
    chat = operator()
    chat.received(rejected("x" * 50_000))
    before = chat.inbox.size
    chat.lost(1, None)
    assert chat.inbox.size > before + 50_000


@pytest.mark.parametrize("answer", [moderated("kick", "x" * 50_000), frame({"pong": ["x"] * 10_000})])
def test_an_answer_to_nothing_is_dropped(answer: bytes) -> None:
    chat = operator()
    for _ in range(100):
        chat.received(answer)
    assert len(chat.inbox) == chat.inbox.size == 0


def plain_chat(said: int) -> Conversation:
    chat = Conversation("h", 1)
    chat.opened(0)
    for _ in range(said):
        chat.say()
    return chat


@pytest.mark.parametrize("kind", ["password", "jwt", "secret"])
def test_the_error_of_a_message_in_a_closed_chat_is_no_answer_to_the_join_after_it(kind: str) -> None:
    chat = plain_chat(3)
    join = chat.ask(Welcome, Proof(kind, PASSWORD))
    chat.say()
    chat.received(error("auth_required", times=2) + error("auth_required"))
    chat.received(welcome())
    assert join.done
    chat.lost(1, None)
    assert connected(chat, 2)[kind] == PASSWORD
    refused = [chat.next_event() for _ in range(len(chat.inbox))]
    assert [each.times for each in refused if isinstance(each, Refused)] == [2, 1]


@pytest.mark.parametrize("before", ["nothing", "refused", "heard", "not sent"])
def test_a_registered_name_needs_more_than_the_secret(before: str) -> None:
    chat = plain_chat(0 if before == "nothing" else 2)
    if before == "not sent":
        chat.withdraw(None)
        chat.received(error("too_long"))
    join = chat.ask(Welcome, Proof("secret", PASSWORD))
    if before == "heard":
        chat.received(frame({"message": "안녕"}))
    if before == "refused":
        chat.received(error("auth_required", times=2))
    assert not join.done
    chat.received(error("auth_required"))
    with pytest.raises(RefusedError, match="auth_required"):
        join.result()


def test_a_join_without_a_proof_is_answered_by_any_such_error() -> None:
    chat = plain_chat(2)
    join = chat.ask(Welcome)
    chat.received(error("auth_required"))
    assert join.done


@pytest.mark.parametrize("code", ["no_such_name", "muted"])
def test_the_error_of_a_private_message_is_no_answer_to_a_kick(code: str) -> None:
    chat = operator()
    chat.tell("안녕", "없다")
    first, second = chat.ask(Moderated, order=("kick", "밥")), chat.ask(Moderated, order=("kick", "수"))
    chat.received(error(code) + moderated("kick", "밥") + moderated("kick", "수"))
    assert [first.result().target, second.result().target] == ["밥", "수"]
    assert [chat.next_event(), len(chat.inbox)] == [Refused(code, "안 됩니다"), 0]


def test_a_private_message_that_came_back_has_no_error() -> None:
    chat = operator()
    for to, text in (("밥", "하나"), ("밥", "둘"), ("없다", "셋")):
        chat.tell(text, to)
    # The second says that the first is settled too, whatever became of it. Names are the server's spellings.
    chat.received(private("밥", "셋", "없다") + private("밥", "둘"))
    kick = chat.ask(Moderated, order=("kick", "수"))
    chat.received(error("no_such_name"))
    assert not kick.done
    chat.received(error("no_such_name"))
    with pytest.raises(RefusedError, match="no_such_name"):
        kick.result()


def test_a_name_of_other_letters_is_the_name_that_was_told() -> None:
    chat = operator()
    chat.tell("안녕", "BOB")
    chat.received(private("bob", "안녕"))
    kick = chat.ask(Moderated, order=("kick", "수"))
    chat.received(error("no_such_name"))
    assert kick.done


def test_an_answer_goes_to_the_operators_request_that_it_names() -> None:
    chat = operator()
    orders = [("kick", "밥"), ("ban", "밥"), ("ban", "192.0.2.1:80"), ("close", "게임방"), ("mute", "밥")]
    asked = [chat.ask(Moderated, order=each) for each in orders]
    for number, answer in ((4, ("mute", "밥")), (1, ("ban", "밥")), (2, ("ban", "192.0.2.1"))):
        chat.received(moderated(*answer))
        assert asked[number].done
    chat.received(moderated("mute", "수"))
    assert [each.done for each in asked] == [False, True, True, False, True]
    chat.received(moderated("close", "게임-방") + moderated("kick", "밥"))
    assert all(each.done for each in asked)


def test_a_request_that_was_not_written_takes_no_error_of_the_next() -> None:
    chat = operator()
    chat.withdraw(chat.tell("안녕", "밥"))
    kick = chat.ask(Moderated, order=("kick", "수"))
    chat.received(error("no_such_name"))
    assert kick.done


def test_proofs_that_nobody_asked_for_count_in_the_inbox() -> None:
    chat = Conversation("h", 1, inbox_limit=10_000)
    chat.opened(0)
    assert not chat.paused
    chat.received(error("auth_required", proofs=["x" * 10_000]))
    assert chat.paused
    events = [chat.next_event() for _ in range(2)]
    assert isinstance(events[1], Refused)
    assert events[1].proofs == ("x" * 10_000,)


def test_a_proof_is_one_of_three_and_stays_out_of_sight() -> None:
    assert proof_of("앨리스") is None
    assert proof_of(None) is None
    for given in ({"password": PASSWORD}, {"jwt": PASSWORD}, {"secret": PASSWORD}):
        proof = proof_of("앨리스", **given)
        assert proof is not None
        assert [proof.show()] == list(given.items())
        assert PASSWORD not in repr(proof) + repr(Seat("앨리스", token=PASSWORD, proof=proof))
    with pytest.raises(ValueError, match="one proof, and not password and jwt") as both:
        proof_of("앨리스", PASSWORD, PASSWORD)
    assert PASSWORD not in str(both.value)
    for nameless in ({"password": PASSWORD}, {"secret": PASSWORD}):
        with pytest.raises(ValueError, match="needs a name"):
            proof_of(None, **nameless)
    assert proof_of(None, jwt=PASSWORD) is not None


def test_a_proof_that_no_join_can_hold_is_found_before_a_connection() -> None:
    with pytest.raises(ProtocolError, match="surrogate"):
        chat_with(Proof("password", "\ud800"))
    with pytest.raises(TypeError, match="the jwt is of the type bytes"):
        chat_with(Proof("jwt", lambda: b"token")).prove()  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="no function"):
        chat_with(Proof("jwt", "a")).renewal()
