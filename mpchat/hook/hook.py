"""Hook: takes events from the loop, and has a thread of its own that delivers them, in order.

The loop pays a microsecond or two for a run of messages. The thread writes a batch, signs it, sends it, and
waits for the answer before it takes the next: so a receiver never gets a later batch before an earlier one.
A batch without an answer is sent again as it is, later and later, until it is accepted or refused. It
may come twice. What waits is bounded; past that the oldest events are dropped, and the next batch says so.
"""

import logging
import random
import secrets
import threading
import time
from typing import NamedTuple

from mpchat.hook.backlog import Backlog, Batch
from mpchat.hook.events import Event, Moved
from mpchat.hook.receiver import Answer, Receiver, ReceiverError
from mpchat.hook.rules import DELIVERY, SIGNATURE, Verdict, pause, retry_after, signature, verdict
from mpchat.hook.target import Target
from mpchat.hub.effects import Presence
from mpchat.hub.history import Run

# Seconds in which events gather for one request, when the receiver has got all that was before.
GATHER = 0.05
# Seconds between two log lines about events that were dropped.
LOG_EVERY = 60.0
# Rooms whose names were compared with the patterns and are remembered: clients can make any number of rooms.
REMEMBERED = 10_000
# Seconds that the thread gets to notice that it is to end at once.
LAST_MOMENT = 0.2

log = logging.getLogger("mpchat.hook")


class HookStatus(NamedTuple):
    """The state of the deliveries."""

    # Without secrets.
    url: str
    # "ok", or "failing: " and the reason.
    state: str
    # When that state began (seconds since 1970).
    since: float
    # Events that wait, that were accepted, and that were dropped.
    waiting: int
    sent: int
    dropped: int


class Hook:
    """The webhook of a server. One thread calls all methods; none of them but :meth:`close` waits."""

    def __init__(self, target: Target, server: str, *, receiver: Receiver | None = None) -> None:
        """Begin with number 1; ``server`` is the server's name, for the receiver."""
        self._server = server
        self._instance = secrets.token_urlsafe(9)
        self._receiver = receiver or Receiver()
        self._heard: dict[str, bool] = {}
        self._state, self._since = "ok", time.time()
        # Events that were dropped by what the log says, and when it may say so again (seconds, monotonic).
        self._logged, self._log_again = 0, 0.0

        # Shared with the thread, under the lock, which no thread holds during I/O.
        self._changed = threading.Condition()
        self._target = target
        self._backlog = Backlog(target.queue)
        # Whether the thread waits for the next event.
        self._asleep = False
        # Whether nothing follows any more, and whether the thread is to end at once.
        self._closing = self._ended = False
        # Is added to when there is a reason to try again at once.
        self._reasons = 0

        self._thread = threading.Thread(target=self._work, name="hook", daemon=True)
        self._thread.start()

    # In the loop.

    def said(self, run: Run) -> None:
        """Take messages of a room."""
        if self._hears(run.room):
            self._add(run)

    def moved(self, presence: Presence) -> None:
        """Take a member's coming or going."""
        if self._hears(presence.room):
            self._add(Moved(presence, time.time()))

    def _hears(self, room: str) -> bool:
        heard = self._heard.get(room)
        if heard is None:
            if len(self._heard) >= REMEMBERED:
                self._heard.clear()
            heard = self._heard[room] = self._target.hears(room)
        return heard

    def _add(self, event: Event) -> None:
        with self._changed:
            self._backlog.add(event)
            if self._asleep:
                self._asleep = False
                self._changed.notify()

    def follow(self, target: Target) -> None:
        """Send to another receiver, or sign otherwise, from the next try on; hear other rooms from now on."""
        self._heard.clear()
        with self._changed:
            self._target = target
            self._backlog.limit = target.queue
            self._backlog.keep_to_limit()
            self._try_now()

    def status(self) -> HookStatus:
        """Return the state of the deliveries."""
        with self._changed:
            backlog, url = self._backlog, self._target.shown
            return HookStatus(url, self._state, self._since, backlog.waiting, backlog.sent, backlog.dropped)

    def close(self, timeout: float) -> None:
        """Deliver all that waits, for at most ``timeout`` seconds; then say what is left."""
        with self._changed:
            self._closing = True
            self._try_now()
        self._thread.join(timeout)
        self.end()
        self._thread.join(LAST_MOMENT)

    def end(self) -> None:
        """Deliver nothing more, and say what is left."""
        with self._changed:
            self._closing = self._ended = True
            self._try_now()
            left, url = self._backlog.waiting, self._target.shown
        self._receiver.abort()
        if left:
            log.warning("not delivered, %d events: %s", left, url)

    def _try_now(self) -> None:
        self._asleep = False
        self._reasons += 1
        self._changed.notify_all()

    # In the thread.

    def _work(self) -> None:
        try:
            while (batch := self._next_batch()) is not None:
                self._deliver(batch)
        except Exception:  # status must not say that all is well when a bug stopped it
            self._change("failing: a bug, see the log; nothing more is sent")
            log.exception("nothing more is sent: %s", self._target.shown)
        finally:
            self._receiver.close()

    def _next_batch(self) -> Batch | None:
        """Wait for events, and a moment longer for further ones; None: nothing follows."""
        with self._changed:
            while not (self._backlog.waiting or self._closing):
                self._asleep = True
                self._changed.wait()
            if not self._backlog.has_batch:
                self._changed.wait_for(lambda: self._closing, GATHER)
            return None if self._ended else self._backlog.take()

    def _deliver(self, batch: Batch) -> None:
        """Try until a batch is accepted or refused, or the thread is to end."""
        body = batch.body(self._instance, self._server)
        failures = 0
        while True:
            with self._changed:
                target, reasons = self._target, self._reasons
            wait = self._try(target, batch, body)
            if wait is None:
                return
            failures += 1
            self._log_dropped()
            if self._is_told_before(max(wait, pause(failures, random.random())), reasons):
                failures = 0
            if self._ended:
                return

    def _is_told_before(self, seconds: float, reasons: int) -> bool:
        """Wait for so long, or for a reason to go on at once; tell whether there is one."""
        with self._changed:
            return self._changed.wait_for(lambda: self._reasons != reasons, seconds)

    def _try(self, target: Target, batch: Batch, body: bytes) -> float | None:
        """Send a batch. Return None when that is settled, else the seconds that the receiver asks to wait."""
        headers = {DELIVERY: f"{self._instance}-{batch.first}-{batch.last}"}
        if target.secret:
            headers[SIGNATURE] = signature(target.secret, int(time.time()), body)
        try:
            answer = self._receiver.post(target.url, body, headers)
        except ReceiverError as error:
            self._fails(str(error), target)
            return 0.0
        match verdict(answer.status):
            case Verdict.ACCEPTED:
                with self._changed:
                    self._backlog.accepted()
                self._works(target)
            case Verdict.REFUSED:
                with self._changed:
                    self._backlog.refused()
                self._fails(f"it refuses events, {_shown(answer)}", target)
            case Verdict.LATER:
                self._fails(_shown(answer), target)
                return retry_after(answer.retry_after, time.time())
        self._log_dropped()
        return None

    # State, and lines of the log.

    def _change(self, state: str) -> None:
        with self._changed:
            self._state, self._since = state, time.time()

    def _fails(self, why: str, target: Target) -> None:
        state = f"failing: {why}"
        if state != self._state and not self._ended:
            self._change(state)
            log.warning("events not delivered, %s: %s", state, target.shown)

    def _works(self, target: Target) -> None:
        if self._state != "ok":
            self._change("ok")
            log.warning("events delivered again, %d dropped so far: %s", self._backlog.dropped, target.shown)

    def _log_dropped(self) -> None:
        """Say how many events were dropped, now and then."""
        with self._changed:
            dropped = self._backlog.dropped
        if dropped > self._logged and time.monotonic() >= self._log_again:
            log.warning("dropped, %d events: %s", dropped - self._logged, self._target.shown)
            self._logged, self._log_again = dropped, time.monotonic() + LOG_EVERY


def _shown(answer: Answer) -> str:
    """Return an answer in a few words. What the receiver says beside the number may be anything."""
    if 300 <= answer.status < 400:
        return f"it answers {answer.status}, and redirects are not followed"
    return f"it answers {answer.status}"
