"""Passed on: HTTP requests that the supervisor answers, from their heads until they are answered.

A connection has one such request under way at most. It is not read from meanwhile, and does not leave. An
answer is ignored that comes when the connection has ended, or after the supervisor's time for it.
"""

import logging
import time
from collections import deque
from itertools import count
from typing import NamedTuple, Protocol

from mpchat.config import Config
from mpchat.ipc.http_questions import Answer, decode_answer, encode_question, error_answer
from mpchat.ipc.reasons import INTERNAL_ERROR
from mpchat.protocol.http import HttpDialect
from mpchat.reactor import Reactor
from mpchat.worker import http_answers
from mpchat.worker.budget import WRONG_COST
from mpchat.worker.connection import Connection
from mpchat.worker.incoming import Incoming
from mpchat.worker.reading import Reading
from mpchat.worker.uplink import Uplink

# Requests that the supervisor has of one worker at a time; the others wait here. Their answers take the way
# down of everybody's messages, and have up to some 64 KiB each: see ``channel.PIPE_SIZE``.
AT_A_TIME = 4
# Seconds that the supervisor has for an answer: longer than a command to workers may take.
PATIENCE = 10.0

log = logging.getLogger("mpchat.worker")


class Owner(Protocol):
    """What this needs of the part that answers; see ``web.Web``."""

    def give(self, connection: Connection, given: http_answers.Answer, more: int = 0) -> None:
        """Send a client an answer, and let it ask again or end."""

    def send_part(self, connection: Connection, data: bytes) -> None:
        """Send a client something that is no answer yet."""

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection."""


class _Asked(NamedTuple):
    """A whole request, and when it was (seconds, monotonic)."""

    connection: Connection
    incoming: Incoming
    since: float


class PassedOn:
    """The requests of a worker's clients that are passed on."""

    def __init__(
        self, config: Config, reactor: Reactor, uplink: Uplink, reading: Reading, owner: Owner
    ) -> None:
        """Begin with none."""
        self._config = config
        self._reactor = reactor
        self._uplink = uplink
        self._reading = reading
        self._owner = owner
        self._numbers = count(1)
        # Requests whose bodies are not whole.
        self._begun: dict[Connection, Incoming] = {}
        # Those that wait for the supervisor's answer, by number, the oldest first; when it got those that it
        # has (seconds, monotonic); and those that it has not got yet, packed.
        self._asked: dict[int, _Asked] = {}
        self._sent: dict[int, float] = {}
        self._line: deque[tuple[int, bytes]] = deque()
        # True while the next ones are to be sent in the next turn of the loop.
        self._sending = False

    def __bool__(self) -> bool:
        """True while a request waits for its answer."""
        return bool(self._asked)

    def has_begun(self, connection: Connection) -> bool:
        """Tell whether a part of a request's body is missing."""
        return connection in self._begun

    def take(self, connection: Connection, dialect: HttpDialect) -> None:
        """Take a request whose head is whole, with as much of its body as there is."""
        incoming = self._begun.get(connection)
        if incoming is None:
            limit = self._config.payload_limit
            incoming = self._begun[connection] = Incoming(dialect.head, limit, self._reactor.now)
        outcome = incoming.take(dialect.kept_from(incoming.size))
        if outcome is None:
            self._wait_for_body(connection, dialect, incoming)
            return
        del self._begun[connection]
        connection.budget -= incoming.size * WRONG_COST
        if isinstance(outcome, Answer):
            self._owner.give(connection, incoming.answer(outcome, time.time(), last=True))
            return
        dialect.drop(incoming.size)
        self._ask(connection, incoming)

    def _wait_for_body(self, connection: Connection, dialect: HttpDialect, incoming: Incoming) -> None:
        dialect.wait_for_body()
        if told := incoming.let_continue():
            self._owner.send_part(connection, told)
        if not connection.closed:
            self._reading.read_again(connection)
            self._reading.half[connection] = incoming.since

    def _ask(self, connection: Connection, incoming: Incoming) -> None:
        connection.asking = True
        number = next(self._numbers)
        self._asked[number] = _Asked(connection, incoming, self._reactor.now)
        question = incoming.question(connection.host, secure=connection.secure)
        self._line.append((number, encode_question(question)))
        self._send_soon()

    def _send_soon(self) -> None:
        """Send further requests in the next turn: in one turn the answers to all that wait could come."""
        if self._line and not self._sending:
            self._sending = True
            self._reactor.call_later(0.0, self._send_next)

    def _send_next(self) -> None:
        self._sending = False
        while self._line and len(self._sent) < AT_A_TIME:
            number, question = self._line.popleft()
            if number in self._asked:
                self._sent[number] = self._reactor.now
                self._uplink.pass_on(number, question)

    def take_answer(self, number: int, packed: bytes) -> None:
        """Take the supervisor's answer to a request."""
        self._sent.pop(number, None)
        self._send_soon()
        if number in self._asked:
            self._answer(number, decode_answer(packed))

    def _answer(self, number: int, given: Answer, *, last: bool = False) -> None:
        connection, incoming, _ = self._asked.pop(number)
        connection.asking = False
        try:
            answer = incoming.answer(given, time.time(), last=last)
        except Exception:  # a bad page in the supervisor must not end the worker
            log.exception("no answer could be made, the connection is ended: %s", connection.address)
            self._owner.end(connection, INTERNAL_ERROR)
        else:
            self._owner.give(connection, answer, given.cost)

    def end_unanswered(self, now: float) -> None:
        """Answer in the supervisor's place what has waited for longer than PATIENCE."""
        for number in [each for each, sent in self._sent.items() if now - sent > PATIENCE]:
            del self._sent[number]
        self._send_soon()
        for number, asked in list(self._asked.items()):
            if now - asked.since <= PATIENCE:
                return
            late = error_answer(504, "try_later", f"no answer within {PATIENCE:g} seconds; try again")
            self._answer(number, late, last=True)

    def too_slow(self, connection: Connection) -> bytes:
        """Return the answer to a request whose body did not come in time."""
        text = f"the body of the request did not come within {self._config.frame_timeout:g} seconds"
        answer = error_answer(408, "too_slow", text)
        return self._begun[connection].answer(answer, time.time(), last=True).data

    def forget(self, connection: Connection) -> None:
        """Forget a connection that has ended or leaves."""
        self._begun.pop(connection, None)
        if connection.asking:
            for number in [each for each, asked in self._asked.items() if asked.connection is connection]:
                del self._asked[number]
