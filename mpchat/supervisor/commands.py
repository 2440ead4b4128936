"""Commands: what each request at the control socket does, and how it is answered."""

from collections.abc import Callable

from mpchat.config import MOST_WORKERS
from mpchat.control import requests
from mpchat.control.answers import Stopping
from mpchat.control.messages import Answer, Reply
from mpchat.control.requests import Request
from mpchat.errors import ConfigError
from mpchat.supervisor.change_runner import ChangeRunner
from mpchat.supervisor.client_commands import ClientCommands
from mpchat.supervisor.lifecycle import Lifecycle
from mpchat.supervisor.record_keeper import RecordKeeper
from mpchat.supervisor.status import StatusReport


class Commands:
    """Carries requests out; an error that it raises becomes the answer."""

    def __init__(
        self,
        lifecycle: Lifecycle,
        stop: Callable[[str], None],
        record: RecordKeeper,
        report: StatusReport,
        changes: ChangeRunner,
        clients: ClientCommands,
    ) -> None:
        """``stop(why)`` begins to stop the server."""
        self._lifecycle = lifecycle
        self._stop = stop
        self._record = record
        self._report = report
        self._changes = changes
        self._clients = clients

    def handle(self, request: Request, reply: Reply) -> None:
        """Carry a request out; ``reply`` is called when that is done, now or later."""
        match request:
            case requests.Status():
                reply(Answer(self._report.status()))
            case requests.Hosts():
                reply(Answer(self._report.hosts()))
            case requests.Stop():
                reply(Answer(Stopping(self._record.processes, self._report.settings.config.stop_timeout)))
                self._stop("mpchat stop")
            case requests.Reload():
                self._lifecycle.must_be_running()
                self._changes.reload(reply)
            case requests.Scale(workers):
                self._scale(workers, reply)
            case _:
                self._handle_clients(request, reply)

    def _handle_clients(self, request: Request, reply: Reply) -> None:
        """Carry out a request that concerns clients or rooms."""
        match request:
            case requests.Say(text):
                self._clients.say(text, reply)
            case requests.Kick(address):
                self._clients.kick(address, reply)
            case requests.Ban(target, seconds):
                self._clients.ban(target, seconds, reply)
            case requests.Mute(target, seconds):
                self._clients.mute(target, seconds, reply)
            case requests.Lift(what, target):
                self._clients.lift(what, target, reply)
            case requests.Bans():
                reply(Answer(self._clients.list_sanctions()))
            case requests.Rooms(after):
                reply(Answer(self._clients.rooms.list(after)))
            case requests.Clients(after, room, without):
                self._clients.listing.page(after, room, without, reply)
            case requests.Close(room):
                self._clients.close(room, reply)
            case _:
                raise NotImplementedError(request.command())

    def _scale(self, workers: int, reply: Reply) -> None:
        self._lifecycle.must_be_running()
        if not 1 <= workers <= MOST_WORKERS:
            raise ConfigError(f"workers is {workers!r}, allowed: 1 to {MOST_WORKERS}")
        self._changes.scale(workers, reply)
