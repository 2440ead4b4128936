"""HTTP API: the page that serves programs beside the chat.

A request is looked up in the table, its token is checked in the gate's thread, and then it is carried out as
the same command of the shell is. What goes wrong is answered as on the wire.
"""

import logging
from collections.abc import Callable
from functools import cached_property, partial

import msgspec

from mpchat.auth.grant import Identity
from mpchat.config import Config
from mpchat.errors import MpchatError, ProtocolError
from mpchat.ipc.addresses import owner_of
from mpchat.ipc.http_questions import JSON, Answer, Question, as_json
from mpchat.protocol.http import API
from mpchat.protocol.sign_in import AUTH_REQUIRED, BAD_CREDENTIALS
from mpchat.supervisor.api.actions import Actions, Call
from mpchat.supervisor.api.description import describe
from mpchat.supervisor.api.errors import ApiError, answer_to
from mpchat.supervisor.api.table import Operation, bad_method, find, read_body, read_query
from mpchat.supervisor.gate import Gate, Outcome
from mpchat.supervisor.http_desk import FAILED, Reply, answer_safely
from mpchat.worker.budget import PROOF_COST

NO_KEY = (
    "the HTTP API takes tokens, and this server has no key to check them with: "
    "set jwt_key and reload; see mpchat manual api"
)
NO_TOKEN = "send a token: Authorization: Bearer …, from mpchat token NAME --role service"

log = logging.getLogger("mpchat.supervisor")


class Api:
    """The page; call it with a request."""

    def __init__(
        self, actions: Actions, gate: Gate, config: Callable[[], Config], is_banned: Callable[[str], bool]
    ) -> None:
        """``config`` returns the settings of now. ``is_banned`` tells whether a name is."""
        self._actions = actions
        self._gate = gate
        self._config = config
        self._is_banned = is_banned

    @cached_property
    def _description(self) -> bytes:
        return msgspec.json.encode(describe()) + b"\n"

    def __call__(self, question: Question, reply: Reply) -> None:
        """Answer a request, now or later."""
        try:
            if question.path == API:
                reply(self._describe(question))
                return
            operation, room = find(question.method, question.path)
            token = self._token(question)
        except ProtocolError as error:
            reply(answer_to(error))
            return
        serve = partial(self._checked, operation, room)
        self._gate.check_service(
            token,
            owner_of(question.host),
            # Whatever fails there must not end the loop.
            lambda outcome: answer_safely(partial(serve, outcome), question, reply),
        )

    def _describe(self, question: Question) -> Answer:
        if question.method not in ("GET", "HEAD"):
            raise bad_method(["GET"])
        return Answer(200, [("Content-Type", JSON)], self._description)

    def _token(self, question: Question) -> str:
        """Return the token of a request. Raise :class:`ApiError` without one, or without a key."""
        if not self._config().jwt_key:
            raise ApiError("no_key", NO_KEY)
        scheme, _, token = question.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ApiError(AUTH_REQUIRED, NO_TOKEN)
        return token.strip()

    def _checked(
        self, operation: Operation, room: str, outcome: Outcome, question: Question, reply: Reply
    ) -> None:
        """Go on with a request whose token was checked."""
        if isinstance(outcome, ProtocolError):
            # As with joins: to guess is what costs.
            reply(answer_to(outcome, cost=PROOF_COST if outcome.code == BAD_CREDENTIALS else 0))
            return
        try:
            self._carry_out(operation, room, outcome, question, reply)
        except MpchatError as error:
            reply(answer_to(error))

    def _carry_out(
        self, operation: Operation, room: str, identity: Identity, question: Question, reply: Reply
    ) -> None:
        assert identity.grant is not None
        if self._is_banned(identity.name):
            raise ProtocolError("banned", f"{identity.name} is banned here")
        if operation.method == "GET":
            wanted = read_query(question.query, operation.wanted)
        else:
            wanted = read_body(question.body, question.headers.get("content-type", ""), operation.wanted)
        done = partial(_answer, reply, question)
        call = Call(identity.grant, room, wanted, question.host, done, lambda error: reply(answer_to(error)))
        operation.act(self._actions, call)


def _answer(reply: Reply, question: Question, result: object, cost: int) -> None:
    """Answer with a result. It is called from many places, in the loop: nothing may escape."""
    try:
        answer = as_json(200, result, cost=cost)
    except Exception:
        log.exception("no JSON: %r", question)
        answer = FAILED
    reply(answer)
