"""A host's link to the log without threads: the scheduler says when each side makes its next call.

As in the real link one side appends and does all else in the order in which it was asked, the other reads.
"""

from collections import deque
from collections.abc import Callable
from functools import partial

from mpchat.cluster.store import (
    WAIT,
    Batch,
    FencedError,
    Place,
    RefusedError,
    RewoundError,
    Snapshot,
    TrimmedError,
    UnavailableError,
)
from mpchat.hub.membership import (
    Away,
    Event,
    Fenced,
    Founded,
    Loaded,
    Registration,
    Rewound,
    Stood,
    Stopped,
    Trimmed,
)
from mpchat.hub.shared_hub import SharedPast
from mpchat.hub.shared_log import Outgoing
from support.model_store import ModelStore

# What a read returns, in bytes: little, so that hosts are often behind.
READ_SIZE = 4000
# Batches that wait for the loop at most, and that one turn of the loop takes.
MOST_WAITING = 60
MOST_IN_A_TURN = 20


class Again(Exception):
    """The call is to be made once more, later."""


class SimulatedLink:
    """Does what :class:`mpchat.hub.membership.LogLink` says when it is told to."""

    def __init__(
        self,
        stores: tuple[ModelStore, ModelStore],
        register: Callable[[ModelStore, str, bytes], Registration],
        restore: Callable[[Snapshot], SharedPast],
        lease: float,
        name: str,
    ) -> None:
        self.store, self.reading_store = stores
        self._register, self._restore = register, restore
        self.is_heard = True
        self._lease, self._name = lease, name
        self._jobs: deque[tuple[str, Callable[[], Event | None]]] = deque()
        self._events: list[tuple[int, Event]] = []
        self._from: Place | None = None
        self._serial = 0
        self._read: deque[Batch] = deque()
        self._unsure = False
        self._away = [False, False]

    # What the host calls.

    def follow(self, place: Place) -> None:
        self._serial += 1
        self._from = place
        self._read.clear()

    def reads(self) -> list[Batch]:
        return [self._read.popleft() for _ in range(min(MOST_IN_A_TURN, len(self._read)))]

    @property
    def has_reads(self) -> bool:
        return bool(self._read)

    def wake(self) -> None:
        """Do nothing: the loop turns anyway."""

    def events(self) -> list[Event]:
        events, self._events = self._events, []
        return [event for serial, event in events if serial in (0, self._serial)]

    def register(self, generation: str, info: bytes) -> None:
        self._add("register", lambda: self._register(self.store, generation, info))

    def append(self, generation: str, epoch: int, position: int, batches: list[Outgoing]) -> None:
        self._add("append", partial(self._append, generation, epoch, position, batches))

    def leave(self, generation: str, epoch: int) -> None:
        self._add("leave", partial(self._leave, generation, epoch))

    def save(self, make: Callable[[], Snapshot]) -> None:
        self._add("save", lambda: self.store.save(make()))

    def load(self) -> None:
        self._add("load", self._load)

    def stand(self, generation: str, place: Place) -> None:
        self._add("stand", partial(self._stand, generation, place))

    def found(self, old: str, make: Callable[[], Snapshot]) -> None:
        self._add("found", lambda: Founded(self.store.found(old, make())))

    def _add(self, verb: str, call: Callable[[], Event | None]) -> None:
        self._jobs.append((verb, call))

    # What the scheduler calls.

    @property
    def idle(self) -> bool:
        """True when nothing is to be written and nothing was read that the host has not taken."""
        return not self._jobs and not self._read and not self._events

    @property
    def next_verb(self) -> str:
        """The verb of the next call of the writing side; empty: there is none."""
        return self._jobs[0][0] if self._jobs else ""

    def write(self) -> str:
        """Make the next call of the writing side; return what has come of it."""
        verb, call = self._jobs[0]
        event: Event | None
        try:
            event = call()
        except UnavailableError as error:
            self._note_away(0, away=True)
            return f"{verb}: {error}"
        except Again:
            self._note_away(0, away=False)
            return f"{verb}: again"
        except RewoundError as error:
            event = Rewound(str(error))
        except RefusedError as error:
            event = Stopped(str(error))
        self._note_away(0, away=False)
        self._jobs.popleft()
        if event is not None:
            self._events.append((0, event))
        return f"{verb}: {type(event).__name__ if event is not None else 'done'}"

    def read(self) -> str:
        """Make the next call of the reading side; return what has come of it, if it is worth a word."""
        if self._from is None or len(self._read) > MOST_WAITING:
            return ""
        try:
            if self._unsure:
                self.reading_store.check(self._from)
            batches = self.reading_store.read(self._from, 0.0, READ_SIZE)
        except UnavailableError as error:
            self._unsure = True
            self._note_away(1, away=True)
            return f"read: {error}"
        except TrimmedError:
            self._from = None
            self._events.append((self._serial, Trimmed()))
            return "read: trimmed"
        except RewoundError as error:
            self._from = None
            self._events.append((self._serial, Rewound(str(error))))
            return f"read: {error}"
        self._unsure = False
        self._note_away(1, away=False)
        for batch in batches:
            self._read.append(batch)
            self._from = self._from.after(batch)
        return ""

    def _note_away(self, side: int, *, away: bool) -> None:
        before = any(self._away)
        self._away[side] = away
        if any(self._away) is not before:
            self._events.append((0, Away("" if before else "Redis is away")))

    def _append(self, generation: str, epoch: int, position: int, batches: list[Outgoing]) -> Event | None:
        try:
            self.store.append(generation, epoch, position, self._lease, [(*each,) for each in batches])
        except FencedError:
            return Fenced(epoch)
        return None

    def _leave(self, generation: str, epoch: int) -> None:
        try:
            self.store.leave(generation, epoch)
        except RewoundError:  # then it takes part no longer
            return

    def _load(self) -> Event:
        loaded = self.store.load()
        return Loaded(self._restore(loaded) if loaded is not None else None)

    def _stand(self, generation: str, place: Place) -> Event:
        standing = self.store.stand(generation, place, self._name)
        if standing.answer == WAIT:
            raise Again
        return Stood(standing)
