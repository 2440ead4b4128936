"""Moderator: bans and mutes, as operators set and lift them, in the hub's order and in the file.

It judges nothing on its own: the rules are part of the hub's state, and change by entries. A thread writes
the file and looks at it; the jobs for that are made here.
"""

import logging
import time
from collections.abc import Callable

from mpchat.errors import MpchatError
from mpchat.hub.clock_watch import ClockWatch
from mpchat.hub.entries import ClockStepped, Entry, Lifted, Moderated
from mpchat.hub.moderation import BANS, MUTES, Rule, ban_target, lifted_key, mute_target
from mpchat.hub.moderation_keeper import FileLook, ModerationKeeper
from mpchat.hub.state import HubState

log = logging.getLogger("mpchat.hub")


class Moderator:
    """Changes the rules and keeps them."""

    def __init__(
        self, state: HubState, keeper: ModerationKeeper, put_in_order: Callable[[Entry, float], None]
    ) -> None:
        """``put_in_order(entry, now)`` takes an entry of the monotonic time ``now``."""
        self.state = state
        # The clock by which rules end, in seconds since 1970.
        self.wall: Callable[[], float] = time.time
        self._keeper = keeper
        self._put_in_order = put_in_order
        self._clock = ClockWatch(time.monotonic(), time.time())

    def ban(self, target: str, until: float | None, now: float) -> str:
        """Ban a name or an address; return it as it is kept. Raises :class:`MpchatError` for what is neither.

        It holds at once, and after a restart once :meth:`write` was made.
        """
        return self._moderate(BANS, ban_target(target), until, now)

    def mute(self, name: str, until: float | None, now: float) -> str:
        """Mute a name; return it as it is kept. Raises :class:`MpchatError`."""
        return self._moderate(MUTES, mute_target(name), until, now)

    def _moderate(self, table: str, target: tuple[str, str], until: float | None, now: float) -> str:
        self.watch_clock()
        key, spelled = target
        self._put_in_order(Moderated(table, key, spelled, until), now)
        self._keeper.note(table, key, Rule(spelled, until))
        return spelled

    def lift(self, table: str, target: str, now: float) -> None:
        """End a ban (``table`` is ``bans``) or a mute (``mutes``). Raises :class:`MpchatError`."""
        key = lifted_key(target)
        if key not in self.state.moderation.table(table):
            raise MpchatError(f"{target} is not {'banned' if table == BANS else 'muted'}")
        self._put_in_order(Lifted(table, key), now)
        self._keeper.note(table, key, None)

    def is_sanctioned(self, table: str, target: str) -> bool:
        """Tell whether there is a ban (``table`` is ``bans``) or a mute (``mutes``) of a target."""
        return lifted_key(target) in self.state.moderation.table(table)

    def write(self) -> Callable[[], None]:
        """Return a job for a thread: it writes what was banned, muted or lifted since the last job.

        It raises :class:`MpchatError`; a later look tries again.
        """
        return self._keeper.write(self.state.moderation)

    def look(self) -> FileLook:
        """Return a job for a thread: it looks at the file. Then call :meth:`follow_file`."""
        self.watch_clock()
        return self._keeper.look(self.state.moderation)

    def follow_file(self, look: FileLook, now: float) -> list[str]:
        """Take over what another program has changed in the file; return what is newly banned."""
        banned = []
        for table, key, rule in self._keeper.news(look, self.state.moderation, time.time()):
            if rule is None:
                self._put_in_order(Lifted(table, key), now)
                continue
            self._put_in_order(Moderated(table, key, rule.target, rule.until), now)
            if table == BANS:
                banned.append(rule.target)
        return banned

    def watch_clock(self) -> None:
        """Let bans and mutes last as long as was said, although the wall clock was stepped.

        Call it before a rule is judged or read. The file follows with the next look.
        """
        if self.wall is not time.time:  # hosts share a clock, and a step of this one means nothing
            return
        now = time.monotonic()
        step = self._clock.step(now, time.time())
        if not step:
            return
        log.warning("the clock was stepped by %.1f s: bans and mutes end that much later", step)
        self._put_in_order(ClockStepped(step), now)
        for table in (BANS, MUTES):
            for key, rule in self.state.moderation.table(table).items():
                if rule.until is not None:
                    self._keeper.note(table, key, rule)

    def is_banned(self, identity: int, host: str) -> bool:
        """Tell whether a connection's host is banned now, or the name that it has."""
        moderation, at = self.state.moderation, self.wall()
        member = self.state.member_here(identity)
        named = member is not None and moderation.banned_name(member.name, at)
        return named or moderation.banned_host(host, at)
