"""The HTTP API without processes: which operation, whose token, wrong requests, and the description."""

import json
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.desk import LIMITS

from mpchat.auth.grant import SERVICE, Grant, Identity
from mpchat.config import resolve
from mpchat.control.answers import Banned, Closed, Kicked, Lifted, Muted
from mpchat.control.messages import Answer as CommandAnswer
from mpchat.control.messages import refusal
from mpchat.errors import AwayError, MpchatError, ProtocolError
from mpchat.hub.entries import Asked, Moderated, Posted
from mpchat.hub.hub import Hub
from mpchat.ipc.http_questions import Answer, Question
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import Join, Request
from mpchat.protocol.sign_in import bad_credentials
from mpchat.supervisor.api.actions import MOST_LOOKED_AT, Actions
from mpchat.supervisor.api.description import describe
from mpchat.supervisor.api.errors import STATUSES
from mpchat.supervisor.api.page import Api
from mpchat.supervisor.api.shapes import HISTORY_SIZE
from mpchat.supervisor.api.table import OPERATIONS, ROOM
from mpchat.supervisor.gate import Gate, Outcome
from mpchat.worker.budget import BUDGET_RATE, HISTORY_COST, PROOF_COST

HOST, NAME = "192.0.2.7", "알림"
Object = dict[str, Any]


class FakeGate:
    """A gate that knows tokens by their texts, and answers when the test says so."""

    def __init__(self) -> None:
        grant = Grant(NAME, SERVICE, expires=2e9)
        some = msgspec.structs.replace(grant, rooms=("게임-*",))
        self.known: dict[str, Outcome] = {
            "all": Identity(NAME, grant),
            "some": Identity(NAME, some),
            "over": ProtocolError("expired", "over"),
            "later": ProtocolError("try_later", "too many"),
            "member": ProtocolError("not_allowed", "another role"),
        }
        self.asked: list[tuple[str, str]] = []
        self.waits = False
        self.held: list[Callable[[], None]] = []

    def check_service(self, token: str, address: str, then: Callable[[Outcome], None]) -> None:
        self.asked.append((token, address))
        outcome = self.known.get(token, bad_credentials())
        if self.waits:
            self.held.append(partial(then, outcome))
        else:
            then(outcome)


class FakeClients:
    """Stands for the commands to clients: it notes them and answers what the test has laid down."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.done: list[tuple[Any, ...]] = []
        self.answers: dict[str, CommandAnswer[Any]] = {}
        self.raises: MpchatError | None = None

    def _do(self, action: str, *more: Any) -> None:
        if self.raises is not None:
            raise self.raises
        *arguments, reply = more
        self.done.append((action, *arguments))
        reply(self.answers[action])

    def kick(self, *more: Any) -> None:
        self._do("kick", *more)

    def ban(self, *more: Any) -> None:
        self._do("ban", *more)

    def mute(self, *more: Any) -> None:
        self._do("mute", *more)

    def lift(self, *more: Any) -> None:
        self._do("lift", *more)

    def close(self, *more: Any) -> None:
        self._do("close", *more)

    def speak(self, decide: Callable[[], None], then: Callable[[], None]) -> None:
        if self.raises is not None:
            raise self.raises
        decide()
        then()


class Site:
    """The API, with a hub in which 앨리스 is in 게임-7 and 밥 in the lobby."""

    def __init__(self, **settings: Any) -> None:
        self.config = msgspec.structs.replace(resolve([])[0], jwt_key="key", **settings)
        self.hub = Hub(LIMITS)
        self.gate = FakeGate()
        self.clients = FakeClients(self.hub)
        self.answers: list[Answer] = []
        reactor = SimpleNamespace(now=1.0)
        status = cast(Any, lambda: {"name": "default"})
        clients = cast(Any, self.clients)
        actions = Actions(cast(Any, reactor), self.hub, clients, status, lambda: self.config)
        self.api = Api(actions, cast(Gate, self.gate), lambda: self.config, self.is_banned)
        self.join(1, "앨리스", "게임-7")
        self.join(2, "밥", "lobby")

    def is_banned(self, name: str) -> bool:
        return self.hub.state.moderation.banned_name(name, 1.0)

    def join(self, identity: int, name: str, room: str) -> None:
        request = Request(join=Join(name=name, room=room))
        self.hub.state.apply(Asked(1.0, 1.0, identity, f"192.0.2.1:{identity}", request, "t"))

    def say(self, *texts: str, identity: int = 1) -> None:
        for text in texts:
            frame = message_frame(text)
            self.hub.state.apply(Posted(1.0, 1.0, [(identity, 1, len(frame))], frame))

    def ask(
        self, method: str, target: str, body: object = None, *, token: str = "all", **more: str
    ) -> Object:
        """Return the JSON of the answer; the last answer is in ``answers``."""
        path, _, query = target.partition("?")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        data = b""
        if body is not None:
            headers["content-type"] = "application/json"
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers |= {name.replace("_", "-"): value for name, value in more.items()}
        before = len(self.answers)
        self.api(Question(HOST, method, path, query, headers, data), self.answers.append)
        if len(self.answers) == before:
            return {}
        found: Object = json.loads(self.answers[-1].body)
        return found

    def refused(self, *asked: Any, **more: Any) -> tuple[int, str]:
        """Ask for what is refused; return the status and the code."""
        error = self.ask(*asked, **more)["error"]
        assert error["text"]
        status = self.answers[-1].status
        assert status == STATUSES.get(error["code"], 400)
        return status, error["code"]

    @property
    def headers(self) -> dict[str, str]:
        return dict(self.answers[-1].headers)


@pytest.fixture
def site() -> Site:
    return Site()


# Which operation.


@pytest.mark.parametrize(
    "path",
    [
        "/api/",
        "/api/x",
        "/api/rooms/",
        "/api/rooms//history",
        "/api/rooms/a/b",
        "/api/rooms/a/history/",
        "/api/say/x",
        "/api/Say",
    ],
)
def test_other_paths_are_not_found_with_any_token_and_method(site: Site, path: str) -> None:
    for method in ("GET", "POST", "BREW"):
        assert site.refused(method, path, token="") == (404, "not_found")
    assert not site.gate.asked


@pytest.mark.parametrize("operation", OPERATIONS, ids=[each.name for each in OPERATIONS])
def test_another_method_is_told_which_there_are(site: Site, operation: Any) -> None:
    path = operation.path.replace(ROOM, "lobby")
    wrong = "POST" if operation.method == "GET" else "GET"
    for method in (wrong, "PUT", "DELETE", "OPTIONS"):
        assert site.refused(method, path) == (405, "bad_method")
        assert site.headers["Allow"] == ("GET, HEAD" if operation.method == "GET" else "POST")
    assert site.refused("POST", "/api", {}) == (405, "bad_method")


def test_head_is_as_get(site: Site) -> None:
    assert site.ask("HEAD", "/api/rooms/lobby") == site.ask("GET", "/api/rooms/lobby")
    assert site.ask("HEAD", "/api", token="") == site.ask("GET", "/api", token="")


# Whose token.


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer ", "Basic all", "all"])
def test_without_a_token_a_program_is_told_to_send_one(site: Site, shown: str) -> None:
    asked = site.refused("GET", "/api/rooms", token="", authorization=shown)
    assert asked == (401, "auth_required")
    assert site.headers["WWW-Authenticate"] == 'Bearer realm="mpchat"'
    assert not site.gate.asked


@pytest.mark.parametrize(
    ("token", "status", "code"),
    [
        ("nonsense", 401, "bad_credentials"),
        ("over", 401, "expired"),
        ("member", 403, "not_allowed"),
        ("later", 503, "try_later"),
    ],
)
def test_a_token_that_does_not_do(site: Site, token: str, status: int, code: str) -> None:
    assert site.refused("POST", "/api/say", {"message": "x"}, token=token) == (status, code)
    assert ("invalid_token" in site.headers.get("WWW-Authenticate", "")) == (status == 401)
    assert ("Retry-After" in site.headers) == (status == 503)
    assert site.answers[-1].cost == (PROOF_COST if token == "nonsense" else 0)
    assert site.hub.state.messages == 0


def test_a_token_is_checked_for_its_address_before_the_body_is_read(site: Site) -> None:
    site.refused("POST", "/api/say", b"not json", token="nonsense", authorization="bEARER  nonsense ")
    assert site.gate.asked == [("nonsense", HOST)]
    site.api(
        Question("2001:db8::1", "GET", "/api/rooms", "", {"authorization": "Bearer x"}), lambda answer: None
    )
    assert site.gate.asked[-1][1] == "2001:db8::/64"


def test_without_a_key_only_the_description_is_there() -> None:
    site = Site()
    site.config = msgspec.structs.replace(site.config, jwt_key="")
    assert site.refused("GET", "/api/rooms") == (503, "no_key")
    assert "jwt_key" in site.ask("GET", "/api/rooms")["error"]["text"]
    assert site.ask("GET", "/api", token="")["openapi"] == "3.1.0"


def test_a_banned_name_may_nothing_and_a_muted_one_may_read(site: Site) -> None:
    site.hub.state.apply(Moderated("mutes", NAME, NAME, None))
    for path, body in (("/api/say", {"message": "x"}), ("/api/tell", {"message": "x", "to": "밥"})):
        assert site.refused("POST", path, body) == (403, "muted")
    assert "error" not in site.ask("GET", "/api/rooms")
    site.hub.state.apply(Moderated("bans", NAME, NAME, None))
    assert site.refused("GET", "/api/rooms") == (403, "banned")


def test_a_token_that_names_rooms_is_for_these(site: Site) -> None:
    site.clients.answers = {"kick": CommandAnswer(Kicked(1, [])), "close": CommandAnswer(Closed("게임-7", 1))}
    allowed: list[tuple[str, str, Object | None]] = [
        ("POST", "/api/say", {"message": "x", "room": "게임-7"}),
        ("POST", "/api/tell", {"message": "x", "to": "앨리스"}),
        ("GET", f"/api/rooms/{quote('게임-7')}", None),
        ("GET", f"/api/rooms/{quote('게임-7')}/history", None),
        ("POST", "/api/kick", {"name": "앨리스"}),
        ("POST", "/api/close", {"room": "게임-7"}),
    ]
    for method, path, body in allowed:
        assert "error" not in site.ask(method, path, body, token="some"), path
    for method, path, body in [
        ("POST", "/api/say", {"message": "x", "room": "lobby"}),
        ("POST", "/api/say", {"message": "x", "room": "없는 방"}),
        ("POST", "/api/say", {"message": "x"}),
        ("POST", "/api/tell", {"message": "x", "to": "밥"}),
        ("GET", "/api/rooms/lobby", None),
        ("GET", "/api/rooms/lobby/history", None),
        ("POST", "/api/kick", {"name": "밥"}),
        ("POST", "/api/ban", {"name": "앨리스"}),
        ("POST", "/api/unban", {"name": "앨리스"}),
        ("POST", "/api/mute", {"name": "앨리스"}),
        ("POST", "/api/unmute", {"name": "앨리스"}),
        ("POST", "/api/close", {"room": "lobby"}),
        ("GET", "/api/status", None),
    ]:
        assert site.refused(method, path, body, token="some") == (403, "not_allowed"), path
    assert site.refused("POST", "/api/kick", {"name": "192.0.2.1"}, token="some") == (404, "no_such_name")
    assert [each["room"] for each in site.ask("GET", "/api/rooms", token="some")["rooms"]] == ["게임-7"]
    assert [each[0] for each in site.clients.done] == ["kick", "close"]


# What is wrong with a request.


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"{", "not_json"),
        (b'{"other":' + b"[" * 5000, "not_json"),
        (b'{"message":"\xff"}', "not_utf8"),
        (b'{"message":"x","other":"\xff"}', "not_utf8"),
        (b"[]", "bad_request"),
        (b'"text"', "bad_request"),
        (b"{}", "bad_request"),
        (b'{"message":5}', "bad_request"),
        (b'{"message":"x","room":["lobby"]}', "bad_request"),
        (rb'{"message":"\ud800"}', "not_json"),
    ],
)
def test_a_body_that_is_not_understood(site: Site, body: bytes, code: str) -> None:
    assert site.refused("POST", "/api/say", body) == (400, code)
    assert site.hub.state.messages == 0


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_a_body_of_another_type(site: Site, kind: str) -> None:
    assert site.refused("POST", "/api/say", {"message": "x"}, content_type=kind) == (415, "not_json_type")


@pytest.mark.parametrize("kind", ["Application/JSON", "application/json; charset=utf-8"])
def test_spellings_of_the_type(site: Site, kind: str) -> None:
    assert "error" not in site.ask("POST", "/api/say", {"message": "x"}, content_type=kind)


def test_a_text_that_fits_no_frame(site: Site) -> None:
    for path, more in (("/api/say", {}), ("/api/tell", {"to": "밥"})):
        assert site.refused("POST", path, {"message": "x" * 65_100, **more}) == (413, "too_long")


@pytest.mark.parametrize(
    "target",
    [
        "/api/rooms?limit=0",
        "/api/rooms?limit=501",
        "/api/rooms?limit=x",
        "/api/rooms?limit=1&limit=2",
        "/api/rooms?after=%FF",
        "/api/rooms/%FF",
        "/api/rooms/lobby/history?limit=101",
        "/api/rooms/lobby/history?after=-1",
        "/api/rooms/lobby/history?after=9223372036854775808",
        "/api/rooms?" + "&".join(f"a{each}=1" for each in range(50)),
    ],
)
def test_a_path_or_a_query_that_is_not_understood(site: Site, target: str) -> None:
    assert site.refused("GET", target) == (400, "bad_request")


@given(st.text(max_size=30), st.binary(max_size=60))
def test_whatever_a_program_sends_is_answered_once(target: str, body: bytes) -> None:
    site = Site()
    site.clients.answers = dict.fromkeys(("kick", "ban", "mute", "lift", "close"), CommandAnswer(Lifted()))
    for operation in OPERATIONS:
        path = operation.path.replace(ROOM, quote(target, safe=""))
        site.ask(operation.method, f"{path}?{quote(target, safe='=&')}", body)
    assert len(site.answers) == len(OPERATIONS)
    assert 500 not in {each.status for each in site.answers}


# What is done.


def test_a_message_has_its_number_and_the_cost_of_a_message(site: Site) -> None:
    assert site.ask("POST", "/api/say", {"message": "하나", "room": "게임-7"}) == {"room": "게임-7", "seq": 1}
    assert site.ask("POST", "/api/say", {"message": "둘"}) == {"room": None, "seq": None}
    assert site.answers[-1].cost == 0
    site.config = msgspec.structs.replace(site.config, flood_rate=4.0)
    assert site.ask("POST", "/api/say", {"message": "셋", "room": "게임-7"})["seq"] == 3
    assert site.answers[-1].cost == BUDGET_RATE / 4
    assert site.refused("POST", "/api/say", {"message": "x", "room": "없는 방"}) == (404, "bad_room")


def test_a_name_may_be_spelled_in_any_way_and_its_own_spelling_comes_back(site: Site) -> None:
    jamo = "\u110b\u1162\u11af\u1105\u1175\u1109\u1173"
    assert site.ask("POST", "/api/tell", {"message": "안녕", "to": jamo}) == {"to": "앨리스"}
    assert site.refused("POST", "/api/tell", {"message": "안녕", "to": "없는이"}) == (404, "no_such_name")
    assert site.refused("POST", "/api/tell", {"message": "x", "to": "이" * 60_000}) == (404, "no_such_name")
    assert site.ask("GET", "/api/rooms/LOBBY")["room"] == "lobby"


def test_rooms_come_in_pages(site: Site) -> None:
    for number in range(5):
        site.join(10 + number, f"손님-{number}", f"방-{number}")
    found, after = [], ""
    while True:
        page = site.ask("GET", f"/api/rooms?limit=2&after={quote(after)}")
        assert len(page["rooms"]) <= 2
        found += [each["room"] for each in page["rooms"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert found == sorted(["lobby", "게임-7", *(f"방-{number}" for number in range(5))])


def test_a_page_looks_at_so_many_rooms_and_can_be_empty(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mpchat.supervisor.api.actions.MOST_LOOKED_AT", 1)
    assert MOST_LOOKED_AT > 1
    first = site.ask("GET", "/api/rooms", token="some")
    assert (first["rooms"], first["next"]) == ([], "lobby")
    second = site.ask("GET", "/api/rooms?after=lobby", token="some")
    assert ([each["room"] for each in second["rooms"]], second["next"]) == (["게임-7"], None)


def test_members_come_in_pages(site: Site) -> None:
    site.join(3, "철수", "게임-7")
    room = quote("게임-7")
    first = site.ask("GET", f"/api/rooms/{room}?limit=1")
    assert (first["names"], first["members"], first["next"]) == (["앨리스"], 2, "앨리스")
    second = site.ask("GET", f"/api/rooms/{room}?limit=1&after={quote('앨리스')}")
    assert (second["names"], second["next"]) == (["철수"], None)


def test_history_is_read_from_its_end_or_on_from_a_number(site: Site) -> None:
    site.say(*map(str, range(1, 8)))
    path = f"/api/rooms/{quote('게임-7')}/history"

    def read(query: str) -> tuple[list[int], int | None]:
        page = site.ask("GET", f"{path}?{query}")
        assert (page["room"], page["first"], page["last"]) == ("게임-7", 1, 7)
        assert page["epoch"] == site.hub.state.members.past.epoch
        assert all(each["message"] == str(each["seq"]) for each in page["messages"])
        assert site.answers[-1].cost == HISTORY_COST
        return [each["seq"] for each in page["messages"]], page["next"]

    assert read("limit=3") == ([5, 6, 7], None)
    assert read("after=0&limit=3") == ([1, 2, 3], 3)
    assert read("after=3&limit=4") == ([4, 5, 6, 7], None)
    assert read("after=6") == ([7], None)
    assert read("after=7") == ([], None)
    assert read("after=100") == ([], None)
    assert site.ask("GET", "/api/rooms/lobby/history") | {"epoch": ""} == {
        "room": "lobby",
        "epoch": "",
        "messages": [],
        "first": None,
        "last": 0,
        "next": None,
    }


def test_a_page_of_history_is_bounded_in_bytes_and_none_is_left_out(site: Site) -> None:
    long = "가" * 15_000
    site.say(*(f"{each}{long}" for each in range(9)))
    path, after, found = f"/api/rooms/{quote('게임-7')}/history", 0, []
    while True:
        page = site.ask("GET", f"{path}?after={after}")
        assert len(site.answers[-1].body) < HISTORY_SIZE + 1000
        found += [each["seq"] for each in page["messages"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert found == list(range(1, 10))


@pytest.mark.parametrize(
    ("path", "body", "result", "done"),
    [
        ("kick", {"name": "밥"}, Kicked(1, []), ("kick", "밥")),
        ("ban", {"name": "밥", "for": 60}, Banned(target="밥", ended=1, silent=[]), ("ban", "밥", 60.0)),
        ("ban", {"name": "밥"}, Banned(target="밥", ended=1, silent=[]), ("ban", "밥", None)),
        ("mute", {"name": "밥", "for": 1}, Muted("밥", True), ("mute", "밥", 1.0)),
        ("unban", {"name": "밥"}, Lifted(), ("lift", "bans", "밥")),
        ("unmute", {"name": "밥"}, Lifted(), ("lift", "mutes", "밥")),
        ("close", {"room": "게임-7"}, Closed("게임-7", 1), ("close", "게임-7")),
    ],
)
def test_what_operators_do_is_done_and_stands_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, path: str, body: Object, result: Any, done: tuple[Any, ...]
) -> None:
    caplog.set_level("INFO")
    site.clients.answers = {done[0]: CommandAnswer(result)}
    answer = site.ask("POST", f"/api/{path}", body)
    expected = {"name": "밥"} if path.startswith("un") else msgspec.to_builtins(result)
    assert (answer, site.clients.done) == (expected, [done])
    [record] = caplog.records
    by, time = f'by service "{NAME}" at {HOST}', f" for {body['for']} s" if "for" in body else ""
    assert f'audit: {path} "{body.get("name") or body["room"]}"{time}, {by}: done' in record.getMessage()
    assert record.name == "mpchat.audit"


@pytest.mark.parametrize("seconds", [0, -1, 0.5, 1e12, "60"])
def test_a_sanction_lasts_as_long_as_on_the_wire(site: Site, seconds: Any) -> None:
    assert site.refused("POST", "/api/ban", {"name": "밥", "for": seconds}) == (400, "bad_request")


def test_nobody_to_kick_and_nothing_to_lift(site: Site) -> None:
    site.clients.answers = {"kick": CommandAnswer(Kicked(0, [])), "lift": refusal(1, "밥 is not banned")}
    assert site.refused("POST", "/api/kick", {"name": "없는이"}) == (404, "no_such_name")
    assert site.refused("POST", "/api/unban", {"name": "밥"}) == (404, "no_such_name")
    site.clients.answers["kick"] = CommandAnswer(Kicked(0, [2]))
    assert site.ask("POST", "/api/kick", {"name": "밥"})["silent"] == [2]
    for path in ("kick", "ban", "unban", "mute", "unmute"):
        assert site.refused("POST", f"/api/{path}", {"name": "x" * 129}) == (400, "bad_name")


def test_errors_of_commands(site: Site) -> None:
    site.clients.raises = MpchatError("밥! is no name")
    for path in ("ban", "mute"):
        assert site.refused("POST", f"/api/{path}", {"name": "밥!"}) == (400, "bad_name")
    assert site.refused("POST", "/api/close", {"room": "게임-7"}) == (503, "try_later")
    assert site.refused("POST", "/api/close", {"room": "lobby"}) == (409, "cannot_close")
    assert site.refused("POST", "/api/close", {"room": "없는 방"}) == (404, "bad_room")
    site.clients.raises = AwayError("Redis is away")
    for path, body in (
        ("say", {"message": "x"}),
        ("tell", {"message": "x", "to": "밥"}),
        ("kick", {"name": "밥"}),
        ("ban", {"name": "밥"}),
        ("unmute", {"name": "밥"}),
        ("close", {"room": "게임-7"}),
    ):
        assert site.refused("POST", f"/api/{path}", body) == (503, "try_later")
    site.clients.raises = None
    site.clients.answers = {"ban": refusal(1, "cannot write the file")}
    assert site.refused("POST", "/api/ban", {"name": "밥"}) == (500, "failed")


def test_the_status_is_the_one_of_the_command(site: Site) -> None:
    assert site.ask("GET", "/api/status") == {"name": "default"}


def test_a_failure_after_the_check_is_answered_and_escapes_to_nobody(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.gate.waits = True
    assert site.ask("POST", "/api/kick", {"name": "밥"}) == {}  # no answer is laid down: KeyError
    site.gate.held.pop()()
    assert site.answers[-1].status == 500
    assert "Traceback" in caplog.text
    site.gate.waits = False
    site.clients.answers = {"kick": CommandAnswer(cast(Any, object()))}
    assert site.ask("POST", "/api/kick", {"name": "밥"})["error"]["code"] == "internal_error"


# The description.


def test_the_description_has_the_operations_of_the_table_and_no_others() -> None:
    described = describe()
    assert described["openapi"] == "3.1.0"
    assert {"title", "version"} <= described["info"].keys()
    found = {
        (method.upper(), path, of["operationId"])
        for path, methods in described["paths"].items()
        for method, of in methods.items()
    }
    expected = {(each.method, each.path, each.name) for each in OPERATIONS}
    assert found == expected | {("GET", "/api", "describe")}
    assert len({name for _, _, name in found}) == len(found)


def test_every_reference_of_the_description_leads_somewhere_and_every_schema_is_used() -> None:
    described = describe()
    references: set[str] = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if "$ref" in value:
                references.add(value["$ref"])
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(described)
    for reference in references:
        found: Any = described
        assert reference.startswith("#/")
        for part in reference[2:].split("/"):
            found = found[part]
    components = described["components"]
    assert {f"#/components/schemas/{name}" for name in components["schemas"]} <= references
    assert json.loads(msgspec.json.encode(described)).keys() == described.keys()
    assert ":class:" not in str(described)


def test_the_description_says_what_each_operation_takes() -> None:
    described = describe()
    for each in OPERATIONS:
        of = described["paths"][each.path][each.method.lower()]
        parameters = {(one["in"], one["name"]) for one in of.get("parameters", ())}
        assert (("path", "room") in parameters) == (ROOM in each.path)
        assert ("requestBody" in of) == (each.method == "POST")
        if each.method == "GET":
            queried = {name for place, name in parameters if place == "query"}
            assert queried == set(each.wanted.__struct_fields__)
        assert of["responses"].keys() == {"200", "default"}
        assert "security" not in of
    assert described["paths"]["/api"]["get"]["security"] == []
    assert [*described["security"][0]] == [*described["components"]["securitySchemes"]]


def test_an_answer_is_as_it_is_described(site: Site) -> None:
    """Each answer has the members that its schema requires, and no others."""
    site.clients.answers = {"kick": CommandAnswer(Kicked(1, []))}
    schemas = describe()["components"]["schemas"]
    for method, path, body, name in [
        ("POST", "/api/say", {"message": "x"}, "SaidIn"),
        ("GET", "/api/rooms", None, "RoomsPage"),
        ("GET", "/api/rooms/lobby", None, "RoomPage"),
        ("GET", "/api/rooms/lobby/history", None, "HistoryOf"),
        ("POST", "/api/kick", {"name": "밥"}, "Kicked"),
    ]:
        answer = site.ask(method, path, body)
        assert set(schemas[name].get("required", ())) <= answer.keys() <= set(schemas[name]["properties"])
