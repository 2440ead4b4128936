"""Client commands: what the operator does to clients: say, kick, ban, mute, lift, list."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Literal

from mpchat.control.answers import Banned, Kicked, Lifted, Muted, Said, Sanction, Sanctions
from mpchat.control.messages import Answer, Reply, refusal
from mpchat.errors import AwayError, Exit, MpchatError
from mpchat.hub.hub import Hub
from mpchat.hub.moderation import BANS, as_host, kick_target
from mpchat.ipc.items import Down
from mpchat.reactor import Reactor
from mpchat.supervisor.ask_workers import PATIENCE, WorkerQuestions
from mpchat.supervisor.client_listing import ClientListing
from mpchat.supervisor.cluster_part import ClusterPart
from mpchat.supervisor.job_thread import JobThread
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.refusals import BANNED
from mpchat.supervisor.room_commands import RoomCommands

# Seconds until workers are asked again for connections that were on their way to them.
ASK_AGAIN = 0.01

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
        disk: JobThread,
    ) -> None:
        self.rooms = RoomCommands(reactor, hub)
        self.listing = ClientListing(reactor, hub, pool, placement, questions)
        self._hub = hub
        self._reactor = reactor
        self._pool = pool
        self._placement = placement
        self._questions = questions
        self._disk = disk
        # This server as one of several hosts; None: it is alone.
        self.cluster: ClusterPart | None = None

    def say(self, text: str, reply: Reply) -> None:
        """Send an announcement to every client. Raise :class:`ProtocolError` if it fits no frame."""
        self._check_the_log()
        self._hub.announce(text, self._reactor.now)
        self._ordered(reply)(
            Answer(Said(self._pool.connections + len(self._placement), self._hub.other_hosts))
        )

    def kick(self, target: str, reply: Reply) -> None:
        """Close the connections of a name, of ``host:port``, of a host or of a network."""
        self._check_the_log()
        count = self._count_elsewhere(target)
        self._hub.kick_everywhere(target)
        self._close_connections(target, lambda kicked: reply(Answer(count(kicked))))

    def _count_elsewhere(self, target: str) -> Callable[[Kicked], Kicked]:
        """Return what adds to the connections ended here those of other hosts, as far as they are known."""
        member = self._hub.is_elsewhere(target)
        hosts = self._hub.other_hosts if as_host(target) is not None else 0
        return lambda kicked: Kicked(kicked.ended + member, kicked.silent, hosts)

    def _end(self, seconds: float | None) -> float | None:
        """Return when a sanction of ``seconds`` ends (seconds since 1970); None: never."""
        return None if seconds is None else self._hub.wall() + seconds

    def _ordered(self, reply: Reply) -> Reply:
        """Return a reply that is made when what was decided before holds here, at its place in the order."""
        return lambda answer: self._hub.when_ordered(partial(reply, answer))

    def follow_kick(self, target: str) -> None:
        """Close the connections here that an operator of another host has kicked or banned."""
        if self._hub.moderator.is_sanctioned(BANS, target):
            self._placement.refuse(BANNED, host=target)
        self._close_connections(target, lambda kicked: None)

    def _check_the_log(self) -> None:
        """Raise :class:`AwayError` while the log of all hosts cannot be reached: nothing would happen."""
        why = self.cluster.away if self.cluster is not None else ""
        if why:
            raise AwayError(f"not done, since the other hosts cannot be told: {why}; try again")

    def ban(self, target: str, seconds: float | None, reply: Reply) -> None:
        """Ban a name, a host or a network and close its connections.

        Raise :class:`MpchatError` for what is none of these. The answer comes when the connections are closed
        and the ban is on the disk. It is an error if the ban could not be written.
        """
        self._check_the_log()
        count = self._count_elsewhere(target)
        banned = self._hub.moderator.ban(target, self._end(seconds), self._reactor.now)
        log.info("banned: %s", banned)
        self._placement.refuse(BANNED, host=banned)
        answer = _BanAnswer(banned, self._ordered(reply))
        self._close_connections(banned, lambda kicked: answer.on_kicked(count(kicked)))
        self._disk.do(self._hub.moderator.write(), answer.on_kept)

    def follow_moderation_file(self, then: Callable[[], None] = lambda: None) -> None:
        """Have the file of bans looked at; call ``then`` afterwards.

        Close the connections that another server, or a person, has banned there.
        """
        look = self._hub.moderator.look()

        def on_done(error: Exception | None) -> None:
            for target in self._hub.moderator.follow_file(look, self._reactor.now):
                log.info("banned, says the file of bans: %s", target)
                self._placement.refuse(BANNED, host=target)
                self._close_connections(target, lambda kicked: None)
            then()

        self._disk.do(look, on_done)

    def mute(self, target: str, seconds: float | None, reply: Reply) -> None:
        """Mute a name. Raise :class:`MpchatError` for what cannot be one."""
        self._check_the_log()
        name = self._hub.moderator.mute(target, self._end(seconds), self._reactor.now)
        log.info("muted: %s", name)
        self._keep(Muted(name, self._hub.is_present(name)), self._ordered(reply))

    def lift(self, what: Literal["bans", "mutes"], target: str, reply: Reply) -> None:
        """End a ban or a mute. The answer is an error if there is none."""
        self._check_the_log()

        def lift() -> None:
            try:
                self._hub.moderator.lift(what, target, self._reactor.now)
            except MpchatError as error:
                reply(refusal(error.exit_code, str(error)))
                return
            log.info("lifted from %s: %s", what, target)
            self._keep(Lifted(), self._ordered(reply))

        self.follow_moderation_file(lift)  # another server may have written it a moment ago

    def _keep(self, result: object, reply: Reply) -> None:
        """Write the bans and mutes of now; answer with ``result``, or with the error of that."""
        self._disk.do(
            self._hub.moderator.write(),
            lambda error: reply(Answer(result) if error is None else _not_kept(error)),
        )

    def close(self, room: str, reply: Reply) -> None:
        """End a room. Raise :class:`MpchatError` if there is none of this name."""
        self._check_the_log()
        self._ordered(reply)(Answer(self.rooms.close(room)))

    def speak(self, decide: Callable[[], None], then: Callable[[], None]) -> None:
        """Say something with ``decide``; call ``then`` when it holds here, at its place in the order.

        Raise :class:`AwayError`, and whatever ``decide`` raises.
        """
        self._check_the_log()
        decide()
        self._hub.when_ordered(then)

    def list_sanctions(self) -> Sanctions:
        """Return the bans and mutes in force."""
        listing = self._hub.state.moderation.listing(self._hub.wall())
        bans, mutes = ([Sanction(**each) for each in listing[what]] for what in ("bans", "mutes"))
        return Sanctions(bans, mutes)

    def _close_connections(self, target: str, on_kicked: Callable[[Kicked], None]) -> None:
        address = self._hub.address_of(target) or kick_target(target)
        unseen = self._placement.fresh_from(address, self._pool.handles)
        self._placement.kicking.append(address)
        self._ask_to_kick(address, unseen, 0, time.monotonic() + PATIENCE, on_kicked)

    def _ask_to_kick(
        self, address: str, unseen: set[int], ended: int, deadline: float, on_kicked: Callable[[Kicked], None]
    ) -> None:
        """Ask every worker; ask again if a connection that was on its way to a worker may have been missed.

        ``unseen`` are the fresh connections that no worker had. ``ended`` is how many were ended so far.
        """
        asked = {handle.pid: handle for handle in self._pool.ready}
        moves = self._placement.transit.moves

        def ask_again(total: int) -> None:
            left = unseen & self._placement.fresh_from(address, self._pool.handles)
            self._ask_to_kick(address, left, total, deadline, on_kicked)

        def on_result(found: int, silent: set[int]) -> None:
            total = ended + found
            missed = unseen or self._pool.moving or self._placement.transit.moves != moves
            if missed and not silent and time.monotonic() < deadline:
                self._reactor.call_later(ASK_AGAIN, partial(ask_again, total))
            else:
                self._placement.kicking.remove(address)
                on_kicked(Kicked(total, sorted({asked[each].slot for each in silent})))

        number = self._questions.begin(set(asked), on_result)
        for handle in asked.values():
            handle.endpoint.send(Down.KICK, (number, address))


class _BanAnswer:
    """Answers a ban when its connections are closed and it is on the disk, or is known not to be."""

    def __init__(self, banned: str, reply: Reply) -> None:
        self._banned = banned
        self._reply = reply
        self._kicked: Kicked | None = None
        self._kept = False
        self._error: Exception | None = None

    def on_kicked(self, kicked: Kicked) -> None:
        self._kicked = kicked
        self._answer()

    def on_kept(self, error: Exception | None) -> None:
        self._kept, self._error = True, error
        self._answer()

    def _answer(self) -> None:
        if self._kicked is None or not self._kept:
            return
        if self._error is not None:
            self._reply(_not_kept(self._error))
        else:
            ended, silent, hosts = self._kicked.ended, self._kicked.silent, self._kicked.hosts
            self._reply(Answer(Banned(target=self._banned, ended=ended, silent=silent, hosts=hosts)))


def _not_kept(error: Exception) -> Answer[object]:
    """Return the answer to a command that holds, but not after a restart."""
    log.warning("bans and mutes not written: %s", error)
    return refusal(Exit.FAILED, str(error))
