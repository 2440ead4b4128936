"""Change runner: runs reload, scale and rebalance, one at a time; knows what waits, and how reloads went.

What each change does stands in :mod:`mpchat.supervisor.reload`, :mod:`mpchat.supervisor.scale` and
:mod:`mpchat.supervisor.rebalance`.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

from mpchat.control.answers import LastReload, ReloadResult
from mpchat.control.messages import Reply
from mpchat.errors import Exit, MpchatError, StartError
from mpchat.reactor import Reactor
from mpchat.supervisor.change import REBALANCE, RELOAD, SCALE, Change, check_room
from mpchat.supervisor.live_settings import LiveSettings
from mpchat.supervisor.move_out import Steps
from mpchat.supervisor.placement import Placement
from mpchat.supervisor.pool import WorkerPool
from mpchat.supervisor.rebalance import BalanceWatch, rebalance
from mpchat.supervisor.reload import reload
from mpchat.supervisor.scale import scale, workers_after

log = logging.getLogger("mpchat.supervisor")


class ChangeRunner:
    """The change under way, what is wanted after it, and what came of the last reload."""

    def __init__(
        self, pool: WorkerPool, placement: Placement, reactor: Reactor, settings: LiveSettings
    ) -> None:
        self.last_reload: LastReload | None = None
        # Changes that have ended, by their names and whether they were carried out.
        self.ended: Counter[tuple[str, bool]] = Counter()
        self._pool = pool
        self._placement = placement
        self._reactor = reactor
        self._settings = settings
        self._change: Change | None = None
        self._steps: Steps | None = None
        # What signals have asked for.
        self._reload_wanted = False
        # How many workers to add when no change is under way; negative: to remove.
        self._more_wanted = 0
        self._balance = BalanceWatch()
        # Says why clients cannot be moved now; empty: they can.
        self.hindrance: Callable[[], str] = str
        # Called when a reload begins, and when it has ended and ``last_reload`` says how.
        self.on_reload_began: Callable[[], None] = lambda: None
        self.on_reload_ended: Callable[[], None] = lambda: None

    @property
    def under_way(self) -> str | None:
        """The name of the change under way."""
        return self._change.name if self._change else None

    @property
    def aim(self) -> int | None:
        """How many workers the change under way leads to, as far as that is known."""
        return self._change.aim if self._change else None

    # What can be asked for.

    def reload(self, reply: Reply | None) -> None:
        """Replace every worker. Raise :class:`StartError` while another change is under way."""
        self._begin(RELOAD, lambda change: reload(change, self._settings), reply)

    def reload_later(self) -> None:
        """Replace every worker as soon as no change is under way; asked for many times, this happens once."""
        self._reload_wanted = True

    def scale(self, workers: int, reply: Reply | None) -> None:
        """Have ``workers`` workers. Raise :class:`StartError` if that is impossible or not possible now."""
        check_room(self._pool, self._placement, workers)
        change = self._begin(SCALE, lambda change: scale(change, workers), reply)
        change.aim = workers
        self._more_wanted = 0  # the number replaces what signals asked for before

    def scale_by(self, difference: int) -> None:
        """Have more workers, or fewer, as soon as no change is under way."""
        self._more_wanted += difference

    def watch_balance(self, now: float) -> None:
        """Even workers out, slowly, when they have been uneven for a while; call it at every beat."""
        serving = self._pool.serving
        if self._change is not None or len(serving) != len(self._pool) or self.hindrance():
            self._balance.reset()
        elif self._balance.is_due([each.load for each in serving], now):
            self._begin(REBALANCE, rebalance, None)

    def _begin(self, name: str, make: Callable[[Change], Steps], reply: Reply | None) -> Change:
        if why := self.hindrance():
            raise StartError(
                f"not begun, since clients cannot be moved now: {why}; try again; nothing has changed"
            )
        if self._change is not None and self._change.name == REBALANCE:  # it can go on later
            self._stop(Exit.OK, "")
        if self._change is not None:
            since = time.monotonic() - self._change.began
            raise StartError(f"a {self._change.name} is under way, for {since:.1f} s now; try again after it")
        self._change = Change(name, self._pool, self._placement, self._reactor, reply)
        self._steps = make(self._change)
        log.info("began: %s", name)
        if name == RELOAD:
            self.on_reload_began()
        return self._change

    # Going on.

    def step(self) -> None:
        """Go on with the change under way, or with what waits for its turn."""
        if self._change is None:
            self._begin_what_waits()
        if self._change is None or self._steps is None:
            return
        try:
            next(self._steps)
        except StopIteration:
            self._finish(Exit.OK, "")
        except MpchatError as error:
            self._finish(StartError.exit_code, str(error))
        except Exception:
            log.exception("failed: %s", self._change.name)
            self._finish(Exit.FAILED, f"the server failed at {self._change.name}, see its log")

    def _begin_what_waits(self) -> None:
        if self.hindrance():
            return
        if self._reload_wanted:
            self._reload_wanted = False
            self.reload(None)
        elif self._more_wanted:
            workers, self._more_wanted = workers_after(len(self._pool), self._more_wanted), 0
            if workers != len(self._pool):
                try:
                    self.scale(workers, None)
                except StartError as error:
                    log.warning("not scaled: %s", error)

    def cancel(self, why: str) -> None:
        """Begin no change from now on. Connections in transit between two workers still arrive."""
        self._reload_wanted = False
        self._more_wanted = 0
        self._stop(StartError.exit_code, why)

    def _stop(self, code: int, text: str) -> None:
        if self._steps is not None:
            self._steps.close()
            self._finish(code, text)

    def _finish(self, code: int, text: str) -> None:
        change, self._change, self._steps = self._change, None, None
        assert change is not None
        result = change.result(code)
        self.ended[change.name, not code] += 1
        counts = (result.seconds, result.moved, result.lost)
        if code:
            log.error("failed after %.2f s, %d moved, %d lost: %s: %s", *counts, change.name, text)
        else:
            level = logging.WARNING if result.lost else logging.INFO
            log.log(level, "done in %.2f s, %d moved, %d lost: %s", *counts, change.name)
        if isinstance(result, ReloadResult):
            self.last_reload = _last_reload(result, code, text)
            self.on_reload_ended()
        change.answer(result, code, text)


def _last_reload(result: ReloadResult, code: int, text: str) -> LastReload:
    """Return what the status says of a reload that has ended now."""
    return LastReload(
        at=time.time(),
        exit=code,
        text=text,
        seconds=result.seconds,
        moved=result.moved,
        failed=result.failed,
        lost=result.lost,
        pauses=result.pauses,
        renewed=result.renewed,
        changed=result.changed,
        kept=result.kept,
    )
