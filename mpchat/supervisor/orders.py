"""Orders: what operators ask for from clients. It is carried out as the same command of the shell is."""

from mpchat.control.answers import Banned, Closed, Kicked
from mpchat.control.messages import Answer, Reply
from mpchat.errors import AwayError, MpchatError
from mpchat.hub.effects import Order
from mpchat.hub.hub import Hub
from mpchat.hub.moderation import BANS, MUTES
from mpchat.ipc import audit
from mpchat.ipc.audit import Act
from mpchat.protocol.messages import error_frame
from mpchat.protocol.requests import moderated_frame
from mpchat.supervisor.audited import result_of
from mpchat.supervisor.client_commands import ClientCommands
from mpchat.text import visible

# The code of an error by the action, where the target is to blame.
_WRONG_TARGET = {
    "kick": "no_such_name",
    "ban": "bad_name",
    "unban": "no_such_name",
    "mute": "bad_name",
    "unmute": "no_such_name",
    "close": "bad_room",
}


class Orders:
    """Carries orders out and answers the operators' clients."""

    def __init__(self, hub: Hub, clients: ClientCommands) -> None:
        self._hub = hub
        self._clients = clients

    def obey(self, order: Order) -> None:
        """Carry an order out; its client is answered when that is done, now or later."""
        target = visible(order.target)
        act = Act(
            f"operator {audit.quoted(order.by)}",
            order.action,
            order.target,
            order.seconds,
            self._hub.address_at(order.identity),
        )

        def reply(answer: Answer[object]) -> None:
            audit.record(act, result_of(answer))
            if answer.exit:
                # Only a lift knows at this point that there was nothing to lift.
                lifts = order.action in ("unban", "unmute") and not self._is_sanctioned(order)
                code = _WRONG_TARGET[order.action] if lifts else "failed"
                self._refuse(order, code, answer.text)
                return
            count, silent, hosts = _count(answer.result)
            if silent:
                slots = ", ".join(map(str, silent))
                self._refuse(order, "failed", f"{count} connections ended; no answer from worker {slots}")
            elif order.action == "kick" and not count and not hosts:
                nobody = f"no member is called {target} and no client is connected from there"
                self._refuse(order, "no_such_name", nobody)
            else:
                self._hub.tell(order.identity, moderated_frame(order.action, _spelled(order, answer), count))

        try:
            self._begin(order, reply)
        except AwayError as error:
            audit.record(act, str(error))
            self._refuse(order, "failed", str(error))
        except MpchatError as error:
            audit.record(act, str(error))
            moving = order.action == "close" and self._hub.can_close(order.target)
            self._refuse(order, "failed" if moving else _WRONG_TARGET[order.action], str(error))

    def _begin(self, order: Order, reply: Reply) -> None:
        _, _, action, target, seconds = order
        match action:
            case "kick":
                self._clients.kick(target, reply)
            case "ban":
                self._clients.ban(target, seconds, reply)
            case "mute":
                self._clients.mute(target, seconds, reply)
            case "unban":
                self._clients.lift("bans", target, reply)
            case "unmute":
                self._clients.lift("mutes", target, reply)
            case "close":
                self._clients.close(target, reply)

    def _is_sanctioned(self, order: Order) -> bool:
        return self._hub.moderator.is_sanctioned(BANS if order.action == "unban" else MUTES, order.target)

    def _refuse(self, order: Order, code: str, text: str) -> None:
        self._hub.tell(order.identity, error_frame(code, text))


def _count(result: object) -> tuple[int, list[int], int]:
    """Return how many connections were ended or members moved, the workers that have not answered, and how
    many other hosts were asked."""
    match result:
        case Kicked() | Banned():
            return result.ended, list(result.silent), result.hosts
        case Closed():
            return result.members, [], 0
    return 0, [], 0


def _spelled(order: Order, answer: Answer[object]) -> str:
    """Return the target as it is kept: a ban of host:port is one of the host."""
    match answer.result:
        case Banned():
            return answer.result.target or order.target
        case Closed():
            return answer.result.room
    return order.target
