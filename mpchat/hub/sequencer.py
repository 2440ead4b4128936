"""Sequencer: the one order of plain clients' messages, and the notices of clients that have gone. Pure.

One client's leaving is told at once; further ones within :data:`NOTICE_GATHER` share a notice.
"""

from mpchat.hub.saved import SavedSequencer

# Seconds in which further leavers share a notice. Long enough for a thousand closed sockets to be read, short
# enough that no client takes it for a delay.
NOTICE_GATHER = 0.1
# Addresses that a shared notice names; it counts the rest. Keeps a notice far below a frame's size.
NAMED_LEAVERS = 8


def leaving_text(addresses: list[str], unnamed: int = 0) -> str:
    """Return the lecture's notice for one leaver, or a notice that counts them all for many.

    ``unnamed`` more clients have gone whose addresses are not known: their worker died.
    """
    count = len(addresses) + unnamed
    named = addresses[:NAMED_LEAVERS]
    if count == 1 and named:
        return f" Disconnect : {named[0]} "
    clients = f"{count} client{'s' if count != 1 else ''}"
    if not named:
        return f" Disconnect : {clients} "
    rest = count - len(named)
    more = [f"{rest} more"] if rest else []
    return f" Disconnect : {', '.join(named + more)} ({clients}) "


class Sequencer:
    """Numbers plain clients' messages and gathers their leaving."""

    def __init__(self, *, notices: bool = True) -> None:
        self.notices = notices
        # The number of the last message; numbers have no gaps.
        self.sequence = 0
        self._left: list[str] = []
        self._left_unnamed = 0
        self._next_notice = 0.0

    def saved(self) -> SavedSequencer:
        """Return everything as values."""
        return SavedSequencer(
            self.notices, self.sequence, self._left.copy(), self._left_unnamed, self._next_notice
        )

    def put_back(self, saved: SavedSequencer) -> None:
        """Go on from what was saved."""
        self.notices, self.sequence = saved.notices, saved.sequence
        self._left, self._left_unnamed = saved.left, saved.left_unnamed
        self._next_notice = saved.next_notice

    def number(self, count: int) -> None:
        """Number ``count`` messages."""
        self.sequence += count

    def leave(self, addresses: list[str], unnamed: int = 0) -> None:
        """Remember clients that have gone, for the next notice."""
        if self.notices:
            self._left += addresses
            self._left_unnamed += unnamed

    def notice_due(self) -> float | None:
        """Return when the waiting notice is due (monotonic clock, seconds); None: none waits."""
        return self._next_notice if self._left or self._left_unnamed else None

    def take_notice(self, now: float) -> str | None:
        """Return the text of the notice that is due, if one is, and begin to gather the next."""
        due = self.notice_due()
        if due is None or now < due:
            return None
        text = leaving_text(self._left, self._left_unnamed)
        self._left, self._left_unnamed = [], 0
        self._next_notice = now + NOTICE_GATHER
        return text
