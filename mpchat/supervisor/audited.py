"""Audited commands: hands on the requests of the control socket, and keeps the audit trail of them.

A request that changes something leaves a line: who asked, for what, and what became of it.
"""

from collections.abc import Callable
from functools import partial

from mpchat.control import requests
from mpchat.control.answers import Banned, Closed, Kicked
from mpchat.control.messages import Answer, Reply
from mpchat.control.requests import Request
from mpchat.errors import MpchatError
from mpchat.instance.owners import user_name
from mpchat.ipc import audit
from mpchat.ipc.audit import Act
from mpchat.supervisor.slow_call import SlowCall


class AuditedCommands:
    """Hands requests on, and records who has asked and what was answered."""

    def __init__(self, own_uid: int, handle: Callable[[Request, Reply], None]) -> None:
        """``own_uid`` is the user of most commands; ``handle(request, reply)`` carries requests out."""
        self._handle = handle
        # The system's list of users may be on another machine.
        self._names = {uid: SlowCall(partial(user_name, uid)) for uid in {own_uid, 0}}

    def handle(self, request: Request, reply: Reply, uid: int) -> None:
        """Carry a request of a user out; ``reply`` is called when that is done, now or later."""
        act = act_of(request, self._actor(uid))
        if act is None:
            self._handle(request, reply)
            return
        if isinstance(request, requests.Audit):  # it is done already
            audit.record(act)
            reply(Answer({}))
            return

        def audited(answer: Answer[object]) -> None:
            if answer.final:
                audit.record(act, result_of(answer))
            reply(answer)

        try:
            self._handle(request, audited)
        except MpchatError as error:
            audit.record(act, str(error))
            raise
        except Exception:
            audit.record(act, "the server failed")
            raise

    def _actor(self, uid: int) -> str:
        name = self._names.get(uid)
        known = name is not None and name.done
        return f"mpchat command of user {name.result()} (uid {uid})" if known and name else f"uid {uid}"


def act_of(request: Request, actor: str) -> Act | None:
    """Return what a request asks for; None for one that only asks."""
    command = request.command()
    match request:
        case requests.Stop() | requests.Reload():
            return Act(actor, command)
        case requests.Scale(workers):
            return Act(actor, command, str(workers))
        case requests.Say(target) | requests.Kick(target) | requests.Close(target):
            return Act(actor, command, target)
        case requests.Ban(target, seconds) | requests.Mute(target, seconds):
            return Act(actor, command, target, seconds)
        case requests.Lift(what, target):
            return Act(actor, "unban" if what == "bans" else "unmute", target)
        case requests.Audit(action, target):
            return Act(actor, action, target)
    return None


def result_of(answer: Answer[object]) -> str:
    """Return what became of a request, in words."""
    if answer.exit:
        return answer.text
    match answer.result:
        case Kicked(ended) | Banned(ended=ended):
            return f"done, connections ended: {ended}"
        case Closed(members=members):
            return f"done, members put into the lobby: {members}"
    return "done"
