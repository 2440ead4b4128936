"""The audit trail of commands: each that changes something leaves one line, once its result is known."""

import logging
import os
from collections.abc import Callable
from typing import Any

import pytest
from support.waiting import eventually

from mpchat.control import requests
from mpchat.control.answers import Banned, Closed, Kicked
from mpchat.control.messages import Answer, Reply
from mpchat.control.requests import BY_COMMAND, Request
from mpchat.errors import AwayError, MpchatError
from mpchat.instance.owners import user_name
from mpchat.supervisor.audited import AuditedCommands, act_of

# Each request that changes something, with what the trail says of it.
ACTS: dict[str, list[tuple[Request, str]]] = {
    "stop": [(requests.Stop(), "stop")],
    "reload": [(requests.Reload(), "reload")],
    "scale": [(requests.Scale(3), 'scale "3"')],
    "say": [(requests.Say("안녕\n"), 'say "안녕\n"'), (requests.Say("x" * 300), f'say "{"x" * 200}…"')],
    "kick": [(requests.Kick("bob"), 'kick "bob"')],
    "ban": [(requests.Ban("bob"), 'ban "bob"'), (requests.Ban('b"', 1.5), 'ban "b\\"" for 1.5 s')],
    "mute": [(requests.Mute("bob", 60), 'mute "bob" for 60 s')],
    "lift": [
        (requests.Lift("bans", "bob"), 'unban "bob"'),
        (requests.Lift("mutes", "bob"), 'unmute "bob"'),
    ],
    "close": [(requests.Close("game-1"), 'close "game-1"')],
    "audit": [(requests.Audit("user add", "bob operator"), 'user add "bob operator"')],
}
# Requests that only ask.
QUESTIONS = {"status", "bans", "rooms", "clients", "hosts"}


@pytest.fixture(autouse=True)
def _heard(caplog: pytest.LogCaptureFixture) -> None:
    """Let what is logged reach the test, whatever another test has set up."""
    logging.getLogger("mpchat").propagate = True


def commands(handle: Callable[[Request, Reply], None]) -> AuditedCommands:
    made = AuditedCommands(os.geteuid(), handle)
    eventually(lambda: all(each.done for each in made._names.values()), "the names of the users")
    return made


def trail(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == "mpchat.audit"]


def test_each_request_is_an_act_or_a_question() -> None:
    assert set(ACTS) | QUESTIONS == set(BY_COMMAND)
    assert not set(ACTS) & QUESTIONS


@pytest.mark.parametrize("command", ACTS)
def test_an_act_leaves_a_line_with_the_user_who_asked(command: str, caplog: pytest.LogCaptureFixture) -> None:
    asked = commands(lambda request, reply: reply(Answer({})))
    me = f"mpchat command of user {user_name(os.geteuid())} (uid {os.geteuid()})"
    for request, said in ACTS[command]:
        asked.handle(request, lambda answer: None, os.geteuid())
        assert trail(caplog) == [f"audit: {said}, by {me}: done"]
        caplog.clear()


@pytest.mark.parametrize("request_", [requests.Status(), requests.Bans(), requests.Rooms(), requests.Hosts()])
def test_a_question_leaves_no_line(request_: Request, caplog: pytest.LogCaptureFixture) -> None:
    answers: list[Any] = []
    assert act_of(request_, "me") is None
    commands(lambda request, reply: reply(Answer({}))).handle(request_, answers.append, 0)
    assert len(answers) == 1
    assert trail(caplog) == []


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (Answer(Kicked(2, [])), "done, connections ended: 2"),
        (Answer(Banned(target="bob", ended=3, silent=[])), "done, connections ended: 3"),
        (Answer(Closed("game-1", 4)), "done, members put into the lobby: 4"),
        (Answer({}, 1, "bob is not banned"), "bob is not banned"),
    ],
)
def test_the_line_comes_with_the_final_answer_and_says_what_became_of_it(
    answer: Answer[object], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    later: list[Reply] = []
    got: list[Answer[object]] = []
    commands(lambda request, reply: later.append(reply)).handle(requests.Kick("bob"), got.append, 7)
    later[0](Answer({"moved": 1}, final=False))
    assert trail(caplog) == []
    later[0](answer)
    assert trail(caplog) == [f'audit: kick "bob", by uid 7: {said}']
    assert got[-1] is answer
    assert len(got) == 2


@pytest.mark.parametrize(
    ("error", "said"), [(AwayError("Redis is away"), "Redis is away"), (KeyError("x"), "the server failed")]
)
def test_what_is_refused_or_fails_leaves_a_line_too(
    error: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(request: Request, reply: Reply) -> None:
        raise error

    with pytest.raises((MpchatError, KeyError)):
        commands(fail).handle(requests.Scale(2), lambda answer: None, 7)
    assert trail(caplog) == [f'audit: scale "2", by uid 7: {said}']


def test_what_a_command_has_done_itself_is_only_recorded(caplog: pytest.LogCaptureFixture) -> None:
    asked: list[Request] = []
    answers: list[Answer[object]] = []
    made = commands(lambda request, reply: asked.append(request))
    made.handle(requests.Audit("user remove", "bob"), answers.append, 7)
    assert trail(caplog) == ['audit: user remove "bob", by uid 7: done']
    assert (asked, [each.exit for each in answers]) == ([], [0])
