"""Client commands: what the operator does to clients: say, kick, ban, mute, lift, list."""

import logging
import time
from collections.abc import Callable
from typing import Literal

from mpchat.control.answers import Banned, Kicked, Muted, Said, Sanction, Sanctions
from mpchat.control.messages import Answer, Reply
from mpchat.hub.hub import Hub
from mpchat.hub.moderation_file import NotKeptError
from mpchat.ipc.items import Down
from mpchat.reactor import Reactor
from mpchat.supervisor.admission import BANNED
from mpchat.supervisor.ask_workers import PATIENCE, WorkerQuestions
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.room_commands import RoomCommands

log = logging.getLogger("mpchat.supervisor")


class ClientCommands:
    """Carries these commands out and answers them, some when all workers have answered."""

    def __init__(
        self,
        reactor: Reactor,
        hub: Hub,
        pool: WorkerPool,
        placement: Placement,
        questions: WorkerQuestions,
    ) -> None:
        self.rooms = RoomCommands(reactor, hub)
        self._hub = hub
        self._reactor = reactor
        self._pool = pool
        self._placement = placement
        self._questions = questions

    def say(self, text: str, reply: Reply) -> None:
        """Send an announcement to every client. Raise :class:`ProtocolError` if it fits no frame."""
        self._hub.announce(text, self._reactor.now)
        reply(Answer(Said(self._pool.connections + len(self._placement))))

    def kick(self, target: str, reply: Reply) -> None:
        """Close the connections of a name, of ``host:port`` or of a host."""
        self._close_connections(target, lambda kicked: reply(Answer(kicked)))

    def ban(self, target: str, seconds: float | None, reply: Reply) -> None:
        """Ban a name, a host or a network and close its connections.

        Raise :class:`MpchatError` for what is none of these. A ban that could not be written closes the
        connections too; then the answer is an error.
        """
        try:
            banned = self._hub.ban(target, _end(seconds), self._reactor.now)
        except NotKeptError as error:
            log.warning("banned: %s; %s", error.target, error)
            self._placement.refuse(BANNED, host=error.target)
            self._close_connections(error.target, lambda kicked: None)
            raise
        log.info("banned: %s", banned)
        self._placement.refuse(BANNED, host=banned)
        self._close_connections(
            banned,
            lambda kicked: reply(Answer(Banned(target=banned, ended=kicked.ended, silent=kicked.silent))),
        )

    def mute(self, target: str, seconds: float | None, reply: Reply) -> None:
        """Mute a name. Raise :class:`MpchatError` for what cannot be one."""
        name = self._hub.mute(target, _end(seconds), self._reactor.now)
        log.info("muted: %s", name)
        reply(Answer(Muted(name, self._hub.address_of(name) is not None)))

    def lift(self, what: Literal["bans", "mutes"], target: str) -> None:
        """End a ban or a mute. Raise :class:`MpchatError` if there is none."""
        self._hub.lift(what, target, self._reactor.now)
        log.info("lifted from %s: %s", what, target)

    def list_sanctions(self) -> Sanctions:
        """Return the bans and mutes in force."""
        listing = self._hub.state.moderation.listing(time.time())
        bans, mutes = ([Sanction(**each) for each in listing[what]] for what in ("bans", "mutes"))
        return Sanctions(bans, mutes)

    def _close_connections(self, target: str, on_kicked: Callable[[Kicked], None]) -> None:
        address = self._hub.address_of(target) or target
        self._ask_to_kick(address, 0, time.monotonic() + PATIENCE, on_kicked)

    def _ask_to_kick(
        self, address: str, ended: int, deadline: float, on_kicked: Callable[[Kicked], None]
    ) -> None:
        """Ask every worker; ask again if connections were in transit meanwhile and may have been missed.

        ``ended`` is how many connections were ended so far.
        """
        asked = {handle.pid: handle for handle in self._pool.ready}
        moves = self._placement.transit.moves

        def on_result(found: int, silent: set[int]) -> None:
            total = ended + found
            moved = self._pool.moving or self._placement.transit.moves != moves
            if moved and not silent and time.monotonic() < deadline:
                self._ask_to_kick(address, total, deadline, on_kicked)
            else:
                on_kicked(Kicked(total, sorted({asked[each].slot for each in silent})))

        number = self._questions.begin(set(asked), on_result)
        for handle in asked.values():
            handle.endpoint.send(Down.KICK, (number, address))


def _end(seconds: float | None) -> float | None:
    """Return when a sanction of ``seconds`` ends (seconds since 1970); None: never."""
    return None if seconds is None else time.time() + seconds
